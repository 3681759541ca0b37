//! Guarding one effect: its intent is durable before it runs, its result is kept after.
//!
//! Invariants (P4):
//! 1. No effect runs before its intent is on disk, in this attempt.
//! 2. A step with a result never runs again.
//! 3. A step in doubt runs again only after a recheck said that it did not happen, or where the caller declared that
//!    the other side deduplicates.

use std::any::type_name;
use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, ready};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::effect::EffectId;
use crate::error::{Error, ErrorKind, Result, Source};
use crate::payload::Payload;
use crate::pending::block_on;
use crate::record::Step;
use crate::record::step::StepStanding;
use crate::run::Run;

impl Run {
    /// Guards one effect: a charge, a mail, a call of another service. Nothing happens until the method that ends the
    /// builder; which one that is says what may happen when a crash, or an error, left nobody knowing whether the
    /// effect happened (the step is *in doubt*):
    ///
    /// | the other side | end with | in doubt |
    /// | --- | --- | --- |
    /// | can be asked whether it happened | [`recheck`](StepBuilder::recheck), then [`run`](Rechecked::run) | asked |
    /// | deduplicates by an id of ours | [`run_keyed`](StepBuilder::run_keyed) | run again, under the same id |
    /// | neither | [`run_at_most_once`](StepBuilder::run_at_most_once) | an error, until [resolved](Run::resolve) |
    ///
    /// A step has a name of 1 to 128 bytes, which is a contract between deployments: what is recorded under a name is
    /// found under it and nowhere else. The order of steps may change; a loop numbers its names.
    ///
    /// **Durable** are its intent before the effect runs, and its result with this run's next durable call at the
    /// latest, before that answers; no call waits for the result alone (P2, P3, P4).
    ///
    /// ```
    /// # fn charge(_: reentry::EffectId, _: u32) -> Result<String, std::io::Error> { Ok("receipt 7".to_owned()) }
    /// # fn find(_: reentry::EffectId) -> Result<Option<String>, std::io::Error> { Ok(None) }
    /// # fn mail(_: reentry::EffectId) -> Result<(), std::io::Error> { Ok(()) }
    /// use reentry::{Claim, Fingerprint, Key, Store};
    ///
    /// let store = Store::builder().in_memory()?;
    /// let claim = store.claim(&Key::new("orders", "1")?, Fingerprint::of("two pizzas")).wait()?;
    /// let Claim::Run(mut run) = claim else { panic!("it is new") };
    /// let receipt = run.step("charge").recheck(|id| find(id)).run(|id| charge(id, 1750))?;
    /// run.step("mail").run_keyed(|id| mail(id))?;
    /// run.complete(&receipt).wait()?;
    /// # Ok::<(), reentry::Error>(())
    /// ```
    pub fn step(&mut self, name: &str) -> StepBuilder<'_> {
        StepBuilder { run: self, name: name.into() }
    }
}

/// One effect about to be guarded; see [`Run::step`].
///
/// Whichever method ends it, the effect gets the step's [`EffectId`], the same for every run, and gives its result, a
/// [`Payload`], or an error: any error type, or [`Failure`]. An error says nothing about whether the effect happened
/// (a time-out, a lost connection), so the step stays in doubt and the call fails with
/// [`ErrorKind::EffectFailed`]; only [`not_applied`] says that nothing happened, which withdraws the intent
/// ([`ErrorKind::NotApplied`]). A refusal that is to be remembered is a result, not an error.
///
/// # Errors
///
/// [`ErrorKind::EffectFailed`] and [`ErrorKind::NotApplied`] with what the effect returned as the source;
/// [`ErrorKind::CannotTell`] and [`ErrorKind::InDoubt`] for a step in doubt; [`ErrorKind::Codec`] with step and type
/// where a recorded result no longer decodes (its bytes are kept) or a new one does not encode, and
/// [`ErrorKind::PayloadTooLarge`] for a new one that is over the limit (then the effect has happened and the step stays
/// in doubt); [`ErrorKind::StepRepeated`] and [`ErrorKind::InvalidName`] for its name, [`ErrorKind::Capacity`] where
/// the operation has 1,024 steps; [`ErrorKind::Fenced`] where the run lost the operation, before the effect (which
/// then did not run) or during it (then its result is kept as evidence). Otherwise what became of the store, as for
/// [`Run::advance`](crate::Run::advance): the effect did not run, but the step may be in doubt where it is
/// [`ErrorKind::OutcomeUnknown`].
///
/// # Panics
///
/// Only where the effect or the recheck does: the panic passes through, and the step stays in doubt.
#[must_use = "no effect runs until `run`, `run_keyed` or `run_at_most_once`"]
#[derive(Debug)]
pub struct StepBuilder<'r> {
    run: &'r mut Run,
    name: Arc<str>,
}

