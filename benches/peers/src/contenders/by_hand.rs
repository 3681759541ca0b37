//! A user's own operation on a table by hand: claim, checkpoints, intents and results, outcome; a copy waits for the
//! first and gets its outcome.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_core::future::BoxFuture;
use tokio::sync::watch;

use super::{Contender, Lookup, Performed};
use crate::committer::{GroupCommit, OneCall};
use crate::table::{Answer, Calls, Command, Place, Reader, Table};
use crate::work::{Kind, Load, Operation, Work};

const HOUR: Duration = Duration::from_secs(60 * 60);

/// Rows that one sweep removes at most.
const SWEEP: usize = 1000;

/// Rows that are put into a table at a time, in the order of their keys: that spares trees most of the disorder.
const FILL: u64 = 1_000_000;

/// A table by hand, and how callers reach it.
pub(crate) struct ByHand {
    calls: Box<dyn Calls>,
    load: Load,
    payload: Arc<[u8]>,
    checkpoints: Vec<Arc<[u8]>>,
    retention: Duration,
    /// How far time was moved on.
    ahead: AtomicU64,
    removed: AtomicU64,
    /// Counts outcomes, so that copies wait for one without polling: better than what most would write.
    outcomes: watch::Sender<u64>,
}

impl ByHand {
    /// Each call a transaction.
    pub(crate) fn one_call(table: impl Table, place: &Place) -> Self {
        Self::new(OneCall::new(table), place)
    }

    /// With a hand-made group commit.
    pub(crate) fn grouped(table: impl Table, place: &Place) -> Self {
        Self::new(GroupCommit::new(table), place)
    }

    pub(crate) fn new(calls: impl Calls, place: &Place) -> Self {
        Self {
            calls: Box::new(calls),
            load: place.load,
            payload: place.load.payload(),
            checkpoints: place.load.checkpoints(),
            retention: place.retention,
            ahead: AtomicU64::new(0),
            removed: AtomicU64::new(0),
            outcomes: watch::Sender::new(0),
        }
    }

    /// Milliseconds since the epoch, and what was moved on.
    fn now(&self) -> u64 {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        millis(wall) + self.ahead.load(Ordering::Relaxed)
    }

    /// Waits until the run at work has brought its outcome.
    async fn wait_for(&self, key: &Arc<[u8]>, kind: Kind) -> Vec<u8> {
        let mut outcomes = self.outcomes.subscribe();
        loop {
            if let Answer::Outcome(outcome) = self.calls.call(Command::Claim(Arc::clone(key)), kind).await {
                return outcome;
            }
            outcomes.changed().await.expect("the sender is here");
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl Contender for ByHand {
    fn settings(&self) -> String {
        self.calls.settings()
    }

    fn fill(&self, count: u64, expires_soon: bool) {
        let load = self.load;
        let mut rows = (0..count).step_by(usize::try_from(FILL).unwrap_or(usize::MAX)).map(|start| {
            let mut keys: Vec<_> = (start..count.min(start + FILL)).map(|number| load.row_key(number)).collect();
            keys.sort_unstable();
            keys
        });
        let until = self.now() + if expires_soon { millis(HOUR) } else { millis(self.retention) };
        self.calls.fill(&mut rows, &self.payload, until);
    }

    fn clear(&self) -> bool {
        self.calls.clear()
    }

    fn operation(&self, operation: Operation, kind: Kind) -> BoxFuture<'_, Performed> {
        Box::pin(async move {
            let (begun, key) = (Instant::now(), self.load.row_key(operation.number));
            match self.calls.call(Command::Claim(Arc::clone(&key)), kind).await {
                Answer::Claimed => {}
                Answer::Outcome(outcome) => return Performed::replayed(begun, outcome),
                Answer::Running => return Performed::replayed(begun, self.wait_for(&key, kind).await),
                other => panic!("a claim is answered, got {other:?}"),
            }
            let claim = begun.elapsed();
            for payload in &self.checkpoints[..operation.checkpoints] {
                self.calls.call(Command::Checkpoint(Arc::clone(&key), Arc::clone(payload)), kind).await;
            }
            for name in operation.steps {
                self.calls.call(Command::Intent(Arc::clone(&key), name), kind).await;
                self.calls.call(Command::Result(Arc::clone(&key), name, Arc::clone(&self.payload)), kind).await;
            }
            let until = self.now() + millis(self.retention);
            self.calls.call(Command::Complete(key, Arc::clone(&self.payload), until), kind).await;
            self.outcomes.send_modify(|outcomes| *outcomes += 1);
            Performed::first(claim)
        })
    }

    fn reader(&self, _: Work, numbers: &[u64]) -> Box<dyn Lookup> {
        let keys = numbers.iter().map(|number| self.load.row_key(*number)).collect();
        Box::new(Keys { keys, reader: self.calls.reader() })
    }

    fn counts(&self) -> Option<(u64, u64)> {
        self.calls.counts()
    }

    fn pass_time(&self) {
        self.ahead.fetch_add(millis(2 * HOUR), Ordering::Relaxed);
    }

    fn sweep(&self) -> Option<usize> {
        match pollster::block_on(self.calls.call(Command::Expire(self.now(), SWEEP), Kind::Threads)) {
            Answer::Removed(count) => {
                self.removed.fetch_add(count as u64, Ordering::Relaxed);
                Some(count)
            }
            other => panic!("a sweep is answered, got {other:?}"),
        }
    }

    fn removed(&self) -> u64 {
        self.removed.load(Ordering::Relaxed)
    }

    fn server(&self) -> Option<u32> {
        self.calls.server()
    }
}

/// Keys that one thread looks up.
struct Keys {
    keys: Vec<Arc<[u8]>>,
    reader: Box<dyn Reader>,
}

impl Lookup for Keys {
    fn outcome(&mut self, at: usize) -> Option<Vec<u8>> {
        self.reader.outcome(&self.keys[at])
    }
}
