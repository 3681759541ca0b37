//! Bytes as a history of commands on a store, compared step by step with a model of a few lines a command, while the
//! power and the process go and come in between. The store works by hand, so the same bytes are the same history.

mod claims;
mod command;
mod cuts;
mod model;
mod outside;
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use reentry::{
    Clock, Error, ErrorKind, Failure, Fingerprint, Key, ManualClock, Run, SimulatedDisk, State, StepState, Store,
    Table, Timestamp, Transaction,
};

use command::{COMMAND_BYTES, Command, Row};
use model::{Model, Operation};

const ROWS: Table = Table::new("rows");
const KEYS: u8 = 4;
const STEPS: u8 = 3;
const ATTEMPTS_MAX: u32 = 3;
const LATE_MAX: usize = 16;
/// A longer history is only slower.
const COMMANDS_MAX: usize = 60;
/// The writer answers everything within this many batches.
const BATCHES_MAX: usize = 100;
const RETENTION: Duration = Duration::from_secs(3600);
const TOMBSTONES: Duration = Duration::from_secs(1800);

pub fn run(bytes: &[u8]) {
    let mut world = World::new();
    let mut commands = bytes.chunks(COMMAND_BYTES).take(COMMANDS_MAX).map(Command::read);
    while let Some(command) = commands.next() {
        match command {
            Command::Cut(cut) => {
                let Some(next) = commands.next() else { break };
                world.cut_during(&next, cut);
            }
            command => world.run_command(&command),
        }
        world.check();
    }
    world.store.verify().expect("every rule holds");
}

/// A run, and the steps whose results it was given.
struct Owner {
    run: Run,
    had: BTreeSet<u8>,
}

struct World {
    clock: ManualClock,
    disk: SimulatedDisk,
    store: Store,
    model: Model,
    /// What the power may leave of the command that is under way, beside all and nothing of it.
    halfway: Vec<Model>,
    /// Runs by key; the model's owner is whoever is here and not revoked.
    runs: BTreeMap<u8, Owner>,
    fenced: Vec<Run>,
}

fn key(n: u8) -> Key {
    Key::new("scope", format!("key-{}", n % KEYS)).expect("a valid key")
}

fn fingerprint(request: bool) -> Fingerprint {
    Fingerprint::of([u8::from(request)])
}

/// Bytes of this length that are told apart by it; some are long enough for a row of their own.
fn payload(len: u16) -> Vec<u8> {
    vec![(len % 251) as u8; usize::from(len % 3000)]
}

fn open(disk: &SimulatedDisk, clock: &ManualClock) -> Store {
    let builder = Store::builder().clock(clock.clone()).retention(RETENTION).tombstones(TOMBSTONES);
    let builder = builder.attempts_max(ATTEMPTS_MAX);
    builder.open_by_hand(disk).expect("what a power cut leaves can be opened")
}

fn step_name(step: u8) -> String {
    format!("step-{step}")
}

/// What writes a row of the server's own.
fn writes(n: u8, row: Row) -> impl FnMut(&Transaction<'_>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    move |tx| {
        tx.open_table(ROWS)?.insert([n], payload(row.bytes))?;
        if row.fails { Err("on purpose".into()) } else { Ok(()) }
    }
}

/// Lets the writer work until this is there.
fn worked<T>(store: &Store, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    for _ in 0..BATCHES_MAX {
        if let Poll::Ready(answer) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return answer;
        }
        store.work_by_hand();
    }
    panic!("the writer worked, and nobody is answered");
}

impl World {
    fn new() -> Self {
        let (clock, disk) = (ManualClock::at(Timestamp::from_millis(1_700_000_000_000)), SimulatedDisk::new());
        let store = open(&disk, &clock);
        let (model, halfway) = (Model::default(), Vec::new());
        Self { clock, disk, store, model, halfway, runs: BTreeMap::new(), fenced: Vec::new() }
    }

    fn now(&self) -> Timestamp {
        self.clock.wall()
    }

    /// What the model knows of a key that still counts.
    fn known(&self, n: u8) -> Option<&Operation> {
        self.model.operations.get(&n).filter(|operation| operation.state(self.now(), false).is_some())
    }

