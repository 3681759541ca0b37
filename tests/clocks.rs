//! P11: time cannot hurt. Deadlines are exact, a wall clock that jumps expires nothing early and revives nothing, and
//! an expiry that was told outlives a power cut with the clock turned back.

#![allow(clippy::unwrap_used, clippy::panic, clippy::unchecked_time_subtraction, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use reentry::{Claim, Clock, ErrorKind, Loss, ManualClock, SimulatedDisk, State, Store, Timestamp};
use support::{Dice, START, key, request, run, run_of, settle};

const RETENTION: Duration = Duration::from_secs(1_000);
const TOMBSTONES: Duration = Duration::from_secs(500);
const TICK: Duration = Duration::from_millis(1);
const TEN_YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

fn open(disk: &SimulatedDisk, clock: &ManualClock, tombstones: Duration) -> Store {
    Store::builder().retention(RETENTION).tombstones(tombstones).clock(clock.clone()).open_on(disk).unwrap()
}

fn complete(store: &Store, name: &str) {
    run(store, &key(name)).complete(&"the answer".to_owned()).wait().unwrap();
}

/// What is told of a key by everything that can tell it without beginning it anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Kept,
    Gone,
    Nothing,
}

fn progress(store: &Store, name: &str) -> Told {
    match store.progress(&key(name)).unwrap().map(|progress| progress.state()) {
        Some(State::Gone) => Told::Gone,
        Some(State::Succeeded) => Told::Kept,
        None => Told::Nothing,
        Some(other) => panic!("nobody runs it, but it is {other}"),
    }
}

