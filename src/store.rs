//! The store: what a server opens once and hands to everything that serves requests.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::claim::{Claim, Request};
use crate::clock::{Clock, SystemClock};
use crate::engine::{Advanced, Carried, Engine, OpenCheck, Opening, Options, QueueLimits, ReadTransaction};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::payload::{Limits, Payload};
use crate::pending::Pending;
use crate::progress::{Progress, Unfinished};
use crate::record::transitions::{Ask, Command, Policy};
use crate::record::{Checkpoint, Resolution, Revision};
use crate::run::{advance_command, resolve_command};

const RETENTION: Duration = Duration::from_secs(24 * 60 * 60);
const ATTEMPTS_MAX: u32 = 16;
const OPERATIONS_MAX: u64 = 30_000_000;
const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;
const QUEUE_COMMANDS_MAX: usize = 16 * 1024;
const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
const CACHE_BYTES: usize = 64 * 1024 * 1024;

/// Largest limit a payload may be given: lengths take four bytes in the file.
const PAYLOAD_BYTES_LIMIT: usize = 1024 * 1024 * 1024;

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
    /// [`ErrorKind::NotInDoubt`] where the step is not in doubt, [`ErrorKind::Finished`] where the operation has an
    /// outcome; otherwise those of [`Run::advance`](crate::Run::advance).
    pub fn resolve(&self, key: &Key, step: &str, resolution: Resolution, note: &str) -> Pending<()> {
        match resolve_command(None, step, resolution, note, self.limits) {
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
    /// The iterator reads the file on the thread that drives it, 256 operations at a time; a task gives it to a thread
    /// that may block.
    pub fn unfinished(&self) -> Unfinished {
        Unfinished::new(Arc::clone(&self.engine))
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
    /// [`ErrorKind::Failed`] and [`ErrorKind::Closed`].
    pub fn revoke(&self, key: &Key) -> Pending<bool> {
        self.engine.by_name(key, Command::Revoke)
    }

    /// Figures of this moment.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] where the file's size cannot be asked for.
    pub fn stats(&self) -> Result<Stats> {
        let figures = self.engine.figures()?;
        Ok(Stats {
            operations: figures.operations,
            unfinished: figures.unfinished,
            in_doubt: figures.in_doubt,
            stuck: figures.stuck,
            owned: figures.owned,
            waiting: figures.waiting,
            queued: figures.queued,
            removed: figures.removed,
            commits: figures.commits,
            changes: figures.changes,
            index_bytes: figures.index_bytes,
            disk_bytes: figures.disk_bytes,
        })
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
        let verdict = self.engine.verify()?;
        Ok(Verified {
            operations: verdict.operations,
            tombstones: verdict.tombstones,
            payload_rows: verdict.payload_rows,
        })
    }

    /// Closes the store for all its handles: what is queued is finished and answered, everything later and everybody
    /// who waits for another run gets [`ErrorKind::Closed`]. When it returns, the file is free to be opened anew.
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

/// Figures of a store; see [`Store::stats`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Operations kept: unfinished, completed, and tombstones. What is expired counts until it is removed.
    pub operations: u64,
    /// Operations without an outcome, owned or not. What is deferred counts when it is durable.
    pub unfinished: u64,
    /// Unfinished operations with a step in doubt, one that a run is at work on among them.
    pub in_doubt: u64,
    /// Operations that are [stuck](crate::State::Stuck).
    pub stuck: u64,
    /// Operations that a run is at work on.
    pub owned: u64,
    /// Claims that wait for another run to end.
    pub waiting: u64,
    /// Commands that wait for the writer.
    pub queued: u64,
    /// Operations that retention removed since the store was opened.
    pub removed: u64,
    /// Commits since the store was opened; each takes one sync.
    pub commits: u64,
    /// Changes since the store was opened; many share a commit.
    pub changes: u64,
    /// Memory of the index.
    pub index_bytes: u64,
    /// Size of the file.
    pub disk_bytes: u64,
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

/// How a store is opened.
///
/// ```
/// use reentry::Store;
/// use std::time::Duration;
///
/// let store = Store::builder()
///     .retention(Duration::from_secs(3 * 24 * 60 * 60))
///     .tombstones(Duration::from_secs(30 * 24 * 60 * 60))
///     .in_memory()?;
/// # Ok::<(), reentry::Error>(())
/// ```
#[must_use = "nothing is opened until `open` or `in_memory`"]
pub struct Builder {
    policy: Policy,
    operations_max: u64,
    hash_mask: u64,
    only_private: bool,
    payload_bytes_max: usize,
    queue: QueueLimits,
    opening: Opening,
    clock: Box<dyn Clock>,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Builder");
        shown.field("policy", &self.policy).field("operations_max", &self.operations_max);
        shown.field("payload_bytes_max", &self.payload_bytes_max).field("queue", &self.queue);
        shown.field("check", &self.opening.check).field("cache_bytes", &self.opening.cache_bytes);
        shown.field("clock", &self.clock).finish_non_exhaustive()
    }
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            policy: Policy {
                retention: RETENTION,
                tombstones: Duration::ZERO,
                lease: None,
                attempts_max: ATTEMPTS_MAX,
            },
            operations_max: OPERATIONS_MAX,
            hash_mask: u64::MAX,
            only_private: false,
            payload_bytes_max: PAYLOAD_BYTES_MAX,
            queue: QueueLimits { commands_max: QUEUE_COMMANDS_MAX, bytes_max: QUEUE_BYTES_MAX },
            opening: Opening { check: OpenCheck::default(), cache_bytes: CACHE_BYTES, progress: Arc::new(|_| {}) },
            clock: Box::new(SystemClock::default()),
        }
    }
}

