//! What is told to `tracing`, feature `tracing`: the only room that names it, and the list of all spans and events.
//!
//! Invariants:
//! 1. Without the feature nothing is left of a call but its name.
//! 2. A key is told as its digest, unless the server asked otherwise; a payload, a fingerprint or a token never (P9).
//! 3. What is told is worked out only where somebody listens.

#![allow(clippy::unused_self, reason = "whatever a store tells, it tells as its own")]
#![cfg_attr(
    not(feature = "tracing"),
    allow(
        dead_code,
        unused_variables,
        clippy::match_same_arms,
        reason = "without it nothing looks at what it is given"
    )
)]

use std::fmt;
use std::future::Future;
use std::time::Duration;

use crate::error::{Error, ErrorKind};
use crate::key::Key;

#[cfg(feature = "tracing")]
macro_rules! tell {
    ($level:ident, $($what:tt)*) => {
        tracing::event!(target: "reentry", tracing::Level::$level, $($what)*)
    };
}

#[cfg(not(feature = "tracing"))]
macro_rules! tell {
    ($($what:tt)*) => {
        ()
    };
}

#[cfg(feature = "tracing")]
macro_rules! span {
    ($($what:tt)*) => {
        Span(tracing::debug_span!(target: "reentry", $($what)*))
    };
}

#[cfg(not(feature = "tracing"))]
macro_rules! span {
    ($($what:tt)*) => {
        Span
    };
}

/// What a store tells, and how.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Trace {
    shows_keys: bool,
}

/// Something that takes its time.
#[cfg(feature = "tracing")]
#[derive(Debug)]
pub(crate) struct Span(tracing::Span);

#[cfg(not(feature = "tracing"))]
#[derive(Debug)]
pub(crate) struct Span;

/// How much is there when a store opens.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) operations: u64,
    pub(crate) unfinished: u64,
    pub(crate) in_doubt: u64,
    pub(crate) stuck: u64,
}

/// A key as it is told.
struct Shown<'k>(&'k Key, bool);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self(key, true) => write!(f, "{:?}/{:?}", key.scope(), key.key()),
            Self(key, false) => f.write_str(&key.digest()),
        }
    }
}

/// Whether anybody may listen to warnings.
pub(crate) fn is_heard() -> bool {
    #[cfg(feature = "tracing")]
    return tracing::enabled!(target: "reentry", tracing::Level::WARN);
    #[cfg(not(feature = "tracing"))]
    false
}

impl Span {
    /// Does something in it.
    pub(crate) fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        #[cfg(feature = "tracing")]
        return self.0.in_scope(work);
        #[cfg(not(feature = "tracing"))]
        work()
    }

    /// A future that is polled in it.
    pub(crate) fn around<F: Future>(self, future: F) -> impl Future<Output = F::Output> + use<F> {
        #[cfg(feature = "tracing")]
        return tracing::Instrument::instrument(future, self.0);
        #[cfg(not(feature = "tracing"))]
        future
    }
}

impl Trace {
    #[cfg(feature = "tracing")]
    pub(crate) fn showing_keys(shows_keys: bool) -> Self {
        Self { shows_keys }
    }

    fn show(self, key: &Key) -> Shown<'_> {
        Shown(key, self.shows_keys)
    }

    /// From a claim to its answer.
    pub(crate) fn claim(self, key: &Key) -> Span {
        span!("claim", key = %self.show(key))
    }

    /// An effect under way.
    pub(crate) fn step(self, key: &Key, name: &str, attempt: u32, again: bool) -> Span {
        span!("step", key = %self.show(key), name, attempt, again)
    }

    /// A batch, from its first command to the end of its commit.
    pub(crate) fn commit(self, commands: usize) -> Span {
        span!("commit", commands)
    }

    /// A copy of the file, from its beginning until it is checked.
    pub(crate) fn backup(self) -> Span {
        span!("backup")
    }

    pub(crate) fn opened(self, found: &Found) {
        let Found { operations, unfinished, in_doubt, stuck } = found;
        tell!(INFO, operations, unfinished, in_doubt, stuck, "opened");
    }

    pub(crate) fn closed(self) {
        tell!(INFO, "closed");
    }

    /// What a claim came to; `attempt` is that of the run it was given.
    pub(crate) fn claimed(self, key: &Key, answer: &'static str, attempt: Option<u32>) {
        tell!(DEBUG, key = %self.show(key), answer, attempt, "claimed");
    }

    /// A key came with another request than the one it belongs to.
    pub(crate) fn mismatch(self, key: &Key) {
        tell!(INFO, key = %self.show(key), "mismatch");
    }

    /// A run wanted to go on that had lost its operation.
    pub(crate) fn fenced(self, key: &Key) {
        tell!(WARN, key = %self.show(key), "fenced");
    }

    /// A run gave way without an outcome.
    pub(crate) fn released(self, key: &Key, attempt: u32) {
        tell!(DEBUG, key = %self.show(key), attempt, "released");
    }

    /// Likewise, and left a step of which nobody knows whether it happened.
    pub(crate) fn in_doubt(self, key: &Key, attempt: u32) {
        tell!(WARN, key = %self.show(key), attempt, "in doubt");
    }

    /// Likewise, and was the last that a resumer makes.
    pub(crate) fn stuck(self, key: &Key, attempt: u32) {
        tell!(WARN, key = %self.show(key), attempt, "stuck");
    }

    /// Somebody asks to resolve, release, forget or revoke an operation.
    pub(crate) fn by_hand(self, key: &Key, command: &'static str) {
        tell!(INFO, key = %self.show(key), command, "by hand");
    }

    pub(crate) fn committed(self, commands: usize, changes: usize, took: Duration, sync: Duration) {
        tell!(DEBUG, commands, changes, ?took, ?sync, "committed");
    }

    /// The disk is full, the store stopped, or a row is damaged.
    pub(crate) fn fault(self, error: &Error) {
        match error.kind() {
            ErrorKind::Full => tell!(WARN, %error, "full"),
            ErrorKind::Corrupt => tell!(ERROR, %error, "damaged"),
            _ => tell!(ERROR, %error, "failed"),
        }
    }

    /// The disk has room again.
    pub(crate) fn mended(self) {
        tell!(INFO, "mended");
    }

    pub(crate) fn backed_up(self, operations: u64, bytes: u64) {
        tell!(INFO, operations, bytes, "backed up");
    }

    pub(crate) fn backup_failed(self, error: &Error) {
        tell!(WARN, %error, "backup failed");
    }
}
