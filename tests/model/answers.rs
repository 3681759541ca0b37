//! What calls come to, in the words that the model and the store are compared in.

use std::fmt;

use reentry::{Checkpoint, ErrorKind, State, StepState, Timestamp};

/// A payload, shown briefly where a comparison fails.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes {:?}..", self.0.len(), self.0.first())
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

/// A checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) name: String,
    pub(crate) revision: u64,
    pub(crate) bytes: Bytes,
    pub(crate) at: u64,
}

impl From<&Checkpoint> for Mark {
    fn from(checkpoint: &Checkpoint) -> Self {
        Self {
            name: checkpoint.name().to_owned(),
            revision: checkpoint.revision().get(),
            bytes: checkpoint.bytes().into(),
            at: checkpoint.at().as_millis(),
        }
    }
}

/// A step, with all that is remembered of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) name: String,
    pub(crate) attempt: u32,
    pub(crate) begun: u64,
    pub(crate) standing: Standing,
    pub(crate) notes: Vec<(u64, bool, String)>,
    pub(crate) late: Vec<(u32, u64, Option<Bytes>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    InDoubt,
    Done(Bytes, u64),
    Withdrawn(u64),
}

impl Step {
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.standing == Standing::InDoubt
    }

    /// As a run sees it, which need not hear of late reports.
    pub(crate) fn without_late(mut self) -> Self {
        self.late.clear();
        self
    }
}

impl From<&reentry::Step> for Step {
    fn from(step: &reentry::Step) -> Self {
        let settled = step.settled_at().map_or(0, Timestamp::as_millis);
        let standing = match (step.state(), step.bytes()) {
            (StepState::InDoubt, None) if step.settled_at().is_none() => Standing::InDoubt,
            (StepState::Done, Some(bytes)) => Standing::Done(bytes.into(), settled),
            (StepState::Withdrawn, None) => Standing::Withdrawn(settled),
            _ => panic!("its parts do not fit: {step:?}"),
        };
        let notes = step.notes().iter().map(|n| (n.at().as_millis(), n.happened(), n.text().to_owned()));
        let late = step.late().iter().map(|l| (l.attempt(), l.at().as_millis(), l.bytes().map(Bytes::from)));
        Self {
            name: step.name().to_owned(),
            attempt: step.attempt(),
            begun: step.begun_at().as_millis(),
            standing,
            notes: notes.collect(),
            late: late.collect(),
        }
    }
}

/// What a call comes to, of the model and of the store alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Run {
        attempt: u32,
        since: u64,
        mark: Option<Mark>,
        request: Option<Bytes>,
        steps: Vec<Step>,
    },
    Replay {
        is_success: bool,
        bytes: Bytes,
        at: u64,
    },
    Wait {
        attempt: u32,
        since: u64,
    },
    Reject {
        since: u64,
    },
    Gone {
        at: u64,
        until: u64,
    },
    Moved(Mark),
    Lost(Option<Mark>),
    Revision(u64),
    Seen(Option<Mark>),
    Ended {
        is_success: bool,
        bytes: Bytes,
        at: u64,
    },
    Was(bool),
    Progress(Option<Box<Progress>>),
    Unfinished(Vec<Progress>),
    Refused(ErrorKind),
    /// A step's result, that was known; that a recheck found; that its effect gave just now.
    Known(Bytes),
    Found(Bytes),
    Ran(Bytes),
    /// The effect's panic came through.
    Panicked,
    /// The future was dropped while the effect was under way.
    Dropped,
    Resolved,
    Renewed,
}

/// What can be asked of an operation without claiming it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) key: usize,
    pub(crate) fingerprint: usize,
    pub(crate) state: State,
    pub(crate) attempt: u32,
    pub(crate) since: u64,
    pub(crate) mark: Option<Mark>,
    pub(crate) request: Option<Bytes>,
    pub(crate) steps: Vec<Step>,
    pub(crate) outcome: Option<(bool, Bytes, u64)>,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) unfinished: u64,
    pub(crate) in_doubt: u64,
    pub(crate) stuck: u64,
    pub(crate) owned: u64,
    pub(crate) waiting: u64,
}
