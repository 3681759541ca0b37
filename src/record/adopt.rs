//! What becomes of a record that comes from an export: it is taken as it is where nothing is known of its key.
//!
//! Invariants:
//! 1. What is known already is neither changed nor replaced (P5, P6).
//! 2. No time is later than the moment at which it is taken in, so the store's own time does not jump ahead by it
//!    (P11).

use std::sync::Arc;

use super::transitions::{Change, Decision, Standing, is_over};
use super::{Body, Phase, Record};
use crate::clock::{Now, Timestamp};

pub(super) fn decide(known: Option<&Record>, taken: &Arc<Record>, now: Now) -> Decision {
    match known {
        _ if is_over(taken, now.time) => Decision::Stand(Standing::Over),
        None => Decision::Change(Change::Adopt(Arc::clone(taken))),
        Some(known) if is_same(known, taken) => Decision::Stand(Standing::Same),
        Some(_) => Decision::Stand(Standing::Differs),
    }
}

/// The record as it is kept from now on.
pub(super) fn apply(taken: &Record, sequence: u64, now: Now) -> Record {
    let written = taken.written.min(now.time);
    Record { born: sequence, written, since: taken.since.min(written), ..taken.clone() }
}

/// Whether both tell the same of the same request. What is over may have become a tombstone since.
fn is_same(known: &Record, taken: &Record) -> bool {
    let is_faded = |known: &Record| match (&known.phase, &taken.phase) {
        (Phase::Tombstone { completed_at, gone }, Phase::Completed { outcome, gone: other, .. }) => {
            (*completed_at, *gone) == (outcome.completed_at, *other)
        }
        _ => false,
    };
    known.key == taken.key
        && known.fingerprint == taken.fingerprint
        && (is_faded(known) || content(known) == content(taken))
}

/// What a record tells, wherever and whenever it was written: each body by its length and checksum.
fn content(record: &Record) -> Record {
    let start = Timestamp::default();
    let mut content = Record { born: 0, since: start, written: start, ..record.clone() };
    for body in content.bodies_mut() {
        if let Body::Here(bytes) = body {
            let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            *body = Body::Apart { row: 0, len, crc: crc32fast::hash(bytes) };
        } else if let Body::Apart { row, .. } = body {
            *row = 0;
        }
    }
    content
}
