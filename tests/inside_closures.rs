//! Calling the store from inside its own closures: every call either works or fails with a clear error. None waits for
//! itself.

mod support;

use std::fmt;
use std::hint::black_box;
use std::panic::panic_any;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use reentry::{
    Claim, ErrorKind, Failure, Fingerprint, Outcome, Pending, Request, Resolution, Result, Resumer, Revision, Run,
    State, Store, Table,
};
use support::{
    Gate, PATIENCE, block_on, does, key, kind, never, request, run, run_of, settle, stand_in_line, times_out,
};

const ORDERS: Table = Table::new("orders");

fn in_memory() -> Store {
    Store::builder().in_memory().unwrap()
}

/// What the call comes to. Where it never comes the store hangs, and closing it would hang as well: it is left alone,
/// so that the test fails.
#[track_caller]
fn in_time<T>(store: &Store, pending: Pending<T>) -> Result<T> {
    let answer = pending.wait_for(PATIENCE);
    if let Err(error) = &answer
        && matches!(error.kind(), ErrorKind::OutcomeUnknown | ErrorKind::TimedOut)
    {
        std::mem::forget(store.clone());
        panic!("the store hangs: {error}");
    }
    answer
}

/// Does something once inside a closure that the store waits for, and gives what it came to.
#[track_caller]
fn inside<T: Send + 'static>(store: &Store, work: impl FnOnce() -> T + Send + 'static) -> T {
    let mut outer = run(store, &key("outer"));
    let (tell, told) = channel();
    let mut work = Some(work);
    let advanced = outer.advance_with("outer", &(), move |tx| {
        tx.open_table(ORDERS)?.insert("outer", "row")?;
        if let Some(work) = work.take() {
            tell.send(work()).unwrap();
        }
        Ok(())
    });
    in_time(store, advanced).unwrap();
    // The store goes on, and what the closure wrote is there.
    outer.complete(&()).wait().unwrap();
    assert!(store.read(|tx| tx.open_table(ORDERS)?.get("outer")).unwrap().unwrap().is_some());
    assert!(store.forget(&key("outer")).wait().unwrap());
    told.recv().unwrap()
}

/// A way to wait for an answer.
#[derive(Debug, Clone, Copy)]
enum Way {
    Wait,
    WaitFor,
    Await,
}

const WAYS: [Way; 3] = [Way::Wait, Way::WaitFor, Way::Await];

impl Way {
    fn of<T>(self, pending: Pending<T>) -> Result<T> {
        match self {
            Self::Wait => pending.wait(),
            Self::WaitFor => pending.wait_for(PATIENCE),
            Self::Await => block_on(pending),
        }
    }
}

#[test]
fn a_claim_that_would_wait_is_refused_and_one_that_only_reads_works() {
    let store = in_memory();
    run(&store, &key("done")).complete(&"bytes".to_owned()).wait().unwrap();
    let owner = run(&store, &key("owned"));
    drop(run(&store, &key("free")));
    for way in WAYS {
        for name in ["new", "free"] {
            let inner = store.clone();
            let claim = inside(&store, move || way.of(inner.claim(&key(name), request())).map(drop));
            assert_eq!(kind(claim), ErrorKind::WouldDeadlock, "{name}");
            let inner = store.clone();
            let deferred = move || way.of(inner.claim(&key(name), Request::from(request()).deferred())).map(drop);
            assert_eq!(kind(inside(&store, deferred)), ErrorKind::WouldDeadlock, "{name}");
            let inner = store.clone();
            let unfinished = inside(&store, move || way.of(inner.claim_unfinished(&key(name))).map(drop));
            assert_eq!(kind(unfinished), ErrorKind::WouldDeadlock, "{name}");
        }
        let inner = store.clone();
        let replay = inside(&store, move || way.of(inner.claim(&key("done"), request())).unwrap());
        assert!(matches!(replay, Claim::Replay(_)), "{replay:?}");
        let inner = store.clone();
        let reject = inside(&store, move || way.of(inner.claim(&key("done"), Fingerprint::of("another"))).unwrap());
        assert!(matches!(reject, Claim::Reject(_)), "{reject:?}");
        let inner = store.clone();
        let waits = inside(&store, move || {
            let Claim::Wait(busy) = inner.claim(&key("owned"), request()).wait()? else { panic!("it is owned") };
            way.of(busy.outcome()).map(drop)
        });
        assert_eq!(kind(waits), ErrorKind::WouldDeadlock);
    }
    drop(owner);
    settle(&store);
    assert!(store.progress(&key("new")).unwrap().is_none(), "what is refused is not done later either");
    assert_eq!(store.progress(&key("free")).unwrap().unwrap().attempt(), 1);
    assert_eq!((store.stats().unwrap().owned, store.stats().unwrap().waiting), (0, 0));
    store.verify().unwrap();
}

