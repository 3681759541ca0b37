//! Bytes as a history of commands on a store, compared step by step with a model of ten lines a command, while power
//! cuts and restarts happen in between.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use reentry::{
    Advance, Claim, Clock, Error, ErrorKind, Failure, Fingerprint, Key, Loss, ManualClock, Progress, Request,
    Resolution, Revision, Run, SimulatedDisk, State, StepState, Store, Table, Timestamp, Transaction, not_applied,
};

const ROWS: Table = Table::new("rows");
const KEYS: u8 = 4;
const STEPS: u8 = 3;
const ATTEMPTS_MAX: u32 = 3;
const LATE_MAX: usize = 16;
const COMMANDS_MAX: usize = 60;
const RETENTION: Duration = Duration::from_secs(3600);
const TOMBSTONES: Duration = Duration::from_secs(1800);

#[derive(Debug, Clone, Arbitrary)]
enum Command {
    Claim {
        key: u8,
        request: bool,
        /// How many bytes it carries.
        carries: Option<u16>,
        deferred: bool,
    },
    ClaimUnfinished {
        key: u8,
    },
    Advance {
        key: u8,
        bytes: u16,
        row: Option<Row>,
    },
    Step {
        key: u8,
        step: u8,
        method: Method,
        effect: Effect,
    },
    /// By the run, or from outside.
    Resolve {
        key: u8,
        step: u8,
        happened: Option<u16>,
        outside: bool,
    },
    ReleaseStuck {
        key: u8,
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
        row: Option<Row>,
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

/// A row of the server's own, in the same commit.
#[derive(Debug, Clone, Copy, Arbitrary)]
struct Row {
    bytes: u16,
    fails: bool,
}

/// What guards a step.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Method {
    /// With what the recheck finds.
    Recheck(Found),
    Keyed,
    AtMostOnce,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Found {
    Happened(u16),
    DidNot,
    CannotTell,
}

/// What an effect comes to.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Effect {
    Happens(u16),
    Fails,
    IsNotApplied,
    /// It happens, but the run loses the operation meanwhile.
    HappensLate(u16),
}

/// What is known of one key.
#[derive(Debug, Clone, PartialEq)]
struct Operation {
    request: bool,
    carried: Option<Vec<u8>>,
    /// Whether a restart would find it: not while its claim is deferred.
    is_durable: bool,
    attempt: u32,
    released: u32,
    checkpoint: Option<(u64, Vec<u8>)>,
    steps: BTreeMap<u8, Step>,
    outcome: Option<(bool, Vec<u8>, Timestamp)>,
}

#[derive(Debug, Clone, PartialEq)]
struct Step {
    state: StepState,
    result: Vec<u8>,
    notes: usize,
    late: usize,
}

#[derive(Debug, Clone, Default)]
struct Model {
    operations: BTreeMap<u8, Operation>,
    rows: BTreeMap<u8, Vec<u8>>,
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
    builder.open_on(disk).expect("what a power cut leaves can be opened")
}

impl Operation {
    fn until(&self) -> Option<Timestamp> {
        self.outcome.as_ref().map(|(.., at)| *at + RETENTION)
    }

    fn state(&self, now: Timestamp, owned: bool) -> Option<State> {
        let Some((success, _, at)) = &self.outcome else {
            return Some(match () {
                () if owned => State::Owned,
                () if self.attempt - self.released >= ATTEMPTS_MAX => State::Stuck,
                () => State::Unfinished,
            });
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
                assert_eq!(self.store.revoke(&key(n)).wait().expect("revoke"), owner.is_some());
                self.fenced.extend(owner.map(|owner| owner.run));
                self.gives_way(n % KEYS);
            }
            Command::Pass { seconds } => self.clock.advance(Duration::from_secs(seconds.into())),
            Command::Restart => self.restart(),
            Command::PowerCut { .. } => {}
        }
    }

