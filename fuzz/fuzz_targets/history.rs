//! Bytes as a history of commands on a store, compared step by step with a model of ten lines a command, while power
//! cuts and restarts happen in between.
#![no_main]

use std::collections::BTreeMap;
use std::time::Duration;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use reentry::{
    Advance, Claim, Clock, ErrorKind, Fingerprint, Key, Loss, ManualClock, Progress, Revision, Run, SimulatedDisk,
    State, Store, Timestamp,
};

const KEYS: u8 = 4;
const COMMANDS_MAX: usize = 60;
const RETENTION: Duration = Duration::from_secs(3600);
const TOMBSTONES: Duration = Duration::from_secs(1800);

#[derive(Debug, Clone, Arbitrary)]
enum Command {
    Claim {
        key: u8,
        request: bool,
    },
    ClaimUnfinished {
        key: u8,
    },
    Advance {
        key: u8,
        bytes: u16,
    },
    AdvanceFromOutside {
        key: u8,
        ahead: u8,
        bytes: u16,
    },
    End {
        key: u8,
        success: bool,
        bytes: u16,
    },
    Release {
        key: u8,
    },
    Forget {
        key: u8,
    },
    Revoke {
        key: u8,
    },
    Pass {
        seconds: u16,
    },
    Restart,
    /// The power goes during the command that follows, at one of its calls to the disk; `losses` tells which of those
    /// not yet synced are lost, bit by bit.
    PowerCut {
        at: u8,
        losses: u32,
    },
}

/// What is known of one key.
#[derive(Debug, Clone, PartialEq)]
struct Operation {
    request: bool,
    attempt: u32,
    checkpoint: Option<(u64, Vec<u8>)>,
    outcome: Option<(bool, Vec<u8>, Timestamp)>,
}

type Model = BTreeMap<u8, Operation>;

struct World {
    clock: ManualClock,
    disk: SimulatedDisk,
    store: Store,
    model: Model,
    /// Runs by key; the model's owner is whoever is here and not revoked.
    runs: BTreeMap<u8, Run>,
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
    builder.open_on(disk).expect("what a power cut leaves can be opened")
}

impl Operation {
    fn until(&self) -> Option<Timestamp> {
        self.outcome.as_ref().map(|(.., at)| *at + RETENTION)
    }

    fn state(&self, now: Timestamp, owned: bool) -> Option<State> {
        let Some((success, _, at)) = &self.outcome else {
            return Some(if owned { State::Owned } else { State::Unfinished });
        };
        match () {
            () if now < *at + RETENTION => Some(if *success { State::Succeeded } else { State::Failed }),
            () if now < *at + RETENTION + TOMBSTONES => Some(State::Gone),
            () => None,
        }
    }

    /// Whether a run may change it.
    fn is_unfinished(&self) -> bool {
        self.outcome.is_none()
    }
}

impl World {
    fn new() -> Self {
        let (clock, disk) = (ManualClock::at(Timestamp::from_millis(1_700_000_000_000)), SimulatedDisk::new());
        let store = open(&disk, &clock);
        Self { clock, disk, store, model: Model::new(), runs: BTreeMap::new(), fenced: Vec::new() }
    }

    fn now(&self) -> Timestamp {
        self.clock.wall()
    }

    /// What the model knows of a key that still counts.
    fn known(&self, n: u8) -> Option<&Operation> {
        self.model.get(&n).filter(|operation| operation.state(self.now(), false).is_some())
    }

    fn run_command(&mut self, command: &Command) {
        match *command {
            Command::Claim { key: n, request } => self.claim(n % KEYS, Some(request)),
            Command::ClaimUnfinished { key: n } => self.claim(n % KEYS, None),
            Command::Advance { key: n, bytes } => self.advance(n % KEYS, payload(bytes)),
            Command::AdvanceFromOutside { key: n, ahead, bytes } => {
                self.compare_and_set(n % KEYS, ahead, payload(bytes))
            }
            Command::End { key: n, success, bytes } => self.end(n % KEYS, success, payload(bytes)),
            Command::Release { key: n } => drop(self.runs.remove(&(n % KEYS))),
            Command::Forget { key: n } => self.forget(n % KEYS),
            Command::Revoke { key: n } => {
                let run = self.runs.remove(&(n % KEYS));
                assert_eq!(self.store.revoke(&key(n)).wait().expect("revoke"), run.is_some());
                self.fenced.extend(run);
            }
            Command::Pass { seconds } => self.clock.advance(Duration::from_secs(seconds.into())),
            Command::Restart => self.restart(),
            Command::PowerCut { .. } => {}
        }
    }

