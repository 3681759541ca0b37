//! An outcome that is kept for another time than the store's retention.

mod support;

use std::time::Duration;

use reentry::{Claim, ErrorKind, ManualClock, SimulatedDisk, Store};
use support::{START, key, kind, request, run, run_of};

const HOUR: Duration = Duration::from_secs(3_600);
const MOMENT: Duration = Duration::from_millis(1);
const NEARLY_AN_HOUR: Duration = Duration::from_millis(3_600_000 - 1);

fn is_kept(store: &Store, name: &str) -> bool {
    matches!(store.claim(&key(name), request()).wait().unwrap(), Claim::Replay(_))
}

fn open(disk: &SimulatedDisk, clock: &ManualClock) -> Store {
    Store::builder().retention(HOUR * 2).tombstones(HOUR).clock(clock.clone()).open_on(disk).unwrap()
}

/// Counted from completion to the millisecond, over a restart, and with its tombstone behind it.
#[test]
fn p5_p11_an_outcome_is_kept_for_as_long_as_its_run_said() {
    let (disk, clock) = (SimulatedDisk::new(), ManualClock::at(START));
    let store = open(&disk, &clock);
    let mut owned: Vec<_> = ["short", "long", "default"].map(|name| run(&store, &key(name))).into_iter().collect();
    owned[0].keep_for(HOUR);
    owned[1].keep_for(HOUR * 5);
    clock.advance(HOUR * 10);
    for run in owned {
        run.complete(&"done".to_owned()).wait().unwrap();
    }
    clock.advance(NEARLY_AN_HOUR);
    assert!(["short", "default", "long"].iter().all(|name| is_kept(&store, name)));
    store.close().unwrap();
    let store = open(&disk, &clock);
    clock.advance(MOMENT);
    assert!(matches!(store.claim(&key("short"), request()).wait().unwrap(), Claim::Gone(_)));
    assert!(is_kept(&store, "default") && is_kept(&store, "long"));
    // What retention moves out of the way of its neighbours keeps its own time.
    for name in ["1", "2", "3"] {
        clock.advance(HOUR);
        drop(run(&store, &key(name)));
    }
    assert!(!is_kept(&store, "default") && is_kept(&store, "long"));
    clock.advance(NEARLY_AN_HOUR);
    assert!(is_kept(&store, "long"));
    clock.advance(MOMENT);
    assert!(!is_kept(&store, "long"));
    store.verify().unwrap();
}

/// No time at all would let the key start anew before anybody was told.
#[test]
fn p5_an_outcome_is_kept_for_a_millisecond_at_least() {
    let clock = ManualClock::at(START);
    let store = Store::builder().clock(clock.clone()).in_memory().unwrap();
    let mut owned = run(&store, &key("k"));
    owned.keep_for(Duration::ZERO);
    owned.complete(&"done".to_owned()).wait().unwrap();
    assert!(is_kept(&store, "k"));
    clock.advance(MOMENT);
    assert!(!is_kept(&store, "k"));
}

/// What it holds up goes at its time, and what is kept longer is written anew once a retention and no oftener.
#[test]
fn p6_what_is_kept_longer_makes_room_for_its_neighbours_once_a_retention() {
    let (disk, clock) = (SimulatedDisk::new(), ManualClock::at(START));
    let store = Store::builder().retention(HOUR).clock(clock.clone()).open_on(&disk).unwrap();
    let mut long = run(&store, &key("long"));
    long.keep_for(HOUR * 100);
    long.complete(&"done".to_owned()).wait().unwrap();
    for name in ["a", "b"] {
        run(&store, &key(name)).complete(&()).wait().unwrap();
    }
    let mut written = Vec::new();
    for _ in 0..6 {
        clock.advance(HOUR / 2);
        // Each is a batch, and each looks at the head.
        for _ in 0..3 {
            store.forget(&key("nobody's")).wait().unwrap();
        }
        written.push(store.progress(&key("long")).unwrap().unwrap().changed_at());
    }
    assert_eq!(store.stats().unwrap().operations, 1);
    let hours = |hours: u32| START + HOUR * hours;
    assert_eq!(written, [START, hours(1), hours(1), hours(2), hours(2), hours(3)]);
}

