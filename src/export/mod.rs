//! Copies that people and other programs can read: every operation as a line of JSON, and back.
//!
//! Invariants:
//! 1. Lossless: what is imported tells all that was exported, byte by byte.
//! 2. An export ends with how many operations it holds and a digest of all before, so that one that was cut short or
//!    damaged is known (P10).
//! 3. Neither way holds more in memory than a few operations.

use std::collections::VecDeque;
use std::io::{self, BufRead, Write};
use std::ops::ControlFlow;

use serde::Serialize;

use self::line::{Header, Line, OperationLine, Trailer};
use crate::clock::Timestamp;
use crate::engine::Adopted;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::pending::Pending;
use crate::record::Record;
use crate::store::Store;

mod line;

/// The version of an export that this crate writes, and the newest it reads.
const VERSION: u32 = 1;

/// Operations on their way to the writer at once, and their payloads' bytes.
const UNDER_WAY_MAX: usize = 1024;
const UNDER_WAY_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// The longest line that is read: an operation with four payloads of the largest size that a store takes, in base64.
const LINE_BYTES_MAX: u64 = 6 << 30;

/// What an export holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exported {
    /// Operations, tombstones among them.
    pub operations: u64,
    /// Rows, or runs of rows, that were left out because they are damaged; 0 but for
    /// [`export_undamaged`](Store::export_undamaged).
    pub damaged: u64,
    /// The moment it shows, by the store's time.
    pub at: Timestamp,
}

/// What [`Store::import`] came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Imported {
    /// Operations that were taken in.
    pub new: u64,
    /// Operations that were known as the export tells them, from an import before it, say.
    pub same: u64,
    /// Operations whose keys are known otherwise. They were left as they are.
    pub differing: u64,
    /// Operations that are over by now. They were left out.
    pub over: u64,
}

impl Store {
    /// Writes everything that is kept to `to`, one operation a line, as `docs/format.md` says: as it was at one moment,
    /// while the store serves. What is unfinished comes last, oldest first. The server's own rows are not in it; a copy
    /// of the file has them.
    ///
    /// `progress` is told from time to time which share of the work is done, 0.0 to 1.0, and may break it off. As long
    /// as it lasts the file cannot use again what is freed, so let `to` be quick.
    ///
    /// ```
    /// use reentry::{Claim, Fingerprint, Key, Store};
    /// use std::ops::ControlFlow;
    ///
    /// let (one, other) = (Store::builder().in_memory()?, Store::builder().in_memory()?);
    /// let (key, request) = (Key::new("orders", "1")?, Fingerprint::of("two pizzas"));
    /// if let Claim::Run(run) = one.claim(&key, request).wait()? {
    ///     run.complete(&"receipt".to_owned()).wait()?;
    /// }
    /// let mut lines = Vec::new();
    /// one.export(&mut lines, |_| ControlFlow::Continue(()))?;
    /// let imported = other.import(&lines[..], |_| ControlFlow::Continue(()), |_| {})?;
    /// assert_eq!(imported.new, 1);
    /// assert!(matches!(other.claim(&key, request).wait()?, Claim::Replay(_)));
    /// # Ok::<(), reentry::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`] at the first damaged row, [`ErrorKind::Io`] where `to` fails, [`ErrorKind::Full`] where
    /// it has no room; [`ErrorKind::Cancelled`], [`ErrorKind::Closed`], [`ErrorKind::Failed`]. What was written by then
    /// has no end, and is refused by an import.
    pub fn export(&self, to: impl Write, progress: impl FnMut(f64) -> ControlFlow<()>) -> Result<Exported> {
        self.export_rows(to, progress, Err)
    }

    /// As [`export`](Self::export), leaving out what is damaged; `damaged` is told each time. For what is left of a
    /// store that was opened with [`Builder::open_damaged`](crate::Builder::open_damaged) (P10).
    ///
    /// # Errors
    ///
    /// Those of [`export`](Self::export), but for damaged rows.
    pub fn export_undamaged(
        &self,
        to: impl Write,
        progress: impl FnMut(f64) -> ControlFlow<()>,
        mut damaged: impl FnMut(&Error),
    ) -> Result<Exported> {
        self.export_rows(to, progress, |damage| {
            damaged(&damage);
            Ok(())
        })
    }

