//! Many callers at once: one owner at any moment, one outcome for all, and a line that moves up one by one.
//!
//! Where the order of things matters the writer is held at a gate, so that no test depends on how threads are
//! scheduled.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use reentry::{
    Claim, DiskCall, ErrorKind, Fingerprint, Key, Loss, Pending, Result, Revision, Run, SimulatedDisk, State, Store,
};

mod support;

use support::{Gate, PATIENCE, START, Wakes, broken, key, poll, request, run, run_of, settle, stand_in_line};

/// A run, counted for as long as it lives.
struct Owner<'a> {
    // Before the run: it must be counted out before somebody else can come in.
    _counted: Counted<'a>,
    run: Run,
}

struct Counted<'a>(&'a AtomicUsize);

impl<'a> Owner<'a> {
    fn new(owners: &'a AtomicUsize, run: Run) -> Self {
        assert_eq!(owners.fetch_add(1, Ordering::SeqCst), 0, "P1: two runs of one operation live");
        Self { _counted: Counted(owners), run }
    }

    fn into_run(self) -> Run {
        self.run
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Numbers that look random, the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        // Xorshift64 of Marsaglia, "Xorshift RNGs", 2003.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// One key in a storm of callers.
struct Contested {
    key: Key,
    owners: AtomicUsize,
    completed: AtomicUsize,
    answers: Mutex<BTreeSet<Vec<u8>>>,
}

impl Contested {
    fn new(name: &str) -> Self {
        Self { key: key(name), owners: AtomicUsize::new(0), completed: AtomicUsize::new(0), answers: Mutex::default() }
    }

    /// Claims, does whatever the dice say with the answer, and tells whether the operation is over.
    fn visit(&self, store: &Store, caller: usize, dice: &mut Dice) -> bool {
        let claim = store.claim(&self.key, request());
        let claim = match dice.roll(8) {
            // Somebody who loses interest, and somebody who has little patience.
            0 => return gives_up(claim),
            1 => claim.wait_for(Duration::from_micros(dice.roll(300))),
            _ => claim.wait(),
        };
        self.take(claim, caller, dice)
    }

    fn take(&self, claim: Result<Claim>, caller: usize, dice: &mut Dice) -> bool {
        match claim {
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::TimedOut);
                false
            }
            Ok(Claim::Replay(outcome)) => {
                self.answers.lock().unwrap().insert(outcome.bytes().to_vec());
                true
            }
            Ok(Claim::Run(run)) => {
                self.work(Owner::new(&self.owners, run), caller, dice);
                false
            }
            Ok(Claim::Wait(busy)) => match dice.roll(5) {
                0 => false,
                1 => gives_up(busy.outcome()),
                2 => self.take(busy.outcome().wait_for(Duration::from_micros(dice.roll(500))), caller, dice),
                _ => self.take(busy.outcome().wait(), caller, dice),
            },
            Ok(other) => panic!("{other:?}"),
        }
    }

    /// Ends a run in each of the ways there are.
    fn work(&self, mut owner: Owner<'_>, caller: usize, dice: &mut Dice) {
        let seen = owner.run.checkpoint().map_or(Revision::NONE, |checkpoint| checkpoint.revision());
        let moved = owner.run.advance("at work", &caller.to_string()).wait().unwrap();
        assert_eq!(moved.get(), seen.get() + 1, "nobody else moves the checkpoint");
        match dice.roll(10) {
            0..=2 => drop(owner),
            3 => {
                let died = catch_unwind(AssertUnwindSafe(move || {
                    let _owner = owner;
                    // Past the panic hook, which would only fill the output.
                    resume_unwind(Box::new("the handler dies"));
                }));
                assert!(died.is_err());
            }
            4 => owner.into_run().release(),
            5 => drop(owner.run.advance("nobody waits for this", &())),
            6 | 7 => {}
            _ => {
                let bytes = format!("receipt {caller} {}", dice.roll(1 << 40)).into_bytes();
                let outcome = owner.into_run().complete(&bytes).wait().unwrap();
                assert_eq!(outcome.bytes(), bytes);
                self.completed.fetch_add(1, Ordering::SeqCst);
                self.answers.lock().unwrap().insert(bytes);
            }
        }
    }
}

