//! The same calls as futures: on tokio, on an executor of thirty lines, and given up at every possible moment.

mod support;

use std::ops::Deref;
use std::sync::Barrier;
use std::task::Poll;
use std::thread::{self};
use std::time::{Duration, Instant};

use reentry::{
    Advance, Builder, Claim, ErrorKind, Fingerprint, Outcome, Progress, Resolution, Result, Revision, State, StepState,
    Store,
};
use support::{
    Gate, PATIENCE, Wakes, block_on, key, kind, poll, poll_at_most, request, run, run_of, settle, stand_in_line,
    step_of, times_out,
};

/// A whole operation, or the answer of the run that is at it: a task as servers have them.
async fn order(store: &Store, name: &str) -> Result<(bool, Outcome)> {
    let key = key(name);
    let mut claim = store.claim(&key, request()).await?;
    loop {
        match claim {
            Claim::Run(mut run) => {
                run.advance("paid", &"receipt 7".to_owned()).await?;
                run.advance("sent", &"parcel 9".to_owned()).await?;
                return Ok((true, run.complete(&format!("{name} is done")).await?));
            }
            Claim::Wait(busy) => claim = busy.outcome().await?,
            Claim::Replay(outcome) => return Ok((false, outcome)),
            Claim::Reject(_) | Claim::Gone(_) => panic!("nobody else uses this key"),
        }
    }
}

/// Waits for what must come, and is seen only by looking.
fn until(mut has_come: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !has_come() {
        assert!(Instant::now() < end, "it never came");
        thread::yield_now();
    }
}

/// Nothing of what was given up is left: nobody owns anything, nobody waits, and every record is sound.
#[track_caller]
fn assert_nothing_leaks(store: &Store) {
    settle(store);
    let stats = store.stats().unwrap();
    assert_eq!((stats.owned, stats.waiting, stats.queued), (0, 0, 0));
    store.verify().unwrap();
}

fn in_memory() -> Store {
    Store::builder().in_memory().unwrap()
}

/// A store whose writer can be held. The gate comes last, so that a test that fails lets the writer go before the
/// store waits for it.
fn gated(builder: impl FnOnce(Builder) -> Builder) -> (Store, OpensAtLast) {
    let gate = Gate::new();
    let store = builder(Store::builder().clock(gate.clone())).in_memory().unwrap();
    (store, OpensAtLast(gate))
}

struct OpensAtLast(Gate);

impl Deref for OpensAtLast {
    type Target = Gate;

    fn deref(&self) -> &Gate {
        &self.0
    }
}

impl Drop for OpensAtLast {
    fn drop(&mut self) {
        self.0.open();
    }
}

#[track_caller]
fn replay_of(claim: Claim) -> Outcome {
    match claim {
        Claim::Replay(outcome) => outcome,
        other => panic!("expected a replay, got {other:?}"),
    }
}

#[test]
fn a_task_on_any_executor_gets_what_a_thread_gets() {
    let store = in_memory();
    block_on(async {
        let (is_first, outcome) = order(&store, "a").await.unwrap();
        assert!(is_first && outcome.is_success());
        let (is_first, again) = order(&store, "a").await.unwrap();
        assert!(!is_first && again.bytes() == outcome.bytes());
        let other = store.claim(&key("a"), Fingerprint::of("three pizzas")).await.unwrap();
        assert!(matches!(other, Claim::Reject(_)));
        assert_eq!(store.claim_unfinished(&key("b")).await.unwrap_err().kind(), ErrorKind::NotFound);
        let run = run_of(store.claim(&key("b"), request()).await.unwrap());
        let moved = store.advance(&key("b"), Revision::NONE, "paid", &()).await.unwrap();
        assert!(matches!(moved, Advance::Moved(_)));
        assert!(store.revoke(&key("b")).await.unwrap());
        assert_eq!(run.complete(&()).await.unwrap_err().kind(), ErrorKind::Fenced);
        assert!(store.forget(&key("b")).await.unwrap());
    });
    assert_nothing_leaks(&store);
}

