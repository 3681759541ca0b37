//! What the fuzzers found worth keeping is done again, without a fuzzer: every file of `fuzz/corpus` goes through its
//! target. A finding stands there under a name that says what it was.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests panic, and say why")]

#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::print_stderr,
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "the fuzz package's own code"
)]
#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::path::Path;
use std::{fs, panic};

use targets::{answer, export, head, history, key, key_line, payload, row, store_file};

/// Runs a target over its corpus.
fn replay(target: &str, run: fn(&[u8])) {
    // Damage lets redb panic thousands of times; a backtrace of each would take a minute.
    panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut paths: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "there is no corpus in {}", folder.display());
    for path in paths {
        let bytes = fs::read(&path).unwrap();
        // The panic itself was told already; the file is what is missing.
        assert!(panic::catch_unwind(|| run(&bytes)).is_ok(), "found again by {}", path.display());
    }
}

#[test]
fn p9_the_keys_that_were_found_hold() {
    replay("key", key::run);
}

#[test]
fn p9_the_header_lines_that_were_found_hold() {
    replay("key_line", key_line::run);
}

#[test]
fn p9_the_heads_that_were_found_hold() {
    replay("head", head::run);
}

#[test]
fn the_answers_that_were_found_hold() {
    replay("answer", answer::run);
}

#[test]
fn the_payloads_that_were_found_hold() {
    replay("payload", payload::run);
}

#[test]
fn p10_the_rows_that_were_found_hold() {
    replay("row", row::run);
}

#[test]
fn the_exports_that_were_found_hold() {
    replay("export", export::run);
}

#[test]
fn p10_the_damaged_files_that_were_found_hold() {
    replay("store_file", store_file::run);
}

#[test]
fn p10_the_damaged_files_of_which_something_is_left_hold() {
    replay("rescue", store_file::rescue);
}

#[test]
fn p2_the_histories_that_were_found_hold() {
    replay("history", history::run);
}
