//! The world outside of the process: what a crash does not take back.

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use super::life::{Fate, Life};
use crate::clock::ManualClock;
use crate::key::Key;
use crate::store::Store;
use crate::sync::{Mutex, thread};

/// The world outside, as a handler under test sees it: what it does there is written down, and a crash takes none of it
/// back. A handle: cheap to clone, `Send` and `Sync`. A handle that a killed process left behind does nothing: whoever
/// calls it is stopped by unwinding.
///
/// It stands for three kinds of other sides:
///
/// | the other side | call |
/// | --- | --- |
/// | does what it is told, as often as it is told | [`effect`](Self::effect) |
/// | deduplicates on the id that it is given | [`keyed_effect`](Self::keyed_effect) |
/// | is a fake of yours | [`happens`](Self::happens), [`asks`](Self::asks) and [`happened`](Self::happened) around it |
///
/// Each can be asked what it knows: [`find`](Self::find). How often an effect may happen is
/// [as often as it does in a run that nothing disturbs](Expected::ExactlyOnce), unless [`expect`](Self::expect) says
/// otherwise.
///
/// ```
/// use reentry::testing::{Unanswered, World};
/// use reentry::{Result, Run};
///
/// fn pay(run: &mut Run, world: &World) -> Result<String> {
///     run.step("charge").recheck(|id| world.find("charge", id)).run(|id| world.effect("charge", id))
/// }
/// ```
#[derive(Clone)]
pub struct World {
    outside: Arc<Outside>,
    life: Arc<Life>,
    /// What the process keeps in its memory.
    memory: Arc<Kept>,
}

/// Values of the user's, one of each type.
type Kept = Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>;

/// How often an effect may happen, measured by how often it does in a run that nothing disturbs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Expected {
    /// Just as often: once, where the operation has one effect of this name. The default.
    #[default]
    ExactlyOnce,
    /// Just as often or less; once, where that run does not do it at all. For what
    /// [`run_at_most_once`](crate::StepBuilder::run_at_most_once) guards. A step of it that is left in doubt is
    /// resolved by what the world knows, as an operator would do; its result is the world's answer, or where the step
    /// makes something else of that, what it gives in a run that nothing disturbs.
    AtMostOnce,
    /// Just as often or more: twice is only a nuisance.
    AtLeastOnce,
    /// However often: nobody counts.
    AnyNumber,
}

/// The other side did not answer; nobody knows whether it did what it was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unanswered {
    what: String,
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: no answer came (the kit took it away)", self.what)
    }
}

impl std::error::Error for Unanswered {}

/// What outlives every process of one trial.
#[derive(Debug)]
pub(super) struct Outside {
    pub(super) clock: ManualClock,
    ledger: Mutex<Ledger>,
    kept: Kept,
}

/// Everything that happened, and how it came to that.
#[derive(Debug, Clone, Default)]
pub(super) struct Ledger {
    pub(super) happenings: Vec<Happening>,
    pub(super) expected: BTreeMap<String, Expected>,
    pub(super) looks: Vec<Look>,
    pub(super) story: Vec<String>,
    pub(super) attempt: usize,
    /// Whether a request or an answer got lost.
    pub(super) has_lost: bool,
}

/// One effect that happened.
#[derive(Debug, Clone)]
pub(super) struct Happening {
    pub(super) name: String,
    /// What the other side was given to know it by.
    pub(super) id: Option<String>,
    /// What the other side answered.
    pub(super) answer: Option<String>,
    pub(super) attempt: usize,
    pub(super) within: Option<Within>,
    /// Whether it was done in a closure that the store's writer runs.
    pub(super) is_in_closure: bool,
}

/// The step that was under way when something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Within {
    pub(super) key: Key,
    pub(super) step: String,
}

/// One look-up.
#[derive(Debug, Clone)]
pub(super) struct Look {
    pub(super) name: String,
    pub(super) attempt: usize,
    pub(super) has_found: bool,
}

impl World {
    pub(super) fn new(outside: &Arc<Outside>, life: &Arc<Life>) -> Self {
        Self { outside: Arc::clone(outside), life: Arc::clone(life), memory: Arc::default() }
    }

    /// Tells the other side to do something, which it does as often as it is told. Its answer is a text that no other
    /// effect has, `charge #1`, say.
    ///
    /// `id` is what the other side is to know it by: an [`EffectId`](crate::EffectId), an order number, a reference.
    ///
    /// # Errors
    ///
    /// [`Unanswered`] where the kit lets the request or its answer get lost.
    pub fn effect(&self, name: &str, id: impl fmt::Display) -> Result<String, Unanswered> {
        self.tell(name, &id.to_string(), false)
    }

