//! What the promises say of the calls on one key, one after the other: the specification that `linearizable.rs` holds
//! answers against. It is written from the promises, not from the code: it has a record of its own, and knows nothing
//! of queues, batches, rows or files.
//!
//! What the promises leave open is left open here: a claim whose answer nobody took may own the operation for a while
//! and then gives it back; a run whose last call failed lets go at any moment after; a result that a run reported is on
//! disk with the next change at the latest, and may be lost by a crash before; and a call may have read the clock at
//! any moment while it was under way; and what a run asked for without hearing the answer may be decided after it let
//! go, as long as nobody entered since. Who changes by name what is deferred, while its run lets go, may make it
//! durable a moment after others saw nothing of it.

#![allow(dead_code, reason = "each test file takes what it needs of this")]

use std::collections::BTreeMap;
use std::sync::Arc;

use reentry::{ErrorKind, State, StepState};

use super::calls::{Act, Answer, Bytes, KeyCall, Point, Seen, StepSeen};
use super::linearizable::{NEVER, Sequential};

/// What a store was opened with, as far as it shows; times in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Promises {
    pub(crate) lease: Option<u64>,
    pub(crate) retention: u64,
    pub(crate) tombstones: u64,
    pub(crate) attempts_max: u32,
}

impl Default for Promises {
    fn default() -> Self {
        Self { lease: None, retention: 24 * 60 * 60 * 1000, tombstones: 0, attempts_max: 16 }
    }
}

/// One key, as the promises see it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Operation {
    kept: Option<Kept>,
    owner: Option<Owner>,
    /// What the last run reported of its steps before it left.
    left: Reports,
    /// The last run that entered, where its token is known and nobody entered since.
    last: Option<u64>,
    /// What the last run knew of the operation where no row told of it yet, when it let go, and until which moment it
    /// may have been at letting go.
    dropped: Option<(u64, Box<Kept>)>,
    /// The outcome that the last run asked for and never heard of: it may be on disk, and nobody have seen it yet.
    unheard: Option<Box<Ended>>,
    /// The greatest token that anybody was told.
    highest: u64,
}

