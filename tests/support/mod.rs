//! What several test files need: shorthands, the ways to guard an effect, a way to hold the store's writer still, an
//! executor that polls only what was woken, and a waker that counts.

#![allow(dead_code, reason = "each test file takes what it needs of this")]

use std::fs::File;
use std::future::Future;
use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};
use std::panic;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use redb::{Database, ReadableTable, StorageBackend, TableDefinition};
use reentry::{
    Claim, Clock, DiskCall, DiskFault, EffectId, ErrorKind, Failure, Fingerprint, Key, Loss, ManualClock, Payload,
    Pending, Request, Result, Run, SimulatedDisk, Step, Store, Timestamp,
};

/// Longer than any answer takes; a test that hangs fails after it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Where the clocks of tests start.
pub(crate) const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

pub(crate) fn key(name: &str) -> Key {
    Key::new("scope", name).unwrap()
}

/// The fingerprint that tests use where it does not matter.
pub(crate) fn request() -> Fingerprint {
    Fingerprint::of("two pizzas")
}

/// A store's file as redb sees it: what stands before redb's bytes is passed over (`docs/format.md`, "Head").
#[derive(Debug)]
struct Behind {
    file: File,
    head: u64,
}

impl StorageBackend for Behind {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len() - self.head)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(self.head + offset))?;
        file.read_exact(out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(self.head + len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(self.head + offset))?;
        file.write_all(data)
    }
}

/// Where redb's bytes begin in the file of a store.
pub(crate) fn head_bytes(file: &[u8]) -> usize {
    let pages = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap()) as usize;
    if file.starts_with(b"reentry") { (pages(&file[12..16]) + 1) * 4096 } else { 0 }
}

/// The engine panics in a damaged page once for each number that is looked for there, and is caught: only what a
/// test says is worth telling.
pub(crate) fn tell_own_panics() {
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if panic.location().is_some_and(|place| place.file().starts_with("tests")) {
            tell(panic);
        }
    }));
}

/// What redb has in the file of a store that nobody has open, and whose journal is empty, as it is once it is closed.
pub(crate) fn database(path: &Path) -> Database {
    let mut file = File::options().read(true).write(true).open(path).unwrap();
    let mut start = [0; 4096];
    file.read_exact(&mut start).unwrap();
    let head = head_bytes(&start) as u64;
    Database::builder().create_with_backend(Behind { file, head }).unwrap()
}

/// The run that a claim must have come to.
#[track_caller]
pub(crate) fn run_of(claim: Claim) -> Run {
    match claim {
        Claim::Run(run) => run,
        other => panic!("expected a run, got {other:?}"),
    }
}

/// A store at `path` of three unfinished operations, `before`, `damaged` and `after`. The second's request, in a row of
/// its own, does not match its record.
pub(crate) fn keep_one_damaged_of_three(path: &Path) {
    let store = Store::open(path).unwrap();
    for name in ["before", "damaged", "after"] {
        let request = if name == "damaged" { Request::of(vec![0; 2000]) } else { request().into() };
        drop(run_of(store.claim(&key(name), request).wait().unwrap()));
    }
    store.close().unwrap();
    damage_payloads(path);
}

/// Puts other bytes, as many, into every payload of a store that has a row of its own.
pub(crate) fn damage_payloads(path: &Path) {
    const BODIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("reentry/bodies");
    let transaction = database(path).begin_write().unwrap();
    let mut bodies = transaction.open_table(BODIES).unwrap();
    let len_of = |(number, bytes): (redb::AccessGuard<'_, u64>, redb::AccessGuard<'_, &[u8]>)| {
        (number.value(), bytes.value().len())
    };
    let rows: Vec<_> = bodies.iter().unwrap().map(|row| len_of(row.unwrap())).collect();
    for (number, len) in rows {
        bodies.insert(number, vec![1; len].as_slice()).unwrap();
    }
    drop(bodies);
    transaction.commit().unwrap();
}

/// Spoils, behind the back of whoever has the file open, the first byte of this wherever it stands, and so in every
/// page that ever held it.
pub(crate) fn damage_wherever_it_stands(path: &Path, what: &[u8]) {
    let bytes = std::fs::read(path).unwrap();
    let mut file = File::options().write(true).open(path).unwrap();
    for (at, _) in bytes.windows(what.len()).enumerate().filter(|(_, window)| *window == what) {
        file.seek(SeekFrom::Start(at as u64)).unwrap();
        file.write_all(&[!what[0]]).unwrap();
    }
}

