//! The bytes of one row: what `docs/format.md` describes, held by golden bytes in `tests/format.rs`.
//!
//! A row is a version byte, a fixed-width header, then every variable part as raw bytes in the header's order, then a
//! CRC-32 (IEEE, little-endian) over all before it.
//!
//! Invariants:
//! 1. Nothing is decoded before the checksum holds.
//! 2. Every length is checked against the bytes that are there, and every byte is used.
//! 3. A row holds scope and key in full, so that it can never answer for another key (P9).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Body, Checkpoint, Outcome, Phase, Record, Revision};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::key::{Algorithm, Fingerprint, Key, NAME_BYTES_MAX, validate};
use crate::payload::{read_fixed, write_fixed};

/// The version this crate writes, and the newest it reads.
pub(crate) const VERSION: u8 = 1;

const CHECKSUM_BYTES: usize = 4;

const DIGEST_BYTES: usize = 32;

const UNFINISHED: u8 = 0;
const SUCCEEDED: u8 = 1;
const FAILED: u8 = 2;
const TOMBSTONE: u8 = 3;

#[derive(Serialize, Deserialize)]
struct Header {
    algorithm: u8,
    scope_len: u8,
    key_len: u8,
    born: u64,
    attempt: u32,
    since: u64,
    written: u64,
    phase: u8,
    checkpoint: Option<CheckpointHeader>,
    ended: Option<EndedHeader>,
}

#[derive(Serialize, Deserialize)]
struct CheckpointHeader {
    name_len: u8,
    revision: u64,
    at: u64,
    body: BodyHeader,
}

#[derive(Serialize, Deserialize)]
struct EndedHeader {
    /// None where it is when the row was written, as it is until retention moves the row.
    at: Option<u64>,
    until: u64,
    /// None where there is no tombstone after that.
    gone: Option<u64>,
    body: BodyHeader,
}

#[derive(Serialize, Deserialize)]
struct BodyHeader {
    len: u32,
    apart: Option<ApartHeader>,
}

#[derive(Serialize, Deserialize)]
struct ApartHeader {
    row: u64,
    crc: u32,
}

/// Appends the row of `record` to `row`, which a caller reuses.
///
/// # Errors
///
/// [`ErrorKind::Codec`] where a length does not fit its field; the limits at the border let none through.
pub(crate) fn encode(record: &Record, row: &mut Vec<u8>) -> Result<()> {
    let start = row.len();
    let (scope_len, key) = record.key.parts();
    let differs = |time: Timestamp, from: Timestamp| (time != from).then_some(time.as_millis());
    let (phase, ended) = match &record.phase {
        Phase::Unfinished => (UNFINISHED, None),
        Phase::Completed { outcome, until, gone } => {
            let phase = if outcome.success { SUCCEEDED } else { FAILED };
            let at = differs(outcome.completed_at, record.written);
            let body = body_header(&outcome.body)?;
            (phase, Some(EndedHeader { at, until: until.as_millis(), gone: differs(*gone, *until), body }))
        }
        Phase::Tombstone { completed_at, gone } => {
            let at = differs(*completed_at, record.written);
            let body = BodyHeader { len: 0, apart: None };
            (TOMBSTONE, Some(EndedHeader { at, until: gone.as_millis(), gone: None, body }))
        }
    };
    let checkpoint = record.checkpoint.as_ref().map(checkpoint_header).transpose()?;
    let header = Header {
        algorithm: record.fingerprint.algorithm as u8,
        scope_len,
        key_len: length(key.len() - usize::from(scope_len))?,
        born: record.born,
        attempt: record.attempt,
        since: record.since.as_millis(),
        written: record.written.as_millis(),
        phase,
        checkpoint,
        ended,
    };
    row.push(VERSION);
    write_fixed(&header, row)?;
    row.extend_from_slice(&record.fingerprint.digest);
    row.extend_from_slice(key);
    if let Some(checkpoint) = &record.checkpoint {
        row.extend_from_slice(checkpoint.name.as_bytes());
        row.extend_from_slice(checkpoint.body.bytes());
    }
    if let Phase::Completed { outcome, .. } = &record.phase {
        row.extend_from_slice(outcome.body.bytes());
    }
    let checksum = crc32fast::hash(row.get(start..).unwrap_or_default());
    row.extend_from_slice(&checksum.to_le_bytes());
    Ok(())
}

