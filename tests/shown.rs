//! What values show of themselves to people: in words, and no more than their settings.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reentry::admin::Page;
use reentry::testing::CrashTest;
use reentry::{Condition, ErrorKind, Resumer, SimulatedDisk, State, StepState, Store, Timestamp};

use support::{key, kind, request, run};

#[test]
fn every_state_is_one_word() {
    let states = [State::Owned, State::Unfinished, State::Stuck, State::Succeeded, State::Failed, State::Gone];
    assert_eq!(states.map(|it| it.to_string()), ["owned", "unfinished", "stuck", "succeeded", "failed", "gone"]);
    let steps = [StepState::InDoubt, StepState::Done, StepState::Withdrawn];
    assert_eq!(steps.map(|it| it.to_string()), ["in doubt", "done", "withdrawn"]);
    let conditions = [Condition::Serving, Condition::Full, Condition::Failed, Condition::ReadOnly, Condition::Closed];
    let words = ["serving", "full", "failed", "read-only", "closed"];
    assert_eq!(conditions.map(|it| it.to_string()), words);
}

#[test]
fn a_time_is_shown_in_seconds_to_the_millisecond() {
    assert_eq!(Timestamp::from_millis(1_700_000_000_007).to_string(), "1700000000.007 s");
}

#[test]
fn what_is_built_shows_its_settings_and_nothing_that_is_kept() {
    let store = Store::builder().in_memory().unwrap();
    drop(run(&store, &key("a secret")));
    let resumer = Resumer::builder(&store).scope("ada's orders").concurrency(3).backoff(Duration::ZERO, Duration::MAX);
    let shown = format!("{resumer:?}");
    assert!(shown.contains("concurrency: 3") && shown.contains("backoff_min: 0ns"), "{shown}");
    let shown =
        [shown, format!("{:?}", resumer.start(|mut run| run.refresh().map(drop)).unwrap()), format!("{store:?}")];
    assert!(shown.iter().all(|shown| !shown.contains("secret") && !shown.contains("ada")), "{shown:?}");
    let kit = format!("{:?}", CrashTest::new().seed(7).pairs_max(5));
    assert!(kit.contains("seed: 7") && kit.contains("pairs_max: 5"), "{kit}");
    let page = format!("{:?}", Page::new(&store).unprotected().writable());
    assert!(page.contains("is_writable: true") && page.contains("shows_payloads: false"), "{page}");
}

/// Whoever sets nothing relies on what the documentation tells: a limit that is ten times as high, or a pause in
/// another unit, is met only in production.
#[test]
fn the_defaults_of_a_resumer_are_those_that_are_documented() {
    let shown = format!("{:?}", Resumer::builder(&Store::builder().in_memory().unwrap()));
    for default in ["concurrency: 4", "every: 10s", "backoff_min: 1s", "backoff_max: 300s"] {
        assert!(shown.contains(&format!("{default},")), "{default}: {shown}");
    }
}

#[test]
fn the_defaults_of_a_store_are_those_that_are_documented() {
    let shown = format!("{:?}", Store::builder());
    let defaults = [
        "retention: 86400s, tombstones: 0ns, lease: None, attempts_max: 16",
        "all: Most { operations: Some(30000000), bytes: None, unfinished: None }",
        "scope: Most { operations: None, bytes: None, unfinished: None }",
        "payload_bytes_max: 1048576, queue: QueueLimits { commands_max: 16384, bytes_max: 67108864 }",
        "check: Full, cache_bytes: 67108864, clock: SystemClock",
    ];
    for default in defaults {
        assert!(shown.contains(default), "{default}: {shown}");
    }
}

#[test]
fn opening_tells_how_far_it_is_and_ends_with_all_of_it() {
    let disk = SimulatedDisk::new();
    let store = Store::builder().open_on(&disk).unwrap();
    for nth in 0..50 {
        drop(run(&store, &key(&nth.to_string())));
    }
    store.close().unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = {
        let told = Arc::clone(&told);
        move |share| told.lock().unwrap().push(share)
    };
    drop(Store::builder().on_open_progress(tell).open_on(&disk).unwrap());
    let told = told.lock().unwrap();
    assert!(told.is_sorted() && told.iter().all(|share| (0.0..=1.0).contains(share)), "{told:?}");
    assert!(told.last().is_some_and(|last| (last - 1.0).abs() < f64::EPSILON), "{told:?}");
}

