//! The store and the model side by side: every command goes to both, and every answer is compared.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use reentry::{
    Advance, Busy, Checkpoint, Claim, ErrorKind, Fingerprint, Key, Loss, ManualClock, Pending, Result, Revision, Run,
    SimulatedDisk, Store, Timestamp,
};

use crate::commands::{Command, Expected, KEYS, REQUESTS};
use crate::rules::{Answer, Bytes, InLine, Mark, Model, PAYLOAD_BYTES_MAX, Progress, RETENTION, TOMBSTONES};
use crate::support::{PATIENCE, START, Wakes, poll, settle};

type Compared<T = ()> = std::result::Result<T, TestCaseError>;

pub(crate) struct World {
    clock: ManualClock,
    disk: SimulatedDisk,
    store: Store,
    model: Model,
    /// Runs at work, and some that were fenced, each with its number in the model.
    runs: Vec<(usize, Run)>,
    /// What claims found busy, with the key and the request.
    busy: Vec<(usize, Option<usize>, Busy)>,
    /// Those in line, each with its number in the model.
    line: Vec<(usize, usize, Pending<Claim>)>,
    /// Every revision that the store ever showed: a caller cannot make one up.
    revisions: BTreeMap<u64, Revision>,
    token: u64,
    steps: u8,
    /// How often each kind of answer was given.
    pub(crate) census: BTreeMap<String, usize>,
}

impl World {
    pub(crate) fn new() -> Self {
        let (clock, disk) = (ManualClock::at(START), SimulatedDisk::new());
        let store = open(&disk, &clock);
        Self {
            clock,
            disk,
            store,
            model: Model::new(START.as_millis()),
            runs: Vec::new(),
            busy: Vec::new(),
            line: Vec::new(),
            revisions: BTreeMap::from([(0, Revision::NONE)]),
            token: 0,
            steps: 0,
            census: BTreeMap::new(),
        }
    }

    /// Does one command on both sides, and compares.
    pub(crate) fn step(&mut self, command: &Command) -> Compared {
        self.steps = self.steps.wrapping_add(1);
        match *command {
            Command::Claim { key, request } => self.claim(key, Some(request))?,
            Command::ClaimUnfinished { key } => self.claim(key, None)?,
            Command::ClaimAndDrop { key, request } => self.claim_and_drop(key, request)?,
            Command::StandInLine { nth } => self.stand_in_line(nth)?,
            Command::LeaveLine { nth } => {
                if let Some((number, _, pending)) = pick(&mut self.line, nth) {
                    self.model.leave_line(number);
                    drop(pending);
                }
            }
            Command::DropRun { nth } => self.end_without_outcome(nth, drop),
            Command::Release { nth } => self.end_without_outcome(nth, Run::release),
            Command::Advance { nth, name, size } => self.advance(nth, &name.text(), size)?,
            Command::Refresh { nth } => self.refresh(nth)?,
            Command::Complete { nth, size } => self.end(nth, true, size)?,
            Command::Fail { nth, size } => self.end(nth, false, size)?,
            Command::AdvanceByAnybody { key, expected, name, size } => {
                self.advance_by_anybody(key, expected, &name.text(), size)?;
            }
            Command::Forget { key } => {
                let (real, expected) = (was(self.store.forget(&key_of(key))), self.model.forget(key));
                self.compare(&real, &expected)?;
            }
            Command::Revoke { key } => {
                let (real, expected) = (was(self.store.revoke(&key_of(key))), self.model.revoke(key));
                self.compare(&real, &expected)?;
            }
            Command::Progress { key } => self.progress(key)?,
            Command::Unfinished => self.unfinished()?,
            Command::Pass { millis } => {
                self.clock.advance(Duration::from_millis(millis));
                self.model.pass(millis);
            }
            Command::Jump { millis } => {
                self.model.wall = self.model.wall.saturating_add_signed(millis);
                self.clock.set_wall(Timestamp::from_millis(self.model.wall));
            }
            Command::Restart => self.restart()?,
            Command::Cut => self.cut()?,
            Command::Verify => {
                self.store.verify().map_err(|e| TestCaseError::fail(e.to_string()))?;
            }
        }
        self.take_answers()?;
        self.check_figures()
    }

    /// Ends a sequence: everything that is still held goes, and every rule holds over every record.
    pub(crate) fn finish(mut self) -> Compared<BTreeMap<String, usize>> {
        self.progress_of_all()?;
        self.unfinished()?;
        self.line.clear();
        self.runs.clear();
        settle(&self.store);
        let verified = self.store.verify().map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert!(verified.operations <= KEYS.len() as u64, "{verified:?}");
        self.store.close().map_err(|e| TestCaseError::fail(e.to_string()))?;
        Ok(self.census)
    }

