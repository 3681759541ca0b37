//! Results that a run left behind: it is dropped while some of its reports are with the writer and others are not.

#![allow(clippy::panic, reason = "a test that fails says why")]

mod support;

use std::io;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use reentry::{
    Advance, DiskCall, DiskFault, EffectId, Error, ErrorKind, Key, Late, Pending, Resolution, Revision, Run,
    SimulatedDisk, Step, StepState, Store, not_applied,
};
use support::{Gate, PATIENCE, key, kind, request, run, run_of, settle, step_of};

fn lost() -> Result<String, io::Error> {
    Err(io::Error::other("the answer was lost"))
}

/// A recheck that finds the step done.
fn found(name: &'static str) -> impl FnOnce(EffectId) -> Result<Option<String>, Error> {
    move |_| Ok(Some(format!("{name} found")))
}

fn never(_: EffectId) -> Result<String, Error> {
    panic!("P4: it happened")
}

/// A run of `beside` whose change keeps the writer within its batch, until it may go on.
struct Held {
    reached: Receiver<()>,
    go: Sender<()>,
    blocked: Pending<Revision>,
}

impl Held {
    fn new(beside: &mut Run) -> Self {
        let (held, is_held) = channel();
        let (go, may_go) = channel::<()>();
        let may_go = Mutex::new(may_go);
        let blocked = beside.advance_with("cooked", &(), move |_| {
            held.send(())?;
            may_go.lock().unwrap().recv_timeout(PATIENCE)?;
            Ok(())
        });
        Self { reached: is_held, go, blocked }
    }

    fn wait(&self) {
        self.reached.recv_timeout(PATIENCE).unwrap();
    }

    fn go_on(self) {
        self.go.send(()).unwrap();
        self.blocked.wait().unwrap();
    }
}

/// The story: the batch that took in the first report forgot all that the run had left, the second one too.
#[test]
fn p3_what_is_not_taken_in_yet_outlasts_the_batch_that_took_in_the_rest() {
    let store = Store::builder().in_memory().unwrap();
    let key = key("order");
    let mut first = run(&store, &key);
    for name in ["charge", "mail"] {
        first.step(name).run_keyed(|_| lost()).unwrap_err();
    }
    drop(first);
    let mut second = run(&store, &key);
    let mut beside = run(&store, &support::key("beside"));
    settle(&store);
    // The first report is decided, and its batch is held up behind it.
    second.step("charge").recheck(found("charge")).run(never).unwrap();
    let held = Held::new(&mut beside);
    held.wait();
    // The second one comes behind that batch, and a claim before it.
    let claimed = {
        second.step("mail").recheck(found("mail")).run(never).unwrap();
        drop(second);
        held.go_on();
        store.claim(&key, request())
    };
    let mut third = run_of(claimed.wait().unwrap());
    for name in ["charge", "mail"] {
        assert_eq!(third.step(name).run_at_most_once(never).unwrap(), format!("{name} found"));
    }
    drop((third, beside));
    store.verify().unwrap();
}

/// The story: a run left while its report was in a batch that knew the key already, and the report was skipped as one
/// that the run had left behind, which nobody then took in.
#[test]
fn p3_p4_a_run_that_leaves_within_the_batch_of_its_report_loses_no_result() {
    let gate = Gate::new();
    let store = Store::builder().clock(gate.clone()).in_memory().unwrap();
    let key = key("order");
    let mut first = run(&store, &key);
    first.step("charge").run_keyed(|_| lost()).unwrap_err();
    drop(first);
    let mut second = run(&store, &key);
    let mut beside = run(&store, &support::key("beside"));
    settle(&store);
    // One batch: a change that makes the key known to it, one that holds it up, and the report.
    gate.hold(&store);
    let moved = store.advance(&key, Revision::NONE, "called", &());
    let held = Held::new(&mut beside);
    second.step("charge").recheck(found("charge")).run(never).unwrap();
    gate.open();
    held.wait();
    drop(second);
    held.go_on();
    assert!(matches!(moved.wait().unwrap(), Advance::Moved(_)));
    settle(&store);
    let seen = store.progress(&key).unwrap().unwrap();
    assert_eq!(seen.steps()[0].state(), StepState::Done);
    let mut third = run(&store, &key);
    assert_eq!(third.step("charge").run_at_most_once(never).unwrap(), "charge found");
    drop((third, beside));
    store.verify().unwrap();
}

