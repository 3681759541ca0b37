//! The store and the model side by side: every command goes to both, and every answer is compared. What a run does with
//! steps and with the server's own rows is in `effects`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use reentry::{
    Advance, Busy, Checkpoint, Claim, EffectId, ErrorKind, Fingerprint, Key, Loss, ManualClock, Pending, Position,
    Request, Result, Revision, Run, SimulatedDisk, Store, Timestamp,
};

use crate::answers::{Answer, Bytes, Mark, Step};
use crate::commands::{Command, Expected, KEYS, NEWEST, REQUESTS, Setting};
use crate::rules::{Ask, InLine, LEASE, Model, PAYLOAD_BYTES_MAX, RETENTION, TOMBSTONES, With};
use crate::support::{PATIENCE, START, Wakes, poll, settle};

pub(crate) type Compared<T = ()> = std::result::Result<T, TestCaseError>;

pub(crate) struct World {
    setting: Setting,
    clock: ManualClock,
    disk: SimulatedDisk,
    pub(crate) store: Store,
    pub(crate) model: Model,
    /// Runs at work, and some that were fenced or have ended, each with its number in the model.
    pub(crate) runs: Vec<(usize, Run)>,
    /// What claims found busy, with the key and what they asked for.
    busy: Vec<(usize, Ask, Busy)>,
    /// Those in line, each with its number in the model.
    line: Vec<(usize, usize, Pending<Claim>)>,
    /// Every revision that the store ever showed: a caller cannot make one up.
    revisions: BTreeMap<u64, Revision>,
    /// Where each operation stands in the list of the unfinished, by its birth in the model.
    pub(crate) positions: BTreeMap<u64, Position>,
    /// The effect id of every key and name.
    pub(crate) effect_ids: BTreeMap<(usize, String), EffectId>,
    tokens: BTreeSet<u64>,
    pub(crate) steps: u8,
    /// How often each kind of answer was given.
    pub(crate) census: BTreeMap<String, usize>,
}

impl World {
    pub(crate) fn new(setting: Setting) -> Self {
        let (clock, disk) = (ManualClock::at(START), SimulatedDisk::new());
        let store = open(setting, &disk, &clock);
        Self {
            setting,
            clock,
            disk,
            store,
            model: Model::new(START.as_millis(), setting),
            runs: Vec::new(),
            busy: Vec::new(),
            line: Vec::new(),
            revisions: BTreeMap::from([(0, Revision::NONE)]),
            positions: BTreeMap::from([(0, Position::from_number(0))]),
            effect_ids: BTreeMap::new(),
            tokens: BTreeSet::new(),
            steps: 0,
            census: BTreeMap::new(),
        }
    }

    /// Does one command on both sides, and compares.
    pub(crate) fn step(&mut self, command: &Command) -> Compared {
        self.steps = self.steps.wrapping_add(1);
        self.call(command)?;
        self.take_answers()?;
        // A claim may be deferred where nothing of its key is on disk. Whether a row that is over still is, the store
        // alone knows.
        while let Some(key) = self.model.doubtful.pop() {
            if self.ask_progress(key)? != Answer::Progress(None)
                && let Some(operation) = self.model.operations.get_mut(&key)
            {
                operation.deferred = false;
            }
        }
        self.check_figures()
    }

