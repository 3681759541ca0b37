//! Wakers of executors that do more than to note that a task is to be run: they run it where it is woken, or drop what
//! it holds. Neither happens under a lock of the store's, and what the task asks is done.

#![allow(clippy::panic, reason = "a test that fails says why")]

mod support;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::task::{Context, Poll, Wake, Waker};

use reentry::{Claim, ErrorKind, Pending, Result, Run, Store};
use support::{Gate, PATIENCE, Wakes, key, kind, request, run, run_of, settle, stand_in_line, until};

fn poll<T>(pending: &mut Pending<T>, waker: &Waker) -> Poll<Result<T>> {
    Pin::new(pending).poll(&mut Context::from_waker(waker))
}

/// A waker of an executor that runs its task where it is woken, and the task claims the key it waited for.
struct ClaimsAgain(Store, AtomicUsize);

impl Wake for ClaimsAgain {
    fn wake(self: Arc<Self>) {
        self.1.fetch_add(1, Ordering::SeqCst);
        drop(self.0.claim(&key("order"), request()).wait());
    }
}

/// The store finds those who gave up under a lock of its own.
#[test]
fn p7_whoever_gave_up_waiting_is_not_woken_when_the_run_that_it_waited_for_goes() {
    let store = Store::builder().in_memory().unwrap();
    let owner = run(&store, &key("order"));
    let waker = Arc::new(ClaimsAgain(store.clone(), AtomicUsize::new(0)));
    let mut waits = stand_in_line(&store, &key("order"));
    assert!(poll(&mut waits, &Waker::from(Arc::clone(&waker))).is_pending());
    drop(waits);
    let (gone, goes) = channel();
    std::thread::spawn(move || {
        drop(owner);
        gone.send(()).unwrap();
    });
    // Where it hangs, closing the store would hang as well.
    if goes.recv_timeout(PATIENCE).is_err() {
        std::mem::forget(store);
        panic!("letting go of the run hangs");
    }
    assert_eq!(waker.1.load(Ordering::SeqCst), 0);
    drop(run(&store, &key("order")));
    store.verify().unwrap();
}

/// A waker that holds its task, which asks the store as it is dropped.
struct AsksWhenDropped(Store, Arc<AtomicUsize>);

impl Wake for AsksWhenDropped {
    fn wake(self: Arc<Self>) {}
}

impl Drop for AsksWhenDropped {
    fn drop(&mut self) {
        drop(self.0.claim(&key("dropped"), request()));
        self.1.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn what_waits_outside_a_full_queue_goes_with_its_task_without_a_lock_of_the_store() {
    let gate = Gate::new();
    let store = Store::builder().clock(gate.clone()).queue_commands_max(1).in_memory().unwrap();
    gate.hold(&store);
    let inside = store.claim(&key("inside"), request());
    let mut outside = store.claim(&key("outside"), request());
    let dropped = Arc::new(AtomicUsize::new(0));
    let (polls, goes) = channel();
    let (other, drops) = (store.clone(), Arc::clone(&dropped));
    std::thread::spawn(move || {
        for _ in 0..2 {
            // The waker of the poll before goes as this one takes its place.
            let waker = Waker::from(Arc::new(AsksWhenDropped(other.clone(), Arc::clone(&drops))));
            assert!(poll(&mut outside, &waker).is_pending());
        }
        drop(outside);
        polls.send(()).unwrap();
    });
    if goes.recv_timeout(PATIENCE).is_err() {
        std::mem::forget(store);
        panic!("giving up hangs");
    }
    assert_eq!(dropped.load(Ordering::SeqCst), 2);
    gate.open();
    drop(run_of(inside.wait_for(PATIENCE).unwrap()));
    settle(&store);
    assert!(store.progress(&key("outside")).unwrap().is_none(), "it was given up before there was room");
    store.verify().unwrap();
}

/// A waker that holds its task, which holds the very run that it waits for, and asks the store as it is dropped.
struct LetsGoWhenDropped(Store, Option<Run>);

impl Wake for LetsGoWhenDropped {
    fn wake(self: Arc<Self>) {}
}

impl Drop for LetsGoWhenDropped {
    fn drop(&mut self) {
        drop(self.1.take());
        drop(self.0.claim(&key("next"), request()).wait());
    }
}

/// The wait is answered as the run goes, before what its waker asks behind it is.
#[test]
fn a_waker_that_another_takes_the_place_of_goes_without_a_lock_of_the_store() {
    let store = Store::builder().in_memory().unwrap();
    let owner = run(&store, &key("order"));
    let mut waits = stand_in_line(&store, &key("order"));
    let waker = Waker::from(Arc::new(LetsGoWhenDropped(store.clone(), Some(owner))));
    assert!(poll(&mut waits, &waker).is_pending());
    drop(waker);
    let (polled, polls) = channel();
    std::thread::spawn(move || {
        drop(poll(&mut waits, Waker::noop()));
        polled.send(waits).unwrap();
    });
    let Ok(waits) = polls.recv_timeout(PATIENCE) else {
        std::mem::forget(store);
        panic!("the second poll hangs");
    };
    drop(run_of(waits.wait_for(PATIENCE).unwrap()));
    store.verify().unwrap();
}

/// A waker of an executor that runs its task where it is woken, and the task asks the store for more, without waiting
/// for it there.
struct AsksAtOnce(Store, Sender<Pending<Claim>>);

impl Wake for AsksAtOnce {
    fn wake(self: Arc<Self>) {
        self.1.send(self.0.claim(&key("next"), request())).unwrap();
    }
}

/// A waker of an executor with a fault.
struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        std::panic::panic_any(PanicsWhenDropped);
    }
}

