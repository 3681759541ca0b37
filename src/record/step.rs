//! One guarded effect inside an operation, as it is remembered: its intent, then what became of it.
//!
//! Invariants (P4):
//! 1. A step that is done stays done; nothing takes its result away or puts another in its place.
//! 2. A step in doubt leaves that state by a report of the run that owns the operation, or by name, and in no other
//!    way. What a fenced run reports late is kept beside it and changes nothing.

use std::fmt;
use std::sync::Arc;

use super::room::Room;
use super::transitions::{Change, Decision, Refusal, Reporter, Standing};
use super::{Body, Record};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::payload::Payload;

/// Most steps that one operation may have.
pub(crate) const STEPS_MAX: usize = 1024;
/// Longest note on a resolution, in bytes.
pub(crate) const NOTE_BYTES_MAX: usize = 1000;
/// Most notes and most late reports that are kept of one step; after that the oldest gives way.
pub(crate) const NOTES_MAX: usize = 16;
pub(crate) const LATE_MAX: usize = 16;

/// What is remembered of one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub(crate) name: Arc<str>,
    /// The attempt whose run recorded the intent last.
    pub(crate) attempt: u32,
    /// When that intent was recorded.
    pub(crate) begun_at: Timestamp,
    pub(crate) standing: StepStanding,
    pub(crate) notes: Vec<Note>,
    pub(crate) late: Vec<Late>,
}

/// Which try at a step it is: the attempt whose run recorded the intent, and when.
pub(crate) type Try = (u32, Timestamp);

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StepStanding {
    InDoubt,
    Done { at: Timestamp, body: Body },
    Withdrawn { at: Timestamp },
}

/// How a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StepState {
    /// It has an intent and no result: it may or may not have happened (or its run is at it at this moment).
    InDoubt,
    /// It has a result, and never runs again.
    Done,
    /// It is known not to have happened; it runs when it is asked for.
    Withdrawn,
}

/// In lower-case words.
impl fmt::Display for StepState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InDoubt => "in doubt",
            Self::Done => "done",
            Self::Withdrawn => "withdrawn",
        })
    }
}

/// What somebody says became of a step in doubt.
#[derive(Clone, PartialEq, Eq)]
pub enum Resolution {
    /// It happened, with this result: the bytes that the step's type decodes from. Nobody checks that they do; prefer
    /// [`happened`](Self::happened).
    Happened(Vec<u8>),
    /// It did not happen; the step runs when it is asked for.
    DidNotHappen,
}

impl Resolution {
    /// It happened, with this result: a value of the type that the step gives.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Codec`](crate::ErrorKind::Codec) where the value cannot be encoded.
    pub fn happened(result: &(impl Payload + ?Sized)) -> Result<Self> {
        result.encode().map(Self::Happened)
    }
}

/// Shows no result: it does not belong in a log line.
impl fmt::Debug for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Happened(bytes) => write!(f, "Happened({} bytes)", bytes.len()),
            Self::DidNotHappen => f.write_str("DidNotHappen"),
        }
    }
}

/// A resolution by hand, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub(crate) at: Timestamp,
    pub(crate) happened: bool,
    pub(crate) text: Arc<str>,
}

/// What a run reported of a step after it had lost the operation: evidence, never applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Late {
    pub(crate) attempt: u32,
    pub(crate) at: Timestamp,
    /// None where it reported that nothing happened.
    pub(crate) body: Option<Body>,
}

impl Step {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it stands.
    pub fn state(&self) -> StepState {
        match self.standing {
            StepStanding::InDoubt => StepState::InDoubt,
            StepStanding::Done { .. } => StepState::Done,
            StepStanding::Withdrawn { .. } => StepState::Withdrawn,
        }
    }

    /// The attempt whose run recorded its intent last.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// When its intent was recorded last.
    pub fn begun_at(&self) -> Timestamp {
        self.begun_at
    }

    /// When its result was recorded, or that it did not happen; none while it is in doubt.
    pub fn settled_at(&self) -> Option<Timestamp> {
        match self.standing {
            StepStanding::InDoubt => None,
            StepStanding::Done { at, .. } | StepStanding::Withdrawn { at } => Some(at),
        }
    }

