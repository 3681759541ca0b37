//! An effect id names one step of one operation at the other side: equal for every attempt, restart and store.

mod support;

use std::cell::Cell;
use std::collections::HashSet;

use reentry::{EffectId, ErrorKind, Failure, Key, Store};
use support::{MODES, after_a_cut, guard, key, kind, request, run, run_of, times_out};

/// What the step's closures are given, in one run.
fn given(store: &Store, key: &Key, name: &str) -> EffectId {
    let mut run = run_of(store.claim(key, request()).wait().unwrap());
    let given = Cell::new(None);
    let effect = |id| {
        given.set(Some(id));
        Err::<(), _>("timed out")
    };
    assert_eq!(kind(run.step(name).run_keyed(effect)), ErrorKind::EffectFailed);
    assert_eq!(given.get(), Some(run.effect_id(name)), "a step is given what its name is given without a step");
    given.get().unwrap()
}

#[test]
fn p4_it_is_equal_for_every_attempt_restart_and_store() {
    let disk = reentry::SimulatedDisk::new();
    let store = Store::builder().open_on(&disk).unwrap();
    let id = given(&store, &key("order"), "charge");
    for _ in 0..3 {
        assert_eq!(given(&store, &key("order"), "charge"), id);
    }
    assert_eq!(given(&after_a_cut(&disk), &key("order"), "charge"), id);
    assert_eq!(given(&Store::builder().in_memory().unwrap(), &key("order"), "charge"), id);
    // After it was forgotten too: the other side may remember it.
    assert!(store.forget(&key("order")).wait().unwrap());
    assert_eq!(given(&store, &key("order"), "charge"), id);
    store.verify().unwrap();
}

#[test]
fn p4_recheck_and_effect_are_given_the_same_one_in_every_mode() {
    let store = Store::builder().in_memory().unwrap();
    for mode in MODES {
        let mut run = run(&store, &key(&format!("{mode:?}")));
        let id = run.effect_id("charge");
        let effect = |given| {
            assert_eq!(given, id);
            Ok::<_, Failure>(())
        };
        guard(&mut run, mode, "charge", effect).unwrap();
        times_out(&mut run, "doubtful");
        let id = run.effect_id("doubtful");
        let find = |given| {
            assert_eq!(given, id);
            Ok::<_, Failure>(None)
        };
        let effect = |given| {
            assert_eq!(given, id);
            Ok::<_, Failure>(())
        };
        run.step("doubtful").recheck(find).run(effect).unwrap();
        run.complete(&()).wait().unwrap();
    }
    store.verify().unwrap();
}

#[test]
fn p9_it_differs_by_scope_key_and_step_and_no_border_between_them_moves() {
    let store = Store::builder().in_memory().unwrap();
    let mut ids = HashSet::new();
    let mut count = 0;
    for (scope, name) in [("a", "b"), ("a", "bc"), ("ab", "c"), ("b", "a"), ("abc", "d"), ("a/b", "c"), ("a", "b/c")] {
        let mut run = run_of(store.claim(&Key::new(scope, name).unwrap(), request()).wait().unwrap());
        for step in ["c", "d", "cd", "charge", "charge 1", "Charge"] {
            let id = run.effect_id(step);
            ids.insert(id);
            count += 1;
            assert_eq!(id.as_bytes()[6] >> 4, 8, "a uuid of version 8");
        }
        // A name that no step may have still has an id, for what is no step.
        assert_ne!(run.effect_id(""), run.effect_id("c"));
        assert_eq!(kind(run.step("").run_keyed(support::never::<()>)), ErrorKind::InvalidName);
    }
    assert_eq!(ids.len(), count);
    store.verify().unwrap();
}
