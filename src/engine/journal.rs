//! The journal: what a batch changes, written in one piece in front of redb's bytes and synced there. redb is
//! told the same later, and writes it together with the next batch that finds no room and is committed in full.
//!
//! Invariants:
//! 1. What is acknowledged is in redb's last durable commit, or in the entries that carry its mark (P2).
//! 2. Each durable commit of the store's own has a new mark, written in the same transaction. So an entry counts for
//!    the commit that it was made on, and for none before or after it.
//! 3. Entries may be done again: each number is given once, so it comes to the same.
//! 4. No two entries share a page: a write that is torn harms none before it.
//! 5. An entry that does not read is one that a crash tore, and was told to nobody. Where another stands behind it, it
//!    is damage (P10).
//! 6. An entry with a greater mark than redb's commit was made on a newer one, which was durable before: that it is not
//!    there any more is damage (P10).
//! 7. What a client sent is never taken for an entry: it does not know the mark.

use std::io;

use redb::{Durability, ReadTransaction, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::changes::{Changes, repeat};
use super::disk::{Backend, Disk, PAGE_BYTES};
use super::error::engine;
use super::left::Redb;
use super::meta;
use crate::error::{Error, ErrorKind, Result};
use crate::payload::{read_fixed, write_fixed};

/// How a file with a journal begins.
pub(super) const MAGIC: [u8; 8] = *b"reentry\x1A";

/// What is told of a file that begins as neither, and in which redb's bytes begin behind a journal.
pub(super) const FIRST_BYTES: &str = "the first bytes of the file are damaged";

/// How redb's bytes begin (redb's design document, "Database header").
pub(super) const REDB_MAGIC: [u8; 9] = *b"redb\x1A\x0A\xA9\x0D\x0A";

/// The format of the head that this version of the crate writes, and the newest that it reads: `docs/format.md`.
const HEAD_VERSION: u32 = 1;

/// How many pages a journal has: so many batches of a caller who is alone go by from one commit in full to the next.
pub(super) const PAGES: u32 = 256;

/// How many pages a journal has at most: all of it is read at once.
const PAGES_MAX: u32 = 1 << 12;

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
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                let mut start = [0; MAGIC.len()];
                let is_ours = disk.read(0, &mut start).is_ok() && start == MAGIC;
                let cut = || Error::new(ErrorKind::Corrupt, "the file was cut short: it ends within its head");
                return if is_ours { Err(cut()) } else { Ok(None) };
            }
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

    /// The head of a file that is damaged, and what is damaged of it.
    pub(super) fn left(disk: &dyn Disk) -> Result<(Option<Self>, Option<Error>)> {
        match Self::read(disk) {
            Err(error) if error.kind() == ErrorKind::NewerFormat => Err(error),
            Err(error) => Ok((Self::find(disk), Some(error))),
            Ok(None) if !begins_as_redb(disk, 0) => {
                let head = Self::find(disk);
                Ok((head, head.map(|_| Error::new(ErrorKind::Corrupt, FIRST_BYTES))))
            }
            Ok(head) => Ok((head, None)),
        }
    }

    /// The head of a file that does not read: whatever it is, redb's bytes begin behind it. First where they begin in
    /// every file that this version makes, since a payload in the journal may begin as they do.
    pub(super) fn find(disk: &dyn Disk) -> Option<Self> {
        let heads = std::iter::once(PAGES).chain(0..PAGES_MAX).map(|pages| Self { pages });
        heads.into_iter().find(|head| begins_as_redb(disk, head.bytes()))
    }

    /// Where redb's bytes begin.
    pub(super) fn bytes(self) -> u64 {
        page_offset(self.pages)
    }
}

