//! Copies on a simulated disk, with changes of every size between any two reads of the copy.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use reentry::{ErrorKind, Loss, ManualClock, Outcome, SimulatedDisk, State, Store};

use crate::GO_ON;
use crate::chain::{Chain, moves_of};
use crate::support::{Dice, START, key, run};

const STORES: u64 = 12;
const COPIES: usize = 15;
/// How many stores are copied at a time: the copies of one wait for each other.
const THREADS: u64 = 2;
const CHAIN: &str = "chain";

/// A store that is worked on by chance.
struct World {
    clock: ManualClock,
    store: Store,
    dice: Dice,
    chain: Chain,
    /// Every name that was ever claimed, and those that may be large.
    names: BTreeSet<String>,
    large: Vec<String>,
}

impl World {
    fn new(disk: &SimulatedDisk, seed: u64) -> Self {
        let clock = ManualClock::at(START);
        let builder = Store::builder().clock(clock.clone()).retention(Duration::from_secs(60));
        let store = builder.tombstones(Duration::from_secs(60)).open_on(disk).unwrap();
        let chain = Chain::new(&store, CHAIN);
        Self { clock, store, dice: Dice::new(seed), chain, names: BTreeSet::new(), large: Vec::new() }
    }

    fn new_name(&mut self) -> String {
        let name = format!("{}", self.names.len());
        self.names.insert(name.clone());
        name
    }

    /// Does one thing.
    fn act(&mut self) {
        match self.dice.below(12) {
            0..=2 => {
                let name = self.new_name();
                drop(run(&self.store, &key(&name)).complete(&format!("outcome of {name}")).wait().unwrap());
            }
            3 | 4 => {
                let (name, size) = (self.new_name(), 1_000 << self.dice.below(9));
                drop(run(&self.store, &key(&name)).complete(&name.repeat(size / name.len())).wait().unwrap());
                self.large.push(name);
            }
            5 => {
                let name = self.new_name();
                run(&self.store, &key(&name)).advance("half-way", &name).wait().unwrap();
            }
            6 => {
                // What was large goes, most of it at the end of the file: redb cuts it.
                for name in self.large.drain(..) {
                    self.store.forget(&key(&name)).wait().unwrap();
                }
            }
            7 => self.clock.advance(Duration::from_secs(self.dice.roll() % 30)),
            _ => _ = self.chain.go_on(),
        }
    }

    /// What a caller sees of a store, whoever owns what.
    fn picture(&self, store: &Store) -> (u64, BTreeMap<String, String>) {
        let shown = |name: &String| {
            let progress = store.progress(&key(name)).unwrap()?;
            let state = if progress.state() == State::Owned { State::Unfinished } else { progress.state() };
            let checkpoint = progress.checkpoint().map(|c| c.decode::<String>().unwrap());
            let outcome = progress.outcome().map(Outcome::bytes).map(<[u8]>::to_vec);
            Some((name.clone(), format!("{state} {} {checkpoint:?} {outcome:?}", progress.attempt())))
        };
        (moves_of(store, CHAIN), self.names.iter().filter_map(shown).collect())
    }
}

/// What the copies met.
#[derive(Debug, Default)]
struct Met {
    copies: u64,
    grew: u64,
    cut: u64,
}

impl Met {
    fn add(&mut self, other: &Self) {
        self.copies += other.copies;
        self.grew += other.grew;
        self.cut += other.cut;
    }
}

/// Makes copies of one store while it changes, and holds each against the moment at which it was asked for: nothing
/// changes from there until it is first told how far it is.
fn copy_by_chance(seed: u64) -> Met {
    let mut met = Met::default();
    let disk = SimulatedDisk::new();
    let world = Arc::new(Mutex::new(World::new(&disk, seed)));
    (0..40).for_each(|_| world.lock().unwrap().act());
    for _ in 0..COPIES {
        let (store, before, at) = {
            let mut world = world.lock().unwrap();
            world.dice.roll();
            let store = world.store.clone();
            (store.clone(), world.picture(&store), reentry::Clock::wall(&world.clock))
        };
        let (calls, was) = (disk.calls(), disk.image().len() as u64);
        let (busy, copy) = (Arc::clone(&world), SimulatedDisk::new());
        let made = store.backup_onto(&copy, move |_| {
            let mut world = busy.lock().unwrap();
            (0..world.dice.below(4)).for_each(|_| world.act());
            GO_ON
        });
        made.unwrap();
        let len = disk.image().len() as u64;
        met.copies += 1;
        met.grew += u64::from(len > was);
        met.cut += u64::from(len < was);
        let restored = Store::builder().clock(ManualClock::at(at)).open_on(&copy).unwrap();
        let mut world = world.lock().unwrap();
        assert_eq!(world.picture(&restored), before, "seed {seed}");
        restored.verify().unwrap();
        restored.close().unwrap();
        // The original is as safe as ever while it is copied.
        let cut_at = calls + world.dice.below(disk.calls() - calls + 1);
        let bits = world.dice.roll();
        let left = disk.cut(cut_at, |call| if bits >> (call.nth % 64) & 1 == 0 { Loss::Lost } else { Loss::Kept });
        let left = Store::builder().clock(world.clock.clone()).open_on(&left).unwrap();
        left.verify().unwrap();
        assert!(moves_of(&left, CHAIN) >= before.0);
        drop(left);
        disk.forget_synced();
        world.store.verify().unwrap();
    }
    met
}

