//! How a store is opened: what it may keep, for how long, and from where.

use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Store;
use crate::clock::{Clock, SystemClock};
use crate::engine::{Access, Capacity, Engine, Most, OpenCheck, Opening, Options, QueueLimits};
use crate::error::{Error, ErrorKind, Result};
use crate::payload::{Limits, PAYLOAD_BYTES_LIMIT};
use crate::pending::caught;
use crate::record::room::Room;
use crate::record::transitions::Policy;
use crate::trace::Trace;

const RETENTION: Duration = Duration::from_secs(24 * 60 * 60);
const ATTEMPTS_MAX: u32 = 16;
const OPERATIONS_MAX: u64 = 30_000_000;
const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;
/// What an operation may take beside the least that its payloads ask for.
const OPERATION_BYTES_BESIDE: u64 = 16 * 1024 * 1024;
const QUEUE_COMMANDS_MAX: usize = 16 * 1024;
const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
const CACHE_BYTES: usize = 64 * 1024 * 1024;

const CONTINUE: ControlFlow<()> = ControlFlow::Continue(());

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
    capacity: Capacity,
    operation_bytes_max: Option<u64>,
    hash_mask: u64,
    trace: Trace,
    payload_bytes_max: usize,
    queue: QueueLimits,
    opening: Opening,
    clock: Box<dyn Clock>,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Builder");
        shown.field("policy", &self.policy).field("capacity", &self.capacity);
        shown.field("operation_bytes_max", &self.operation_bytes_max);
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
                room: Room { operation_bytes_max: 0, payload_bytes_max: 0 },
            },
            capacity: Capacity {
                all: Most { operations: Some(OPERATIONS_MAX), ..Most::default() },
                scope: Most::default(),
            },
            operation_bytes_max: None,
            hash_mask: u64::MAX,
            trace: Trace::default(),
            payload_bytes_max: PAYLOAD_BYTES_MAX,
            queue: QueueLimits { commands_max: QUEUE_COMMANDS_MAX, bytes_max: QUEUE_BYTES_MAX },
            opening: Opening {
                access: Access::Write,
                check: OpenCheck::default(),
                cache_bytes: CACHE_BYTES,
                only_private: false,
                progress: Arc::new(|_| CONTINUE),
            },
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

    /// How many operations may be kept; a claim that would begin one more is refused with [`ErrorKind::Capacity`], and
    /// everything that has begun goes on (P6). Tombstones count, and so does what is expired until it is removed. Each
    /// takes 32 bytes of memory at most, and some 100 more while it is unfinished. Default: 30 million.
    pub fn operations_max(mut self, operations: u64) -> Self {
        self.capacity.all.operations = Some(operations);
        self
    }

    /// How many bytes all that is kept may take ([`Stats::bytes`](crate::Stats::bytes)); a claim is refused with
    /// [`ErrorKind::Capacity`] where its operation would begin over that (P6). What has begun goes on and may take
    /// more, each operation up to [`operation_bytes_max`](Self::operation_bytes_max). Default: as many as the disk has.
    pub fn bytes_max(mut self, bytes: u64) -> Self {
        self.capacity.all.bytes = Some(bytes);
        self
    }

    /// As [`operations_max`](Self::operations_max), for each scope: one that makes keys as fast as it can leaves room
    /// for the others (P9). Default: none.
    ///
    /// ```
    /// use reentry::{Claim, ErrorKind, Fingerprint, Key, Store};
    ///
    /// let store = Store::builder().scope_operations_max(1).in_memory()?;
    /// let claim = |scope, key| store.claim(&Key::new(scope, key)?, Fingerprint::of("two pizzas")).wait();
    /// assert!(matches!(claim("ada", "1")?, Claim::Run(_)));
    /// assert_eq!(claim("ada", "2").unwrap_err().kind(), ErrorKind::Capacity);
    /// assert!(matches!(claim("bob", "1")?, Claim::Run(_)));
    /// # Ok::<(), reentry::Error>(())
    /// ```
    ///
    /// With this limit or another one for each scope, a scope under which anything is kept takes its name and 112 bytes
    /// of memory at most.
    pub fn scope_operations_max(mut self, operations: u64) -> Self {
        self.capacity.scope.operations = Some(operations);
        self
    }

    /// As [`bytes_max`](Self::bytes_max), for each scope (P9). Default: none.
    pub fn scope_bytes_max(mut self, bytes: u64) -> Self {
        self.capacity.scope.bytes = Some(bytes);
        self
    }

    /// How many unfinished operations each scope may have, owned or not; a claim that would begin one more is refused
    /// with [`ErrorKind::Capacity`]: for clients that claim and never finish (P6, P9). Default: none.
    pub fn scope_unfinished_max(mut self, operations: u64) -> Self {
        self.capacity.scope.unfinished = Some(operations);
        self
    }

    /// How many bytes one operation may take, with all of its payloads. A new step, or a larger checkpoint, is refused
    /// with [`ErrorKind::Capacity`], before anything happens, where it would not leave room for the step's result, for
    /// a note on it and for the outcome, each as large as it may be. What has happened is never refused: only where
    /// several steps are in doubt together may their results take it over this. Of late reports the oldest give way.
    ///
    /// At least four times [`payload_bytes_max`](Self::payload_bytes_max) and 4 KiB. Default: four times that and 16
    /// MiB.
    pub fn operation_bytes_max(mut self, bytes: u64) -> Self {
        self.operation_bytes_max = Some(bytes);
        self
    }

    /// For tests: gives every key the same hash, so that only the comparison in full tells them apart (P9).
    #[cfg(any(test, feature = "testing"))]
    #[doc(hidden)]
    pub fn with_one_hash_for_all(mut self) -> Self {
        self.hash_mask = 0;
        self
    }

    /// For tests: gives every key the same part of the index and the same hint in it, though their hashes differ (P9).
    #[cfg(any(test, feature = "testing"))]
    #[doc(hidden)]
    pub fn with_one_hint_for_all(mut self) -> Self {
        self.hash_mask = 0x00FF_FFFF_0000_0000;
        self
    }

    /// Largest payload, in bytes. Default: 1 MiB; at most 1 GiB. An answer of HTTP that the layer keeps may take 64 KiB
    /// more, for its headers.
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
        self.opening.only_private = refuse;
        self
    }

    /// Whether traces show keys as they are (P9), feature `tracing`. Keys belong to clients, and whoever reads the log
    /// reads them. Default: no, they show [`Key::digest`](crate::Key::digest).
    #[cfg(feature = "tracing")]
    pub fn show_keys_in_traces(mut self, show: bool) -> Self {
        self.trace = Trace::showing_keys(show);
        self
    }

    /// What is told, from time to time while a large file is opened, which share of the work is done: 0.0 to 1.0. Where
    /// it panics the work goes on.
    ///
    /// ```
    /// let store = reentry::Store::builder()
    ///     .on_open_progress(|share| eprintln!("opening: {:.0} %", share * 100.0))
    ///     .in_memory()?;
    /// # Ok::<(), reentry::Error>(())
    /// ```
    pub fn on_open_progress(mut self, tell: impl Fn(f64) + Send + Sync + 'static) -> Self {
        self.opening.progress = Arc::new(move |share| {
            // It is called within redb, whose panics are taken for damage.
            caught(|| tell(share));
            CONTINUE
        });
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

    /// Opens the store in this file to read it: **not a byte of the file is changed**, after a crash neither, since
    /// what has to be repaired then is repaired in memory. Whatever would change something is refused with
    /// [`ErrorKind::ReadOnly`]. Others may read it at the same time; a store that is open for writing is in use.
    ///
    /// ```
    /// use reentry::{ErrorKind, Fingerprint, Key, Store};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("orders.reentry");
    /// # Store::open(&path)?.close()?;
    /// let store = Store::builder().open_to_read(&path)?;
    /// assert_eq!(store.operations().count(), 0);
    /// let claim = store.claim(&Key::new("orders", "1")?, Fingerprint::of("two pizzas"));
    /// assert_eq!(claim.wait().unwrap_err().kind(), ErrorKind::ReadOnly);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open), and [`ErrorKind::Io`] where there is no such file.
    pub fn open_to_read(mut self, path: impl AsRef<Path>) -> Result<Store> {
        self.opening.access = Access::Read;
        self.open(path)
    }

    /// Opens what is left of a damaged store to read it, as [`open_to_read`](Self::open_to_read) does: what can be read
    /// is there, after a crash too, and [`Store::operations`] tells of each damaged row in its place. **What cannot be
    /// read is not known**: a key that is not found may have been there. A store that is not damaged is read as it is.
    ///
    /// # Errors
    ///
    /// As for [`open_to_read`](Self::open_to_read); [`ErrorKind::Corrupt`] where redb cannot find its tables any more.
    pub fn open_damaged(mut self, path: impl AsRef<Path>) -> Result<Store> {
        self.opening.access = Access::Salvage;
        self.open(path)
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

    /// The store on a simulated disk, which holds one, to read it.
    ///
    /// # Errors
    ///
    /// As for [`open_to_read`](Self::open_to_read).
    #[cfg(any(test, feature = "testing"))]
    pub fn open_to_read_on(mut self, disk: &crate::SimulatedDisk) -> Result<Store> {
        self.opening.access = Access::Read;
        let (limits, options) = self.check_values()?;
        Ok(Store { engine: Engine::open_to_read(Arc::new(disk.clone()), options)?, limits })
    }

    /// What is left of a damaged store on a simulated disk, to read it.
    ///
    /// # Errors
    ///
    /// As for [`open_damaged`](Self::open_damaged).
    #[cfg(any(test, feature = "testing"))]
    pub fn open_damaged_on(mut self, disk: &crate::SimulatedDisk) -> Result<Store> {
        self.opening.access = Access::Salvage;
        let (limits, options) = self.check_values()?;
        Ok(Store { engine: Engine::open_to_read(Arc::new(disk.clone()), options)?, limits })
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

    /// The store on a disk of the kit's, which holds one.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn open_disk(self, disk: Arc<dyn crate::engine::Disk>) -> Result<Store> {
        let (limits, options) = self.check_values()?;
        Ok(Store { engine: Engine::open_disk(disk, options)?, limits })
    }

    pub(super) fn check_values(self) -> Result<(Limits, Options)> {
        let payload_bytes_max = self.payload_bytes_max as u64;
        let least = Room::bytes_min(payload_bytes_max);
        let operation_bytes_max = self.operation_bytes_max.unwrap_or(least.saturating_add(OPERATION_BYTES_BESIDE));
        let Capacity { all, scope } = self.capacity;
        let capacities = [all.operations, all.bytes, scope.operations, scope.bytes, scope.unfinished];
        let fault = if self.policy.retention < Duration::from_millis(1) {
            "retention is under a millisecond; it must outlast every retry"
        } else if self.policy.lease.is_some_and(|lease| lease < Duration::from_millis(1)) {
            "the lease is under a millisecond, so no owner could keep anything"
        } else if self.policy.attempts_max == 0 {
            "attempts_max is zero, so everything would be stuck before it was tried"
        } else if capacities.contains(&Some(0)) || self.queue.commands_max == 0 || self.queue.bytes_max == 0 {
            "a limit is zero, so nothing could ever be claimed"
        } else if self.payload_bytes_max > PAYLOAD_BYTES_LIMIT {
            "payload_bytes_max is over 1 GiB, the most a store takes"
        } else if operation_bytes_max < least {
            "operation_bytes_max is under four times payload_bytes_max and 4 KiB, so an operation may not end"
        } else {
            let Self { policy, queue, capacity, hash_mask, trace, opening, clock, .. } = self;
            let limits = Limits { payload_bytes_max: self.payload_bytes_max };
            let policy = Policy { room: Room { operation_bytes_max, payload_bytes_max }, ..policy };
            return Ok((limits, Options { policy, queue, capacity, hash_mask, trace, opening, clock }));
        };
        Err(Error::new(ErrorKind::InvalidConfig, fault))
    }
}
