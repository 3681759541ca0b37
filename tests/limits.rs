//! Limits on what is kept, by number and bytes, in all and for each scope: exact at their borders, in a batch and after
//! a restart; what has begun goes on, and a full scope is nobody else's matter.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests panic")]

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use reentry::{
    Bincode, Builder, Claim, Error, ErrorKind, Failure, Fingerprint, Key, ManualClock, Payload, Request, Resolution,
    Revision, Run, SimulatedDisk, Store,
};

mod support;
use support::{Dice, START, does, kind, never, run, run_of, settle, times_out};

type Limit = fn(Builder, u64) -> Builder;

const HOUR: Duration = Duration::from_secs(60 * 60);

fn key(scope: &str, nth: usize) -> Key {
    Key::new(scope, format!("{nth:04}")).unwrap()
}

fn claim(store: &Store, key: &Key) -> Result<Claim, Error> {
    store.claim(key, Fingerprint::of("two pizzas")).wait()
}

/// Bytes that an operation takes which has just begun under a scope of one letter.
fn begun_bytes() -> u64 {
    let store = Store::builder().in_memory().unwrap();
    drop(run(&store, &key("a", 0)));
    store.stats().unwrap().bytes
}

/// How many keys this scope gets until one is refused, and why that is.
fn fill(store: &Store, scope: &str) -> (usize, Error) {
    for nth in 0.. {
        match claim(store, &key(scope, nth)) {
            Ok(claim) => drop(run_of(claim)),
            Err(error) => return (nth, error),
        }
    }
    unreachable!("the limits are small")
}

#[test]
fn p6_each_limit_is_exact_at_its_border_and_says_which_it_is() {
    let one = begun_bytes();
    let of_a_scope: [(&str, usize, Limit, u64); 5] = [
        ("`scope_operations_max`", 3, Builder::scope_operations_max, 3),
        ("`scope_unfinished_max`", 3, Builder::scope_unfinished_max, 3),
        ("`scope_bytes_max`", 2, Builder::scope_bytes_max, 3 * one - 1),
        ("`scope_bytes_max`", 3, Builder::scope_bytes_max, 3 * one),
        ("`scope_bytes_max`", 3, Builder::scope_bytes_max, 3 * one + 1),
    ];
    for (setting, fits, limit, most) in of_a_scope {
        let store = limit(Store::builder(), most).in_memory().unwrap();
        let (begun, error) = fill(&store, "a");
        assert_eq!((begun, error.kind()), (fits, ErrorKind::Capacity), "{setting}");
        assert!(error.to_string().contains(setting), "{error}");
        assert_eq!(store.stats().unwrap().refused, 1);
        // P9: the others have their own room, and their own error where that ends.
        assert_eq!(fill(&store, "b").0, fits);
        store.verify().unwrap();
    }
    let of_all: [(&str, usize, Limit, u64); 4] = [
        ("`operations_max`", 3, Builder::operations_max, 3),
        ("`bytes_max`", 2, Builder::bytes_max, 3 * one - 1),
        ("`bytes_max`", 3, Builder::bytes_max, 3 * one),
        ("`bytes_max`", 3, Builder::bytes_max, 3 * one + 1),
    ];
    for (setting, fits, limit, most) in of_all {
        let store = limit(Store::builder(), most).in_memory().unwrap();
        let (begun, error) = fill(&store, "a");
        assert_eq!((begun, error.kind()), (fits, ErrorKind::Capacity), "{setting}");
        assert!(error.to_string().contains(setting), "{error}");
        assert_eq!(fill(&store, "b").0, 0, "all share it");
        store.verify().unwrap();
    }
}