/// One effect about to be guarded, with its recheck; see [`StepBuilder::recheck`].
#[must_use = "no effect runs until `run` or `run_async`"]
pub struct Rechecked<'r, R> {
    step: StepBuilder<'r>,
    recheck: R,
    settles_within: Duration,
}

/// What is remembered of a step when it is asked for.
enum Entry<T> {
    /// It has this result.
    Known(T),
    /// It did not happen, or not that anybody knows of.
    New,
    /// It may have happened since this moment.
    InDoubt(Timestamp),
}

impl<'r> StepBuilder<'r> {
    /// Says how to find out whether the effect happened, where the step is in doubt: `recheck` asks the outside world
    /// and answers `Ok(Some(result))` (it happened: this becomes the step's result), `Ok(None)` (it did not: it runs)
    /// or an error (it cannot tell now: [`ErrorKind::CannotTell`], the step stays in doubt, come back later). It is
    /// called for a step in doubt alone. [`not_applied`] means nothing here: "it did not" is `Ok(None)`. End with
    /// [`run`](Rechecked::run).
    ///
    /// Right where the other side can be asked by the effect id, or by something that was given to it (P4).
    pub fn recheck<T, E, R>(self, recheck: R) -> Rechecked<'r, R>
    where
        R: FnOnce(EffectId) -> Result<Option<T>, E>,
        T: Payload,
        E: Into<Failure>,
    {
        Rechecked { step: self, recheck, settles_within: Duration::ZERO }
    }

    /// As [`recheck`](Self::recheck), for tasks (P4). End with [`run_async`](Rechecked::run_async).
    pub fn recheck_async<T, E, R, F>(self, recheck: R) -> Rechecked<'r, R>
    where
        R: FnOnce(EffectId) -> F,
        F: Future<Output = Result<Option<T>, E>>,
        T: Payload,
        E: Into<Failure>,
    {
        Rechecked { step: self, recheck, settles_within: Duration::ZERO }
    }

    /// Runs the effect, again under the same effect id where the step is in doubt. Right **only** where the other side
    /// deduplicates on the effect id, for longer than any retry comes: it is then given as *their* idempotency key
    /// (P4).
    ///
    /// [`not_applied`] withdraws the intent of the first try alone: of a step in doubt an earlier try may have
    /// happened, so it stays in doubt, and the call fails with [`ErrorKind::EffectFailed`].
    ///
    /// # Errors
    ///
    /// Those of [`StepBuilder`]; never `CannotTell` or `InDoubt`.
    pub fn run_keyed<T, E>(self, effect: impl FnOnce(EffectId) -> Result<T, E>) -> Result<T>
    where
        T: Payload,
        E: Into<Failure>,
    {
        block_on(self.run_keyed_async(|id| ready(effect(id))))
    }

    /// As [`run_keyed`](Self::run_keyed), for tasks (P4). A future that is dropped while the effect is under way leaves
    /// the step in doubt.
    ///
    /// # Errors
    ///
    /// Those of [`run_keyed`](Self::run_keyed).
    pub async fn run_keyed_async<T, E, F>(mut self, effect: impl FnOnce(EffectId) -> F) -> Result<T>
    where
        T: Payload,
        E: Into<Failure>,
        F: Future<Output = Result<T, E>>,
    {
        match self.enter().await? {
            Entry::Known(result) => Ok(result),
            Entry::New => self.perform(false, effect).await,
            // That this try did not happen says nothing of the tries before it.
            Entry::InDoubt(_) => self.perform(true, async |id| effect(id).await.map_err(still_in_doubt)).await,
        }
    }

    /// Runs the effect once at most: where the step is in doubt it is an error, [`ErrorKind::InDoubt`], until somebody
    /// finds out and says so with [`Run::resolve`] or [`Store::resolve`](crate::Store::resolve). Right where the other
    /// side can neither be asked nor deduplicates, and twice is worse than never (P4).
    ///
    /// An error of the effect leaves it in doubt as a crash does: say [`not_applied`] where you know better.
    ///
    /// # Errors
    ///
    /// Those of [`StepBuilder`]; never `CannotTell`.
    pub fn run_at_most_once<T, E>(self, effect: impl FnOnce(EffectId) -> Result<T, E>) -> Result<T>
    where
        T: Payload,
        E: Into<Failure>,
    {
        block_on(self.run_at_most_once_async(|id| ready(effect(id))))
    }