/// A call of a run that waits for the writer.
type Call = fn(&mut Run) -> Result<()>;

#[test]
fn every_call_of_a_run_that_would_wait_is_refused_and_does_nothing() {
    let calls: [(&str, Call); 11] = [
        ("advance", |run| run.advance("inner", &()).wait().map(drop_revision)),
        ("advance_with", |run| run.advance_with("inner", &(), |_| panic!("nested")).wait().map(drop_revision)),
        ("complete_with", |run| run.complete_with(&(), |_| panic!("nested")).wait().map(drop)),
        ("fail_with", |run| run.fail_with(&(), |_| panic!("nested")).wait().map(drop)),
        ("renew", |run| run.renew().wait()),
        ("resolve", |run| run.resolve("doubtful", Resolution::DidNotHappen, "note").wait()),
        ("a new step", |run| run.step("new").run_keyed(never)),
        ("a new step at most once", |run| run.step("new").run_at_most_once(never)),
        ("a step in doubt", |run| run.step("doubtful").run_keyed(never)),
        ("a step not found", |run| run.step("doubtful").recheck(|_| Ok::<_, Failure>(None)).run(never)),
        ("awaited", |run| block_on(run.advance("inner", &())).map(drop_revision)),
    ];
    let store = in_memory();
    let mut inner = run(&store, &key("inner"));
    does(&mut inner, "done", "x");
    times_out(&mut inner, "doubtful");
    for (name, call) in calls {
        let (back, answer);
        (inner, answer) = inside(&store, move || {
            let answer = call(&mut inner);
            (inner, answer)
        });
        back = kind(answer);
        assert_eq!(back, ErrorKind::WouldDeadlock, "{name}");
    }
    // What is known without the writer is given.
    let (mut inner, recorded) = inside(&store, move || {
        let recorded = inner.step("done").run_keyed(never::<String>);
        inner.refresh().unwrap();
        (inner, recorded)
    });
    assert_eq!(kind(recorded), ErrorKind::StepRepeated);
    settle(&store);
    let progress = store.progress(&key("inner")).unwrap().unwrap();
    assert_eq!((progress.state(), progress.checkpoint(), progress.steps().len()), (State::Owned, None, 2));
    inner.advance("goes on", &()).wait().unwrap();
    inner.complete(&()).wait().unwrap();
    store.verify().unwrap();
}

fn drop_revision(_: Revision) {}

#[test]
fn p7_a_run_that_is_ended_or_dropped_inside_is_free_and_its_waiter_gets_it() {
    let ends: [fn(Run); 4] = [
        drop,
        Run::release,
        |run| assert_eq!(kind(run.complete(&()).wait()), ErrorKind::WouldDeadlock),
        |run| assert_eq!(kind(run.fail(&()).wait()), ErrorKind::WouldDeadlock),
    ];
    for end in ends {
        let store = in_memory();
        let inner = run(&store, &key("inner"));
        let waiter = stand_in_line(&store, &key("inner"));
        inside(&store, move || end(inner));
        let next = run_of(in_time(&store, waiter).unwrap());
        assert_eq!(next.attempt(), 2);
        next.complete(&()).wait().unwrap();
        store.verify().unwrap();
    }
}

#[test]
fn calls_by_name_that_would_wait_are_refused_and_looking_works() {
    let store = in_memory();
    let mut doubtful = run(&store, &key("order"));
    times_out(&mut doubtful, "charge");
    drop(doubtful);
    let inner = store.clone();
    let refused = inside(&store, move || {
        [
            kind(inner.advance(&key("order"), Revision::NONE, "inner", &()).wait()),
            kind(inner.resolve(&key("order"), "charge", Resolution::DidNotHappen, "note").wait()),
            kind(inner.release_stuck(&key("order")).wait()),
            kind(inner.forget(&key("order")).wait()),
            kind(inner.revoke(&key("order")).wait()),
            kind(inner.close()),
        ]
    });
    assert_eq!(refused, [ErrorKind::WouldDeadlock; 6]);
    let inner = store.clone();
    inside(&store, move || {
        assert_eq!(inner.progress(&key("order")).unwrap().unwrap().state(), State::Unfinished);
        assert_eq!(inner.progress(&key("outer")).unwrap().unwrap().state(), State::Owned);
        let unfinished: Vec<_> = inner.unfinished().collect::<Result<_>>().unwrap();
        assert_eq!(unfinished.len(), 2);
        assert_eq!(inner.stats().unwrap().unfinished, 2);
        inner.verify().unwrap();
        inner.read(|tx| tx.open_table(ORDERS)?.len()).unwrap().unwrap();
    });
    store.verify().unwrap();
}

