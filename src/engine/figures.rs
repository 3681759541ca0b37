//! The figures of a moment: read from what is counted anyway, however much is kept.

use std::time::Duration;

use super::Engine;
use super::meter::{Answers, Noted, Recent};
use super::queue::Shut;
use crate::clock::Timestamp;
use crate::error::Result;
use crate::record::transitions::has_lapsed;
use crate::sync::Ordering;

/// What is told of a store at one moment.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) condition: Condition,
    pub(crate) operations: u64,
    pub(crate) unfinished: u64,
    pub(crate) in_doubt: u64,
    pub(crate) stuck: u64,
    pub(crate) tombstones: u64,
    pub(crate) oldest_unfinished: Option<Duration>,
    pub(crate) owned: u64,
    pub(crate) waiting: u64,
    pub(crate) queued: u64,
    pub(crate) removed: u64,
    pub(crate) commits: u64,
    pub(crate) changes: u64,
    pub(crate) refused: u64,
    pub(crate) fenced: u64,
    pub(crate) answers: Answers,
    pub(crate) recent: Recent,
    pub(crate) faults: u64,
    pub(crate) last_fault: Option<Noted>,
    pub(crate) bytes: u64,
    pub(crate) index_bytes: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) format: u32,
}

/// Whether a store serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Condition {
    /// It does.
    Serving,
    /// The disk was full when it was last written to: changes are refused, replays go on. Make room, and it mends.
    Full,
    /// It stopped after a fault ([`ErrorKind::Failed`](crate::ErrorKind::Failed)): open it anew.
    Failed,
    /// It was opened to be read ([`Builder::open_to_read`](crate::Builder::open_to_read)): replays are served.
    ReadOnly,
    /// It was closed.
    Closed,
}

impl Engine {
    /// The figures at this moment.
    pub(crate) fn figures(&self) -> Result<Figures> {
        let shared = &self.shared;
        let (policy, time) = (shared.policy, shared.timeline.now().time);
        let (mut owned, mut waiting, mut at_last_try) = (0, 0, Vec::new());
        for shard in shared.index.shards() {
            for seat in shard.seats() {
                waiting += seat.waiters.iter().filter(|waiter| !waiter.promise.is_abandoned()).count() as u64;
                if let Some(owner) = seat.owner.filter(|owner| !has_lapsed(owner.tenure(), time, policy)) {
                    owned += 1;
                    at_last_try.extend((owner.attempt >= policy.attempts_max).then_some(owner.born));
                }
            }
        }
        let opens = shared.index.unfinished();
        // What is at its last try is stuck only when that failed too.
        let still_tried = at_last_try.iter().filter(|born| opens.is_tried_enough(**born)).count() as u64;
        let (unfinished, in_doubt, stuck) =
            (opens.len(), opens.in_doubt(), opens.tried_enough().saturating_sub(still_tried));
        let oldest_unfinished = opens.oldest_since().map(|since: Timestamp| time.since(since));
        drop(opens);
        let meter = &shared.meter;
        let (faults, last_fault) = meter.faults();
        Ok(Figures {
            condition: self.condition(),
            operations: shared.index.operations(),
            unfinished,
            in_doubt,
            stuck,
            tombstones: shared.index.tombstones(),
            oldest_unfinished,
            owned,
            waiting,
            queued: shared.queue.len() as u64,
            removed: meter.removed.load(Ordering::Relaxed),
            commits: meter.commits.load(Ordering::Relaxed),
            changes: meter.changes.load(Ordering::Relaxed),
            refused: meter.refused.load(Ordering::Relaxed),
            fenced: meter.fenced.load(Ordering::Relaxed),
            answers: meter.answers(),
            recent: meter.recent(),
            faults,
            last_fault,
            bytes: shared.ledger.all().bytes,
            index_bytes: (shared.index.bytes() + shared.ledger.memory_bytes()) as u64,
            disk_bytes: shared.log.disk_bytes()?,
            format: shared.log.format,
        })
    }

    fn condition(&self) -> Condition {
        match self.shared.queue.is_shut() {
            Some(Shut::Closed) => Condition::Closed,
            Some(Shut::Failed) => Condition::Failed,
            Some(Shut::ReadOnly) => Condition::ReadOnly,
            None if self.shared.is_full.load(Ordering::Acquire) => Condition::Full,
            None => Condition::Serving,
        }
    }
}
