//! The bytes of one row: what `docs/format.md` describes, held by the golden bytes in `golden`.
//!
//! A row is a version byte, a fixed-width header, one such header for each step, then every variable part as raw bytes
//! in the order below, then a CRC-32 (IEEE, little-endian) over all before it.
//!
//! Invariants:
//! 1. Nothing is decoded before the checksum holds.
//! 2. Every length is checked against the bytes that are there, and every byte is used.
//! 3. A row holds scope and key in full, so that it can never answer for another key (P9).
//! 4. A record has one row only: what decodes encodes to the same bytes again.

use self::header::{BodyHeader, EndedHeader, FAILED, Header, SUCCEEDED, TOMBSTONE, UNFINISHED};
use self::parts::{Parts, corrupt, corrupt_by};
use super::{Checkpoint, Outcome, Phase, Record, Revision};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::key::{Algorithm, Fingerprint, Key, NAME_BYTES_MAX, validate};
use crate::payload::write_fixed;

mod header;
mod parts;
pub(crate) mod size;
mod steps;

/// The version this crate writes, and the newest it reads.
pub(crate) const VERSION: u8 = 1;

const CHECKSUM_BYTES: usize = 4;
const DIGEST_BYTES: usize = 32;

/// Appends the row of `record` to `row`, which a caller reuses.
///
/// # Errors
///
/// [`ErrorKind::Codec`] where a length does not fit its field; the limits at the border let none through. Then `row`
/// holds a beginning that is good for nothing.
pub(crate) fn encode(record: &Record, row: &mut Vec<u8>) -> Result<()> {
    let start = row.len();
    let header = Header::of(record)?;
    let (_, key) = record.key.parts();
    row.push(VERSION);
    write_fixed(&header, row)?;
    steps::write_headers(&record.steps, row)?;
    row.extend_from_slice(&record.fingerprint.digest);
    row.extend_from_slice(key);
    if let Some(request) = &record.request {
        row.extend_from_slice(request.bytes());
    }
    if let Some(checkpoint) = &record.checkpoint {
        row.extend_from_slice(checkpoint.name.as_bytes());
        row.extend_from_slice(checkpoint.body.bytes());
    }
    steps::write_parts(&record.steps, row);
    if let Phase::Completed { outcome, .. } = &record.phase {
        row.extend_from_slice(outcome.body.bytes());
    }
    let checksum = crc32fast::hash(row.get(start..).unwrap_or_default());
    row.extend_from_slice(&checksum.to_le_bytes());
    Ok(())
}

/// What a fuzzer asks: whether these bytes, with the checksum they lack, are a row, and which row their record has.
#[cfg(feature = "testing")]
pub(crate) fn decode_and_encode(body: &[u8]) -> Option<Vec<u8>> {
    let mut row = body.to_vec();
    row.extend_from_slice(&crc32fast::hash(body).to_le_bytes());
    let mut again = Vec::new();
    encode(&decode(&row).ok()?, &mut again).ok()?;
    Some(again)
}

/// The record that a row holds.
///
/// # Errors
///
/// [`ErrorKind::NewerFormat`] for a version this crate does not know, [`ErrorKind::Corrupt`] for all else.
pub(crate) fn decode(row: &[u8]) -> Result<Record> {
    let (body, checksum) = row.split_last_chunk::<CHECKSUM_BYTES>().ok_or_else(|| corrupt("it is too short"))?;
    if crc32fast::hash(body) != u32::from_le_bytes(*checksum) {
        return Err(corrupt("its checksum does not match"));
    }
    let (version, rest) = body.split_first().ok_or_else(|| corrupt("it is too short"))?;
    if *version != VERSION {
        let message = format!("the row has format {version}; this crate reads {VERSION}");
        return Err(Error::new(ErrorKind::NewerFormat, message));
    }
    let mut parts = Parts(rest);
    let header: Header = parts.header()?;
    let steps = steps::read_headers(header.more.as_ref().map_or(0, |more| more.steps), &mut parts)?;
    let record = assemble(header, steps, &mut parts)?;
    if parts.0.is_empty() { Ok(record) } else { Err(corrupt("bytes are left over")) }
}

