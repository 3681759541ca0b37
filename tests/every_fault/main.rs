//! P10: every single call of the disk fails, once and for ever, with every error that fits, under forty workloads.
//! Nothing is acknowledged falsely, nothing that was refused is there, what nobody knows is there wholly or not at all,
//! and nobody hangs for five seconds.
//!
//! The plain run tries one fault in so many. `REENTRY_FAULTS_FULL=1 cargo test --test every_fault -- --nocapture` tries
//! every one of them, and prints how many that were.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, clippy::indexing_slicing, reason = "tests panic")]
#![allow(clippy::print_stdout, reason = "a long run tells its figures")]

#[path = "../support/mod.rs"]
mod support;

mod faults;
mod server;
mod watchdog;
mod workloads;

use faults::{Kind, Must, Tally, fail_everywhere};
use reentry::DiskCall;
use workloads::WORKLOADS;

/// Of how many faults the plain run tries one.
const ONE_IN: usize = 79;

const SYNC: &[DiskCall] = &[DiskCall::Sync];
const READS: &[DiskCall] = &[DiskCall::Len, DiskCall::Read];
const WRITE: &[DiskCall] = &[DiskCall::Write];
const IN_PLACE: &[DiskCall] = &[DiskCall::Write, DiskCall::SetLen];
const PUBLISH: &[DiskCall] = &[DiskCall::Publish];

/// The numbers of Linux; to the store only what they mean counts.
const EINTR: i32 = 4;
const EIO: i32 = 5;
const ENOMEM: i32 = 12;
const EMFILE: i32 = 24;
const EFBIG: i32 = 27;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;
const EDQUOT: i32 = 122;

/// Once and for ever.
fn both(errno: i32, calls: &'static [DiskCall], must: Must) -> [Kind; 2] {
    [false, true].map(|lasts| Kind { errno: Some(errno), calls, must, lasts, always: false, written: 0 })
}

/// Once, when so many bytes of a write have reached the file.
fn torn(errno: i32, must: Must) -> [Kind; 2] {
    [512, usize::MAX].map(|written| Kind {
        errno: Some(errno),
        calls: WRITE,
        must,
        lasts: false,
        always: false,
        written,
    })
}

fn tried(what: &str, kinds: &[Kind]) -> Tally {
    let is_full = std::env::var_os("REENTRY_FAULTS_FULL").is_some();
    let one_in = if is_full { 1 } else { ONE_IN };
    let (mut tally, mut failures) = (Tally::default(), Vec::new());
    for workload in WORKLOADS {
        failures.extend(fail_everywhere(workload, kinds, one_in, &mut tally));
    }
    println!("{what}: {tally:?}");
    assert!(failures.is_empty(), "{} of them, {}", failures.len(), failures[..failures.len().min(9)].join("\n"));
    assert_eq!(tally.workloads, WORKLOADS.len());
    assert!(tally.faults > 30 && tally.told > 20, "{tally:?}");
    tally
}

#[test]
fn p10_a_write_or_sync_that_fails_at_any_call_stops_the_store_and_loses_nothing() {
    let kinds = [
        both(EIO, DiskCall::CHANGES, Must::Stop),
        both(EROFS, DiskCall::CHANGES, Must::Stop),
        both(ENOMEM, DiskCall::CHANGES, Must::Stop),
        both(EINTR, DiskCall::CHANGES, Must::Stop),
        both(EMFILE, PUBLISH, Must::Stop),
        both(ENOSPC, SYNC, Must::Stop),
        both(EDQUOT, SYNC, Must::Stop),
        torn(EIO, Must::Stop),
    ]
    .concat();
    let tally = tried("stops", &kinds);
    assert!(tally.unknown > 5, "{tally:?}");
}

#[test]
fn p10_a_disk_that_is_full_at_any_call_refuses_and_mends_itself() {
    // A transaction that makes the file grow fails before its commit; there are few of those.
    let grows = both(ENOSPC, &[DiskCall::SetLen], Must::Mend).map(|kind| Kind { always: true, ..kind });
    let kinds = [
        grows,
        both(ENOSPC, DiskCall::GROWS, Must::Mend),
        both(EDQUOT, DiskCall::GROWS, Must::Mend),
        both(EFBIG, IN_PLACE, Must::Mend),
        torn(ENOSPC, Must::Mend),
    ]
    .concat();
    let tally = tried("mends", &kinds);
    assert!(tally.replays > 0, "{tally:?}");
}

#[test]
fn p10_a_read_that_fails_at_any_call_makes_the_store_tell_nothing_false() {
    let dead =
        Kind { errno: Some(EIO), calls: DiskCall::ALL, must: Must::KeepWord, lasts: true, always: false, written: 0 };
    let kinds = [
        both(EIO, READS, Must::KeepWord).as_slice(),
        &both(ENOMEM, READS, Must::KeepWord),
        &both(EINTR, READS, Must::KeepWord),
        &[dead],
    ]
    .concat();
    tried("reads", &kinds);
}

/// A disk does not panic, but redb may, and whoever waits for it must hear of that.
#[test]
fn p10_a_panic_at_any_call_of_the_disk_is_an_error_to_every_caller() {
    let panics = |calls, must| Kind { errno: None, calls, must, lasts: false, always: false, written: 0 };
    tried("panics", &[panics(DiskCall::CHANGES, Must::Stop), panics(&[DiskCall::Read], Must::KeepWord)]);
}
