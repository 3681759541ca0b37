//! Losing an operation: revoked, or taken over after a lease. The run that lost it changes nothing any more; what it
//! reports late is kept as evidence. Tokens only grow.

mod support;

use std::pin::Pin;
use std::time::Duration;

use reentry::{
    Claim, ErrorKind, Failure, Fingerprint, Key, Late, Loss, ManualClock, Payload, Request, Resolution, Result, Run,
    SimulatedDisk, State, StepState, Store, not_applied,
};
use support::{
    Gate, LULL, MODES, Mode, PATIENCE, START, Wakes, after_a_cut, does, guard, key, kind, lull, never, poll,
    poll_at_most, request, run, run_of, settle, stand_in_line, step_of, times_out,
};

const LEASE: Duration = Duration::from_secs(10);
const MILLI: Duration = Duration::from_millis(1);
/// The longest time that does not end a lease.
const ALMOST: Duration = Duration::from_millis(9_999);

fn in_memory() -> Store {
    Store::builder().in_memory().unwrap()
}

fn leased() -> (Store, ManualClock) {
    let clock = ManualClock::at(START);
    (Store::builder().clock(clock.clone()).lease(LEASE).in_memory().unwrap(), clock)
}

#[track_caller]
fn assert_waits(store: &Store, key: &Key) {
    let claim = store.claim(key, request()).wait().unwrap();
    assert!(matches!(claim, Claim::Wait(_)), "{claim:?}");
}

/// What is kept of late reports of a step: which attempt, and what it said.
fn evidence(store: &Store, key: &Key, step: &str) -> Vec<(u32, Option<Vec<u8>>)> {
    settle(store);
    let of = |late: &Late| (late.attempt(), late.bytes().map(<[u8]>::to_vec));
    step_of(store, key, step).unwrap().late().iter().map(of).collect()
}

/// Every call that a run has, and that fails for a fenced one; those that consume a run are not among them.
fn calls_of(run: &mut Run) -> Vec<(&'static str, ErrorKind)> {
    let happened = Resolution::Happened(Vec::new());
    let refused = |_: &reentry::Transaction<'_>| -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        panic!("no row of a fenced run is written")
    };
    let find = |_| Ok::<_, Failure>(None::<String>);
    let found = |_| Ok::<_, Failure>(Some("found".to_owned()));
    vec![
        ("advance", kind(run.advance("late", &()).wait())),
        ("advance_with", kind(run.advance_with("late", &(), refused).wait())),
        ("complete_with", kind(run.complete_with(&(), refused).wait())),
        ("fail_with", kind(run.fail_with(&(), refused).wait())),
        ("renew", kind(run.renew().wait())),
        ("refresh", kind(run.refresh())),
        ("resolve", kind(run.resolve("doubtful", happened, "late").wait())),
        ("a new step", kind(run.step("new").run_keyed(never::<()>))),
        ("a new step at most once", kind(run.step("newer").run_at_most_once(never::<()>))),
        ("a step in doubt, keyed", kind(run.step("doubtful").run_keyed(never::<String>))),
        ("a step in doubt, not found", kind(run.step("doubtful").recheck(find).run(never::<String>))),
        ("a step in doubt, found", kind(run.step("doubtful").recheck(found).run(never::<String>))),
        ("a recorded step", kind(run.step("done").run_keyed(never::<String>))),
    ]
}

/// A run of attempt 2 of an operation that has a step that is done and one that is in doubt.
fn second_run(store: &Store, key: &Key) -> Run {
    let mut first = run(store, key);
    does(&mut first, "done", "x");
    times_out(&mut first, "doubtful");
    drop(first);
    run(store, key)
}

#[test]
fn p7_every_call_of_a_fenced_run_fails_and_changes_nothing() {
    for taken_over in [false, true] {
        let store = in_memory();
        let mut fenced = second_run(&store, &key("order"));
        store.revoke(&key("order")).wait().unwrap();
        let next = taken_over.then(|| run(&store, &key("order")));
        let before = store.progress(&key("order")).unwrap().unwrap();
        for (call, kind) in calls_of(&mut fenced) {
            assert_eq!(kind, ErrorKind::Fenced, "{call}");
        }
        settle(&store);
        let after = store.progress(&key("order")).unwrap().unwrap();
        assert_eq!((after.state(), after.attempt(), after.checkpoint()), (before.state(), before.attempt(), None));
        let states: Vec<_> = after.steps().iter().map(|step| (step.name(), step.state(), step.notes().len())).collect();
        assert_eq!(states, [("done", StepState::Done, 0), ("doubtful", StepState::InDoubt, 0)]);
        drop(fenced);
        assert_eq!(store.stats().unwrap().owned, u64::from(taken_over), "dropping it frees nobody else's operation");
        drop(next);
        store.verify().unwrap();
    }
}

