//! The checker itself: it takes histories that the promises allow, refuses those that they do not, and agrees with
//! trying every order.

use reentry::{ErrorKind, State, StepState};

use super::calls::{Act, Answer, Bytes, KeyCall, KeyHistory, Point, Seen, StepSeen};
use super::linearizable::{Call, Sequential, check, order};
use super::promises::{Operation, Promises};
use super::support::Dice;

const CLAIM: Act = Act::Claim { request: Some(1), deferred: false };
const OTHER: Act = Act::Claim { request: Some(2), deferred: false };
const DEFERRED: Act = Act::Claim { request: Some(1), deferred: true };

fn bytes(text: &str) -> Bytes {
    text.as_bytes().into()
}

fn point(revision: u64) -> Point {
    Point { revision, name: "paid".into(), bytes: bytes("7") }
}

fn run(token: u64, attempt: u32, checkpoint: Option<Point>) -> Answer {
    Answer::Run { token, attempt, checkpoint, steps: Vec::new() }
}

fn advance(by: Option<u64>, expected: u64) -> Act {
    Act::Advance { by, expected, name: "paid".into(), bytes: bytes("7") }
}

fn end(by: u64) -> Act {
    Act::End { by, success: true, bytes: bytes("done"), ends_run: true }
}

fn drop_of(by: u64) -> Act {
    Act::Release { by, lingers: false }
}

fn replay() -> Answer {
    Answer::Replay { success: true, bytes: bytes("done") }
}

fn told(state: State, attempt: u32, checkpoint: Option<Point>) -> Answer {
    let outcome = (state == State::Succeeded).then(|| (true, bytes("done")));
    Answer::Told(Some(Seen { state, request: 1, attempt, checkpoint, steps: Vec::new(), outcome }))
}

fn step(state: StepState, attempt: u32) -> StepSeen {
    let result = (state == StepState::Done).then(|| bytes("receipt"));
    StepSeen { name: "pay".into(), attempt, state, result }
}

/// A history told as a story, at a clock that stands still unless it is moved.
#[derive(Default)]
struct Story {
    history: KeyHistory,
    now: u64,
}

impl Story {
    /// One call after all before it.
    fn then(self, act: Act, answer: impl Into<Option<Answer>>) -> Self {
        let asked = self.history.ask(self.history.epoch(), 0, act, self.now);
        self.history.tell(asked, answer.into(), self.now);
        self
    }

    /// Two calls that overlap.
    fn at_once(self, one: (Act, impl Into<Option<Answer>>), other: (Act, impl Into<Option<Answer>>)) -> Self {
        let epoch = self.history.epoch();
        let first = self.history.ask(epoch, 0, one.0, self.now);
        let second = self.history.ask(epoch, 1, other.0, self.now);
        self.history.tell(first, one.1.into(), self.now);
        self.history.tell(second, other.1.into(), self.now);
        self
    }

    /// One call, and what comes between its being asked and its answer.
    fn around(self, act: Act, answer: impl Into<Option<Answer>>, within: impl FnOnce(Self) -> Self) -> Self {
        let asked = self.history.ask(self.history.epoch(), 1, act, self.now);
        let after = within(self);
        after.history.tell(asked, answer.into(), after.now);
        after
    }

    /// A call whose answer nobody ever knows.
    fn unknown(self, act: Act) -> Self {
        self.then(act, None)
    }

    fn crash(self) -> Self {
        self.history.begin_crash();
        self.history.end_crash(Act::Crash, Answer::Done, self.now);
        self
    }

    fn later(self, span: u64) -> Self {
        Self { now: self.now + span, ..self }
    }

    #[track_caller]
    fn holds(self, rules: Promises) {
        if let Err(violation) = check(&rules, &self.history.calls()) {
            panic!("{violation:?}");
        }
    }

    /// No order explains the answer to this act.
    #[track_caller]
    fn breaks(self, rules: Promises, at: &Act) {
        let violation = check(&rules, &self.history.calls()).expect_err("no order explains it");
        assert_eq!(violation.call.act, *at, "{violation:?}");
    }
}

fn plain() -> Promises {
    Promises::default()
}

fn leased() -> Promises {
    Promises { lease: Some(100), ..plain() }
}

fn kept_for_100() -> Promises {
    Promises { retention: 100, tombstones: 50, ..plain() }
}

