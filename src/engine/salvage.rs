//! What can still be read of a damaged file: every row that its tables lead to, in order, and behind what cannot be
//! read from the next number on that can.
//!
//! Invariant: nothing is passed over in silence. Whoever lists what is there is told of each row, or run of rows, that
//! cannot be read (P10).

use redb::ReadTransaction;

use super::error::{engine, unwound};
use super::list::{Order, Page, check_place, len, out_of_order, read_row};
use super::log::{Log, Opening, at, share, tell};
use super::meta::{self, Meta};
use super::place::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::record::Record;

/// How many numbers that cannot be read are tried one by one. Behind more of them in a row the steps become longer by
/// this share of the way: no page holds so many rows, but a page may stand before numbers that were never given, as a
/// copy leaves 2^40 of them to its original.
const ONE_BY_ONE: u64 = 1 << 16;
const STEPS_A_WAY: u64 = 16;

impl Log {
    /// Gives every record that can be read to `each`. Where the meta row can be read too, this is what it says.
    pub(super) fn salvage(
        mut self,
        unknown: Meta,
        opening: &Opening,
        each: impl Fn(Vec<(Place, Record)>) -> Result<()>,
    ) -> Result<(Self, Meta)> {
        let known = self.reading(meta::read).ok();
        self.probes_to = known.map(|meta| meta.next.saturating_sub(1));
        let in_redb = Place::STARTS.map(|place| self.reading(|reader| len(reader, place)).unwrap_or_default());
        let in_journal = self.untold.places().filter(|place| !self.holds(*place).unwrap_or(false)).count() as u64;
        let counted = in_redb.iter().sum::<u64>() + in_journal;
        // Told at the end of a listing; here every error is counted as a row.
        let unread = std::mem::take(&mut self.unread);
        let (mut found, mut damaged) = (0, 0);
        let mut left = Order::OldestFirst.starts().to_vec();
        while let Some(place) = left.pop() {
            let mut seen = Vec::new();
            let page = self.page(place, Order::OldestFirst, u64::MAX, |place, record| {
                seen.push((place, record.clone()));
                false
            })?;
            (found, damaged) = (found + seen.len() as u64, damaged + page.found.len() as u64);
            seen.retain(|(place, _)| self.counts(*place));
            each(seen)?;
            left.extend(page.after);
            tell(opening, share(found, counted))?;
        }
        self.unread = unread;
        // A page that says that it holds fewer rows than it does hides the others.
        if found + damaged < counted {
            self.unread.push(format!("the tables count {counted} rows, of which {found} can be read"));
        }
        Ok((self, known.unwrap_or(unknown)))
    }
}

/// Where redb cannot be told what the journal says: rows that it says are gone do not count, and those that it puts
/// stand behind all others, since their numbers are higher.
impl Log {
    pub(super) fn counts(&self, place: Place) -> bool {
        !self.untold.removes(place)
    }

    /// Adds what is wanted of these rows to the page behind `after`: all that belong to its table stand at its newest
    /// end. And to the very last what else cannot be read.
    pub(super) fn add_untold(
        &self,
        reader: &ReadTransaction,
        page: &mut Page<Record>,
        after: Place,
        order: Order,
        mut wanted: impl FnMut(Place, &Record) -> bool,
    ) {
        let is_last = page.after.is_none() && matches!(after, Place::Unfinished(_));
        let unread = self.unread.iter().filter(|_| is_last);
        page.found.extend(unread.map(|unread| (after, Err(Error::new(ErrorKind::Corrupt, unread.clone())))));
        let mut read = |(number, row)| {
            let place = after.beside(number);
            let record = unwound(|| read_row(reader, place, row, &self.untold, &mut wanted));
            record.map_err(|e| at(place, e)).transpose().map(|record| (place, record))
        };
        let untold = self.untold.of(after).appended();
        let untold = untold.filter(|(number, _)| order.is_before(after, after.beside(*number)));
        match order {
            // The table goes on behind this page.
            Order::OldestFirst if page.after.is_some_and(|next| next == after.beside(next.number())) => {}
            Order::OldestFirst => page.found.extend(untold.filter_map(&mut read)),
            Order::NewestFirst => {
                let mut newest: Vec<_> = untold.filter_map(&mut read).collect();
                newest.reverse();
                page.found.splice(..0, newest);
            }
        }
    }

    /// The record at this place at the moment that `reader` shows, with its bodies.
    #[cfg(feature = "export")]
    pub(super) fn read_at(&self, reader: &ReadTransaction, place: Place) -> Result<Option<Record>> {
        let all = &mut |_, _: &Record| true;
        if let Some(row) = self.untold.row(place) {
            return read_row(reader, place, row, &self.untold, all);
        }
        let table = reader.open_table(place.table()).map_err(engine)?;
        let Some(row) = table.get(place.number()).map_err(engine)? else { return Ok(None) };
        read_row(reader, place, row.value(), &self.untold, all)
    }
}