impl Builder {
    /// How long an outcome is kept, counted from completion (P5): longer than any client retries. Default: 24 hours.
    /// What is completed already keeps the deadline it was given.
    pub fn retention(mut self, span: Duration) -> Self {
        self.policy.retention = span;
        self
    }

    /// How much longer a tombstone then knows that the key is used up (P5). Default: not at all.
    pub fn tombstones(mut self, span: Duration) -> Self {
        self.policy.tombstones = span;
        self
    }

    /// How long an owner may stand still, for owners that hang: one that has neither moved nor
    /// [renewed](crate::Run::renew) for this long can be taken over by the next claim, and is fenced then (P7). Longer
    /// than any effect takes: a run that is taken over in the midst of one leaves its step in doubt. Default: none;
    /// ownership ends with the run or its process, which needs no lease.
    pub fn lease(mut self, span: Duration) -> Self {
        self.policy.lease = Some(span);
        self
    }

    /// How many runs an operation may have before it is [stuck](crate::State::Stuck), and no
    /// [`Resumer`](crate::Resumer) tries it again (P6). Clients' runs count too. Default: 16.
    pub fn attempts_max(mut self, attempts: u32) -> Self {
        self.policy.attempts_max = attempts;
        self
    }

    /// How many operations may be kept; a claim of one more is refused with [`ErrorKind::Capacity`] (P6). Each takes 32
    /// bytes of memory at most. Default: 30 million.
    pub fn operations_max(mut self, operations: u64) -> Self {
        self.operations_max = operations;
        self
    }

    /// For tests: gives every key the same hash, so that only the comparison in full tells them apart (P9).
    #[cfg(any(test, feature = "testing"))]
    #[doc(hidden)]
    pub fn with_one_hash_for_all(mut self) -> Self {
        self.hash_mask = 0;
        self
    }

    /// Largest payload, in bytes. Default: 1 MiB; at most 1 GiB.
    pub fn payload_bytes_max(mut self, bytes: usize) -> Self {
        self.payload_bytes_max = bytes;
        self
    }

    /// How many commands may wait for the writer before callers wait for room. Default: 16,384.
    pub fn queue_commands_max(mut self, commands: usize) -> Self {
        self.queue.commands_max = commands;
        self
    }

    /// How many bytes the commands that wait for the writer may take. Default: 64 MiB.
    pub fn queue_bytes_max(mut self, bytes: usize) -> Self {
        self.queue.bytes_max = bytes;
        self
    }

    /// Memory for pages of the file. Default: 64 MiB.
    pub fn cache_bytes(mut self, bytes: usize) -> Self {
        self.opening.cache_bytes = bytes;
        self
    }

    /// How thoroughly the file is checked when it is opened (P10). Default: [`OpenCheck::Full`].
    pub fn check(mut self, check: OpenCheck) -> Self {
        self.opening.check = check;
        self
    }

    /// Refuses a file that others than its owner may read or write, and one in a folder that others may write to, with
    /// [`ErrorKind::Exposed`] (P9). A file that the store creates is its owner's alone in any case; an older or copied
    /// one may not be. On Windows nothing is refused. Default: no.
    pub fn only_private(mut self, refuse: bool) -> Self {
        self.only_private = refuse;
        self
    }

