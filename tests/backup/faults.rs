//! A copy that cannot be made leaves nothing behind, and the store goes on (P10).

use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex};

use reentry::{Condition, DiskCall, DiskFault, Error, ErrorKind, SimulatedDisk, Store, Table, Transaction};
use tempfile::tempdir;

use crate::support::{full, key, kind, request, run};
use crate::{GO_ON, names};

const EIO: i32 = 5;

const ROWS: Table = Table::new("rows");

/// A store with a few operations, some of them large.
fn fill(store: &Store) {
    for n in 0..40_usize {
        let outcome = format!("canary of {n}, ").repeat(1 + n * n);
        run(store, &key(&n.to_string())).complete(&outcome).wait().unwrap();
    }
}

fn filled() -> Store {
    let store = Store::builder().in_memory().unwrap();
    fill(&store);
    store
}

#[track_caller]
fn assert_serving(store: &Store) {
    run(store, &key("after")).complete(&"served".to_owned()).wait().unwrap();
    store.forget(&key("after")).wait().unwrap();
    assert_eq!(store.stats().unwrap().condition, Condition::Serving);
    store.verify().unwrap();
}

#[test]
fn what_stands_at_the_path_is_never_replaced() {
    let folder = tempdir().unwrap();
    let copy = folder.path().join("copy.reentry");
    fs::write(&copy, "something else").unwrap();
    assert_eq!(kind(filled().backup(&copy)), ErrorKind::Exists);
    assert_eq!(fs::read_to_string(&copy).unwrap(), "something else");
    fs::remove_file(&copy).unwrap();
    fs::create_dir(&copy).unwrap();
    assert_eq!(kind(filled().backup(&copy)), ErrorKind::Exists);
    assert_eq!(names(folder.path()), ["copy.reentry"]);
    let nowhere = folder.path().join("no such folder").join("copy.reentry");
    assert_eq!(kind(filled().backup(nowhere)), ErrorKind::Io);
    assert_eq!(kind(filled().backup("/")), ErrorKind::NotAStore);
}

#[test]
fn a_file_that_came_meanwhile_is_not_replaced_either() {
    let folder = tempdir().unwrap();
    let copy = folder.path().join("copy.reentry");
    let there = copy.clone();
    let made = filled().backup_with(&copy, move |_| {
        fs::write(&there, "somebody else's").unwrap();
        GO_ON
    });
    assert_eq!(kind(made), ErrorKind::Exists);
    assert_eq!(fs::read_to_string(&copy).unwrap(), "somebody else's");
    assert_eq!(names(folder.path()), ["copy.reentry"]);
}

#[test]
fn of_two_copies_to_one_path_one_is_refused() {
    let folder = tempdir().unwrap();
    let copy = folder.path().join("copy.reentry");
    let (store, second) = (filled(), Arc::new(Mutex::new(None)));
    let (other, there, told) = (store.clone(), copy.clone(), Arc::clone(&second));
    let made = store.backup_with(&copy, move |_| {
        told.lock().unwrap().get_or_insert_with(|| kind(other.backup(&there)));
        GO_ON
    });
    made.unwrap();
    assert_eq!(*second.lock().unwrap(), Some(ErrorKind::InUse));
    Store::open(&copy).unwrap().verify().unwrap();
}

#[test]
fn a_copy_can_be_broken_off_wherever_it_is() {
    let store = filled();
    let shares = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&shares);
    let folder = tempdir().unwrap();
    let noted = move |share| {
        told.lock().unwrap().push(share);
        GO_ON
    };
    store.backup_with(folder.path().join("whole.reentry"), noted).unwrap();
    let shares: Vec<f64> = shares.lock().unwrap().clone();
    assert!(shares.is_sorted() && shares.iter().all(|share| (0.0..=1.0).contains(share)), "{shares:?}");
    assert_eq!(shares.last(), Some(&1.0));
    assert!(shares.iter().filter(|share| **share < 0.5).count() > 20, "{shares:?}");
    for nth in (0..shares.len()).step_by(7).chain([shares.len() - 1]) {
        let folder = tempdir().unwrap();
        let told = Mutex::new(0);
        let made = store.backup_with(folder.path().join("copy.reentry"), move |_| {
            let mut told = told.lock().unwrap();
            *told += 1;
            if *told > nth { ControlFlow::Break(()) } else { GO_ON }
        });
        assert_eq!(kind(made), ErrorKind::Cancelled, "at report {nth}");
        assert_eq!(names(folder.path()), [""; 0], "at report {nth}");
    }
    assert_serving(&store);
}

