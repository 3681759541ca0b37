//! Nothing crosses a scope: whoever holds a key of one learns nothing of another, and no two pairs of scope and key
//! are ever one.
//!
//! `REENTRY_CANARIES=1000000 cargo test --release --test scopes` asks of as many pairs.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests panic")]

mod support;

use std::collections::HashMap;

use reentry::{Advance, Claim, Error, ErrorKind, Fingerprint, Key, Outcome, Progress, Resolution, Revision, Store};
use support::{Dice, kind, request, run, run_of};

/// Scopes and keys that are prefixes of each other, or hold what others would take for a border.
const PARTS: [&str; 14] = ["a", "ab", "abc", "b", "/", "a/b", "a:b", ":", " ", "\u{e9}", "e\u{301}", "%00", "..", "A"];

fn pairs(count: usize) -> Vec<Key> {
    let mut dice = Dice::new(11);
    let mut pairs: Vec<Key> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    while pairs.len() < count {
        let mut part = || (0..=dice.below(3)).map(|_| PARTS[dice.below(PARTS.len())]).collect::<String>();
        let (scope, key) = (part(), part());
        // Once there are few that are new, each gets a number at one end or the other.
        let numbered = if pairs.len().is_multiple_of(2) {
            format!("{key}{}", pairs.len())
        } else {
            format!("{}{key}", pairs.len())
        };
        for key in [Key::new(&scope, &key).unwrap(), Key::new(&scope, numbered).unwrap()] {
            if pairs.len() < count && seen.insert((key.scope().to_owned(), key.key().to_owned())) {
                pairs.push(key);
            }
        }
    }
    pairs
}

fn secret(key: &Key) -> String {
    format!("{}|{}|{}", key.scope().len(), key.scope(), key.key())
}

fn replayed(claim: Claim) -> Outcome {
    match claim {
        Claim::Replay(outcome) => outcome,
        other => panic!("{other:?}"),
    }
}

/// Lets each pair keep a secret, and asks all of them for theirs.
fn each_has_its_own(store: &Store, keys: &[Key]) {
    for keys in keys.chunks(1_000) {
        let claims: Vec<_> = keys.iter().map(|key| store.claim(key, request())).collect();
        let runs: Vec<_> = claims.into_iter().map(|claim| run_of(claim.wait().unwrap())).collect();
        let ends: Vec<_> = runs.into_iter().zip(keys).map(|(run, key)| run.complete(&secret(key))).collect();
        for end in ends {
            end.wait().unwrap();
        }
    }
    for key in keys {
        let outcome = replayed(store.claim(key, request()).wait().unwrap());
        assert_eq!(outcome.decode::<String>().unwrap(), secret(key));
    }
    assert_eq!(store.stats().unwrap().operations, keys.len() as u64);
    assert_eq!(store.verify().unwrap().operations, keys.len() as u64);
}

#[test]
fn p9_every_pair_of_scope_and_key_has_an_outcome_of_its_own() {
    let count = std::env::var("REENTRY_CANARIES").map_or(3_000, |count| count.parse().unwrap());
    each_has_its_own(&Store::builder().in_memory().unwrap(), &pairs(count));
}

/// Keeps an outcome under each of so many keys, and forgets them.
fn each_comes_and_goes(store: &Store, count: usize) {
    each_has_its_own(store, &pairs(count));
    for key in pairs(count) {
        assert!(store.forget(&key).wait().unwrap());
        assert!(store.progress(&key).unwrap().is_none());
    }
    store.verify().unwrap();
}

/// Hashes only say where to look: with one hash for all, every look-up meets the rows of other keys.
#[test]
fn p9_keys_of_one_hash_have_an_outcome_each() {
    each_comes_and_goes(&Store::builder().with_one_hash_for_all().in_memory().unwrap(), 300);
}

/// Of a hash the index keeps a part.
#[test]
fn p9_keys_of_one_hint_have_an_outcome_each_though_their_hashes_differ() {
    each_comes_and_goes(&Store::builder().with_one_hint_for_all().in_memory().unwrap(), 40);
}

/// All that can be said of a key by its name alone, as text without what differs by nature.
fn said_of(store: &Store, key: &Key) -> Vec<String> {
    let told = |answer: Result<String, Error>| answer.unwrap_or_else(|error| format!("{:?}: {error}", error.kind()));
    let advance = store.advance(key, Revision::default(), "moved", &"x".to_owned()).wait();
    let resolve = store.resolve(key, "charge", Resolution::DidNotHappen, "looked").wait();
    let unfinished = store.claim_unfinished(key).wait();
    vec![
        format!("{:?}", store.progress(key).unwrap().map(|progress: Progress| progress.state())),
        told(advance.map(|advance| format!("{advance:?}"))),
        told(resolve.map(|()| "resolved".to_owned())),
        told(unfinished.map(|claim| format!("{claim:?}"))),
        told(store.revoke(key).wait().map(|done| done.to_string())),
        told(store.release_stuck(key).wait().map(|done| done.to_string())),
        told(store.forget(key).wait().map(|done| done.to_string())),
    ]
}