#[test]
fn p5_thousands_of_tasks_on_one_key_come_to_one_run_and_the_same_answer() {
    const TASKS: usize = 4_000;
    let store = in_memory();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).build().unwrap();
    let answers = runtime.block_on(async {
        let order = |store: Store| async move { order(&store, "a").await.unwrap() };
        let tasks: Vec<_> = (0..TASKS).map(|_| tokio::spawn(order(store.clone()))).collect();
        let mut answers = Vec::new();
        for task in tasks {
            answers.push(task.await.unwrap());
        }
        answers
    });
    assert_eq!(answers.iter().filter(|(is_first, _)| *is_first).count(), 1);
    assert!(answers.iter().all(|(_, outcome)| *outcome == answers[0].1 && outcome.bytes() == b"a is done"));
    assert_eq!(store.progress(&key("a")).unwrap().unwrap().attempt(), 1);
    assert_nothing_leaks(&store);
}

#[tokio::test(flavor = "current_thread")]
async fn p5_many_tasks_on_one_thread_come_to_one_run_each_key() {
    let store = in_memory();
    let tasks: Vec<_> = (0..1_000)
        .map(|nth| {
            let store = store.clone();
            tokio::spawn(async move { order(&store, &format!("{}", nth % 10)).await.unwrap().0 })
        })
        .collect();
    let mut runs = 0;
    for task in tasks {
        runs += usize::from(task.await.unwrap());
    }
    assert_eq!(runs, 10);
    assert_nothing_leaks(&store);
}

#[test]
fn each_caller_is_woken_once_with_its_answer() {
    let (store, gate) = gated(|builder| builder);
    let mut running = run(&store, &key("moves"));
    gate.hold(&store);
    let mut claims: Vec<_> =
        (0..50).map(|nth| (store.claim(&key(&format!("{nth}")), request()), Wakes::new())).collect();
    let (mut advance, advance_wakes) = (running.advance("paid", &()), Wakes::new());
    for (claim, wakes) in &mut claims {
        // However often it is polled, it is woken for the answer alone.
        for _ in 0..3 {
            assert!(poll(claim, wakes).is_pending());
        }
    }
    assert!(poll(&mut advance, &advance_wakes).is_pending());
    gate.open();
    settle(&store);
    for (claim, wakes) in &mut claims {
        assert_eq!(wakes.count(), 1);
        assert!(matches!(poll(claim, wakes), Poll::Ready(Ok(Claim::Run(_)))));
    }
    assert_eq!(advance_wakes.count(), 1);
    assert!(matches!(poll(&mut advance, &advance_wakes), Poll::Ready(Ok(_))));
    drop(running);
    assert_nothing_leaks(&store);
}

#[test]
fn everybody_in_line_is_woken_once_when_the_outcome_comes() {
    let store = in_memory();
    let owner = run(&store, &key("a"));
    let mut line: Vec<_> = (0..100).map(|_| (stand_in_line(&store, &key("a")), Wakes::new())).collect();
    for (waiter, wakes) in &mut line {
        assert!(poll(waiter, wakes).is_pending());
    }
    assert_eq!(store.stats().unwrap().waiting, 100);
    let outcome = owner.complete(&"done".to_owned()).wait().unwrap();
    settle(&store);
    for (waiter, wakes) in &mut line {
        assert_eq!(wakes.count(), 1);
        let Poll::Ready(Ok(claim)) = poll(waiter, wakes) else { panic!("it was woken") };
        assert_eq!(replay_of(claim), outcome);
    }
    assert_nothing_leaks(&store);
}

#[test]
fn p7_an_owner_that_gives_way_wakes_the_next_in_line_and_nobody_else() {
    let store = in_memory();
    let mut owner = run(&store, &key("a"));
    let mut line: Vec<_> = (0..20).map(|_| (stand_in_line(&store, &key("a")), Wakes::new())).collect();
    for (waiter, wakes) in &mut line {
        assert!(poll(waiter, wakes).is_pending());
    }
    for turn in 0..line.len() {
        drop(owner);
        settle(&store);
        for (nth, (_, wakes)) in line.iter().enumerate() {
            assert_eq!(wakes.count(), usize::from(nth <= turn), "waiter {nth} at turn {turn}");
        }
        let (waiter, wakes) = &mut line[turn];
        let Poll::Ready(Ok(claim)) = poll(waiter, wakes) else { panic!("it was woken") };
        owner = run_of(claim);
    }
    assert_eq!(owner.attempt(), 21);
    drop(owner);
    assert_nothing_leaks(&store);
}

