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
use crate::key::{Algorithm, Fingerprint, Key, NAME_BYTES_MAX};
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
    let scope = parts.text(header.scope_len.into())?;
    let key = parts.text(header.key_len.into())?;
    let key = Key::new(scope, key).map_err(|e| corrupt_by("its key is not valid", e))?;
    let checkpoint = match header.checkpoint {
        None => None,
        Some(c) if usize::from(c.name_len) > NAME_BYTES_MAX => return Err(corrupt("a name is too long")),
        Some(c) => Some(Checkpoint {
            name: parts.text(c.name_len.into())?.into(),
            revision: Revision(c.revision),
            at: Timestamp::from_millis(c.at),
            body: parts.body(&c.body)?,
        }),
    };
    let phase = match (header.phase, header.ended) {
        (UNFINISHED, None) => Phase::Unfinished,
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
