//! A row or a payload that is damaged is the error of whoever asks for it, on the writer's thread too, and stops nobody
//! else.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![cfg(unix)]

mod support;

use std::fs::{self, OpenOptions};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use redb::{ReadableTable, TableDefinition};
use reentry::{
    Advance, Builder, Claim, ErrorKind, Failure, Loss, ManualClock, OpenCheck, Request, Resolution, Revision,
    SimulatedDisk, Store, Table, Transaction,
};

use support::{START, database, head_bytes, keep_one_damaged_of_three, key, kind, never, request, run, run_of};

const UNFINISHED: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("reentry/unfinished");
const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("reentry/log");

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.reentry");
    (folder, path)
}

/// Reads every row from the file itself.
fn builder(clock: &ManualClock) -> Builder {
    Store::builder().clock(clock.clone()).cache_bytes(0).retention(Duration::from_secs(60))
}

/// Changes, behind the open store, a byte of every place at which the file has these.
fn damage(path: &Path, bytes: &[u8]) {
    let (image, file) = (fs::read(path).unwrap(), OpenOptions::new().write(true).open(path).unwrap());
    let places: Vec<_> = (0..image.len()).filter(|at| image[*at..].starts_with(bytes)).collect();
    assert!(!places.is_empty());
    for at in places {
        file.write_all_at(b"?", at as u64).unwrap();
    }
}

#[test]
fn p10_who_loses_a_checkpoint_of_a_damaged_operation_is_told_so_and_the_store_goes_on() {
    let (_folder, path) = folder();
    keep_one_damaged_of_three(&path);
    let store = Store::open(&path).unwrap();
    let moved = store.advance(&key("damaged"), Revision::NONE, "first", &()).wait().unwrap();
    assert!(matches!(moved, Advance::Moved(_)));
    // The answer would be the checkpoint that there is, read with all payloads.
    let lost = store.advance(&key("damaged"), Revision::NONE, "second", &()).wait();
    assert_eq!(kind(lost), ErrorKind::Corrupt);
    run(&store, &key("before")).complete(&()).wait().unwrap();
    assert!(store.forget(&key("damaged")).wait().unwrap());
    store.verify().unwrap();
}

/// The store, opened anew: what it reads is read from the file.
fn from_disk(store: &Store, path: &Path) -> Store {
    store.close().unwrap();
    builder(&ManualClock::at(START)).open(path).unwrap()
}

#[test]
fn p10_whoever_changes_an_operation_whose_row_is_damaged_is_told_so_and_the_store_goes_on() {
    let (_folder, path) = folder();
    let store = builder(&ManualClock::at(START)).open(&path).unwrap();
    run(&store, &key("damaged")).complete(&"an outcome of its own".to_owned()).wait().unwrap();
    let store = from_disk(&store, &path);
    damage(&path, b"an outcome of its own");
    assert_eq!(kind(store.forget(&key("damaged")).wait()), ErrorKind::Corrupt);
    let other = run(&store, &key("other"));
    assert_eq!(kind(store.forget(&key("damaged")).wait()), ErrorKind::Corrupt);
    other.complete(&()).wait().unwrap();
    run(&store, &key("next")).complete(&()).wait().unwrap();
}

/// What is behind it has left: were it gone with them, its key would be new, and its work be done again.
#[test]
fn p1_p10_a_damaged_row_that_retention_leaves_where_it_is_is_there_after_a_crash() {
    let (folder, path) = folder();
    let clock = ManualClock::at(START);
    let store = builder(&clock).open(&path).unwrap();
    for name in ["forgotten", "before", "damaged", "behind"] {
        run(&store, &key(name)).complete(&format!("the outcome of {name}")).wait().unwrap();
    }
    store.close().unwrap();
    let store = builder(&clock).open(&path).unwrap();
    damage(&path, b"the outcome of damaged");
    // This writes the page anew that all of them are in: to the engine it is whole.
    assert!(store.forget(&key("forgotten")).wait().unwrap());
    clock.advance(Duration::from_secs(60));
    run(&store, &key("next")).release();
    assert!(store.progress(&key("before")).unwrap().is_none() && store.progress(&key("behind")).unwrap().is_none());
    assert_eq!(store.stats().unwrap().completed, 1, "the others have left");
    let left = folder.path().join("left.reentry");
    fs::copy(&path, &left).unwrap();
    let error = builder(&clock).open(&left).unwrap_err();
    assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains("the row is damaged"), "{error}");
    let told = builder(&clock).open_damaged(&left).unwrap();
    assert_eq!(told.operations().filter(Result::is_err).count(), 1);
    assert_eq!(kind(store.forget(&key("damaged")).wait()), ErrorKind::Corrupt);
}

