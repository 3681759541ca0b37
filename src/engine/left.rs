//! A file that a crash left and that is damaged: redb, which cannot repair it, reads it as it is.
//!
//! Invariant: nothing of it is written, and nothing is repaired.

use std::ops::Bound;
use std::{fmt, io, result};

use redb::{ConcurrencyMode, Database, ReadOnlyDatabase, ReadTransaction, ReadableDatabase};
use redb::{StorageBackend, WriteTransaction};

use super::disk::{Backend, BackendError};
use super::error::engine;
use super::journal::REDB_MAGIC;
use crate::error::{Error, ErrorKind, Result};

/// Which of the flags that stand behind redb's first bytes says that the file was not closed (redb's design document,
/// "Database header").
const RECOVERY_REQUIRED: u8 = 2;

/// redb, and what can be done with it.
pub(super) enum Redb {
    Whole(Database),
    AsLeft(ReadOnlyDatabase),
}

impl Redb {
    /// Opens what redb cannot repair: its newest commit, as the header says it. Pages are not checked.
    pub(super) fn as_left(mut builder: redb::Builder, backend: Backend) -> Result<Self> {
        // As beside another process that writes: then nothing is allocated, so that nothing need be repaired.
        builder.set_concurrency_mode(ConcurrencyMode::SingleWriter);
        builder.open_read_only_with_backend(Left(backend)).map(Self::AsLeft).map_err(engine)
    }

    pub(super) fn begin_read(&self) -> Result<ReadTransaction> {
        match self {
            Self::Whole(database) => database.begin_read(),
            Self::AsLeft(database) => database.begin_read(),
        }
        .map_err(engine)
    }

    pub(super) fn begin_write(&self) -> Result<WriteTransaction> {
        match self {
            Self::Whole(database) => database.begin_write().map_err(engine),
            Self::AsLeft(_) => Err(not_whole()),
        }
    }

    pub(super) fn compact(&mut self) -> Result<bool> {
        match self {
            Self::Whole(database) => database.compact().map_err(engine),
            Self::AsLeft(_) => Err(not_whole()),
        }
    }

    /// What can be changed.
    pub(super) fn whole(self) -> Result<Database> {
        match self {
            Self::Whole(database) => Ok(database),
            Self::AsLeft(_) => Err(not_whole()),
        }
    }
}

impl fmt::Debug for Redb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self, Self::Whole(_)) { "Whole" } else { "AsLeft" })
    }
}

fn not_whole() -> Error {
    Error::new(ErrorKind::ReadOnly, "what is damaged is only read")
}

/// A file that is read as if it had been closed. The lock on the file itself keeps others out, so that nobody is to be
/// told of another.
#[derive(Debug)]
struct Left(Backend);

type Lock<T> = result::Result<T, redb::BackendError>;

fn only_read() -> result::Result<(), BackendError> {
    // The conversion is one under redb's `experimental-api-5`.
    #[expect(clippy::useless_conversion, reason = "see above")]
    Err(io::Error::from(io::ErrorKind::Unsupported).into())
}

impl StorageBackend for Left {
    fn len(&self) -> result::Result<u64, BackendError> {
        self.0.len()
    }

    /// What cannot be read, as where a damaged page leads beyond the end, is zeroes, which are no page: at an error
    /// redb would give up all that can.
    fn read(&self, offset: u64, out: &mut [u8]) -> result::Result<(), BackendError> {
        if self.0.read(offset, out).is_err() {
            out.fill(0);
        }
        let first = REDB_MAGIC.map(Some).into_iter().chain([None]).skip(usize::try_from(offset).unwrap_or(usize::MAX));
        for (byte, known) in out.iter_mut().zip(first) {
            // How they begin is known, damaged or not; behind that are the flags.
            *byte = known.unwrap_or(*byte & !RECOVERY_REQUIRED);
        }
        Ok(())
    }

    fn set_len(&self, _: u64) -> result::Result<(), BackendError> {
        only_read()
    }

    fn sync_data(&self) -> result::Result<(), BackendError> {
        only_read()
    }

    fn write(&self, _: u64, _: &[u8]) -> result::Result<(), BackendError> {
        only_read()
    }

    fn try_lock_shared_range(&self, _: Bound<u64>, _: Bound<u64>) -> Lock<bool> {
        Ok(true)
    }

    fn lock_shared_range(&self, _: Bound<u64>, _: Bound<u64>) -> Lock<()> {
        Ok(())
    }

    fn unlock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Lock<()> {
        Ok(())
    }

    fn query_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Lock<bool> {
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use redb::backends::InMemoryBackend;

    use super::super::disk::{Disk, Memory};
    use super::super::mishap::{DiskCall, DiskFault};
    use super::super::simulated::SimulatedDisk;
    use super::*;

    #[test]
    fn what_is_damaged_is_only_read_and_what_cannot_be_read_is_zeroes() {
        let disk = Arc::new(Memory::default());
        disk.write(0, &[0xFF; 64]).unwrap();
        let left = Left(Backend::direct(Arc::<Memory>::clone(&disk), 16));
        assert!(left.write(0, &[1]).is_err() && left.set_len(1).is_err() && left.sync_data().is_err());
        assert_eq!((disk.image(), left.len().unwrap()), (vec![0xFF; 64], 48));
        let mut read = [1; 4];
        left.read(46, &mut read).unwrap();
        assert_eq!(read, [0; 4]);
        left.read(8, &mut read).unwrap();
        assert_eq!(read, [REDB_MAGIC[8], !RECOVERY_REQUIRED, 0xFF, 0xFF]);
        left.read(2, &mut read).unwrap();
        assert_eq!(read, REDB_MAGIC[2..6]);
        left.read(10, &mut read).unwrap();
        assert_eq!(read, [0xFF; 4]);
    }

    /// A sector that has gone bad costs what stands there, and not all the rest.
    #[test]
    fn p10_whatever_fails_as_it_is_read_is_zeroes_and_what_stands_beside_it_is_read() {
        let disk = SimulatedDisk::from_image(vec![7; 64]);
        let left = Left(Backend::direct(Arc::new(disk.clone()), 0));
        for fault in [DiskFault::os(5), DiskFault::kind(io::ErrorKind::Other), DiskFault::kind(io::ErrorKind::TimedOut)]
        {
            let mut read = [1; 4];
            disk.fail([fault.on(&[DiskCall::Read])]);
            left.read(16, &mut read).unwrap();
            assert_eq!(read, [0; 4], "{fault:?}");
            left.read(16, &mut read).unwrap();
            assert_eq!(read, [7; 4], "{fault:?}");
        }
    }

    #[test]
    fn what_redb_cannot_repair_is_not_changed() {
        let backend = || Backend::direct(Arc::new(Memory::default()), 0);
        let whole = Redb::Whole(Database::builder().create_with_backend(InMemoryBackend::new()).unwrap());
        assert_eq!(format!("{whole:?}"), "Whole");
        assert!(Redb::as_left(redb::Builder::new(), backend()).is_err(), "there is no file");
        let made = backend();
        drop(Database::builder().create_with_backend(made.clone()).unwrap());
        let mut left = Redb::as_left(redb::Builder::new(), made).unwrap();
        assert_eq!(format!("{left:?}"), "AsLeft");
        assert!(left.begin_read().is_ok());
        let kinds = [left.begin_write().map(drop), left.compact().map(drop), left.whole().map(drop)];
        assert!(kinds.iter().all(|done| done.as_ref().is_err_and(|e| e.kind() == ErrorKind::ReadOnly)));
    }
}