    fn call(&mut self, command: &Command) -> Compared {
        let with = |rows| Some((rows, self.steps));
        match *command {
            Command::Advance { nth, name, size } => self.advance(nth, &name.text(), size, None),
            Command::AdvanceWith { nth, name, size, rows } => self.advance(nth, &name.text(), size, with(rows)),
            Command::Complete { nth, size } => self.end(nth, true, size, None),
            Command::Fail { nth, size } => self.end(nth, false, size, None),
            Command::EndWith { nth, is_success, size, rows } => self.end(nth, is_success, size, with(rows)),
            Command::Step { nth, name, mode, effect, size, meanwhile } => {
                self.guard(nth, &name.text(), mode, effect, size, meanwhile)
            }
            Command::Resolve { nth, name, size, note } => self.resolve(nth, &name.text(), size, &note.text()),
            Command::DropRun { nth } => {
                self.end_without_outcome(nth, drop);
                Ok(())
            }
            Command::Release { nth } => {
                self.end_without_outcome(nth, Run::release);
                Ok(())
            }
            Command::Refresh { nth } => self.refresh(nth),
            Command::Renew { nth } => self.renew(nth),
            Command::StandInLine { nth } => self.stand_in_line(nth),
            Command::LeaveLine { nth } => {
                if let Some((number, _, pending)) = pick(&mut self.line, nth) {
                    self.model.leave_line(number);
                    drop(pending);
                }
                Ok(())
            }
            Command::Pass { millis } => {
                self.pass(millis);
                Ok(())
            }
            Command::Jump { millis } => {
                self.model.wall = self.model.wall.saturating_add_signed(millis);
                self.clock.set_wall(Timestamp::from_millis(self.model.wall));
                Ok(())
            }
            Command::Restart => self.restart(),
            Command::Cut => self.cut(),
            Command::Verify => self.store.verify().map(drop).map_err(|e| TestCaseError::fail(e.to_string())),
            _ => self.call_by_name(command),
        }
    }

    /// What is called with a key, or with none, and with no run.
    fn call_by_name(&mut self, command: &Command) -> Compared {
        match *command {
            Command::Claim { key, request } => self.claim(key, Ask { fingerprint: Some(request), ..Ask::default() }),
            Command::ClaimToKeep { key, request, size, deferred } => {
                let (fingerprint, request) = (Some(request), Some(self.bytes(size)));
                self.claim(key, Ask { fingerprint, request, deferred })
            }
            Command::ClaimDeferred { key, request } => {
                self.claim(key, Ask { fingerprint: Some(request), deferred: true, ..Ask::default() })
            }
            Command::ClaimUnfinished { key } => self.claim(key, Ask::default()),
            Command::ClaimAndDrop { key, request, deferred } => self.claim_and_drop(key, request, deferred),
            Command::ResolveByAnybody { key, name, size, note } => {
                self.resolve_by_anybody(key, &name.text(), size, &note.text())
            }
            Command::AdvanceByAnybody { key, expected, name, size } => {
                self.advance_by_anybody(key, expected, &name.text(), size)
            }
            Command::Forget { key } => {
                let (real, expected) = (was(self.store.forget(&key_of(key))), self.model.forget(key));
                self.compare(&real, &expected)
            }
            Command::Revoke { key } => {
                let (real, expected) = (was(self.store.revoke(&key_of(key))), self.model.revoke(key));
                self.compare(&real, &expected)
            }
            Command::ReleaseStuck { key } => {
                let (real, expected) = (was(self.store.release_stuck(&key_of(key))), self.model.release_stuck(key));
                self.compare(&real, &expected)
            }
            Command::Progress { key } => self.progress(key),
            Command::Unfinished => self.unfinished(None, None, None),
            Command::UnfinishedOf { scope, age, after } => self.unfinished(scope, age, after),
            Command::Rows => self.compare_rows(),
            _ => Err(TestCaseError::fail(format!("nobody does this: {command:?}"))),
        }
    }

    /// Ends a sequence: everything that is still held goes, and every rule holds over every record.
    pub(crate) fn finish(mut self) -> Compared<BTreeMap<String, usize>> {
        self.progress_of_all()?;
        self.unfinished(None, None, None)?;
        self.compare_rows()?;
        self.line.clear();
        self.runs.clear();
        settle(&self.store);
        let verified = self.store.verify().map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert!(verified.operations <= KEYS.len() as u64, "{verified:?}");
        self.store.close().map_err(|e| TestCaseError::fail(e.to_string()))?;
        Ok(self.census)
    }

    pub(crate) fn compare(&mut self, real: &Answer, expected: &Answer) -> Compared {
        prop_assert_eq!(real, expected, "the store's answer is on the left, the model's on the right");
        self.count(real);
        Ok(())
    }