/// Tells that nothing is known then.
fn gives_up(pending: Pending<Claim>) -> bool {
    drop(pending);
    false
}

#[test]
fn p1_p5_a_storm_of_callers_never_has_two_owners_and_ends_in_one_outcome_an_incarnation() {
    const CALLERS: usize = 12;
    let store = Store::builder().in_memory().unwrap();
    let contested: Vec<_> = ["one", "two", "three"].into_iter().map(Contested::new).collect();
    for round in 1..=10 {
        thread::scope(|scope| {
            for caller in 0..CALLERS {
                let (store, contested) = (&store, &contested);
                scope.spawn(move || {
                    let mut dice = Dice(((round << 8) | (caller + 1)) as u64);
                    let mut open: Vec<_> = contested.iter().collect();
                    while !open.is_empty() {
                        let nth = usize::try_from(dice.roll(open.len() as u64)).unwrap();
                        if open[nth].visit(store, caller, &mut dice) {
                            open.remove(nth);
                        }
                    }
                });
            }
        });
        settle(&store);
        for Contested { key, owners, completed, answers } in &contested {
            assert_eq!(owners.load(Ordering::SeqCst), 0);
            assert_eq!(completed.swap(0, Ordering::SeqCst), 1, "one outcome");
            assert_eq!(std::mem::take(&mut *answers.lock().unwrap()).len(), 1, "the same bytes for everybody");
            assert!(store.forget(key).wait().unwrap(), "the next round is a new incarnation");
        }
        let stats = store.stats().unwrap();
        assert_eq!((stats.owned, stats.waiting, stats.unfinished), (0, 0, 0), "nothing leaks");
    }
    store.verify().unwrap();
}

#[test]
fn p1_of_32_threads_on_a_fresh_key_one_runs_and_the_others_get_its_answer() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("orders.reentry")).unwrap();
    let (start, in_line) = (Barrier::new(32), Barrier::new(32));
    let runs = AtomicUsize::new(0);
    let answers = thread::scope(|scope| {
        let caller = |nth: usize| {
            let (store, start, in_line, runs) = (&store, &start, &in_line, &runs);
            move || {
                start.wait();
                match store.claim(&key("fresh"), request()).wait().unwrap() {
                    Claim::Run(run) => {
                        runs.fetch_add(1, Ordering::SeqCst);
                        in_line.wait();
                        run.complete(&format!("receipt of {nth}")).wait().unwrap().bytes().to_vec()
                    }
                    Claim::Wait(busy) => {
                        let outcome = busy.outcome();
                        in_line.wait();
                        let Claim::Replay(outcome) = outcome.wait().unwrap() else { panic!("it is completed") };
                        outcome.bytes().to_vec()
                    }
                    other => panic!("nobody completed it yet: {other:?}"),
                }
            }
        };
        let threads: Vec<_> = (0..32).map(|nth| scope.spawn(caller(nth))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<BTreeSet<_>>()
    });
    assert_eq!((runs.load(Ordering::SeqCst), answers.len()), (1, 1));
    store.verify().unwrap();
}

/// Those who stand in line for one key, each with a waker that counts.
struct Line {
    store: Store,
    key: Key,
    waiting: Vec<Option<(Pending<Claim>, Arc<Wakes>)>>,
}

impl Line {
    /// A run at work, and so many who wait for it.
    fn new(store: &Store, length: usize) -> (Run, Self) {
        let key = key("contested");
        let run = run(store, &key);
        let waiting = (0..length).map(|_| Some((stand_in_line(store, &key), Wakes::new()))).collect();
        let mut line = Self { store: store.clone(), key, waiting };
        line.nobody_from(0);
        (run, line)
    }

    /// The answer of the one at this place, whose turn it is.
    #[track_caller]
    fn answer(&mut self, nth: usize) -> Result<Claim> {
        let (pending, _) = self.waiting[nth].take().unwrap();
        pending.wait_for(PATIENCE)
    }