#[test]
fn only_the_task_that_polled_last_is_woken() {
    let (store, gate) = gated(|builder| builder);
    let owner = run(&store, &key("owned"));
    let mut parked = stand_in_line(&store, &key("owned"));
    gate.hold(&store);
    let mut claim = store.claim(&key("a"), request());
    let (before, last) = (Wakes::new(), Wakes::new());
    for wakes in [&before, &last] {
        assert!(poll(&mut claim, wakes).is_pending());
        assert!(poll(&mut parked, wakes).is_pending());
    }
    drop(owner);
    gate.open();
    settle(&store);
    assert_eq!((before.count(), last.count()), (0, 2));
    drop((claim, parked));
    assert_nothing_leaks(&store);
}

#[test]
fn p7_an_order_given_up_after_any_number_of_polls_leaves_nothing_behind() {
    for is_woken_first in [false, true] {
        for polls in 0.. {
            let store = in_memory();
            let mut future = Box::pin(order(&store, "a"));
            let is_over = poll_at_most(polls, future.as_mut()).is_some();
            // It is given up on its way, or when it was woken and its answer is there, untaken.
            if is_woken_first {
                settle(&store);
            }
            drop(future);
            assert_nothing_leaks(&store);
            let before = store.progress(&key("a")).unwrap();
            match store.claim(&key("a"), request()).wait().unwrap() {
                // The outcome was on its way already: a change is not taken back.
                Claim::Replay(outcome) => assert_eq!(outcome.bytes(), b"a is done"),
                Claim::Run(run) => {
                    assert!(!is_over, "an order that was over runs again");
                    assert_eq!(run.attempt(), before.as_ref().map_or(0, Progress::attempt) + 1);
                    assert_eq!(run.checkpoint().as_ref(), before.as_ref().and_then(Progress::checkpoint));
                }
                other => panic!("after {polls} polls: {other:?}"),
            }
            assert_nothing_leaks(&store);
            if is_over {
                break;
            }
        }
    }
}

#[test]
fn p7_a_claim_given_up_on_its_way_is_not_made_and_one_given_up_unseen_is_given_back() {
    for polls in 0..4 {
        for is_answered_first in [false, true] {
            let (store, gate) = gated(|builder| builder);
            gate.hold(&store);
            let mut claim = store.claim(&key("a"), request());
            for _ in 0..polls {
                assert!(poll(&mut claim, &Wakes::new()).is_pending());
            }
            if is_answered_first {
                gate.open();
                settle(&store);
                assert_eq!(store.stats().unwrap().owned, 1);
                drop(claim);
                assert_eq!(store.stats().unwrap().owned, 0);
            } else {
                drop(claim);
                gate.open();
                settle(&store);
                assert_eq!(store.progress(&key("a")).unwrap().map(|progress| progress.attempt()), None);
            }
            assert_eq!(run(&store, &key("a")).attempt(), 1 + u32::from(is_answered_first));
            assert_nothing_leaks(&store);
        }
    }
}

#[test]
fn p7_a_waiter_that_gives_up_leaves_the_line_and_its_turn_goes_to_the_next() {
    for polls in 0..4 {
        let store = in_memory();
        let owner = run(&store, &key("a"));
        let mut line: Vec<_> = (0..4).map(|_| stand_in_line(&store, &key("a"))).collect();
        for waiter in &mut line {
            for _ in 0..polls {
                assert!(poll(waiter, &Wakes::new()).is_pending());
            }
        }
        // Out of the middle, from the front before its turn, and at the front with its turn granted but not seen.
        drop(line.remove(2));
        drop(line.remove(0));
        assert_eq!(store.stats().unwrap().waiting, 2);
        drop(owner);
        settle(&store);
        assert_eq!(store.stats().unwrap().owned, 1);
        drop(line.remove(0));
        let last = run_of(line.remove(0).wait_for(PATIENCE).unwrap());
        assert_eq!(last.attempt(), 3);
        drop(last);
        assert_nothing_leaks(&store);
    }
}

