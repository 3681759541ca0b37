//! One attempt at an operation: the guard through which its owner changes it.
//!
//! Invariants:
//! 1. A run is the only door: it cannot be cloned, and what ends it consumes it (P1).
//! 2. Dropping it, however that comes, gives the operation free at that moment and does no I/O (P7).
//! 3. What it reported of a step goes before whatever it asks for next, so no outcome and no later intent is on disk
//!    without it (P3).

use std::collections::HashMap;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::effect::EffectId;
use crate::engine::{Advanced, Carried, Engine, Granted, Known, Ownership, Stepped, Transaction, WriteRows};
use crate::error::{Error, ErrorKind, Result, Source};
use crate::key::{Key, NAME_BYTES_MAX, validate};
use crate::payload::{Limits, Payload};
use crate::pending::Pending;
use crate::record::step::{NOTE_BYTES_MAX, Try};
use crate::record::transitions::{Command, Reporter};
use crate::record::{Body, Checkpoint, Outcome, Record, Resolution, Revision, Step, StepState};
use crate::sync::Mutex;
use crate::trace::Span;

/// The shortest that an outcome is kept: none would let its key start anew before anybody was told.
const KEPT_MIN: Duration = Duration::from_millis(1);

/// One run of an operation, by its owner. At most one lives of each operation, in any thread or task.
///
/// A first entry and a re-entry are told apart by [`attempt`](Self::attempt); where the last run stopped, by
/// [`checkpoint`](Self::checkpoint). A run ends by [`complete`](Self::complete) or [`fail`](Self::fail), which give
/// the operation its outcome, or without one: by [`release`](Self::release), or by being dropped, as a return, an
/// error, a panic and a cancelled future do. Then the operation is unfinished and free at that moment, and the next
/// claim enters it again.
///
/// ```
/// use reentry::{Claim, Fingerprint, Key, Store};
///
/// let store = Store::builder().in_memory()?;
/// let (key, request) = (Key::new("orders", "1")?, Fingerprint::of("two pizzas"));
/// if let Claim::Run(mut run) = store.claim(&key, request).wait()? {
///     run.advance("paid", &"receipt 7".to_owned()).wait()?;
///     // The server dies here.
/// }
/// let Claim::Run(run) = store.claim(&key, request).wait()? else { panic!("it is unfinished and free") };
/// assert_eq!((run.attempt(), run.checkpoint().unwrap().name()), (2, "paid"));
/// run.complete(&"done".to_owned()).wait()?;
/// # Ok::<(), reentry::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "dropping a run gives the operation free again, unfinished; complete, fail or release it"]
pub struct Run {
    pub(crate) engine: Arc<Engine>,
    ownership: Arc<Ownership>,
    pub(crate) limits: Limits,
    /// What its outcome may take beside a payload of the largest size: the headers of an answer of HTTP.
    pub(crate) outcome_bytes_beside: usize,
    born: u64,
    attempt: u32,
    since: Timestamp,
    request: Option<Body>,
    /// How long its outcome is kept; none where that is the store's retention.
    kept: Option<Duration>,
    /// What this run last saw; shared with the answers that are still on their way.
    seen: Arc<Mutex<Seen>>,
    /// The steps that this run asked for, and whether it was given their result.
    asked: HashMap<Arc<str>, bool>,
}

#[derive(Debug)]
struct Seen {
    checkpoint: Option<Checkpoint>,
    steps: Vec<Step>,
    /// Spares the writer a read, as long as nobody else changes the record.
    known: Option<Known>,
    /// Whether this run has ended the operation.
    is_over: bool,
}

impl Seen {
    /// What is done stays done: an answer that is taken late may be of before.
    fn put(&mut self, step: Step) {
        match self.steps.iter_mut().find(|known| known.name == step.name) {
            Some(known) if known.state() == StepState::Done && step.state() != StepState::Done => {}
            Some(known) => *known = step,
            None => self.steps.push(step),
        }
    }

    /// A checkpoint that was read or moved to; an answer that is taken late may be of one before that which is known.
    fn put_checkpoint(&mut self, checkpoint: Option<Checkpoint>) {
        let revision =
            |checkpoint: &Option<Checkpoint>| checkpoint.as_ref().map_or(Revision::NONE, Checkpoint::revision);
        if revision(&checkpoint) >= revision(&self.checkpoint) {
            self.checkpoint = checkpoint;
        }
    }
}

