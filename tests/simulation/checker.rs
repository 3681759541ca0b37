//! Is there an order of all the calls on one key in which each comes to what it came to? Kept up while a run goes on.
//!
//! For each key it knows every state that the key may be in, with the calls that have taken effect in it without having
//! been answered. A call may take effect at any moment from when it is made until it is answered. What answers and
//! looks rule out goes; where nothing is left the promises were broken. A crash keeps what may have taken effect and
//! forgets the rest: whether a call that nobody heard the answer of is there, nobody knows; what was answered is there.

use std::collections::HashSet;

use super::rules::{Answer, End, Now, Op, OpId, Owner, Policy, Rows, State, View, apply};

/// More states than one key can be in; a bound against a checker that never ends.
const CONFIGS_MAX: usize = 200_000;

#[derive(Debug, Clone)]
struct Pending {
    id: OpId,
    op: Op,
    /// Whether nobody will hear of it any more.
    is_unheard: bool,
    /// Whether it is in doubt whether a commit that failed is there, so that it may show later, after a crash.
    is_unknown: bool,
    /// The moments at which the writer may have decided it.
    times: Vec<Now>,
    /// Of a report: whether its run has left, so that whoever enters next finds it taken in.
    is_left: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Config {
    state: State,
    /// The calls that have taken effect and are not answered, and what they came to.
    done: Vec<(OpId, Answer)>,
}

/// What is possible of one key.
#[derive(Debug, Clone)]
pub(crate) struct Checker {
    policy: Policy,
    pending: Vec<Pending>,
    configs: Vec<Config>,
    /// Whether a deferred claim is certain to be deferred.
    pub(crate) is_sure: bool,
    /// What is on disk, where nothing is written any more: one of these. What is refused later rules some of them out.
    left_behind: Option<Vec<Config>>,
}

/// What no order of the calls explains.
#[derive(Debug)]
pub(crate) struct Violation(pub(crate) String);

impl Checker {
    pub(crate) fn new(policy: Policy) -> Self {
        Self::of(policy, vec![State::default()])
    }

    pub(crate) fn of(policy: Policy, states: Vec<State>) -> Self {
        let configs = states.into_iter().map(|state| Config { state, done: Vec::new() }).collect();
        Self { policy, pending: Vec::new(), configs, is_sure: true, left_behind: None }
    }

    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// A call is made.
    pub(crate) fn ask(&mut self, id: OpId, op: Op) {
        let (is_unheard, is_left) = (op.is_report(), false);
        self.pending.push(Pending { id, op, is_unheard, is_unknown: false, times: Vec::new(), is_left });
    }

    /// The clock is about to move: whatever may have taken effect by now, may have done so now.
    pub(crate) fn before_time_moves(&mut self, now: Now) {
        if self.pending.is_empty() {
            return;
        }
        self.close(now);
        for pending in &mut self.pending {
            pending.times.push(now);
        }
    }

    /// Adds every state that unanswered calls may have led to.
    pub(crate) fn close(&mut self, now: Now) {
        let Self { policy, pending, configs, is_sure, .. } = self;
        if pending.is_empty() {
            return;
        }
        let mut seen: HashSet<Config> = configs.iter().cloned().collect();
        let mut next = 0;
        while let Some(config) = configs.get(next).cloned() {
            next += 1;
            assert!(configs.len() < CONFIGS_MAX, "too many states of one key: {pending:#?}");
            for call in pending.iter() {
                let Some(only_known) = may_take_effect(call, &config, pending) else { continue };
                // What is still waited for may be decided now as well.
                let earlier = if call.is_unknown { &call.times[..] } else { &[] };
                let until_now = (!call.is_unknown || !call.is_unheard).then_some(&now);
                for time in earlier.iter().chain(until_now) {
                    let held = held_to_its_end(call, &config, pending, *time);
                    let as_held = held.iter().flat_map(|held| effects(held, call, *time, *policy, *is_sure));
                    for (state, answer) in
                        effects(&config.state, call, *time, *policy, *is_sure).into_iter().chain(as_held)
                    {
                        if only_known && state != config.state && answer != Answer::Refused {
                            continue;
                        }
                        let mut done = config.done.clone();
                        let answer = if call.is_unheard { Answer::Unheard } else { answer };
                        done.push((call.id, answer));
                        done.sort_unstable_by_key(|(id, _)| *id);
                        let config = Config { state, done };
                        if seen.insert(config.clone()) {
                            configs.push(config);
                        }
                    }
                }
            }
        }
        self.settle_unheard();
    }