/// The story: a run reported and left while the batch that gave its operation to another was on its way to the disk.
/// What it had left went with the seat, and its report was skipped as one that is taken in from there.
#[test]
fn p7_what_a_run_reports_while_another_takes_over_is_evidence_though_it_leaves_before_that_is_known() {
    for is_of_that_batch in [false, true] {
        let gate = Gate::new();
        let lease = Duration::from_secs(10);
        let store = Store::builder().clock(gate.clone()).lease(lease).in_memory().unwrap();
        let key = key("order");
        let mut beside = run(&store, &support::key("beside"));
        let mut first = run(&store, &key);
        let mut under_way = None;
        let charged = first.step("charge").run_keyed(|_| {
            gate.clock.advance(lease);
            gate.hold(&store);
            let (claimed, held) = (store.claim(&key, request()), Held::new(&mut beside));
            if !is_of_that_batch {
                gate.open();
                held.wait();
            }
            under_way = Some((claimed, held));
            Ok::<_, Error>("receipt".to_owned())
        });
        assert_eq!(charged.unwrap(), "receipt");
        let (claimed, held) = under_way.unwrap();
        if is_of_that_batch {
            gate.open();
            held.wait();
        }
        drop(first);
        held.go_on();
        let second = run_of(claimed.wait().unwrap());
        settle(&store);
        let seen = step_of(&store, &key, "charge").unwrap();
        let late: Vec<_> = seen.late().iter().map(Late::attempt).collect();
        assert_eq!((second.attempt(), seen.state(), late), (2, StepState::InDoubt, vec![1]), "{is_of_that_batch}");
        drop((second, beside));
        store.verify().unwrap();
    }
}

/// The story: a call that waited outside a full queue carried what had been reported when it was made. That was taken
/// in meanwhile, and its step begun anew, which it then withdrew.
#[test]
fn p4_what_was_reported_of_one_try_does_not_withdraw_the_next() {
    let gate = Gate::new();
    let store = Store::builder().clock(gate.clone()).queue_commands_max(1).in_memory().unwrap();
    let mut first = run(&store, &key("order"));
    let refused = first.step("charge").run_at_most_once(|_| {
        gate.hold(&store);
        Err::<String, _>(not_applied("no such card"))
    });
    assert_eq!(kind(refused), ErrorKind::NotApplied);
    // The report has taken the room that there was.
    let advanced = first.advance("tried", &());
    gate.open();
    assert_eq!(kind(first.step("charge").run_at_most_once(|_| lost())), ErrorKind::EffectFailed);
    advanced.wait().unwrap();
    assert_eq!(step_of(&store, &key("order"), "charge").unwrap().state(), StepState::InDoubt);
    drop(first);
    let again = run(&store, &key("order")).step("charge").run_at_most_once(never);
    assert_eq!(kind(again), ErrorKind::InDoubt);
}

/// The story: a full disk had refused the report, so that nothing of it was on its way when its run left, while another
/// took over or once it had.
#[test]
fn p7_what_a_full_disk_refused_is_evidence_too_though_its_run_leaves_as_another_takes_over() {
    what_a_full_disk_refused_is_evidence(false);
    what_a_full_disk_refused_is_evidence(true);
}

fn what_a_full_disk_refused_is_evidence(has_taken_over: bool) {
    let Refused { gate, store, mut beside, first, key } = Refused::new();
    gate.hold(&store);
    let claimed = store.claim(&key, request());
    let held = Held::new(&mut beside);
    gate.open();
    held.wait();
    let mut first = Some(first);
    first.take_if(|_| !has_taken_over);
    held.go_on();
    let mut second = run_of(claimed.wait().unwrap());
    drop(first);
    second.advance("looked", &()).wait().unwrap();
    let seen = step_of(&store, &key, "charge").unwrap();
    assert_eq!((seen.state(), attempts(&seen)), (StepState::InDoubt, vec![1]));
    drop((second, beside));
    store.verify().unwrap();
}

/// The same where the other ends the operation: nobody need come to it any more.
#[test]
fn p7_what_a_full_disk_refused_is_evidence_too_though_its_run_leaves_as_another_ends_the_operation() {
    for has_ended in [false, true] {
        let Refused { gate, store, mut beside, first, key } = Refused::new();
        let second = run(&store, &key);
        gate.hold(&store);
        let ended = second.complete(&"done".to_owned());
        let held = Held::new(&mut beside);
        gate.open();
        held.wait();
        let mut first = Some(first);
        first.take_if(|_| !has_ended);
        held.go_on();
        ended.wait().unwrap();
        drop(first);
        settle(&store);
        let seen = step_of(&store, &key, "charge").unwrap();
        assert_eq!((seen.state(), attempts(&seen)), (StepState::InDoubt, vec![1]), "it had ended: {has_ended}");
        drop(beside);
        store.verify().unwrap();
    }
}

fn attempts(step: &Step) -> Vec<u32> {
    step.late().iter().map(Late::attempt).collect()
}

/// A run whose report a full disk has refused, which has room again, and whose lease is over.
struct Refused {
    gate: Gate,
    store: Store,
    beside: Run,
    first: Run,
    key: Key,
}

