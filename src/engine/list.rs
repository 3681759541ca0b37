//! Everything that is kept, in the order in which it changed last: what ended, and what is unfinished, each a page at a
//! time, in a short read of its own.
//!
//! Invariants:
//! 1. No page holds more than so many rows and bytes, and no read lasts for more than one page: whoever lists millions
//!    holds up nobody, and the file does not grow.
//! 2. A damaged row is told in its place; it stops none behind it.
//! 3. What is told of an expiry is told when the time it rests on is on disk (P11).

use std::ops::Bound;
use std::sync::Arc;

use redb::{AccessGuard, ReadTransaction, ReadableTable};

use super::changes::Changes;
use super::error::{engine, unwound};
use super::log::{Log, at, load_bodies};
use super::migration::rows;
use super::place::{BODIES, NUMBER_MAX, Place};
use super::queue::Shut;
use super::salvage::pass_over;
use super::{Engine, Seen};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::record::transitions::{is_kept, is_over};
use crate::record::{Record, format};

/// Rows looked at in one read.
const PAGE_ROWS: u64 = 512;
/// Bytes of payloads after which a page ends.
pub(super) const PAGE_BYTES: u64 = 4 * 1024 * 1024;

/// Which way a listing goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// From what changed first to what changed last; tombstones stand before all else.
    OldestFirst,
    /// The other way round.
    NewestFirst,
}

/// Some of what a listing finds.
#[derive(Debug)]
pub(crate) struct Page<T> {
    /// What was wanted, each with its place.
    pub(crate) found: Vec<(Place, Result<T>)>,
    /// Where the next page goes on; none where this was the last.
    pub(crate) after: Option<Place>,
    /// How many rows were looked at.
    pub(crate) looked: u64,
}

impl Order {
    /// The places behind which all stands: what ended with its tombstones, and what is unfinished.
    pub(crate) fn starts(self) -> [Place; 2] {
        match self {
            Self::OldestFirst => [Place::Tombstone(0), Place::Unfinished(0)],
            Self::NewestFirst => [Place::Log(NUMBER_MAX), Place::Unfinished(NUMBER_MAX)],
        }
    }

    /// The place behind which all stands, where both are taken as one.
    pub(crate) fn start(self) -> Place {
        let [start, _] = self.starts();
        start
    }

    /// Where each of both begins behind this place.
    pub(crate) fn behind(self, place: Place) -> [Option<Place>; 2] {
        let [_, unfinished] = self.starts();
        match (self, place) {
            (Self::OldestFirst, Place::Tombstone(_)) => [Some(place), Some(unfinished)],
            (Self::NewestFirst, Place::Tombstone(_)) => [Some(place), None],
            (_, Place::Log(number) | Place::Unfinished(number)) => {
                [Place::Log(number), Place::Unfinished(number)].map(Some)
            }
        }
    }

    /// The place behind which all that ended stands that is in no table up to this place's.
    pub(super) fn next_table(self, place: Place) -> Option<Place> {
        match (self, place) {
            (Self::OldestFirst, Place::Tombstone(_)) => Some(Place::Log(0)),
            (Self::NewestFirst, Place::Log(_)) => Some(Place::Tombstone(NUMBER_MAX)),
            _ => None,
        }
    }

    /// The numbers that come behind this place: from the one that is next. Behind a damaged page that is on another,
    /// and the one that is left is not.
    fn numbers_behind(self, place: Place) -> (Bound<u64>, Bound<u64>) {
        match self {
            Self::OldestFirst => (Bound::Included(place.number().saturating_add(1)), Bound::Unbounded),
            Self::NewestFirst => (Bound::Unbounded, Bound::Included(place.number().saturating_sub(1))),
        }
    }

    /// Whether one place comes before another.
    pub(crate) fn is_before(self, one: Place, other: Place) -> bool {
        let key = |place: Place| (!matches!(place, Place::Tombstone(_)), place.number());
        match self {
            Self::OldestFirst => key(one) < key(other),
            Self::NewestFirst => key(one) > key(other),
        }
    }

    /// The place that comes before all others.
    pub(crate) fn first(self, places: impl Iterator<Item = Place>) -> Option<Place> {
        places.reduce(|first, place| if self.is_before(place, first) { place } else { first })
    }
}

impl Log {
    /// A page of the rows behind `after`: those that are `wanted`, with their bodies, and those that are damaged.
    pub(super) fn page(
        &self,
        after: Place,
        order: Order,
        rows_max: u64,
        wanted: impl FnMut(Place, &Record) -> bool,
    ) -> Result<Page<Record>> {
        self.reading_at(|reader| self.page_at(reader, after, order, rows_max, wanted))
    }

