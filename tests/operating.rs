//! What the guide `docs/operating.md` says to do when something is wrong, done.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use reentry::{
    Claim, Condition, DiskCall, DiskFault, EffectId, Error, ErrorKind, Failure, ManualClock, OpenCheck, Resolution,
    Resumer, Run, SimulatedDisk, State, Store,
};
use support::{START, key, kind, request, run, times_out, until};
use tempfile::tempdir;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// An order whose charge may be done once at most, as a resumer finishes it.
fn finish(mut order: Run) -> reentry::Result<()> {
    order.step("charge").run_at_most_once(|_| Ok::<_, Failure>("receipt".to_owned()))?;
    order.complete(&"paid".to_owned()).wait().map(drop)
}

fn is_paid(store: &Store, name: &str) -> bool {
    store.progress(&key(name)).unwrap().unwrap().outcome().is_some()
}

/// The file of a store with one finished order, damaged in every place where its outcome stood.
fn damage(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let found: Vec<_> = bytes.windows(10).enumerate().filter(|(_, w)| *w == b"the canary").map(|(at, _)| at).collect();
    assert!(!found.is_empty());
    for at in found {
        bytes[at] ^= 1;
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn what_is_in_doubt_is_found_looked_for_outside_and_resolved_by_hand() {
    let store = Store::builder().in_memory().unwrap();
    let mut order = run(&store, &key("order"));
    let sent = order.effect_id("charge");
    times_out(&mut order, "charge");
    drop(order);
    assert_eq!(store.stats().unwrap().in_doubt, 1);
    // Which one, and under which id the other side knows it.
    let doubtful: Vec<_> = store.unfinished().map(Result::unwrap).filter(|p| p.in_doubt().count() > 0).collect();
    let [found] = &doubtful[..] else { panic!("there is one") };
    let id = found.effect_id(found.in_doubt().next().unwrap().name());
    assert_eq!(id, sent);
    let happened = Resolution::happened(&"receipt".to_owned()).unwrap();
    store.resolve(found.key(), "charge", happened, "found in the bank's list, K.L.").wait().unwrap();
    assert_eq!(store.stats().unwrap().in_doubt, 0);
    let resumer = Resumer::builder(&store).start(finish).unwrap();
    until("the resumer finishes it", || is_paid(&store, "order"));
    resumer.stop();
}

#[test]
fn what_gets_older_is_found_taken_from_a_run_that_hangs_and_finished_without_its_client() {
    let clock = ManualClock::at(START);
    let store = Store::builder().clock(clock.clone()).in_memory().unwrap();
    drop(run(&store, &key("order")));
    clock.advance(DAY);
    let hung = run(&store, &key("order"));
    clock.advance(DAY / 24);
    assert_eq!(store.stats().unwrap().oldest_unfinished, Some(DAY + DAY / 24));
    let oldest = store.unfinished().next().unwrap().unwrap();
    // The operation is a day old, its run an hour.
    assert_eq!((oldest.state(), oldest.owned_since()), (State::Owned, Some(START + DAY)));
    assert!(store.revoke(oldest.key()).wait().unwrap());
    let freed = store.progress(oldest.key()).unwrap().unwrap();
    assert_eq!((freed.state(), freed.owned_since()), (State::Unfinished, None));
    assert_eq!(kind(hung.complete(&"late".to_owned()).wait()), ErrorKind::Fenced);
    let resumer = Resumer::builder(&store).start(finish).unwrap();
    until("the resumer finishes it", || is_paid(&store, "order"));
    resumer.stop();
    assert_eq!(store.stats().unwrap().oldest_unfinished, None);
}

#[test]
fn what_is_stuck_is_found_mended_and_released() {
    let store = Store::builder().attempts_max(2).in_memory().unwrap();
    (0..2).for_each(|_| drop(run(&store, &key("order"))));
    assert_eq!(store.stats().unwrap().stuck, 1);
    let is_stuck = |progress: &reentry::Progress| progress.state() == State::Stuck;
    let stuck: Vec<_> = store.unfinished().map(Result::unwrap).filter(is_stuck).collect();
    let resumer = Resumer::builder(&store).start(finish).unwrap();
    assert_eq!(stuck[0].released(), 0);
    assert!(store.release_stuck(stuck[0].key()).wait().unwrap());
    assert_eq!(store.progress(stuck[0].key()).unwrap().unwrap().released(), 2, "both runs count no more");
    resumer.wake();
    until("the resumer finishes it", || is_paid(&store, "order"));
    assert_eq!(store.stats().unwrap().stuck, 0);
    resumer.stop();
}

#[test]
fn p10_a_store_that_failed_is_closed_and_opened_anew_in_the_same_process() {
    let disk = SimulatedDisk::new();
    let store = Store::builder().open_on(&disk).unwrap();
    run(&store, &key("before")).complete(&"paid".to_owned()).wait().unwrap();
    disk.fail(Some(DiskFault::os(5).on(&[DiskCall::Write])));
    assert!(store.claim(&key("order"), request()).wait().is_err());
    assert_eq!(store.stats().unwrap().condition, Condition::Failed);
    drop(store.close());
    let store = Store::builder().open_on(&disk).unwrap();
    assert_eq!(store.stats().unwrap().condition, Condition::Serving);
    assert!(is_paid(&store, "before"));
    store.verify().unwrap();
}

#[test]
fn p10_a_file_that_is_refused_at_opening_is_replaced_by_its_last_copy() {
    let folder = tempdir().unwrap();
    let (path, copy) = (folder.path().join("orders.reentry"), folder.path().join("monday.reentry"));
    let store = Store::open(&path).unwrap();
    run(&store, &key("order")).complete(&"the canary".to_owned()).wait().unwrap();
    store.backup(&copy).unwrap();
    store.close().unwrap();
    damage(&path);
    assert_eq!(kind(Store::open(&path)), ErrorKind::Corrupt);
    // The damaged one is kept for whoever looks into it.
    fs::rename(&path, folder.path().join("damaged.reentry")).unwrap();
    fs::copy(&copy, &path).unwrap();
    let store = Store::builder().only_private(true).open(&path).unwrap();
    store.verify().unwrap();
    assert!(is_paid(&store, "order"));
    // The copy itself is as it was, for the next time.
    assert!(fs::read(&copy).unwrap().len() > 4096);
    Store::open(&copy).unwrap().verify().unwrap();
}

#[test]
fn p10_damage_behind_an_open_store_concerns_one_key_and_is_found_by_verify() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("orders.reentry");
    let store = Store::builder().cache_bytes(0).open(&path).unwrap();
    run(&store, &key("order")).complete(&"the canary".to_owned()).wait().unwrap();
    run(&store, &key("other")).complete(&"paid".to_owned()).wait().unwrap();
    store.close().unwrap();
    let store = Store::builder().cache_bytes(0).open(&path).unwrap();
    damage(&path);
    assert_eq!(kind(store.claim(&key("order"), request()).wait()), ErrorKind::Corrupt);
    assert!(is_paid(&store, "other"));
    assert_eq!(kind(store.verify()), ErrorKind::Corrupt);
    assert_eq!(kind(store.backup(folder.path().join("copy.reentry"))), ErrorKind::Corrupt);
}

#[test]
fn p10_a_damaged_row_at_the_head_is_told_and_keeps_nothing_behind_it_from_leaving() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("orders.reentry");
    let clock = ManualClock::at(START);
    let store = Store::builder().cache_bytes(0).clock(clock.clone()).open(&path).unwrap();
    for name in ["before", "order", "behind", "last"] {
        let outcome = if name == "order" { "the canary" } else { "paid" };
        run(&store, &key(name)).complete(&outcome.to_owned()).wait().unwrap();
    }
    store.close().unwrap();
    let store = Store::builder().cache_bytes(0).clock(clock.clone()).open(&path).unwrap();
    damage(&path);
    let of_its_key = || store.claim(&key("order"), request()).wait().unwrap_err().to_string();
    let told = of_its_key();
    clock.advance(2 * DAY);
    // Each of these batches removes a slice of what is over.
    for name in ["new", "newer"] {
        drop(run(&store, &key(name)));
    }
    let stats = store.stats().unwrap();
    assert_eq!((stats.removed, stats.completed, stats.unfinished), (3, 1, 2));
    let fault = stats.last_fault.unwrap();
    assert_eq!((stats.faults, fault.kind), (2, ErrorKind::Corrupt), "one is told of the claim, one of the head");
    assert!(told.contains("checksum"), "{told}");
    assert_eq!(of_its_key(), told, "the row stays, for `verify` and for whoever mends the file");
}

