//! What goes to the writer, and what comes back.
//!
//! Invariants:
//! 1. Ownership is a value: whoever holds it owns, and dropping it gives the operation free at that moment (P7).
//! 2. Nobody in line is forgotten: a turn that ends without an owner gives the next one its turn (P7).

use std::sync::Arc;

use super::Shared;
use super::index::{KeyHash, Owner};
use super::log::Place;
use crate::clock::Timestamp;
use crate::error::Error;
use crate::key::{Fingerprint, Key};
use crate::pending::Promise;
use crate::record::transitions::Command;
use crate::record::{Checkpoint, Outcome, Record};

/// One command on its way to the writer.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) key: Key,
    pub(super) hash: KeyHash,
    pub(super) command: Command,
    /// What the caller knows of the record, to spare reading it.
    pub(super) known: Option<Known>,
    pub(super) reply: Reply,
}

/// Whom to answer, and with what.
#[derive(Debug)]
pub(super) enum Reply {
    /// A claim that has a turn waits where another run is at work.
    Claim {
        turn: Option<Turn>,
        promise: Promise<Claimed>,
    },
    Advance(Promise<Advanced>),
    /// The ownership comes with the request, so that it lasts until the outcome is durable and ends with it.
    End {
        ownership: Ownership,
        promise: Promise<Outcome>,
    },
    Done(Promise<bool>),
}

/// What a claim comes to.
#[derive(Debug)]
pub(crate) enum Claimed {
    Run(Granted),
    Replay(Outcome),
    Wait(Working),
    Reject { since: Timestamp },
    Gone { completed_at: Timestamp, until: Timestamp },
}

/// A run that may begin.
#[derive(Debug)]
pub(crate) struct Granted {
    pub(crate) ownership: Ownership,
    pub(crate) known: Known,
    /// The record's checkpoint, with its payload.
    pub(crate) checkpoint: Option<Checkpoint>,
}

/// A record, and where it stands as long as nobody changes it. Large bodies are not in it.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(super) place: Place,
    pub(crate) record: Arc<Record>,
}

/// Another run that is at work.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Working {
    pub(crate) attempt: u32,
    pub(crate) since: Timestamp,
    pub(crate) fingerprint: Option<Fingerprint>,
}

/// What moving a checkpoint comes to.
#[derive(Debug)]
pub(crate) enum Advanced {
    Moved { checkpoint: Checkpoint, known: Known },
    Lost(Option<Checkpoint>),
}

/// A record and the token of the run that owns it, if one does, at one moment.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) record: Record,
    pub(crate) owner: Option<u64>,
}

/// The right to change one operation. Dropping it gives the operation free, in memory only.
#[derive(Debug)]
pub(crate) struct Ownership {
    pub(super) shared: Arc<Shared>,
    pub(super) key: Key,
    pub(super) hash: KeyHash,
    pub(super) token: u64,
}

impl Ownership {
    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    pub(crate) fn token(&self) -> u64 {
        self.token
    }
}

impl Drop for Ownership {
    fn drop(&mut self) {
        let next = self.shared.index.shard(self.hash).unseat(self.hash, &self.key, self.token);
        if let Some(waiter) = next {
            self.shared.readmit(&self.key, self.hash, waiter);
        }
    }
}

/// The turn of a claim that stood in line. Whatever becomes of it, the next in line is not forgotten: when the turn
/// ends and nobody owns the operation, the next one has its turn.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) shared: Arc<Shared>,
    pub(super) key: Key,
    pub(super) hash: KeyHash,
}

impl Drop for Turn {
    fn drop(&mut self) {
        // A queue that is shut refuses everybody; the writer's end tells all who are in line.
        if self.shared.queue.is_shut().is_none() {
            let next = self.shared.index.shard(self.hash).next_of_unowned(self.hash, &self.key);
            if let Some(waiter) = next {
                self.shared.readmit(&self.key, self.hash, waiter);
            }
        }
    }
}

impl Request {
    /// Bytes it keeps in memory while it waits.
    pub(super) fn bytes(&self) -> usize {
        let payload = match &self.command {
            Command::Advance { name, bytes, .. } => name.len() + bytes.len(),
            Command::End { bytes, .. } => bytes.len(),
            Command::Claim { .. } | Command::Forget | Command::Revoke | Command::Look => 0,
        };
        size_of::<Self>() + self.key.len() + payload
    }

    pub(super) fn refuse(self, error: Error) {
        self.reply.refuse(error);
    }
}

impl Reply {
    pub(super) fn take_turn(&mut self) -> Option<Turn> {
        match self {
            Self::Claim { turn, .. } => turn.take(),
            Self::Advance(_) | Self::End { .. } | Self::Done(_) => None,
        }
    }

    /// Whether it is a claim that nobody waits for any more: it is not made at all.
    pub(super) fn is_given_up(&self) -> bool {
        matches!(self, Self::Claim { promise, .. } if promise.is_abandoned())
    }

    pub(super) fn refuse(self, error: Error) {
        match self {
            Self::Claim { promise, .. } => promise.keep(Err(error)),
            Self::Advance(promise) => promise.keep(Err(error)),
            // The caller learns of the error before somebody else can own the operation.
            Self::End { ownership, promise } => {
                promise.keep(Err(error));
                drop(ownership);
            }
            Self::Done(promise) => promise.keep(Err(error)),
        }
    }
}

impl Working {
    pub(super) fn of(owner: Owner, command: &Command) -> Self {
        let fingerprint = match command {
            Command::Claim { fingerprint } => *fingerprint,
            _ => None,
        };
        Self { attempt: owner.attempt, since: owner.since, fingerprint }
    }
}