/// It is most of what begins, and stays for as long as the operation is unfinished.
#[test]
fn p6_a_request_that_is_kept_counts_before_its_operation_begins() {
    for len in [0, 1, 1024, 1025, 5000] {
        let request = || Request::of(vec![7_u8; len]);
        let store = Store::builder().in_memory().unwrap();
        drop(run_of(store.claim(&key("a", 0), request()).wait().unwrap()));
        let begun = store.stats().unwrap().bytes;
        assert!(begun > len as u64);
        for limit in [Builder::scope_bytes_max as Limit, Builder::bytes_max] {
            for is_deferred in [false, true] {
                let asked = || if is_deferred { request().deferred() } else { request() };
                let claim =
                    |most| limit(Store::builder(), most).in_memory().unwrap().claim(&key("a", 0), asked()).wait();
                assert_eq!(kind(claim(begun - 1)), ErrorKind::Capacity, "{len} bytes");
                assert_eq!(run_of(claim(begun).unwrap()).attempt(), 1, "{len} bytes");
            }
        }
    }
}

#[test]
fn p6_what_has_begun_goes_on_in_a_full_scope() {
    let clock = ManualClock::at(START);
    let builder = Store::builder().scope_operations_max(3).scope_bytes_max(4 * begun_bytes()).clock(clock.clone());
    let store = builder.tombstones(HOUR).in_memory().unwrap();
    let mut at_work = run(&store, &key("a", 0));
    run(&store, &key("a", 1)).complete(&"the answer".to_owned()).wait().unwrap();
    drop(run(&store, &key("a", 2)));
    assert_eq!(kind(claim(&store, &key("a", 3))), ErrorKind::Capacity);
    // Replays, waits, rejections, and everything that the run at work does; its payloads take it over the bytes too.
    assert!(matches!(claim(&store, &key("a", 1)).unwrap(), Claim::Replay(_)));
    assert!(matches!(claim(&store, &key("a", 0)).unwrap(), Claim::Wait(_)));
    let other = store.claim(&key("a", 1), Fingerprint::of("three pizzas")).wait().unwrap();
    assert!(matches!(other, Claim::Reject(_)));
    does(&mut at_work, "charge", &"x".repeat(5000));
    at_work.advance("paid", &vec![7_u8; 5000]).wait().unwrap();
    at_work.complete(&vec![7_u8; 5000]).wait().unwrap();
    assert!(store.stats().unwrap().bytes > 15_000, "payload rows count");
    assert_eq!(run_of(claim(&store, &key("a", 2)).unwrap()).attempt(), 2);
    // A tombstone counts as an operation, and for few bytes.
    clock.advance(24 * HOUR);
    settle(&store);
    assert!(matches!(claim(&store, &key("a", 0)).unwrap(), Claim::Gone(_)));
    assert_eq!(store.stats().unwrap().operations, 3);
    assert!(store.stats().unwrap().bytes < 4 * begun_bytes());
    assert_eq!(kind(claim(&store, &key("a", 3))), ErrorKind::Capacity);
    clock.advance(HOUR);
    settle(&store);
    drop(run_of(claim(&store, &key("a", 3)).unwrap()));
    store.verify().unwrap();
}

#[test]
fn a_limit_is_exact_within_a_batch() {
    let disk = SimulatedDisk::new();
    let store = Store::builder().scope_operations_max(2).open_by_hand(&disk).unwrap();
    let claim = |nth| store.claim(&key("a", nth), Fingerprint::of("two pizzas"));
    let forget = |nth| store.forget(&key("a", nth));
    let (one, two, three) = (claim(1), claim(2), claim(3));
    assert!(store.work_by_hand());
    drop((one.wait().unwrap(), two.wait().unwrap()));
    assert_eq!(kind(three.wait()), ErrorKind::Capacity);
    let (gone, four, five) = (forget(1), claim(4), claim(5));
    assert!(store.work_by_hand());
    assert!(gone.wait().unwrap());
    drop(run_of(four.wait().unwrap()));
    assert_eq!(kind(five.wait()), ErrorKind::Capacity);
    store.verify().unwrap();
}

