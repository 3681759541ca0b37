//! The one error type: opaque, with a kind that tells the caller what to do next and a real source.

use std::error::Error as StdError;

/// What a call of this crate returns when it can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

pub(crate) type Source = Box<dyn StdError + Send + Sync>;

/// Why no decision was made, or why this run must stop.
///
/// Match on [`kind`](Error::kind); the message is for people and may change between versions. It never holds a key, a
/// payload or a fingerprint.
///
/// ```
/// use reentry::{ErrorKind, Key};
///
/// let error = Key::new("checkout", "").unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::InvalidKey);
/// ```
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: Box<str>,
    #[source]
    source: Option<Source>,
}

impl Error {
    /// What went wrong, and with it what to do next.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub(crate) fn new(kind: ErrorKind, message: impl Into<Box<str>>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// The same error, with the place it is about in front of its message.
    pub(crate) fn within(self, place: &str) -> Self {
        Self { message: format!("{place}: {}", self.message).into(), ..self }
    }

    pub(crate) fn because(kind: ErrorKind, message: impl Into<Box<str>>, source: impl Into<Source>) -> Self {
        Self { kind, message: message.into(), source: Some(source.into()) }
    }
}

/// The kinds of [`Error`]; each says what the caller does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A scope or key is empty, too long or holds control characters. Answer the client; nothing was touched.
    InvalidKey,
    /// The name of a checkpoint, step or table, or a note, is empty, too long or holds control characters; or the table
    /// is not one that can be opened so. Mend the caller; nothing was touched.
    InvalidName,
    /// The builder was given values that cannot work together. Mend the configuration.
    InvalidConfig,
    /// A payload is over the store's limit. Store less, or raise the builder's `payload_bytes_max`.
    PayloadTooLarge,
    /// A payload could not be encoded, or stored bytes do not decode into the type asked for. Bring back code that
    /// reads them; nothing was lost.
    Codec,
    /// This run no longer owns the operation: it was revoked, or its lease lapsed and another run took over. Stop at
    /// once and do no further effect. What its step came to, reported late, is kept as evidence.
    Fenced,
    /// Somebody else moved the checkpoint since this run last saw it. Read it again before going on.
    Conflict,
    /// No operation is known under this key (never claimed, forgotten, or its retention is over), or none of its steps
    /// has this name.
    NotFound,
    /// The operation already has an outcome, which nothing changes any more. Claim the key to read it.
    Finished,
    /// A live run owns the operation, so it can neither be forgotten nor its steps resolved from outside. Let it end,
    /// or revoke it first.
    Busy,
    /// A step that is guarded by `run_at_most_once` has an intent and no result: it may have happened or not, and only
    /// somebody who finds out may say. Resolve it, then claim again. Never end the operation with it: drop the run, so
    /// that it stays resumable.
    InDoubt,
    /// The step that was to be resolved is not in doubt: it has a result, was withdrawn, or never began. Look at it.
    NotInDoubt,
    /// The recheck of a step in doubt could not tell whether it happened, or not yet. Drop the run and come back later;
    /// the step stays in doubt. The source is what the recheck returned, if it returned an error.
    CannotTell,
    /// An effect returned an error, so nobody knows whether it happened: its step is in doubt. Drop the run, or ask for
    /// the step again: a recheck then asks, a keyed step runs again, and one at most once is `InDoubt`. The source is
    /// what the effect returned.
    EffectFailed,
    /// An effect said that nothing happened: its step was withdrawn and runs again when it is asked for. The source is
    /// what the effect returned.
    NotApplied,
    /// This run was given the result of a step of this name already. Number the names of steps in a loop. (A step that
    /// failed may be asked for again.)
    StepRepeated,
    /// The closure that writes the server's own rows failed or panicked: neither they nor the operation's change were
    /// made, and the run still owns the operation. The source is what the closure returned.
    Aborted,
    /// The call would wait for the store inside a closure that the store itself waits for. Nothing was asked of
    /// the store. Make it outside.
    WouldDeadlock,
    /// The caller stopped waiting; nothing was changed on its behalf. Ask again, or tell the client to come back.
    TimedOut,
    /// The caller's own report of progress broke the call off. Nothing is left of what it made; call again for it.
    Cancelled,
    /// Something stands already at the path where a copy was to be made. Nothing was changed; name another path.
    Exists,
    /// The change may be durable or may not: its commit failed, or its caller stopped waiting for it. Claim the key
    /// again (after reopening the store, where it has failed) to learn how far the operation got.
    OutcomeUnknown,
    /// The disk is full. The change was refused and not applied; replays go on. Make room: the store mends itself.
    Full,
    /// A key was not begun because the store, or its scope, keeps as much as the builder allows; the message names the
    /// setting. Wait for retention or for what is unfinished to end, forget some, or raise it; what has begun goes on.
    /// Or one operation has as many steps as it may, 1,024, or as many bytes (`operation_bytes_max`): then what was
    /// asked for did not happen, and the operation can still be completed or failed. A deferred claim counts from its
    /// run's first durable call on, so it is that call which is refused, though it be the outcome; then claim again.
    Capacity,
    /// The store stopped after a failed write or sync, or a fault inside it. Close it and open it anew; what was
    /// acknowledged is there. After a failed sync restart the machine first, or copy the file and open the copy: the
    /// system may show what it has not written.
    Failed,
    /// The store was opened to be read ([`Builder::open_to_read`](crate::Builder::open_to_read)). Open it for writing;
    /// nothing was changed.
    ReadOnly,
    /// The store was closed. Open it anew.
    Closed,
    /// The file is open in another process, or by another handle in this one. Close that one first.
    InUse,
    /// The path is a folder, a link, empty, or holds something that is no store. Nothing in it was changed.
    NotAStore,
    /// The file, or the folder it is in, is open to others, and the builder was told to refuse that. Take the
    /// permissions away, and think about who may have read or changed the file. Nothing in it was changed. Or a file
    /// that others may write to stands where a new one is to be made (`NAME.creating`): remove it.
    Exposed,
    /// The file was written by a newer version of this crate. Use that version. Nothing in it was changed.
    NewerFormat,
    /// What the file holds does not match its checksums or rules. Nothing was changed; restore a copy.
    Corrupt,
    /// The operating system refused to read, create or lock a file. The source tells why.
    Io,
}