// A run that a panic passes through is freed by being dropped, and nothing in it is half-done.
impl UnwindSafe for Run {}
impl RefUnwindSafe for Run {}

impl Run {
    pub(crate) fn new(engine: Arc<Engine>, limits: Limits, granted: Granted) -> Self {
        let Granted { ownership, known, record } = granted;
        let Record { born, attempt, since, request, checkpoint, steps, .. } = *record;
        let seen = Arc::new(Mutex::new(Seen { checkpoint, steps, known, is_over: false }));
        let (ownership, asked, outcome_bytes_beside) = (Arc::new(ownership), HashMap::new(), 0);
        Self { engine, ownership, limits, outcome_bytes_beside, born, attempt, since, request, kept: None, seen, asked }
    }

    /// The key it runs for.
    pub fn key(&self) -> &Key {
        self.ownership.key()
    }

    /// How many runs of this operation there were, this one included (P3): 1 on first entry, more on re-entry.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// A number that is greater than that of every earlier run of any operation in this store, restarts included (P7).
    /// Hand it to others that refuse what comes with a smaller number than they have seen: they then refuse a run that
    /// was taken over.
    pub fn token(&self) -> u64 {
        self.ownership.token()
    }

    /// When the operation was claimed for the first time.
    pub fn since(&self) -> Timestamp {
        self.since
    }

    /// The request's bytes, where the claim that began the operation carried them (P3).
    pub fn request(&self) -> Option<&[u8]> {
        self.request.as_ref().map(Body::bytes)
    }

    /// The request, as the value it was made from, where the claim that began the operation carried it (P3).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Codec`] where the bytes hold no such value; they stay as they are.
    pub fn decode_request<P: Payload>(&self) -> Result<Option<P>> {
        self.request().map(P::decode).transpose()
    }

    /// The effect id of this name in this operation: equal for every run and every retry. For an order id, say, or
    /// what another side is to deduplicate on; the step of this name gets the same, whether or not there is one (P4).
    pub fn effect_id(&self, name: &str) -> EffectId {
        EffectId::of(self.key(), name)
    }

    /// Every step that is remembered, as this run last saw it, in the order of their first intents (P3).
    pub fn steps(&self) -> Vec<Step> {
        self.seen.lock().steps.clone()
    }

    /// The remembered steps that this run has not asked for so far. Before [`complete`](Self::complete), whatever is
    /// left here was asked for by an earlier run alone: a deployment renamed or removed it. One of them that is in
    /// doubt is an effect that may have happened and that nobody rechecks any more (P3, P4).
    pub fn unasked_steps(&self) -> Vec<Step> {
        self.seen.lock().steps.iter().filter(|step| !self.asked.contains_key(&step.name)).cloned().collect()
    }