/// What was reported of steps, and until which moment of the history.
type Reports = BTreeMap<Arc<str>, (u64, Option<Bytes>)>;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kept {
    request: u64,
    attempt: u32,
    /// The runs that no longer count towards its being stuck.
    released: u32,
    /// Not durable yet, and lost with its run.
    is_deferred: bool,
    checkpoint: Option<Point>,
    steps: Vec<StepSeen>,
    ended: Option<Ended>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Ended {
    success: bool,
    bytes: Bytes,
    /// Between which moments of the store's clock it ended.
    span: (u64, u64),
    /// Its outcome is over, and its tombstone stands.
    is_gone: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Owner {
    /// None where nobody was told.
    token: Option<u64>,
    /// It lets go at any moment.
    is_leaving: bool,
    /// Between which moments of the store's clock it last moved; counts where there is a lease.
    moved: (u64, u64),
    reported: Reports,
    /// Whether it changed a step without hearing so: it goes on taking the step for in doubt, and rechecks.
    is_unsure: bool,
}

impl Sequential for Promises {
    type State = Operation;
    type Act = Act;
    type Answer = Answer;

    fn begin(&self) -> Operation {
        Operation::default()
    }

    fn after(&self, state: &Operation, call: &KeyCall) -> Vec<Operation> {
        let mut after = Vec::new();
        let mut add = |mut state: Operation| {
            if let (None, Some(owner)) = (self.lease, &mut state.owner) {
                owner.moved = (0, 0);
            }
            if !after.contains(&state) {
                after.push(state);
            }
        };
        for before in self.meanwhile(state, call.times) {
            let late = before.of_late(call).into_iter().flat_map(|owned| self.comes_to(&owned, call));
            let late = late.map(|(state, answer)| (state.freed(), answer));
            for (state, answer) in self.comes_to(&before, call).into_iter().chain(late) {
                let fits = call.answer.as_ref().is_none_or(|told| *told == answer);
                if fits && is_local(&call.act, &answer) {
                    add(before.clone());
                }
                if fits {
                    add(state);
                }
            }
            if let Some(Answer::Refused(kind)) = call.answer
                && changes_nothing(kind)
            {
                let mut after = before.let_go_after(&call.act);
                if let Some(owner) =
                    after.owner.as_mut().filter(|owner| owner.token.is_some_and(|token| call.act.by() == Some(token)))
                {
                    // A run whose closure failed has shown that it is at work.
                    owner.moved.1 = owner.moved.1.max(call.times.1);
                }
                add(after);
            }
        }
        after
    }

    fn is_look(&self, call: &KeyCall) -> bool {
        use Answer::{Gone, Known, Lost, Refused, Reject, Replay, Told, Wait};
        match (&call.act, &call.answer) {
            (Act::End { .. } | Act::Report { .. }, _) | (_, None) => false,
            (act, Some(Answer::Done)) => matches!(act, Act::Renew { .. }),
            (_, Some(Answer::Whether(is_changed))) => !is_changed,
            (_, Some(answer)) => {
                matches!(
                    answer,
                    Gone | Known(_) | Lost(_) | Refused(_) | Reject | Replay { .. } | Told(_) | Wait { .. }
                )
            }
        }
    }
}

/// Errors that are told at any time, of a store that stopped or of what was asked, and leave everything as it is.
fn changes_nothing(kind: ErrorKind) -> bool {
    use ErrorKind::{Aborted, Capacity, Closed, Codec, Failed, Full, InvalidName, PayloadTooLarge, WouldDeadlock};
    let kinds = [Aborted, Capacity, Closed, Codec, Failed, Full, InvalidName, PayloadTooLarge, WouldDeadlock];
    kinds.contains(&kind)
}

/// Whether a run may be told so by what it knows itself, so that what was reported need not be on disk.
fn is_local(act: &Act, answer: &Answer) -> bool {
    use ErrorKind::{Fenced, InDoubt};
    match answer {
        Answer::Refused(Fenced) => true,
        Answer::Known(_) | Answer::Refused(InDoubt) => matches!(act, Act::Intend { .. }),
        _ => false,
    }
}

impl Promises {
    /// What may have become of the operation by itself when a call comes to it within these times.
    fn meanwhile(&self, state: &Operation, times: (u64, u64)) -> Vec<Operation> {
        let mut states = vec![state.clone()];
        let also = |states: &mut Vec<Operation>, change: &dyn Fn(&Operation) -> Option<Operation>| {
            let more: Vec<_> = states.iter().filter_map(change).collect();
            states.extend(more);
        };
        also(&mut states, &|state| {
            state.owner.as_ref().filter(|owner| owner.is_leaving).map(|_| state.clone().freed())
        });
        also(&mut states, &|state| state.has_reports().then(|| state.clone().with_reports(NEVER)));
        also(&mut states, &|state| state.unheard.is_some().then(|| state.clone().heard()).flatten());
        states.into_iter().flat_map(|state| self.at(state, times)).collect()
    }

    /// What retention may have made of it at some moment within these times.
    fn at(&self, state: Operation, (earliest, latest): (u64, u64)) -> Vec<Operation> {
        let Some(Ended { span, is_gone, .. }) = state.kept.as_ref().and_then(|kept| kept.ended.clone()) else {
            return vec![state];
        };
        let until = (span.0.saturating_add(self.retention), span.1.saturating_add(self.retention));
        let gone = (until.0.saturating_add(self.tombstones), until.1.saturating_add(self.tombstones));
        let mut states = Vec::new();
        if latest >= gone.0 {
            states.push(Operation {
                kept: None,
                last: None,
                left: Reports::new(),
                dropped: None,
                unheard: None,
                ..state.clone()
            });
        }
        if latest >= until.0 && earliest < gone.1 {
            let mut state = state.clone();
            if let Some(kept) = &mut state.kept
                && let Some(ended) = &mut kept.ended
            {
                ended.is_gone = true;
            }
            states.push(state);
        }
        if earliest < until.1 && !is_gone {
            states.push(state);
        }
        states
    }

    /// What the call comes to, and the answer to it: each way that the promises leave open.
    fn comes_to(&self, before: &Operation, call: &KeyCall) -> Vec<(Operation, Answer)> {
        let is_known = call.answer.is_some();
        let state = before.clone();
        let written = || before.clone().with_reports(if call.act.by().is_some() { NEVER } else { call.asked });
        match &call.act {
            Act::Claim { request, deferred } => self.claim(before, call, *request, *deferred),
            Act::Progress => self.progress(before, call.times),
            Act::Crash => vec![(state.crashed(), Answer::Done)],
            Act::Release { by, lingers } => {
                let mut state = state.released(*by, *lingers);
                if let (None, Some((until, _))) = (&before.dropped, &mut state.dropped) {
                    *until = call.until;
                }
                vec![(state, Answer::Done)]
            }
            Act::Report { by, step, result } => state.report(*by, step, (call.until, result.clone()), call.times),
            // All that is left goes through the store's one writer, behind what was reported before it was asked.
            Act::Revoke => vec![written().revoke()],
            Act::Forget => vec![written().forget()],
            Act::ReleaseStuck => vec![written().release_stuck()],
            Act::Advance { by, expected, name, bytes } => {
                let point = Point { revision: expected + 1, name: Arc::clone(name), bytes: Arc::clone(bytes) };
                vec![written().by(*by, call.times, |kept| kept.advance(*expected, point))]
            }
            Act::Intend { by, step, again } => {
                let is_unsure = !again && before.owner.as_ref().is_some_and(|o| o.token == Some(*by) && o.is_unsure);
                let doubts = is_unsure.then(|| (before.clone(), Answer::Refused(ErrorKind::InDoubt)));
                let told = written().by(Some(*by), call.times, |kept| kept.intend(step, *again));
                std::iter::once(told).chain(doubts).collect()
            }
            Act::Resolve { by, step, result } => {
                let state = written();
                let is_busy = by.is_none() && state.owner.is_some();
                let (mut state, told) = state.by(*by, call.times, |kept| kept.resolve(step, result.as_ref(), is_busy));
                if let (false, Some(_), Some(owner), Answer::Done) = (is_known, by, &mut state.owner, &told) {
                    owner.is_unsure = true;
                }
                vec![(state, told)]
            }
            Act::Renew { by } => vec![written().by(Some(*by), call.times, |_| Answer::Done)],
            Act::End { by, success, bytes, ends_run } => {
                let ended = Ended { success: *success, bytes: Arc::clone(bytes), span: call.times, is_gone: false };
                let left = (!is_known && *ends_run).then(|| {
                    let unheard = before.is_owned_by(*by).then(|| Box::new(ended.clone()));
                    (Operation { unheard, ..before.let_go_after(&call.act) }, Answer::Done)
                });
                // Where the server's closure failed, its run is at work all the same.
                let aborted = (!is_known && !ends_run).then(|| written().by(Some(*by), call.times, |_| Answer::Done));
                left.into_iter().chain(aborted).chain([written().end(*by, ended)]).collect()
            }
        }
    }

    fn claim(
        &self,
        before: &Operation,
        call: &KeyCall,
        request: Option<u64>,
        deferred: bool,
    ) -> Vec<(Operation, Answer)> {
        let Some(kept) = &before.kept else {
            let Some(request) = request else {
                return vec![(before.clone(), Answer::Refused(ErrorKind::NotFound))];
            };
            let begin = |is_deferred| {
                let (checkpoint, steps) = (None, Vec::new());
                let kept = Kept { request, attempt: 1, released: 0, is_deferred, checkpoint, steps, ended: None };
                before.clone().entered(kept, call)
            };
            let both = [Some(false), deferred.then_some(true)];
            return both.into_iter().flatten().filter_map(begin).collect();
        };
        if request.is_some_and(|request| request != kept.request) {
            return vec![(before.clone(), Answer::Reject)];
        }
        match &kept.ended {
            Some(Ended { is_gone: true, .. }) => return vec![(before.clone(), Answer::Gone)],
            Some(Ended { success, bytes, .. }) => {
                return vec![(before.clone(), Answer::Replay { success: *success, bytes: Arc::clone(bytes) })];
            }
            None => {}
        }
        let mut ways = Vec::new();
        if before.owner.as_ref().is_some_and(|owner| self.may_be_at_work(owner, call.times)) {
            ways.push((before.clone(), Answer::Wait { attempt: kept.attempt }));
        }
        if before.owner.as_ref().is_none_or(|owner| self.may_have_lapsed(owner, call.times)) {
            // A claim that was decided already, and not published yet, does not see what is reported meanwhile.
            for moment in [NEVER, call.asked] {
                let state = before.clone().with_reports(moment);
                if let Some(kept) = state.kept.clone() {
                    let kept = Kept { attempt: kept.attempt + 1, is_deferred: false, ..kept };
                    ways.extend(state.entered(kept, call));
                }
            }
        }
        ways
    }

    fn may_be_at_work(&self, owner: &Owner, (earliest, _): (u64, u64)) -> bool {
        self.lease.is_none_or(|lease| earliest < owner.moved.1.saturating_add(lease))
    }

    fn may_have_lapsed(&self, owner: &Owner, (_, latest): (u64, u64)) -> bool {
        self.lease.is_some_and(|lease| latest >= owner.moved.0.saturating_add(lease))
    }

    fn progress(&self, before: &Operation, times: (u64, u64)) -> Vec<(Operation, Answer)> {
        let told = |seen| (before.clone(), Answer::Told(seen));
        let Some(kept) = before.kept.as_ref().filter(|kept| !kept.is_deferred) else { return vec![told(None)] };
        let seen = |state| {
            let Kept { request, attempt, checkpoint, steps, ended, .. } = kept.clone();
            match ended {
                Some(Ended { is_gone: true, .. }) => {
                    Seen { state, request, attempt, checkpoint: None, steps: Vec::new(), outcome: None }
                }
                ended => {
                    let outcome = ended.map(|ended| (ended.success, ended.bytes));
                    Seen { state, request, attempt, checkpoint, steps, outcome }
                }
            }
        };
        let is_stuck = kept.attempt - kept.released >= self.attempts_max;
        let free = if is_stuck { State::Stuck } else { State::Unfinished };
        let states = match (&kept.ended, &before.owner) {
            (Some(Ended { is_gone: true, .. }), _) => vec![State::Gone],
            (Some(Ended { success: true, .. }), _) => vec![State::Succeeded],
            (Some(Ended { success: false, .. }), _) => vec![State::Failed],
            (None, None) => vec![free],
            (None, Some(owner)) => {
                let at_work = self.may_be_at_work(owner, times).then_some(State::Owned);
                at_work.into_iter().chain(self.may_have_lapsed(owner, times).then_some(free)).collect()
            }
        };
        states.into_iter().map(|state| told(Some(seen(state)))).collect()
    }
}

impl Operation {
    /// Nobody owns it any more. What only its run knew of goes with it; what the run reported stays.
    fn freed(mut self) -> Self {
        if let Some(owner) = self.owner.take() {
            self.left = owner.reported;
        }
        if self.kept.as_ref().is_some_and(|kept| kept.is_deferred) {
            (self.dropped, self.left) = (self.kept.take().map(|kept| (NEVER, Box::new(kept))), Reports::new());
        }
        self
    }

    /// As the last run owned it, for what the writer may have decided before that run let go without anybody having
    /// seen it yet: a call of that run whose answer nobody knows, and a change by name that was under way then and made
    /// durable what only the run knew of.
    fn of_late(&self, call: &KeyCall) -> Option<Self> {
        let of_run = call.answer.is_none() && self.last.is_some() && call.act.by() == self.last;
        let is_change =
            matches!(call.act, Act::Advance { by: None, .. } | Act::Resolve { by: None, .. } | Act::ReleaseStuck);
        let by_name = is_change && self.dropped.as_ref().is_some_and(|(until, _)| call.asked < *until);
        if self.owner.is_some() || !(of_run || by_name) {
            return None;
        }
        let mut state = self.clone();
        let reported = std::mem::take(&mut state.left);
        let (token, moved) = (self.last, call.times);
        state.owner = Some(Owner { token, is_leaving: true, moved, reported, is_unsure: false });
        if let Some((_, dropped)) = state.dropped.take() {
            state.kept = Some(*dropped);
        }
        Some(state)
    }

    fn has_reports(&self) -> bool {
        !self.left.is_empty() || self.owner.as_ref().is_some_and(|owner| !owner.reported.is_empty())
    }

    /// The outcome that nobody heard of is there.
    fn heard(self) -> Option<Self> {
        let mut state = self.with_reports(NEVER);
        let kept = state.kept.take().or_else(|| Some(*state.dropped.take()?.1))?;
        let kept = Some(Kept { ended: state.unheard.take().map(|ended| *ended), is_deferred: false, ..kept });
        Some(Self { kept, owner: None, last: None, dropped: None, ..state })
    }

    /// What was reported before this moment is taken in.
    fn with_reports(mut self, moment: u64) -> Self {
        let of_owner = self.owner.iter_mut().map(|owner| &mut owner.reported);
        for reports in of_owner.chain([&mut self.left]) {
            let (taken_in, rest) = std::mem::take(reports).into_iter().partition(|(_, (told, _))| *told <= moment);
            *reports = rest;
            let steps = self.kept.iter_mut().flat_map(|kept| &mut kept.steps);
            for step in steps.filter(|step| step.state == StepState::InDoubt) {
                let taken_in: &Reports = &taken_in;
                if let Some((_, result)) = taken_in.get(&step.name) {
                    step.settle(result.clone());
                }
            }
        }
        self
    }

    /// The process died: nobody owns anything, and what was in memory alone is lost.
    fn crashed(self) -> Self {
        Self { left: Reports::new(), last: None, dropped: None, unheard: None, ..self.freed() }
    }

    /// A run began, and with it `kept`. None where its token is not greater than every one before (P7).
    fn entered(self, kept: Kept, call: &KeyCall) -> Option<(Self, Answer)> {
        let token = match &call.answer {
            Some(Answer::Run { token, .. }) => Some(*token),
            _ => None,
        };
        if token.is_some_and(|token| token <= self.highest) {
            return None;
        }
        let (attempt, checkpoint, steps) = (kept.attempt, kept.checkpoint.clone(), kept.steps.clone());
        let answer = Answer::Run { token: token.unwrap_or_default(), attempt, checkpoint, steps };
        let owner =
            Owner { token, is_leaving: token.is_none(), moved: call.times, reported: Reports::new(), is_unsure: false };
        let highest = token.unwrap_or(self.highest);
        let (left, dropped, unheard) = (Reports::new(), None, None);
        let state = Self { kept: Some(kept), owner: Some(owner), left, last: token, dropped, unheard, highest };
        Some((state, answer))
    }

    fn is_owned_by(&self, token: u64) -> bool {
        self.owner.as_ref().is_some_and(|owner| owner.token == Some(token))
    }

    /// A change to what is unfinished, by the run with this token or by anybody.
    fn by(mut self, token: Option<u64>, times: (u64, u64), change: impl FnOnce(&mut Kept) -> Answer) -> (Self, Answer) {
        if token.is_some_and(|token| !self.is_owned_by(token)) {
            return (self, Answer::Refused(ErrorKind::Fenced));
        }
        if let (Some(_), Some(owner)) = (token, &mut self.owner) {
            // Some of what a run asks is answered without the writer, and begins no lease anew.
            owner.moved = (owner.moved.0, times.1);
        }
        let answer = match &mut self.kept {
            None => Answer::Refused(ErrorKind::NotFound),
            Some(Kept { ended: Some(_), .. }) => Answer::Refused(ErrorKind::Finished),
            Some(kept) => change(kept),
        };
        if let (Some(_), Some(owner), Answer::Moved(_) | Answer::Lost(_) | Answer::Done) =
            (token, &mut self.owner, &answer)
        {
            owner.moved = times;
        }
        (self, answer)
    }

    fn end(self, by: u64, ended: Ended) -> (Self, Answer) {
        let (success, bytes, span) = (ended.success, Arc::clone(&ended.bytes), ended.span);
        let (state, answer) = self.by(Some(by), span, |kept| {
            (kept.ended, kept.is_deferred) = (Some(ended), false);
            Answer::Replay { success, bytes }
        });
        match answer {
            Answer::Replay { .. } => (Self { owner: None, last: None, dropped: None, unheard: None, ..state }, answer),
            refusal => (state, refusal),
        }
    }

    /// A last call that came to nothing: its run lets go when the caller has heard of it.
    fn let_go_after(&self, act: &Act) -> Self {
        match act {
            Act::End { by, ends_run: true, .. } => self.clone().released(*by, true),
            _ => self.clone(),
        }
    }

    fn released(mut self, by: u64, lingers: bool) -> Self {
        match &mut self.owner {
            Some(owner) if owner.token == Some(by) && lingers => owner.is_leaving = true,
            Some(owner) if owner.token == Some(by) => return self.freed(),
            _ => {}
        }
        self
    }

    /// Taken in for the run that owns the operation, or that gave it free with nobody having entered since; of any
    /// other run it is evidence, and changes nothing.
    fn report(
        mut self,
        by: u64,
        step: &Arc<str>,
        told: (u64, Option<Bytes>),
        times: (u64, u64),
    ) -> Vec<(Self, Answer)> {
        let evidence = [(self.clone(), Answer::Done), (self.clone(), Answer::Refused(ErrorKind::Fenced))];
        match &mut self.owner {
            Some(owner) if owner.token == Some(by) => {
                // It reaches the writer at any moment from now on, and the lease begins anew then.
                owner.moved = (owner.moved.0.min(times.0), NEVER);
                owner.reported.insert(Arc::clone(step), told);
                vec![(self, Answer::Done)]
            }
            None if self.last == Some(by) && self.kept.is_some() => {
                self.left.insert(Arc::clone(step), told);
                evidence.into_iter().chain([(self, Answer::Done)]).collect()
            }
            _ => evidence.into(),
        }
    }

    fn revoke(self) -> (Self, Answer) {
        let is_owned = self.owner.is_some();
        (self.freed(), Answer::Whether(is_owned))
    }

    fn forget(self) -> (Self, Answer) {
        match (&self.kept, &self.owner) {
            (None, _) => (self, Answer::Whether(false)),
            (Some(_), Some(_)) => (self, Answer::Refused(ErrorKind::Busy)),
            (Some(_), None) => {
                (Self { kept: None, last: None, dropped: None, unheard: None, ..self }, Answer::Whether(true))
            }
        }
    }

    fn release_stuck(self) -> (Self, Answer) {
        self.by(None, (0, 0), |kept| {
            let were_there = kept.attempt > kept.released;
            (kept.released, kept.is_deferred) = (kept.attempt, kept.is_deferred && !were_there);
            Answer::Whether(were_there)
        })
    }
}

impl Kept {
    fn advance(&mut self, expected: u64, point: Point) -> Answer {
        if self.checkpoint.as_ref().map_or(0, |stands| stands.revision) != expected {
            return Answer::Lost(self.checkpoint.clone());
        }
        let revision = point.revision;
        (self.checkpoint, self.is_deferred) = (Some(point), false);
        Answer::Moved(revision)
    }

    fn intend(&mut self, name: &Arc<str>, again: bool) -> Answer {
        let attempt = self.attempt;
        let Some(step) = self.steps.iter_mut().find(|step| step.name == *name) else {
            let new = StepSeen { name: Arc::clone(name), attempt, state: StepState::InDoubt, result: None };
            self.steps.push(new);
            self.is_deferred = false;
            return Answer::Done;
        };
        match (&step.result, step.state) {
            (Some(result), _) => return Answer::Known(Arc::clone(result)),
            (None, StepState::InDoubt) if !again => return Answer::Refused(ErrorKind::InDoubt),
            _ => (step.attempt, step.state) = (attempt, StepState::InDoubt),
        }
        Answer::Done
    }

    fn resolve(&mut self, name: &Arc<str>, result: Option<&Bytes>, is_busy: bool) -> Answer {
        let step = self.steps.iter_mut().find(|step| step.name == *name);
        match step {
            _ if is_busy => Answer::Refused(ErrorKind::Busy),
            None => Answer::Refused(ErrorKind::NotFound),
            Some(step) if step.state != StepState::InDoubt => Answer::Refused(ErrorKind::NotInDoubt),
            Some(step) => {
                step.settle(result.cloned());
                Answer::Done
            }
        }
    }
}

impl StepSeen {
    fn settle(&mut self, result: Option<Bytes>) {
        self.state = if result.is_some() { StepState::Done } else { StepState::Withdrawn };
        self.result = result;
    }
}
