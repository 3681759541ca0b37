//! What races with a step's result, with a closure that fails, and with a claim that is not on disk: in each order, in
//! one batch, with the writer held still, so that no test depends on how threads are scheduled.

#![allow(clippy::panic, reason = "a test that fails says why")]

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use reentry::{
    Claim, EffectId, Error, ErrorKind, Fingerprint, Key, Loss, Pending, Progress, Request, Resolution, Revision, Run,
    SimulatedDisk, State, StepState, Store, Table, Transaction, not_applied,
};

mod support;

use support::{Gate, PATIENCE, Wakes, key, poll, request, run, run_of, stand_in_line, until};

const LEASE: Duration = Duration::from_secs(60);
/// How often a full disk is tried where the store was too slow.
const TRIES: usize = 20;

const ROWS: Table = Table::new("rows");

type Source = Box<dyn std::error::Error + Send + Sync>;

fn store(gate: &Gate) -> Store {
    Store::builder().clock(gate.clone()).in_memory().unwrap()
}

/// The store that a power cut at this moment leaves.
fn after_a_cut(gate: &Gate, disk: &SimulatedDisk) -> Store {
    let left = disk.cut(disk.calls(), |_| Loss::Lost);
    let store = Store::builder().clock(gate.clock.clone()).open_on(&left).unwrap();
    store.verify().unwrap();
    store
}

fn progress(store: &Store, key: &Key) -> Progress {
    store.progress(key).unwrap().unwrap()
}

/// An effect that gives this, while the writer stands still and `meanwhile` queues what comes before its result.
fn charge(gate: &Gate, store: &Store, run: &mut Run, mut meanwhile: impl FnMut()) -> reentry::Result<String> {
    run.step("charge").run_keyed(|_| {
        gate.hold(store);
        meanwhile();
        Ok::<_, Error>("receipt 7".to_owned())
    })
}

/// The state of the one step there is, and how many late reports it has.
#[track_caller]
fn step(store: &Store, key: &Key) -> (StepState, usize) {
    let progress = progress(store, key);
    let [step] = progress.steps() else { panic!("it has one step: {progress:?}") };
    (step.state(), step.late().len())
}

#[test]
fn p3_p7_a_result_that_comes_beside_a_revocation_counts_as_long_as_nobody_entered() {
    for is_revoked_first in [true, false] {
        let gate = Gate::new();
        let store = store(&gate);
        let key = key("contested");
        let mut owner = run(&store, &key);
        let mut revoked = None;
        let charged = charge(&gate, &store, &mut owner, || {
            if is_revoked_first {
                revoked = Some(store.revoke(&key));
            }
        });
        let revoked = revoked.unwrap_or_else(|| store.revoke(&key));
        assert_eq!(charged.unwrap(), "receipt 7", "nobody had taken it away when the result came");
        gate.open();
        assert!(revoked.wait().unwrap());
        assert_eq!(owner.advance("late", &()).wait().unwrap_err().kind(), ErrorKind::Fenced);
        assert_eq!(step(&store, &key), (StepState::Done, 0));
        let mut next = run(&store, &key);
        let known =
            next.step("charge").run_at_most_once(|_| -> Result<String, Error> { panic!("P4: it has a result") });
        assert_eq!(known.unwrap(), "receipt 7");
        store.verify().unwrap();
    }
}

