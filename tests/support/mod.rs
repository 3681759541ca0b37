//! What several test files need: shorthands, a way to hold the store's writer still, and a waker that counts.

#![allow(dead_code, reason = "each test file takes what it needs of this")]

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use reentry::{Claim, Clock, Fingerprint, Key, ManualClock, Pending, Result, Run, Store, Timestamp};

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

/// The run that a claim must have come to.
#[track_caller]
pub(crate) fn run_of(claim: Claim) -> Run {
    match claim {
        Claim::Run(run) => run,
        other => panic!("expected a run, got {other:?}"),
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
        if std::thread::current().name() == Some("reentry-writer") {
            let mut state = self.state.0.lock().unwrap();
            while state.is_shut {
                state.is_held = true;
                self.state.1.notify_all();
                state = self.state.1.wait(state).unwrap();
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
        std::thread::yield_now();
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
