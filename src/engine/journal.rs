//! The journal: what a small batch changes, written in one piece in front of redb's bytes and synced there. redb is
//! told the same without a sync, and writes it together with the next batch that is committed in full.
//!
//! Invariants:
//! 1. What is acknowledged is in redb's last durable commit, or in the entries that carry its mark (P2).
//! 2. A durable commit that holds more than the one before it and its entries has a new mark, written in the same
//!    transaction. So an entry counts for the commit that it was made on, and for none after it.
//! 3. Entries may be done again: each number is given once, so it comes to the same.
//! 4. No two entries share a page: a write that is torn harms none before it.
//! 5. An entry that does not read is one that a crash tore, and was told to nobody. Where another stands behind it, it
//!    is damage (P10).
//! 6. What a client sent is never taken for an entry: it does not know the mark.

use std::io;

use redb::{Database, Durability, ReadableDatabase, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::disk::{Backend, Disk, PAGE_BYTES};
use super::error::engine;
use super::log::{BODIES, LOG, Place, TOMBSTONES};
use super::meta;
use crate::error::{Error, ErrorKind, Result};
use crate::payload::{read_fixed, write_fixed};

/// How a file with a journal begins.
pub(super) const MAGIC: [u8; 8] = *b"reentry\x1A";

/// How redb's bytes begin (redb's design document, "Database header").
pub(super) const REDB_MAGIC: [u8; 9] = *b"redb\x1A\x0A\xA9\x0D\x0A";

/// The format of the head that this version of the crate writes, and the newest that it reads: `docs/format.md`.
const HEAD_VERSION: u32 = 1;

/// How many pages a journal has: so many batches of a caller who is alone go by from one commit in full to the next.
pub(super) const PAGES: u32 = 64;

/// How many pages a journal has at most: all of it is read at once.
const PAGES_MAX: u32 = 1 << 12;

/// Larger batches are committed in full.
const REQUESTS_MAX: usize = 16;

/// What stands before redb's bytes: a page that says so, and the journal's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pages: u32,
}

#[derive(Serialize, Deserialize)]
struct HeadFields {
    magic: [u8; MAGIC.len()],
    version: u32,
    pages: u32,
}

impl Head {
    /// Begins a file with a head and an empty journal of so many pages.
    pub(super) fn write(disk: &dyn Disk, pages: u32) -> Result<Self> {
        let mut bytes = Vec::new();
        write_fixed(&HeadFields { magic: MAGIC, version: HEAD_VERSION, pages }, &mut bytes)?;
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        bytes.resize(PAGE_BYTES * (pages as usize + 1), 0);
        disk.write(0, &bytes).map_err(|e| engine(redb::Error::Io(e)))?;
        Ok(Self { pages })
    }

    /// The head of the file on this disk; none where it begins with redb's bytes, as before there was a journal.
    pub(super) fn read(disk: &dyn Disk) -> Result<Option<Self>> {
        let mut bytes = [0; 20];
        let damaged = || Error::new(ErrorKind::Corrupt, "the head of the file, at its offset 0, is damaged");
        match disk.read(0, &mut bytes) {
            Ok(()) if bytes.starts_with(&MAGIC) => {}
            Ok(()) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(engine(redb::Error::Io(error))),
        }
        let (fields, crc) = bytes.split_last_chunk::<4>().ok_or_else(damaged)?;
        let (HeadFields { version, pages, .. }, _) = read_fixed(fields)?;
        if version > HEAD_VERSION {
            let known = format!("this version of the crate reads up to {HEAD_VERSION}");
            return Err(Error::new(ErrorKind::NewerFormat, format!("the file's head has format {version}; {known}")));
        }
        if crc32fast::hash(fields) != u32::from_le_bytes(*crc) || pages >= PAGES_MAX {
            return Err(damaged());
        }
        let head = Self { pages };
        if disk.len().map_err(|e| engine(redb::Error::Io(e)))? <= head.bytes() {
            return Err(Error::new(ErrorKind::Corrupt, "the file was cut short: it ends within its journal"));
        }
        Ok(Some(head))
    }

    /// The head of a file that does not read: whatever it is, redb's bytes begin behind it.
    pub(super) fn find(disk: &dyn Disk) -> Option<Self> {
        (0..PAGES_MAX).map(|pages| Self { pages }).find(|head| {
            let mut start = [0; REDB_MAGIC.len()];
            disk.read(head.bytes(), &mut start).is_ok() && start == REDB_MAGIC
        })
    }

    /// Where redb's bytes begin.
    pub(super) fn bytes(self) -> u64 {
        page_offset(self.pages)
    }
}

/// Where the journal's page of this number ends, and the next begins.
fn page_offset(page: u32) -> u64 {
    (u64::from(page) + 1) * PAGE_BYTES as u64
}

