//! What the server's own code gets of a transaction: tables of bytes, beside the store's and never among them.
//!
//! Invariants:
//! 1. No type of redb is in a signature here: its next breaking version must not be one of ours.
//! 2. No name that begins with `reentry/` is opened, so nobody but the store touches the store's tables (P8).
//! 3. What is read is copied out, and rows and their iterators borrow the transaction, so nothing outlives the call
//!    that lent it.

use std::fmt;
use std::marker::PhantomData;
use std::ops::RangeBounds;

use redb::{AccessGuard, ReadOnlyTable, ReadableTable, TableDefinition, TableError, WriteTransaction};

use super::error::{engine, unwound};
use crate::error::{Error, ErrorKind, Result};

/// What the names of the store's own tables begin with.
const OWN_PREFIX: &str = "reentry/";

type Bytes = &'static [u8];

/// The name of a table of the server's own, in the file of the store. Keys and values are bytes.
///
/// Rows are in the order of their keys as bytes. A number as a key goes in big-endian (`to_be_bytes`), so that this is
/// the order of the numbers too.
///
/// Names that begin with `reentry/` are the store's. A table exists from its first opening in a [`Transaction`] on.
///
/// ```
/// use reentry::Table;
///
/// const ORDERS: Table = Table::new("orders");
/// assert_eq!(ORDERS.name(), "orders");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    name: &'static str,
}

impl Table {
    /// The table of this name. Whether the name is allowed is told where the table is opened.
    pub const fn new(name: &'static str) -> Self {
        Self { name }
    }

    /// Its name in the file.
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// The table for redb, unless the name is one that callers may not use.
    fn definition(self) -> Result<TableDefinition<'static, Bytes, Bytes>> {
        let fault = match self.name {
            "" => "the name of a table is empty; give at least 1 byte".to_owned(),
            name if name.starts_with(OWN_PREFIX) => {
                format!("tables whose names begin with {OWN_PREFIX} are the store's; give yours another name")
            }
            name => return Ok(TableDefinition::new(name)),
        };
        Err(Error::new(ErrorKind::InvalidName, fault))
    }

    /// Why it does not open. What only the caller can mend is of the kind that says so: trying again cannot help, not
    /// even where the table is open already, since it is this very transaction that holds it.
    fn refused(self, error: TableError) -> Error {
        let name = self.name;
        let fault = match &error {
            // With braces these match in whatever shape redb's features give the variants.
            TableError::TableTypeMismatch { .. } | TableError::TypeDefinitionChanged { .. } => {
                format!("table {name} holds other types than bytes; give yours another name")
            }
            TableError::TableIsMultimap(_) => {
                format!("table {name} holds several values under a key; give yours another name")
            }
            TableError::TableAlreadyOpen(..) => {
                format!("table {name} is open in this transaction already; go on with those rows, or drop them first")
            }
            _ => return engine(error),
        };
        Error::because(ErrorKind::InvalidName, fault, error)
    }
}

/// The transaction that the store commits a change in, lent to the server's own code: what is written here becomes
/// durable together with that change, or not at all.
pub struct Transaction<'t> {
    inner: &'t WriteTransaction,
}

impl<'t> Transaction<'t> {
    pub(crate) fn new(inner: &'t WriteTransaction) -> Self {
        Self { inner }
    }

    /// Opens a table, and creates it where there is none.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidName`] where the name is empty or begins with `reentry/`, where the file has a table of that
    /// name whose keys or values are no bytes, and where this transaction has the table open already: only one [`Rows`]
    /// of each table lives at a time. All of them are for the caller to mend, and nothing was touched. Else what the
    /// file tells.
    pub fn open_table(&self, table: Table) -> Result<Rows<'_>> {
        let rows = self.inner.open_table(table.definition()?).map_err(|e| table.refused(e))?;
        Ok(Rows { rows })
    }
}

/// The rows of one table, to read and to write. What is written is seen by the next read.
pub struct Rows<'t> {
    rows: redb::Table<'t, Bytes, Bytes>,
}

