//! What becomes of a record that comes from an export: it is taken as it is where nothing is known of its key.
//!
//! Invariants:
//! 1. What is known already is neither changed nor replaced (P5, P6).
//! 2. No time is later than the moment at which it is taken in, so the store's own time does not jump ahead by it
//!    (P11).

use std::sync::Arc;

use super::step::StepStanding;
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
    told_by(written, Record { born: sequence, written, ..taken.clone() })
}

/// The record with no time later than this. A deadline is none of what happened: no retention becomes shorter (P5).
fn told_by(latest: Timestamp, mut record: Record) -> Record {
    let tell = |time: &mut Timestamp| *time = (*time).min(latest);
    tell(&mut record.since);
    record.checkpoint.iter_mut().for_each(|checkpoint| tell(&mut checkpoint.at));
    for step in &mut record.steps {
        tell(&mut step.begun_at);
        if let StepStanding::Done { at, .. } | StepStanding::Withdrawn { at } = &mut step.standing {
            tell(at);
        }
        step.notes.iter_mut().for_each(|note| tell(&mut note.at));
        step.late.iter_mut().for_each(|late| tell(&mut late.at));
    }
    match &mut record.phase {
        Phase::Unfinished => {}
        Phase::Completed { outcome, .. } => tell(&mut outcome.completed_at),
        Phase::Tombstone { completed_at, .. } => tell(completed_at),
    }
    record
}

/// Whether both tell the same of the same request. What is over may have become a tombstone since.
fn is_same(known: &Record, taken: &Record) -> bool {
    // As it would have been taken in when the known one was written.
    let taken = &told_by(known.written, taken.clone());
    let is_faded = |known: &Record| match (&known.phase, &taken.phase) {
        // When it was taken in, which its end was told not to be later than, the tombstone does not tell.
        (Phase::Tombstone { completed_at, gone }, Phase::Completed { outcome, gone: other, .. }) => {
            *completed_at <= outcome.completed_at && gone == other
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
