//! A disk that fails while callers wait: everybody is answered, and nothing is told that is not there (P2, P10).

use std::io;

use reentry::{Claim, DiskCall, DiskFault, Key, Loss};
use shuttle::thread;

use crate::world::{builder, check, claim_after_others, disk, end, key, request, run_of};

#[test]
fn p10_a_failed_sync_answers_everybody_and_nothing_told_is_lost() {
    check(|| {
        let disk = disk();
        let store = builder().open_on(&disk).unwrap();
        let run = run_of(store.claim(&key(), request()).wait().unwrap());
        let in_line = store.clone();
        let in_line = thread::spawn(move || claim_after_others(&in_line).map(drop));
        let claims = [2, 3].map(|nth| {
            let (store, key) = (store.clone(), Key::new("orders", nth.to_string()).unwrap());
            thread::spawn(move || {
                let claim = store.claim(&key, request()).wait();
                claim.is_ok_and(|claim| matches!(claim, Claim::Run(_))).then_some(key)
            })
        });
        disk.fail([DiskFault::kind(io::ErrorKind::Other).on(&[DiskCall::Sync]).for_ever()]);
        // Nobody can enter what is owned, and the owner goes only after the fault was heard of.
        let told = run.complete(&()).wait();
        in_line.join().unwrap().map_or_else(|_| (), |_| assert!(told.is_ok()));
        let told_keys = claims.map(|claim| claim.join().unwrap());
        drop(store);
        let store = builder().open_on(&disk.cut(disk.calls(), |_| Loss::Lost)).unwrap();
        for key in told_keys.iter().flatten() {
            assert!(store.progress(key).unwrap().is_some(), "a claim was told and is lost");
        }
        let after = store.progress(&key()).unwrap().expect("it was told");
        assert!(told.is_err() || after.outcome().is_some());
        end(&store);
    });
}

#[test]
fn p2_nothing_is_published_that_did_not_reach_the_disk() {
    check(|| {
        let disk = disk();
        let store = builder().open_on(&disk).unwrap();
        disk.fail([DiskFault::kind(io::ErrorKind::Other).on(&[DiskCall::Sync]).for_ever()]);
        let reader = store.clone();
        let reader = thread::spawn(move || {
            for _ in 0..2 {
                let stats = reader.stats().unwrap();
                assert_eq!((stats.operations, stats.unfinished), (0, 0));
            }
        });
        assert!(store.claim(&key(), request()).wait().is_err());
        assert_eq!(store.stats().unwrap().operations, 0);
        reader.join().unwrap();
    });
}
