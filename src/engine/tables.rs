//! The store's tables, as one batch sees them: what is on disk, and what the batch does to it.
//!
//! Invariants:
//! 1. What a batch does is gathered, and nothing of it is seen by anybody else before it is committed.
//! 2. redb's write transaction is begun where it is needed: for the server's own rows, or for a commit in full.

use redb::WriteTransaction;

use super::changes::Changes;
use super::error::engine;
use super::log::{Log, at};
use super::meta::Meta;
use super::place::Place;
use super::transaction::Transaction;
use crate::error::{Error, Result};
use crate::record::{Record, format};

/// How many damaged rows are passed over, where what has ended is looked for behind them.
const DAMAGED_MAX: usize = 1024;

/// The first rows of a table, up to so many, or up to one that stays.
pub(super) struct Head<S> {
    pub(super) rows: Vec<(Place, Record)>,
    pub(super) damaged: Vec<(Place, Error)>,
    most: usize,
    stays: S,
    ends: bool,
}

impl<S: Fn(&Record) -> bool> Head<S> {
    /// Nothing of it yet.
    pub(super) fn new(most: usize, stays: S) -> Self {
        Self { rows: Vec::new(), damaged: Vec::new(), most, stays, ends: false }
    }

    pub(super) fn is_full(&self) -> bool {
        self.ends || self.rows.len() == self.most || self.damaged.len() == DAMAGED_MAX
    }

    pub(super) fn add(&mut self, place: Place, row: &[u8]) {
        match format::decode(row) {
            Ok(record) => {
                self.ends = (self.stays)(&record);
                self.rows.push((place, record));
            }
            Err(error) => self.damaged.push((place, at(place, error))),
        }
    }
}

/// The tables, and what is to become of them.
pub(super) struct Tables<'l> {
    log: &'l Log,
    changes: Changes,
    /// What the meta row is to say.
    meta: Option<Meta>,
    /// Begun where the server writes rows of its own.
    transaction: Option<WriteTransaction>,
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
    pub(super) fn new(log: &'l Log) -> Self {
        Self { log, changes: Changes::default(), meta: None, transaction: None }
    }

    /// The record at `place`, where it stood before this batch, without the bodies that stand apart.
    pub(super) fn read(&self, place: Place) -> Result<Option<Record>> {
        self.log.read_row(place)
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

    /// Finds the first rows of the table that `head` is in, without bodies, and those between that are damaged.
    pub(super) fn head<S: Fn(&Record) -> bool>(&self, head: Place, found: &mut Head<S>) -> Result<()> {
        let changes = self.changes.of(head);
        let removed = changes.removed();
        self.log.head(head, found, |number| removed.binary_search(&number).is_err())?;
        for (number, row) in changes.appended() {
            if found.is_full() {
                break;
            }
            found.add(head.beside(number), row);
        }
        Ok(())
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
