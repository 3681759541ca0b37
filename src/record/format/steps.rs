//! The steps in a row: their headers, one after the other behind the row's, and their parts.
//!
//! Invariants:
//! 1. The header of a step has no tag that its other fields could contradict: what became of it is told by what is
//!    there, so each standing has one form.
//! 2. No more steps, notes or late reports are read than the rules keep, and room is made for each only after it was
//!    read.
//! 3. No two steps of a row have the same name.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::header::{BodyHeader, count, length};
use super::parts::{Parts, corrupt};
use crate::clock::Timestamp;
use crate::error::{ErrorKind, Result};
use crate::key::{NAME_BYTES_MAX, validate};
use crate::payload::write_fixed;
use crate::record::step::{LATE_MAX, Late, NOTE_BYTES_MAX, NOTES_MAX, Note, STEPS_MAX, Step, StepStanding};

// The counts and the length of a note have fields of one or two bytes.
const _: () = assert!(STEPS_MAX <= 65_535 && NOTE_BYTES_MAX <= 65_535 && NOTES_MAX <= 255 && LATE_MAX <= 255);

#[derive(Serialize, Deserialize)]
struct StepHeader {
    name_len: u8,
    attempt: u32,
    begun_at: u64,
    /// None while it is in doubt.
    settled: Option<SettledHeader>,
    notes: u8,
    late: u8,
}

#[derive(Serialize, Deserialize)]
struct SettledHeader {
    at: u64,
    /// None where it was withdrawn.
    result: Option<BodyHeader>,
}

#[derive(Serialize, Deserialize)]
struct NoteHeader {
    at: u64,
    happened: bool,
    text_len: u16,
}

#[derive(Serialize, Deserialize)]
struct LateHeader {
    attempt: u32,
    at: u64,
    body: Option<BodyHeader>,
}

/// All headers of one step.
pub(super) struct Headers {
    step: StepHeader,
    notes: Vec<NoteHeader>,
    late: Vec<LateHeader>,
}

/// Appends every step's header, each with those of its notes and late reports behind it.
pub(super) fn write_headers(steps: &[Step], row: &mut Vec<u8>) -> Result<()> {
    for step in steps {
        write_fixed(&StepHeader::of(step)?, row)?;
        for note in &step.notes {
            let text_len = length(note.text.len())?;
            write_fixed(&NoteHeader { at: note.at.as_millis(), happened: note.happened, text_len }, row)?;
        }
        for late in &step.late {
            let body = late.body.as_ref().map(BodyHeader::of).transpose()?;
            write_fixed(&LateHeader { attempt: late.attempt, at: late.at.as_millis(), body }, row)?;
        }
    }
    Ok(())
}

impl StepHeader {
    fn of(step: &Step) -> Result<Self> {
        let settled = match &step.standing {
            StepStanding::InDoubt => None,
            StepStanding::Done { at, body } => {
                Some(SettledHeader { at: at.as_millis(), result: Some(BodyHeader::of(body)?) })
            }
            StepStanding::Withdrawn { at } => Some(SettledHeader { at: at.as_millis(), result: None }),
        };
        Ok(Self {
            name_len: length(step.name.len())?,
            attempt: step.attempt,
            begun_at: step.begun_at.as_millis(),
            settled,
            notes: count(step.notes.len(), NOTES_MAX)?,
            late: count(step.late.len(), LATE_MAX)?,
        })
    }
}

/// Appends every step's name, result, notes and late results.
pub(super) fn write_parts(steps: &[Step], row: &mut Vec<u8>) {
    for step in steps {
        row.extend_from_slice(step.name.as_bytes());
        row.extend_from_slice(step.bytes().unwrap_or_default());
        for note in &step.notes {
            row.extend_from_slice(note.text.as_bytes());
        }
        for late in &step.late {
            row.extend_from_slice(late.bytes().unwrap_or_default());
        }
    }
}

/// The headers of this many steps.
pub(super) fn read_headers(steps: u16, parts: &mut Parts<'_>) -> Result<Vec<Headers>> {
    if usize::from(steps) > STEPS_MAX {
        return Err(corrupt("it has more steps than are allowed"));
    }
    (0..steps).map(|_| Headers::read(parts)).collect()
}

impl Headers {
    fn read(parts: &mut Parts<'_>) -> Result<Self> {
        let step: StepHeader = parts.header()?;
        if usize::from(step.notes) > NOTES_MAX {
            return Err(corrupt("a step has more notes than are kept"));
        }
        if usize::from(step.late) > LATE_MAX {
            return Err(corrupt("a step has more late reports than are kept"));
        }
        let notes = (0..step.notes).map(|_| parts.header()).collect::<Result<_>>()?;
        let late = (0..step.late).map(|_| parts.header()).collect::<Result<_>>()?;
        Ok(Self { step, notes, late })
    }

    /// The step of a record with this many attempts, and its name as it stands in the row.
    fn assemble<'a>(self, attempts: u32, parts: &mut Parts<'a>) -> Result<(&'a str, Step)> {
        let Self { step, notes, late } = self;
        if step.attempt == 0 || step.attempt > attempts {
            return Err(corrupt("a step was begun by an attempt that was never made"));
        }
        let name = parts.text(step.name_len.into())?;
        validate(name, "the step's name", NAME_BYTES_MAX, ErrorKind::Corrupt)?;
        let standing = match step.settled {
            None => StepStanding::InDoubt,
            Some(SettledHeader { at, result: Some(body) }) => {
                StepStanding::Done { at: Timestamp::from_millis(at), body: parts.body(&body)? }
            }
            Some(SettledHeader { at, result: None }) => StepStanding::Withdrawn { at: Timestamp::from_millis(at) },
        };
        let notes = notes.into_iter().map(|note| note.assemble(parts)).collect::<Result<_>>()?;
        let late = late.into_iter().map(|late| late.assemble(parts)).collect::<Result<_>>()?;
        let (attempt, begun_at) = (step.attempt, Timestamp::from_millis(step.begun_at));
        Ok((name, Step { name: name.into(), attempt, begun_at, standing, notes, late }))
    }
}

/// The steps that these headers belong to, in a record with this many attempts.
pub(super) fn assemble(headers: Vec<Headers>, attempts: u32, parts: &mut Parts<'_>) -> Result<Vec<Step>> {
    let mut names = BTreeSet::new();
    let mut steps = Vec::with_capacity(headers.len());
    for headers in headers {
        let (name, step) = headers.assemble(attempts, parts)?;
        if !names.insert(name) {
            return Err(corrupt("two steps have the same name"));
        }
        steps.push(step);
    }
    Ok(steps)
}

impl NoteHeader {
    fn assemble(self, parts: &mut Parts<'_>) -> Result<Note> {
        let text = parts.text(self.text_len.into())?;
        validate(text, "the note", NOTE_BYTES_MAX, ErrorKind::Corrupt)?;
        Ok(Note { at: Timestamp::from_millis(self.at), happened: self.happened, text: text.into() })
    }
}

impl LateHeader {
    fn assemble(self, parts: &mut Parts<'_>) -> Result<Late> {
        if self.attempt == 0 {
            return Err(corrupt("a late report comes from no attempt"));
        }
        // It may be greater than the record's attempts, where a run of an earlier incarnation of the key reported it.
        let body = self.body.map(|body| parts.body(&body)).transpose()?;
        Ok(Late { attempt: self.attempt, at: Timestamp::from_millis(self.at), body })
    }
}