    /// Tells the other side to do something, which it does once for each `id`; told again, it gives the same answer.
    ///
    /// # Errors
    ///
    /// As for [`effect`](Self::effect).
    pub fn keyed_effect(&self, name: &str, id: impl fmt::Display) -> Result<String, Unanswered> {
        self.tell(name, &id.to_string(), true)
    }

    /// Asks the other side whether an effect of this name happened under this `id`, and what it answered then: the
    /// first time, where it was more than one.
    ///
    /// # Errors
    ///
    /// [`Unanswered`] where the kit lets the request or its answer get lost.
    pub fn find(&self, name: &str, id: impl fmt::Display) -> Result<Option<String>, Unanswered> {
        let id = id.to_string();
        let what = format!("the look-up of `{name}`");
        self.call(&what, || {
            let mut ledger = self.outside.ledger.lock();
            let is_it = |it: &&Happening| it.name == name && it.id.as_ref() == Some(&id);
            let found = ledger.happenings.iter().find(is_it).map(|it| it.answer.clone().unwrap_or_default());
            let said = if found.is_some() { "it happened" } else { "it did not happen" };
            let attempt = ledger.attempt;
            ledger.story.push(format!("attempt {attempt}: asks whether `{name}` happened: {said}"));
            ledger.looks.push(Look { name: name.to_owned(), attempt, has_found: found.is_some() });
            found
        })
    }

    /// Does an effect on a fake of yours, which does it each time it is told, and counts it.
    ///
    /// The process is killed before it, between it and its answer, and behind it, as for [`effect`](Self::effect). What
    /// the fake remembers belongs into [`outside`](Self::outside), so that each trial begins with a new one.
    ///
    /// ```
    /// use reentry::testing::World;
    /// use std::sync::Mutex;
    ///
    /// #[derive(Default)]
    /// struct Mailer(Mutex<Vec<String>>);
    ///
    /// fn mail(world: &World, text: &str) {
    ///     let mailer = world.outside::<Mailer>();
    ///     world.happens("mail", || mailer.0.lock().unwrap().push(text.to_owned()));
    /// }
    /// ```
    pub fn happens<T>(&self, name: &str, act: impl FnOnce() -> T) -> T {
        self.interrupted(&format!("the effect `{name}`"), || {
            let answer = act();
            self.write_down(name, None, None);
            answer
        })
    }

    /// Asks a fake of yours something, or tells it to do what it may have done before: a call at which the process is
    /// killed as at an effect, and that counts nothing. A fake that deduplicates says with [`happened`](Self::happened)
    /// when it really did something.
    ///
    /// ```
    /// use reentry::testing::World;
    /// use std::collections::BTreeSet;
    /// use std::sync::Mutex;
    ///
    /// /// Sends one mail for each id.
    /// #[derive(Default)]
    /// struct Mailer(Mutex<BTreeSet<String>>);
    ///
    /// fn mail(world: &World, id: &str) {
    ///     let mailer = world.outside::<Mailer>();
    ///     world.asks("the mailer", || {
    ///         if mailer.0.lock().unwrap().insert(id.to_owned()) {
    ///             world.happened("mail");
    ///         }
    ///     });
    /// }
    /// ```
    pub fn asks<T>(&self, name: &str, ask: impl FnOnce() -> T) -> T {
        self.interrupted(&format!("the call of `{name}`"), ask)
    }

    /// Counts an effect that happened in a fake of yours, in the midst of [`asks`](Self::asks). Nothing is killed here.
    pub fn happened(&self, name: &str) {
        self.write_down(name, None, None);
    }

    /// Says how often an effect of this name may happen. It holds for the whole trial, whichever attempt says so.
    pub fn expect(&self, name: &str, expected: Expected) {
        self.outside.ledger.lock().expected.insert(name.to_owned(), expected);
    }

    /// How often an effect of this name happened so far.
    pub fn count(&self, name: &str) -> usize {
        self.outside.ledger.lock().happenings.iter().filter(|happening| happening.name == name).count()
    }

