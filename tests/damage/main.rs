//! P10: damage is loud. A store whose file was cut short, has flipped bits, or has pages that were zeroed, swapped or
//! put back from before is either refused, or every operation reads back as it was: none is silently missing, none is
//! another, nothing panics or hangs, and memory stays bounded. A refused file is not changed.
//!
//! By default a sample is tried, some bits of both heads among them. All of it, on a machine that has hours:
//!
//! ```sh
//! REENTRY_DAMAGE_FULL=1 cargo test --release --test damage every_bit -- --nocapture   # each bit of each byte read
//! REENTRY_DAMAGE_FULL=1 REENTRY_DAMAGE_RANGE=0..1000000 cargo test ...                # a part; the log says how far
//! REENTRY_DAMAGE_FULL=1 REENTRY_DAMAGE_STRIDE=97 cargo test ...                       # every 97th bit of all
//! REENTRY_DAMAGE_FILES=100000 cargo test --release --test damage several -- --nocapture
//! ```
//!
//! Of one whole sweep the first eighth flips one bit of each byte, the next another, so that a part covers the file.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a long run says how far it is")]

#[path = "../support/mod.rs"]
mod support;

#[cfg(unix)]
mod behind;
mod cuts;
mod flips;
mod original;
mod several;

use std::ops::Range;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{env, fs};

use support::PATIENCE;

/// More than a store of a few MiB takes to be opened and asked, damaged or not, beside everything that a test holds.
const MEMORY_KIB_MAX: u64 = 1024 * 1024;

/// How often a long run says how far it is.
const EVERY: Duration = Duration::from_secs(10);

/// Does `each` with every item on a thread of its own, and fails when one takes longer than any should. Returns how
/// many of them noticed the damage.
fn none_hangs<T: Send + 'static>(
    what: &str,
    items: impl Iterator<Item = T> + Send + 'static,
    each: impl Fn(T) -> bool + Send + 'static,
) -> usize {
    let (done, is_done) = mpsc::channel();
    let worker = std::thread::spawn(move || items.for_each(|item| done.send(each(item)).unwrap()));
    let (began, mut told, mut tried, mut noticed) = (Instant::now(), Instant::now(), 0, 0);
    loop {
        match is_done.recv_timeout(PATIENCE) {
            Ok(is_noticed) => noticed += usize::from(is_noticed),
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("opening or asking a damaged store hangs"),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
        tried += 1;
        if told.elapsed() > EVERY {
            told = Instant::now();
            println!("{what}: {tried} tried, {noticed} noticed, {:?}", began.elapsed());
        }
    }
    if let Err(panic) = worker.join() {
        std::panic::resume_unwind(panic);
    }
    println!("{what}: {tried} tried, {noticed} noticed, all of them in {:?}", began.elapsed());
    assert_memory_is_bounded();
    noticed
}

/// The most memory that this process ever took is bounded. Where the system does not tell, nothing is checked.
fn assert_memory_is_bounded() {
    let Ok(status) = fs::read_to_string("/proc/self/status") else { return };
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < MEMORY_KIB_MAX, "a damaged file took {peak} KiB of memory");
}

fn is_full() -> bool {
    env::var_os("REENTRY_DAMAGE_FULL").is_some_and(|value| value == "1")
}

/// The part of a long run that is asked for.
fn range() -> Range<usize> {
    let Ok(range) = env::var("REENTRY_DAMAGE_RANGE") else { return 0..usize::MAX };
    let (from, to) = range.split_once("..").expect("a range is FROM..TO");
    from.parse().unwrap()..to.parse().unwrap()
}

/// Of so many bits one is tried in a long run: all where nothing else is asked for.
fn stride() -> usize {
    env::var("REENTRY_DAMAGE_STRIDE").map_or(1, |stride| stride.parse().unwrap())
}