    /// As [`run_at_most_once`](Self::run_at_most_once), for tasks (P4). A future that is dropped while the effect is
    /// under way leaves the step in doubt.
    ///
    /// # Errors
    ///
    /// Those of [`run_at_most_once`](Self::run_at_most_once).
    pub async fn run_at_most_once_async<T, E, F>(mut self, effect: impl FnOnce(EffectId) -> F) -> Result<T>
    where
        T: Payload,
        E: Into<Failure>,
        F: Future<Output = Result<T, E>>,
    {
        match self.enter().await? {
            Entry::Known(result) => Ok(result),
            Entry::New => self.perform(false, effect).await,
            Entry::InDoubt(_) => {
                let name = &self.name;
                let message =
                    format!("step {name:?} is in doubt: find out whether it happened, then resolve it by name");
                Err(Error::new(ErrorKind::InDoubt, message))
            }
        }
    }

    fn id(&self) -> EffectId {
        self.run.effect_id(&self.name)
    }

    /// Looks at what is remembered of the step.
    async fn enter<T: Payload>(&mut self) -> Result<Entry<T>> {
        if self.run.has_asked(&self.name) {
            // The first try of this run failed or was dropped half-way. It may have left an intent that the run never
            // heard of, or that is on its way still, in front of this.
            self.run.renew().await?;
            self.run.refresh()?;
        }
        let Some(step) = self.run.ask(&self.name)? else { return Ok(Entry::New) };
        match &step.standing {
            StepStanding::Done { .. } => self.known(&step).map(Entry::Known),
            StepStanding::Withdrawn { .. } => Ok(Entry::New),
            StepStanding::InDoubt => Ok(Entry::InDoubt(step.begun_at)),
        }
    }

    /// The result that is recorded.
    fn known<T: Payload>(&mut self, step: &Step) -> Result<T> {
        let result = T::decode(step.bytes().unwrap_or_default()).map_err(|error| {
            let (name, wanted) = (&self.name, type_name::<T>());
            let message = format!("the result of step {name:?} does not decode into {wanted}; its bytes are kept");
            Error::because(ErrorKind::Codec, message, error)
        })?;
        self.run.had(&self.name);
        Ok(result)
    }

    /// Records the intent, runs the effect, keeps its result.
    async fn perform<T, E, F>(&mut self, again: bool, effect: impl FnOnce(EffectId) -> F) -> Result<T>
    where
        T: Payload,
        E: Into<Failure>,
        F: Future<Output = Result<T, E>>,
    {
        // Somebody may have said by name what became of it since this run looked.
        if let Some(step) = self.run.intend(&self.name, again).await? {
            return self.known(&step);
        }
        // A task that was not polled for long may have been overtaken since its intent was recorded.
        self.run.check_stands()?;
        let (id, span) = (self.id(), self.run.step_span(&self.name, again));
        match span.around(async move { effect(id).await }).await {
            Ok(result) => self.happened(result),
            Err(error) => Err(self.failed(error.into())),
        }
    }

    /// Keeps the result of an effect that happened.
    fn happened<T: Payload>(&mut self, result: T) -> Result<T> {
        let bytes = self.run.limits.encode(&result).map_err(|error| {
            let message = format!("step {:?} happened, but its result cannot be kept, so it is in doubt", self.name);
            Error::because(error.kind(), message, error)
        })?;
        self.run.report(&self.name, Some(bytes))?;
        self.run.had(&self.name);
        Ok(result)
    }

    /// What an effect's error comes to.
    fn failed(&mut self, failure: Failure) -> Error {
        let Failure { source, is_not_applied } = failure;
        let name = Arc::clone(&self.name);
        if !is_not_applied {
            let message = format!("the effect of step {name:?} failed; nobody knows whether it happened");
            return Error::because(ErrorKind::EffectFailed, message, source);
        }
        match self.run.report(&name, None) {
            Err(fenced) => fenced,
            Ok(()) => {
                let message = format!("the effect of step {name:?} did not happen");
                Error::because(ErrorKind::NotApplied, message, source)
            }
        }
    }
}

