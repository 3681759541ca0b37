//! Rows as a release wrote them, and the records they hold.
//!
//! Invariant: the bytes were made from `docs/format.md` by hand, without this crate's code. What is written under a
//! version never changes after its release, so neither do they.

use crate::clock::Timestamp;
use crate::error::Result;
use crate::key::{Algorithm, Fingerprint, Key};
use crate::record::step::{Late, Note, Step, StepStanding};
use crate::record::{Body, Checkpoint, Outcome, Phase, Record, Revision};

/// Claimed, nothing else.
const FRESH: &str = "\
    01000101010000000000000001000000e803000000000000e80300000000000000000000000102030405060708090a0b0c0d\
    0e0f101112131415161718191a1b1c1d1e1f736b02508b1c";

/// With a checkpoint whose payload stands here.
const HALF: &str = "\
    01010605020000000000000003000000e80300000000000008070605040302010001040500000000000000d0070000000000\
    0002000000000000000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f6f72646572736772c3bc\
    6e7061696400ff234eb8e2";

/// With a checkpoint whose payload stands apart, and every number at its end.
const HALF_APART: &str = "\
    01000101feffffffffffff7fffffffffe803000000000000dc05000000000000000104ffffffffffffffff78050000000000\
    0070110100010900000000000000efbeadde0000000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d\
    1e1f736b7061696442c33f90";

/// Released, with its request apart and no step.
const REQUEST_APART: &str = "\
    01000101070000000000000003000000e803000000000000b80b000000000000000000010300000001010400000108000000\
    000000000c0d0e0f0000000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f736b1d7725d3";

/// Released, with its request, one step done, of which a lost run reported too, and one in doubt.
const STEPS: &str = "\
    01000101020000000000000003000000e803000000000000b80b0000000000000001040500000000000000d0070000000000\
    00020000000000010200000001080000000002000602000000b00400000000000001c4090000000000000109000000000101\
    c4090000000000000113000100000014050000000000000109000000000403000000540b0000000000000000000001020304\
    05060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f736b322070697a7a61737061696400ff63686172676572\
    656365697074203762616e6b207361696420736f2c206772c3bc6e726563656970742036736869704aeff9a8";

/// Ended, one step withdrawn with a note and late reports, one whose result stands apart.
const STEPS_APART: &str = "\
    01000101070000000000000002000000e803000000000000b80b00000000000001000100a00f000000000000000400000000\
    010000000000020004010000004c04000000000000016c070000000000000001026c07000000000000000800010000009e07\
    0000000000000001000000a8070000000000000188130000010e00000000000000040302010602000000d007000000000000\
    0134080000000000000101040000010d000000000000000d0c0b0a0000000102030405060708090a0b0c0d0e0f1011121314\
    15161718191a1b1c1d1e1f736b6d61696c6e6f742073656e74636861726765646f6e659af6fd6b";

/// Written when it ended, without a tombstone.
pub(super) const SUCCEEDED: &str = "\
    01000101070000000000000001000000e803000000000000b80b00000000000001000100a00f000000000000000400000000\
    00000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f736b646f6e6566978d6b";

/// Moved by retention since it ended, with a tombstone to come and a payload apart.
pub(super) const FAILED: &str = "\
    01010101070000000000000001000000e803000000000000ac0d0000000000000201040100000000000000d0070000000000\
    0001000000000101b80b000000000000a00f00000000000001881300000000000000080000010b0000000000000004030201\
    00000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f736b706169647090a94323";

/// Written later than its operation ended.
const TOMBSTONE: &str = "\
    01000101070000000000000002000000e803000000000000a00f00000000000003000101b80b000000000000881300000000\
    000000000000000000000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f736b6ab71ee1";

/// Written when its operation ended.
const TOMBSTONE_AT_ONCE: &str = "\
    01000101070000000000000002000000e803000000000000b80b000000000000030001008813000000000000000000000000\
    00000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f736b38fae085";

/// A name for messages, the row and its record.
pub(super) type Golden = (&'static str, &'static str, Record);

pub(super) fn golden() -> Result<Vec<Golden>> {
    Ok([of_the_position()?, of_the_steps()?, of_the_end()?].concat())
}

fn of_the_position() -> Result<Vec<Golden>> {
    let fresh = Record { born: 1, written: at(1_000), ..unfinished()? };
    let half = Record {
        key: Key::new("orders", "grün")?,
        fingerprint: fingerprint(Algorithm::Blake3),
        born: 2,
        attempt: 3,
        written: at(0x0102_0304_0506_0708),
        checkpoint: Some(checkpoint(5, 2_000, here(&[0, 0xff]))),
        ..unfinished()?
    };
    let half_apart = Record {
        born: (1 << 63) - 2,
        attempt: u32::MAX,
        written: at(1_500),
        checkpoint: Some(checkpoint(u64::MAX, 1_400, Body::Apart { row: 9, len: 70_000, crc: 0xdead_beef })),
        ..unfinished()?
    };
    let request = Body::Apart { row: 8, len: 1_025, crc: 0x0f0e_0d0c };
    let request_apart = Record { attempt: 3, released: 3, request: Some(request), ..unfinished()? };
    Ok(vec![
        ("fresh", FRESH, fresh),
        ("half", HALF, half),
        ("half, apart", HALF_APART, half_apart),
        ("request apart", REQUEST_APART, request_apart),
    ])
}

