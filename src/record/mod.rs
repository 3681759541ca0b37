//! The rules, pure: what is remembered of one operation, and what may become of it. No I/O, no clock, no threads, no
//! engine: the live path, the tests and the fuzzers all go through [`transitions`] and [`format`].

use std::fmt;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::error::Result;
use crate::key::{Fingerprint, Key};
use crate::payload::Payload;

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

    /// The rows of their own that this record's bodies live in.
    pub(crate) fn rows_apart(&self) -> impl Iterator<Item = u64> {
        let outcome = match &self.phase {
            Phase::Completed { outcome, .. } => Some(&outcome.body),
            Phase::Unfinished | Phase::Tombstone { .. } => None,
        };
        let checkpoint = self.checkpoint.as_ref().map(|c| &c.body);
        let steps = self.steps.iter().flat_map(Step::bodies);
        let bodies = self.request.as_ref().into_iter().chain(checkpoint).chain(steps).chain(outcome);
        bodies.filter_map(|body| match body {
            Body::Apart { row, .. } => Some(*row),
            Body::Here(_) => None,
        })
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
