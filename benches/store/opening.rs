//! Opening a file that its process left by `kill -9`: a copy of a store's file that was never closed.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use redb::Database;
use reentry::{OpenCheck, Store};

use crate::comparison::{Comparison, Goal, Sides, Slice, Work};
use crate::shop::{CACHE_BYTES, LazyShop, Shop};

/// Compares with redb alone, opening a file of as many rows with the same check. Counted in records a second.
pub(crate) fn compare(comparison: &mut Comparison, shop: &impl LazyShop, kept: u64) {
    for (check, name, goal) in
        [(OpenCheck::Full, "full check", Goal::PerSecond(1_000_000)), (OpenCheck::Quick, "quick check", Goal::None)]
    {
        let name = format!("{name}, {}k kept", kept / 1000);
        let (callers, span) = ("1 threads".to_owned(), Duration::from_secs(1));
        comparison.compare(Work { name: format!("open, {name}"), callers, limit: "bare redb", goal, span }, || {
            let ours = Wreck::of(&shop.path(), &shop.folder().join("wreck-ours"));
            let limit = Wreck::of(shop.settled_log().path(), &shop.folder().join("wreck-limit"));
            Sides {
                ours: Box::new(move |_| {
                    ours.restore();
                    let start = Instant::now();
                    let store = Store::builder().check(check).cache_bytes(CACHE_BYTES).open(&ours.copy).unwrap();
                    let slice = records(shop, start);
                    store.close().unwrap();
                    slice
                }),
                limit: Some(Box::new(move |_, _| {
                    limit.restore();
                    let mut builder = Database::builder();
                    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(check == OpenCheck::Full);
                    let start = Instant::now();
                    let database = builder.create(&limit.copy).unwrap();
                    let slice = records(shop, start);
                    database.close().unwrap();
                    slice
                })),
            }
        });
    }
}

fn records(shop: &Shop, start: Instant) -> Slice {
    Slice { per_second: shop.kept as f64 / start.elapsed().as_secs_f64(), ..Slice::default() }
}

/// A file as its process left it, to be opened again and again.
struct Wreck {
    original: PathBuf,
    copy: PathBuf,
}

impl Wreck {
    /// Copies a file whose writer is at rest; all that it has acknowledged is in the file, as after a kill.
    fn of(live: &Path, copy: &Path) -> Self {
        let original = copy.with_extension("original");
        fs::copy(live, &original).unwrap();
        fs::copy(&original, copy).unwrap();
        Self { original, copy: copy.to_owned() }
    }

    /// Undoes what opening and closing wrote. Only what differs is written, and all of it is flushed, so that the
    /// opening that is measured next does not pay for it.
    fn restore(&self) {
        let original = File::open(&self.original).unwrap();
        let copy = OpenOptions::new().read(true).write(true).open(&self.copy).unwrap();
        let len = original.metadata().unwrap().len();
        copy.set_len(len).unwrap();
        let (mut wanted, mut found) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        for offset in (0..len).step_by(wanted.len()) {
            let here = wanted.len().min((len - offset) as usize);
            original.read_exact_at(&mut wanted[..here], offset).unwrap();
            copy.read_exact_at(&mut found[..here], offset).unwrap();
            if wanted[..here] != found[..here] {
                copy.write_all_at(&wanted[..here], offset).unwrap();
            }
        }
        copy.sync_all().unwrap();
    }
}
