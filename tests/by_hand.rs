//! A store whose writer works by hand: everything happens when the test says so, and again in the same way.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests panic")]

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use reentry::{
    Claim, DiskCall, DiskFault, ErrorKind, Fingerprint, Key, ManualClock, Pending, Run, SimulatedDisk, Store, Timestamp,
};

fn open(disk: &SimulatedDisk, clock: &ManualClock) -> Store {
    Store::builder().lease(Duration::from_secs(60)).clock(clock.clone()).open_by_hand(disk).unwrap()
}

fn worked<T>(store: &Store, pending: Pending<T>) -> T {
    store.work_by_hand();
    pending.wait().unwrap()
}

fn claim(store: &Store, key: &str) -> Pending<Claim> {
    store.claim(&Key::new("orders", key).unwrap(), Fingerprint::of("two pizzas"))
}

fn run_of(claim: Claim) -> Run {
    match claim {
        Claim::Run(run) => run,
        other => panic!("{other:?}"),
    }
}

/// A short life: what is queued together shares a batch, a full disk is waited out, and the store is closed.
fn live() -> Vec<u8> {
    let (disk, clock) = (SimulatedDisk::new(), ManualClock::at(Timestamp::from_millis(1_000_000)));
    let store = open(&disk, &clock);
    let syncs = disk.syncs();
    let (one, other) = (claim(&store, "1"), claim(&store, "2"));
    assert_eq!(disk.syncs(), syncs, "nothing happens before the test says so");
    store.work_by_hand();
    assert_eq!(disk.syncs(), syncs + 1, "two claims, one batch");
    let (mut run, other) = (run_of(one.wait().unwrap()), run_of(other.wait().unwrap()));
    let moved = run.advance("dough", &7_u32.to_string());
    worked(&store, moved);

    disk.fail(Some(DiskFault::kind(std::io::ErrorKind::StorageFull).on(DiskCall::GROWS).for_ever()));
    let refused = claim(&store, "3");
    store.work_by_hand();
    assert!(refused.wait().is_err());
    disk.fail(None);
    let third = claim(&store, "3");
    assert!(matches!(worked(&store, third), Claim::Run(_)));

    // An expiry that is told is first made durable, by the caller that asks: nobody else would.
    let completed = other.complete(&"done".to_owned());
    worked(&store, completed);
    clock.advance(Duration::from_secs(2 * 24 * 60 * 60));
    assert!(store.progress(&Key::new("orders", "2").unwrap()).unwrap().is_none());
    store.verify().unwrap();
    store.close().unwrap();
    assert!(!store.work_by_hand());
    disk.image()
}

#[test]
fn the_same_calls_leave_the_same_bytes() {
    let (one, other) = (live(), live());
    let differs = one.iter().zip(&other).position(|(one, other)| one != other);
    assert_eq!((differs, one.len()), (None, other.len()));
}

#[test]
fn those_who_wait_for_lapsed_owners_come_in_the_order_of_their_keys() {
    let (disk, clock) = (SimulatedDisk::new(), ManualClock::at(Timestamp::from_millis(1_000_000)));
    let store = open(&disk, &clock);
    let keys: Vec<_> = (0..20).map(|nth| format!("{nth:02}")).collect();
    let claims: Vec<_> = keys.iter().rev().map(|key| claim(&store, key)).collect();
    store.work_by_hand();
    let hung: Vec<_> = claims.into_iter().map(|claim| run_of(claim.wait().unwrap())).collect();
    let waiting: Vec<_> = keys
        .iter()
        .rev()
        .map(|key| match claim(&store, key).wait().unwrap() {
            Claim::Wait(busy) => busy.outcome(),
            other => panic!("{other:?}"),
        })
        .collect();
    clock.advance(Duration::from_secs(60));
    store.work_by_hand();
    store.work_by_hand();
    let mut tokens: Vec<_> = waiting.into_iter().map(|claim| run_of(claim.wait().unwrap()).token()).collect();
    assert!(tokens.iter().all(|token| hung.iter().all(|run| run.token() < *token)));
    tokens.reverse();
    assert!(tokens.is_sorted(), "{tokens:?}");
    store.verify().unwrap();
}

/// A closure that only looks works, but where what it looks for would be written down first: the writer is at work.
#[test]
fn an_expiry_is_not_written_down_by_hand_within_the_writers_own_work() {
    let clock = ManualClock::at(Timestamp::from_millis(1_700_000_000_000));
    let builder = Store::builder().clock(clock.clone()).retention(Duration::from_secs(600));
    let store = builder.open_by_hand(&SimulatedDisk::new()).unwrap();
    let key = |name| Key::new("orders", name).unwrap();
    let begin = |name| run_of(worked(&store, claim(&store, name)));
    // What is kept longer holds up what is over, so that no sweep removes it.
    let (long, mut old) = (begin("long"), begin("old"));
    old.keep_for(Duration::from_secs(60));
    for run in [long, old] {
        worked(&store, run.complete(&()));
    }
    clock.advance(Duration::from_secs(60));
    let (mut run, inner) = (begin("outer"), store.clone());
    clock.advance(Duration::from_secs(1));
    let (tell, told) = mpsc::channel();
    let advanced = run.advance_with("at", &(), move |_| {
        tell.send(inner.progress(&key("old")).map(|found| found.is_some())).unwrap();
        Ok(())
    });
    let worked = thread::spawn({
        let store = store.clone();
        move || store.work_by_hand()
    });
    until_done(&store, &worked);
    advanced.wait().unwrap();
    assert_eq!(told.recv().unwrap().unwrap_err().kind(), ErrorKind::WouldDeadlock);
}

/// Where it hangs, closing the store would hang as well.
fn until_done<T>(store: &Store, worked: &thread::JoinHandle<T>) {
    let began = std::time::Instant::now();
    while !worked.is_finished() {
        if began.elapsed() > Duration::from_secs(120) {
            std::mem::forget(store.clone());
            panic!("the writer's work hangs");
        }
        thread::yield_now();
    }
}
