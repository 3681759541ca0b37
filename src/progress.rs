//! How far an operation got, for those who ask without claiming it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::effect::EffectId;
use crate::engine::{Engine, Numbered, Seen};
use crate::error::Result;
use crate::key::{Fingerprint, Key};
use crate::record::transitions::{Policy, has_lapsed, is_stuck};
use crate::record::{Body, Checkpoint, Outcome, Phase, Record, Step};

mod operations;

pub use operations::{Cursor, Operations};

/// Operations that one page of [`Unfinished`] reads.
const PAGE: usize = 256;

/// How far an operation got, at the moment it was asked for.
#[derive(Debug, Clone)]
pub struct Progress(Inner);

#[derive(Debug, Clone)]
struct Inner {
    key: Key,
    fingerprint: Fingerprint,
    born: u64,
    state: State,
    attempt: u32,
    released: u32,
    since: Timestamp,
    changed_at: Timestamp,
    owned_since: Option<Timestamp>,
    /// When it ended, until when its outcome is kept (none where it is no longer), and its tombstone.
    ended: Option<(Timestamp, Option<Timestamp>, Timestamp)>,
    request: Option<Body>,
    checkpoint: Option<Checkpoint>,
    steps: Vec<Step>,
    outcome: Option<Outcome>,
}

/// Where an operation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Unfinished, and a run is at work on it.
    Owned,
    /// Unfinished, and free: the next claim enters it again. So is what an owner has let lapse, where there is a lease.
    Unfinished,
    /// Unfinished and free, and there were so many runs ([`Builder::attempts_max`](crate::Builder::attempts_max)) that
    /// a [`Resumer`](crate::Resumer) leaves it alone, until it is
    /// [released](crate::Store::release_stuck). The next claim enters it again all the same.
    Stuck,
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
            Self::Stuck => "stuck",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Gone => "gone",
        })
    }
}

impl Progress {
    pub(crate) fn new(seen: Seen, time: Timestamp, policy: Policy) -> Self {
        let record = seen.record;
        let owned_since = seen.owner.filter(|owner| !has_lapsed(owner.tenure(), time, policy)).map(|owner| owner.since);
        let is_stuck = is_stuck(&record, policy);
        let ended = match &record.phase {
            Phase::Unfinished => None,
            Phase::Completed { outcome, until, gone } => {
                Some((outcome.completed_at, Some(*until).filter(|until| time < *until), *gone))
            }
            Phase::Tombstone { completed_at, gone } => Some((*completed_at, None, *gone)),
        };
        let (state, outcome) = match record.phase {
            Phase::Unfinished if owned_since.is_some() => (State::Owned, None),
            Phase::Unfinished if is_stuck => (State::Stuck, None),
            Phase::Unfinished => (State::Unfinished, None),
            Phase::Completed { outcome, until, .. } if time < until => {
                (if outcome.success { State::Succeeded } else { State::Failed }, Some(outcome))
            }
            Phase::Completed { .. } | Phase::Tombstone { .. } => (State::Gone, None),
        };
        let checkpoint = record.checkpoint.filter(|_| state != State::Gone);
        let steps = if state == State::Gone { Vec::new() } else { record.steps };
        let (key, fingerprint, born) = (record.key, record.fingerprint, record.born);
        let Record { attempt, released, since, written: changed_at, request, .. } = record;
        Self(Inner {
            key,
            fingerprint,
            born,
            state,
            attempt,
            released,
            since,
            changed_at,
            owned_since: owned_since.filter(|_| state == State::Owned),
            ended,
            request,
            checkpoint,
            steps,
            outcome,
        })
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

    /// How many of its runs no longer count towards its being [stuck](State::Stuck), since it was
    /// [released](crate::Store::release_stuck) (P6).
    pub fn released(&self) -> u32 {
        self.0.released
    }

    /// When it was last written: changed, or moved by retention.
    pub fn changed_at(&self) -> Timestamp {
        self.0.changed_at
    }

    /// Since when the run is at work on it that owns it, if one does: how long an owner may have hung. It is known as
    /// long as that run lives, and not of those before it (P7).
    pub fn owned_since(&self) -> Option<Timestamp> {
        self.0.owned_since
    }

    /// When it ended, if it has.
    pub fn ended_at(&self) -> Option<Timestamp> {
        self.0.ended.map(|(at, ..)| at)
    }

    /// Until when its outcome is kept, while it is (P5).
    pub fn kept_until(&self) -> Option<Timestamp> {
        self.0.ended.and_then(|(_, until, _)| until)
    }

    /// Until when its key is known to be used up, once it has ended (P5).
    pub fn known_until(&self) -> Option<Timestamp> {
        self.0.ended.map(|(.., gone)| gone)
    }

    /// Its last checkpoint, which stays when it ends, as long as its outcome is kept (P3).
    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        self.0.checkpoint.as_ref()
    }

