//! How callers reach a table by hand: one call a transaction, or a hand-made group commit, the same for every store.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use futures_core::future::BoxFuture;
use tokio::sync::oneshot;

use crate::table::{Answer, Calls, Command, Reader, Table};
use crate::work::Kind;

/// Commands of one batch at most, so that nobody waits behind a batch without end.
const BATCH_MAX: usize = 16 * 1024;

/// Each call is a transaction of its own, on the caller's thread, one after the other.
pub(crate) struct OneCall<T> {
    table: Mutex<T>,
}

impl<T: Table> OneCall<T> {
    pub(crate) fn new(table: T) -> Self {
        Self { table: Mutex::new(table) }
    }
}

impl<T: Table> Calls for OneCall<T> {
    fn call(&self, command: Command, kind: Kind) -> BoxFuture<'_, Answer> {
        assert_eq!(kind, Kind::Threads, "a call that blocks is for threads");
        let answer = locked(&self.table).apply(&[command]).remove(0);
        Box::pin(std::future::ready(answer))
    }

    fn fill(&self, rows: &mut dyn Iterator<Item = Vec<Arc<[u8]>>>, payload: &Arc<[u8]>, until: u64) {
        fill(&mut *locked(&self.table), rows, payload, until);
    }

    fn reader(&self) -> Box<dyn Reader> {
        locked(&self.table).reader()
    }

    fn settings(&self) -> String {
        format!("{}; each call a transaction", locked(&self.table).settings())
    }
}

fn locked<T>(table: &Mutex<T>) -> MutexGuard<'_, T> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

fn fill(table: &mut impl Table, rows: &mut dyn Iterator<Item = Vec<Arc<[u8]>>>, payload: &Arc<[u8]>, until: u64) {
    for keys in rows {
        table.fill(&keys, payload, until);
    }
    table.settle();
}

/// One thread takes all that callers have queued, commits it in one transaction, and wakes each by its own channel.
/// While it commits the next batch gathers: no timer, no delay.
pub(crate) struct GroupCommit<T> {
    /// The committer's, but for filling and for readers.
    table: Arc<Mutex<T>>,
    asks: Option<mpsc::Sender<Ask>>,
    committer: Option<JoinHandle<()>>,
    counts: Arc<Counts>,
}

struct Ask {
    command: Command,
    answer: oneshot::Sender<Answer>,
}

#[derive(Default)]
struct Counts {
    changes: AtomicU64,
    commits: AtomicU64,
}

impl<T: Table> GroupCommit<T> {
    pub(crate) fn new(table: T) -> Self {
        let table = Arc::new(Mutex::new(table));
        let own = Arc::clone(&table);
        let (asks, queue) = mpsc::channel::<Ask>();
        let counts = Arc::new(Counts::default());
        let counted = Arc::clone(&counts);
        let committer = thread::spawn(move || {
            while let Ok(first) = queue.recv() {
                let batch = std::iter::once(first).chain(queue.try_iter()).take(BATCH_MAX);
                let (commands, callers): (Vec<_>, Vec<_>) = batch.map(|ask| (ask.command, ask.answer)).unzip();
                let answers = locked(&own).apply(&commands);
                counted.changes.fetch_add(commands.len() as u64, Ordering::Relaxed);
                counted.commits.fetch_add(1, Ordering::Relaxed);
                for (caller, answer) in callers.into_iter().zip(answers) {
                    // Nobody is left to tell where a slice of work ended.
                    let _ = caller.send(answer);
                }
            }
        });
        Self { table, asks: Some(asks), committer: Some(committer), counts }
    }
}

