//! The server of one history: a store that may die and come back while threads are in the midst of calls, its keys,
//! and what was written down of each.

use std::sync::Mutex;
use std::time::Duration;

use reentry::{Builder, Clock, DiskCall, DiskFault, Fingerprint, Key, Loss, ManualClock, SimulatedDisk, Store};

use super::calls::{Act, Answer, KeyHistory};
use super::linearizable::Asked;
use super::promises::Promises;
use super::support::{Dice, START, key, settle};

/// The requests that claims are made for.
pub(crate) const REQUESTS: [u64; 2] = [1, 2];

pub(crate) fn fingerprint(request: u64) -> Fingerprint {
    Fingerprint::of(request.to_be_bytes())
}

/// A key, and all that was asked of it.
#[derive(Debug)]
pub(crate) struct Contested {
    pub(crate) key: Key,
    pub(crate) history: KeyHistory,
}

/// The process that is alive.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) store: Store,
    pub(crate) epoch: u64,
}

/// Where the store's file is.
#[derive(Debug)]
enum Place {
    Simulated(Mutex<SimulatedDisk>),
    Real(tempfile::TempDir),
}

#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) keys: Vec<Contested>,
    pub(crate) rules: Promises,
    pub(crate) clock: ManualClock,
    place: Place,
    process: Mutex<Process>,
    crashes: Mutex<u64>,
}

/// A store just made: opening it is quicker than making one.
fn made() -> SimulatedDisk {
    static MADE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    let make = || {
        let disk = SimulatedDisk::new();
        Store::builder().clock(ManualClock::at(START)).open_on(&disk).unwrap().close().unwrap();
        disk.image()
    };
    SimulatedDisk::from_image(MADE.get_or_init(make).clone())
}

fn builder(rules: Promises, clock: &ManualClock) -> Builder {
    let span = Duration::from_millis;
    let builder = Store::builder().retention(span(rules.retention)).tombstones(span(rules.tombstones));
    let builder = builder.attempts_max(rules.attempts_max).cache_bytes(1 << 20).clock(clock.clone());
    match rules.lease {
        Some(lease) => builder.lease(span(lease)),
        None => builder,
    }
}

impl Server {
    pub(crate) fn new(rules: Promises, keys: usize, on_file: bool) -> Self {
        let clock = ManualClock::at(START);
        let (place, store) = if on_file {
            let folder = tempfile::tempdir().unwrap();
            let store = builder(rules, &clock).open(folder.path().join("orders.reentry")).unwrap();
            (Place::Real(folder), store)
        } else {
            let disk = made();
            let store = builder(rules, &clock).open_on(&disk).unwrap();
            (Place::Simulated(Mutex::new(disk)), store)
        };
        let contested = |nth: usize| Contested { key: key(&nth.to_string()), history: KeyHistory::default() };
        let (keys, process) = ((0..keys).map(contested).collect(), Mutex::new(Process { store, epoch: 0 }));
        Self { keys, rules, clock, place, process, crashes: Mutex::new(0) }
    }

    pub(crate) fn process(&self) -> Process {
        self.process.lock().unwrap().clone()
    }

    pub(crate) fn crashes(&self) -> u64 {
        *self.crashes.lock().unwrap()
    }

    /// What the clock shows.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_millis()).unwrap()
    }

    pub(crate) fn ask(&self, process: &Process, caller: usize, nth: usize, act: Act) -> Asked {
        self.keys[nth].history.ask(process.epoch, caller, act, self.now())
    }

    pub(crate) fn tell(&self, nth: usize, asked: Asked, answer: Option<Answer>) {
        self.keys[nth].history.tell(asked, answer, self.now());
    }

    /// From some moment on no sync succeeds, so that the store stops; a crash follows.
    pub(crate) fn break_syncs(&self) {
        if let Place::Simulated(disk) = &self.place {
            let fault = DiskFault::kind(std::io::ErrorKind::Other).on(&[DiskCall::Sync]).for_ever();
            disk.lock().unwrap().fail(Some(fault));
        }
    }

    /// Whether the store has stopped, after a sync that failed.
    pub(crate) fn stopped(&self) -> bool {
        self.process().store.revoke(&key("stopped")).wait().is_err()
    }

    /// The process dies, by a kill or with the power, while others are in the midst of calls, and another one begins.
    /// On a real file it is closed instead.
    pub(crate) fn crash(&self, dice: &mut Dice, kind: Death) {
        let mut process = self.process.lock().unwrap();
        let histories = || self.keys.iter().map(|contested| &contested.history);
        histories().for_each(KeyHistory::begin_crash);
        process.store = match &self.place {
            Place::Simulated(disk) => {
                let mut disk = disk.lock().unwrap();
                *disk = left_by(&disk, dice, kind);
                builder(self.rules, &self.clock).open_on(&disk).unwrap()
            }
            Place::Real(folder) => {
                process.store.close().unwrap();
                builder(self.rules, &self.clock).open(folder.path().join("orders.reentry")).unwrap()
            }
        };
        for history in histories() {
            process.epoch = history.end_crash(Act::Crash, Answer::Done, self.now());
        }
        *self.crashes.lock().unwrap() += 1;
    }

    /// What is left when everybody is gone: nobody owns anything, nobody waits, every record is whole.
    pub(crate) fn audit(&self) {
        let store = self.process().store;
        // What was dropped is given back by the batch that it is in, or by the one after it.
        settle(&store);
        settle(&store);
        let stats = store.stats().unwrap();
        assert_eq!((stats.owned, stats.waiting), (0, 0), "what nobody holds is free");
        store.verify().unwrap();
    }
}

/// What ends a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    Kill,
    PowerCut,
}

/// The disk that the death of a process at this moment leaves: everybody who was answered before was told the truth.
fn left_by(disk: &SimulatedDisk, dice: &mut Dice, death: Death) -> SimulatedDisk {
    let at = disk.calls();
    let loses_all = dice.below(3) == 0;
    match death {
        Death::Kill => disk.killed(at),
        Death::PowerCut => disk.cut(at, |unsynced| match dice.below(3) {
            0 => Loss::Kept,
            1 if !loses_all => Loss::Torn(dice.below(unsynced.bytes.max(1))),
            _ => Loss::Lost,
        }),
    }
}

/// The number of the request that this fingerprint belongs to.
pub(crate) fn request_of(given: Fingerprint) -> u64 {
    REQUESTS.into_iter().find(|request| fingerprint(*request) == given).unwrap()
}
