//! The store's tables, as one batch sees them: what is on disk, and what the batch does to it.
//!
//! Invariants:
//! 1. What a batch does is gathered, and nothing of it is seen by anybody else before it is committed.
//! 2. redb's write transaction is begun where it is needed: for the server's own rows, or for a commit in full.

use redb::{ReadOnlyTable, WriteTransaction};

use super::changes::Changes;
use super::error::{engine, unwound};
use super::log::{Log, Place, at};
use super::meta::Meta;
use super::transaction::Transaction;
use crate::error::{Error, Result};
use crate::record::{Record, format};

/// How many damaged rows are passed over, where what has ended is looked for behind them.
const DAMAGED_MAX: usize = 1024;

/// Where a batch has more requests the log is opened once, since many rows may be read.
const FEW: usize = 16;

/// The first rows of a table.
#[derive(Default)]
pub(super) struct Head {
    pub(super) rows: Vec<(Place, Record)>,
    pub(super) damaged: Vec<(Place, Error)>,
}

impl Head {
    pub(super) fn is_full(&self, most: usize) -> bool {
        self.rows.len() == most || self.damaged.len() == DAMAGED_MAX
    }

    pub(super) fn add(&mut self, place: Place, row: &[u8]) {
        match format::decode(row) {
            Ok(record) => self.rows.push((place, record)),
            Err(error) => self.damaged.push((place, at(place, error))),
        }
    }
}

/// The tables, and what is to become of them.
pub(super) struct Tables<'l> {
    log: &'l Log,
    changes: Changes,
    /// The log as it was before, opened once where many rows may be read.
    rows: Option<ReadOnlyTable<u64, &'static [u8]>>,
    /// What the meta row is to say.
    meta: Option<Meta>,
    /// Begun where the server writes rows of its own.
    transaction: Option<WriteTransaction>,
    /// Whether the batch is small.
    is_small: bool,
}

/// What makes a batch durable.
pub(super) struct Parts {
    pub(super) changes: Changes,
    pub(super) meta: Option<Meta>,
    pub(super) transaction: Option<WriteTransaction>,
    /// Whether the changes are all that the batch does, so that one entry of the journal may say them.
    pub(super) is_entry: bool,
}

impl<'l> Tables<'l> {
    /// The tables, for a batch of so many requests.
    pub(super) fn new(log: &'l Log, requests: usize) -> Self {
        let is_small = requests <= FEW;
        Self { log, changes: Changes::default(), rows: None, meta: None, transaction: None, is_small }
    }

    /// The record at `place`, where it stood before this batch, without the bodies that stand apart.
    pub(super) fn read(&mut self, place: Place) -> Result<Option<Record>> {
        let Place::Log(number) = place else { return self.log.read_row(place) };
        if self.is_small {
            return self.log.read_row(place);
        }
        let rows = match self.rows.take() {
            Some(rows) => rows,
            None => self.log.rows()?,
        };
        let rows = self.rows.insert(rows);
        unwound(|| {
            let row = rows.get(number).map_err(engine)?;
            row.map(|row| format::decode(row.value()).map_err(|e| at(place, e))).transpose()
        })
    }

    /// Fills in the bodies that stand apart.
    pub(super) fn load_bodies(&self, record: &mut Record) -> Result<()> {
        self.log.load_bodies(record, &self.changes)
    }

    /// Writes the row of `record` at `place`.
    pub(super) fn put(&mut self, place: Place, record: &Record) -> Result<()> {
        self.changes.put(place, record)
    }

    pub(super) fn remove(&mut self, place: Place) {
        self.changes.remove(place);
    }

    /// Removes every row up to and with this one, but those that are damaged.
    pub(super) fn remove_up_to(&mut self, last: Place, damaged: &[(Place, Error)]) {
        let stay = damaged.iter().map(|(place, _)| place.number()).collect();
        self.changes.beside(last).remove_up_to(last.number(), stay);
    }

    pub(super) fn put_body(&mut self, row: u64, bytes: &[u8]) -> Result<()> {
        self.changes.put_body(row, bytes)
    }

    pub(super) fn remove_body(&mut self, row: u64) {
        self.changes.remove_body(row);
    }

    /// The first rows of the table that `head` is in, up to `most`, without bodies; and those between that are damaged.
    pub(super) fn head(&mut self, head: Place, most: usize) -> Result<Head> {
        let changes = self.changes.beside(head);
        let removed = changes.removed();
        let mut found = self.log.head(head, most, |number| removed.binary_search(&number).is_err())?;
        for (number, row) in changes.appended() {
            if found.is_full(most) {
                break;
            }
            found.add(head.beside(number), row);
        }
        Ok(found)
    }

    /// What the server writes its own rows through: they stand or fall with this batch.
    pub(super) fn transaction(&mut self) -> Result<Transaction<'_>> {
        let transaction = match self.transaction.take() {
            Some(transaction) => transaction,
            None => self.log.begin_write()?,
        };
        Ok(Transaction::new(self.transaction.insert(transaction)))
    }

    pub(super) fn put_meta(&mut self, meta: Meta) {
        self.meta = Some(meta);
    }

    /// Takes back what the server wrote; of the rest nothing is done yet.
    pub(super) fn abort(self) -> Result<()> {
        self.transaction.map_or(Ok(()), |transaction| transaction.abort().map_err(engine))
    }

    pub(super) fn into_parts(self) -> Parts {
        let Self { changes, meta, transaction, .. } = self;
        let is_entry = meta.is_none() && transaction.is_none() && !changes.leave_damage();
        Parts { changes, meta, transaction, is_entry }
    }
}
