//! Records of every shape that a row can hold, for the tests of the format.
//!
//! Invariant: each is one that the rules could make, so that each must read back as it was written.

use std::num::NonZeroU32;

use proptest::prelude::*;

use super::golden::here;
use crate::clock::Timestamp;
use crate::key::{Algorithm, Fingerprint, Key, NAME_BYTES_MAX};
use crate::record::step::{Late, NOTE_BYTES_MAX, Note, Step, StepStanding};
use crate::record::{Body, Checkpoint, Outcome, Phase, Record, Revision};

fn keys() -> impl Strategy<Value = Key> {
    let parts = ("[^\\p{C}]{1,32}", "[^\\p{C}]{1,60}");
    parts.prop_filter_map("scope and key are short enough", |(scope, key)| Key::new(scope, key).ok())
}

fn timestamps() -> impl Strategy<Value = Timestamp> {
    any::<u64>().prop_map(Timestamp::from_millis)
}

fn bodies() -> impl Strategy<Value = Body> {
    let apart = (any::<u64>(), any::<u32>(), any::<u32>()).prop_map(|(row, len, crc)| Body::Apart { row, len, crc });
    prop_oneof![prop::collection::vec(any::<u8>(), 0..1_100).prop_map(|bytes| here(&bytes)), apart]
}

fn checkpoints() -> impl Strategy<Value = Checkpoint> {
    ("[^\\p{C}]{1,32}", 1_u64.., timestamps(), bodies()).prop_map(|(name, revision, at, body)| Checkpoint {
        name: name.into(),
        revision: Revision(revision),
        at,
        body,
    })
}

fn phases() -> impl Strategy<Value = Phase> {
    let completed = (any::<bool>(), timestamps(), timestamps(), timestamps(), bodies());
    let completed = completed.prop_map(|(success, completed_at, until, gone, body)| Phase::Completed {
        outcome: Outcome { success, completed_at, body },
        until,
        gone,
    });
    let tombstone =
        (timestamps(), timestamps()).prop_map(|(completed_at, gone)| Phase::Tombstone { completed_at, gone });
    prop_oneof![Just(Phase::Unfinished), completed, tombstone]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let standing = prop_oneof![
        Just(StepStanding::InDoubt),
        (timestamps(), bodies()).prop_map(|(at, body)| StepStanding::Done { at, body }),
        timestamps().prop_map(|at| StepStanding::Withdrawn { at }),
    ];
    let note = (timestamps(), any::<bool>(), texts(NOTE_BYTES_MAX));
    let note = note.prop_map(|(at, happened, text)| Note { at, happened, text: text.into() });
    let late = (any::<NonZeroU32>(), timestamps(), prop::option::of(bodies()));
    let late = late.prop_map(|(attempt, at, body)| Late { attempt: attempt.get(), at, body });
    let (notes, late) = (prop::collection::vec(note, 0..=4), prop::collection::vec(late, 0..=4));
    let step = (any::<NonZeroU32>(), timestamps(), standing, notes, late);
    // A map, since no two have the same name.
    prop::collection::btree_map(texts(NAME_BYTES_MAX), step, 0..=4).prop_map(|steps| {
        let steps = steps.into_iter().map(|(name, (attempt, begun_at, standing, notes, late))| Step {
            name: name.into(),
            attempt: attempt.get(),
            begun_at,
            standing,
            notes,
            late,
        });
        steps.collect()
    })
}

/// Short ones and those of the greatest length.
fn texts(bytes_max: usize) -> impl Strategy<Value = String> {
    prop_oneof![9 => "[^\\p{C}]{1,30}", 1 => Just("x".repeat(bytes_max))]
}

prop_compose! {
    pub(super) fn records()(
        key in keys(),
        (foreign, digest) in any::<(bool, [u8; 32])>(),
        (born, attempt, released) in any::<(u64, NonZeroU32, Option<u32>)>(),
        (since, written) in (timestamps(), timestamps()),
        request in prop::option::of(bodies()),
        checkpoint in prop::option::of(checkpoints()),
        steps in prop_oneof![Just(Vec::new()), steps()],
        phase in phases(),
    ) -> Record {
        let algorithm = if foreign { Algorithm::Foreign } else { Algorithm::Blake3 };
        let fingerprint = Fingerprint { algorithm, digest };
        let (attempt, released) = (attempt.get(), released.unwrap_or(0));
        let record = Record {
            key, fingerprint, born, attempt, released, since, written, request, checkpoint, steps, phase,
        };
        as_the_rules_make_it(record)
    }
}

fn as_the_rules_make_it(mut record: Record) -> Record {
    record.released = record.released.min(record.attempt);
    if !record.is_unfinished() {
        record.request = None;
    }
    if matches!(record.phase, Phase::Tombstone { .. }) {
        record.steps = Vec::new();
    }
    for step in &mut record.steps {
        step.attempt = step.attempt.min(record.attempt);
    }
    record
}
