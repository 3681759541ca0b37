//! redb as its last commit left it, for whoever reads one row: to begin a transaction and open its table takes longer
//! than to find a row there, so that is done once a commit.
//!
//! Invariants:
//! 1. Whoever asks after a commit is told sees it: no view from before a commit is kept beyond it.
//! 2. None is kept as a commit begins: redb uses nothing anew that a reader may still see.

use std::fmt;
use std::sync::Arc;

use redb::{ReadOnlyTable, ReadTransaction};

use super::error::engine;
use super::left::Redb;
use super::place::{LOG, Place, UNFINISHED};
use crate::error::Result;
use crate::sync::RwLock;

#[derive(Default)]
pub(super) struct Latest(RwLock<Kept>);

#[derive(Default)]
struct Kept {
    /// How often what was kept was over: a view begun before that is not kept after it.
    ends: u64,
    view: Option<Arc<View>>,
}

/// redb at one moment. It is let go soon: until then redb uses nothing anew that it may see.
pub(super) struct View {
    /// None where one is damaged; whoever asks for a row of it is told.
    log: Option<ReadOnlyTable<u64, &'static [u8]>>,
    unfinished: Option<ReadOnlyTable<u64, &'static [u8]>>,
    pub(super) reader: ReadTransaction,
}

impl fmt::Debug for Latest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Latest").finish_non_exhaustive()
    }
}

impl Latest {
    pub(super) fn view(&self, database: &Redb) -> Result<Arc<View>> {
        self.view_or(|| View::begin(database))
    }

    /// The view that is kept, or one that is begun, and kept where nothing was over meanwhile.
    fn view_or(&self, begin: impl FnOnce() -> Result<View>) -> Result<Arc<View>> {
        let ends = match &*self.0.read() {
            Kept { view: Some(view), .. } => return Ok(Arc::clone(view)),
            kept => kept.ends,
        };
        let view = Arc::new(begin()?);
        self.keep(&view, ends);
        Ok(view)
    }

    /// Keeps what was begun when so much had ended.
    fn keep(&self, view: &Arc<View>, ends: u64) {
        let mut kept = self.0.write();
        if kept.ends == ends {
            kept.view = Some(Arc::clone(view));
        }
    }

    /// Commits, or what else changes what redb shows.
    pub(super) fn over<T>(&self, commit: impl FnOnce() -> T) -> T {
        self.end();
        let done = commit();
        self.end();
        done
    }

    fn end(&self) {
        let mut kept = self.0.write();
        kept.ends = kept.ends.wrapping_add(1);
        let view = kept.view.take();
        drop(kept);
        drop(view);
    }
}

impl View {
    fn begin(database: &Redb) -> Result<Self> {
        let reader = database.begin_read()?;
        let (log, unfinished) = (reader.open_table(LOG).ok(), reader.open_table(UNFINISHED).ok());
        Ok(Self { log, unfinished, reader })
    }

    /// What `read` makes of the row at this place, where there is one.
    pub(super) fn row<T>(&self, place: Place, read: impl FnOnce(&[u8]) -> Result<T>) -> Result<Option<T>> {
        self.within(place, |table| table.get(place.number()).map_err(engine)?.map(|row| read(row.value())).transpose())
    }

    /// What `read` makes of the table that this place is in.
    pub(super) fn within<T>(
        &self,
        place: Place,
        read: impl FnOnce(&ReadOnlyTable<u64, &'static [u8]>) -> Result<T>,
    ) -> Result<T> {
        let open = match place {
            Place::Log(_) => &self.log,
            Place::Unfinished(_) => &self.unfinished,
            Place::Tombstone(_) => &None,
        };
        match open {
            Some(table) => read(table),
            None => read(&self.reader.open_table(place.table()).map_err(engine)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use redb::Database;
    use redb::backends::InMemoryBackend;

    use super::*;

    fn database() -> Redb {
        Redb::Whole(Database::builder().create_with_backend(InMemoryBackend::new()).unwrap())
    }

    fn put(database: &Redb, number: u64) {
        let transaction = database.begin_write().unwrap();
        transaction.open_table(LOG).unwrap().insert(number, &[7][..]).unwrap();
        transaction.commit().unwrap();
    }

    fn has(view: &View, number: u64) -> bool {
        view.row(Place::Log(number), |row| Ok(row.to_vec())).unwrap().is_some_and(|row| row == [7])
    }

    #[test]
    fn p2_what_a_reader_began_before_a_commit_or_in_its_midst_is_not_kept_beyond_it() {
        let (database, latest) = (database(), Latest::default());
        put(&database, 1);
        let before = latest.view(&database).unwrap();
        assert!(has(&before, 1) && Arc::ptr_eq(&before, &latest.view(&database).unwrap()), "it is kept");
        let slow = Arc::new(View::begin(&database).unwrap());
        let ends = latest.0.read().ends;
        latest.over(|| {
            let within = latest.view(&database).unwrap();
            assert!(!Arc::ptr_eq(&within, &before), "it is let go before the commit");
            put(&database, 2);
            assert!(Arc::ptr_eq(&within, &latest.view(&database).unwrap()));
        });
        assert!(has(&latest.view(&database).unwrap(), 2), "one from before the commit was kept");
        latest.over(|| ());
        latest.keep(&slow, ends);
        assert!(
            has(&latest.view(&database).unwrap(), 2),
            "one that was begun before the commit came late and was kept"
        );
        assert!(!has(&before, 2) && !has(&slow, 2), "each shows its moment");
    }

    #[test]
    fn p2_a_reader_that_a_commit_overtook_keeps_its_view_for_itself() {
        let (database, latest) = (database(), Latest::default());
        put(&database, 1);
        let overtaken = latest.view_or(|| {
            let view = View::begin(&database)?;
            latest.over(|| put(&database, 2));
            Ok(view)
        });
        assert!(!has(&overtaken.unwrap(), 2), "it began before the commit");
        assert!(has(&latest.view(&database).unwrap(), 2), "later readers were given what it kept");
    }

    #[test]
    fn a_row_is_found_where_it_stands_and_no_table_of_rows_is_needed_for_the_others() {
        let database = database();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(Place::Tombstone(0).table()).unwrap().insert(3, &[7][..]).unwrap();
        transaction.commit().unwrap();
        let view = Latest::default().view(&database).unwrap();
        let found = |place| view.row(place, |row| Ok(row.len()));
        assert_eq!((found(Place::Tombstone(3)).unwrap(), found(Place::Tombstone(4)).unwrap()), (Some(1), None));
        assert!(found(Place::Log(3)).is_err(), "there is no such table");
    }
}