#[test]
fn what_the_promises_allow_is_taken() {
    let story = Story::default().at_once((CLAIM, run(7, 1, None)), (CLAIM, Answer::Wait { attempt: 1 }));
    let story = story.then(OTHER, Answer::Reject).then(advance(Some(7), 0), Answer::Moved(1));
    let story =
        story.at_once((advance(None, 1), Answer::Moved(2)), (advance(Some(7), 1), Answer::Lost(Some(point(2)))));
    let story = story.then(Act::Progress, told(State::Owned, 1, Some(point(2)))).then(drop_of(7), Answer::Done);
    let story = story.then(Act::Progress, told(State::Unfinished, 1, Some(point(2))));
    let story = story.then(CLAIM, run(9, 2, Some(point(2)))).at_once((CLAIM, replay()), (end(9), replay()));
    let story = story.then(Act::Forget, Answer::Whether(true)).then(OTHER, run(11, 1, None));
    story
        .crash()
        .then(Act::Progress, Answer::Told(Some(Seen { request: 2, ..seen(State::Unfinished) })))
        .holds(plain());
}

fn seen(state: State) -> Seen {
    Seen { state, request: 1, attempt: 1, checkpoint: None, steps: Vec::new(), outcome: None }
}

#[test]
fn p1_two_owners_at_once_are_found() {
    let twice = Story::default().at_once((CLAIM, run(7, 1, None)), (CLAIM, run(8, 1, None)));
    twice.breaks(plain(), &CLAIM);
    let second = Story::default().then(CLAIM, run(7, 1, None)).then(CLAIM, run(8, 2, None));
    second.breaks(plain(), &CLAIM);
    let given_back = Story::default().at_once((CLAIM, run(7, 1, None)), (CLAIM, run(8, 2, None)));
    given_back.then(drop_of(7), Answer::Done).breaks(plain(), &CLAIM);
}

#[test]
fn p1_a_run_may_be_granted_while_the_one_before_is_being_dropped_and_not_sooner() {
    let owned = || Story::default().then(CLAIM, run(7, 1, None));
    owned().at_once((drop_of(7), Answer::Done), (CLAIM, run(8, 2, None))).holds(plain());
    owned().then(drop_of(7), Answer::Done).then(CLAIM, Answer::Wait { attempt: 1 }).breaks(plain(), &CLAIM);
}

#[test]
fn p7_a_token_that_is_no_greater_is_found() {
    let story = Story::default().then(CLAIM, run(7, 1, None)).then(drop_of(7), Answer::Done);
    story.then(CLAIM, run(7, 2, None)).breaks(plain(), &CLAIM);
}

#[test]
fn p3_a_lost_update_is_found() {
    let story = Story::default().then(CLAIM, run(7, 1, None));
    let both = (advance(None, 0), Answer::Moved(1));
    story.at_once((advance(Some(7), 0), Answer::Moved(1)), both).breaks(plain(), &advance(None, 0));
}

#[test]
fn p5_a_replay_before_the_completion_is_found() {
    let story = Story::default().then(CLAIM, run(7, 1, None)).then(CLAIM, replay());
    story.then(end(7), replay()).breaks(plain(), &CLAIM);
    let other_bytes = Answer::Replay { success: true, bytes: bytes("other") };
    let story = Story::default().then(CLAIM, run(7, 1, None)).then(end(7), replay());
    story.then(CLAIM, other_bytes).breaks(plain(), &CLAIM);
}

#[test]
fn p3_a_stale_read_is_found() {
    let story = || Story::default().then(CLAIM, run(7, 1, None));
    let stale = (Act::Progress, told(State::Owned, 1, None));
    story().at_once((advance(Some(7), 0), Answer::Moved(1)), stale.clone()).holds(plain());
    let told = story().then(advance(Some(7), 0), Answer::Moved(1)).then(stale.0, stale.1);
    told.breaks(plain(), &Act::Progress);
}

#[test]
fn p2_a_change_that_was_acknowledged_and_is_gone_after_a_crash_is_found() {
    let story = || Story::default().then(CLAIM, run(7, 1, None));
    let acknowledged = story().then(advance(Some(7), 0), Answer::Moved(1)).crash();
    acknowledged.then(CLAIM, run(8, 2, None)).breaks(plain(), &CLAIM);
    let read = story().unknown(advance(Some(7), 0)).then(Act::Progress, told(State::Owned, 1, Some(point(1)))).crash();
    read.then(CLAIM, run(8, 2, None)).breaks(plain(), &CLAIM);
}

