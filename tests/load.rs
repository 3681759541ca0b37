//! Load: many operations kept, many in flight, a scope that floods; and what each takes of memory, measured in a
//! process of its own (`VmHWM`, Linux).
//!
//! In a plain run the numbers are small. `REENTRY_LOAD_FULL=1 cargo test --release --all-features --test load --
//! --nocapture --test-threads=1` keeps 10,000,000 operations (about 4 GB of disk) and has 1,000,000 in flight.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests panic")]
#![allow(clippy::print_stdout, reason = "the figures are what a long run is for")]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::path::Path;
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::Full;
use reentry::http::{IdempotencyLayer, PassedBody};
use reentry::{
    Builder, Claim, DiskCall, DiskFault, ErrorKind, Fingerprint, Key, ManualClock, Outcome, Pending, Run,
    SimulatedDisk, StepState, Store,
};
use tower::{Layer, ServiceExt};

mod support;
use support::{START, kind, run_of, times_out};

/// Tells the child process which part it plays, and where.
const PART: &str = "REENTRY_LOAD_PART";
const FOLDER: &str = "REENTRY_LOAD_FOLDER";

/// What the stores under load are given.
const CACHE_BYTES: usize = 32 * 1024 * 1024;
const QUEUE_BYTES: usize = 16 * 1024 * 1024;

/// What a process takes beside cache, queue and index: code, stacks, a batch under way, redb's own lists of pages.
const BESIDE_BYTES: u64 = 256 * 1024 * 1024;

/// What a run in flight takes beside its slot in the index: its guard, its seat with the key, its place in the list of
/// the unfinished, and what its answer is waited for with.
const IN_FLIGHT_BYTES: u64 = 2048;

/// What one that stands in line takes: what was asked, and what its answer is waited for with.
const WAITING_BYTES: u64 = 1024;

/// How many answers are waited for at once.
const PIPELINE: usize = 4096;

fn is_full() -> bool {
    env::var_os("REENTRY_LOAD_FULL").is_some()
}

fn builder() -> Builder {
    Store::builder().cache_bytes(CACHE_BYTES).queue_bytes_max(QUEUE_BYTES)
}

fn key(scope: &str, nth: usize) -> Key {
    Key::new(scope, format!("8e03978e-40d5-43dd-bc93-{nth:012}")).unwrap()
}

fn claim(store: &Store, key: &Key) -> Pending<Claim> {
    store.claim(key, Fingerprint::of("two pizzas"))
}