    /// Nobody from this place on has an answer, or was even woken.
    #[track_caller]
    fn nobody_from(&mut self, nth: usize) {
        settle(&self.store);
        for (pending, wakes) in self.waiting[nth..].iter_mut().flatten() {
            assert_eq!(wakes.count(), 0, "woken for nothing");
            assert!(poll(pending, wakes).is_pending());
        }
    }

    fn gives_up(&mut self, nth: usize) {
        drop(self.waiting[nth].take());
    }
}

#[test]
fn p1_p7_a_line_moves_up_by_one_whenever_an_owner_gives_way_and_nobody_else_is_woken() {
    let store = Store::builder().in_memory().unwrap();
    let (mut owner, mut line) = Line::new(&store, 6);
    for nth in 0..4 {
        drop(owner);
        owner = run_of(line.answer(nth).unwrap());
        assert_eq!(owner.attempt(), u32::try_from(nth).unwrap() + 2);
        line.nobody_from(nth + 1);
    }
    owner.complete(&b"receipt".to_vec()).wait().unwrap();
    for nth in 4..6 {
        let Claim::Replay(outcome) = line.answer(nth).unwrap() else { panic!("it is over, for all who wait") };
        assert_eq!(outcome.bytes(), b"receipt");
    }
    store.verify().unwrap();
}

#[test]
fn p7_who_gave_up_in_the_line_is_skipped() {
    let store = Store::builder().in_memory().unwrap();
    let (owner, mut line) = Line::new(&store, 5);
    line.gives_up(0);
    line.gives_up(1);
    assert_eq!(store.stats().unwrap().waiting, 3);
    drop(owner);
    let owner = run_of(line.answer(2).unwrap());
    line.nobody_from(3);
    line.gives_up(3);
    drop(owner);
    drop(run_of(line.answer(4).unwrap()));
    store.verify().unwrap();
}

#[test]
fn p7_who_gives_up_when_its_turn_has_come_passes_it_on() {
    let gate = Gate::new();
    let store = Store::builder().clock(gate.clone()).in_memory().unwrap();
    let (owner, mut line) = Line::new(&store, 4);
    // Its turn is in the queue, and nobody decided it yet.
    gate.hold(&store);
    drop(owner);
    line.gives_up(0);
    gate.open();
    let owner = run_of(line.answer(1).unwrap());
    line.nobody_from(2);
    // Its turn was granted, and it has not taken it yet.
    drop(owner);
    settle(&store);
    line.gives_up(2);
    drop(run_of(line.answer(3).unwrap()));
    let stats = store.stats().unwrap();
    assert_eq!((stats.owned, stats.waiting), (0, 0));
    store.verify().unwrap();
}

#[test]
fn p7_a_revoked_run_makes_room_for_the_first_in_line() {
    let store = Store::builder().in_memory().unwrap();
    let (owner, mut line) = Line::new(&store, 2);
    assert!(store.revoke(&line.key).wait().unwrap());
    let next = run_of(line.answer(0).unwrap());
    line.nobody_from(1);
    assert_eq!(owner.complete(&()).wait().unwrap_err().kind(), ErrorKind::Fenced, "and it frees nothing");
    line.nobody_from(1);
    next.complete(&()).wait().unwrap();
    assert!(matches!(line.answer(1).unwrap(), Claim::Replay(_)));
    store.verify().unwrap();
}

