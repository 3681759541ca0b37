//! Callers that do one operation after the other for a while, as threads or as tasks.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::comparison::Slice;

/// What one caller did.
struct Record {
    latencies: Vec<Duration>,
    elapsed: Duration,
}

/// Lets `count` threads do `operation` over and over.
pub(crate) fn threads(count: usize, span: Duration, operation: impl Fn() + Sync) -> Slice {
    let together = Barrier::new(count);
    let caller = || {
        together.wait();
        let (start, mut latencies) = (Instant::now(), Vec::new());
        while start.elapsed() < span {
            let begin = Instant::now();
            operation();
            latencies.push(begin.elapsed());
        }
        Record { latencies, elapsed: start.elapsed() }
    };
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..count).map(|_| scope.spawn(caller)).collect();
        sum(callers.into_iter().map(|caller| caller.join().unwrap()))
    })
}

/// Lets `count` tasks, each made by `task`, do their one thing over and over.
pub(crate) fn tasks<F>(runtime: &Runtime, count: usize, span: Duration, mut task: impl FnMut() -> F) -> Slice
where
    F: AsyncTask,
{
    runtime.block_on(async {
        let mut callers = JoinSet::new();
        for _ in 0..count {
            let mut task = task();
            callers.spawn(async move {
                let (start, mut latencies) = (Instant::now(), Vec::new());
                while start.elapsed() < span {
                    let begin = Instant::now();
                    task.once().await;
                    latencies.push(begin.elapsed());
                }
                Record { latencies, elapsed: start.elapsed() }
            });
        }
        sum(callers.join_all().await)
    })
}

/// What a task does over and over.
pub(crate) trait AsyncTask: Send + 'static {
    fn once(&mut self) -> impl Future<Output = ()> + Send;
}

/// Each caller's own rate, added up: so neither the first to begin nor the last to end distorts it.
fn sum(records: impl IntoIterator<Item = Record>) -> Slice {
    let mut slice = Slice::default();
    for Record { latencies, elapsed } in records {
        slice.per_second += latencies.len() as f64 / elapsed.as_secs_f64();
        slice.latencies.extend(latencies);
    }
    slice
}

/// A runtime as a server has it: one worker a core.
pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().build().unwrap()
}
