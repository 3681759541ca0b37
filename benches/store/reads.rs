//! What is answered without the writer: replays, and keys that nobody knows.

use std::time::{Duration, Instant};

use reentry::{Claim, Fingerprint};

use crate::comparison::{Comparison, Goal, Sides, Slice, Work};
use crate::shop::{LazyShop, REQUEST, Shop, key};

const SPAN: Duration = Duration::from_millis(100);

/// Reads between two looks at the clock.
const BLOCK: u64 = 512;

/// Keys that are asked for, made before: what makes them is not what is measured.
const KEYS: u64 = 64 * 1024;

/// Orders whose clients are still about to retry.
const RECENT: u64 = 10_000;

/// Compares replays with bare reads of rows whose numbers are known.
pub(crate) fn compare(comparison: &mut Comparison, shop: &impl LazyShop, kept: u64) {
    let work = |what: &str, threads: usize, limit, rate| Work {
        name: format!("{what}, {}k kept", kept / 1000),
        callers: format!("{threads} threads"),
        limit,
        goal: Goal::PerSecond(rate * u32::try_from(threads).expect("there are few")),
        span: SPAN,
    };
    for threads in [1, 2] {
        let any_order = |n| scattered(n) % kept;
        comparison.compare(work("replay any", threads, "bare reads", 300_000), || replay(shop, threads, any_order));
    }
    let recent_order = |n| kept - 1 - scattered(n) % RECENT.min(kept);
    comparison.compare(work("replay recent", 1, "bare reads", 300_000), || replay(shop, 1, recent_order));
    comparison.compare(work("absent", 1, "-", 2_000_000), || absent(shop));
}

fn replay(shop: &Shop, threads: usize, order: impl Fn(u64) -> u64) -> Sides<'_> {
    let log = shop.settled_log();
    let orders: Vec<u64> = (0..KEYS).map(order).collect();
    let keys: Vec<_> = orders.iter().map(|order| key(*order)).collect();
    let (store, request) = (&shop.counter.store, Fingerprint::of(REQUEST));
    // Once before, so that both sides have in their caches what fits.
    for (key, order) in keys.iter().zip(&orders) {
        drop((store.claim(key, request).wait().unwrap(), log.read(*order)));
    }
    Sides {
        ours: Box::new(move |span| {
            readers(threads, span, |n| {
                let claim = store.claim(&keys[n], request).wait().unwrap();
                assert!(matches!(claim, Claim::Replay(_)), "{claim:?}");
            })
        }),
        limit: Some(Box::new(move |span, _| {
            readers(threads, span, |n| {
                std::hint::black_box(log.read(orders[n]));
            })
        })),
    }
}

fn absent(shop: &Shop) -> Sides<'_> {
    let keys: Vec<_> = (0..KEYS).map(|n| key(u64::MAX - n)).collect();
    let store = &shop.counter.store;
    Sides {
        ours: Box::new(move |span| readers(1, span, |n| assert!(store.progress(&keys[n]).unwrap().is_none()))),
        limit: None,
    }
}

/// Lets threads read for a while; each read is told which of the keys it is about.
fn readers(threads: usize, span: Duration, read: impl Fn(usize) + Sync) -> Slice {
    let reader = |nth: usize| {
        let start = Instant::now();
        let first = nth as u64 * KEYS / threads as u64;
        let mut reads = 0;
        while start.elapsed() < span {
            (reads..reads + BLOCK).for_each(|nth| read(((first + nth) % KEYS) as usize));
            reads += BLOCK;
        }
        reads as f64 / start.elapsed().as_secs_f64()
    };
    let reader = &reader;
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..threads).map(|nth| scope.spawn(move || reader(nth))).collect();
        let per_second = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
        Slice { per_second, ..Slice::default() }
    })
}

/// Numbers that are all over the range (`SplitMix64`).
fn scattered(n: u64) -> u64 {
    let mut z = n.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
