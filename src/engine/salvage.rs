//! What can still be read of a damaged file: every row that its tables lead to, in order or by its number.
//!
//! Invariant: nothing is passed over in silence. Whoever lists what is there is told of each row, or run of rows, that
//! cannot be read (P10).

use redb::ReadTransaction;

use super::error::{engine, unwound};
use super::list::{Order, Page, len, read_row};
use super::log::{Log, Place, at};
use super::meta::{self, Meta};
use crate::error::{Error, Result};
use crate::record::Record;

/// Numbers that are looked for one by one before a page ends.
const PROBES: usize = 4096;

/// Numbers, one behind the other as they are looked for, whose rows cannot be read.
struct Lost {
    numbers: [u64; 2],
    why: Error,
}

impl Log {
    /// Gives every record that can be read to `each`. Where the meta row can be read too, this is what it says.
    pub(super) fn salvage(
        mut self,
        unknown: Meta,
        mut each: impl FnMut(Place, Record) -> Result<()>,
    ) -> Result<(Self, Meta)> {
        let known = self.reading(meta::read).ok();
        self.probes_to = known.map(|meta| meta.next.saturating_sub(1));
        let tables = [Place::Log(0), Place::Tombstone(0)];
        let counted = tables.map(|place| self.reading(|reader| len(reader, place)).unwrap_or_default()).iter().sum();
        let (mut found, mut damaged) = (0, 0);
        let mut after = Some(Order::OldestFirst.start());
        while let Some(place) = after {
            let mut seen = Vec::new();
            let page = self.page(place, Order::OldestFirst, u64::MAX, |place, record| {
                seen.push((place, record.clone()));
                false
            })?;
            (found, damaged) = (found + seen.len() as u64, damaged + page.found.len() as u64);
            seen.into_iter().try_for_each(|(place, record)| each(place, record))?;
            after = page.after;
        }
        // A page that says that it holds fewer rows than it does hides the others.
        self.missing = (found + damaged < counted).then_some([counted, found]);
        Ok((self, known.unwrap_or(unknown)))
    }
}

/// Looks for what comes behind `from` number by number, up to the `highest`, since a damaged page of the file keeps
/// it from being found in order.
pub(super) fn probe(
    reader: &ReadTransaction,
    page: &mut Page<Record>,
    from: Place,
    order: Order,
    highest: u64,
    mut wanted: impl FnMut(Place, &Record) -> bool,
) {
    let next = |number: u64| match order {
        Order::OldestFirst => number.checked_add(1).filter(|number| *number <= highest),
        Order::NewestFirst => number.min(highest.saturating_add(1)).checked_sub(1).filter(|number| *number > 0),
    };
    let mut lost: Option<Lost> = None;
    page.after = order.next_table(from);
    for (nth, number) in std::iter::successors(next(from.number()), |number| next(*number)).enumerate() {
        if nth == PROBES {
            break;
        }
        let place = from.beside(number);
        let read = unwound(|| {
            let table = reader.open_table(place.table()).map_err(engine)?;
            let Some(row) = table.get(number).map_err(engine)? else { return Ok(None) };
            Ok(Some(read_row(reader, place, &row, &mut wanted)))
        });
        page.looked += 1;
        match read {
            Ok(None) => {}
            Ok(Some(row)) => {
                page.found.extend(lost.take().map(|lost| lost.told(from)));
                page.found.extend(row.map_err(|e| at(place, e)).transpose().map(|row| (place, row)));
            }
            Err(why) => match &mut lost {
                Some(lost) => lost.numbers[1] = number,
                None => lost = Some(Lost { numbers: [number; 2], why }),
            },
        }
        if nth + 1 == PROBES {
            page.after = Some(place);
        }
    }
    page.found.extend(lost.map(|lost| lost.told(from)));
}

impl Lost {
    fn told(self, beside: Place) -> (Place, Result<Record>) {
        let [first, last] = self.numbers;
        let rows = format!("rows {} to {} of table {}", first.min(last), first.max(last), beside.table_name());
        (beside.beside(last), Err(self.why.within(&rows)))
    }
}