    /// What is told, from time to time while a large file is opened, which share of the work is done: 0.0 to 1.0.
    ///
    /// ```
    /// let store = reentry::Store::builder()
    ///     .on_open_progress(|share| eprintln!("opening: {:.0} %", share * 100.0))
    ///     .in_memory()?;
    /// # Ok::<(), reentry::Error>(())
    /// ```
    pub fn on_open_progress(mut self, tell: impl Fn(f64) + Send + Sync + 'static) -> Self {
        self.opening.progress = Arc::new(tell);
        self
    }

    /// What time is read from (P11). Default: [`SystemClock`].
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Box::new(clock);
        self
    }

    /// Opens the store in this file, and creates it, readable by its owner only, where there is none. After a crash
    /// everything acknowledged is there, nobody owns anything, and what was unfinished is unfinished.
    ///
    /// **Durable when it returns**: a store it created survives a power cut, its name too.
    ///
    /// # Errors
    ///
    /// With the path in the message, and nothing in the file changed: [`ErrorKind::InUse`] where it is open elsewhere,
    /// [`ErrorKind::NotAStore`] for a folder, a link, an empty file or something else, [`ErrorKind::NewerFormat`],
    /// [`ErrorKind::Corrupt`], [`ErrorKind::Io`] or [`ErrorKind::Full`] where the system refuses;
    /// [`ErrorKind::InvalidConfig`] for this builder's own values.
    pub fn open(self, path: impl AsRef<Path>) -> Result<Store> {
        let (limits, options) = self.check_values()?;
        Ok(Store { engine: Engine::open_file(path.as_ref(), options)?, limits })
    }

    /// A store in memory, for tests and trials: it ends with its last handle, and nothing of it is durable.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`] for this builder's own values, [`ErrorKind::Io`] where no thread can be started.
    pub fn in_memory(self) -> Result<Store> {
        let (limits, options) = self.check_values()?;
        Ok(Store { engine: Engine::open_memory(options)?, limits })
    }

    /// The store on a simulated disk, made where the disk is empty.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open).
    #[cfg(any(test, feature = "testing"))]
    pub fn open_on(self, disk: &crate::SimulatedDisk) -> Result<Store> {
        let (limits, options) = self.check_values()?;
        Ok(Store { engine: Engine::open_simulated(disk, options, false)?, limits })
    }

    /// The store on a simulated disk, made where the disk is empty, for simulations that can be repeated exactly: its
    /// writer has no thread, works only when [`Store::work_by_hand`] is called, and leaves nothing for later.
    ///
    /// ```
    /// use reentry::{Claim, Fingerprint, Key, SimulatedDisk, Store};
    ///
    /// let store = Store::builder().open_by_hand(&SimulatedDisk::new())?;
    /// let claim = store.claim(&Key::new("orders", "1")?, Fingerprint::of("two pizzas"));
    /// store.work_by_hand();
    /// assert!(matches!(claim.wait()?, Claim::Run(_)));
    /// # Ok::<(), reentry::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open).
    #[cfg(any(test, feature = "testing"))]
    pub fn open_by_hand(self, disk: &crate::SimulatedDisk) -> Result<Store> {
        let (limits, options) = self.check_values()?;
        Ok(Store { engine: Engine::open_simulated(disk, options, true)?, limits })
    }

    fn check_values(self) -> Result<(Limits, Options)> {
        let fault = if self.policy.retention < Duration::from_millis(1) {
            "retention is under a millisecond; it must outlast every retry"
        } else if self.policy.lease.is_some_and(|lease| lease < Duration::from_millis(1)) {
            "the lease is under a millisecond, so no owner could keep anything"
        } else if self.policy.attempts_max == 0 {
            "attempts_max is zero, so everything would be stuck before it was tried"
        } else if self.operations_max == 0 || self.queue.commands_max == 0 || self.queue.bytes_max == 0 {
            "a limit is zero, so nothing could ever be claimed"
        } else if self.payload_bytes_max > PAYLOAD_BYTES_LIMIT {
            "payload_bytes_max is over 1 GiB, the most a store takes"
        } else {
            let Self { policy, queue, operations_max, hash_mask, only_private, opening, clock, .. } = self;
            let limits = Limits { payload_bytes_max: self.payload_bytes_max };
            return Ok((limits, Options { policy, queue, operations_max, hash_mask, only_private, opening, clock }));
        };
        Err(Error::new(ErrorKind::InvalidConfig, fault))
    }
}
