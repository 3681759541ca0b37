//! Steps of tasks: the same answers on tokio and on an executor of a few lines, and a future that is dropped at any
//! moment leaves its step in doubt, never done.

mod support;

use std::cell::Cell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use reentry::{
    Claim, EffectId, Error, ErrorKind, Failure, Key, Result, Run, SimulatedDisk, StepState, Store, not_applied,
};
use support::{
    MODES, Mode, after_a_cut, block_on, does, guard, key, kind, never, poll_at_most, request, run, run_of, settle,
    step_of, times_out,
};

fn in_memory() -> Store {
    Store::builder().in_memory().unwrap()
}

/// Gives way this often before it is ready.
struct Yields(usize);

impl Future for Yields {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.0 == 0 {
            return Poll::Ready(());
        }
        self.0 -= 1;
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Guards an effect of a task by a step that is not in doubt.
async fn guard_async<F: Future<Output = Result<String, Failure>>>(
    run: &mut Run,
    mode: Mode,
    name: &str,
    effect: impl FnOnce(EffectId) -> F,
) -> Result<String> {
    let never = |_| async { panic!("it is not in doubt") };
    let step = run.step(name);
    match mode {
        Mode::Rechecked => step.recheck_async::<String, Failure, _, _>(never).run_async(effect).await,
        Mode::Keyed => step.run_keyed_async(effect).await,
        Mode::AtMostOnce => step.run_at_most_once_async(effect).await,
    }
}

/// Every form once: a result, a result again, the effect's own errors, doubt, and what a recheck can answer.
async fn every_form(store: &Store, name: &str) -> Result<()> {
    let order = key(name);
    let mut first = run_of(store.claim(&order, request()).await?);
    for mode in MODES {
        let (done, refused, doubtful) = (format!("done {mode:?}"), format!("no {mode:?}"), format!("doubt {mode:?}"));
        let id = first.effect_id(&done);
        let effect = |given: EffectId| async move {
            Yields(3).await;
            Ok(given.to_string())
        };
        assert_eq!(guard_async(&mut first, mode, &done, effect).await?, id.to_string());
        let not = |_| async { Err(not_applied("closed")) };
        assert_eq!(kind(guard_async(&mut first, mode, &refused, not).await), ErrorKind::NotApplied);
        let times_out = |_| async { Err("timed out".into()) };
        assert_eq!(kind(guard_async(&mut first, mode, &doubtful, times_out).await), ErrorKind::EffectFailed);
        let again = |_| async { panic!("it has run") };
        assert_eq!(kind(guard_async(&mut first, mode, &done, again).await), ErrorKind::StepRepeated);
        assert_eq!(kind(guard_async(&mut first, mode, "", again).await), ErrorKind::InvalidName);
    }
    drop(first);
    let mut second = run_of(store.claim(&order, request()).await?);
    for mode in MODES {
        let never = |_| async { panic!("it has a result") };
        let id = second.effect_id(&format!("done {mode:?}")).to_string();
        assert_eq!(guard_async(&mut second, mode, &format!("done {mode:?}"), never).await?, id);
        let now = |_| async { Ok("open now".to_owned()) };
        assert_eq!(guard_async(&mut second, mode, &format!("no {mode:?}"), now).await?, "open now");
    }
    let never = |_| async { Err::<String, Failure>("it is in doubt".into()) };
    let at_most_once = second.step("doubt AtMostOnce").run_at_most_once_async(never).await;
    assert_eq!(kind(at_most_once), ErrorKind::InDoubt);
    let again = second.step("doubt Keyed").run_keyed_async(|_| async { Ok::<_, Failure>("again".to_owned()) }).await;
    assert_eq!(again?, "again");
    let cannot = |_| async { Err::<Option<String>, Failure>("no line".into()) };
    let cannot = second.step("doubt Rechecked").recheck_async(cannot).run_async(never).await;
    assert_eq!(kind(cannot), ErrorKind::CannotTell);
    let not_found = |_| async { Ok::<_, Failure>(None::<String>) };
    let early = second.step("doubt Rechecked").recheck_async(not_found);
    let early = early.settles_within(std::time::Duration::MAX).run_async(never).await;
    assert_eq!(kind(early), ErrorKind::CannotTell);
    let ran = second.step("doubt Rechecked").recheck_async(not_found);
    assert_eq!(ran.run_async(|_| async { Ok::<_, Failure>("ran".to_owned()) }).await?, "ran");
    let found = second.step("doubt AtMostOnce").recheck_async(|_| async { Ok::<_, Failure>(Some("found".to_owned())) });
    assert_eq!(found.run_async(never).await?, "found");
    second.complete(&()).await?;
    Ok(())
}

#[test]
fn p4_every_form_answers_alike_on_the_smallest_executor() {
    let store = in_memory();
    block_on(every_form(&store, "order")).unwrap();
    store.verify().unwrap();
}

#[test]
fn p4_every_form_answers_alike_on_tokio_with_many_tasks_at_once() {
    let store = in_memory();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..40)
            .map(|nth| {
                let store = store.clone();
                tokio::spawn(async move { every_form(&store, &format!("order {nth}")).await })
            })
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
    });
    settle(&store);
    assert_eq!((store.stats().unwrap().unfinished, store.stats().unwrap().in_doubt), (0, 0));
    store.verify().unwrap();
}

