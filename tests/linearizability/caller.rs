//! One thread that calls: what it asks is drawn by its dice, and every answer is written down.

use std::time::Duration;

use reentry::{
    Advance, Checkpoint, Claim, Condition, ErrorKind, Failure, Key, Outcome, Pending, Request, Resolution, Result,
    Revision, Run, StepState, Table, not_applied,
};

use super::calls::{Act, Answer, Bytes, Point, Seen, StepSeen};
use super::linearizable::Asked;
use super::server::{Process, Server, fingerprint, request_of};
use super::support::{Dice, key};

const ROWS: Table = Table::new("rows");
const STEPS: [&str; 2] = ["pay", "mail"];

/// A run that this thread holds.
struct Held {
    run: Run,
    process: Process,
    nth: usize,
    /// The steps that it asked for; each is asked for once.
    asked: Vec<&'static str>,
    /// Whether an outcome of it is on its way that nobody waits for.
    lingers: bool,
    /// Whether it has ended the operation.
    is_over: bool,
}

pub(crate) struct Caller<'s> {
    pub(crate) server: &'s Server,
    pub(crate) number: usize,
    pub(crate) dice: Dice,
    held: Vec<Held>,
    /// A key that nobody else calls.
    elsewhere: Key,
    /// What it asked of this process and nobody knows the answer to.
    unknown: Vec<(u64, usize, Asked)>,
}

impl<'s> Caller<'s> {
    pub(crate) fn new(server: &'s Server, number: usize, dice: Dice) -> Self {
        Self { server, number, dice, held: Vec::new(), elsewhere: key("elsewhere"), unknown: Vec::new() }
    }

    /// Makes so many calls, then lets go of all it holds.
    pub(crate) fn work(&mut self, calls: usize) {
        for _ in 0..calls {
            let process = self.server.process();
            // A run of a dead process is nobody's any more.
            self.held.retain(|held| held.process.epoch == process.epoch && !held.is_over);
            if self.dice.below(8) > 0 {
                self.settle(&process);
            }
            match self.dice.below(10) {
                0..6 if !self.held.is_empty() => self.run_something(),
                _ => self.ask_something(&process),
            }
        }
        while let Some(held) = self.held.pop() {
            self.let_go(held);
        }
    }

    /// Waits until all is decided that this thread called and nobody knows the answer to. Without that, few orders of
    /// a long history would be ruled out.
    fn settle(&mut self, process: &Process) {
        self.unknown.retain(|(epoch, ..)| *epoch == process.epoch);
        if !self.unknown.is_empty() && process.store.revoke(&self.elsewhere).wait().is_ok() {
            for (_, nth, asked) in self.unknown.drain(..) {
                self.server.keys[nth].history.bound(asked);
            }
        }
    }

    /// Writes down the answer.
    fn tell(&mut self, process: &Process, nth: usize, asked: Asked, answer: Option<Answer>) {
        if answer.is_none() {
            self.unknown.push((process.epoch, nth, asked));
        }
        self.server.tell(nth, asked, answer);
    }

