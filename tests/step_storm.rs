//! Many threads at many operations with effects outside, a resumer beside them, revocations and leases in between: in
//! the end each effect has happened as often as its guard allows, and each operation is over.

#![allow(clippy::panic, reason = "a test that fails says why")]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use reentry::{
    Claim, EffectId, Error, ErrorKind, Failure, Key, Request, Resolution, Resumer, Run, StepState, Store, Table,
    not_applied,
};

mod support;

use support::{Dice, PATIENCE, key, request, until};

const KEYS: usize = 24;
const THREADS: usize = 6;
const ORDERS: Table = Table::new("orders");

/// The world outside: what happened there, how often, by effect id.
#[derive(Default)]
struct Outside {
    happened: Mutex<HashMap<EffectId, u32>>,
    seed: AtomicUsize,
}

impl Outside {
    fn dice(&self) -> Dice {
        Dice::new(self.seed.fetch_add(1, Ordering::SeqCst) as u64)
    }

    /// An effect with no deduplication. What its caller hears says little about whether it happened.
    fn does(&self, id: EffectId) -> Result<String, Failure> {
        let mut dice = self.dice();
        match dice.below(8) {
            0 => return Err("the request was lost".into()),
            1 => return Err(not_applied("the connection was refused")),
            _ => *self.happened.lock().unwrap().entry(id).or_default() += 1,
        }
        match dice.below(6) {
            0 => Err("the answer was lost".into()),
            _ => Ok(format!("receipt of {id}")),
        }
    }

    /// One that deduplicates by the id.
    fn does_once(&self, id: EffectId) -> Result<String, Failure> {
        let mut dice = self.dice();
        match dice.below(8) {
            0 => return Err("the request was lost".into()),
            1 => return Err(not_applied("the connection was refused")),
            _ => *self.happened.lock().unwrap().entry(id).or_default() = 1,
        }
        match dice.below(4) {
            0 => Err("the answer was lost".into()),
            _ => Ok(format!("receipt of {id}")),
        }
    }

    fn finds(&self, id: EffectId) -> Result<Option<String>, Failure> {
        if self.dice().below(8) == 0 {
            return Err("nobody answers".into());
        }
        Ok((self.count(id) > 0).then(|| format!("receipt of {id}")))
    }

    fn count(&self, id: EffectId) -> u32 {
        self.happened.lock().unwrap().get(&id).copied().unwrap_or_default()
    }
}

/// One run of an operation: three guarded effects, a checkpoint, and the outcome with a row of the server's.
fn work(mut run: Run, outside: &Outside) -> Result<(), Error> {
    let charge = run.step("charge").recheck(|id| outside.finds(id)).run(|id| outside.does(id))?;
    if outside.dice().below(10) == 0 {
        return Ok(());
    }
    run.step("mail").run_keyed(|id| outside.does_once(id))?;
    match run.step("call").run_at_most_once(|id| outside.does(id)) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::InDoubt => {
            // Somebody finds out, and says so.
            let id = run.effect_id("call");
            let found = match outside.count(id) {
                0 => Resolution::DidNotHappen,
                _ => Resolution::happened(&format!("receipt of {id}"))?,
            };
            run.resolve("call", found, "asked on the telephone").wait()?;
            run.step("call").run_at_most_once(|id| outside.does(id))?;
        }
        Err(error) => return Err(error),
    }
    run.advance("all done", &charge).wait()?;
    let order = run.effect_id("order");
    let (calls, fails) = (Arc::new(AtomicUsize::new(0)), outside.dice().below(5) == 0);
    let outcome = run.complete_with(&charge, move |tx| {
        let mut orders = tx.open_table(ORDERS)?;
        let before = orders.get(order)?;
        orders.insert(order, b"cooked")?;
        calls.fetch_add(1, Ordering::SeqCst);
        if fails || before.is_some() { Err("this closure fails".into()) } else { Ok(()) }
    });
    outcome.wait().map(drop)
}

type Work = fn(Run, &Outside) -> Result<(), Error>;

/// Claims a key and runs it, until it is over.
fn serve(store: &Store, key: &Key, outside: &Outside, work: Work) {
    loop {
        let wished = Request::from(request()).keep(&key.key().to_owned());
        let wished = if outside.dice().below(2) == 0 { wished.deferred() } else { wished };
        match store.claim(key, wished).wait_for(PATIENCE).unwrap() {
            Claim::Run(run) => match work(run, outside) {
                Ok(()) => {}
                Err(error) => assert!(is_to_be_expected(error.kind()), "{error:?}"),
            },
            Claim::Wait(busy) if outside.dice().below(2) == 0 => drop(busy),
            Claim::Wait(busy) => match busy.outcome().wait_for(PATIENCE).unwrap() {
                Claim::Run(run) => drop(work(run, outside)),
                Claim::Replay(_) => return,
                other => panic!("{other:?}"),
            },
            Claim::Replay(outcome) => {
                assert!(outcome.decode::<String>().unwrap().starts_with("receipt of"));
                return;
            }
            other => panic!("{other:?}"),
        }
    }
}