#[test]
fn p4_the_intent_of_a_task_is_on_disk_before_its_effect_is_polled() {
    for mode in MODES {
        let disk = SimulatedDisk::new();
        let store = Store::builder().open_on(&disk).unwrap();
        let mut run = run(&store, &key("order"));
        let look = || step_of(&after_a_cut(&disk), &key("order"), "charge").map(|step| step.state());
        // Not even the function that makes the future is called before.
        let charge = |_| {
            assert_eq!(look(), Some(StepState::InDoubt));
            async {
                assert_eq!(look(), Some(StepState::InDoubt));
                Ok("paid".to_owned())
            }
        };
        assert_eq!(block_on(guard_async(&mut run, mode, "charge", charge)).unwrap(), "paid");
        store.verify().unwrap();
    }
}

/// What an effect that is dropped half-way had come to.
#[derive(Debug, Default)]
struct Effect {
    begun: AtomicUsize,
    happened: AtomicUsize,
}

impl Effect {
    async fn happen(&self) -> Result<String, Failure> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        Yields(2).await;
        self.happened.fetch_add(1, Ordering::SeqCst);
        // The answer is on its way: it has happened, and nobody knows yet.
        Yields(2).await;
        Ok("paid".to_owned())
    }
}

/// Polls a step's future so often, then drops it. Whether it was ready by then.
fn dropped_after<T>(polls: usize, future: impl Future<Output = Result<T>>) -> bool {
    let mut future = pin!(future);
    poll_at_most(polls, future.as_mut()).is_some_and(|answer| answer.map(drop).is_ok())
}

#[test]
fn p4_a_future_dropped_after_any_poll_leaves_its_step_in_doubt_and_never_done() {
    for mode in MODES {
        let mut states = Vec::new();
        for polls in 0.. {
            let (store, effect) = (in_memory(), Effect::default());
            let mut first = run(&store, &key("order"));
            let is_ready = dropped_after(polls, guard_async(&mut first, mode, "charge", |_| effect.happen()));
            drop(first);
            settle(&store);
            let begun = effect.begun.load(Ordering::SeqCst);
            let state = step_of(&store, &key("order"), "charge").map(|step| step.state());
            match state {
                // Its intent may never have been queued; once it was, nothing less than doubt is left.
                None => assert_eq!((begun, is_ready), (0, false)),
                Some(StepState::InDoubt) => assert!(!is_ready),
                Some(StepState::Done) => assert!(is_ready, "done though its future was dropped"),
                Some(StepState::Withdrawn) => panic!("nobody said that it did not happen"),
            }
            let mut second = run(&store, &key("order"));
            let again = guard_after(&mut second, mode, &effect);
            let happened = effect.happened.load(Ordering::SeqCst);
            match mode {
                Mode::Keyed => assert!(again.is_ok() && happened >= 1),
                Mode::Rechecked => assert_eq!((again.unwrap().as_str(), happened), ("paid", 1), "exactly once"),
                Mode::AtMostOnce if state == Some(StepState::InDoubt) => {
                    assert_eq!((kind(again), effect.begun.load(Ordering::SeqCst)), (ErrorKind::InDoubt, begun));
                }
                Mode::AtMostOnce => assert_eq!((again.is_ok(), happened), (true, 1)),
            }
            drop(second);
            store.verify().unwrap();
            states.push(state);
            if is_ready {
                break;
            }
        }
        let in_doubt = states.iter().filter(|state| **state == Some(StepState::InDoubt)).count();
        assert!(states.len() >= 6 && in_doubt >= 3, "{mode:?}: {states:?}");
        assert_eq!((states[0], states.last().unwrap()), (None, &Some(StepState::Done)));
    }
}

