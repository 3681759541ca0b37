//! One trial: a handler is called until it is done, and its process is killed where the plan says.

use std::error::Error as StdError;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::kill::{Calls, Death, Kill, Moment};
use super::life::{Life, Mortal};
use super::world::{Expected, Happening, Ledger, Outside, Within, World};
use crate::clock::{Clock, ManualClock, SystemClock};
use crate::engine::{Loss, SimulatedDisk};
use crate::error::{Error, ErrorKind, Source};
use crate::key::Key;
use crate::progress::Progress;
use crate::record::{Resolution, Step};
use crate::store::{Builder, Store};

/// What the kit calls: the user's handler.
pub(super) type Handler<'h, T> = dyn Fn(&Store, &World) -> Result<T, Source> + 'h;

/// What the user says must always hold.
pub(super) type Check<'h> = dyn Fn(&Store, &World) -> Result<(), String> + 'h;

/// What every trial is made with.
pub(super) struct Setting<'h> {
    pub(super) builder: Box<dyn Fn() -> Builder + 'h>,
    pub(super) checks: Vec<Box<Check<'h>>>,
    /// A store in which nothing was ever claimed.
    pub(super) fresh: Vec<u8>,
    /// How often a handler is called, at most, after its process was last killed.
    pub(super) attempts_max: usize,
    /// How much time passes after each attempt that failed and each crash, at most.
    pub(super) pause: Duration,
}

/// What a trial came to.
#[derive(Debug)]
pub(super) struct Trial {
    pub(super) ledger: Ledger,
    /// What was found wrong while it ran.
    pub(super) faults: Vec<Fault>,
    /// Where its processes were killed.
    pub(super) deaths: Vec<String>,
    /// How many calls each of its processes made.
    pub(super) calls: Vec<Calls>,
    /// What there was when the client was told that it is done; none where it was not.
    pub(super) told: Option<Told>,
    /// How many operations the store knows in the end.
    pub(super) operations: u64,
    /// Whether an attempt failed with an effect that said that it did not happen.
    pub(super) has_withdrawn: bool,
    /// How the steps stand in the end, of each operation that something happened in.
    pub(super) steps: Vec<(Within, Step)>,
}

/// What there was when the client was told for the first time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    pub(super) happenings: usize,
    pub(super) operations: u64,
}

/// Something that is wrong, whatever the counts say.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// The client was told that it is done, and it is not.
    Lost(String),
    /// The client was told something else than before.
    Changed(String),
    /// It is not done after so many attempts; the last one failed so, and with this kind of error of the store's.
    Unfinished(String, Option<ErrorKind>),
    /// Only an operator could get on, and nobody said that one will.
    InDoubt(String),
    /// This check of the user's failed.
    Broken(usize, String),
    /// The store does not open, or its own check fails.
    Damaged(String),
}

/// How one process ended.
enum End {
    Killed,
    Over,
}

/// One trial under way.
pub(super) struct Course<'t, 'h, T> {
    setting: &'t Setting<'h>,
    handler: &'t Handler<'h, T>,
    /// What a run that nothing disturbs comes to; none where this is that run.
    undisturbed: Option<&'t Trial>,
    outside: Arc<Outside>,
    told: Option<T>,
    trial: Trial,
}

impl<'t, 'h, T: PartialEq + fmt::Debug> Course<'t, 'h, T> {
    pub(super) fn new(setting: &'t Setting<'h>, handler: &'t Handler<'h, T>, undisturbed: Option<&'t Trial>) -> Self {
        let outside = Outside::new(ManualClock::at(SystemClock::default().wall()));
        let trial = Trial {
            ledger: Ledger::default(),
            faults: Vec::new(),
            deaths: Vec::new(),
            calls: Vec::new(),
            told: None,
            operations: 0,
            has_withdrawn: false,
            steps: Vec::new(),
        };
        Self { setting, handler, undisturbed, outside, told: None, trial }
    }

    /// Runs one process after the other, each of them killed where `plan` says, and the last one to the end.
    pub(super) fn run(mut self, plan: &[Kill], sync_takes: Option<Duration>) -> Trial {
        let mut disk = SimulatedDisk::from_image(self.setting.fresh.clone());
        let mut plan = plan.iter().copied();
        loop {
            let kill = plan.next();
            let calls = self.undisturbed.filter(|_| self.trial.calls.is_empty());
            let disk_calls = calls.and_then(|trial| trial.calls.first()).map(|calls| calls.disk);
            let life = Arc::new(Life::new(kill, disk_calls, sync_takes));
            self.live(&disk, &life);
            self.trial.calls.push(life.calls());
            let Some(place) = life.died() else { break };
            self.outside.tell_story(|_| place.clone());
            self.trial.deaths.push(place);
            disk = match kill.map(|kill| kill.death) {
                Some(Death::PowerCut) => disk.cut(disk.calls(), |_| Loss::Lost),
                _ => disk.killed(disk.calls()),
            };
        }
        self.trial.ledger = self.outside.ledger();
        self.trial
    }