    /// Forgets those calls that have taken effect in every state, and whose answers nobody waits for.
    fn settle_unheard(&mut self) {
        let everywhere = |id: OpId| self.configs.iter().all(|config| config.done.iter().any(|(done, _)| *done == id));
        let settled: Vec<_> = self
            .pending
            .iter()
            .filter(|call| call.is_unheard)
            .map(|call| call.id)
            .filter(|id| everywhere(*id))
            .collect();
        if !settled.is_empty() {
            self.forget(&settled);
        }
    }

    fn forget(&mut self, ids: &[OpId]) {
        self.pending.retain(|call| !ids.contains(&call.id));
        for config in &mut self.configs {
            config.done.retain(|(id, _)| !ids.contains(id));
        }
        self.dedupe();
    }

    fn dedupe(&mut self) {
        let mut seen = HashSet::new();
        self.configs.retain(|config| seen.insert(config.clone()));
    }

    /// A call is answered.
    pub(crate) fn answered(
        &mut self,
        id: OpId,
        now: Now,
        what: &str,
        fits: impl Fn(&Answer) -> bool,
    ) -> Result<(), Violation> {
        self.close(now);
        let before = self.configs.clone();
        self.configs.retain(|config| config.done.iter().any(|(done, answer)| *done == id && fits(answer)));
        if self.configs.is_empty() {
            return Err(self.violation(what, &before));
        }
        self.forget(&[id]);
        Ok(())
    }

    /// A call is refused, and changed nothing.
    pub(crate) fn refused(&mut self, id: OpId, now: Now, what: &str) -> Result<(), Violation> {
        self.close(now);
        let before = self.configs.clone();
        let is_undone = |config: &Config| match config.done.iter().find(|(done, _)| *done == id) {
            None => true,
            Some((_, answer)) => *answer == Answer::Refused,
        };
        self.configs.retain(is_undone);
        if self.configs.is_empty() {
            return Err(self.violation(what, &before));
        }
        if let Some(left_behind) = &mut self.left_behind {
            let before = left_behind.clone();
            left_behind.retain(is_undone);
            if left_behind.is_empty() {
                return Err(self.violation(&format!("{what}, as the store stopped"), &before));
            }
        }
        self.forget(&[id]);
        Ok(())
    }

    /// Nobody will hear what becomes of a call: its caller is gone, or was told that nobody knows.
    pub(crate) fn unheard(&mut self, id: OpId, now: Now, is_unknown: bool) {
        self.close(now);
        let Some(call) = self.pending.iter_mut().find(|call| call.id == id) else { return };
        call.is_unheard = true;
        call.is_unknown |= is_unknown;
        let is_unknown = call.is_unknown;
        call.times.push(now);
        call.times.dedup();
        let is_claim = matches!(call.op, Op::Claim { .. });
        for config in &mut self.configs {
            for (done, answer) in &mut config.done {
                if *done == id {
                    *answer = Answer::Unheard;
                    // What was granted and not taken is given back.
                    if is_claim && config.state.owner.is_some_and(|owner| owner.run == id) {
                        config.state = std::mem::take(&mut config.state).freed();
                    }
                }
            }
        }
        if is_claim && !is_unknown {
            // A claim that nobody waits for is not made any more.
            self.forget(&[id]);
        } else {
            self.dedupe();
        }
    }

    /// Every call that was made before was decided, whoever heard of it: the writer has done a batch since.
    pub(crate) fn settle(&mut self, now: Now, before: OpId) {
        self.close(now);
        let settled = |call: &&Pending| call.is_unheard && !call.is_unknown && !call.op.is_report() && call.id < before;
        let ids: Vec<_> = self.pending.iter().filter(settled).map(|call| call.id).collect();
        let is_decided = |config: &Config| ids.iter().all(|id| config.done.iter().any(|(done, _)| done == id));
        if self.configs.iter().any(is_decided) {
            self.configs.retain(is_decided);
        }
        self.forget(&ids);
    }

    /// The disk was full while the writer worked: what was asked for may be on disk all the same, and show later.
    pub(crate) fn was_full(&mut self, now: Now) {
        self.close(now);
        for call in &mut self.pending {
            call.is_unknown = true;
            call.times.push(now);
        }
    }