fn checkpoint_header(checkpoint: &Checkpoint) -> Result<CheckpointHeader> {
    Ok(CheckpointHeader {
        name_len: length(checkpoint.name.len())?,
        revision: checkpoint.revision.0,
        at: checkpoint.at.as_millis(),
        body: body_header(&checkpoint.body)?,
    })
}

fn body_header(body: &Body) -> Result<BodyHeader> {
    Ok(match body {
        Body::Here(bytes) => BodyHeader { len: length(bytes.len())?, apart: None },
        Body::Apart { row, len, crc } => BodyHeader { len: *len, apart: Some(ApartHeader { row: *row, crc: *crc }) },
    })
}

fn length<T: TryFrom<usize>>(len: usize) -> Result<T> {
    T::try_from(len).map_err(|_| Error::new(ErrorKind::Codec, "a part of the record is too long for its length field"))
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
    let (header, used) = read_fixed::<Header>(rest).map_err(|e| corrupt_by("its header does not decode", e))?;
    let mut parts = Parts(rest.get(used..).unwrap_or_default());
    let record = assemble(header, &mut parts)?;
    if parts.0.is_empty() { Ok(record) } else { Err(corrupt("bytes are left over")) }
}

fn assemble(header: Header, parts: &mut Parts<'_>) -> Result<Record> {
    let digest = parts.take(DIGEST_BYTES)?.try_into().map_err(|e| corrupt_by("its digest is cut short", e))?;
    let text = parts.text(usize::from(header.scope_len) + usize::from(header.key_len))?;
    let key = Key::joined(text, header.scope_len).map_err(|e| corrupt_by("its key is not valid", e))?;
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
    let phase = match (header.phase, header.ended) {
        (UNFINISHED, None) => Phase::Unfinished,
        (_, Some(ended)) if ended.at == Some(header.written) || ended.gone == Some(ended.until) => {
            return Err(corrupt("a time is given that says nothing new"));
        }
        (SUCCEEDED | FAILED, Some(ended)) => Phase::Completed {
            outcome: Outcome {
                success: header.phase == SUCCEEDED,
                completed_at: Timestamp::from_millis(ended.at.unwrap_or(header.written)),
                body: parts.body(&ended.body)?,
            },
            until: Timestamp::from_millis(ended.until),
            gone: Timestamp::from_millis(ended.gone.unwrap_or(ended.until)),
        },
        (TOMBSTONE, Some(EndedHeader { at, until, gone: None, body: BodyHeader { len: 0, apart: None } })) => {
            Phase::Tombstone {
                completed_at: Timestamp::from_millis(at.unwrap_or(header.written)),
                gone: Timestamp::from_millis(until),
            }
        }
        _ => return Err(corrupt("its phase is not valid")),
    };
    if header.attempt == 0 {
        return Err(corrupt("it was never claimed"));
    }
    Ok(Record {
        key,
        fingerprint: Fingerprint { algorithm: algorithm(header.algorithm)?, digest },
        born: header.born,
        attempt: header.attempt,
        since: Timestamp::from_millis(header.since),
        written: Timestamp::from_millis(header.written),
        checkpoint,
        phase,
    })
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

/// The variable parts of a row that are not yet read.
struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (part, rest) = self.0.split_at_checked(len).ok_or_else(|| corrupt("a part is missing"))?;
        self.0 = rest;
        Ok(part)
    }

    fn text(&mut self, len: usize) -> Result<&'a str> {
        std::str::from_utf8(self.take(len)?).map_err(|e| corrupt_by("a name is not text", e))
    }

    fn body(&mut self, header: &BodyHeader) -> Result<Body> {
        match &header.apart {
            Some(apart) => Ok(Body::Apart { row: apart.row, len: header.len, crc: apart.crc }),
            None => {
                let len = usize::try_from(header.len).map_err(|e| corrupt_by("a part is too long", e))?;
                Ok(Body::Here(Arc::from(self.take(len)?)))
            }
        }
    }
}

fn corrupt(why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the row is damaged: {why}"))
}

