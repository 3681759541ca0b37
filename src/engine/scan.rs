//! Reading every row of a file that is being opened: on several threads where it holds many.
//!
//! Invariants:
//! 1. Each row is given once, and all that the tables count are, whatever is damaged of the pages that lead to them.
//! 2. Only the thread that opens the file tells how far that is.

use std::ops::RangeInclusive;
use std::vec;

use redb::{ReadOnlyTable, ReadableTableMetadata};

use super::error::{engine, unwound};
use super::list::out_of_order;
use super::log::{Opening, at, share, tell};
use super::place::Place;
use crate::error::{Error, ErrorKind, Result};
use crate::record::{Record, format};
use crate::sync::plain::{AtomicBool, AtomicU64, Mutex, Ordering, thread};

/// The part of opening that checking the pages is taken for; the rest is reading the rows.
pub(super) const SHARE_OF_CHECK: f64 = 0.5;

/// How many rows are given at once: so few that an allocator has the memory of those before at hand for the next.
const ROWS_AT_ONCE: usize = 6;

/// How many rows a thread reads from one report of progress to the next.
const ROWS_A_REPORT: u64 = 16 * 1024;

/// How many rows are worth a thread, how many threads there are at most, and how many parts there are for each: more
/// than one, since parts are as wide as each other and not as full.
const ROWS_A_THREAD: u64 = 16 * 1024;
const THREADS_MAX: usize = 8;
const PARTS_A_THREAD: usize = 8;

pub(super) type Rows = ReadOnlyTable<u64, &'static [u8]>;

/// What is read of a file.
struct Scan<'a, E> {
    /// What no thread has begun with.
    parts: Mutex<vec::IntoIter<Part<'a>>>,
    each: E,
    seen: AtomicU64,
    /// Whether somebody failed, so that the others need not go on.
    is_over: AtomicBool,
}

/// Rows of one table that are read one behind the other.
#[derive(Clone)]
struct Part<'a> {
    start: Place,
    table: &'a Rows,
    numbers: RangeInclusive<u64>,
}

/// Gives every row of these tables, each with the place that it begins at, to `each`: some at once.
pub(super) fn scan<E>(tables: &[(Place, Rows)], opening: &Opening, each: E) -> Result<()>
where
    E: Fn(Vec<(Place, Record)>) -> Result<()> + Sync,
{
    let mut counted = 0_u64;
    for (_, table) in tables {
        counted = counted.saturating_add(table.len().map_err(engine)?);
    }
    let threads = threads(counted);
    let read = |seen| tell(opening, SHARE_OF_CHECK + share(seen, counted) * (1.0 - SHARE_OF_CHECK));
    match Scan::new(parts(tables, threads)?, each).run(threads, read)? {
        seen if seen == counted => tell(opening, 1.0),
        seen => {
            let message = format!("the tables count {counted} rows, of which {seen} are found");
            Err(Error::new(ErrorKind::Corrupt, message))
        }
    }
}

fn panicked() -> Error {
    Error::new(ErrorKind::Failed, "a thread that read the file panicked")
}

/// How many threads so many rows are read on.
fn threads(rows: u64) -> usize {
    let worth = usize::try_from(rows / ROWS_A_THREAD).unwrap_or(usize::MAX);
    let processors = thread::available_parallelism().map_or(1, usize::from);
    processors.min(worth).clamp(1, THREADS_MAX)
}

/// The tables in parts for so many threads.
fn parts(tables: &[(Place, Rows)], threads: usize) -> Result<Vec<Part<'_>>> {
    let whole = tables.iter().map(|(start, table)| Part { start: *start, table, numbers: 0..=u64::MAX });
    if threads == 1 {
        return Ok(whole.collect());
    }
    let mut parts = Vec::new();
    for part in whole {
        parts.extend(part.narrowed()?);
    }
    while parts.len() < threads * PARTS_A_THREAD {
        let widest = parts.iter().enumerate().max_by_key(|(_, part)| part.width()).map(|(nth, _)| nth);
        let Some(part) = widest.map(|nth| parts.swap_remove(nth)) else { break };
        let Some(middle) = part.middle() else {
            parts.push(part);
            break;
        };
        let (first, last) = (*part.numbers.start(), *part.numbers.end());
        for numbers in [first..=middle, middle.saturating_add(1)..=last] {
            parts.extend(Part { numbers, ..part.clone() }.narrowed()?);
        }
    }
    parts.sort_by_key(|part| part.start.beside(*part.numbers.start()));
    Ok(parts)
}

impl Part<'_> {
    /// As wide as its rows are apart: a copy leaves a wide gap of numbers to its original. None where there is no row.
    fn narrowed(self) -> Result<Option<Self>> {
        let mut rows = self.table.range(self.numbers.clone()).map_err(engine)?;
        let Some(first) = rows.next().transpose().map_err(engine)? else { return Ok(None) };
        let last = rows.next_back().transpose().map_err(engine)?;
        let first = first.0.value();
        let last = last.map_or(first, |(number, _)| number.value());
        Ok(Some(Self { numbers: first..=last, ..self }))
    }

    fn width(&self) -> u64 {
        self.numbers.end().saturating_sub(*self.numbers.start())
    }

    /// Up to where its first half goes; none where it has one number.
    fn middle(&self) -> Option<u64> {
        (self.width() > 0).then(|| self.numbers.start().saturating_add(self.width() / 2))
    }
}