#[test]
fn p4_a_record_near_its_limit_refuses_the_intent_and_never_the_result() {
    let payload = 1000;
    let builder = Store::builder().payload_bytes_max(payload).operation_bytes_max(4 * 1000 + 4096);
    let store = builder.in_memory().unwrap();
    let mut run: Run = run(&store, &key("a", 0));
    let result = "x".repeat(payload);
    let mut done = 0;
    let refused = loop {
        match run.step(&format!("charge {done}")).run_keyed(|_| Ok::<_, Failure>(result.clone())) {
            Ok(_) => done += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refused.kind(), ErrorKind::Capacity);
    assert!(refused.to_string().contains("`operation_bytes_max`"), "{refused}");
    assert!(done >= 3, "{done}");
    let outcome = run.complete(&result).wait().unwrap();
    assert_eq!(outcome.bytes().len(), payload);
    let progress = store.progress(&key("a", 0)).unwrap().unwrap();
    assert!(progress.steps().iter().all(|step| step.bytes() == Some(result.as_bytes())));
    assert!(store.stats().unwrap().bytes <= 4 * 1000 + 4096);
    store.verify().unwrap();
    for bytes in [4 * 1000 + 4095, 0] {
        let builder = Store::builder().payload_bytes_max(payload).operation_bytes_max(bytes);
        assert_eq!(kind(builder.in_memory()), ErrorKind::InvalidConfig);
    }
}

/// Four times the largest payload and 16 MiB: here 20, of which one is kept free for the outcome.
#[test]
fn p4_an_operation_of_many_large_steps_has_a_limit_unless_somebody_sets_another() {
    let store = Store::builder().in_memory().unwrap();
    let mut run: Run = run(&store, &key("a", 0));
    let result = vec![7_u8; 1024 * 1024];
    let refused = (0..99).find_map(|nth| {
        let done = run.step(&format!("charge {nth}")).run_keyed(|_| Ok::<_, Failure>(result.clone()));
        done.err().map(|error| (nth, error.kind()))
    });
    let (done, refused) = refused.unwrap();
    assert_eq!((refused, done), (ErrorKind::Capacity, 19));
    run.complete(&result).wait().unwrap();
}

/// 3 GiB take no memory until somebody touches them; whoever copies them does, which the system tells (Linux).
#[test]
fn a_payload_over_the_limit_is_refused_before_it_is_copied() {
    let store = Store::builder().in_memory().unwrap();
    let most = 1024 * 1024;
    for (len, is_kept) in [(0, true), (1, true), (most, true), (most + 1, false), (3 << 30, false)] {
        let (payload, at) = (vec![0_u8; len], key("a", len));
        let expected = |error: ErrorKind| assert!(!is_kept && error == ErrorKind::PayloadTooLarge, "{len}: {error:?}");
        match store.claim(&key("request", len), Request::of(&payload)).wait() {
            Ok(claim) => assert!(is_kept && run_of(claim).request() == Some(&payload[..])),
            Err(error) => expected(error.kind()),
        }
        match store.claim(&key("kept", len), Request::from(Fingerprint::of("x")).keep(&payload)).wait() {
            Ok(claim) => assert!(is_kept && run_of(claim).request() == Some(&payload[..])),
            Err(error) => expected(error.kind()),
        }
        let mut run = run(&store, &at);
        match run.advance("paid", &payload).wait() {
            Ok(_) => assert!(is_kept),
            Err(error) => expected(error.kind()),
        }
        match store.advance(&at, run.checkpoint().map_or(Revision::NONE, |c| c.revision()), "x", &payload).wait() {
            Ok(_) => assert!(is_kept),
            Err(error) => expected(error.kind()),
        }
        if len <= most + 1 {
            // An effect hands its result over; the copy is its own.
            match run.step("charge").run_keyed(|_| Ok::<_, Failure>(payload.clone())) {
                Ok(_) => assert!(is_kept),
                Err(error) => expected(error.kind()),
            }
            let timed_out = run.step("mail").run_keyed(|_| Err::<(), _>("timed out"));
            assert_eq!(kind(timed_out), ErrorKind::EffectFailed);
            match run.resolve("mail", Resolution::Happened(payload.clone()), "asked").wait() {
                Ok(()) => assert!(is_kept),
                Err(error) => expected(error.kind()),
            }
        }
        match run.complete(&payload).wait() {
            Ok(outcome) => assert!(is_kept && outcome.bytes() == payload),
            Err(error) => expected(error.kind()),
        }
    }
    if let Ok(status) = fs::read_to_string("/proc/self/status") {
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        assert!(peak.unwrap().parse::<u64>().unwrap() < 2 << 20, "{peak:?} kB were used at once");
    }
    store.verify().unwrap();
}

/// As many bytes, which nobody can tell before they are made.
struct Opaque(usize);

impl Payload for Opaque {
    fn encode(&self) -> Result<Vec<u8>, Error> {
        Ok(vec![7; self.0])
    }

    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        Ok(Self(bytes.len()))
    }
}

