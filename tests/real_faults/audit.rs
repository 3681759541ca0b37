//! Compares the store with what its processes told before they ended, and with the world outside.

use std::collections::BTreeMap;
use std::path::Path;

use reentry::{Claim, StepState, Store};

use super::server::{DONE, STEPS, World, handle, store_in};
use super::support::key;

/// What was told of an order.
#[derive(Debug, Default)]
struct Order {
    is_paid: bool,
    outcome: Option<String>,
}

/// All that was told.
#[derive(Debug, Default)]
pub(crate) struct Told(BTreeMap<String, Order>);

impl Told {
    pub(crate) fn hear(&mut self, lines: &[String]) {
        for line in lines {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["claimed", name] => drop(self.0.entry(name.to_owned()).or_default()),
                ["paid", name] => self.0.entry(name.to_owned()).or_default().is_paid = true,
                ["done", name, ref text @ ..] => {
                    let before = &mut self.0.entry(name.to_owned()).or_default().outcome;
                    let text = text.join(" ");
                    assert!(before.as_ref().is_none_or(|before| *before == text), "P5: {before:?} became {text}");
                    *before = Some(text);
                }
                _ => {}
            }
        }
    }

    pub(crate) fn orders(&self) -> usize {
        self.0.len()
    }

    /// What was told is in the store, and what is in the store fits the world outside.
    pub(crate) fn audit(&self, place: &Path) {
        let (store, world) = (Store::open(store_in(place)).unwrap(), World::at(place));
        let untold: Vec<_> = store.unfinished().map(|progress| progress.unwrap().key().key().to_owned()).collect();
        for name in self.0.keys().chain(untold.iter().filter(|name| !self.0.contains_key(*name))) {
            let told = self.0.get(name);
            let progress = store.progress(&key(name)).unwrap().unwrap_or_else(|| panic!("P2: {name} is lost"));
            let is_paid = progress.checkpoint().is_some();
            assert!(is_paid || !told.is_some_and(|told| told.is_paid), "P2: {name} was told to be paid");
            let outcome = progress.outcome().map(|outcome| outcome.decode::<String>().unwrap());
            let told_outcome = told.and_then(|told| told.outcome.clone());
            assert!(told_outcome.is_none() || told_outcome == outcome, "P2, P5: {name} was {told_outcome:?}");
            let row = store.read(|tx| tx.open_table(DONE)?.get(name)).unwrap().unwrap();
            assert_eq!(row.map(|row| String::from_utf8(row).unwrap()), outcome, "P8: {name}");
            for step in STEPS {
                let times = world.times(progress.effect_id(step));
                let state = progress.steps().iter().find(|it| it.name() == step).map(reentry::Step::state);
                let is_right = match state {
                    Some(StepState::Done) => times == 1,
                    Some(StepState::InDoubt) => times <= 1,
                    None | Some(StepState::Withdrawn) => times == 0,
                };
                assert!(is_right, "P4: {step} of {name} is {state:?} and happened {times} times");
            }
        }
        store.verify().unwrap();
        store.close().unwrap();
    }

    /// Finishes everything: then every effect happened once, and nothing else did.
    pub(crate) fn finish(&self, place: &Path) {
        let (store, world) = (Store::open(store_in(place)).unwrap(), World::at(place));
        for progress in store.unfinished() {
            let Claim::Run(run) = store.claim_unfinished(progress.unwrap().key()).wait().unwrap() else {
                panic!("nobody is at work")
            };
            handle(&world, run, &|_| {}).unwrap();
        }
        let operations = store.stats().unwrap().operations;
        for name in self.0.keys() {
            let progress = store.progress(&key(name)).unwrap().unwrap();
            assert!(progress.outcome().is_some(), "{name}");
            let times = STEPS.map(|step| world.times(progress.effect_id(step)));
            assert_eq!(times, [1; 3], "P4: {name}");
        }
        assert_eq!(world.effects() as u64, operations * STEPS.len() as u64, "P4: effects of nobody's");
        store.verify().unwrap();
    }
}