/// Passes over what cannot be read behind `from`, up to the `highest` number, and tells of it: the page goes on, in
/// order, with what stands behind.
pub(super) fn pass_over(
    reader: &ReadTransaction,
    page: &mut Page<Record>,
    from: Place,
    order: Order,
    highest: u64,
    why: Error,
) {
    let is_lost = |number| unwound(|| find(reader, from.beside(number), order)).is_err();
    let Some(first) = ahead(order, from.number(), 1, highest) else {
        page.after = order.next_table(from);
        page.found.push((from, Err(why.within(&format!("the end of table {}", from.table_name())))));
        return;
    };
    let table = from.table_name();
    if page.looked > 0 && !is_lost(first) {
        // Whoever begins anew behind it goes on.
        page.found.push((from, Err(why.within(&format!("behind row {} of table {table}", from.number())))));
        return;
    }
    let last = last_lost(first, order, highest, is_lost);
    let place = from.beside(last);
    let rows = match (first.min(last), first.max(last)) {
        (one, other) if one == other => format!("row {one} of table {table}"),
        (one, other) => format!("rows {one} to {other} of table {table}"),
    };
    page.found.push((place, Err(why.within(&rows))));
    page.after = ahead(order, last, 1, highest).map_or_else(|| order.next_table(from), |_| Some(place));
}

/// Finds the first row from `place` on, in this order, as whoever goes on behind `place` would.
fn find(reader: &ReadTransaction, place: Place, order: Order) -> Result<()> {
    let table = reader.open_table(place.table()).map_err(engine)?;
    let found = match order {
        Order::OldestFirst => table.range(place.number()..).map_err(engine)?.next(),
        Order::NewestFirst => table.range(..=place.number()).map_err(engine)?.next_back(),
    };
    let Some((number, row)) = found.transpose().map_err(engine)? else { return Ok(()) };
    let is_ahead = match order {
        Order::OldestFirst => number.value() >= place.number(),
        Order::NewestFirst => number.value() <= place.number(),
    };
    if is_ahead { check_place(&table, place.beside(number.value()), &row) } else { Err(out_of_order()) }
}

/// The last of the numbers from `first` on that are lost, of which `first` is one.
fn last_lost(first: u64, order: Order, highest: u64, is_lost: impl Fn(u64) -> bool) -> u64 {
    let (mut last, mut step, mut is_behind) = (first, 1, false);
    loop {
        match ahead(order, last, step, highest).filter(|number| is_lost(*number)) {
            Some(number) => {
                last = number;
                let way = last.abs_diff(first);
                if way >= ONE_BY_ONE && !is_behind {
                    step = way / STEPS_A_WAY;
                }
            }
            None if step == 1 => return last,
            // The end lies between.
            None => (step, is_behind) = (step / 2, true),
        }
    }
}

/// The number so many steps ahead; none where it would be none that was ever given.
fn ahead(order: Order, number: u64, steps: u64, highest: u64) -> Option<u64> {
    match order {
        Order::OldestFirst => number.checked_add(steps).filter(|number| *number <= highest),
        Order::NewestFirst => number.min(highest.saturating_add(1)).checked_sub(steps).filter(|number| *number > 0),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn the_end_of_what_is_lost_is_found_to_the_number_in_few_steps_however_far_it_is() {
        for end in [1, 2, 4_000, ONE_BY_ONE + 5, 1 << 33, (1 << 40) + 70_001, 1 << 62] {
            let tried = Cell::new(0_u64);
            let is_lost = |number: u64| {
                tried.set(tried.get() + 1);
                (10..10 + end).contains(&number)
            };
            assert_eq!(last_lost(10, Order::OldestFirst, 1 << 63, is_lost), 9 + end);
            assert_eq!(last_lost(9 + end, Order::NewestFirst, 1 << 63, is_lost), 10);
            assert!(tried.get() < 2 * ONE_BY_ONE + 2_000, "{} for {end}", tried.get());
        }
    }

    #[test]
    fn nothing_is_lost_beyond_the_numbers_that_were_given() {
        for highest in [10, 11, ONE_BY_ONE * 3, 1 << 41] {
            assert_eq!(last_lost(10, Order::OldestFirst, highest, |_| true), highest);
            assert_eq!(last_lost(highest, Order::NewestFirst, highest, |_| true), 1);
        }
    }

    #[test]
    fn of_few_that_are_lost_none_that_is_not_is_passed_over() {
        let is_lost = |number: u64| number % 1_000 < 999;
        for first in [1, 500, 1_000] {
            assert_eq!(last_lost(first, Order::OldestFirst, 1 << 41, is_lost) % 1_000, 998);
        }
    }
}