    /// The same, at the moment that `reader` shows.
    pub(super) fn page_at(
        &self,
        reader: &ReadTransaction,
        after: Place,
        order: Order,
        rows_max: u64,
        mut wanted: impl FnMut(Place, &Record) -> bool,
    ) -> Result<Page<Record>> {
        let mut page = Page { found: Vec::new(), after: Some(after), looked: 0 };
        let read = unwound(|| {
            let Some(table) = rows(reader, after)? else {
                page.after = order.next_table(after);
                return Ok(());
            };
            let mut rows = table.range::<u64>(order.numbers_behind(after)).map_err(engine)?;
            let mut bytes = 0;
            loop {
                if page.looked >= rows_max.min(PAGE_ROWS) || bytes >= PAGE_BYTES {
                    return Ok(());
                }
                let row = if order == Order::OldestFirst { rows.next() } else { rows.next_back() };
                let Some((number, row)) = row.transpose().map_err(engine)? else { break };
                let place = after.beside(number.value());
                // A damaged page may lead back, and round and round.
                let last = page.after.unwrap_or(after).number();
                let is_ahead = if order == Order::OldestFirst { place.number() > last } else { place.number() < last };
                if !is_ahead {
                    return Err(out_of_order());
                }
                // A row that the journal puts too comes as it says.
                if self.untold.row(place).is_some() {
                    page.after = Some(place);
                    continue;
                }
                // By itself, since the row, or the page of a payload of it, may be all that is damaged.
                let record = unwound(|| read_row(reader, place, row.value(), &Changes::default(), &mut wanted));
                if record.is_err() || self.probes_to.is_some() {
                    check_place(&table, place, &row)?;
                }
                (page.after, page.looked) = (Some(place), page.looked + 1);
                match record {
                    Ok(record) => {
                        bytes += record.as_ref().map_or(0, Record::bytes_here);
                        page.found.extend(record.map(|record| (place, Ok(record))));
                    }
                    Err(error) => page.found.push((place, Err(at(place, error)))),
                }
            }
            page.after = order.next_table(after);
            Ok(())
        });
        match (read, self.probes_to) {
            (Err(error), Some(last)) if error.kind() == ErrorKind::Corrupt => {
                let from = page.after.unwrap_or(after);
                pass_over(reader, &mut page, from, order, last, error);
            }
            // Behind a page of the file that is damaged nothing of this table can be found.
            (Err(error), None) if error.kind() == ErrorKind::Corrupt => {
                let place = page.after.unwrap_or(after);
                page.found.push((place, Err(error.within(&format!("the rest of table {}", after.table_name())))));
                page.after = order.next_table(after);
            }
            (read, _) => read?,
        }
        self.add_untold(reader, &mut page, after, order, wanted);
        Ok(page)
    }
}

/// Fails where a row is not what its number leads to: in a damaged page any number may stand, and whoever goes on
/// behind that passes over others.
pub(super) fn check_place(
    table: &impl ReadableTable<u64, &'static [u8]>,
    place: Place,
    row: &AccessGuard<'_, &'static [u8]>,
) -> Result<()> {
    let found = table.get(place.number()).map_err(engine)?;
    if found.is_some_and(|found| found.value() == row.value()) { Ok(()) } else { Err(out_of_order()) }
}

/// A page of the file leads back.
pub(super) fn out_of_order() -> Error {
    Error::new(ErrorKind::Corrupt, "the file is damaged: its rows are not in order")
}

/// The record in a row, with its bodies, where it is wanted. Some of them are in these changes.
pub(super) fn read_row(
    reader: &ReadTransaction,
    place: Place,
    row: &[u8],
    changes: &Changes,
    wanted: &mut impl FnMut(Place, &Record) -> bool,
) -> Result<Option<Record>> {
    let record = format::decode(row)?;
    if !wanted(place, &record) {
        return Ok(None);
    }
    let mut record = record;
    if record.rows_apart().next().is_some() {
        load_bodies(&mut record, changes, &reader.open_table(BODIES).map_err(engine)?)?;
    }
    Ok(Some(record))
}

impl Engine {
    /// A page of what is kept behind `after`, as far as it is `wanted`.
    pub(crate) fn operations(
        self: &Arc<Self>,
        after: Place,
        order: Order,
        rows_max: u64,
        wanted: impl Fn(&Record) -> bool,
    ) -> Result<(Page<Seen>, Timestamp)> {
        if let Some(Shut::Closed) = self.shared.queue.is_shut() {
            return Err(Shut::Closed.error());
        }
        let time = self.time();
        let log = &self.shared.log;
        let mut over = None;
        let mut read = || {
            log.page(after, order, rows_max, |place, record| {
                let counts = log.counts(place) && wanted(record);
                let is_left_out = counts && is_over(record, time);
                if is_left_out {
                    over.get_or_insert_with(|| record.key.clone());
                }
                counts && !is_left_out
            })
        };
        let mut page = read()?;
        page.found.iter().filter_map(|(_, row)| row.as_ref().err()).for_each(|error| self.shared.note(error));
        let expired = page.found.iter().filter_map(|(_, row)| row.as_ref().ok()).find(|row| !is_kept(row, time));
        if let Some(expired) = expired
            && self.keep_time(&expired.key, time)?
        {
            // Retention may have moved them meanwhile.
            page = read()?;
        } else if let Some(over) = over {
            // A disk that is full, or a store that failed, is no reason to list nothing.
            drop(self.keep_time(&over, time));
        }
        let Page { found, after, looked } = page;
        let seen = |(place, record): (Place, Result<Record>)| (place, record.map(|it| self.shared.seen_at(place, it)));
        Ok((Page { found: found.into_iter().map(seen).collect(), after, looked }, time))
    }
}

pub(super) fn len(reader: &ReadTransaction, place: Place) -> Result<u64> {
    rows(reader, place)?.map_or(Ok(0), |table| redb::ReadableTableMetadata::len(&table).map_err(engine))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::verify::tests::{engine, keep, record};
    use crate::record::Phase;

    #[test]
    fn a_page_ends_behind_so_many_bytes() {
        let engine = engine();
        for number in 20..28 {
            let mut large = record(&number.to_string(), number, Phase::Unfinished);
            large.request = Some(crate::record::Body::Here(vec![7; 1536 * 1024].into()));
            keep(&engine, Place::Unfinished(number), &large);
        }
        let (log, mut after, mut pages) = (&engine.shared.log, Some(Place::Unfinished(19)), Vec::new());
        while let Some(place) = after {
            let page = log.page(place, Order::OldestFirst, u64::MAX, |_, _| true).unwrap();
            pages.push(page.found.len());
            after = page.after;
        }
        assert_eq!(pages, [3, 3, 2], "three have more than {PAGE_BYTES} bytes");
    }
}
