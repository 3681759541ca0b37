//! The deferred claim: durable with its run's first durable call. Until then it is a claim like any other to those who
//! live, and none at all after a crash.

mod support;

use std::time::{Duration, Instant};

use reentry::{
    Advance, Builder, Claim, ErrorKind, Failure, Fingerprint, Key, Loss, ManualClock, Request, Result, Revision, Run,
    SimulatedDisk, State, StepState, Store,
};
use support::{
    Dice, Gate, PATIENCE, START, after_a_cut, does, full, key, kind, request, run, run_of, settle, stand_in_line,
    step_of,
};

fn deferred() -> Request {
    Request::from(request()).deferred()
}

/// Claims a key that must be free, deferred.
#[track_caller]
fn deferred_run(store: &Store, key: &Key) -> Run {
    run_of(store.claim(key, deferred()).wait().unwrap())
}

fn on_disk(builder: Builder) -> (Store, SimulatedDisk) {
    let disk = SimulatedDisk::new();
    (builder.open_on(&disk).unwrap(), disk)
}

/// How often an operation of so many steps waits for the disk.
fn syncs(steps: usize, request: impl Fn() -> Request) -> usize {
    // What nobody waits for is written after a second, in a sync of its own. A machine that stood still for so long
    // counts one too many, so what took too long is counted again.
    for nth in 0..50 {
        let (store, disk) = on_disk(Store::builder());
        let (began, before) = (Instant::now(), disk.syncs());
        let mut run = run_of(store.claim(&key("order"), request()).wait().unwrap());
        (0..steps).for_each(|nth| does(&mut run, &format!("step {nth}"), "x"));
        run.complete(&"done".to_owned()).wait().unwrap();
        let counted = disk.syncs() - before;
        if began.elapsed() < Duration::from_millis(500) {
            let left = after_a_cut(&disk);
            assert_eq!(left.stats().unwrap().unfinished, 0, "try {nth}: all of it is durable");
            store.verify().unwrap();
            return counted;
        }
    }
    panic!("this machine is too slow to count");
}

#[test]
fn p2_an_operation_of_n_steps_waits_n_plus_1_times_deferred_and_n_plus_2_times_durable() {
    for steps in 0..=5 {
        assert_eq!(syncs(steps, || request().into()), steps + 2, "{steps} steps, durable");
        assert_eq!(syncs(steps, deferred), steps + 1, "{steps} steps, deferred");
    }
}

/// What makes a deferred claim durable.
type First = fn(&Store, &mut Run);

#[test]
fn p2_it_is_durable_with_its_first_durable_call_and_nothing_is_before() {
    let firsts: [(&str, First); 6] = [
        ("an intent", |_, run| does(run, "charge", "paid")),
        ("a checkpoint", |_, run| assert_eq!(run.advance("first", &()).wait().unwrap().get(), 1)),
        ("rows", |_, run| assert_eq!(run.advance_with("first", &(), |_| Ok(())).wait().unwrap().get(), 1)),
        ("an outcome", |_, run| drop(run.complete_with(&(), |_| Ok(())).wait().unwrap())),
        ("a failure", |_, run| drop(run.fail_with(&(), |_| Ok(())).wait().unwrap())),
        ("somebody else's checkpoint", |store, run| {
            let advanced = store.advance(run.key(), Revision::NONE, "theirs", &()).wait().unwrap();
            assert!(matches!(advanced, Advance::Moved(_)));
        }),
    ];
    for (name, first) in firsts {
        let clock = ManualClock::at(START);
        let builder = || Store::builder().clock(clock.clone());
        let (store, disk) = on_disk(builder());
        let calls = disk.calls();
        let mut run = run_of(store.claim(&key("order"), Request::of("two pizzas").deferred()).wait().unwrap());
        assert_eq!((run.attempt(), run.since(), run.request()), (1, START, Some(&b"two pizzas"[..])));
        run.renew().wait().unwrap();
        settle(&store);
        assert_eq!(disk.calls(), calls, "{name}: nothing is written before");
        assert_eq!(store.stats().unwrap().owned, 1);
        first(&store, &mut run);
        let left = builder().open_on(&disk.cut(disk.calls(), |_| Loss::Lost)).unwrap();
        let progress = left.progress(&key("order")).unwrap().expect("it is durable with its first call");
        assert_eq!((progress.attempt(), progress.since(), progress.fingerprint()), (1, START, request()), "{name}");
        left.verify().unwrap();
        drop(run);
        store.verify().unwrap();
    }
}

