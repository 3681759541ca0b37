//! The figures of a store, as its operator reads them.

use std::fmt;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::engine::{Figures, Noted};
use crate::error::ErrorKind;

pub use crate::engine::Condition;

/// Figures of a store; see [`Store::stats`](crate::Store::stats). What is counted is counted since the store was
/// opened.
///
/// ```
/// use reentry::{Condition, Fingerprint, Key, Store};
///
/// let store = Store::builder().in_memory()?;
/// let run = store.claim(&Key::new("orders", "1")?, Fingerprint::of("two pizzas")).wait()?;
/// let stats = store.stats()?;
/// assert_eq!((stats.unfinished, stats.owned, stats.claims.begun), (1, 1, 1));
/// assert_eq!(stats.condition, Condition::Serving);
/// # Ok::<(), reentry::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Whether the store serves, and if not, why.
    pub condition: Condition,
    /// Operations kept: unfinished, completed, and tombstones. What is expired counts until it is removed.
    pub operations: u64,
    /// Operations without an outcome, owned or not. What is deferred counts when it is durable.
    pub unfinished: u64,
    /// How long ago the oldest of them was claimed for the first time: the figure to raise an alarm by.
    pub oldest_unfinished: Option<Duration>,
    /// Unfinished operations with a step in doubt, one that a run is at work on among them.
    pub in_doubt: u64,
    /// Operations that are [stuck](crate::State::Stuck).
    pub stuck: u64,
    /// Operations that a run is at work on.
    pub owned: u64,
    /// Operations whose outcome is kept.
    pub completed: u64,
    /// Operations of which only the tombstone is kept.
    pub tombstones: u64,
    /// Claims that wait for another run to end.
    pub waiting: u64,
    /// Commands that wait for the writer.
    pub queued: u64,
    /// What claims came to.
    pub claims: Claims,
    /// Calls of runs that had lost their operation ([`ErrorKind::Fenced`]).
    pub fenced: u64,
    /// Claims that were refused because of what is kept already ([`ErrorKind::Capacity`]).
    pub refused: u64,
    /// Operations that retention removed when they were over.
    pub removed: u64,
    /// Commits; each takes one sync.
    pub commits: u64,
    /// Changes; many share a commit.
    pub changes: u64,
    /// How long the last commits took, from the first command of their batch to the end of the sync: that long callers
    /// wait at least. Of the last 1,024 that somebody waited for; none before the first.
    pub commit_time: Option<Percentiles<Duration>>,
    /// How long the syncs of these took, which is the disk's share.
    pub sync_time: Option<Percentiles<Duration>>,
    /// How many commands shared each of these.
    pub batch: Option<Percentiles<u64>>,
    /// Bytes of what is kept: every operation's row, and the rows of large payloads. The file is larger by what redb
    /// takes for its pages, and by what the server keeps in it of its own.
    pub bytes: u64,
    /// Memory of the index, and of counting scopes where they have limits, without their names.
    pub index_bytes: u64,
    /// Size of the file.
    pub disk_bytes: u64,
    /// The format of the file: [`FORMAT_VERSION`](crate::FORMAT_VERSION), but of one that was opened to be read perhaps
    /// an older.
    pub format: u32,
    /// Errors of the store's own: of its disk, its file or the store itself, not of what callers asked for.
    pub faults: u64,
    /// The last of these.
    pub last_fault: Option<LastFault>,
}

/// How many claims came to what, counted when the caller takes the answer; see [`Stats::claims`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Claims {
    /// A run, the first of its operation.
    pub begun: u64,
    /// A run that entered an unfinished operation again.
    pub reentered: u64,
    /// The outcome that is kept: a replay.
    pub replayed: u64,
    /// Another run was at work.
    pub waiting: u64,
    /// The key belongs to another request: a mismatch.
    pub rejected: u64,
    /// The operation is over, and only its tombstone is kept.
    pub gone: u64,
    /// An error, so no decision.
    pub failed: u64,
}

