//! What is done to a file that nobody has open: made smaller, and brought to a newer format.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::{fmt, io};

use super::disk::Disk;
use super::file::{self, RealFile};
use super::log::{Access, Log, OnProgress, Opening, share};
use super::meta::FORMAT_VERSION;
use super::request::harmless;
use crate::error::{Error, Result};
use crate::sync::plain::{AtomicU64, Ordering};

/// The part of making a file smaller that opening it is taken for; the rest is moving its pages.
const SHARE_OF_OPENING: f64 = 0.5;

/// How much is moved from one report of progress to the next.
const BYTES_A_REPORT: u64 = 1024 * 1024;

/// Makes the file smaller where it holds space that nothing uses. Returns how long it was, and is now. It can be broken
/// off as long as nothing is moved.
pub(crate) fn compact(path: &Path, opening: &Opening) -> Result<[u64; 2]> {
    let named = |error: Error| error.within(&path.display().to_string());
    let told = Arc::clone(&opening.progress);
    let of_opening = Arc::new(move |share| told(share * SHARE_OF_OPENING));
    let file = file::private(path, opening.only_private, || file::open_to_write(path))?;
    let moved =
        Arc::new(Moved { file, bytes: AtomicU64::new(0), of: AtomicU64::new(0), told: opening.progress.clone() });
    let opening = Opening { progress: of_opening, ..opening.clone() };
    let (log, _) = Log::open(Arc::<Moved>::clone(&moved), &opening, |_| Ok(())).map_err(named)?;
    let before = log.disk_bytes()?;
    moved.of.store(before, Ordering::Relaxed);
    log.compact().map_err(named)?;
    log.close().map_err(named)?;
    let after = log.disk_bytes()?;
    moved.tell(before);
    Ok([before, after])
}

/// A file whose pages are moved, and who is told how far that is: at most about as much is written as it holds.
struct Moved {
    file: RealFile,
    bytes: AtomicU64,
    /// Nothing as long as it is opened.
    of: AtomicU64,
    told: Arc<OnProgress>,
}

impl Moved {
    /// What is moved cannot be broken off, whatever is answered: redb is in the midst of writing, and a panic there
    /// would look like its own.
    fn tell(&self, bytes: u64) {
        let share = share(bytes, self.of.load(Ordering::Relaxed));
        harmless(|| {
            let _: ControlFlow<()> = (self.told)(SHARE_OF_OPENING + share * (1.0 - SHARE_OF_OPENING));
        });
    }
}

impl fmt::Debug for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Moved").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Disk for Moved {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)?;
        if self.of.load(Ordering::Relaxed) > 0 {
            let bytes = data.len() as u64;
            let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
            if before / BYTES_A_REPORT < (before + bytes) / BYTES_A_REPORT {
                self.tell(before + bytes);
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn release(&self) -> io::Result<()> {
        self.file.release()
    }

    fn check_name(&self) -> io::Result<()> {
        self.file.check_name()
    }
}

/// Brings the file to the newest format, as opening it does. Returns which it had, and has now; where these are the
/// same, it was not changed.
pub(crate) fn migrate(path: &Path, opening: &Opening) -> Result<[u32; 2]> {
    let named = |error: Error| error.within(&path.display().to_string());
    let reading = Opening { access: Access::Read, ..opening.clone() };
    let file = file::private(path, opening.only_private, || file::open_to_read(path))?;
    let found = Log::format_on(Arc::new(file), &reading).map_err(named)?;
    if found == FORMAT_VERSION {
        return Ok([found; 2]);
    }
    let file = file::private(path, opening.only_private, || file::open_to_write(path))?;
    let (log, _) = Log::open(Arc::new(file), opening, |_| Ok(())).map_err(named)?;
    log.close().map_err(named)?;
    Ok([found, FORMAT_VERSION])
}