/// Gives a payload that is just small enough, and one that has a byte more, wherever there is one to give.
#[track_caller]
fn is_taken_up_to_the_limit<P: Payload>(store: &Store, key: &Key, payload: impl Fn(usize) -> P) {
    let (fits, over) = (payload(0), payload(1));
    let asked = |kept| store.claim(key, Request::from(support::request()).keep(kept)).wait();
    let mut refused = vec![kind(asked(&over))];
    let mut owner = run_of(asked(&fits).unwrap());
    refused.push(kind(owner.advance("paid", &over).wait()));
    refused.push(kind(owner.advance_with("paid", &over, |_| Ok(())).wait()));
    refused.push(kind(store.advance(key, Revision::NONE, "paid", &over).wait()));
    owner.advance("paid", &fits).wait().unwrap();
    refused.push(kind(owner.step("charge").run_keyed(|_| Ok::<_, Failure>(payload(1)))));
    owner.step("mail").run_keyed(|_| Ok::<_, Failure>(payload(0))).unwrap();
    refused.push(kind(owner.complete_with(&over, |_| Ok(())).wait()));
    refused.push(kind(owner.fail_with(&over, |_| Ok(())).wait()));
    refused.push(kind(owner.complete(&over).wait()));
    refused.push(kind(run(store, key).fail(&over).wait()));
    assert_eq!(refused, [ErrorKind::PayloadTooLarge; 9]);
    run(store, key).complete(&fits).wait().unwrap();
}

#[test]
fn p6_what_is_over_the_limit_only_once_it_is_encoded_is_refused_too() {
    let most = 1000;
    let store = Store::builder().payload_bytes_max(most).in_memory().unwrap();
    is_taken_up_to_the_limit(&store, &key("own", 0), |more| Opaque(most + more));
    // A length of eight bytes stands before it, or quotes around it.
    is_taken_up_to_the_limit(&store, &key("bincode", 0), |more| Bincode("x".repeat(most - 8 + more)));
    #[cfg(feature = "json")]
    is_taken_up_to_the_limit(&store, &key("json", 0), |more| reentry::Json("x".repeat(most - 2 + more)));
    store.verify().unwrap();
}

/// What the model knows of a key.
#[derive(Debug, Clone, Copy)]
struct Known {
    bytes: u64,
    is_unfinished: bool,
}

/// A scope's limits, and what is kept under it: the model of the tallies.
struct World {
    disk: SimulatedDisk,
    clock: ManualClock,
    store: Store,
    known: BTreeMap<(usize, usize), Known>,
    begun_bytes: u64,
}

const SCOPES: [&str; 3] = ["a", "b", "c"];
const KEYS: usize = 12;
const OPERATIONS_MAX: u64 = 7;
const UNFINISHED_MAX: u64 = 4;

impl World {
    fn new() -> Self {
        let (disk, clock, begun_bytes) = (SimulatedDisk::new(), ManualClock::at(START), begun_bytes());
        let store = Self::open(&disk, &clock, begun_bytes);
        Self { disk, clock, store, known: BTreeMap::new(), begun_bytes }
    }

    fn open(disk: &SimulatedDisk, clock: &ManualClock, begun_bytes: u64) -> Store {
        let builder = Store::builder().clock(clock.clone()).tombstones(2 * HOUR).operations_max(19);
        let builder = builder.scope_operations_max(OPERATIONS_MAX).scope_unfinished_max(UNFINISHED_MAX);
        builder.scope_bytes_max(8 * begun_bytes).bytes_max(22 * begun_bytes).open_on(disk).unwrap()
    }