    fn key(&self, nth: usize) -> &'s Key {
        &self.server.keys[nth].key
    }

    fn ask_something(&mut self, process: &Process) {
        let nth = self.dice.below(self.server.keys.len());
        match self.dice.below(16) {
            0..8 => self.claim(process, nth),
            8 | 9 => self.look(process, nth),
            10 | 11 => self.advance_anyhow(process, nth),
            12 => self.by_name(process, nth, &Act::Forget),
            13 => self.by_name(process, nth, &Act::Revoke),
            14 => self.by_name(process, nth, &Act::ReleaseStuck),
            _ => self.resolve_anyhow(process, nth),
        }
    }

    /// Waits for the answer, or gives up on it, or drops it unseen: none where nobody saw it.
    fn take<T>(&mut self, pending: Pending<T>) -> Option<Result<T>> {
        match self.dice.below(10) {
            0 => None,
            1 | 2 => Some(pending.wait_for(Duration::from_micros(self.dice.below(300) as u64))),
            _ => Some(pending.wait()),
        }
    }

    fn claim(&mut self, process: &Process, nth: usize) {
        let request = if self.dice.below(8) == 0 { 2 } else { 1 };
        let deferred = self.dice.below(4) == 0;
        let known = self.dice.below(8) == 0;
        let request = (!known).then_some(request);
        let act = Act::Claim { request, deferred: deferred && !known };
        let asked = self.server.ask(process, self.number, nth, act.clone());
        let pending = match request.map(|request| Request::from(fingerprint(request))) {
            None => process.store.claim_unfinished(self.key(nth)),
            Some(made) => process.store.claim(self.key(nth), if deferred { made.deferred() } else { made }),
        };
        let claim = self.take(pending);
        if let Some(busy) = self.claimed(process, nth, asked, claim)
            && self.dice.below(2) == 0
        {
            // Who waits in line waits for another thread, or for itself: not for ever.
            let asked = self.server.ask(process, self.number, nth, act);
            let patience = Duration::from_micros(self.dice.below(2_000) as u64);
            let claim = busy.outcome().wait_for(patience);
            let again = self.claimed(process, nth, asked, Some(claim));
            assert!(again.is_none(), "whoever waits in line is told when the wait is over");
        }
    }

    fn claimed(
        &mut self,
        process: &Process,
        nth: usize,
        asked: Asked,
        claim: Option<Result<Claim>>,
    ) -> Option<reentry::Busy> {
        let answer = match &claim {
            None => None,
            Some(Err(error)) => Answer::refused(error.kind()),
            Some(Ok(Claim::Run(run))) => Some(Answer::Run {
                token: run.token(),
                attempt: run.attempt(),
                checkpoint: run.checkpoint().as_ref().map(Point::from),
                steps: run.steps().iter().map(StepSeen::from).collect(),
            }),
            Some(Ok(Claim::Replay(outcome))) => Some(replay(outcome)),
            Some(Ok(Claim::Wait(busy))) => Some(Answer::Wait { attempt: busy.attempt() }),
            Some(Ok(Claim::Reject(_))) => Some(Answer::Reject),
            Some(Ok(Claim::Gone(_))) => Some(Answer::Gone),
        };
        self.tell(process, nth, asked, answer);
        match claim {
            Some(Ok(Claim::Run(run))) => {
                let (process, asked) = (process.clone(), Vec::new());
                self.held.push(Held { run, process, nth, asked, lingers: false, is_over: false });
                None
            }
            Some(Ok(Claim::Wait(busy))) => Some(busy),
            _ => None,
        }
    }

    pub(crate) fn look(&mut self, process: &Process, nth: usize) {
        let asked = self.server.ask(process, self.number, nth, Act::Progress);
        let told = process.store.progress(self.key(nth));
        // A store that failed shows what was last told, and of its last batch nobody knows (docs/reliability.md).
        let has_failed = process.store.stats().is_ok_and(|stats| stats.condition == Condition::Failed);
        let answer = match told {
            Ok(_) if has_failed => None,
            Err(error) => Answer::refused(error.kind()),
            Ok(told) => {
                let seen = told.map(|progress| Seen::of(&progress, request_of(progress.fingerprint())));
                Some(Answer::Told(seen))
            }
        };
        self.tell(process, nth, asked, answer);
    }

    fn advance_anyhow(&mut self, process: &Process, nth: usize) {
        // What a webhook knows: it looked a while ago.
        let seen = process.store.progress(self.key(nth)).ok().flatten();
        let expected = seen.and_then(|seen| seen.checkpoint().map(Checkpoint::revision)).unwrap_or(Revision::NONE);
        let bytes = self.some_bytes();
        let act = Act::Advance { by: None, expected: expected.get(), name: "webhook".into(), bytes: bytes[..].into() };
        let asked = self.server.ask(process, self.number, nth, act);
        let pending = process.store.advance(self.key(nth), expected, "webhook", &bytes);
        let answer = self.take(pending).and_then(|answer| match answer {
            Ok(Advance::Moved(checkpoint)) => Some(Answer::Moved(checkpoint.revision().get())),
            Ok(Advance::Lost(current)) => Some(Answer::Lost(current.as_ref().map(Point::from))),
            Err(error) => Answer::refused(error.kind()),
        });
        self.tell(process, nth, asked, answer);
    }

    fn by_name(&mut self, process: &Process, nth: usize, act: &Act) {
        let (store, key) = (&process.store, self.key(nth));
        let asked = self.server.ask(process, self.number, nth, act.clone());
        let pending = match act {
            Act::Forget => store.forget(key),
            Act::Revoke => store.revoke(key),
            _ => store.release_stuck(key),
        };
        let answer = self.take(pending).and_then(|answer| told(answer, Answer::Whether));
        self.tell(process, nth, asked, answer);
    }

    fn resolve_anyhow(&mut self, process: &Process, nth: usize) {
        let (step, result) = (STEPS[self.dice.below(2)], self.some_result());
        let act = Act::Resolve { by: None, step: step.into(), result: result.as_deref().map(Bytes::from) };
        let asked = self.server.ask(process, self.number, nth, act);
        let pending = process.store.resolve(self.key(nth), step, resolution(result), "somebody asked");
        let answer = self.take(pending).and_then(|answer| told(answer, |()| Answer::Done));
        self.tell(process, nth, asked, answer);
    }

    /// A call of a run that this thread holds.
    fn run_something(&mut self) {
        let mut held = self.held.swap_remove(self.dice.below(self.held.len()));
        match self.dice.below(12) {
            0..3 => self.advance(&mut held),
            3..7 => self.step(&mut held),
            7 => self.renew(&mut held),
            8 => self.resolve(&mut held),
            9 => self.complete_with(&mut held),
            10 => return self.end(held),
            _ => return self.let_go(held),
        }
        self.held.push(held);
    }

    fn advance(&mut self, held: &mut Held) {
        let expected = held.run.checkpoint().map_or(0, |checkpoint| checkpoint.revision().get());
        let bytes = self.some_bytes();
        let (by, name) = (Some(held.run.token()), "by its run");
        let act = Act::Advance { by, expected, name: name.into(), bytes: bytes[..].into() };
        let asked = self.server.ask(&held.process, self.number, held.nth, act);
        let pending = held.run.advance(name, &bytes);
        let answer = self.take(pending).and_then(|answer| match answer {
            Ok(revision) => Some(Answer::Moved(revision.get())),
            Err(error) if error.kind() == ErrorKind::Conflict => {
                Some(Answer::Lost(held.run.checkpoint().as_ref().map(Point::from)))
            }
            Err(error) => Answer::refused(error.kind()),
        });
        self.tell(&held.process, held.nth, asked, answer);
    }

    fn renew(&mut self, held: &mut Held) {
        let act = Act::Renew { by: held.run.token() };
        let asked = self.server.ask(&held.process, self.number, held.nth, act);
        let pending = held.run.renew();
        let answer = self.take(pending).and_then(|answer| told(answer, |()| Answer::Done));
        self.tell(&held.process, held.nth, asked, answer);
    }

    fn resolve(&mut self, held: &mut Held) {
        let (step, result) = (STEPS[self.dice.below(2)], self.some_result());
        let (by, bytes) = (Some(held.run.token()), result.as_deref().map(Bytes::from));
        let act = Act::Resolve { by, step: step.into(), result: bytes };
        let asked = self.server.ask(&held.process, self.number, held.nth, act);
        let pending = held.run.resolve(step, resolution(result), "its run asked");
        let answer = self.take(pending).and_then(|answer| told(answer, |()| Answer::Done));
        self.tell(&held.process, held.nth, asked, answer);
    }

    /// A step, guarded in one of the three ways.
    fn step(&mut self, held: &mut Held) {
        let step = STEPS[self.dice.below(2)];
        if held.asked.contains(&step) {
            return;
        }
        held.asked.push(step);
        let is_in_doubt = held.run.steps().iter().any(|s| s.name() == step && s.state() == StepState::InDoubt);
        let guard = Guard {
            server: self.server,
            process: held.process.clone(),
            caller: self.number,
            nth: held.nth,
            by: held.run.token(),
            step,
            result: self.some_bytes(),
        };
        let (way, comes_to) = (self.dice.below(3), self.dice.below(4));
        let intended = std::cell::Cell::new(Some(guard.intend(is_in_doubt && way == 0)));
        let reported = std::cell::Cell::new(None);
        let effect = |_| {
            guard.tell(&intended, Some(Answer::Done));
            match comes_to {
                0 => Err(Failure::from("timed out")),
                1 if !is_in_doubt => {
                    reported.set(Some(guard.report(None)));
                    Err(not_applied("closed"))
                }
                _ => {
                    reported.set(Some(guard.report(Some(&guard.result))));
                    Ok(guard.result.clone())
                }
            }
        };
        let recheck = |_| {
            guard.tell(&intended, Some(Answer::Refused(ErrorKind::InDoubt)));
            match comes_to {
                0 => Err(Failure::from("no answer")),
                1 => {
                    reported.set(Some(guard.report(Some(&guard.result))));
                    Ok(Some(guard.result.clone()))
                }
                _ => {
                    intended.set(Some(guard.intend(true)));
                    Ok(None)
                }
            }
        };
        let stepped = match way {
            0 => held.run.step(step).run_keyed(effect),
            1 => held.run.step(step).recheck(recheck).run(effect),
            _ => held.run.step(step).run_at_most_once(effect),
        };
        let kind = stepped.as_ref().err().map(reentry::Error::kind);
        let of_error = || kind.and_then(Answer::refused);
        // Where no effect ran, the answer is that to the intent.
        let known = stepped.as_ref().ok().map(|bytes| Answer::Known(bytes[..].into()));
        if kind == Some(ErrorKind::Fenced) {
            // It lost the operation before its intent, before the effect, or before it could be told that its report
            // counts: what became of both nobody says here, but that it is lost by now.
            guard.tell(&intended, None);
            guard.tell(&reported, None);
            let overtaken = self.server.ask(&held.process, self.number, held.nth, Act::Renew { by: guard.by });
            self.server.tell(held.nth, overtaken, Some(Answer::Refused(ErrorKind::Fenced)));
        }
        guard.tell(&intended, known.or_else(of_error));
        guard.tell(&reported, Some(Answer::Done));
    }

    fn complete_with(&mut self, held: &mut Held) {
        let (bytes, success, fails) = (self.some_bytes(), self.dice.below(2) == 0, self.dice.below(2) == 0);
        let by = held.run.token();
        let act = Act::End { by, success, bytes: bytes[..].into(), ends_run: false };
        let asked = self.server.ask(&held.process, self.number, held.nth, act);
        let write = move |tx: &reentry::Transaction<'_>| {
            if fails {
                return Err("the server's own rows do not fit".into());
            }
            tx.open_table(ROWS)?.insert(by.to_be_bytes(), "row")?;
            Ok(())
        };
        let pending = if success { held.run.complete_with(&bytes, write) } else { held.run.fail_with(&bytes, write) };
        let ended = self.take(pending);
        held.is_over = matches!(ended, Some(Ok(_)));
        let answer = ended.and_then(|answer| told(answer, |outcome| replay(&outcome)));
        held.lingers |= answer.is_none();
        self.tell(&held.process, held.nth, asked, answer);
    }

    fn end(&mut self, held: Held) {
        let (bytes, success) = (self.some_bytes(), self.dice.below(3) > 0);
        let act = Act::End { by: held.run.token(), success, bytes: bytes[..].into(), ends_run: true };
        let asked = self.server.ask(&held.process, self.number, held.nth, act);
        let pending = if success { held.run.complete(&bytes) } else { held.run.fail(&bytes) };
        let answer = self.take(pending).and_then(|answer| told(answer, |outcome| replay(&outcome)));
        self.tell(&held.process, held.nth, asked, answer);
    }

    fn let_go(&mut self, held: Held) {
        let act = Act::Release { by: held.run.token(), lingers: held.lingers };
        let asked = self.server.ask(&held.process, self.number, held.nth, act);
        drop(held.run);
        self.server.tell(held.nth, asked, Some(Answer::Done));
    }

    /// Bytes that nobody else gives, now and then so many that they stand in a row of their own.
    fn some_bytes(&mut self) -> Vec<u8> {
        let mut bytes = self.dice.roll().to_be_bytes().to_vec();
        if self.dice.below(10) == 0 {
            bytes.resize(1_500, 7);
        }
        bytes
    }

    fn some_result(&mut self) -> Option<Vec<u8>> {
        (self.dice.below(2) == 0).then(|| self.some_bytes())
    }
}