impl<'a, E: Fn(Vec<(Place, Record)>) -> Result<()> + Sync> Scan<'a, E> {
    fn new(parts: Vec<Part<'a>>, each: E) -> Self {
        let parts = Mutex::new(parts.into_iter());
        Self { parts, each, seen: AtomicU64::new(0), is_over: AtomicBool::new(false) }
    }

    /// Reads all parts on so many threads, of which this is one, and says from time to time, on this one, how many rows
    /// are read. Returns how many there are.
    fn run(self, threads: usize, read: impl FnMut(u64) -> Result<()>) -> Result<u64> {
        thread::scope(|scope| {
            let helper = |_| {
                let thread = thread::Builder::new().name("reentry-open".to_owned());
                // Where there is no thread to be had the others do its part.
                thread.spawn_scoped(scope, || self.work(|_| Ok(()))).ok()
            };
            let helpers: Vec<_> = (1..threads).map_while(helper).collect();
            let own = self.work(read);
            helpers.into_iter().fold(own, |done, helper| done.and(helper.join().unwrap_or_else(|_| Err(panicked()))))
        })?;
        Ok(self.seen.into_inner())
    }

    /// Reads parts until none is left, and says from time to time how many rows are read in all.
    fn work(&self, mut read: impl FnMut(u64) -> Result<()>) -> Result<()> {
        let mut unsaid = 0;
        let mut give = |rows: Vec<(Place, Record)>| {
            let many = rows.len() as u64;
            (self.each)(rows)?;
            let seen = self.seen.fetch_add(many, Ordering::Relaxed) + many;
            unsaid += many;
            if unsaid < ROWS_A_REPORT {
                return Ok(());
            }
            unsaid = 0;
            read(seen)
        };
        // redb may panic where a page is damaged.
        let done = unwound(|| {
            while let Some(part) = self.next() {
                self.read(part, &mut give)?;
            }
            Ok(())
        });
        if done.is_err() {
            self.is_over.store(true, Ordering::Relaxed);
        }
        done
    }