/// Which entries count: those that carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// Drawn when the store is made, and told to nobody: so no payload holds an entry that counts.
    secret: [u8; 16],
    /// Greater by one with each.
    nth: u64,
}

impl Mark {
    pub(super) fn first(secret: [u8; 16]) -> Self {
        Self { secret, nth: 1 }
    }

    fn next(self) -> Self {
        Self { nth: self.nth.saturating_add(1), ..self }
    }
}

/// What stands before an entry's changes; the CRC-32 of both stands between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct EntryHead {
    mark: Mark,
    /// How many entries with this mark stand before it.
    nth: u32,
    len: u32,
}

const ENTRY_HEAD_BYTES: usize = 32;
const ENTRY_BYTES: usize = ENTRY_HEAD_BYTES + 4;

/// The journal of an open file.
#[derive(Debug)]
pub(super) struct Journal {
    head: Head,
    mark: Mark,
    /// The mark from the commit on that is under way.
    next_mark: Option<Mark>,
    /// How many entries carry the mark, and how many pages they take.
    entries: u32,
    used: u32,
}

impl Journal {
    /// Reads what is in the journal, and tells it to redb: that is then as the last acknowledged batch left it, though
    /// not on disk. Where the journal is damaged it is read up to there, and the second of the two says so.
    pub(super) fn open(database: &Database, backend: &Backend, head: Head) -> Result<(Self, Option<Error>)> {
        let mark = meta::mark(&database.begin_read().map_err(engine)?)?;
        let mut region = vec![0; PAGE_BYTES * head.pages as usize];
        backend.read_front(page_offset(0), &mut region).map_err(|e| engine(redb::Error::Io(e)))?;
        let mut journal = Self { head, mark, next_mark: None, entries: 0, used: 0 };
        let mut changes = Vec::new();
        while let Some(entry) = entry(&region, journal.used, mark).filter(|(head, _)| head.nth == journal.entries) {
            changes.push(entry.1);
            journal.entries += 1;
            journal.used += pages(entry.1.len());
        }
        let is_damaged = (journal.used..head.pages)
            .any(|page| entry(&region, page, mark).is_some_and(|(head, _)| head.nth > journal.entries));
        if !changes.is_empty() {
            let mut transaction = database.begin_write().map_err(engine)?;
            changes.iter().try_for_each(|changes| repeat(&transaction, changes))?;
            transaction.set_durability(Durability::None).map_err(not_without_sync)?;
            transaction.commit().map_err(engine)?;
        }
        let damaged = is_damaged.then(|| {
            let (nth, at) = (journal.entries, page_offset(journal.used));
            Error::new(ErrorKind::Corrupt, format!("entry {nth} of the journal, at offset {at}, is damaged"))
        });
        Ok((journal, damaged))
    }

    /// Writes anew what was read, and syncs: a sync that failed before may have dropped what could still be read.
    pub(super) fn make_durable(&self, backend: &Backend) -> Result<()> {
        if self.entries == 0 {
            return Ok(());
        }
        let mut bytes = vec![0; PAGE_BYTES * self.used as usize];
        let at = page_offset(0);
        let written = backend.read_front(at, &mut bytes).and_then(|()| backend.write_front(at, &bytes));
        written.map_err(|e| engine(redb::Error::Io(e)))
    }

    /// Whether redb holds what is on disk in the journal alone.
    pub(super) fn is_ahead(&self) -> bool {
        self.entries > 0
    }

    /// Decides how a batch is committed: with these changes as an entry, where that is all it does and there is room,
    /// else in full. That then has a new mark where entries carry the present one.
    pub(super) fn prepare(&mut self, transaction: &WriteTransaction, changes: &mut Changes) -> Result<()> {
        let has_room = pages(changes.bytes.len()) <= self.head.pages - self.used;
        self.next_mark = None;
        if changes.is_all && has_room {
            return Ok(());
        }
        changes.give_up();
        if self.is_ahead() {
            meta::write_mark(transaction, self.mark.next())?;
            self.next_mark = Some(self.mark.next());
        }
        Ok(())
    }

    /// A commit in full is durable.
    pub(super) fn taken_in(&mut self) {
        if let Some(mark) = self.next_mark.take() {
            (self.mark, self.entries, self.used) = (mark, 0, 0);
        }
    }

