//! What goes to the writer, and what comes back.
//!
//! Invariants:
//! 1. Ownership is a value: whoever holds it owns, and dropping the last of it gives the operation free at that
//!    moment (P7).
//! 2. Nobody in line is forgotten: a turn that ends without an owner gives the next one its turn (P7).

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::Shared;
use super::error::text_of;
use super::index::{KeyHash, Owner};
use super::place::Place;
use super::transaction::Transaction;
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result, Source};
use crate::key::Key;
use crate::pending::{Promise, caught, waited_for};
use crate::record::format::size;
use crate::record::transitions::{Ask, Command};
use crate::record::{Checkpoint, Outcome, Record, Step};
use crate::sync::{AtomicBool, Mutex, Ordering};
use crate::trace::is_heard;

/// One command on its way to the writer. It stays whole until it is answered: a batch may have to be done again.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) key: Key,
    pub(super) hash: KeyHash,
    pub(super) command: Command,
    pub(super) carried: Carried,
    /// What the server writes of its own in the same commit.
    pub(super) rows: Option<OwnRows>,
    /// What it itself reports.
    pub(super) report: Option<Report>,
    pub(super) reply: Reply,
}

/// What a run gives along with a command.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    /// What it knows of the record, to spare reading it.
    pub(crate) known: Option<Known>,
    /// What it reported of steps and does not know to be on disk: a full disk may have refused it, and what follows
    /// from it must not be on disk without it (P3).
    pub(super) reports: Vec<Report>,
}

impl Carried {
    /// What a run gives along that reported these.
    pub(crate) fn of_run(known: Option<Known>, reports: &Mutex<Reports>) -> Self {
        Self { known, reports: reports.lock().outstanding() }
    }
}

/// The server's closure that writes its own rows.
pub(crate) type WriteRows = Box<dyn FnMut(&Transaction<'_>) -> Result<(), Source> + Send>;

/// The server's own rows, to be written in one commit with a change (P8).
pub(super) struct OwnRows {
    write: Option<WriteRows>,
    /// Why they could not be written; then the change is not made either.
    pub(super) failed: Option<Error>,
}

/// Whom to answer, and with what.
#[derive(Debug)]
pub(super) enum Reply {
    /// A claim that has a turn waits where another run is at work.
    Claim {
        turn: Option<Turn>,
        promise: Promise<Claimed>,
    },
    Advance(Promise<Advanced>),
    Step(Promise<Stepped>),
    /// A report's.
    Nobody,
    /// The ownership comes with the request, so that it lasts until the outcome is durable and ends with it.
    End {
        ownership: Arc<Ownership>,
        promise: Promise<Outcome>,
    },
    #[cfg_attr(not(feature = "export"), expect(dead_code, reason = "nothing else makes it"))]
    Adopt(Promise<Adopted>),
    Done(Promise<bool>),
}

/// What taking in a record of an export comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Adopted {
    New,
    Same,
    Differs,
    Over,
}

/// What a claim comes to.
#[derive(Debug)]
pub(crate) enum Claimed {
    Run(Granted),
    Replay(Outcome),
    Wait(Working),
    Reject { since: Timestamp },
    Gone { completed_at: Timestamp, until: Timestamp },
}

/// A run that may begin.
#[derive(Debug)]
pub(crate) struct Granted {
    pub(crate) ownership: Ownership,
    /// None as long as nothing of the operation is on disk.
    pub(crate) known: Option<Known>,
    /// The record, with its payloads.
    pub(crate) record: Box<Record>,
}

/// A record, and where it stands as long as nobody changes it. Large bodies are not in it.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(super) place: Place,
    pub(super) record: Arc<Record>,
}

/// Another run that is at work.
#[derive(Debug, Clone)]
pub(crate) struct Working {
    pub(crate) attempt: u32,
    pub(crate) since: Timestamp,
    /// What the claim asked that found it at work.
    pub(crate) ask: Ask,
}