    /// Whether a key may begin that is not known.
    fn has_room(&self, scope: usize) -> bool {
        let of_scope: Vec<_> = self.known.iter().filter(|((of, _), _)| *of == scope).map(|(_, known)| *known).collect();
        let bytes = |known: &[Known]| known.iter().map(|known| known.bytes).sum::<u64>() + self.begun_bytes;
        let all: Vec<_> = self.known.values().copied().collect();
        (of_scope.len() as u64) < OPERATIONS_MAX
            && (of_scope.iter().filter(|known| known.is_unfinished).count() as u64) < UNFINISHED_MAX
            && bytes(&of_scope) <= 8 * self.begun_bytes
            && all.len() < 19
            && bytes(&all) <= 22 * self.begun_bytes
    }

    fn bytes(&self) -> u64 {
        self.store.stats().unwrap().bytes
    }

    /// Does something by chance to this key. Returns whether a new key was refused.
    fn step(&mut self, dice: &mut Dice, at: (usize, usize)) -> bool {
        let (is_known, has_room) = (self.known.contains_key(&at), self.has_room(at.0));
        let (key, before) = (key(SCOPES[at.0], at.1), self.bytes());
        if dice.below(5) == 0 {
            let forgotten = self.store.forget(&key).wait().unwrap();
            assert_eq!(forgotten, self.known.remove(&at).is_some());
            return false;
        }
        let claim = match claim(&self.store, &key) {
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Capacity);
                assert!(!is_known && !has_room, "{at:?} was refused: {:?}", self.known);
                return true;
            }
            Ok(claim) => claim,
        };
        let Claim::Run(mut run) = claim else { return false };
        assert!(is_known || has_room, "{at:?} should have been refused: {:?}", self.known);
        let mut is_unfinished = true;
        match dice.below(4) {
            0 => drop(run),
            1 => {
                run.advance("paid", &vec![7_u8; dice.below(300)]).wait().unwrap();
                drop(run);
            }
            2 => {
                let name = format!("charge {}", run.attempt());
                does(&mut run, &name, &"x".repeat(dice.below(200)));
                drop(run);
            }
            _ => {
                run.complete(&vec![7_u8; dice.below(200)]).wait().unwrap();
                is_unfinished = false;
            }
        }
        // What nobody waits for, and what a dropped run left.
        settle(&self.store);
        drop(self.store.release_stuck(&key).wait());
        let known = self.known.entry(at).or_insert(Known { bytes: 0, is_unfinished });
        known.is_unfinished = is_unfinished;
        known.bytes = self.store.stats().unwrap().bytes + known.bytes - before;
        false
    }

    /// Lets what is over go, and learns what each key counts for now.
    fn pass(&mut self, span: Duration) {
        self.clock.advance(span);
        for _ in 0..3 {
            settle(&self.store);
        }
        let keys: Vec<_> = self.known.keys().copied().collect();
        for at in keys {
            let found = self.store.progress(&key(SCOPES[at.0], at.1)).unwrap();
            let Some(found) = found else {
                self.known.remove(&at);
                continue;
            };
            let is_over = !self.known[&at].is_unfinished && found.state() == reentry::State::Gone;
            if is_over {
                // A tombstone takes as much as a record that has just begun, and the two moments it tells.
                self.known.insert(at, Known { bytes: self.begun_bytes + 23, is_unfinished: false });
            }
        }
    }

    fn reopen(&mut self) {
        self.store.close().unwrap();
        self.store = Self::open(&self.disk, &self.clock, self.begun_bytes);
    }

    fn check(&self) {
        let stats = self.store.stats().unwrap();
        assert_eq!(stats.operations, self.known.len() as u64);
        assert_eq!(stats.unfinished, self.known.values().filter(|known| known.is_unfinished).count() as u64);
        assert_eq!(stats.bytes, self.known.values().map(|known| known.bytes).sum::<u64>(), "{:?}", self.known);
        // It counts each scope anew by its rows, and compares.
        self.store.verify().unwrap();
    }
}

