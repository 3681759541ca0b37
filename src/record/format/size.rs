//! How many bytes a record takes in the file: its row, and the rows that its large bodies stand in.
//!
//! Invariant: this is exact, so that what is counted while a store is open is what a recount of its rows finds. A body
//! that is not written yet counts as it will be.

use super::{CHECKSUM_BYTES, DIGEST_BYTES};
use crate::key::Key;
use crate::record::step::{Late, Note, StepStanding};
use crate::record::{BODY_HERE_BYTES_MAX, Body, Checkpoint, Phase, Record, Step};

/// The version, and a header without anything behind an option.
const HEADER_BYTES: usize = 1 + 3 + 8 + 4 + 2 * 8 + 1 + 3;
const MORE_BYTES: usize = 4 + 1 + 2;
const CHECKPOINT_BYTES: usize = 1 + 2 * 8;
const ENDED_BYTES: usize = 1 + 8 + 1;
const TIME_BYTES: usize = 8;
const STEP_BYTES: usize = 1 + 4 + 8 + 3;
const SETTLED_BYTES: usize = 8 + 1;
const NOTE_BYTES: usize = 8 + 1 + 2;
const LATE_BYTES: usize = 4 + 8 + 1;
const BODY_BYTES: usize = 4 + 1;
const APART_BYTES: usize = 8 + 4;

/// Most bytes that an end adds to an unfinished record, beside the outcome's own, and its release by hand before.
pub(crate) const END_BYTES_MAX: u64 = (ENDED_BYTES + 2 * TIME_BYTES + BODY_BYTES + APART_BYTES + MORE_BYTES) as u64;

/// Most bytes that settling a step adds to a record, beside the result's own and the text of a note on it.
pub(crate) const SETTLE_BYTES_MAX: u64 = (SETTLED_BYTES + BODY_BYTES + APART_BYTES + NOTE_BYTES) as u64;

/// Bytes that an operation takes that has just begun.
pub(crate) fn begun(key: &Key, request: Option<&[u8]>) -> u64 {
    let more = request.map_or(0, |bytes| MORE_BYTES as u64 + new_body(bytes));
    (HEADER_BYTES + DIGEST_BYTES + key.len() + CHECKSUM_BYTES) as u64 + more
}

/// Bytes that a record takes.
pub(crate) fn bytes(record: &Record) -> u64 {
    let has_more = record.released > 0 || record.request.is_some() || !record.steps.is_empty();
    let more = if has_more { MORE_BYTES } else { 0 };
    let ended_at = |time| if time == record.written { 0 } else { TIME_BYTES };
    let (ended, outcome) = match &record.phase {
        Phase::Unfinished => (0, 0),
        Phase::Completed { outcome, until, gone } => {
            let gone = if gone == until { 0 } else { TIME_BYTES };
            (ENDED_BYTES + ended_at(outcome.completed_at) + gone, body(&outcome.body))
        }
        Phase::Tombstone { completed_at, .. } => (ENDED_BYTES + ended_at(*completed_at) + BODY_BYTES, 0),
    };
    let request = record.request.as_ref().map_or(0, body);
    let checkpoint = record.checkpoint.as_ref().map_or(0, checkpoint);
    let steps = record.steps.iter().map(step).sum::<u64>();
    begun(&record.key, None) + (more + ended) as u64 + request + checkpoint + steps + outcome
}

pub(crate) fn checkpoint(checkpoint: &Checkpoint) -> u64 {
    (CHECKPOINT_BYTES + checkpoint.name.len()) as u64 + body(&checkpoint.body)
}

/// What a checkpoint takes that is not set yet.
pub(crate) fn new_checkpoint(name: &str, bytes: &[u8]) -> u64 {
    (CHECKPOINT_BYTES + name.len()) as u64 + new_body(bytes)
}

fn step(step: &Step) -> u64 {
    let settled = match &step.standing {
        StepStanding::InDoubt => 0,
        StepStanding::Withdrawn { .. } => SETTLED_BYTES as u64,
        StepStanding::Done { body: result, .. } => SETTLED_BYTES as u64 + body(result),
    };
    let notes = step.notes.iter().map(note).sum::<u64>();
    new_step(&step.name) + settled + notes + step.late.iter().map(late).sum::<u64>()
}

/// What a step takes that has just begun.
pub(crate) fn new_step(name: &str) -> u64 {
    (STEP_BYTES + name.len()) as u64
}

fn note(note: &Note) -> u64 {
    (NOTE_BYTES + note.text.len()) as u64
}

pub(crate) fn late(late: &Late) -> u64 {
    LATE_BYTES as u64 + late.body.as_ref().map_or(0, body)
}

/// What a late report takes that is not kept yet.
pub(crate) fn new_late(result: Option<&[u8]>) -> u64 {
    LATE_BYTES as u64 + result.map_or(0, new_body)
}

fn body(body: &Body) -> u64 {
    match body {
        Body::Here(bytes) => new_body(bytes),
        Body::Apart { len, .. } => (BODY_BYTES + APART_BYTES) as u64 + u64::from(*len),
    }
}

fn new_body(bytes: &[u8]) -> u64 {
    let apart = if bytes.len() > BODY_HERE_BYTES_MAX { APART_BYTES } else { 0 };
    (BODY_BYTES + apart + bytes.len()) as u64
}