#[test]
fn p7_a_runtime_that_goes_leaves_nobody_owning_or_waiting() {
    let store = in_memory();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let hung = store.clone();
    runtime.spawn(async move {
        let _run = run_of(hung.claim(&key("a"), request()).await.unwrap());
        std::future::pending::<()>().await;
    });
    until(|| store.stats().unwrap().owned == 1);
    for _ in 0..50 {
        let store = store.clone();
        runtime.spawn(async move { order(&store, "a").await });
    }
    until(|| store.stats().unwrap().waiting == 50);
    drop(runtime);
    assert_nothing_leaks(&store);
    drop(run(&store, &key("a")));
}

#[tokio::test(flavor = "current_thread")]
async fn the_last_handle_may_go_inside_a_task() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.reentry");
    for attempt in 1..=3 {
        let store = Store::open(&path).unwrap();
        let claim = store.claim(&key("a"), request());
        drop(store);
        let run = run_of(claim.await.unwrap());
        assert_eq!(run.attempt(), attempt);
    }
    Store::open(&path).unwrap().verify().unwrap();
}

#[test]
fn giving_up_on_a_claim_is_timed_out_and_changes_nothing() {
    let (store, gate) = gated(|builder| builder);
    let owner = run(&store, &key("owned"));
    let waits = stand_in_line(&store, &key("owned"));
    assert_eq!(waits.wait_for(Duration::from_millis(1)).unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(store.stats().unwrap().waiting, 0);
    gate.hold(&store);
    for claim in [store.claim(&key("a"), request()), store.claim_unfinished(&key("a"))] {
        assert_eq!(claim.wait_for(Duration::ZERO).unwrap_err().kind(), ErrorKind::TimedOut);
    }
    gate.open();
    settle(&store);
    assert!(store.progress(&key("a")).unwrap().is_none());
    assert!(owner.complete(&()).wait().unwrap().is_success());
    assert_nothing_leaks(&store);
}

/// The first of a batch are woken one by one, and all others together: each by its own time all the same.
#[test]
fn whoever_waits_with_many_others_gives_up_when_his_own_time_is_over() {
    let (store, gate) = gated(|builder| builder);
    gate.hold(&store);
    let claims: Vec<_> = (0..40).map(|nth| store.claim(&key(&format!("{nth}")), request())).collect();
    for claim in claims {
        assert_eq!(kind(claim.wait_for(Duration::from_millis(1))), ErrorKind::TimedOut);
    }
    gate.open();
    assert_nothing_leaks(&store);
    assert_eq!(store.stats().unwrap().operations, 0);
}

#[test]
fn giving_up_on_a_change_is_an_unknown_outcome_and_the_change_is_made_all_the_same() {
    let (store, gate) = gated(|builder| builder);
    let mut running = run(&store, &key("moved"));
    let (completed, failed) = (run(&store, &key("completed")), run(&store, &key("failed")));
    let revoked = run(&store, &key("revoked"));
    drop((run(&store, &key("forgotten")), run(&store, &key("moved by another"))));
    let mut doubtful = run(&store, &key("doubtful"));
    times_out(&mut doubtful, "charge");
    times_out(&mut running, "charge");
    drop(doubtful);
    gate.hold(&store);
    let no = || Resolution::DidNotHappen;
    let other = store.advance(&key("moved by another"), Revision::NONE, "paid", &());
    let kinds = [
        running.advance("paid", &()).wait_for(Duration::ZERO).unwrap_err().kind(),
        completed.complete(&()).wait_for(Duration::ZERO).unwrap_err().kind(),
        failed.fail(&()).wait_for(Duration::ZERO).unwrap_err().kind(),
        other.wait_for(Duration::ZERO).unwrap_err().kind(),
        store.forget(&key("forgotten")).wait_for(Duration::ZERO).unwrap_err().kind(),
        store.revoke(&key("revoked")).wait_for(Duration::ZERO).unwrap_err().kind(),
        store.resolve(&key("doubtful"), "charge", no(), "why").wait_for(Duration::ZERO).unwrap_err().kind(),
        running.resolve("charge", no(), "why").wait_for(Duration::ZERO).unwrap_err().kind(),
    ];
    assert_eq!(kinds, [ErrorKind::OutcomeUnknown; 8]);
    gate.open();
    settle(&store);
    let state = |name| store.progress(&key(name)).unwrap().map(|progress| progress.state());
    assert_eq!((state("completed"), state("failed")), (Some(State::Succeeded), Some(State::Failed)));
    assert_eq!((state("forgotten"), state("revoked")), (None, Some(State::Unfinished)));
    for name in ["doubtful", "moved"] {
        assert_eq!(step_of(&store, &key(name), "charge").unwrap().state(), StepState::Withdrawn);
    }
    for name in ["moved", "moved by another"] {
        let progress = store.progress(&key(name)).unwrap().unwrap();
        assert_eq!(progress.checkpoint().unwrap().name(), "paid");
    }
    drop((running, revoked));
    assert_nothing_leaks(&store);
}

#[test]
fn patience_without_end_waits_for_the_answer() {
    let store = in_memory();
    let owner = run(&store, &key("a"));
    let waits = stand_in_line(&store, &key("a"));
    thread::scope(|scope| {
        let waiter = scope.spawn(|| replay_of(waits.wait_for(Duration::MAX).unwrap()));
        let outcome = owner.complete(&"done".to_owned()).wait_for(Duration::MAX).unwrap();
        assert_eq!(waiter.join().unwrap(), outcome);
    });
    assert_nothing_leaks(&store);
}

/// How many commands and bytes small queues hold, down to one command at a time.
fn small_queues() -> impl Iterator<Item = (usize, usize)> {
    (1..=4).flat_map(|commands_max| [1, 1_000, 1 << 20].map(|bytes_max| (commands_max, bytes_max)))
}

#[test]
fn a_full_queue_makes_tasks_pend_and_everything_completes() {
    for (commands_max, bytes_max) in small_queues() {
        let (store, gate) = gated(|queue| queue.queue_commands_max(commands_max).queue_bytes_max(bytes_max));
        gate.hold(&store);
        let mut claims: Vec<_> = (0..20).map(|nth| store.claim(&key(&format!("{nth}")), request())).collect();
        for claim in &mut claims {
            assert!(poll(claim, &Wakes::new()).is_pending());
        }
        let queued = store.stats().unwrap().queued;
        assert!((1..=commands_max as u64).contains(&queued), "{queued} are queued of {commands_max}");
        assert!(bytes_max > 1 || queued == 1);
        gate.open();
        let runs: Vec<_> = claims.into_iter().map(|claim| run_of(block_on(claim).unwrap())).collect();
        assert_eq!(store.stats().unwrap().owned, 20);
        drop(runs);
        assert_nothing_leaks(&store);
    }
}

#[test]
fn a_full_queue_makes_threads_wait_and_everything_completes() {
    const THREADS: usize = 12;
    for (commands_max, bytes_max) in small_queues() {
        let (store, gate) = gated(|queue| queue.queue_commands_max(commands_max).queue_bytes_max(bytes_max));
        gate.hold(&store);
        let all_called = Barrier::new(THREADS + 1);
        thread::scope(|scope| {
            for nth in 0..THREADS {
                let (store, all_called) = (&store, &all_called);
                scope.spawn(move || {
                    let claim = store.claim(&key(&format!("{nth}")), request());
                    all_called.wait();
                    let mut run = run_of(claim.wait_for(PATIENCE).unwrap());
                    run.advance("paid", &"x".repeat(5_000)).wait_for(PATIENCE).unwrap();
                    run.complete(&()).wait_for(PATIENCE).unwrap();
                });
            }
            all_called.wait();
            gate.open();
        });
        assert_eq!(store.stats().unwrap().unfinished, 0);
        assert_eq!(store.stats().unwrap().operations, THREADS as u64);
        assert_nothing_leaks(&store);
    }
}

#[test]
fn hundreds_of_orders_go_through_a_queue_of_a_few() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).build().unwrap();
    for (commands_max, bytes_max) in small_queues() {
        let builder = Store::builder().queue_commands_max(commands_max).queue_bytes_max(bytes_max);
        let store = builder.in_memory().unwrap();
        let order = |store: Store, nth: u32| async move { order(&store, &format!("{}", nth / 2)).await.unwrap().0 };
        let tasks: Vec<_> = (0..200).map(|nth| runtime.spawn(order(store.clone(), nth))).collect();
        let runs = tasks.into_iter().map(|task| usize::from(runtime.block_on(task).unwrap()));
        assert_eq!(runs.sum::<usize>(), 100);
        assert_nothing_leaks(&store);
    }
}