#[test]
fn p6_p9_what_is_counted_is_what_is_kept_under_each_scope_whatever_happens() {
    let mut refused = 0;
    for seed in 0..6 {
        let (mut world, mut dice) = (World::new(), Dice::new(seed));
        for _ in 0..150 {
            match dice.below(12) {
                0 => world.reopen(),
                1 => world.pass(Duration::from_secs(dice.below(60 * 60 * 30) as u64)),
                _ => {
                    let at = (dice.below(SCOPES.len()), dice.below(KEYS));
                    refused += usize::from(world.step(&mut dice, at));
                }
            }
            world.check();
        }
        world.store.verify().unwrap();
    }
    assert!(refused > 20, "{refused}");
}

/// What is expired counts until it is removed; a claim of its own key removes it.
#[test]
fn p6_a_key_begins_anew_in_the_place_of_its_own_expired_row_though_all_is_full() {
    let (begun, store) = (begun_bytes(), Store::builder().in_memory().unwrap());
    run(&store, &key("a", 0)).complete(&"the answer".to_owned()).wait().unwrap();
    let most = store.stats().unwrap().bytes + begun;
    let limits: [(&str, Limit, u64); 4] = [
        ("`operations_max`", Builder::operations_max, 2),
        ("`scope_operations_max`", Builder::scope_operations_max, 2),
        ("`bytes_max`", Builder::bytes_max, most),
        ("`scope_bytes_max`", Builder::scope_bytes_max, most),
    ];
    for (setting, limit, most) in limits {
        let clock = ManualClock::at(START);
        let store = limit(Store::builder(), most).clock(clock.clone()).retention(24 * HOUR).in_memory().unwrap();
        let (first, mut short) = (run(&store, &key("a", 0)), run(&store, &key("a", 1)));
        short.keep_for(HOUR);
        // The one before it stays for a day, and what is behind it with it.
        first.complete(&"the answer".to_owned()).wait().unwrap();
        short.complete(&"the answer".to_owned()).wait().unwrap();
        clock.advance(HOUR);
        assert_eq!(kind(claim(&store, &key("a", 2))), ErrorKind::Capacity, "{setting}");
        assert_eq!(run_of(claim(&store, &key("a", 1)).unwrap()).attempt(), 1, "{setting}");
        assert_eq!(store.stats().unwrap().operations, 2, "{setting}");
        store.verify().unwrap();
    }
}

/// It may have been charged already: refusing it would leave it unfinished for ever.
#[test]
fn p4_an_operation_over_a_limit_that_was_lowered_goes_on_with_what_is_in_doubt_and_ends() {
    let (disk, least) = (SimulatedDisk::new(), 4 * 1000 + 4096);
    let open = |most| Store::builder().payload_bytes_max(1000).operation_bytes_max(most).open_on(&disk).unwrap();
    let (store, result) = (open(2 * least), "x".repeat(1000));
    let mut first = run(&store, &key("a", 0));
    (0..10).for_each(|nth| does(&mut first, &format!("charge {nth}"), &result));
    times_out(&mut first, "keyed");
    times_out(&mut first, "rechecked");
    drop(first);
    store.close().unwrap();
    let store = open(least);
    assert!(store.stats().unwrap().bytes > least);
    let mut second = run(&store, &key("a", 0));
    does(&mut second, "keyed", &result);
    let rechecked =
        second.step("rechecked").recheck(|_| Ok::<_, Failure>(None)).run(|_| Ok::<_, Failure>(result.clone()));
    assert_eq!(rechecked.unwrap(), result);
    // What would make it larger still is refused before anything happens.
    assert_eq!(kind(second.step("new").run_keyed(never::<String>)), ErrorKind::Capacity);
    assert_eq!(kind(second.advance("paid", &()).wait()), ErrorKind::Capacity);
    assert!(second.complete(&result).wait().unwrap().is_success());
    store.verify().unwrap();
}