    pub(crate) fn count(&mut self, answer: &Answer) {
        let shown = format!("{answer:?}");
        let kind = match answer {
            Answer::Refused(_) => shown.as_str(),
            _ => shown.split([' ', '(']).next().unwrap_or_default(),
        };
        *self.census.entry(kind.to_owned()).or_default() += 1;
    }

    /// What the claim came to, in the model's words. Keeps what it brought. Its token is above `floor`.
    fn claimed(&mut self, key: usize, ask: Ask, claim: Result<Claim>, floor: u64) -> Compared<Answer> {
        Ok(match claim {
            Err(error) => Answer::Refused(error.kind()),
            Ok(Claim::Run(run)) => {
                prop_assert!(run.token() > floor, "P7: fencing tokens only rise, over restarts too");
                prop_assert!(self.tokens.insert(run.token()), "P7: no token is given twice");
                prop_assert_eq!(run.key(), &key_of(key));
                let mark = run.checkpoint().map(|checkpoint| self.mark(&checkpoint));
                let (attempt, since, request) =
                    (run.attempt(), run.since().as_millis(), run.request().map(Bytes::from));
                let steps = run.steps().iter().map(Step::from).collect();
                // Where the model knows of no owner, the comparison of the answers will tell.
                self.runs.push((self.model.owner(key).unwrap_or_default(), run));
                Answer::Run { attempt, since, mark, request, steps }
            }
            Ok(Claim::Replay(outcome)) => Answer::Replay {
                is_success: outcome.is_success(),
                bytes: outcome.bytes().into(),
                at: outcome.completed_at().as_millis(),
            },
            Ok(Claim::Wait(busy)) => {
                let answer = Answer::Wait { attempt: busy.attempt(), since: busy.since().as_millis() };
                self.busy.push((key, ask, busy));
                answer
            }
            Ok(Claim::Reject(rejected)) => Answer::Reject { since: rejected.since().as_millis() },
            Ok(Claim::Gone(gone)) => {
                Answer::Gone { at: gone.completed_at().as_millis(), until: gone.until().as_millis() }
            }
        })
    }

    /// The highest token so far.
    fn floor(&self) -> u64 {
        self.tokens.last().copied().unwrap_or_default()
    }

    pub(crate) fn mark(&mut self, checkpoint: &Checkpoint) -> Mark {
        self.revisions.insert(checkpoint.revision().get(), checkpoint.revision());
        checkpoint.into()
    }

    /// A payload that no other step gives.
    pub(crate) fn bytes(&self, size: usize) -> Bytes {
        Bytes(vec![self.steps; size])
    }

    fn claim(&mut self, key: usize, ask: Ask) -> Compared {
        let (expected, floor) = (self.model.claim(key, &ask), self.floor());
        let claim = match ask.fingerprint {
            Some(_) => self.store.claim(&key_of(key), request_of(&ask)).wait_for(PATIENCE),
            None => self.store.claim_unfinished(&key_of(key)).wait_for(PATIENCE),
        };
        let real = self.claimed(key, ask, claim, floor)?;
        self.compare(&real, &expected)
    }

    /// A claim nobody waits for is made and given back, or not made at all; which of the two, the store may choose.
    fn claim_and_drop(&mut self, key: usize, request: usize, deferred: bool) -> Compared {
        let ask = Ask { fingerprint: Some(request), request: None, deferred };
        let mut untouched = self.model.clone();
        untouched.take_in_reports();
        let made = |ask: &Ask| {
            let mut made = untouched.clone();
            if matches!(made.claim(key, ask), Answer::Run { .. }) {
                made.leave(made.owner(key).unwrap());
            }
            made
        };
        // One that may be deferred need not be, where a row that is over is still there.
        let mut either = vec![made(&ask)];
        if !either[0].doubtful.is_empty() {
            either.push(made(&Ask { deferred: false, ..ask.clone() }));
        }
        drop(self.store.claim(&key_of(key), request_of(&ask)));
        settle(&self.store);
        let real = self.ask_progress(key)?;
        self.model = either.into_iter().find(|made| made.clone().progress(key) == real).unwrap_or(untouched);
        self.model.doubtful.clear();
        let expected = self.model.progress(key);
        self.compare(&real, &expected)
    }