#[test]
fn p7_what_consumes_a_fenced_run_fails_and_changes_nothing() {
    let store = in_memory();
    let ends: [fn(Run) -> Result<reentry::Outcome>; 2] =
        [|run| run.complete(&()).wait(), |run| run.fail(&"no".to_owned()).wait()];
    for end in ends {
        let fenced = second_run(&store, &key("order"));
        store.revoke(&key("order")).wait().unwrap();
        let mut next = run(&store, &key("order"));
        assert_eq!(kind(end(fenced)), ErrorKind::Fenced);
        assert_eq!(store.progress(&key("order")).unwrap().unwrap().state(), State::Owned);
        next.complete_with(&(), |_| Ok(())).wait().unwrap();
        drop(next);
        store.forget(&key("order")).wait().unwrap();
    }
    store.verify().unwrap();
}

#[test]
fn p7_a_result_that_a_fenced_run_reports_late_is_shown_and_never_applied() {
    for mode in MODES {
        let disk = SimulatedDisk::new();
        let store = Store::builder().open_on(&disk).unwrap();
        let order = key("order");
        let mut fenced = run(&store, &order);
        let mut next = None;
        let late = guard(&mut fenced, mode, "charge", |_| {
            store.revoke(&order).wait().unwrap();
            next = Some(run(&store, &order));
            Ok("receipt 7".to_owned())
        });
        assert_eq!(kind(late), ErrorKind::Fenced);
        assert_eq!(evidence(&store, &order, "charge"), [(1, Some(b"receipt 7".to_vec()))]);
        let step = step_of(&store, &order, "charge").unwrap();
        assert_eq!((step.state(), step.bytes()), (StepState::InDoubt, None), "it is not applied");
        // The new run is asked as if nobody had said anything, and can look at the evidence.
        let mut next = next.unwrap();
        assert_eq!(kind(next.step("charge").run_at_most_once(never::<String>)), ErrorKind::InDoubt);
        next.refresh().unwrap();
        assert_eq!(next.steps()[0].late()[0].bytes(), Some(&b"receipt 7"[..]));
        let happened = Resolution::Happened(next.steps()[0].late()[0].bytes().unwrap().to_vec());
        next.resolve("charge", happened, "as the run before reported").wait().unwrap();
        assert_eq!(next.step("charge").run_at_most_once(never::<String>).unwrap(), "receipt 7");
        next.complete(&()).wait().unwrap();
        // It outlasts a restart, the result that was applied, and the outcome.
        assert_eq!(evidence(&after_a_cut(&disk), &order, "charge").len(), 1);
        store.verify().unwrap();
    }
}

/// A run decides by the evidence that the answer to its own step's change shows it.
#[test]
fn p7_a_run_that_begins_or_resolves_a_step_sees_all_that_was_reported_late_however_large() {
    let receipt = "receipt 7".repeat(500);
    for is_resolved in [false, true] {
        let (store, order, mut next) = (in_memory(), key("order"), None);
        let mut fenced = run(&store, &order);
        let late = fenced.step("charge").run_keyed(|_| {
            store.revoke(&order).wait().unwrap();
            next = Some(run(&store, &order));
            Ok::<_, Failure>(receipt.clone())
        });
        assert_eq!(kind(late), ErrorKind::Fenced);
        settle(&store);
        let mut next = next.unwrap();
        if is_resolved {
            next.resolve("charge", Resolution::DidNotHappen, "asked the bank").wait().unwrap();
        } else {
            does(&mut next, "charge", "receipt 8");
        }
        let steps = next.steps();
        let late: Vec<_> = steps[0].late().iter().map(|late| late.bytes().map(<[u8]>::len)).collect();
        assert_eq!(late, [Some(receipt.len())], "is it resolved: {is_resolved}");
        assert_eq!(steps[0].late()[0].bytes(), Some(receipt.as_bytes()));
        drop(next);
        store.verify().unwrap();
    }
}