    fn export_rows(
        &self,
        to: impl Write,
        mut progress: impl FnMut(f64) -> ControlFlow<()>,
        mut is_damaged: impl FnMut(Error) -> Result<()>,
    ) -> Result<Exported> {
        let (mut operations, mut damaged) = (0, 0);
        let mut lines = Lines { to, digest: blake3::Hasher::new(), line: Vec::new() };
        lines.write(&Header { reentry_export: VERSION })?;
        let at = self.engine().each(|record, share| {
            match record {
                Ok(record) => {
                    lines.write(&OperationLine::of(&record))?;
                    operations += 1;
                }
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    is_damaged(error)?;
                    damaged += 1;
                }
                Err(error) => return Err(error),
            }
            go_on(progress(share))
        })?;
        go_on(progress(1.0))?;
        let blake3 = lines.digest.finalize().to_hex().to_string();
        lines.write(&Trailer { operations, blake3 })?;
        lines.to.flush().map_err(unwritten)?;
        Ok(Exported { operations, damaged, at })
    }

    /// Takes in what [`export`](Self::export) wrote: every operation whose key is not known, with all that was kept of
    /// it. What is known otherwise is left as it is, and `differing` is told its key. What is over is left out. Doing
    /// it again is harmless, so one that was broken off is done again.
    ///
    /// `progress` is told from time to time how many bytes were read, and may break it off. **Durable when it
    /// returns**, and each operation by itself before that: what came before an error stays. [`check_export`] tells
    /// beforehand whether there will be one.
    ///
    /// Operations get new numbers, in the order of the lines. What happened later than the store's own time is told to
    /// have happened then (P11); a deadline stays what it is. No limit on what the store keeps refuses what has begun
    /// elsewhere.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Corrupt`] with the line where it is no export, was damaged or cut short,
    /// [`ErrorKind::NewerFormat`], [`ErrorKind::Io`] where `from` fails; [`ErrorKind::Cancelled`]; otherwise those of
    /// [`advance`](Self::advance).
    pub fn import(
        &self,
        from: impl BufRead,
        progress: impl FnMut(u64) -> ControlFlow<()>,
        mut differing: impl FnMut(&Key),
    ) -> Result<Imported> {
        let mut imported = Imported::default();
        let mut under_way = UnderWay::default();
        let read = read(from, progress, |record| {
            let bytes = record.bytes_here();
            under_way.waiting.push_back((record.key.clone(), bytes, self.engine().adopt(record)));
            under_way.bytes += bytes;
            while under_way.waiting.len() > UNDER_WAY_MAX || under_way.bytes > UNDER_WAY_BYTES_MAX {
                under_way.take(&mut imported, &mut differing)?;
            }
            Ok(())
        });
        // What was read before an error is taken in, and told of.
        let mut taken = Ok(());
        while !under_way.waiting.is_empty() {
            taken = taken.and(under_way.take(&mut imported, &mut differing));
        }
        read.and(taken).map(|()| imported)
    }
}

/// Reads an export to its end and changes nothing: what [`Store::import`] would refuse is refused.
///
/// # Errors
///
/// Those that an import has of what it reads.
pub fn check_export(from: impl BufRead, progress: impl FnMut(u64) -> ControlFlow<()>) -> Result<u64> {
    read(from, progress, |_| Ok(()))
}

/// What is on its way to the writer.
#[derive(Default)]
struct UnderWay {
    waiting: VecDeque<(Key, u64, Pending<Adopted>)>,
    bytes: u64,
}

impl UnderWay {
    /// Waits for the first of them.
    fn take(&mut self, imported: &mut Imported, differing: &mut impl FnMut(&Key)) -> Result<()> {
        let Some((key, bytes, pending)) = self.waiting.pop_front() else { return Ok(()) };
        self.bytes -= bytes;
        match pending.wait()? {
            Adopted::New => imported.new += 1,
            Adopted::Same => imported.same += 1,
            Adopted::Over => imported.over += 1,
            Adopted::Differs => {
                imported.differing += 1;
                differing(&key);
            }
        }
        Ok(())
    }
}

/// Lines on their way out.
struct Lines<W> {
    to: W,
    digest: blake3::Hasher,
    line: Vec<u8>,
}

impl<W: Write> Lines<W> {
    fn write(&mut self, value: &impl Serialize) -> Result<()> {
        self.line.clear();
        let failed = |e| Error::because(ErrorKind::Codec, "an operation cannot be written as JSON", e);
        serde_json::to_writer(&mut self.line, value).map_err(failed)?;
        self.line.push(b'\n');
        self.digest.update(&self.line);
        self.to.write_all(&self.line).map_err(unwritten)
    }
}

/// Gives every operation of an export to `each`, and checks the whole. Returns how many there are.
fn read(
    mut from: impl BufRead,
    mut progress: impl FnMut(u64) -> ControlFlow<()>,
    mut each: impl FnMut(Record) -> Result<()>,
) -> Result<u64> {
    let (mut digest, mut text, mut read) = (blake3::Hasher::new(), Vec::new(), 0);
    let mut operations = 0;
    for nth in 1_u64.. {
        text.clear();
        let failed = |e| Error::because(ErrorKind::Io, "the export cannot be read", e);
        read += io::Read::take(&mut from, LINE_BYTES_MAX).read_until(b'\n', &mut text).map_err(failed)? as u64;
        let on_line = |error: Error| error.within(&format!("line {nth} of the export"));
        if text.last() != Some(&b'\n') {
            return Err(on_line(corrupt("it was cut short: its end is missing")));
        }
        match Line::read(&text, nth == 1).map_err(on_line)? {
            Line::Header(Header { reentry_export }) if reentry_export > VERSION => {
                let message =
                    format!("it has version {reentry_export}; this version of the crate reads up to {VERSION}");
                return Err(on_line(Error::new(ErrorKind::NewerFormat, message)));
            }
            Line::Header(_) => {}
            Line::Operation(operation) => {
                each(operation.into_record().map_err(on_line)?)?;
                operations += 1;
            }
            Line::Trailer(trailer) => {
                let is_whole = (trailer.operations, &*trailer.blake3) == (operations, &*digest.finalize().to_hex());
                if !is_whole || !from.fill_buf().map_err(failed)?.is_empty() {
                    return Err(on_line(corrupt("it was changed or damaged: its digest does not match")));
                }
                return Ok(operations);
            }
        }
        digest.update(&text);
        go_on(progress(read))?;
    }
    Ok(operations)
}

fn go_on(progress: ControlFlow<()>) -> Result<()> {
    match progress {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::new(ErrorKind::Cancelled, "broken off by its own report of progress")),
    }
}

fn corrupt(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, what)
}

fn unwritten(error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => ErrorKind::Full,
        _ => ErrorKind::Io,
    };
    Error::because(kind, format!("the export cannot be written: {error}"), error)
}