    fn stand_in_line(&mut self, nth: usize) -> Compared {
        let Some((key, ask, busy)) = pick(&mut self.busy, nth) else { return Ok(()) };
        let (expected, floor) = (self.model.stand_in_line(key, &ask), self.floor());
        let pending = busy.outcome();
        match expected {
            InLine::Waits(number) => self.line.push((number, key, pending)),
            InLine::Answered(expected) => {
                let real = self.claimed(key, ask, pending.wait_for(PATIENCE), floor)?;
                self.compare(&real, &expected)?;
            }
        }
        Ok(())
    }

    fn end_without_outcome(&mut self, nth: usize, end: impl FnOnce(Run)) {
        if let Some((number, run)) = pick(&mut self.runs, nth) {
            self.model.leave(number);
            end(run);
        }
    }

    fn advance(&mut self, nth: usize, name: &str, size: usize, with: With) -> Compared {
        let bytes = self.bytes(size);
        let Some((number, mut run)) = pick(&mut self.runs, nth) else { return Ok(()) };
        let expected = self.model.advance(number, name, bytes.clone(), with);
        let pending = match self.writes(number, with) {
            Some(write) => run.advance_with(name, &bytes.0, write),
            None => run.advance(name, &bytes.0),
        };
        let real = match pending.wait_for(PATIENCE) {
            Ok(revision) => Answer::Revision(revision.get()),
            Err(error) => Answer::Refused(error.kind()),
        };
        self.compare(&real, &expected)?;
        self.put_back(number, run)
    }

    fn refresh(&mut self, nth: usize) -> Compared {
        let Some((number, mut run)) = pick(&mut self.runs, nth) else { return Ok(()) };
        let expected = self.model.refresh(number);
        let real = match run.refresh() {
            Ok(seen) => Answer::Seen(seen.map(|checkpoint| self.mark(&checkpoint))),
            Err(error) => Answer::Refused(error.kind()),
        };
        self.compare(&real, &expected)?;
        self.put_back(number, run)
    }

    fn renew(&mut self, nth: usize) -> Compared {
        let Some((number, mut run)) = pick(&mut self.runs, nth) else { return Ok(()) };
        let expected = self.model.renew(number);
        let renewed = run.renew().wait_for(PATIENCE);
        let real = renewed.map_or_else(|error| Answer::Refused(error.kind()), |()| Answer::Renewed);
        self.compare(&real, &expected)?;
        self.put_back(number, run)
    }

    fn end(&mut self, nth: usize, is_success: bool, size: usize, with: With) -> Compared {
        let bytes = self.bytes(size);
        let Some((number, mut run)) = pick(&mut self.runs, nth) else { return Ok(()) };
        let expected = self.model.end(number, is_success, bytes.clone(), with);
        let (pending, run) = match self.writes(number, with) {
            Some(write) if is_success => (run.complete_with(&bytes.0, write), Some(run)),
            Some(write) => (run.fail_with(&bytes.0, write), Some(run)),
            None if is_success => (run.complete(&bytes.0), None),
            None => (run.fail(&bytes.0), None),
        };
        let real = match pending.wait_for(PATIENCE) {
            Ok(outcome) => Answer::Ended {
                is_success: outcome.is_success(),
                bytes: outcome.bytes().into(),
                at: outcome.completed_at().as_millis(),
            },
            Err(error) => Answer::Refused(error.kind()),
        };
        self.compare(&real, &expected)?;
        run.map_or(Ok(()), |run| self.put_back(number, run))
    }

    /// Compares what a run tells, and keeps it.
    pub(crate) fn put_back(&mut self, number: usize, run: Run) -> Compared {
        let mark = run.checkpoint().map(|checkpoint| self.mark(&checkpoint));
        let (steps, unasked) = (run.steps(), run.unasked_steps());
        let steps: Vec<_> = steps.iter().map(|step| Step::from(step).without_late()).collect();
        let unasked = unasked.iter().map(|step| step.name().to_owned()).collect();
        let seen = &self.model.runs[number];
        prop_assert_eq!(&mark, &seen.mark, "what the run last saw");
        prop_assert_eq!((steps, unasked), seen.tells(), "the steps that the run tells of, and the unasked ones");
        self.runs.push((number, run));
        Ok(())
    }