#[test]
fn p7_nobody_owns_anything_after_a_crash() {
    let story = Story::default().then(CLAIM, run(7, 1, None)).crash();
    story.then(CLAIM, Answer::Wait { attempt: 1 }).breaks(plain(), &CLAIM);
}

#[test]
fn an_unknown_change_may_show_at_any_later_moment_and_stays_then() {
    let story = || Story::default().then(CLAIM, run(7, 1, None)).unknown(advance(Some(7), 0));
    let (before, after) = (told(State::Owned, 1, None), told(State::Owned, 1, Some(point(1))));
    story().then(Act::Progress, before.clone()).then(Act::Progress, after.clone()).holds(plain());
    let undone = story().then(Act::Progress, after).then(Act::Progress, before);
    undone.breaks(plain(), &Act::Progress);
}

#[test]
fn an_unknown_change_that_shows_twice_is_found() {
    let story = Story::default().then(CLAIM, run(7, 1, None)).unknown(advance(None, 0));
    let once = story.then(Act::Progress, told(State::Owned, 1, Some(point(1))));
    let twice = once.then(Act::Progress, told(State::Owned, 1, Some(point(2))));
    twice.breaks(plain(), &Act::Progress);
}

#[test]
fn what_was_under_way_at_a_crash_has_happened_before_it_or_never_does() {
    let story = || Story::default().then(CLAIM, run(7, 1, None)).unknown(advance(Some(7), 0)).crash();
    let (before, after) = (told(State::Unfinished, 1, None), told(State::Unfinished, 1, Some(point(1))));
    story().then(Act::Progress, after.clone()).holds(plain());
    story().then(Act::Progress, before.clone()).holds(plain());
    story().then(Act::Progress, before).then(Act::Progress, after).breaks(plain(), &Act::Progress);
}

#[test]
fn an_answer_that_comes_when_the_process_is_dead_was_heard_by_nobody() {
    let story = Story::default().then(CLAIM, run(7, 1, None));
    let epoch = story.history.epoch();
    let asked = story.history.ask(epoch, 0, advance(Some(7), 0), 0);
    story.history.begin_crash();
    story.history.tell(asked, Some(Answer::Moved(1)), 0);
    story.history.end_crash(Act::Crash, Answer::Done, 0);
    let late = story.history.ask(epoch, 0, advance(Some(7), 1), 0);
    story.history.tell(late, Some(Answer::Moved(2)), 0);
    story.then(CLAIM, run(8, 2, None)).holds(plain());
}

#[test]
fn a_claim_that_nobody_took_may_count_and_own_for_a_while_and_is_given_back() {
    let story = || Story::default().then(CLAIM, run(7, 1, None)).then(drop_of(7), Answer::Done).unknown(CLAIM);
    story().then(CLAIM, Answer::Wait { attempt: 2 }).then(CLAIM, run(9, 3, None)).holds(plain());
    story().then(CLAIM, run(9, 2, None)).holds(plain());
    story().then(CLAIM, run(9, 4, None)).breaks(plain(), &CLAIM);
}

#[test]
fn a_run_whose_last_call_is_unknown_completes_or_lets_go() {
    let story = || Story::default().then(CLAIM, run(7, 1, None)).unknown(end(7));
    story().then(CLAIM, Answer::Wait { attempt: 1 }).then(CLAIM, replay()).holds(plain());
    story().then(CLAIM, run(9, 2, None)).holds(plain());
    story().then(CLAIM, run(9, 2, None)).then(CLAIM, replay()).breaks(plain(), &CLAIM);
}

#[test]
fn p7_a_fenced_run_changes_nothing() {
    let taken = || {
        let story = Story::default().then(CLAIM, run(7, 1, None)).then(Act::Revoke, Answer::Whether(true));
        story.then(CLAIM, run(8, 2, None))
    };
    let fenced = Answer::Refused(ErrorKind::Fenced);
    taken().then(end(7), fenced.clone()).then(advance(Some(7), 0), fenced).holds(plain());
    taken().then(end(7), replay()).breaks(plain(), &end(7));
    taken().then(drop_of(7), Answer::Done).then(CLAIM, run(9, 3, None)).breaks(plain(), &CLAIM);
}