#[test]
fn p2_it_is_deferred_in_whatever_order_that_and_what_it_keeps_are_said() {
    let pizzas = b"two pizzas".to_vec();
    let asks: [fn(&Vec<u8>) -> Request; 4] = [
        |pizzas| Request::of(pizzas).deferred(),
        |pizzas| Request::from(request()).keep(pizzas).deferred(),
        |pizzas| Request::from(request()).deferred().keep(pizzas),
        |pizzas| Request::of("an earlier text").deferred().keep(pizzas),
    ];
    for (nth, ask) in asks.into_iter().enumerate() {
        let (store, disk) = on_disk(Store::builder());
        let calls = disk.calls();
        let owner = run_of(store.claim(&key("order"), ask(&pizzas)).wait().unwrap());
        assert_eq!((owner.attempt(), owner.request()), (1, Some(&*pizzas)), "{nth}");
        settle(&store);
        assert_eq!(disk.calls(), calls, "{nth}: nothing is written before its first durable call");
        let again = run(&after_a_cut(&disk), &key("order"));
        assert_eq!(again.attempt(), 1, "{nth}: after a crash it was never claimed");
        drop(owner);
        store.verify().unwrap();
    }
}

#[test]
fn p2_p4_it_is_there_with_its_first_intent_when_the_effect_runs() {
    let (store, disk) = on_disk(Store::builder());
    let mut run = deferred_run(&store, &key("order"));
    let charged = run.step("charge").run_at_most_once(|_| {
        let left = after_a_cut(&disk);
        assert_eq!(step_of(&left, &key("order"), "charge").unwrap().state(), StepState::InDoubt);
        Ok::<_, Failure>("paid".to_owned())
    });
    assert_eq!(charged.unwrap(), "paid");
    drop(run);
    assert_eq!(run_of(store.claim(&key("order"), deferred()).wait().unwrap()).attempt(), 2);
    store.verify().unwrap();
}

#[test]
fn p1_p2_a_cut_before_its_first_durable_call_leaves_nothing_of_it() {
    let (store, disk) = on_disk(Store::builder());
    let mut other = run(&store, &key("other"));
    let mut owner = deferred_run(&store, &key("order"));
    // Other operations' durable calls do not make it durable.
    does(&mut other, "charge", "paid");
    other.advance("paid", &()).wait().unwrap();
    for loss in [Loss::Lost, Loss::Kept] {
        let left = Store::builder().open_on(&disk.cut(disk.calls(), |_| loss)).unwrap();
        assert!(left.progress(&key("order")).unwrap().is_none());
        assert_eq!(run(&left, &key("order")).attempt(), 1);
        left.verify().unwrap();
    }
    assert!(store.progress(&key("order")).unwrap().is_none(), "progress tells of what is durable");
    assert_eq!(store.unfinished().count(), 1);
    owner.advance("now", &()).wait().unwrap();
    assert_eq!(store.unfinished().count(), 2);
    store.verify().unwrap();
}

#[test]
fn p1_p5_a_claim_meanwhile_waits_or_is_rejected_like_any_other() {
    let (store, _disk) = on_disk(Store::builder());
    let owner = deferred_run(&store, &key("order"));
    for ask in [Request::from(request()), deferred()] {
        let Claim::Wait(busy) = store.claim(&key("order"), ask).wait().unwrap() else { panic!("it is owned") };
        assert_eq!(busy.attempt(), 1);
    }
    assert!(matches!(store.claim_unfinished(&key("order")).wait().unwrap(), Claim::Wait(_)));
    let another = Request::from(Fingerprint::of("another")).deferred();
    assert!(matches!(store.claim(&key("order"), another).wait().unwrap(), Claim::Reject(_)));
    let waiter = stand_in_line(&store, &key("order"));
    owner.complete(&"done".to_owned()).wait().unwrap();
    let Claim::Replay(outcome) = waiter.wait_for(PATIENCE).unwrap() else { panic!("it is completed") };
    assert_eq!(outcome.decode::<String>().unwrap(), "done");
    store.verify().unwrap();
}

