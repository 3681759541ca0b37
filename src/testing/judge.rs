//! What a trial says about the handler: the counts against those of the undisturbed run, and what to do about it.

use std::collections::BTreeMap;

use super::report::{About, Count, Mistake, MistakeKind};
use super::trial::{Fault, Trial};
use super::world::{Expected, Happening};
use crate::error::ErrorKind;
use crate::record::StepState;

/// Takes in one trial after the other.
#[derive(Debug, Default)]
pub(super) struct Judge {
    pub(super) mistakes: Vec<Mistake>,
    pub(super) counts: BTreeMap<String, Count>,
    /// How many trials there were.
    trials: usize,
}

impl Judge {
    /// Takes in a trial, beside the run that nothing disturbed.
    pub(super) fn hear(&mut self, trial: &Trial, undisturbed: &Trial) {
        self.trials += 1;
        for fault in &trial.faults {
            self.hear_of_fault(fault, trial);
        }
        // A handler that is never done has no count to hold others against.
        if undisturbed.told.is_none() {
            return;
        }
        let all = [trial, undisturbed].map(|trial| trial.ledger.happenings.iter().map(|it| it.name.clone()));
        let mut names: Vec<_> = all.into_iter().flatten().collect();
        names.sort();
        names.dedup();
        for name in names {
            let (now, then) = (trial.count(&name), undisturbed.count_when_told(&name));
            // The undisturbed run is the first that is heard of, and told done: what it does not do happened never in
            // it, however late such an effect shows up.
            let least = undisturbed.count(&name);
            let first = Count { effect: name.clone(), undisturbed: then, least, most: 0 };
            let count = self.counts.entry(name.clone()).or_insert(first);
            count.most = count.most.max(now);
            if trial.told.is_some() && !trial.has_lost() {
                count.least = count.least.min(now);
            }
            let expected = trial.ledger.expected.get(&name).copied().unwrap_or_default();
            let (least, most) = match expected {
                Expected::ExactlyOnce => (then, then),
                Expected::AtMostOnce => (0, then.max(1)),
                Expected::AtLeastOnce => (then, usize::MAX),
                Expected::AnyNumber => (0, usize::MAX),
            };
            if now > most || most < usize::MAX && is_doubled(trial, undisturbed, &name) {
                self.hear_of_twice(&name, now, most, trial, undisturbed);
            } else if trial.told.is_some() && !trial.has_lost() && now < least {
                self.hear_of_never(&name, now, least, trial, undisturbed);
            }
        }
    }

    fn hear_of_twice(&mut self, name: &str, now: usize, most: usize, trial: &Trial, undisturbed: &Trial) {
        let what = match (now, most) {
            (2, 1) => format!("the effect `{name}` happened twice"),
            (_, 0) => format!("the effect `{name}` happened, which it does not do where nothing is killed"),
            (now, most) if now > most => {
                format!("the effect `{name}` happened {} instead of {}", times(now), times(most))
            }
            _ => format!("the effect `{name}` happened more than once under one id"),
        };
        self.add(MistakeKind::Twice, About::Effect(name.to_owned()), what, why_twice(name, trial, undisturbed), trial);
    }

    fn hear_of_never(&mut self, name: &str, now: usize, least: usize, trial: &Trial, undisturbed: &Trial) {
        let what = match now {
            0 => format!("the effect `{name}` never happened, though the client was told that it is done"),
            _ => format!(
                "the effect `{name}` happened {} instead of {}, and the client was told that it is done",
                times(now),
                times(least)
            ),
        };
        self.add(MistakeKind::Never, About::Effect(name.to_owned()), what, why_never(name, trial, undisturbed), trial);
    }