    fn claim(&mut self, n: u8, request: Option<bool>) {
        let pending = match request {
            Some(request) => self.store.claim(&key(n), fingerprint(request)),
            None => self.store.claim_unfinished(&key(n)),
        };
        let claim = pending.wait();
        let owned = self.runs.contains_key(&n);
        let now = self.now();
        let Some(known) = self.known(n).cloned() else {
            match (request, claim) {
                (None, claim) => assert_eq!(claim.expect_err("nothing is known").kind(), ErrorKind::NotFound),
                (Some(request), claim) => {
                    let Ok(Claim::Run(run)) = claim else { panic!("a new key can be run, got {claim:?}") };
                    assert_eq!((run.attempt(), run.checkpoint()), (1, None));
                    self.model.insert(n, Operation { request, attempt: 1, checkpoint: None, outcome: None });
                    self.runs.insert(n, run);
                }
            }
            return;
        };
        match claim.expect("a decision") {
            Claim::Reject(_) => assert!(request.is_some_and(|request| request != known.request)),
            _ if request.is_some_and(|request| request != known.request) => panic!("another request is rejected"),
            Claim::Wait(_) => assert!(owned && known.is_unfinished()),
            Claim::Replay(outcome) => {
                let (success, bytes, at) = known.outcome.clone().expect("the model has it too");
                assert!(now < at + RETENTION);
                assert_eq!((outcome.is_success(), outcome.bytes(), outcome.completed_at()), (success, &*bytes, at));
            }
            Claim::Gone(gone) => {
                assert!(known.until().is_some_and(|until| now >= until));
                assert_eq!(Some(gone.until()), known.until().map(|until| until + TOMBSTONES));
            }
            Claim::Run(run) => {
                assert!(!owned && known.is_unfinished());
                assert_eq!(run.attempt(), known.attempt + 1);
                let checkpoint = run.checkpoint().map(|c| (c.revision().get(), c.bytes().to_vec()));
                assert_eq!(checkpoint, known.checkpoint);
                self.model.insert(n, Operation { attempt: known.attempt + 1, ..known });
                self.runs.insert(n, run);
            }
        }
    }

