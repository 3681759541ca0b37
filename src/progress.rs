//! How far an operation got, for those who ask without claiming it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::engine::{Engine, Seen};
use crate::error::Result;
use crate::key::{Fingerprint, Key};
use crate::record::{Checkpoint, Outcome, Phase};

/// Operations that one page of [`Unfinished`] reads.
const PAGE: usize = 256;

/// How far an operation got, at the moment it was asked for.
#[derive(Debug, Clone)]
pub struct Progress(Inner);

#[derive(Debug, Clone)]
struct Inner {
    key: Key,
    fingerprint: Fingerprint,
    state: State,
    attempt: u32,
    since: Timestamp,
    checkpoint: Option<Checkpoint>,
    outcome: Option<Outcome>,
}

/// Where an operation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Unfinished, and a run is at work on it.
    Owned,
    /// Unfinished, and free: the next claim enters it again.
    Unfinished,
    /// It was completed; its outcome is kept.
    Succeeded,
    /// It failed for good; its outcome is kept.
    Failed,
    /// It is over, and its outcome is no longer kept; its tombstone stands.
    Gone,
}

/// One lower-case word.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Owned => "owned",
            Self::Unfinished => "unfinished",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Gone => "gone",
        })
    }
}

impl Progress {
    pub(crate) fn new(seen: Seen, time: Timestamp) -> Self {
        let record = seen.record;
        let (state, outcome) = match record.phase {
            Phase::Unfinished if seen.owner.is_some() => (State::Owned, None),
            Phase::Unfinished => (State::Unfinished, None),
            Phase::Completed { outcome, until, .. } if time < until => {
                (if outcome.success { State::Succeeded } else { State::Failed }, Some(outcome))
            }
            Phase::Completed { .. } | Phase::Tombstone { .. } => (State::Gone, None),
        };
        let checkpoint = record.checkpoint.filter(|_| state != State::Gone);
        let (key, fingerprint, attempt, since) = (record.key, record.fingerprint, record.attempt, record.since);
        Self(Inner { key, fingerprint, state, attempt, since, checkpoint, outcome })
    }

    /// Its key.
    pub fn key(&self) -> &Key {
        &self.0.key
    }

    /// The fingerprint of the request it belongs to.
    pub fn fingerprint(&self) -> Fingerprint {
        self.0.fingerprint
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.0.state
    }

    /// How many runs there were.
    pub fn attempt(&self) -> u32 {
        self.0.attempt
    }

    /// When it was claimed for the first time.
    pub fn since(&self) -> Timestamp {
        self.0.since
    }

    /// Its last checkpoint, which stays when it ends, as long as its outcome is kept.
    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        self.0.checkpoint.as_ref()
    }

    /// What it ended with, as long as that is kept.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.0.outcome.as_ref()
    }
}

/// Every unfinished operation, oldest first; read in pages as it is iterated, so that it holds up nobody.
///
/// What is claimed first while it is iterated comes at the end; what is finished meanwhile is left out.
#[derive(Debug)]
pub struct Unfinished {
    engine: Arc<Engine>,
    page: VecDeque<Seen>,
    /// Where the next page begins; none after the last.
    next: Option<u64>,
}

impl Unfinished {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { engine, page: VecDeque::new(), next: Some(0) }
    }
}

impl Iterator for Unfinished {
    type Item = Result<Progress>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.page.is_empty() {
            let after = self.next.take()?;
            match self.engine.unfinished(after, PAGE) {
                Ok((page, next)) => (self.page, self.next) = (page.into(), next),
                Err(error) => return Some(Err(error)),
            }
        }
        // What is unfinished has no deadline that a time could have passed.
        self.page.pop_front().map(|seen| Ok(Progress::new(seen, Timestamp::default())))
    }
}