/// The most memory that this process ever had; none where the system does not tell.
fn peak_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// Runs the test of this name in a process of its own, which then plays its part; true in that process.
fn is_child(test: &str) -> bool {
    if env::var_os(PART).is_some() {
        return true;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(env::current_exe().unwrap());
    child.args([test, "--exact", "--nocapture"]).env(PART, test).env(FOLDER, folder.path());
    let output = child.output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    for line in told.lines().filter(|line| line.starts_with("load: ")) {
        println!("{line}");
    }
    assert!(output.status.success(), "{told}");
    assert!(told.contains("load: "), "it played its part: {told}");
    false
}

fn folder() -> String {
    env::var(FOLDER).unwrap()
}

/// Claims and completes so many keys, many at once.
fn keep(store: &Store, from: usize, to: usize) {
    let mut ended: VecDeque<Pending<Outcome>> = VecDeque::new();
    for start in (from..to).step_by(PIPELINE) {
        let claims: Vec<_> = (start..to.min(start + PIPELINE)).map(|nth| claim(store, &key("load", nth))).collect();
        ended.drain(..).for_each(|answer| drop(answer.wait().unwrap()));
        ended.extend(claims.into_iter().map(|claim| run_of(claim.wait().unwrap()).complete(&"done".to_owned())));
    }
    for answer in ended {
        drop(answer.wait().unwrap());
    }
}

/// Claims so many keys, many at once.
fn begin(store: &Store, scope: &str, count: usize) -> Vec<Run> {
    let mut runs = Vec::with_capacity(count);
    for start in (0..count).step_by(PIPELINE) {
        let claims: Vec<_> = (start..count.min(start + PIPELINE)).map(|nth| claim(store, &key(scope, nth))).collect();
        runs.extend(claims.into_iter().map(|claim| run_of(claim.wait().unwrap())));
    }
    runs
}

/// How long half of some claims, each waited for, took at most.
fn median(store: &Store, scope: &str) -> Duration {
    let mut spans: Vec<_> = (0..300)
        .map(|nth| {
            let began = Instant::now();
            drop(run_of(claim(store, &key(scope, nth)).wait().unwrap()));
            began.elapsed()
        })
        .collect();
    spans.sort_unstable();
    spans[spans.len() / 2]
}

#[test]
fn what_is_kept_takes_its_stated_memory_and_no_more() {
    if !is_child("what_is_kept_takes_its_stated_memory_and_no_more") {
        return;
    }
    let (few, many) = if is_full() { (10_000, 10_000_000) } else { (1_000, 10_000) };
    let folder = folder();
    let path = Path::new(&folder).join("load.reentry");
    let store = builder().open(&path).unwrap();
    let began = Instant::now();
    keep(&store, 0, few);
    let of_few = median(&store, "few");
    keep(&store, few, many);
    let (filled_in, of_many) = (began.elapsed(), median(&store, "many"));
    let stats = store.stats().unwrap();
    let operations = stats.operations;
    assert_eq!(operations, many as u64 + 600);
    // Each part of the index keeps room for some, however few there are.
    assert!(stats.index_bytes <= 32 * operations + 256 * 32 * 1024, "{stats:?}");
    if is_full() {
        assert!(stats.index_bytes <= 32 * operations, "{stats:?}");
    }
    store.close().unwrap();
    let began = Instant::now();
    let again = builder().open(&path).unwrap();
    let opened_in = began.elapsed();
    assert_eq!(again.stats().unwrap().operations, operations);
    assert!(matches!(claim(&again, &key("load", many - 1)).wait().unwrap(), Claim::Replay(_)));
    let budget = CACHE_BYTES as u64 + QUEUE_BYTES as u64 + 32 * operations + BESIDE_BYTES;
    let peak = peak_bytes();
    println!(
        "load: {operations} kept in {filled_in:.1?}; index {} MiB, peak {:?} MiB of {} MiB, file {} MiB, rows {} MiB; \
         opened in {opened_in:.1?}; claim p50 {of_few:.0?} at {few}, {of_many:.0?} at {many}",
        stats.index_bytes >> 20,
        peak.map(|bytes| bytes >> 20),
        budget >> 20,
        stats.disk_bytes >> 20,
        stats.bytes >> 20,
    );
    assert!(peak.is_none_or(|peak| peak <= budget), "{peak:?} of {budget}");
    if !is_full() {
        again.verify().unwrap();
    }
}

#[test]
fn p1_so_many_runs_are_in_flight_at_once_within_their_memory() {
    if !is_child("p1_so_many_runs_are_in_flight_at_once_within_their_memory") {
        return;
    }
    let count = if is_full() { 1_000_000 } else { 10_000 };
    let store = builder().open(Path::new(&folder()).join("load.reentry")).unwrap();
    let runs = begin(&store, "load", count);
    let stats = store.stats().unwrap();
    assert_eq!((stats.owned, stats.unfinished), (count as u64, count as u64));
    for nth in (0..count).step_by(count / 100) {
        assert!(matches!(claim(&store, &key("load", nth)).wait().unwrap(), Claim::Wait(_)));
    }
    let (peak, budget) =
        (peak_bytes(), (CACHE_BYTES + QUEUE_BYTES) as u64 + (32 + IN_FLIGHT_BYTES) * count as u64 + BESIDE_BYTES);
    println!("load: {count} in flight; peak {:?} MiB of {} MiB", peak.map(|bytes| bytes >> 20), budget >> 20);
    assert!(peak.is_none_or(|peak| peak <= budget), "{peak:?} of {budget}");
    drop(runs);
    assert_eq!(store.stats().unwrap().owned, 0);
    if !is_full() {
        store.verify().unwrap();
    }
}

/// A client claims and hangs, again and again. Others are served meanwhile; once the lease is over each of its claims
/// can be taken over, with what is in doubt, and nothing that whoever hung then says counts.
#[test]
fn p4_p7_claims_that_nobody_completes_hold_up_nobody_and_end_with_their_lease() {
    let count = if is_full() { 100_000 } else { 2_000 };
    let (lease, clock) = (Duration::from_secs(60), ManualClock::at(START));
    let store = builder().lease(lease).clock(clock.clone()).in_memory().unwrap();
    let mut hung = begin(&store, "hung", count);
    hung.iter_mut().step_by(100).for_each(|run| times_out(run, "charge"));
    keep(&store, 0, 1_000);
    for nth in (0..count).step_by(97) {
        assert!(matches!(claim(&store, &key("hung", nth)).wait().unwrap(), Claim::Wait(_)));
    }
    clock.advance(lease);
    let next = begin(&store, "hung", count);
    for (nth, run) in next.iter().enumerate() {
        let in_doubt = run.steps().iter().filter(|step| step.state() == StepState::InDoubt).count();
        assert_eq!((run.attempt(), in_doubt), (2, usize::from(nth.is_multiple_of(100))), "{nth}");
    }
    let late: Vec<_> = hung.into_iter().map(|run| run.complete(&"late".to_owned())).collect();
    for answer in late {
        assert_eq!(kind(answer.wait()), ErrorKind::Fenced);
    }
    let stats = store.stats().unwrap();
    assert_eq!((stats.owned, stats.in_doubt), (count as u64, count.div_ceil(100) as u64));
    drop(next);
    assert_eq!(store.stats().unwrap().owned, 0);
    if !is_full() {
        store.verify().unwrap();
    }
}

/// A body that goes on for long after it is over the limit, and before that waits for all the others.
struct TooLarge {
    sent: usize,
    near_the_limit: Arc<AtomicUsize>,
}

impl TooLarge {
    const CHUNK: usize = 16 * 1024;
    const LIMIT: usize = 4 * Self::CHUNK;
    const BYTES: usize = 64 * Self::LIMIT;
    const BODIES: usize = 1_000;
}

impl Body for TooLarge {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.sent == Self::LIMIT {
            // Counted once, and held until all are here.
            self.near_the_limit.fetch_add(1, Ordering::SeqCst);
            self.sent += 1;
        }
        if self.sent == Self::LIMIT + 1 && self.near_the_limit.load(Ordering::SeqCst) < Self::BODIES {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.sent += Self::CHUNK;
        let is_over = self.sent > Self::BYTES;
        Poll::Ready((!is_over).then(|| Ok(Frame::data(Bytes::from(vec![b'x'; Self::CHUNK])))))
    }
}

/// A thousand bodies, each up to the limit first and then over it: none takes more than it may, or is an operation.
#[test]
fn so_many_bodies_over_the_limit_at_once_take_no_more_memory_than_the_limit_gives_each() {
    if !is_child("so_many_bodies_over_the_limit_at_once_take_no_more_memory_than_the_limit_gives_each") {
        return;
    }
    let store = builder().in_memory().unwrap();
    let runs = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&runs);
    let handler = tower::service_fn(move |_: http::Request<PassedBody<TooLarge>>| {
        counted.fetch_add(1, Ordering::SeqCst);
        std::future::ready(Ok::<_, Infallible>(http::Response::new(Full::<Bytes>::default())))
    });
    let service = IdempotencyLayer::new(&store).single_tenant().request_bytes_max(TooLarge::LIMIT).layer(handler);
    let near_the_limit = Arc::new(AtomicUsize::new(0));
    let before = peak_bytes();
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let ask = |nth: usize| {
            let body = TooLarge { sent: 0, near_the_limit: Arc::clone(&near_the_limit) };
            let request = http::Request::post("/orders").header("idempotency-key", nth.to_string());
            tokio::spawn(service.clone().oneshot(request.body(body).unwrap()))
        };
        for answer in (0..TooLarge::BODIES).map(ask).collect::<Vec<_>>() {
            assert_eq!(answer.await.unwrap().unwrap().status(), http::StatusCode::PAYLOAD_TOO_LARGE);
        }
    });
    assert_eq!((near_the_limit.load(Ordering::SeqCst), runs.load(Ordering::SeqCst)), (TooLarge::BODIES, 0));
    assert_eq!(store.stats().unwrap().operations, 0);
    let budget = before.map(|before| before + (TooLarge::BODIES * 2 * TooLarge::LIMIT) as u64);
    let peak = peak_bytes();
    println!("load: {} bodies; peak {:?} of {:?} bytes", TooLarge::BODIES, peak, budget);
    assert!(peak <= budget, "{peak:?} of {budget:?}");
}

