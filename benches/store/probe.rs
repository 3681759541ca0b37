//! What the disk itself takes: files in a folder that is on one, and a bare write and flush.

use std::fs::File;
use std::io::{Seek, Write};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A folder on the disk that is measured.
pub(crate) fn folder() -> TempDir {
    let parent = std::env::var("REENTRY_BENCH_DIR").unwrap_or_else(|_| env!("CARGO_TARGET_TMPDIR").to_owned());
    tempfile::tempdir_in(parent).unwrap()
}

/// Writes and flushes one page, over and over in the same place.
pub(crate) struct Probe {
    file: File,
    folder: TempDir,
}

impl Probe {
    pub(crate) fn new() -> Self {
        let folder = folder();
        Self { file: File::create(folder.path().join("probe")).unwrap(), folder }
    }

    /// How long one write with its flush takes now: the middle one of five.
    pub(crate) fn flush(&mut self) -> Duration {
        let mut times = [Duration::ZERO; 5];
        for time in &mut times {
            let start = Instant::now();
            self.file.rewind().unwrap();
            self.file.write_all(&[0; 4096]).unwrap();
            self.file.sync_data().unwrap();
            *time = start.elapsed();
        }
        times.sort_unstable();
        times[2]
    }

    pub(crate) fn folder(&self) -> String {
        self.folder.path().parent().unwrap().display().to_string()
    }
}