/// Writes down what a step asks of the store while it is under way.
struct Guard<'s> {
    server: &'s Server,
    process: Process,
    caller: usize,
    nth: usize,
    by: u64,
    step: &'static str,
    result: Vec<u8>,
}

impl Guard<'_> {
    fn intend(&self, again: bool) -> Asked {
        let act = Act::Intend { by: self.by, step: self.step.into(), again };
        self.server.ask(&self.process, self.caller, self.nth, act)
    }

    fn report(&self, result: Option<&[u8]>) -> Asked {
        let act = Act::Report { by: self.by, step: self.step.into(), result: result.map(Bytes::from) };
        self.server.ask(&self.process, self.caller, self.nth, act)
    }

    /// Writes down the answer, where one is still to be given.
    fn tell(&self, asked: &std::cell::Cell<Option<Asked>>, answer: Option<Answer>) {
        if let Some(asked) = asked.take() {
            self.server.tell(self.nth, asked, answer);
        }
    }
}

fn resolution(result: Option<Vec<u8>>) -> Resolution {
    result.map_or(Resolution::DidNotHappen, Resolution::Happened)
}

fn replay(outcome: &Outcome) -> Answer {
    Answer::Replay { success: outcome.is_success(), bytes: outcome.bytes().into() }
}

fn told<T>(answer: Result<T>, read: impl FnOnce(T) -> Answer) -> Option<Answer> {
    match answer {
        Ok(answer) => Some(read(answer)),
        Err(error) => Answer::refused(error.kind()),
    }
}