#[test]
fn p1_of_two_deferred_claims_in_one_batch_one_runs_and_one_waits() {
    let gate = Gate::new();
    let store = Store::builder().clock(gate.clone()).in_memory().unwrap();
    gate.hold(&store);
    let claims: Vec<_> = (0..8).map(|_| store.claim(&key("order"), deferred())).collect();
    let others: Vec<_> = (0..8).map(|nth| store.claim(&key(&format!("other {nth}")), deferred())).collect();
    gate.open();
    let claims: Vec<_> = claims.into_iter().map(|claim| claim.wait().unwrap()).collect();
    assert_eq!(claims.iter().filter(|claim| matches!(claim, Claim::Run(_))).count(), 1);
    assert_eq!(claims.iter().filter(|claim| matches!(claim, Claim::Wait(_))).count(), 7);
    let mut tokens: Vec<_> = others.into_iter().map(|claim| run_of(claim.wait().unwrap()).token()).collect();
    tokens.dedup();
    assert!(tokens.len() == 8 && tokens.is_sorted(), "{tokens:?}");
    drop(claims);
    store.verify().unwrap();
}

#[test]
fn p7_a_dropped_deferred_run_leaves_nothing_and_the_next_in_line_runs() {
    let (store, disk) = on_disk(Store::builder());
    let calls = disk.calls();
    let owner = deferred_run(&store, &key("order"));
    let Claim::Wait(busy) = store.claim(&key("order"), deferred()).wait().unwrap() else { panic!("it is owned") };
    let waiter = busy.outcome();
    let token = owner.token();
    drop(owner);
    let next = run_of(waiter.wait_for(PATIENCE).unwrap());
    assert_eq!(next.attempt(), 1, "nothing is left of the run before");
    assert!(next.token() > token);
    next.release();
    settle(&store);
    assert_eq!(disk.calls(), calls);
    // The key belongs to nobody's request again.
    let another = store.claim(&key("order"), Fingerprint::of("another")).wait().unwrap();
    drop(run_of(another));
    assert!(matches!(store.claim(&key("order"), request()).wait().unwrap(), Claim::Reject(_)));
    store.verify().unwrap();
}

#[test]
fn p5_p7_who_waits_for_a_deferred_run_is_rejected_where_another_request_began_instead() {
    let gate = Gate::new();
    let store = Store::builder().clock(gate.clone()).in_memory().unwrap();
    let owner = deferred_run(&store, &key("order"));
    let waiters = [stand_in_line(&store, &key("order")), stand_in_line(&store, &key("order"))];
    gate.hold(&store);
    // It stands in the queue before those who are next in line.
    let faster = store.claim(&key("order"), Fingerprint::of("another"));
    drop(owner);
    gate.open();
    let faster = run_of(faster.wait().unwrap());
    for waiter in waiters {
        let claim = waiter.wait_for(PATIENCE).unwrap();
        assert!(matches!(claim, Claim::Reject(_)), "{claim:?}");
    }
    faster.complete(&()).wait().unwrap();
    store.verify().unwrap();
}

#[test]
fn p7_a_revoked_deferred_run_changes_nothing_and_its_key_begins_anew() {
    let (store, disk) = on_disk(Store::builder());
    let calls = disk.calls();
    let mut fenced = deferred_run(&store, &key("order"));
    assert!(store.revoke(&key("order")).wait().unwrap());
    assert!(!store.revoke(&key("order")).wait().unwrap());
    assert_eq!(kind(fenced.advance("late", &()).wait()), ErrorKind::Fenced);
    assert_eq!(kind(fenced.step("charge").run_keyed(support::never::<()>)), ErrorKind::Fenced);
    assert_eq!(disk.calls(), calls);
    let next = deferred_run(&store, &key("order"));
    assert_eq!((next.attempt(), next.token() > fenced.token()), (1, true));
    assert_eq!(kind(fenced.complete(&()).wait()), ErrorKind::Fenced);
    assert_eq!(kind(store.forget(&key("order")).wait()), ErrorKind::Busy);
    drop(next);
    assert!(!store.forget(&key("order")).wait().unwrap(), "there is nothing to forget");
    store.verify().unwrap();
}