#[test]
fn p1_a_turn_that_is_refused_strands_nobody_behind_it() {
    let gate = Gate::new();
    let store = Store::builder().clock(gate.clone()).in_memory().unwrap();
    let contested = key("contested");
    let _owner = run(&store, &contested);
    let Claim::Wait(busy) = store.claim_unfinished(&contested).wait().unwrap() else { panic!("it is owned") };
    let (refused, behind) = (busy.outcome(), stand_in_line(&store, &contested));
    // In one batch the operation is taken from its owner and forgotten: who came without a request has nothing left.
    gate.hold(&store);
    let (revoked, forgotten) = (store.revoke(&contested), store.forget(&contested));
    gate.open();
    assert!(revoked.wait().unwrap() && forgotten.wait().unwrap());
    assert_eq!(refused.wait_for(PATIENCE).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(run_of(behind.wait_for(PATIENCE).unwrap()).attempt(), 1);
    store.verify().unwrap();
}

#[test]
fn p10_a_full_disk_strands_nobody_in_line() {
    let (gate, disk) = (Gate::new(), SimulatedDisk::new());
    let store = Store::builder().clock(gate.clone()).open_on(&disk).unwrap();
    drop(run(&store, &key("large")));
    let (owner, mut line) = Line::new(&store, 5);
    // The first turn shares a batch with a payload that has no room.
    gate.hold(&store);
    disk.set_room(Some(store.stats().unwrap().disk_bytes));
    let large = store.advance(&key("large"), Revision::NONE, "large", &vec![7_u8; 1024 * 1024]);
    drop(owner);
    gate.open();
    assert_eq!(large.wait().unwrap_err().kind(), ErrorKind::Full);
    for nth in 0..5 {
        let (pending, _) = line.waiting[nth].take().unwrap();
        match pending.wait_for(PATIENCE) {
            Ok(claim) => drop(run_of(claim)),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Full),
        }
    }
    disk.set_room(None);
    store.verify().unwrap();
}

#[test]
fn p10_a_failed_sync_strands_nobody_in_line() {
    let disk = SimulatedDisk::new();
    let store = Store::builder().open_on(&disk).unwrap();
    let (owner, mut line) = Line::new(&store, 3);
    disk.fail(Some(broken(&[DiskCall::Sync])));
    drop(owner);
    for nth in 0..3 {
        let (pending, _) = line.waiting[nth].take().unwrap();
        let kind = pending.wait_for(PATIENCE).unwrap_err().kind();
        assert_eq!(kind, if nth == 0 { ErrorKind::OutcomeUnknown } else { ErrorKind::Failed });
    }
}

/// Found by reading: `Busy` parked on whatever run owned the key by then, and got that one's outcome.
#[test]
fn p5_who_waits_gets_no_outcome_of_another_request_under_the_same_key() {
    let store = Store::builder().in_memory().unwrap();
    let contested = key("contested");
    let first = run(&store, &contested);
    let Claim::Wait(busy) = store.claim(&contested, request()).wait().unwrap() else { panic!("it is owned") };
    drop(first);
    assert!(store.forget(&contested).wait().unwrap());
    let other = run_of(store.claim(&contested, Fingerprint::of("another request")).wait().unwrap());
    let waits = busy.outcome();
    other.complete(&"secret".to_owned()).wait().unwrap();
    let claim = waits.wait_for(PATIENCE).unwrap();
    assert!(matches!(claim, Claim::Reject(_)), "{claim:?}");
    store.verify().unwrap();
}

/// The same for those who were in line already when the key changed hands.
#[test]
fn p5_who_is_in_line_gets_no_outcome_of_another_request_either() {
    let gate = Gate::new();
    let store = Store::builder().clock(gate.clone()).in_memory().unwrap();
    let contested = key("contested");
    let _owner = run(&store, &contested);
    let Claim::Wait(busy) = store.claim_unfinished(&contested).wait().unwrap() else { panic!("it is owned") };
    let (first, second) = (busy.outcome(), stand_in_line(&store, &contested));
    gate.hold(&store);
    let (revoked, forgotten) = (store.revoke(&contested), store.forget(&contested));
    gate.open();
    assert!(revoked.wait().unwrap() && forgotten.wait().unwrap());
    // Whichever of the two requests the key belongs to now, the other one is rejected.
    let claim = store.claim(&contested, Fingerprint::of("another request")).wait().unwrap();
    assert_eq!(first.wait_for(PATIENCE).unwrap_err().kind(), ErrorKind::NotFound);
    match claim {
        Claim::Run(run) => {
            run.complete(&"secret".to_owned()).wait().unwrap();
            assert!(matches!(second.wait_for(PATIENCE).unwrap(), Claim::Reject(_)));
        }
        Claim::Reject(_) => drop(run_of(second.wait_for(PATIENCE).unwrap())),
        other => panic!("{other:?}"),
    }
    store.verify().unwrap();
}

