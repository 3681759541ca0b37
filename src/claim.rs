//! The answer to a claim: a value, and each variant an instruction.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::engine::{Claimed, Engine, Working};
use crate::key::Key;
use crate::payload::Limits;
use crate::pending::Pending;
use crate::record::Outcome;
use crate::run::Run;

/// What a claim comes to. Each variant tells the caller what to do; the decision table stands at
/// [`Store::claim`](crate::Store::claim).
#[derive(Debug)]
#[must_use = "a claim may have made this caller the owner; match on it"]
pub enum Claim {
    /// The operation is this caller's to run: for the first time, or again where the last run stopped.
    Run(Run),
    /// It is over: answer the same again, and do nothing.
    Replay(Outcome),
    /// Another run is at work: wait for it, or tell the client to come back.
    Wait(Busy),
    /// The key belongs to another request: refuse this one.
    Reject(Rejected),
    /// It is over, and what it came to is no longer kept: refuse, do nothing.
    Gone(Gone),
}

/// Another run that is at work on the operation.
#[derive(Debug)]
pub struct Busy {
    engine: Arc<Engine>,
    limits: Limits,
    key: Key,
    working: Working,
}

impl Busy {
    /// When the run at work began.
    pub fn since(&self) -> Timestamp {
        self.working.since
    }

    /// Which attempt it is.
    pub fn attempt(&self) -> u32 {
        self.working.attempt
    }

    /// Waits until the run at work ends, and claims then: [`Claim::Replay`] where it brought an outcome, which all
    /// who wait get at once; [`Claim::Run`] where it gave way, which the first in line gets and nobody else hears of.
    ///
    /// Dropping the answer, or giving up on it, leaves the line; if it was granted in that moment, the claim is given
    /// back and goes to the next.
    pub fn outcome(self) -> Pending<Claim> {
        let Self { engine, limits, key, working } = self;
        let for_claim = key.clone();
        engine.claim_after(&key, working, move |engine, claimed| Claim::new(engine, limits, for_claim, claimed))
    }
}

/// A key that was used for another request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejected {
    since: Timestamp,
}

impl Rejected {
    /// When the key was claimed for the request it belongs to.
    pub fn since(&self) -> Timestamp {
        self.since
    }
}

/// An operation that is over and whose outcome is no longer kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone {
    completed_at: Timestamp,
    until: Timestamp,
}

impl Gone {
    /// When it ended.
    pub fn completed_at(&self) -> Timestamp {
        self.completed_at
    }

    /// Until when its tombstone stands. After that the key starts anew.
    pub fn until(&self) -> Timestamp {
        self.until
    }
}

impl Claim {
    pub(crate) fn new(engine: Arc<Engine>, limits: Limits, key: Key, claimed: Claimed) -> Self {
        match claimed {
            Claimed::Run(granted) => Self::Run(Run::new(engine, limits, granted)),
            Claimed::Replay(outcome) => Self::Replay(outcome),
            Claimed::Wait(working) => Self::Wait(Busy { engine, limits, key, working }),
            Claimed::Reject { since } => Self::Reject(Rejected { since }),
            Claimed::Gone { completed_at, until } => Self::Gone(Gone { completed_at, until }),
        }
    }
}