#[test]
fn p2_a_copy_shows_the_moment_at_which_it_was_asked_for_whatever_is_written_meanwhile() {
    let stores = env::var("REENTRY_BACKUP_STORES").map_or(STORES, |stores| stores.parse().unwrap());
    let met = Mutex::new(Met::default());
    let work = |first: u64| {
        for seed in (first..stores).step_by(usize::try_from(THREADS).unwrap()) {
            let of_one = copy_by_chance(seed);
            let mut met = met.lock().unwrap();
            met.add(&of_one);
            if seed % 100 == 99 {
                println!("{met:?}");
            }
        }
    };
    thread::scope(|scope| (0..THREADS).for_each(|first| _ = scope.spawn(move || work(first))));
    let met = met.into_inner().unwrap();
    println!("{met:?}");
    // A run that never met these would show nothing about them.
    assert!(met.grew > 0 && met.cut > 0, "{met:?}");
}

/// Whoever restores it asks the other side what was done since: from a later moment on he would not be told of all.
#[test]
fn a_copy_tells_the_moment_that_it_shows_and_not_the_one_at_which_it_was_finished() {
    let clock = ManualClock::at(START);
    let store = Store::builder().clock(clock.clone()).open_on(&SimulatedDisk::new()).unwrap();
    drop(run(&store, &key("order")));
    clock.advance(Duration::from_secs(60));
    let asked_at = reentry::Clock::wall(&clock);
    let made = store.backup_onto(&SimulatedDisk::new(), move |_| {
        clock.advance(Duration::from_secs(60));
        GO_ON
    });
    assert_eq!(made.unwrap().at, asked_at);
}

#[test]
fn two_copies_at_once_show_their_own_moments() {
    let disk = SimulatedDisk::new();
    let store = Store::builder().open_on(&disk).unwrap();
    let chain = Arc::new(Mutex::new(Chain::new(&store, CHAIN)));
    (0..20).for_each(|_| _ = chain.lock().unwrap().go_on());
    let (outer, inner) = (SimulatedDisk::new(), SimulatedDisk::new());
    let (busy, other, other_store) = (Arc::clone(&chain), inner.clone(), store.clone());
    let is_first = Mutex::new(true);
    let made = store.backup_onto(&outer, move |_| {
        if std::mem::take(&mut *is_first.lock().unwrap()) {
            (0..7).for_each(|_| _ = busy.lock().unwrap().go_on());
            let busy = Arc::clone(&busy);
            let made = other_store.backup_onto(&other, move |_| {
                busy.lock().unwrap().go_on();
                GO_ON
            });
            made.unwrap();
        }
        busy.lock().unwrap().go_on();
        GO_ON
    });
    made.unwrap();
    let shown = |disk| moves_of(&Store::builder().open_on(disk).unwrap(), CHAIN);
    assert_eq!((shown(&outer), shown(&inner)), (20, 27));
}

/// Else it would hold a batch that the store does not count yet, or half of one.
#[test]
fn a_copy_that_is_asked_for_within_a_batch_begins_when_that_is_over() {
    let store = Store::builder().open_on(&SimulatedDisk::new()).unwrap();
    let (copy, (tell, answers)) = (SimulatedDisk::new(), mpsc::channel());
    let answers = Arc::new(Mutex::new(answers));
    let (other, to, inner) = (store.clone(), copy.clone(), Arc::clone(&answers));
    // The closure runs in the middle of its batch.
    let ended = run(&store, &key("order")).complete_with(&"paid".to_owned(), move |_| {
        let (other, to, tell) = (other.clone(), to.clone(), tell.clone());
        thread::spawn(move || {
            tell.send(None).unwrap();
            tell.send(Some(other.backup_onto(&to, |_| GO_ON))).unwrap();
        });
        let inner = inner.lock().unwrap();
        assert!(inner.recv().unwrap().is_none(), "it begins");
        // Time enough for one that does not wait.
        assert!(inner.recv_timeout(Duration::from_millis(300)).is_err(), "it did not wait for the batch");
        Ok(())
    });
    ended.wait().unwrap();
    let made = answers.lock().unwrap().recv().unwrap();
    made.unwrap().unwrap();
    let restored = Store::builder().open_on(&copy).unwrap();
    assert!(restored.progress(&key("order")).unwrap().unwrap().outcome().is_some());
}

#[test]
fn p10_a_store_that_is_closed_gives_its_copy_up() {
    let store = Store::builder().open_on(&SimulatedDisk::new()).unwrap();
    let other = store.clone();
    let made = store.backup_onto(&SimulatedDisk::new(), move |_| {
        other.close().unwrap();
        GO_ON
    });
    assert_eq!(made.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(store.backup_onto(&SimulatedDisk::new(), |_| GO_ON).unwrap_err().kind(), ErrorKind::Closed);
}