/// Who stands in line is let in by the writer, which reads the request for it.
#[test]
fn p7_p10_whoever_would_enter_next_is_told_that_the_request_is_damaged_and_the_store_goes_on() {
    let (_folder, path) = folder();
    let store = builder(&ManualClock::at(START)).open(&path).unwrap();
    let asked = || Request::of([b"a request of its own".as_slice(), &[7; 2000]].concat());
    let owner = run_of(store.claim(&key("damaged"), asked()).wait().unwrap());
    let Claim::Wait(busy) = store.claim(&key("damaged"), asked()).wait().unwrap() else { panic!("it is owned") };
    let waits = busy.outcome();
    let other = run(&store, &key("other"));
    // By then it is not in the journal alone.
    (0..300).for_each(|nth| drop(run(&store, &key(&nth.to_string()))));
    damage(&path, b"a request of its own");
    drop(owner);
    assert_eq!(kind(waits.wait()), ErrorKind::Corrupt);
    other.complete(&()).wait().unwrap();
    run(&store, &key("next")).complete(&()).wait().unwrap();
}

/// What was reported late of a step is evidence, which whoever decides what became of the step is shown.
#[test]
fn p10_who_decides_by_evidence_that_is_damaged_is_told_so_and_the_store_goes_on() {
    let (_folder, path) = folder();
    let store = builder(&ManualClock::at(START)).open(&path).unwrap();
    let (damaged, mut next) = (key("damaged"), None);
    let mut fenced = run(&store, &damaged);
    let late = fenced.step("charge").run_keyed(|_| {
        store.revoke(&damaged).wait().unwrap();
        next = Some(run(&store, &damaged));
        Ok::<_, Failure>(format!("a receipt of its own{}", "7".repeat(2000)))
    });
    assert_eq!(kind(late), ErrorKind::Fenced);
    let other = run(&store, &key("other"));
    // By then it is not in the journal alone.
    (0..300).for_each(|nth| drop(run(&store, &key(&nth.to_string()))));
    damage(&path, b"a receipt of its own");
    let mut next = next.unwrap();
    assert_eq!(kind(next.step("charge").run_keyed(never::<String>)), ErrorKind::Corrupt);
    drop(next);
    let resolved = store.resolve(&damaged, "charge", Resolution::DidNotHappen, "asked the bank").wait();
    assert_eq!(kind(resolved), ErrorKind::Corrupt);
    other.complete(&()).wait().unwrap();
    run(&store, &key("next")).complete(&()).wait().unwrap();
}

/// A number from behind the reserved ones would be given again.
#[test]
fn p10_a_row_under_a_number_that_was_never_given_is_refused() {
    let (_folder, path) = folder();
    let store = Store::open(&path).unwrap();
    drop(run(&store, &key("a")));
    store.close().unwrap();
    let transaction = database(&path).begin_write().unwrap();
    let mut rows = transaction.open_table(UNFINISHED).unwrap();
    let row = rows.first().unwrap().unwrap().1.value().to_vec();
    rows.pop_first().unwrap();
    rows.insert(1 << 40, row.as_slice()).unwrap();
    drop(rows);
    transaction.commit().unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(error.kind() == ErrorKind::Corrupt && format!("{error:?}").contains("never given"), "{error:?}");
}

/// An unfinished operation among the ended ones would keep all behind it from ever leaving.
#[test]
fn p5_p10_a_row_that_belongs_into_another_table_is_refused_however_the_file_is_checked() {
    let (_folder, path) = folder();
    let store = Store::open(&path).unwrap();
    drop(run(&store, &key("a")));
    store.close().unwrap();
    let transaction = database(&path).begin_write().unwrap();
    let (mut unfinished, mut log) = (transaction.open_table(UNFINISHED).unwrap(), transaction.open_table(LOG).unwrap());
    let (number, row) = unfinished.first().unwrap().map(|(at, row)| (at.value(), row.value().to_vec())).unwrap();
    unfinished.pop_first().unwrap();
    log.insert(number, row.as_slice()).unwrap();
    drop((unfinished, log));
    transaction.commit().unwrap();
    let before = fs::read(&path).unwrap();
    for check in [OpenCheck::Full, OpenCheck::Quick] {
        let error = Store::builder().check(check).open(&path).unwrap_err();
        let is_told = format!("{error:?}").contains("belongs into another table");
        assert!(error.kind() == ErrorKind::Corrupt && is_told, "{error:?}");
        assert!(fs::read(&path).unwrap() == before, "the file changed");
    }
}

