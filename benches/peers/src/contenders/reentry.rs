//! This crate.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_core::future::BoxFuture;
use reentry::{Claim, Clock, Error, Fingerprint, Key, Outcome, Request, Run, Store, SystemClock, Timestamp};
use tokio::task::JoinSet;

use super::{Contender, Lookup, Performed};
use crate::callers;
use crate::table::{CACHE_BYTES, Place};
use crate::work::{FINGERPRINT, Kind, Load, Operation, Work, scope};

/// Tasks that fill a store, through its own calls.
const FILLERS: u64 = 4096;

const REQUEST: Fingerprint = Fingerprint::from_digest(FINGERPRINT);

/// Closed when this is dropped.
pub(crate) struct Reentry(Arc<Server>);

/// What a server that uses it has.
struct Server {
    store: Store,
    /// Whether a claim waits for no disk: it is durable with what comes next.
    is_deferred: bool,
    load: Load,
    payload: Vec<u8>,
    checkpoints: Vec<Vec<u8>>,
    retention: Duration,
    ahead: Arc<AtomicU64>,
}

impl Reentry {
    pub(crate) fn open(place: &Place, is_deferred: bool) -> Self {
        let ahead = Arc::new(AtomicU64::new(0));
        let clock = MovedClock { machine: SystemClock::default(), ahead: Arc::clone(&ahead) };
        let store = Store::builder()
            .cache_bytes(CACHE_BYTES)
            .retention(place.retention)
            .clock(clock)
            .open(place.folder.join("operations.reentry"))
            .unwrap();
        let (load, retention) = (place.load, place.retention);
        let checkpoints = load.checkpoints().iter().map(|payload| payload.to_vec()).collect();
        let payload = load.payload().to_vec();
        Self(Arc::new(Server { store, is_deferred, load, payload, checkpoints, retention, ahead }))
    }
}

impl Drop for Reentry {
    fn drop(&mut self) {
        self.0.store.close().unwrap();
    }
}

impl Server {
    fn key(&self, number: u64) -> Key {
        Key::new(scope(number), self.load.client_key(number)).unwrap()
    }

    fn request(&self) -> Request {
        let request = Request::from(REQUEST);
        if self.is_deferred { request.deferred() } else { request }
    }

    /// As a thread does it.
    fn block(&self, operation: Operation) -> Performed {
        let (begun, key) = (Instant::now(), self.key(operation.number));
        let mut claim = self.store.claim(&key, self.request()).wait().unwrap();
        if let Claim::Wait(busy) = claim {
            claim = busy.outcome().wait().unwrap();
        }
        let mut run = match entered(claim) {
            Ok(run) => run,
            Err(outcome) => return Performed::replayed(begun, outcome.bytes().to_vec()),
        };
        let claim = begun.elapsed();
        for payload in &self.checkpoints[..operation.checkpoints] {
            run.advance("paid", payload).wait().unwrap();
        }
        for name in operation.steps {
            run.step(name).run_keyed(|_| Ok::<_, Error>(self.payload.clone())).unwrap();
        }
        run.complete(&self.payload).wait().unwrap();
        Performed::first(claim)
    }

    /// As a task does it.
    async fn poll(&self, operation: Operation) -> Performed {
        let (begun, key) = (Instant::now(), self.key(operation.number));
        let mut claim = self.store.claim(&key, self.request()).await.unwrap();
        if let Claim::Wait(busy) = claim {
            claim = busy.outcome().await.unwrap();
        }
        let mut run = match entered(claim) {
            Ok(run) => run,
            Err(outcome) => return Performed::replayed(begun, outcome.bytes().to_vec()),
        };
        let claim = begun.elapsed();
        for payload in &self.checkpoints[..operation.checkpoints] {
            run.advance("paid", payload).await.unwrap();
        }
        for name in operation.steps {
            let payload = self.payload.clone();
            run.step(name).run_keyed_async(|_| async { Ok::<_, Error>(payload) }).await.unwrap();
        }
        run.complete(&self.payload).await.unwrap();
        Performed::first(claim)
    }
}

/// The run, or the outcome that another one brought.
fn entered(claim: Claim) -> Result<Run, Outcome> {
    match claim {
        Claim::Run(run) => Ok(run),
        Claim::Replay(outcome) => Err(outcome),
        other => panic!("a key of one request is run or replayed, got {other:?}"),
    }
}

impl Contender for Reentry {
    fn settings(&self) -> String {
        let claim = if self.0.is_deferred {
            "a claim is durable with what comes next (`Request::deferred`), each other call when it answers"
        } else {
            "each call durable when it answers (the default)"
        };
        format!("{claim}; 64 MiB of page cache")
    }

    fn fill(&self, count: u64, _: bool) {
        let next = Arc::new(AtomicU64::new(0));
        callers::runtime().block_on(async {
            let mut fillers = JoinSet::new();
            for _ in 0..FILLERS.min(count) {
                let (server, next) = (Arc::clone(&self.0), Arc::clone(&next));
                fillers.spawn(async move {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= count {
                            return;
                        }
                        server.poll(Work::ClaimComplete.operation(number)).await;
                    }
                });
            }
            fillers.join_all().await;
        });
    }

    fn operation(&self, operation: Operation, kind: Kind) -> BoxFuture<'_, Performed> {
        match kind {
            Kind::Threads => Box::pin(async move { self.0.block(operation) }),
            Kind::Tasks => Box::pin(self.0.poll(operation)),
        }
    }

    fn reader(&self, work: Work, numbers: &[u64]) -> Box<dyn Lookup> {
        let asked = numbers.iter().map(|number| self.0.key(*number)).collect();
        Box::new(Keys { store: self.0.store.clone(), asked, is_absent: work == Work::Absent })
    }

    fn counts(&self) -> Option<(u64, u64)> {
        let stats = self.0.store.stats().unwrap();
        Some((stats.changes, stats.commits))
    }

    fn pass_time(&self) {
        let span = self.0.retention + Duration::from_secs(1);
        self.0.ahead.fetch_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn removed(&self) -> u64 {
        self.0.store.stats().unwrap().removed
    }
}

/// Keys that one thread asks for: with a claim, as a retry does; or without one, where a claim would begin it.
struct Keys {
    store: Store,
    asked: Vec<Key>,
    is_absent: bool,
}

impl Lookup for Keys {
    fn outcome(&mut self, at: usize) -> Option<Vec<u8>> {
        let key = &self.asked[at];
        if self.is_absent {
            let progress = self.store.progress(key).unwrap();
            assert!(progress.is_none(), "{progress:?}");
            return None;
        }
        let claim = self.store.claim(key, REQUEST).wait().unwrap();
        entered(claim).err().map(|outcome| outcome.bytes().to_vec())
    }
}

/// The machine's clocks, moved on by hand, so that what is kept for a day is over at once.
#[derive(Debug)]
struct MovedClock {
    machine: SystemClock,
    ahead: Arc<AtomicU64>,
}

impl MovedClock {
    fn ahead(&self) -> Duration {
        Duration::from_millis(self.ahead.load(Ordering::Relaxed))
    }
}

impl Clock for MovedClock {
    fn wall(&self) -> Timestamp {
        self.machine.wall() + self.ahead()
    }

    fn elapsed(&self) -> Duration {
        self.machine.elapsed() + self.ahead()
    }
}