    fn compare(&mut self, real: &Answer, expected: &Answer) -> Compared {
        prop_assert_eq!(real, expected, "the store's answer is on the left, the model's on the right");
        let shown = format!("{real:?}");
        let kind = match real {
            Answer::Refused(_) => shown.as_str(),
            _ => shown.split([' ', '(']).next().unwrap_or_default(),
        };
        *self.census.entry(kind.to_owned()).or_default() += 1;
        Ok(())
    }

    /// What the claim came to, in the model's words. Keeps what it brought.
    fn claimed(&mut self, key: usize, request: Option<usize>, claim: Result<Claim>) -> Compared<Answer> {
        Ok(match claim {
            Err(error) => Answer::Refused(error.kind()),
            Ok(Claim::Run(run)) => {
                prop_assert!(run.token() > self.token, "fencing tokens only rise, over restarts too");
                prop_assert_eq!(run.key(), &key_of(key));
                self.token = run.token();
                let mark = run.checkpoint().map(|checkpoint| self.mark(&checkpoint));
                let (attempt, since) = (run.attempt(), run.since().as_millis());
                // Where the model knows of no owner, the comparison of the answers will tell.
                self.runs.push((self.model.owner(key).unwrap_or_default(), run));
                Answer::Run { attempt, since, mark }
            }
            Ok(Claim::Replay(outcome)) => Answer::Replay {
                is_success: outcome.is_success(),
                bytes: Bytes(outcome.bytes().to_vec()),
                at: outcome.completed_at().as_millis(),
            },
            Ok(Claim::Wait(busy)) => {
                let answer = Answer::Wait { attempt: busy.attempt(), since: busy.since().as_millis() };
                self.busy.push((key, request, busy));
                answer
            }
            Ok(Claim::Reject(rejected)) => Answer::Reject { since: rejected.since().as_millis() },
            Ok(Claim::Gone(gone)) => {
                Answer::Gone { at: gone.completed_at().as_millis(), until: gone.until().as_millis() }
            }
        })
    }

    fn mark(&mut self, checkpoint: &Checkpoint) -> Mark {
        let revision = checkpoint.revision();
        self.revisions.insert(revision.get(), revision);
        Mark {
            name: checkpoint.name().to_owned(),
            revision: revision.get(),
            bytes: Bytes(checkpoint.bytes().to_vec()),
            at: checkpoint.at().as_millis(),
        }
    }

    /// A payload that no other step gives.
    fn bytes(&self, size: usize) -> Bytes {
        Bytes(vec![self.steps; size])
    }

    fn claim(&mut self, key: usize, request: Option<usize>) -> Compared {
        let expected = self.model.claim(key, request);
        let claim = match request {
            Some(request) => self.store.claim(&key_of(key), fingerprint(request)).wait_for(PATIENCE),
            None => self.store.claim_unfinished(&key_of(key)).wait_for(PATIENCE),
        };
        let real = self.claimed(key, request, claim)?;
        self.compare(&real, &expected)
    }

    /// A claim nobody waits for is made and given back, or not made at all; which of the two, the store may choose.
    fn claim_and_drop(&mut self, key: usize, request: usize) -> Compared {
        let mut made = self.model.clone();
        if matches!(made.claim(key, Some(request)), Answer::Run { .. }) {
            made.leave(made.owner(key).unwrap());
        }
        drop(self.store.claim(&key_of(key), fingerprint(request)));
        settle(&self.store);
        let real = self.ask_progress(key)?;
        if real == made.progress(key) {
            self.model = made;
        }
        let expected = self.model.progress(key);
        self.compare(&real, &expected)
    }

    fn stand_in_line(&mut self, nth: usize) -> Compared {
        let Some((key, request, busy)) = pick(&mut self.busy, nth) else { return Ok(()) };
        let expected = self.model.stand_in_line(key, request);
        let pending = busy.outcome();
        match expected {
            InLine::Waits(number) => self.line.push((number, key, pending)),
            InLine::Answered(expected) => {
                let real = self.claimed(key, request, pending.wait_for(PATIENCE))?;
                self.compare(&real, &expected)?;
            }
        }
        Ok(())
    }

    fn end_without_outcome(&mut self, nth: usize, end: fn(Run)) {
        if let Some((number, run)) = pick(&mut self.runs, nth) {
            self.model.leave(number);
            end(run);
        }
    }

