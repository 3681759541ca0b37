//! redb with a store's file open, and the journal in front of it: how that comes to be, commits, and ends.
//!
//! Invariant: nothing is written to a file before it is accepted, and never where it is opened to be read.

use std::sync::Arc;

use redb::{Database, ReadableDatabase, ReadableTableMetadata, WriteTransaction};

use super::changes::Changes;
use super::disk::{Backend, Disk};
use super::error::{drop_unwinding, engine};
use super::follows::Follows;
use super::journal::{Head, Journal};
use super::latest::Latest;
use super::log::{Access, OpenCheck, Opening, Place, at, tell};
use super::meta::{self, Meta};
use super::tables::Parts;
use crate::error::{Error, ErrorKind, Result};
use crate::record::{Record, format};
use crate::sync::Mutex;

/// The part of opening that checking the pages is taken for; the rest is reading the rows.
const SHARE_OF_CHECK: f64 = 0.5;

/// How many rows are read from one report of progress to the next.
const ROWS_A_REPORT: u32 = 16 * 1024;

/// A batch that is to be made durable.
pub(super) enum Prepared {
    /// As an entry of the journal, which says these changes.
    Entry(Vec<u8>, Box<Changes>),
    /// By redb.
    InFull(Box<WriteTransaction>),
}

#[derive(Debug)]
pub(super) struct Open {
    /// What redb is told later than those who asked for it.
    pub(super) follows: Follows,
    /// What reads one row of redb's; gone before redb is.
    pub(super) latest: Latest,
    pub(super) database: Database,
    pub(super) backend: Backend,
    /// None where the file has none: it was made before there was one.
    pub(super) journal: Option<Mutex<Journal>>,
    /// Where the journal is damaged; then the file is read as far as it can be.
    pub(super) damaged: Option<Error>,
}

impl Open {
    /// Opens what is on the disk and writes nothing to it yet.
    pub(super) fn staged(disk: Arc<dyn Disk>, opening: &Opening) -> Result<Self> {
        let unreadable = |e| Error::because(ErrorKind::Io, "cannot read the file", e);
        let is_salvage = opening.access == Access::Salvage;
        let (head, damaged) = match Head::read(&*disk) {
            Err(error) if is_salvage => (Head::find(&*disk), Some(error)),
            head => (head?, None),
        };
        let backend = Backend::staged(disk, head.map_or(0, Head::bytes)).map_err(unreadable)?;
        let mut builder = builder(opening.cache_bytes);
        let progress = Arc::clone(&opening.progress);
        builder.set_repair_callback(move |session| {
            if progress(session.progress() * SHARE_OF_CHECK).is_break() {
                session.abort();
            }
        });
        builder.set_check_integrity_on_open(opening.check == OpenCheck::Full);
        let mut open = Self::with(&builder, backend, head, is_salvage)?;
        open.damaged = open.damaged.or(damaged);
        Ok(open)
    }

    /// Opens what this process wrote to the disk before.
    pub(super) fn again(disk: Arc<dyn Disk>, cache_bytes: usize) -> Result<Self> {
        let head = Head::read(&*disk)?;
        let backend = Backend::direct(disk, head.map_or(0, Head::bytes));
        let open = Self::with(&builder(cache_bytes), backend, head, false)?;
        open.journal.iter().try_for_each(|journal| journal.lock().make_durable(&open.backend))?;
        Ok(open)
    }

    fn with(builder: &redb::Builder, backend: Backend, head: Option<Head>, is_salvage: bool) -> Result<Self> {
        let database = builder.create_with_backend(backend.clone()).map_err(engine)?;
        let (follows, latest) = (Follows::default(), Latest::default());
        let mut open = Self { follows, latest, database, backend, journal: None, damaged: None };
        let Some(head) = head else { return Ok(open) };
        match Journal::open(&open.database, &open.backend, head) {
            Ok((journal, None)) => open.journal = Some(Mutex::new(journal)),
            // Nothing is written where a file is read as far as it can be.
            Ok((_, Some(error))) | Err(error) if is_salvage => open.damaged = Some(error),
            Ok((_, Some(error))) | Err(error) => {
                drop(open.close());
                return Err(error);
            }
        }
        Ok(open)
    }

    /// Writes what was staged.
    pub(super) fn accept(&self) -> Result<()> {
        self.backend.accept().map_err(|e| engine(redb::Error::Io(e)))?;
        self.journal.iter().try_for_each(|journal| journal.lock().make_durable(&self.backend))
    }