    /// Its steps, in the order of their first intents; they stay when it ends, as long as its outcome is kept (P3).
    pub fn steps(&self) -> &[Step] {
        &self.0.steps
    }

    /// The steps that are in doubt (P4): what may have happened or not. Where a run is at work, it may be at one of
    /// them.
    pub fn in_doubt(&self) -> impl Iterator<Item = &Step> {
        self.0.steps.iter().filter(|step| step.is_in_doubt())
    }

    /// The request's bytes, where the claim that began it carried them, until it ends (P3).
    pub fn request(&self) -> Option<&[u8]> {
        self.0.request.as_ref().map(Body::bytes)
    }

    /// The effect id of this name in this operation, as its runs give it to the other side: what an operator looks for
    /// there before [resolving](crate::Store::resolve) a step in doubt (P4).
    pub fn effect_id(&self, name: &str) -> EffectId {
        EffectId::of(self.key(), name)
    }

    /// Where it stands in the list of the unfinished, to go on behind it ([`Unfinished::after`]) (P6).
    pub fn position(&self) -> Position {
        Position(self.0.born)
    }

    /// What it ended with, as long as that is kept (P5).
    pub fn outcome(&self) -> Option<&Outcome> {
        self.0.outcome.as_ref()
    }
}

/// A place in the list of the unfinished. It stays right whatever comes and goes, over restarts too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(u64);

impl Position {
    /// As a number, to hand to a page's next link.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// From the number it was handed out as. Any number is a position.
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }
}

/// Every unfinished operation, oldest first, but that what was imported stands where it was taken in; read in pages as
/// it is iterated, so that it holds up nobody.
///
/// What is claimed first while it is iterated comes at the end; what is finished meanwhile is left out. A damaged
/// record is an error in its place, and the next ones follow.
///
/// ```
/// use reentry::Store;
/// use std::time::Duration;
///
/// let store = Store::builder().in_memory()?;
/// let old = store.unfinished().of_scope("orders").older_than(Duration::from_secs(3600));
/// let page: Vec<_> = old.take(50).collect::<Result<_, _>>()?;
/// let next = page.last().map(|progress| progress.position()); // for `.after(..)`
/// # assert!(next.is_none());
/// # Ok::<(), reentry::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "nothing is read until it is iterated"]
pub struct Unfinished {
    engine: Arc<Engine>,
    scope: Option<Box<str>>,
    /// Only what was first claimed at this moment or before.
    until: Option<Timestamp>,
    page: VecDeque<Numbered>,
    given: Position,
    /// Where the next page begins; none after the last.
    next: Option<u64>,
}

impl Unfinished {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { engine, scope: None, until: None, page: VecDeque::new(), given: Position(0), next: Some(0) }
    }

    /// Only the operations of this scope (P9).
    pub fn of_scope(mut self, scope: &str) -> Self {
        self.scope = Some(scope.into());
        self
    }

    /// Only operations that were first claimed this long ago or longer (P11).
    pub fn older_than(mut self, age: Duration) -> Self {
        self.until = Some(operations::before(self.engine.time(), age));
        self
    }

    /// Only what stands behind this position (P6): how a page goes on where the last one ended.
    pub fn after(mut self, position: Position) -> Self {
        (self.given, self.next) = (position, Some(position.0));
        self
    }

    /// Where it stands: behind the last that it looked at, one that is damaged or was left out too (P6).
    pub fn position(&self) -> Position {
        self.given
    }
}

impl Iterator for Unfinished {
    type Item = Result<Progress>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            while self.page.is_empty() {
                let after = self.next.take()?;
                match self.engine.unfinished(after, PAGE) {
                    Ok((page, next)) => (self.page, self.next) = (page.into(), next),
                    Err(error) => return Some(Err(error)),
                }
            }
            let (born, seen) = self.page.pop_front()?;
            self.given = Position(born);
            let seen = match seen {
                Ok(seen) => seen,
                Err(error) => return Some(Err(error)),
            };
            // What was imported is behind what was claimed here before that, and may be older.
            let is_old = self.until.is_none_or(|until| seen.record.since <= until);
            if is_old && self.scope.as_deref().is_none_or(|scope| scope == seen.record.key.scope()) {
                return Some(Ok(Progress::new(seen, self.engine.time(), self.engine.policy())));
            }
        }
    }
}
