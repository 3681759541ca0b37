//! The rules, pure: what is remembered of one operation, and what may become of it. No I/O, no clock, no threads, no
//! engine: the live path, the tests and the fuzzers all go through [`transitions`] and [`format`].

use std::fmt;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::error::Result;
use crate::key::{Fingerprint, Key};
use crate::payload::Payload;

mod adopt;
pub(crate) mod format;
pub(crate) mod room;
pub(crate) mod step;
pub(crate) mod transitions;

pub use step::{Late, Note, Resolution, Step, StepState};

/// Bodies longer than this get a row of their own: about what a rewrite of the record costs beside them.
pub(crate) const BODY_HERE_BYTES_MAX: usize = 1024;

/// All that is remembered of one operation: what one row of the log holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) key: Key,
    pub(crate) fingerprint: Fingerprint,
    /// The sequence number this operation was first written under. A key that starts anew gets another, so it tells
    /// incarnations of one key apart and orders operations by age.
    pub(crate) born: u64,
    /// How many runs there were.
    pub(crate) attempt: u32,
    /// How many of them no longer count towards its being stuck: as many as there were when it was released by hand.
    pub(crate) released: u32,
    /// When it was first claimed.
    pub(crate) since: Timestamp,
    /// When this row was written.
    pub(crate) written: Timestamp,
    /// The request's bytes, where its claim carried them; kept until it ends.
    pub(crate) request: Option<Body>,
    pub(crate) checkpoint: Option<Checkpoint>,
    /// In the order of their first intents.
    pub(crate) steps: Vec<Step>,
    pub(crate) phase: Phase,
}

/// How far an operation is from being over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Claimed, no outcome yet; with or without an owner.
    Unfinished,
    /// It has an outcome, kept until `until`; after that its tombstone stands until `gone`.
    Completed { outcome: Outcome, until: Timestamp, gone: Timestamp },
    /// Only the knowledge that the key is used up is left, until `gone`.
    Tombstone { completed_at: Timestamp, gone: Timestamp },
}

/// Bytes a caller gave. Large ones live in rows of their own, so that moving a checkpoint does not rewrite them.
/// Whatever leaves the engine is `Here`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Body {
    Here(Arc<[u8]>),
    Apart { row: u64, len: u32, crc: u32 },
}

/// Shows no payload: it does not belong in a log line.
impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::Apart { row, len, .. } => write!(f, "{len} bytes in row {row}"),
        }
    }
}

impl Body {
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Here(bytes) => bytes,
            Self::Apart { .. } => &[],
        }
    }
}

impl Record {
    /// Every body this record has.
    pub(crate) fn bodies_mut(&mut self) -> impl Iterator<Item = &mut Body> {
        let outcome = match &mut self.phase {
            Phase::Completed { outcome, .. } => Some(&mut outcome.body),
            Phase::Unfinished | Phase::Tombstone { .. } => None,
        };
        let checkpoint = self.checkpoint.as_mut().map(|c| &mut c.body);
        let steps = self.steps.iter_mut().flat_map(Step::bodies_mut);
        self.request.as_mut().into_iter().chain(checkpoint).chain(steps).chain(outcome)
    }

    fn bodies(&self) -> impl Iterator<Item = &Body> {
        let outcome = match &self.phase {
            Phase::Completed { outcome, .. } => Some(&outcome.body),
            Phase::Unfinished | Phase::Tombstone { .. } => None,
        };
        let checkpoint = self.checkpoint.as_ref().map(|c| &c.body);
        let steps = self.steps.iter().flat_map(Step::bodies);
        self.request.as_ref().into_iter().chain(checkpoint).chain(steps).chain(outcome)
    }

    /// The rows of their own that this record's bodies live in.
    pub(crate) fn rows_apart(&self) -> impl Iterator<Item = u64> {
        self.bodies().filter_map(|body| match body {
            Body::Apart { row, .. } => Some(*row),
            Body::Here(_) => None,
        })
    }

    /// Bytes of payloads that are here.
    pub(crate) fn bytes_here(&self) -> u64 {
        self.bodies().map(|body| body.bytes().len() as u64).sum()
    }

    /// Bytes of the largest payload that is here.
    #[cfg(feature = "export")]
    pub(crate) fn bytes_here_max(&self) -> usize {
        self.bodies().map(|body| body.bytes().len()).max().unwrap_or_default()
    }

    pub(crate) fn step(&self, name: &str) -> Option<&Step> {
        self.steps.iter().find(|step| &*step.name == name)
    }

    /// How many runs there were since it was first claimed or last released by hand.
    pub(crate) fn tries(&self) -> u32 {
        self.attempt.saturating_sub(self.released)
    }

    /// The revision that a compare-and-set must expect now.
    pub(crate) fn revision(&self) -> Revision {
        self.checkpoint.as_ref().map_or(Revision::NONE, |c| c.revision)
    }

    pub(crate) fn is_unfinished(&self) -> bool {
        self.phase == Phase::Unfinished
    }
}

/// How often an operation's checkpoint has moved; what a compare-and-set compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub(crate) u64);

impl Revision {
    /// No checkpoint yet.
    pub const NONE: Self = Self(0);

    /// The number itself: 0 before the first checkpoint, then one more for each move.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// A named position in an operation, with a payload and a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    pub(crate) name: Arc<str>,
    pub(crate) revision: Revision,
    pub(crate) at: Timestamp,
    pub(crate) body: Body,
}

impl Checkpoint {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its revision: what a compare-and-set must expect to move it.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// When it was reached.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// Its payload, as bytes.
    pub fn bytes(&self) -> &[u8] {
        self.body.bytes()
    }