#[test]
fn p7_a_lease_is_taken_over_when_it_has_lapsed_and_no_sooner() {
    let owned = || Story::default().then(CLAIM, run(7, 1, None)).later(60);
    let renew = Act::Renew { by: 7 };
    owned().later(39).then(CLAIM, Answer::Wait { attempt: 1 }).holds(leased());
    owned().later(39).then(CLAIM, run(8, 2, None)).breaks(leased(), &CLAIM);
    owned().later(40).then(CLAIM, run(8, 2, None)).holds(leased());
    owned().later(40).then(CLAIM, Answer::Wait { attempt: 1 }).breaks(leased(), &CLAIM);
    owned().then(renew.clone(), Answer::Done).later(99).then(CLAIM, run(8, 2, None)).breaks(leased(), &CLAIM);
    owned().later(90).then(renew, Answer::Done).holds(leased());
}

#[test]
fn p7_an_outcome_whose_closure_may_have_failed_unheard_may_have_begun_the_lease_anew() {
    let story = |ends_run| {
        let ended = Act::End { by: 7, success: true, bytes: bytes("done"), ends_run };
        let owned = Story::default().then(CLAIM, run(7, 1, None)).later(90).then(ended, None).later(50);
        owned.then(CLAIM, Answer::Wait { attempt: 1 })
    };
    story(false).holds(leased());
    story(true).breaks(leased(), &CLAIM);
}

#[test]
fn p5_an_outcome_is_replayed_until_its_retention_ends_and_its_tombstone_stands_then() {
    let ended = || Story::default().then(CLAIM, run(7, 1, None)).then(end(7), replay());
    ended().later(99).then(CLAIM, replay()).later(1).then(CLAIM, Answer::Gone).holds(kept_for_100());
    ended().later(99).then(CLAIM, Answer::Gone).breaks(kept_for_100(), &CLAIM);
    ended().later(100).then(CLAIM, replay()).breaks(kept_for_100(), &CLAIM);
    ended().later(149).then(CLAIM, run(9, 1, None)).breaks(kept_for_100(), &CLAIM);
    ended().later(150).then(OTHER, run(9, 1, None)).holds(kept_for_100());
}

#[test]
fn p4_a_reported_result_is_on_disk_with_the_next_change_and_never_runs_again() {
    let intend = |by, again| Act::Intend { by, step: "pay".into(), again };
    let report = Act::Report { by: 7, step: "pay".into(), result: Some(bytes("receipt")) };
    let begun = || Story::default().then(CLAIM, run(7, 1, None)).then(intend(7, false), Answer::Done);
    let reported = || begun().then(report.clone(), Answer::Done);
    let entered = |state| Answer::Run { token: 8, attempt: 2, checkpoint: None, steps: vec![step(state, 1)] };
    // Lost with a crash, or not; by no other way.
    reported().crash().then(CLAIM, entered(StepState::InDoubt)).holds(plain());
    reported().crash().then(CLAIM, entered(StepState::Done)).holds(plain());
    let dropped = || reported().then(drop_of(7), Answer::Done);
    dropped().then(CLAIM, entered(StepState::Done)).holds(plain());
    dropped().then(CLAIM, entered(StepState::InDoubt)).breaks(plain(), &CLAIM);
    let moved = reported().then(advance(Some(7), 0), Answer::Moved(1)).crash();
    let Answer::Run { token, attempt, steps, .. } = entered(StepState::InDoubt) else { panic!("it is a run") };
    let in_doubt = Answer::Run { token, attempt, steps, checkpoint: Some(point(1)) };
    moved.then(CLAIM, in_doubt).breaks(plain(), &CLAIM);
    let known = dropped().then(CLAIM, entered(StepState::Done));
    known.then(intend(8, true), Answer::Done).breaks(plain(), &intend(8, true));
    begun().then(drop_of(7), Answer::Done).then(CLAIM, entered(StepState::InDoubt)).holds(plain());
}

