//! What brings a file of an older format to this one: as it is opened, before anything else of it is read, and in one
//! commit. Where the file is only read that stays in memory, as all does that opening writes (`opened`).
//!
//! Invariant: nobody else knows of an older format, but for whoever reads what redb cannot repair (`rows`).

use redb::{ReadTransaction, TableError, WriteTransaction};

use super::error::{engine, unwound};
use super::meta::{self, FORMAT_VERSION};
use super::place::{LOG, Place, UNFINISHED};
use super::scan::Rows;
use crate::error::{Error, ErrorKind, Result};
use crate::record::format;

/// What brings a file from one format to the next.
struct Migration {
    from: u32,
    apply: fn(&WriteTransaction) -> Result<()>,
}

/// From each older format to the next, in order.
const MIGRATIONS: &[Migration] = &[Migration { from: 1, apply: part_what_is_unfinished }];

/// Brings a file of this format to the newest, one format after the other.
pub(super) fn migrate(transaction: &WriteTransaction, found: u32) -> Result<()> {
    migrate_by(transaction, MIGRATIONS, found, FORMAT_VERSION)
}

fn migrate_by(transaction: &WriteTransaction, migrations: &[Migration], found: u32, newest: u32) -> Result<()> {
    for version in found..newest {
        let Some(migration) = migrations.iter().find(|migration| migration.from == version) else {
            let message = format!("the store has format {version}, which this version of the crate no longer reads");
            return Err(Error::new(ErrorKind::NotAStore, message));
        };
        (migration.apply)(transaction)?;
    }
    meta::set_version(transaction, newest)
}

/// In format 1 the log holds what is unfinished too. A row that is damaged stays where it is: whoever opens the file is
/// told.
fn part_what_is_unfinished(transaction: &WriteTransaction) -> Result<()> {
    let mut unfinished = transaction.open_table(UNFINISHED).map_err(engine)?;
    let mut log = transaction.open_table(LOG).map_err(engine)?;
    let is_unfinished = |_: u64, row: &[u8]| format::decode(row).is_ok_and(|record| record.is_unfinished());
    for row in log.extract_if(is_unfinished).map_err(engine)? {
        let (number, row) = row.map_err(engine)?;
        if unfinished.insert(number.value(), row.value()).map_err(engine)?.is_some() {
            return Err(Error::new(ErrorKind::Corrupt, format!("row {} stands in two tables", number.value())));
        }
    }
    Ok(())
}

/// The table that this place is in. None where there is none yet in the format of the file, which could not be brought
/// to this one, since redb cannot repair it; which format that is may be damaged too.
pub(super) fn rows(reader: &ReadTransaction, place: Place) -> Result<Option<Rows>> {
    match reader.open_table(place.table()) {
        Err(TableError::TableDoesNotExist(_))
            if matches!(place, Place::Unfinished(_)) && may_be_of_the_first(reader) =>
        {
            Ok(None)
        }
        Err(TableError::TableDoesNotExist(name)) => {
            Err(Error::new(ErrorKind::Corrupt, format!("the file is damaged: it has no table {name}")))
        }
        opened => opened.map(Some).map_err(engine),
    }
}

/// Whether the file has the first format, or its meta row is damaged and it may: redb may panic as it reads that.
fn may_be_of_the_first(reader: &ReadTransaction) -> bool {
    unwound(|| meta::version(reader)).map_or(true, |version| version == 1)
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;
    use redb::{Database, ReadableDatabase, TableDefinition};

    use super::*;
    use crate::engine::meta::Meta;

    const ADDED: TableDefinition<'_, u64, u64> = TableDefinition::new("reentry/added");

    /// A file of this format.
    fn database() -> Database {
        let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let transaction = database.begin_write().unwrap();
        meta::write(&transaction, Meta::new([7; 16])).unwrap();
        transaction.commit().unwrap();
        database
    }

    fn adds(transaction: &WriteTransaction) -> Result<()> {
        transaction.open_table(ADDED).map_err(engine)?.insert(1, 2).map_err(engine)?;
        Ok(())
    }

    fn removes(transaction: &WriteTransaction) -> Result<()> {
        assert!(transaction.delete_table(ADDED).map_err(engine)?, "what comes before was done");
        Ok(())
    }

    #[test]
    fn a_file_is_brought_to_a_later_format_one_by_one() {
        let database = database();
        let migrations = [(1, removes as fn(&_) -> _), (0, adds)]
            .map(|(later, apply)| Migration { from: FORMAT_VERSION + later, apply });
        let transaction = database.begin_write().unwrap();
        migrate_by(&transaction, &migrations, FORMAT_VERSION, FORMAT_VERSION + 2).unwrap();
        transaction.commit().unwrap();
        let reader = database.begin_read().unwrap();
        assert_eq!(meta::version(&reader).unwrap(), FORMAT_VERSION + 2);
        assert_eq!(meta::read(&reader).unwrap_err().kind(), ErrorKind::NewerFormat, "of this crate it is not");
    }

    #[test]
    fn a_format_that_nothing_leads_from_is_refused() {
        let transaction = database().begin_write().unwrap();
        let migrations = [Migration { from: 1, apply: adds }];
        let error = migrate_by(&transaction, &migrations, 1, 3).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotAStore);
        assert!(error.to_string().contains("format 2"), "{error}");
    }

    /// Whoever writes a new format writes what leads to it.
    #[test]
    fn every_older_format_leads_to_this_one() {
        assert!(MIGRATIONS.iter().map(|migration| migration.from).eq(1..FORMAT_VERSION));
    }
}