    fn advance(&mut self, nth: usize, name: &str, size: usize) -> Compared {
        let bytes = self.bytes(size);
        let Some((number, mut run)) = pick(&mut self.runs, nth) else { return Ok(()) };
        let expected = self.model.advance(number, name, bytes.clone());
        let real = match run.advance(name, &bytes.0).wait_for(PATIENCE) {
            Ok(revision) => Answer::Revision(revision.get()),
            Err(error) => Answer::Refused(error.kind()),
        };
        self.compare(&real, &expected)?;
        let seen = run.checkpoint().map(|checkpoint| self.mark(&checkpoint));
        prop_assert_eq!(seen, self.model.seen(number), "what the run last saw");
        self.runs.push((number, run));
        Ok(())
    }

    fn refresh(&mut self, nth: usize) -> Compared {
        let Some((number, mut run)) = pick(&mut self.runs, nth) else { return Ok(()) };
        let expected = self.model.refresh(number);
        let real = match run.refresh() {
            Ok(seen) => Answer::Seen(seen.map(|checkpoint| self.mark(&checkpoint))),
            Err(error) => Answer::Refused(error.kind()),
        };
        self.compare(&real, &expected)?;
        self.runs.push((number, run));
        Ok(())
    }

    fn end(&mut self, nth: usize, is_success: bool, size: usize) -> Compared {
        let bytes = self.bytes(size);
        let Some((number, run)) = pick(&mut self.runs, nth) else { return Ok(()) };
        let expected = self.model.end(number, is_success, bytes.clone());
        let pending = if is_success { run.complete(&bytes.0) } else { run.fail(&bytes.0) };
        let real = match pending.wait_for(PATIENCE) {
            Ok(outcome) => Answer::Ended {
                is_success: outcome.is_success(),
                bytes: Bytes(outcome.bytes().to_vec()),
                at: outcome.completed_at().as_millis(),
            },
            Err(error) => Answer::Refused(error.kind()),
        };
        self.compare(&real, &expected)
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

    fn progress(&mut self, key: usize) -> Compared {
        let (real, expected) = (self.ask_progress(key)?, self.model.progress(key));
        self.compare(&real, &expected)
    }

    fn progress_of_all(&mut self) -> Compared {
        (0..KEYS.len()).try_for_each(|key| self.progress(key))
    }

    fn ask_progress(&mut self, key: usize) -> Compared<Answer> {
        match self.store.progress(&key_of(key)) {
            Ok(progress) => Ok(Answer::Progress(progress.map(|progress| self.told(&progress)).transpose()?)),
            Err(error) => Ok(Answer::Refused(error.kind())),
        }
    }

    fn told(&mut self, progress: &reentry::Progress) -> Compared<Progress> {
        let key = (0..KEYS.len()).find(|key| key_of(*key) == *progress.key());
        let request = (0..REQUESTS.len()).find(|request| fingerprint(*request) == progress.fingerprint());
        let (Some(key), Some(fingerprint)) = (key, request) else {
            return Err(TestCaseError::fail(format!("nobody ever claimed this: {progress:?}")));
        };
        let outcome = progress.outcome();
        Ok(Progress {
            key,
            fingerprint,
            state: progress.state(),
            attempt: progress.attempt(),
            since: progress.since().as_millis(),
            mark: progress.checkpoint().map(|checkpoint| self.mark(checkpoint)),
            outcome: outcome.map(|o| (o.is_success(), Bytes(o.bytes().to_vec()), o.completed_at().as_millis())),
        })
    }

    fn unfinished(&mut self) -> Compared {
        let listed: Result<Vec<_>> = self.store.unfinished().collect();
        let real = match listed {
            Ok(listed) => {
                let told: Compared<Vec<_>> = listed.iter().map(|progress| self.told(progress)).collect();
                Answer::Unfinished(told?)
            }
            Err(error) => Answer::Refused(error.kind()),
        };
        let expected = self.model.unfinished();
        self.compare(&real, &expected)
    }

    /// Compares what those in line were given, and that all others still wait.
    fn take_answers(&mut self) -> Compared {
        for (number, expected) in std::mem::take(&mut self.model.answered) {
            let at = self.line.iter().position(|(waiter, ..)| *waiter == number);
            let (_, key, pending) = self.line.remove(at.unwrap());
            // The request plays no part: nobody who stood in line is told to wait.
            let real = self.claimed(key, None, pending.wait_for(PATIENCE))?;
            self.compare(&real, &expected)?;
        }
        for (_, _, pending) in &mut self.line {
            prop_assert!(poll(pending, &Wakes::new()).is_pending(), "it is not its turn");
        }
        Ok(())
    }

    fn check_figures(&mut self) -> Compared {
        let stats = self.store.stats().map_err(|e| TestCaseError::fail(e.to_string()))?;
        let figures = (stats.unfinished, stats.owned, stats.waiting);
        prop_assert_eq!(figures, self.model.figures(), "unfinished, owned and waiting");
        Ok(())
    }

    /// Closes the store, whose runs and answers get to know, and opens it again.
    fn restart(&mut self) -> Compared {
        self.store.close().map_err(|e| TestCaseError::fail(e.to_string()))?;
        self.must_be_closed()?;
        self.model.told = self.model.time;
        self.model.restart(self.model.time.max(self.model.wall));
        self.store = open(&self.disk, &self.clock);
        Ok(())
    }

    fn must_be_closed(&mut self) -> Compared {
        let mut kinds = vec![
            self.store.claim(&key_of(0), fingerprint(0)).wait_for(PATIENCE).err(),
            self.store.progress(&key_of(0)).err(),
            self.store.verify().err(),
            self.store.forget(&key_of(0)).wait_for(PATIENCE).err(),
        ];
        for (nth, (_, mut run)) in self.runs.drain(..).enumerate() {
            kinds.push(match nth % 3 {
                0 => run.advance("late", &()).wait_for(PATIENCE).err(),
                1 => run.refresh().err(),
                _ => run.complete(&()).wait_for(PATIENCE).err(),
            });
        }
        kinds.extend(self.line.drain(..).map(|(_, _, pending)| pending.wait_for(PATIENCE).err()));
        kinds.extend(self.busy.drain(..).map(|(_, _, busy)| busy.outcome().wait_for(PATIENCE).err()));
        for error in kinds {
            prop_assert_eq!(error.map(|e| e.kind()), Some(ErrorKind::Closed));
        }
        Ok(())
    }

    /// Opens what a power cut left. The store's time may be anywhere between what was told and what it was.
    fn cut(&mut self) -> Compared {
        self.disk = self.disk.cut(self.disk.calls(), |_| Loss::Lost);
        self.line.clear();
        self.busy.clear();
        self.runs.clear();
        self.store = open(&self.disk, &self.clock);
        let (lowest, highest) = (self.model.told.max(self.model.wall), self.model.time.max(self.model.wall));
        let time = if lowest == highest { lowest } else { self.ask_time()? };
        prop_assert!((lowest..=highest).contains(&time), "P11: {time} is not within {lowest}..={highest}");
        self.model.restart(time);
        if lowest != highest {
            self.model.told = time;
        }
        self.progress_of_all()?;
        self.unfinished()
    }

    /// The store's time, as an operation of its own shows it.
    fn ask_time(&mut self) -> Compared<u64> {
        let probe = Key::new("probe", "probe").map_err(|e| TestCaseError::fail(e.to_string()))?;
        let claim = self.store.claim(&probe, fingerprint(0)).wait_for(PATIENCE);
        let Ok(Claim::Run(run)) = claim else { return Err(TestCaseError::fail(format!("{claim:?}"))) };
        let (time, token) = (run.since().as_millis(), run.token());
        prop_assert!(token > self.token, "fencing tokens only rise, over restarts too");
        self.token = token;
        drop(run);
        prop_assert_eq!(was(self.store.forget(&probe)), Answer::Was(true));
        Ok(time)
    }
}

fn open(disk: &SimulatedDisk, clock: &ManualClock) -> Store {
    let builder = Store::builder().retention(Duration::from_millis(RETENTION));
    let builder = builder.tombstones(Duration::from_millis(TOMBSTONES)).payload_bytes_max(PAYLOAD_BYTES_MAX);
    builder.cache_bytes(1024 * 1024).clock(clock.clone()).open_on(disk).unwrap()
}

fn key_of(key: usize) -> Key {
    let (scope, key) = KEYS[key];
    Key::new(scope, key).unwrap()
}

fn fingerprint(request: usize) -> Fingerprint {
    Fingerprint::of(REQUESTS[request])
}

fn was(pending: Pending<bool>) -> Answer {
    match pending.wait_for(PATIENCE) {
        Ok(was) => Answer::Was(was),
        Err(error) => Answer::Refused(error.kind()),
    }
}

/// Takes one of them, whichever `nth` means, if there is any.
fn pick<T>(of: &mut Vec<T>, nth: usize) -> Option<T> {
    let nth = nth % of.len().max(1);
    (nth < of.len()).then(|| of.remove(nth))
}