    /// A value of yours that stands for something outside: a fake bank, a file server. It is made when it is first
    /// asked for, outlives every crash, and ends with the trial.
    pub fn outside<T: Default + Send + Sync + 'static>(&self) -> Arc<T> {
        kept(&self.outside.kept)
    }

    /// A value of yours that stands for the memory of the process: a cache, a list of what is under way. Every crash
    /// takes it away. What a handler keeps anywhere else outlives the crashes of the kit, as it would no real one.
    pub fn memory<T: Default + Send + Sync + 'static>(&self) -> Arc<T> {
        kept(&self.memory)
    }

    /// The clock of the store. The kit moves it on after each attempt that failed and each crash; a handler may move it
    /// too.
    pub fn clock(&self) -> &ManualClock {
        &self.outside.clock
    }

    fn tell(&self, name: &str, id: &str, is_keyed: bool) -> Result<String, Unanswered> {
        self.call(&format!("the effect `{name}`"), || {
            let known = |it: &&Happening| is_keyed && it.name == name && it.id.as_deref() == Some(id);
            if let Some(before) = self.outside.ledger.lock().happenings.iter().find(known) {
                return before.answer.clone().unwrap_or_default();
            }
            self.write_down(name, Some(id), Some(&|nth| format!("{name} #{nth}")))
        })
    }

    /// A call that can get lost, at which the process can be killed.
    fn call<T>(&self, what: &str, act: impl FnOnce() -> T) -> Result<T, Unanswered> {
        let what = &self.of_this_attempt(what);
        let (nth, fate) = self.life.begins(what);
        let answer = (fate != Fate::RequestLost).then(act);
        if fate != Fate::Answered {
            self.outside.ledger.lock().has_lost = true;
            self.outside.tell_story(|_| format!("no answer to {what} arrives"));
        }
        self.life.ends(nth, what);
        let unanswered = || Unanswered { what: what.to_owned() };
        answer.filter(|_| fate == Fate::Answered).ok_or_else(unanswered)
    }

    /// A call that cannot get lost, at which the process can be killed.
    fn interrupted<T>(&self, what: &str, act: impl FnOnce() -> T) -> T {
        let what = &self.of_this_attempt(what);
        let (nth, _) = self.life.begins(what);
        let answer = act();
        self.life.ends(nth, what);
        answer
    }

    fn of_this_attempt(&self, what: &str) -> String {
        format!("{what} of attempt {}", self.outside.ledger.lock().attempt)
    }

    /// Writes down that an effect happened, and gives the other side's answer.
    fn write_down(&self, name: &str, id: Option<&str>, answer: Option<&dyn Fn(usize) -> String>) -> String {
        let within = self.life.store().and_then(|store| within(&store, id));
        let is_in_closure = thread::current().name() == Some("reentry-writer");
        let mut ledger = self.outside.ledger.lock();
        let attempt = ledger.attempt;
        let place = match &within {
            Some(within) => format!("in the step `{}`", within.step),
            None if is_in_closure => "in a closure that the store's writer runs".to_owned(),
            None => "outside of a step".to_owned(),
        };
        ledger.story.push(format!("attempt {attempt}: the effect `{name}` happens, {place}"));
        let answer = answer.map(|answer| answer(ledger.happenings.len() + 1));
        let told = answer.clone().unwrap_or_default();
        let (name, id) = (name.to_owned(), id.map(str::to_owned));
        ledger.happenings.push(Happening { name, id, answer, attempt, within, is_in_closure });
        told
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").finish_non_exhaustive()
    }
}

impl Outside {
    pub(super) fn new(clock: ManualClock) -> Arc<Self> {
        Arc::new(Self { clock, ledger: Mutex::default(), kept: Mutex::default() })
    }

    /// What is written down by now.
    pub(super) fn ledger(&self) -> Ledger {
        self.ledger.lock().clone()
    }

    /// Begins the next attempt, and gives its number.
    pub(super) fn begins_attempt(&self) -> usize {
        let mut ledger = self.ledger.lock();
        ledger.attempt += 1;
        ledger.attempt
    }

    /// Writes one line of how it came to what happened; the line is given the attempt.
    pub(super) fn tell_story(&self, line: impl FnOnce(usize) -> String) {
        let mut ledger = self.ledger.lock();
        let line = line(ledger.attempt);
        ledger.story.push(line);
    }
}

/// The step whose effect is under way: the one that has this id, or else the last one whose intent its run recorded and
/// whose result is not on its way to the disk.
fn within(store: &Store, id: Option<&str>) -> Option<Within> {
    let mut last = None;
    for progress in store.unfinished().flatten() {
        let attempt = progress.attempt();
        for step in progress.in_doubt().filter(|step| step.attempt() == attempt) {
            let within = Within { key: progress.key().clone(), step: step.name().to_owned() };
            if id == Some(&*progress.effect_id(step.name()).to_string()) {
                return Some(within);
            }
            last = Some(within);
        }
    }
    // A report that nobody waits for stays in the queue, and while it does its step still shows as in doubt.
    last.filter(|_| store.stats().is_ok_and(|stats| stats.queued == 0))
}

fn kept<T: Default + Send + Sync + 'static>(kept: &Kept) -> Arc<T> {
    let mut kept = kept.lock();
    let value = kept.entry(TypeId::of::<T>()).or_insert_with(|| Arc::new(T::default()));
    // The value under this type's id is of this type.
    Arc::clone(value).downcast().unwrap_or_default()
}
