//! What is counted of the store's work, for `figures` alone: nothing is ever decided by it.
//!
//! Invariants:
//! 1. Counting never waits, and callers at different keys seldom count in the same cache line.
//! 2. What is measured of commits is written by the writer's thread alone.

use std::time::Duration;

use super::index::KeyHash;
use super::request::Claimed;
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind};
use crate::sync::plain::{AtomicU64, Mutex, Ordering};

/// Enough that callers seldom meet on one.
const LINES: usize = 32;

/// How many commits the percentiles are of.
const SAMPLES: usize = 1024;

/// What a claim came to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Answered {
    Begun,
    Reentered,
    Replayed,
    Waiting,
    Rejected,
    Gone,
    Failed,
}

impl Answered {
    /// As traces and metrics name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Reentered => "reentered",
            Self::Replayed => "replayed",
            Self::Waiting => "waiting",
            Self::Rejected => "rejected",
            Self::Gone => "gone",
            Self::Failed => "failed",
        }
    }
}

/// How many answers of a kind there are.
const KINDS: usize = Answered::Failed as usize + 1;

/// How many claims came to what, in the order of [`Answered`].
pub(crate) type Answers = [u64; KINDS];

/// A cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Line([AtomicU64; KINDS]);

#[derive(Debug)]
pub(crate) struct Meter {
    claims: [Line; LINES],
    pub(crate) commits: AtomicU64,
    pub(crate) changes: AtomicU64,
    pub(crate) removed: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) fenced: AtomicU64,
    /// The last commits, each in the place of one that is long past.
    samples: Box<[Sample]>,
    sampled: AtomicU64,
    faults: AtomicU64,
    last_fault: Mutex<Option<Noted>>,
}

/// What is measured of one commit.
#[derive(Debug, Default)]
struct Sample {
    commit_micros: AtomicU64,
    sync_micros: AtomicU64,
    commands: AtomicU64,
}

/// An error of the store's own, not of what a caller asked for.
#[derive(Debug, Clone)]
pub(crate) struct Noted {
    pub(crate) kind: ErrorKind,
    pub(crate) message: String,
    pub(crate) at: Timestamp,
}

/// What the last commits were like: sorted, smallest first.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    pub(crate) commit_micros: Vec<u64>,
    pub(crate) sync_micros: Vec<u64>,
    pub(crate) commands: Vec<u64>,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            claims: Default::default(),
            commits: AtomicU64::default(),
            changes: AtomicU64::default(),
            removed: AtomicU64::default(),
            refused: AtomicU64::default(),
            fenced: AtomicU64::default(),
            samples: std::iter::repeat_with(Sample::default).take(SAMPLES).collect(),
            sampled: AtomicU64::default(),
            faults: AtomicU64::default(),
            last_fault: Mutex::default(),
        }
    }
}

impl Meter {
    /// Counts the answer to a claim.
    #[expect(clippy::indexing_slicing, reason = "one index is a remainder of the length, the other a kind")]
    pub(crate) fn answered(&self, hash: KeyHash, answered: Answered) {
        let line = &self.claims[usize::from(hash.shard()) % LINES];
        line.0[answered as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many claims came to what.
    pub(crate) fn answers(&self) -> Answers {
        let mut sums = [0; KINDS];
        for line in &self.claims {
            for (sum, count) in sums.iter_mut().zip(&line.0) {
                *sum += count.load(Ordering::Relaxed);
            }
        }
        sums
    }

    /// Counts a commit that somebody waited for; on the writer's thread alone.
    pub(crate) fn committed(&self, commands: usize, commit: Duration, sync: Duration) {
        let nth = self.sampled.fetch_add(1, Ordering::Relaxed);
        let place = usize::try_from(nth).unwrap_or_default() % SAMPLES;
        if let Some(sample) = self.samples.get(place) {
            sample.commit_micros.store(micros(commit), Ordering::Relaxed);
            sample.sync_micros.store(micros(sync), Ordering::Relaxed);
            sample.commands.store(commands as u64, Ordering::Relaxed);
        }
    }

    /// What the last commits were like.
    pub(crate) fn recent(&self) -> Recent {
        let sampled = usize::try_from(self.sampled.load(Ordering::Relaxed)).unwrap_or(SAMPLES);
        let mut recent = Recent::default();
        for sample in self.samples.iter().take(sampled) {
            recent.commit_micros.push(sample.commit_micros.load(Ordering::Relaxed));
            recent.sync_micros.push(sample.sync_micros.load(Ordering::Relaxed));
            recent.commands.push(sample.commands.load(Ordering::Relaxed));
        }
        for values in [&mut recent.commit_micros, &mut recent.sync_micros, &mut recent.commands] {
            values.sort_unstable();
        }
        recent
    }

    /// Keeps an error of the store's own, and counts it.
    pub(crate) fn note(&self, error: &Error, at: Timestamp) {
        self.faults.fetch_add(1, Ordering::Relaxed);
        let noted = Noted { kind: error.kind(), message: error.to_string(), at };
        *self.last_fault.lock() = Some(noted);
    }

    /// How many errors of its own the store met, and the last of them.
    pub(crate) fn faults(&self) -> (u64, Option<Noted>) {
        (self.faults.load(Ordering::Relaxed), self.last_fault.lock().clone())
    }
}

impl Claimed {
    /// The attempt of the run that it is.
    pub(crate) fn attempt(&self) -> Option<u32> {
        if let Self::Run(granted) = self { Some(granted.record.attempt) } else { None }
    }

    /// What it is counted as.
    pub(crate) fn answered(&self) -> Answered {
        match self {
            Self::Run(granted) if granted.record.attempt <= 1 => Answered::Begun,
            Self::Run(_) => Answered::Reentered,
            Self::Replay(_) => Answered::Replayed,
            Self::Wait(_) => Answered::Waiting,
            Self::Reject { .. } => Answered::Rejected,
            Self::Gone { .. } => Answered::Gone,
        }
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_commits_is_told_of_the_last_of_them_alone() {
        let (meter, milli) = (Meter::default(), Duration::from_millis(1));
        let commit = |commands: usize, span: u32| meter.committed(commands, milli * span * 2, milli * span);
        let told = || {
            let Recent { commit_micros, sync_micros, commands } = meter.recent();
            [commit_micros, sync_micros, commands]
        };
        assert_eq!(told(), [(); 3].map(|()| Vec::<u64>::new()));
        commit(3, 4);
        assert_eq!(told(), [vec![8_000], vec![4_000], vec![3]]);
        (0..SAMPLES).for_each(|_| commit(1, 1));
        assert!(told() == [2_000, 1_000, 1].map(|value| vec![value; SAMPLES]), "the first is one too old");
        let mut committed = 0;
        for nth in [1, SAMPLES / 2, SAMPLES] {
            while committed < nth {
                commit(2, 3);
                committed += 1;
            }
            let of = |last: u64, other: u64| [vec![other; SAMPLES - nth], vec![last; nth]].concat();
            assert!(told() == [of(6_000, 2_000), of(3_000, 1_000), of(2, 1)], "{nth} more");
        }
    }
}
