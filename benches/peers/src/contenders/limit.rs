//! The design's limit: one thread that appends ready-made rows to a redb table under ascending numbers, and nothing
//! else: no keys, no index, no decisions, nobody to wake. And the same behind a channel, driven by callers.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use futures_core::future::BoxFuture;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use reentry::{Claim, Fingerprint, Key, Run, Store};
use tokio::sync::oneshot;

use super::{Contender, Performed};
use crate::table::{CACHE_BYTES, Place};
use crate::work::{FINGERPRINT, Kind, Load, Operation, Work, scope};

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");

/// The store's own tables, where rows are taken from: of what is unfinished, of what ended, and of large payloads.
const STORE_UNFINISHED: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("reentry/unfinished");
const STORE_LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("reentry/log");
const STORE_BODIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("reentry/bodies");

/// Rows of one transaction while a log is filled.
const FILL: u64 = 50_000;

/// Rows as the store writes them; a large payload stands in the row it belongs to.
pub(crate) struct Rows {
    claimed: Arc<[u8]>,
    advanced: Arc<[u8]>,
    completed: Arc<[u8]>,
}

impl Rows {
    /// Reads them back from a store's file.
    pub(crate) fn of_a_store(folder: &Path, load: Load) -> Self {
        let folder = tempfile::tempdir_in(folder).unwrap();
        let path = folder.path().join("rows.reentry");
        let store = Store::open(&path).unwrap();
        let payload = load.payload().to_vec();
        let claim = |number| claimed(&store, &Key::new(scope(number), load.client_key(number)).unwrap());
        claim(0).release();
        let _ = claim(1).advance("paid", &payload).wait().unwrap();
        claim(2).complete(&payload).wait().unwrap();
        store.close().unwrap();
        let database = Database::open(without_head(&path)).unwrap();
        let transaction = database.begin_read().unwrap();
        let rows_of = |table: TableDefinition<'_, u64, &[u8]>| {
            let table = transaction.open_table(table).unwrap();
            table.iter().unwrap().map(|row| row.unwrap().1.value().to_vec()).collect::<Vec<_>>()
        };
        let mut rows = rows_of(STORE_UNFINISHED).into_iter().chain(rows_of(STORE_LOG));
        let bodies: Vec<_> = transaction
            .open_table(STORE_BODIES)
            .map_or(Vec::new(), |bodies| bodies.iter().unwrap().map(|row| row.unwrap().1.value().to_vec()).collect());
        let mut bodies = bodies.into_iter();
        let mut next = |has_body: bool| {
            let mut row = rows.next().unwrap();
            row.extend(has_body.then(|| bodies.next()).flatten().unwrap_or_default());
            Arc::from(row)
        };
        Self { claimed: next(false), advanced: next(true), completed: next(true) }
    }

    /// The row of an operation that was changed this often.
    pub(crate) fn after(&self, changes: usize, changes_max: usize) -> &Arc<[u8]> {
        match changes {
            1 => &self.claimed,
            last if last == changes_max => &self.completed,
            _ => &self.advanced,
        }
    }
}

/// A file beside the store's that begins where redb's bytes do (the store's docs/format.md, "Head").
fn without_head(path: &Path) -> PathBuf {
    let file = std::fs::read(path).unwrap();
    let pages = u32::from_le_bytes(file[12..16].try_into().unwrap());
    let bare = path.with_extension("redb");
    std::fs::write(&bare, &file[(pages as usize + 1) * 4096..]).unwrap();
    bare
}

fn claimed(store: &Store, key: &Key) -> Run {
    match store.claim(key, Fingerprint::from_digest(FINGERPRINT)).wait().unwrap() {
        Claim::Run(run) => run,
        other => panic!("a new key is the caller's to run, got {other:?}"),
    }
}

/// The table, and who has what in it.
struct Log {
    database: Database,
    rows: Arc<Rows>,
    next: u64,
}

impl Log {
    fn open(place: &Place) -> Self {
        let rows = Arc::new(Rows::of_a_store(&place.folder, place.load));
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
        let database = builder.create(place.folder.join("limit.redb")).unwrap();
        let transaction = database.begin_write().unwrap();
        let next = transaction.open_table(LOG).unwrap().last().unwrap().map_or(0, |(number, _)| number.value() + 1);
        transaction.commit().unwrap();
        Self { database, rows, next }
    }

    fn fill(&mut self, count: u64) {
        let completed = Arc::clone(&self.rows.completed);
        for start in (0..count).step_by(usize::try_from(FILL).unwrap_or(usize::MAX)) {
            self.commit((start..count.min(start + FILL)).map(|_| (&*completed, None)));
        }
    }

    /// One transaction of rows to append; each may remove one before it.
    fn commit<'r>(&mut self, rows: impl Iterator<Item = (&'r [u8], Option<u64>)>) {
        let transaction = self.database.begin_write().unwrap();
        {
            let mut table = transaction.open_table(LOG).unwrap();
            for (row, replaced) in rows {
                table.insert(self.next, row).unwrap();
                self.next += 1;
                if let Some(replaced) = replaced {
                    table.remove(replaced).unwrap();
                }
            }
        }
        transaction.commit().unwrap();
    }
}