    fn hear_of_fault(&mut self, fault: &Fault, trial: &Trial) {
        let (kind, what, hint) = match fault {
            Fault::Lost(what) => {
                let hint = "answer the client only after `complete` has answered: `.wait()` or `.await` it, and pass \
                            its error on";
                (MistakeKind::Lost, what.clone(), hint.to_owned())
            }
            Fault::Changed(what) => (MistakeKind::Changed, what.clone(), why_changed()),
            Fault::Unfinished(error, kind) => {
                let what = format!("it is not done however often the handler is called; it ends with: {error}");
                (MistakeKind::Unfinished, what, why_unfinished(*kind))
            }
            Fault::InDoubt(step) => {
                let what = format!("the step `{step}` is left in doubt, and the handler cannot get on");
                let hint = format!(
                    "that is what `run_at_most_once` does: if an operator is to find out, tell the kit so \
                     (`Expected::AtMostOnce` for `{step}`, with `World::expect`); if the other side can be asked, end \
                     the step with `recheck(..).run(..)`"
                );
                (MistakeKind::InDoubt, what, hint)
            }
            Fault::Broken(_, broken) => {
                let hint = "rows that belong to a checkpoint or an outcome are written in the closure of \
                            `advance_with` or `complete_with`, and what belongs together in one of them";
                (MistakeKind::Broken, format!("a check of yours does not hold: {broken}"), hint.to_owned())
            }
            Fault::Damaged(what) => {
                (MistakeKind::Damaged, what.clone(), "this is a bug of reentry: please report it".to_owned())
            }
        };
        let about = match fault {
            Fault::InDoubt(step) => About::Effect(step.clone()),
            Fault::Broken(check, _) => About::Check(*check),
            _ => About::All,
        };
        self.add(kind, about, what, hint, trial);
    }

    /// Adds a mistake, or counts it where it is known. Texts that differ in what a value was are one mistake.
    fn add(&mut self, kind: MistakeKind, about: About, what: String, hint: String, trial: &Trial) {
        let is_it = |known: &&mut Mistake| (known.kind, &known.about, &known.hint) == (kind, &about, &hint);
        if let Some(known) = self.mistakes.iter_mut().find(is_it) {
            known.places += usize::from(known.last_trial != self.trials);
            known.last_trial = self.trials;
            return;
        }
        let place = match &*trial.deaths {
            [] => "where nothing was killed".to_owned(),
            deaths => deaths.join("; then "),
        };
        let (story, last_trial) = (trial.ledger.story.clone(), self.trials);
        self.mistakes.push(Mistake { kind, about, what, place, places: 1, last_trial, hint, story });
    }
}

fn times(count: usize) -> String {
    match count {
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        more => format!("{more} times"),
    }
}

/// Whether an effect happened more often under one id than it does where nothing is disturbed, and more than once.
fn is_doubled(trial: &Trial, undisturbed: &Trial, name: &str) -> bool {
    let times = |trial: &Trial, id: &str| {
        let is_it = |it: &&Happening| it.name == name && it.id.as_deref() == Some(id);
        trial.ledger.happenings.iter().filter(is_it).count()
    };
    let ids = trial.ledger.happenings.iter().filter(|it| it.name == name).filter_map(|it| it.id.as_deref());
    let is_undisturbed = std::ptr::eq(trial, undisturbed);
    ids.into_iter().any(|id| times(trial, id) > if is_undisturbed { 1 } else { times(undisturbed, id).max(1) })
}

