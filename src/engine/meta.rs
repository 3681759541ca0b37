//! The one meta row: what the store knows of itself.
//!
//! Invariant: a file of a newer version is refused before anything else of it is believed.

use std::hash::{BuildHasher, Hasher, RandomState};

use redb::{ReadTransaction, TableError, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::error::engine;
use super::index::NUMBER_MAX;
use super::log::Definition;
use crate::error::{Error, ErrorKind, Result};
use crate::payload::{read_fixed, write_fixed};

const META: Definition<'_> = Definition::new("reentry/meta");

/// Where the one meta row stands.
const META_ROW: u64 = 0;

/// The version of the file as a whole that this crate writes, and the newest it reads.
const FILE_VERSION: u32 = 1;

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
        Self { version: FILE_VERSION, store, next: 1, highest_time: 0 }
    }

    /// What stands for one that cannot be read: nothing is known to be free.
    pub(super) fn unknown() -> Self {
        Self { next: NUMBER_MAX, ..Self::new([0; 16]) }
    }
}

/// What the store knows of itself.
pub(super) fn read(reader: &ReadTransaction) -> Result<Meta> {
    let no_store = "holds a redb database that is no store of this crate";
    let table = match reader.open_table(META) {
        Err(TableError::Storage(error)) => return Err(engine(error)),
        Err(error) => return Err(Error::because(ErrorKind::NotAStore, no_store, error)),
        Ok(table) => table,
    };
    let row = table.get(META_ROW).map_err(engine)?;
    decode(row.ok_or_else(|| Error::new(ErrorKind::NotAStore, no_store))?.value())
}

pub(super) fn write(transaction: &WriteTransaction, meta: Meta) -> Result<()> {
    let mut row = Vec::new();
    write_fixed(&meta, &mut row)?;
    row.extend_from_slice(&crc32fast::hash(&row).to_le_bytes());
    transaction.open_table(META).map_err(engine)?.insert(META_ROW, row.as_slice()).map_err(engine)?;
    Ok(())
}

fn decode(row: &[u8]) -> Result<Meta> {
    let damaged = || Error::new(ErrorKind::Corrupt, "the meta row is damaged");
    let (body, checksum) = row.split_last_chunk::<4>().ok_or_else(damaged)?;
    if crc32fast::hash(body) != u32::from_le_bytes(*checksum) {
        return Err(damaged());
    }
    // The version stands first in every format there will be.
    let version = u32::from_le_bytes(*body.first_chunk::<4>().ok_or_else(damaged)?);
    if version > FILE_VERSION {
        let message = format!("the store has format {version}; this version of the crate reads up to {FILE_VERSION}");
        return Err(Error::new(ErrorKind::NewerFormat, message));
    }
    match read_fixed(body) {
        Ok((meta, used)) if used == body.len() => Ok(meta),
        _ => Err(damaged()),
    }
}

/// 16 bytes that no other store has: std's hashers are seeded from the system's randomness.
pub(crate) fn random_id() -> [u8; 16] {
    let half = || u128::from(RandomState::new().build_hasher().finish());
    (half() << 64 | half()).to_le_bytes()
}