/// A hundred thousand stand in line for one key. Whoever leaves the line is in nobody's way, an owner that gives up
/// makes one of them the next, and the outcome reaches all the others.
#[test]
fn p5_p7_so_many_wait_for_one_key_and_each_gets_its_outcome() {
    if !is_child("p5_p7_so_many_wait_for_one_key_and_each_gets_its_outcome") {
        return;
    }
    let count = 100_000;
    let store = builder().open(Path::new(&folder()).join("load.reentry")).unwrap();
    let popular = key("load", 0);
    let owner = run_of(claim(&store, &popular).wait().unwrap());
    let mut line: VecDeque<Pending<Claim>> = VecDeque::new();
    for _ in (0..count).step_by(PIPELINE) {
        let claims: Vec<_> = (0..PIPELINE).map(|_| claim(&store, &popular)).collect();
        line.extend(claims.into_iter().map(|claim| match claim.wait().unwrap() {
            Claim::Wait(busy) => busy.outcome(),
            other => panic!("somebody else is at work, but there is {other:?}"),
        }));
    }
    line.truncate(count);
    // To stand in line is a request of its own, and what comes behind them shows that they were taken in.
    assert!(!store.revoke(&key("load", 1)).wait().unwrap());
    assert_eq!(store.stats().unwrap().waiting, count as u64);
    let peak = peak_bytes();
    let budget = (CACHE_BYTES + QUEUE_BYTES) as u64 + WAITING_BYTES * count as u64 + BESIDE_BYTES;
    println!("load: {count} in one line; peak {:?} MiB of {} MiB", peak.map(|bytes| bytes >> 20), budget >> 20);
    assert!(peak.is_none_or(|peak| peak <= budget), "{peak:?} of {budget}");
    // Every second one gives up, the very first too.
    let mut stays = true;
    line.retain(|_| {
        stays = !stays;
        stays
    });
    drop(owner);
    let next = run_of(line.pop_front().unwrap().wait().unwrap());
    assert_eq!(next.attempt(), 2);
    next.complete(&"done".to_owned()).wait().unwrap();
    for answer in line {
        match answer.wait().unwrap() {
            Claim::Replay(outcome) => assert_eq!(outcome.bytes(), b"done"),
            other => panic!("it was completed, but there is {other:?}"),
        }
    }
    assert_eq!(store.stats().unwrap().waiting, 0);
}

