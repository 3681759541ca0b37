//! A copy of the file while the store serves: read as it was between two batches, then opened and checked whole.
//!
//! Invariants:
//! 1. The copy holds what was committed at one moment, and all that was acknowledged before it was asked for.
//! 2. It gets its name when every page of it was checked, and when it holds as much as the store counted at that
//!    moment, at the same places: a newest commit that is damaged, which redb takes for one that a crash tore, is
//!    missed too (P10).
//! 3. No claim waits for it, but while that moment is noted.

use std::any::Any;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::Arc;

use super::capacity::Kept;
use super::disk::Disk;
use super::log::{Access, Log, OnProgress, OpenCheck, Opening, broken_off, share};
use super::queue::Shut;
use super::snapshot::Snapshot;
use super::{Engine, file};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::pending::may_block;
use crate::sync::{Mutex, Ordering};

/// What is read at once, at least and at most; between that, a part of the file, so that progress is told often.
const PART_BYTES_MIN: u64 = 4096;
const PART_BYTES_MAX: u64 = 256 * 1024;
const PARTS: u64 = 100;

/// Memory for pages of the copy while it is checked.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// The part of the work that copying is taken for; the rest is checking.
const SHARE_OF_COPY: f64 = 0.5;

/// What a copy holds.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) kept: Kept,
    pub(crate) bytes: u64,
    pub(crate) at: Timestamp,
}

impl Engine {
    /// Makes a copy of the file at `path`.
    pub(crate) fn back_up(&self, path: &Path, progress: &Arc<OnProgress>) -> Result<Made> {
        // On the writer's thread it would wait for itself.
        may_block()?;
        self.check_serving()?;
        let panic = Arc::new(Mutex::new(None));
        let progress = caught(progress, &panic);
        let made = self.shared.trace.backup().within(|| {
            let made = file::create_copy(path, |target| self.copy_to(&target, &progress));
            match &made {
                Ok(made) => self.shared.trace.backed_up(made.kept.operations, made.bytes),
                Err(error) => self.shared.trace.backup_failed(error),
            }
            made
        });
        if let Some(panic) = panic.lock().take() {
            resume_unwind(panic);
        }
        made.map_err(|error| error.within("no backup was made"))
    }

    /// Makes a copy of the file on an empty disk.
    pub(crate) fn copy_to(&self, target: &Arc<dyn Disk>, progress: &Arc<OnProgress>) -> Result<Made> {
        let (snapshot, kept, places, at) = self.moment()?;
        copy(&snapshot, &**target, progress)?;
        // A file that could not be cut is longer than it need be, and as good.
        drop(snapshot);
        let told = Arc::clone(progress);
        let opening = Opening {
            access: Access::Write,
            check: OpenCheck::Full,
            cache_bytes: CACHE_BYTES,
            only_private: false,
            progress: Arc::new(move |share| told(SHARE_OF_COPY + share * (1.0 - SHARE_OF_COPY))),
        };
        let found = Mutex::new((Kept::default(), 0_u64));
        // Whoever only reads has a clock of his own, which is not the store's time.
        let known = if self.shared.is_read_only { Timestamp::default() } else { at };
        Log::settle_copy(Arc::clone(target), &opening, known, |rows| {
            let places = rows.iter().fold(0_u64, |sum, (place, _)| sum.wrapping_add(place.word()));
            let rows = Kept::of_all(rows.iter().map(|(_, record)| record));
            let mut found = found.lock();
            *found = (found.0.add(rows), found.1.wrapping_add(places));
            Ok(())
        })?;
        let (found, stand) = *found.lock();
        if (found, stand) != (kept, places) {
            let (had, has) = (kept.operations, found.operations);
            let message = format!("the file is damaged: of {had} operations its copy has {has}, or others than it had");
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        let bytes = target.len().map_err(unreadable)?;
        Ok(Made { kept, bytes, at })
    }

    /// The file as it is between two batches, what it holds, and where that stands.
    fn moment(&self) -> Result<(Snapshot, Kept, u64, Timestamp)> {
        let shared = &self.shared;
        let between = shared.at_work.lock();
        self.check_serving()?;
        if shared.is_moving.load(Ordering::Acquire) {
            let message = "nobody knows yet what the last batch left on the full disk; make room and try again";
            return Err(Error::new(ErrorKind::Full, message));
        }
        let snapshot = shared.disk.snapshot().map_err(unreadable)?;
        let (kept, places, at) = (shared.ledger.all(), shared.index.places(), shared.timeline.now().time);
        drop(between);
        Ok((snapshot, kept, places, at))
    }

    fn check_serving(&self) -> Result<()> {
        self.shared.queue.is_shut().filter(|shut| *shut != Shut::ReadOnly).map_or(Ok(()), |shut| Err(shut.error()))
    }
}

/// A report of progress whose panic breaks the copy off: it may be called within redb, and what is left of the copy is
/// to be removed. What it panicked with goes to `panic`.
fn caught(progress: &Arc<OnProgress>, panic: &Arc<Mutex<Option<Box<dyn Any + Send>>>>) -> Arc<OnProgress> {
    let (progress, panic) = (Arc::clone(progress), Arc::clone(panic));
    Arc::new(move |share| {
        catch_unwind(AssertUnwindSafe(|| progress(share))).unwrap_or_else(|what| {
            *panic.lock() = Some(what);
            ControlFlow::Break(())
        })
    })
}

/// Writes all of a snapshot to `target`.
fn copy(snapshot: &Snapshot, target: &dyn Disk, progress: &Arc<OnProgress>) -> Result<()> {
    let unwritable = |e| from_io("cannot write the copy", e);
    target.set_len(snapshot.len()).map_err(unwritable)?;
    let most = (snapshot.len() / PARTS).next_multiple_of(PART_BYTES_MIN).clamp(PART_BYTES_MIN, PART_BYTES_MAX);
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    while let Some(parts) = snapshot.read(most).map_err(unreadable)? {
        for part in parts {
            target.write(part.offset, &part.bytes).map_err(unwritable)?;
        }
        if progress(share(snapshot.done(), snapshot.len()) * SHARE_OF_COPY) == ControlFlow::Break(()) {
            return Err(broken_off());
        }
    }
    target.sync().map_err(unwritable)
}

fn unreadable(error: std::io::Error) -> Error {
    from_io("cannot read the file", error)
}

fn from_io(what: &str, error: std::io::Error) -> Error {
    use std::io::ErrorKind::{FileTooLarge, NotConnected, QuotaExceeded, StorageFull, UnexpectedEof};
    let kind = match error.kind() {
        StorageFull | QuotaExceeded | FileTooLarge => ErrorKind::Full,
        NotConnected => ErrorKind::Closed,
        UnexpectedEof => ErrorKind::Corrupt,
        _ => ErrorKind::Io,
    };
    Error::because(kind, format!("{what}: {error}"), error)
}
