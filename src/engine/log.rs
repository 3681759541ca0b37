//! The redb tables: records under ascending sequence numbers, those that ended and those that are unfinished, their
//! tombstones, large bodies, and one meta row.
//!
//! Invariants:
//! 1. No guard or iterator of redb leaves this room, and a read transaction lives for one call, or up to redb's next
//!    commit (`latest`): one held open would make the file grow (redb reclaims nothing that a reader may still see).
//! 2. A number is never used twice: the meta row says from which on they are free, and is written before, or with, the
//!    first row above it.
//! 3. Whatever is read back is checked: the row's own checksum, and for a body apart the one in its record.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, ReadableTableMetadata, WriteTransaction};

use super::changes::Changes;
use super::disk::{Backend, Disk, Fault};
use super::error::{engine, unwound};
use super::gathered::Gathered;
use super::journal::{self, Mark};
use super::meta::{self, FORMAT_VERSION, Meta};
use super::migration::rows;
use super::opened::{Open, Prepared};
use super::place::{BODIES, LOG, NUMBER_MAX, Place, TOMBSTONES, UNFINISHED};
use super::scan::scan;
use super::tables::{Head, Parts};
use super::transaction::ReadTransaction as Rows;
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::record::{Body, Record, format};
use crate::sync::RwLock;

/// How many numbers a copy leaves to the original, which goes on: a token that either gives is never one of the
/// other's. Two million copies of copies use them up; then a copy goes on where the original was.
const NUMBERS_OF_THE_ORIGINAL: u64 = 1 << 40;

/// How thoroughly a store is checked when it opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OpenCheck {
    /// Every page's checksum: about a second for a gigabyte.
    #[default]
    Full,
    /// The rows alone: each by its own checksum, in their order, and that there are as many as the tables count, so
    /// that none is hidden whose key would be executed twice. For those who know why the file cannot have been damaged:
    /// damage to any page that a commit writes anew may then show only at the first one, and end the process there.
    Quick,
}

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// To be changed.
    Write,
    /// To be read alone: what redb writes as it opens the file stays in memory.
    Read,
    /// To be read as far as it can be: what is damaged is passed over.
    Salvage,
}

/// How a file is opened.
#[derive(Clone)]
pub(crate) struct Opening {
    pub(crate) access: Access,
    pub(crate) check: OpenCheck,
    pub(crate) cache_bytes: usize,
    /// Whether a file is refused that others may read or put another in the place of.
    pub(crate) only_private: bool,
    /// Told the share of the work that is done; may break it off.
    pub(crate) progress: Arc<OnProgress>,
}

/// What is told which share of a long work is done, and may break it off.
pub(crate) type OnProgress = dyn Fn(f64) -> ControlFlow<()> + Send + Sync;

/// An open file of records.
#[derive(Debug)]
pub(crate) struct Log {
    disk: Arc<dyn Disk>,
    cache_bytes: usize,
    /// The format that the file has.
    pub(super) format: u32,
    /// Up to which number rows are looked for one by one, where a damaged page of the file keeps them from being found
    /// in order. None but where the file is read as far as it can be.
    pub(super) probes_to: Option<u64>,
    /// What else cannot be read; then likewise.
    pub(super) unread: Vec<String>,
    /// What the journal says beside redb, which cannot be told of it; then likewise.
    pub(super) untold: Changes,
    open: RwLock<State>,
}

/// redb closes the file when it is dropped, and may panic there where it panicked before.
impl Drop for Log {
    fn drop(&mut self) {
        let state = std::mem::replace(&mut *self.open.write(), State::Closed);
        let dropped = unwound(|| {
            if let State::Open(open) = state {
                drop(open.close());
            }
            Ok(())
        });
        // What was leaked, or not dropped to its end, holds the file and its lock.
        drop(dropped.and_then(|()| self.disk.release().map_err(|e| Error::because(ErrorKind::Io, "cannot unlock", e))));
    }
}

/// Whether redb has the file open.
#[derive(Debug)]
enum State {
    Open(Box<Open>),
    /// A full disk kept it from being opened anew.
    Full,
    /// Another fault did; after that nobody knows what the system has dropped.
    Failed,
    Closed,
}