#[test]
fn a_report_of_progress_that_panics_breaks_the_copy_off_and_passes_through() {
    let store = filled();
    let folder = tempdir().unwrap();
    // While it is copied, and while it is checked.
    for from in [0.2, 0.6, 1.0] {
        let copy = folder.path().join("copy.reentry");
        let panics = move |share: f64| {
            if share >= from {
                std::panic::resume_unwind(Box::new("the progress panics"));
            }
            GO_ON
        };
        let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| store.backup_with(&copy, panics)));
        assert_eq!(made.unwrap_err().downcast_ref(), Some(&"the progress panics"), "{from}");
        assert_eq!(names(folder.path()), [""; 0], "{from}");
    }
    assert_serving(&store);
}

#[test]
fn p10_a_target_without_room_is_an_error_and_no_matter_to_the_store() {
    let store = filled();
    let (mut refused, mut room) = (0, 4096);
    loop {
        let target = SimulatedDisk::new();
        target.set_room(Some(room));
        match store.backup_onto(&target, |_| GO_ON) {
            Ok(_) => break,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Full, "{error}"),
        }
        (refused, room) = (refused + 1, room * 2);
    }
    assert!(refused > 3);
    assert_serving(&store);
}

#[test]
fn p10_a_target_that_fails_at_any_call_is_an_error_and_no_matter_to_the_store() {
    let store = filled();
    for nth in 0.. {
        let target = SimulatedDisk::new();
        target.fail(Some(DiskFault::os(EIO).on(DiskCall::CHANGES).after(nth)));
        let made = store.backup_onto(&target, |_| GO_ON);
        if target.failed() == 0 {
            made.unwrap();
            assert!(nth > 50, "{nth}");
            break;
        }
        let Err(error) = made else { panic!("a fault at call {nth} was not told") };
        assert!(matches!(error.kind(), ErrorKind::Io | ErrorKind::Failed), "call {nth}: {error}");
    }
    assert_serving(&store);
}

#[test]
fn p10_a_file_that_cannot_be_read_is_an_error_and_the_store_goes_on() {
    let disk = SimulatedDisk::new();
    let store = Store::builder().open_on(&disk).unwrap();
    fill(&store);
    disk.fail(Some(DiskFault::os(EIO).on(&[DiskCall::Read]).after(5)));
    assert_eq!(kind(store.backup_onto(&SimulatedDisk::new(), |_| GO_ON)), ErrorKind::Io);
    assert_serving(&store);
}

#[test]
fn p10_a_store_on_a_full_disk_can_be_copied_to_another() {
    let disk = SimulatedDisk::new();
    let store = Store::builder().open_on(&disk).unwrap();
    fill(&store);
    disk.fail(Some(full()));
    assert!(store.claim(&key("full"), request()).wait().is_err());
    assert_eq!(store.stats().unwrap().condition, Condition::Full);
    let target = SimulatedDisk::new();
    let made = store.backup_onto(&target, |_| GO_ON);
    // What the last batch left is not known until redb can be opened anew.
    match made {
        Ok(made) => assert_eq!(made.operations, store.stats().unwrap().operations),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Full, "{error}"),
    }
    disk.fail(None);
}

/// The write that found no room may have landed all the same, and then the file holds more than the store knows of:
/// such a copy would be told as one of a damaged file.
#[test]
fn p10_while_nobody_knows_what_the_last_batch_left_on_a_full_disk_nothing_is_copied() {
    let mut unknown = 0;
    for after in 0..12 {
        let disk = SimulatedDisk::new();
        let store = Store::builder().open_by_hand(&disk).unwrap();
        let full = DiskFault::kind(std::io::ErrorKind::StorageFull).on(DiskCall::GROWS);
        disk.fail([full.after(after).having_written(1 << 20), full.after(after + 1).for_ever()]);
        let claim = store.claim(&key("order"), request());
        store.work_by_hand();
        if claim.wait().is_err_and(|error| error.kind() == ErrorKind::OutcomeUnknown) {
            unknown += 1;
            let copied = store.backup_onto(&SimulatedDisk::new(), |_| GO_ON);
            assert_eq!(kind(copied), ErrorKind::Full, "write {after}");
        }
        disk.fail(None);
    }
    assert!(unknown > 0, "the store knew what each batch left");
}