impl Rows<'_> {
    /// The value under a key.
    ///
    /// # Errors
    ///
    /// What the file tells.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        get(&self.rows, key.as_ref())
    }

    /// Puts a value under a key and returns the one that stood there before.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::PayloadTooLarge`] where key or value is over 3 GiB, or both together over 3.75 GiB, which is redb's
    /// limit; else what the file tells.
    pub fn insert(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        unwound(|| Ok(copied(self.rows.insert(key.as_ref(), value.as_ref()).map_err(engine)?)))
    }

    /// Removes a key and returns the value that stood there.
    ///
    /// # Errors
    ///
    /// What the file tells.
    pub fn remove(&mut self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        unwound(|| Ok(copied(self.rows.remove(key.as_ref()).map_err(engine)?)))
    }

    /// How many rows there are; takes no longer for more of them.
    ///
    /// # Errors
    ///
    /// What the file tells.
    pub fn len(&self) -> Result<u64> {
        len(&self.rows)
    }

    /// Whether there is no row.
    ///
    /// # Errors
    ///
    /// What the file tells.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// The rows with keys within these bounds, ascending; from the back, descending. `..` is all of them, and bounds
    /// that cross are none.
    ///
    /// # Errors
    ///
    /// What the file tells; while iterating too.
    pub fn range<'k>(&self, bounds: impl RangeBounds<&'k [u8]>) -> Result<RowRange<'_>> {
        range(&self.rows, bounds)
    }
}

/// The store's file at one moment, lent to the server's own code to read its tables.
///
/// What is committed meanwhile is not seen. The file cannot reuse what is freed meanwhile, so be brief.
pub struct ReadTransaction<'t> {
    inner: &'t redb::ReadTransaction,
}

impl<'t> ReadTransaction<'t> {
    pub(crate) fn new(inner: &'t redb::ReadTransaction) -> Self {
        Self { inner }
    }

    /// Opens a table. One that does not exist yet reads as empty.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidName`] where the name is empty or begins with `reentry/`, and where the file has a table of
    /// that name whose keys or values are no bytes: for the caller to mend. Else what the file tells.
    pub fn open_table(&self, table: Table) -> Result<ReadRows<'_>> {
        let definition = table.definition()?;
        let rows = match unwound(|| Ok(self.inner.open_table(definition)))? {
            Ok(rows) => Some(rows),
            Err(TableError::TableDoesNotExist(_)) => None,
            Err(error) => return Err(table.refused(error)),
        };
        Ok(ReadRows { rows, transaction: PhantomData })
    }
}

/// The rows of one table, to read.
pub struct ReadRows<'t> {
    /// None where the table does not exist yet.
    rows: Option<ReadOnlyTable<Bytes, Bytes>>,
    /// redb's table would keep the transaction open for as long as it lives itself; this one may not outlive the call.
    transaction: PhantomData<&'t ReadTransaction<'t>>,
}

impl ReadRows<'_> {
    /// The value under a key.
    ///
    /// # Errors
    ///
    /// What the file tells.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        self.rows.as_ref().map_or(Ok(None), |rows| get(rows, key.as_ref()))
    }

    /// How many rows there are; takes no longer for more of them.
    ///
    /// # Errors
    ///
    /// What the file tells.
    pub fn len(&self) -> Result<u64> {
        self.rows.as_ref().map_or(Ok(0), len)
    }

    /// Whether there is no row.
    ///
    /// # Errors
    ///
    /// What the file tells.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// The rows with keys within these bounds, as [`Rows::range`] gives them.
    ///
    /// # Errors
    ///
    /// What the file tells; while iterating too.
    pub fn range<'k>(&self, bounds: impl RangeBounds<&'k [u8]>) -> Result<RowRange<'_>> {
        self.rows.as_ref().map_or(Ok(RowRange { rest: None }), |rows| range(rows, bounds))
    }
}

/// Keys and values in the order of the keys, as [`Rows::range`] and [`ReadRows::range`] give them.
///
/// An error is the last thing it gives: what lies behind it cannot be read either.
pub struct RowRange<'r> {
    /// None after the end and after an error, which redb would repeat for ever.
    rest: Option<redb::Range<'r, Bytes, Bytes>>,
}

type Read<'r> = Option<Result<(AccessGuard<'r, Bytes>, AccessGuard<'r, Bytes>), redb::StorageError>>;

impl<'r> RowRange<'r> {
    fn step(
        &mut self,
        read: impl FnOnce(&mut redb::Range<'r, Bytes, Bytes>) -> Read<'r>,
    ) -> Option<Result<(Vec<u8>, Vec<u8>)>> {
        let rest = self.rest.as_mut()?;
        let read = unwound(|| {
            let row = read(rest).transpose().map_err(engine)?;
            Ok(row.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())))
        });
        if !matches!(read, Ok(Some(_))) {
            self.rest = None;
        }
        read.transpose()
    }
}

impl Iterator for RowRange<'_> {
    type Item = Result<(Vec<u8>, Vec<u8>)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(redb::Range::next)
    }
}