    fn advance_by_anybody(&mut self, key: usize, expected: Expected, name: &str, size: usize) -> Compared {
        let (bytes, current) = (self.bytes(size), self.model.revision(key));
        let expected = match expected {
            Expected::Right => current,
            Expected::Stale => current.saturating_sub(1),
            Expected::Ahead => self.revisions.range(current..).nth(1).map_or(current, |(number, _)| *number),
        };
        // What the model knows of, the store showed.
        let revision = self.revisions[&expected];
        let expected = self.model.advance_by_anybody(key, expected, name, bytes.clone());
        let real = match self.store.advance(&key_of(key), revision, name, &bytes.0).wait_for(PATIENCE) {
            Ok(Advance::Moved(checkpoint)) => Answer::Moved(self.mark(&checkpoint)),
            Ok(Advance::Lost(current)) => Answer::Lost(current.map(|checkpoint| self.mark(&checkpoint))),
            Err(error) => Answer::Refused(error.kind()),
        };
        self.compare(&real, &expected)
    }

    /// Compares what those in line were given, and that all others still wait.
    fn take_answers(&mut self) -> Compared {
        // Several may be answered at once, and in any order.
        let floor = self.floor();
        for (number, expected) in std::mem::take(&mut self.model.answered) {
            let at = self.line.iter().position(|(waiter, ..)| *waiter == number);
            let (_, key, pending) = self.line.remove(at.unwrap());
            // What was asked plays no part: nobody who stood in line is told to wait.
            let real = self.claimed(key, Ask::default(), pending.wait_for(PATIENCE), floor)?;
            self.compare(&real, &expected)?;
        }
        for (_, _, pending) in &mut self.line {
            prop_assert!(poll(pending, &Wakes::new()).is_pending(), "it is not its turn");
        }
        Ok(())
    }

    /// Lets time pass. What was reported before is on disk before, so that its time is known.
    fn pass(&mut self, millis: u64) {
        if !self.model.reports.is_empty() {
            settle(&self.store);
            self.model.take_in_reports();
        }
        self.clock.advance(Duration::from_millis(millis));
        self.model.pass(millis);
    }

    /// Closes the store, whose runs and answers get to know, and opens it again.
    fn restart(&mut self) -> Compared {
        self.store.close().map_err(|e| TestCaseError::fail(e.to_string()))?;
        self.must_be_closed()?;
        self.model.take_in_reports();
        self.model.told = self.model.time;
        self.model.restart(self.model.time.max(self.model.wall));
        self.store = open(self.setting, &self.disk, &self.clock);
        self.progress_of_all()?;
        self.compare_rows()
    }

    fn must_be_closed(&mut self) -> Compared {
        let mut kinds = vec![
            self.store.claim(&key_of(0), fingerprint(0)).wait_for(PATIENCE).err(),
            self.store.progress(&key_of(0)).err(),
            self.store.verify().err(),
            self.store.read(|_| ()).err(),
            self.store.forget(&key_of(0)).wait_for(PATIENCE).err(),
        ];
        for (nth, (number, mut run)) in self.runs.drain(..).enumerate() {
            // One that lost the operation, or ended it, is told of that.
            let is_fenced = self.model.key_of(number).is_none();
            let kind = match nth % 5 {
                0 => run.advance("late", &()).wait_for(PATIENCE).err(),
                1 => run.refresh().err(),
                2 => run.renew().wait_for(PATIENCE).err(),
                3 => run.step("late").run_keyed(|_| -> Result<()> { panic!("P4: its intent is not on disk") }).err(),
                _ => run.complete(&()).wait_for(PATIENCE).err(),
            };
            if is_fenced {
                prop_assert!(kind.is_some(), "the store is closed");
            } else {
                kinds.push(kind);
            }
        }
        kinds.extend(self.line.drain(..).map(|(_, _, pending)| pending.wait_for(PATIENCE).err()));
        kinds.extend(self.busy.drain(..).map(|(_, _, busy)| busy.outcome().wait_for(PATIENCE).err()));
        for error in kinds {
            prop_assert_eq!(error.map(|e| e.kind()), Some(ErrorKind::Closed));
        }
        Ok(())
    }