    /// Decides how a batch is made durable: as an entry of the journal, where that says all that it does and there is
    /// room, else by a commit in full. Of neither anything is durable yet.
    pub(super) fn prepare(&self, parts: Parts) -> Result<Prepared> {
        let Parts { changes, meta, transaction, is_entry } = parts;
        if is_entry
            && let Some(journal) = &self.journal
            && let Some(entry) = journal.lock().entry(&changes)?
        {
            return Ok(Prepared::Entry(entry, Box::new(changes)));
        }
        let transaction = match transaction {
            Some(transaction) => transaction,
            None => self.begin_write()?,
        };
        changes.apply(&transaction)?;
        meta.map_or(Ok(()), |meta| meta::write(&transaction, meta))?;
        self.mark(&transaction)?;
        Ok(Prepared::InFull(Box::new(transaction)))
    }

    /// Makes durable what was prepared. Whoever reads from now on finds it.
    pub(super) fn commit(&self, prepared: Prepared) -> Result<()> {
        match (prepared, &self.journal) {
            (Prepared::Entry(entry, changes), Some(journal)) => {
                journal.lock().append(&self.backend, &entry)?;
                self.follows.put(&changes);
            }
            (Prepared::InFull(transaction), journal) => {
                self.latest.over(|| transaction.commit()).map_err(engine)?;
                if let Some(journal) = journal {
                    journal.lock().taken_in();
                }
            }
            (Prepared::Entry(..), None) => {
                return Err(Error::new(ErrorKind::Failed, "an entry was made for a file without a journal"));
            }
        }
        self.check_synced()
    }

    /// Fails where a sync did. redb goes on where that was in a write ahead of its time, before which a file grows.
    pub(super) fn check_synced(&self) -> Result<()> {
        if self.backend.fault().is_some_and(|fault| fault.during_sync) {
            return Err(Error::new(ErrorKind::Io, "a sync failed: nobody knows what it dropped"));
        }
        Ok(())
    }

    /// redb's write transaction, ahead of which is nothing.
    pub(super) fn begin_write(&self) -> Result<WriteTransaction> {
        self.follows.catch_up(&self.database, &self.latest)?;
        self.database.begin_write().map_err(engine)
    }

    fn mark(&self, transaction: &WriteTransaction) -> Result<()> {
        self.journal.iter().try_for_each(|journal| journal.lock().prepare(transaction))
    }

    /// Commits what no entry of the journal says, and with it what they say.
    pub(super) fn commit_in_full(&self, transaction: WriteTransaction) -> Result<()> {
        self.mark(&transaction)?;
        self.commit(Prepared::InFull(Box::new(transaction)))
    }

    /// Reads all that is there, and accepts it where it is to be written.
    pub(super) fn accepted(
        &self,
        opening: &Opening,
        mut each: impl FnMut(Place, Record) -> Result<()>,
    ) -> Result<Meta> {
        if opening.access == Access::Salvage {
            return Ok(Meta::unknown());
        }
        let meta = self.meta()?;
        self.scan(opening, |place, record| match place.number() {
            number if number >= meta.next => Err(at(place, Error::new(ErrorKind::Corrupt, "it was never given"))),
            _ => each(place, record),
        })?;
        if opening.access == Access::Write {
            self.accept()?;
        }
        Ok(meta)
    }

    /// Closes redb. Where nothing was accepted it is left without the commit by which it closes: that would stay in
    /// memory, and a damaged page that it writes anew could end the process (docs/reliability.md).
    pub(super) fn close(self) -> Result<()> {
        if self.backend.is_staged() {
            drop_unwinding(self);
            return Ok(());
        }
        let Self { follows, latest, database, .. } = self;
        drop((follows, latest));
        database.close().map_err(engine)
    }

    pub(super) fn meta(&self) -> Result<Meta> {
        meta::read(&self.database.begin_read().map_err(engine)?)
    }

    pub(super) fn scan(&self, opening: &Opening, mut each: impl FnMut(Place, Record) -> Result<()>) -> Result<()> {
        let reader = self.database.begin_read().map_err(engine)?;
        let (mut seen, mut total) = (0_u32, 0);
        for place in [Place::Log(0), Place::Tombstone(0)] {
            total += reader.open_table(place.table()).map_err(engine)?.len().map_err(engine)?;
        }
        for start in [Place::Log(0), Place::Tombstone(0)] {
            let table = reader.open_table(start.table()).map_err(engine)?;
            for row in table.range(0..).map_err(engine)? {
                let (number, row) = row.map_err(engine)?;
                let place = start.beside(number.value());
                each(place, format::decode(row.value()).map_err(|e| at(place, e))?)?;
                seen = seen.saturating_add(1);
                if seen.is_multiple_of(ROWS_A_REPORT) {
                    let done = f64::from(seen) / f64::from(u32::try_from(total).unwrap_or(u32::MAX));
                    tell(opening, SHARE_OF_CHECK + done.min(1.0) * (1.0 - SHARE_OF_CHECK))?;
                }
            }
        }
        tell(opening, 1.0)
    }
}

fn builder(cache_bytes: usize) -> redb::Builder {
    let mut builder = redb::Builder::new();
    builder.set_cache_size(cache_bytes);
    builder
}
