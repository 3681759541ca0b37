//! A copy is the store as it was at one moment, whatever claims do meanwhile; it is whole, or not there (P2, P10).
//!
//! By default a sample of moments is tried. More of them:
//!
//! ```sh
//! REENTRY_BACKUP_STORES=2000 cargo test --release --test backup moment -- --nocapture
//! ```

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a long run says how far it is")]

#[path = "../support/mod.rs"]
mod support;

mod chain;
mod faults;
#[cfg(unix)]
mod killed;
mod load;
mod moments;
mod restored;
#[cfg(target_os = "linux")]
mod small_disk;

use std::ops::ControlFlow;
use std::path::Path;

const GO_ON: ControlFlow<()> = ControlFlow::Continue(());

/// The names of the files in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
