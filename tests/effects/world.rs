//! The world outside of the store, and a diary of what happened in it beside which call of the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use reentry::{Clock, EffectId, Error, ErrorKind, SimulatedDisk, Timestamp};

use super::handler::SETTLES;
use super::support::{Gate, PATIENCE, START};

/// What stands between an effect and its being done twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Guard {
    /// The bank can be asked by the effect id, once a charge has settled. It charges as often as it is told to.
    Rechecked,
    /// The mailer deduplicates on the effect id.
    Keyed,
    /// The third party does neither.
    AtMostOnce,
}

impl Guard {
    pub(crate) const ALL: [Self; 3] = [Self::Rechecked, Self::Keyed, Self::AtMostOnce];

    /// The name of the step that it guards.
    pub(crate) fn step(self) -> &'static str {
        match self {
            Self::Rechecked => "charge",
            Self::Keyed => "mail",
            Self::AtMostOnce => "call",
        }
    }
}

/// All that ever happened out there. No crash takes any of it back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct World(Vec<Happening>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Happening {
    guard: Guard,
    id: EffectId,
    result: String,
    /// From when on the bank finds it.
    found_from: Timestamp,
}

impl World {
    /// The results of everything that happened behind this guard, under whatever id: one if all is well.
    pub(crate) fn happened(&self, guard: Guard) -> Vec<&str> {
        self.0.iter().filter(|happening| happening.guard == guard).map(|happening| &*happening.result).collect()
    }

    fn happen(&mut self, guard: Guard, id: EffectId, more: &str, found_from: Timestamp) -> String {
        let before = self.0.iter().find(|happening| (happening.guard, happening.id) == (guard, id));
        if let (Guard::Keyed, Some(before)) = (guard, before) {
            return before.result.clone();
        }
        // No result is like another, so that one that is taken for another shows.
        let result = format!("{} {}{more}", guard.step(), self.0.len());
        self.0.push(Happening { guard, id, result: result.clone(), found_from });
        result
    }

    fn find(&self, guard: Guard, id: EffectId, at: Timestamp) -> Option<String> {
        let is_it = |it: &&Happening| (it.guard, it.id) == (guard, id) && at >= it.found_from;
        self.0.iter().find(is_it).map(|it| it.result.clone())
    }
}

/// One moment: what was true of everything that a crash does not touch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Present {
    /// How many calls the disk had seen.
    pub(crate) calls: usize,
    pub(crate) wall: Timestamp,
    pub(crate) world: World,
    pub(crate) told: Told,
    /// The last thing that happened.
    pub(crate) what: String,
}

/// What the store told, so that no crash may take it back (P2).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Told {
    pub(crate) token: u64,
    pub(crate) attempt: u32,
    /// Results that were reported before something that was told.
    pub(crate) results: BTreeSet<Guard>,
    pub(crate) checkpoint: bool,
    pub(crate) outcome: Option<String>,
    /// Keys of other operations that were claimed in the same batch.
    pub(crate) others: BTreeSet<String>,
    /// Notes of the operator, which are kept.
    pub(crate) notes: usize,
}

/// Something that this suite is there to bring about, so it counts how often it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Situation {
    NeverClaimed,
    Unfinished,
    Over,
    BehindTheCheckpoint,
    InDoubt(Guard),
    Done(Guard),
    HappenedUnheard(Guard),
    RecheckedHappened,
    RecheckedNot,
    RecheckedTooEarly,
    KeyedAgain,
    ResolvedHappened,
    ResolvedNot,
    CutInARecheck,
    CutAfterAResolve,
    EnteredWithoutTheClient,
    DeferredAndLost,
    Failed,
    Refused,
    Insisted,
    Mended,
}

/// The world with its diary.
pub(crate) struct Outside {
    disk: SimulatedDisk,
    pub(crate) clock: Gate,
    diary: Mutex<Vec<Present>>,
    situations: Mutex<BTreeMap<Situation, usize>>,
    is_patient: AtomicBool,
}

