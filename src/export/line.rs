//! One line of an export, which is one operation, and the first and the last.
//!
//! Invariants:
//! 1. What a line says is a record that a row could hold: it is written as one, and read back, before it is believed.
//! 2. Nothing is read that is not known: a field of a later version is an error, not left out.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::corrupt;
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::key::{Algorithm, Fingerprint, Key};
use crate::payload::PAYLOAD_BYTES_LIMIT;
use crate::record::step::{Late, Note, Step, StepStanding};
use crate::record::{Body, Checkpoint, Outcome, Phase, Record, Revision, format};

/// What an export begins with.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub(super) reentry_export: u32,
}

/// What it ends with: how many operations it holds, and the digest of all lines before.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Trailer {
    pub(super) operations: u64,
    pub(super) blake3: String,
}

pub(super) enum Line {
    Header(Header),
    Operation(Box<OperationLine>),
    Trailer(Trailer),
}

/// Bytes, in base64.
#[derive(Debug)]
struct Base64(Arc<[u8]>);

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OperationLine {
    scope: String,
    key: String,
    fingerprint: FingerprintLine,
    state: StateLine,
    attempt: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    released: u32,
    since: u64,
    changed_at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request: Option<Base64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checkpoint: Option<CheckpointLine>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    steps: Vec<StepLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ended_at: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kept_until: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    known_until: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    outcome: Option<Base64>,
}

