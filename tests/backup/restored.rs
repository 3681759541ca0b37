//! What a store that is opened from a copy is.

use std::fs;
use std::time::Duration;

use reentry::{Claim, Fingerprint, ManualClock, Store};
use tempfile::tempdir;

use crate::names;
use crate::support::{START, key, request, run, run_of, times_out};

#[test]
fn p2_all_that_was_acknowledged_is_in_a_copy() {
    let folder = tempdir().unwrap();
    let store = Store::open(folder.path().join("orders.reentry")).unwrap();
    for n in 0..50 {
        let outcome = format!("receipt {n}");
        run(&store, &key(&n.to_string())).complete(&outcome).wait().unwrap();
    }
    let mut left = run(&store, &key("left"));
    times_out(&mut left, "charge");
    drop(left);
    let copy = folder.path().join("monday.reentry");
    let made = store.backup(&copy).unwrap();
    assert_eq!((made.operations, made.unfinished), (51, 1));
    assert_eq!(made.bytes, fs::metadata(&copy).unwrap().len());
    assert_eq!(names(folder.path()), ["monday.reentry", "orders.reentry"]);
    // Beside the original, which is still open.
    let restored = Store::open(&copy).unwrap();
    for n in 0..50 {
        let claim = restored.claim(&key(&n.to_string()), request()).wait().unwrap();
        let Claim::Replay(outcome) = claim else { panic!("{n} has an outcome") };
        assert_eq!(outcome.decode::<String>().unwrap(), format!("receipt {n}"));
    }
    let again = run(&restored, &key("left"));
    assert_eq!((again.attempt(), again.steps()[0].name()), (2, "charge"));
    assert!(matches!(again.steps()[0].state(), reentry::StepState::InDoubt));
    restored.verify().unwrap();
}

/// The moment of a copy is kept in it: what had expired by then is over, though no row tells that time and the clock is
/// behind where it is opened.
#[test]
fn p11_what_had_expired_at_the_moment_of_a_copy_is_over_in_it_whatever_the_clock_says() {
    let clock = ManualClock::at(START);
    let builder = |clock: &ManualClock| Store::builder().clock(clock.clone()).retention(Duration::from_secs(86_400));
    let store = builder(&clock).in_memory().unwrap();
    // What is kept longer stands before it, so that nothing is removed.
    run(&store, &key("long")).complete(&()).wait().unwrap();
    let mut short = run(&store, &key("short"));
    short.keep_for(Duration::from_secs(600));
    short.complete(&()).wait().unwrap();
    clock.advance(Duration::from_secs(3_600));
    let folder = tempdir().unwrap();
    let copy = folder.path().join("copy.reentry");
    let made = store.backup(&copy).unwrap();
    assert_eq!(made.at, START + Duration::from_secs(3_600));
    let behind = ManualClock::at(START + Duration::from_secs(300));
    let restored = builder(&behind).open(&copy).unwrap();
    assert_eq!(restored.progress(&key("short")).unwrap().map(|known| known.state()), None);
    assert_eq!(run(&restored, &key("new")).since(), made.at);
    restored.verify().unwrap();
}

/// Whoever only reads a file to copy it has a clock of his own.
#[test]
fn p11_a_copy_that_is_made_by_somebody_whose_clock_is_ahead_has_the_time_of_the_file() {
    let folder = tempdir().unwrap();
    let [path, copy] = ["orders.reentry", "copy.reentry"].map(|name| folder.path().join(name));
    let builder = |at| Store::builder().clock(ManualClock::at(at)).retention(Duration::from_secs(86_400));
    let store = builder(START).open(&path).unwrap();
    run(&store, &key("order")).complete(&"paid".to_owned()).wait().unwrap();
    store.close().unwrap();
    let ahead = START + Duration::from_secs(365 * 86_400);
    builder(ahead).open_to_read(&path).unwrap().backup(&copy).unwrap();
    let restored = builder(START + Duration::from_secs(3_600)).open(&copy).unwrap();
    assert!(matches!(restored.claim(&key("order"), request()).wait().unwrap(), Claim::Replay(_)));
}

#[test]
fn a_store_in_memory_is_kept_by_its_copy() {
    let folder = tempdir().unwrap();
    let copy = folder.path().join("copy.reentry");
    {
        let store = Store::builder().in_memory().unwrap();
        run(&store, &key("order")).complete(&"paid".to_owned()).wait().unwrap();
        store.backup(&copy).unwrap();
    }
    let restored = Store::open(&copy).unwrap();
    assert!(matches!(restored.claim(&key("order"), request()).wait().unwrap(), Claim::Replay(_)));
}

/// A copy that is put in the place of the original and the original's last runs, somewhere on another machine, would
/// otherwise hold equal tokens.
#[test]
fn p7_no_token_of_a_copy_is_one_that_the_original_gives() {
    let folder = tempdir().unwrap();
    let copy = folder.path().join("copy.reentry");
    let store = Store::builder().in_memory().unwrap();
    run(&store, &key("before")).complete(&"paid".to_owned()).wait().unwrap();
    store.backup(&copy).unwrap();
    let restored = Store::open(&copy).unwrap();
    let first = run(&restored, &key("copied")).token();
    let later: Vec<_> = (0..200).map(|n| run(&store, &key(&n.to_string())).token()).collect();
    // Nor will be, for years: the original may have given out a thousand million more by the time it is lost.
    assert!(later.iter().all(|token| token + 1_000_000_000 < first), "{first} is not far above {:?}", later.last());
    // A copy of the copy leaves room again.
    let second = folder.path().join("second.reentry");
    restored.backup(&second).unwrap();
    assert!(run(&Store::open(&second).unwrap(), &key("copied")).token() > run(&restored, &key("more")).token());
}

/// The effect happened in the future that the copy does not know; the other side knows it by its id.
#[test]
fn p4_what_is_done_again_after_a_restore_has_the_same_effect_id() {
    let folder = tempdir().unwrap();
    let copy = folder.path().join("copy.reentry");
    let store = Store::builder().in_memory().unwrap();
    store.backup(&copy).unwrap();
    let mut lost = None;
    let mut first = run(&store, &key("order"));
    let charged = first.step("charge").run_keyed(|id| {
        lost = Some(id);
        Ok::<_, reentry::Failure>("receipt 7".to_owned())
    });
    charged.unwrap();
    first.complete(&"paid".to_owned()).wait().unwrap();
    let restored = Store::open(&copy).unwrap();
    let mut again = run_of(restored.claim(&key("order"), Fingerprint::of(b"request")).wait().unwrap());
    assert_eq!(again.attempt(), 1, "the copy knows nothing of it");
    let charged = again.step("charge").run_keyed(|id| {
        assert_eq!(Some(id), lost);
        Ok::<_, reentry::Failure>("receipt 7".to_owned())
    });
    charged.unwrap();
}

#[cfg(unix)]
#[test]
fn p9_a_copy_is_readable_by_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempdir().unwrap();
    let copy = folder.path().join("copy.reentry");
    Store::builder().in_memory().unwrap().backup(&copy).unwrap();
    assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    Store::builder().only_private(true).open(&copy).unwrap();
}