#[test]
fn p1_p7_revoked_and_claimed_anew_in_one_batch_it_is_as_in_two() {
    for fingerprint in [request(), Fingerprint::of("another")] {
        let gate = Gate::new();
        let store = Store::builder().clock(gate.clone()).in_memory().unwrap();
        let fenced = deferred_run(&store, &key("order"));
        gate.hold(&store);
        let revoked = store.revoke(&key("order"));
        let claimed = store.claim(&key("order"), Request::from(fingerprint).deferred());
        gate.open();
        assert!(revoked.wait().unwrap());
        let next = run_of(claimed.wait().unwrap());
        assert_eq!(next.attempt(), 1, "nothing is left of the run before");
        assert_eq!(kind(fenced.complete(&()).wait()), ErrorKind::Fenced);
        next.complete(&()).wait().unwrap();
        store.verify().unwrap();
    }
}

#[test]
fn p7_a_deferred_run_whose_lease_lapses_is_entered_again() {
    let (clock, lease) = (ManualClock::at(START), Duration::from_secs(10));
    let (store, disk) = on_disk(Store::builder().clock(clock.clone()).lease(lease));
    let mut hung = deferred_run(&store, &key("order"));
    let waiter = stand_in_line(&store, &key("order"));
    clock.advance(lease);
    let next = run_of(waiter.wait_for(PATIENCE).unwrap());
    assert!(next.token() > hung.token());
    assert_eq!(kind(hung.advance("late", &()).wait()), ErrorKind::Fenced);
    drop(hung);
    assert_eq!(store.stats().unwrap().owned, 1);
    next.complete(&()).wait().unwrap();
    let left = Store::builder().clock(clock).open_on(&disk.cut(disk.calls(), |_| Loss::Lost)).unwrap();
    assert_eq!(left.progress(&key("order")).unwrap().unwrap().state(), State::Succeeded);
    store.verify().unwrap();
}

#[test]
fn what_a_full_store_may_not_keep_is_refused_at_the_claim_or_at_the_first_durable_call() {
    let store = Store::builder().operations_max(2).in_memory().unwrap();
    drop(run(&store, &key("one")));
    let (mut second, mut third) = (deferred_run(&store, &key("two")), deferred_run(&store, &key("three")));
    second.advance("first", &()).wait().unwrap();
    assert_eq!(kind(store.claim(&key("four"), deferred()).wait()), ErrorKind::Capacity);
    assert_eq!(kind(third.step("charge").run_keyed(support::never::<()>)), ErrorKind::Capacity);
    assert_eq!(kind(third.advance("first", &()).wait()), ErrorKind::Capacity);
    store.forget(&key("one")).wait().unwrap();
    third.advance("first", &()).wait().unwrap();
    assert_eq!(store.stats().unwrap().operations, 2);
    store.verify().unwrap();
}

#[test]
fn p6_a_key_whose_old_row_is_still_there_begins_anew_durably_and_empty() {
    let (clock, retention) = (ManualClock::at(START), Duration::from_secs(60));
    for tombstones in [Duration::ZERO, retention] {
        let builder = || Store::builder().clock(clock.clone()).retention(retention).tombstones(tombstones);
        let (store, disk) = on_disk(builder());
        let mut old = run(&store, &key("order"));
        does(&mut old, "charge", "old");
        old.advance("old", &()).wait().unwrap();
        old.complete(&"old".to_owned()).wait().unwrap();
        clock.advance(retention + tombstones);
        let gone = store.claim(&key("order"), deferred()).wait().unwrap();
        let mut new = run_of(gone);
        assert_eq!((new.attempt(), new.steps().len(), new.checkpoint()), (1, 0, None));
        assert_eq!(new.refresh().unwrap(), None);
        // Two rows of one key may never be there, whatever is lost.
        does(&mut new, "charge", "new");
        new.advance("new", &()).wait().unwrap();
        for at in 0..=disk.calls() {
            let left = builder().open_on(&disk.cut(at, |_| Loss::Lost)).unwrap();
            left.verify().unwrap();
        }
        let left = builder().open_on(&disk.cut(disk.calls(), |_| Loss::Lost)).unwrap();
        assert_eq!(step_of(&left, &key("order"), "charge").unwrap().bytes(), Some(&b"new"[..]));
        new.complete(&()).wait().unwrap();
        store.verify().unwrap();
    }
}