fn why_twice(name: &str, trial: &Trial, undisturbed: &Trial) -> String {
    let happenings: Vec<_> = trial.ledger.happenings.iter().filter(|it| it.name == name).collect();
    let (Some(first), Some(last)) = (happenings.first(), happenings.last()) else { return String::new() };
    let steps: Vec<_> = happenings.iter().map(|it| it.within.as_ref()).collect();
    if happenings.iter().any(|it| it.is_in_closure) {
        return "it is done in a closure of `complete_with` or `advance_with`, which may run more than once: only rows \
                belong there, and the effect in a step before"
            .to_owned();
    }
    if undisturbed.told.is_some_and(|told| trial.operations > told.operations) {
        return "each attempt claims another key, and begins anew: the key must come with the client's request and be \
                the same in every retry"
            .to_owned();
    }
    if steps.contains(&None) {
        if trial.deaths.is_empty() && trial.told.is_some() && trial.count_when_told(name) < trial.count(name) {
            return "it is done again when a client asks again: claim first, and on `Claim::Replay` answer with the \
                    outcome and do nothing"
                .to_owned();
        }
        return format!("it is done outside of a step, so every attempt does it: wrap it in `run.step(\"{name}\")`");
    }
    if let Some(other) = steps.iter().flatten().find(|it| Some(&it.step) != first.within.as_ref().map(|it| &it.step)) {
        let step = first.within.as_ref().map_or("", |it| &it.step);
        return format!(
            "it is done in the step `{step}` and in the step `{}`: what is remembered of a step is found under its \
             name alone, so give it the same name in every attempt",
            other.step
        );
    }
    if first.id != last.id {
        return "each attempt gives the other side another id: use the effect id that the step gives, which is the same \
                in every attempt"
            .to_owned();
    }
    let mut looks = trial.ledger.looks.iter().filter(|look| look.name == name && look.attempt == last.attempt);
    match looks.next() {
        Some(look) if look.has_found => "the recheck found it, and the effect ran all the same: a recheck answers \
                                         `Ok(Some(result))` for what happened"
            .to_owned(),
        Some(_) => "the recheck did not find it, though it happened: look for it by what the effect gave to the other \
                    side, the effect id"
            .to_owned(),
        None if trial.has_withdrawn && trial.deaths.is_empty() => {
            "the effect said that it did not happen, and it had: a time-out or a lost answer is not `not_applied`, \
             which is for who knows"
                .to_owned()
        }
        None => {
            "the other side does not deduplicate on the effect id, so `run_keyed` is not for it: end the step with \
                 `recheck(..).run(..)`, and let the recheck ask the other side"
                .to_owned()
        }
    }
}

fn why_never(name: &str, trial: &Trial, undisturbed: &Trial) -> String {
    let within = undisturbed.ledger.happenings.iter().find(|it| it.name == name).and_then(|it| it.within.as_ref());
    let step = within.and_then(|within| trial.steps.iter().find(|(known, _)| known == within));
    match step.map(|(within, step)| (&within.step, step.state())) {
        Some((step, StepState::Done)) => format!(
            "the step `{step}` has a result, though it never happened: a recheck answers `Ok(Some(result))` only for \
             what it found, `Ok(None)` for what did not happen, and an error where it cannot tell"
        ),
        Some((step, StepState::InDoubt)) => format!(
            "the operation was completed with the step `{step}` in doubt: where a step fails, drop the run and let the \
             next attempt go on"
        ),
        Some((step, StepState::Withdrawn)) => format!(
            "the operation was completed though the step `{step}` failed: where a step fails, drop the run and let the \
             next attempt go on"
        ),
        None => "the operation is completed before it, so nobody comes back for it: do it in a step before `complete`"
            .to_owned(),
    }
}

fn why_changed() -> String {
    "every retry must be told the same: answer from the outcome (`Claim::Replay`), which keeps what the first was \
     told; make the fingerprint from what the client sent alone, or the retry is rejected"
        .to_owned()
}

fn why_unfinished(kind: Option<ErrorKind>) -> String {
    match kind {
        Some(ErrorKind::CannotTell) => {
            "the recheck never can tell: it answers `Ok(None)` for what did not happen; if \
                                        `settles_within` is very long, let more time pass with `CrashTest::pause`"
        }
        Some(ErrorKind::InDoubt) => "a step at most once is in doubt: somebody must say what became of it",
        Some(ErrorKind::Codec) => "what was kept does not decode: ask for it as the type that it was written as",
        Some(ErrorKind::StepRepeated) => {
            "a step is asked for again after it gave its result: number the names of \
                                          steps in a loop"
        }
        Some(ErrorKind::EffectFailed | ErrorKind::NotApplied) => "its effect fails in every attempt: see the error",
        _ => {
            "an attempt must get on from wherever the one before it stopped: see how the last one failed; `Ok` is for \
              what is done, an error for what is not"
        }
    }
    .to_owned()
}