#[test]
fn p7_not_applied_reported_late_is_evidence_too_and_withdraws_nothing() {
    let store = in_memory();
    let order = key("order");
    let mut fenced = run(&store, &order);
    let late = fenced.step("charge").run_keyed(|_| {
        store.revoke(&order).wait().unwrap();
        Err::<(), _>(not_applied("closed"))
    });
    assert_eq!(kind(late), ErrorKind::Fenced);
    assert_eq!(evidence(&store, &order, "charge"), [(1, None)]);
    assert_eq!(step_of(&store, &order, "charge").unwrap().state(), StepState::InDoubt);
    // An error says nothing, so there is nothing to keep of it.
    let mut fenced = run(&store, &order);
    let late = fenced.step("charge").run_keyed(|_| {
        store.revoke(&order).wait().unwrap();
        Err::<(), Failure>("timed out".into())
    });
    assert!(late.is_err());
    assert_eq!(evidence(&store, &order, "charge").len(), 1);
    store.verify().unwrap();
}

#[test]
fn p7_what_a_recheck_found_too_late_is_evidence_and_one_that_found_nothing_runs_nothing() {
    let store = in_memory();
    let order = key("order");
    let mut fenced = run(&store, &order);
    times_out(&mut fenced, "charge");
    let find = |_| {
        store.revoke(&order).wait()?;
        Ok::<_, reentry::Error>(Some("receipt 7".to_owned()))
    };
    assert_eq!(kind(fenced.step("charge").recheck(find).run(never::<String>)), ErrorKind::Fenced);
    assert_eq!(evidence(&store, &order, "charge"), [(1, Some(b"receipt 7".to_vec()))]);
    let mut fenced = run(&store, &order);
    let find = |_| {
        store.revoke(&order).wait()?;
        Ok::<_, reentry::Error>(None)
    };
    assert_eq!(kind(fenced.step("charge").recheck(find).run(never::<String>)), ErrorKind::Fenced);
    let step = step_of(&store, &order, "charge").unwrap();
    assert_eq!((step.state(), step.attempt(), step.late().len()), (StepState::InDoubt, 1, 1));
    store.verify().unwrap();
}

#[test]
fn p5_p7_evidence_arrives_after_the_operation_was_completed_and_its_outcome_stays() {
    let clock = ManualClock::at(START);
    let (retention, almost) = (Duration::from_secs(60), Duration::from_millis(59_999));
    let store = Store::builder().clock(clock.clone()).retention(retention).in_memory().unwrap();
    let order = key("order");
    let large = "r".repeat(5_000);
    let mut fenced = run(&store, &order);
    let late = fenced.step("charge").run_keyed(|_| {
        store.revoke(&order).wait().unwrap();
        let mut next = run(&store, &order);
        next.step("charge").recheck(|_| Ok::<_, Failure>(Some("receipt 7".to_owned()))).run(never::<String>).unwrap();
        next.complete(&"the outcome".to_owned()).wait().unwrap();
        clock.advance(almost);
        Ok::<_, Failure>(large.clone())
    });
    assert_eq!(kind(late), ErrorKind::Fenced);
    assert_eq!(evidence(&store, &order, "charge"), [(1, Some(large.into_bytes()))]);
    assert_eq!(step_of(&store, &order, "charge").unwrap().bytes(), Some(&b"receipt 7"[..]));
    let Claim::Replay(outcome) = store.claim(&order, request()).wait().unwrap() else { panic!("it is completed") };
    assert_eq!((outcome.decode::<String>().unwrap().as_str(), outcome.completed_at()), ("the outcome", START));
    store.verify().unwrap();
    // Nor does the late report make its retention begin anew.
    clock.advance(MILLI);
    drop(fenced);
    assert_eq!(run(&store, &order).attempt(), 1);
    settle(&store);
    store.verify().unwrap();
}

#[test]
fn p6_what_is_reported_late_of_a_key_that_began_anew_goes_nowhere() {
    let store = in_memory();
    let order = key("order");
    let mut old = run(&store, &order);
    let mut new = None;
    let late = old.step("charge").run_keyed(|_| {
        store.revoke(&order).wait().unwrap();
        assert!(store.forget(&order).wait().unwrap());
        let mut begun = run(&store, &order);
        assert_eq!((begun.attempt(), begun.steps().len()), (1, 0));
        // The new incarnation has a step of the same name in doubt, of the same attempt.
        times_out(&mut begun, "charge");
        new = Some(begun);
        Ok::<_, Failure>("old".to_owned())
    });
    assert_eq!(kind(late), ErrorKind::Fenced);
    assert_eq!(evidence(&store, &order, "charge"), []);
    assert_eq!(step_of(&store, &order, "charge").unwrap().state(), StepState::InDoubt);
    // Neither does it show where nothing is left at all.
    drop(new);
    let mut old = run(&store, &order);
    let late = old.step("mail").run_keyed(|_| {
        store.revoke(&order).wait().unwrap();
        store.forget(&order).wait().unwrap();
        Ok::<_, Failure>("old".to_owned())
    });
    assert_eq!(kind(late), ErrorKind::Fenced);
    settle(&store);
    assert!(store.progress(&order).unwrap().is_none());
    store.verify().unwrap();
}

