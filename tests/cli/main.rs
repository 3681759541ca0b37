//! The command-line tool, run as an operator runs it, on real files: what it tells is compared with the files in
//! `snapshots/`. What changed on purpose is written anew by
//!
//! ```sh
//! REENTRY_SNAPSHOTS=1 cargo test --test cli
//! ```

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test says what it skipped, and a long one how far it is")]

#[path = "../support/mod.rs"]
mod support;

mod afternoon;
#[cfg(target_os = "linux")]
mod asked;
mod commands;
mod flips;
mod guide;
mod terminal;
mod tool;