#[test]
fn p9_a_key_of_another_scope_is_answered_as_one_that_nobody_ever_had() {
    let store = Store::builder().in_memory().unwrap();
    let (theirs, absent) = (Key::new("tenant-a", "order-1").unwrap(), Key::new("tenant-b", "order-2").unwrap());
    let ours = Key::new("tenant-b", "order-1").unwrap();
    let mut at_work = run(&store, &theirs);
    at_work.advance("paid", &"42".to_owned()).wait().unwrap();

    let stranger = said_of(&store, &ours);
    assert_eq!(stranger, said_of(&store, &absent), "in flight");
    at_work.complete(&"secret".to_owned()).wait().unwrap();
    assert_eq!(stranger, said_of(&store, &ours), "completed");

    // Nor does claiming it tell of the other's, nor touch it.
    let (ours_run, absent_run) = (run(&store, &ours), run(&store, &absent));
    assert_eq!((ours_run.attempt(), ours_run.checkpoint()), (1, None));
    assert_eq!((absent_run.attempt(), absent_run.checkpoint()), (1, None));
    assert!(matches!(store.claim(&theirs, Fingerprint::of("another")).wait().unwrap(), Claim::Reject(_)));
    assert_eq!(replayed(store.claim(&theirs, request()).wait().unwrap()).decode::<String>().unwrap(), "secret");
    store.verify().unwrap();
}

#[test]
fn p9_what_is_unfinished_is_listed_by_scope_and_a_prefix_is_no_scope() {
    let store = Store::builder().in_memory().unwrap();
    let mut expected: HashMap<String, Vec<String>> = HashMap::new();
    for key in pairs(500) {
        drop(run(&store, &key));
        expected.entry(key.scope().to_owned()).or_default().push(key.key().to_owned());
    }
    for (scope, keys) in expected {
        let listed: Vec<_> = store.unfinished().of_scope(&scope).map(|it| it.unwrap().key().clone()).collect();
        assert!(listed.iter().all(|key| key.scope() == scope));
        assert_eq!(listed.iter().map(Key::key).collect::<Vec<_>>(), keys);
    }
    assert_eq!(store.unfinished().of_scope("nobody").count(), 0);
    store.verify().unwrap();
}

#[test]
fn p9_what_would_be_a_border_in_a_log_or_a_file_is_no_part_of_a_key() {
    for border in ["\0", "\n", "\r", "\t", "\u{1b}[31m", "\u{7f}", "\u{85}", "\u{9b}"] {
        for (scope, key) in [(format!("a{border}b"), "c".to_owned()), ("a".to_owned(), format!("b{border}c"))] {
            assert_eq!(kind(Key::new(scope, key)), ErrorKind::InvalidKey);
        }
    }
}

#[test]
fn p3_a_non_owner_still_moves_what_is_its_own() {
    // So that the strangers' answers above are not those of a call that never works.
    let store = Store::builder().in_memory().unwrap();
    let ours = Key::new("tenant-b", "order-1").unwrap();
    let _at_work = run(&store, &ours);
    let moved = store.advance(&ours, Revision::default(), "moved", &"x".to_owned()).wait().unwrap();
    assert!(matches!(moved, Advance::Moved(_)), "{moved:?}");
    store.verify().unwrap();
}

/// A batch that moved the row of one key looked for it, under the other's hash, where it had been, and took it for
/// damage.
#[test]
fn p9_two_keys_of_one_hash_change_in_one_batch() {
    let store = Store::builder().with_one_hash_for_all().open_by_hand(&reentry::SimulatedDisk::new()).unwrap();
    let keys = pairs(3);
    let claims: Vec<_> = keys.iter().map(|key| store.claim(key, request())).collect();
    store.work_by_hand();
    let mut runs: Vec<_> = claims.into_iter().map(|claim| run_of(claim.wait().unwrap())).collect();
    let moves: Vec<_> = runs.iter_mut().map(|run| run.advance("on", &"x".to_owned())).collect();
    store.work_by_hand();
    for moved in moves {
        moved.wait().unwrap();
    }
    let ends: Vec<_> = runs.into_iter().map(|run| run.complete(&"done".to_owned())).collect();
    store.work_by_hand();
    for end in ends {
        end.wait().unwrap();
    }
    store.verify().unwrap();
}