#[test]
fn an_expiry_that_must_be_written_down_before_it_is_told_is_not_waited_for_inside() {
    let clock = reentry::ManualClock::at(support::START);
    let store = Store::builder().clock(clock.clone()).retention(Duration::from_secs(1)).in_memory().unwrap();
    run(&store, &key("old")).complete(&()).wait().unwrap();
    let (inner, inner_clock) = (store.clone(), clock);
    let told = inside(&store, move || {
        inner_clock.advance(Duration::from_secs(2));
        inner.progress(&key("old")).map(drop)
    });
    assert!(told.is_ok() || kind(told) == ErrorKind::WouldDeadlock);
    assert!(store.progress(&key("old")).unwrap().is_none());
    settle(&store);
    store.verify().unwrap();
}

#[test]
fn an_answer_that_was_asked_for_outside_is_not_waited_for_inside() {
    for way in WAYS {
        let store = in_memory();
        let mut other = run(&store, &key("other"));
        let owner = run(&store, &key("owned"));
        let waiter = stand_in_line(&store, &key("owned"));
        let refused = inside(&store, move || way.of(waiter).map(drop));
        assert_eq!(kind(refused), ErrorKind::WouldDeadlock);
        owner.complete(&()).wait().unwrap();
        // One that is queued behind the closure cannot come while it runs; one that came before is simply there.
        let (hand_over, taken_over) = channel::<Pending<Revision>>();
        let mut outer = run(&store, &key("outer"));
        let (started, has_started) = channel();
        let (tell, told) = channel();
        let wanted: Mutex<Receiver<_>> = Mutex::new(taken_over);
        let advanced = outer.advance_with("outer", &(), move |_| {
            started.send(())?;
            let pending = wanted.lock().unwrap().recv()?;
            tell.send(way.of(pending).map(drop_revision))?;
            Ok(())
        });
        has_started.recv_timeout(PATIENCE).unwrap();
        hand_over.send(other.advance("behind", &())).unwrap();
        in_time(&store, advanced).unwrap();
        assert_eq!(kind(told.recv().unwrap()), ErrorKind::WouldDeadlock);
        // The change itself is made or not, as for everybody who gives up.
        settle(&store);
        let claimed = store.claim(&key("early"), request());
        settle(&store);
        assert!(matches!(inside(&in_memory(), move || way.of(claimed)).unwrap(), Claim::Run(_)));
        drop((other, outer));
        store.verify().unwrap();
    }
}

#[test]
fn another_stores_calls_are_refused_too_and_it_goes_on() {
    let (store, other) = (in_memory(), in_memory());
    let mut theirs = run(&other, &key("theirs"));
    let inner = other.clone();
    let (theirs_back, refused) = inside(&store, move || {
        let refused = [
            kind(inner.claim(&key("new"), request()).wait()),
            kind(theirs.advance("inner", &()).wait()),
            kind(inner.close()),
        ];
        (theirs, refused)
    });
    assert_eq!(refused, [ErrorKind::WouldDeadlock; 3]);
    theirs_back.complete(&()).wait().unwrap();
    // A store can be opened and given up inside.
    inside(&store, || drop(Store::builder().in_memory().unwrap()));
    other.verify().unwrap();
    store.verify().unwrap();
}