/// Asks for the step again, as the next run would: the other side knows whether it happened.
fn guard_after(run: &mut Run, mode: Mode, effect: &Effect) -> Result<String> {
    let step = run.step("charge");
    match mode {
        Mode::Rechecked => {
            let find = |_| async {
                let happened = effect.happened.load(Ordering::SeqCst) > 0;
                Ok::<_, Failure>(happened.then(|| "paid".to_owned()))
            };
            block_on(step.recheck_async(find).run_async(|_| effect.happen()))
        }
        Mode::Keyed => block_on(step.run_keyed_async(|_| effect.happen())),
        Mode::AtMostOnce => block_on(step.run_at_most_once_async(|_| effect.happen())),
    }
}

#[test]
fn p4_a_recheck_dropped_after_any_poll_leaves_its_step_in_doubt_too() {
    let find = |found: bool| {
        move |_| async move {
            Yields(3).await;
            Ok::<_, Failure>(found.then(|| "paid".to_owned()))
        }
    };
    for found in [true, false] {
        for polls in 0.. {
            let (store, effect) = (in_memory(), Effect::default());
            let mut first = run(&store, &key("order"));
            times_out(&mut first, "charge");
            drop(first);
            let mut second = run(&store, &key("order"));
            let asked = second.step("charge").recheck_async(find(found)).run_async(|_| effect.happen());
            let is_ready = dropped_after(polls, asked);
            drop(second);
            settle(&store);
            let state = step_of(&store, &key("order"), "charge").unwrap().state();
            let expected = if is_ready { StepState::Done } else { StepState::InDoubt };
            assert_eq!(state, expected, "found: {found}, {polls} polls");
            assert!(!found || effect.begun.load(Ordering::SeqCst) == 0);
            store.verify().unwrap();
            if is_ready {
                assert!(polls >= 3, "there was something to drop");
                break;
            }
        }
    }
}

#[test]
fn p4_a_run_whose_steps_future_was_dropped_goes_on_itself() {
    for mode in MODES {
        let mut in_doubt = 0;
        for polls in 0..8 {
            let (store, effect) = (in_memory(), Effect::default());
            let mut order = run(&store, &key("order"));
            if dropped_after(polls, guard_async(&mut order, mode, "charge", |_| effect.happen())) {
                continue;
            }
            // The next step is no worse for it.
            does(&mut order, "beside", "fine");
            let happened = effect.happened.load(Ordering::SeqCst);
            let is_in_doubt = step_of(&store, &key("order"), "charge").is_some();
            in_doubt += usize::from(is_in_doubt);
            match (mode, guard_after(&mut order, mode, &effect)) {
                (Mode::AtMostOnce, Err(error)) if is_in_doubt => assert_eq!(error.kind(), ErrorKind::InDoubt),
                (Mode::AtMostOnce, Ok(_)) if !is_in_doubt => {}
                (Mode::Rechecked, Ok(_)) => assert_eq!(effect.happened.load(Ordering::SeqCst), 1),
                (Mode::Keyed, Ok(_)) => assert_eq!(effect.happened.load(Ordering::SeqCst), happened + 1),
                (_, other) => panic!("{mode:?} after {polls} polls: {other:?}"),
            }
            order.complete(&()).wait().unwrap();
            store.verify().unwrap();
        }
        assert!(in_doubt > 0, "there was something to drop");
    }
}