#[test]
fn p7_a_report_that_is_overtaken_in_its_own_batch_is_evidence_and_one_that_is_not_is_a_result() {
    let gate = Gate::new();
    let store = Store::builder().clock(gate.clone()).lease(LEASE).in_memory().unwrap();
    for (name, is_entered) in [("revoked", false), ("entered", true)] {
        let order = key(name);
        let mut first = run(&store, &order);
        let (mut claim, mut revoked) = (None, None);
        let result = first.step("charge").run_keyed(|_| {
            // All of it is decided in one batch, in which the report comes last.
            gate.hold(&store);
            if is_entered {
                gate.clock.advance(LEASE);
                claim = Some(store.claim(&order, request()));
            }
            revoked = Some(store.revoke(&order));
            Ok::<_, Failure>("receipt 7".to_owned())
        });
        assert_eq!(result.unwrap(), "receipt 7", "nobody has been told that it lost anything");
        gate.open();
        assert!(revoked.unwrap().wait().unwrap());
        let late = evidence(&store, &order, "charge");
        let state = step_of(&store, &order, "charge").unwrap().state();
        let expected = if is_entered { (StepState::InDoubt, 1) } else { (StepState::Done, 0) };
        assert_eq!((state, late.len()), expected, "{name}");
        assert_eq!(kind(first.advance("late", &()).wait()), ErrorKind::Fenced);
        drop(claim);
    }
    store.verify().unwrap();
}

#[test]
fn of_a_step_the_last_16_late_reports_are_kept() {
    let store = in_memory();
    let order = key("order");
    for attempt in 1..=20_u32 {
        let mut fenced = run(&store, &order);
        let late = fenced.step("charge").run_keyed(|_| {
            store.revoke(&order).wait().unwrap();
            Ok::<_, Failure>(attempt.to_string())
        });
        assert_eq!(kind(late), ErrorKind::Fenced);
    }
    let kept: Vec<_> = evidence(&store, &order, "charge").into_iter().map(|(attempt, _)| attempt).collect();
    assert_eq!(kept, (5..=20).collect::<Vec<_>>());
    store.verify().unwrap();
}

#[test]
fn p7_without_a_lease_an_owner_may_stand_still_for_ever() {
    let clock = ManualClock::at(START);
    let store = Store::builder().clock(clock.clone()).in_memory().unwrap();
    let mut owner = run(&store, &key("order"));
    clock.advance(Duration::from_secs(60 * 60 * 24 * 365 * 100));
    assert_waits(&store, &key("order"));
    owner.renew().wait().unwrap();
    owner.complete(&()).wait().unwrap();
    store.verify().unwrap();
}

#[test]
fn p7_p11_a_lease_lapses_at_its_border_and_not_before_and_the_wall_clock_has_no_say() {
    let (store, clock) = leased();
    let mut owner = run(&store, &key("order"));
    clock.advance(ALMOST);
    clock.set_wall(START + LEASE * 1000);
    assert_waits(&store, &key("order"));
    clock.set_wall(START);
    assert_eq!(store.progress(&key("order")).unwrap().unwrap().state(), State::Owned);
    clock.advance(MILLI);
    assert_eq!(store.progress(&key("order")).unwrap().unwrap().state(), State::Unfinished);
    // As long as nobody takes over, the owner goes on.
    owner.advance("late but alone", &()).wait().unwrap();
    assert_waits(&store, &key("order"));
    clock.advance(LEASE);
    let next = run(&store, &key("order"));
    assert_eq!((next.attempt(), next.checkpoint().unwrap().name()), (2, "late but alone"));
    assert!(next.token() > owner.token());
    assert_eq!(kind(owner.advance("too late", &()).wait()), ErrorKind::Fenced);
    assert_eq!(kind(owner.complete(&()).wait()), ErrorKind::Fenced);
    next.complete(&()).wait().unwrap();
    store.verify().unwrap();
}

/// A call that keeps a lease.
type Keeps = fn(&mut Run);