/// The share of a whole is never more than that, however large the file is.
#[test]
fn a_large_file_tells_how_far_it_is_as_it_is_opened_and_copied_and_exported() {
    let disk = SimulatedDisk::new();
    let store = Store::builder().open_on(&disk).unwrap();
    let claims: Vec<_> = (0..17_000).map(|nth| store.claim(&key(&nth.to_string()), request())).collect();
    for claim in claims {
        drop(claim.wait().unwrap());
    }
    let told = || {
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = Arc::clone(&told);
        (told, move |share| {
            tell.lock().unwrap().push(share);
            ControlFlow::Continue(())
        })
    };
    let (copied, tell) = told();
    store.backup_onto(&SimulatedDisk::new(), tell).unwrap();
    let (exported, tell) = told();
    store.export(&mut Vec::new(), tell).unwrap();
    store.close().unwrap();
    let (opened, tell) = told();
    let tell = move |share| {
        let _ = tell(share);
    };
    drop(Store::builder().on_open_progress(tell).open_on(&disk).unwrap());
    for (what, told) in [("copied", copied), ("exported", exported), ("opened", opened)] {
        let told = told.lock().unwrap();
        assert!(told.is_sorted() && told.iter().all(|share| (0.0..=1.0).contains(share)), "{what}: {:?}", told.last());
        assert!(told.last().is_some_and(|last| (last - 1.0).abs() < f64::EPSILON), "{what}: {:?}", told.last());
        assert!(told.iter().any(|share| (0.6..0.9999).contains(share)), "{what}");
        assert!(what == "opened" || told.iter().any(|share| (0.01..0.4).contains(share)), "{what}");
    }
}

/// A file most of which nothing uses: of forty operations ten are left.
fn sparse_file(path: &Path) {
    let store = Store::open(path).unwrap();
    for nth in 0..40 {
        run(&store, &key(&nth.to_string())).complete(&vec![7_u8; 200_000]).wait().unwrap();
    }
    for nth in (0..40).filter(|nth| nth % 4 > 0) {
        assert!(store.forget(&key(&nth.to_string())).wait().unwrap());
    }
    store.close().unwrap();
}

#[test]
fn a_file_that_is_made_smaller_tells_how_far_it_is_until_all_of_it_is_moved() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.reentry");
    sparse_file(&path);
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = {
        let told = Arc::clone(&told);
        move |share| told.lock().unwrap().push(share)
    };
    let compacted = Store::builder().on_open_progress(tell).compact(&path).unwrap();
    assert!(compacted.bytes_after < compacted.bytes_before / 2, "{compacted:?}");
    let told = told.lock().unwrap();
    assert!(told.is_sorted() && told.iter().all(|share| (0.0..=1.0).contains(share)), "{told:?}");
    assert!(told.iter().any(|share| (0.5001..0.9999).contains(share)), "{told:?}");
    assert!(told.last().is_some_and(|last| (last - 1.0).abs() < f64::EPSILON), "{told:?}");
    assert_eq!(Store::open(&path).unwrap().verify().unwrap().operations, 10);
}

#[test]
fn p10_a_report_that_panics_does_not_stop_a_file_from_being_opened_or_made_smaller() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.reentry");
    sparse_file(&path);
    let panics = Arc::new(AtomicUsize::new(0));
    let tell = {
        let panics = Arc::clone(&panics);
        move |share| {
            panics.fetch_add(1, Ordering::Relaxed);
            panic!("whoever listens fails at {share}");
        }
    };
    let compacted = Store::builder().on_open_progress(tell.clone()).compact(&path).unwrap();
    assert!(compacted.bytes_after < compacted.bytes_before / 2, "{compacted:?}");
    // At the end, and before that while redb wrote.
    assert!(panics.swap(0, Ordering::Relaxed) > 1, "{panics:?}");
    // Nor is it damage of a file that is opened.
    drop(Store::builder().on_open_progress(tell.clone()).open(&path).unwrap());
    drop(Store::builder().on_open_progress(tell.clone()).open_to_read(&path).unwrap());
    drop(Store::builder().on_open_progress(tell).open_damaged(&path).unwrap());
    assert!(panics.load(Ordering::Relaxed) > 2, "{panics:?}");
    let store = Store::open(&path).unwrap();
    assert_eq!(store.verify().unwrap().operations, 10);
    run(&store, &key("new")).complete(&vec![7_u8]).wait().unwrap();
}

#[test]
fn verifying_tells_how_far_it_is_and_ends_where_it_is_told_to() {
    let store = Store::builder().in_memory().unwrap();
    drop(run(&store, &key("k")));
    let mut told = Vec::new();
    let verified = store.verify_with(|share| {
        told.push(share);
        ControlFlow::Continue(())
    });
    assert_eq!(verified.unwrap().operations, 1);
    assert!(told.is_sorted() && told.last().is_some_and(|last| (last - 1.0).abs() < f64::EPSILON), "{told:?}");
    assert_eq!(kind(store.verify_with(|_| ControlFlow::Break(()))), ErrorKind::Cancelled);
}
