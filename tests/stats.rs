//! The figures tell how a store is (P6, P10): what is unfinished, what claims came to, how the disk does.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::ops::ControlFlow;
use std::thread;
use std::time::Duration;

use reentry::{
    Busy, Claim, Claims, Condition, DiskCall, DiskFault, ErrorKind, Fingerprint, Key, ManualClock, SimulatedDisk,
    Stats, Store,
};
use support::{Gate, START, damage_wherever_it_stands, full, key, kind, request, run, settle, times_out, until};
use tempfile::tempdir;

const MINUTE: Duration = Duration::from_secs(60);

fn figures(store: &Store) -> Stats {
    store.stats().unwrap()
}

#[test]
fn p6_the_age_of_the_oldest_unfinished_operation_is_told() {
    let clock = ManualClock::at(START);
    let disk = SimulatedDisk::new();
    let store = Store::builder().clock(clock.clone()).open_on(&disk).unwrap();
    assert_eq!(figures(&store).oldest_unfinished, None);
    let first = run(&store, &key("first"));
    clock.advance(MINUTE);
    drop(run(&store, &key("second")));
    clock.advance(MINUTE);
    assert_eq!(figures(&store).oldest_unfinished, Some(2 * MINUTE));
    // Entering it again makes it no younger, nor does a restart.
    drop(first);
    drop(run(&store, &key("first")));
    store.close().unwrap();
    let store = Store::builder().clock(clock.clone()).open_on(&disk).unwrap();
    assert_eq!(figures(&store).oldest_unfinished, Some(2 * MINUTE));
    run(&store, &key("first")).complete(&()).wait().unwrap();
    assert_eq!(figures(&store).oldest_unfinished, Some(MINUTE));
    store.forget(&key("second")).wait().unwrap();
    assert_eq!(figures(&store).oldest_unfinished, None);
}

/// What an import takes in is born here after what was there, and may be older all the same.
#[test]
fn p6_what_was_imported_is_told_as_the_oldest_where_it_is() {
    let clock = ManualClock::at(START);
    let other = Store::builder().clock(clock.clone()).in_memory().unwrap();
    drop(run(&other, &key("elder")));
    clock.advance(MINUTE);
    drop(run(&other, &key("as old as what is here")));
    let disk = SimulatedDisk::new();
    let builder = || Store::builder().clock(clock.clone());
    let store = builder().open_on(&disk).unwrap();
    drop(run(&store, &key("younger")));
    let mut lines = Vec::new();
    other.export(&mut lines, |_| ControlFlow::Continue(())).unwrap();
    store.import(&lines[..], |_| ControlFlow::Continue(()), |_| {}).unwrap();
    clock.advance(MINUTE);
    assert_eq!(figures(&store).oldest_unfinished, Some(2 * MINUTE));
    store.verify().unwrap();
    store.close().unwrap();
    let store = builder().open_on(&disk).unwrap();
    assert_eq!(figures(&store).oldest_unfinished, Some(2 * MINUTE));
    // Whoever looks for it by its age finds it.
    let old: Vec<_> = store.unfinished().older_than(2 * MINUTE).map(|it| it.unwrap().key().clone()).collect();
    assert_eq!(old, [key("elder")]);
    for (ended, oldest) in [("elder", Some(MINUTE)), ("younger", Some(MINUTE)), ("as old as what is here", None)] {
        run(&store, &key(ended)).complete(&()).wait().unwrap();
        assert_eq!(figures(&store).oldest_unfinished, oldest);
    }
    store.verify().unwrap();
}