    /// Its result, as bytes, where it has one.
    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.standing {
            StepStanding::Done { body, .. } => Some(body.bytes()),
            StepStanding::InDoubt | StepStanding::Withdrawn { .. } => None,
        }
    }

    /// Its result, as the value it was made from, where it has one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Codec`](crate::ErrorKind::Codec) where the bytes hold no such value; they stay as they are.
    pub fn decode<P: Payload>(&self) -> Result<Option<P>> {
        self.bytes().map(P::decode).transpose()
    }

    /// The resolutions by hand, oldest first; the last 16 are kept.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// What runs reported of it after they had lost the operation, oldest first (P7); the last 16 are kept, each as
    /// large as a result may be.
    pub fn late(&self) -> &[Late] {
        &self.late
    }

    pub(crate) fn last_try(&self) -> Try {
        (self.attempt, self.begun_at)
    }

    pub(crate) fn is_in_doubt(&self) -> bool {
        self.standing == StepStanding::InDoubt
    }

    /// Gives it this result, or (none) withdraws it.
    pub(crate) fn settle(&mut self, result: Option<Arc<[u8]>>, at: Timestamp) {
        self.standing = match result {
            Some(bytes) => StepStanding::Done { at, body: Body::Here(bytes) },
            None => StepStanding::Withdrawn { at },
        };
    }

    /// Whether none of its bodies stands in a row of its own.
    pub(crate) fn is_here(&self) -> bool {
        self.bodies().all(|body| matches!(body, Body::Here(_)))
    }

    pub(super) fn bodies_mut(&mut self) -> impl Iterator<Item = &mut Body> {
        let done = match &mut self.standing {
            StepStanding::Done { body, .. } => Some(body),
            StepStanding::InDoubt | StepStanding::Withdrawn { .. } => None,
        };
        done.into_iter().chain(self.late.iter_mut().filter_map(|late| late.body.as_mut()))
    }

    pub(super) fn bodies(&self) -> impl Iterator<Item = &Body> {
        let done = match &self.standing {
            StepStanding::Done { body, .. } => Some(body),
            StepStanding::InDoubt | StepStanding::Withdrawn { .. } => None,
        };
        done.into_iter().chain(self.late.iter().filter_map(|late| late.body.as_ref()))
    }
}

impl Note {
    /// When it was resolved.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// Whether it was said to have happened.
    pub fn happened(&self) -> bool {
        self.happened
    }

    /// What was written down.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl Late {
    /// The attempt that reported it.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// When it was reported.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// The result it reported, as bytes; none where it reported that nothing happened.
    pub fn bytes(&self) -> Option<&[u8]> {
        self.body.as_ref().map(Body::bytes)
    }
}

/// A change to one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StepChange {
    /// Its intent is recorded, for the first time or anew.
    Intend { attempt: u32 },
    /// The run that owns the operation reports its result, or (none) that nothing happened.
    Settle { result: Option<Arc<[u8]>> },
    /// A run that lost the operation reports; so many reports of this step are kept at most.
    Witness { attempt: u32, result: Option<Arc<[u8]>>, most: usize },
    /// Somebody says by name what became of it.
    Resolve { result: Option<Arc<[u8]>>, note: Arc<str> },
}

/// What an intent comes to.
pub(super) fn intend(record: &Record, name: &Arc<str>, again: bool, room: Room) -> Result<Decision, Refusal> {
    match record.step(name).map(Step::state) {
        Some(StepState::Done) => return Ok(Decision::Stand(Standing::Done)),
        Some(StepState::InDoubt) if !again => return Err(Refusal::InDoubt),
        None if record.steps.len() >= STEPS_MAX => return Err(Refusal::TooManySteps),
        Some(StepState::Withdrawn) | None if !room.has_for_step(record, name) => return Err(Refusal::NoRoom),
        // What is in doubt takes no more room than it has.
        Some(StepState::InDoubt | StepState::Withdrawn) | None => {}
    }
    let change = StepChange::Intend { attempt: record.attempt };
    Ok(Decision::Change(Change::Step { name: Arc::clone(name), change }))
}

