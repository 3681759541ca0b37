//! What is done to a file that nobody has open: made smaller, and brought to a newer format.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::{fmt, io};

use super::disk::Disk;
use super::file;
use super::log::{Access, Log, OnProgress, Opening, share};
use super::meta::FORMAT_VERSION;
use crate::error::{Error, Result};
use crate::sync::plain::{AtomicU64, Ordering};

/// The part of making a file smaller that opening it is taken for; the rest is moving its pages.
const SHARE_OF_OPENING: f64 = 0.5;

/// How much is moved from one report of progress to the next.
const BYTES_A_REPORT: u64 = 1024 * 1024;

/// Makes the file smaller where it holds space that nothing uses. Returns how long it was, and is now. It can be broken
/// off as long as nothing is moved.
pub(crate) fn compact(path: &Path, opening: &Opening) -> Result<[u64; 2]> {
    let file = file::private(path, opening.only_private, || file::open_to_write(path))?;
    compact_on(Arc::new(file), opening).map_err(|error| error.within(&path.display().to_string()))
}

/// Likewise, of the file on this disk.
fn compact_on(disk: Arc<dyn Disk>, opening: &Opening) -> Result<[u64; 2]> {
    let told = Arc::clone(&opening.progress);
    let of_opening = Arc::new(move |share| told(share * SHARE_OF_OPENING));
    let moved =
        Arc::new(Moved { disk, bytes: AtomicU64::new(0), of: AtomicU64::new(0), told: opening.progress.clone() });
    let opening = Opening { progress: of_opening, ..opening.clone() };
    let (log, _) = Log::open(Arc::<Moved>::clone(&moved), &opening, |_| Ok(()))?;
    let before = log.disk_bytes()?;
    moved.of.store(before, Ordering::Relaxed);
    log.compact()?;
    log.close()?;
    let after = log.disk_bytes()?;
    moved.tell(before);
    Ok([before, after])
}

/// A file whose pages are moved, and who is told how far that is: at most about as much is written as it holds.
struct Moved {
    disk: Arc<dyn Disk>,
    bytes: AtomicU64,
    /// Nothing as long as it is opened.
    of: AtomicU64,
    told: Arc<OnProgress>,
}

impl Moved {
    /// What is moved cannot be broken off, whatever is answered: redb is in the midst of writing.
    fn tell(&self, bytes: u64) {
        let share = share(bytes, self.of.load(Ordering::Relaxed));
        let _: ControlFlow<()> = (self.told)(SHARE_OF_OPENING + share * (1.0 - SHARE_OF_OPENING));
    }
}

impl fmt::Debug for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Moved").field("disk", &self.disk).finish_non_exhaustive()
    }
}

impl Disk for Moved {
    fn len(&self) -> io::Result<u64> {
        self.disk.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.read(offset, out)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.write(offset, data)?;
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
        self.disk.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.sync()
    }

    fn release(&self) -> io::Result<()> {
        self.disk.release()
    }

    fn check_name(&self) -> io::Result<()> {
        self.disk.check_name()
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

#[cfg(test)]
mod tests {
    use super::super::log::OpenCheck;
    use super::super::{DiskCall, DiskFault, Loss, SimulatedDisk};
    use super::*;
    use crate::claim::Claim;
    use crate::key::{Fingerprint, Key};
    use crate::store::Store;

    const OPERATIONS: u64 = 8;

    /// A file of which half is used.
    fn sparse() -> Vec<u8> {
        let disk = SimulatedDisk::new();
        let store = Store::builder().open_on(&disk).unwrap();
        for nth in 0..2 * OPERATIONS {
            let key = Key::new("scope", nth.to_string()).unwrap();
            let Claim::Run(run) = store.claim(&key, Fingerprint::of("r")).wait().unwrap() else { panic!("it is free") };
            run.complete(&vec![7_u8; 20_000]).wait().unwrap();
        }
        for nth in 0..OPERATIONS {
            assert!(store.forget(&Key::new("scope", nth.to_string()).unwrap()).wait().unwrap());
        }
        store.close().unwrap();
        disk.image()
    }

    fn opening() -> Opening {
        Opening {
            access: Access::Write,
            check: OpenCheck::Full,
            cache_bytes: 1 << 20,
            only_private: false,
            progress: Arc::new(|_| ControlFlow::Continue(())),
        }
    }

    #[test]
    fn p2_p10_a_power_cut_at_any_call_of_compacting_loses_nothing() {
        let disk = SimulatedDisk::from_image(sparse());
        compact_on(Arc::new(disk.clone()), &opening()).unwrap();
        let kept_where = |is_kept| if is_kept { Loss::Kept } else { Loss::Lost };
        for at in 0..=disk.calls() {
            let cuts = [
                disk.cut(at, |_| Loss::Lost),
                disk.cut(at, |_| Loss::Kept),
                disk.cut(at, |call| kept_where(call.nth % 2 == 0)),
                disk.cut(at, |call| kept_where(call.nth % 3 > 0)),
                disk.cut(at, |call| kept_where(call.nth + 1 == at)),
                disk.cut(at, |call| if call.nth + 1 == at { Loss::Torn(call.bytes / 2) } else { Loss::Kept }),
            ];
            for (way, cut) in cuts.into_iter().enumerate() {
                let left = Store::builder().open_on(&cut).unwrap().verify().unwrap();
                assert_eq!(left.operations, OPERATIONS, "a cut at call {at}, {way}");
            }
        }
    }

    #[test]
    fn p2_p10_a_file_is_told_to_be_smaller_only_where_every_write_and_sync_of_it_went_well() {
        let image = sparse();
        let opening = opening();
        for nth in 0.. {
            let disk = SimulatedDisk::from_image(image.clone());
            disk.fail([DiskFault::os(5).on(DiskCall::CHANGES).after(nth)]);
            let compacted = compact_on(Arc::new(disk.clone()), &opening);
            let is_met = disk.failed() > 0;
            let after = disk.cut(disk.calls(), |_| Loss::Lost);
            let left = Store::builder().open_on(&after).unwrap().verify().unwrap();
            assert_eq!(left.operations, OPERATIONS, "a fault at call {nth}");
            if !is_met {
                let [before, after] = compacted.unwrap();
                assert!(after < before && nth > 10, "{nth} calls made {after} bytes of {before}");
                return;
            }
            assert!(compacted.is_err(), "a fault at call {nth} was not told");
        }
    }
}