/// Whoever restores it would else believe that it is all there was, and begin the third anew.
#[test]
fn p10_an_export_says_that_it_lacks_an_unfinished_operation_whose_payload_is_damaged() {
    let (_folder, path) = folder();
    keep_one_damaged_of_three(&path);
    let store = Store::open(&path).unwrap();
    let (go_on, mut lines, mut damaged) = (|_| ControlFlow::Continue(()), Vec::new(), Vec::new());
    assert_eq!(kind(store.export(io::sink(), go_on)), ErrorKind::Corrupt);
    let exported = store.export_undamaged(&mut lines, go_on, |error| damaged.push(error.kind())).unwrap();
    assert_eq!((exported.operations, exported.damaged, damaged), (2, 1, vec![ErrorKind::Corrupt]));
    let other = Store::builder().in_memory().unwrap();
    other.import(&lines[..], |_| ControlFlow::Continue(()), |_| {}).unwrap();
    let names: Vec<_> = other.operations().map(|it| it.unwrap().key().key().to_owned()).collect();
    assert_eq!(names, ["after", "before"]);
}

/// Two commits in full with no entry between them: an entry that was made on the second tells that it was there.
#[test]
fn p10_a_newest_commit_that_is_damaged_is_refused_though_no_entry_was_made_on_the_one_before() {
    let disk = SimulatedDisk::new().with_journal(8);
    let store = Store::builder().open_on(&disk).unwrap();
    let runs = ["a", "b"].map(|name| run_of(store.claim(&key(name), request()).wait().unwrap()));
    for mut run in runs {
        let row = |tx: &Transaction<'_>| {
            tx.open_table(Table::new("orders"))?.insert("row", "row")?;
            Ok(())
        };
        drop(run.complete_with(&"paid".to_owned(), row).wait().unwrap());
    }
    drop(store.claim(&key("c"), request()).wait().unwrap());
    let image = disk.cut(disk.calls(), |_| Loss::Kept).image();
    let head = head_bytes(&image);
    let mut refused = 0;
    for at in head + 64..head + 64 + 2 * 128 {
        let mut damaged = image.clone();
        damaged[at] ^= 0x40;
        match Store::builder().open_on(&SimulatedDisk::from_image(damaged)) {
            Ok(store) => {
                let ended = |name| store.progress(&key(name)).unwrap().unwrap().outcome().is_some();
                assert_eq!((ended("a"), ended("b"), ended("c")), (true, true, false), "offset {at}");
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "offset {at}: {error}");
                refused += usize::from(error.to_string().contains("redb's newest commit is damaged"));
            }
        }
    }
    assert!(refused > 0, "no damage met the newest commit");
}

/// The engine may panic in such a page: that is an error like any other damage, and ends nobody's thread.
#[test]
fn p10_whoever_reads_the_servers_own_rows_from_a_damaged_page_is_told_so_and_the_store_goes_on() {
    const ORDERS: Table = Table::new("orders");
    let (_folder, path) = folder();
    let store = builder(&ManualClock::at(START)).open(&path).unwrap();
    let write = |tx: &Transaction<'_>| {
        let mut rows = tx.open_table(ORDERS)?;
        (0..200).try_for_each(|nth| rows.insert(format!("{nth:03}"), "an order of its own".repeat(5)).map(drop))?;
        Ok(())
    };
    run(&store, &key("writes")).complete_with(&(), write).wait().unwrap();
    let store = from_disk(&store, &path);
    let (image, file) = (fs::read(&path).unwrap(), OpenOptions::new().write(true).open(&path).unwrap());
    let holds = |page: &[u8]| page.windows(19).any(|window| window == b"an order of its own");
    for (nth, _) in image.chunks(4096).enumerate().filter(|(_, page)| holds(page)) {
        file.write_all_at(&[0x5A], nth as u64 * 4096).unwrap();
    }
    let got = store.read(|tx| tx.open_table(ORDERS)?.get("100")).unwrap();
    assert_eq!(kind(got), ErrorKind::Corrupt);
    let all = store.read(|tx| tx.open_table(ORDERS)?.range(..)?.try_for_each(|row| row.map(drop))).unwrap();
    assert_eq!(kind(all), ErrorKind::Corrupt);
    run(&store, &key("next")).complete(&()).wait().unwrap();
}
