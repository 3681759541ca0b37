//! Faults of a real system under a real server process: killed at random moments under load, its calls made to fail
//! (by strace), its disk full (a small tmpfs in a mount namespace of its own), its file taken away, its clock turned
//! (by libfaketime), the whole of it stopped for a while.
//!
//! The test executable starts itself once more as the server. What is missing on a machine (strace, faketime,
//! namespaces) is skipped with a message. Longer:
//!
//! ```sh
//! REENTRY_KILLS=500 cargo test --test real_faults killed -- --nocapture   # REENTRY_SEED=n: other moments
//! REENTRY_SMALL_DISK_FULL=1 cargo test --test real_faults small_disk -- --nocapture
//! REENTRY_INJECT_FULL=1 cargo test --test real_faults injected -- --nocapture
//! ```

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what is skipped, and seeds, are told")]

#[path = "../support/mod.rs"]
mod support;

mod audit;
mod clocks;
mod copied;
mod full;
mod injected;
mod kills;
mod names;
mod server;
mod starved;

use std::env;
use std::process::{Child, Command};

use tempfile::TempDir;

/// Chance is drawn from this.
fn seed() -> u64 {
    env::var("REENTRY_SEED").map_or(1, |seed| seed.parse().unwrap())
}

/// A folder on the disk that the build is on: the system's own for temporary files is often none.
fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Sends a signal to a process that was started here.
fn signal(process: &Child, name: &str) {
    let kill = format!("kill -{name} {}", process.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}
