//! The disk alone: rows appended to a file and synced, in batches as large as reentry's.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_core::future::BoxFuture;

use super::limit::{Batches, Rows};
use super::{Contender, Performed};
use crate::table::Place;
use crate::work::{Kind, Operation, Work};

pub(crate) struct Disk {
    rows: Rows,
    state: Mutex<(File, Batches)>,
}

impl Disk {
    pub(crate) fn open(place: &Place) -> Self {
        let rows = Rows::of_a_store(&place.folder, place.load);
        let file = OpenOptions::new().create(true).append(true).open(place.folder.join("rows")).unwrap();
        Self { rows, state: Mutex::new((file, Batches::default())) }
    }
}

impl Contender for Disk {
    fn settings(&self) -> String {
        "rows of the store's size appended to a file, one write and one fdatasync a batch, batches as large as \
         reentry's in the slice before"
            .to_owned()
    }

    fn fill(&self, _: u64, _: bool) {}

    fn operation(&self, _: Operation, _: Kind) -> BoxFuture<'_, Performed> {
        unreachable!("the loop works alone")
    }

    fn alone(&self, work: Work, span: Duration, batch: f64) -> Option<f64> {
        let (file, batches) = &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (waits, mut bytes) = (work.waits(), Vec::new());
        let (start, mut changes) = (Instant::now(), 0);
        while start.elapsed() < span {
            let (rows, _) = batches.next(batch, 1, 0);
            bytes.clear();
            for nth in 0..rows {
                bytes.extend_from_slice(self.rows.after(1 + nth % waits, waits));
            }
            file.write_all(&bytes).unwrap();
            file.sync_data().unwrap();
            changes += rows;
        }
        Some(changes as f64 / waits as f64 / start.elapsed().as_secs_f64())
    }
}
