//! The disk: one writer thread, one log in redb, one index in memory. The only folder that names redb.
//!
//! A call becomes a [`Request`] in the [`queue`]; the [`writer`] takes all that is queued as one [`batch`], decides
//! each by the rules, commits once, publishes in the [`index`] and answers. What only reads goes past the writer: the
//! index, then one short read of the [`log`], on the caller's own thread.
//!
//! What the server writes of its own in the same commit goes through [`transaction`].

use std::fmt;
use std::ops::ControlFlow;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;

use crate::clock::{Clock, Timeline, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
#[cfg(any(test, feature = "testing"))]
use crate::pending::thread_waited_for;
use crate::pending::{Answer, Pending, may_ask, may_block, promise};
use crate::record::Outcome;
use crate::record::transitions::{Ask, Command, Policy, is_kept, is_over};
use crate::sync::thread::JoinHandle;
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering};
use crate::trace::{Found, Span, Trace};

mod backup;
mod batch;
mod capacity;
mod changes;
mod disk;
mod done;
mod error;
#[cfg(feature = "export")]
mod exported;
mod figures;
mod file;
mod follows;
mod gathered;
mod holder;
mod index;
mod journal;
mod latest;
mod left;
mod list;
mod log;
mod lookup;
mod meta;
mod meter;
mod migration;
#[cfg(any(test, feature = "testing"))]
mod mishap;
mod opened;
mod opening;
#[cfg(all(test, loom))]
mod orders;
mod place;
mod queue;
mod request;
mod retention;
mod salvage;
mod scan;
#[cfg(any(test, feature = "testing"))]
mod simulated;
mod snapshot;
mod tables;
mod transaction;
mod unfinished;
mod upkeep;
mod verify;
mod writer;

pub(crate) use backup::Made;
use capacity::Ledger;
pub(crate) use capacity::{Capacity, Most};
#[cfg(any(test, feature = "testing"))]
pub(crate) use disk::Disk;
pub use figures::Condition;
pub(crate) use figures::Figures;
use index::{Index, KeyHash, Waiter};
pub(crate) use list::{Order, Page};
use log::Log;
pub use log::OpenCheck;
pub(crate) use log::{Access, OnProgress, Opening};
pub use meta::FORMAT_VERSION;
pub(crate) use meter::Noted;
use meter::{Answered, Meter};
#[cfg(any(test, feature = "testing"))]
pub use mishap::{DiskCall, DiskFault};
pub(crate) use place::Place;
pub(crate) use queue::QueueLimits;
use queue::{HandOver, Pushed, Queue, Shut};
#[cfg(feature = "export")]
pub(crate) use request::Adopted;
pub(crate) use request::{Advanced, Carried, Claimed, Granted, Known, Ownership, Seen, Stepped, Working, WriteRows};
use request::{OwnRows, Reply, Report, Request, Turn};
#[cfg(any(test, feature = "testing"))]
pub use simulated::{Loss, SimulatedDisk, Unsynced};
use snapshot::LiveDisk;
pub use transaction::{ReadRows, ReadTransaction, RowRange, Rows, Table, Transaction};
pub(crate) use upkeep::{compact, migrate};
pub(crate) use verify::Verdict;
#[cfg(any(test, feature = "testing"))]
use writer::Writer;

/// What an engine is made from.
pub(crate) struct Options {
    pub(crate) policy: Policy,
    pub(crate) queue: QueueLimits,
    pub(crate) capacity: Capacity,
    pub(crate) hash_mask: u64,
    pub(crate) trace: Trace,
    pub(crate) opening: Opening,
    pub(crate) clock: Box<dyn Clock>,
}

/// The store's engine. The last of its holders to go closes it.
pub(crate) struct Engine {
    shared: Arc<Shared>,
    /// None once it has ended.
    writer: Mutex<Option<AtWork>>,
}

/// How the writer works.
enum AtWork {
    OnItsThread(JoinHandle<()>),
    /// On the thread of a test that lets it do one batch after the other.
    #[cfg(any(test, feature = "testing"))]
    ByHand(Box<Writer>),
}

/// What is unfinished, or that its record is damaged, with the number it was born under.
pub(crate) type Numbered = (u64, Result<Seen>);

