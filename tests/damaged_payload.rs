//! A payload that is damaged is the error of whoever asks for it, on the writer's thread too, and stops nobody else.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use reentry::{ErrorKind, Revision, Store};

use support::{keep_one_damaged_of_three, key, kind, run};

#[test]
fn p10_who_loses_a_checkpoint_of_a_damaged_operation_is_told_so_and_the_store_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.reentry");
    keep_one_damaged_of_three(&path);
    let store = Store::open(&path).unwrap();
    // There is no such checkpoint, so the answer would be the one that there is, read with all payloads.
    let sees = store.advance(&key("damaged"), Revision::NONE, "first", &()).wait().unwrap();
    let lost = store.advance(&key("damaged"), Revision::NONE, "second", &()).wait();
    assert_eq!(kind(lost), ErrorKind::Corrupt, "{sees:?}");
    run(&store, &key("before")).complete(&()).wait().unwrap();
    assert!(store.forget(&key("damaged")).wait().unwrap());
    store.verify().unwrap();
}