    fn advance(&mut self, n: u8, bytes: Vec<u8>) {
        let (Some(run), Some(operation)) = (self.runs.get_mut(&n), self.model.get_mut(&n)) else { return };
        let seen = run.checkpoint().map_or(0, |checkpoint| checkpoint.revision().get());
        let stands = operation.checkpoint.as_ref().map_or(0, |(revision, _)| *revision);
        match run.advance("here", &bytes).wait() {
            Ok(revision) => {
                assert_eq!((seen, revision.get()), (stands, stands + 1));
                operation.checkpoint = Some((stands + 1, bytes));
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Conflict);
                assert_ne!(seen, stands);
            }
        }
    }

    fn compare_and_set(&mut self, n: u8, ahead: u8, bytes: Vec<u8>) {
        let now = self.now();
        // Expects the revision that stands, or one of those after it, which nobody has seen yet.
        let mut expected = Revision::NONE;
        if let Some(progress) = self.store.progress(&key(n)).expect("progress") {
            expected = progress.checkpoint().map_or(Revision::NONE, |checkpoint| checkpoint.revision());
        }
        let is_stale = ahead % 4 == 3 && expected != Revision::NONE;
        let expected = if is_stale { Revision::NONE } else { expected };
        let answer = self.store.advance(&key(n), expected, "outside", &bytes).wait();
        match self.model.get_mut(&n).filter(|operation| operation.state(now, false).is_some()) {
            None => assert_eq!(answer.expect_err("nothing is known").kind(), ErrorKind::NotFound),
            Some(known) if !known.is_unfinished() => {
                assert_eq!(answer.expect_err("it is over").kind(), ErrorKind::Finished);
            }
            Some(known) => match answer.expect("a decision") {
                Advance::Moved(checkpoint) => {
                    let before = known.checkpoint.as_ref().map_or(0, |(revision, _)| *revision);
                    assert!(!is_stale);
                    assert_eq!(checkpoint.revision().get(), before + 1);
                    known.checkpoint = Some((before + 1, bytes));
                }
                Advance::Lost(current) => {
                    assert!(is_stale);
                    let current = current.map(|c| (c.revision().get(), c.bytes().to_vec()));
                    assert_eq!(current, known.checkpoint);
                }
            },
        }
    }

    fn end(&mut self, n: u8, success: bool, bytes: Vec<u8>) {
        let at = self.now();
        let Some(run) = self.runs.remove(&n) else { return };
        let pending = if success { run.complete(&bytes) } else { run.fail(&bytes) };
        pending.wait().expect("the owner can end it");
        let operation = self.model.get_mut(&n).expect("what is owned is known");
        operation.outcome = Some((success, bytes, at));
    }

    fn forget(&mut self, n: u8) {
        let was_known = self.known(n).is_some();
        let is_owned = self.runs.contains_key(&n);
        match self.store.forget(&key(n)).wait() {
            Ok(forgot) => {
                assert!(!is_owned);
                assert_eq!(forgot, was_known);
                self.model.remove(&n);
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Busy);
                assert!(is_owned);
            }
        }
    }

    fn restart(&mut self) {
        self.forget_runs();
        self.store.close().expect("close");
        self.disk = SimulatedDisk::from_image(self.disk.image());
        self.store = open(&self.disk, &self.clock);
    }

    /// Does a command and lets the power go meanwhile: afterwards it was done wholly or not at all.
    fn cut_during(&mut self, command: &Command, at: u8, losses: u32) {
        let (before, first) = (self.model.clone(), self.disk.calls());
        self.run_command(command);
        let calls = self.disk.calls();
        // A command may have restarted the store, on a disk of its own.
        let first = first.min(calls);
        let cut = first + usize::from(at) % (calls - first + 1);
        self.forget_runs();
        self.disk = self.disk.cut(cut, |call| match losses.rotate_right(call.nth as u32) & 3 {
            0 => Loss::Kept,
            1 => Loss::Torn(call.bytes / 2 / 512 * 512),
            _ => Loss::Lost,
        });
        self.store = open(&self.disk, &self.clock);
        if !self.agrees() {
            self.model = before;
        }
    }

    /// The process is gone, and with it every run.
    fn forget_runs(&mut self) {
        self.runs.clear();
        self.fenced.clear();
    }

    /// Whether the store knows what the model knows.
    fn agrees(&self) -> bool {
        (0..KEYS).all(|n| {
            let progress = self.store.progress(&key(n)).expect("progress");
            let owned = self.runs.contains_key(&n);
            match (progress, self.known(n)) {
                (None, None) => true,
                (Some(progress), Some(known)) => known.shows(&progress, self.now(), owned),
                _ => false,
            }
        })
    }

    fn check(&mut self) {
        assert!(self.agrees(), "model {:?}", self.model);
        let unfinished = self.model.values().filter(|operation| operation.is_unfinished()).count();
        assert_eq!(self.store.unfinished().map(|found| found.expect("unfinished")).count(), unfinished);
        for run in &mut self.fenced {
            assert_eq!(run.advance("late", &()).wait().expect_err("it is fenced").kind(), ErrorKind::Fenced);
        }
    }
}

impl Operation {
    fn shows(&self, progress: &Progress, now: Timestamp, owned: bool) -> bool {
        let state = self.state(now, owned);
        let checkpoint = progress.checkpoint().map(|c| (c.revision().get(), c.bytes().to_vec()));
        let outcome = progress.outcome().map(|outcome| (outcome.is_success(), outcome.bytes().to_vec()));
        let is_gone = state == Some(State::Gone);
        state == Some(progress.state())
            && progress.attempt() == self.attempt
            && checkpoint == self.checkpoint.clone().filter(|_| !is_gone)
            && outcome == self.outcome.clone().filter(|_| !is_gone).map(|(success, bytes, _)| (success, bytes))
    }
}

fuzz_target!(|commands: Vec<Command>| {
    let mut world = World::new();
    let mut commands = commands.iter().take(COMMANDS_MAX);
    while let Some(command) = commands.next() {
        match command {
            Command::PowerCut { at, losses } => {
                let Some(next) = commands.next() else { break };
                world.cut_during(next, *at, *losses);
            }
            command => world.run_command(command),
        }
        world.check();
    }
    world.store.verify().expect("every rule holds");
});