#[test]
fn p7_whatever_an_owner_does_keeps_its_lease() {
    let keeps: [(&str, Keeps); 9] = [
        ("renew", |run| run.renew().wait().unwrap()),
        ("advance", |run| assert!(run.advance("on", &()).wait().is_ok())),
        ("advance_with", |run| assert!(run.advance_with("on", &(), |_| Ok(())).wait().is_ok())),
        ("a step's intent", |run| times_out(run, "charge")),
        ("a recheck's run", |run| {
            let find = |_| Ok::<_, Failure>(None::<()>);
            let charged = run.step("charge").recheck(find).run(|_| Err::<(), _>("timed out"));
            assert_eq!(kind(charged), ErrorKind::EffectFailed);
        }),
        ("resolve", |run| run.resolve("charge", Resolution::DidNotHappen, "note").wait().unwrap()),
        ("a step's second run", |run| does(run, "charge", "paid")),
        ("an end that is aborted", |run| {
            assert_eq!(kind(run.complete_with(&(), |_| Err("no flour".into())).wait()), ErrorKind::Aborted);
        }),
        ("a failure that is aborted", |run| {
            assert_eq!(kind(run.fail_with(&(), |_| Err("no flour".into())).wait()), ErrorKind::Aborted);
        }),
    ];
    let (store, clock) = leased();
    let mut owner = run(&store, &key("order"));
    for (name, keep) in keeps {
        clock.advance(ALMOST);
        keep(&mut owner);
        // A result is no call that is waited for: it counts from the moment it reaches the writer.
        settle(&store);
        clock.advance(ALMOST);
        let claim = store.claim(&key("order"), request()).wait().unwrap();
        assert!(matches!(claim, Claim::Wait(_)), "{name} keeps the lease: {claim:?}");
    }
    // Looking changes nothing.
    owner.refresh().unwrap();
    let _ = (owner.checkpoint(), owner.steps());
    clock.advance(MILLI);
    drop(run(&store, &key("order")));
    assert_eq!(kind(owner.renew().wait()), ErrorKind::Fenced);
    store.verify().unwrap();
}

#[test]
fn p7_a_lease_lets_nobody_else_touch_the_operation_by_name() {
    let (store, clock) = leased();
    let mut owner = run(&store, &key("order"));
    times_out(&mut owner, "charge");
    clock.advance(LEASE);
    // Lapsed, but not taken over: it may be at its effect still.
    assert_eq!(kind(store.resolve(&key("order"), "charge", Resolution::DidNotHappen, "n").wait()), ErrorKind::Busy);
    assert_eq!(kind(store.forget(&key("order")).wait()), ErrorKind::Busy);
    let other = store.claim(&key("order"), Fingerprint::of("another request")).wait().unwrap();
    assert!(matches!(other, Claim::Reject(_)), "a lapsed lease lets no other request in: {other:?}");
    let Claim::Run(next) = store.claim_unfinished(&key("order")).wait().unwrap() else { panic!("it has lapsed") };
    assert_eq!(next.attempt(), 2);
    drop(owner);
    assert_eq!(store.stats().unwrap().owned, 1, "the old guard frees nothing that is no longer its own");
    drop(next);
    store.verify().unwrap();
}

#[test]
fn p7_a_run_that_is_taken_over_at_its_effect_leaves_evidence() {
    let (store, clock) = leased();
    let order = key("order");
    let mut hung = run(&store, &order);
    let late = hung.step("charge").run_at_most_once(|_| {
        clock.advance(LEASE);
        let mut next = run(&store, &order);
        assert_eq!(kind(next.step("charge").run_at_most_once(never::<String>)), ErrorKind::InDoubt);
        Ok::<_, Failure>("receipt 7".to_owned())
    });
    assert_eq!(kind(late), ErrorKind::Fenced, "even though its successor is gone again");
    assert_eq!(evidence(&store, &order, "charge"), [(1, Some(b"receipt 7".to_vec()))]);
    // Without a takeover the same pause costs nothing.
    let mut slow = run(&store, &key("slow"));
    let result = slow.step("charge").run_at_most_once(|_| {
        clock.advance(LEASE * 100);
        "receipt 8".to_owned().encode().map(|_| "receipt 8".to_owned())
    });
    assert_eq!(result.unwrap(), "receipt 8");
    slow.complete(&()).wait().unwrap();
    store.verify().unwrap();
}

