//! What is to be done to one table, done at once: redb then walks down its tree once for many rows and not for each of
//! them.
//!
//! Invariants:
//! 1. Numbers are appended in ascending order, above all that the table has: every number is given once.
//! 2. A row that is appended and removed again never reaches redb.

use std::ops::{Bound, Range};

use redb::Table;

use super::error::engine;
use crate::error::{Error, ErrorKind, Result};

/// Rows that leave are looked for together where no more than this many stand from one to the next.
const GAP_MAX: u64 = 8;

/// Rows that wait to be done.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// The bytes of all that is appended, one after the other.
    bytes: Vec<u8>,
    /// The number of each row that is appended, and where its bytes are; none where it was removed again, which leaves
    /// its place and its bytes, since many stand behind it.
    appended: Vec<(u64, Option<Range<usize>>)>,
    removed: Vec<u64>,
    /// Every row up to this one is removed too.
    up_to: Option<u64>,
    /// But these: they are damaged.
    stay: Vec<u64>,
}

impl Gathered {
    pub(super) fn is_empty(&self) -> bool {
        self.appended().next().is_none() && self.removed.is_empty() && self.up_to.is_none()
    }

    /// Appends the row that `encode` writes.
    pub(super) fn append(&mut self, number: u64, encode: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<()> {
        let start = self.bytes.len();
        encode(&mut self.bytes)?;
        self.appended.push((number, Some(start..self.bytes.len())));
        Ok(())
    }

    pub(super) fn remove(&mut self, number: u64) {
        match self.place_of(number).and_then(|at| self.appended.get_mut(at)) {
            Some((_, row)) => *row = None,
            None => self.removed.push(number),
        }
    }

    /// Removes every row up to and with this one, but those that stay.
    pub(super) fn remove_up_to(&mut self, last: u64, stay: Vec<u64>) {
        self.appended.retain(|(number, _)| *number > last);
        self.removed.retain(|number| *number > last);
        (self.up_to, self.stay) = (Some(last), stay);
    }

    /// Does what is to be done later behind what is to be done already.
    pub(super) fn absorb(&mut self, later: &Self) {
        for (number, row) in later.appended() {
            let start = self.bytes.len();
            self.bytes.extend_from_slice(row);
            self.appended.push((number, Some(start..self.bytes.len())));
        }
        later.removed.iter().for_each(|number| self.remove(*number));
        if let Some(last) = later.up_to {
            self.remove_up_to(last, later.stay.clone());
        }
    }

    /// How many bytes all that is appended has, and what was removed of it.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The row that is appended under this number.
    pub(super) fn row(&self, number: u64) -> Option<&[u8]> {
        let (_, at) = self.appended.get(self.place_of(number)?)?;
        at.as_ref().map(|at| self.bytes_at(at))
    }

    /// What is appended, in its order.
    pub(super) fn appended(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.appended.iter().filter_map(|(number, at)| Some((*number, self.bytes_at(at.as_ref()?))))
    }

    /// What is removed by its number, in ascending order.
    pub(super) fn removed(&self) -> Vec<u64> {
        let mut removed = self.removed.clone();
        removed.sort_unstable();
        removed
    }

    /// Puts what is removed in the order in which [`removes`](Self::removes) looks for it.
    pub(super) fn sort(&mut self) {
        self.removed.sort_unstable();
    }

    /// Whether a row of this number is one that goes, where they were sorted.
    pub(super) fn removes(&self, number: u64) -> bool {
        self.removed.binary_search(&number).is_ok() || self.up_to.is_some_and(|last| number <= last)
    }

    /// Up to which row all are removed, where none of them stays.
    pub(super) fn up_to(&self) -> Option<u64> {
        self.up_to
    }

    /// Whether a row stays that is damaged.
    pub(super) fn leaves_damage(&self) -> bool {
        !self.stay.is_empty()
    }

    /// Does all of it.
    pub(super) fn apply(&self, table: &mut Table<'_, u64, &'static [u8]>) -> Result<()> {
        let mut appended = self.appended();
        match (appended.next(), appended.next()) {
            (None, _) => {}
            (Some((number, row)), None) => {
                if table.insert(number, row).map_err(engine)?.is_some() {
                    return Err(Error::new(ErrorKind::Failed, "a row stands under a number that was never given"));
                }
            }
            (Some(first), Some(second)) => {
                let mut end = table.upper_bound_mut(Bound::<u64>::Unbounded).map_err(engine)?;
                for (number, row) in [first, second].into_iter().chain(appended) {
                    end.insert_before(number, row).map_err(engine)?;
                }
                end.close().map_err(engine)?;
            }
        }
        for together in self.removed().chunk_by(|one, next| next - one <= GAP_MAX) {
            remove(table, together)?;
        }
        if let Some(last) = self.up_to {
            table.retain_in(..=last, |number, _| self.stay.contains(&number)).map_err(engine)?;
        }
        Ok(())
    }

    fn place_of(&self, number: u64) -> Option<usize> {
        self.appended.binary_search_by_key(&number, |(number, _)| *number).ok()
    }

    fn bytes_at(&self, at: &Range<usize>) -> &[u8] {
        self.bytes.get(at.clone()).unwrap_or_default()
    }
}

/// Removes these numbers, which are in ascending order. One that has no row is none to remove.
fn remove(table: &mut Table<'_, u64, &'static [u8]>, numbers: &[u64]) -> Result<()> {
    match numbers {
        [] => {}
        [number] => drop(table.remove(number).map_err(engine)?),
        [first, .., last] => {
            let mut left = numbers.iter().peekable();
            let stays = |number: u64, _: &[u8]| {
                while left.next_if(|leaves| **leaves < number).is_some() {}
                left.next_if(|leaves| **leaves == number).is_none()
            };
            table.retain_in(*first..=*last, stays).map_err(engine)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::option::weighted;
    use proptest::prelude::*;
    use proptest::sample::Index;
    use redb::{Database, ReadableTable, TableDefinition};

    use super::*;

    const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");

    #[test]
    fn what_goes_is_known_by_its_number() {
        let mut gathered = Gathered::default();
        for number in [9, 3, 12, 7] {
            gathered.remove(number);
        }
        gathered.sort();
        assert_eq!((1..14).filter(|number| gathered.removes(*number)).collect::<Vec<_>>(), [3, 7, 9, 12]);
        gathered.remove_up_to(4, Vec::new());
        assert_eq!((1..14).filter(|number| gathered.removes(*number)).collect::<Vec<_>>(), [1, 2, 3, 4, 7, 9, 12]);
    }

    fn append(gathered: &mut Gathered, number: u64, row: &[u8]) {
        let write = |bytes: &mut Vec<u8>| {
            bytes.extend_from_slice(row);
            Ok(())
        };
        gathered.append(number, write).unwrap();
    }

    /// A log in memory, done to in batches, and what it ought to hold.
    struct Both {
        database: Database,
        rows: BTreeMap<u64, Vec<u8>>,
        next: u64,
    }

    impl Both {
        fn new() -> Self {
            let memory = redb::backends::InMemoryBackend::new();
            let database = redb::Builder::new().create_with_backend(memory).unwrap();
            Self { database, rows: BTreeMap::new(), next: 1 }
        }

        /// Appends so many rows, and removes of all there are those that `leaves` chooses, in the order it gives them.
        fn batch(&mut self, appended: u64, leaves: impl Fn(&[u64]) -> Vec<u64>) {
            let transaction = self.database.begin_write().unwrap();
            let mut log = transaction.open_table(LOG).unwrap();
            let mut gathered = Gathered::default();
            for _ in 0..appended {
                let number = self.next;
                let row = vec![number.to_le_bytes()[0]; usize::try_from(number % 300).unwrap()];
                append(&mut gathered, number, &row);
                self.rows.insert(number, row);
                // Bodies of their own take numbers too.
                self.next += 1 + number % 3;
            }
            for number in leaves(&self.rows.keys().copied().collect::<Vec<_>>()) {
                gathered.remove(number);
                self.rows.remove(&number);
            }
            gathered.apply(&mut log).unwrap();
            assert_eq!(rows_of(&log), self.rows);
            drop(log);
            transaction.commit().unwrap();
        }
    }

    proptest! {
        #[test]
        fn after_every_batch_the_log_holds_what_it_ought_to(
            batches in vec((0..40_u64, vec(any::<Index>(), 0..40)), 1..12)
        ) {
            let mut both = Both::new();
            for (appended, leaves) in batches {
                both.batch(appended, |rows| {
                    let mut left: Vec<u64> = Vec::new();
                    for leaves in leaves.iter().filter(|_| !rows.is_empty()) {
                        let number = *leaves.get(rows);
                        if !left.contains(&number) {
                            left.push(number);
                        }
                    }
                    left
                });
            }
        }
    }

    /// What one batch does, as the test above has it: how many rows it appends, which leave, and up to where all do.
    type Batch = (u64, Vec<Index>, Option<Index>);

    /// The rows after these batches, and what each gathered.
    fn gathered(batches: &[Batch]) -> (BTreeMap<u64, Vec<u8>>, Vec<Gathered>) {
        let (mut rows, mut next, mut each) = (BTreeMap::new(), 1, Vec::new());
        for (appended, leave, up_to) in batches {
            let mut batch = Gathered::default();
            for _ in 0..*appended {
                let row = vec![u64::to_le_bytes(next)[0]; usize::try_from(next % 90).unwrap()];
                append(&mut batch, next, &row);
                rows.insert(next, row);
                next += 1 + next % 3;
            }
            let some = |at: &Index, rows: &BTreeMap<u64, Vec<u8>>| rows.keys().nth(at.index(rows.len())).copied();
            for at in leave.iter().filter(|_| !rows.is_empty()).collect::<Vec<_>>() {
                let Some(number) = some(at, &rows) else { break };
                batch.remove(number);
                rows.remove(&number);
                if rows.is_empty() {
                    break;
                }
            }
            if let Some(last) = up_to.as_ref().filter(|_| !rows.is_empty()).and_then(|at| some(at, &rows)) {
                batch.remove_up_to(last, Vec::new());
                rows.retain(|number, _| *number > last);
            }
            each.push(batch);
        }
        (rows, each)
    }

    fn rows_of(log: &impl ReadableTable<u64, &'static [u8]>) -> BTreeMap<u64, Vec<u8>> {
        let held = log.iter().unwrap().map(|row| row.map(|(number, row)| (number.value(), row.value().to_vec())));
        held.collect::<Result<_, _>>().unwrap()
    }

    proptest! {
        /// However many batches are told at once, the table holds what it would if each had been told.
        #[test]
        fn batches_that_are_told_at_once_come_to_the_same_as_one_by_one(
            batches in vec((0..12_u64, vec(any::<Index>(), 0..9), weighted(0.2, any::<Index>())), 1..12),
            at_once in 1..5_usize,
        ) {
            let (expected, each) = gathered(&batches);
            let database = Both::new().database;
            for together in each.chunks(at_once) {
                let mut ahead = Gathered::default();
                for batch in together {
                    ahead.absorb(batch);
                }
                let transaction = database.begin_write().unwrap();
                ahead.apply(&mut transaction.open_table(LOG).unwrap()).unwrap();
                for (number, row) in ahead.appended() {
                    assert_eq!(ahead.row(number), Some(row));
                }
                transaction.commit().unwrap();
            }
            let transaction = database.begin_write().unwrap();
            assert_eq!(rows_of(&transaction.open_table(LOG).unwrap()), expected);
        }
    }

    #[test]
    fn what_is_removed_and_not_there_is_nothing_to_remove() {
        let mut both = Both::new();
        both.batch(20, |_| Vec::new());
        both.batch(0, |rows| rows.iter().flat_map(|number| [*number, *number + 1]).collect());
        both.batch(0, |_| vec![3]);
        assert!(both.rows.is_empty());
    }

    #[test]
    fn a_number_that_the_log_has_or_is_past_already_is_an_error() {
        for numbers in [&[7, 5][..], &[3]] {
            let mut both = Both::new();
            both.batch(3, |_| Vec::new());
            let transaction = both.database.begin_write().unwrap();
            let mut log = transaction.open_table(LOG).unwrap();
            let mut gathered = Gathered::default();
            for number in numbers {
                append(&mut gathered, *number, &[1]);
            }
            assert_eq!(gathered.apply(&mut log).unwrap_err().kind(), ErrorKind::Failed, "{numbers:?}");
        }
    }
}