impl Outside {
    /// The world as it was at the beginning, or at some moment.
    pub(crate) fn new(disk: &SimulatedDisk, clock: &Gate, since: Option<&Present>) -> Self {
        let begin = Present {
            calls: 0,
            wall: START,
            world: World::default(),
            told: Told::default(),
            what: "the beginning".to_owned(),
        };
        let begin = Present { calls: disk.calls(), ..since.unwrap_or(&begin).clone() };
        clock.clock.set_wall(clock.wall().max(begin.wall));
        Self {
            disk: disk.clone(),
            clock: clock.clone(),
            diary: Mutex::new(vec![begin]),
            situations: Mutex::default(),
            is_patient: false.into(),
        }
    }

    pub(crate) fn now(&self) -> Present {
        self.diary.lock().unwrap().last().unwrap().clone()
    }

    /// Writes down that something happened, and does it.
    pub(crate) fn write<T>(&self, what: &str, change: impl FnOnce(&mut Present) -> T) -> T {
        let mut diary = self.diary.lock().unwrap();
        let mut present = diary.last().unwrap().clone();
        (present.calls, present.wall, present.what) = (self.disk.calls(), self.clock.clock.wall(), what.to_owned());
        let made = change(&mut present);
        diary.push(present);
        made
    }

    /// The moments at which the disk had seen `at` calls: with the last one before, and every one that came while it
    /// stood there. Of those with the same world the last one tells most.
    pub(crate) fn presents_at(&self, at: usize) -> Vec<Present> {
        let diary = self.diary.lock().unwrap();
        let entered = diary.iter().rposition(|present| present.calls < at).unwrap_or(0);
        let mut presents: Vec<Present> = Vec::new();
        for present in diary[entered..].iter().take_while(|present| present.calls <= at) {
            if presents.last().is_some_and(|last| last.world == present.world && last.wall == present.wall) {
                presents.pop();
            }
            presents.push(present.clone());
        }
        presents
    }

    /// An effect, as the outside world does it: told to, or told to again.
    pub(crate) fn effect(&self, guard: Guard, id: EffectId, more: &str) -> String {
        let name = guard.step();
        self.write(&format!("inside {name}"), |present| {
            let found_from = present.wall + SETTLES;
            present.world.happen(guard, id, more, found_from)
        })
    }

    /// Asks the bank.
    pub(crate) fn find(&self, guard: Guard, id: EffectId) -> Option<String> {
        let found = self.write("inside the recheck", |present| present.world.find(guard, id, present.wall));
        self.saw(if found.is_some() { Situation::RecheckedHappened } else { Situation::RecheckedNot });
        found
    }

    /// Whether a run that a full disk refuses makes room and tries again, or gives up.
    pub(crate) fn be_patient(&self, is_patient: bool) {
        self.is_patient.store(is_patient, Ordering::Relaxed);
    }

    pub(crate) fn make_room(&self) {
        self.disk.fail(None);
        self.disk.set_room(None);
    }

    /// Asks again and again what is refused because the disk is full, where the server is so patient.
    pub(crate) fn insist<T>(&self, mut ask: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
        let began = Instant::now();
        loop {
            match ask() {
                Err(error) if error.kind() == ErrorKind::Full && self.is_patient.load(Ordering::Relaxed) => {
                    self.saw(Situation::Insisted);
                    self.make_room();
                    std::thread::yield_now();
                    assert!(began.elapsed() < PATIENCE, "it never mended itself");
                }
                otherwise => return otherwise,
            }
        }
    }

    pub(crate) fn saw(&self, situation: Situation) {
        *self.situations.lock().unwrap().entry(situation).or_default() += 1;
    }

    pub(crate) fn situations(&self) -> BTreeMap<Situation, usize> {
        self.situations.lock().unwrap().clone()
    }
}