    /// The writer stopped for a fault of the disk: what is there by now is all that a crash will ever find.
    pub(crate) fn stopped(&mut self, now: Now) {
        if self.left_behind.is_none() {
            self.close(now);
            self.left_behind = Some(self.configs.clone());
        }
    }

    /// A call was decided, one way or the other.
    pub(crate) fn decided(&mut self, id: OpId, now: Now) {
        self.close(now);
        self.forget(&[id]);
    }

    /// A run is dropped. The outcome that it asked for keeps the operation owned until it is decided.
    pub(crate) fn left(&mut self, run: OpId, now: Now) {
        self.close(now);
        let mut gone = Vec::new();
        let mut ending = None;
        self.lose_reports(run);
        for call in self.pending.iter_mut().filter(|call| call.op.run() == Some(run)) {
            match &mut call.op {
                Op::Report { was_owner, .. } => call.is_left |= *was_owner,
                _ if call.is_unknown => {}
                Op::End { consumes, .. } => (*consumes, ending) = (true, Some(call.id)),
                _ => gone.push(call.id),
            }
        }
        for config in &mut self.configs {
            let is_ended = ending.is_none_or(|id| config.done.iter().any(|(done, _)| *done == id));
            if is_ended && config.state.owner.is_some_and(|owner| owner.run == run) {
                config.state = std::mem::take(&mut config.state).freed();
            }
        }
        self.forget(&gone);
    }

    /// What a full disk refused of a run that leaves is left behind where the run still owns, and else lost: then it is
    /// as decided, and changes nothing.
    fn lose_reports(&mut self, run: OpId) {
        let unknown = |call: &&Pending| call.op.is_report() && call.op.run() == Some(run) && call.is_unknown;
        for id in self.pending.iter().filter(unknown).map(|call| call.id) {
            let may_lose = |config: &&Config| {
                config.state.owner.is_none_or(|owner| owner.run != run)
                    && config.done.iter().all(|(done, _)| *done != id)
            };
            let mut lost: Vec<_> = self.configs.iter().filter(may_lose).cloned().collect();
            for config in &mut lost {
                config.done.push((id, Answer::Unheard));
                config.done.sort_unstable_by_key(|(id, _)| *id);
            }
            self.configs.append(&mut lost);
        }
        self.dedupe();
    }

    /// Somebody looked, and saw this.
    pub(crate) fn seen(
        &mut self,
        now: Now,
        what: &str,
        is_so: impl Fn(&State, Option<View>) -> bool,
    ) -> Result<(), Violation> {
        self.close(now);
        let before = self.configs.clone();
        let policy = self.policy;
        self.configs.retain(|config| is_so(&config.state, config.state.view(now, policy)));
        if self.configs.is_empty() { Err(self.violation(what, &before)) } else { Ok(()) }
    }

    /// The least time that has come for certain, where what is possible has this deadline and it is known to be over.
    pub(crate) fn rests_on(&self, deadline: impl Fn(End) -> u64) -> u64 {
        let of = |config: &Config| config.state.record.as_ref().and_then(|record| record.end).map_or(0, &deadline);
        self.configs.iter().map(of).min().unwrap_or(0)
    }

    /// The next moment at which something may be over: an outcome, what is left of it, a lease.
    pub(crate) fn next_border(&self, now: Now) -> Option<u64> {
        let lease = self.policy.lease;
        let borders = |config: &Config| {
            let end = config.state.record.as_ref().and_then(|record| record.end);
            let owner = config.state.owner.zip(lease).map(|(owner, lease)| owner.moved + lease);
            [end.map(|end| end.until), end.map(|end| end.gone), owner]
        };
        self.configs.iter().flat_map(borders).flatten().filter(|border| *border > now.time).min()
    }

    /// The states that a crash at this moment may leave.
    pub(crate) fn after_a_crash(&self, now: Now) -> Vec<State> {
        let left = self.left_behind.clone().unwrap_or_else(|| {
            let mut left = self.clone();
            left.close(now);
            left.configs
        });
        let mut seen = HashSet::new();
        let states = left.into_iter().map(|config| config.state.freed());
        states.filter(|state| seen.insert(state.clone())).collect()
    }

    /// The incarnations that the record which this run entered may be of.
    pub(crate) fn incarnations(&self, run: OpId) -> Vec<u32> {
        let owned = |config: &&Config| config.state.owner.is_some_and(|owner| owner.run == run);
        let records = self.configs.iter().filter(owned).filter_map(|config| config.state.record.as_ref());
        records.map(|record| record.born).collect()
    }

