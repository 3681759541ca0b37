//! The store: what a server opens once and hands to everything that serves requests.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use crate::claim::{Claim, Request};
#[cfg(any(test, feature = "admin", feature = "testing"))]
use crate::clock::Timestamp;
use crate::engine::{Advanced, Carried, Engine, ReadTransaction};
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::key::Key;
use crate::payload::{Limits, Payload};
use crate::pending::Pending;
use crate::progress::{Operations, Progress, Unfinished};
use crate::record::step::Try;
use crate::record::transitions::{Ask, Command};
use crate::record::{Checkpoint, Resolution, Revision, Step};
use crate::run::{advance_command, resolve_command};

mod backup;
mod builder;
#[cfg(feature = "metrics")]
mod metrics;
mod stats;
mod upkeep;

pub use backup::Backup;
pub use builder::Builder;
pub use stats::{Claims, Condition, LastFault, Percentiles, Stats};
pub use upkeep::{Compacted, FORMAT_VERSION, Migrated};

/// An idempotency store: one file, one handle that is cheap to clone, `Send` and `Sync`.
///
/// The last handle to go closes the store; a [`Run`](crate::Run), a [`Busy`](crate::Busy) and an answer that is still
/// on its way are handles too. [`close`](Self::close) does it at once, and tells how it went.
#[derive(Debug, Clone)]
pub struct Store {
    engine: Arc<Engine>,
    limits: Limits,
}