/// How many of a batch's changes begin an operation, and how many go on with the oldest that are open.
///
/// Sizes are averages, so what rounding leaves over is owed to the next batch.
#[derive(Default)]
pub(crate) struct Batches {
    owed: f64,
}

impl Batches {
    pub(crate) fn next(&mut self, batch: f64, waits: usize, open: usize) -> (usize, usize) {
        self.owed += batch.max(1.0);
        let changes = self.owed.floor() as usize;
        self.owed -= self.owed.floor();
        let moves = open.min(changes - changes / waits);
        (changes - moves, moves)
    }
}

/// The bare loop.
pub(crate) struct Limit {
    state: Mutex<(Log, Batches)>,
}

impl Limit {
    pub(crate) fn open(place: &Place) -> Self {
        Self { state: Mutex::new((Log::open(place), Batches::default())) }
    }
}

impl Contender for Limit {
    fn settings(&self) -> String {
        "one thread appends ready-made rows of the store's size under ascending numbers to redb 4, each batch one \
         durable commit, batches as large as reentry's in the slice before"
            .to_owned()
    }

    fn fill(&self, count: u64, _: bool) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0.fill(count);
    }

    fn operation(&self, _: Operation, _: Kind) -> BoxFuture<'_, Performed> {
        unreachable!("the loop works alone")
    }

    fn alone(&self, work: Work, span: Duration, batch: f64) -> Option<f64> {
        let (log, batches) = &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (waits, rows) = (work.waits(), Arc::clone(&log.rows));
        let mut open: VecDeque<(u64, usize)> = VecDeque::new();
        let (start, mut total) = (Instant::now(), 0);
        while start.elapsed() < span {
            let (new, moves) = batches.next(batch, waits, open.len());
            let mut changes: Vec<_> = open.drain(..moves).map(|(number, nth)| (Some(number), nth + 1)).collect();
            changes.extend(std::iter::repeat_n((None, 1), new));
            let first = log.next;
            log.commit(changes.iter().map(|(replaced, nth)| (&**rows.after(*nth, waits), *replaced)));
            total += changes.len();
            let unfinished = (first..).zip(changes).filter(|(_, (_, nth))| *nth < waits);
            open.extend(unfinished.map(|(number, (_, nth))| (number, nth)));
        }
        Some(total as f64 / waits as f64 / start.elapsed().as_secs_f64())
    }
}

/// The loop behind a channel: what it costs to hand rows over and to be woken, and nothing of a store's work.
pub(crate) struct Driven {
    log: Arc<Mutex<Log>>,
    rows: Arc<Rows>,
    appends: mpsc::Sender<Append>,
}

/// A row on its way to the thread that appends.
struct Append {
    row: Arc<[u8]>,
    replaced: Option<u64>,
    done: oneshot::Sender<u64>,
}

impl Driven {
    pub(crate) fn open(place: &Place) -> Self {
        let log = Log::open(place);
        let (rows, log) = (Arc::clone(&log.rows), Arc::new(Mutex::new(log)));
        let (appends, queue) = mpsc::channel::<Append>();
        let appended = Arc::clone(&log);
        thread::spawn(move || {
            while let Ok(first) = queue.recv() {
                let batch: Vec<_> = std::iter::once(first).chain(queue.try_iter()).collect();
                let mut log = appended.lock().unwrap_or_else(PoisonError::into_inner);
                let numbers = log.next..;
                log.commit(batch.iter().map(|append| (&*append.row, append.replaced)));
                drop(log);
                for (Append { done, .. }, number) in batch.into_iter().zip(numbers) {
                    // Nobody is left to tell where a slice ended.
                    let _ = done.send(number);
                }
            }
        });
        Self { log, rows, appends }
    }
}

impl Contender for Driven {
    fn settings(&self) -> String {
        "the same loop behind a channel, which as many callers hand ready-made rows and wait to be woken".to_owned()
    }

    fn fill(&self, count: u64, _: bool) {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).fill(count);
    }

    fn operation(&self, operation: Operation, _: Kind) -> BoxFuture<'_, Performed> {
        let waits = 2 + operation.checkpoints + operation.steps.len();
        Box::pin(async move {
            let (begun, mut replaced, mut claim) = (Instant::now(), None, Duration::ZERO);
            for nth in 1..=waits {
                let (done, number) = oneshot::channel();
                let append = Append { row: Arc::clone(self.rows.after(nth, waits)), replaced, done };
                self.appends.send(append).expect("the appender runs as long as there are callers");
                replaced = Some(number.await.expect("the appender answers everybody"));
                if nth == 1 {
                    claim = begun.elapsed();
                }
            }
            Performed::first(claim)
        })
    }
}