    /// Calls the record that this run entered by the same number in every state: nobody can tell them apart.
    pub(crate) fn relabel(&mut self, run: OpId, born: u32) {
        let most = self.configs.iter().map(|config| config.state.begun).max().unwrap_or(0);
        for config in &mut self.configs {
            config.state.begun = most;
            if config.state.owner.is_some_and(|owner| owner.run == run) {
                config.state.record.iter_mut().for_each(|record| record.born = born);
            }
        }
        self.dedupe();
    }

    fn violation(&self, what: &str, before: &[Config]) -> Violation {
        let most = before.len().min(12);
        let shown = &before[..most];
        Violation(format!(
            "{what}\nbut what was possible were {} states: {shown:#?}\npending: {:#?}",
            before.len(),
            self.pending
        ))
    }
}

/// Whether this call may be the next to take effect: a run's calls do so in their order, as far as its reports go, and
/// a claim does so behind what a run reported that left before. What is answered from what is known already, or
/// refused, waits for no report, and changes nothing that is kept: then this is true.
fn may_take_effect(call: &Pending, config: &Config, pending: &[Pending]) -> Option<bool> {
    let is_done = |id: OpId| config.done.iter().any(|(done, _)| *done == id);
    let owner = config.state.owner.map(|owner| owner.run);
    let goes_before = |other: &&Pending| {
        // What a full disk refused of a run that was overtaken since is lost.
        let is_lost = other.is_unknown && owner != other.op.run();
        other.op.is_report()
            && match &call.op {
                Op::Claim { .. } => other.is_left && other.id < call.id,
                // These carry no report that was refused for a full disk.
                Op::Renew { .. } => false,
                Op::Report { .. } if other.is_unknown => false,
                op => op.run().is_some() && op.run() == other.op.run() && other.id < call.id && !is_lost,
            }
    };
    if is_done(call.id) {
        return None;
    }
    let is_next = pending.iter().filter(goes_before).all(|other| is_done(other.id));
    let may_be_known = matches!(call.op, Op::Step { .. } | Op::Claim { .. } | Op::End { .. });
    (is_next || may_be_known).then_some(!is_next)
}

fn effects(state: &State, call: &Pending, now: Now, policy: Policy, is_sure: bool) -> Vec<(State, Answer)> {
    let Some(run) = call.op.run().filter(|_| call.is_unknown && !call.op.is_report()) else {
        let made = apply(state, call.id, &call.op, now, policy, is_sure);
        if call.is_unheard && matches!(call.op, Op::Claim { .. }) {
            return made.into_iter().map(|(state, answer)| (given_back(state, call.id), answer)).collect();
        }
        return made;
    };
    // It was decided when its run still owned the operation, and shows when nobody does.
    let now_too = if call.is_unheard { Vec::new() } else { apply(state, call.id, &call.op, now, policy, is_sure) };
    let owner = state.owner;
    let as_owner = State { owner: Some(Owner { run, moved: now.time }), ..state.clone() };
    let made = apply(&as_owner, call.id, &call.op, now, policy, is_sure).into_iter();
    made.map(|(made, answer)| {
        (
            State { owner: owner.filter(|owner| owner.run != run).or(made.owner.filter(|_| owner.is_some())), ..made },
            answer,
        )
    })
    // Or it was refused then, and is decided now that it is asked for once more.
    .chain(now_too)
    .collect()
}

/// What a claim finds in the batch of an end that fails for its rows: that shows that its run is at work, which owns
/// until the batch is over.
fn held_to_its_end(call: &Pending, config: &Config, pending: &[Pending], now: Now) -> Option<State> {
    let owner = config.state.owner.filter(|_| matches!(call.op, Op::Claim { .. }))?;
    let is_failing_end = |other: &Pending| {
        matches!(other.op, Op::End { by, rows: Rows::Fail, consumes: true, .. } if by == owner.run)
            && config.done.iter().all(|(done, _)| *done != other.id)
    };
    let moved = now.time;
    pending.iter().any(is_failing_end).then(|| State { owner: Some(Owner { moved, ..owner }), ..config.state.clone() })
}

fn given_back(state: State, run: OpId) -> State {
    if state.owner.is_some_and(|owner| owner.run == run) { state.freed() } else { state }
}