#[test]
fn p4_what_is_in_doubt_is_begun_again_by_who_knows_it_and_resolved_beside_no_run() {
    let intend = |again| Act::Intend { by: 7, step: "pay".into(), again };
    let resolve = |by| Act::Resolve { by, step: "pay".into(), result: None };
    let begun = || Story::default().then(CLAIM, run(7, 1, None)).then(intend(false), Answer::Done);
    begun().then(intend(false), Answer::Done).breaks(plain(), &intend(false));
    begun().then(intend(false), Answer::Refused(ErrorKind::InDoubt)).then(intend(true), Answer::Done).holds(plain());
    begun().then(resolve(None), Answer::Done).breaks(plain(), &resolve(None));
    let busy = begun().then(resolve(None), Answer::Refused(ErrorKind::Busy));
    let resolved = busy.then(resolve(Some(7)), Answer::Done);
    resolved.then(resolve(Some(7)), Answer::Refused(ErrorKind::NotInDoubt)).holds(plain());
}

#[test]
fn a_deferred_claim_is_lost_with_its_run_until_a_change_keeps_it() {
    let claimed = || Story::default().then(DEFERRED, run(7, 1, None));
    let nothing = Answer::Told(None);
    claimed()
        .then(Act::Progress, nothing.clone())
        .then(drop_of(7), Answer::Done)
        .then(OTHER, run(8, 1, None))
        .holds(plain());
    claimed().crash().then(CLAIM, run(8, 1, None)).holds(plain());
    let moved = || claimed().then(advance(Some(7), 0), Answer::Moved(1));
    moved().then(Act::Progress, nothing).breaks(plain(), &Act::Progress);
    moved().crash().then(CLAIM, run(8, 1, None)).breaks(plain(), &CLAIM);
    claimed().then(OTHER, Answer::Reject).then(CLAIM, Answer::Wait { attempt: 1 }).holds(plain());
}

/// A change by name is decided while the run is still there, and is seen only when its run has let go.
#[test]
fn who_changes_by_name_what_a_run_lets_go_of_may_keep_it_and_only_where_both_were_under_way() {
    for (change, answer, kept) in
        [(advance(None, 0), Answer::Moved(1), Some(point(1))), (Act::ReleaseStuck, Answer::Whether(true), None)]
    {
        let claimed = || Story::default().then(DEFERRED, run(7, 1, None));
        let drops = |story: Story| story.then(drop_of(7), Answer::Done).then(Act::Progress, Answer::Told(None));
        let shows = told(State::Unfinished, 1, kept);
        claimed().around(change.clone(), answer.clone(), drops).then(Act::Progress, shows.clone()).holds(plain());
        drops(claimed()).then(change.clone(), answer.clone()).breaks(plain(), &change);
        let begins_anew = |story: Story| drops(story).then(OTHER, run(8, 1, None)).then(drop_of(8), Answer::Done);
        // Another has begun meanwhile: what was let go of does not come back.
        let around = claimed().around(change, answer, begins_anew);
        around.then(Act::Progress, shows).breaks(plain(), &Act::Progress);
    }
}

/// A claim that was asked for before a result was reported need not know of it; one that came later must.
#[test]
fn p4_a_claim_that_was_under_way_may_miss_what_was_reported_meanwhile_and_a_later_one_not() {
    let intend = Act::Intend { by: 7, step: "pay".into(), again: false };
    let report = Act::Report { by: 7, step: "pay".into(), result: Some(bytes("receipt")) };
    let begun = || Story::default().then(CLAIM, run(7, 1, None)).then(intend.clone(), Answer::Done);
    let ends = |story: Story| story.then(report.clone(), Answer::Done).then(drop_of(7), Answer::Done);
    let entered = |state| Answer::Run { token: 8, attempt: 2, checkpoint: None, steps: vec![step(state, 1)] };
    begun().around(CLAIM, entered(StepState::InDoubt), ends).holds(plain());
    begun().around(CLAIM, entered(StepState::Done), ends).holds(plain());
    ends(begun()).then(CLAIM, entered(StepState::InDoubt)).breaks(plain(), &CLAIM);
}

