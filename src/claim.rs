//! The answer to a claim: a value, and each variant an instruction.

use std::fmt;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::engine::{Claimed, Engine, Working};
use crate::error::Result;
use crate::key::{Fingerprint, Key};
use crate::payload::{Limits, PAYLOAD_BYTES_LIMIT, Payload, copy, encode};
use crate::pending::Pending;
use crate::record::Outcome;
use crate::record::transitions::Ask;
use crate::run::Run;

/// What a claim is made for: the request's fingerprint, and what is to be remembered of it. A [`Fingerprint`] alone is
/// one too.
///
/// ```
/// use reentry::{Claim, Fingerprint, Key, Request, Store};
///
/// let store = Store::builder().in_memory()?;
/// let body = br#"{"pizza":"margherita"}"#;
/// let request = Request::of(body);                        // its fingerprint, and its bytes for who finishes it
/// let request = request.deferred();                       // durable with the first step or checkpoint
/// let Claim::Run(run) = store.claim(&Key::new("orders", "1")?, request).wait()? else { panic!("it is new") };
/// assert_eq!(run.request(), Some(&body[..]));
/// # Ok::<(), reentry::Error>(())
/// ```
#[must_use = "a request is nothing until it is claimed"]
pub struct Request {
    fingerprint: Fingerprint,
    bytes: Option<Result<Vec<u8>>>,
    deferred: bool,
}

impl Request {
    /// A request of these bytes: bound to their fingerprint, and kept with the operation until it ends, so that whoever
    /// finishes it without the client has them ([`Run::request`](crate::Run::request); P3).
    ///
    /// They count as a payload: at most the builder's `payload_bytes_max`.
    pub fn of(bytes: impl AsRef<[u8]>) -> Self {
        let (bytes, copy) = (bytes.as_ref(), copy(bytes.as_ref()));
        // What no store takes is refused when it is claimed, so nothing need be made of it.
        let fingerprint = Fingerprint::of(if copy.is_ok() { bytes } else { &[] });
        Self { bytes: Some(copy), ..fingerprint.into() }
    }

    /// Keeps this with the operation until it ends, whatever the fingerprint was made from (P3). A request
    /// [`of`](Self::of) more than any store takes is refused all the same; make one from its [`Fingerprint`].
    pub fn keep(self, request: &(impl Payload + ?Sized)) -> Self {
        let bytes = match self.bytes {
            Some(Err(refused)) => Err(refused),
            _ => encode(request, PAYLOAD_BYTES_LIMIT),
        };
        Self { bytes: Some(bytes), ..self }
    }

    /// Lets a first claim wait for its run's first step, checkpoint or outcome to become durable, instead of waiting
    /// for the disk itself: an operation with n steps then waits n + 1 times, not n + 2.
    ///
    /// Nothing is lost by it, since nothing has happened yet: where its run ends before that, by a crash or however
    /// else, the key was never claimed, and its next claim is attempt 1. At most one run lives all the same (P1), other
    /// requests under the key are rejected (P5), and the run's token is never given again (P7). What is entered again
    /// is durable at once, so that attempts are counted.
    pub fn deferred(self) -> Self {
        Self { deferred: true, ..self }
    }

    pub(crate) fn ask(self, limits: Limits) -> Result<Ask> {
        let request = self.bytes.transpose()?.map(|bytes| limits.check(bytes)).transpose()?;
        Ok(Ask { fingerprint: Some(self.fingerprint), request, deferred: self.deferred })
    }
}

impl From<Fingerprint> for Request {
    fn from(fingerprint: Fingerprint) -> Self {
        Self { fingerprint, bytes: None, deferred: false }
    }
}

/// Shows no bytes: they are the client's.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("deferred", &self.deferred).finish_non_exhaustive()
    }
}

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

    /// Waits until the run at work ends, and claims then: [`Claim::Replay`] where it brought an outcome, which all who
    /// wait get at once (P5); [`Claim::Run`] where it gave way, which the first in line gets and nobody else hears of
    /// (P1).
    ///
    /// Dropping the answer, or giving up on it, leaves the line; if it was granted in that moment, the claim is given
    /// back and goes to the next.
    pub fn outcome(self) -> Pending<Claim> {
        let Self { engine, limits, key, working } = self;
        let for_claim = key.clone();
        engine.claim_after(&key, working.ask, move |engine, claimed| Claim::new(engine, limits, for_claim, claimed))
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
