//! What a server was told, and what a power cut at any call of the disk must therefore leave.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use reentry::{Checkpoint, Fingerprint, Key, Outcome, Progress, State, StepState, Timestamp};

/// How long outcomes and tombstones are kept in these tests.
pub(crate) const RETENTION: Duration = Duration::from_secs(3600);
pub(crate) const TOMBSTONES: Duration = Duration::from_secs(3600);

/// Payload bytes that do not fill a screen when a test fails.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes {:?}..", self.0.len(), &self.0[..self.0.len().min(12)])
    }
}

/// All that the server knows of one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    /// Counts up over all operations: the order in which they began.
    pub(crate) born: usize,
    pub(crate) request: Fingerprint,
    pub(crate) attempt: u32,
    pub(crate) since: Timestamp,
    pub(crate) checkpoint: Option<Position>,
    pub(crate) guarded: Vec<Guarded>,
    pub(crate) end: Option<End>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) name: String,
    pub(crate) revision: u64,
    pub(crate) at: Timestamp,
    pub(crate) bytes: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) success: bool,
    pub(crate) at: Timestamp,
    pub(crate) bytes: Bytes,
}

/// A step of the operation's, as its owner guards an effect by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Guarded {
    pub(crate) name: String,
    pub(crate) attempt: u32,
    /// None while it is in doubt.
    pub(crate) result: Option<Bytes>,
    pub(crate) notes: usize,
}

impl Guarded {
    pub(crate) fn of(step: &reentry::Step) -> Self {
        let result = step.bytes().map(|bytes| Bytes(bytes.to_vec()));
        assert_eq!(result.is_none(), step.state() == StepState::InDoubt);
        Self { name: step.name().to_owned(), attempt: step.attempt(), result, notes: step.notes().len() }
    }
}

impl Position {
    pub(crate) fn of(checkpoint: &Checkpoint) -> Self {
        Self {
            name: checkpoint.name().to_owned(),
            revision: checkpoint.revision().get(),
            at: checkpoint.at(),
            bytes: Bytes(checkpoint.bytes().to_vec()),
        }
    }
}

impl End {
    pub(crate) fn of(outcome: &Outcome) -> Self {
        let bytes = Bytes(outcome.bytes().to_vec());
        Self { success: outcome.is_success(), at: outcome.completed_at(), bytes }
    }
}

/// An operation as everybody can see it at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    state: State,
    request: Fingerprint,
    attempt: u32,
    since: Timestamp,
    checkpoint: Option<Position>,
    guarded: Vec<Guarded>,
    pub(crate) end: Option<End>,
}

impl Shown {
    pub(crate) fn state(&self) -> State {
        self.state
    }

    pub(crate) fn of(progress: &Progress) -> Self {
        Self {
            state: progress.state(),
            request: progress.fingerprint(),
            attempt: progress.attempt(),
            since: progress.since(),
            checkpoint: progress.checkpoint().map(Position::of),
            guarded: progress.steps().iter().map(Guarded::of).collect(),
            end: progress.outcome().map(End::of),
        }
    }
}

impl Known {
    /// What must show of it at `time`, after a restart: nobody owns anything. None once its tombstone is over.
    pub(crate) fn shown(&self, time: Timestamp) -> Option<Shown> {
        let Self { request, attempt, since, checkpoint, guarded, end, .. } = self.clone();
        let state = match &end {
            None => State::Unfinished,
            Some(end) if time < end.at + RETENTION && end.success => State::Succeeded,
            Some(end) if time < end.at + RETENTION => State::Failed,
            Some(end) if time < end.at + RETENTION + TOMBSTONES => State::Gone,
            Some(_) => return None,
        };
        let keeps = state != State::Gone;
        let (checkpoint, end) = (checkpoint.filter(|_| keeps), end.filter(|_| keeps));
        let guarded = if keeps { guarded } else { Vec::new() };
        Some(Shown { state, request, attempt, since, checkpoint, guarded, end })
    }
}

/// What becomes of one operation; none where it is forgotten.
pub(crate) type Effect = (Key, Option<Known>);

/// When what nobody waits for is on disk.
pub(crate) const NOT_YET: usize = usize::MAX;

/// One thing the server asked for, with what was on the disk before and after.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) what: String,
    /// How many calls the disk had seen when it was asked for, and when it was known to be on disk: mostly when the
    /// answer came. A step's result is so with the next call that waits for the disk; until then that is `NOT_YET`.
    pub(crate) asked: usize,
    pub(crate) told: usize,
    pub(crate) wall: Timestamp,
    /// In the order in which they were asked for: a cut leaves the first few of them, each wholly.
    pub(crate) effects: Vec<Effect>,
    /// The highest fencing token it was told.
    pub(crate) token: u64,
}

/// What a disk that was cut must hold.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    /// Everything acknowledged.
    pub(crate) told: BTreeMap<Key, Known>,
    /// What was asked for and not yet answered.
    pub(crate) in_flight: Vec<Effect>,
    pub(crate) wall: Timestamp,
    pub(crate) token: u64,
    /// The last thing that was asked for.
    pub(crate) during: String,
    /// How many operations began, acknowledged or not.
    pub(crate) born: usize,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    pub(crate) steps: Vec<Step>,
}

impl History {
    /// What a cut after the first `at` calls of the disk must leave.
    pub(crate) fn at(&self, at: usize) -> Expected {
        let mut expected = Expected {
            told: BTreeMap::new(),
            in_flight: Vec::new(),
            wall: super::support::START,
            token: 0,
            during: String::new(),
            born: 0,
        };
        for step in self.steps.iter().filter(|step| step.asked <= at) {
            expected.wall = step.wall;
            expected.during.clone_from(&step.what);
            let born = step.effects.iter().flat_map(|(_, known)| known).map(|known| known.born + 1).max();
            expected.born = expected.born.max(born.unwrap_or_default());
            if step.told <= at {
                assert!(expected.in_flight.is_empty(), "one thing at a time");
                put(&mut expected.told, &step.effects);
                expected.token = expected.token.max(step.token);
            } else {
                expected.in_flight.extend(step.effects.iter().cloned());
            }
        }
        expected
    }

    /// Every key that was ever asked about.
    pub(crate) fn keys(&self) -> Vec<Key> {
        let mut keys: Vec<_> = self.steps.iter().flat_map(|step| &step.effects).map(|(key, _)| key.clone()).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}

/// Puts effects where they belong.
pub(crate) fn put(known: &mut BTreeMap<Key, Known>, effects: &[Effect]) {
    for (key, after) in effects {
        match after {
            Some(after) => known.insert(key.clone(), after.clone()),
            None => known.remove(key),
        };
    }
}