/// The writer may have decided what a run asked for before the run let go, and nobody have seen it yet.
#[test]
fn what_a_run_asked_for_and_never_heard_of_may_come_after_it_let_go_and_not_beside_another() {
    let begun = || Story::default().then(CLAIM, run(7, 1, None));
    let let_go = || begun().unknown(advance(Some(7), 0)).then(drop_of(7), Answer::Done);
    let shows = |checkpoint| told(State::Unfinished, 1, checkpoint);
    let_go().then(Act::Progress, shows(None)).then(Act::Progress, shows(Some(point(1)))).holds(plain());
    let back = let_go().then(Act::Progress, shows(Some(point(1))));
    back.then(Act::Progress, shows(None)).breaks(plain(), &Act::Progress);
    let other = let_go().then(CLAIM, run(8, 2, None)).then(drop_of(8), Answer::Done);
    let moved = told(State::Unfinished, 2, Some(point(1)));
    other.then(Act::Progress, moved).breaks(plain(), &Act::Progress);
    // An outcome too, which lets go of the run by itself.
    let ended = || begun().unknown(end(7)).then(Act::Progress, shows(None));
    ended().crash().then(CLAIM, replay()).holds(plain());
    ended().crash().then(CLAIM, run(8, 2, None)).then(CLAIM, replay()).breaks(plain(), &CLAIM);
    ended().then(Act::Progress, told(State::Succeeded, 1, None)).holds(plain());
    ended().then(CLAIM, run(8, 2, None)).then(CLAIM, replay()).breaks(plain(), &CLAIM);
}

#[test]
fn p6_what_is_unfinished_is_forgotten_by_name_alone_and_never_beside_a_run() {
    let claimed = || Story::default().then(CLAIM, run(7, 1, None));
    claimed().then(Act::Forget, Answer::Whether(true)).breaks(plain(), &Act::Forget);
    let free = || claimed().then(Act::Forget, Answer::Refused(ErrorKind::Busy)).then(drop_of(7), Answer::Done);
    free().later(1 << 50).then(CLAIM, run(8, 1, None)).breaks(plain(), &CLAIM);
    free().then(Act::Forget, Answer::Whether(true)).then(CLAIM, run(8, 1, None)).holds(plain());
}

/// Whether trying every order of every choice of what is unknown finds one.
fn by_force(rules: &Promises, calls: &[KeyCall]) -> bool {
    fn go(rules: &Promises, calls: &[KeyCall], is_done: &mut [bool], states: &[Operation]) -> bool {
        if states.is_empty() {
            return false;
        }
        if calls.iter().zip(&*is_done).all(|(call, is_done)| *is_done || call.answer.is_none()) {
            return true;
        }
        for nth in 0..calls.len() {
            // What was over before this was asked comes before it, or never where nobody knows whether it happened.
            let is_next = (0..calls.len())
                .all(|other| is_done[other] || calls[other].answer.is_none() || calls[other].until >= calls[nth].asked);
            let too_late = (0..calls.len()).any(|other| is_done[other] && calls[nth].until < calls[other].asked);
            if is_done[nth] || !is_next || too_late {
                continue;
            }
            is_done[nth] = true;
            let after: Vec<_> = states.iter().flat_map(|state| rules.after(state, &calls[nth])).collect();
            let found = go(rules, calls, is_done, &after);
            is_done[nth] = false;
            if found {
                return true;
            }
        }
        false
    }
    go(rules, calls, &mut vec![false; calls.len()], &[rules.begin()])
}

/// A tiny history: what one caller after the other might be told, spread until it overlaps, and mostly spoiled.
fn tiny(rules: &Promises, dice: &mut Dice) -> Vec<KeyCall> {
    let length = 2 + dice.below(5) as u64;
    let (mut calls, mut state) = (Vec::new(), rules.begin());
    for nth in 0..length {
        // Every moment is one call's alone: 16 a call, and of each the first half is for asking.
        let (asked, until) = (100 + 16 * nth + nth, 100 + 16 * nth + 9 + nth);
        let (asked, until) = (asked - 16 * dice.below(5) as u64, until + 16 * dice.below(4) as u64);
        let (act, answers) = any(dice);
        let call = Call { caller: 0, act, answer: None, asked, until, times: (10 * nth, 10 * nth) };
        let told = |answer: &Answer| {
            let call = Call { answer: Some(answer.clone()), ..call.clone() };
            rules.after(&state, &call).pop().map(|state| (call, state))
        };
        let Some((call, after)) = answers.iter().find_map(told) else { continue };
        state = after;
        calls.push(call);
    }
    for _ in 0..dice.below(3) {
        let nth = dice.below(calls.len().max(1));
        let Some(call) = calls.get_mut(nth) else { break };
        match dice.below(3) {
            0 => call.answer = None,
            _ => call.answer = answers_to(&call.act).get(dice.below(4)).cloned().or(call.answer.take()),
        }
    }
    calls
}

