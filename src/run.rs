//! One attempt at an operation: the guard through which its owner changes it.
//!
//! Invariants:
//! 1. A run is the only door: it cannot be cloned, and what ends it consumes it (P1).
//! 2. Dropping it, however that comes, gives the operation free at that moment and does no I/O (P7).

use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::clock::Timestamp;
use crate::engine::{Advanced, Engine, Granted, Known, Ownership};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{Key, NAME_BYTES_MAX, validate};
use crate::payload::{Limits, Payload};
use crate::pending::Pending;
use crate::record::transitions::Command;
use crate::record::{Checkpoint, Outcome, Revision};

/// One run of an operation, by its owner. At most one lives of each operation, in any thread or task.
///
/// A first entry and a re-entry are told apart by [`attempt`](Self::attempt); where the last run stopped, by
/// [`checkpoint`](Self::checkpoint). A run ends by [`complete`](Self::complete) or [`fail`](Self::fail), which give
/// the operation its outcome, or without one: by [`release`](Self::release), or by being dropped, as a return, an
/// error, a panic and a cancelled future do. Then the operation is unfinished and free at that moment, and the next
/// claim enters it again.
///
/// ```
/// use reentry::{Claim, Fingerprint, Key, Store};
///
/// let store = Store::builder().in_memory()?;
/// let (key, request) = (Key::new("orders", "1")?, Fingerprint::of("two pizzas"));
/// if let Claim::Run(mut run) = store.claim(&key, request).wait()? {
///     run.advance("paid", &"receipt 7".to_owned()).wait()?;
///     // The server dies here.
/// }
/// let Claim::Run(run) = store.claim(&key, request).wait()? else { panic!("it is unfinished and free") };
/// assert_eq!((run.attempt(), run.checkpoint().unwrap().name()), (2, "paid"));
/// run.complete(&"done".to_owned()).wait()?;
/// # Ok::<(), reentry::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "dropping a run gives the operation free again, unfinished; complete, fail or release it"]
pub struct Run {
    engine: Arc<Engine>,
    ownership: Ownership,
    limits: Limits,
    attempt: u32,
    since: Timestamp,
    /// What this run last saw; shared with the answers that are still on their way.
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug)]
struct Seen {
    checkpoint: Option<Checkpoint>,
    /// Spares the writer a read, as long as nobody else changes the record.
    known: Known,
}

// A run that a panic passes through is freed by being dropped, and nothing in it is half-done.
impl UnwindSafe for Run {}
impl RefUnwindSafe for Run {}

impl Run {
    pub(crate) fn new(engine: Arc<Engine>, limits: Limits, granted: Granted) -> Self {
        let Granted { ownership, known, checkpoint } = granted;
        let (attempt, since) = (known.record.attempt, known.record.since);
        Self { engine, ownership, limits, attempt, since, seen: Arc::new(Mutex::new(Seen { checkpoint, known })) }
    }

    /// The key it runs for.
    pub fn key(&self) -> &Key {
        self.ownership.key()
    }

    /// How many runs of this operation there were, this one included: 1 on first entry, more on re-entry.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// A number that is greater than that of every earlier run of any operation in this store, restarts included: for
    /// handing to others that refuse what comes from a run before.
    pub fn token(&self) -> u64 {
        self.ownership.token()
    }

    /// When the operation was claimed for the first time.
    pub fn since(&self) -> Timestamp {
        self.since
    }