    /// The checkpoint that this run last saw (P3): where the run before stopped, or where this one moved it.
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        self.seen.lock().checkpoint.clone()
    }

    /// Reads the checkpoint and the steps as they are now (P3); another part of the server may have changed them.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Fenced`] where this run was revoked or its lease taken over: stop. [`ErrorKind::Corrupt`],
    /// [`ErrorKind::Io`] or [`ErrorKind::Closed`] where it cannot be read.
    pub fn refresh(&mut self) -> Result<Option<Checkpoint>> {
        self.check_not_over()?;
        if !self.ownership.stands() {
            return Err(self.fenced("stop and change nothing more"));
        }
        // Asked before it is read, since they may be taken in right behind that.
        let reports = self.ownership.reports().lock().outstanding();
        // Nothing is there as long as the claim is deferred.
        if let Some((read, _)) = self.engine.look(self.key())? {
            let mut seen = self.seen.lock();
            seen.put_checkpoint(read.record.checkpoint);
            // A report of this run that is not on disk yet knows better.
            let is_known_better = |step: &Step| reports.iter().any(|report| report.is_about(&step.name));
            read.record.steps.into_iter().filter(|step| !is_known_better(step)).for_each(|step| seen.put(step));
        }
        Ok(self.checkpoint())
    }

    /// Tells that this run is still at work, where the store has a lease ([`Builder::lease`](crate::Builder::lease)):
    /// it begins anew (P7). Every other call of a run that reaches the writer does so too, whatever it comes to, but
    /// for what a full disk refuses. Waits for the writer, not for the disk.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Fenced`] where the operation was taken over or revoked: stop, and do no further effect. Otherwise
    /// [`ErrorKind::Full`], [`ErrorKind::Failed`] and [`ErrorKind::Closed`], and what becomes of the changes that it
    /// comes to the writer with ([`ErrorKind::OutcomeUnknown`]).
    pub fn renew(&mut self) -> Pending<()> {
        if let Err(error) = self.check_not_over() {
            return Pending::ready(Err(error));
        }
        let command = Command::Renew { token: self.token() };
        self.engine.by_name(self.key(), command).map(|_| ())
    }

    /// Moves the checkpoint to `name` with `payload`, if it is still the one that this run last saw. The answer is its
    /// new revision.
    ///
    /// **Durable when it answers**: the next run begins there (P3).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Conflict`] where somebody else moved it: [`checkpoint`](Self::checkpoint) then gives the one that
    /// stands. [`ErrorKind::Fenced`] where this run was revoked: stop. [`ErrorKind::InvalidName`],
    /// [`ErrorKind::PayloadTooLarge`] and [`ErrorKind::Codec`] for what was asked, [`ErrorKind::Capacity`] where there
    /// is no room for it in the operation or, for a deferred claim, in the store; [`ErrorKind::Corrupt`] where the
    /// record is damaged; [`ErrorKind::Full`], [`ErrorKind::OutcomeUnknown`], [`ErrorKind::Failed`] and
    /// [`ErrorKind::Closed`] for what became of the store.
    pub fn advance(&mut self, name: &str, payload: &(impl Payload + ?Sized)) -> Pending<Revision> {
        self.move_checkpoint(name, payload, None)
    }

    /// Moves the checkpoint as [`advance`](Self::advance) does, and commits what `write` writes of the server's own
    /// rows in the same transaction: both or neither, whatever crashes when (P8).
    ///
    /// `write` runs on the store's writer thread, before this answers. It may run more than once (what it wrote before
    /// is undone then), and everybody who changes anything waits for it: **keep it short**, take along what it needs,
    /// do no effect in it, and wait in it neither for the store nor for a thread that does. A call that would wait for
    /// the store fails in it with [`ErrorKind::WouldDeadlock`]; those that only read work, and see what was committed
    /// before. A closure that leaks the rows it opened (`std::mem::forget`) stops the store.
    ///
    /// # Errors
    ///
    /// Those of [`advance`](Self::advance), and [`ErrorKind::Aborted`] where `write` fails or panics: nothing was
    /// committed, and this run still owns the operation.
    pub fn advance_with(
        &mut self,
        name: &str,
        payload: &(impl Payload + ?Sized),
        write: impl FnMut(&Transaction<'_>) -> Result<(), Source> + Send + 'static,
    ) -> Pending<Revision> {
        self.move_checkpoint(name, payload, Some(Box::new(write)))
    }

    fn move_checkpoint(
        &mut self,
        name: &str,
        payload: &(impl Payload + ?Sized),
        rows: Option<WriteRows>,
    ) -> Pending<Revision> {
        let carried = match self.before_asking() {
            Ok(carried) => carried,
            Err(error) => return Pending::ready(Err(error)),
        };
        let expected = self.seen.lock().checkpoint.as_ref().map_or(Revision::NONE, Checkpoint::revision);
        let command = match advance_command(Some(self.token()), expected, name, payload, self.limits) {
            Ok(command) => command,
            Err(error) => return Pending::ready(Err(error)),
        };
        let seen = Arc::clone(&self.seen);
        self.engine.advance(self.key(), carried, command, rows, move |_, advanced| match advanced {
            Advanced::Moved { checkpoint, known } => {
                let revision = checkpoint.revision();
                let mut seen = seen.lock();
                seen.put_checkpoint(Some(checkpoint));
                seen.known = Some(known);
                Ok(revision)
            }
            Advanced::Lost(current) => {
                seen.lock().put_checkpoint(current);
                let message =
                    "somebody else moved the checkpoint since this run last saw it; look at it before going on";
                Err(Error::new(ErrorKind::Conflict, message))
            }
        })
    }

    /// Keeps the outcome that this run ends with for so long, counted from completion, whatever the store's
    /// [`retention`](crate::Builder::retention) is (P5). A millisecond at least. Where it is shorter than the store's,
    /// space is freed when that of its neighbours is.
    ///
    /// ```
    /// use reentry::{Claim, Fingerprint, Key, Store};
    /// use std::time::Duration;
    ///
    /// let store = Store::builder().in_memory()?;
    /// if let Claim::Run(mut run) = store.claim(&Key::new("orders", "1")?, Fingerprint::of("two pizzas")).wait()? {
    ///     run.keep_for(Duration::from_secs(30 * 24 * 60 * 60));
    ///     run.complete(&"done".to_owned()).wait()?;
    /// }
    /// # Ok::<(), reentry::Error>(())
    /// ```
    pub fn keep_for(&mut self, span: Duration) {
        self.kept = Some(span.max(KEPT_MIN));
    }

    /// Ends the operation with success. Every later claim with the same fingerprint gets these bytes, until retention
    /// ends (P5); so does this caller, as the answer: the first client and every later one can be answered from the
    /// same [`Outcome`].
    ///
    /// **Durable when it answers** (P2). Until then the operation stays owned; should it fail, the operation is
    /// unfinished and free, its last checkpoint untouched. Steps that are in doubt stay so: look at
    /// [`unasked_steps`](Self::unasked_steps) and [`steps`](Self::steps) before.
    ///
    /// # Errors
    ///
    /// As for [`advance`](Self::advance).
    pub fn complete(mut self, outcome: &(impl Payload + ?Sized)) -> Pending<Outcome> {
        self.end(true, outcome, None)
    }

    /// Ends the operation as [`complete`](Self::complete) does, and commits what `write` writes of the server's own
    /// rows in the same transaction: both or neither, whatever crashes when (P8). What is asked of `write` is said at
    /// [`advance_with`](Self::advance_with).
    ///
    /// ```
    /// use reentry::{Claim, Fingerprint, Key, Store, Table};
    ///
    /// const ORDERS: Table = Table::new("orders");
    /// let store = Store::builder().in_memory()?;
    /// if let Claim::Run(mut run) = store.claim(&Key::new("orders", "1")?, Fingerprint::of("two pizzas")).wait()? {
    ///     let order = run.effect_id("order");
    ///     run.complete_with(&"done".to_owned(), move |tx| {
    ///         tx.open_table(ORDERS)?.insert(order, "two pizzas")?;
    ///         Ok(())
    ///     })
    ///     .wait()?;
    ///     assert_eq!(store.read(|tx| tx.open_table(ORDERS)?.get(order))??, Some(b"two pizzas".to_vec()));
    /// }
    /// # Ok::<(), reentry::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`advance`](Self::advance), and [`ErrorKind::Aborted`] where `write` fails or panics: nothing was
    /// committed, and this run still owns the operation and can go on. After success every call of this run fails with
    /// [`ErrorKind::Finished`].
    pub fn complete_with(
        &mut self,
        outcome: &(impl Payload + ?Sized),
        write: impl FnMut(&Transaction<'_>) -> Result<(), Source> + Send + 'static,
    ) -> Pending<Outcome> {
        self.end(true, outcome, Some(Box::new(write)))
    }

    /// Ends the operation with a final failure, which is replayed as such: a retry does not run it again. For a
    /// failure that a retry may mend, drop or [`release`](Self::release) the run.
    ///
    /// **Durable when it answers** (P2), as for [`complete`](Self::complete).
    ///
    /// # Errors
    ///
    /// As for [`advance`](Self::advance).
    pub fn fail(mut self, outcome: &(impl Payload + ?Sized)) -> Pending<Outcome> {
        self.end(false, outcome, None)
    }

    /// Ends the operation as [`fail`](Self::fail) does, with the server's own rows in the same transaction (P8), as
    /// for [`complete_with`](Self::complete_with).
    ///
    /// # Errors
    ///
    /// Those of [`complete_with`](Self::complete_with).
    pub fn fail_with(
        &mut self,
        outcome: &(impl Payload + ?Sized),
        write: impl FnMut(&Transaction<'_>) -> Result<(), Source> + Send + 'static,
    ) -> Pending<Outcome> {
        self.end(false, outcome, Some(Box::new(write)))
    }

    /// Says what became of a step in doubt, as somebody found out: it has that result from then on, or runs again when
    /// it is asked for. `note` tells later readers who says so and why; it is kept with the step.
    ///
    /// **Durable when it answers** (P4).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] where no step of this name is remembered, [`ErrorKind::NotInDoubt`] where it is not in
    /// doubt, or was begun anew since this was asked; otherwise those of [`advance`](Self::advance).
    pub fn resolve(&mut self, step: &str, resolution: Resolution, note: &str) -> Pending<()> {
        let token = Some(self.token());
        // Where it gave up asking for the step it may not know of its own try.
        if self.asked.get(step) == Some(&false)
            && let Err(error) = self.refresh()
        {
            return Pending::ready(Err(error));
        }
        // What is said is said of the try that this run knows of, and not of one that it begins before this comes to
        // the writer (P4).
        let of = self.seen.lock().steps.iter().find(|known| *known.name == *step).map(Step::last_try);
        let asked = self
            .before_asking()
            .and_then(|known| Ok((known, resolve_command(token, step, of, resolution, note, self.limits)?)));
        match asked {
            Ok((carried, command)) => self.change_step(carried, command, |_| ()),
            Err(error) => Pending::ready(Err(error)),
        }
    }

    /// Gives the operation up, unfinished: it is free when this returns, and the next claim enters it again at its
    /// last checkpoint (P7). The same as dropping the run, said aloud; nothing is written.
    pub fn release(self) {
        drop(self);
    }

    fn end(&mut self, success: bool, outcome: &(impl Payload + ?Sized), rows: Option<WriteRows>) -> Pending<Outcome> {
        let bytes_max = self.limits.payload_bytes_max.saturating_add(self.outcome_bytes_beside);
        let limits = Limits { payload_bytes_max: bytes_max };
        let asked = self.before_asking().and_then(|carried| Ok((carried, limits.encode(outcome)?)));
        let (carried, bytes) = match asked {
            Ok(asked) => asked,
            Err(error) => return Pending::ready(Err(error)),
        };
        let command = Command::End { token: self.token(), success, bytes, kept: self.kept };
        let seen = Arc::clone(&self.seen);
        self.engine.end(Arc::clone(&self.ownership), carried, command, rows, move |outcome| {
            seen.lock().is_over = true;
            outcome
        })
    }

    /// Records that a step is about to run. The answer is its result where it has got one meanwhile.
    pub(crate) fn intend(&mut self, name: &Arc<str>, again: bool) -> Pending<Option<Step>> {
        let command = Command::Intend { token: self.token(), name: Arc::clone(name), again };
        match self.before_asking() {
            Ok(carried) => self.change_step(carried, command, |stepped| match stepped {
                Stepped::Done(step) => Some(step),
                Stepped::Changed { .. } | Stepped::Nothing => None,
            }),
            Err(error) => Pending::ready(Err(error)),
        }
    }

    /// Reports what became of a step, without waiting for the disk.
    ///
    /// # Errors
    ///
    /// `Fenced` where this run no longer owns the operation: what it reports is then kept as evidence.
    pub(crate) fn report(&mut self, name: &Arc<str>, result: Option<Arc<[u8]>>) -> Result<()> {
        let (token, born, attempt) = (self.token(), self.born, self.attempt);
        let was_owner = self.ownership.stands();
        let by = Reporter { token, born, attempt, was_owner };
        let command = Command::Report { by, name: Arc::clone(name), result: result.clone() };
        self.engine.report(&self.ownership, command);
        // Asked again: whoever entered before this stood in the queue is decided first, and it is evidence then.
        if !was_owner || !self.ownership.stands() {
            return Err(self.fenced("stop; what its step came to is kept as evidence"));
        }
        let at = self.engine.time();
        let mut seen = self.seen.lock();
        if let Some(step) = seen.steps.iter_mut().find(|step| step.name == *name) {
            step.settle(result, at);
        }
        Ok(())
    }

    /// Notes that this run asks for a step, and gives what is remembered of it.
    ///
    /// # Errors
    ///
    /// `StepRepeated` where it was given the step's result already.
    pub(crate) fn ask(&mut self, name: &Arc<str>) -> Result<Option<Step>> {
        validate(name, "the step's name", NAME_BYTES_MAX, ErrorKind::InvalidName)?;
        self.check_not_over()?;
        self.check_stands()?;
        if self.asked.get(name) == Some(&true) {
            let message = format!("this run has had step {name:?} already; number the names of steps in a loop");
            return Err(Error::new(ErrorKind::StepRepeated, message));
        }
        self.asked.insert(Arc::clone(name), false);
        Ok(self.seen.lock().steps.iter().find(|step| step.name == *name).cloned())
    }

    /// Fails where somebody took the operation away: no effect is begun then.
    pub(crate) fn check_stands(&self) -> Result<()> {
        if self.ownership.stands() { Ok(()) } else { Err(self.fenced("stop and do no further effect")) }
    }

    /// Whether this run asked for the step before and was not given its result.
    pub(crate) fn has_asked(&self, name: &Arc<str>) -> bool {
        self.asked.get(name) == Some(&false)
    }

    /// Notes that this run was given the step's result.
    pub(crate) fn had(&mut self, name: &Arc<str>) {
        self.asked.insert(Arc::clone(name), true);
    }

    fn change_step<T: Send + 'static>(
        &self,
        carried: Carried,
        command: Command,
        read: impl FnOnce(Stepped) -> T + Send + 'static,
    ) -> Pending<T> {
        let seen = Arc::clone(&self.seen);
        self.engine.step(self.key(), carried, command, move |stepped| {
            let mut seen = seen.lock();
            match &stepped {
                Stepped::Changed { step, known } => {
                    seen.put(step.clone());
                    seen.known = Some(known.clone());
                }
                Stepped::Done(step) => seen.put(step.clone()),
                Stepped::Nothing => {}
            }
            Ok(read(stepped))
        })
    }

    /// What every command of this run carries: what it knows, and what it reported that is not known to be taken in.
    fn before_asking(&mut self) -> Result<Carried> {
        self.check_not_over()?;
        Ok(Carried::of_run(self.seen.lock().known.clone(), self.ownership.reports()))
    }

    /// Whether this run has ended the operation.
    #[cfg(feature = "http")]
    pub(crate) fn is_over(&self) -> bool {
        self.seen.lock().is_over
    }

    /// What the effect of a step is done in, as traces tell it.
    pub(crate) fn step_span(&self, name: &str, again: bool) -> Span {
        self.engine.trace().step(self.key(), name, self.attempt, again)
    }

    fn fenced(&self, what_now: &str) -> Error {
        self.engine.count_fenced(self.key());
        Error::new(ErrorKind::Fenced, format!("this run no longer owns the operation; {what_now}"))
    }

    fn check_not_over(&self) -> Result<()> {
        if self.seen.lock().is_over {
            return Err(Error::new(ErrorKind::Finished, "this run has ended the operation; drop it"));
        }
        Ok(())
    }
}

/// The command that says what became of a step, after all of it was checked.
pub(crate) fn resolve_command(
    token: Option<u64>,
    step: &str,
    of: Option<Try>,
    resolution: Resolution,
    note: &str,
    limits: Limits,
) -> Result<Command> {
    validate(step, "the step's name", NAME_BYTES_MAX, ErrorKind::InvalidName)?;
    validate(note, "the note", NOTE_BYTES_MAX, ErrorKind::InvalidName)?;
    let result = match resolution {
        Resolution::Happened(bytes) => Some(limits.check(bytes)?),
        Resolution::DidNotHappen => None,
    };
    Ok(Command::Resolve { token, name: step.into(), of, result, note: note.into() })
}

/// The command that moves a checkpoint, after its name and payload were checked.
pub(crate) fn advance_command(
    token: Option<u64>,
    expected: Revision,
    name: &str,
    payload: &(impl Payload + ?Sized),
    limits: Limits,
) -> Result<Command> {
    validate(name, "the checkpoint's name", NAME_BYTES_MAX, ErrorKind::InvalidName)?;
    Ok(Command::Advance { token, expected, name: name.into(), bytes: limits.encode(payload)? })
}