#[test]
fn p7_a_call_given_up_before_there_was_room_was_never_made() {
    for polls in 0..4 {
        let (store, gate) = gated(|builder| builder.queue_commands_max(1));
        let owner = run(&store, &key("owned"));
        let mut next = stand_in_line(&store, &key("owned"));
        gate.hold(&store);
        // The first fills what room there is; all the others are outside.
        let mut calls: Vec<_> = (0..4).map(|nth| store.claim(&key(&format!("{nth}")), request())).collect();
        let mut complete = owner.complete(&());
        for _ in 0..polls {
            assert!(calls.iter_mut().all(|call| poll(call, &Wakes::new()).is_pending()));
            assert!(poll(&mut complete, &Wakes::new()).is_pending());
        }
        drop(calls.remove(2));
        // It may be unknown to the caller; here it cannot have been made.
        assert_eq!(complete.wait_for(Duration::ZERO).unwrap_err().kind(), ErrorKind::OutcomeUnknown);
        let wakes = Wakes::new();
        assert!(poll(&mut calls[2], &wakes).is_pending());
        gate.open();
        settle(&store);
        // One more goes when it was woken for room already; the room is not lost with it.
        assert_eq!(wakes.count(), 1);
        drop(calls.remove(2));
        for call in calls {
            drop(run_of(block_on(call).unwrap()));
        }
        assert!(store.progress(&key("2")).unwrap().is_none());
        assert!(store.progress(&key("3")).unwrap().is_none());
        let Poll::Ready(Ok(claim)) = poll(&mut next, &Wakes::new()) else { panic!("the owner gave up") };
        assert_eq!(run_of(claim).attempt(), 2);
        assert_nothing_leaks(&store);
    }
}

