//! What is done to a file that nobody has open: made smaller, and brought to a newer format.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::{fmt, io};

use redb::{Database, ReadableDatabase, WriteTransaction};

use super::disk::Disk;
use super::error::{engine, unwound};
use super::file::{self, RealFile};
use super::log::{Access, Log, OnProgress, Opening, share};
use super::meta::{self, FORMAT_VERSION};
use super::request::harmless;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::plain::{AtomicU64, Ordering};

/// What brings a file from one format to the next.
pub(super) struct Migration {
    pub(super) from: u32,
    pub(super) apply: fn(&WriteTransaction) -> Result<()>,
}

/// From each older format to the next, in order. There is none yet: format 1 is the first.
const MIGRATIONS: &[Migration] = &[];

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
    let file = file::open_to_write(path)?;
    let moved =
        Arc::new(Moved { file, bytes: AtomicU64::new(0), of: AtomicU64::new(0), told: opening.progress.clone() });
    let opening = Opening { progress: of_opening, ..opening.clone() };
    let (log, _) = Log::open(Arc::<Moved>::clone(&moved), &opening, |_| Ok(())).map_err(named)?;
    let before = log.disk_bytes()?;
    moved.of.store(before, Ordering::Relaxed);
    log.compact().map_err(named)?;
    let after = log.disk_bytes()?;
    log.close().map_err(named)?;
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

/// Brings the file to the newest format. Returns which it had, and has now; where these are the same, it was not
/// changed.
pub(crate) fn migrate(path: &Path, opening: &Opening) -> Result<[u32; 2]> {
    let named = |error: Error| error.within(&path.display().to_string());
    let reading = Opening { access: Access::Read, ..opening.clone() };
    let found = Log::format(Arc::new(file::open_to_read(path)?), &reading).map_err(named)?;
    meta::check_version(found).map_err(named)?;
    if found == FORMAT_VERSION {
        return Ok([found; 2]);
    }
    let disk: Arc<dyn Disk> = Arc::new(file::open_to_write(path)?);
    let database = Log::database(disk, opening).map_err(named)?;
    unwound(|| migrate_by(&database, MIGRATIONS, FORMAT_VERSION)).map_err(named)?;
    database.close().map_err(engine).map_err(named)?;
    Ok([found, FORMAT_VERSION])
}

/// Brings a file to format `newest`, one format after the other, each in one commit: one that fails leaves the file in
/// the format it had.
fn migrate_by(database: &Database, migrations: &[Migration], newest: u32) -> Result<()> {
    loop {
        let version = meta::version(&database.begin_read().map_err(engine)?)?;
        if version >= newest {
            return Ok(());
        }
        let Some(migration) = migrations.iter().find(|migration| migration.from == version) else {
            let message = format!("the store has format {version}, which this version of the crate no longer reads");
            return Err(Error::new(ErrorKind::NotAStore, message));
        };
        let transaction = database.begin_write().map_err(engine)?;
        (migration.apply)(&transaction)?;
        meta::set_version(&transaction, version + 1)?;
        transaction.commit().map_err(engine)?;
    }
}

#[cfg(test)]
mod tests {
    use redb::{TableDefinition, backends::InMemoryBackend};

    use super::*;
    use crate::engine::meta::Meta;

    const ADDED: TableDefinition<'_, u64, u64> = TableDefinition::new("reentry/added");

    /// A file of the format that is the first.
    fn database() -> Database {
        let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let transaction = database.begin_write().unwrap();
        meta::write(&transaction, Meta::new([7; 16])).unwrap();
        transaction.commit().unwrap();
        database
    }

    fn version(database: &Database) -> u32 {
        meta::version(&database.begin_read().unwrap()).unwrap()
    }

    fn has_added(database: &Database) -> bool {
        database.begin_read().unwrap().open_table(ADDED).is_ok()
    }

    fn adds(transaction: &WriteTransaction) -> Result<()> {
        transaction.open_table(ADDED).map_err(engine)?.insert(1, 2).map_err(engine)?;
        Ok(())
    }

    fn fails(transaction: &WriteTransaction) -> Result<()> {
        transaction.delete_table(ADDED).map_err(engine)?;
        Err(Error::new(ErrorKind::Corrupt, "a row is damaged"))
    }

    #[test]
    fn a_file_is_brought_to_a_later_format_one_by_one_and_stays_where_one_fails() {
        let last = FORMAT_VERSION + 2;
        let one = Migration { from: FORMAT_VERSION, apply: adds };
        let database = database();
        let broken = [one, Migration { from: FORMAT_VERSION + 1, apply: fails }];
        assert_eq!(migrate_by(&database, &broken, last).unwrap_err().kind(), ErrorKind::Corrupt);
        // What came before the one that failed is there, of that one nothing.
        assert_eq!((version(&database), has_added(&database)), (FORMAT_VERSION + 1, true));
        // This version of the crate refuses what it does not know.
        let refused = meta::read(&database.begin_read().unwrap()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NewerFormat);
        migrate_by(&database, &[Migration { from: FORMAT_VERSION + 1, apply: adds }], last).unwrap();
        assert_eq!(version(&database), last);
        migrate_by(&database, &[], last).unwrap();
    }

    #[test]
    fn a_format_that_nothing_leads_from_is_refused() {
        let error = migrate_by(&database(), &[], FORMAT_VERSION + 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotAStore);
    }

    /// Whoever writes a new format writes what leads to it.
    #[test]
    fn every_older_format_leads_to_this_one() {
        assert!(MIGRATIONS.iter().map(|migration| migration.from).eq(1..FORMAT_VERSION));
    }
}