/// How long a store is to keep outcomes, and then tombstones, that comes to a [`lull`].
pub(crate) const LULL: Duration = Duration::from_secs(3_600);

/// Leaves an outcome and a tombstone that stay: no retention wakes the writer for an hour from here on.
pub(crate) fn lull(store: &Store, clock: &ManualClock) {
    for (nth, span) in [LULL, Duration::from_secs(60), Duration::ZERO].into_iter().enumerate() {
        run(store, &key(&format!("lull {nth}"))).complete(&()).wait().unwrap();
        settle(store);
        clock.advance(span);
    }
}

/// Claims a key that must be free.
#[track_caller]
pub(crate) fn run(store: &Store, key: &Key) -> Run {
    run_of(store.claim(key, request()).wait().unwrap())
}

/// Claims a key that must be owned, and stands in line for it.
#[track_caller]
pub(crate) fn stand_in_line(store: &Store, key: &Key) -> Pending<Claim> {
    match store.claim(key, request()).wait().unwrap() {
        Claim::Wait(busy) => busy.outcome(),
        other => panic!("expected a busy operation, got {other:?}"),
    }
}

/// The kind of error that a call must have come to.
#[track_caller]
pub(crate) fn kind<T>(answer: Result<T>) -> ErrorKind {
    match answer {
        Ok(_) => panic!("expected an error"),
        Err(error) => error.kind(),
    }
}

/// The store that a power cut at this moment leaves, where every unsynced call is lost.
pub(crate) fn after_a_cut(disk: &SimulatedDisk) -> Store {
    Store::builder().open_on(&disk.cut(disk.calls(), |_| Loss::Lost)).unwrap()
}

/// From now on every call of these kinds fails.
pub(crate) fn broken(kinds: &'static [DiskCall]) -> DiskFault {
    DiskFault::kind(io::ErrorKind::Other).on(kinds).for_ever()
}

/// From now on there is no room on the disk.
pub(crate) fn full() -> DiskFault {
    DiskFault::kind(io::ErrorKind::StorageFull).on(DiskCall::GROWS).for_ever()
}

/// The step of this name as the store shows it to anybody, if it remembers one.
pub(crate) fn step_of(store: &Store, key: &Key, name: &str) -> Option<Step> {
    let progress = store.progress(key).unwrap()?;
    progress.steps().iter().find(|step| step.name() == name).cloned()
}

/// The ways to guard an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Rechecked,
    Keyed,
    AtMostOnce,
}

pub(crate) const MODES: [Mode; 3] = [Mode::Rechecked, Mode::Keyed, Mode::AtMostOnce];

/// Guards an effect by a step that must not be in doubt where it is rechecked.
pub(crate) fn guard<T: Payload>(
    run: &mut Run,
    mode: Mode,
    name: &str,
    effect: impl FnOnce(EffectId) -> Result<T, Failure>,
) -> Result<T> {
    let never = |_| -> Result<Option<T>, Failure> { panic!("step {name} is not in doubt") };
    match mode {
        Mode::Rechecked => run.step(name).recheck(never).run(effect),
        Mode::Keyed => run.step(name).run_keyed(effect),
        Mode::AtMostOnce => run.step(name).run_at_most_once(effect),
    }
}

/// Guards an effect that succeeds with this result.
#[track_caller]
pub(crate) fn does(run: &mut Run, name: &str, result: &str) {
    let given = run.step(name).run_keyed(|_| Ok::<_, Failure>(result.to_owned())).unwrap();
    assert_eq!(given, result);
}

/// Guards an effect that times out, so that nobody knows whether it happened.
#[track_caller]
pub(crate) fn times_out(run: &mut Run, name: &str) {
    let timed_out = run.step(name).run_keyed(|_| Err::<(), _>("timed out"));
    assert_eq!(kind(timed_out), ErrorKind::EffectFailed);
}

/// An effect that must not run.
pub(crate) fn never<T>(_: EffectId) -> Result<T, Failure> {
    panic!("this effect must not run")
}

/// A clock at which the store's writer can be held, so that a test decides what comes into one batch.
///
/// The writer reads the clock once a batch, after it took the queue. Held there, it lets everything that is called
/// meanwhile gather in the queue.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    pub(crate) clock: ManualClock,
    state: Arc<(Mutex<GateState>, Condvar)>,
}