struct PanicsWhenDropped;

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("what the waker panicked with panics too");
    }
}

#[test]
fn p10_a_waker_that_panics_stops_neither_the_store_nor_others_of_its_batch() {
    let gate = Gate::new();
    let store = Store::builder().clock(gate.clone()).in_memory().unwrap();
    gate.hold(&store);
    let mut one = store.claim(&key("one"), request());
    assert!(poll(&mut one, &Waker::from(Arc::new(Panics))).is_pending());
    let other = store.claim(&key("other"), request());
    gate.open();
    drop(run_of(other.wait_for(PATIENCE).unwrap()));
    let one = run_of(one.wait_for(PATIENCE).unwrap());
    // Whoever lets a run go wakes the next in line.
    let mut waits = stand_in_line(&store, &key("one"));
    assert!(poll(&mut waits, &Waker::from(Arc::new(Panics))).is_pending());
    drop(one);
    drop(run_of(waits.wait_for(PATIENCE).unwrap()));
    store.verify().unwrap();
}

/// The same of who waits outside a full queue, where others stand in line.
#[test]
fn p10_a_waker_outside_a_full_queue_that_panics_stops_nobody_either() {
    for is_closed in [false, true] {
        let gate = Gate::new();
        let store = Store::builder().clock(gate.clone()).queue_commands_max(1).in_memory().unwrap();
        let owner = run(&store, &key("owned"));
        let waits = stand_in_line(&store, &key("owned"));
        settle(&store);
        gate.hold(&store);
        let inside = store.claim(&key("inside"), request());
        let mut outside = store.claim(&key("outside"), request());
        assert!(poll(&mut outside, &Waker::from(Arc::new(Panics))).is_pending());
        let (mut other, woken) = (store.claim(&key("other"), request()), Wakes::new());
        assert!(poll(&mut other, &Waker::from(Arc::clone(&woken))).is_pending());
        let closing = is_closed.then(|| {
            let store = store.clone();
            std::thread::spawn(move || store.close())
        });
        gate.open();
        drop(inside.wait_for(PATIENCE));
        until("who waits behind it is woken", || woken.count() > 0);
        if let Some(closing) = closing {
            closing.join().unwrap().unwrap();
            assert_eq!(kind(outside.wait_for(PATIENCE)), ErrorKind::Closed);
            continue;
        }
        drop(run_of(outside.wait_for(PATIENCE).unwrap()));
        drop(run_of(other.wait_for(PATIENCE).unwrap()));
        drop(owner);
        drop(run_of(waits.wait_for(PATIENCE).unwrap()));
        store.verify().unwrap();
    }
}

/// It is woken as the writer takes what is queued, and pushes its next request at once.
#[test]
fn a_task_that_is_run_as_there_is_room_in_the_queue_may_ask_the_store() {
    let gate = Gate::new();
    let store = Store::builder().clock(gate.clone()).queue_commands_max(1).in_memory().unwrap();
    gate.hold(&store);
    let inside = store.claim(&key("inside"), request());
    let mut outside = store.claim(&key("outside"), request());
    let (asks, asked) = channel();
    assert!(poll(&mut outside, &Waker::from(Arc::new(AsksAtOnce(store.clone(), asks)))).is_pending());
    gate.open();
    let Ok(next) = asked.recv_timeout(PATIENCE) else {
        // What lets go of them would hang as well.
        std::mem::forget((store, inside, outside));
        panic!("waking it hangs");
    };
    drop(run_of(inside.wait_for(PATIENCE).unwrap()));
    drop(run_of(next.wait_for(PATIENCE).unwrap()));
    drop(run_of(outside.wait_for(PATIENCE).unwrap()));
    store.verify().unwrap();
}

/// The store hands such an error over as it does what is the server's, in which nothing is asked.
#[test]
fn a_task_that_is_run_as_its_closure_failed_may_ask_the_store() {
    let gate = Gate::new();
    let store = Store::builder().clock(gate.clone()).in_memory().unwrap();
    let mut outer = run(&store, &key("outer"));
    let (asks, asked) = channel();
    gate.hold(&store);
    let mut fails = outer.advance_with("cooked", &(), |_| Err("no flour".into()));
    assert!(poll(&mut fails, &Waker::from(Arc::new(AsksAtOnce(store.clone(), asks)))).is_pending());
    gate.open();
    let asked = asked.recv_timeout(PATIENCE).expect("it is woken");
    assert!(matches!(asked.wait_for(PATIENCE).unwrap(), Claim::Run(_)));
    assert_eq!(kind(fails.wait_for(PATIENCE)), ErrorKind::Aborted);
}