impl Claims {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.by_answer().into_iter().map(|(_, count)| count).sum()
    }

    /// Each answer by its name, which is that of its field, with how many claims came to it.
    pub fn by_answer(&self) -> [(&'static str, u64); 7] {
        let Self { begun, reentered, replayed, waiting, rejected, gone, failed } = *self;
        [
            ("begun", begun),
            ("reentered", reentered),
            ("replayed", replayed),
            ("waiting", waiting),
            ("rejected", rejected),
            ("gone", gone),
            ("failed", failed),
        ]
    }
}

/// Of many values the middle one, and those that nine, and ninety-nine, of ten and of a hundred are not above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Percentiles<T> {
    /// Half of them are not above this.
    pub p50: T,
    /// Nine of ten are not above this.
    pub p90: T,
    /// Ninety-nine of a hundred are not above this.
    pub p99: T,
    /// The largest.
    pub max: T,
}

/// An error of the store's own; see [`Stats::last_fault`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LastFault {
    /// Its kind, which says what to do.
    pub kind: ErrorKind,
    /// What it said. It never holds a key, a payload or a fingerprint.
    pub message: String,
    /// When it was met, by the store's time.
    pub at: Timestamp,
}

impl Stats {
    pub(super) fn of(figures: Figures) -> Self {
        let Figures { recent, .. } = &figures;
        let micros = |values: &[u64]| percentiles(values).map(|found| found.map(Duration::from_micros));
        let (commit_time, sync_time) = (micros(&recent.commit_micros), micros(&recent.sync_micros));
        let batch = percentiles(&recent.commands);
        let [begun, reentered, replayed, waiting, rejected, gone, failed] = figures.answers;
        Self {
            condition: figures.condition,
            operations: figures.operations,
            unfinished: figures.unfinished,
            oldest_unfinished: figures.oldest_unfinished,
            in_doubt: figures.in_doubt,
            stuck: figures.stuck,
            owned: figures.owned,
            completed: figures.operations.saturating_sub(figures.unfinished).saturating_sub(figures.tombstones),
            tombstones: figures.tombstones,
            waiting: figures.waiting,
            queued: figures.queued,
            claims: Claims { begun, reentered, replayed, waiting, rejected, gone, failed },
            fenced: figures.fenced,
            refused: figures.refused,
            removed: figures.removed,
            commits: figures.commits,
            changes: figures.changes,
            commit_time,
            sync_time,
            batch,
            bytes: figures.bytes,
            index_bytes: figures.index_bytes,
            disk_bytes: figures.disk_bytes,
            format: figures.format,
            faults: figures.faults,
            last_fault: figures.last_fault.map(|Noted { kind, message, at }| LastFault { kind, message, at }),
        }
    }
}

impl<T> Percentiles<T> {
    pub(super) fn map<U>(self, of: impl Fn(T) -> U) -> Percentiles<U> {
        Percentiles { p50: of(self.p50), p90: of(self.p90), p99: of(self.p99), max: of(self.max) }
    }
}

/// Of values in ascending order; none of none.
fn percentiles(values: &[u64]) -> Option<Percentiles<u64>> {
    let at = |hundredths: usize| values.get((values.len() * hundredths).div_ceil(100).max(1) - 1).copied();
    Some(Percentiles { p50: at(50)?, p90: at(90)?, p99: at(99)?, max: *values.last()? })
}

/// One lower-case word.
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Serving => "serving",
            Self::Full => "full",
            Self::Failed => "failed",
            Self::ReadOnly => "read-only",
            Self::Closed => "closed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_value_that_so_many_are_not_above() {
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!(percentiles(&hundred), Some(Percentiles { p50: 50, p90: 90, p99: 99, max: 100 }));
        assert_eq!(percentiles(&[7]), Some(Percentiles { p50: 7, p90: 7, p99: 7, max: 7 }));
        assert_eq!(percentiles(&[1, 2, 3]), Some(Percentiles { p50: 2, p90: 3, p99: 3, max: 3 }));
        assert_eq!(percentiles(&[]), None);
    }
}