#[test]
fn every_operation_counts_as_what_it_is() {
    let clock = ManualClock::at(START);
    let builder = Store::builder().clock(clock.clone()).retention(MINUTE).tombstones(MINUTE).attempts_max(2);
    let store = builder.in_memory().unwrap();
    let counted = |store: &Store| {
        let Stats { operations, unfinished, in_doubt, stuck, owned, completed, tombstones, .. } = figures(store);
        assert_eq!(operations, unfinished + completed + tombstones);
        [unfinished, in_doubt, stuck, owned, completed, tombstones]
    };
    let mut doubtful = run(&store, &key("doubtful"));
    assert_eq!(counted(&store), [1, 0, 0, 1, 0, 0]);
    times_out(&mut doubtful, "charge");
    assert_eq!(counted(&store), [1, 1, 0, 1, 0, 0]);
    drop(doubtful);
    assert_eq!(counted(&store), [1, 1, 0, 0, 0, 0]);
    let last_try = run(&store, &key("doubtful"));
    // What is at its last try is not stuck yet.
    assert_eq!(counted(&store), [1, 1, 0, 1, 0, 0]);
    drop(last_try);
    assert_eq!(counted(&store), [1, 1, 1, 0, 0, 0]);
    store.release_stuck(&key("doubtful")).wait().unwrap();
    assert_eq!(counted(&store), [1, 1, 0, 0, 0, 0]);
    run(&store, &key("done")).complete(&()).wait().unwrap();
    assert_eq!(counted(&store), [1, 1, 0, 0, 1, 0]);
    clock.advance(MINUTE);
    // The sweep is part of a batch that something is asked of.
    settle(&store);
    assert_eq!(counted(&store), [1, 1, 0, 0, 0, 1]);
    clock.advance(MINUTE);
    settle(&store);
    assert_eq!(counted(&store), [1, 1, 0, 0, 0, 0]);
    assert_eq!(figures(&store).removed, 1);
    store.verify().unwrap();
}

#[test]
fn what_is_counted_is_counted_again_when_the_store_is_opened() {
    let disk = SimulatedDisk::new();
    let clock = ManualClock::at(START);
    let open = || {
        let builder = Store::builder().clock(clock.clone()).attempts_max(1).retention(MINUTE).tombstones(MINUTE);
        builder.open_on(&disk).unwrap()
    };
    let store = open();
    times_out(&mut run(&store, &key("stuck and in doubt")), "charge");
    run(&store, &key("faded")).complete(&()).wait().unwrap();
    clock.advance(MINUTE);
    settle(&store);
    run(&store, &key("done")).complete(&()).wait().unwrap();
    let told = |stats: Stats| {
        let Stats { operations, unfinished, in_doubt, stuck, completed, tombstones, .. } = stats;
        [operations, unfinished, in_doubt, stuck, completed, tombstones]
    };
    let before = told(figures(&store));
    assert_eq!(before, [3, 1, 1, 1, 1, 1]);
    store.close().unwrap();
    assert_eq!(told(figures(&open())), before);
}

#[test]
fn every_claim_counts_by_what_it_came_to() {
    let clock = ManualClock::at(START);
    let builder = Store::builder().clock(clock.clone()).retention(MINUTE).tombstones(MINUTE).operations_max(3);
    let store = builder.in_memory().unwrap();
    let claim = |name: &str| store.claim(&key(name), request()).wait();
    let counted = || {
        let Claims { begun, reentered, replayed, waiting, rejected, gone, failed, .. } = figures(&store).claims;
        [begun, reentered, replayed, waiting, rejected, gone, failed]
    };
    let first = run(&store, &key("order"));
    assert_eq!(counted(), [1, 0, 0, 0, 0, 0, 0]);
    let Claim::Wait(busy) = claim("order").unwrap() else { panic!("a run is at work") };
    assert_eq!(counted(), [1, 0, 0, 1, 0, 0, 0]);
    drop(first);
    let second = run(&store, &key("order"));
    assert_eq!(counted(), [1, 1, 0, 1, 0, 0, 0]);
    let outcome = Busy::outcome(busy);
    second.complete(&()).wait().unwrap();
    // Who waited for a run got its outcome: one claim more, and counted when it is taken.
    assert!(matches!(outcome.wait().unwrap(), Claim::Replay(_)));
    assert_eq!(counted(), [1, 1, 1, 1, 0, 0, 0]);
    (0..10).for_each(|_| drop(claim("order").unwrap()));
    drop(store.claim(&key("order"), Fingerprint::of("another request")).wait().unwrap());
    assert_eq!(counted(), [1, 1, 11, 1, 1, 0, 0]);
    clock.advance(MINUTE);
    assert!(matches!(claim("order").unwrap(), Claim::Gone(_)));
    assert_eq!(counted(), [1, 1, 11, 1, 1, 1, 0]);
    drop((run(&store, &key("a")), run(&store, &key("b"))));
    assert_eq!(kind(claim("one too many")), ErrorKind::Capacity);
    assert_eq!((counted(), figures(&store).refused), ([3, 1, 11, 1, 1, 1, 1], 1));
    let claims = figures(&store).claims;
    assert_eq!(claims.total(), 19);
    assert_eq!(claims.by_answer().map(|(_, count)| count), counted());
}