/// What callers and the writer share.
pub(crate) struct Shared {
    queue: Arc<Queue>,
    index: Index,
    log: Log,
    disk: Arc<LiveDisk>,
    timeline: Timeline,
    policy: Policy,
    ledger: Ledger,
    pub(crate) trace: Trace,
    /// Held by the writer while it does a batch and publishes it.
    at_work: Mutex<()>,
    /// Whether something may be on disk that is not published yet.
    is_moving: AtomicBool,
    /// Whether the writer is gone, so that nobody may wait for anything any more.
    ended: AtomicBool,
    /// The highest time that a restart is sure to see.
    durable_time: AtomicU64,
    meter: Meter,
    /// The store's time at the last record that was taken in from an export.
    adopted_at: AtomicU64,
    /// Whether the last batch met a full disk.
    is_full: AtomicBool,
    /// Whether it was opened to be read, so that there is no writer.
    is_read_only: bool,
}

impl Engine {
    /// Lets a writer that works by hand do what is queued, as one batch. Returns whether it goes on.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn work_by_hand(&self) -> bool {
        let mut writer = self.writer.lock();
        match writer.take() {
            Some(AtWork::ByHand(by_hand)) => {
                *writer = thread_waited_for(|| by_hand.work_by_hand()).map(AtWork::ByHand);
                writer.is_some()
            }
            other => {
                *writer = other;
                false
            }
        }
    }

    /// Lets so many numbers go to claims of which nothing is left.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn use_up_numbers_by_hand(&self, count: u64) {
        if let Some(AtWork::ByHand(writer)) = &mut *self.writer.lock() {
            writer.use_up_numbers(count);
        }
    }

    /// Claims a key, or gets what is known of it.
    pub(crate) fn claim<T: Send + 'static>(
        self: &Arc<Self>,
        key: &Key,
        ask: Ask,
        read: impl FnOnce(Arc<Self>, Claimed) -> T + Send + 'static,
    ) -> Pending<T> {
        let (hash, span) = (self.shared.index.hash(key), self.shared.trace.claim(key));
        let command = Command::Claim(ask);
        let answer = span.within(|| {
            let answer = self.shared.peek(key, hash, &command)?;
            self.shared.count(key, hash, &answer);
            Some(answer)
        });
        if let Some(answer) = answer {
            return Pending::ready(answer.map(|claimed| read(Arc::clone(self), claimed)));
        }
        let (promise, answer) = promise();
        let pushed = self.push(key, hash, command, Carried::default(), None, Reply::Claim { turn: None, promise });
        self.follow_claim(key, hash, span, pushed, answer, read)
    }

    /// Waits for the run at work to end, then claims.
    pub(crate) fn claim_after<T: Send + 'static>(
        self: &Arc<Self>,
        key: &Key,
        ask: Ask,
        read: impl FnOnce(Arc<Self>, Claimed) -> T + Send + 'static,
    ) -> Pending<T> {
        let hash = self.shared.index.hash(key);
        let (promise, answer) = promise();
        if let Err(error) = may_ask() {
            return Pending::ready(Err(error));
        }
        let parked = self.shared.park(key, hash, Waiter { ask, promise });
        let pushed = match parked {
            Ok(()) => Pushed::In(None),
            Err(waiter) => self.shared.queue.push(self.shared.turn_of(waiter, key, hash)),
        };
        self.follow_claim(key, hash, self.shared.trace.claim(key), pushed, answer, read)
    }

    /// Moves a checkpoint, for a run or for anybody, with the server's own rows where there are any.
    pub(crate) fn advance<T: Send + 'static>(
        self: &Arc<Self>,
        key: &Key,
        carried: Carried,
        command: Command,
        rows: Option<WriteRows>,
        read: impl FnOnce(Arc<Self>, Advanced) -> Result<T> + Send + 'static,
    ) -> Pending<T> {
        let (promise, answer) = promise();
        let hash = self.shared.index.hash(key);
        let pushed = self.push(key, hash, command, carried, rows, Reply::Advance(promise));
        self.follow(ErrorKind::OutcomeUnknown, pushed, answer, read)
    }

    /// Changes a step, by a command that somebody waits for.
    pub(crate) fn step<T: Send + 'static>(
        self: &Arc<Self>,
        key: &Key,
        carried: Carried,
        command: Command,
        read: impl FnOnce(Stepped) -> Result<T> + Send + 'static,
    ) -> Pending<T> {
        let (promise, answer) = promise();
        let hash = self.shared.index.hash(key);
        let pushed = self.push(key, hash, command, carried, None, Reply::Step(promise));
        self.follow(ErrorKind::OutcomeUnknown, pushed, answer, |_, stepped| read(stepped))
    }

    /// Takes in what a run reports of a step. It is on disk with the next batch at the latest; nobody need wait.
    pub(crate) fn report(&self, ownership: &Ownership, command: Command) {
        let report = Report::new(command);
        ownership.reports.lock().push(report.clone());
        self.shared.take_in_by_itself(ownership, report);
    }

    /// Ends the operation that `ownership` owns, with the server's own rows where there are any.
    pub(crate) fn end<T: Send + 'static>(
        self: &Arc<Self>,
        ownership: Arc<Ownership>,
        carried: Carried,
        command: Command,
        rows: Option<WriteRows>,
        read: impl FnOnce(Outcome) -> T + Send + 'static,
    ) -> Pending<T> {
        let (promise, answer) = promise();
        let (key, hash) = (ownership.key.clone(), ownership.hash);
        let pushed = self.push(&key, hash, command, carried, rows, Reply::End { ownership, promise });
        self.follow(ErrorKind::OutcomeUnknown, pushed, answer, |_, outcome| Ok(read(outcome)))
    }

    /// Does what can be asked of an operation by name alone, and tells whether there was anything to do.
    pub(crate) fn by_name(self: &Arc<Self>, key: &Key, command: Command) -> Pending<bool> {
        let (promise, answer) = promise();
        let pushed =
            self.push(key, self.shared.index.hash(key), command, Carried::default(), None, Reply::Done(promise));
        self.follow(ErrorKind::OutcomeUnknown, pushed, answer, |_, done| Ok(done))
    }

    /// Hands a request to the writer, or gives it back where there is no room for it yet. On a thread that the store
    /// waits for it is refused: nobody could wait for its answer.
    fn push(
        &self,
        key: &Key,
        hash: KeyHash,
        command: Command,
        carried: Carried,
        rows: Option<WriteRows>,
        reply: Reply,
    ) -> Pushed {
        if let Some(name) = command.by_hand() {
            self.shared.trace.by_hand(key, name);
        }
        let rows = rows.map(OwnRows::new);
        let request = Request { key: key.clone(), hash, command, carried, rows, report: None, reply };
        match may_ask() {
            Ok(()) => self.shared.queue.push(request),
            Err(error) => {
                request.refuse(error);
                Pushed::In(None)
            }
        }
    }

    /// What comes of a request: handed over first where there was no room for it yet.
    fn follow<A: Send + 'static, T: Send + 'static>(
        self: &Arc<Self>,
        gives_up: ErrorKind,
        pushed: Pushed,
        answer: Answer<A>,
        read: impl FnOnce(Arc<Self>, A) -> Result<T> + Send + 'static,
    ) -> Pending<T> {
        let engine = Arc::clone(self);
        Pending::coming(gives_up, async move {
            let bell = HandOver::new(Arc::clone(&engine.shared.queue), pushed).await;
            let answer = answer.rung_by(bell).await.inspect_err(|error| engine.shared.note(error))?;
            read(engine, answer)
        })
    }

    /// What comes of a claim.
    fn follow_claim<T: Send + 'static>(
        self: &Arc<Self>,
        key: &Key,
        hash: KeyHash,
        span: Span,
        pushed: Pushed,
        answer: Answer<Claimed>,
        read: impl FnOnce(Arc<Self>, Claimed) -> T + Send + 'static,
    ) -> Pending<T> {
        let (engine, key) = (Arc::clone(self), key.clone());
        let answered = async move {
            let bell = HandOver::new(Arc::clone(&engine.shared.queue), pushed).await;
            let answer = answer.rung_by(bell).await;
            engine.shared.count(&key, hash, &answer);
            Ok(read(engine, answer?))
        };
        Pending::coming(ErrorKind::TimedOut, span.around(answered))
    }

    /// What is known of a key, without claiming it, and the one moment at which it is so: whoever says what it is at
    /// another might tell of an expiry whose time is not on disk. None where nothing counts any more.
    pub(crate) fn look(self: &Arc<Self>, key: &Key) -> Result<Option<(Seen, Timestamp)>> {
        let shared = &self.shared;
        let found = shared.find(key, shared.index.hash(key));
        found.as_ref().err().into_iter().for_each(|error| shared.note(error));
        let Some(seen) = found? else { return Ok(None) };
        let time = shared.timeline.now().time;
        let counts = is_kept(&seen.record, time);
        if !counts {
            self.keep_time(key, time)?;
        }
        Ok((counts || !is_over(&seen.record, time)).then_some((seen, time)))
    }

    /// What is told of an expiry at this time, as of this key, must outlast a restart with the clock turned back.
    /// Returns whether that took a commit.
    fn keep_time(self: &Arc<Self>, key: &Key, time: Timestamp) -> Result<bool> {
        if time.as_millis() <= self.shared.durable_time.load(Ordering::Acquire) {
            return Ok(false);
        }
        let told = self.by_name(key, Command::Look);
        // Where nobody else lets the writer work, and this is none of its work.
        #[cfg(any(test, feature = "testing"))]
        if may_block().is_ok() {
            self.work_by_hand();
        }
        told.wait().map(|_| true)
    }

    /// What every operation is decided by.
    pub(crate) fn policy(&self) -> Policy {
        self.shared.policy
    }

    /// The store's time at this moment.
    pub(crate) fn time(&self) -> Timestamp {
        self.shared.timeline.now().time
    }

    /// From when on a span that began at this moment is known to have gone by. What an earlier process noted may have
    /// been a moment ago: its time may have stood still, and the clock jumped since (P11). So may what another store
    /// noted, whose clock is not ours.
    pub(crate) fn tells_from(&self, began: Timestamp) -> Timestamp {
        let adopted = Timestamp::from_millis(self.shared.adopted_at.load(Ordering::Acquire));
        began.max(self.shared.timeline.start_time()).max(adopted)
    }

    /// Lets the server read its own rows, all as they were at one moment.
    pub(crate) fn read_rows<T>(&self, read: impl FnOnce(&ReadTransaction<'_>) -> T) -> Result<T> {
        self.shared.log.read_rows(read)
    }

    /// Up to `most` unfinished operations born after `after`, in that order, each with its number, and where to go on.
    pub(crate) fn unfinished(&self, after: u64, most: usize) -> Result<(Vec<Numbered>, Option<u64>)> {
        // Where nothing is unfinished nothing is read that would tell.
        if let Some(Shut::Closed) = self.shared.queue.is_shut() {
            return Err(Shut::Closed.error());
        }
        let opens = self.shared.index.unfinished();
        let page: Vec<_> = opens.after(after).take(most).map(|(born, open)| (born, open.place)).collect();
        drop(opens);
        let last = page.last().map(|(born, _)| *born).filter(|_| page.len() == most);
        let (mut seen, mut bytes, mut before) = (Vec::with_capacity(page.len()), 0, None);
        for (born, place) in page {
            // Large payloads end a page too.
            if bytes >= list::PAGE_BYTES {
                return Ok((seen, before));
            }
            before = Some(born);
            // A damaged row is told where it stands, and stops none behind it.
            match self.shared.follow_unfinished(born, place) {
                Ok(found) => {
                    bytes += found.as_ref().map_or(0, |found| found.record.bytes_here());
                    seen.extend(found.map(|found| (born, Ok(found))));
                }
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    self.shared.note(&error);
                    seen.push((born, Err(error)));
                }
                Err(error) => return Err(error),
            }
        }
        Ok((seen, last))
    }

    /// Checks every invariant over every record.
    pub(crate) fn verify(&self, progress: &mut dyn FnMut(f64) -> ControlFlow<()>) -> Result<Verdict> {
        let verdict = verify::verify(&self.shared, progress);
        verdict.as_ref().err().into_iter().for_each(|error| self.shared.note(error));
        verdict
    }

    /// Counts that a run found out by itself that it owns its operation no longer.
    pub(crate) fn count_fenced(&self, key: &Key) {
        self.shared.meter.fenced.fetch_add(1, Ordering::Relaxed);
        self.shared.trace.fenced(key);
    }

    /// Lets the writer finish what is queued, closes the file and tells what that came to.
    pub(crate) fn close(&self) -> Result<()> {
        // On the writer's thread it would wait for itself.
        may_block()?;
        self.end_writer()
    }

    fn end_writer(&self) -> Result<()> {
        self.shared.queue.shut(Shut::Closed);
        if may_block().is_err() {
            // The last handle went on a writer's thread, this one's or another store's that may wait for this one: the
            // writer ends by itself, and the file with it.
            return Ok(());
        }
        // Held until the file is closed, so that nobody is told so before.
        let mut writer = self.writer.lock();
        match writer.take() {
            None if self.shared.is_read_only && !self.shared.ended.swap(true, Ordering::AcqRel) => {}
            None => return Ok(()),
            Some(AtWork::OnItsThread(thread)) => thread.join().map_err(|_| Shut::Failed.error())?,
            #[cfg(any(test, feature = "testing"))]
            Some(AtWork::ByHand(by_hand)) => thread_waited_for(|| {
                let mut left = Some(by_hand);
                while let Some(by_hand) = left {
                    left = by_hand.work_by_hand();
                }
            }),
        }
        let closed = self.shared.log.close();
        self.shared.trace.closed();
        closed
    }

    /// What this store tells, and how.
    pub(crate) fn trace(&self) -> Trace {
        self.shared.trace
    }
}

