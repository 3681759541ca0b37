//! How large one operation may become, decided so that what has happened always finds room.
//!
//! Invariants:
//! 1. An operation keeps room for the result of a step in doubt, with a note on it, and for its outcome, each as large
//!    as it may be. What would take of that room (a new step, a larger checkpoint) is refused before anything happens.
//! 2. What has happened is never refused: a result, a resolution, an outcome. Only where several steps are in doubt
//!    together may their results take an operation over its limit; room for each of them would let so few steps be in
//!    doubt that whoever calls a hundred others while the network is down would be stopped half-way.
//! 3. Of late reports, which nothing keeps room for, the oldest of the step give way; the newest is always kept.
//! 4. What does not make an operation larger is never refused, so one that is over a limit that was lowered goes on.

use std::sync::Arc;

use super::Record;
use super::format::size;
use super::step::{LATE_MAX, NOTE_BYTES_MAX, Step};

/// How many bytes one operation may take, and each of its payloads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    pub(crate) operation_bytes_max: u64,
    pub(crate) payload_bytes_max: u64,
}

impl Room {
    /// Least room with which every operation can be claimed with a request, move its checkpoint, do a step and end, all
    /// with payloads of this size: what it takes beside them has room in the rest.
    pub(crate) fn bytes_min(payload_bytes_max: u64) -> u64 {
        payload_bytes_max.saturating_mul(4).saturating_add(4096)
    }

    /// Whether this checkpoint may be set.
    pub(crate) fn has_for_checkpoint(self, record: &Record, name: &str, bytes: &[u8]) -> bool {
        let old = record.checkpoint.as_ref().map_or(0, size::checkpoint);
        let grows_by = size::new_checkpoint(name, bytes).saturating_sub(old);
        grows_by == 0 || self.has_for(record, grows_by)
    }

    /// Whether a step of this name may begin, for the first time or after it was withdrawn.
    pub(crate) fn has_for_step(self, record: &Record, name: &str) -> bool {
        let new = if record.step(name).is_some() { 0 } else { size::new_step(name) };
        let result = if is_in_doubt(record) { 0 } else { self.result_bytes_max() };
        self.has_for(record, new.saturating_add(result))
    }

    /// How many late reports of this step are kept, one with this result among them.
    pub(crate) fn late_max(self, record: &Record, step: &Step, result: Option<&Arc<[u8]>>) -> usize {
        let mut grows_by = size::new_late(result.map(|bytes| &**bytes));
        let mut kept = step.late.len() + 1;
        for oldest in &step.late {
            if kept <= LATE_MAX && self.has_for(record, grows_by) {
                break;
            }
            grows_by = grows_by.saturating_sub(size::late(oldest));
            kept -= 1;
        }
        kept
    }

    /// Whether the record may grow by so many bytes, with what is still to come and it keeps room for.
    fn has_for(self, record: &Record, bytes: u64) -> bool {
        let result = if is_in_doubt(record) { self.result_bytes_max() } else { 0 };
        let outcome = size::END_BYTES_MAX.saturating_add(self.payload_bytes_max);
        let kept = [bytes, result, outcome].into_iter().fold(size::bytes(record), u64::saturating_add);
        kept <= self.operation_bytes_max
    }

    /// Most bytes that settling a step takes.
    fn result_bytes_max(self) -> u64 {
        (size::SETTLE_BYTES_MAX + NOTE_BYTES_MAX as u64).saturating_add(self.payload_bytes_max)
    }
}

