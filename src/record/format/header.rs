//! The header of a row, fixed width, and how a record fills it.
//!
//! Invariants:
//! 1. What is seldom there (a checkpoint, an end, the rest) is behind an option, so that a row without it pays one byte
//!    for it.
//! 2. A length or a count that does not fit, or that reading would refuse, is an error here already: no row is written
//!    that cannot be read for its sizes.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::record::step::STEPS_MAX;
use crate::record::{Body, Checkpoint, Phase, Record};

pub(super) const UNFINISHED: u8 = 0;
pub(super) const SUCCEEDED: u8 = 1;
pub(super) const FAILED: u8 = 2;
pub(super) const TOMBSTONE: u8 = 3;

#[derive(Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) algorithm: u8,
    pub(super) scope_len: u8,
    pub(super) key_len: u8,
    pub(super) born: u64,
    pub(super) attempt: u32,
    pub(super) since: u64,
    pub(super) written: u64,
    pub(super) phase: u8,
    pub(super) checkpoint: Option<CheckpointHeader>,
    pub(super) ended: Option<EndedHeader>,
    /// The last field, so that the number of steps stands before their headers.
    pub(super) more: Option<MoreHeader>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct CheckpointHeader {
    pub(super) name_len: u8,
    pub(super) revision: u64,
    pub(super) at: u64,
    pub(super) body: BodyHeader,
}

#[derive(Serialize, Deserialize)]
pub(super) struct EndedHeader {
    /// None where it is when the row was written, as it is until retention moves the row.
    pub(super) at: Option<u64>,
    pub(super) until: u64,
    /// None where there is no tombstone after that.
    pub(super) gone: Option<u64>,
    pub(super) body: BodyHeader,
}

/// What most records have none of.
#[derive(Serialize, Deserialize)]
pub(super) struct MoreHeader {
    pub(super) released: u32,
    pub(super) request: Option<BodyHeader>,
    pub(super) steps: u16,
}

#[derive(Serialize, Deserialize)]
pub(super) struct BodyHeader {
    pub(super) len: u32,
    pub(super) apart: Option<ApartHeader>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct ApartHeader {
    pub(super) row: u64,
    pub(super) crc: u32,
}

impl Header {
    pub(super) fn of(record: &Record) -> Result<Self> {
        let (scope_len, key) = record.key.parts();
        let (phase, ended) = ended(record)?;
        Ok(Self {
            algorithm: record.fingerprint.algorithm as u8,
            scope_len,
            key_len: length(key.len() - usize::from(scope_len))?,
            born: record.born,
            attempt: record.attempt,
            since: record.since.as_millis(),
            written: record.written.as_millis(),
            phase,
            checkpoint: record.checkpoint.as_ref().map(CheckpointHeader::of).transpose()?,
            ended,
            more: MoreHeader::of(record)?,
        })
    }
}

fn ended(record: &Record) -> Result<(u8, Option<EndedHeader>)> {
    let differs = |time: Timestamp, from: Timestamp| (time != from).then_some(time.as_millis());
    Ok(match &record.phase {
        Phase::Unfinished => (UNFINISHED, None),
        Phase::Completed { outcome, until, gone } => {
            let phase = if outcome.success { SUCCEEDED } else { FAILED };
            let at = differs(outcome.completed_at, record.written);
            let body = BodyHeader::of(&outcome.body)?;
            (phase, Some(EndedHeader { at, until: until.as_millis(), gone: differs(*gone, *until), body }))
        }
        Phase::Tombstone { completed_at, gone } => {
            let at = differs(*completed_at, record.written);
            let body = BodyHeader { len: 0, apart: None };
            (TOMBSTONE, Some(EndedHeader { at, until: gone.as_millis(), gone: None, body }))
        }
    })
}

impl CheckpointHeader {
    fn of(checkpoint: &Checkpoint) -> Result<Self> {
        Ok(Self {
            name_len: length(checkpoint.name.len())?,
            revision: checkpoint.revision.0,
            at: checkpoint.at.as_millis(),
            body: BodyHeader::of(&checkpoint.body)?,
        })
    }
}

impl MoreHeader {
    fn of(record: &Record) -> Result<Option<Self>> {
        let more = Self {
            released: record.released,
            request: record.request.as_ref().map(BodyHeader::of).transpose()?,
            steps: count(record.steps.len(), STEPS_MAX)?,
        };
        Ok(if more.is_empty() { None } else { Some(more) })
    }

    /// Whether it says nothing, and so must not be there: a record has one row only.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self { released: 0, request: None, steps: 0 })
    }
}

impl BodyHeader {
    pub(super) fn of(body: &Body) -> Result<Self> {
        Ok(match body {
            Body::Here(bytes) => Self { len: length(bytes.len())?, apart: None },
            Body::Apart { row, len, crc } => Self { len: *len, apart: Some(ApartHeader { row: *row, crc: *crc }) },
        })
    }
}

pub(super) fn length<T: TryFrom<usize>>(len: usize) -> Result<T> {
    T::try_from(len).map_err(|_| Error::new(ErrorKind::Codec, "a part of the record is too long for its length field"))
}

/// The length of a list that has at most `most` items.
pub(super) fn count<T: TryFrom<usize>>(len: usize, most: usize) -> Result<T> {
    if len > most {
        let message = format!("a list in the record has {len} items; at most {most} are allowed");
        return Err(Error::new(ErrorKind::Codec, message));
    }
    length(len)
}