fn is_to_be_expected(kind: ErrorKind) -> bool {
    use ErrorKind::{Aborted, CannotTell, EffectFailed, Fenced, NotApplied};
    matches!(kind, Aborted | CannotTell | EffectFailed | Fenced | NotApplied)
}

#[test]
fn p1_p3_p4_p8_in_a_storm_of_threads_beside_a_resumer_every_effect_happens_as_often_as_its_guard_allows() {
    let store = Store::builder().attempts_max(u32::MAX).in_memory().unwrap();
    let outside = Arc::new(Outside::default());
    let keys: Vec<_> = (0..KEYS).map(|nth| key(&nth.to_string())).collect();
    let resumer = {
        let outside = Arc::clone(&outside);
        let builder = Resumer::builder(&store).concurrency(2).every(Duration::from_millis(1));
        let builder = builder.backoff(Duration::from_millis(1), Duration::from_millis(4));
        builder.start(move |run| work(run, &outside)).unwrap()
    };
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (store, keys, outside) = (&store, &keys, &outside);
            scope.spawn(move || {
                for nth in 0..KEYS {
                    serve(store, &keys[(nth + 4 * thread) % KEYS], outside, work);
                }
            });
        }
    });
    until("nothing is unfinished", || store.stats().unwrap().unfinished == 0);
    resumer.stop();
    let rows = store.read(|tx| tx.open_table(ORDERS).and_then(|orders| orders.len())).unwrap().unwrap();
    for key in &keys {
        let progress = store.progress(key).unwrap().unwrap();
        let steps: Vec<_> = progress.steps().iter().map(|step| (step.state(), step.late().len())).collect();
        assert_eq!(steps, [(StepState::Done, 0); 3], "{progress:?}");
    }
    let happened = outside.happened.lock().unwrap();
    assert!(happened.len() == 3 * KEYS && happened.values().all(|count| *count == 1), "P4: {happened:?}");
    assert_eq!(rows, KEYS as u64, "P8: one row for each outcome");
    let stats = store.stats().unwrap();
    assert_eq!((stats.owned, stats.waiting, stats.in_doubt, stats.stuck), (0, 0, 0, 0), "nothing leaks");
    store.verify().unwrap();
}

/// One run that may be fenced anywhere: an effect that deduplicates, and one that is run at most once. Where the latter
/// is in doubt nobody asks, and the operation has failed.
fn work_fenced(mut run: Run, outside: &Outside) -> Result<(), Error> {
    run.step("mail").run_keyed(|id| outside.does_once(id))?;
    let called = run.step("call").run_at_most_once(|id| outside.does(id));
    run.advance("called or not", &()).wait()?;
    let order = run.effect_id("order");
    let receipt = match called {
        Ok(receipt) => receipt,
        Err(error) if error.kind() == ErrorKind::InDoubt => {
            return run.fail(&"receipt of nothing: nobody knows".to_owned()).wait().map(drop);
        }
        Err(error) => return Err(error),
    };
    let outcome = run.complete_with(&receipt, move |tx| match tx.open_table(ORDERS)?.insert(order, b"cooked")? {
        Some(_) => Err("P8: the row is there, and the operation is not over".into()),
        None => Ok(()),
    });
    outcome.wait().map(drop)
}

#[test]
fn p4_p7_p8_whoever_is_fenced_at_any_moment_leaves_no_effect_twice_and_no_row_without_its_outcome() {
    let store = Store::builder().attempts_max(u32::MAX).lease(Duration::from_millis(1)).in_memory().unwrap();
    let outside = Outside::default();
    let keys: Vec<_> = (0..KEYS).map(|nth| key(&nth.to_string())).collect();
    let served = AtomicUsize::new(0);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (store, keys, outside, served) = (&store, &keys, &outside, &served);
            scope.spawn(move || {
                for nth in 0..KEYS {
                    serve(store, &keys[(nth + 4 * thread) % KEYS], outside, work_fenced);
                }
                served.fetch_add(1, Ordering::SeqCst);
            });
        }
        scope.spawn(|| {
            let mut dice = Dice::new(7);
            while served.load(Ordering::SeqCst) < THREADS {
                store.revoke(&keys[dice.below(KEYS)]).wait().unwrap();
            }
        });
    });
    let happened = outside.happened.lock().unwrap();
    assert!(happened.values().all(|count| *count == 1), "P4: {happened:?}");
    let mut succeeded = 0;
    for key in &keys {
        let Claim::Replay(outcome) = store.claim(key, request()).wait().unwrap() else { panic!("it is over") };
        succeeded += u64::from(outcome.is_success());
    }
    let rows = store.read(|tx| tx.open_table(ORDERS).and_then(|orders| orders.len())).unwrap().unwrap();
    assert_eq!(rows, succeeded, "P8: one row for each success");
    let stats = store.stats().unwrap();
    assert_eq!((stats.owned, stats.waiting, stats.unfinished), (0, 0, 0), "nothing leaks");
    store.verify().unwrap();
}
