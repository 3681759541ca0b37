//! What is read past the writer while it moves the row: never absent, never older than what was told (P2, P3).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use reentry::{Claim, Key, State, Store};
use shuttle::thread;

use crate::world::{check, end, key, open, request, run_of};

/// How far the operation is: 0 before its first checkpoint, which are named 1 and 2, and 3 when it is over.
fn seen(store: &Store) -> u32 {
    let progress = store.progress(&key()).unwrap().expect("it was told");
    let checkpoint = || progress.checkpoint().map_or(0, |checkpoint| checkpoint.name().parse().unwrap());
    progress.outcome().map_or_else(checkpoint, |_| 3)
}

#[test]
fn p2_a_reader_never_sees_less_than_was_told_and_never_goes_back() {
    check(|| {
        let (store, told) = (open(), Arc::new(AtomicU32::new(0)));
        let mut run = run_of(store.claim(&key(), request()).wait().unwrap());
        let reader = (store.clone(), Arc::clone(&told));
        let reader = thread::spawn(move || {
            let (store, told) = reader;
            let mut last = 0;
            for _ in 0..3 {
                let told = told.load(Ordering::SeqCst);
                let now = seen(&store);
                assert!(now >= told && now >= last, "saw {now} after {last} and when {told} was told");
                last = now;
            }
        });
        for nth in 1..=2_u32 {
            run.advance(&nth.to_string(), &()).wait().unwrap();
            told.store(nth, Ordering::SeqCst);
        }
        run.complete(&()).wait().unwrap();
        told.store(3, Ordering::SeqCst);
        assert_eq!(seen(&store), 3);
        reader.join().unwrap();
        end(&store);
    });
}

#[test]
fn p2_what_was_told_stands_in_the_index() {
    check(|| {
        let store = open();
        let other = store.clone();
        let other = thread::spawn(move || {
            let claim = other.claim(&key(), request()).wait().unwrap();
            // Whichever it came to, the operation is there.
            let progress = other.progress(&key()).unwrap().expect("it was claimed");
            assert_eq!(progress.attempt(), 1);
            let stats = other.stats().unwrap();
            assert_eq!((stats.operations, stats.unfinished), (1, 1));
            claim
        });
        let claim = store.claim(&key(), request()).wait().unwrap();
        assert_eq!(store.stats().unwrap().unfinished, 1);
        let other = other.join().unwrap();
        let is_owner = |claim: &Claim| matches!(claim, Claim::Run(_));
        assert!(is_owner(&claim) != is_owner(&other));
        drop((claim, other));
        end(&store);
    });
}

#[test]
fn p1_an_operation_never_shows_before_its_owner() {
    check(|| {
        let store = open();
        let reader = store.clone();
        let reader = thread::spawn(move || {
            for _ in 0..3 {
                // Nobody lets go of it while somebody looks.
                if let Some(progress) = reader.progress(&key()).unwrap() {
                    assert_eq!(progress.state(), State::Owned);
                }
            }
        });
        let run = run_of(store.claim(&key(), request()).wait().unwrap());
        reader.join().unwrap();
        drop(run);
        end(&store);
    });
}

/// What is listed is read row by row, and whose it is after that: both are of one moment.
#[test]
fn p1_what_is_listed_as_unfinished_shows_its_owner_until_it_is_over() {
    check(|| {
        let store = open();
        let mut run = run_of(store.claim(&key(), request()).wait().unwrap());
        let reader = store.clone();
        let reader = thread::spawn(move || {
            for _ in 0..3 {
                for listed in reader.unfinished() {
                    assert_eq!(listed.unwrap().state(), State::Owned);
                }
            }
        });
        run.advance("1", &()).wait().unwrap();
        run.complete(&()).wait().unwrap();
        reader.join().unwrap();
        end(&store);
    });
}

/// One reads a row that stays where it is; the other has redb told of more rows, and reads those.
#[test]
fn p2_a_row_that_redb_was_told_of_is_found_whoever_reads_meanwhile() {
    check(|| {
        let store = open();
        let claim = |key: &Key| run_of(store.claim(key, request()).wait().unwrap()).release();
        claim(&key());
        assert_eq!(store.operations().count(), 1);
        let reader = store.clone();
        let reader = thread::spawn(move || {
            for _ in 0..4 {
                assert!(reader.progress(&key()).unwrap().is_some());
            }
        });
        for nth in 2..=3 {
            let other = Key::new("orders", nth.to_string()).unwrap();
            claim(&other);
            assert_eq!(store.operations().collect::<reentry::Result<Vec<_>>>().unwrap().len(), nth);
            assert!(store.progress(&other).unwrap().is_some());
        }
        reader.join().unwrap();
        end(&store);
    });
}

#[test]
fn p6_what_is_unfinished_is_listed_wherever_it_moves_meanwhile() {
    check(|| {
        let store = open();
        let mut run = run_of(store.claim(&key(), request()).wait().unwrap());
        let reader = store.clone();
        let reader = thread::spawn(move || {
            for _ in 0..3 {
                let listed = reader.unfinished().collect::<reentry::Result<Vec<_>>>().unwrap();
                assert_eq!(listed.iter().map(|it| it.key().clone()).collect::<Vec<_>>(), [key()]);
            }
        });
        for name in ["paid", "shipped"] {
            run.advance(name, &()).wait().unwrap();
        }
        reader.join().unwrap();
        drop(run);
        end(&store);
    });
}

/// All keys have one hash here: a reader looks at the places of others before it comes to its own.
#[test]
fn p3_a_key_is_found_while_another_of_its_hash_goes() {
    check(|| {
        let store = open();
        let other = Key::new("orders", "other").unwrap();
        drop(run_of(store.claim(&other, request()).wait().unwrap()));
        drop(run_of(store.claim(&key(), request()).wait().unwrap()));
        let reader = store.clone();
        let reader = thread::spawn(move || assert!(reader.progress(&key()).unwrap().is_some(), "it was claimed"));
        assert!(store.forget(&other).wait().unwrap());
        reader.join().unwrap();
        end(&store);
    });
}