    /// Nobody owns it any more: what was deferred was never claimed.
    fn gives_way(&mut self, n: u8) {
        if self.model.operations.get(&n).is_some_and(|operation| !operation.is_durable) {
            self.model.operations.remove(&n);
        }
    }

    fn claim(&mut self, n: u8, asked: Option<(bool, Option<Vec<u8>>, bool)>) {
        let pending = match asked.clone() {
            Some((request, carried, deferred)) => {
                let request = Request::from(fingerprint(request));
                let request = carried.iter().fold(request, |request, bytes| request.keep(bytes));
                self.store.claim(&key(n), if deferred { request.deferred() } else { request })
            }
            None => self.store.claim_unfinished(&key(n)),
        };
        let claim = pending.wait();
        let owned = self.runs.contains_key(&n);
        let now = self.now();
        let request = asked.as_ref().map(|(request, ..)| *request);
        let Some(known) = self.known(n).cloned() else {
            match (asked, claim) {
                (None, claim) => assert_eq!(claim.expect_err("nothing is known").kind(), ErrorKind::NotFound),
                (Some((request, carried, deferred)), claim) => {
                    let Ok(Claim::Run(run)) = claim else { panic!("a new key can be run, got {claim:?}") };
                    assert_eq!((run.attempt(), run.checkpoint(), run.steps()), (1, None, Vec::new()));
                    assert_eq!(run.request(), carried.as_deref());
                    // Where the row of an older operation is still there the claim may be durable at once.
                    let is_durable = self.store.progress(&key(n)).expect("progress").is_some();
                    assert!(is_durable || deferred);
                    assert!(!is_durable || !deferred || self.model.operations.contains_key(&n));
                    self.model.operations.insert(n, Operation::new(request, carried, is_durable));
                    self.runs.insert(n, Owner { run, had: BTreeSet::new() });
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
                assert_eq!(run.request(), known.carried.as_deref());
                self.model.operations.insert(n, Operation { attempt: known.attempt + 1, ..known });
                self.runs.insert(n, Owner { run, had: BTreeSet::new() });
            }
        }
    }

    fn advance(&mut self, n: u8, bytes: Vec<u8>, row: Option<Row>) {
        let Some(Owner { run, .. }) = self.runs.get_mut(&n) else { return };
        let operation = self.model.operations.get_mut(&n).expect("what is owned is known");
        let seen = run.checkpoint().map_or(0, |checkpoint| checkpoint.revision().get());
        let stands = operation.checkpoint.as_ref().map_or(0, |(revision, _)| *revision);
        let pending = match row {
            Some(row) => run.advance_with("here", &bytes, writes(n, row)),
            None => run.advance("here", &bytes),
        };
        match pending.wait() {
            Ok(revision) => {
                assert_eq!((seen, revision.get()), (stands, stands + 1));
                (operation.checkpoint, operation.is_durable) = (Some((stands + 1, bytes)), true);
                self.model.write(n, row);
            }
            Err(error) if seen == stands => {
                assert_eq!(error.kind(), ErrorKind::Aborted);
                assert!(row.is_some_and(|row| row.fails));
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict),
        }
    }

    fn step(&mut self, n: u8, name: u8, method: Method, effect: Effect) {
        let Some(mut owner) = self.runs.remove(&n) else { return };
        let operation = self.model.operations.get_mut(&n).expect("what is owned is known");
        let before = operation.steps.get(&name).cloned();
        let was_in_doubt = before.as_ref().is_some_and(|step| step.state == StepState::InDoubt);
        let (mut ran, mut asked) = (false, false);
        let store = self.store.clone();
        let act = |_| -> Result<Vec<u8>, Failure> {
            ran = true;
            match effect {
                Effect::Happens(bytes) => Ok(payload(bytes)),
                Effect::Fails => Err("lost".into()),
                Effect::IsNotApplied => Err(not_applied("refused")),
                Effect::HappensLate(bytes) => {
                    assert!(store.revoke(&key(n)).wait().expect("revoke"));
                    Ok(payload(bytes))
                }
            }
        };
        let step = owner.run.step(&step_name(name));
        let answer = match method {
            Method::Keyed => step.run_keyed(act),
            Method::AtMostOnce => step.run_at_most_once(act),
            Method::Recheck(found) => {
                let recheck = |_| -> Result<Option<Vec<u8>>, Failure> {
                    asked = true;
                    match found {
                        Found::Happened(bytes) => Ok(Some(payload(bytes))),
                        Found::DidNot => Ok(None),
                        Found::CannotTell => Err("down".into()),
                    }
                };
                step.recheck(recheck).run(act)
            }
        };
        let answer = answer.map_err(|error| error.kind());
        let had = owner.had.contains(&name);
        let is_done = before.as_ref().is_some_and(|step| step.state == StepState::Done);
        assert_eq!(asked, was_in_doubt && matches!(method, Method::Recheck(_)));
        let may_run = match method {
            Method::Keyed => true,
            Method::AtMostOnce => !was_in_doubt,
            Method::Recheck(found) => !was_in_doubt || matches!(found, Found::DidNot),
        };
        assert_eq!(ran, !is_done && may_run, "P4");
        let mut step = before.unwrap_or(Step { state: StepState::Withdrawn, result: Vec::new(), notes: 0, late: 0 });
        let expected = if had {
            Err(ErrorKind::StepRepeated)
        } else if is_done {
            Ok(step.result.clone())
        } else if !ran {
            match method {
                Method::Recheck(Found::Happened(bytes)) => Ok(payload(bytes)),
                Method::Recheck(_) => Err(ErrorKind::CannotTell),
                Method::Keyed | Method::AtMostOnce => Err(ErrorKind::InDoubt),
            }
        } else {
            (step.state, operation.is_durable) = (StepState::InDoubt, true);
            operation.steps.insert(name, step.clone());
            self.halfway.push(self.model.clone());
            match effect {
                Effect::Happens(bytes) => Ok(payload(bytes)),
                Effect::IsNotApplied if was_in_doubt && matches!(method, Method::Keyed) => Err(ErrorKind::EffectFailed),
                Effect::IsNotApplied => Err(ErrorKind::NotApplied),
                Effect::Fails => Err(ErrorKind::EffectFailed),
                Effect::HappensLate(_) => Err(ErrorKind::Fenced),
            }
        };
        assert_eq!(answer, expected);
        match expected {
            Ok(result) => {
                (step.state, step.result) = (StepState::Done, result);
                owner.had.insert(name);
            }
            Err(ErrorKind::NotApplied) => step.state = StepState::Withdrawn,
            Err(ErrorKind::Fenced) => step.late = (step.late + 1).min(LATE_MAX),
            Err(_) => {}
        }
        if ran || asked {
            self.model.operations.get_mut(&n).expect("it is known").steps.insert(name, step);
        }
        if answer == Err(ErrorKind::Fenced) {
            self.fenced.push(owner.run);
        } else {
            self.runs.insert(n, owner);
        }
    }

    fn resolve(&mut self, n: u8, name: u8, happened: Option<Vec<u8>>, outside: bool) {
        let resolution = happened.clone().map_or(Resolution::DidNotHappen, Resolution::Happened);
        let is_owned = self.runs.contains_key(&n);
        let answer = match self.runs.get_mut(&n) {
            Some(owner) if !outside => owner.run.resolve(&step_name(name), resolution, "somebody looked"),
            None if !outside => return,
            _ => self.store.resolve(&key(n), &step_name(name), resolution, "somebody looked"),
        };
        let answer = answer.wait().map_err(|error| error.kind());
        let step = self.known(n).and_then(|known| known.steps.get(&name));
        let expected = match self.known(n) {
            None => Err(ErrorKind::NotFound),
            Some(known) if !known.is_unfinished() => Err(ErrorKind::Finished),
            Some(_) if outside && is_owned => Err(ErrorKind::Busy),
            Some(_) => match step.map(|step| step.state) {
                None => Err(ErrorKind::NotFound),
                Some(StepState::InDoubt) => Ok(()),
                Some(_) => Err(ErrorKind::NotInDoubt),
            },
        };
        assert_eq!(answer, expected);
        if expected.is_ok() {
            let steps = &mut self.model.operations.get_mut(&n).expect("it is known").steps;
            let step = steps.get_mut(&name).expect("it is known");
            step.state = if happened.is_some() { StepState::Done } else { StepState::Withdrawn };
            step.result = happened.unwrap_or_default();
            step.notes = (step.notes + 1).min(LATE_MAX);
        }
    }

    fn release_stuck(&mut self, n: u8) {
        let answer = self.store.release_stuck(&key(n)).wait().map_err(|error| error.kind());
        let now = self.now();
        let known = self.model.operations.get_mut(&n).filter(|known| known.state(now, false).is_some());
        match known {
            None => assert_eq!(answer, Err(ErrorKind::NotFound)),
            Some(known) if !known.is_unfinished() => assert_eq!(answer, Err(ErrorKind::Finished)),
            Some(known) => {
                assert_eq!(answer, Ok(known.attempt > known.released));
                (known.released, known.is_durable) = (known.attempt, true);
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
        let known = self.model.operations.get_mut(&n);
        match known.filter(|operation| operation.state(now, false).is_some()) {
            None => assert_eq!(answer.expect_err("nothing is known").kind(), ErrorKind::NotFound),
            Some(known) if !known.is_unfinished() => {
                assert_eq!(answer.expect_err("it is over").kind(), ErrorKind::Finished);
            }
            Some(known) => match answer.expect("a decision") {
                Advance::Moved(checkpoint) => {
                    let before = known.checkpoint.as_ref().map_or(0, |(revision, _)| *revision);
                    assert!(!is_stale);
                    assert_eq!(checkpoint.revision().get(), before + 1);
                    (known.checkpoint, known.is_durable) = (Some((before + 1, bytes)), true);
                }
                Advance::Lost(current) => {
                    assert!(is_stale);
                    let current = current.map(|c| (c.revision().get(), c.bytes().to_vec()));
                    assert_eq!(current, known.checkpoint);
                }
            },
        }
    }

    fn end(&mut self, n: u8, success: bool, bytes: Vec<u8>, row: Option<Row>) {
        let at = self.now();
        let Some(Owner { mut run, had }) = self.runs.remove(&n) else { return };
        let ended = match (success, row) {
            (true, None) => run.complete(&bytes).wait(),
            (false, None) => run.fail(&bytes).wait(),
            (_, Some(row)) => {
                let pending = match success {
                    true => run.complete_with(&bytes, writes(n, row)),
                    false => run.fail_with(&bytes, writes(n, row)),
                };
                let ended = pending.wait();
                if row.fails {
                    assert_eq!(ended.expect_err("its row failed").kind(), ErrorKind::Aborted);
                    self.runs.insert(n, Owner { run, had });
                    return;
                }
                ended
            }
        };
        ended.expect("the owner can end it");
        let operation = self.model.operations.get_mut(&n).expect("what is owned is known");
        (operation.outcome, operation.carried, operation.is_durable) = (Some((success, bytes, at)), None, true);
        self.model.write(n, row);
    }

    fn forget(&mut self, n: u8) {
        let was_known = self.known(n).is_some();
        let is_owned = self.runs.contains_key(&n);
        match self.store.forget(&key(n)).wait() {
            Ok(forgot) => {
                assert!(!is_owned);
                assert_eq!(forgot, was_known);
                self.model.operations.remove(&n);
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Busy);
                assert!(is_owned);
            }
        }
    }

    fn restart(&mut self) {
        self.forget_runs();
        self.model.lose_what_is_deferred();
        self.store.close().expect("close");
        self.disk = SimulatedDisk::from_image(self.disk.image());
        self.store = open(&self.disk, &self.clock);
    }

    /// Does a command and lets the power go meanwhile: afterwards it was done wholly, not at all, or, where it is more
    /// than one commit, up to one of them.
    fn cut_during(&mut self, command: &Command, at: u8, losses: u32) {
        let (before, first) = (self.model.clone(), self.disk.calls());
        self.run_command(command);
        self.settle();
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
        let after = self.model.clone();
        let halfway = std::mem::take(&mut self.halfway);
        for mut model in [after].into_iter().chain(halfway).chain([before]) {
            model.lose_what_is_deferred();
            self.model = model;
            if self.agrees() {
                break;
            }
        }
        // Whether this was done shows in nothing until it is stuck, so it is done again.
        if let Command::ReleaseStuck { key: n } = *command {
            let n = n % KEYS;
            drop(self.store.release_stuck(&key(n)).wait());
            if let Some(known) = self.model.operations.get_mut(&n).filter(|known| known.is_unfinished()) {
                known.released = known.attempt;
            }
        }
    }

    /// Lets the writer take in what a run reported, which nobody waits for.
    fn settle(&self) {
        let nobodys = Key::new("settle", "settle").expect("a valid key");
        assert!(!self.store.revoke(&nobodys).wait().expect("revoke"));
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
        assert_eq!(self.store.unfinished().map(|found| found.expect("unfinished")).count() as u64, listed);
        let stats = self.store.stats().expect("stats");
        assert_eq!((stats.unfinished, stats.stuck, stats.in_doubt), (listed, stuck, in_doubt));
        for run in &mut self.fenced {
            assert_eq!(run.advance("late", &()).wait().expect_err("it is fenced").kind(), ErrorKind::Fenced);
            let late = run.step("late").run_keyed(|_| -> Result<(), Failure> { panic!("a fenced run does nothing") });
            assert_eq!(late.expect_err("it is fenced").kind(), ErrorKind::Fenced);
        }
    }
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

impl Model {
    fn write(&mut self, n: u8, row: Option<Row>) {
        self.rows.extend(row.map(|row| (n, payload(row.bytes))));
    }

    fn lose_what_is_deferred(&mut self) {
        self.operations.retain(|_, operation| operation.is_durable);
    }
}

impl Operation {
    fn new(request: bool, carried: Option<Vec<u8>>, is_durable: bool) -> Self {
        let (checkpoint, steps, outcome) = (None, BTreeMap::new(), None);
        Self { request, carried, is_durable, attempt: 1, released: 0, checkpoint, steps, outcome }
    }

    fn shows(&self, progress: &Progress, now: Timestamp, owned: bool) -> bool {
        let state = self.state(now, owned);
        let checkpoint = progress.checkpoint().map(|c| (c.revision().get(), c.bytes().to_vec()));
        let outcome = progress.outcome().map(|outcome| (outcome.is_success(), outcome.bytes().to_vec()));
        let is_gone = state == Some(State::Gone);
        let steps: BTreeMap<_, _> = progress.steps().iter().map(|step| (step.name().to_owned(), seen(step))).collect();
        let expected = self.steps.iter().map(|(name, step)| (step_name(*name), step.clone())).filter(|_| !is_gone);
        state == Some(progress.state())
            && progress.attempt() == self.attempt
            && progress.request() == self.carried.as_deref()
            && checkpoint == self.checkpoint.clone().filter(|_| !is_gone)
            && outcome == self.outcome.clone().filter(|_| !is_gone).map(|(success, bytes, _)| (success, bytes))
            && steps == expected.collect()
    }
}

fn seen(step: &reentry::Step) -> Step {
    let result = step.bytes().unwrap_or_default().to_vec();
    Step { state: step.state(), result, notes: step.notes().len(), late: step.late().len() }
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
