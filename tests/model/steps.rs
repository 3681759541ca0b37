//! The model's rules about steps: what is asked, rechecked, run, reported, resolved.

use reentry::ErrorKind;

use crate::answers::{Answer, Bytes, Standing, Step};
use crate::commands::{Effect, Mode, Recheck};
use crate::rules::{Model, Seen, bad_name, bad_payload};

/// Longest note, and how many notes and late reports of a step are kept.
const NOTE_BYTES_MAX: usize = 1_000;
const KEPT_MAX: usize = 16;

/// What a run reported of a step.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) run: usize,
    pub(crate) name: String,
    result: Option<Bytes>,
    /// Whether the run owned the operation when it reported. Then it counts; otherwise it is evidence.
    was_owner: bool,
}

/// What comes next where a step is asked for.
#[derive(Debug, Clone)]
pub(crate) enum Asked {
    /// Neither recheck nor effect is called (any more); this is the answer.
    Answered(Answer),
    /// The recheck is called. Whether a "no" may be believed.
    Recheck { has_settled: bool },
    /// The intent is on disk, and the effect is called. Whether an earlier try may have happened all the same.
    Effect { in_doubt: bool },
}

/// Who says by name what became of a step, and what.
#[derive(Debug)]
pub(crate) struct Resolved<'a> {
    pub(crate) step: &'a str,
    pub(crate) result: Option<Bytes>,
    pub(crate) note: &'a str,
}

impl Resolved<'_> {
    fn fault(&self) -> Option<ErrorKind> {
        let is_noted = (1..=NOTE_BYTES_MAX).contains(&self.note.len());
        let bad_note = (!is_noted).then_some(ErrorKind::InvalidName);
        bad_name(self.step).or(bad_note).or_else(|| self.result.as_ref().and_then(bad_payload))
    }
}

impl Seen {
    pub(crate) fn put(&mut self, step: Step) {
        match self.steps.iter_mut().find(|known| known.name == step.name) {
            Some(known) => *known = step,
            None => self.steps.push(step),
        }
    }

    /// What the run tells of the steps: all that it knows of, and which of them it did not ask for.
    pub(crate) fn tells(&self) -> (Vec<Step>, Vec<String>) {
        let unasked = self.steps.iter().filter(|step| !self.asked.contains_key(&step.name));
        let unasked = unasked.map(|step| step.name.clone()).collect();
        (self.steps.iter().map(|step| step.clone().without_late()).collect(), unasked)
    }
}

impl Model {
    /// `Run::step`, up to where the caller's own code is called.
    pub(crate) fn ask_step(&mut self, run: usize, name: &str, mode: Mode) -> Asked {
        let refused = |kind| Asked::Answered(Answer::Refused(kind));
        if let Some(kind) = bad_name(name) {
            return refused(kind);
        }
        if self.runs[run].is_over {
            return refused(ErrorKind::Finished);
        }
        if self.runs[run].asked.get(name) == Some(&false) {
            // Its first try may have left something on its way, so it waits for the writer.
            self.take_in_reports();
            self.stir(run);
        }
        if self.key_of(run).is_none() {
            return refused(ErrorKind::Fenced);
        }
        match self.runs[run].asked.insert(name.to_owned(), false) {
            Some(true) => {
                self.runs[run].asked.insert(name.to_owned(), true);
                return refused(ErrorKind::StepRepeated);
            }
            // The run waits for what it asked before, which the writer takes for a sign of life, and looks anew.
            Some(false) => drop((self.renew(run), self.refresh(run))),
            None => {}
        }
        let seen = &mut self.runs[run];
        let Some(step) = seen.steps.iter().find(|step| step.name == name).cloned() else {
            return self.intend(run, name, false);
        };
        match (step.standing, mode) {
            (Standing::Done(bytes, _), _) => {
                seen.asked.insert(name.to_owned(), true);
                Asked::Answered(Answer::Known(bytes))
            }
            (Standing::Withdrawn(_), _) => self.intend(run, name, false),
            (Standing::InDoubt, Mode::Keyed) => self.try_again(run, name),
            (Standing::InDoubt, Mode::AtMostOnce) => refused(ErrorKind::InDoubt),
            (Standing::InDoubt, Mode::Recheck { settles_within, .. }) => {
                let from = step.begun.max(self.opened);
                Asked::Recheck { has_settled: self.time >= from.saturating_add(settles_within) }
            }
        }
    }

