//! Counters that are about to run out: a sequence number is never given twice, whoever asks for one more is told so by
//! a typed error, and a time at its end neither wraps nor panics.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;

use std::path::Path;

use redb::{ReadableTable, TableDefinition};
use reentry::{Claim, ErrorKind, ManualClock, Store, Timestamp};
use support::{database, key, kind, request, run, run_of};

const META: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("reentry/meta");

/// Where the next number and the highest time stand in the meta row (docs/format.md), and the highest number there is.
const NEXT: usize = 20;
const HIGHEST_TIME: usize = 28;
const NUMBER_MAX: u64 = (1 << 62) - 1;

/// Writes a number into the meta row of a store.
fn seed(path: &Path, offset: usize, number: u64) {
    let database = database(path);
    let transaction = database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(META).unwrap();
        let mut row = table.get(0).unwrap().unwrap().value().to_vec();
        row.truncate(row.len() - 4);
        row[offset..offset + 8].copy_from_slice(&number.to_le_bytes());
        let checksum = crc32fast::hash(&row).to_le_bytes();
        row.extend(checksum);
        table.insert(0, row.as_slice()).unwrap();
    }
    transaction.commit().unwrap();
}

#[test]
fn p1_p7_the_last_numbers_are_given_once_and_then_none() {
    for left in 0..6 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.reentry");
        let store = Store::open(&path).unwrap();
        run(&store, &key("done")).complete(&"the answer".to_owned()).wait().unwrap();
        store.close().unwrap();
        seed(&path, NEXT, NUMBER_MAX - left);
        let store = Store::open(&path).unwrap();
        let (mut tokens, mut owners) = (Vec::new(), Vec::new());
        let refused = (0..20).find_map(|nth| match store.claim(&key(&format!("{nth}")), request()).wait() {
            Ok(claim) => {
                let owner = run_of(claim);
                tokens.push(owner.token());
                owners.push(owner);
                None
            }
            Err(error) => Some(error.kind()),
        });
        assert_eq!(refused, Some(ErrorKind::Capacity));
        assert_eq!(tokens.len() as u64, left, "each of the numbers that are left is given");
        assert!(tokens.is_sorted() && tokens.iter().all(|token| *token < NUMBER_MAX), "{tokens:?}");
        // It is refused again and again, in company too, and nothing of it stops what needs no number.
        for _ in 0..3 {
            let together = [store.claim(&key("x"), request()), store.claim(&key("y"), request())];
            assert_eq!(together.map(|claim| kind(claim.wait())), [ErrorKind::Capacity; 2]);
        }
        assert!(owners.into_iter().all(|owner| kind(owner.complete(&()).wait()) == ErrorKind::Capacity));
        let replay = store.claim(&key("done"), request()).wait().unwrap();
        assert!(matches!(replay, Claim::Replay(_)), "{replay:?}");
        store.verify().unwrap();
        store.close().unwrap();
        // Nor are they given by the next process.
        let store = Store::open(&path).unwrap();
        assert_eq!(kind(store.claim(&key("x"), request()).wait()), ErrorKind::Capacity);
        assert_eq!(store.unfinished().count() as u64, left);
        // To remove takes a number too: the store is at its end, and says so.
        assert!((0..left).all(|nth| kind(store.forget(&key(&format!("{nth}"))).wait()) == ErrorKind::Capacity));
        store.verify().unwrap();
    }
}

#[test]
fn p11_a_time_at_its_end_does_not_wrap() {
    // Half a retention before the end and at it, as the store knows it and as the clock tells it.
    let near = u64::MAX - 12 * 60 * 60 * 1_000;
    for (seeded, wall) in [(u64::MAX, 5), (u64::MAX - 2, u64::MAX), (5, u64::MAX), (near, 5), (5, near)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.reentry");
        Store::open(&path).unwrap().close().unwrap();
        seed(&path, HIGHEST_TIME, seeded);
        let clock = ManualClock::at(Timestamp::from_millis(wall));
        let open = || Store::builder().clock(clock.clone()).open(&path).unwrap();
        let store = open();
        run(&store, &key("done")).complete(&"the answer".to_owned()).wait().unwrap();
        drop(run(&store, &key("unfinished")));
        clock.advance(std::time::Duration::from_millis(10));
        store.close().unwrap();
        let store = open();
        assert_eq!(run(&store, &key("unfinished")).attempt(), 2);
        // At the end itself everything is over at once: there is no later moment until which it could be kept.
        let claim = store.claim(&key("done"), request()).wait().unwrap();
        let is_at_the_end = seeded.max(wall) > near;
        assert_eq!(matches!(claim, Claim::Replay(_)), !is_at_the_end, "{seeded} {wall}: {claim:?}");
        store.verify().unwrap();
    }
}
