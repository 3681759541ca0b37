//! Steps, with what becomes of their effects.

use reentry::{ErrorKind, Failure, Resolution, StepState, Store, not_applied};

use super::command::{Effect, Found, Method};
use super::model::Step;
use super::{LATE_MAX, World, key, payload, step_name, worked};

/// An effect.
async fn does(store: Store, n: u8, effect: Effect) -> Result<Vec<u8>, Failure> {
    match effect {
        Effect::Happens(bytes) => Ok(payload(bytes)),
        Effect::Fails => Err("lost".into()),
        Effect::IsNotApplied => Err(not_applied("refused")),
        Effect::HappensLate(bytes) => {
            assert!(store.revoke(&key(n)).await.expect("revoke"));
            Ok(payload(bytes))
        }
    }
}

/// A recheck.
async fn finds(found: Found) -> Result<Option<Vec<u8>>, Failure> {
    match found {
        Found::Happened(bytes) => Ok(Some(payload(bytes))),
        Found::DidNot => Ok(None),
        Found::CannotTell => Err("down".into()),
    }
}

impl World {
    pub(super) fn step(&mut self, n: u8, name: u8, method: Method, effect: Effect) {
        let Some(mut owner) = self.runs.remove(&n) else { return };
        let operation = self.model.operations.get_mut(&n).expect("what is owned is known");
        let before = operation.steps.get(&name).cloned();
        let was_in_doubt = before.as_ref().is_some_and(|step| step.state == StepState::InDoubt);
        let (mut ran, mut asked) = (false, false);
        let store = self.store.clone();
        let act = |_| {
            ran = true;
            does(store, n, effect)
        };
        let step = owner.run.step(&step_name(name));
        let answer = match method {
            Method::Keyed => worked(&self.store, step.run_keyed_async(act)),
            Method::AtMostOnce => worked(&self.store, step.run_at_most_once_async(act)),
            Method::Recheck(found) => {
                let recheck = |_| {
                    asked = true;
                    finds(found)
                };
                worked(&self.store, step.recheck_async(recheck).run_async(act))
            }
        };
        let answer = answer.map_err(|error| error.kind());
        let had = owner.had.contains(&name);
        let is_done = before.as_ref().is_some_and(|step| step.state == StepState::Done);
        assert_eq!(asked, was_in_doubt && matches!(method, Method::Recheck(_)));
        let may_run = match method {
            Method::Keyed => true,
            Method::AtMostOnce => !was_in_doubt,
            Method::Recheck(found) => !was_in_doubt || matches!(found, Found::DidNot),
        };
        assert_eq!(ran, !is_done && may_run, "P4");
        let mut step = before.unwrap_or(Step { state: StepState::Withdrawn, result: Vec::new(), notes: 0, late: 0 });
        let expected = if had {
            Err(ErrorKind::StepRepeated)
        } else if is_done {
            Ok(step.result.clone())
        } else if !ran {
            match method {
                Method::Recheck(Found::Happened(bytes)) => Ok(payload(bytes)),
                Method::Recheck(_) => Err(ErrorKind::CannotTell),
                Method::Keyed | Method::AtMostOnce => Err(ErrorKind::InDoubt),
            }
        } else {
            (step.state, operation.is_durable) = (StepState::InDoubt, true);
            operation.steps.insert(name, step.clone());
            self.halfway.push(self.model.clone());
            match effect {
                Effect::Happens(bytes) => Ok(payload(bytes)),
                Effect::IsNotApplied if was_in_doubt && matches!(method, Method::Keyed) => Err(ErrorKind::EffectFailed),
                Effect::IsNotApplied => Err(ErrorKind::NotApplied),
                Effect::Fails => Err(ErrorKind::EffectFailed),
                Effect::HappensLate(_) => Err(ErrorKind::Fenced),
            }
        };
        assert_eq!(answer, expected);
        match expected {
            Ok(result) => {
                (step.state, step.result) = (StepState::Done, result);
                owner.had.insert(name);
            }
            Err(ErrorKind::NotApplied) => step.state = StepState::Withdrawn,
            Err(ErrorKind::Fenced) => step.late = (step.late + 1).min(LATE_MAX),
            Err(_) => {}
        }
        if ran || asked {
            self.model.operations.get_mut(&n).expect("it is known").steps.insert(name, step);
        }
        if answer == Err(ErrorKind::Fenced) {
            self.fenced.push(owner.run);
        } else {
            self.runs.insert(n, owner);
        }
    }

    pub(super) fn resolve(&mut self, n: u8, name: u8, happened: Option<Vec<u8>>, outside: bool) {
        let resolution = happened.clone().map_or(Resolution::DidNotHappen, Resolution::Happened);
        let is_owned = self.runs.contains_key(&n);
        let answer = match self.runs.get_mut(&n) {
            Some(owner) if !outside => owner.run.resolve(&step_name(name), resolution, "somebody looked"),
            None if !outside => return,
            _ => self.store.resolve(&key(n), &step_name(name), resolution, "somebody looked"),
        };
        let answer = worked(&self.store, answer).map_err(|error| error.kind());
        let step = self.known(n).and_then(|known| known.steps.get(&name));
        let expected = match self.known(n) {
            None => Err(ErrorKind::NotFound),
            Some(known) if !known.is_unfinished() => Err(ErrorKind::Finished),
            Some(_) if outside && is_owned => Err(ErrorKind::Busy),
            Some(_) => match step.map(|step| step.state) {
                None => Err(ErrorKind::NotFound),
                Some(StepState::InDoubt) => Ok(()),
                Some(_) => Err(ErrorKind::NotInDoubt),
            },
        };
        assert_eq!(answer, expected);
        if expected.is_ok() {
            let steps = &mut self.model.operations.get_mut(&n).expect("it is known").steps;
            let step = steps.get_mut(&name).expect("it is known");
            step.state = if happened.is_some() { StepState::Done } else { StepState::Withdrawn };
            step.result = happened.unwrap_or_default();
            step.notes = (step.notes + 1).min(LATE_MAX);
        }
    }
}