fn corrupt_by(why: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::because(ErrorKind::Corrupt, format!("the row is damaged: {why}"), source)
}

#[cfg(test)]
mod tests {
    //! The golden rows were made from `docs/format.md` by hand, without this crate's code.

    use proptest::prelude::*;

    use super::*;

    /// Claimed, nothing else.
    const FRESH: &str = "\
        01000101010000000000000001000000e803000000000000e803000000000000000000000102030405060708090a0b0c0d0e\
        0f101112131415161718191a1b1c1d1e1f736b36f8de2c";

    /// With a checkpoint whose payload stands here.
    const HALF: &str = "\
        01010605020000000000000003000000e80300000000000008070605040302010001040500000000000000d0070000000000\
        00020000000000000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f6f72646572736772c3bc6e\
        7061696400ff32faea2f";

    /// With a checkpoint whose payload stands apart, and every number at its end.
    const HALF_APART: &str = "\
        01000101feffffffffffff7fffffffffe803000000000000dc05000000000000000104ffffffffffffffff78050000000000\
        0070110100010900000000000000efbeadde00000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e\
        1f736b70616964c4e8a311";

    /// Written when it ended, without a tombstone.
    const SUCCEEDED: &str = "\
        01000101070000000000000001000000e803000000000000b80b00000000000001000100a00f000000000000000400000000\
        000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f736b646f6e658851d081";

    /// Moved by retention since it ended, with a tombstone to come and a payload apart.
    const FAILED: &str = "\
        01010101070000000000000001000000e803000000000000ac0d0000000000000201040100000000000000d0070000000000\
        0001000000000101b80b000000000000a00f00000000000001881300000000000000080000010b0000000000000004030201\
        000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f736b706169647013a7841b";

    /// Written later than its operation ended.
    const TOMBSTONE: &str = "\
        01000101070000000000000002000000e803000000000000a00f00000000000003000101b80b000000000000881300000000\
        0000000000000000000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f736b2ceac0db";

    /// Written when its operation ended.
    const TOMBSTONE_AT_ONCE: &str = "\
        01000101070000000000000002000000e803000000000000b80b000000000000030001008813000000000000000000000000\
        000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f736b3578254e";

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

    fn here(bytes: &[u8]) -> Body {
        Body::Here(bytes.into())
    }

    fn checkpoint(revision: u64, at: u64, body: Body) -> Checkpoint {
        Checkpoint { name: "paid".into(), revision: Revision(revision), at: Timestamp::from_millis(at), body }
    }

    fn completed(success: bool, at: u64, until: u64, gone: u64, body: Body) -> Phase {
        let (until, gone) = (Timestamp::from_millis(until), Timestamp::from_millis(gone));
        Phase::Completed { outcome: Outcome { success, completed_at: Timestamp::from_millis(at), body }, until, gone }
    }

    fn tombstone(written: u64) -> Record {
        let (completed_at, gone) = (Timestamp::from_millis(3_000), Timestamp::from_millis(5_000));
        let phase = Phase::Tombstone { completed_at, gone };
        Record { attempt: 2, phase, written: Timestamp::from_millis(written), ..record() }
    }

    /// A completed operation, of which the golden records are variants.
    fn record() -> Record {
        Record {
            key: Key::new("s", "k").unwrap(),
            fingerprint: Fingerprint {
                algorithm: Algorithm::Foreign,
                digest: std::array::from_fn(|n| u8::try_from(n).unwrap()),
            },
            born: 7,
            attempt: 1,
            since: Timestamp::from_millis(1_000),
            written: Timestamp::from_millis(3_000),
            checkpoint: None,
            phase: completed(true, 3_000, 4_000, 4_000, here(b"done")),
        }
    }