/// What a report comes to. It is applied where it comes from the run that owns the operation, or that gave it free
/// after reporting, with nobody having entered it since. Any other is evidence, where it still belongs to something.
pub(super) fn report(
    record: Option<&Record>,
    owner: Option<u64>,
    by: Reporter,
    name: &Arc<str>,
    result: Option<&Arc<[u8]>>,
    room: Room,
) -> Decision {
    let of_this = record.filter(|record| record.born == by.born).and_then(|record| Some((record, record.step(name)?)));
    let Some((record, step)) = of_this else { return Decision::Stand(Standing::Nothing) };
    // Who owns it may be of an attempt before the record's, where nobody knew that another's entry was on disk.
    let owns = owner == Some(by.token) || owner.is_none() && by.was_owner && record.attempt == by.attempt;
    let change = if owns && record.is_unfinished() && step.is_in_doubt() {
        StepChange::Settle { result: result.cloned() }
    } else if owner == Some(by.token) {
        // It has been taken in already.
        return Decision::Stand(Standing::Nothing);
    } else {
        let (attempt, result) = (by.attempt, result.cloned());
        StepChange::Witness { attempt, most: room.late_max(record, step, result.as_ref()), result }
    };
    Decision::Change(Change::Step { name: Arc::clone(name), change })
}

/// The record after a change to one of its steps.
pub(super) fn apply(mut record: Record, name: &Arc<str>, change: StepChange, at: Timestamp) -> Record {
    record.written = at;
    let found = record.steps.iter_mut().find(|step| step.name == *name);
    match (change, found) {
        (StepChange::Intend { attempt }, Some(step)) => {
            (step.attempt, step.begun_at, step.standing) = (attempt, at, StepStanding::InDoubt);
        }
        (StepChange::Intend { attempt }, None) => record.steps.push(Step {
            name: Arc::clone(name),
            attempt,
            begun_at: at,
            standing: StepStanding::InDoubt,
            notes: Vec::new(),
            late: Vec::new(),
        }),
        (StepChange::Settle { result }, Some(step)) => step.settle(result, at),
        (StepChange::Witness { attempt, result, most }, Some(step)) => {
            keep(&mut step.late, Late { attempt, at, body: result.map(Body::Here) }, most);
        }
        (StepChange::Resolve { result, note }, Some(step)) => {
            keep(&mut step.notes, Note { at, happened: result.is_some(), text: note }, NOTES_MAX);
            step.settle(result, at);
        }
        // The rules decide these of steps that are there alone.
        (StepChange::Settle { .. } | StepChange::Witness { .. } | StepChange::Resolve { .. }, None) => {}
    }
    record
}