#[test]
fn p10_a_store_that_stopped_is_not_copied() {
    let disk = SimulatedDisk::new();
    let store = Store::builder().open_on(&disk).unwrap();
    fill(&store);
    disk.fail(Some(DiskFault::os(EIO).on(&[DiskCall::Sync])));
    drop(store.claim(&key("fails"), request()).wait().unwrap_err());
    let target = SimulatedDisk::new();
    assert_eq!(kind(store.backup_onto(&target, |_| GO_ON)), ErrorKind::Failed);
    assert!(target.image().is_empty());
}

#[test]
fn a_copy_from_inside_a_closure_is_refused() {
    let folder = tempdir().unwrap();
    let (store, path) = (filled(), folder.path().join("copy.reentry"));
    let (other, refused) = (store.clone(), Arc::new(Mutex::new(None::<Error>)));
    let told = Arc::clone(&refused);
    let ended = run(&store, &key("order")).complete_with(&"paid".to_owned(), move |_| {
        *told.lock().unwrap() = other.backup(&path).err();
        Ok(())
    });
    ended.wait().unwrap();
    assert_eq!(refused.lock().unwrap().as_ref().map(Error::kind), Some(ErrorKind::WouldDeadlock));
    assert_eq!(names(folder.path()), [""; 0]);
}

/// What is lost with it changes neither how much is kept nor how long it is.
#[test]
fn p10_a_newest_change_that_is_damaged_and_counts_for_as_much_as_the_one_before_is_missed() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("orders.reentry");
    let store = Store::open(&path).unwrap();
    let mut order = run(&store, &key("order"));
    for canary in ["canary one", "canary two"] {
        order.advance("at", &canary.to_owned()).wait().unwrap();
    }
    damage(&path, b"canary two");
    let error = store.backup(folder.path().join("copy.reentry")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert_eq!(names(folder.path()), ["orders.reentry"]);
}

/// Flips a bit wherever the file holds this: in pages that are in use, and in others that no longer are.
fn damage(path: &Path, what: &[u8]) {
    let bytes = fs::read(path).unwrap();
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    let found = bytes.windows(what.len()).enumerate().filter(|(_, window)| *window == what);
    for (at, _) in found {
        file.seek(SeekFrom::Start(at as u64)).unwrap();
        file.write_all(&[what[0] ^ 1]).unwrap();
    }
}

#[test]
fn p10_damage_is_never_copied_as_if_it_were_whole() {
    // The last one stands in a page of the newest commit, which redb would take for torn by a crash.
    for canary in ["canary of 3, ", "canary of 39, ", "the newest of all"] {
        let folder = tempdir().unwrap();
        let path = folder.path().join("orders.reentry");
        let store = Store::open(&path).unwrap();
        fill(&store);
        run(&store, &key("newest")).complete(&"the newest of all".to_owned()).wait().unwrap();
        damage(&path, canary.as_bytes());
        let error = store.backup(folder.path().join("copy.reentry")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{canary}: {error}");
        assert_eq!(names(folder.path()), ["orders.reentry"]);
    }
}

/// Where the file was closed in order the engine looks at no page until somebody needs it, and whoever copies needs
/// none of the payloads.
#[test]
fn p10_damage_that_comes_to_a_store_while_it_is_only_read_is_never_copied_either() {
    for canary in ["canary of 39, ", "a row of the server's"] {
        let folder = tempdir().unwrap();
        let path = folder.path().join("orders.reentry");
        let store = Store::open(&path).unwrap();
        fill(&store);
        let rows = |tx: &Transaction<'_>| {
            tx.open_table(ROWS)?.insert("row", "a row of the server's")?;
            Ok(())
        };
        run(&store, &key("newest")).complete_with(&"paid".to_owned(), rows).wait().unwrap();
        store.close().unwrap();
        let store = Store::builder().open_to_read(&path).unwrap();
        damage(&path, canary.as_bytes());
        let error = store.backup(folder.path().join("copy.reentry")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{canary}: {error}");
        assert_eq!(names(folder.path()), ["orders.reentry"]);
    }
}