/// Reads the variable parts, in their order.
fn assemble(header: Header, steps: Vec<steps::Headers>, parts: &mut Parts<'_>) -> Result<Record> {
    if header.attempt == 0 {
        return Err(corrupt("it was never claimed"));
    }
    let digest = parts.take(DIGEST_BYTES)?.try_into().map_err(|e| corrupt_by("its digest is cut short", e))?;
    let text = parts.text(usize::from(header.scope_len) + usize::from(header.key_len))?;
    let key = Key::joined(text, header.scope_len).map_err(|e| corrupt_by("its key is not valid", e))?;
    let (released, request) = match header.more {
        None => (0, None),
        Some(more) if more.is_empty() => return Err(corrupt("it says that there is more, and nothing is")),
        Some(more) if more.released > header.attempt => return Err(corrupt("more runs were released than there were")),
        Some(more) => (more.released, more.request.map(|body| parts.body(&body)).transpose()?),
    };
    let checkpoint = match header.checkpoint {
        None => None,
        Some(c) if c.revision == 0 => return Err(corrupt("its checkpoint has no revision")),
        Some(c) => Some(Checkpoint {
            name: checkpoint_name(parts.text(c.name_len.into())?)?.into(),
            revision: Revision(c.revision),
            at: Timestamp::from_millis(c.at),
            body: parts.body(&c.body)?,
        }),
    };
    let steps = steps::assemble(steps, header.attempt, parts)?;
    let phase = match phase(header.phase, header.written, header.ended, parts)? {
        Phase::Completed { .. } | Phase::Tombstone { .. } if request.is_some() => {
            return Err(corrupt("it is over and has its request still"));
        }
        Phase::Tombstone { .. } if !steps.is_empty() => return Err(corrupt("it is a tombstone and has steps still")),
        phase => phase,
    };
    Ok(Record {
        key,
        fingerprint: Fingerprint { algorithm: algorithm(header.algorithm)?, digest },
        born: header.born,
        attempt: header.attempt,
        released,
        since: Timestamp::from_millis(header.since),
        written: Timestamp::from_millis(header.written),
        request,
        checkpoint,
        steps,
        phase,
    })
}

fn phase(phase: u8, written: u64, ended: Option<EndedHeader>, parts: &mut Parts<'_>) -> Result<Phase> {
    match (phase, ended) {
        (UNFINISHED, None) => Ok(Phase::Unfinished),
        (_, Some(ended)) if ended.at == Some(written) || ended.gone == Some(ended.until) => {
            Err(corrupt("a time is given that says nothing new"))
        }
        (SUCCEEDED | FAILED, Some(ended)) => Ok(Phase::Completed {
            outcome: Outcome {
                success: phase == SUCCEEDED,
                completed_at: Timestamp::from_millis(ended.at.unwrap_or(written)),
                body: parts.body(&ended.body)?,
            },
            until: Timestamp::from_millis(ended.until),
            gone: Timestamp::from_millis(ended.gone.unwrap_or(ended.until)),
        }),
        (TOMBSTONE, Some(EndedHeader { at, until, gone: None, body: BodyHeader { len: 0, apart: None } })) => {
            Ok(Phase::Tombstone {
                completed_at: Timestamp::from_millis(at.unwrap_or(written)),
                gone: Timestamp::from_millis(until),
            })
        }
        _ => Err(corrupt("its phase is not valid")),
    }
}

fn checkpoint_name(name: &str) -> Result<&str> {
    validate(name, "the checkpoint's name", NAME_BYTES_MAX, ErrorKind::Corrupt)?;
    Ok(name)
}

fn algorithm(byte: u8) -> Result<Algorithm> {
    match byte {
        0 => Ok(Algorithm::Foreign),
        1 => Ok(Algorithm::Blake3),
        _ => Err(corrupt("its fingerprint's algorithm is not known")),
    }
}