#[test]
fn p11_a_store_that_was_opened_with_a_clock_far_ahead_is_restored_from_a_copy_of_before() {
    let folder = tempdir().unwrap();
    let (path, copy) = (folder.path().join("orders.reentry"), folder.path().join("monday.reentry"));
    let open = |path: &Path, at| Store::builder().clock(ManualClock::at(at)).open(path).unwrap();
    let store = open(&path, START);
    run(&store, &key("order")).complete(&"paid".to_owned()).wait().unwrap();
    store.backup(&copy).unwrap();
    store.close().unwrap();
    // The machine came up ten years ahead.
    let store = open(&path, START + 3_650 * DAY);
    assert!(store.progress(&key("order")).unwrap().is_none(), "it counts as expired");
    drop(run(&store, &key("another")));
    store.close().unwrap();
    // The clock is right again: this file has seen the wrong time and stays there; its copy has not.
    let store = open(&path, START);
    assert!(store.progress(&key("order")).unwrap().is_none());
    store.close().unwrap();
    let store = open(&copy, START);
    assert!(matches!(store.claim(&key("order"), request()).wait().unwrap(), Claim::Replay(_)));
}

/// What the lost time did is done again, where the other side does not deduplicate: a copy does not know that it began.
#[test]
fn p4_of_the_time_after_a_copy_a_restored_store_knows_nothing_so_a_recheck_is_not_asked() {
    let folder = tempdir().unwrap();
    let copy = folder.path().join("copy.reentry");
    let store = Store::builder().in_memory().unwrap();
    store.backup(&copy).unwrap();
    finish(run(&store, &key("order"))).unwrap();
    let restored = Store::open(&copy).unwrap();
    let mut again = run(&restored, &key("order"));
    let (mut asked, mut done) = (0, 0);
    let recheck = |_: EffectId| {
        asked += 1;
        Ok::<_, Failure>(None::<String>)
    };
    let effect = |_: EffectId| {
        done += 1;
        Ok::<_, Failure>("receipt".to_owned())
    };
    again.step("charge").recheck(recheck).run(effect).unwrap();
    assert_eq!((asked, done), (0, 1));
}