    /// Makes these changes durable.
    pub(super) fn append(&mut self, backend: &Backend, changes: &Changes) -> Result<()> {
        let len = u32::try_from(changes.bytes.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(PAGE_BYTES);
        write_fixed(&EntryHead { mark: self.mark, nth: self.entries, len }, &mut bytes)?;
        bytes.extend_from_slice(&crc(&bytes, &changes.bytes).to_le_bytes());
        bytes.extend_from_slice(&changes.bytes);
        // Whole pages: the system need not read what it would keep of the last.
        bytes.resize(bytes.len().next_multiple_of(PAGE_BYTES), 0);
        backend.write_front(page_offset(self.used), &bytes).map_err(|e| engine(redb::Error::Io(e)))?;
        self.entries += 1;
        self.used += pages(changes.bytes.len());
        Ok(())
    }
}

/// How many pages an entry of so many bytes of changes takes.
fn pages(len: usize) -> u32 {
    u32::try_from((len + ENTRY_BYTES).div_ceil(PAGE_BYTES)).unwrap_or(u32::MAX)
}

fn crc(head: &[u8], changes: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(head);
    crc.update(changes);
    crc.finalize()
}

/// The entry with this mark that begins at this page of the journal, and its changes.
fn entry(region: &[u8], page: u32, mark: Mark) -> Option<(EntryHead, &[u8])> {
    let bytes = region.get(page as usize * PAGE_BYTES..)?;
    let (fields, rest) = bytes.split_at_checked(ENTRY_HEAD_BYTES)?;
    let (expected, rest) = rest.split_first_chunk::<4>()?;
    let (head, _): (EntryHead, usize) = read_fixed(fields).ok()?;
    let changes = rest.get(..usize::try_from(head.len).ok()?)?;
    (head.mark == mark && crc(fields, changes) == u32::from_le_bytes(*expected)).then_some((head, changes))
}

/// What a batch does to the store's tables, in its order, as an entry says it.
#[derive(Debug, Default)]
pub(super) struct Changes {
    bytes: Vec<u8>,
    /// Whether that is all the batch does.
    is_all: bool,
}

/// The store's tables that a batch changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Of {
    Log,
    Tombstones,
    Bodies,
}

impl From<Place> for Of {
    fn from(place: Place) -> Self {
        match place {
            Place::Log(_) => Self::Log,
            Place::Tombstone(_) => Self::Tombstones,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Change {
    /// So many bytes follow: the row.
    Put(u32),
    Remove,
    /// And every row before it.
    RemoveUpTo,
}

impl Changes {
    /// What is to be told of a batch of so many requests: of one too large nothing.
    pub(super) fn of(requests: usize) -> Self {
        Self { bytes: Vec::new(), is_all: requests <= REQUESTS_MAX }
    }

    /// Whether they are all that the batch does.
    pub(super) fn is_all(&self) -> bool {
        self.is_all
    }

    /// The batch does something that no entry says.
    pub(super) fn give_up(&mut self) {
        *self = Self::default();
    }

    pub(super) fn put(&mut self, of: Of, number: u64, row: &[u8]) {
        // The longest entry is the journal.
        match u32::try_from(row.len()) {
            Ok(len) if self.bytes.len() + row.len() < PAGE_BYTES * PAGES as usize => {
                self.add(of, number, Change::Put(len), row);
            }
            _ => self.give_up(),
        }
    }

    pub(super) fn remove(&mut self, of: Of, number: u64) {
        self.add(of, number, Change::Remove, &[]);
    }

    pub(super) fn remove_up_to(&mut self, of: Of, number: u64) {
        self.add(of, number, Change::RemoveUpTo, &[]);
    }

    fn add(&mut self, of: Of, number: u64, change: Change, row: &[u8]) {
        if !self.is_all {
            return;
        }
        match write_fixed(&(of, number, change), &mut self.bytes) {
            Ok(()) => self.bytes.extend_from_slice(row),
            Err(_) => self.give_up(),
        }
    }
}

/// Does once more what an entry says.
fn repeat(transaction: &WriteTransaction, mut changes: &[u8]) -> Result<()> {
    let torn = || Error::new(ErrorKind::Corrupt, "an entry of the journal ends within a change");
    while !changes.is_empty() {
        let ((of, number, change), used): ((Of, u64, Change), usize) = read_fixed(changes)?;
        changes = changes.get(used..).ok_or_else(torn)?;
        let table = match of {
            Of::Log => LOG,
            Of::Tombstones => TOMBSTONES,
            Of::Bodies => BODIES,
        };
        let mut table = transaction.open_table(table).map_err(engine)?;
        match change {
            Change::Put(len) => {
                let (row, rest) = changes.split_at_checked(len as usize).ok_or_else(torn)?;
                table.insert(number, row).map_err(engine)?;
                changes = rest;
            }
            Change::Remove => drop(table.remove(number).map_err(engine)?),
            Change::RemoveUpTo => table.retain_in(..=number, |_, _| false).map_err(engine)?,
        }
    }
    Ok(())
}

/// redb commits without a sync wherever one process alone has the file.
pub(super) fn not_without_sync(error: redb::SetDurabilityError) -> Error {
    Error::because(ErrorKind::Failed, "redb cannot commit without a sync", error)
}
