//! What is counted. Each work makes its store, and then does its operations.

use std::convert::Infallible;
use std::future::ready;
use std::task::{Context, Waker};
use std::time::Duration;

use reentry::{Builder, Claim, Fingerprint, Key, ManualClock, Outcome, Pending, Run, SimulatedDisk, Store, Timestamp};

/// How many calls share a commit.
const BATCH: u64 = 256;

/// What a request asks for, and what its answer holds.
const REQUEST: &str = "two pizzas";
const PAYLOAD: [u8; 100] = [7; 100];

pub(crate) struct Work {
    pub(crate) name: &'static str,
    /// How many are counted, and three times as many.
    pub(crate) operations: u64,
    pub(crate) run: fn(u64),
}

/// Names are those of `figures.txt`.
pub(crate) const WORKS: [Work; 10] = [
    Work { name: "claim, 256 a commit", operations: 10 * BATCH, run: claims },
    Work { name: "advance, 256 a commit", operations: 10 * BATCH, run: advances },
    Work { name: "claim, step and complete, 256 a commit", operations: 10 * BATCH, run: steps },
    Work { name: "claim and complete, 256 a commit", operations: 10 * BATCH, run: completions },
    Work { name: "claim and complete, a commit each", operations: 500, run: alone },
    Work { name: "the same, while one ends for each", operations: 500, run: steady },
    Work { name: "replay", operations: 4_000, run: replays },
    Work { name: "look at one operation: read and decode", operations: 4_000, run: looks },
    Work { name: "look at a key that is not there", operations: 20_000, run: absent },
    Work { name: "open a store that keeps 1,024", operations: 16, run: openings },
];

struct Shop {
    disk: SimulatedDisk,
    store: Store,
}

impl Shop {
    fn new() -> Self {
        Self::with(Store::builder(), SimulatedDisk::new())
    }

    fn with(builder: Builder, disk: SimulatedDisk) -> Self {
        let store = builder.open_by_hand(&disk).unwrap();
        Self { disk, store }
    }

    /// Makes calls, lets the writer do them in one commit, and takes their answers.
    fn together<T>(&self, calls: impl IntoIterator<Item = Pending<T>>) -> Vec<T> {
        let calls: Vec<_> = calls.into_iter().collect();
        self.store.work_by_hand();
        calls.into_iter().map(|call| call.wait().unwrap()).collect()
    }

    fn claim(&self, order: u64) -> Pending<Claim> {
        self.store.claim(&key(order), Fingerprint::of(REQUEST))
    }

    fn runs(&self, orders: std::ops::Range<u64>) -> Vec<Run> {
        self.together(orders.map(|order| self.claim(order))).into_iter().map(run).collect()
    }

    fn complete(&self, runs: Vec<Run>) -> Vec<Outcome> {
        self.together(runs.into_iter().map(|run| run.complete(&PAYLOAD.to_vec())))
    }

    /// A shop that keeps so many finished orders.
    fn keeping(orders: u64) -> Self {
        let shop = Self::new();
        for batch in batches(orders) {
            shop.complete(shop.runs(batch));
        }
        shop
    }
}

fn key(order: u64) -> Key {
    Key::new("shop/customer-42", format!("order-{order:026}")).unwrap()
}

fn run(claim: Claim) -> Run {
    let Claim::Run(run) = claim else { panic!("{claim:?}") };
    run
}

fn batches(orders: u64) -> impl Iterator<Item = std::ops::Range<u64>> {
    (0..orders).step_by(256).map(move |from| from..orders.min(from + BATCH))
}

fn claims(orders: u64) {
    let shop = Shop::new();
    let runs: Vec<_> = batches(orders).flat_map(|batch| shop.runs(batch)).collect();
    // What is not counted of giving them free again.
    std::mem::forget(runs);
}

fn advances(moves: u64) {
    let shop = Shop::new();
    let mut runs = shop.runs(0..BATCH);
    for _ in batches(moves) {
        let revisions = shop.together(runs.iter_mut().map(|run| run.advance("paid", &PAYLOAD.to_vec())));
        assert_eq!(revisions.len() as u64, BATCH);
    }
}

fn steps(steps: u64) {
    let shop = Shop::new();
    for batch in batches(steps) {
        let mut runs = shop.runs(batch);
        let mut context = Context::from_waker(Waker::noop());
        let charge = |run| {
            let charged = Run::step(run, "charge").run_keyed_async(|_| ready(Ok::<_, Infallible>(PAYLOAD.to_vec())));
            Box::pin(charged)
        };
        let mut steps: Vec<_> = runs.iter_mut().map(charge).collect();
        assert!(
            steps.iter_mut().all(|step| step.as_mut().poll(&mut context).is_pending()),
            "its intent is durable first"
        );
        shop.store.work_by_hand();
        assert!(steps.iter_mut().all(|step| step.as_mut().poll(&mut context).is_ready()));
        drop(steps);
        shop.complete(runs);
    }
}

fn completions(orders: u64) {
    let shop = Shop::new();
    for batch in batches(orders) {
        shop.complete(shop.runs(batch));
    }
}

fn alone(orders: u64) {
    let shop = Shop::new();
    for order in 0..orders {
        let runs = shop.runs(order..order + 1);
        shop.complete(runs);
    }
}

/// What has ended leaves with each commit; the journal is as long as in a file.
fn steady(orders: u64) {
    let clock = ManualClock::at(Timestamp::from_millis(1_700_000_000_000));
    let builder = Store::builder().clock(clock.clone()).retention(Duration::from_secs(1));
    let shop = Shop::with(builder, SimulatedDisk::new().with_journal(256));
    for order in 0..orders {
        let runs = shop.runs(order..order + 1);
        shop.complete(runs);
        clock.advance(Duration::from_millis(4));
    }
}

fn replays(calls: u64) {
    let shop = Shop::keeping(1_024);
    for call in 0..calls {
        assert!(matches!(shop.claim(call % 1_024).wait().unwrap(), Claim::Replay(_)));
    }
}

fn looks(calls: u64) {
    let shop = Shop::keeping(1_024);
    for call in 0..calls {
        assert!(shop.store.progress(&key(call % 1_024)).unwrap().is_some());
    }
}

fn absent(calls: u64) {
    let shop = Shop::keeping(1_024);
    for call in 0..calls {
        assert!(shop.store.progress(&key(1_024 + call)).unwrap().is_none());
    }
}

fn openings(times: u64) {
    let Shop { disk, store } = Shop::keeping(1_024);
    drop(store);
    for _ in 0..times {
        let opened = Store::builder().open_on(&disk.killed(disk.calls())).unwrap();
        assert_eq!(opened.stats().unwrap().operations, 1_024);
    }
}
