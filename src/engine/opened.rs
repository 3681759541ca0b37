//! redb with a store's file open, and the journal in front of it: how that comes to be, commits, and ends.
//!
//! Invariants:
//! 1. Nothing is written to a file before it is accepted, and never where it is opened to be read.
//! 2. Nor is redb told anything, in memory alone too, before it has checked every page: one that is damaged could end
//!    the process as it is written anew.

use std::sync::Arc;

use redb::{ReadTransaction, WriteTransaction};

use super::changes::Changes;
use super::disk::{Backend, Disk, Fault};
use super::error::{drop_unwinding, engine, unwound};
use super::follows::Follows;
use super::journal::{self, Found, Head, Journal};
use super::latest::Latest;
use super::left::Redb;
use super::log::{Access, OpenCheck, Opening, at};
use super::meta::{self, FORMAT_VERSION, Meta};
use super::migration::{migrate, rows};
use super::place::{NUMBER_MAX, Place};
use super::scan::{Rows, SHARE_OF_CHECK, scan};
use super::tables::Parts;
use crate::error::{Error, ErrorKind, Result};
use crate::record::Record;
use crate::sync::{AtomicBool, Mutex, Ordering};

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
    pub(super) database: Redb,
    pub(super) backend: Backend,
    /// None where the file has none: it was made before there was one.
    pub(super) journal: Option<Mutex<Journal>>,
    /// What redb cannot be told of what the journal says, since it cannot repair the file.
    pub(super) untold: Changes,
    /// The format that the file was found to have.
    pub(super) found: u32,
    /// What is damaged of the head and the journal; then the file is read as far as it can be.
    pub(super) damaged: Vec<Error>,
}

impl Open {
    /// Opens what is on the disk and writes nothing to it yet.
    pub(super) fn staged(disk: Arc<dyn Disk>, opening: &Opening) -> Result<Self> {
        if opening.access != Access::Salvage {
            let head = Head::read(&*disk)?;
            return Self::checked(disk, head, opening);
        }
        let (head, damaged) = Head::left(&*disk)?;
        let whole = Opening { check: OpenCheck::Full, ..opening.clone() };
        let as_left = || Self::as_left(Arc::clone(&disk), head, opening.cache_bytes);
        // Where nothing is left either, what is damaged first is told; but of a newer file that it is newer: what this
        // version of the crate does not know of it would be left out unheard.
        let newer_or = |error, left: Error| if left.kind() == ErrorKind::NewerFormat { left } else { error };
        let opened = unwound(|| Self::checked(Arc::clone(&disk), head, &whole));
        match opened.or_else(|error| as_left().map_err(|left| newer_or(error, left))) {
            Ok(mut open) => {
                open.damaged.extend(damaged);
                Ok(open)
            }
            Err(error) => Err(match damaged {
                Some(damaged) => newer_or(damaged, error),
                None => error,
            }),
        }
    }

    fn checked(disk: Arc<dyn Disk>, head: Option<Head>, opening: &Opening) -> Result<Self> {
        let backend = Backend::staged(Arc::clone(&disk), head.map_or(0, Head::bytes)).map_err(unreadable)?;
        let mut builder = builder(opening.cache_bytes);
        let (progress, is_checked) = (Arc::clone(&opening.progress), Arc::new(AtomicBool::new(false)));
        let checks = Arc::clone(&is_checked);
        builder.set_repair_callback(move |session| {
            checks.store(true, Ordering::Relaxed);
            if progress(session.progress() * SHARE_OF_CHECK).is_break() {
                session.abort();
            }
        });
        builder.set_check_integrity_on_open(opening.check == OpenCheck::Full);
        let mut open = Self::new(&builder, backend)?;
        let found = match open.known_format().and_then(|()| open.find(head)) {
            Ok(found) => found,
            Err(error) => return open.refuse(error),
        };
        let is_to_be_told = open.found < FORMAT_VERSION || found.as_ref().is_some_and(|it| !it.changes.is_empty());
        if is_to_be_told && !is_checked.load(Ordering::Relaxed) {
            drop(open.close());
            return Self::checked(disk, head, &Opening { check: OpenCheck::Full, ..opening.clone() });
        }
        match open.told(found) {
            Ok(()) => Ok(open),
            Err(error) => open.refuse(error),
        }
    }

    /// Tells redb what the journal says, and brings the file to the newest format.
    fn told(&mut self, found: Option<Found>) -> Result<()> {
        if let Some(Found { journal, changes, damaged }) = found {
            damaged.map_or_else(|| journal::tell(&self.database, &changes), Err)?;
            self.journal = Some(Mutex::new(journal));
        }
        if self.found == FORMAT_VERSION {
            return Ok(());
        }
        let transaction = self.database.begin_write()?;
        migrate(&transaction, self.found)?;
        // No entry is to be told again: it would put rows where they stood before.
        self.commit_in_full(transaction)
    }

