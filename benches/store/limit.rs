//! The limit: one thread that appends ready-made rows to a redb table under ascending numbers, and nothing else.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use reentry::{Fingerprint, Store};
use tokio::sync::oneshot;

use crate::callers::AsyncTask;
use crate::comparison::Slice;
use crate::probe;
use crate::shop::{CACHE_BYTES, RECEIPT, REQUEST, key, run};

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");

/// The store's own tables, where rows are taken from: of what is unfinished, and of what ended.
const STORE_UNFINISHED: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("reentry/unfinished");
const STORE_LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("reentry/log");

/// Rows as the store writes them, byte for byte.
#[derive(Clone)]
pub(crate) struct Rows {
    pub(crate) claimed: Arc<[u8]>,
    pub(crate) advanced: Arc<[u8]>,
    pub(crate) completed: Arc<[u8]>,
}

impl Rows {
    /// Reads them back from a store's file.
    pub(crate) fn of_a_store() -> Self {
        let folder = probe::folder();
        let path = folder.path().join("rows.reentry");
        let store = Store::open(&path).unwrap();
        let claim = |order| run(store.claim(&key(order), Fingerprint::of(REQUEST)).wait().unwrap());
        claim(0).release();
        let _ = claim(1).advance("paid", &RECEIPT.to_vec()).wait().unwrap();
        claim(2).complete(&RECEIPT.to_vec()).wait().unwrap();
        store.close().unwrap();
        // redb's bytes stand behind a head and a journal of so many pages (docs/format.md).
        let file = fs::read(&path).unwrap();
        let pages = u32::from_le_bytes(file[12..16].try_into().unwrap()) as usize;
        fs::write(&path, &file[(pages + 1) * 4096..]).unwrap();
        let database = Database::open(path).unwrap();
        let reader = database.begin_read().unwrap();
        let row = |table, nth| {
            let table = reader.open_table(table).unwrap();
            Arc::from(table.iter().unwrap().nth(nth).unwrap().unwrap().1.value())
        };
        Self { claimed: row(STORE_UNFINISHED, 0), advanced: row(STORE_UNFINISHED, 1), completed: row(STORE_LOG, 0) }
    }
}

pub(crate) struct Log {
    pub(crate) database: Database,
    path: PathBuf,
    rows: Rows,
    next: u64,
    /// Rows of operations that are not finished, oldest first.
    open: VecDeque<u64>,
    /// The part of a change that rounding the size of batches has left over.
    owed: f64,
}