/// What moving a checkpoint comes to.
#[derive(Debug)]
pub(crate) enum Advanced {
    Moved { checkpoint: Checkpoint, known: Known },
    Lost(Option<Checkpoint>),
}

/// What changing a step comes to.
#[derive(Debug)]
pub(crate) enum Stepped {
    /// It changed, to this.
    Changed { step: Step, known: Known },
    /// It has a result already, which stays.
    Done(Step),
    /// There was nothing that it could change.
    Nothing,
}

/// A record and the run that owns it, if one does, at one moment.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) record: Record,
    pub(crate) owner: Option<Owner>,
}

/// What a run reports of a step. It comes to the writer by itself, with what the run asks behind it, and with the seat
/// that the run leaves. It counts once, as it comes first: the step may have been begun anew by the next time (P4).
#[derive(Clone)]
pub(crate) struct Report(Arc<Reported>);

struct Reported {
    command: Command,
    /// Whether that is durable.
    is_taken_in: AtomicBool,
}

impl Report {
    pub(super) fn new(command: Command) -> Self {
        Self(Arc::new(Reported { command, is_taken_in: AtomicBool::new(false) }))
    }

    pub(super) fn command(&self) -> &Command {
        &self.0.command
    }

    pub(crate) fn is_about(&self, step: &str) -> bool {
        self.command().step().is_some_and(|name| **name == *step)
    }

    /// Whether the two are one.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn is_taken_in(&self) -> bool {
        self.0.is_taken_in.load(Ordering::Acquire)
    }

    /// Notes that it is.
    pub(super) fn take_in(&self) {
        self.0.is_taken_in.store(true, Ordering::Release);
    }
}

/// Shows no result: it is the server's.
impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_taken_in = self.is_taken_in();
        f.debug_struct("Report").field("is_taken_in", &is_taken_in).finish_non_exhaustive()
    }
}

/// What a run reported of steps and does not know to be taken in.
#[derive(Debug, Default)]
pub(crate) struct Reports(Vec<Report>);

impl Reports {
    pub(super) fn push(&mut self, report: Report) {
        self.0.push(report);
    }

    pub(crate) fn outstanding(&mut self) -> Vec<Report> {
        self.0.retain(|report| !report.is_taken_in());
        self.0.clone()
    }
}

/// The right to change one operation. Dropping it gives the operation free, in memory only.
#[derive(Debug)]
pub(crate) struct Ownership {
    pub(super) shared: Arc<Shared>,
    pub(super) key: Key,
    pub(super) hash: KeyHash,
    pub(super) token: u64,
    /// They stay with the seat when the run leaves it, so that nobody enters without them.
    pub(super) reports: Arc<Mutex<Reports>>,
}

impl Ownership {
    pub(crate) fn reports(&self) -> &Arc<Mutex<Reports>> {
        &self.reports
    }

    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    pub(crate) fn token(&self) -> u64 {
        self.token
    }

    /// Whether nobody took the operation away.
    pub(crate) fn stands(&self) -> bool {
        let owner = self.shared.index.shard(self.hash).owner(self.hash, &self.key);
        owner.is_some_and(|owner| owner.token == self.token)
    }
}

impl Ownership {
    /// Tells how far the operation is that its run left without an outcome.
    fn tell_left(&self, owner: Owner, has_reports: bool) {
        let (trace, key) = (self.shared.trace, &self.key);
        trace.released(key, owner.attempt);
        let opens = self.shared.index.unfinished();
        let is_in_doubt = !has_reports && opens.get(owner.born).is_some_and(|open| open.tally.is_in_doubt);
        let is_stuck = opens.is_tried_enough(owner.born);
        drop(opens);
        if is_in_doubt {
            trace.in_doubt(key, owner.attempt);
        }
        if is_stuck {
            trace.stuck(key, owner.attempt);
        }
    }
}