/// Whoever works without a pause leaves no batch that nobody waits for: what is kept is what a retention needs all the
/// same.
#[test]
fn p6_retention_keeps_up_with_batches_of_any_size_that_follow_each_other() {
    let (disk, clock) = (SimulatedDisk::new(), ManualClock::at(START));
    let store = Store::builder().retention(HOUR).clock(clock.clone()).open_by_hand(&disk).unwrap();
    for round in 0..12 {
        let claims: Vec<_> = (0..100).map(|nth| store.claim(&key(&format!("{round} {nth}")), request())).collect();
        store.work_by_hand();
        let ended: Vec<_> = claims.into_iter().map(|claim| run_of(claim.wait().unwrap()).complete(&())).collect();
        store.work_by_hand();
        for ended in ended {
            ended.wait().unwrap();
        }
        assert!(store.stats().unwrap().completed <= 300, "{:?} in round {round}", store.stats().unwrap());
        clock.advance(HOUR / 2);
    }
    store.verify().unwrap();
}

/// Not at the end of the store's own retention.
#[test]
fn p5_the_tombstone_of_an_outcome_that_was_kept_shorter_stands_for_its_own_span_behind_it() {
    let (disk, clock) = (SimulatedDisk::new(), ManualClock::at(START));
    let store = open(&disk, &clock);
    let mut owned = run(&store, &key("short"));
    owned.keep_for(MOMENT);
    owned.complete(&"done".to_owned()).wait().unwrap();
    let gone_at = START + MOMENT + HOUR;
    let progress = store.progress(&key("short")).unwrap().unwrap();
    assert_eq!((progress.kept_until(), progress.known_until()), (Some(START + MOMENT), Some(gone_at)));
    clock.advance(HOUR);
    let Claim::Gone(gone) = store.claim(&key("short"), request()).wait().unwrap() else {
        panic!("its tombstone stands")
    };
    assert_eq!(gone.until(), gone_at);
    clock.advance(MOMENT);
    assert!(store.progress(&key("short")).unwrap().is_none());
    assert_eq!(run(&store, &key("short")).attempt(), 1);
    store.verify().unwrap();
}

/// A closure of the server's that fails ends nothing: the run goes on with all that was said to it.
#[test]
fn p5_p8_what_its_run_said_holds_for_the_end_that_is_made_though_one_before_it_failed() {
    let (disk, clock) = (SimulatedDisk::new(), ManualClock::at(START));
    let store = open(&disk, &clock);
    for name in ["completed", "failed", "panicked"] {
        let mut owner = run(&store, &key(name));
        owner.keep_for(HOUR * 5);
        let aborted = match name {
            "completed" => owner.complete_with(&(), |_| Err("no flour".into())),
            "failed" => owner.fail_with(&(), |_| Err("no flour".into())),
            _ => owner.complete_with(&(), |_| panic!("no flour")),
        };
        assert_eq!(kind(aborted.wait()), ErrorKind::Aborted);
        match name {
            "completed" => owner.complete_with(&(), |_| Ok(())).wait(),
            "failed" => owner.fail(&()).wait(),
            _ => owner.complete(&()).wait(),
        }
        .unwrap();
        assert_eq!(store.progress(&key(name)).unwrap().unwrap().kept_until(), Some(START + HOUR * 5), "{name}");
    }
    clock.advance(HOUR * 4 + NEARLY_AN_HOUR);
    assert!(["completed", "failed", "panicked"].iter().all(|name| is_kept(&store, name)));
    clock.advance(MOMENT);
    assert!(["completed", "failed", "panicked"].iter().all(|name| !is_kept(&store, name)));
    store.verify().unwrap();
}