impl Log {
    /// A log with this many finished rows, under the numbers from 0 on.
    pub(crate) fn keeping(kept: u64, path: &Path, rows: Rows) -> Self {
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(path).unwrap();
        for start in (0..kept.max(1)).step_by(10_000) {
            let transaction = database.begin_write().unwrap();
            let mut table = transaction.open_table(LOG).unwrap();
            for number in start..kept.min(start + 10_000) {
                table.insert(number, &*rows.completed).unwrap();
            }
            drop(table);
            transaction.commit().unwrap();
        }
        Self { database, path: path.to_owned(), rows, next: kept, open: VecDeque::new(), owed: 0.0 }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends claims and outcomes in batches of this size, each outcome in the place of its claim.
    pub(crate) fn claim_and_complete(&mut self, span: Duration, batch: f64) -> Slice {
        let (claimed, completed) = (Arc::clone(&self.rows.claimed), Arc::clone(&self.rows.completed));
        let (start, mut finished) = (Instant::now(), 0);
        while start.elapsed() < span {
            let changes = self.changes(batch);
            let ends = self.open.len().min(changes.div_ceil(2));
            self.commit((0..changes).map(|nth| if nth < ends { (&completed, true) } else { (&claimed, false) }));
            self.open.extend(self.next - (changes - ends) as u64..self.next);
            finished += ends;
        }
        Slice { per_second: finished as f64 / start.elapsed().as_secs_f64(), ..Slice::default() }
    }

    /// Appends rows of operations whose checkpoint moved, each in the place of the one before.
    pub(crate) fn advance(&mut self, span: Duration, batch: f64) -> Slice {
        let advanced = Arc::clone(&self.rows.advanced);
        let operations = batch.ceil().max(1.0) as usize;
        self.commit((0..operations).map(|_| (&advanced, false)));
        self.open.extend(self.next - operations as u64..self.next);
        let (start, mut moves) = (Instant::now(), 0);
        while start.elapsed() < span {
            let changes = self.changes(batch);
            self.commit((0..changes).map(|_| (&advanced, true)));
            self.open.extend(self.next - changes as u64..self.next);
            moves += changes;
        }
        Slice { per_second: moves as f64 / start.elapsed().as_secs_f64(), ..Slice::default() }
    }

    /// The number of changes of the next batch, so that they are `batch` on average.
    fn changes(&mut self, batch: f64) -> usize {
        self.owed += batch.max(1.0);
        let changes = self.owed.floor();
        self.owed -= changes;
        changes as usize
    }

    /// One transaction of rows to append; each may remove the oldest that is open.
    fn commit<'r>(&mut self, rows: impl Iterator<Item = (&'r Arc<[u8]>, bool)>) {
        let transaction = self.database.begin_write().unwrap();
        let mut table = transaction.open_table(LOG).unwrap();
        for (row, replaces) in rows {
            table.insert(self.next, &**row).unwrap();
            self.next += 1;
            if replaces {
                table.remove(self.open.pop_front().unwrap()).unwrap();
            }
        }
        drop(table);
        transaction.commit().unwrap();
    }

    /// Reads the row under a number, and copies it.
    pub(crate) fn read(&self, number: u64) -> Vec<u8> {
        let table = self.database.begin_read().unwrap().open_table(LOG).unwrap();
        table.get(number).unwrap().unwrap().value().to_vec()
    }

    /// Lets callers hand rows to the one thread that appends: all that waits for it goes into one batch.
    pub(crate) fn appender(mut self) -> Appender {
        let rows = self.rows.clone();
        let (sender, receiver) = mpsc::channel::<Append>();
        thread::spawn(move || {
            while let Ok(first) = receiver.recv() {
                let mut told = Vec::new();
                let transaction = self.database.begin_write().unwrap();
                let mut table = transaction.open_table(LOG).unwrap();
                for Append { row, replaces, done } in std::iter::once(first).chain(receiver.try_iter()) {
                    table.insert(self.next, &*row).unwrap();
                    if let Some(number) = replaces {
                        table.remove(number).unwrap();
                    }
                    told.push((done, self.next));
                    self.next += 1;
                }
                drop(table);
                transaction.commit().unwrap();
                for (done, number) in told {
                    // Nobody is left to tell where a slice ended.
                    let _ = done.send(number);
                }
            }
        });
        Appender { sender, rows }
    }
}

/// A row on its way to the thread that appends.
struct Append {
    row: Arc<[u8]>,
    replaces: Option<u64>,
    done: oneshot::Sender<u64>,
}

/// What callers hold of the limit.
#[derive(Clone)]
pub(crate) struct Appender {
    sender: mpsc::Sender<Append>,
    rows: Rows,
}

impl Appender {
    /// As a thread: a claim, and its outcome in its place.
    pub(crate) fn claim_and_complete(&self) {
        let claimed = self.append(&self.rows.claimed, None).blocking_recv().unwrap();
        self.append(&self.rows.completed, Some(claimed)).blocking_recv().unwrap();
    }

    /// Hands a row over; the answer is its number, once it is durable.
    fn append(&self, row: &Arc<[u8]>, replaces: Option<u64>) -> oneshot::Receiver<u64> {
        let (done, number) = oneshot::channel();
        self.sender.send(Append { row: Arc::clone(row), replaces, done }).unwrap();
        number
    }
}

/// A claim, and its outcome in its place.
impl AsyncTask for Appender {
    async fn once(&mut self) {
        let claimed = self.append(&self.rows.claimed, None).await.unwrap();
        self.append(&self.rows.completed, Some(claimed)).await.unwrap();
    }
}

/// A task that moves one operation's checkpoint over and over.
pub(crate) struct Advancer {
    appender: Appender,
    at: Option<u64>,
}

impl Advancer {
    pub(crate) fn new(appender: Appender) -> Self {
        Self { appender, at: None }
    }
}

impl AsyncTask for Advancer {
    async fn once(&mut self) {
        self.at = Some(self.appender.append(&self.appender.rows.advanced, self.at).await.unwrap());
    }
}