#[test]
fn whoever_pends_when_the_store_is_closed_is_told_so() {
    let (store, gate) = gated(|builder| builder.queue_commands_max(2));
    let owner = run(&store, &key("owned"));
    let mut parked = stand_in_line(&store, &key("owned"));
    gate.hold(&store);
    let mut claims: Vec<_> =
        (0..4).map(|nth| (store.claim(&key(&format!("{nth}")), request()), Wakes::new())).collect();
    for (claim, wakes) in &mut claims {
        assert!(poll(claim, wakes).is_pending());
    }
    let parked_wakes = Wakes::new();
    assert!(poll(&mut parked, &parked_wakes).is_pending());
    let (mut last, last_wakes) = claims.pop().unwrap();
    let told = thread::scope(|scope| {
        let closer = scope.spawn(|| store.close());
        until(|| store.progress(&key("owned")).is_err() && last_wakes.count() > 0);
        // It is outside, and needs no writer to be told.
        let told = poll(&mut last, &last_wakes);
        drop(gate);
        closer.join().unwrap().unwrap();
        told
    });
    let Poll::Ready(Err(error)) = told else { panic!("it was woken") };
    assert_eq!(error.kind(), ErrorKind::Closed);
    assert_eq!(parked_wakes.count(), 1);
    assert_eq!(parked.wait().unwrap_err().kind(), ErrorKind::Closed);
    let (first, wakes) = claims.remove(0);
    assert_eq!(wakes.count(), 1);
    // It was in the queue, so it was finished before the end.
    drop(run_of(first.wait().unwrap()));
    drop((owner, claims));
    assert_eq!((store.stats().unwrap().owned, store.stats().unwrap().waiting), (0, 0));
}

/// The story: an answer that was taken late was of a checkpoint before the last, and the run went on from there.
#[test]
fn p3_an_answer_that_is_taken_late_does_not_set_back_what_its_run_knows() {
    let store = in_memory();
    let mut run = run(&store, &key("order"));
    let (first, second) = (run.advance("first", &()), run.advance("none", &()));
    settle(&store);
    run.refresh().unwrap();
    run.advance("second", &()).wait().unwrap();
    assert_eq!(first.wait().unwrap().get(), 1);
    assert_eq!(run.checkpoint().unwrap().name(), "second");
    assert_eq!(kind(second.wait()), ErrorKind::Conflict, "it was asked for before the first was known");
    assert_eq!(run.checkpoint().unwrap().name(), "second");
    assert_eq!(run.advance("third", &()).wait().unwrap().get(), 3);
}