#[derive(Debug, Default)]
struct GateState {
    is_shut: bool,
    is_held: bool,
    /// How often it lets the writer pass, though it is shut.
    passes: u32,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self { clock: ManualClock::at(START), state: Arc::default() }
    }

    /// Shuts the gate and returns when the writer of `store` stands in front of it. What is called from now on is one
    /// batch.
    pub(crate) fn hold(&self, store: &Store) {
        self.state.0.lock().unwrap().is_shut = true;
        // Wakes the writer and changes nothing.
        drop(store.revoke(&Key::new("gate", "gate").unwrap()));
        let held = self.state.1.wait_timeout_while(self.state.0.lock().unwrap(), PATIENCE, |state| !state.is_held);
        assert!(!held.unwrap().1.timed_out(), "the writer never read the clock");
    }

    /// Shuts the gate for when the writer comes to it behind the batch that it is at, which fails: that it did is noted
    /// with its time.
    pub(crate) fn shut_behind_a_fault(&self) {
        let mut state = self.state.0.lock().unwrap();
        (state.is_shut, state.passes) = (true, 1);
    }

    pub(crate) fn open(&self) {
        let mut state = self.state.0.lock().unwrap();
        state.is_shut = false;
        self.state.1.notify_all();
    }
}

impl Clock for Gate {
    fn wall(&self) -> Timestamp {
        self.clock.wall()
    }

    fn elapsed(&self) -> Duration {
        if thread::current().name() == Some("reentry-writer") {
            let mut state = self.state.0.lock().unwrap();
            if state.is_shut && state.passes > 0 {
                state.passes -= 1;
            } else if state.is_shut {
                state.is_held = true;
                self.state.1.notify_all();
                // A test that failed meanwhile opens it no more, and its store waits for the writer.
                let patience = PATIENCE / 2;
                state = self.state.1.wait_timeout_while(state, patience, |state| state.is_shut).unwrap().0;
            }
            state.is_held = false;
        }
        self.clock.elapsed()
    }
}

/// Waits until everything that was called before is decided and answered.
pub(crate) fn settle(store: &Store) {
    assert!(!store.revoke(&Key::new("settle", "settle").unwrap()).wait_for(PATIENCE).unwrap());
}

/// Waits until this is so; what never comes fails the test.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "it never came that {what}");
        thread::yield_now();
    }
}

/// A waker that counts how often it is woken.
#[derive(Debug, Default)]
pub(crate) struct Wakes(AtomicUsize);

impl Wakes {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Polls once with this waker.
pub(crate) fn poll<T>(pending: &mut Pending<T>, wakes: &Arc<Wakes>) -> Poll<Result<T>> {
    Pin::new(pending).poll(&mut Context::from_waker(&Waker::from(Arc::clone(wakes))))
}

/// Wakes the thread that made it, and counts.
#[derive(Debug)]
pub(crate) struct Alarm {
    thread: Thread,
    wakes: AtomicUsize,
}

impl Alarm {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { thread: thread::current(), wakes: AtomicUsize::new(0) })
    }

    /// Sleeps until it was woken more often than this.
    fn sleep(&self, seen: usize) {
        let end = Instant::now() + PATIENCE;
        while self.wakes.load(Ordering::SeqCst) <= seen {
            assert!(Instant::now() < end, "nobody woke the task");
            thread::park_timeout(PATIENCE);
        }
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wakes.fetch_add(1, Ordering::SeqCst);
        self.thread.unpark();
    }
}

/// The smallest executor: it polls only what was woken, so a wake that is lost is a test that fails.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    poll_at_most(usize::MAX, pin!(future)).expect("it is polled until it is ready")
}

/// Polls up to this often, each time after it was woken; none where it is not ready by then.
pub(crate) fn poll_at_most<T>(times: usize, mut future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    let alarm = Alarm::new();
    let waker = Waker::from(Arc::clone(&alarm));
    for nth in 0..times {
        let seen = alarm.wakes.load(Ordering::SeqCst);
        if let Poll::Ready(answer) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(answer);
        }
        if nth + 1 < times {
            alarm.sleep(seen);
        }
    }
    None
}

/// The next line of a child process that has this mark in it, behind the mark; none where it ended before.
pub(crate) fn next_told(output: &mut impl BufRead, mark: &str) -> Option<String> {
    loop {
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        if !line.ends_with('\n') {
            return None;
        }
        if let Some((_, told)) = line.trim_end().split_once(mark) {
            return Some(told.to_owned());
        }
    }
}

/// Chance that is the same in every run (splitmix64).
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    /// A number under `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.roll() % end as u64).unwrap()
    }
}
