//! Closing a store: what is queued is finished, whoever waits is told, and the file is free at once.

use std::sync::{Barrier, Mutex};
use std::task::Poll;
use std::thread;

use reentry::{Claim, Condition, DiskCall, ErrorKind, SimulatedDisk, State, Store};

mod support;

use support::{Gate, PATIENCE, Wakes, broken, key, kind, poll, request, run, settle, stand_in_line, until};

#[test]
fn closing_finishes_what_is_queued_and_tells_everybody_else() {
    let (gate, disk) = (Gate::new(), SimulatedDisk::new());
    let store = Store::builder().clock(gate.clone()).queue_commands_max(3).open_on(&disk).unwrap();
    let mut advanced = run(&store, &key("advanced"));
    let completed = run(&store, &key("completed"));
    let owner = run(&store, &key("contested"));
    let mut line: Vec<_> = (0..3).map(|_| stand_in_line(&store, &key("contested"))).collect();
    let wakes = Wakes::new();
    assert!(line.iter_mut().all(|pending| poll(pending, &wakes).is_pending()));
    settle(&store);
    gate.hold(&store);
    // However much room the gate's own command left, the queue is full after three.
    let advance = advanced.advance("queued", &());
    let complete = completed.complete(&"queued".to_owned());
    let mut queued: Vec<_> = (0..4).map(|n| store.claim(&key(&format!("queued {n}")), request())).collect();
    let closing = store.clone();
    let closed = thread::spawn(move || closing.close());
    // Whoever has no room in the queue learns of the closing while it goes on.
    let outside = queued.pop().unwrap();
    assert_eq!(outside.wait_for(PATIENCE).unwrap_err().kind(), ErrorKind::Closed);
    assert!(queued.iter_mut().all(|pending| !matches!(poll(pending, &Wakes::new()), Poll::Ready(Ok(_)))));
    assert_eq!(wakes.count(), 0);
    gate.open();
    closed.join().unwrap().unwrap();
    assert_eq!(advance.wait().unwrap().get(), 1);
    assert!(complete.wait().unwrap().is_success());
    assert_eq!(wakes.count(), 3, "one wake for each in line");
    for pending in &mut line {
        let Poll::Ready(Err(error)) = poll(pending, &wakes) else { panic!("the store is closed") };
        assert_eq!(error.kind(), ErrorKind::Closed);
    }
    assert_eq!(owner.complete(&()).wait().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(advanced.advance("late", &()).wait().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(store.claim(&key("late"), request()).wait().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(store.unfinished().next().unwrap().unwrap_err().kind(), ErrorKind::Closed);
    let store = Store::builder().clock(gate.clock).open_on(&disk).unwrap();
    let state = |name: &str| store.progress(&key(name)).unwrap().unwrap().state();
    assert_eq!((state("advanced"), state("completed")), (State::Unfinished, State::Succeeded));
    store.verify().unwrap();
}

/// Found by reading: a second `close` returned while the first was still at work.
#[test]
fn whoever_closes_the_store_may_open_the_file_at_once_though_others_close_and_read_it() {
    for _ in 0..12 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.reentry");
        let store = Store::open(&path).unwrap();
        run(&store, &key("done")).complete(&vec![0_u8; 200_000]).wait().unwrap();
        let (one_by_one, start) = (Mutex::new(()), Barrier::new(6));
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    start.wait();
                    while let Ok(claim) = store.claim(&key("done"), request()).wait() {
                        assert!(matches!(claim, Claim::Replay(_)));
                    }
                    assert_eq!(store.progress(&key("done")).unwrap_err().kind(), ErrorKind::Closed);
                });
                scope.spawn(|| {
                    start.wait();
                    store.close().unwrap();
                    let _one = one_by_one.lock().unwrap();
                    Store::open(&path).unwrap().close().unwrap();
                });
            }
        });
        Store::open(&path).unwrap().verify().unwrap();
    }
}

#[test]
fn the_last_handle_closes_and_a_run_an_answer_and_a_waiter_are_handles_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.reentry");
    let is_open = || Store::open(&path).err().map(|error| error.kind()) == Some(ErrorKind::InUse);
    let store = Store::open(&path).unwrap();
    let owner = run(&store, &key("contested"));
    let Claim::Wait(busy) = store.claim(&key("contested"), request()).wait().unwrap() else { panic!("it is owned") };
    drop(store);
    assert!(is_open(), "a run and a waiter hold it");
    let waits = busy.outcome();
    let completed = owner.complete(&"receipt".to_owned());
    assert!(is_open(), "an answer holds it");
    drop(completed);
    let Claim::Replay(outcome) = waits.wait_for(PATIENCE).unwrap() else {
        panic!("a dropped answer is no dropped call")
    };
    assert_eq!(outcome.bytes(), b"receipt");
    let store = Store::open(&path).unwrap();
    let owner = run(&store, &key("last"));
    drop(store);
    // The change is queued when its answer, the last handle, goes: closing finishes it.
    drop(owner.complete(&()));
    let store = Store::open(&path).unwrap();
    assert_eq!(store.progress(&key("last")).unwrap().unwrap().state(), State::Succeeded);
    store.verify().unwrap();
}

/// Its run may be held for as long as its thread likes, and will never bring an outcome.
#[test]
fn whoever_begins_to_wait_for_a_run_of_a_store_that_was_closed_or_that_failed_is_told_so() {
    for expected in [ErrorKind::Closed, ErrorKind::Failed] {
        let disk = SimulatedDisk::new();
        let store = Store::builder().open_on(&disk).unwrap();
        let owner = run(&store, &key("order"));
        let Claim::Wait(busy) = store.claim(&key("order"), request()).wait().unwrap() else { panic!("it is owned") };
        if expected == ErrorKind::Closed {
            store.close().unwrap();
        } else {
            disk.fail([broken(&[DiskCall::Sync])]);
            store.claim(&key("other"), request()).wait().unwrap_err();
            until("the store stops", || store.stats().unwrap().condition == Condition::Failed);
        }
        assert_eq!(kind(busy.outcome().wait_for(PATIENCE)), expected);
        drop(owner);
    }
}