    /// Its payload, as the value it was made from.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Codec`](crate::ErrorKind::Codec) where the bytes hold no such value; they stay as they are.
    pub fn decode<P: Payload>(&self) -> Result<P> {
        P::decode(self.bytes())
    }
}

/// What an operation ended with, the same for every later claim until retention ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub(crate) success: bool,
    pub(crate) completed_at: Timestamp,
    pub(crate) body: Body,
}

impl Outcome {
    /// Whether the operation was completed (true) or failed for good (false).
    pub fn is_success(&self) -> bool {
        self.success
    }

    /// When it ended.
    pub fn completed_at(&self) -> Timestamp {
        self.completed_at
    }

    /// Its payload, as bytes.
    pub fn bytes(&self) -> &[u8] {
        self.body.bytes()
    }

    /// Its payload, as the value it was made from.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Codec`](crate::ErrorKind::Codec) where the bytes hold no such value; they stay as they are.
    pub fn decode<P: Payload>(&self) -> Result<P> {
        P::decode(self.bytes())
    }
}

#[cfg(test)]
mod every_command;

#[cfg(test)]
mod tests {
    use super::step::StepStanding;
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn here(bytes: &str) -> Body {
        Body::Here(bytes.as_bytes().into())
    }

    fn step(standing: StepStanding, late: Vec<Late>) -> Step {
        let note = Note { at: at(8), happened: true, text: "the bank said so".into() };
        Step { name: "charge".into(), attempt: 3, begun_at: at(6), standing, notes: vec![note], late }
    }

    fn late(body: Option<Body>) -> Late {
        Late { attempt: 2, at: at(9), body }
    }

    #[test]
    fn a_checkpoint_and_an_outcome_show_what_they_hold() {
        let checkpoint = Checkpoint { name: "paid".into(), revision: Revision(5), at: at(4), body: here("half") };
        assert_eq!((checkpoint.name(), checkpoint.revision().get(), checkpoint.at()), ("paid", 5, at(4)));
        assert_eq!((checkpoint.bytes(), checkpoint.decode::<String>().unwrap()), (&b"half"[..], "half".to_owned()));
        for success in [true, false] {
            let outcome = Outcome { success, completed_at: at(7), body: here("done") };
            assert_eq!((outcome.is_success(), outcome.completed_at()), (success, at(7)));
            assert_eq!((outcome.bytes(), outcome.decode::<String>().unwrap()), (&b"done"[..], "done".to_owned()));
        }
    }

    #[test]
    fn a_step_shows_how_it_stands_and_what_was_said_of_it() {
        let cases = [
            (StepStanding::InDoubt, StepState::InDoubt, "in doubt", None, None),
            (StepStanding::Done { at: at(7), body: here("paid") }, StepState::Done, "done", Some(at(7)), Some("paid")),
            (StepStanding::Withdrawn { at: at(7) }, StepState::Withdrawn, "withdrawn", Some(at(7)), None),
        ];
        for (standing, state, word, settled_at, result) in cases {
            let step = step(standing, vec![late(Some(here("paid late"))), late(None)]);
            assert_eq!((step.name(), step.attempt(), step.begun_at()), ("charge", 3, at(6)));
            assert_eq!((step.state(), step.state().to_string().as_str(), step.settled_at()), (state, word, settled_at));
            assert_eq!(step.bytes(), result.map(str::as_bytes));
            assert_eq!(step.decode::<String>().unwrap().as_deref(), result);
            let notes: Vec<_> = step.notes().iter().map(|note| (note.at(), note.happened(), note.text())).collect();
            assert_eq!(notes, [(at(8), true, "the bank said so")]);
            let late: Vec<_> = step.late().iter().map(|late| (late.attempt(), late.at(), late.bytes())).collect();
            assert_eq!(late, [(2, at(9), Some(&b"paid late"[..])), (2, at(9), None)]);
        }
        assert!(!Note { happened: false, ..step(StepStanding::InDoubt, Vec::new()).notes[0].clone() }.happened());
    }

    #[test]
    fn what_is_shown_for_logs_holds_lengths_and_no_payload() {
        let shown = [
            format!("{:?}", here("secret")),
            format!("{:?}", Body::Apart { row: 9, len: 70_000, crc: 1 }),
            format!("{:?}", Resolution::happened(&"secret".to_owned()).unwrap()),
            format!("{:?}", Resolution::DidNotHappen),
        ];
        assert_eq!(shown, ["6 bytes", "70000 bytes in row 9", "Happened(6 bytes)", "DidNotHappen"]);
    }

    #[test]
    fn every_body_that_stands_apart_is_told_with_its_row() {
        let apart = |row| Body::Apart { row, len: 2_000, crc: 1 };
        let record = |body: &dyn Fn(u64) -> Body| {
            let done = StepStanding::Done { at: at(7), body: body(3) };
            let outcome = Outcome { success: true, completed_at: at(9), body: body(5) };
            Record {
                key: Key::new("s", "k").unwrap(),
                fingerprint: Fingerprint::of("x"),
                born: 1,
                attempt: 3,
                released: 0,
                since: at(1),
                written: at(9),
                request: Some(body(1)),
                checkpoint: Some(Checkpoint { name: "a".into(), revision: Revision(1), at: at(2), body: body(2) }),
                steps: vec![step(done, vec![late(Some(body(4))), late(None)])],
                phase: Phase::Completed { outcome, until: at(10), gone: at(10) },
            }
        };
        let (mut far, near) = (record(&apart), record(&|_| here("near")));
        assert_eq!(far.rows_apart().collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        assert_eq!(near.rows_apart().count(), 0);
        assert_eq!((far.steps[0].is_here(), near.steps[0].is_here()), (false, true));
        far.bodies_mut().for_each(|body| *body = here("near"));
        assert_eq!(far, near, "every body can be put in another place");
    }
}