    /// The intent: durable before the effect runs.
    fn intend(&mut self, run: usize, name: &str, knows: bool) -> Asked {
        self.take_in_reports();
        let time = self.time;
        let Some(key) = self.stir(run) else { return Asked::Answered(Answer::Refused(ErrorKind::Fenced)) };
        let operation = self.operations.get_mut(&key).unwrap();
        let attempt = operation.attempt;
        let step = match operation.steps.iter_mut().find(|step| step.name == name) {
            Some(step) => {
                assert!(!matches!(step.standing, Standing::Done(..)), "P4: a step with a result is begun again");
                assert!(knows || !step.is_in_doubt(), "P4: a step in doubt is begun again");
                (step.attempt, step.begun, step.standing) = (attempt, time, Standing::InDoubt);
                step.clone()
            }
            None => {
                let (standing, notes, late) = (Standing::InDoubt, Vec::new(), Vec::new());
                let fresh = Step { name: name.to_owned(), attempt, begun: time, standing, notes, late };
                operation.steps.push(fresh.clone());
                fresh
            }
        };
        operation.deferred = false;
        self.told = self.told.max(time);
        self.runs[run].put(step);
        Asked::Effect { in_doubt: false }
    }

    /// The intent of an effect that deduplicates by its id, and may have happened before.
    fn try_again(&mut self, run: usize, name: &str) -> Asked {
        match self.intend(run, name, true) {
            Asked::Effect { .. } => Asked::Effect { in_doubt: true },
            other => other,
        }
    }

    /// The recheck has answered.
    pub(crate) fn rechecked(
        &mut self,
        run: usize,
        name: &str,
        says: Recheck,
        has_settled: bool,
        found: &Bytes,
    ) -> Asked {
        let answer = match says {
            Recheck::DidNotHappen if has_settled => return self.intend(run, name, true),
            Recheck::DidNotHappen | Recheck::CannotTell => Answer::Refused(ErrorKind::CannotTell),
            Recheck::Happened(_) => self.happened(run, name, found, Answer::Found),
        };
        Asked::Answered(answer)
    }

    /// The effect has come to this.
    pub(crate) fn effected(
        &mut self,
        run: usize,
        name: &str,
        effect: Effect,
        in_doubt: bool,
        result: &Bytes,
    ) -> Answer {
        match effect {
            // That this try did not happen says nothing of an earlier one.
            Effect::IsNotApplied if in_doubt => Answer::Refused(ErrorKind::EffectFailed),
            Effect::Succeeds => self.happened(run, name, result, Answer::Ran),
            Effect::Fails => Answer::Refused(ErrorKind::EffectFailed),
            Effect::IsNotApplied if self.report(run, name, None) => Answer::Refused(ErrorKind::NotApplied),
            Effect::IsNotApplied => Answer::Refused(ErrorKind::Fenced),
            Effect::Panics => Answer::Panicked,
            Effect::IsDropped => Answer::Dropped,
        }
    }

    fn happened(&mut self, run: usize, name: &str, result: &Bytes, answer: fn(Bytes) -> Answer) -> Answer {
        if let Some(kind) = bad_payload(result) {
            return Answer::Refused(kind);
        }
        if !self.report(run, name, Some(result.clone())) {
            return Answer::Refused(ErrorKind::Fenced);
        }
        self.runs[run].asked.insert(name.to_owned(), true);
        answer(result.clone())
    }