    /// Opens what a power cut left. The store's time may be anywhere between what was told and what it was; of what
    /// runs only reported, any number may be there, in their order, and the rest is in doubt.
    fn cut(&mut self) -> Compared {
        self.disk = self.disk.cut(self.disk.calls(), |_| Loss::Lost);
        self.line.clear();
        self.busy.clear();
        self.runs.clear();
        self.store = open(self.setting, &self.disk, &self.clock);
        let (lowest, highest) = (self.model.told.max(self.model.wall), self.model.time.max(self.model.wall));
        let time = if lowest == highest { lowest } else { self.ask_time()? };
        prop_assert!((lowest..=highest).contains(&time), "P11: {time} is not within {lowest}..={highest}");
        let shown: Vec<_> = (0..KEYS.len()).map(|key| self.ask_progress(key)).collect::<Compared<_>>()?;
        let mut left: Vec<Model> = Vec::new();
        for count in 0..=self.model.reports.len() {
            let mut model = self.model.clone();
            model.take_in(count);
            model.restart(time);
            if (0..KEYS.len()).all(|key| model.progress(key) == shown[key]) {
                left.push(model);
            }
        }
        if let Some(model) = left.pop() {
            self.model = model;
        } else {
            self.model.restart(time);
        }
        if lowest != highest {
            self.model.told = time;
        }
        self.progress_of_all()?;
        self.unfinished(None, None, None)?;
        self.compare_rows()
    }

    /// The store's time, as an operation of its own shows it.
    fn ask_time(&mut self) -> Compared<u64> {
        let probe = Key::new("probe", "probe").map_err(|e| TestCaseError::fail(e.to_string()))?;
        let claim = self.store.claim(&probe, fingerprint(0)).wait_for(PATIENCE);
        let Ok(Claim::Run(run)) = claim else { return Err(TestCaseError::fail(format!("{claim:?}"))) };
        let (time, token) = (run.since().as_millis(), run.token());
        prop_assert!(token > self.floor(), "fencing tokens only rise, over restarts too");
        self.tokens.insert(token);
        drop(run);
        prop_assert_eq!(was(self.store.forget(&probe)), Answer::Was(true));
        Ok(time)
    }
}

fn open(setting: Setting, disk: &SimulatedDisk, clock: &ManualClock) -> Store {
    let builder = Store::builder().retention(Duration::from_millis(RETENTION)).attempts_max(setting.attempts_max);
    let builder = builder.tombstones(Duration::from_millis(TOMBSTONES)).payload_bytes_max(PAYLOAD_BYTES_MAX);
    let builder = if setting.leased { builder.lease(Duration::from_millis(LEASE)) } else { builder };
    builder.cache_bytes(1024 * 1024).clock(clock.clone()).open_on(disk).unwrap()
}

pub(crate) fn key_of(key: usize) -> Key {
    let (scope, key) = KEYS[key];
    Key::new(scope, key).unwrap()
}

pub(crate) fn fingerprint(request: usize) -> Fingerprint {
    Fingerprint::of(REQUESTS[request])
}

fn request_of(ask: &Ask) -> Request {
    let request = Request::from(fingerprint(ask.fingerprint.unwrap_or_default()));
    let request = match &ask.request {
        Some(bytes) => request.keep(&bytes.0),
        None => request,
    };
    if ask.deferred { request.deferred() } else { request }
}

fn was(pending: Pending<bool>) -> Answer {
    match pending.wait_for(PATIENCE) {
        Ok(was) => Answer::Was(was),
        Err(error) => Answer::Refused(error.kind()),
    }
}

/// Takes one of them, whichever `nth` means, if there is any.
pub(crate) fn pick<T>(of: &mut Vec<T>, nth: usize) -> Option<T> {
    let nth = if nth == NEWEST { of.len().saturating_sub(1) } else { nth % of.len().max(1) };
    (nth < of.len()).then(|| of.remove(nth))
}