#[test]
fn claims_of_many_threads_are_all_counted() {
    let store = Store::builder().in_memory().unwrap();
    (0..50).for_each(|n| drop(run(&store, &key(&n.to_string())).complete(&()).wait().unwrap()));
    let replays = |_| {
        for n in 0..500 {
            let claim = store.claim(&key(&(n % 50).to_string()), request()).wait().unwrap();
            assert!(matches!(claim, Claim::Replay(_)));
        }
    };
    thread::scope(|scope| (0..4).for_each(|n| drop(scope.spawn(move || replays(n)))));
    assert_eq!((figures(&store).claims.begun, figures(&store).claims.replayed), (50, 2_000));
}

#[test]
fn p7_calls_of_runs_that_lost_their_operation_are_counted() {
    let store = Store::builder().in_memory().unwrap();
    let mut lost = run(&store, &key("order"));
    store.revoke(&key("order")).wait().unwrap();
    assert_eq!(figures(&store).fenced, 0);
    // One that the writer refuses, and one that the run finds out itself.
    assert_eq!(kind(lost.advance("late", &()).wait()), ErrorKind::Fenced);
    assert_eq!(kind(lost.step("charge").run_keyed(|_| Ok::<_, reentry::Failure>(()))), ErrorKind::Fenced);
    assert_eq!(figures(&store).fenced, 2);
}

#[test]
fn the_last_commits_are_told_by_their_time_and_size() {
    let gate = Gate::new();
    let store = Store::builder().clock(gate.clone()).in_memory().unwrap();
    assert_eq!((figures(&store).commit_time, figures(&store).batch), (None, None));
    run(&store, &key("alone")).complete(&()).wait().unwrap();
    let batch = figures(&store).batch.unwrap();
    assert_eq!((batch.p50, batch.max), (1, 1));
    gate.hold(&store);
    let together: Vec<_> = (0..30).map(|n| store.claim(&key(&n.to_string()), request())).collect();
    assert!(figures(&store).queued >= 30);
    gate.open();
    for claim in together {
        drop(claim.wait().unwrap());
    }
    let Stats { commit_time, sync_time, batch, queued, .. } = figures(&store);
    assert_eq!(queued, 0);
    assert!(batch.unwrap().max >= 30, "{batch:?}");
    let (commit, sync) = (commit_time.unwrap(), sync_time.unwrap());
    assert!(commit.p50 <= commit.p90 && commit.p90 <= commit.p99 && commit.p99 <= commit.max);
    assert!(sync.p50 <= commit.p50 && sync.max <= commit.max, "{sync:?} of {commit:?}");
}

#[test]
fn a_sync_of_a_real_disk_takes_its_time() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = Store::open(folder.path().join("orders.reentry")).unwrap();
    (0..20).for_each(|n| drop(run(&store, &key(&n.to_string()))));
    let Stats { commit_time, sync_time, .. } = figures(&store);
    let (commit, sync) = (commit_time.unwrap().max, sync_time.unwrap().max);
    assert!(Duration::ZERO < sync && sync < commit, "{sync:?} of {commit:?}");
}

#[test]
fn p10_the_last_fault_is_told_with_its_time() {
    let clock = ManualClock::at(START);
    let disk = SimulatedDisk::new();
    let store = Store::builder().clock(clock.clone()).open_on(&disk).unwrap();
    let stats = figures(&store);
    assert_eq!((stats.condition, stats.faults, stats.last_fault), (Condition::Serving, 0, None));
    clock.advance(MINUTE);
    disk.fail(Some(full()));
    assert!(store.claim(&key("order"), request()).wait().is_err());
    let stats = figures(&store);
    let fault = stats.last_fault.unwrap();
    assert_eq!(
        (stats.condition, stats.faults, fault.kind, fault.at),
        (Condition::Full, 1, ErrorKind::Full, START + MINUTE)
    );
    disk.fail(None);
    until("the disk has room again", || store.claim(&key("order"), request()).wait().is_ok());
    assert_eq!(figures(&store).condition, Condition::Serving);
    disk.fail(Some(DiskFault::os(5).on(&[DiskCall::Sync])));
    assert!(store.claim(&key("another"), request()).wait().is_err());
    let stats = figures(&store);
    assert_eq!(stats.condition, Condition::Failed);
    assert_eq!(stats.last_fault.unwrap().kind, ErrorKind::Io);
    store.close().unwrap_err();
    assert_eq!(figures(&store).condition, Condition::Failed);
}