    /// The checkpoint that this run last saw: where the run before stopped, or where this one moved it.
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        self.seen.lock().checkpoint.clone()
    }

    /// Reads the checkpoint as it is now; another part of the server may have moved it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Fenced`] where this run was revoked: stop. [`ErrorKind::Corrupt`], [`ErrorKind::Io`] or
    /// [`ErrorKind::Closed`] where it cannot be read.
    pub fn refresh(&mut self) -> Result<Option<Checkpoint>> {
        match self.engine.look(self.key())? {
            Some((seen, _)) if seen.owner == Some(self.token()) => {
                self.seen.lock().checkpoint.clone_from(&seen.record.checkpoint);
                Ok(seen.record.checkpoint)
            }
            _ => Err(Error::new(
                ErrorKind::Fenced,
                "this run no longer owns the operation; stop and change nothing more",
            )),
        }
    }

    /// Moves the checkpoint to `name` with `payload`, if it is still the one that this run last saw. The answer is its
    /// new revision.
    ///
    /// **Durable when it answers**: the next run begins there (P3).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Conflict`] where somebody else moved it: [`checkpoint`](Self::checkpoint) then gives the one that
    /// stands. [`ErrorKind::Fenced`] where this run was revoked: stop. [`ErrorKind::InvalidName`],
    /// [`ErrorKind::PayloadTooLarge`] and [`ErrorKind::Codec`] for what was asked; [`ErrorKind::Full`],
    /// [`ErrorKind::OutcomeUnknown`], [`ErrorKind::Failed`] and [`ErrorKind::Closed`] for what became of the store.
    pub fn advance(&mut self, name: &str, payload: &(impl Payload + ?Sized)) -> Pending<Revision> {
        let (expected, known) = {
            let seen = self.seen.lock();
            (seen.checkpoint.as_ref().map_or(Revision::NONE, Checkpoint::revision), seen.known.clone())
        };
        let command = match advance_command(Some(self.token()), expected, name, payload, self.limits) {
            Ok(command) => command,
            Err(error) => return Pending::ready(Err(error)),
        };
        let seen = Arc::clone(&self.seen);
        self.engine.advance(self.key(), Some(known), command, move |_, advanced| match advanced {
            Advanced::Moved { checkpoint, known } => {
                let revision = checkpoint.revision();
                *seen.lock() = Seen { checkpoint: Some(checkpoint), known };
                Ok(revision)
            }
            Advanced::Lost(current) => {
                seen.lock().checkpoint = current;
                let message =
                    "somebody else moved the checkpoint since this run last saw it; look at it before going on";
                Err(Error::new(ErrorKind::Conflict, message))
            }
        })
    }

    /// Ends the operation with success. Every later claim with the same fingerprint gets these bytes, until retention
    /// ends; so does this caller, as the answer: the first client and every later one can be answered from the same
    /// [`Outcome`].
    ///
    /// **Durable when it answers** (P2). Until then the operation stays owned; should it fail, the operation is
    /// unfinished and free, its last checkpoint untouched.
    ///
    /// # Errors
    ///
    /// As for [`advance`](Self::advance).
    pub fn complete(self, outcome: &(impl Payload + ?Sized)) -> Pending<Outcome> {
        self.end(true, outcome)
    }

    /// Ends the operation with a final failure, which is replayed as such: a retry does not run it again. For a
    /// failure that a retry may mend, drop or [`release`](Self::release) the run.
    ///
    /// **Durable when it answers** (P2), as for [`complete`](Self::complete).
    ///
    /// # Errors
    ///
    /// As for [`advance`](Self::advance).
    pub fn fail(self, outcome: &(impl Payload + ?Sized)) -> Pending<Outcome> {
        self.end(false, outcome)
    }

    /// Gives the operation up, unfinished: it is free when this returns, and the next claim enters it again at its
    /// last checkpoint. The same as dropping the run, said aloud; nothing is written.
    pub fn release(self) {
        drop(self);
    }

    fn end(self, success: bool, outcome: &(impl Payload + ?Sized)) -> Pending<Outcome> {
        let Self { engine, ownership, limits, seen, .. } = self;
        let known = seen.lock().known.clone();
        match limits.encode(outcome) {
            Ok(bytes) => engine.end(ownership, known, success, bytes),
            Err(error) => Pending::ready(Err(error)),
        }
    }
}

/// The command that moves a checkpoint, after its name and payload were checked.
pub(crate) fn advance_command(
    token: Option<u64>,
    expected: Revision,
    name: &str,
    payload: &(impl Payload + ?Sized),
    limits: Limits,
) -> Result<Command> {
    validate(name, "the checkpoint's name", NAME_BYTES_MAX, ErrorKind::InvalidName)?;
    Ok(Command::Advance { token, expected, name: name.into(), bytes: limits.encode(payload)? })
}