impl<R> Rechecked<'_, R> {
    /// How long the other side may need until it can be asked about what it was sent. "It did not happen" sooner than
    /// that after the last intent counts as "cannot tell now" (P4), by the store's time (P11). Where the store was
    /// opened since, that is counted from its opening: how long the process before has been gone, nobody knows. Where
    /// it took in an export since, that is counted from then.
    /// Default: it can be asked at once.
    ///
    /// Choose it longer than your own time-out for the call plus the other side's delay: what you gave up on may still
    /// be on its way.
    pub fn settles_within(mut self, span: Duration) -> Self {
        self.settles_within = span;
        self
    }

    /// Runs the effect; where the step is in doubt only if the recheck says that it did not happen (P4).
    ///
    /// # Errors
    ///
    /// Those of [`StepBuilder`]; never `InDoubt`.
    pub fn run<T, E, RE>(self, effect: impl FnOnce(EffectId) -> Result<T, E>) -> Result<T>
    where
        R: FnOnce(EffectId) -> Result<Option<T>, RE>,
        T: Payload,
        E: Into<Failure>,
        RE: Into<Failure>,
    {
        let Self { step, recheck, settles_within } = self;
        let recheck = |id| ready(recheck(id));
        block_on(Rechecked { step, recheck, settles_within }.run_async(|id| ready(effect(id))))
    }

    /// As [`run`](Self::run), for tasks (P4). A future that is dropped while the effect is under way leaves the step in
    /// doubt.
    ///
    /// # Errors
    ///
    /// Those of [`run`](Self::run).
    pub async fn run_async<T, E, F, RE, RF>(mut self, effect: impl FnOnce(EffectId) -> F) -> Result<T>
    where
        R: FnOnce(EffectId) -> RF,
        RF: Future<Output = Result<Option<T>, RE>>,
        F: Future<Output = Result<T, E>>,
        T: Payload,
        E: Into<Failure>,
        RE: Into<Failure>,
    {
        let begun_at = match self.step.enter().await? {
            Entry::Known(result) => return Ok(result),
            Entry::New => return self.step.perform(false, effect).await,
            Entry::InDoubt(begun_at) => begun_at,
        };
        // What is asked now tells of what had arrived by now.
        let has_settled =
            self.step.run.engine.time() >= self.step.run.engine.tells_from(begun_at) + self.settles_within;
        let name = Arc::clone(&self.step.name);
        match (self.recheck)(self.step.id()).await {
            Ok(Some(result)) => self.step.happened(result),
            Ok(None) if has_settled => self.step.perform(true, effect).await,
            Ok(None) => {
                let message = format!("step {name:?} may still be on its way; recheck it later");
                Err(Error::new(ErrorKind::CannotTell, message))
            }
            Err(error) => {
                let source = error.into().source;
                let message = format!("nobody can tell now whether step {name:?} happened; recheck it later");
                Err(Error::because(ErrorKind::CannotTell, message, source))
            }
        }
    }
}

impl<R> fmt::Debug for Rechecked<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Rechecked");
        shown.field("name", &self.step.name).field("settles_within", &self.settles_within).finish_non_exhaustive()
    }
}

/// Why an effect gave no result. Every error is one; [`not_applied`] makes one that says that nothing happened.
#[derive(Debug)]
pub struct Failure {
    source: Source,
    is_not_applied: bool,
}

/// Says that the effect did not happen and will not, whatever the error was (P4): the step's intent is withdrawn, and
/// the step runs again when it is asked for.
///
/// Right only for who *knows*: the connection was refused before anything was sent, or the other side answered that it
/// did nothing. A time-out says nothing of the kind.
///
/// ```
/// use reentry::{Claim, ErrorKind, Failure, Fingerprint, Key, Store, not_applied};
///
/// let store = Store::builder().in_memory()?;
/// let claim = store.claim(&Key::new("orders", "1")?, Fingerprint::of("two pizzas")).wait()?;
/// let Claim::Run(mut run) = claim else { panic!("it is new") };
/// let refused = run.step("charge").run_at_most_once(|_| Err::<(), Failure>(not_applied("the bank is closed")));
/// assert_eq!(refused.unwrap_err().kind(), ErrorKind::NotApplied);
/// run.step("charge").run_at_most_once(|_| Ok::<_, Failure>(()))?; // not in doubt: it runs
/// # Ok::<(), reentry::Error>(())
/// ```
pub fn not_applied(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Failure {
    Failure { source: error.into(), is_not_applied: true }
}

impl<E: Into<Box<dyn StdError + Send + Sync>>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { source: error.into(), is_not_applied: false }
    }
}

/// The failure of one more try: an earlier one may have happened all the same.
fn still_in_doubt(error: impl Into<Failure>) -> Failure {
    Failure { is_not_applied: false, ..error.into() }
}