/// Appends to a list of bounded length; the oldest give way.
fn keep<T>(list: &mut Vec<T>, item: T, most: usize) {
    let gone = (list.len() + 1).saturating_sub(most).min(list.len());
    list.drain(..gone);
    list.push(item);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::room::Room;
    use super::super::transitions::{
        Change, Command, Decision, Policy, Refusal, Reporter, Situation, Standing, Tenure, apply, decide,
    };
    use super::*;
    use crate::clock::Now;
    use crate::key::{Fingerprint, Key};

    const TOKEN: u64 = 7;

    fn now() -> Now {
        let time = Timestamp::from_millis(1_000);
        Now { time, ahead: time }
    }

    fn key() -> Key {
        Key::new("scope", "key").unwrap()
    }

    fn begun() -> Record {
        let begin = Change::Begin { fingerprint: Fingerprint::of("x"), request: None, deferred: false };
        apply(None, &key(), begin, TOKEN, now()).unwrap()
    }

    fn decided(record: &Record, owner: Option<u64>, command: &Command) -> Decision {
        let room = Room { operation_bytes_max: 1 << 20, payload_bytes_max: 1 << 10 };
        let (retention, tombstones) = (Duration::MAX, Duration::ZERO);
        let policy = Policy { retention, tombstones, lease: None, attempts_max: 9, room };
        let owner = owner.map(|token| Tenure { token, moved: now().time });
        decide(Situation { record: Some(record), owner }, command, now(), policy)
    }

    /// The record after a command that changes it.
    fn changed(record: Record, owner: Option<u64>, command: &Command) -> Record {
        match decided(&record, owner, command) {
            Decision::Change(change) => apply(Some(record), &key(), change, 99, now()).unwrap(),
            other => panic!("{command:?}: {other:?}"),
        }
    }

    fn bytes(text: &str) -> Arc<[u8]> {
        Arc::from(text.as_bytes())
    }

    fn intend(token: u64, again: bool) -> Command {
        Command::Intend { token, name: "pay".into(), again }
    }

    fn report(token: u64, attempt: u32, was_owner: bool, result: Option<&str>) -> Command {
        let by = Reporter { token, born: TOKEN, attempt, was_owner };
        Command::Report { by, name: "pay".into(), result: result.map(bytes) }
    }

    fn resolve(token: Option<u64>, result: Option<&str>) -> Command {
        let of = token.map(|_| in_doubt().steps[0].last_try());
        Command::Resolve { token, name: "pay".into(), of, result: result.map(bytes), note: "asked".into() }
    }

    fn in_doubt() -> Record {
        changed(begun(), Some(TOKEN), &intend(TOKEN, false))
    }

    fn entered_again(record: Record) -> Record {
        apply(Some(record), &key(), Change::Enter { attempt: 2 }, 8, now()).unwrap()
    }

    #[test]
    fn p4_a_step_with_a_result_is_never_begun_again() {
        let done = changed(in_doubt(), Some(TOKEN), &report(TOKEN, 1, true, Some("paid")));
        assert_eq!(done.steps[0].bytes(), Some(&b"paid"[..]));
        for again in [false, true] {
            assert_eq!(decided(&done, Some(TOKEN), &intend(TOKEN, again)), Decision::Stand(Standing::Done));
        }
        assert_eq!(decided(&done, None, &resolve(None, None)), Decision::Refuse(Refusal::NotInDoubt));
    }

    #[test]
    fn p4_a_step_in_doubt_is_begun_again_only_by_a_run_that_knows_it() {
        let record = in_doubt();
        assert_eq!(decided(&record, Some(TOKEN), &intend(TOKEN, false)), Decision::Refuse(Refusal::InDoubt));
        let record = entered_again(record);
        let again = changed(record, Some(8), &intend(8, true));
        assert_eq!((again.steps[0].attempt, again.steps[0].state()), (2, StepState::InDoubt));
    }

    #[test]
    fn p4_what_was_not_applied_is_withdrawn_and_runs_when_asked_for() {
        let record = changed(in_doubt(), Some(TOKEN), &report(TOKEN, 1, true, None));
        assert_eq!(record.steps[0].state(), StepState::Withdrawn);
        let again = changed(record, Some(TOKEN), &intend(TOKEN, false));
        assert!(again.steps[0].is_in_doubt());
    }

    #[test]
    fn p3_a_run_that_gave_way_after_its_report_is_believed_as_long_as_nobody_entered() {
        let free = changed(in_doubt(), None, &report(TOKEN, 1, true, Some("paid")));
        assert_eq!(free.steps[0].state(), StepState::Done);
        let entered = changed(entered_again(in_doubt()), None, &report(TOKEN, 1, true, Some("paid")));
        assert!(entered.steps[0].is_in_doubt());
        assert_eq!(entered.steps[0].late()[0].bytes(), Some(&b"paid"[..]));
    }

    #[test]
    fn p3_whoever_owns_an_operation_settles_its_steps_though_an_entry_that_nobody_has_raised_its_attempt() {
        let record = changed(entered_again(in_doubt()), Some(TOKEN), &report(TOKEN, 1, true, Some("paid")));
        assert_eq!((record.attempt, record.steps[0].state()), (2, StepState::Done));
    }

    #[test]
    fn p7_what_a_fenced_run_reports_is_kept_and_not_applied() {
        let taken = entered_again(in_doubt());
        for (owner, was_owner) in [(Some(8), true), (Some(8), false), (None, false)] {
            let record = changed(taken.clone(), owner, &report(TOKEN, 1, was_owner, Some("paid")));
            assert!(record.steps[0].is_in_doubt());
            assert_eq!((record.steps[0].late()[0].attempt(), record.steps[0].late().len()), (1, 1));
        }
        // Neither is what a run reports that was revoked, though nobody has entered since, nor is it beside another.
        for (owner, was_owner) in [(None, false), (Some(8), true)] {
            let record = changed(in_doubt(), owner, &report(TOKEN, 1, was_owner, Some("paid")));
            assert_eq!((record.steps[0].is_in_doubt(), record.steps[0].late().len()), (true, 1));
        }
        // Neither is what comes from another incarnation of the key.
        let born_later = Record { born: TOKEN + 1, ..taken };
        let late = report(TOKEN, 1, true, Some("paid"));
        assert_eq!(decided(&born_later, Some(TOKEN), &late), Decision::Stand(Standing::Nothing));
    }

    #[test]
    fn p4_only_what_is_in_doubt_is_resolved_and_by_nobody_beside_a_run_at_work() {
        let record = in_doubt();
        assert_eq!(decided(&record, Some(TOKEN), &resolve(None, None)), Decision::Refuse(Refusal::Busy));
        assert_eq!(decided(&begun(), None, &resolve(None, None)), Decision::Refuse(Refusal::NotFound));
        let happened = changed(record.clone(), None, &resolve(None, Some("paid")));
        assert_eq!((happened.steps[0].state(), happened.steps[0].notes()[0].text()), (StepState::Done, "asked"));
        let did_not = changed(record, Some(TOKEN), &resolve(Some(TOKEN), None));
        assert_eq!((did_not.steps[0].state(), did_not.steps[0].notes()[0].happened()), (StepState::Withdrawn, false));
    }

    #[test]
    fn late_reports_are_bounded_and_the_oldest_gives_way() {
        let mut record = entered_again(in_doubt());
        for nth in 0..20 {
            record = changed(record, Some(8), &report(TOKEN, 1, false, Some(&nth.to_string())));
        }
        let late: Vec<_> = record.steps[0].late().iter().map(|late| late.bytes().unwrap().to_vec()).collect();
        assert_eq!((late.len(), late[0].clone(), late[15].clone()), (LATE_MAX, b"4".to_vec(), b"19".to_vec()));
    }

    #[test]
    fn notes_are_bounded_and_the_oldest_gives_way() {
        let mut record = begun();
        for nth in 0..20 {
            record = changed(record, Some(TOKEN), &intend(TOKEN, false));
            let (name, note) = ("pay".into(), nth.to_string().into());
            record = changed(record, None, &Command::Resolve { token: None, name, of: None, result: None, note });
            let notes = &record.steps[0].notes;
            assert_eq!((notes.len(), notes.last().unwrap().text()), (NOTES_MAX.min(nth + 1), &*nth.to_string()));
        }
        // One that happened takes the place of the oldest likewise.
        record = changed(record, Some(TOKEN), &intend(TOKEN, false));
        record = changed(record, None, &resolve(None, Some("paid")));
        let notes: Vec<_> = record.steps[0].notes().iter().map(Note::text).collect();
        assert_eq!((notes.len(), notes[0], notes[15]), (NOTES_MAX, "5", "asked"));
    }

    #[test]
    fn an_operation_has_so_many_steps_and_no_more() {
        let mut record = begun();
        for nth in 0..STEPS_MAX {
            let name = nth.to_string().into();
            record = changed(record, Some(TOKEN), &Command::Intend { token: TOKEN, name, again: false });
        }
        let one_more = Command::Intend { token: TOKEN, name: "one more".into(), again: false };
        assert_eq!(decided(&record, Some(TOKEN), &one_more), Decision::Refuse(Refusal::TooManySteps));
    }
}
