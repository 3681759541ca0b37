//! The tables of the log inside the one write transaction.
//!
//! Invariants:
//! 1. A table is opened where something touches it: each costs the commit time and pages.
//! 2. What a batch does to the log is gathered, and done before anything of the log is read, and before the commit.

use redb::{ReadableTable, Table, WriteTransaction};

use super::error::engine;
use super::gathered::Gathered;
use super::journal::{Changes, Of};
use super::log::{BODIES, Definition, LOG, Place, TOMBSTONES, at, load_bodies};
use super::meta::{self, Meta};
use super::transaction::Transaction;
use crate::error::{Error, Result};
use crate::record::{Record, format};

/// How many damaged rows are passed over, where what has ended is looked for behind them.
const DAMAGED_MAX: usize = 1024;

/// The first rows of a table.
pub(super) struct Head {
    pub(super) rows: Vec<(Place, Record)>,
    pub(super) damaged: Vec<(Place, Error)>,
}

/// The tables inside the write transaction.
pub(crate) struct Tables<'t> {
    transaction: &'t WriteTransaction,
    log: Table<'t, u64, &'static [u8]>,
    tombstones: Option<Table<'t, u64, &'static [u8]>>,
    bodies: Option<Table<'t, u64, &'static [u8]>>,
    /// What is to be done to the log before anything of it is read, and before the commit.
    gathered: Gathered,
    /// What is done to all of them, for the journal.
    changes: Changes,
}

impl<'t> Tables<'t> {
    pub(crate) fn open(transaction: &'t WriteTransaction, changes: Changes) -> Result<Self> {
        let log = transaction.open_table(LOG).map_err(engine)?;
        let gathered = Gathered::default();
        Ok(Self { transaction, log, tombstones: None, bodies: None, gathered, changes })
    }

    /// What was done to them.
    pub(super) fn into_changes(self) -> Changes {
        self.changes
    }

    /// Does what is gathered, so that the transaction can be committed.
    pub(crate) fn settle(&mut self) -> Result<()> {
        if self.gathered.is_empty() { Ok(()) } else { self.gathered.apply(&mut self.log) }
    }

    /// The record at `place`, without the bodies that stand apart.
    pub(crate) fn read(&mut self, place: Place) -> Result<Option<Record>> {
        self.settle()?;
        let row = self.table(place)?.get(place.number()).map_err(engine)?;
        row.map(|row| format::decode(row.value()).map_err(|e| at(place, e))).transpose()
    }

    /// Fills in the bodies that stand apart.
    pub(crate) fn load_bodies(&mut self, record: &mut Record) -> Result<()> {
        if record.rows_apart().next().is_none() {
            return Ok(());
        }
        load_bodies(record, self.bodies()?)
    }

    /// Writes the row of `record` at `place`.
    pub(crate) fn put(&mut self, place: Place, record: &Record) -> Result<()> {
        if let Place::Log(number) = place {
            let row = self.gathered.append(number, |row| format::encode(record, row))?;
            self.changes.put(place.into(), number, row);
            return Ok(());
        }
        let mut row = Vec::new();
        format::encode(record, &mut row)?;
        self.changes.put(place.into(), place.number(), &row);
        self.table(place)?.insert(place.number(), row.as_slice()).map_err(engine)?;
        Ok(())
    }

    pub(crate) fn remove(&mut self, place: Place) -> Result<()> {
        self.changes.remove(place.into(), place.number());
        match place {
            Place::Log(number) => self.gathered.remove(number),
            Place::Tombstone(number) => drop(self.table(place)?.remove(number).map_err(engine)?),
        }
        Ok(())
    }

    /// Removes every row up to and with this one, but those that are damaged.
    pub(crate) fn remove_up_to(&mut self, last: Place, damaged: &[(Place, Error)]) -> Result<()> {
        self.settle()?;
        if damaged.is_empty() {
            self.changes.remove_up_to(last.into(), last.number());
        } else {
            self.changes.give_up();
        }
        let stays = |number, _: &[u8]| damaged.iter().any(|(place, _)| place.number() == number);
        self.table(last)?.retain_in(..=last.number(), stays).map_err(engine)
    }

    pub(crate) fn put_body(&mut self, row: u64, bytes: &[u8]) -> Result<()> {
        self.changes.put(Of::Bodies, row, bytes);
        self.bodies()?.insert(row, bytes).map_err(engine)?;
        Ok(())
    }

    pub(crate) fn remove_body(&mut self, row: u64) -> Result<()> {
        self.changes.remove(Of::Bodies, row);
        self.bodies()?.remove(row).map_err(engine)?;
        Ok(())
    }

    /// The first rows of the table that `head` is in, up to `most`, without bodies; and those between that are damaged.
    pub(crate) fn head(&mut self, head: Place, most: usize) -> Result<Head> {
        self.settle()?;
        let (mut rows, mut damaged) = (Vec::new(), Vec::new());
        for row in self.table(head)?.range(head.number()..).map_err(engine)? {
            if rows.len() == most || damaged.len() == DAMAGED_MAX {
                break;
            }
            let (number, row) = row.map_err(engine)?;
            let place = head.beside(number.value());
            match format::decode(row.value()) {
                Ok(record) => rows.push((place, record)),
                Err(error) => damaged.push((place, at(place, error))),
            }
        }
        Ok(Head { rows, damaged })
    }

    /// What the server writes its own rows through: they stand or fall with this transaction.
    pub(crate) fn transaction(&mut self) -> Transaction<'t> {
        self.changes.give_up();
        Transaction::new(self.transaction)
    }

    pub(crate) fn put_meta(&mut self, meta: Meta) -> Result<()> {
        self.changes.give_up();
        meta::write(self.transaction, meta)
    }

    fn table(&mut self, place: Place) -> Result<&mut Table<'t, u64, &'static [u8]>> {
        match place {
            Place::Log(_) => Ok(&mut self.log),
            Place::Tombstone(_) => opened(self.transaction, &mut self.tombstones, TOMBSTONES),
        }
    }

    fn bodies(&mut self) -> Result<&mut Table<'t, u64, &'static [u8]>> {
        opened(self.transaction, &mut self.bodies, BODIES)
    }
}

fn opened<'a, 't>(
    transaction: &'t WriteTransaction,
    slot: &'a mut Option<Table<'t, u64, &'static [u8]>>,
    definition: Definition<'_>,
) -> Result<&'a mut Table<'t, u64, &'static [u8]>> {
    match slot {
        Some(table) => Ok(table),
        None => Ok(slot.insert(transaction.open_table(definition).map_err(engine)?)),
    }
}
