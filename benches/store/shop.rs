//! A store that keeps many finished orders already, and the operations that are measured on it.

use std::cell::OnceCell;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reentry::{Claim, Fingerprint, Key, Run, Store};
use tempfile::TempDir;

use crate::callers::{self, AsyncTask};
use crate::comparison::Slice;
use crate::limit::{Log, Rows};
use crate::probe;

/// Memory for pages, the same on both sides: the store's default.
pub(crate) const CACHE_BYTES: usize = 64 * 1024 * 1024;

/// Callers that fill a store before it is measured.
const FILLERS: usize = 4096;

/// A request and a receipt of common size.
pub(crate) const REQUEST: &str = r#"{"order":[{"pizza":"margherita","size":32},{"pizza":"diavola","size":32}]}"#;
pub(crate) const RECEIPT: [u8; 64] = [b'r'; 64];

pub(crate) struct Shop {
    pub(crate) counter: Counter,
    pub(crate) kept: u64,
    /// The limit's log that is only read.
    settled: OnceCell<Log>,
    folder: TempDir,
}

/// A shop that is opened by the first who needs it, since filling one takes a while.
pub(crate) trait LazyShop: Deref<Target = Shop> {}

impl<T: Deref<Target = Shop>> LazyShop for T {}

/// Where orders are taken: the store, and the number of the next order.
#[derive(Clone)]
pub(crate) struct Counter {
    pub(crate) store: Store,
    next: Arc<AtomicU64>,
}

impl Shop {
    /// A shop with this many finished orders.
    pub(crate) fn keeping(kept: u64) -> Self {
        let folder = probe::folder();
        let store = Store::builder().cache_bytes(CACHE_BYTES).open(folder.path().join("ours.reentry")).unwrap();
        let counter = Counter { store, next: Arc::new(AtomicU64::new(0)) };
        let runtime = callers::runtime();
        while counter.next.load(Ordering::Relaxed) < kept {
            callers::tasks(&runtime, FILLERS, Duration::from_millis(1), || counter.clone());
        }
        let kept = counter.next.load(Ordering::Relaxed);
        Self { counter, kept, settled: OnceCell::new(), folder }
    }

    /// A log for the limit to append to, with as many rows.
    pub(crate) fn log(&self, name: &str) -> Log {
        Log::keeping(self.kept, &self.folder.path().join(name), Rows::of_a_store())
    }

    /// A log for the limit to read, with as many rows.
    pub(crate) fn settled_log(&self) -> &Log {
        self.settled.get_or_init(|| self.log("settled"))
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("ours.reentry")
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Does a slice of work, and tells how large the batches were that it was committed in.
    pub(crate) fn count_batches(&self, work: impl FnOnce() -> Slice) -> Slice {
        let before = self.counter.store.stats().unwrap();
        let slice = work();
        let after = self.counter.store.stats().unwrap();
        let batch = (after.changes - before.changes) as f64 / (after.commits - before.commits) as f64;
        Slice { batch, ..slice }
    }
}

impl Counter {
    /// The key of the next new order, made as a server makes it.
    pub(crate) fn next_key(&self) -> Key {
        key(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Takes an order and finishes it: a claim and an outcome, each durable.
    pub(crate) fn claim_and_complete(&self) {
        let key = self.next_key();
        let run = run(self.store.claim(&key, Fingerprint::of(REQUEST)).wait().unwrap());
        run.complete(&RECEIPT.to_vec()).wait().unwrap();
    }
}

impl AsyncTask for Counter {
    async fn once(&mut self) {
        let key = self.next_key();
        let claim = self.store.claim(&key, Fingerprint::of(REQUEST)).await.unwrap();
        run(claim).complete(&RECEIPT.to_vec()).await.unwrap();
    }
}

/// The key of an order: as long as a customer's scope and a UUID.
pub(crate) fn key(order: u64) -> Key {
    Key::new(format!("checkout/customer-{:02}", order % 100), format!("{order:036}")).unwrap()
}

pub(crate) fn run(claim: Claim) -> Run {
    match claim {
        Claim::Run(run) => run,
        other => panic!("a new key is the caller's to run, got {other:?}"),
    }
}