    fn golden() -> [(&'static str, &'static str, Record); 7] {
        let at = Timestamp::from_millis;
        let unfinished = || Record { phase: Phase::Unfinished, ..record() };
        let blake3 = Fingerprint { algorithm: Algorithm::Blake3, ..record().fingerprint };
        let fresh = Record { born: 1, written: at(1_000), ..unfinished() };
        let half = Record {
            key: Key::new("orders", "grün").unwrap(),
            fingerprint: blake3,
            born: 2,
            attempt: 3,
            written: at(0x0102_0304_0506_0708),
            checkpoint: Some(checkpoint(5, 2_000, here(&[0, 0xff]))),
            ..unfinished()
        };
        let half_apart = Record {
            born: (1 << 63) - 2,
            attempt: u32::MAX,
            written: at(1_500),
            checkpoint: Some(checkpoint(u64::MAX, 1_400, Body::Apart { row: 9, len: 70_000, crc: 0xdead_beef })),
            ..unfinished()
        };
        let apart = Body::Apart { row: 11, len: 2_048, crc: 0x0102_0304 };
        let failed = Record {
            fingerprint: blake3,
            written: at(3_500),
            checkpoint: Some(checkpoint(1, 2_000, here(b"p"))),
            phase: completed(false, 3_000, 4_000, 5_000, apart),
            ..record()
        };
        [
            ("fresh", FRESH, fresh),
            ("half", HALF, half),
            ("half, apart", HALF_APART, half_apart),
            ("succeeded", SUCCEEDED, record()),
            ("failed", FAILED, failed),
            ("tombstone", TOMBSTONE, tombstone(4_000)),
            ("tombstone at once", TOMBSTONE_AT_ONCE, tombstone(3_000)),
        ]
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
        encode(&record(), &mut row).unwrap();
        assert_eq!(row, [b"before".as_slice(), &bytes(SUCCEEDED)].concat());
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

    /// A flipped bit whose checksum fits again decodes to something or is refused, and never panics.
    #[test]
    fn flipped_bits_with_a_checksum_that_fits_never_panic() {
        for (name, hex, _) in golden() {
            let body = bytes(hex);
            let body = &body[..body.len() - CHECKSUM_BYTES];
            for bit in 0..body.len() * 8 {
                let mut body = body.to_vec();
                body[bit / 8] ^= 1 << (bit % 8);
                if let Ok(record) = decode(&summed(body)) {
                    assert_eq!(decode(&encoded(&record)).unwrap(), record, "{name}, bit {bit}");
                }
            }
        }
    }

    fn timestamps() -> impl Strategy<Value = Timestamp> {
        any::<u64>().prop_map(Timestamp::from_millis)
    }

    fn bodies() -> impl Strategy<Value = Body> {
        let apart =
            (any::<u64>(), any::<u32>(), any::<u32>()).prop_map(|(row, len, crc)| Body::Apart { row, len, crc });
        prop_oneof![prop::collection::vec(any::<u8>(), 0..1_100).prop_map(|bytes| here(&bytes)), apart]
    }

    fn checkpoints() -> impl Strategy<Value = Checkpoint> {
        ("[^\\p{C}]{1,32}", any::<u64>(), timestamps(), bodies()).prop_map(|(name, revision, at, body)| Checkpoint {
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

    prop_compose! {
        fn records()(
            scope in "[^\\p{C}]{1,32}",
            key in "[^\\p{C}]{1,60}",
            foreign in any::<bool>(),
            digest in any::<[u8; 32]>(),
            (born, attempt) in any::<(u64, u32)>(),
            (since, written) in (timestamps(), timestamps()),
            checkpoint in prop::option::of(checkpoints()),
            phase in phases(),
        ) -> Record {
            let key = Key::new(scope, key).unwrap();
            let algorithm = if foreign { Algorithm::Foreign } else { Algorithm::Blake3 };
            let fingerprint = Fingerprint { algorithm, digest };
            Record { key, fingerprint, born, attempt, since, written, checkpoint, phase }
        }
    }

    proptest! {
        #[test]
        fn every_record_reads_back_as_it_was_written(record in records()) {
            prop_assert_eq!(decode(&encoded(&record)).unwrap(), record);
        }

        #[test]
        fn random_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(decode(&body).is_err());
            if let Ok(record) = decode(&summed(body)) {
                prop_assert_eq!(decode(&encoded(&record)).unwrap(), record);
            }
        }

        /// The version fits too, so that what comes behind it is read.
        #[test]
        fn random_bytes_behind_the_version_never_panic(mut body in prop::collection::vec(any::<u8>(), 1..300)) {
            body[0] = VERSION;
            if let Ok(record) = decode(&summed(body)) {
                prop_assert_eq!(decode(&encoded(&record)).unwrap(), record);
            }
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