    /// Opens what redb cannot repair, and what the journal says beside it.
    fn as_left(disk: Arc<dyn Disk>, head: Option<Head>, cache_bytes: usize) -> Result<Self> {
        let at = head.map_or(0, Head::bytes);
        let is_whole = journal::begins_as_redb(&*disk, at);
        let backend = Backend::staged(disk, at).map_err(unreadable)?;
        let mut open = Self::of(Redb::as_left(builder(cache_bytes), backend.clone())?, backend);
        if !is_whole {
            let fault = format!("the first bytes of redb's part of the file, at its offset {at}, are damaged");
            open.damaged.push(Error::new(ErrorKind::Corrupt, fault));
        }
        // Where no table is found nothing is left.
        let tables = unwound(|| open.tables())?;
        match unwound(|| open.known_format()) {
            Err(newer) if newer.kind() == ErrorKind::NewerFormat => return Err(newer),
            // It is of the first format, or has lost that table.
            Err(error) if tables.len() < Place::STARTS.len() => {
                open.damaged.push(error.within("nobody knows whether there was a table of what is unfinished"));
            }
            _ => {}
        }
        match unwound(|| open.find(head)) {
            Ok(Some(Found { changes, damaged, .. })) => {
                open.untold = Changes::said(&changes)?;
                open.damaged.extend(damaged);
            }
            Ok(None) => {}
            Err(error) => open.damaged.push(error.within("the journal cannot be read")),
        }
        Ok(open)
    }

    /// Opens what this process wrote to the disk before.
    pub(super) fn again(disk: Arc<dyn Disk>, cache_bytes: usize) -> Result<Self> {
        let head = Head::read(&*disk)?;
        let mut open = Self::new(&builder(cache_bytes), Backend::direct(disk, head.map_or(0, Head::bytes)))?;
        if let Some(Found { journal, changes, damaged }) = open.find(head)? {
            damaged.map_or(Ok(()), Err)?;
            journal::tell(&open.database, &changes)?;
            journal.make_durable(&open.backend)?;
            open.journal = Some(Mutex::new(journal));
        }
        Ok(open)
    }

    fn new(builder: &redb::Builder, backend: Backend) -> Result<Self> {
        let database = builder.create_with_backend(backend.clone()).map_err(engine)?;
        Ok(Self::of(Redb::Whole(database), backend))
    }

    fn of(database: Redb, backend: Backend) -> Self {
        let (follows, latest) = (Follows::default(), Latest::default());
        let (untold, found, damaged) = (Changes::default(), FORMAT_VERSION, Vec::new());
        Self { follows, latest, database, backend, journal: None, untold, found, damaged }
    }

    /// What is in the journal, where the file has one.
    fn find(&self, head: Option<Head>) -> Result<Option<Found>> {
        let Some(head) = head else { return Ok(None) };
        Journal::find(&self.database.begin_read()?, &self.backend, head).map(Some)
    }

    /// Looks which format the file has.
    fn known_format(&mut self) -> Result<()> {
        self.found = meta::version(&self.database.begin_read()?)?;
        meta::check_version(self.found)
    }

    fn refuse(self, error: Error) -> Result<Self> {
        drop(self.close());
        Err(error)
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
        self.database.begin_write()
    }

    /// redb as it is at this moment, with all that is durable.
    pub(super) fn moment(&self) -> Result<ReadTransaction> {
        self.follows.catch_up(&self.database, &self.latest)?;
        unwound(|| self.database.begin_read())
    }

    /// What was read, or why nothing was: after a full disk redb reads nothing any more until it is opened anew, which
    /// the writer does.
    pub(super) fn as_of_now<T>(&self, read: Result<T>) -> Result<T> {
        match read {
            Err(error) if error.kind() == ErrorKind::Failed && self.backend.fault().is_some_and(Fault::is_full) => {
                Err(Error::because(ErrorKind::Full, "the disk is full, and the file is about to be opened anew", error))
            }
            read => read,
        }
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
        each: impl Fn(Vec<(Place, Record)>) -> Result<()> + Sync,
    ) -> Result<Meta> {
        if opening.access == Access::Salvage {
            return Ok(Meta::unknown());
        }
        let meta = self.meta()?;
        scan(&self.tables()?, opening, |rows| check(&rows, meta.next).and_then(|()| each(rows)))?;
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
        database.whole()?.close().map_err(engine)
    }

    pub(super) fn meta(&self) -> Result<Meta> {
        meta::read(&self.database.begin_read()?)
    }

    /// The tables of rows, each with the place that it begins at.
    pub(super) fn tables(&self) -> Result<Vec<(Place, Rows)>> {
        let reader = self.database.begin_read()?;
        let open = |start| rows(&reader, start).map(|table| table.map(|table| (start, table)));
        Place::STARTS.into_iter().filter_map(|start| open(start).transpose()).collect()
    }
}

/// Fails at a row that nobody can have written where it stands.
fn check(rows: &[(Place, Record)], next: u64) -> Result<()> {
    for (place, record) in rows {
        let fault = match place.number() {
            number if number >= next.min(NUMBER_MAX) => "it was never given",
            number if *place != Place::of(record, number) => "its operation belongs into another table",
            _ => continue,
        };
        return Err(at(*place, Error::new(ErrorKind::Corrupt, fault)));
    }
    Ok(())
}

fn unreadable(error: std::io::Error) -> Error {
    Error::because(ErrorKind::Io, "cannot read the file", error)
}

fn builder(cache_bytes: usize) -> redb::Builder {
    let mut builder = redb::Builder::new();
    builder.set_cache_size(cache_bytes);
    builder
}
