//! What features `metrics` and `tracing` cost: the same work by two programs, one that was built with them and listens,
//! and one without, in turn.
//!
//! `benches/telemetry/run.sh` builds both and lets them run. With `on` there is a subscriber at INFO that writes to
//! nowhere and a recorder that is published to every second.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program for a terminal that should stop at a fault")]

use std::env;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use reentry::{Claim, Fingerprint, Key, Store};

const SLICE: Duration = Duration::from_millis(400);
const PAIRS: usize = 31;
const WORKS: [&str; 4] = ["claim-1", "claim-64", "claim-64-on-disk", "replay-1"];
const ORDERS_KEPT: u64 = 10_000;

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    match &args[..] {
        [slice, work] if slice == "slice" => println!("{}", measure(work)),
        [other, works @ ..] => compare(Path::new(other), works),
        _ => println!("run benches/telemetry/run.sh"),
    }
}

/// Runs slices of this program and of `other`, in turn, and tells how many times as much `other` did.
fn compare(other: &Path, works: &[String]) {
    let this = env::current_exe().unwrap();
    println!("| work | without | with both | ratio | min .. max |\n| --- | --- | --- | --- | --- |");
    for work in WORKS.into_iter().filter(|work| works.is_empty() || works.iter().any(|asked| asked == work)) {
        let mut pairs: Vec<(f64, f64)> = (0..PAIRS)
            .map(|nth| {
                // Who begins changes, so that a machine that slows down helps neither.
                let [first, second] = if nth % 2 == 0 { [&*this, other] } else { [other, &*this] };
                let (first, second) = (slice(first, work), slice(second, work));
                if nth % 2 == 0 { (first, second) } else { (second, first) }
            })
            .collect();
        pairs.sort_by(|one, other| (one.1 / one.0).total_cmp(&(other.1 / other.0)));
        let ratio = |(without, with): (f64, f64)| with / without;
        let (without, with) = pairs[PAIRS / 2];
        let (least, most) = (ratio(pairs[0]), ratio(pairs[PAIRS - 1]));
        println!("| {work} | {without:.0} | {with:.0} | {:.3} | {least:.3} .. {most:.3} |", with / without);
    }
}

fn slice(program: &Path, work: &str) -> f64 {
    let output = Command::new(program).args(["slice", work]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

/// Operations a second.
fn measure(work: &str) -> f64 {
    let path = env::temp_dir().join(format!("reentry-telemetry-{}.reentry", std::process::id()));
    let is_on_disk = work.ends_with("on-disk");
    let store = if is_on_disk { Store::open(&path).unwrap() } else { Store::builder().in_memory().unwrap() };
    listen(&store);
    let next = AtomicU64::new(0);
    let claim = || complete(&store, next.fetch_add(1, Ordering::Relaxed));
    let replay = || replayed(&store, next.fetch_add(7919, Ordering::Relaxed) % ORDERS_KEPT);
    let rate = match work {
        "replay-1" => {
            in_turn(64, ORDERS_KEPT, &|order| complete(&store, order));
            rate(1, &replay)
        }
        "claim-1" => rate(1, &claim),
        _ => rate(64, &claim),
    };
    drop(store);
    if is_on_disk {
        std::fs::remove_file(&path).unwrap();
    }
    rate
}

fn key(order: u64) -> Key {
    Key::new(format!("checkout/customer-{:02}", order % 100), format!("{order:036}")).unwrap()
}

fn complete(store: &Store, order: u64) {
    match store.claim(&key(order), Fingerprint::of("two pizzas")).wait().unwrap() {
        Claim::Run(run) => drop(run.complete(&vec![b'r'; 64]).wait().unwrap()),
        other => unreachable!("a new key is the caller's to run, got {other:?}"),
    }
}

fn replayed(store: &Store, order: u64) {
    let claim = store.claim(&key(order), Fingerprint::of("two pizzas")).wait().unwrap();
    assert!(matches!(claim, Claim::Replay(_)));
}

/// Does `count` things by this many threads.
fn in_turn(threads: u64, count: u64, work: &(impl Fn(u64) + Sync)) {
    thread::scope(|scope| {
        for first in 0..threads {
            scope.spawn(move || (first..count).step_by(usize::try_from(threads).unwrap()).for_each(work));
        }
    });
}

/// How often this many threads do it in a second.
#[allow(clippy::cast_precision_loss, reason = "a rate needs no exactness")]
fn rate(threads: usize, work: &(impl Fn() + Sync)) -> f64 {
    let done = AtomicU64::new(0);
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while began.elapsed() < SLICE {
                    work();
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    done.into_inner() as f64 / began.elapsed().as_secs_f64()
}

#[cfg(not(feature = "on"))]
fn listen(_: &Store) {}

/// A subscriber as servers have one, and a recorder that somebody scrapes.
#[cfg(feature = "on")]
fn listen(store: &Store) {
    let to_nowhere = tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_writer(std::io::sink);
    to_nowhere.init();
    metrics_util::debugging::DebuggingRecorder::new().install().unwrap();
    let store = store.clone();
    thread::spawn(move || {
        loop {
            store.publish_metrics("orders").unwrap();
            thread::sleep(Duration::from_secs(1));
        }
    });
}
