//! A copy is the store as it was at one moment, whatever claims do meanwhile (P2, P10).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests panic")]

mod support;

use std::fs;
use std::ops::ControlFlow;

use reentry::{Claim, ErrorKind, Fingerprint, Key, SimulatedDisk, Store};
use support::run_of;
use tempfile::tempdir;

const GO_ON: ControlFlow<()> = ControlFlow::Continue(());

fn key(n: u32) -> Key {
    Key::new("scope", n.to_string()).unwrap()
}

fn claim(store: &Store, n: u32) -> Claim {
    store.claim(&key(n), Fingerprint::of("two pizzas")).wait().unwrap()
}

fn complete(store: &Store, n: u32) {
    run_of(claim(store, n)).complete(&format!("receipt {n}")).wait().unwrap();
}

#[test]
fn p2_all_that_was_acknowledged_is_in_a_copy() {
    let folder = tempdir().unwrap();
    let store = Store::open(folder.path().join("orders.reentry")).unwrap();
    (0..50).for_each(|n| complete(&store, n));
    drop(run_of(claim(&store, 50)));
    let copy = folder.path().join("monday.reentry");
    let made = store.backup(&copy).unwrap();
    assert_eq!((made.operations, made.unfinished), (51, 1));
    let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    let restored = Store::open(&copy).unwrap();
    for n in 0..50 {
        let Claim::Replay(outcome) = claim(&restored, n) else { panic!("{n} has an outcome") };
        assert_eq!(outcome.decode::<String>().unwrap(), format!("receipt {n}"));
    }
    assert_eq!(run_of(claim(&restored, 50)).attempt(), 2);
    restored.verify().unwrap();
}
