//! A store that is being made has another name first, and both for a moment. A maker that died then left both: what
//! has another name, or is another's, is never cleared.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(unix)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use reentry::{Claim, ErrorKind, Store};

use support::{key, kind, request, run};

fn folder() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (path, creating) = (folder.path().join("orders"), folder.path().join("orders.creating"));
    (folder, path, creating)
}

/// A store with one outcome in it.
fn make(path: &Path) {
    let store = Store::open(path).unwrap();
    run(&store, &key("a")).complete(&"done".to_owned()).wait().unwrap();
    store.close().unwrap();
}

#[track_caller]
fn is_there(path: &Path) {
    let store = Store::open(path).unwrap();
    assert!(matches!(store.claim(&key("a"), request()).wait().unwrap(), Claim::Replay(_)));
    store.close().unwrap();
}

#[test]
fn p10_a_store_that_was_moved_away_from_both_of_its_names_is_not_cleared_for_a_new_one() {
    let (folder, path, creating) = folder();
    make(&path);
    fs::hard_link(&path, &creating).unwrap();
    let moved = folder.path().join("moved");
    fs::rename(&path, &moved).unwrap();
    make(&path);
    assert!(!creating.exists());
    is_there(&moved);
    is_there(&path);
}

#[test]
fn p10_what_was_moved_away_from_both_of_its_names_is_not_cleared_for_a_copy() {
    let (folder, path, creating) = folder();
    make(&path);
    fs::hard_link(&path, &creating).unwrap();
    let moved = folder.path().join("moved");
    fs::rename(&path, &moved).unwrap();
    let store = Store::builder().in_memory().unwrap();
    assert_eq!(kind(store.backup(&path)), ErrorKind::InUse);
    assert!(creating.exists() && !path.exists());
    is_there(&moved);
}

/// Only the name that leads to the store is its own to remove; and who only reads removes none.
#[test]
fn the_other_name_goes_where_it_is_the_stores_and_it_is_opened_to_be_changed() {
    let (_folder, path, creating) = folder();
    make(&path);
    fs::write(&creating, "another's").unwrap();
    is_there(&path);
    assert_eq!(fs::read(&creating).unwrap(), b"another's");
    fs::remove_file(&creating).unwrap();
    fs::hard_link(&path, &creating).unwrap();
    Store::builder().open_damaged(&path).unwrap().close().unwrap();
    let reader = Store::builder().open_to_read(&path).unwrap();
    reader.close().unwrap();
    assert!(creating.exists());
    // Closed, it lets others open the file, though a handle of it is there.
    is_there(&path);
    drop(reader);
    assert!(!creating.exists());
}

#[test]
fn what_stands_in_the_way_of_a_copys_first_name_is_told_and_left() {
    let (_folder, path, creating) = folder();
    fs::create_dir(&creating).unwrap();
    let store = Store::builder().in_memory().unwrap();
    let error = store.backup(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotAStore);
    assert!(format!("{error:?}").contains("is in the way"), "{error:?}");
    assert!(creating.is_dir() && !path.exists());
}