/// An act, and what it may be answered.
fn any(dice: &mut Dice) -> (Act, Vec<Answer>) {
    let by = 1 + dice.below(3) as u64;
    let anybody = (dice.below(2) == 0).then_some(by);
    let acts = [CLAIM, CLAIM, OTHER, DEFERRED, advance(anybody, dice.below(2) as u64), end(by), drop_of(by)];
    let more = [Act::Forget, Act::Revoke, Act::Progress, Act::Crash, Act::Renew { by }];
    let act = acts.iter().chain(&more).nth(dice.below(acts.len() + more.len())).cloned().unwrap_or(CLAIM);
    let answers = answers_to(&act);
    (act, answers)
}

fn answers_to(act: &Act) -> Vec<Answer> {
    let refused = |kinds: &[ErrorKind]| -> Vec<Answer> { kinds.iter().map(|kind| Answer::Refused(*kind)).collect() };
    match act {
        Act::Claim { .. } => {
            let runs = (1..4).flat_map(|token| (1..3).map(move |attempt| run(token, attempt, None)));
            let moved = (1..4).map(|token| run(token, 2, Some(point(1))));
            let waits = (1..3).map(|attempt| Answer::Wait { attempt });
            runs.chain(moved).chain(waits).chain([replay(), Answer::Reject, Answer::Gone]).collect()
        }
        Act::Advance { .. } => {
            let kinds = [ErrorKind::Fenced, ErrorKind::NotFound, ErrorKind::Finished];
            let lost = [Answer::Lost(None), Answer::Lost(Some(point(1)))];
            [Answer::Moved(1), Answer::Moved(2)].into_iter().chain(lost).chain(refused(&kinds)).collect()
        }
        Act::End { .. } => std::iter::once(replay()).chain(refused(&[ErrorKind::Fenced])).collect(),
        Act::Renew { .. } => std::iter::once(Answer::Done).chain(refused(&[ErrorKind::Fenced])).collect(),
        Act::Forget => [true, false].map(Answer::Whether).into_iter().chain(refused(&[ErrorKind::Busy])).collect(),
        Act::Revoke => [true, false].map(Answer::Whether).into(),
        Act::Progress => {
            let states = [State::Owned, State::Unfinished, State::Succeeded, State::Gone];
            let seen = |state| [told(state, 1, None), told(state, 2, None), told(state, 1, Some(point(1)))];
            states.into_iter().flat_map(seen).chain([Answer::Told(None)]).collect()
        }
        _ => vec![Answer::Done],
    }
}

#[test]
fn the_search_agrees_with_trying_every_order() {
    let mut dice = Dice::new(4);
    let (mut good, mut bad) = (0, 0);
    for nth in 0..3_000 {
        let rules = match nth % 3 {
            0 => plain(),
            1 => Promises { lease: Some(15), ..plain() },
            _ => Promises { retention: 15, tombstones: 15, ..plain() },
        };
        let calls = tiny(&rules, &mut dice);
        let found = order(&rules, &calls).is_some();
        assert_eq!(found, by_force(&rules, &calls), "history {nth}: {calls:#?}");
        match check(&rules, &calls) {
            Ok(()) => good += 1,
            Err(violation) => {
                // The prefix that it names can be ordered, and one answer more cannot.
                assert!(by_force(&rules, &violation.ordered), "history {nth}");
                bad += 1;
            }
        }
    }
    assert!(good > 300 && bad > 300, "{good} good and {bad} bad histories");
}

#[test]
fn an_order_that_is_found_explains_every_answer() {
    let (rules, mut dice) = (plain(), Dice::new(5));
    for _ in 0..2_000 {
        let calls = tiny(&rules, &mut dice);
        let Some(found) = order(&rules, &calls) else { continue };
        let mut states = vec![rules.begin()];
        for nth in &found {
            states = states.iter().flat_map(|state| rules.after(state, &calls[*nth])).collect();
        }
        assert!(!states.is_empty());
        let is_answered = |nth: &usize| calls[*nth].answer.is_some();
        assert!((0..calls.len()).filter(is_answered).all(|nth| found.contains(&nth)));
    }
}