impl Store {
    /// Opens the store in this file with the defaults of [`builder`](Self::builder), and creates it where there is
    /// none. **Durable when it returns**: a store it created survives a power cut.
    ///
    /// # Errors
    ///
    /// As for [`Builder::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::builder().open(path)
    }

    /// How a store is opened with other than the defaults.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Claims a key, or gets what is known of it: one atomic act. The answer is the first line that fits.
    ///
    /// | what is known of the key | answer |
    /// | --- | --- |
    /// | claimed with another fingerprint, whatever became of it | [`Claim::Reject`] |
    /// | nothing, or its tombstone is over | [`Claim::Run`], attempt 1, nothing of an older operation shows |
    /// | unfinished, no run at work | [`Claim::Run`], attempt + 1, the last checkpoint and every step show |
    /// | unfinished, a run at work whose lease has lapsed | [`Claim::Run`], likewise; the other run is fenced |
    /// | unfinished, a run at work | [`Claim::Wait`] |
    /// | it has an outcome, still kept | [`Claim::Replay`] |
    /// | it had one; its tombstone stands | [`Claim::Gone`] |
    ///
    /// **Durable when it answers**: a `Run` is on disk, so is all that the other answers rest on (P2). A claim whose
    /// answer nobody takes is given back (P7). `Replay`, `Wait` and `Reject` are answered on the caller's own thread,
    /// with one read of the file at most; the others wait for one sync, shared by all who claim at that moment. A first
    /// claim of a [deferred](Request::deferred) request waits for the writer alone.
    ///
    /// The request is a [`Fingerprint`](crate::Fingerprint), or a [`Request`] that carries more.
    ///
    /// # Errors
    ///
    /// No decision was made: [`ErrorKind::Full`], [`ErrorKind::Capacity`], [`ErrorKind::Corrupt`] for a damaged
    /// record, [`ErrorKind::Failed`], [`ErrorKind::Closed`]; [`ErrorKind::OutcomeUnknown`] where the claim's own
    /// commit failed, after which claiming again is right. [`ErrorKind::PayloadTooLarge`] and [`ErrorKind::Codec`] for
    /// what a request carries.
    pub fn claim(&self, key: &Key, request: impl Into<Request>) -> Pending<Claim> {
        match request.into().ask(self.limits) {
            Ok(ask) => self.claim_as(key, ask),
            Err(error) => Pending::ready(Err(error)),
        }
    }

    /// Claims an operation that is known already, without its request: how a server finishes by itself what no client
    /// came back for. At most one run lives all the same (P1). The answer is that of [`claim`](Self::claim), never
    /// `Reject`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] where nothing is known of the key; otherwise those of [`claim`](Self::claim).
    pub fn claim_unfinished(&self, key: &Key) -> Pending<Claim> {
        self.claim_as(key, Ask { fingerprint: None, request: None, deferred: false })
    }

    fn claim_as(&self, key: &Key, ask: Ask) -> Pending<Claim> {
        let (limits, for_claim) = (self.limits, key.clone());
        let read = move |engine, claimed| Claim::new(engine, limits, for_claim, claimed);
        self.engine.claim(key, ask, read)
    }

    /// How far the operation under this key got, without claiming it; none where nothing is known (any more).
    ///
    /// Reads the file on the caller's thread and waits for no sync, but where it is the first to find an outcome
    /// expired. What it tells is durable (P2, P3).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`], [`ErrorKind::Io`], [`ErrorKind::Failed`] or [`ErrorKind::Closed`] where it cannot be
    /// read; [`ErrorKind::Full`] where that needs the time of an expiry on disk and there is no room for it, or the
    /// file cannot be opened anew on a full disk; [`ErrorKind::TimedOut`] where its row moves faster than it can be
    /// read.
    pub fn progress(&self, key: &Key) -> Result<Option<Progress>> {
        Ok(self.engine.look(key)?.map(|(seen, time)| Progress::new(seen, time, self.engine.policy())))
    }

    /// Moves the checkpoint of an unfinished operation, for a part of the server that does not own it: a payment
    /// webhook, say. Compares and sets: it moves only from the revision that is `expected`
    /// ([`Revision::NONE`] where none was set yet).
    ///
    /// **Durable when it answers** (P3). The run that owns the operation, if one does, learns of it at its next
    /// [`advance`](crate::Run::advance), as a conflict, or by [`refresh`](crate::Run::refresh).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] where nothing is known of the key, [`ErrorKind::Finished`] where it has an outcome;
    /// otherwise those of [`Run::advance`](crate::Run::advance).
    pub fn advance(
        &self,
        key: &Key,
        expected: Revision,
        name: &str,
        payload: &(impl Payload + ?Sized),
    ) -> Pending<Advance> {
        match advance_command(None, expected, name, payload, self.limits) {
            Err(error) => Pending::ready(Err(error)),
            Ok(command) => self.engine.advance(key, Carried::default(), command, None, |_, advanced| {
                Ok(match advanced {
                    Advanced::Moved { checkpoint, .. } => Advance::Moved(checkpoint),
                    Advanced::Lost(current) => Advance::Lost(current),
                })
            }),
        }
    }

    /// Says what became of a step in doubt, for whoever found out while no run is at work on the operation: it has that
    /// result from then on, or runs again when it is asked for. `note` (1 to 1,000 bytes of printable text) tells later
    /// readers who says so and why; it is kept with the step.
    ///
    /// **Durable when it answers** (P4).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Busy`] where a run is at work, which may be at that very step: let it end or
    /// [`revoke`](Self::revoke) it first. [`ErrorKind::NotFound`] where no such operation or step is known,
    /// [`ErrorKind::NotInDoubt`] where the step is not in doubt, or was begun anew since this was asked,
    /// [`ErrorKind::Finished`] where the operation has an outcome; otherwise those of
    /// [`Run::advance`](crate::Run::advance).
    pub fn resolve(&self, key: &Key, step: &str, resolution: Resolution, note: &str) -> Pending<()> {
        // What is said is said of the try that stands there now (P4).
        let of = self.engine.look(key).map(|found| found?.0.record.step(step).map(Step::last_try));
        match of {
            Ok(of) => self.resolve_try(key, step, of, resolution, note),
            Err(error) => Pending::ready(Err(error)),
        }
    }

    /// The same of the try in which this step was seen.
    #[cfg(feature = "admin")]
    pub(crate) fn resolve_as_seen(&self, key: &Key, step: &Step, resolution: Resolution, note: &str) -> Pending<()> {
        self.resolve_try(key, step.name(), Some(step.last_try()), resolution, note)
    }

    fn resolve_try(&self, key: &Key, step: &str, of: Option<Try>, resolution: Resolution, note: &str) -> Pending<()> {
        match resolve_command(None, step, of, resolution, note, self.limits) {
            Err(error) => Pending::ready(Err(error)),
            Ok(command) => self.engine.step(key, Carried::default(), command, |_| Ok(())),
        }
    }

    /// Lets an operation that is [stuck](crate::State::Stuck) be tried again (P6): the runs it has had no longer count.
    /// The answer tells whether there were any. **Durable when it answers.**
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] and [`ErrorKind::Finished`] where it is not unfinished; otherwise those of
    /// [`Run::advance`](crate::Run::advance).
    pub fn release_stuck(&self, key: &Key) -> Pending<bool> {
        self.engine.by_name(key, Command::Free)
    }

    /// Reads the server's own rows, those that [`Run::complete_with`](crate::Run::complete_with) and
    /// [`Run::advance_with`](crate::Run::advance_with) write: all as they were committed at one moment (P8). The
    /// store's own tables are out of reach. **Be quick in it**: as long as it lasts the file cannot reuse space.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Full`], [`ErrorKind::Failed`] or [`ErrorKind::Closed`] where nothing can be read.
    pub fn read<T>(&self, read: impl FnOnce(&ReadTransaction<'_>) -> T) -> Result<T> {
        self.engine.read_rows(read)
    }

    /// Every unfinished operation, oldest first (P6): what a server finishes by itself after a restart. One whose claim
    /// is still deferred is not among them: no restart would find it.
    ///
    /// The iterator reads the file on the thread that drives it, 256 operations or 4 MiB of payloads at a time; a task
    /// gives it to a thread that may block.
    pub fn unfinished(&self) -> Unfinished {
        Unfinished::new(Arc::clone(&self.engine))
    }

    /// Every operation that is kept, finished or not: for an operator who looks for something.
    ///
    /// The iterator reads the file on the thread that drives it, a page at a time; a task gives it to a thread that may
    /// block.
    pub fn operations(&self) -> Operations {
        Operations::new(Arc::clone(&self.engine))
    }

    /// What it asks.
    #[cfg(feature = "export")]
    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Removes all that is known of a key, finished or not, as if it had never been claimed: **the next claim runs it
    /// again** (P6: this is the server saying so by name). The answer tells whether there was anything. **Durable when
    /// it answers.**
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Busy`] where a run is at work on it: let it end or [`revoke`](Self::revoke) it first. Otherwise
    /// [`ErrorKind::Full`], [`ErrorKind::OutcomeUnknown`], [`ErrorKind::Failed`] and [`ErrorKind::Closed`].
    pub fn forget(&self, key: &Key) -> Pending<bool> {
        self.engine.by_name(key, Command::Forget)
    }

    /// Takes an operation from the run that owns it: for an owner that hangs. When it answers, the operation is
    /// unfinished and free, and every later call of that run fails with [`ErrorKind::Fenced`] and changes nothing
    /// (P7). The answer tells whether a run owned it. Nothing is written: after a restart nobody owns anything anyway.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Full`], [`ErrorKind::Failed`] and [`ErrorKind::Closed`]; [`ErrorKind::Corrupt`] for a damaged
    /// record; and what becomes of the changes that it comes to the writer with ([`ErrorKind::OutcomeUnknown`]).
    pub fn revoke(&self, key: &Key) -> Pending<bool> {
        self.engine.by_name(key, Command::Revoke)
    }

    /// Figures of this moment: what is unfinished, how much is kept, how long the disk takes, how the store is. Cheap
    /// however much is kept: it reads counters, and looks at the runs at work. Never a key.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] where the file's size cannot be asked for.
    pub fn stats(&self) -> Result<Stats> {
        self.engine.figures().map(Stats::of)
    }

    /// The store's time: what ages are counted to (P11).
    #[cfg(any(test, feature = "admin", feature = "testing"))]
    pub(crate) fn time(&self) -> Timestamp {
        self.engine.time()
    }

    /// Checks every rule over every record (P10): its checksum and payloads, that its key stands once and the index
    /// leads to it, that its times and numbers fit. Claims go on meanwhile.
    ///
    /// Reads everything: for tests, which should end with it, and for an operator in doubt.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`] with the row and the rule that does not hold.
    pub fn verify(&self) -> Result<Verified> {
        self.verify_with(|_| ControlFlow::Continue(()))
    }

    /// As [`verify`](Self::verify), telling from time to time which share of the rows is looked at, 0.0 to 1.0; where
    /// that answers [`ControlFlow::Break`], it ends there.
    ///
    /// # Errors
    ///
    /// Those of [`verify`](Self::verify), and [`ErrorKind::Cancelled`].
    pub fn verify_with(&self, mut progress: impl FnMut(f64) -> ControlFlow<()>) -> Result<Verified> {
        let verdict = self.engine.verify(&mut progress)?;
        Ok(Verified {
            operations: verdict.operations,
            tombstones: verdict.tombstones,
            payload_rows: verdict.payload_rows,
        })
    }

    /// Closes the store for all its handles: what is queued is finished and answered, everything later and everybody
    /// who waits for another run gets [`ErrorKind::Closed`], or [`ErrorKind::Failed`] where it had stopped. When it
    /// returns, the file is free to be opened anew.
    ///
    /// # Errors
    ///
    /// What closing the file came to; everything acknowledged is durable all the same.
    pub fn close(&self) -> Result<()> {
        self.engine.close()
    }

    /// Lets the writer of a store that was opened with [`Builder::open_by_hand`] do all that is queued, as one batch,
    /// on this thread. Whoever waits for an answer without it, as by [`Pending::wait`], waits for ever. Returns whether
    /// the store goes on; one that has stopped or been closed does not.
    #[cfg(any(test, feature = "testing"))]
    pub fn work_by_hand(&self) -> bool {
        self.engine.work_by_hand()
    }

    /// For tests: lets so many numbers go to claims of which nothing is left, as far as they are reserved.
    #[cfg(any(test, feature = "testing"))]
    #[doc(hidden)]
    pub fn use_up_numbers_by_hand(&self, count: u64) {
        self.engine.use_up_numbers_by_hand(count);
    }
}

/// What [`Store::advance`] comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "the checkpoint may not have moved; match on it"]
pub enum Advance {
    /// It moved, to this.
    Moved(Checkpoint),
    /// Somebody else was faster: this is the checkpoint that stands, if one does.
    Lost(Option<Checkpoint>),
}

/// What [`Store::verify`] looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verified {
    /// Records, tombstones among them.
    pub operations: u64,
    /// Tombstones.
    pub tombstones: u64,
    /// Large payloads in rows of their own.
    pub payload_rows: u64,
}