fn of_the_steps() -> Result<Vec<Golden>> {
    let charge = Step {
        notes: vec![note(2_500, true, "bank said so, grün")],
        late: vec![late(1, 1_300, Some(here(b"receipt 6")))],
        ..step("charge", 2, 1_200, done(2_500, here(b"receipt 7")))
    };
    let steps = Record {
        born: 2,
        attempt: 3,
        released: 2,
        request: Some(here(b"2 pizzas")),
        checkpoint: Some(checkpoint(5, 2_000, here(&[0, 0xff]))),
        steps: vec![charge, step("ship", 3, 2_900, StepStanding::InDoubt)],
        ..unfinished()?
    };
    let late_apart = Body::Apart { row: 14, len: 5_000, crc: 0x0102_0304 };
    let mail = Step {
        notes: vec![note(1_900, false, "not sent")],
        late: vec![late(1, 1_950, None), late(1, 1_960, Some(late_apart))],
        ..step("mail", 1, 1_100, StepStanding::Withdrawn { at: at(1_900) })
    };
    let result_apart = Body::Apart { row: 13, len: 1_025, crc: 0x0a0b_0c0d };
    let steps_apart =
        Record { attempt: 2, steps: vec![mail, step("charge", 2, 2_000, done(2_100, result_apart))], ..record()? };
    Ok(vec![("steps", STEPS, steps), ("steps, apart", STEPS_APART, steps_apart)])
}

fn of_the_end() -> Result<Vec<Golden>> {
    let apart = Body::Apart { row: 11, len: 2_048, crc: 0x0102_0304 };
    let failed = Record {
        fingerprint: fingerprint(Algorithm::Blake3),
        written: at(3_500),
        checkpoint: Some(checkpoint(1, 2_000, here(b"p"))),
        phase: completed(false, 3_000, 4_000, 5_000, apart),
        ..record()?
    };
    Ok(vec![
        ("succeeded", SUCCEEDED, record()?),
        ("failed", FAILED, failed),
        ("tombstone", TOMBSTONE, tombstone(4_000)?),
        ("tombstone at once", TOMBSTONE_AT_ONCE, tombstone(3_000)?),
    ])
}

/// A completed operation, of which the golden records are variants.
pub(super) fn record() -> Result<Record> {
    Ok(Record {
        key: Key::new("s", "k")?,
        fingerprint: fingerprint(Algorithm::Foreign),
        born: 7,
        attempt: 1,
        released: 0,
        since: at(1_000),
        written: at(3_000),
        request: None,
        checkpoint: None,
        steps: Vec::new(),
        phase: completed(true, 3_000, 4_000, 4_000, here(b"done")),
    })
}

pub(super) fn unfinished() -> Result<Record> {
    Ok(Record { phase: Phase::Unfinished, ..record()? })
}

pub(super) fn tombstone(written: u64) -> Result<Record> {
    let phase = Phase::Tombstone { completed_at: at(3_000), gone: at(5_000) };
    Ok(Record { attempt: 2, phase, written: at(written), ..record()? })
}

fn completed(success: bool, completed_at: u64, until: u64, gone: u64, body: Body) -> Phase {
    let outcome = Outcome { success, completed_at: at(completed_at), body };
    Phase::Completed { outcome, until: at(until), gone: at(gone) }
}

fn checkpoint(revision: u64, reached: u64, body: Body) -> Checkpoint {
    Checkpoint { name: "paid".into(), revision: Revision(revision), at: at(reached), body }
}

pub(super) fn step(name: &str, attempt: u32, begun_at: u64, standing: StepStanding) -> Step {
    Step { name: name.into(), attempt, begun_at: at(begun_at), standing, notes: Vec::new(), late: Vec::new() }
}

fn done(settled: u64, body: Body) -> StepStanding {
    StepStanding::Done { at: at(settled), body }
}

pub(super) fn note(given: u64, happened: bool, text: &str) -> Note {
    Note { at: at(given), happened, text: text.into() }
}

pub(super) fn late(attempt: u32, reported: u64, body: Option<Body>) -> Late {
    Late { attempt, at: at(reported), body }
}

pub(super) fn here(bytes: &[u8]) -> Body {
    Body::Here(bytes.into())
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

/// Its digest is the bytes 0 to 31.
fn fingerprint(algorithm: Algorithm) -> Fingerprint {
    let mut digest = [0; 32];
    digest.iter_mut().zip(0..).for_each(|(byte, n)| *byte = n);
    Fingerprint { algorithm, digest }
}