/// Whether redb's bytes begin here.
pub(super) fn begins_as_redb(disk: &dyn Disk, offset: u64) -> bool {
    let mut start = [0; REDB_MAGIC.len()];
    disk.read(offset, &mut start).is_ok() && start == REDB_MAGIC
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

/// What is in the journal of a file that is being opened.
pub(super) struct Found {
    pub(super) journal: Journal,
    /// What its entries say, one behind the other.
    pub(super) changes: Vec<u8>,
    /// Where it is damaged it is read up to there.
    pub(super) damaged: Option<Error>,
}

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
    /// Reads what is in the journal beside what this reader shows.
    pub(super) fn find(reader: &ReadTransaction, backend: &Backend, head: Head) -> Result<Found> {
        let mark = meta::mark(reader)?;
        let mut region = vec![0; PAGE_BYTES * head.pages as usize];
        backend.read_front(page_offset(0), &mut region).map_err(|e| engine(redb::Error::Io(e)))?;
        let mut journal = Self { head, mark, next_mark: None, entries: 0, used: 0 };
        let mut changes = Vec::new();
        while let Some((found, said)) = entry(&region, journal.used, mark) {
            if found.mark != mark || found.nth != journal.entries {
                break;
            }
            changes.extend_from_slice(said);
            journal.entries += 1;
            journal.used += pages(said.len());
        }
        let damaged = (journal.used..head.pages).find_map(|page| {
            let (found, _) = entry(&region, page, mark)?;
            if found.mark == mark && found.nth > journal.entries {
                let (nth, at) = (journal.entries, page_offset(journal.used));
                return Some(format!("entry {nth} of the journal, at offset {at}, is damaged"));
            }
            let at = page_offset(page);
            let message =
                || format!("redb's newest commit is damaged: the journal's entry at offset {at} was made on it");
            (found.mark.nth > mark.nth).then(message)
        });
        Ok(Found { journal, changes, damaged: damaged.map(|damaged| Error::new(ErrorKind::Corrupt, damaged)) })
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

    /// The entry that says these changes, in whole pages; none where it finds no room.
    pub(super) fn entry(&self, changes: &Changes) -> Result<Option<Vec<u8>>> {
        let room = PAGE_BYTES * (self.head.pages - self.used) as usize;
        let mut bytes = Vec::with_capacity(PAGE_BYTES);
        bytes.resize(ENTRY_BYTES, 0);
        if !changes.say(&mut bytes, room)? {
            return Ok(None);
        }
        let len = u32::try_from(bytes.len() - ENTRY_BYTES).unwrap_or(u32::MAX);
        let mut head = Vec::with_capacity(ENTRY_BYTES);
        write_fixed(&EntryHead { mark: self.mark, nth: self.entries, len }, &mut head)?;
        let crc = crc(&head, bytes.get(ENTRY_BYTES..).unwrap_or_default());
        head.extend_from_slice(&crc.to_le_bytes());
        bytes.iter_mut().zip(head).for_each(|(byte, known)| *byte = known);
        // Whole pages: the system need not read what it would keep of the last.
        bytes.resize(bytes.len().next_multiple_of(PAGE_BYTES), 0);
        Ok(Some(bytes))
    }

    /// Makes an entry durable.
    pub(super) fn append(&mut self, backend: &Backend, entry: &[u8]) -> Result<()> {
        backend.write_front(page_offset(self.used), entry).map_err(|e| engine(redb::Error::Io(e)))?;
        self.entries += 1;
        self.used += u32::try_from(entry.len() / PAGE_BYTES).unwrap_or(u32::MAX);
        Ok(())
    }

    /// A commit in full is prepared: it has a new mark, whether entries carry the present one or not. Those that come
    /// after it tell that it was there.
    pub(super) fn prepare(&mut self, transaction: &WriteTransaction) -> Result<()> {
        meta::write_mark(transaction, self.mark.next())?;
        self.next_mark = Some(self.mark.next());
        Ok(())
    }

    /// A commit in full is durable.
    pub(super) fn taken_in(&mut self) {
        if let Some(mark) = self.next_mark.take() {
            (self.mark, self.entries, self.used) = (mark, 0, 0);
        }
    }
}

/// Tells redb what entries say: it is then as the last acknowledged batch left it, though not on disk.
pub(super) fn tell(database: &Redb, said: &[u8]) -> Result<()> {
    if said.is_empty() {
        return Ok(());
    }
    let mut transaction = database.begin_write()?;
    repeat(&transaction, said)?;
    transaction.set_durability(Durability::None).map_err(not_without_sync)?;
    transaction.commit().map_err(engine)
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

/// The entry that begins at this page of the journal, with this mark or another of the store's, and its changes.
fn entry(region: &[u8], page: u32, mark: Mark) -> Option<(EntryHead, &[u8])> {
    let bytes = region.get(page as usize * PAGE_BYTES..)?;
    let (fields, rest) = bytes.split_at_checked(ENTRY_HEAD_BYTES)?;
    let (expected, rest) = rest.split_first_chunk::<4>()?;
    let (head, _): (EntryHead, usize) = read_fixed(fields).ok()?;
    let changes = rest.get(..usize::try_from(head.len).ok()?)?;
    let is_ours = head.mark.secret == mark.secret && crc(fields, changes) == u32::from_le_bytes(*expected);
    is_ours.then_some((head, changes))
}

/// redb commits without a sync wherever one process alone has the file.
pub(super) fn not_without_sync(error: redb::SetDurabilityError) -> Error {
    Error::because(ErrorKind::Failed, "redb cannot commit without a sync", error)
}

#[cfg(test)]
mod tests {
    use super::super::disk::Memory;
    use super::*;

    #[test]
    fn a_file_that_is_shorter_than_a_head_has_none_or_was_cut_within_it() {
        let disk = Memory::default();
        let read = |bytes: &[u8]| {
            disk.set_len(0).unwrap();
            disk.write(0, bytes).unwrap();
            Head::read(&disk)
        };
        for bytes in [&[][..], &MAGIC[..7], &REDB_MAGIC, &[7; 19]] {
            assert_eq!(read(bytes).unwrap(), None);
        }
        for cut in [8, 12, 19] {
            let mut head = [0; 19];
            head[..8].copy_from_slice(&MAGIC);
            assert_eq!(read(&head[..cut]).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }
}