// A panic leaves nothing half-done behind: the writer stops the store for good, and callers hold no locks of it.
impl UnwindSafe for Engine {}
impl RefUnwindSafe for Engine {}

// Neither keys nor payloads nor the size of the index belong in a log line.
impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.fmt(f)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("operations", &self.index.operations()).finish_non_exhaustive()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Nobody is left to tell; `close` is for those who want to know.
        drop(self.end_writer());
    }
}

impl Shared {
    fn tell_opened(&self) {
        let (operations, opens) = (self.index.operations(), self.index.unfinished());
        let (unfinished, in_doubt, stuck) = (opens.len(), opens.in_doubt(), opens.tried_enough());
        drop(opens);
        self.trace.opened(&Found { operations, unfinished, in_doubt, stuck });
    }

    /// Counts and tells the answer to a claim that its caller takes.
    fn count(&self, key: &Key, hash: KeyHash, answer: &Result<Claimed>) {
        let answered = answer.as_ref().map_or(Answered::Failed, Claimed::answered);
        self.meter.answered(hash, answered);
        let attempt = answer.as_ref().ok().and_then(Claimed::attempt);
        self.trace.claimed(key, answered.name(), attempt);
        match answer {
            Ok(Claimed::Reject { .. }) => self.trace.mismatch(key),
            Ok(_) => {}
            Err(error) => self.note(error),
        }
    }