/// The store stops under a line of thousands. Each of them is told, and not by calls within calls: those end a process.
#[test]
fn p10_a_failed_sync_under_a_long_line_is_told_to_everybody_in_it() {
    if !is_child("p10_a_failed_sync_under_a_long_line_is_told_to_everybody_in_it") {
        return;
    }
    let (count, disk) = (20_000, SimulatedDisk::new());
    let store = builder().open_on(&disk).unwrap();
    let popular = key("load", 0);
    let owner = run_of(claim(&store, &popular).wait().unwrap());
    let line: Vec<_> = (0..count)
        .map(|_| match claim(&store, &popular).wait().unwrap() {
            Claim::Wait(busy) => busy.outcome(),
            other => panic!("somebody else is at work, but there is {other:?}"),
        })
        .collect();
    assert!(!store.revoke(&key("load", 1)).wait().unwrap());
    disk.fail([DiskFault::os(5).on(&[DiskCall::Sync]).for_ever()]);
    drop(owner);
    for answer in line {
        let told = kind(answer.wait());
        assert!(matches!(told, ErrorKind::OutcomeUnknown | ErrorKind::Failed), "{told:?}");
    }
    println!("load: {count} in a line were told that the store stopped");
}

/// A scope makes keys as fast as it can on several threads. It gets as many as it may and no more, nothing of it is
/// evicted, the other scope gets all it asks for, and replays go on for both.
#[test]
fn p6_p9_a_scope_that_floods_gets_its_share_and_takes_nobody_elses() {
    let most = if is_full() { 100_000 } else { 1_000 };
    let store = builder().scope_operations_max(most as u64).in_memory().unwrap();
    keep(&store, 0, 50);
    let quiet = median(&store, "quiet");
    let (is_over, refused, next) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let (begun, of_other) = thread::scope(|threads| {
        let flood = || {
            let mut begun = Vec::new();
            while !is_over.load(Ordering::SeqCst) {
                let nth = usize::try_from(next.fetch_add(1, Ordering::SeqCst)).unwrap();
                match claim(&store, &key("flood", nth)).wait() {
                    Ok(claim) => {
                        drop(run_of(claim));
                        begun.push(nth);
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Capacity);
                        refused.fetch_add(1, Ordering::SeqCst);
                    }
                }
            }
            begun
        };
        let floods: Vec<_> = (0..4).map(|_| threads.spawn(flood)).collect();
        support::until("the flood is at its limit", || refused.load(Ordering::SeqCst) > 0);
        for nth in 0..50 {
            assert!(matches!(claim(&store, &key("load", nth)).wait().unwrap(), Claim::Replay(_)));
        }
        let of_other = median(&store, "other");
        is_over.store(true, Ordering::SeqCst);
        (floods.into_iter().flat_map(|flood| flood.join().unwrap()).collect::<Vec<_>>(), of_other)
    });
    assert_eq!(begun.len(), most, "as many as it may");
    for nth in begun {
        assert!(store.progress(&key("flood", nth)).unwrap().is_some(), "nothing of it was evicted");
    }
    let stats = store.stats().unwrap();
    assert_eq!(stats.refused, refused.load(Ordering::SeqCst));
    assert_eq!(kind(claim(&store, &key("flood", usize::MAX >> 30)).wait()), ErrorKind::Capacity);
    println!(
        "load: another scope's claim p50 {quiet:.0?} when quiet, {of_other:.0?} beside {} refusals",
        stats.refused
    );
    store.verify().unwrap();
}