impl Refused {
    fn new() -> Self {
        let (gate, disk) = (Gate::new(), SimulatedDisk::new().with_journal(0));
        let (key, lease) = (key("order"), Duration::from_secs(10));
        let builder = Store::builder().clock(gate.clone()).lease(lease).cache_bytes(0);
        let store = builder.open_on(&disk).unwrap();
        let mut beside = run(&store, &support::key("beside"));
        let mut first = run(&store, &key);
        let full = DiskFault::kind(io::ErrorKind::StorageFull).on(&[DiskCall::Write]);
        let charged = first.step("charge").run_keyed(|_| {
            disk.fail([full.for_ever()]);
            Ok::<_, Error>("receipt".to_owned())
        });
        assert_eq!(charged.unwrap(), "receipt");
        drop(store.claim(&support::key("refused"), request()).wait().unwrap_err());
        disk.fail(None);
        support::until("the store has mended itself", || beside.advance("mended", &()).wait().is_ok());
        gate.clock.advance(lease);
        Self { gate, store, beside, first, key }
    }
}

/// The same where it is said by name, by who is no owner.
#[test]
fn p4_what_is_said_by_name_of_one_try_does_not_withdraw_the_next() {
    let gate = Gate::new();
    let store = Store::builder().clock(gate.clone()).queue_commands_max(1).in_memory().unwrap();
    run(&store, &key("order")).step("charge").run_at_most_once(|_| lost()).unwrap_err();
    gate.hold(&store);
    let inside = store.revoke(&key("other"));
    let resolved = store.resolve(&key("order"), "charge", Resolution::DidNotHappen, "nothing is in the ledger");
    gate.open();
    assert!(!inside.wait().unwrap());
    let again = run(&store, &key("order")).step("charge").recheck(|_| Ok::<_, Error>(None)).run(|_| lost());
    assert_eq!(kind(again), ErrorKind::EffectFailed);
    assert_eq!(kind(resolved.wait()), ErrorKind::NotInDoubt);
    assert_eq!(step_of(&store, &key("order"), "charge").unwrap().state(), StepState::InDoubt);
}

/// The same where both tries are of one run.
#[test]
fn p4_what_is_said_of_one_try_of_a_run_does_not_withdraw_its_next() {
    let gate = Gate::new();
    let store = Store::builder().clock(gate.clone()).queue_commands_max(1).in_memory().unwrap();
    let mut order = run(&store, &key("order"));
    order.step("charge").run_at_most_once(|_| lost()).unwrap_err();
    gate.clock.advance(Duration::from_millis(1));
    gate.hold(&store);
    let inside = store.revoke(&key("other"));
    let resolved = order.resolve("charge", Resolution::DidNotHappen, "nothing is in the ledger");
    gate.open();
    assert!(!inside.wait().unwrap());
    let charged = order.step("charge").recheck(|_| Ok::<_, Error>(None)).run(|_| {
        assert_eq!(kind(resolved.wait()), ErrorKind::NotInDoubt);
        Ok::<_, Error>("receipt".to_owned())
    });
    assert_eq!(charged.unwrap(), "receipt");
    drop(order);
    assert_eq!(run(&store, &key("order")).step("charge").run_at_most_once(never).unwrap(), "receipt");
}

/// The story: what somebody said of a step was on its way, outside a full queue, while the run itself began it anew. It
/// came behind that, and withdrew the new try, whose effect then ran again.
#[test]
fn p4_what_is_said_of_one_try_does_not_withdraw_the_next() {
    what_is_said_of_one_try_is_not_said_of_the_next(false);
    what_is_said_of_one_try_is_not_said_of_the_next(true);
}

fn what_is_said_of_one_try_is_not_said_of_the_next(has_asked: bool) {
    let gate = Gate::new();
    let store = Store::builder().clock(gate.clone()).queue_commands_max(1).in_memory().unwrap();
    let key = key("order");
    let mut first = run(&store, &key);
    first.step("charge").run_at_most_once(|_| lost()).unwrap_err();
    drop(first);
    let mut second = run(&store, &key);
    if has_asked {
        assert_eq!(kind(second.step("charge").run_at_most_once(never)), ErrorKind::InDoubt);
    }
    gate.hold(&store);
    let inside = store.revoke(&support::key("other"));
    let resolved = second.resolve("charge", Resolution::DidNotHappen, "nothing is in the ledger");
    gate.open();
    assert!(!inside.wait().unwrap());
    let charged = second.step("charge").recheck(|_| Ok::<_, Error>(None)).run(|_| {
        assert_eq!(kind(resolved.wait()), ErrorKind::NotInDoubt);
        Ok::<_, Error>("receipt".to_owned())
    });
    assert_eq!(charged.unwrap(), "receipt");
    drop(second);
    let mut third = run(&store, &key);
    assert_eq!(third.step("charge").run_at_most_once(never).unwrap(), "receipt");
}