fn claim_unfinished(store: &Store, name: &str) -> Told {
    match store.claim_unfinished(&key(name)).wait() {
        Ok(Claim::Gone(_)) => Told::Gone,
        Ok(Claim::Replay(outcome)) => {
            assert_eq!(outcome.bytes(), b"the answer");
            Told::Kept
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Told::Nothing,
        other => panic!("nobody runs it, but there is {other:?}"),
    }
}

/// Only for what is not over: a claim of what is begins it anew.
fn claim(store: &Store, name: &str) -> Told {
    match store.claim(&key(name), request()).wait().unwrap() {
        Claim::Gone(_) => Told::Gone,
        Claim::Replay(_) => Told::Kept,
        Claim::Run(run) => {
            assert_eq!((run.attempt(), run.checkpoint()), (1, None), "nothing of the old operation shows");
            run.complete(&"the answer".to_owned()).wait().unwrap();
            Told::Nothing
        }
        other => panic!("nobody runs it, but there is {other:?}"),
    }
}

#[test]
fn p11_at_the_deadline_it_is_expired_and_a_moment_before_it_is_not() {
    for (ask, is_claim) in [(progress as fn(&Store, &str) -> Told, false), (claim_unfinished, false), (claim, true)] {
        let (disk, clock) = (SimulatedDisk::new(), ManualClock::at(START));
        let store = open(&disk, &clock, TOMBSTONES);
        complete(&store, "a");
        clock.advance(RETENTION - TICK);
        assert_eq!(ask(&store, "a"), Told::Kept, "one millisecond before the retention's end");
        clock.advance(TICK);
        assert_eq!(ask(&store, "a"), Told::Gone, "at the retention's end");
        clock.advance(TOMBSTONES - TICK);
        assert_eq!(ask(&store, "a"), Told::Gone, "one millisecond before the tombstone's end");
        clock.advance(TICK);
        assert_eq!(ask(&store, "a"), Told::Nothing, "at the tombstone's end");
        if is_claim {
            assert_eq!(ask(&store, "a"), Told::Kept, "begun anew, and completed");
        }
        store.verify().unwrap();
    }
}

#[test]
fn p11_a_jump_forward_of_the_wall_clock_while_open_expires_nothing() {
    let (disk, clock) = (SimulatedDisk::new(), ManualClock::at(START));
    let store = open(&disk, &clock, TOMBSTONES);
    complete(&store, "done");
    drop(run(&store, &key("unfinished")));
    clock.set_wall(START + TEN_YEARS);
    // Gives retention its chance, twice.
    settle(&store);
    complete(&store, "later");
    assert_eq!([progress(&store, "done"), claim_unfinished(&store, "done"), claim(&store, "done")], [Told::Kept; 3]);
    clock.advance(RETENTION - TICK);
    settle(&store);
    assert_eq!([progress(&store, "done"), claim(&store, "later")], [Told::Kept; 2]);
    clock.advance(TICK);
    assert_eq!(claim(&store, "done"), Told::Gone, "elapsed time alone brought it to its deadline");
    assert_eq!(run(&store, &key("unfinished")).attempt(), 2, "what is unfinished is never evicted");
    store.verify().unwrap();
}

#[test]
fn p11_a_jump_back_of_the_wall_clock_while_open_revives_nothing_and_shortens_nothing() {
    let (disk, clock) = (SimulatedDisk::new(), ManualClock::at(START));
    let store = open(&disk, &clock, TOMBSTONES);
    complete(&store, "old");
    clock.advance(RETENTION);
    assert_eq!(claim(&store, "old"), Told::Gone);
    clock.set_wall(Timestamp::from_millis(0));
    assert_eq!([claim(&store, "old"), progress(&store, "old")], [Told::Gone; 2], "nothing is revived");
    complete(&store, "new");
    clock.advance(RETENTION - TICK);
    assert_eq!(claim(&store, "new"), Told::Kept, "nothing is shortened");
    clock.advance(TICK);
    assert_eq!(claim(&store, "new"), Told::Gone, "and nothing lasts longer");
    assert_eq!(progress(&store, "old"), Told::Nothing);
    store.verify().unwrap();
}

#[test]
fn p11_a_restart_with_the_clock_turned_back_goes_on_from_the_highest_time_seen() {
    for is_closed in [true, false] {
        let (disk, clock) = (SimulatedDisk::new(), ManualClock::at(START));
        let store = open(&disk, &clock, TOMBSTONES);
        complete(&store, "early");
        clock.advance(RETENTION / 2);
        complete(&store, "late");
        let after = if is_closed {
            store.close().unwrap();
            disk.clone()
        } else {
            disk.cut(disk.calls(), |_| Loss::Lost)
        };
        clock.set_wall(Timestamp::from_millis(0));
        let reopened = open(&after, &clock, TOMBSTONES);
        assert_eq!([claim(&reopened, "early"), claim(&reopened, "late")], [Told::Kept; 2]);
        clock.advance(RETENTION / 2 - TICK);
        assert_eq!(claim(&reopened, "early"), Told::Kept);
        clock.advance(TICK);
        assert_eq!([claim(&reopened, "early"), claim(&reopened, "late")], [Told::Gone, Told::Kept]);
        clock.advance(RETENTION / 2);
        assert_eq!(claim(&reopened, "late"), Told::Gone);
        reopened.verify().unwrap();
    }
}

#[test]
fn p11_an_outcome_of_a_machine_that_was_suspended_is_not_early_after_a_restart() {
    let (disk, clock) = (SimulatedDisk::new(), ManualClock::at(START));
    let store = open(&disk, &clock, TOMBSTONES);
    // While a machine sleeps its wall clock goes on and its monotonic clock does not.
    clock.set_wall(START + RETENTION * 3);
    complete(&store, "a");
    store.close().unwrap();
    let reopened = open(&disk, &clock, TOMBSTONES);
    clock.advance(RETENTION - TICK);
    assert_eq!(claim(&reopened, "a"), Told::Kept);
    clock.advance(TICK);
    assert_eq!(claim(&reopened, "a"), Told::Gone);
    reopened.verify().unwrap();
}

/// Who can tell an expiry, and how: what it is called here, and what it does.
type Teller = (&'static str, fn(&Store));

fn refused_advance(store: &Store) {
    let advance = store.advance(&key("b"), reentry::Revision::NONE, "webhook", &"paid".to_owned()).wait();
    assert_eq!(advance.unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn p11_an_expiry_that_was_told_is_not_undone_by_a_power_cut_and_a_clock_turned_back() {
    let gone: [Teller; 3] = [
        ("claim", |store| assert_eq!(claim(store, "b"), Told::Gone)),
        ("progress", |store| assert_eq!(progress(store, "b"), Told::Gone)),
        ("claim_unfinished", |store| assert_eq!(claim_unfinished(store, "b"), Told::Gone)),
    ];
    let nothing: [Teller; 4] = [
        ("progress", |store| assert_eq!(progress(store, "b"), Told::Nothing)),
        ("claim_unfinished", |store| assert_eq!(claim_unfinished(store, "b"), Told::Nothing)),
        ("advance", refused_advance),
        ("forget", |store| assert!(!store.forget(&key("b")).wait().unwrap())),
    ];
    let with_tombstones = gone.iter().map(|teller| (TOMBSTONES, Told::Gone, teller));
    let without = nothing.iter().map(|teller| (Duration::ZERO, Told::Nothing, teller));
    for (tombstones, told, (teller, tell)) in with_tombstones.chain(without) {
        // What else the writer did at that time must not decide whether the time is kept.
        for other in ["nothing", "a removal", "a claim", "an earlier answer"] {
            let (disk, clock) = (SimulatedDisk::new(), ManualClock::at(START));
            let store = open(&disk, &clock, tombstones);
            drop(run(&store, &key("head")));
            drop(run(&store, &key("a")));
            complete(&store, "b");
            drop(run(&store, &key("c")));
            store.close().unwrap();
            // With a longer retention the head stays where it is, so that no sweep writes rows that keep the time too.
            let longer = Store::builder().retention(RETENTION * 10).tombstones(tombstones).clock(clock.clone());
            let store = longer.open_on(&disk).unwrap();
            clock.advance(RETENTION);
            match other {
                "a removal" => assert!(store.forget(&key("a")).wait().unwrap()),
                "a claim" => drop(run(&store, &key("d"))),
                "an earlier answer" => assert_eq!(progress(&store, "b"), told),
                _ => {}
            }
            tell(&store);
            let after = disk.cut(disk.calls(), |_| Loss::Lost);
            clock.set_wall(Timestamp::from_millis(0));
            let reopened = open(&after, &clock, tombstones);
            let seen = [progress(&reopened, "b"), claim_unfinished(&reopened, "b"), claim(&reopened, "b")];
            assert_eq!(seen, [told; 3], "told by {teller}, beside {other}");
            assert_eq!(
                reopened.unfinished().filter(|p| p.as_ref().unwrap().key() != &key("b")).count(),
                match other {
                    "a removal" => 2,
                    "a claim" => 4,
                    _ => 3,
                }
            );
            reopened.verify().unwrap();
        }
    }
}

/// A batch that removes what is over, and ends and forgets another, leaves no row of its time: that must be kept all
/// the same, or a clock turned back would find the key free before its deadline.
#[test]
fn p11_what_a_batch_removed_is_over_after_a_restart_too_though_no_row_of_the_batch_is_left() {
    let (disk, clock) = (SimulatedDisk::new(), ManualClock::at(START));
    let builder = Store::builder().retention(RETENTION).clock(clock.clone());
    let store = builder.open_by_hand(&disk).unwrap();
    let begin = |name| {
        let claim = store.claim(&key(name), request());
        store.work_by_hand();
        run_of(claim.wait().unwrap())
    };
    let ended = begin("over").complete(&"the answer".to_owned());
    store.work_by_hand();
    ended.wait().unwrap();
    let other = begin("other");
    clock.advance(RETENTION);
    let (ended, forgotten) = (other.complete(&"the answer".to_owned()), store.forget(&key("other")));
    store.work_by_hand();
    ended.wait().unwrap();
    assert!(forgotten.wait().unwrap());
    assert_eq!(store.stats().unwrap().removed, 1, "what is over went in the same batch");
    let after = disk.killed(disk.calls());
    let turned_back = ManualClock::at(START);
    let store = open(&after, &turned_back, Duration::ZERO);
    let since = run(&store, &key("new")).since();
    assert!(since >= START + RETENTION, "it goes on at {since}, before what it removed was over");
}

#[test]
fn p11_an_operation_begun_anew_after_its_deadline_stays_so_after_a_power_cut_and_a_clock_turned_back() {
    let (disk, clock) = (SimulatedDisk::new(), ManualClock::at(START));
    let store = open(&disk, &clock, Duration::ZERO);
    let mut first = run(&store, &key("b"));
    first.advance("paid", &"old".to_owned()).wait().unwrap();
    first.complete(&"old".to_owned()).wait().unwrap();
    clock.advance(RETENTION);
    let anew = run(&store, &key("b"));
    assert_eq!((anew.attempt(), anew.checkpoint()), (1, None));
    let after = disk.cut(disk.calls(), |_| Loss::Lost);
    clock.set_wall(Timestamp::from_millis(0));
    let reopened = open(&after, &clock, Duration::ZERO);
    let again = run(&reopened, &key("b"));
    assert_eq!((again.attempt(), again.checkpoint()), (2, None));
    assert!(again.token() > anew.token(), "fencing tokens only grow");
    reopened.verify().unwrap();
}

/// What the walk expects: the store's own time, and until when it keeps what it completed.
#[derive(Debug, Clone, Copy)]
struct Expected {
    time: Timestamp,
    until: Option<Timestamp>,
}

impl Expected {
    fn told(&self) -> Told {
        match self.until {
            Some(until) if self.time < until => Told::Kept,
            Some(until) if self.time < until + TOMBSTONES => Told::Gone,
            _ => Told::Nothing,
        }
    }
}

#[test]
fn p11_a_clock_that_jumps_ten_years_both_ways_changes_no_answer_while_open_and_revives_none_over_restarts() {
    for seed in 0..8 {
        let mut dice = Dice::new(seed);
        let (mut disk, clock) = (SimulatedDisk::new(), ManualClock::at(START));
        let mut store = open(&disk, &clock, TOMBSTONES);
        let mut expected = Expected { time: START, until: None };
        for step in 0..150 {
            match dice.below(8) {
                0 | 1 => {
                    let back_or_forth = dice.roll() % u64::try_from(2 * TEN_YEARS.as_millis()).unwrap();
                    let earliest = START.as_millis() - u64::try_from(TEN_YEARS.as_millis()).unwrap();
                    clock.set_wall(Timestamp::from_millis(earliest + back_or_forth));
                }
                2..=4 => {
                    let span = Duration::from_millis(dice.roll() % 400_000);
                    clock.advance(span);
                    expected.time = expected.time + span;
                }
                5 => {
                    store.close().unwrap();
                    store = open(&disk, &clock, TOMBSTONES);
                    expected.time = expected.time.max(clock.wall());
                }
                6 => {
                    // A row that is written now keeps the time, so that the cut can be foretold.
                    drop(run(&store, &key(&format!("{step}"))));
                    disk = disk.cut(disk.calls(), |_| Loss::Lost);
                    store = open(&disk, &clock, TOMBSTONES);
                    expected.time = expected.time.max(clock.wall());
                }
                _ => {
                    assert_eq!(claim(&store, "a"), expected.told(), "seed {seed}, step {step}");
                    if expected.told() == Told::Nothing {
                        expected.until = Some(expected.time.max(clock.wall()) + RETENTION);
                    }
                }
            }
            assert_eq!(progress(&store, "a"), expected.told(), "seed {seed}, step {step}");
        }
        store.verify().unwrap();
    }
}

/// A clock on which a millisecond passes whenever somebody looks at it.
#[derive(Debug, Default)]
struct Ticking(std::sync::atomic::AtomicU64);

impl Clock for Ticking {
    fn wall(&self) -> Timestamp {
        Timestamp::from_millis(1_000)
    }

    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
    }
}

/// `progress` looked at the clock twice, to see whether an expiry must be kept and to say what it is; between the two
/// an outcome could expire, and was told gone without the time that made it so being on disk.
#[test]
fn p11_what_progress_tells_of_an_expiry_rests_on_one_moment() {
    for span in 50..70 {
        let disk = SimulatedDisk::new();
        let key = key("key");
        let open = |disk: &SimulatedDisk| {
            let builder = Store::builder().retention(Duration::from_millis(span)).tombstones(Duration::from_secs(9));
            builder.clock(Ticking::default()).open_on(disk).unwrap()
        };
        let store = open(&disk);
        run(&store, &key).complete(&()).wait().unwrap();
        while store.progress(&key).unwrap().unwrap().state() != State::Gone {}
        let store = open(&disk.cut(disk.calls(), |_| Loss::Lost));
        assert_eq!(store.progress(&key).unwrap().unwrap().state(), State::Gone, "it was told so before the cut");
        store.verify().unwrap();
    }
}