impl Drop for Ownership {
    fn drop(&mut self) {
        let mut reports = Vec::new();
        let left = || {
            reports = self.reports.lock().outstanding();
            reports.clone()
        };
        // Asked before: it is the server's own code that knows.
        let is_heard = is_heard();
        let mut shard = self.shared.index.shard(self.hash);
        let owner = shard.owner(self.hash, &self.key).filter(|owner| owner.token == self.token);
        let next = shard.unseat(self.hash, &self.key, self.token, left);
        drop(shard);
        match owner {
            Some(owner) if is_heard => self.tell_left(owner, !reports.is_empty()),
            Some(_) => {}
            // Where the operation is over nobody may ever come to that seat.
            None => reports.into_iter().for_each(|report| self.shared.take_in_by_itself(self, report)),
        }
        if let Some(waiter) = next {
            self.shared.readmit(&self.key, self.hash, waiter);
        }
    }
}

/// The turn of a claim that stood in line. Whatever becomes of it, the next in line is not forgotten: when the turn
/// ends and nobody owns the operation, the next one has its turn.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) shared: Arc<Shared>,
    pub(super) key: Key,
    pub(super) hash: KeyHash,
}

impl Drop for Turn {
    fn drop(&mut self) {
        // A queue that is shut refuses everybody; the writer's end tells all who are in line.
        if self.shared.queue.is_shut().is_none() {
            let next = self.shared.index.shard(self.hash).next_of_unowned(self.hash, &self.key);
            if let Some(waiter) = next {
                self.shared.readmit(&self.key, self.hash, waiter);
            }
        }
    }
}

impl Request {
    /// Bytes it keeps in memory while it waits.
    pub(super) fn bytes(&self) -> usize {
        let carried: usize = self.carried.reports.iter().map(|report| command_bytes(report.command())).sum();
        size_of::<Self>() + self.key.len() + command_bytes(&self.command) + carried
    }

    /// Whether nobody waits for it: it goes with the next batch that somebody does wait for.
    pub(super) fn is_patient(&self) -> bool {
        matches!(self.command, Command::Report { .. })
    }

    pub(super) fn refuse(self, error: Error) {
        self.reply.refuse(error);
    }

    /// Whether it asks for no change, so that a commit that nobody knows of leaves nothing in doubt.
    pub(super) fn is_look(&self) -> bool {
        matches!(self.command, Command::Look)
    }

    /// Whether the server's rows could not be written, so that the change is not made.
    pub(super) fn has_failed(&self) -> bool {
        self.rows.as_ref().is_some_and(|rows| rows.failed.is_some())
    }
}

/// Bytes that a command holds of what its caller gave.
fn command_bytes(command: &Command) -> usize {
    let optional = |bytes: &Option<Arc<[u8]>>| bytes.as_ref().map_or(0, |bytes| bytes.len());
    match command {
        Command::Claim(ask) => optional(&ask.request),
        Command::Advance { name, bytes, .. } => name.len() + bytes.len(),
        Command::Intend { name, .. } => name.len(),
        Command::Report { name, result, .. } => name.len() + optional(result),
        Command::Resolve { name, result, note, .. } => name.len() + optional(result) + note.len(),
        Command::End { bytes, .. } => bytes.len(),
        Command::Adopt(record) => usize::try_from(size::bytes(record) + record.bytes_here()).unwrap_or(usize::MAX),
        Command::Renew { .. } | Command::Free | Command::Forget | Command::Revoke | Command::Look => 0,
    }
}

impl OwnRows {
    pub(super) fn new(write: WriteRows) -> Self {
        Self { write: Some(write), failed: None }
    }

    /// Calls the closure. The store waits for it, so it may not wait for the store.
    ///
    /// # Errors
    ///
    /// `Aborted` where it fails or panics: what it wrote must not be committed then.
    pub(super) fn write(&mut self, transaction: &Transaction<'_>) -> Result<()> {
        let Some(write) = &mut self.write else { return Ok(()) };
        match catch_unwind(AssertUnwindSafe(|| waited_for(|| write(transaction)))) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(source)) => {
                let message = "nothing was committed: the closure that writes the server's own rows failed";
                Err(Error::because(ErrorKind::Aborted, message, source))
            }
            Err(panic) => {
                let text = text_of(&*panic).unwrap_or("no message");
                let message =
                    format!("nothing was committed: the closure that writes the server's rows panicked: {text}");
                // What it panicked with is the server's too.
                harmless(|| drop(panic));
                Err(Error::new(ErrorKind::Aborted, message))
            }
        }
    }
}

