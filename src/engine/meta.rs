//! The meta row: what the store knows of itself; and beside it the mark of its journal.
//!
//! Invariant: a file of a newer version is refused before anything else of it is believed.

use std::hash::{BuildHasher, Hasher, RandomState};

use redb::{ReadTransaction, ReadableTable, TableError, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::error::engine;
use super::journal::Mark;
use super::place::{Definition, NUMBER_MAX};
use crate::error::{Error, ErrorKind, Result};
use crate::payload::{read_fixed, write_fixed};

const META: Definition<'_> = Definition::new("reentry/meta");

/// Where the meta row stands, and the mark.
const META_ROW: u64 = 0;
const MARK_ROW: u64 = 1;

const NO_STORE: &str = "holds a redb database that is no store of this crate";

/// The format of the files that this version of the crate writes, and the newest that it reads: `docs/format.md`.
pub const FORMAT_VERSION: u32 = 2;

/// What the store knows of itself.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Meta {
    pub(crate) version: u32,
    store: [u8; 16],
    /// No number below this one is free.
    pub(crate) next: u64,
    /// The highest time that anything was decided at.
    pub(crate) highest_time: u64,
}

impl Meta {
    /// That of an empty store.
    pub(super) fn new(store: [u8; 16]) -> Self {
        Self { version: FORMAT_VERSION, store, next: 1, highest_time: 0 }
    }

    /// What stands for one that cannot be read: nothing is known to be free.
    pub(super) fn unknown() -> Self {
        Self { next: NUMBER_MAX, ..Self::new([0; 16]) }
    }
}

/// What the store knows of itself.
///
/// # Errors
///
/// `NewerFormat` for a format that this crate does not know, whatever follows its version.
pub(super) fn read(reader: &ReadTransaction) -> Result<Meta> {
    let body = body(reader)?;
    check_version(version_of(&body)?)?;
    match read_fixed(&body) {
        Ok((meta, used)) if used == body.len() => Ok(meta),
        _ => Err(damaged()),
    }
}

/// The format of the file, known or not.
pub(super) fn version(reader: &ReadTransaction) -> Result<u32> {
    version_of(&body(reader)?)
}

/// # Errors
///
/// `NewerFormat` for a format that this crate does not know.
pub(super) fn check_version(version: u32) -> Result<()> {
    if version > FORMAT_VERSION {
        let message = format!("the store has format {version}; this version of the crate reads up to {FORMAT_VERSION}");
        return Err(Error::new(ErrorKind::NewerFormat, message));
    }
    Ok(())
}

pub(super) fn write(transaction: &WriteTransaction, meta: Meta) -> Result<()> {
    write_row(transaction, META_ROW, &meta)
}

/// Which entries of the journal count from this commit on.
pub(super) fn write_mark(transaction: &WriteTransaction, mark: Mark) -> Result<()> {
    write_row(transaction, MARK_ROW, &mark)
}

fn write_row(transaction: &WriteTransaction, number: u64, value: &impl Serialize) -> Result<()> {
    let mut row = Vec::new();
    write_fixed(value, &mut row)?;
    row.extend_from_slice(&crc32fast::hash(&row).to_le_bytes());
    transaction.open_table(META).map_err(engine)?.insert(number, row.as_slice()).map_err(engine)?;
    Ok(())
}

/// Which entries of the journal count.
pub(super) fn mark(reader: &ReadTransaction) -> Result<Mark> {
    let body = row(reader, MARK_ROW)?.ok_or_else(|| Error::new(ErrorKind::Corrupt, "the journal's mark is missing"))?;
    match read_fixed(&body) {
        Ok((mark, used)) if used == body.len() => Ok(mark),
        _ => Err(damaged()),
    }
}

/// Says that the file has this format from now on.
pub(super) fn set_version(transaction: &WriteTransaction, version: u32) -> Result<()> {
    let mut table = transaction.open_table(META).map_err(engine)?;
    let mut body = checked(table.get(META_ROW).map_err(engine)?.ok_or_else(damaged)?.value())?.to_vec();
    *body.first_chunk_mut::<4>().ok_or_else(damaged)? = version.to_le_bytes();
    body.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    table.insert(META_ROW, body.as_slice()).map_err(engine)?;
    Ok(())
}

/// The meta row, without its checksum.
fn body(reader: &ReadTransaction) -> Result<Vec<u8>> {
    row(reader, META_ROW)?.ok_or_else(|| Error::new(ErrorKind::NotAStore, NO_STORE))
}

/// A row of the meta table, without its checksum.
fn row(reader: &ReadTransaction, number: u64) -> Result<Option<Vec<u8>>> {
    let table = match reader.open_table(META) {
        Err(TableError::Storage(error)) => return Err(engine(error)),
        Err(error) => return Err(Error::because(ErrorKind::NotAStore, NO_STORE, error)),
        Ok(table) => table,
    };
    let row = table.get(number).map_err(engine)?;
    row.map(|row| checked(row.value()).map(<[u8]>::to_vec)).transpose()
}

fn checked(row: &[u8]) -> Result<&[u8]> {
    let (body, checksum) = row.split_last_chunk::<4>().ok_or_else(damaged)?;
    if crc32fast::hash(body) == u32::from_le_bytes(*checksum) { Ok(body) } else { Err(damaged()) }
}

/// The version stands first in every format there will be.
fn version_of(body: &[u8]) -> Result<u32> {
    Ok(u32::from_le_bytes(*body.first_chunk::<4>().ok_or_else(damaged)?))
}

fn damaged() -> Error {
    Error::new(ErrorKind::Corrupt, "the meta row is damaged")
}

/// 16 bytes that no other store has: std's hashers are seeded from the system's randomness.
pub(crate) fn random_id() -> [u8; 16] {
    let half = || u128::from(RandomState::new().build_hasher().finish());
    (half() << 64 | half()).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_stores_have_one_id() {
        let ids = [random_id(), random_id(), random_id()];
        assert!(ids[0] != ids[1] && ids[1] != ids[2]);
        assert!((0..16).all(|byte| (0..9).map(|_| random_id()[byte]).any(|other| other != ids[0][byte])), "all of it");
        assert!(ids.iter().all(|id| id[..8] != id[8..]), "both halves are drawn");
    }
}