#[test]
fn what_a_caller_asked_for_wrongly_is_no_fault_of_the_store() {
    let store = Store::builder().payload_bytes_max(8).in_memory().unwrap();
    let mut order = run(&store, &key("order"));
    assert_eq!(kind(order.advance("large", &"x".repeat(9)).wait()), ErrorKind::PayloadTooLarge);
    times_out(&mut order, "charge");
    assert_eq!(kind(store.forget(&key("order")).wait()), ErrorKind::Busy);
    assert_eq!(figures(&store).faults, 0);
    store.close().unwrap();
    assert_eq!(figures(&store).condition, Condition::Closed);
}

#[test]
fn p10_damage_that_a_caller_meets_is_a_fault() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("orders.reentry");
    let store = Store::builder().cache_bytes(0).open(&path).unwrap();
    run(&store, &key("order")).complete(&"the canary".to_owned()).wait().unwrap();
    store.close().unwrap();
    let store = Store::builder().cache_bytes(0).open(&path).unwrap();
    damage_wherever_it_stands(&path, b"the canary");
    assert_eq!(kind(store.claim(&key("order"), request()).wait()), ErrorKind::Corrupt);
    let stats = figures(&store);
    assert_eq!((stats.faults, stats.condition), (1, Condition::Serving), "it stops nobody else");
    assert_eq!(stats.last_fault.unwrap().kind, ErrorKind::Corrupt);
    assert_eq!(stats.claims.failed, 1);
    assert_eq!(kind(store.verify()), ErrorKind::Corrupt);
    assert_eq!(figures(&store).faults, 2);
    assert_eq!(kind(store.forget(&key("order")).wait()), ErrorKind::Corrupt);
    assert_eq!(figures(&store).faults, 3);
    assert!(store.operations().any(|row| row.is_err_and(|error| error.kind() == ErrorKind::Corrupt)));
    assert_eq!(figures(&store).faults, 4);
}

#[test]
fn p10_damage_among_the_unfinished_is_a_fault_to_whoever_lists_them() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("orders.reentry");
    let store = Store::builder().cache_bytes(0).open(&path).unwrap();
    run(&store, &key("order")).advance("the canary", &()).wait().unwrap();
    store.close().unwrap();
    let store = Store::builder().cache_bytes(0).open(&path).unwrap();
    damage_wherever_it_stands(&path, b"the canary");
    assert!(store.unfinished().all(|row| row.is_err_and(|error| error.kind() == ErrorKind::Corrupt)));
    assert_eq!(figures(&store).faults, 1);
}

/// Scopes are counted only where they have a limit, and what that takes is told.
#[test]
fn the_memory_of_the_index_is_told_and_that_of_counting_scopes_with_it() {
    let kept = |store: Store| {
        let empty = figures(&store).index_bytes;
        (0..2_000).for_each(|nth| drop(run(&store, &Key::new(format!("scope {nth}"), "key").unwrap())));
        figures(&store).index_bytes - empty
    };
    let index = kept(Store::builder().in_memory().unwrap());
    let counted = kept(Store::builder().scope_bytes_max(1_000_000).in_memory().unwrap());
    assert!(index > 2_000 * 13, "{index} bytes");
    // A name and its figures are 48 bytes, in a table that is never full.
    assert!(counted > index + 2_000 * 48 && counted < index + 2 * 2_000 * 112, "{counted} bytes, {index} without");
}

/// Nothing wakes the writer but the time itself.
#[test]
fn what_is_over_is_removed_where_nobody_asks_for_anything() {
    // Longer than its own batch takes.
    let store = Store::builder().retention(Duration::from_millis(200)).in_memory().unwrap();
    run(&store, &key("over")).complete(&()).wait().unwrap();
    assert_eq!(figures(&store).operations, 1);
    until("it is removed", || figures(&store).removed == 1);
    assert_eq!(figures(&store).operations, 0);
}