/// A task that is not polled for longer than its lease learns so late that its intent is recorded.
#[test]
fn p4_p7_a_task_that_was_overtaken_between_its_intent_and_its_effect_does_not_begin_it() {
    for mode in MODES {
        let gate = Gate::new();
        let store = Store::builder().clock(gate.clone()).lease(LEASE).in_memory().unwrap();
        let order = key("order");
        let mut hung = run(&store, &order);
        let effect = async |_| -> Result<String, Failure> { panic!("{mode:?}: another run is at work") };
        let mut begins: Pin<Box<dyn Future<Output = Result<String>>>> = match mode {
            Mode::Rechecked => {
                let never = async |_| -> Result<_, Failure> { panic!("it is not in doubt") };
                Box::pin(hung.step("charge").recheck_async(never).run_async(effect))
            }
            Mode::Keyed => Box::pin(hung.step("charge").run_keyed_async(effect)),
            Mode::AtMostOnce => Box::pin(hung.step("charge").run_at_most_once_async(effect)),
        };
        gate.hold(&store);
        assert!(poll_at_most(1, Pin::new(&mut begins)).is_none());
        gate.open();
        settle(&store);
        gate.clock.advance(LEASE);
        let mut next = run(&store, &order);
        next.resolve("charge", Resolution::DidNotHappen, "nothing was sent").wait().unwrap();
        assert_eq!(poll_at_most(1, Pin::new(&mut begins)).map(kind), Some(ErrorKind::Fenced));
        does(&mut next, "charge", "receipt");
    }
}

#[test]
fn p7_a_waiter_gets_its_turn_when_the_lease_lapses() {
    let clock = ManualClock::at(START);
    let builder = Store::builder().clock(clock.clone()).lease(LEASE).retention(LULL).tombstones(LULL * 99);
    let store = builder.in_memory().unwrap();
    lull(&store, &clock);
    let order = key("order");
    let hung = run(&store, &order);
    drop(stand_in_line(&store, &order));
    let (first, second) = (stand_in_line(&store, &order), stand_in_line(&store, &order));
    clock.advance(LEASE);
    // Nobody calls anything: the writer looks by itself.
    let next = run_of(first.wait_for(PATIENCE).unwrap());
    assert_eq!(next.attempt(), 2);
    assert_eq!(kind(hung.complete(&()).wait()), ErrorKind::Fenced);
    // The one behind it waits for the new owner, and follows it in turn.
    let mut second = second;
    assert!(poll(&mut second, &Wakes::new()).is_pending());
    clock.advance(LEASE);
    let last = run_of(second.wait_for(PATIENCE).unwrap());
    assert_eq!(last.attempt(), 3);
    drop(next);
    last.complete(&()).wait().unwrap();
    store.verify().unwrap();
}

#[test]
fn p7_a_lease_under_a_millisecond_is_refused() {
    let open = |lease| Store::builder().lease(lease).in_memory();
    assert_eq!(kind(open(Duration::from_micros(999))), ErrorKind::InvalidConfig);
    let store = open(Duration::MAX).unwrap();
    let _owner = run(&store, &key("order"));
    assert_waits(&store, &key("order"));
    store.verify().unwrap();
}

#[test]
fn p7_tokens_only_grow_over_keys_takeovers_and_power_cuts() {
    let mut disk = SimulatedDisk::new();
    let mut highest = 0;
    let mut told = 0;
    for cycle in 0..30_u32 {
        let store = Store::builder().open_on(&disk).unwrap();
        for nth in 0..4_u32 {
            let order = key(&format!("{}", (cycle + nth) % 5));
            let ask: Request = if nth % 2 == 0 { request().into() } else { Request::from(request()).deferred() };
            let mut owner = match store.claim(&order, ask).wait().unwrap() {
                Claim::Run(run) => run,
                other => panic!("nobody owns it: {other:?}"),
            };
            assert!(owner.token() > highest, "cycle {cycle}: {} after {highest}", owner.token());
            highest = owner.token();
            told += 1;
            match (cycle + nth) % 4 {
                0 => drop(owner),
                1 => does(&mut owner, &format!("step {cycle}"), "x"),
                2 => assert!(store.revoke(&order).wait().unwrap()),
                _ => {
                    drop(owner);
                    store.forget(&order).wait().unwrap();
                }
            }
        }
        let loss = if cycle % 2 == 0 { Loss::Lost } else { Loss::Kept };
        disk = disk.cut(disk.calls(), |_| loss);
    }
    assert_eq!(told, 120);
    Store::builder().open_on(&disk).unwrap().verify().unwrap();
}