impl DoubleEndedIterator for RowRange<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(redb::Range::next_back)
    }
}

impl std::iter::FusedIterator for RowRange<'_> {}

fn get(rows: &impl ReadableTable<Bytes, Bytes>, key: &[u8]) -> Result<Option<Vec<u8>>> {
    unwound(|| Ok(copied(rows.get(key).map_err(engine)?)))
}

fn len(rows: &impl ReadableTable<Bytes, Bytes>) -> Result<u64> {
    rows.len().map_err(engine)
}

fn range<'r, 'k>(
    rows: &'r impl ReadableTable<Bytes, Bytes>,
    bounds: impl RangeBounds<&'k [u8]>,
) -> Result<RowRange<'r>> {
    let bounds = (bounds.start_bound().cloned(), bounds.end_bound().cloned());
    unwound(|| Ok(RowRange { rest: Some(rows.range::<&[u8]>(bounds).map_err(engine)?) }))
}

fn copied(value: Option<AccessGuard<'_, Bytes>>) -> Option<Vec<u8>> {
    value.map(|value| value.value().to_vec())
}

macro_rules! debug_without_contents {
    ($($type:ident),*) => {$(
        /// What is in the tables is the server's and does not belong in a log line.
        impl fmt::Debug for $type<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($type)).finish_non_exhaustive()
            }
        }
    )*};
}

debug_without_contents!(Transaction, Rows, ReadTransaction, ReadRows, RowRange);

#[cfg(test)]
mod tests {
    use std::io;
    use std::ops::Bound;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use redb::backends::InMemoryBackend;
    use redb::{Database, MultimapTableDefinition, ReadableDatabase, StorageBackend};

    use super::*;

    const ORDERS: Table = Table::new("orders");
    const MAILS: Table = Table::new("mails");

    type Bounds<'k> = (Bound<&'k [u8]>, Bound<&'k [u8]>);

    /// Memory that cannot be read while `broken` is set.
    #[derive(Debug, Default)]
    struct Fragile {
        memory: InMemoryBackend,
        broken: Arc<AtomicBool>,
    }

    impl StorageBackend for Fragile {
        fn len(&self) -> io::Result<u64> {
            self.memory.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            if self.broken.load(Ordering::Relaxed) {
                return Err(io::Error::other("broken"));
            }
            self.memory.read(offset, out)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.memory.set_len(len)
        }

        fn sync_data(&self) -> io::Result<()> {
            self.memory.sync_data()
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.memory.write(offset, data)
        }
    }

    fn database() -> Database {
        Database::builder().create_with_backend(InMemoryBackend::new()).unwrap()
    }