/// A digest, in hexadecimal, by what it was made with.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum FingerprintLine {
    Blake3(String),
    Foreign(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StateLine {
    Unfinished,
    Succeeded,
    Failed,
    Gone,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckpointLine {
    name: String,
    revision: u64,
    at: u64,
    payload: Base64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StepLine {
    name: String,
    attempt: u32,
    begun_at: u64,
    state: StepStateLine,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    settled_at: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    result: Option<Base64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    notes: Vec<NoteLine>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    late: Vec<LateLine>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StepStateLine {
    InDoubt,
    Done,
    Withdrawn,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NoteLine {
    at: u64,
    happened: bool,
    text: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LateLine {
    attempt: u32,
    at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    result: Option<Base64>,
}

impl Line {
    /// What a line holds; the first is the header, and no other is.
    pub(super) fn read(text: &[u8], is_first: bool) -> Result<Self> {
        let unread = |what: &str, e| Error::because(ErrorKind::Corrupt, format!("{what}: {e}"), e);
        if is_first {
            return match serde_json::from_slice(text) {
                Ok(header) => Ok(Self::Header(header)),
                Err(error) => Err(unread("it is no export of a store", error)),
            };
        }
        if text.starts_with(b"{\"operations\":") {
            return serde_json::from_slice(text).map(Self::Trailer).map_err(|e| unread("it is no end of an export", e));
        }
        serde_json::from_slice(text).map(Self::Operation).map_err(|e| unread("it is no operation", e))
    }
}

impl OperationLine {
    pub(super) fn of(record: &Record) -> Self {
        let (state, ended_at, kept_until, known_until, outcome) = match &record.phase {
            Phase::Unfinished => (StateLine::Unfinished, None, None, None, None),
            Phase::Completed { outcome, until, gone } => {
                let state = if outcome.success { StateLine::Succeeded } else { StateLine::Failed };
                (state, Some(outcome.completed_at), Some(*until), Some(*gone), Some(Base64::of(&outcome.body)))
            }
            Phase::Tombstone { completed_at, gone } => (StateLine::Gone, Some(*completed_at), None, Some(*gone), None),
        };
        let millis = |time: Option<Timestamp>| time.map(Timestamp::as_millis);
        Self {
            scope: record.key.scope().to_owned(),
            key: record.key.key().to_owned(),
            fingerprint: FingerprintLine::of(record.fingerprint),
            state,
            attempt: record.attempt,
            released: record.released,
            since: record.since.as_millis(),
            changed_at: record.written.as_millis(),
            request: record.request.as_ref().map(Base64::of),
            checkpoint: record.checkpoint.as_ref().map(|checkpoint| CheckpointLine {
                name: checkpoint.name.to_string(),
                revision: checkpoint.revision.get(),
                at: checkpoint.at.as_millis(),
                payload: Base64::of(&checkpoint.body),
            }),
            steps: record.steps.iter().map(StepLine::of).collect(),
            ended_at: millis(ended_at),
            kept_until: millis(kept_until),
            known_until: millis(known_until),
            outcome,
        }
    }

    /// The record that it tells of, under no number yet.
    ///
    /// # Errors
    ///
    /// `Corrupt` where no row could hold it.
    pub(super) fn into_record(self) -> Result<Record> {
        let invalid = |e: Error| Error::because(ErrorKind::Corrupt, e.to_string(), e);
        let phase = self.phase()?;
        let record = Record {
            key: Key::new(&self.scope, &self.key).map_err(invalid)?,
            fingerprint: self.fingerprint.read()?,
            // Any number: it gets its own when it is taken in.
            born: 1,
            attempt: self.attempt,
            released: self.released,
            since: at(self.since),
            written: at(self.changed_at),
            request: self.request.map(Base64::body),
            checkpoint: self.checkpoint.map(|checkpoint| Checkpoint {
                name: checkpoint.name.into(),
                revision: Revision(checkpoint.revision),
                at: at(checkpoint.at),
                body: checkpoint.payload.body(),
            }),
            steps: self.steps.into_iter().map(StepLine::read).collect::<Result<_>>()?,
            phase,
        };
        if record.since > record.written {
            return Err(corrupt("it was changed before it was claimed"));
        }
        // The largest that a store takes, with what the layer of HTTP puts beside it; redb refuses a row of 3 GiB.
        if record.bytes_here_max() > 2 * PAYLOAD_BYTES_LIMIT {
            return Err(corrupt("a payload of it is larger than any that a store takes"));
        }
        // What the format refuses to read could never be read again.
        let mut row = Vec::new();
        format::encode(&record, &mut row).map_err(invalid)?;
        if format::decode(&row).map_err(invalid)? != record {
            return Err(corrupt("it would not be kept as it is"));
        }
        Ok(record)
    }

    fn phase(&self) -> Result<Phase> {
        let outcome = self.outcome.as_ref().map(|bytes| Body::Here(Arc::clone(&bytes.0)));
        match (self.state, self.ended_at, self.kept_until, self.known_until, outcome) {
            (StateLine::Unfinished, None, None, None, None) => Ok(Phase::Unfinished),
            (state @ (StateLine::Succeeded | StateLine::Failed), Some(ended), Some(until), Some(gone), Some(body))
                if until <= gone =>
            {
                let (success, completed_at) = (state == StateLine::Succeeded, at(ended));
                let outcome = Outcome { success, completed_at, body };
                Ok(Phase::Completed { outcome, until: at(until), gone: at(gone) })
            }
            (StateLine::Gone, Some(ended), None, Some(gone), None) => {
                Ok(Phase::Tombstone { completed_at: at(ended), gone: at(gone) })
            }
            _ => Err(corrupt("its state does not fit how it ended")),
        }
    }
}

impl FingerprintLine {
    fn of(fingerprint: Fingerprint) -> Self {
        let hex = blake3::Hash::from(fingerprint.digest).to_hex().to_string();
        match fingerprint.algorithm {
            Algorithm::Blake3 => Self::Blake3(hex),
            Algorithm::Foreign => Self::Foreign(hex),
        }
    }

    fn read(&self) -> Result<Fingerprint> {
        let (algorithm, hex) = match self {
            Self::Blake3(hex) => (Algorithm::Blake3, hex),
            Self::Foreign(hex) => (Algorithm::Foreign, hex),
        };
        let invalid = |_| corrupt("its fingerprint is not 64 hexadecimal digits");
        let digest = *blake3::Hash::from_hex(hex).map_err(invalid)?.as_bytes();
        Ok(Fingerprint { algorithm, digest })
    }
}

impl StepLine {
    fn of(step: &Step) -> Self {
        let (state, settled_at, result) = match &step.standing {
            StepStanding::InDoubt => (StepStateLine::InDoubt, None, None),
            StepStanding::Done { at, body } => (StepStateLine::Done, Some(*at), Some(Base64::of(body))),
            StepStanding::Withdrawn { at } => (StepStateLine::Withdrawn, Some(*at), None),
        };
        let note =
            |note: &Note| NoteLine { at: note.at.as_millis(), happened: note.happened, text: note.text.to_string() };
        let late = |late: &Late| LateLine {
            attempt: late.attempt,
            at: late.at.as_millis(),
            result: late.body.as_ref().map(Base64::of),
        };
        Self {
            name: step.name.to_string(),
            attempt: step.attempt,
            begun_at: step.begun_at.as_millis(),
            state,
            settled_at: settled_at.map(Timestamp::as_millis),
            result,
            notes: step.notes.iter().map(note).collect(),
            late: step.late.iter().map(late).collect(),
        }
    }

    fn read(self) -> Result<Step> {
        let standing = match (self.state, self.settled_at, self.result) {
            (StepStateLine::InDoubt, None, None) => StepStanding::InDoubt,
            (StepStateLine::Done, Some(settled), Some(result)) => {
                StepStanding::Done { at: at(settled), body: result.body() }
            }
            (StepStateLine::Withdrawn, Some(settled), None) => StepStanding::Withdrawn { at: at(settled) },
            _ => return Err(corrupt("the state of a step does not fit what became of it")),
        };
        let note = |note: NoteLine| Note { at: at(note.at), happened: note.happened, text: note.text.into() };
        let late =
            |late: LateLine| Late { attempt: late.attempt, at: at(late.at), body: late.result.map(Base64::body) };
        Ok(Step {
            name: self.name.into(),
            attempt: self.attempt,
            begun_at: at(self.begun_at),
            standing,
            notes: self.notes.into_iter().map(note).collect(),
            late: self.late.into_iter().map(late).collect(),
        })
    }
}

impl Base64 {
    fn of(body: &Body) -> Self {
        match body {
            Body::Here(bytes) => Self(Arc::clone(bytes)),
            // Whatever leaves the engine is here.
            Body::Apart { .. } => Self(Arc::default()),
        }
    }

    fn body(self) -> Body {
        Body::Here(self.0)
    }
}

impl Serialize for Base64 {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(&base64::display::Base64Display::new(&self.0, &STANDARD))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text.as_bytes()).map_err(serde::de::Error::custom)?;
        Ok(Self(bytes.into()))
    }
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}