#[test]
fn p7_a_result_that_comes_behind_the_next_run_is_evidence() {
    let gate = Gate::new();
    let store = store(&gate);
    let key = key("contested");
    let mut owner = run(&store, &key);
    let mut claimed = None;
    let charged = owner.step("charge").run_keyed(|_| {
        assert!(store.revoke(&key).wait().unwrap());
        gate.hold(&store);
        claimed = Some(store.claim(&key, request()));
        Ok::<_, Error>("receipt 7".to_owned())
    });
    assert_eq!(charged.unwrap_err().kind(), ErrorKind::Fenced);
    gate.open();
    let claimed = claimed.unwrap();
    let mut next = run_of(claimed.wait().unwrap());
    assert_eq!(next.attempt(), 2);
    assert_eq!(owner.complete(&()).wait().unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(step(&store, &key), (StepState::InDoubt, 1));
    let progress = progress(&store, &key);
    let late = &progress.steps()[0].late()[0];
    assert_eq!((late.attempt(), late.bytes()), (1, Some(&b"receipt 7"[..])));
    let again = next.step("charge").run_at_most_once(|_| -> Result<String, Error> { panic!("P4: it is in doubt") });
    assert_eq!(again.unwrap_err().kind(), ErrorKind::InDoubt);
    next.resolve("charge", Resolution::Happened(late.bytes().unwrap().to_vec()), "the first run said so")
        .wait()
        .unwrap();
    assert_eq!(step(&store, &key), (StepState::Done, 1));
    store.verify().unwrap();
}

#[test]
fn p7_a_result_races_with_the_takeover_of_a_lapsed_lease() {
    for claims_first in [true, false] {
        let gate = Gate::new();
        let store = Store::builder().clock(gate.clone()).lease(LEASE).in_memory().unwrap();
        let key = key("contested");
        let mut owner = run(&store, &key);
        let mut claimed = None;
        let charged = charge(&gate, &store, &mut owner, || {
            gate.clock.advance(LEASE);
            if claims_first {
                claimed = Some(store.claim(&key, request()));
            }
        });
        let claimed = claimed.unwrap_or_else(|| store.claim(&key, request()));
        assert_eq!(charged.unwrap(), "receipt 7");
        gate.open();
        match claimed.wait().unwrap() {
            Claim::Run(next) => {
                assert!(claims_first, "its result showed that it is at work");
                assert!(next.token() > owner.token());
                assert_eq!(owner.renew().wait().unwrap_err().kind(), ErrorKind::Fenced);
                assert_eq!(step(&store, &key), (StepState::InDoubt, 1));
            }
            Claim::Wait(_) => {
                assert!(!claims_first, "it had lapsed");
                owner.advance("charged", &()).wait().unwrap();
                assert_eq!(step(&store, &key), (StepState::Done, 0));
            }
            other => panic!("{other:?}"),
        }
        store.verify().unwrap();
    }
}

#[test]
fn p3_a_result_is_there_for_whoever_enters_right_behind_it() {
    for stands_in_line in [true, false] {
        let gate = Gate::new();
        let store = store(&gate);
        let key = key("contested");
        let mut owner = run(&store, &key);
        let waits = stands_in_line.then(|| stand_in_line(&store, &key));
        charge(&gate, &store, &mut owner, || ()).unwrap();
        drop(owner);
        let next = waits.unwrap_or_else(|| store.claim(&key, request()));
        gate.open();
        let mut next = run_of(next.wait_for(PATIENCE).unwrap());
        assert_eq!(next.steps()[0].bytes(), Some(&b"receipt 7"[..]));
        let known = next.step("charge").run_keyed(|_| -> Result<String, Error> { panic!("P4: it has a result") });
        assert_eq!(known.unwrap(), "receipt 7");
        assert_eq!(step(&store, &key), (StepState::Done, 0));
        store.verify().unwrap();
    }
}

#[test]
fn p6_p7_a_result_of_a_key_that_was_forgotten_meanwhile_shows_nowhere() {
    for is_begun_anew in [false, true] {
        let gate = Gate::new();
        let store = store(&gate);
        let key = key("contested");
        let mut owner = run(&store, &key);
        let mut queued = None;
        let charged = owner.step("charge").run_keyed(|_| {
            assert!(store.revoke(&key).wait().unwrap());
            if is_begun_anew {
                // Even the step is there again, in doubt.
                assert!(store.forget(&key).wait().unwrap());
                let failed = run(&store, &key).step("charge").run_keyed(|_| Err::<(), _>("a time-out"));
                assert_eq!(failed.unwrap_err().kind(), ErrorKind::EffectFailed);
            }
            gate.hold(&store);
            queued = (!is_begun_anew).then(|| (store.forget(&key), store.claim(&key, request())));
            Ok::<_, Error>("receipt 7".to_owned())
        });
        assert_eq!(charged.unwrap_err().kind(), ErrorKind::Fenced);
        gate.open();
        if let Some((forgotten, claimed)) = queued {
            assert!(forgotten.wait().unwrap());
            assert_eq!(run_of(claimed.wait().unwrap()).attempt(), 1);
            assert_eq!(progress(&store, &key).steps().len(), 0);
        } else {
            support::settle(&store);
            assert_eq!(step(&store, &key), (StepState::InDoubt, 0));
        }
        assert_eq!(owner.renew().wait().unwrap_err().kind(), ErrorKind::Fenced);
        store.verify().unwrap();
    }
}

#[test]
fn p7_a_run_that_ends_the_operation_beside_another_ones_late_result_keeps_both() {
    let gate = Gate::new();
    let store = store(&gate);
    let key = key("contested");
    let mut owner = run(&store, &key);
    let mut ended = None;
    let charged = owner.step("charge").run_keyed(|_| {
        assert!(store.revoke(&key).wait().unwrap());
        let next = run(&store, &key);
        gate.hold(&store);
        ended = Some(next.complete(&"done".to_owned()));
        Ok::<_, Error>("receipt 7".to_owned())
    });
    assert_eq!(charged.unwrap_err().kind(), ErrorKind::Fenced);
    gate.open();
    assert!(ended.unwrap().wait().unwrap().is_success());
    support::settle(&store);
    assert_eq!(step(&store, &key), (StepState::InDoubt, 1));
    let Claim::Replay(outcome) = store.claim(&key, request()).wait().unwrap() else { panic!("it is completed") };
    assert_eq!(outcome.decode::<String>().unwrap(), "done");
    store.verify().unwrap();
}

/// A closure that writes one row, and counts how often it is called.
fn writes(
    name: &'static str,
    calls: &Arc<AtomicUsize>,
) -> impl FnMut(&Transaction<'_>) -> Result<(), Source> + Send + 'static {
    let calls = Arc::clone(calls);
    move |tx| {
        calls.fetch_add(1, Ordering::SeqCst);
        tx.open_table(ROWS)?.insert(name, "written")?;
        Ok(())
    }
}

/// A closure that writes one row, then fails or panics.
fn fails(name: &'static str, panics: bool) -> impl FnMut(&Transaction<'_>) -> Result<(), Source> + Send + 'static {
    move |tx| {
        tx.open_table(ROWS)?.insert(name, "must not be there")?;
        if panics {
            // Past the panic hook, which would only fill the output.
            std::panic::resume_unwind(Box::new("the closure dies"));
        }
        Err("the order has no address".into())
    }
}

fn rows(store: &Store) -> Vec<String> {
    let rows = store.read(|tx| {
        let rows: reentry::Result<Vec<_>> = tx.open_table(ROWS)?.range(..)?.collect();
        rows
    });
    rows.unwrap().unwrap().into_iter().map(|(key, _)| String::from_utf8(key).unwrap()).collect()
}

#[test]
fn p8_closures_that_fail_take_nobody_along_who_shares_their_batch() {
    let gate = Gate::new();
    let disk = SimulatedDisk::new();
    let store = Store::builder().clock(gate.clone()).open_on(&disk).unwrap();
    let mut runs: Vec<_> = (0..6).map(|nth| run(&store, &key(&nth.to_string()))).collect();
    let mut tokens: BTreeSet<u64> = runs.iter().map(Run::token).collect();
    let newest = *tokens.last().unwrap();
    let (waits, wakes) = (stand_in_line(&store, &key("3")), Wakes::new());
    let mut waits = [waits, stand_in_line(&store, &key("5"))];
    assert!(waits.iter_mut().all(|waits| poll(waits, &wakes).is_pending()));
    let calls = Arc::new(AtomicUsize::new(0));
    gate.hold(&store);
    let claimed: [Pending<Claim>; 2] = [store.claim(&key("new"), request()), store.claim(&key("new"), request())];
    let good = runs[0].advance_with("good", &(), writes("0", &calls));
    let failed = runs[1].advance_with("bad", &(), fails("1", false));
    // The same key again, behind its own failure: decided as if that had never been.
    let behind = runs[1].advance("behind", &());
    let deferred = store.claim(&key("deferred"), Request::from(request()).deferred());
    let panicked = runs[2].complete_with(&(), fails("2", true));
    let told = store.claim(&key("2"), request());
    let completed = runs[3].complete_with(&(), writes("3", &calls));
    let lost = runs[3].advance("lost", &());
    let forgotten = store.forget(&key("3"));
    let newcomer = store.claim(&key("last"), request());
    let failed_again = runs[4].complete_with(&(), fails("4", false));
    let mut given_up = runs.pop().unwrap();
    drop(given_up.advance_with("nobody waits", &(), fails("5", false)));
    drop(given_up);
    gate.open();
    support::settle(&store);
    assert_eq!(wakes.count(), 2, "nobody is told twice");
    assert_eq!(good.wait().unwrap().get(), 1);
    for aborted in [failed.wait().map(drop), panicked.wait().map(drop), failed_again.wait().map(drop)] {
        assert_eq!(aborted.unwrap_err().kind(), ErrorKind::Aborted);
    }
    assert_eq!(behind.wait().unwrap().get(), 1, "its expectation holds: the one before it changed nothing");
    assert!(matches!(told.wait().unwrap(), Claim::Wait(_)), "P7: who failed owns it still");
    assert!(completed.wait().unwrap().is_success());
    assert_eq!(lost.wait().unwrap_err().kind(), ErrorKind::Fenced);
    assert!(forgotten.wait().unwrap());
    let [first, second] = claimed.map(|claim| claim.wait().unwrap());
    assert!(matches!(second, Claim::Wait(_)), "P1");
    let granted = [first, deferred.wait().unwrap(), newcomer.wait().unwrap()].map(run_of);
    for run in &granted {
        assert!(run.token() > newest && tokens.insert(run.token()), "P7: {} of {tokens:?}", run.token());
    }
    assert!(granted.is_sorted_by_key(Run::token), "in the order in which they came");
    let [replayed, entered] = waits.map(|waits| waits.wait_for(PATIENCE).unwrap());
    assert!(matches!(replayed, Claim::Replay(_)));
    assert_eq!(run_of(entered).attempt(), 2);
    assert_eq!(rows(&store), ["0", "3"]);
    assert!(calls.load(Ordering::SeqCst) >= 2);
    assert!(runs[1].complete_with(&(), writes("1", &calls)).wait().is_ok(), "who failed goes on");
    let after_the_cut = after_a_cut(&gate, &disk);
    assert_eq!(rows(&after_the_cut), ["0", "1", "3"]);
    assert_eq!(progress(&after_the_cut, &key("2")).state(), State::Unfinished);
    assert_eq!(progress(&after_the_cut, &key("1")).state(), State::Succeeded);
    assert!(after_the_cut.progress(&key("3")).unwrap().is_none());
    assert!(after_the_cut.progress(&key("deferred")).unwrap().is_none(), "nothing was done with it");
    store.verify().unwrap();
}

#[test]
fn p1_p5_a_deferred_claim_and_a_durable_one_in_one_batch_make_one_run() {
    for is_deferred_first in [true, false] {
        let (gate, disk) = (Gate::new(), SimulatedDisk::new());
        let store = Store::builder().clock(gate.clone()).open_on(&disk).unwrap();
        let key = key("contested");
        let syncs = disk.syncs();
        gate.hold(&store);
        let deferred = || store.claim(&key, Request::from(request()).deferred());
        let durable = || store.claim(&key, request());
        let (first, second) = if is_deferred_first { (deferred(), durable()) } else { (durable(), deferred()) };
        let other = store.claim(&key, Fingerprint::of("another request"));
        let unknown = store.claim_unfinished(&key);
        let forgotten = store.forget(&key);
        gate.open();
        let mut run = run_of(first.wait().unwrap());
        assert!(matches!(second.wait().unwrap(), Claim::Wait(_)));
        assert!(matches!(other.wait().unwrap(), Claim::Reject(_)));
        assert!(matches!(unknown.wait().unwrap(), Claim::Wait(_)));
        assert_eq!(forgotten.wait().unwrap_err().kind(), ErrorKind::Busy);
        assert_eq!(disk.syncs() - syncs, usize::from(!is_deferred_first), "a deferred claim waits for no sync");
        let waits = stand_in_line(&store, &key);
        run.step("charge").run_keyed(|_| Ok::<_, Error>(())).unwrap();
        drop(run);
        assert_eq!(run_of(waits.wait_for(PATIENCE).unwrap()).attempt(), 2);
        store.verify().unwrap();
    }
}

#[test]
fn p1_p7_a_deferred_claim_that_is_given_up_leaves_the_key_to_those_in_line_as_if_it_had_never_been() {
    let gate = Gate::new();
    let store = store(&gate);
    let key = key("contested");
    let deferred = || store.claim(&key, Request::from(request()).deferred());
    let owner = run_of(deferred().wait().unwrap());
    let Claim::Wait(busy) = store.claim_unfinished(&key).wait().unwrap() else { panic!("it is owned") };
    let (unknown, second) = (busy.outcome(), stand_in_line(&store, &key));
    drop(owner);
    assert_eq!(unknown.wait_for(PATIENCE).unwrap_err().kind(), ErrorKind::NotFound);
    let second = run_of(second.wait_for(PATIENCE).unwrap());
    assert_eq!((second.attempt(), progress(&store, &key).state()), (1, State::Owned));
    drop(second);
    assert!(store.forget(&key).wait().unwrap());
    // All of it in one batch: taken away, it is no more, and another request may have the key.
    gate.hold(&store);
    let (claimed, revoked) = (deferred(), store.revoke(&key));
    let (other, forgotten) = (store.claim(&key, Fingerprint::of("another request")), store.forget(&key));
    gate.open();
    let (first, other) = (run_of(claimed.wait().unwrap()), run_of(other.wait().unwrap()));
    assert!(revoked.wait().unwrap());
    assert_eq!(forgotten.wait().unwrap_err().kind(), ErrorKind::Busy);
    assert_eq!(other.attempt(), 1);
    assert!(other.token() > first.token());
    assert_eq!(first.complete(&()).wait().unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(progress(&store, &key).fingerprint(), Fingerprint::of("another request"));
    store.verify().unwrap();
}

#[test]
fn p2_a_deferred_run_whose_first_change_races_with_everybody_elses_is_on_disk_once() {
    let (gate, disk) = (Gate::new(), SimulatedDisk::new());
    let store = Store::builder().clock(gate.clone()).open_on(&disk).unwrap();
    let key = key("contested");
    let mut owner = run_of(store.claim(&key, Request::of("two pizzas").deferred()).wait().unwrap());
    gate.hold(&store);
    let webhook = store.advance(&key, Revision::NONE, "paid", &());
    let lost = owner.advance("cooked", &());
    let stuck = store.release_stuck(&key);
    gate.open();
    assert!(matches!(webhook.wait().unwrap(), reentry::Advance::Moved(_)));
    assert_eq!(lost.wait().unwrap_err().kind(), ErrorKind::Conflict);
    assert!(stuck.wait().unwrap());
    assert_eq!(store.stats().unwrap().unfinished, 1);
    let after_the_cut = after_a_cut(&gate, &disk);
    let left = progress(&after_the_cut, &key);
    assert_eq!(
        (left.attempt(), left.request(), left.checkpoint().unwrap().name()),
        (1, Some(&b"two pizzas"[..]), "paid")
    );
    owner.complete(&()).wait().unwrap();
    store.verify().unwrap();
}

/// Found by the storm: the claim behind had been queued before the result, and was decided between the drop of the run
/// and its result.
#[test]
fn p3_p7_a_result_that_came_before_its_run_gave_way_is_there_for_a_claim_that_was_queued_before_it() {
    let gate = Gate::new();
    let store = store(&gate);
    let key = key("contested");
    let mut first = run(&store, &support::key("first"));
    let mut second = run(&store, &support::key("second"));
    // As long as nothing of it is on disk, a claim of it goes to the writer.
    let mut owner = run_of(store.claim(&key, Request::from(request()).deferred()).wait().unwrap());
    gate.hold(&store);
    // The writer may have been held before it took what woke it.
    let queued = store.stats().unwrap().queued;
    let claimed = thread::scope(|scope| {
        let charged = scope.spawn(move || {
            owner.step("charge").run_keyed(|_| Ok::<_, Error>("receipt 7".to_owned())).unwrap();
        });
        until("the intent is queued", || store.stats().unwrap().queued > queued);
        let (blocks, first_batch) = blocks();
        drop(first.advance_with("first", &(), blocks));
        gate.open();
        first_batch.has_come();
        let (blocks, second_batch) = self::blocks();
        drop(second.advance_with("second", &(), blocks));
        let claimed = store.claim(&key, request());
        first_batch.go();
        second_batch.has_come();
        charged.join().unwrap();
        second_batch.go();
        claimed
    });
    let mut next = run_of(claimed.wait().unwrap());
    assert_eq!(next.attempt(), 2);
    let known = next.step("charge").run_at_most_once(|_| -> Result<String, Error> { panic!("P4: it has a result") });
    assert_eq!(known.unwrap(), "receipt 7");
    assert_eq!(step(&store, &key), (StepState::Done, 0));
    store.verify().unwrap();
}

/// The other end of a closure that holds its batch up.
struct Blocked {
    is_in_batch: mpsc::Receiver<()>,
    go: mpsc::Sender<()>,
}

impl Blocked {
    fn has_come(&self) {
        self.is_in_batch.recv_timeout(PATIENCE).unwrap();
    }

    fn go(&self) {
        self.go.send(()).unwrap();
    }
}

/// A closure that writes nothing, and holds its batch up until it is told to go on.
fn blocks() -> (impl FnMut(&Transaction<'_>) -> Result<(), Source> + Send + 'static, Blocked) {
    let ((come, is_in_batch), (go, goes)) = (mpsc::channel(), mpsc::channel());
    let closure = move |_: &Transaction<'_>| {
        come.send(())?;
        goes.recv()?;
        Ok(())
    };
    (closure, Blocked { is_in_batch, go })
}

/// A store whose disk is full in one batch and has room in the next: `run` does its part while the first one fails.
struct FullOnce {
    gate: Gate,
    disk: SimulatedDisk,
    store: Store,
    large: Run,
}

impl FullOnce {
    fn new() -> Self {
        let (gate, disk) = (Gate::new(), SimulatedDisk::new());
        let store = Store::builder().clock(gate.clone()).open_on(&disk).unwrap();
        let large = run(&store, &key("large"));
        Self { gate, disk, store, large }
    }

    /// What is queued by now shares a batch that finds no room; what `meanwhile` queues is in the next one, which does.
    fn fail_a_batch<T>(&mut self, meanwhile: impl FnOnce() -> T) -> T {
        let (mut blocks, batch) = blocks();
        let refused = self.large.advance_with("large", &(), move |tx| {
            blocks(tx)?;
            tx.open_table(ROWS)?.insert("large", vec![7; 1024 * 1024])?;
            Ok(())
        });
        self.disk.set_room(Some(self.store.stats().unwrap().disk_bytes));
        self.gate.open();
        batch.has_come();
        let queued = meanwhile();
        self.gate.shut_behind_a_fault();
        batch.go();
        assert_eq!(refused.wait().unwrap_err().kind(), ErrorKind::Full);
        self.disk.set_room(None);
        // The store leaves a full disk alone for a while. Nobody answers this as long as the gate is shut.
        let tired = self.store.revoke(&key("nobody")).wait_for(Duration::from_millis(100));
        assert!(tired.is_err(), "the writer stands at the gate");
        self.gate.open();
        queued
    }

    fn after_the_cut(&self) -> Store {
        after_a_cut(&self.gate, &self.disk)
    }
}

/// Found by reading: the full disk refused the result alone, and the checkpoint behind it was on disk without it.
#[test]
fn p3_a_result_that_a_full_disk_refused_is_not_overtaken_by_the_runs_next_call() {
    assert!((0..TRIES).any(|_| a_result_is_refused_and_a_checkpoint_made()), "the disk was never mended in time");
}

/// Whether the checkpoint was made: a store that took long to open leaves a full disk alone for longer.
fn a_result_is_refused_and_a_checkpoint_made() -> bool {
    let mut full = FullOnce::new();
    let (key, store) = (key("contested"), full.store.clone());
    let mut owner = run(&store, &key);
    charge(&full.gate, &store, &mut owner, || ()).unwrap();
    let moved = full.fail_a_batch(|| owner.advance("charged", &()));
    // Whether it is refused or made: never without the result.
    let is_moved = moved.wait().is_ok();
    let left = full.after_the_cut();
    assert_eq!(progress(&left, &key).checkpoint().is_some(), is_moved);
    if is_moved {
        assert_eq!(step(&left, &key), (StepState::Done, 0));
    }
    if !is_moved {
        return false;
    }
    owner.complete(&()).wait().unwrap();
    assert_eq!(step(&full.after_the_cut(), &key), (StepState::Done, 0));
    store.verify().unwrap();
    is_moved
}

/// Found by reading: what was not applied was reported anew, behind the intent of the next try, and withdrew that.
#[test]
fn p4_that_a_try_was_not_applied_says_nothing_of_the_next_one_whatever_a_full_disk_refused() {
    assert!((0..TRIES).any(|_| a_try_is_not_applied_and_the_next_one_times_out()), "the disk was never mended in time");
}

fn a_try_is_not_applied_and_the_next_one_times_out() -> bool {
    let mut full = FullOnce::new();
    let (key, store) = (key("contested"), full.store.clone());
    let mut owner = run(&store, &key);
    let gate = full.gate.clone();
    let refused = owner.step("charge").run_keyed(|_| {
        gate.hold(&store);
        Err::<(), _>(not_applied("the bank is closed"))
    });
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::NotApplied);
    {
        let times_out = async |_: EffectId| Err::<(), _>("a time-out");
        let mut again = pin!(owner.step("charge").run_keyed_async(times_out));
        let mut context = Context::from_waker(Waker::noop());
        full.fail_a_batch(|| assert!(again.as_mut().poll(&mut context).is_pending()));
        let mut answer = None;
        until("the second try has ended", || {
            let Poll::Ready(ended) = again.as_mut().poll(&mut context) else { return false };
            answer = Some(ended);
            true
        });
        let kind = answer.unwrap().unwrap_err().kind();
        if kind == ErrorKind::Full {
            return false;
        }
        assert_eq!(kind, ErrorKind::EffectFailed);
    }
    owner.advance("later", &()).wait().unwrap();
    assert_eq!(step(&store, &key), (StepState::InDoubt, 0), "the second try may have happened");
    assert_eq!(step(&full.after_the_cut(), &key), (StepState::InDoubt, 0));
    store.verify().unwrap();
    true
}