    fn next(&self) -> Option<Part<'a>> {
        self.parts.lock().next()
    }

    fn read(&self, part: Part<'_>, mut give: impl FnMut(Vec<(Place, Record)>) -> Result<()>) -> Result<()> {
        let mut rows = part.table.range(part.numbers.clone()).map_err(engine)?;
        let (mut least, most) = part.numbers.into_inner();
        while !self.is_over.load(Ordering::Relaxed) {
            let mut found = Vec::with_capacity(ROWS_AT_ONCE);
            for row in rows.by_ref().take(ROWS_AT_ONCE) {
                let (number, row) = row.map_err(engine)?;
                let (number, place) = (number.value(), part.start.beside(number.value()));
                // So none is given twice in the place of one that is missing.
                if number < least || number > most {
                    return Err(at(place, out_of_order()));
                }
                least = number.saturating_add(1);
                found.push((place, format::decode(row.value()).map_err(|e| at(place, e))?));
            }
            if found.is_empty() {
                break;
            }
            give(found)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use redb::backends::InMemoryBackend;
    use redb::{Database, ReadableDatabase};

    use super::super::place::{LOG, TOMBSTONES};
    use super::*;
    use crate::clock::{Now, Timestamp};
    use crate::key::{Fingerprint, Key};
    use crate::record::transitions::{Change, apply};

    /// Rows under these numbers of the log, and of the tombstones, one of which is damaged.
    fn tables(log: &[u64], tombstones: &[u64], damaged: Option<u64>) -> (Database, [(Place, Rows); 2]) {
        let database = redb::Builder::new().create_with_backend(InMemoryBackend::new()).unwrap();
        let transaction = database.begin_write().unwrap();
        let begin = Change::Begin { fingerprint: Fingerprint::of("request"), request: None, deferred: false };
        let (key, time) = (Key::new("scope", "key").unwrap(), Timestamp::from_millis(1));
        let mut row = Vec::new();
        format::encode(&apply(None, &key, begin, 1, Now { time, ahead: time }).unwrap(), &mut row).unwrap();
        for (numbers, definition) in [(log, LOG), (tombstones, TOMBSTONES)] {
            let mut table = transaction.open_table(definition).unwrap();
            for number in numbers {
                let row = if Some(*number) == damaged { &b"damaged"[..] } else { &row };
                table.insert(number, row).unwrap();
            }
        }
        transaction.commit().unwrap();
        let reader = database.begin_read().unwrap();
        let open = |start: Place, definition| (start, reader.open_table(definition).unwrap());
        let tables = [open(Place::Log(0), LOG), open(Place::Tombstone(0), TOMBSTONES)];
        (database, tables)
    }

    /// Numbers with a gap such as a copy leaves.
    fn numbers(count: u64) -> Vec<u64> {
        (3..3 + count).chain((0..count / 2).map(|nth| (1 << 40) + 2 * nth)).collect()
    }

    /// What is read on so many threads: how often each place is given.
    fn read(tables: &[(Place, Rows)], threads: usize) -> Result<BTreeMap<Place, u32>> {
        let found = Mutex::new(BTreeMap::new());
        let each = |rows: Vec<(Place, Record)>| {
            let mut found = found.lock();
            assert!(rows.len() <= ROWS_AT_ONCE && rows.is_sorted_by_key(|(place, _)| *place));
            for (place, _) in rows {
                *found.entry(place).or_default() += 1;
            }
            Ok(())
        };
        let seen = Scan::new(parts(tables, threads)?, each).run(threads, |_| Ok(()))?;
        let found = found.into_inner();
        assert_eq!(seen, found.values().map(|times| u64::from(*times)).sum::<u64>());
        Ok(found)
    }

    #[test]
    fn p1_every_row_is_given_once_on_however_many_threads() {
        for (log, tombstones) in [(0, 0), (1, 0), (0, 1), (2, 3), (700, 40), (3_000, 1_000)] {
            let (log, tombstones) = (numbers(log), numbers(tombstones));
            let (_open, tables) = tables(&log, &tombstones, None);
            let places = log.iter().map(|n| Place::Log(*n)).chain(tombstones.iter().map(|n| Place::Tombstone(*n)));
            let expected: BTreeMap<Place, u32> = places.map(|place| (place, 1)).collect();
            for threads in [1, 2, 3, 8] {
                assert_eq!(read(&tables, threads).unwrap(), expected, "on {threads} threads");
            }
        }
    }

    /// Else one thread would read all of it.
    #[test]
    fn no_part_holds_much_more_than_its_share_beside_a_gap_of_numbers() {
        let (_open, tables) = tables(&numbers(2_000), &[5, 9], None);
        let parts = parts(&tables, 4).unwrap();
        assert!(parts.len() >= 4 * PARTS_A_THREAD, "{} parts", parts.len());
        let held = parts.iter().map(|part| part.table.range(part.numbers.clone()).unwrap().count());
        assert!(held.clone().all(|rows| rows > 0) && held.max() <= Some(200));
        assert!(parts.is_sorted_by_key(|part| part.start.beside(*part.numbers.start())));
    }

    #[test]
    fn as_many_threads_are_started_as_there_are_processors_for_many_rows_and_none_for_few() {
        let processors = thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        assert_eq!([0, ROWS_A_THREAD, 2 * ROWS_A_THREAD - 1].map(threads), [1, 1, 1]);
        assert_eq!(threads(2 * ROWS_A_THREAD), processors.min(2));
        assert_eq!(threads(u64::MAX), processors);
    }

    #[test]
    fn p10_a_damaged_row_is_told_by_its_place_whichever_thread_meets_it() {
        let log = numbers(2_000);
        for damaged in [log[0], log[777], *log.last().unwrap()] {
            let (_open, tables) = tables(&log, &[], Some(damaged));
            for threads in [1, 4] {
                let error = read(&tables, threads).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt);
                assert!(error.to_string().contains(&format!("row {damaged} of table")), "{error}");
            }
        }
    }

    /// Nobody goes on for long once one has failed; a panic is an error too, as where redb meets damage.
    #[test]
    fn p10_whoever_fails_or_panics_ends_it_for_all() {
        let (_open, tables) = tables(&numbers(40_000), &[], None);
        for panics in [false, true] {
            let given = AtomicU64::new(0);
            let each = |rows: Vec<(Place, Record)>| {
                let before = given.fetch_add(rows.len() as u64, Ordering::Relaxed);
                assert!(before < 1_000 || !panics);
                if before < 1_000 { Ok(()) } else { Err(Error::new(ErrorKind::Cancelled, "enough")) }
            };
            let done = Scan::new(parts(&tables, 4).unwrap(), each).run(4, |_| Ok(()));
            assert_eq!(done.unwrap_err().kind(), if panics { ErrorKind::Corrupt } else { ErrorKind::Cancelled });
            assert!(given.into_inner() < 20_000);
        }
    }

    /// The thread that opens the file tells of all that is read, and may break it off.
    #[test]
    fn progress_is_told_of_all_threads_on_one_of_them_and_may_break_it_off() {
        let (_open, tables) = tables(&numbers(60_000), &[], None);
        let (mut told, own) = (Vec::new(), thread::current().id());
        let seen = Scan::new(parts(&tables, 1).unwrap(), |_| Ok(())).run(1, |seen| {
            assert_eq!(thread::current().id(), own);
            told.push(seen);
            Ok(())
        });
        assert_eq!((seen.unwrap(), told.len()), (90_000, 5));
        assert!(told.is_sorted() && told[0] >= ROWS_A_REPORT && told[4] < 90_000, "{told:?}");
        let breaks = |_| Err(Error::new(ErrorKind::Cancelled, "enough"));
        let done = Scan::new(parts(&tables, 1).unwrap(), |_| Ok(())).run(1, breaks);
        assert_eq!(done.unwrap_err().kind(), ErrorKind::Cancelled);
    }
}