/// What a disk refuses to read is not damaged, and what a damaged page leads to is told in its place.
#[test]
fn p10_a_listing_tells_a_disk_that_fails_from_a_page_that_is_damaged() {
    let disk = SimulatedDisk::new();
    let builder = || Store::builder().cache_bytes(0).retention(DAY).tombstones(DAY);
    let store = builder().open_on(&disk).unwrap();
    for nth in 0..80 {
        run(&store, &key(&nth.to_string())).complete(&vec![7_u8; 100]).wait().unwrap();
    }
    (0..20).for_each(|nth| drop(run(&store, &key(&format!("open {nth}")))));
    store.close().unwrap();
    let mut failed = 0;
    for (after, only_unfinished) in (0..12).flat_map(|after| [(after, false), (after, true)]) {
        let store = builder().open_to_read_on(&disk).unwrap();
        disk.fail([DiskFault::os(5).on(&[DiskCall::Read]).after(after)]);
        let errors: Vec<_> = if only_unfinished {
            store.unfinished().filter_map(Result::err).collect()
        } else {
            store.operations().filter_map(Result::err).collect()
        };
        disk.fail(None);
        // It ends the listing, and redb after it.
        let is_disk = |error: &Error| matches!(error.kind(), ErrorKind::Io | ErrorKind::Failed);
        assert!(errors.len() < 2 && errors.iter().all(is_disk), "{errors:?}");
        assert!(errors.iter().all(|error| !error.to_string().contains("the rest of")), "{errors:?}");
        failed += errors.len();
    }
    assert!(failed > 3, "{failed} listings met the fault");

    let folder = tempdir().unwrap();
    let path = folder.path().join("orders.reentry");
    fs::write(&path, disk.image()).unwrap();
    let store = builder().open_to_read(&path).unwrap();
    let mut image = disk.image();
    let leaf = |page: &&mut [u8]| page[0] == 1 && page.windows(8).any(|bytes| bytes == [7; 8]);
    image.chunks_mut(4096).filter(leaf).for_each(|page| page[2..].fill(0x5A));
    fs::write(&path, image).unwrap();
    let error = store.operations().find_map(Result::err).unwrap();
    assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains("the rest of table"), "{error}");
}

/// So many that their rows are read on several threads.
#[test]
fn p1_p2_a_store_of_many_operations_knows_each_of_them_once_it_is_opened_anew() {
    let disk = SimulatedDisk::new();
    let builder = || Store::builder().scope_operations_max(1_000_000);
    let store = builder().open_on(&disk).unwrap();
    let name = |nth: u32| key(&nth.to_string());
    for batch in 0..4 {
        let claims: Vec<_> = (0..10_000).map(|nth| store.claim(&name(batch * 10_000 + nth), request())).collect();
        for claim in claims {
            drop(claim.wait().unwrap());
        }
    }
    store.close().unwrap();
    for check in [OpenCheck::Full, OpenCheck::Quick] {
        let store = builder().check(check).open_on(&disk).unwrap();
        assert_eq!(store.verify().unwrap().operations, 40_000);
        assert_eq!(store.stats().unwrap().unfinished, 40_000);
        assert!((0..40_000).step_by(7).all(|nth| store.progress(&name(nth)).unwrap().is_some()));
        store.close().unwrap();
    }
}
