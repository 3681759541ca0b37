//! Callers that work for a while, as threads or as tasks, and how long each call took.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::runtime::Runtime;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::contenders::{Contender, Lookup, Performed};
use crate::work::{Callers, Kind, Work};

/// Latencies from a tenth of a microsecond to a minute, to a thousandth.
const NANOS_MIN: u64 = 100;
const NANOS_MAX: u64 = 60_000_000_000;

/// Reads between two looks at the clock.
const BLOCK: usize = 256;

/// What a slice of work came to.
#[derive(Debug, Clone)]
pub(crate) struct Slice {
    pub(crate) rate: f64,
    /// Whole operations, in nanoseconds.
    pub(crate) latencies: Histogram<u64>,
    /// Their claims alone.
    pub(crate) claims: Histogram<u64>,
}

/// A histogram of latencies in nanoseconds.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(NANOS_MIN, NANOS_MAX, 3).expect("the bounds are in order")
}

/// What one caller did.
#[derive(Debug, Default)]
struct Record {
    operations: Vec<Duration>,
    claims: Vec<Duration>,
    elapsed: Duration,
}

/// The tasks' runtime, as a server has it: one worker a core.
pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap())
}

/// What callers share.
struct Shift {
    contender: Arc<dyn Contender>,
    work: Work,
    kind: Kind,
    span: Duration,
    numbers: Arc<AtomicU64>,
    together: Barrier,
    is_over: AtomicBool,
}

/// Lets callers do one operation after the other, for about this long.
pub(crate) fn work(
    contender: &Arc<dyn Contender>,
    (work, callers): (Work, Callers),
    span: Duration,
    numbers: &Arc<AtomicU64>,
) -> Slice {
    let shift = Arc::new(Shift {
        contender: Arc::clone(contender),
        work,
        kind: callers.kind,
        span,
        numbers: Arc::clone(numbers),
        together: Barrier::new(callers.count),
        is_over: AtomicBool::new(false),
    });
    match callers.kind {
        Kind::Threads => std::thread::scope(|scope| {
            let shift = &shift;
            let thread = || scope.spawn(|| pollster::block_on(shift.caller()));
            let threads: Vec<_> = (0..callers.count).map(|_| thread()).collect();
            sum(threads.into_iter().map(|thread| thread.join().expect("no caller fails")))
        }),
        Kind::Tasks => runtime().block_on(async {
            let mut tasks = JoinSet::new();
            for _ in 0..callers.count {
                let shift = Arc::clone(&shift);
                tasks.spawn(async move { shift.caller().await });
            }
            sum(tasks.join_all().await)
        }),
    }
}

impl Shift {
    async fn caller(&self) -> Record {
        let is_leader = self.together.wait().await.is_leader();
        if self.work == Work::Contention { self.contend(is_leader).await } else { self.work_alone().await }
    }

    /// One new key after the other.
    async fn work_alone(&self) -> Record {
        let (start, mut record) = (Instant::now(), Record::default());
        while start.elapsed() < self.span {
            let number = self.numbers.fetch_add(1, Ordering::Relaxed);
            self.once(number, &mut record).await;
        }
        record.elapsed = start.elapsed();
        record
    }

    /// The same new key for all, then the next.
    async fn contend(&self, is_leader: bool) -> Record {
        let (start, mut record) = (Instant::now(), Record::default());
        loop {
            let number = self.numbers.load(Ordering::Relaxed);
            let performed = self.once(number, &mut record).await;
            assert!(performed.replayed.is_none_or(|outcome| !outcome.is_empty()), "a copy gets the outcome");
            if is_leader && start.elapsed() >= self.span {
                self.is_over.store(true, Ordering::Relaxed);
            }
            // All have their answer, then all have the next number.
            self.together.wait().await;
            if is_leader {
                self.numbers.fetch_add(1, Ordering::Relaxed);
            }
            let is_over = self.is_over.load(Ordering::Relaxed);
            self.together.wait().await;
            if is_over {
                record.elapsed = start.elapsed();
                return record;
            }
        }
    }

    async fn once(&self, number: u64, record: &mut Record) -> Performed {
        let begin = Instant::now();
        let performed = self.contender.operation(self.work.operation(number), self.kind).await;
        record.operations.push(begin.elapsed());
        record.claims.push(performed.claim);
        performed
    }
}

/// Each caller's own rate, added up: so neither the first to begin nor the last to end distorts it.
fn sum(records: impl IntoIterator<Item = Record>) -> Slice {
    let mut slice = Slice { rate: 0.0, latencies: histogram(), claims: histogram() };
    for record in records {
        slice.rate += record.operations.len() as f64 / record.elapsed.as_secs_f64();
        record.operations.into_iter().for_each(|latency| put(&mut slice.latencies, latency));
        record.claims.into_iter().for_each(|latency| put(&mut slice.claims, latency));
    }
    slice
}

fn put(histogram: &mut Histogram<u64>, latency: Duration) {
    histogram.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
}

/// Lets threads look keys up, each with a reader of its own that knows so many.
pub(crate) fn read(readers: Vec<Box<dyn Lookup>>, keys: usize, is_there: bool, span: Duration) -> Slice {
    let reader = |mut reader: Box<dyn Lookup>| {
        let (start, mut reads, mut latencies) = (Instant::now(), 0, histogram());
        while start.elapsed() < span {
            let begin = Instant::now();
            for at in (reads..reads + BLOCK).map(|at| at % keys) {
                assert_eq!(reader.outcome(at).is_some(), is_there, "key {at}");
            }
            // A look at the clock would take as long as the fastest reads: one for each block, then, and its average.
            put(&mut latencies, begin.elapsed() / u32::try_from(BLOCK).unwrap_or(1));
            reads += BLOCK;
        }
        (reads as f64 / start.elapsed().as_secs_f64(), latencies)
    };
    let reader = &reader;
    let read: Vec<_> = std::thread::scope(|scope| {
        let start = |lookup| scope.spawn(move || reader(lookup));
        let threads: Vec<_> = readers.into_iter().map(start).collect();
        threads.into_iter().map(|thread| thread.join().expect("no reader fails")).collect()
    });
    let mut slice = Slice { rate: 0.0, latencies: histogram(), claims: histogram() };
    for (rate, latencies) in read {
        slice.rate += rate;
        slice.latencies.add(latencies).expect("the bounds are the same");
    }
    slice
}