impl Log {
    /// Puts an empty store with this id, and a journal of so many pages, on an empty disk. The secret is nobody's to
    /// know.
    pub(crate) fn initialise(disk: Arc<dyn Disk>, store: [u8; 16], secret: [u8; 16], pages: u32) -> Result<()> {
        let mut builder = redb::Builder::new();
        builder.set_cache_size(1024 * 1024);
        let head = journal::Head::write(&*disk, pages)?;
        let database = builder.create_with_backend(Backend::direct(disk, head.bytes())).map_err(engine)?;
        let transaction = database.begin_write().map_err(engine)?;
        for table in [LOG, UNFINISHED, TOMBSTONES, BODIES] {
            transaction.open_table(table).map_err(engine)?;
        }
        let meta = Meta::new(store);
        meta::write(&transaction, meta)?;
        meta::write_mark(&transaction, Mark::first(secret))?;
        transaction.commit().map_err(engine)?;
        database.close().map_err(engine)
    }

    /// Opens and checks what is on `disk`. Until `each` has seen every record nothing is written, and never where it is
    /// opened to be read; an error refuses the file and leaves it as it was.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        opening: &Opening,
        each: impl Fn(Vec<(Place, Record)>) -> Result<()> + Sync,
    ) -> Result<(Self, Meta)> {
        // redb may panic on a damaged file where the check is off; that too is only an error.
        let (open, meta) = unwound(|| {
            let open = Open::staged(Arc::clone(&disk), opening)?;
            match open.accepted(opening, &each) {
                Ok(meta) => Ok((open, meta)),
                Err(error) => {
                    drop(open.close());
                    Err(error)
                }
            }
        })?;
        let (cache_bytes, probes_to, mut open) = (opening.cache_bytes, None, open);
        // Where it is written to it was brought to the newest.
        let format = if opening.access == Access::Write { FORMAT_VERSION } else { open.found };
        let unread = open.damaged.iter().map(Error::to_string).collect();
        let untold = std::mem::take(&mut open.untold);
        let log = Self {
            disk,
            cache_bytes,
            format,
            probes_to,
            unread,
            untold,
            open: RwLock::new(State::Open(Box::new(open))),
        };
        if opening.access == Access::Salvage { log.salvage(meta, opening, each) } else { Ok((log, meta)) }
    }

    /// Opens and checks a copy of a file of records, lets `each` see every record, and closes it: whole, and needing no
    /// repair when it is next opened. What is numbered after that is numbered higher than what the original numbers.
    pub(crate) fn settle_copy(
        disk: Arc<dyn Disk>,
        opening: &Opening,
        at: Timestamp,
        each: impl Fn(Vec<(Place, Record)>) -> Result<()> + Sync,
    ) -> Result<()> {
        unwound(|| {
            let open = Open::staged(disk, opening)?;
            let mut meta = open.meta()?;
            // What has expired by then is over in the copy too, whatever the clock says where it is opened (P11).
            meta.highest_time = meta.highest_time.max(at.as_millis());
            scan(&open.tables()?, opening, each)?;
            open.accept()?;
            meta.next = meta.next.max(meta.next.saturating_add(NUMBERS_OF_THE_ORIGINAL).min(NUMBER_MAX / 2));
            let transaction = open.database.begin_write()?;
            meta::write(&transaction, meta)?;
            open.commit_in_full(transaction)?;
            open.database.whole()?.close().map_err(engine)
        })
    }

    /// Closes redb and opens it anew on the same disk, as redb asks for after a fault.
    ///
    /// # Errors
    ///
    /// `Full` where it can be tried again; `Failed` where it must not be (P10).
    pub(crate) fn reopen(&self) -> Result<()> {
        let mut state = self.open.write();
        let failed = |error| {
            let message = "the file could not be opened anew after the disk was full";
            Error::because(ErrorKind::Failed, message, error)
        };
        if let State::Open(open) = std::mem::replace(&mut *state, State::Full) {
            let Open { latest, database, backend, .. } = *open;
            drop(latest);
            // Closing writes and syncs; what a sync drops there is gone as well.
            drop(database);
            if backend.fault().is_some_and(|fault| fault.during_sync) {
                *state = State::Failed;
                return Err(failed(Error::new(ErrorKind::Io, "a sync failed as the file was closed")));
            }
        }
        // What the name does not lead to any more nobody may be told of, whether it landed or not.
        let again = Open::again(Arc::clone(&self.disk), self.cache_bytes);
        match again.and_then(|open| self.check_name().map(|()| open)) {
            Ok(open) => *state = State::Open(Box::new(open)),
            Err(error) if error.kind() == ErrorKind::Full => return Err(error),
            Err(error) => {
                *state = State::Failed;
                return Err(failed(error));
            }
        }
        Ok(())
    }

    /// Closes redb for good, lets others open the file, and tells what that came to.
    pub(crate) fn close(&self) -> Result<()> {
        let closed = match std::mem::replace(&mut *self.open.write(), State::Closed) {
            // After a panic of redb's own it may panic again.
            State::Open(open) => unwound(|| open.close()),
            State::Full | State::Failed | State::Closed => Ok(()),
        };
        let released = self.disk.release().map_err(|e| Error::because(ErrorKind::Io, "cannot unlock the file", e));
        closed.and(released)
    }

    /// Leaves redb as it is for good, after a panic in it: its locks are poisoned, and closing it would panic again, in
    /// the worst order twice at once, which ends the process. What it holds is never given back.
    pub(crate) fn give_up(&self) {
        std::mem::forget(std::mem::replace(&mut *self.open.write(), State::Failed));
    }

    /// Gives back what the file holds and does not use, as far as redb can.
    pub(super) fn compact(&self) -> Result<()> {
        let mut state = self.open.write();
        let State::Open(open) = &mut *state else { return state.opened().map(drop) };
        let Open { latest, database, .. } = &mut **open;
        unwound(|| {
            while latest.over(|| database.compact())? {}
            Ok(())
        })
    }

    /// The format of the file on this disk, which is not changed.
    pub(super) fn format_on(disk: Arc<dyn Disk>, opening: &Opening) -> Result<u32> {
        unwound(|| {
            let open = Open::staged(disk, opening)?;
            let found = open.found;
            open.close().map(|()| found)
        })
    }

    /// The gravest fault of the disk since a batch began.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.open.read().opened().ok().and_then(|open| open.backend.fault())
    }

    /// How long syncs took since this was last asked.
    pub(crate) fn take_sync_time(&self) -> Duration {
        self.open.read().opened().map(|open| open.backend.take_sync_time()).unwrap_or_default()
    }

    /// Fails where the file is no longer what its name leads to, or no longer as long as it was made.
    pub(crate) fn check_name(&self) -> Result<()> {
        let gone = "the file was removed, renamed, replaced or cut short while the store was open";
        self.disk.check_name().map_err(|e| Error::because(ErrorKind::Failed, gone, e))
    }

    /// Bytes the file takes.
    pub(crate) fn disk_bytes(&self) -> Result<u64> {
        self.disk.len().map_err(|e| Error::because(ErrorKind::Io, "cannot look at the file", e))
    }

    /// A batch begins.
    pub(crate) fn begin(&self) -> Result<()> {
        let state = self.open.read();
        let open = state.opened()?;
        if let Err(error) = open.follows.check() {
            if open.follows.has_panicked() {
                drop(state);
                self.give_up();
            }
            return Err(error);
        }
        open.check_synced()?;
        if open.backend.fault().is_some() {
            // Only redb knows whether it goes on after that.
            open.begin_write()?.abort().map_err(engine)?;
        }
        open.backend.forget_what_was_made_good();
        Ok(())
    }

    /// Begins redb's one write transaction.
    pub(super) fn begin_write(&self) -> Result<WriteTransaction> {
        self.open.read().opened()?.begin_write()
    }

    /// Decides how a batch is made durable.
    pub(super) fn prepare(&self, parts: Parts) -> Result<Prepared> {
        self.open.read().opened()?.prepare(parts)
    }

    /// Makes durable what was prepared. Whoever reads from now on finds it.
    pub(super) fn commit(&self, prepared: Prepared) -> Result<()> {
        self.open.read().opened()?.commit(prepared)
    }

    /// Whether what is acknowledged is in the journal alone, in part.
    pub(super) fn is_journal_ahead(&self) -> bool {
        let state = self.open.read();
        state.opened().is_ok_and(|open| open.journal.as_ref().is_some_and(|journal| journal.lock().is_ahead()))
    }

    /// The record at `place`, with its bodies; none where it has moved.
    pub(crate) fn read(&self, place: Place) -> Result<Option<Record>> {
        self.find(place, true)
    }

    /// The same without the bodies that stand apart.
    pub(super) fn read_row(&self, place: Place) -> Result<Option<Record>> {
        self.find(place, false)
    }

    /// Looks where redb was not told of it yet, and then in redb.
    fn find(&self, place: Place, is_whole: bool) -> Result<Option<Record>> {
        let state = self.open.read();
        let open = state.opened()?;
        let bodies = || open.database.begin_read()?.open_table(BODIES).map_err(engine);
        if let Some(row) = self.untold.row(place) {
            return unwound(|| record(row, is_whole, &self.untold, bodies)).map_err(|e| at(place, e)).map(Some);
        }
        if let Some(ahead) = open.follows.ahead()
            && let Some(row) = ahead.changes.row(place)
        {
            // While it is held redb has every body that it has not.
            let read = || record(row, is_whole, &ahead.changes, bodies);
            return unwound(read).map_err(|e| at(place, e)).map(Some);
        }
        // While the file is not opened anew: redb forgets what it closes, and whoever reads just then would be told so.
        open.as_of_now(unwound(|| {
            let view = open.latest.view(&open.database)?;
            view.row(place, |row| {
                let bodies = || view.reader.open_table(BODIES).map_err(engine);
                record(row, is_whole, &Changes::default(), bodies).map_err(|e| at(place, e))
            })
        }))
    }

    /// Fills in the bodies that stand apart, of which some are in these changes of a batch.
    pub(super) fn load_bodies(&self, record: &mut Record, changes: &Changes) -> Result<()> {
        if record.rows_apart().next().is_none() {
            return Ok(());
        }
        self.reading(|reader| load_bodies(record, changes, &reader.open_table(BODIES).map_err(engine)?))
    }

    /// Finds the first rows of the table that `head` is in, of those that are `left`: in redb, then in what it is
    /// yet to be told of.
    pub(super) fn head<S>(&self, head: Place, found: &mut Head<S>, left: impl Fn(u64) -> bool) -> Result<()>
    where
        S: Fn(&Record) -> bool,
    {
        let state = self.open.read();
        let open = state.opened()?;
        let ahead = open.follows.ahead();
        let ahead = ahead.as_ref().map(|ahead| ahead.changes.of(head));
        let removed = ahead.map(Gathered::removed).unwrap_or_default();
        let first = ahead.and_then(Gathered::up_to).map_or(head.number(), |last| last.saturating_add(1));
        unwound(|| {
            open.latest.view(&open.database)?.within(head, |table| {
                for row in table.range(first..).map_err(engine)? {
                    if found.is_full() {
                        break;
                    }
                    let (number, row) = row.map_err(engine)?;
                    if left(number.value()) && removed.binary_search(&number.value()).is_err() {
                        found.add(head.beside(number.value()), row.value());
                    }
                }
                Ok(())
            })
        })?;
        for (number, row) in ahead.iter().flat_map(|ahead| ahead.appended()) {
            if found.is_full() {
                break;
            }
            if left(number) {
                found.add(head.beside(number), row);
            }
        }
        Ok(())
    }

    /// Gives up to `most` records from `place` on to `each`, without their bodies. Returns where to go on.
    pub(crate) fn slice(
        &self,
        from: Place,
        most: usize,
        mut each: impl FnMut(Place, Record) -> Result<()>,
    ) -> Result<Option<Place>> {
        self.reading(|reader| {
            let Some(table) = rows(reader, from)? else { return Ok(None) };
            for (seen, row) in table.range(from.number()..).map_err(engine)?.enumerate() {
                let (number, row) = row.map_err(engine)?;
                let place = from.beside(number.value());
                if seen == most {
                    return Ok(Some(place));
                }
                each(place, format::decode(row.value()).map_err(|e| at(place, e))?)?;
            }
            Ok(None)
        })
    }

    /// Whether a row stands at `place`.
    pub(crate) fn holds(&self, place: Place) -> Result<bool> {
        self.reading(|reader| {
            let table = reader.open_table(place.table()).map_err(engine)?;
            Ok(table.get(place.number()).map_err(engine)?.is_some())
        })
    }

    /// How many bodies stand in rows of their own.
    pub(crate) fn bodies(&self) -> Result<u64> {
        self.reading(|reader| reader.open_table(BODIES).map_err(engine)?.len().map_err(engine))
    }

    /// Lets the server read its own rows, all as they were at one moment.
    pub(crate) fn read_rows<T>(&self, read: impl FnOnce(&Rows<'_>) -> T) -> Result<T> {
        Ok(read(&Rows::new(&self.moment()?)))
    }

    /// Reads in one short transaction. redb does not check what it reads, and may panic on a page that was damaged
    /// since the file was opened: to a caller that is an error like any other damage.
    pub(super) fn reading<T>(&self, read: impl FnOnce(&ReadTransaction) -> Result<T>) -> Result<T> {
        self.reading_at(|reader| unwound(|| read(reader)))
    }

    /// The same, where what panics is known already. Meanwhile the file is not opened anew.
    pub(super) fn reading_at<T>(&self, read: impl FnOnce(&ReadTransaction) -> Result<T>) -> Result<T> {
        let state = self.open.read();
        let open = state.opened()?;
        open.as_of_now(open.moment().and_then(|reader| read(&reader)))
    }

    /// The file as it is at this moment.
    pub(super) fn moment(&self) -> Result<ReadTransaction> {
        self.open.read().opened()?.moment()
    }
}