impl<T: Table> Calls for GroupCommit<T> {
    fn call(&self, command: Command, _: Kind) -> BoxFuture<'_, Answer> {
        let (answer, answered) = oneshot::channel();
        let asks = self.asks.as_ref().expect("it is there until it is dropped");
        asks.send(Ask { command, answer }).expect("the committer runs as long as there are callers");
        Box::pin(async { answered.await.expect("the committer answers everybody") })
    }

    fn fill(&self, rows: &mut dyn Iterator<Item = Vec<Arc<[u8]>>>, payload: &Arc<[u8]>, until: u64) {
        fill(&mut *locked(&self.table), rows, payload, until);
    }

    fn reader(&self) -> Box<dyn Reader> {
        locked(&self.table).reader()
    }

    fn settings(&self) -> String {
        format!("{}; hand-made group commit", locked(&self.table).settings())
    }

    fn counts(&self) -> Option<(u64, u64)> {
        Some((self.counts.changes.load(Ordering::Relaxed), self.counts.commits.load(Ordering::Relaxed)))
    }
}

/// The table is closed when this is gone.
impl<T> Drop for GroupCommit<T> {
    fn drop(&mut self) {
        drop(self.asks.take());
        if let Some(committer) = self.committer.take() {
            // A committer that panicked has said so, and whoever waited for it panicked too.
            let _ = committer.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;
    use crate::table::InMemory;
    use crate::work::FINGERPRINT;

    /// Holds every batch until it is let go, and tells how large the batches were.
    struct Gated {
        table: InMemory,
        gate: Arc<Barrier>,
        batches: mpsc::Sender<usize>,
    }

    impl Table for Gated {
        fn apply(&mut self, commands: &[Command]) -> Vec<Answer> {
            self.gate.wait();
            self.batches.send(commands.len()).unwrap();
            self.table.apply(commands)
        }

        fn fill(&mut self, _: &[Arc<[u8]>], _: &Arc<[u8]>, _: u64) {}

        fn reader(&self) -> Box<dyn Reader> {
            self.table.reader()
        }

        fn settings(&self) -> String {
            self.table.settings()
        }
    }

    fn claim(number: u8) -> Command {
        Command::Claim(Arc::new([number]))
    }

    #[test]
    fn what_gathers_while_one_batch_commits_is_the_next_batch_and_each_gets_its_own_answer() {
        let (gate, (sender, batches)) = (Arc::new(Barrier::new(2)), mpsc::channel());
        let group = GroupCommit::new(Gated { table: InMemory::default(), gate: Arc::clone(&gate), batches: sender });
        let first = group.call(claim(0), Kind::Threads);
        // The same key more than once in a batch: the second sees the first. No order of answers is its own reverse.
        let calls: Vec<_> = [0, 1, 1, 1].map(|number| group.call(claim(number), Kind::Tasks)).into();
        gate.wait();
        assert_eq!(pollster::block_on(first), Answer::Claimed);
        let mut sizes = vec![batches.recv().unwrap()];
        if sizes[0] == 1 {
            gate.wait();
            sizes.push(batches.recv().unwrap());
        }
        let answers: Vec<_> = calls.into_iter().map(pollster::block_on).collect();
        assert_eq!(answers, [Answer::Running, Answer::Claimed, Answer::Running, Answer::Running]);
        assert!(sizes == [1, 4] || sizes == [5], "{sizes:?}");
        assert_eq!(group.counts(), Some((5, sizes.len() as u64)));
    }

    #[test]
    fn a_call_of_its_own_is_a_transaction_of_its_own() {
        let one = OneCall::new(InMemory::default());
        assert_eq!(pollster::block_on(one.call(claim(7), Kind::Threads)), Answer::Claimed);
        let complete = Command::Complete(Arc::new([7]), Arc::new(FINGERPRINT), 9);
        assert_eq!(pollster::block_on(one.call(complete, Kind::Threads)), Answer::Done);
        assert_eq!(pollster::block_on(one.call(claim(7), Kind::Threads)), Answer::Outcome(FINGERPRINT.to_vec()));
        assert_eq!(one.table.lock().unwrap().batches, [1, 1, 1]);
    }
}