    /// Commits what `write` does.
    fn write<T>(database: &Database, write: impl FnOnce(&Transaction<'_>) -> Result<T>) -> T {
        let transaction = database.begin_write().unwrap();
        let written = write(&Transaction::new(&transaction)).unwrap();
        transaction.commit().unwrap();
        written
    }

    fn read<T>(database: &Database, read: impl FnOnce(&ReadTransaction<'_>) -> Result<T>) -> Result<T> {
        read(&ReadTransaction::new(&database.begin_read().unwrap()))
    }

    fn keys(rows: RowRange<'_>) -> Vec<String> {
        rows.map(|row| String::from_utf8(row.unwrap().0).unwrap()).collect()
    }

    #[test]
    fn what_is_written_is_read_in_the_transaction_and_after_it() {
        let database = database();
        write(&database, |transaction| {
            let mut orders = transaction.open_table(ORDERS)?;
            assert!(orders.is_empty()?);
            assert_eq!(orders.insert("1", "pizza")?, None);
            assert_eq!(orders.insert(b"1", vec![7])?, Some(b"pizza".to_vec()));
            assert_eq!(orders.insert([], [])?, None);
            assert_eq!(orders.insert("2", "gone")?, None);
            assert_eq!((orders.remove("2")?, orders.remove("2")?), (Some(b"gone".to_vec()), None));
            assert_eq!((orders.get("1")?, orders.get([])?, orders.get("2")?), (Some(vec![7]), Some(vec![]), None));
            assert_eq!((orders.len()?, orders.is_empty()?), (2, false));
            Ok(())
        });
        let (value, len) = read(&database, |transaction| {
            let orders = transaction.open_table(ORDERS)?;
            assert!(!orders.is_empty()?);
            Ok((orders.get("1")?, orders.len()?))
        })
        .unwrap();
        assert_eq!((value, len), (Some(vec![7]), 2));
    }

    #[test]
    fn what_is_not_committed_is_not_there() {
        let database = database();
        let transaction = database.begin_write().unwrap();
        Transaction::new(&transaction).open_table(ORDERS).unwrap().insert("1", "pizza").unwrap();
        transaction.abort().unwrap();
        assert!(read(&database, |transaction| transaction.open_table(ORDERS)?.is_empty()).unwrap());
    }

    #[test]
    fn two_tables_are_open_at_once_and_apart() {
        let database = database();
        write(&database, |transaction| {
            let (mut orders, mut mails) = (transaction.open_table(ORDERS)?, transaction.open_table(MAILS)?);
            orders.insert("1", "pizza")?;
            mails.insert("1", "thanks")?;
            assert_eq!((orders.get("1")?, mails.len()?), (Some(b"pizza".to_vec()), 1));
            Ok(())
        });
        let mail = read(&database, |transaction| transaction.open_table(MAILS)?.get("1")).unwrap();
        assert_eq!(mail, Some(b"thanks".to_vec()));
    }

    #[test]
    fn bounds_are_exact_in_both_directions() {
        let database = database();
        let all = ["a", "ab", "b", "c"];
        let check = |keys_within: &dyn Fn(Bounds<'_>) -> Vec<String>| {
            let (ab, c) = (b"ab".as_slice(), b"c".as_slice());
            assert_eq!(keys_within((Bound::Unbounded, Bound::Unbounded)), all);
            assert_eq!(keys_within((Bound::Included(ab), Bound::Excluded(c))), ["ab", "b"]);
            assert_eq!(keys_within((Bound::Excluded(ab), Bound::Included(c))), ["b", "c"]);
            assert_eq!(keys_within((Bound::Included(b"aa"), Bound::Unbounded)), ["ab", "b", "c"]);
            assert!(keys_within((Bound::Included(c), Bound::Included(ab))).is_empty());
            assert!(keys_within((Bound::Excluded(c), Bound::Excluded(c))).is_empty());
        };
        write(&database, |transaction| {
            let mut orders = transaction.open_table(ORDERS)?;
            all.iter().rev().try_for_each(|key| orders.insert(key, "").map(drop))?;
            check(&|bounds| keys(orders.range(bounds).unwrap()));
            assert_eq!(keys(orders.range(b"b".as_slice()..)?), ["b", "c"]);
            Ok(())
        });
        read(&database, |transaction| {
            let orders = transaction.open_table(ORDERS)?;
            check(&|bounds| keys(orders.range(bounds).unwrap()));
            let backwards: Vec<_> = orders.range(..)?.rev().map(|row| row.unwrap().0).collect();
            assert_eq!(backwards, [b"c".as_slice(), b"b", b"ab", b"a"]);
            let mut both = orders.range(..)?;
            assert_eq!((both.next_back().unwrap()?.0, both.next().unwrap()?.0), (b"c".to_vec(), b"a".to_vec()));
            assert_eq!((both.by_ref().count(), both.next().is_none(), both.next_back().is_none()), (2, true, true));
            Ok(())
        })
        .unwrap();
    }

    #[test]
    fn big_endian_numbers_are_in_the_order_of_numbers() {
        write(&database(), |transaction| {
            let mut orders = transaction.open_table(ORDERS)?;
            for number in [256_u64, 1, 255] {
                orders.insert(number.to_be_bytes(), "")?;
            }
            let numbers: Vec<_> = orders.range(2_u64.to_be_bytes().as_slice()..)?.map(|row| row.unwrap().0).collect();
            assert_eq!(numbers, [255_u64.to_be_bytes(), 256_u64.to_be_bytes()]);
            Ok(())
        });
    }

    #[test]
    fn p8_the_stores_tables_and_empty_names_are_refused() {
        let database = database();
        let is_refused = |error: Error, name: &str| {
            assert_eq!(error.kind(), ErrorKind::InvalidName, "{name}: {error}");
            assert!(name.is_empty() || error.to_string().contains("are the store's"), "{name}: {error}");
        };
        for name in ["reentry/log", "reentry/meta", "reentry/mine", "reentry/", ""] {
            write(&database, |transaction| {
                is_refused(transaction.open_table(Table::new(name)).unwrap_err(), name);
                Ok(())
            });
            is_refused(read(&database, |t| t.open_table(Table::new(name)).map(drop)).unwrap_err(), name);
        }
        assert_eq!(database.begin_read().unwrap().list_tables().unwrap().count(), 0);
        write(&database, |transaction| transaction.open_table(Table::new("reentry")).map(drop));
    }

    #[test]
    fn a_table_that_does_not_exist_reads_as_empty() {
        let database = database();
        read(&database, |transaction| {
            let orders = transaction.open_table(ORDERS)?;
            assert_eq!((orders.get("1")?, orders.len()?, orders.is_empty()?), (None, 0, true));
            assert_eq!((orders.range(..)?.count(), orders.range(..)?.rev().count()), (0, 0));
            Ok(())
        })
        .unwrap();
    }

    #[test]
    fn tables_of_other_types_are_refused_and_stay_as_they_are() {
        const NUMBERS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("orders");
        const SEVERAL: MultimapTableDefinition<'_, &[u8], &[u8]> = MultimapTableDefinition::new("mails");
        let database = database();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(NUMBERS).unwrap().insert(1, b"pizza".as_slice()).unwrap();
        transaction.open_multimap_table(SEVERAL).unwrap().insert(b"1".as_slice(), b"thanks".as_slice()).unwrap();
        transaction.commit().unwrap();
        for (table, fault) in [(ORDERS, "other types"), (MAILS, "several values")] {
            let written = write(&database, |transaction| Ok(transaction.open_table(table).unwrap_err()));
            let read = read(&database, |transaction| transaction.open_table(table).map(drop)).unwrap_err();
            for error in [written, read] {
                assert_eq!(error.kind(), ErrorKind::InvalidName, "{error}");
                assert!(error.to_string().contains(fault) && error.to_string().contains(table.name()), "{error}");
            }
        }
        let reader = database.begin_read().unwrap();
        assert_eq!(reader.open_table(NUMBERS).unwrap().get(1).unwrap().unwrap().value(), b"pizza");
    }

    #[test]
    fn a_table_is_opened_once_at_a_time_for_writing_and_often_for_reading() {
        let database = database();
        write(&database, |transaction| {
            let mut orders = transaction.open_table(ORDERS)?;
            let error = transaction.open_table(ORDERS).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidName);
            assert!(error.to_string().contains("open in this transaction already"), "{error}");
            orders.insert("1", "pizza")?;
            drop(orders);
            assert_eq!(transaction.open_table(ORDERS)?.len()?, 1);
            Ok(())
        });
        read(&database, |transaction| {
            let (one, two) = (transaction.open_table(ORDERS)?, transaction.open_table(ORDERS)?);
            assert_eq!(one.get("1")?, two.get("1")?);
            Ok(())
        })
        .unwrap();
    }

    #[test]
    fn a_range_ends_with_its_first_error() {
        for is_backwards in [false, true] {
            let disk = Fragile::default();
            let broken = Arc::clone(&disk.broken);
            let database = Database::builder().set_cache_size(0).create_with_backend(disk).unwrap();
            write(&database, |transaction| {
                let mut orders = transaction.open_table(ORDERS)?;
                (0..1000_u32).try_for_each(|n| orders.insert(n.to_be_bytes(), [0; 100]).map(drop))
            });
            read(&database, |transaction| {
                let orders = transaction.open_table(ORDERS)?;
                let mut rows = orders.range(..)?;
                let mut next = || if is_backwards { rows.next_back() } else { rows.next() };
                assert!(next().unwrap().is_ok());
                broken.store(true, Ordering::Relaxed);
                // More than there are: an iterator that repeats its error gives as many as it is asked for.
                let rest: Vec<_> = std::iter::from_fn(next).take(2000).collect();
                assert_eq!(rest.iter().filter(|row| row.is_err()).count(), 1, "of {}", rest.len());
                assert_eq!(rest.last().unwrap().as_ref().unwrap_err().kind(), ErrorKind::Io);
                assert!(rows.next().is_none() && rows.next_back().is_none());
                Ok(())
            })
            .unwrap();
        }
    }

    #[test]
    fn debug_shows_no_contents() {
        let database = database();
        let shown = write(&database, |transaction| {
            let mut orders = transaction.open_table(ORDERS)?;
            orders.insert("secret", "secret")?;
            Ok(format!("{transaction:?} {orders:?} {:?}", orders.range(..)?))
        });
        let read = read(&database, |transaction| {
            let orders = transaction.open_table(ORDERS)?;
            Ok(format!("{transaction:?} {orders:?} {:?}", orders.range(..)?))
        });
        let shown = shown + &read.unwrap();
        assert!(shown.contains("ReadRows") && !shown.contains("secret") && !shown.contains("115, 101"), "{shown}");
    }
}