#[test]
fn the_last_handle_may_go_inside() {
    let store = in_memory();
    let other = in_memory();
    inside(&store, move || drop(other));
    // The closure holds the last handle of its own store, and drops it when everybody else has.
    let mut outer = run(&store, &key("outer"));
    let ((go, may_go), (tell, told)) = (channel::<()>(), channel());
    let inner = Mutex::new((Some(store), may_go));
    let pending = outer.complete_with(&(), move |_| {
        let mut inner = inner.lock().unwrap();
        inner.1.recv()?;
        drop(inner.0.take());
        tell.send(())?;
        Ok(())
    });
    drop((pending, outer));
    go.send(()).unwrap();
    told.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn two_stores_whose_closures_drop_each_others_last_handle_both_end() {
    let (one, other) = (in_memory(), in_memory());
    let (mut in_one, mut in_other) = (run(&one, &key("outer")), run(&other, &key("outer")));
    let both = Arc::new(Barrier::new(3));
    let (tell, told) = channel();
    let crosswise = |run: &mut Run, victim: Store| {
        let (both, tell, victim) = (Arc::clone(&both), tell.clone(), Mutex::new(Some(victim)));
        run.complete_with(&(), move |_| {
            both.wait();
            drop(victim.lock().unwrap().take());
            tell.send(())?;
            Ok(())
        })
    };
    let pending = (crosswise(&mut in_one, other), crosswise(&mut in_other, one));
    // Only the closures hold the stores from here on.
    drop((pending, in_one, in_other));
    both.wait();
    for _ in 0..2 {
        told.recv_timeout(PATIENCE).expect("neither waits for the other");
    }
}

#[test]
fn a_resumer_stopped_inside_does_not_wait_for_its_runs() {
    let store = in_memory();
    drop(run(&store, &key("unfinished")));
    let (entered, has_entered) = channel();
    let (go, may_go) = channel::<()>();
    let may_go = Mutex::new(may_go);
    let resumer = Resumer::builder(&store)
        .concurrency(1)
        .start(move |run: Run| {
            entered.send(()).unwrap();
            may_go.lock().unwrap().recv().unwrap();
            run.complete(&()).wait().map(drop)
        })
        .unwrap();
    has_entered.recv_timeout(PATIENCE).unwrap();
    // The function waits for the writer from now on, and the writer is in the closure.
    inside(&store, move || {
        go.send(()).unwrap();
        resumer.stop();
    });
    let outcome = match store.claim(&key("unfinished"), request()).wait().unwrap() {
        Claim::Replay(outcome) => outcome,
        Claim::Wait(busy) => match in_time(&store, busy.outcome()).unwrap() {
            Claim::Replay(outcome) => outcome,
            other => panic!("it finishes what it is at: {other:?}"),
        },
        other => panic!("it finishes what it is at: {other:?}"),
    };
    assert!(outcome.is_success());
    store.verify().unwrap();
}

#[test]
fn a_reader_may_call_the_store_and_even_close_it() {
    let store = in_memory();
    let mut outer = run(&store, &key("outer"));
    outer.advance_with("row", &(), |tx| Ok(tx.open_table(ORDERS)?.insert("1", "row").map(drop)?)).wait().unwrap();
    let inner = store.clone();
    let (tell, told) = channel();
    std::thread::spawn(move || {
        let read = inner.read(|tx| {
            does(&mut outer, "charge", "paid");
            outer.complete(&()).wait()?;
            let row = tx.open_table(ORDERS)?.get("1")?;
            let closed = inner.close().map_err(|error| error.kind());
            // What it still reads after that is an error or a row, and no panic.
            drop(tx.open_table(ORDERS).and_then(|rows| rows.get("1")));
            Ok::<_, reentry::Error>((closed, row))
        });
        drop(inner);
        tell.send(read).unwrap();
    });
    let (closed, row) = told.recv_timeout(PATIENCE).expect("the reader hangs").unwrap().unwrap();
    assert!(matches!(closed, Ok(()) | Err(ErrorKind::Failed | ErrorKind::WouldDeadlock)), "{closed:?}");
    assert_eq!(row.as_deref(), Some(&b"row"[..]));
}

/// Calls the store when it is dropped.
struct CallsWhenDropped(Store, Arc<Mutex<Vec<ErrorKind>>>);

impl fmt::Debug for CallsWhenDropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallsWhenDropped")
    }
}

impl fmt::Display for CallsWhenDropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("calls when dropped")
    }
}

impl std::error::Error for CallsWhenDropped {}

impl Drop for CallsWhenDropped {
    fn drop(&mut self) {
        let claim = self.0.claim(&key("while dropped"), request()).wait();
        self.1.lock().unwrap().push(claim.map_or_else(|error| error.kind(), |_| ErrorKind::Io));
    }
}