    /// One process, from opening the store to closing it.
    fn live(&mut self, disk: &SimulatedDisk, life: &Arc<Life>) {
        let mortal = Arc::new(Mortal { disk: disk.clone(), life: Arc::clone(life) });
        let builder = (self.setting.builder)().clock(self.outside.clock.clone());
        let store = match builder.open_disk(mortal) {
            Ok(store) => store,
            Err(error) => {
                return self.fault(Fault::Damaged(format!("the store does not open: {error}")));
            }
        };
        life.opened(store.clone());
        if !self.trial.deaths.is_empty() {
            self.pause(&store);
        }
        let world = World::new(&self.outside, life);
        self.check(&store, &world);
        let is_lost = self.told.is_some() && self.is_lost(&store);
        if is_lost || matches!(self.attempts(&store, &world, life), End::Over) {
            self.look_at_the_end(&store, &world);
        }
        life.closes();
    }

    /// Calls the handler until it is done and has been asked once more, or until the process is killed.
    fn attempts(&mut self, store: &Store, world: &World, life: &Life) -> End {
        let mut last = None;
        for _ in 0..self.setting.attempts_max {
            let attempt = self.outside.begins_attempt();
            life.enters(attempt);
            let answer = catch_unwind(AssertUnwindSafe(|| (self.handler)(store, world)));
            let answer = answer.unwrap_or_else(|panic| Err(format!("it panicked: {}", text_of(&*panic)).into()));
            let is_heard = life.returns(answer.is_ok(), format!("after attempt {attempt} returned"));
            if !is_heard {
                return End::Killed;
            }
            match answer {
                Ok(answer) => {
                    self.outside.tell_story(|attempt| format!("attempt {attempt} returns Ok: the client is told"));
                    if life.is_dead() {
                        self.hears(answer, store);
                        return End::Killed;
                    }
                    if self.is_told(answer, store) {
                        return End::Over;
                    }
                }
                Err(error) => {
                    self.outside.tell_story(|attempt| format!("attempt {attempt} fails: {}", in_full(&*error)));
                    if let Some(told) = &self.told {
                        let told = format!("the client was told {told:?}, and its retry fails: {}", in_full(&*error));
                        self.fault(Fault::Changed(told));
                        return End::Over;
                    }
                    self.pause(store);
                    if let Some(fault) = self.operate(store, &*error) {
                        self.fault(fault);
                        return End::Over;
                    }
                    self.trial.has_withdrawn |= kind_of(&*error) == Some(ErrorKind::NotApplied);
                    last = Some(error);
                }
            }
        }
        if self.told.is_some() {
            return End::Over;
        }
        let error = last.as_deref().map(|error| in_full(error)).unwrap_or_default();
        self.fault(Fault::Unfinished(error, last.as_deref().and_then(|error| kind_of(error))));
        End::Over
    }

    /// Lets time pass after a crash or an error, but never to the end of an outcome: a retry that comes later than that
    /// begins anew, as it is promised, and says nothing about the handler.
    fn pause(&self, store: &Store) {
        let now = store.time();
        let ends = store.operations().flatten().filter_map(|progress| progress.kept_until());
        let first = ends.filter(|end| *end > now).min();
        let most = first.map_or(Duration::MAX, |end| end.since(now).saturating_sub(Duration::from_millis(1)));
        self.outside.clock.advance(self.setting.pause.min(most));
    }

    /// Takes in what the client was told. Returns whether that is all: it was told before, or it was told what is not.
    fn is_told(&mut self, answer: T, store: &Store) -> bool {
        match &self.told {
            Some(told) if *told == answer => true,
            Some(told) => {
                let changed = format!("the client was told {told:?}, and its retry is told {answer:?}");
                self.fault(Fault::Changed(changed));
                true
            }
            None => {
                self.hears(answer, store);
                self.is_lost(store)
            }
        }
    }

    /// The client hears for the first time that it is done.
    fn hears(&mut self, answer: T, store: &Store) {
        if self.told.is_none() {
            let operations = store.stats().map(|stats| stats.operations).unwrap_or_default();
            self.trial.told = Some(Told { happenings: self.outside.ledger().happenings.len(), operations });
            self.told = Some(answer);
        }
    }

