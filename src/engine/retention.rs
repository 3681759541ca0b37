//! What has ended leaves from the head, in small slices inside the writer's own batches.
//!
//! Invariants:
//! 1. A row goes only by its fate under the rules (P5, P6).
//! 2. A damaged row stays where it is, for `verify` and for whoever claims its key; it stops no one else, and is told.
//! 3. A slice is small where callers wait for the batch, so that they hardly notice; it takes more than a batch can
//!    add, so it keeps up.

use std::sync::Arc;
use std::time::Duration;

use super::batch::{Batch, Touched};
use super::capacity::Kept;
use super::place::Place;
use super::tables::Head;
use crate::clock::{Now, Timestamp};
use crate::error::Result;
use crate::record::Record;
use crate::record::transitions::{Fate, Policy, due, fate};

/// Rows looked at in one batch at least, and where nobody waits for it.
const SLICE_BUSY: usize = 32;
const SLICE_IDLE: usize = 512;

/// When a head is next looked at where it is empty, or too many damaged rows stand at it.
const IDLE: Duration = Duration::from_secs(60);

/// The heads of both tables that something leaves by itself. What is unfinished never does (P6).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Retention {
    log: Swept,
    tombstones: Swept,
}

/// What is known of one head.
#[derive(Debug, Clone, Copy, Default)]
struct Swept {
    /// When it next has something to do.
    due: Timestamp,
    /// Up to which number damaged rows have been told of.
    told: u64,
}

impl Retention {
    /// When there is next something to do.
    pub(super) fn due(&self) -> Timestamp {
        self.log.due.min(self.tombstones.due)
    }

    /// Does one slice of what is due.
    pub(super) fn sweep(&mut self, batch: &mut Batch<'_, '_>, policy: Policy) -> Result<()> {
        // A batch adds a row at most for each of its moves; the half of them end what the other half began.
        let most = if batch.is_idle { SLICE_IDLE } else { SLICE_BUSY.max(batch.done.moves.len()) };
        self.log.sweep(batch, Place::Log(0), most, policy)?;
        self.tombstones.sweep(batch, Place::Tombstone(0), most, policy)
    }
}

impl Swept {
    /// Does a slice of this head, if something is due.
    fn sweep(&mut self, batch: &mut Batch<'_, '_>, head: Place, most: usize, policy: Policy) -> Result<()> {
        let Now { time, .. } = batch.now;
        if time < self.due {
            return Ok(());
        }
        let mut found = Head::new(most, |record: &Record| time < due(record, policy));
        batch.tables.head(head, &mut found)?;
        let Head { rows, damaged, .. } = found;
        for (place, error) in &damaged {
            if self.told < place.number() {
                batch.shared.note(error);
                self.told = place.number();
            }
        }
        let is_all = rows.len() < most;
        let mut swept = None;
        let mut stays = None;
        for (place, record) in rows {
            let next_due = due(&record, policy);
            let after = match fate(&record, time, policy) {
                Fate::Stays => {
                    stays = Some(next_due);
                    break;
                }
                Fate::Goes => None,
                Fate::Fades(tombstone) => Some((*tombstone, batch.number()?)),
                Fate::Moves => Some((Record { written: time, ..record.clone() }, batch.number()?)),
            };
            batch.done.removed += u64::from(after.is_none());
            let hash = batch.shared.index.hash(&record.key);
            let kept = Kept::of(&record);
            let mut touched =
                Touched { record: Some(Arc::new(record)), place: Some(place), kept, ..Touched::default() };
            batch.rewrite(hash, &mut touched, after)?;
            swept = Some(place);
        }
        if let Some(last) = swept {
            batch.tables.remove_up_to(last, &damaged);
        }
        // What came to stand here meanwhile has its time before it.
        self.due = stays.unwrap_or(if is_all { time + policy.retention.min(IDLE) } else { time });
        Ok(())
    }
}