#[test]
fn what_a_closure_holds_returns_or_panics_with_may_call_the_store_when_it_is_dropped() {
    let gate = Gate::new();
    let store = Store::builder().clock(gate.clone()).in_memory().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let caller = || CallsWhenDropped(store.clone(), Arc::clone(&seen));
    let mut outer = run(&store, &key("outer"));
    let held = caller();
    let advanced = outer.advance_with("held", &(), move |_| {
        black_box(&held);
        Ok(())
    });
    in_time(&store, advanced).unwrap();
    settle(&store);
    // The answer of the next two is given up, so what they bring is dropped by the store.
    let (mut error, mut panic) = (Some(caller()), Some(caller()));
    gate.hold(&store);
    drop(outer.advance_with("error", &(), move |_| Err(Box::new(error.take().unwrap()))));
    drop(outer.advance_with("panic", &(), move |_| panic_any(panic.take().unwrap())));
    gate.open();
    in_time(&store, store.revoke(&key("settle"))).unwrap();
    assert_eq!(*seen.lock().unwrap(), [ErrorKind::WouldDeadlock; 3]);
    outer.complete(&()).wait().unwrap();
    store.verify().unwrap();
}

/// Panics when it is dropped, with another of its kind, so often.
#[derive(Debug)]
struct PanicsWhenDropped(u8);

impl fmt::Display for PanicsWhenDropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("panics when dropped")
    }
}

impl std::error::Error for PanicsWhenDropped {}

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        if let Some(left) = self.0.checked_sub(1) {
            panic_any(Self(left));
        }
    }
}

#[test]
fn p8_a_panic_in_dropping_what_a_closure_left_stops_nobody_else() {
    let gate = Gate::new();
    let store = Store::builder().clock(gate.clone()).in_memory().unwrap();
    let mut outer = run(&store, &key("outer"));
    for often in 1..=3 {
        let aborted = outer.advance_with("panic", &(), move |_| panic_any(PanicsWhenDropped(often)));
        assert_eq!(kind(in_time(&store, aborted)), ErrorKind::Aborted);
        let held = PanicsWhenDropped(often);
        let advanced = outer.advance_with("held", &(), move |_| {
            black_box(&held);
            Ok(())
        });
        in_time(&store, advanced).unwrap();
        settle(&store);
        // Nobody takes the error, so the store drops it.
        gate.hold(&store);
        drop(outer.advance_with("error", &(), move |_| Err(Box::new(PanicsWhenDropped(often)))));
        gate.open();
        in_time(&store, store.revoke(&key("settle"))).unwrap();
    }
    in_time(&store, outer.complete(&())).map(|_: Outcome| ()).unwrap();
    store.verify().unwrap();
}

/// A waker of an executor that runs its task where it is woken: on the writer's own thread. The task would wait, if
/// only for a moment, and is to be refused.
struct RunsAtOnce(Store, AtomicUsize);

impl Wake for RunsAtOnce {
    fn wake(self: Arc<Self>) {
        let claim = self.0.claim(&key("while woken"), request()).wait_for(Duration::ZERO);
        if claim.is_err_and(|error| error.kind() == ErrorKind::WouldDeadlock) {
            self.1.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Has a task run on the writer's thread of this store.
#[track_caller]
fn wake_on_its_thread(store: &Store, gate: &Gate) {
    gate.hold(store);
    let waker = Arc::new(RunsAtOnce(store.clone(), AtomicUsize::new(0)));
    let mut pending = store.claim(&key("order"), request());
    let polled = std::pin::Pin::new(&mut pending).poll(&mut Context::from_waker(&Waker::from(Arc::clone(&waker))));
    assert!(matches!(polled, Poll::Pending));
    gate.open();
    in_time(store, store.revoke(&key("settle"))).unwrap();
    assert!(matches!(in_time(store, pending).unwrap(), Claim::Run(_)));
    assert_eq!(waker.1.load(Ordering::SeqCst), 1, "it was refused on the writer's thread");
    store.verify().unwrap();
}

#[test]
fn a_waker_that_runs_its_task_at_once_does_not_hang_the_store() {
    let gate = Gate::new();
    let store = Store::builder().clock(gate.clone()).in_memory().unwrap();
    wake_on_its_thread(&store, &gate);
}

#[test]
fn nor_does_one_that_is_woken_where_closures_ran_before() {
    let gate = Gate::new();
    let store = Store::builder().clock(gate.clone()).in_memory().unwrap();
    inside(&store, || ());
    wake_on_its_thread(&store, &gate);
    let mut outer = run(&store, &key("outer"));
    let panics = outer.advance_with("panic", &(), |_| panic_any("no flour"));
    assert_eq!(kind(in_time(&store, panics)), ErrorKind::Aborted);
    wake_on_its_thread(&store, &gate);
}