impl State {
    fn opened(&self) -> Result<&Open> {
        match self {
            Self::Open(open) => Ok(open),
            Self::Full => Err(Error::new(ErrorKind::Full, "the disk is full; make room and try again")),
            Self::Failed => Err(Error::new(ErrorKind::Failed, "the disk failed; open the store anew")),
            Self::Closed => Err(Error::new(ErrorKind::Closed, "the store is closed; open it anew")),
        }
    }
}

pub(super) fn tell(opening: &Opening, share: f64) -> Result<()> {
    match (opening.progress)(share) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(broken_off()),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share for people needs no exactness")]
pub(super) fn share(done: u64, of: u64) -> f64 {
    if of == 0 { 1.0 } else { (done as f64 / of as f64).min(1.0) }
}

/// Whoever was told of the progress wants no more of it.
pub(crate) fn broken_off() -> Error {
    Error::new(ErrorKind::Cancelled, "broken off by its own report of progress; nothing is left of it")
}

/// The record in this row; with its bodies, where it is to be whole.
fn record(
    row: &[u8],
    is_whole: bool,
    changes: &Changes,
    bodies: impl FnOnce() -> Result<ReadOnlyTable<u64, &'static [u8]>>,
) -> Result<Record> {
    let mut record = format::decode(row)?;
    if is_whole && record.rows_apart().next().is_some() {
        load_bodies(&mut record, changes, &bodies()?)?;
    }
    Ok(record)
}

/// Fills in the bodies that stand apart: from these changes, or from the table of those that were there before.
pub(super) fn load_bodies(
    record: &mut Record,
    changes: &Changes,
    table: &impl ReadableTable<u64, &'static [u8]>,
) -> Result<()> {
    for body in record.bodies_mut() {
        let Body::Apart { row, len, crc } = *body else { continue };
        let before = if changes.body(row).is_none() { table.get(row).map_err(engine)? } else { None };
        let before = before.as_ref().map(redb::AccessGuard::value);
        let bytes = changes.body(row).or(before).unwrap_or_default();
        if bytes.len() as u64 != u64::from(len) || crc32fast::hash(bytes) != crc {
            return Err(Error::new(ErrorKind::Corrupt, format!("the payload in row {row} does not match its record")));
        }
        *body = Body::Here(bytes.into());
    }
    Ok(())
}

/// Names the row in an error about it.
pub(super) fn at(place: Place, error: Error) -> Error {
    error.within(&format!("row {} of table {}", place.number(), place.table_name()))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::super::mishap::DiskCall;
    use super::super::simulated::SimulatedDisk;
    use super::*;
    use crate::key::{Fingerprint, Key};
    use crate::store::Store;
    use crate::sync::plain::Mutex;

    /// A disk, and how often it had been changed or synced when it was first let go of.
    #[derive(Debug, Default)]
    struct LetGo(SimulatedDisk, Mutex<Option<usize>>);

    impl Disk for LetGo {
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.0.read(offset, out)
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.0.write(offset, data)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.0.set_len(len)
        }

        fn sync(&self) -> io::Result<()> {
            self.0.sync()
        }

        fn release(&self) -> io::Result<()> {
            self.1.lock().get_or_insert(self.0.seen(DiskCall::CHANGES));
            Ok(())
        }
    }

    /// Another process that waits for the file opens it at that moment, and two would write to it.
    #[test]
    fn p1_a_file_is_let_go_of_when_all_that_closing_it_writes_is_written() {
        for is_closed in [true, false] {
            let disk = SimulatedDisk::new();
            Store::builder().open_on(&disk).unwrap().close().unwrap();
            let let_go = Arc::new(LetGo(disk.clone(), Mutex::default()));
            let store = Store::builder().open_disk(Arc::<LetGo>::clone(&let_go)).unwrap();
            drop(store.claim(&Key::new("scope", "order").unwrap(), Fingerprint::of("r")).wait().unwrap());
            assert_eq!(*let_go.1.lock(), None);
            let before = disk.seen(DiskCall::CHANGES);
            if is_closed {
                store.close().unwrap();
            }
            drop(store);
            let after = disk.seen(DiskCall::CHANGES);
            assert!(after > before, "closing writes what the journal has");
            assert_eq!(*let_go.1.lock(), Some(after));
        }
    }
}