/// Found by reading: a refusal was told before the commit that it rested on.
#[test]
fn p2_a_refusal_is_not_told_before_the_outcome_it_rests_on_is_durable() {
    let (gate, disk) = (Gate::new(), SimulatedDisk::new());
    let store = Store::builder().clock(gate.clone()).open_on(&disk).unwrap();
    let contested = key("contested");
    let owner = run(&store, &contested);
    gate.hold(&store);
    let completed = owner.complete(&());
    let late = store.advance(&contested, Revision::NONE, "late", &());
    disk.fail(Some(broken(&[DiskCall::Sync])));
    gate.open();
    assert_eq!(completed.wait().unwrap_err().kind(), ErrorKind::OutcomeUnknown);
    assert_ne!(late.wait().unwrap_err().kind(), ErrorKind::Finished);
    assert!(!matches!(store.claim(&contested, request()).wait(), Ok(Claim::Replay(_))), "nor is it replayed");
    drop(store);
    let store = Store::builder().open_on(&disk.cut(disk.calls(), |_| Loss::Lost)).unwrap();
    assert_eq!(store.progress(&contested).unwrap().unwrap().state(), State::Unfinished);
    store.verify().unwrap();
}

/// Found by reading: `durable_time` was raised by commits that left no time on the disk.
#[test]
fn p2_p11_an_expiry_told_after_a_removal_stands_over_a_power_cut_with_the_clock_turned_back() {
    let (clock, disk) = (reentry::ManualClock::at(START), SimulatedDisk::new());
    let open = |disk: &SimulatedDisk| {
        let builder = Store::builder().clock(clock.clone()).retention(Duration::from_secs(1));
        builder.tombstones(Duration::from_secs(1_000)).open_on(disk).unwrap()
    };
    let store = open(&disk);
    drop(run(&store, &key("first")));
    run(&store, &key("completed")).complete(&()).wait().unwrap();
    drop(run(&store, &key("newest")));
    clock.advance(Duration::from_secs(1));
    assert!(store.forget(&key("first")).wait().unwrap());
    assert_eq!(store.progress(&key("completed")).unwrap().unwrap().state(), State::Gone);
    clock.set_wall(START);
    let store = open(&disk.cut(disk.calls(), |_| Loss::Lost));
    assert_eq!(store.progress(&key("completed")).unwrap().unwrap().state(), State::Gone);
    store.verify().unwrap();
}

/// Found by the model: what the writer moved between reading the list and reading the row was left out.
#[test]
fn p6_whoever_lists_or_asks_misses_no_unfinished_operation_that_moves_meanwhile() {
    let store = Store::builder().in_memory().unwrap();
    let (mut moving, still) = (run(&store, &key("moving")), run(&store, &key("still")));
    let is_over = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while is_over.load(Ordering::SeqCst) == 0 {
                    assert_eq!(store.unfinished().map(Result::unwrap).count(), 2);
                    assert_eq!(store.progress(&key("moving")).unwrap().unwrap().state(), State::Owned);
                }
            });
        }
        for n in 0..2_000_u32 {
            moving.advance("moves", &vec![1; if n % 2 == 0 { 10 } else { 2_000 }]).wait().unwrap();
        }
        is_over.store(1, Ordering::SeqCst);
    });
    drop((moving, still));
    store.verify().unwrap();
}

#[test]
fn forgetting_makes_room_at_capacity_for_a_claim_behind_it_in_the_same_batch() {
    let gate = Gate::new();
    let store = Store::builder().clock(gate.clone()).operations_max(1).in_memory().unwrap();
    drop(run(&store, &key("old")));
    assert_eq!(store.claim(&key("new"), request()).wait().unwrap_err().kind(), ErrorKind::Capacity);
    gate.hold(&store);
    let (forgotten, claimed, refused) =
        (store.forget(&key("old")), store.claim(&key("new"), request()), store.claim(&key("third"), request()));
    gate.open();
    assert!(forgotten.wait().unwrap());
    drop(run_of(claimed.wait().unwrap()));
    assert_eq!(refused.wait().unwrap_err().kind(), ErrorKind::Capacity);
    store.verify().unwrap();
}