    /// What was told to be done must be done, as far as the store can tell.
    fn is_lost(&mut self, store: &Store) -> bool {
        let (operations, owned) = store.stats().map(|stats| (stats.operations, stats.owned)).unwrap_or_default();
        let expected = self.undisturbed.map_or(0, |undisturbed| undisturbed.operations);
        let has = if owned > 0 || store.unfinished().next().is_some() {
            "has it unfinished"
        } else if operations < expected {
            "knows nothing of it"
        } else {
            return false;
        };
        self.fault(Fault::Lost(format!("the client was told that it is done, and the store {has}")));
        true
    }

    /// Resolves what an operator would: the steps that happen at most once and are in doubt. Something else that only
    /// an operator could resolve is a fault.
    fn operate(&self, store: &Store, error: &(dyn StdError + 'static)) -> Option<Fault> {
        let ledger = self.outside.ledger();
        for progress in store.unfinished().flatten() {
            for step in progress.in_doubt() {
                let happened = ledger.happenings.iter().find(|it| is_of(it, &progress, step.name()));
                let usual = self.undisturbed.and_then(|trial| trial.of_step(progress.key(), step.name()));
                let name = happened.or(usual.map(|(it, _)| it)).map_or(step.name(), |it| &it.name);
                if ledger.expected.get(name) == Some(&Expected::AtMostOnce) {
                    let resolution = match happened {
                        Some(it) => Resolution::Happened(result_of(it, usual)),
                        None => Resolution::DidNotHappen,
                    };
                    let said = if happened.is_some() { "happened" } else { "did not happen" };
                    let resolved = store.resolve(progress.key(), step.name(), resolution, "the kit looked");
                    if resolved.wait().is_ok() {
                        self.outside.tell_story(|_| format!("the operator says that step `{}` {said}", step.name()));
                    }
                } else if kind_of(error) == Some(ErrorKind::InDoubt) {
                    return Some(Fault::InDoubt(name.to_owned()));
                }
            }
        }
        None
    }

    /// What the user's checks say.
    fn check(&mut self, store: &Store, world: &World) {
        for (nth, check) in self.setting.checks.iter().enumerate() {
            if let Err(broken) = check(store, world) {
                self.fault(Fault::Broken(nth, broken));
            }
        }
    }

    fn look_at_the_end(&mut self, store: &Store, world: &World) {
        self.check(store, world);
        if let Err(error) = store.verify() {
            self.fault(Fault::Damaged(format!("the store's own check fails: {error}")));
        }
        self.trial.operations = store.stats().map(|stats| stats.operations).unwrap_or_default();
        let ledger = self.outside.ledger();
        let undisturbed = self.undisturbed.iter().flat_map(|trial| &trial.ledger.happenings);
        let within = ledger.happenings.iter().chain(undisturbed).filter_map(|it| it.within.as_ref());
        let mut keys: Vec<_> = within.map(|within| within.key.clone()).collect();
        keys.sort();
        keys.dedup();
        let known = keys.iter().filter_map(|key| store.progress(key).ok().flatten());
        let steps = known.flat_map(|progress| {
            let within = |step: &Step| Within { key: progress.key().clone(), step: step.name().to_owned() };
            progress.steps().iter().map(|step| (within(step), step.clone())).collect::<Vec<_>>()
        });
        self.trial.steps = steps.collect();
    }

    fn fault(&mut self, fault: Fault) {
        self.trial.faults.push(fault);
    }
}

impl Trial {
    /// What happened in this step first, and how the step stands in the end.
    fn of_step(&self, key: &Key, step: &str) -> Option<(&Happening, &Step)> {
        let is_it = |within: &Within| within.key == *key && within.step == step;
        let happened = self.ledger.happenings.iter().find(|it| it.within.as_ref().is_some_and(is_it))?;
        let (_, step) = self.steps.iter().find(|(within, _)| is_it(within))?;
        Some((happened, step))
    }

    /// Whether the client was told something that the store knows nothing of.
    pub(super) fn has_lost(&self) -> bool {
        self.faults.iter().any(|fault| matches!(fault, Fault::Lost(_)))
    }

    /// How often the effect of this name happened.
    pub(super) fn count(&self, name: &str) -> usize {
        self.ledger.happenings.iter().filter(|it| it.name == name).count()
    }

    /// How often the effect of this name happened before the client was told.
    pub(super) fn count_when_told(&self, name: &str) -> usize {
        let by_then = self.told.map_or(0, |told| told.happenings);
        self.ledger.happenings.iter().take(by_then).filter(|it| it.name == name).count()
    }

