//! What callers ask of one key and what they are told, in words that a history can keep.

#![allow(dead_code, reason = "each test file takes what it needs of this")]

use std::sync::Arc;

use reentry::{Checkpoint, ErrorKind, Outcome, Progress, State, Step, StepState};

use super::linearizable::{Call, History};

pub(crate) type Bytes = Arc<[u8]>;
pub(crate) type KeyCall = Call<Act, Answer>;
pub(crate) type KeyHistory = History<Act, Answer>;

/// What a caller asks. Runs are told apart by their tokens, requests by a number that the test gives each fingerprint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    /// A claim, or the wait in line for one; without a request what is known already is claimed.
    Claim {
        request: Option<u64>,
        deferred: bool,
    },
    /// By the run with this token, or by anybody.
    Advance {
        by: Option<u64>,
        expected: u64,
        name: Arc<str>,
        bytes: Bytes,
    },
    /// A step up to the moment at which its effect would run; `again` where the run takes it though it is in doubt.
    Intend {
        by: u64,
        step: Arc<str>,
        again: bool,
    },
    /// What its effect came to; none where it said that nothing happened.
    Report {
        by: u64,
        step: Arc<str>,
        result: Option<Bytes>,
    },
    Resolve {
        by: Option<u64>,
        step: Arc<str>,
        result: Option<Bytes>,
    },
    Renew {
        by: u64,
    },
    /// The outcome. Where it ends the run whatever it comes to, the run is gone without another word.
    End {
        by: u64,
        success: bool,
        bytes: Bytes,
        ends_run: bool,
    },
    /// The run is dropped; it lingers where it has an outcome on its way that nobody waited for.
    Release {
        by: u64,
        lingers: bool,
    },
    ReleaseStuck,
    Forget,
    Revoke,
    Progress,
    Crash,
}

impl Act {
    /// The run that asks.
    pub(crate) fn by(&self) -> Option<u64> {
        match self {
            Self::Advance { by, .. } | Self::Resolve { by, .. } => *by,
            Self::Intend { by, .. } | Self::Report { by, .. } | Self::Renew { by } | Self::End { by, .. } => Some(*by),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Run {
        token: u64,
        attempt: u32,
        checkpoint: Option<Point>,
        steps: Vec<StepSeen>,
    },
    Replay {
        success: bool,
        bytes: Bytes,
    },
    Wait {
        attempt: u32,
    },
    Reject,
    Gone,
    /// The checkpoint moved, to this revision.
    Moved(u64),
    /// It did not, for this one stands.
    Lost(Option<Point>),
    /// The effect does not run: the step has this result.
    Known(Bytes),
    /// It was done.
    Done,
    Whether(bool),
    Told(Option<Seen>),
    Refused(ErrorKind),
}

impl Answer {
    /// What an error tells; none where it leaves open what happened.
    pub(crate) fn refused(kind: ErrorKind) -> Option<Self> {
        match kind {
            ErrorKind::OutcomeUnknown | ErrorKind::TimedOut | ErrorKind::Io => None,
            kind => Some(Self::Refused(kind)),
        }
    }
}

/// A checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Point {
    pub(crate) revision: u64,
    pub(crate) name: Arc<str>,
    pub(crate) bytes: Bytes,
}

impl From<&Checkpoint> for Point {
    fn from(seen: &Checkpoint) -> Self {
        Self { revision: seen.revision().get(), name: seen.name().into(), bytes: seen.bytes().into() }
    }
}

/// A step.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct StepSeen {
    pub(crate) name: Arc<str>,
    pub(crate) attempt: u32,
    pub(crate) state: StepState,
    pub(crate) result: Option<Bytes>,
}

impl From<&Step> for StepSeen {
    fn from(seen: &Step) -> Self {
        let (name, attempt, state) = (seen.name().into(), seen.attempt(), seen.state());
        Self { name, attempt, state, result: seen.bytes().map(Into::into) }
    }
}

/// What somebody sees who asks without claiming.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) state: State,
    pub(crate) request: u64,
    pub(crate) attempt: u32,
    pub(crate) checkpoint: Option<Point>,
    pub(crate) steps: Vec<StepSeen>,
    pub(crate) outcome: Option<(bool, Bytes)>,
}

impl Seen {
    /// What the store tells, with the number that the test gave the request.
    pub(crate) fn of(progress: &Progress, request: u64) -> Self {
        let outcome = |outcome: &Outcome| (outcome.is_success(), outcome.bytes().into());
        Self {
            state: progress.state(),
            request,
            attempt: progress.attempt(),
            checkpoint: progress.checkpoint().map(Into::into),
            steps: progress.steps().iter().map(Into::into).collect(),
            outcome: progress.outcome().map(outcome),
        }
    }
}
