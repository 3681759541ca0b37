//! The table that a user writes by hand: its commands, and who carries them out.

#[cfg(test)]
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;

use crate::work::{Kind, Load};

/// One call of a caller. All that is acknowledged is durable.
#[derive(Debug, Clone)]
pub(crate) enum Command {
    /// Insert the key where it is absent.
    Claim(Arc<[u8]>),
    /// Keep how far the operation got.
    Checkpoint(Arc<[u8]>, Arc<[u8]>),
    /// Keep that an effect is about to happen.
    Intent(Arc<[u8]>, &'static str),
    /// Keep what an effect came to.
    Result(Arc<[u8]>, &'static str, Arc<[u8]>),
    /// Give the operation its outcome, until a moment in milliseconds.
    Complete(Arc<[u8]>, Arc<[u8]>, u64),
    /// Remove this many, at most, of those that were kept until a moment before this one.
    Expire(u64, usize),
}

/// What a call comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The key was absent, and is the caller's.
    Claimed,
    /// Somebody else is at work on it.
    Running,
    /// It has this outcome.
    Outcome(Vec<u8>),
    /// It is done.
    Done,
    /// So many were removed.
    Removed(usize),
}

impl Answer {
    /// Whether anything was changed.
    pub(crate) fn is_of_a_change(&self) -> bool {
        !matches!(self, Self::Running | Self::Outcome(_) | Self::Removed(0))
    }
}

/// A table on some store. One thread at a time uses it; it commits what it is given in one durable transaction.
pub(crate) trait Table: Send + 'static {
    /// Carries out all of these, each seeing those before it, and answers them in their order.
    fn apply(&mut self, commands: &[Command]) -> Vec<Answer>;

    /// Adds finished operations, kept until a moment in milliseconds, however is fastest; keys come in their order.
    fn fill(&mut self, keys: &[Arc<[u8]>], payload: &Arc<[u8]>, until: u64);

    /// Brings everything to where it is to be at rest, after filling.
    fn settle(&mut self) {}

    /// Who asks beside the thread that writes; one for each thread that does.
    fn reader(&self) -> Box<dyn Reader>;

    /// What makes it durable, and what else a reader should know.
    fn settings(&self) -> String;
}

/// Looks keys up for one thread.
pub(crate) trait Reader: Send {
    /// The outcome of a key that has one.
    fn outcome(&mut self, key: &Arc<[u8]>) -> Option<Vec<u8>>;
}

/// Who hands a caller's command to a table, and its answer back.
pub(crate) trait Calls: Send + Sync + 'static {
    fn call(&self, command: Command, kind: Kind) -> BoxFuture<'_, Answer>;

    /// As [`Table::fill`]; then brings everything to where it is to be at rest.
    fn fill(&self, rows: &mut dyn Iterator<Item = Vec<Arc<[u8]>>>, payload: &Arc<[u8]>, until: u64);

    /// Empties it, where that is cheaper than to make it anew; tells whether it did.
    fn clear(&self) -> bool {
        false
    }

    fn reader(&self) -> Box<dyn Reader>;

    fn settings(&self) -> String;

    /// Changes and commits so far, where they are counted.
    fn counts(&self) -> Option<(u64, u64)> {
        None
    }

    /// The server's process, where it is one of its own.
    fn server(&self) -> Option<u32> {
        None
    }
}

/// Where and how a table is made.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) folder: PathBuf,
    pub(crate) load: Load,
    /// Whether an index by time is kept, for removal.
    pub(crate) is_expiring: bool,
    /// How long an outcome is kept.
    pub(crate) retention: Duration,
}

/// Memory for pages, the same for all who let one say it: the store's default.
pub(crate) const CACHE_BYTES: usize = 64 * 1024 * 1024;

/// What stands under a key, for stores that know bytes only: a byte that tells whether there is an outcome, until when
/// it is kept, the fingerprint, and then the checkpoint or the outcome.
pub(crate) mod row {
    use super::Answer;
    use crate::work::FINGERPRINT;

    pub(crate) const HEAD_BYTES: usize = 1 + 8 + FINGERPRINT.len();

    pub(crate) fn running(checkpoint: &[u8]) -> Vec<u8> {
        encode(0, 0, checkpoint)
    }

    pub(crate) fn done(outcome: &[u8], until: u64) -> Vec<u8> {
        encode(1, until, outcome)
    }

    fn encode(state: u8, until: u64, payload: &[u8]) -> Vec<u8> {
        let mut row = Vec::with_capacity(HEAD_BYTES + payload.len());
        row.push(state);
        row.extend_from_slice(&until.to_be_bytes());
        row.extend_from_slice(&FINGERPRINT);
        row.extend_from_slice(payload);
        row
    }

    /// What a claim of a known key is told.
    pub(crate) fn answer(row: &[u8]) -> Answer {
        assert_eq!(row[9..HEAD_BYTES], FINGERPRINT, "every request has the same fingerprint");
        if row[0] == 0 { Answer::Running } else { Answer::Outcome(row[HEAD_BYTES..].to_vec()) }
    }

    pub(crate) fn outcome(row: &[u8]) -> Option<Vec<u8>> {
        match answer(row) {
            Answer::Outcome(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// The key of a step's row.
    pub(crate) fn step_key(key: &[u8], name: &str) -> Vec<u8> {
        [key, b"\0", name.as_bytes()].concat()
    }

    /// The key in the index by time.
    pub(crate) fn time_key(until: u64, key: &[u8]) -> Vec<u8> {
        [&until.to_be_bytes(), key].concat()
    }
}

/// A table in memory: what the tests of committers use.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct InMemory {
    rows: BTreeMap<Arc<[u8]>, Vec<u8>>,
    pub(crate) batches: Vec<usize>,
}

#[cfg(test)]
impl Table for InMemory {
    fn apply(&mut self, commands: &[Command]) -> Vec<Answer> {
        self.batches.push(commands.len());
        let one = |command: &Command| match command {
            Command::Claim(key) => match self.rows.get(key) {
                Some(row) => row::answer(row),
                None => {
                    self.rows.insert(key.clone(), row::running(b""));
                    Answer::Claimed
                }
            },
            Command::Complete(key, outcome, until) => {
                self.rows.insert(key.clone(), row::done(outcome, *until));
                Answer::Done
            }
            _ => Answer::Done,
        };
        commands.iter().map(one).collect()
    }

    fn fill(&mut self, keys: &[Arc<[u8]>], payload: &Arc<[u8]>, until: u64) {
        self.rows.extend(keys.iter().map(|key| (key.clone(), row::done(payload, until))));
    }

    fn reader(&self) -> Box<dyn Reader> {
        unreachable!("nobody reads beside the writer in the tests that use it")
    }

    fn settings(&self) -> String {
        "in memory".to_owned()
    }
}