    /// Keeps what a run says. Tells whether it still owns the operation.
    fn report(&mut self, run: usize, name: &str, result: Option<Bytes>) -> bool {
        let (time, was_owner) = (self.time, self.key_of(run).is_some());
        self.reports.push(Report { run, name: name.to_owned(), result: result.clone(), was_owner });
        let seen = &mut self.runs[run];
        if let Some(step) = seen.steps.iter_mut().find(|step| was_owner && step.name == name) {
            step.standing = standing(result, time);
        }
        was_owner
    }

    /// All that was reported is on disk, with whatever comes next.
    pub(crate) fn take_in_reports(&mut self) {
        self.take_in(self.reports.len());
    }

    /// The first so many reports are on disk.
    pub(crate) fn take_in(&mut self, count: usize) {
        let reports: Vec<_> = self.reports.drain(..count).collect();
        for Report { run, name, result, was_owner } in reports {
            self.stir(run);
            let (time, seen) = (self.time, &self.runs[run]);
            let (key, born, attempt) = (seen.key, seen.born, seen.attempt);
            let Some(operation) = self.operations.get_mut(&key).filter(|operation| operation.born == born) else {
                continue;
            };
            let is_kept = operation.ended.as_ref().is_none_or(|ended| time < ended.until);
            let Some(step) = operation.steps.iter_mut().find(|step| is_kept && step.name == name) else { continue };
            let counts = was_owner && operation.attempt == attempt && operation.ended.is_none();
            if counts && step.is_in_doubt() {
                step.standing = standing(result, time);
            } else {
                keep(&mut step.late, (attempt, time, result));
            }
            self.told = self.told.max(time);
        }
    }

    /// `Run::resolve`.
    pub(crate) fn resolve(&mut self, run: usize, resolved: &Resolved<'_>) -> Answer {
        let is_over = self.runs[run].is_over.then_some(ErrorKind::Finished);
        if let Some(kind) = is_over.or_else(|| resolved.fault()) {
            return Answer::Refused(kind);
        }
        self.take_in_reports();
        let Some(key) = self.stir(run) else { return Answer::Refused(ErrorKind::Fenced) };
        match self.settle(key, resolved) {
            Err(kind) => Answer::Refused(kind),
            Ok(step) => {
                self.runs[run].put(step);
                Answer::Resolved
            }
        }
    }

    /// `Store::resolve`.
    pub(crate) fn resolve_by_anybody(&mut self, key: usize, resolved: &Resolved<'_>) -> Answer {
        if let Some(kind) = resolved.fault() {
            return Answer::Refused(kind);
        }
        self.take_in_reports();
        match self.known(key) {
            None => Answer::Refused(ErrorKind::NotFound),
            Some(operation) if operation.ended.is_some() => Answer::Refused(ErrorKind::Finished),
            Some(operation) if operation.owner.is_some() => Answer::Refused(ErrorKind::Busy),
            Some(_) => self.settle(key, resolved).map_or_else(Answer::Refused, |_| Answer::Resolved),
        }
    }

    fn settle(&mut self, key: usize, resolved: &Resolved<'_>) -> Result<Step, ErrorKind> {
        let time = self.time;
        let steps = &mut self.operations.get_mut(&key).unwrap().steps;
        let step = steps.iter_mut().find(|step| step.name == resolved.step).ok_or(ErrorKind::NotFound)?;
        if !step.is_in_doubt() {
            return Err(ErrorKind::NotInDoubt);
        }
        step.standing = standing(resolved.result.clone(), time);
        keep(&mut step.notes, (time, resolved.result.is_some(), resolved.note.to_owned()));
        let step = step.clone();
        self.told = self.told.max(time);
        Ok(step)
    }
}

fn standing(result: Option<Bytes>, at: u64) -> Standing {
    result.map_or(Standing::Withdrawn(at), |bytes| Standing::Done(bytes, at))
}

fn keep<T>(list: &mut Vec<T>, item: T) {
    if list.len() == KEPT_MAX {
        list.remove(0);
    }
    list.push(item);
}