    /// Keeps an error of the store's own that one caller met: damage. What the writer meets it keeps itself.
    fn note(&self, error: &Error) {
        if error.kind() == ErrorKind::Corrupt {
            self.keep_fault(error);
        }
    }

    /// Keeps an error of the store's own, for whoever asks how the store is.
    fn keep_fault(&self, error: &Error) {
        self.meter.note(error, self.timeline.now().time);
        self.trace.fault(error);
    }

    /// Lets a claim wait for the run at work, or gives it back where none is.
    fn park(&self, key: &Key, hash: KeyHash, waiter: Waiter) -> Result<(), Waiter> {
        let mut shard = self.index.shard(hash);
        // Asked under the shard's lock, which the writer's end takes after it set this.
        if self.ended.load(Ordering::Acquire) {
            return Err(waiter);
        }
        shard.park(hash, key, waiter)
    }

    /// Hands the writer a report, for which nobody waits.
    fn take_in_by_itself(&self, ownership: &Ownership, report: Report) {
        let (key, hash, command) = (ownership.key.clone(), ownership.hash, report.command().clone());
        let (report, reply) = (Some(report), Reply::Nobody);
        self.queue.readmit(Request { key, hash, command, carried: Carried::default(), rows: None, report, reply });
    }

    /// Lets the next in line claim.
    fn readmit(self: &Arc<Self>, key: &Key, hash: KeyHash, waiter: Waiter) {
        self.queue.readmit(self.turn_of(waiter, key, hash));
    }

    /// The claim that a waiter becomes when its turn has come.
    fn turn_of(self: &Arc<Self>, waiter: Waiter, key: &Key, hash: KeyHash) -> Request {
        let command = Command::Claim(waiter.ask);
        let turn = Turn { shared: Arc::clone(self), key: key.clone(), hash };
        let reply = Reply::Claim { turn: Some(turn), promise: waiter.promise };
        let (key, carried) = (key.clone(), Carried::default());
        Request { key, hash, command, carried, rows: None, report: None, reply }
    }
}
