//! What is done to a file that nobody has open: made smaller, and brought to a newer format.

use std::path::Path;
use std::sync::Arc;

use redb::{Database, ReadableDatabase, WriteTransaction};

use super::disk::Disk;
use super::error::{engine, unwound};
use super::file;
use super::log::{Access, Log, Opening};
use super::meta::{self, FORMAT_VERSION};
use crate::error::{Error, ErrorKind, Result};

/// What brings a file from one format to the next.
pub(super) struct Migration {
    pub(super) from: u32,
    pub(super) apply: fn(&WriteTransaction) -> Result<()>,
}

/// From each older format to the next, in order. There is none yet: format 1 is the first.
const MIGRATIONS: &[Migration] = &[];

/// Makes the file smaller where it holds space that nothing uses. Returns how long it was, and is now.
pub(crate) fn compact(path: &Path, opening: &Opening) -> Result<[u64; 2]> {
    let named = |error: Error| error.within(&path.display().to_string());
    let disk: Arc<dyn Disk> = Arc::new(file::open_to_write(path)?);
    let (log, _) = Log::open(disk, opening, |_, _| Ok(())).map_err(named)?;
    let before = log.disk_bytes()?;
    log.compact().map_err(named)?;
    let after = log.disk_bytes()?;
    log.close().map_err(named)?;
    Ok([before, after])
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