#[cfg(test)]
mod arbitrary;
#[cfg(test)]
mod golden;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::arbitrary::records;
    use super::golden::{FAILED, Golden, SUCCEEDED, here, late, note, record, step, tombstone, unfinished};
    use super::*;
    use crate::record::Body;
    use crate::record::step::{LATE_MAX, NOTES_MAX, STEPS_MAX, Step, StepStanding};

    fn golden() -> Vec<Golden> {
        golden::golden().unwrap()
    }

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    fn encoded(record: &Record) -> Vec<u8> {
        let mut row = Vec::new();
        encode(record, &mut row).unwrap();
        row
    }

    /// A row with these bytes, whatever they are, and the checksum that belongs to them.
    fn summed(mut body: Vec<u8>) -> Vec<u8> {
        let checksum = crc32fast::hash(&body);
        body.extend_from_slice(&checksum.to_le_bytes());
        body
    }

    #[test]
    fn every_golden_row_is_written_and_read_as_it_was_at_its_release() {
        for (name, hex, record) in golden() {
            assert_eq!(decode(&bytes(hex)).unwrap(), record, "{name}");
            assert_eq!(encoded(&record), bytes(hex), "{name}");
        }
    }

    #[test]
    fn a_row_is_appended_to_what_is_there_and_sums_only_itself() {
        let mut row = b"before".to_vec();
        encode(&record().unwrap(), &mut row).unwrap();
        assert_eq!(row, [b"before".as_slice(), &bytes(SUCCEEDED)].concat());
    }

    #[test]
    fn what_a_record_takes_is_counted_exactly_before_it_is_written() {
        // A body that is to stand apart still has its bytes here, and is counted as it will be.
        let apart = |record: &Record| -> u64 {
            let mut record = record.clone();
            let bodies = record.bodies_mut().map(|body| match body {
                Body::Apart { len, .. } => u64::from(*len),
                Body::Here(bytes) => {
                    if bytes.len() > crate::record::BODY_HERE_BYTES_MAX {
                        12
                    } else {
                        0
                    }
                }
            });
            bodies.sum()
        };
        for (name, _, record) in golden() {
            assert_eq!(size::bytes(&record), encoded(&record).len() as u64 + apart(&record), "{name}");
        }
        proptest!(|(record in records())| {
            prop_assert_eq!(size::bytes(&record), encoded(&record).len() as u64 + apart(&record));
        });
    }

    #[test]
    fn p10_every_single_flipped_bit_is_refused() {
        for (name, hex, _) in golden() {
            for bit in 0..bytes(hex).len() * 8 {
                let mut row = bytes(hex);
                row[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(decode(&row).unwrap_err().kind(), ErrorKind::Corrupt, "{name}, bit {bit}");
            }
        }
    }

    /// Also where the checksum was made to fit what is left, as a fault in this crate could do.
    #[test]
    fn p10_every_truncation_is_refused() {
        for (name, hex, _) in golden() {
            let row = bytes(hex);
            for len in 0..row.len() {
                assert_eq!(decode(&row[..len]).unwrap_err().kind(), ErrorKind::Corrupt, "{name}, {len} bytes");
            }
            for len in 1..row.len() - CHECKSUM_BYTES {
                let kind = decode(&summed(row[..len].to_vec())).unwrap_err().kind();
                assert_eq!(kind, ErrorKind::Corrupt, "{name}, {len} bytes, summed");
            }
        }
    }

    #[test]
    fn p10_bytes_left_over_are_refused() {
        for (name, hex, _) in golden() {
            let mut body = bytes(hex);
            body.truncate(body.len() - CHECKSUM_BYTES);
            body.push(0);
            assert_eq!(decode(&summed(body)).unwrap_err().kind(), ErrorKind::Corrupt, "{name}");
        }
    }

    #[test]
    fn a_row_of_a_newer_version_is_refused_as_such_and_one_of_version_0_too() {
        for version in [0, 2, 255] {
            let mut body = bytes(SUCCEEDED);
            body.truncate(body.len() - CHECKSUM_BYTES);
            body[0] = version;
            let error = decode(&summed(body)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NewerFormat);
            assert!(error.to_string().contains(&version.to_string()), "{error}");
        }
    }

    /// A damaged byte whose checksum fits again is refused or is another record's only row, and never a panic.
    #[test]
    fn damaged_bytes_with_a_checksum_that_fits_never_panic() {
        for (name, hex, _) in golden() {
            let whole = bytes(hex);
            let whole = &whole[..whole.len() - CHECKSUM_BYTES];
            for at in 0..whole.len() {
                for flips in 1..=u8::MAX {
                    let mut body = whole.to_vec();
                    body[at] ^= flips;
                    is_the_only_row_if_it_is_one(&summed(body), &format!("{name}, byte {at}, {flips:#x}"));
                }
            }
        }
    }

    fn is_the_only_row_if_it_is_one(row: &[u8], what: &str) {
        if let Ok(record) = decode(row) {
            assert_eq!(encoded(&record), row, "{what}");
        }
    }

    /// That a row with these parts is refused, and why.
    fn refused(record: &Record, why: &str) {
        let error = decode(&encoded(record)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains(why), "{error} does not say: {why}");
    }

    fn with_steps(steps: Vec<Step>) -> Record {
        Record { steps, ..unfinished().unwrap() }
    }

    fn in_doubt(name: &str) -> Step {
        step(name, 1, 1_000, StepStanding::InDoubt)
    }

    #[test]
    fn p10_a_record_that_the_rules_never_make_is_refused() {
        let (unfinished, ended) = (unfinished().unwrap(), record().unwrap());
        let tombstone = tombstone(3_000).unwrap();
        let (request, steps) = (Some(here(b"r")), vec![in_doubt("a")]);
        refused(&Record { attempt: 0, ..unfinished.clone() }, "never claimed");
        let checkpoint = Checkpoint { name: "a".into(), revision: Revision(0), at: unfinished.since, body: here(b"") };
        refused(&Record { checkpoint: Some(checkpoint), ..unfinished.clone() }, "has no revision");
        refused(&Record { released: 2, ..unfinished }, "more runs were released");
        refused(&Record { request: request.clone(), ..ended.clone() }, "request still");
        refused(&Record { request, ..tombstone.clone() }, "request still");
        refused(&Record { steps: steps.clone(), ..tombstone.clone() }, "steps still");
        let kept = [Record { steps, ..ended }, Record { released: 2, ..tombstone }];
        for record in kept {
            assert_eq!(decode(&encoded(&record)).unwrap(), record, "what was done is kept beside the outcome");
        }
    }

    #[test]
    fn p10_a_step_that_the_rules_never_make_is_refused() {
        let one = |step: Step| with_steps(vec![step]);
        refused(&one(Step { attempt: 0, ..in_doubt("a") }), "attempt that was never made");
        refused(&one(Step { attempt: 2, ..in_doubt("a") }), "attempt that was never made");
        refused(&one(in_doubt("")), "the step's name is empty");
        refused(&one(in_doubt("a\nb")), "the step's name holds a control character");
        refused(&one(in_doubt(&"a".repeat(NAME_BYTES_MAX + 1))), "the step's name has 129 bytes");
        refused(&with_steps(vec![in_doubt("a"), in_doubt("b"), in_doubt("a")]), "same name");
        for (text, why) in [("", "is empty"), ("a\u{85}", "holds a control"), (&"n".repeat(1_001), "has 1001 bytes")] {
            refused(&one(Step { notes: vec![note(1, true, text)], ..in_doubt("a") }), &format!("the note {why}"));
        }
        refused(&one(Step { late: vec![late(0, 1, None)], ..in_doubt("a") }), "comes from no attempt");
    }

    /// It would be a second row of the record without it.
    #[test]
    fn p10_a_rest_that_says_nothing_is_refused() {
        let mut body = encoded(&unfinished().unwrap());
        body.truncate(body.len() - CHECKSUM_BYTES);
        assert_eq!(body[33..36], [0, 0, 0], "no checkpoint, no end, no rest");
        body.splice(35..36, [1, 0, 0, 0, 0, 0, 0, 0]);
        let error = decode(&summed(body.clone())).unwrap_err();
        assert!(error.to_string().contains("nothing is"), "{error}");
        body[36] = 1;
        let released = Record { released: 1, ..unfinished().unwrap() };
        assert_eq!(decode(&summed(body)).unwrap(), released, "only what it said was wrong");
    }

    /// As it would be to say that an operation ended when its row was written, or that its tombstone adds nothing.
    #[test]
    fn p10_a_time_that_says_nothing_new_is_refused() {
        let millis = |n: u64| n.to_le_bytes();
        let (written, ended, until, gone) = (millis(3_500), millis(3_000), millis(4_000), millis(5_000));
        for (time, same_as) in [(written, ended), (gone, until)] {
            let mut body = bytes(FAILED);
            body.truncate(body.len() - CHECKSUM_BYTES);
            let at = body.windows(time.len()).position(|window| window == time).unwrap();
            body.splice(at..at + time.len(), same_as);
            let error = decode(&summed(body)).unwrap_err();
            assert!(error.to_string().contains("nothing new"), "{error}");
        }
    }

    #[test]
    fn the_fuzzer_is_told_which_row_it_found() {
        for (name, hex, _) in golden() {
            let row = bytes(hex);
            assert_eq!(decode_and_encode(&row[..row.len() - CHECKSUM_BYTES]), Some(row.clone()), "{name}");
            assert_eq!(decode_and_encode(&row), None, "{name}, with four bytes too many");
        }
    }

    #[test]
    fn p10_more_than_the_rules_keep_is_neither_written_nor_read() {
        let steps = |n: usize| with_steps((0..n).map(|n| in_doubt(&n.to_string())).collect());
        let notes = |n| with_steps(vec![Step { notes: vec![note(1, true, "n"); n], ..in_doubt("a") }]);
        let late = |n| with_steps(vec![Step { late: vec![late(1, 1, None); n], ..in_doubt("a") }]);
        // `count` is where the low byte of the list's count stands in the row.
        let refused = |why: &str, record: &dyn Fn(usize) -> Record, most: usize, count: usize| {
            let mut row = encoded(&record(most));
            assert_eq!(decode(&row).unwrap(), record(most));
            let error = encode(&record(most + 1), &mut Vec::new()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Codec, "{error}");
            row.truncate(row.len() - CHECKSUM_BYTES);
            assert_eq!(row[count], most.to_le_bytes()[0]);
            row[count] += 1;
            let error = decode(&summed(row)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains(why), "{error}");
        };
        refused("more steps than", &steps, STEPS_MAX, 41);
        refused("more notes than", &notes, NOTES_MAX, 57);
        refused("more late reports than", &late, LATE_MAX, 58);
    }

    #[test]
    fn a_text_longer_than_its_length_field_is_not_written() {
        let name = with_steps(vec![in_doubt(&"a".repeat(256))]);
        let text = with_steps(vec![Step { notes: vec![note(1, true, &"n".repeat(65_536))], ..in_doubt("a") }]);
        for record in [name, text] {
            assert_eq!(encode(&record, &mut Vec::new()).unwrap_err().kind(), ErrorKind::Codec);
        }
    }

    /// As `docs/format.md` says, beside scope and key, name, text and payloads.
    #[test]
    fn every_part_takes_the_bytes_that_the_format_says() {
        let beside = |record: &Record, bytes: usize| encoded(record).len() - 2 - bytes;
        let plain = unfinished().unwrap();
        assert_eq!(beside(&plain, 0), 72);
        assert_eq!(beside(&record().unwrap(), 4), 87);
        assert_eq!(beside(&tombstone(3_000).unwrap(), 0), 87);
        assert_eq!(beside(&tombstone(4_000).unwrap(), 0), 95);
        let with = |step: Step| beside(&with_steps(vec![step]), 1) - 72 - 7;
        let (at, apart) = (Timestamp::from_millis(1), Body::Apart { row: 1, len: 9, crc: 3 });
        let standing = |standing| with(Step { standing, ..in_doubt("a") });
        assert_eq!(with(in_doubt("a")), 16);
        assert_eq!(standing(StepStanding::Withdrawn { at }), 25);
        assert_eq!(standing(StepStanding::Done { at, body: here(b"") }), 30);
        assert_eq!(standing(StepStanding::Done { at, body: apart.clone() }), 42);
        let late = |body| with(Step { late: vec![late(1, 1, body)], ..in_doubt("a") }) - 16;
        assert_eq!((late(None), late(Some(here(b""))), late(Some(apart.clone()))), (13, 18, 30));
        assert_eq!(with(Step { notes: vec![note(1, true, "n")], ..in_doubt("a") }) - 16 - 1, 11);
        let request = |body| beside(&Record { request: Some(body), ..plain.clone() }, 0) - 72 - 7;
        assert_eq!((request(here(b"")), request(apart)), (5, 17));
    }

    proptest! {
        #[test]
        fn every_record_reads_back_as_it_was_written(record in records()) {
            prop_assert_eq!(decode(&encoded(&record)).unwrap(), record);
        }

        #[test]
        fn random_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(decode(&body).is_err());
            is_the_only_row_if_it_is_one(&summed(body), "random bytes");
        }

        /// The version fits too, so that what comes behind it is read.
        #[test]
        fn random_bytes_behind_the_version_never_panic(mut body in prop::collection::vec(any::<u8>(), 1..300)) {
            body[0] = VERSION;
            is_the_only_row_if_it_is_one(&summed(body), "random bytes");
        }

        /// What a fault in this crate could write: every header of every step is met.
        #[test]
        fn a_damaged_byte_whose_checksum_fits_never_panics(
            record in records(),
            place in any::<prop::sample::Index>(),
            flips in 1_u8..,
        ) {
            let mut body = encoded(&record);
            body.truncate(body.len() - CHECKSUM_BYTES);
            let at = place.index(body.len());
            body[at] ^= flips;
            is_the_only_row_if_it_is_one(&summed(body), "a damaged byte");
        }

        #[test]
        fn p10_damage_of_any_length_at_one_place_is_refused(
            record in records(),
            place in any::<prop::sample::Index>(),
            mask in 1_u32..,
        ) {
            // A burst of up to 32 bits, which a CRC-32 always sees.
            let mut row = encoded(&record);
            let at = place.index(row.len() - 3);
            for (byte, flip) in row[at..].iter_mut().zip(mask.to_le_bytes()) {
                *byte ^= flip;
            }
            prop_assert_eq!(decode(&row).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }
}