/// Does something of the server's that the store waits for, and whose panic is nobody else's.
pub(super) fn harmless(work: impl FnOnce()) {
    caught(|| waited_for(work));
}

/// What the closure holds is the server's, and goes as the closure ran.
impl Drop for OwnRows {
    fn drop(&mut self) {
        let write = self.write.take();
        harmless(|| drop(write));
    }
}

impl fmt::Debug for OwnRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnRows").field("failed", &self.failed).finish_non_exhaustive()
    }
}

impl Reply {
    /// Whether it is a claim that stood in line.
    pub(super) fn has_turn(&self) -> bool {
        matches!(self, Self::Claim { turn: Some(_), .. })
    }

    /// Whether it is a claim that nobody waits for any more: it is not made at all.
    pub(super) fn is_given_up(&self) -> bool {
        matches!(self, Self::Claim { promise, .. } if promise.is_abandoned())
    }

    pub(super) fn refuse(self, error: Error) {
        match self {
            Self::Claim { promise, .. } => promise.keep(Err(error)),
            Self::Advance(promise) => promise.keep(Err(error)),
            Self::Step(promise) => promise.keep(Err(error)),
            Self::Nobody => {}
            // Where the run lives on it alone owns by the time it hears of the error; else the caller hears of it
            // before somebody else can own the operation.
            Self::End { ownership, promise } => {
                let last = Arc::into_inner(ownership);
                promise.keep(Err(error));
                drop(last);
            }
            Self::Adopt(promise) => promise.keep(Err(error)),
            Self::Done(promise) => promise.keep(Err(error)),
        }
    }
}

impl Working {
    pub(super) fn of(owner: Owner, ask: &Ask) -> Self {
        Self { attempt: owner.attempt, since: owner.since, ask: ask.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pending::promise;
    use crate::record::Revision;
    use crate::record::transitions::Reporter;

    /// The bound on the queue's bytes is one on memory: it counts all that callers gave.
    #[test]
    fn a_request_counts_every_byte_that_its_caller_gave() {
        let (name, bytes): (Arc<str>, Arc<[u8]>) = ("paid".into(), vec![7; 100].into());
        let (by, some) = (Reporter { token: 1, born: 1, attempt: 1, was_owner: true }, || Some(Arc::clone(&bytes)));
        let ask = |request| Ask { fingerprint: None, request, deferred: false };
        let report = |result| Command::Report { by, name: Arc::clone(&name), result };
        let (note, expected) = ("why".into(), Revision::NONE);
        for (command, counted) in [
            (Command::Claim(ask(None)), 0),
            (Command::Claim(ask(some())), 100),
            (Command::Advance { token: None, expected, name: Arc::clone(&name), bytes: Arc::clone(&bytes) }, 104),
            (Command::Intend { token: 1, name: Arc::clone(&name), again: false }, 4),
            (report(some()), 104),
            (Command::Resolve { token: None, name: Arc::clone(&name), of: None, result: some(), note }, 107),
            (Command::End { token: 1, success: true, bytes: Arc::clone(&bytes), kept: None }, 100),
            (Command::Forget, 0),
        ] {
            assert_eq!(command_bytes(&command), counted, "{command:?}");
            let key = Key::new("scope", "key").unwrap();
            let beside = size_of::<Request>() + key.len();
            let hash = super::super::index::Index::new(u64::MAX, 1).hash(&key);
            let reports = vec![Report::new(report(some())), Report::new(report(None))];
            let carried = Carried { known: None, reports };
            let reply = Reply::Done(promise().0);
            let request = Request { key, hash, command, carried, rows: None, report: None, reply };
            assert_eq!(request.bytes(), beside + counted + 104 + 4);
        }
    }
}