    /// Whether all that was planned came to pass.
    pub(super) fn has_done(&self, plan: &[Kill]) -> bool {
        let kills = plan.iter().filter(|kill| !matches!(kill.moment, Moment::RequestLost(_) | Moment::AnswerLost(_)));
        self.deaths.len() == kills.count()
    }
}

/// What an operator says that a step gave: the other side's answer, or where a step makes something else of that, what
/// it usually gives.
fn result_of(it: &Happening, usual: Option<(&Happening, &Step)>) -> Vec<u8> {
    let answer = it.answer.clone().unwrap_or_default().into_bytes();
    let Some((usually, step)) = usual else { return answer };
    match step.bytes() {
        Some(bytes) if bytes != usually.answer.clone().unwrap_or_default().as_bytes() => bytes.to_vec(),
        _ => answer,
    }
}

/// Whether it happened in this step, or under its id.
fn is_of(it: &Happening, progress: &Progress, step: &str) -> bool {
    let is_within = it.within.as_ref().is_some_and(|within| within.key == *progress.key() && within.step == step);
    is_within || it.id.as_deref() == Some(&*progress.effect_id(step).to_string())
}

/// The kind of the store's error, where it is one or comes from one.
fn kind_of(error: &(dyn StdError + 'static)) -> Option<ErrorKind> {
    let mut error = Some(error);
    while let Some(here) = error {
        if let Some(ours) = here.downcast_ref::<Error>() {
            return Some(ours.kind());
        }
        error = here.source();
    }
    None
}

/// An error with all that it comes from.
fn in_full(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("without a message").to_owned()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::claim::{Claim, Request};

    fn setting<'h>() -> Setting<'h> {
        let disk = SimulatedDisk::new();
        Store::builder().open_on(&disk).unwrap().close().unwrap();
        let (builder, fresh) = (Box::new(Store::builder), disk.image());
        Setting { builder, checks: Vec::new(), fresh, attempts_max: 3, pause: Duration::from_secs(1) }
    }

    /// Charges and mails, and notes which attempt each run was.
    fn order(store: &Store, world: &World, attempts: &RefCell<Vec<u32>>) -> Result<String, Source> {
        match store.claim(&Key::new("orders", "1")?, Request::of("two pizzas")).wait()? {
            Claim::Run(mut run) => {
                attempts.borrow_mut().push(run.attempt());
                let step = run.step("charge").recheck(|id| world.find("charge", id));
                let receipt = step.run(|id| world.effect("charge", id))?;
                world.asks("the oven", || ());
                run.step("mail").run_keyed(|id| world.keyed_effect("mail", id))?;
                Ok(run.complete(&receipt).wait()?.decode()?)
            }
            Claim::Replay(outcome) => Ok(outcome.decode()?),
            other => panic!("{other:?}"),
        }
    }

    fn trial(plan: &[Kill]) -> (Trial, Vec<u32>) {
        let (setting, attempts) = (setting(), RefCell::default());
        let handler = |store: &Store, world: &World| order(store, world, &attempts);
        let trial = Course::new(&setting, &handler, None).run(plan, None);
        assert!(trial.faults.is_empty(), "{:?}", trial.faults);
        (trial, attempts.take())
    }

    /// What was written and not synced is there for the next process, and gone where the power was cut.
    #[test]
    fn a_power_cut_takes_what_a_killed_process_leaves() {
        let (undisturbed, _) = trial(&[]);
        let mut seen = Vec::new();
        for nth in 0..undisturbed.calls[0].disk {
            let moment = Moment::BeforeDisk(nth);
            seen.push([Death::Killed, Death::PowerCut].map(|death| trial(&[Kill { moment, death }]).1));
        }
        // The claim was written, and nobody heard of it: the run that does is the second one, or the first.
        assert!(seen.contains(&[vec![2], vec![1]]), "{seen:?}");
        // So was the outcome: there is no second run, or one.
        assert!(seen.contains(&[vec![1], vec![1, 2]]), "{seen:?}");
    }

    /// What was queued when the process was killed is not written by the store that is closed after it.
    #[test]
    fn a_result_that_waited_for_the_next_call_dies_with_the_process() {
        let kill = |moment| trial(&[Kill { moment, death: Death::Killed }]).0;
        for moment in [Moment::AfterWorld(0), Moment::BeforeWorld(1)] {
            let looks = kill(moment).ledger.looks;
            let looks: Vec<_> = looks.iter().map(|look| (&*look.name, look.has_found)).collect();
            assert_eq!(looks, [("charge", true)], "{moment:?}");
        }
        // The intent of the mail took the result of the charge along.
        let trial = kill(Moment::BeforeWorld(2));
        assert!(trial.deaths.len() == 1 && trial.ledger.looks.is_empty(), "{:?}", trial.ledger.story);
    }
}