#[test]
fn p4_a_run_may_ask_again_while_the_intent_that_it_gave_up_is_still_on_its_way() {
    for mode in MODES {
        let gate = support::Gate::new();
        let store = Store::builder().clock(gate.clone()).in_memory().unwrap();
        let effect = Effect::default();
        let mut order = run(&store, &key("order"));
        gate.hold(&store);
        assert!(!dropped_after(1, guard_async(&mut order, mode, "charge", |_| effect.happen())));
        let mut again = Box::pin(async {
            match mode {
                Mode::Rechecked => {
                    let find = |_| async { Ok::<_, Failure>(None::<String>) };
                    order.step("charge").recheck_async(find).run_async(|_| effect.happen()).await
                }
                Mode::Keyed => order.step("charge").run_keyed_async(|_| effect.happen()).await,
                Mode::AtMostOnce => order.step("charge").run_at_most_once_async(|_| effect.happen()).await,
            }
        });
        assert!(poll_at_most(1, again.as_mut()).is_none());
        gate.open();
        match (mode, block_on(again)) {
            // Nobody can tell this run's intent from another's: at most once says so rather than guess.
            (Mode::AtMostOnce, Err(error)) => assert_eq!(error.kind(), ErrorKind::InDoubt),
            (Mode::Rechecked | Mode::Keyed, Ok(result)) => assert_eq!(result, "paid"),
            (_, other) => panic!("{mode:?}: {other:?}"),
        }
        drop(order);
        store.verify().unwrap();
    }
}

#[test]
fn p7_a_task_that_is_cancelled_at_its_effect_frees_the_operation_in_doubt() {
    let store = in_memory();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let order: Key = key("order");
    runtime.block_on(async {
        let (entered, has_entered) = tokio::sync::oneshot::channel();
        let (store, order) = (store.clone(), order.clone());
        let task = tokio::spawn(async move {
            let Claim::Run(mut run) = store.claim(&order, request()).await? else { panic!("it is new") };
            let charge = |_| async move {
                entered.send(()).unwrap();
                std::future::pending::<Result<String, Failure>>().await
            };
            run.step("charge").run_keyed_async(charge).await?;
            Ok::<_, Error>(())
        });
        has_entered.await.unwrap();
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    });
    let mut second = run(&store, &order);
    assert_eq!((second.attempt(), second.steps()[0].state()), (2, StepState::InDoubt));
    assert_eq!(kind(guard(&mut second, Mode::AtMostOnce, "charge", never::<String>)), ErrorKind::InDoubt);
    drop(second);
    store.verify().unwrap();
}

#[test]
fn p4_a_panic_in_a_tasks_effect_passes_through_and_leaves_its_step_in_doubt() {
    let store = in_memory();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for mode in MODES {
        let (inner, name) = (store.clone(), format!("{mode:?}"));
        let of_task = name.clone();
        let panicked = runtime.block_on(async {
            let task = tokio::spawn(async move {
                let mut run = run_of(inner.claim(&key(&of_task), request()).await.unwrap());
                guard_async(&mut run, mode, "charge", |_| async { panic!("the oven burns") }).await
            });
            task.await.unwrap_err().into_panic()
        });
        assert_eq!(panicked.downcast_ref::<&str>(), Some(&"the oven burns"));
        assert_eq!(run(&store, &key(&name)).steps()[0].state(), StepState::InDoubt);
    }
    store.verify().unwrap();
}

#[test]
fn p4_a_tasks_effect_may_borrow_and_need_not_be_send() {
    let store = in_memory();
    let mut run = run(&store, &key("order"));
    let (counter, name) = (Cell::new(0), "charge".to_owned());
    let effect = |_| async {
        counter.set(counter.get() + 1);
        Yields(1).await;
        Ok::<_, Failure>(name.clone())
    };
    assert_eq!(block_on(run.step(&name).run_keyed_async(effect)).unwrap(), "charge");
    assert_eq!(counter.get(), 1);
    block_on(run.complete(&())).unwrap();
    store.verify().unwrap();
}
