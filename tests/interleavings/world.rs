//! What every scenario is made from: a store on a disk of its own, threads, and the orders they are run in.

use std::env;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use reentry::{Builder, Claim, Fingerprint, Key, OpenCheck, Pending, Run, SimulatedDisk, Store};
use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
use shuttle::{Config, Runner};

/// How many orders a scenario is run in, unless it is told.
const SCHEDULES: usize = 1_000;

/// redb goes deeper than a checker's thread does by default.
const STACK_BYTES: usize = 512 * 1024;

fn told<T: FromStr>(name: &str) -> Option<T> {
    env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value}")))
}

fn run(scheduler: impl Scheduler + 'static, scenario: impl Fn() + Send + Sync + 'static) -> usize {
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    config.silence_warnings = true;
    Runner::new(scheduler, config).run(scenario)
}

/// Runs `scenario` in many orders.
pub(crate) fn check(scenario: fn()) {
    image();
    if let Ok(schedule) = env::var("REENTRY_REPLAY") {
        run(ReplayScheduler::new_from_encoded(&schedule), scenario);
        return;
    }
    let schedules = told("REENTRY_SCHEDULES").unwrap_or(SCHEDULES);
    let seed = told("REENTRY_SCHEDULES_SEED").unwrap_or(0x5EED);
    let depth = told("REENTRY_PCT_DEPTH").unwrap_or(3);
    let began = Instant::now();
    let mut ran = run(RandomScheduler::new_from_seed(seed, schedules.div_ceil(2)), scenario);
    ran += run(PctScheduler::new_from_seed(seed, depth, schedules / 2), scenario);
    let seconds = began.elapsed().as_secs_f64();
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    eprintln!("{name}: {ran} schedules in {seconds:.1} s");
}

/// The file of an empty store, made once: initialising it takes longer than a scenario does.
fn image() -> &'static [u8] {
    static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let disk = SimulatedDisk::new();
        let made = disk.clone();
        let make = move || Store::builder().open_on(&made).unwrap().close().unwrap();
        run(RandomScheduler::new_from_seed(0, 1), make);
        disk.image()
    })
}

/// A disk that holds an empty store.
pub(crate) fn disk() -> SimulatedDisk {
    SimulatedDisk::from_image(image().to_vec())
}

/// What opens it quickly. All keys have one hash, so that every order is the same at every run.
pub(crate) fn builder() -> Builder {
    Store::builder().check(OpenCheck::Quick).cache_bytes(1024 * 1024).with_one_hash_for_all()
}

pub(crate) fn open() -> Store {
    builder().open_on(&disk()).unwrap()
}

pub(crate) fn key() -> Key {
    Key::new("orders", "1").unwrap()
}

pub(crate) fn request() -> Fingerprint {
    Fingerprint::of("two pizzas")
}

pub(crate) fn run_of(claim: Claim) -> Run {
    match claim {
        Claim::Run(run) => run,
        other => panic!("the claim came to {other:?}"),
    }
}

/// Ends a scenario: every rule holds over every record, and the store closes.
pub(crate) fn end(store: &Store) {
    store.verify().unwrap();
    store.close().unwrap();
}

/// Claims, waits for as long as other runs are at work, and gives what is not "wait".
pub(crate) fn claim_after_others(store: &Store) -> reentry::Result<Claim> {
    let mut claim = store.claim(&key(), request()).wait()?;
    while let Claim::Wait(busy) = claim {
        claim = busy.outcome().wait()?;
    }
    Ok(claim)
}

/// Polls an answer once, and lets it go where it is not there yet.
pub(crate) fn poll_once<T>(mut pending: Pending<T>) -> Option<reentry::Result<T>> {
    match Pin::new(&mut pending).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

/// Counts the runs that live: never two (P1). Nothing here is seen by the checker.
#[derive(Clone, Default)]
pub(crate) struct Living(Arc<AtomicUsize>);

impl Living {
    /// Lets a run live until it is dropped, and does `work` with it meanwhile.
    pub(crate) fn with<T>(&self, mut run: Run, work: impl FnOnce(&mut Run) -> T) -> T {
        assert_eq!(self.0.fetch_add(1, Ordering::SeqCst), 0, "two runs live");
        let done = work(&mut run);
        assert_eq!(self.0.fetch_sub(1, Ordering::SeqCst), 1);
        drop(run);
        done
    }
}