    fn run_command(&mut self, command: &Command) {
        match *command {
            Command::Claim { key: n, request, carries, deferred } => {
                self.claim(n % KEYS, Some((request, carries.map(payload), deferred)));
            }
            Command::ClaimUnfinished { key: n } => self.claim(n % KEYS, None),
            Command::Advance { key: n, bytes, row } => self.advance(n % KEYS, payload(bytes), row),
            Command::Step { key: n, step, method, effect } => self.step(n % KEYS, step % STEPS, method, effect),
            Command::Resolve { key: n, step, happened, outside } => {
                self.resolve(n % KEYS, step % STEPS, happened.map(payload), outside);
            }
            Command::ReleaseStuck { key: n } => self.release_stuck(n % KEYS),
            Command::AdvanceFromOutside { key: n, ahead, bytes } => {
                self.compare_and_set(n % KEYS, ahead, payload(bytes))
            }
            Command::End { key: n, success, bytes, row } => self.end(n % KEYS, success, payload(bytes), row),
            Command::Release { key: n } => {
                self.runs.remove(&(n % KEYS));
                self.gives_way(n % KEYS);
            }
            Command::Forget { key: n } => self.forget(n % KEYS),
            Command::Revoke { key: n } => {
                let owner = self.runs.remove(&(n % KEYS));
                let revoked = worked(&self.store, self.store.revoke(&key(n)));
                assert_eq!(revoked.expect("revoke"), owner.is_some());
                self.fenced.extend(owner.map(|owner| owner.run));
                self.gives_way(n % KEYS);
            }
            Command::Pass { seconds } => self.clock.advance(Duration::from_secs(seconds.into())),
            Command::Restart => self.restart(),
            Command::Cut(_) => {}
        }
    }

    /// Nobody owns it any more: what was deferred was never claimed.
    fn gives_way(&mut self, n: u8) {
        if self.model.operations.get(&n).is_some_and(|operation| !operation.is_durable) {
            self.model.operations.remove(&n);
        }
    }

    /// Lets the writer take in what a run reported, which nobody waits for.
    fn settle(&self) {
        let nobodys = Key::new("settle", "settle").expect("a valid key");
        assert!(!worked(&self.store, self.store.revoke(&nobodys)).expect("revoke"));
    }

    /// The process is gone, and with it every run.
    fn forget_runs(&mut self) {
        self.runs.clear();
        self.fenced.clear();
    }

    /// Whether the store knows what the model knows.
    fn agrees(&self) -> bool {
        let rows = self.store.read(|tx| -> Result<Vec<_>, Error> { tx.open_table(ROWS)?.range(..)?.collect() });
        let rows = rows.and_then(|rows| rows).expect("the rows can be read");
        let expected = self.model.rows.iter().map(|(n, bytes)| (vec![*n], bytes.clone()));
        expected.eq(rows)
            && (0..KEYS).all(|n| {
                let progress = self.store.progress(&key(n)).expect("progress");
                let owned = self.runs.contains_key(&n);
                match (progress, self.known(n).filter(|known| known.is_durable)) {
                    (None, None) => true,
                    (Some(progress), Some(known)) => known.shows(&progress, self.now(), owned),
                    _ => false,
                }
            })
    }

    fn check(&mut self) {
        self.settle();
        self.halfway.clear();
        assert!(self.agrees(), "model {:?}", self.model);
        let unfinished = self.model.operations.iter().filter(|(_, known)| known.is_unfinished() && known.is_durable);
        let (mut listed, mut stuck, mut in_doubt) = (0, 0, 0);
        for (n, known) in unfinished {
            listed += 1;
            stuck += u64::from(known.state(self.now(), self.runs.contains_key(n)) == Some(State::Stuck));
            in_doubt += u64::from(known.steps.values().any(|step| step.state == StepState::InDoubt));
        }
        let found: Vec<_> = self.store.unfinished().collect::<Result<_, _>>().expect("unfinished");
        assert_eq!(found.len() as u64, listed);
        let stats = self.store.stats().expect("stats");
        assert_eq!((stats.unfinished, stats.stuck, stats.in_doubt), (listed, stuck, in_doubt));
        for run in &mut self.fenced {
            assert_eq!(
                worked(&self.store, run.advance("late", &())).expect_err("it is fenced").kind(),
                ErrorKind::Fenced
            );
            let late = run.step("late").run_keyed_async(async |_| -> Result<(), Failure> { panic!("it does nothing") });
            let late = worked(&self.store, late);
            assert_eq!(late.expect_err("it is fenced").kind(), ErrorKind::Fenced);
        }
    }
}