fn is_in_doubt(record: &Record) -> bool {
    record.steps.iter().any(Step::is_in_doubt)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::transitions::{
        Change, Command, Decision, Policy, Refusal, Reporter, Situation, Tenure, apply, decide,
    };
    use super::super::{Record, Revision};
    use super::*;
    use crate::clock::{Now, Timestamp};
    use crate::key::{Fingerprint, Key};

    const TOKEN: u64 = 7;
    const PAYLOAD: usize = 2000;

    fn room() -> Room {
        Room { operation_bytes_max: Room::bytes_min(PAYLOAD as u64) + 2000, payload_bytes_max: PAYLOAD as u64 }
    }

    fn now() -> Now {
        let time = Timestamp::from_millis(1_000);
        Now { time, ahead: time }
    }

    fn key() -> Key {
        Key::new("s".repeat(128), "k".repeat(255)).unwrap()
    }

    fn payload() -> Arc<[u8]> {
        vec![7; PAYLOAD].into()
    }

    fn begun() -> Record {
        let begin = Change::Begin { fingerprint: Fingerprint::of("x"), request: Some(payload()), deferred: false };
        apply(None, &key(), begin, TOKEN, now()).unwrap()
    }

    fn decided(record: &Record, owner: Option<u64>, command: &Command) -> Decision {
        let (retention, tombstones) = (Duration::MAX, Duration::from_secs(1));
        let policy = Policy { retention, tombstones, lease: None, attempts_max: 9, room: room() };
        let owner = owner.map(|token| Tenure { token, moved: now().time });
        decide(Situation { record: Some(record), owner }, command, now(), policy)
    }

    /// The record after a command, or the refusal of it.
    fn tried(record: &Record, owner: Option<u64>, command: &Command) -> Result<Record, Refusal> {
        match decided(record, owner, command) {
            Decision::Change(change) => Ok(apply(Some(record.clone()), &key(), change, 99, now()).unwrap()),
            Decision::Refuse(refusal) => Err(refusal),
            other @ Decision::Stand(_) => panic!("{command:?}: {other:?}"),
        }
    }

    fn intend(nth: usize) -> Command {
        Command::Intend { token: TOKEN, name: format!("{nth:0>128}").into(), again: false }
    }

    fn report(nth: usize, by: u64) -> Command {
        let by = Reporter { token: by, born: TOKEN, attempt: 1, was_owner: true };
        Command::Report { by, name: format!("{nth:0>128}").into(), result: Some(payload()) }
    }

    fn advance(record: &Record, len: usize) -> Command {
        let (expected, name) = (record.revision(), "n".repeat(128).into());
        Command::Advance { token: Some(TOKEN), expected, name, bytes: vec![7; len].into() }
    }

    fn end() -> Command {
        Command::End { token: TOKEN, success: true, bytes: payload(), kept: None }
    }

    #[test]
    fn the_least_room_is_enough_for_every_payload_at_its_largest() {
        let least = Room { operation_bytes_max: Room::bytes_min(PAYLOAD as u64), ..room() };
        let moved = tried(&begun(), Some(TOKEN), &advance(&begun(), PAYLOAD)).unwrap();
        assert!(least.has_for_checkpoint(&begun(), &"n".repeat(128), &payload()));
        assert!(least.has_for_step(&moved, &"n".repeat(128)));
    }

    #[test]
    fn a_step_that_may_begin_leaves_room_for_its_result_and_the_outcome() {
        let mut record = begun();
        for nth in 0.. {
            match tried(&record, Some(TOKEN), &intend(nth)) {
                Ok(begun) => record = tried(&begun, Some(TOKEN), &report(nth, TOKEN)).unwrap(),
                Err(refusal) => {
                    assert_eq!((refusal, nth > 0), (Refusal::NoRoom, true));
                    break;
                }
            }
            assert!(size::bytes(&record) + size::END_BYTES_MAX + PAYLOAD as u64 <= room().operation_bytes_max);
        }
        let ended = tried(&record, Some(TOKEN), &end()).unwrap();
        assert!(size::bytes(&ended) <= room().operation_bytes_max);
    }

    /// What did not happen is tried again, and takes as much then as what is new.
    #[test]
    fn a_withdrawn_step_that_may_begin_again_leaves_room_for_its_result_and_the_outcome() {
        let withdrawn = |nth| match report(nth, TOKEN) {
            Command::Report { by, name, .. } => Command::Report { by, name, result: None },
            other => panic!("{other:?}"),
        };
        let mut record = begun();
        for nth in 0..10 {
            let begun = tried(&record, Some(TOKEN), &intend(nth)).unwrap();
            record = tried(&begun, Some(TOKEN), &withdrawn(nth)).unwrap();
        }
        let mut done = 0;
        for nth in 0..10 {
            match tried(&record, Some(TOKEN), &intend(nth)) {
                Ok(begun) => {
                    record = tried(&begun, Some(TOKEN), &report(nth, TOKEN)).unwrap();
                    done += 1;
                }
                Err(refusal) => assert_eq!(refusal, Refusal::NoRoom),
            }
        }
        assert!((1..10).contains(&done), "{done} have room for their results");
        let ended = tried(&record, Some(TOKEN), &end()).unwrap();
        assert!(size::bytes(&ended) <= room().operation_bytes_max);
    }

    #[test]
    fn a_checkpoint_that_grows_is_refused_at_the_limit_and_one_that_does_not_is_moved() {
        let mut record = tried(&begun(), Some(TOKEN), &advance(&begun(), 1500)).unwrap();
        let mut nth = 0;
        while let Ok(begun) = tried(&record, Some(TOKEN), &intend(nth)) {
            record = tried(&begun, Some(TOKEN), &report(nth, TOKEN)).unwrap();
            nth += 1;
        }
        let spare = room().operation_bytes_max - size::bytes(&record) - size::END_BYTES_MAX - PAYLOAD as u64;
        let most = 1500 + usize::try_from(spare).unwrap();
        assert!(tried(&record, Some(TOKEN), &advance(&record, most)).is_ok());
        assert_eq!(tried(&record, Some(TOKEN), &advance(&record, most + 1)), Err(Refusal::NoRoom));
        // Over a limit that was lowered meanwhile, too.
        let lowered = Room { operation_bytes_max: 1, ..room() };
        assert!(lowered.has_for_checkpoint(&record, &"n".repeat(128), &payload()[..1500]));
        assert!(!lowered.has_for_checkpoint(&record, &"n".repeat(128), &payload()[..1501]));
        assert_ne!(record.revision(), Revision::NONE);
    }

    #[test]
    fn beside_a_step_in_doubt_a_checkpoint_leaves_room_for_its_result_and_a_note_too() {
        let settled = size::SETTLE_BYTES_MAX + NOTE_BYTES_MAX as u64 + PAYLOAD as u64;
        let moved = tried(&begun(), Some(TOKEN), &advance(&begun(), 1)).unwrap();
        let record = tried(&moved, Some(TOKEN), &intend(0)).unwrap();
        let spare = room().operation_bytes_max - size::bytes(&record) - size::END_BYTES_MAX - PAYLOAD as u64 - settled;
        // It stands apart then, which takes 12 bytes more.
        let most = 1 + usize::try_from(spare).unwrap() - 12;
        assert!(most > crate::record::BODY_HERE_BYTES_MAX);
        assert!(tried(&record, Some(TOKEN), &advance(&record, most)).is_ok());
        assert_eq!(tried(&record, Some(TOKEN), &advance(&record, most + 1)), Err(Refusal::NoRoom));
    }

    #[test]
    fn p7_late_reports_give_way_at_the_limit_and_the_newest_stays() {
        let begun = tried(&begun(), Some(TOKEN), &intend(0)).unwrap();
        let mut taken = apply(Some(begun), &key(), Change::Enter { attempt: 2 }, 8, now()).unwrap();
        for nth in 1..=LATE_MAX {
            taken = tried(&taken, Some(8), &report(0, TOKEN)).unwrap();
            let kept = taken.steps[0].late.len();
            assert!(kept >= 1 && kept <= nth);
            assert!(kept == 1 || room().late_max(&taken, &taken.steps[0], None) > 1);
        }
        assert!(taken.steps[0].late.len() < LATE_MAX, "16 of them would take it over its limit");
        let tight = Room { operation_bytes_max: 1, ..room() };
        assert_eq!(tight.late_max(&taken, &taken.steps[0], Some(&payload())), 1);
    }

    #[test]
    fn what_has_happened_is_never_refused_however_many_steps_were_in_doubt() {
        let mut record = begun();
        let mut steps = 0;
        while let Ok(begun) = tried(&record, Some(TOKEN), &intend(steps)) {
            record = begun;
            steps += 1;
        }
        assert!(steps > 5, "room is kept for the result of one of them: {steps}");
        for nth in 0..steps {
            record = tried(&record, Some(TOKEN), &report(nth, TOKEN)).unwrap();
        }
        assert!(tried(&record, Some(TOKEN), &end()).is_ok());
    }
}
