//! What one batch does to the store's tables, or several of them: as it is gathered, and as an entry of the journal
//! says it.
//!
//! Invariant: done again it comes to the same, since every number is given once.

use redb::{Table, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::error::engine;
use super::gathered::Gathered;
use super::place::{BODIES, Definition, LOG, Place, TOMBSTONES, UNFINISHED};
use crate::error::{Error, ErrorKind, Result};
use crate::payload::{read_fixed, write_fixed};
use crate::record::{Record, format};

/// The store's tables that a batch changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Of {
    Log,
    Tombstones,
    Bodies,
    Unfinished,
}

impl Of {
    fn table(self) -> Definition<'static> {
        match self {
            Self::Log => LOG,
            Self::Tombstones => TOMBSTONES,
            Self::Bodies => BODIES,
            Self::Unfinished => UNFINISHED,
        }
    }
}

impl From<Place> for Of {
    fn from(place: Place) -> Self {
        match place {
            Place::Log(_) => Self::Log,
            Place::Unfinished(_) => Self::Unfinished,
            Place::Tombstone(_) => Self::Tombstones,
        }
    }
}

/// What becomes of a row, as an entry says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Change {
    /// So many bytes follow: the row.
    Put(u32),
    Remove,
    /// And every row before it.
    RemoveUpTo,
}

/// What is done to each of the tables.
#[derive(Debug, Default)]
pub(super) struct Changes {
    log: Gathered,
    unfinished: Gathered,
    tombstones: Gathered,
    bodies: Gathered,
}

impl Changes {
    fn of_mut(&mut self, of: Of) -> &mut Gathered {
        match of {
            Of::Log => &mut self.log,
            Of::Unfinished => &mut self.unfinished,
            Of::Tombstones => &mut self.tombstones,
            Of::Bodies => &mut self.bodies,
        }
    }

    fn all(&self) -> [(Of, &Gathered); 4] {
        [
            (Of::Bodies, &self.bodies),
            (Of::Log, &self.log),
            (Of::Unfinished, &self.unfinished),
            (Of::Tombstones, &self.tombstones),
        ]
    }

    /// What is done to the table of this place.
    pub(super) fn of(&self, place: Place) -> &Gathered {
        match place {
            Place::Log(_) => &self.log,
            Place::Unfinished(_) => &self.unfinished,
            Place::Tombstone(_) => &self.tombstones,
        }
    }

    /// The same, for more to be done.
    pub(super) fn beside(&mut self, place: Place) -> &mut Gathered {
        self.of_mut(place.into())
    }

    /// Writes the row of `record` at `place`.
    pub(super) fn put(&mut self, place: Place, record: &Record) -> Result<()> {
        self.beside(place).append(place.number(), |row| format::encode(record, row))
    }

    pub(super) fn put_body(&mut self, row: u64, bytes: &[u8]) -> Result<()> {
        self.bodies.append(row, |body| {
            body.extend_from_slice(bytes);
            Ok(())
        })
    }

    pub(super) fn remove(&mut self, place: Place) {
        self.beside(place).remove(place.number());
    }

    pub(super) fn remove_body(&mut self, row: u64) {
        self.bodies.remove(row);
    }

    /// The row that is put at this place.
    pub(super) fn row(&self, place: Place) -> Option<&[u8]> {
        self.of(place).row(place.number())
    }

    /// The body that is put into this row.
    pub(super) fn body(&self, row: u64) -> Option<&[u8]> {
        self.bodies.row(row)
    }

    /// Whether a damaged row stays between those that go, which no entry says.
    pub(super) fn leave_damage(&self) -> bool {
        self.log.leaves_damage() || self.tombstones.leaves_damage()
    }

    /// What entries of the journal say, for whoever reads it beside redb.
    pub(super) fn said(said: &[u8]) -> Result<Self> {
        let mut changes = Self::default();
        each(said, |of, number, change, row| {
            let gathered = changes.of_mut(of);
            match change {
                Change::Put(_) => {
                    let put = |bytes: &mut Vec<u8>| {
                        bytes.extend_from_slice(row);
                        Ok(())
                    };
                    return gathered.append(number, put);
                }
                Change::Remove => gathered.remove(number),
                Change::RemoveUpTo => gathered.remove_up_to(number, Vec::new()),
            }
            Ok(())
        })?;
        [&mut changes.log, &mut changes.unfinished, &mut changes.tombstones, &mut changes.bodies]
            .into_iter()
            .for_each(Gathered::sort);
        Ok(changes)
    }

    /// Whether the row at this place is one that goes.
    pub(super) fn removes(&self, place: Place) -> bool {
        self.of(place).removes(place.number())
    }

    /// The places of the rows that are put.
    pub(super) fn places(&self) -> impl Iterator<Item = Place> {
        let of = |start: Place| self.of(start).appended().map(move |(number, _)| start.beside(number));
        Place::STARTS.into_iter().flat_map(of)
    }

    /// Does what another batch does behind what is to be done already.
    pub(super) fn absorb(&mut self, later: &Self) {
        self.log.absorb(&later.log);
        self.unfinished.absorb(&later.unfinished);
        self.tombstones.absorb(&later.tombstones);
        self.bodies.absorb(&later.bodies);
    }

    /// Does all of it.
    pub(super) fn apply(&self, transaction: &WriteTransaction) -> Result<()> {
        // A table is opened where something is done to it: each costs the commit time and pages.
        for (of, gathered) in self.all() {
            if !gathered.is_empty() {
                gathered.apply(&mut transaction.open_table(of.table()).map_err(engine)?)?;
            }
        }
        Ok(())
    }