#[test]
fn an_operation_that_is_known_is_entered_durably_though_the_claim_is_deferred() {
    let (store, disk) = on_disk(Store::builder());
    drop(run(&store, &key("order")));
    let second = deferred_run(&store, &key("order"));
    assert_eq!(second.attempt(), 2);
    let left = after_a_cut(&disk);
    assert_eq!(left.progress(&key("order")).unwrap().unwrap().attempt(), 2, "attempts are counted");
    drop(second);
    store.verify().unwrap();
}

#[test]
fn p3_somebody_elses_checkpoint_on_a_deferred_operation_is_a_conflict_to_its_run() {
    let (store, _disk) = on_disk(Store::builder());
    let mut owner = deferred_run(&store, &key("order"));
    let moved = store.advance(&key("order"), Revision::NONE, "paid", &"receipt".to_owned()).wait().unwrap();
    assert!(matches!(moved, Advance::Moved(_)));
    let lost = store.advance(&key("order"), Revision::NONE, "paid", &()).wait().unwrap();
    assert!(matches!(lost, Advance::Lost(Some(_))));
    assert_eq!(kind(owner.advance("mine", &()).wait()), ErrorKind::Conflict);
    assert_eq!(owner.checkpoint().unwrap().name(), "paid");
    owner.advance("mine", &()).wait().unwrap();
    assert_eq!(kind(store.advance(&key("unknown"), Revision::NONE, "paid", &()).wait()), ErrorKind::NotFound);
    store.verify().unwrap();
}

#[test]
fn p7_tokens_of_deferred_claims_only_grow_over_power_cuts_though_nothing_of_them_is_durable() {
    let (mut disk, mut dice) = (SimulatedDisk::new(), Dice::new(3));
    let mut highest = 0;
    for cycle in 0..40 {
        let store = Store::builder().open_on(&disk).unwrap();
        for _ in 0..dice.below(6) {
            let mut owner = deferred_run(&store, &key(&format!("{}", dice.below(9))));
            assert!(owner.token() > highest, "cycle {cycle}: {} after {highest}", owner.token());
            highest = owner.token();
            if dice.below(4) == 0 {
                owner.advance("kept", &()).wait().unwrap();
            }
        }
        let kept = dice.below(3);
        disk = disk.cut(disk.calls(), |_| if dice.below(2) < kept { Loss::Kept } else { Loss::Lost });
    }
    Store::builder().open_on(&disk).unwrap().verify().unwrap();
}

#[test]
fn p7_more_deferred_claims_than_numbers_were_reserved_still_get_new_tokens() {
    let disk = SimulatedDisk::new();
    let store = Store::builder().open_on(&disk).unwrap();
    let mut highest = 0;
    for wave in 0..40 {
        let claims: Vec<_> = (0..2_000).map(|nth| store.claim(&key(&format!("{wave} {nth}")), deferred())).collect();
        let runs: Vec<_> = claims.into_iter().map(|claim| claim.wait().map(run_of)).collect::<Result<_>>().unwrap();
        for run in &runs {
            assert!(run.token() > highest);
            highest = run.token();
        }
    }
    let left = after_a_cut(&disk);
    assert!(deferred_run(&left, &key("after the cut")).token() > highest);
    assert!(run(&left, &key("after the cut, durable")).token() > highest);
    left.verify().unwrap();
    store.verify().unwrap();
}

/// Numbers are reserved ahead by a commit, and are reserved once it is durable: one that a full disk refused reserves
/// none.
#[test]
fn p2_p7_numbers_that_a_full_disk_did_not_let_reserve_are_not_given_until_they_are() {
    let disk = SimulatedDisk::new().with_journal(64);
    let store = Store::builder().open_by_hand(&disk).unwrap();
    let claim = |name: &str, asked: Request| {
        let claim = store.claim(&key(name), asked);
        store.work_by_hand();
        claim.wait().map(run_of)
    };
    // More than half of what opening reserved: the next commit reserves more.
    store.use_up_numbers_by_hand(40_000);
    disk.fail([full()]);
    assert!(claim("refused", request().into()).is_err());
    disk.fail(None);
    drop(claim("taken", request().into()).unwrap());
    store.use_up_numbers_by_hand(40_000);
    let last = claim("deferred", deferred()).unwrap();
    let left = after_a_cut(&disk);
    let next = deferred_run(&left, &key("after the cut"));
    assert!(next.token() > last.token(), "{} after {}", next.token(), last.token());
    assert!(left.progress(&key("taken")).unwrap().is_some());
    left.verify().unwrap();
}
