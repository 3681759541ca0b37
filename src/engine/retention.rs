//! What has ended leaves from the head, in small slices inside the writer's own batches.
//!
//! Invariants:
//! 1. A row goes only by its fate under the rules (P5, P6).
//! 2. A slice is small where callers wait for the batch, so that they hardly notice; it takes more than a batch can
//!    add, so it keeps up.

use std::sync::Arc;
use std::time::Duration;

use super::batch::{Batch, Touched};
use super::capacity::Kept;
use super::log::Place;
use crate::clock::{Now, Timestamp};
use crate::error::{ErrorKind, Result};
use crate::record::Record;
use crate::record::transitions::{Fate, Policy, due, fate};

/// Rows looked at in one batch at least, and where nobody waits for it.
const SLICE_BUSY: usize = 32;
const SLICE_IDLE: usize = 512;

/// When a head is next looked at where it is empty, or damaged so that nobody can tell.
const IDLE: Duration = Duration::from_secs(60);

/// When the heads next have something to do.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Retention {
    log: Timestamp,
    tombstones: Timestamp,
}

impl Retention {
    /// When there is next something to do.
    pub(super) fn due(&self) -> Timestamp {
        self.log.min(self.tombstones)
    }

    /// Does one slice of what is due.
    pub(super) fn sweep(&mut self, batch: &mut Batch<'_, '_>, policy: Policy) -> Result<()> {
        // A batch adds a row at most for each of its moves; the half of them end what the other half began.
        let most = if batch.is_idle { SLICE_IDLE } else { SLICE_BUSY.max(batch.done.moves.len()) };
        if batch.now.time >= self.log {
            self.log = sweep_head(batch, Place::Log(0), most, policy)?;
        }
        if batch.now.time >= self.tombstones {
            self.tombstones = sweep_head(batch, Place::Tombstone(0), most, policy)?;
        }
        Ok(())
    }
}

/// Does a slice of one head, and tells when it next has something to do.
fn sweep_head(batch: &mut Batch<'_, '_>, head: Place, most: usize, policy: Policy) -> Result<Timestamp> {
    let Now { time, .. } = batch.now;
    let rows = match batch.tables.head(head, most) {
        Ok(rows) => rows,
        // A damaged row stays where it is, for `verify` and for whoever claims its key; it stops no one else.
        Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(time + IDLE),
        Err(error) => return Err(error),
    };
    let is_all = rows.len() < most;
    let mut swept = None;
    let mut stays = None;
    for (place, record) in rows {
        let next_due = due(&record, policy);
        let (after, to) = match fate(&record, time, policy) {
            Fate::Stays => {
                stays = Some(next_due);
                break;
            }
            Fate::Goes => (None, place),
            Fate::Fades(tombstone) => (Some(*tombstone), Place::Tombstone(batch.number()?)),
            Fate::Moves => (Some(Record { written: time, ..record.clone() }), place.beside(batch.number()?)),
        };
        batch.done.removed += u64::from(after.is_none());
        let hash = batch.shared.index.hash(&record.key);
        let kept = Kept::of(&record);
        let mut touched = Touched { record: Some(Arc::new(record)), place: Some(place), kept, ..Touched::default() };
        batch.rewrite(hash, &mut touched, after, to)?;
        swept = Some(place);
    }
    if let Some(last) = swept {
        batch.tables.remove_up_to(last)?;
    }
    // What came to stand here meanwhile has its time before it.
    Ok(stays.unwrap_or(if is_all { time + policy.retention.min(IDLE) } else { time }))
}