    /// Says all of it behind these bytes, where that makes no more than so many; else nothing is to be made of them.
    pub(super) fn say(&self, bytes: &mut Vec<u8>, most: usize) -> Result<bool> {
        let rows: usize = self.all().iter().map(|(_, gathered)| gathered.bytes()).sum();
        if bytes.len() + rows > most {
            return Ok(false);
        }
        bytes.reserve(rows);
        for (of, gathered) in self.all() {
            for (number, row) in gathered.appended() {
                let Ok(len) = u32::try_from(row.len()) else { return Ok(false) };
                write_fixed(&(of, number, Change::Put(len)), bytes)?;
                bytes.extend_from_slice(row);
            }
            for number in gathered.removed() {
                write_fixed(&(of, number, Change::Remove), bytes)?;
            }
            if let Some(last) = gathered.up_to() {
                write_fixed(&(of, last, Change::RemoveUpTo), bytes)?;
            }
        }
        Ok(bytes.len() <= most)
    }
}

/// Does once more what entries of the journal say.
pub(super) fn repeat(transaction: &WriteTransaction, said: &[u8]) -> Result<()> {
    each(said, |of, number, change, row| {
        let mut table: Table<'_, u64, &'static [u8]> = transaction.open_table(of.table()).map_err(engine)?;
        match change {
            Change::Put(_) => drop(table.insert(number, row).map_err(engine)?),
            Change::Remove => drop(table.remove(number).map_err(engine)?),
            Change::RemoveUpTo => table.retain_in(..=number, |_, _| false).map_err(engine)?,
        }
        Ok(())
    })
}

/// Gives each change that entries of the journal say to `take`, with the row where one is put.
fn each(mut said: &[u8], mut take: impl FnMut(Of, u64, Change, &[u8]) -> Result<()>) -> Result<()> {
    let torn = || Error::new(ErrorKind::Corrupt, "an entry of the journal ends within a change");
    while !said.is_empty() {
        let ((of, number, change), used): ((Of, u64, Change), usize) = read_fixed(said)?;
        let len = if let Change::Put(len) = change { len as usize } else { 0 };
        let (row, rest) = said.get(used..).and_then(|rest| rest.split_at_checked(len)).ok_or_else(torn)?;
        take(of, number, change, row)?;
        said = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry says that all go up to a number, and would take with it, after a crash, what is to stay.
    #[test]
    fn p10_a_damaged_row_that_stays_is_in_one_table_or_the_other() {
        for (log, tombstones) in [(vec![], vec![]), (vec![3], vec![]), (vec![], vec![4]), (vec![3], vec![4])] {
            let leaves = !log.is_empty() || !tombstones.is_empty();
            let mut changes = Changes::default();
            changes.beside(Place::Log(0)).remove_up_to(9, log);
            changes.beside(Place::Tombstone(0)).remove_up_to(9, tombstones);
            assert_eq!(changes.leave_damage(), leaves);
        }
    }

    /// Whoever reads a damaged file beside its journal takes away what redb would.
    #[test]
    fn p5_all_rows_that_an_entry_removes_at_once_are_gone_for_who_reads_it_beside_redb() {
        let mut changes = Changes::default();
        changes.beside(Place::Log(0)).remove_up_to(5, Vec::new());
        changes.beside(Place::Tombstone(0)).remove_up_to(3, Vec::new());
        let mut said = Vec::new();
        assert!(changes.say(&mut said, 100).unwrap());
        let again = Changes::said(&said).unwrap();
        let gone = |place: fn(u64) -> Place| (0..9).filter(|number| again.removes(place(*number))).collect::<Vec<_>>();
        assert_eq!((gone(Place::Log), gone(Place::Tombstone)), (vec![0, 1, 2, 3, 4, 5], vec![0, 1, 2, 3]));
        assert!(gone(Place::Unfinished).is_empty());
    }

    #[test]
    fn an_entry_that_ends_within_a_change_is_damaged() {
        let mut changes = Changes::default();
        changes.put_body(7, &[5; 10]).unwrap();
        changes.remove_body(6);
        let mut said = Vec::new();
        assert!(changes.say(&mut said, 100).unwrap());
        let again = Changes::said(&said).unwrap();
        assert_eq!((again.body(7), again.bodies.removed()), (Some(&[5; 10][..]), vec![6]));
        let ends: Vec<_> = (0..=said.len()).filter(|end| Changes::said(&said[..*end]).is_ok()).collect();
        assert_eq!(ends, [0, 16 + 4 + 10, said.len()], "a change is whole or none");
    }

    /// Which of the operations ends or moves first has nothing to do with which began first.
    #[test]
    fn p5_what_entries_remove_in_any_order_is_gone_for_who_reads_them_beside_redb() {
        let mut said = Vec::new();
        let tables = [Of::Log, Of::Tombstones, Of::Bodies, Of::Unfinished];
        for number in [9, 4, 7, 2] {
            let mut changes = Changes::default();
            for of in tables {
                changes.of_mut(of).remove(number);
            }
            assert!(changes.say(&mut said, 1_000).unwrap());
        }
        let mut again = Changes::said(&said).unwrap();
        for of in tables {
            let gone: Vec<_> = (0..12).filter(|number| again.of_mut(of).removes(*number)).collect();
            assert_eq!(gone, [2, 4, 7, 9], "{of:?}");
        }
    }
}
