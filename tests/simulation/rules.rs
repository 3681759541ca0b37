//! What one key should be like, and what each call should come to: the promises as a small function of their own, that
//! shares nothing with the crate's rules.

/// Numbers calls, and so the runs that claims come to.
pub(crate) type OpId = u32;

/// Bytes, as far as they must be equal; 0 where there are none.
pub(crate) type Digest = u64;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy {
    pub(crate) retention: u64,
    pub(crate) tombstones: u64,
    pub(crate) lease: Option<u64>,
    pub(crate) attempts_max: u32,
}

/// The store's time, and what deadlines are counted from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Now {
    pub(crate) time: u64,
    pub(crate) ahead: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct State {
    /// How often the key began.
    pub(crate) begun: u32,
    pub(crate) record: Option<Rec>,
    pub(crate) owner: Option<Owner>,
    /// The server's rows that go with the checkpoint, and with the outcome.
    pub(crate) paid: Digest,
    pub(crate) order: Digest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Owner {
    pub(crate) run: OpId,
    pub(crate) moved: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Rec {
    /// Which of the times that the key began it is of.
    pub(crate) born: u32,
    pub(crate) fingerprint: u8,
    pub(crate) request: Digest,
    pub(crate) attempt: u32,
    pub(crate) released: u32,
    pub(crate) since: u64,
    /// Whether anything of it is on disk; not while its claim is deferred.
    pub(crate) durable: bool,
    pub(crate) checkpoint: Option<Mark>,
    pub(crate) steps: Vec<Stage>,
    pub(crate) end: Option<End>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Mark {
    pub(crate) revision: u64,
    pub(crate) at: u64,
    pub(crate) bytes: Digest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Stage {
    pub(crate) name: u8,
    pub(crate) attempt: u32,
    pub(crate) begun: u64,
    pub(crate) standing: Standing,
    pub(crate) notes: usize,
    pub(crate) late: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Standing {
    InDoubt,
    Done(Digest),
    Withdrawn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct End {
    pub(crate) success: bool,
    pub(crate) bytes: Digest,
    pub(crate) at: u64,
    pub(crate) until: u64,
    pub(crate) gone: u64,
}

/// What stands between an effect and its being done twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Guard {
    Rechecked,
    Keyed,
    AtMostOnce,
}

/// The server's own rows in the same commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Rows {
    None,
    Written(Digest),
    /// The closure fails or panics.
    Fail,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    Claim { fingerprint: Option<u8>, request: Digest, deferred: bool, waits: bool },
    Advance { by: Option<OpId>, expected: u64, bytes: Digest, rows: Rows },
    Step { by: OpId, name: u8, guard: Guard },
    Report { by: OpId, born: u32, attempt: u32, was_owner: bool, name: u8, result: Option<Digest> },
    Resolve { by: Option<OpId>, name: u8, result: Option<Digest> },
    Renew { by: OpId },
    End { by: OpId, success: bool, bytes: Digest, rows: Rows, consumes: bool },
    Free,
    Forget,
    Revoke,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Answer {
    /// Of a call that nobody hears the answer of.
    Unheard,
    Run(Entered),
    Replay {
        success: bool,
        bytes: Digest,
        at: u64,
    },
    Wait,
    Reject {
        since: u64,
    },
    Gone {
        at: u64,
        until: u64,
    },
    Moved {
        revision: u64,
    },
    Lost(Option<Mark>),
    /// The intent is recorded of a step that was not in doubt, or was.
    Fresh,
    Again,
    Known(Digest),
    Ok,
    Done(bool),
    Aborted,
    NotFound,
    Fenced,
    Finished,
    Busy,
    InDoubt,
    NotInDoubt,
    /// Refused without a change, for what became of the disk.
    Refused,
}

/// What a run finds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Entered {
    pub(crate) attempt: u32,
    pub(crate) since: u64,
    pub(crate) request: Digest,
    pub(crate) checkpoint: Option<Mark>,
    pub(crate) steps: Vec<Stage>,
}

/// What anybody sees who asks without claiming.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct View {
    pub(crate) stands: Stands,
    pub(crate) fingerprint: u8,
    pub(crate) attempt: u32,
    pub(crate) since: u64,
    pub(crate) request: Digest,
    pub(crate) checkpoint: Option<Mark>,
    pub(crate) steps: Vec<Stage>,
    pub(crate) outcome: Option<(bool, Digest, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Stands {
    Owned,
    Unfinished,
    Stuck,
    Succeeded,
    Failed,
    Gone,
}

const KEPT_MAX: usize = 16;

impl Op {
    /// The run that asks, where one does.
    pub(crate) fn run(&self) -> Option<OpId> {
        match self {
            Self::Advance { by, .. } | Self::Resolve { by, .. } => *by,
            Self::Step { by, .. } | Self::Report { by, .. } | Self::Renew { by } | Self::End { by, .. } => Some(*by),
            Self::Claim { .. } | Self::Free | Self::Forget | Self::Revoke => None,
        }
    }

    pub(crate) fn is_report(&self) -> bool {
        matches!(self, Self::Report { .. })
    }
}

impl State {
    fn is_owned(&self, now: Now, policy: Policy) -> bool {
        self.owner.is_some_and(|owner| policy.lease.is_none_or(|lease| now.time < owner.moved + lease))
    }

    /// The run leaves, or the process dies: what was only deferred was never there.
    pub(crate) fn freed(mut self) -> Self {
        self.owner = None;
        if self.record.as_ref().is_some_and(|record| !record.durable) {
            (self.record, self.begun) = (None, self.begun - 1);
        }
        self
    }

    /// Without what its time is over for.
    fn at(mut self, now: Now) -> Self {
        self.record = self.record.filter(|record| record.end.is_none_or(|end| now.time < end.gone));
        self
    }

    /// What anybody sees of it.
    pub(crate) fn view(&self, now: Now, policy: Policy) -> Option<View> {
        let record = self.record.as_ref().filter(|record| record.durable)?;
        let is_stuck = record.attempt - record.released >= policy.attempts_max;
        let stands = match record.end {
            Some(end) if now.time >= end.gone => return None,
            Some(end) if now.time >= end.until => Stands::Gone,
            Some(end) if end.success => Stands::Succeeded,
            Some(_) => Stands::Failed,
            None if self.is_owned(now, policy) => Stands::Owned,
            None if is_stuck => Stands::Stuck,
            None => Stands::Unfinished,
        };
        let is_gone = stands == Stands::Gone;
        let outcome = record.end.filter(|_| !is_gone).map(|end| (end.success, end.bytes, end.at));
        Some(View {
            stands,
            fingerprint: record.fingerprint,
            attempt: if is_gone { 0 } else { record.attempt },
            since: if is_gone { 0 } else { record.since },
            request: if record.end.is_some() { 0 } else { record.request },
            checkpoint: record.checkpoint.filter(|_| !is_gone),
            steps: if is_gone { Vec::new() } else { record.steps.clone() },
            outcome,
        })
    }
}

/// Everything that a call may come to, and what the key is like then.
pub(crate) fn apply(state: &State, id: OpId, op: &Op, now: Now, policy: Policy, is_sure: bool) -> Vec<(State, Answer)> {
    let mut comes_to = apply_now(state, id, op, now, policy, is_sure);
    // What is over stays as long as nothing takes its place: whether its row still stands nobody can tell.
    for (after, _) in comes_to.iter_mut().filter(|(after, _)| after.record.is_none() && after.begun == state.begun) {
        after.record = state.record.clone().filter(|record| record.end.is_some_and(|end| now.time >= end.gone));
    }
    comes_to
}

fn apply_now(state: &State, id: OpId, op: &Op, now: Now, policy: Policy, is_sure: bool) -> Vec<(State, Answer)> {
    // Where a row of what is over stands, its key is not deferred.
    let is_sure = is_sure && state.record.is_none();
    let mut state = state.clone().at(now);
    if let (Some(owner), Some(by)) = (&mut state.owner, op.run()) {
        let is_local = matches!(op, Op::Step { .. });
        if owner.run == by && !is_local {
            owner.moved = moved(now, policy);
        }
    }
    match op {
        Op::Claim { fingerprint, request, deferred, waits } => {
            let begun = (*fingerprint).map(|fingerprint| Rec {
                born: state.begun + 1,
                fingerprint,
                request: *request,
                attempt: 1,
                released: 0,
                since: now.time,
                durable: !deferred,
                checkpoint: None,
                steps: Vec::new(),
                end: None,
            });
            claim(state, id, *fingerprint, begun, *waits, now, policy, is_sure)
        }
        Op::Report { .. } => vec![(report(state, op), Answer::Ok)],
        Op::Forget => match (&state.record, state.owner) {
            (None, _) => vec![(state, Answer::Done(false))],
            (Some(_), Some(_)) => vec![(state, Answer::Busy)],
            (Some(_), None) => vec![(State { record: None, ..state }, Answer::Done(true))],
        },
        Op::Revoke => {
            let was_owned = state.owner.is_some();
            vec![(if was_owned { state.freed() } else { state }, Answer::Done(was_owned))]
        }
        _ => match refused(&state, op.run()) {
            Some(refusal) => vec![(state, refusal)],
            None => change(state, op, now, policy),
        },
    }
}

/// When an owner moved; nobody asks where there is no lease.
fn moved(now: Now, policy: Policy) -> u64 {
    policy.lease.map_or(0, |_| now.time)
}

fn refused(state: &State, by: Option<OpId>) -> Option<Answer> {
    match &state.record {
        _ if by.is_some() && by != state.owner.map(|owner| owner.run) => Some(Answer::Fenced),
        None => Some(Answer::NotFound),
        Some(record) if record.end.is_some() => Some(Answer::Finished),
        Some(_) => None,
    }
}

#[expect(clippy::too_many_arguments, reason = "all that a claim depends on")]
fn claim(
    mut state: State,
    id: OpId,
    asked: Option<u8>,
    begun: Option<Rec>,
    waits: bool,
    now: Now,
    policy: Policy,
    is_sure: bool,
) -> Vec<(State, Answer)> {
    let is_owned = state.is_owned(now, policy);
    let Some(record) = &mut state.record else {
        let Some(begun) = begun else { return vec![(state, Answer::NotFound)] };
        let entered = Answer::Run(Entered::of(&begun));
        let owner = Some(Owner { run: id, moved: moved(now, policy) });
        let (paid, order) = (state.paid, state.order);
        let with = |durable| {
            let record = Some(Rec { durable, ..begun.clone() });
            (State { begun: begun.born, record, owner, paid, order }, entered.clone())
        };
        // Where no number is reserved a claim is not deferred.
        return if begun.durable || is_sure { vec![with(begun.durable)] } else { vec![with(true), with(false)] };
    };
    if asked.is_some_and(|asked| asked != record.fingerprint) {
        let since = record.since;
        return vec![(state, Answer::Reject { since })];
    }
    match record.end {
        None if is_owned && waits => Vec::new(),
        None if is_owned => vec![(state, Answer::Wait)],
        None => {
            record.attempt += 1;
            record.durable = true;
            let entered = Answer::Run(Entered::of(record));
            state.owner = Some(Owner { run: id, moved: moved(now, policy) });
            vec![(state, entered)]
        }
        Some(end) if now.time < end.until => {
            vec![(state, Answer::Replay { success: end.success, bytes: end.bytes, at: end.at })]
        }
        Some(end) => vec![(state, Answer::Gone { at: end.at, until: end.gone })],
    }
}

fn report(mut state: State, op: &Op) -> State {
    let Op::Report { by, born, attempt, was_owner, name, result } = op else { return state };
    let owner = state.owner.map(|owner| owner.run);
    let Some(record) = state.record.as_mut().filter(|record| record.born == *born) else { return state };
    let may_settle = record.end.is_none() && record.attempt == *attempt;
    let Some(step) = record.steps.iter_mut().find(|step| step.name == *name) else { return state };
    let owns = owner == Some(*by) || owner.is_none() && *was_owner;
    if owns && may_settle && step.standing == Standing::InDoubt {
        step.standing = result.map_or(Standing::Withdrawn, Standing::Done);
    } else if owner != Some(*by) {
        step.late = (step.late + 1).min(KEPT_MAX);
    }
    state
}

/// What a call does to an operation that it may change.
fn change(mut state: State, op: &Op, now: Now, policy: Policy) -> Vec<(State, Answer)> {
    let owner = state.owner;
    let Some(record) = &mut state.record else { return Vec::new() };
    let answer = match op {
        Op::Advance { expected, bytes, rows, .. } => {
            let revision = record.checkpoint.map_or(0, |mark| mark.revision);
            if revision != *expected {
                Answer::Lost(record.checkpoint)
            } else if *rows == Rows::Fail {
                Answer::Aborted
            } else {
                record.durable = true;
                record.checkpoint = Some(Mark { revision: revision + 1, at: now.time, bytes: *bytes });
                if let Rows::Written(row) = rows {
                    state.paid = *row;
                }
                Answer::Moved { revision: revision + 1 }
            }
        }
        Op::Step { name, guard, .. } => return step(state, *name, *guard, now, policy),
        Op::Resolve { by, name, result } => match record.steps.iter_mut().find(|step| step.name == *name) {
            _ if owner.map(|owner| owner.run) != *by => Answer::Busy,
            None => Answer::NotFound,
            Some(step) if step.standing != Standing::InDoubt => Answer::NotInDoubt,
            Some(step) => {
                step.standing = result.map_or(Standing::Withdrawn, Standing::Done);
                step.notes = (step.notes + 1).min(KEPT_MAX);
                Answer::Ok
            }
        },
        Op::Renew { .. } => Answer::Ok,
        Op::End { rows: Rows::Fail, consumes, .. } => {
            return vec![(if *consumes { state.freed() } else { state }, Answer::Aborted)];
        }
        Op::End { success, bytes, rows, consumes, .. } => {
            let before = State { owner: None, ..state.clone() }.freed();
            let until = now.ahead + policy.retention;
            let gone = until + policy.tombstones;
            let record = state.record.as_mut().expect("it is there");
            record.durable = true;
            record.end = Some(End { success: *success, bytes: *bytes, at: now.time, until, gone });
            state.owner = None;
            if let Rows::Written(row) = rows {
                state.order = *row;
            }
            let mut all = vec![(state, Answer::Ok)];
            if *consumes {
                all.push((before, Answer::Refused));
            }
            return all;
        }
        Op::Free if record.attempt == record.released => Answer::Done(false),
        Op::Free => {
            record.released = record.attempt;
            record.durable = true;
            Answer::Done(true)
        }
        Op::Claim { .. } | Op::Report { .. } | Op::Forget | Op::Revoke => return Vec::new(),
    };
    vec![(state, answer)]
}

fn step(state: State, name: u8, guard: Guard, now: Now, policy: Policy) -> Vec<(State, Answer)> {
    let mut renewed = state.clone();
    if let Some(owner) = &mut renewed.owner {
        owner.moved = moved(now, policy);
    }
    let Some(record) = &mut renewed.record else { return Vec::new() };
    let attempt = record.attempt;
    let known = record.steps.iter_mut().find(|step| step.name == name);
    match known.map(|step| (step.standing, step)) {
        Some((Standing::Done(result), _)) => {
            vec![(state, Answer::Known(result)), (renewed, Answer::Known(result))]
        }
        Some((Standing::InDoubt, _)) if guard == Guard::AtMostOnce => vec![(state, Answer::InDoubt)],
        Some((before, step)) => {
            (step.attempt, step.begun, step.standing) = (attempt, now.time, Standing::InDoubt);
            vec![(renewed, if before == Standing::InDoubt { Answer::Again } else { Answer::Fresh })]
        }
        None => {
            record.durable = true;
            let (begun, standing) = (now.time, Standing::InDoubt);
            record.steps.push(Stage { name, attempt, begun, standing, notes: 0, late: 0 });
            vec![(renewed, Answer::Fresh)]
        }
    }
}

impl Entered {
    fn of(record: &Rec) -> Self {
        let Rec { attempt, since, request, checkpoint, steps, .. } = record;
        Self { attempt: *attempt, since: *since, request: *request, checkpoint: *checkpoint, steps: steps.clone() }
    }
}
