//! A model-based test: random sequences of commands, with a clock that jumps, restarts and power cuts in between, go to
//! the real store on a simulated disk and to a small model, and every answer must be the same. Effects are played:
//! while one is under way its run may be revoked, taken over, its key forgotten.
//!
//! The sequences are the same in every run; `PROPTEST_RNG_SEED` gives others and `PROPTEST_CASES` more of them.

use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::test_runner::{Config, RngSeed, TestError, TestRunner};

mod answers;
mod commands;
mod effects;
mod reads;
mod rules;
mod steps;
#[path = "../support/mod.rs"]
mod support;
mod world;

use commands::{Command, Effect, Expected, Meanwhile, Mode, NEWEST, Name, Recheck, Rows, Setting, sequence};
use world::World;

/// Sequences tried where `PROPTEST_CASES` does not say otherwise.
const CASES: u32 = 160;

/// Every answer that such sequences must come to, or they show nothing.
const ANSWERS: [&str; 34] = [
    "Run",
    "Replay",
    "Wait",
    "Reject",
    "Gone",
    "Moved",
    "Lost",
    "Revision",
    "Seen",
    "Ended",
    "Was",
    "Progress",
    "Unfinished",
    "Known",
    "Found",
    "Ran",
    "Panicked",
    "Dropped",
    "Resolved",
    "Renewed",
    "Refused(NotFound)",
    "Refused(Finished)",
    "Refused(Fenced)",
    "Refused(Busy)",
    "Refused(Conflict)",
    "Refused(InvalidName)",
    "Refused(PayloadTooLarge)",
    "Refused(InDoubt)",
    "Refused(NotInDoubt)",
    "Refused(CannotTell)",
    "Refused(EffectFailed)",
    "Refused(NotApplied)",
    "Refused(StepRepeated)",
    "Refused(Aborted)",
];

fn config() -> Config {
    let given = |name| std::env::var_os(name).is_some();
    let from_environment = Config { failure_persistence: None, ..Config::default() };
    Config {
        cases: if given("PROPTEST_CASES") { from_environment.cases } else { CASES },
        rng_seed: if given("PROPTEST_RNG_SEED") { from_environment.rng_seed } else { RngSeed::Fixed(20_261_124) },
        ..from_environment
    }
}

#[test]
fn p1_p2_p3_p4_p5_p6_p7_p8_p9_p11_the_store_answers_every_sequence_of_commands_as_the_model_does() {
    let config = config();
    let cases = config.cases;
    let census = RefCell::new(BTreeMap::<String, usize>::new());
    let tested = TestRunner::new(config).run(&sequence(), |(setting, commands)| {
        let mut world = World::new(setting);
        commands.iter().try_for_each(|command| world.step(command))?;
        for (kind, count) in world.finish()? {
            *census.borrow_mut().entry(kind).or_default() += count;
        }
        Ok(())
    });
    if let Err(TestError::Fail(why, (setting, commands))) = &tested {
        let steps: Vec<_> = commands.iter().map(|command| format!("    Command::{command:?},")).collect();
        panic!("{why}\nthe shortest sequence that shows it, in a store of {setting:?}:\n{}", steps.join("\n"));
    }
    tested.unwrap();
    let census = census.into_inner();
    if cases >= CASES {
        let missing: Vec<_> = ANSWERS.into_iter().filter(|answer| !census.contains_key(*answer)).collect();
        assert!(missing.is_empty(), "no sequence came to {missing:?}: {census:?}");
    }
}

/// Runs one sequence.
#[track_caller]
fn follow(commands: &[Command]) {
    follow_in(Setting::PLAIN, commands);
}

#[track_caller]
fn follow_in(setting: Setting, commands: &[Command]) {
    let mut world = World::new(setting);
    for (nth, command) in commands.iter().enumerate() {
        world.step(command).unwrap_or_else(|failure| panic!("step {nth}, {command:?}: {failure}"));
    }
    world.finish().unwrap();
}

/// Found by the model: the refusal rested on a time that was nowhere on the disk.
#[test]
fn p2_p11_an_operation_that_was_told_to_be_over_is_not_revived_by_a_cut_with_the_clock_turned_back() {
    for told in [
        Command::ClaimUnfinished { key: 3 },
        Command::AdvanceByAnybody { key: 3, expected: Expected::Right, name: Name::Good(1), size: 10 },
        Command::Forget { key: 3 },
        Command::Progress { key: 3 },
        Command::Claim { key: 3, request: 0 },
    ] {
        for millis in [1_000, 1_700] {
            follow(&[
                Command::Claim { key: 3, request: 0 },
                Command::Complete { nth: 0, size: 2_000 },
                Command::Claim { key: 4, request: 0 },
                Command::Pass { millis },
                told.clone(),
                Command::Jump { millis: -10_000 },
                Command::Cut,
                Command::Claim { key: 3, request: 0 },
            ]);
        }
    }
}

/// Found by reading: `Busy` took its place in line behind whatever run owned the key by then.
#[test]
fn p5_who_stands_in_line_late_is_rejected_where_the_key_belongs_to_another_request() {
    follow(&[
        Command::Claim { key: 0, request: 0 },
        Command::Claim { key: 0, request: 0 },
        Command::DropRun { nth: 0 },
        Command::Forget { key: 0 },
        Command::Claim { key: 0, request: 1 },
        Command::StandInLine { nth: 0 },
        Command::Complete { nth: 0, size: 10 },
    ]);
}

#[test]
fn p3_p6_a_key_that_starts_anew_shows_nothing_of_its_old_checkpoint_and_outcome() {
    let life = [
        Command::Claim { key: 2, request: 0 },
        Command::Advance { nth: 0, name: Name::Good(1), size: 3_000 },
        Command::DropRun { nth: 0 },
        Command::Cut,
        Command::Claim { key: 2, request: 0 },
        Command::Complete { nth: 0, size: 3_000 },
        Command::Pass { millis: 999 },
        Command::Claim { key: 2, request: 0 },
        Command::Pass { millis: 1 },
        Command::Claim { key: 2, request: 0 },
        Command::Restart,
        Command::Pass { millis: 699 },
        Command::Claim { key: 2, request: 1 },
        Command::Pass { millis: 1 },
    ];
    follow(&[life.clone(), life].concat());
}

#[test]
fn p6_p11_what_is_unfinished_outlasts_any_time_and_is_listed_oldest_first_wherever_its_row_was_moved() {
    let mut commands = vec![Command::Claim { key: 4, request: 0 }, Command::Claim { key: 1, request: 0 }];
    for _ in 0..4 {
        commands.extend([
            Command::Pass { millis: 61_000 },
            Command::Claim { key: 0, request: 0 },
            Command::Complete { nth: 2, size: 1_500 },
            Command::Unfinished,
            Command::Jump { millis: 315_360_000_000 },
            Command::Cut,
            Command::ClaimUnfinished { key: 4 },
            Command::Advance { nth: 0, name: Name::Longest, size: 1_025 },
            Command::DropRun { nth: 0 },
            Command::ClaimUnfinished { key: 1 },
            Command::Unfinished,
            Command::ClaimUnfinished { key: 4 },
            Command::Verify,
        ]);
    }
    follow(&commands);
}

/// A step of the newest run, guarded so, of which the effect comes to this.
fn step(mode: Mode, effect: Effect, meanwhile: Meanwhile) -> Command {
    Command::Step { nth: NEWEST, name: Name::Good(1), mode, effect, size: 9, meanwhile }
}

/// Found by reading: the try that was not applied withdrew the step, though the one before may have happened.
#[test]
fn p4_a_keyed_step_whose_second_try_was_not_applied_is_still_in_doubt() {
    follow(&[
        Command::Claim { key: 0, request: 0 },
        step(Mode::Keyed, Effect::Fails, Meanwhile::Nothing),
        step(Mode::Keyed, Effect::IsNotApplied, Meanwhile::Nothing),
        Command::Cut,
        Command::ClaimUnfinished { key: 0 },
        step(Mode::AtMostOnce, Effect::Succeeds, Meanwhile::Nothing),
    ]);
}

/// Found by the model: an owner that had no row yet, or whose runs no longer counted, was taken for one that is stuck.
#[test]
fn p6_what_is_stuck_is_counted_right_beside_deferred_released_and_lapsed_owners() {
    for leased in [false, true] {
        follow_in(
            Setting { leased, attempts_max: 1 },
            &[
                Command::Claim { key: 0, request: 0 },
                Command::DropRun { nth: NEWEST },
                Command::ClaimDeferred { key: 1, request: 0 },
                Command::Claim { key: 2, request: 0 },
                Command::ReleaseStuck { key: 2 },
                Command::Claim { key: 3, request: 0 },
                Command::Pass { millis: 40 },
                Command::Unfinished,
                Command::ReleaseStuck { key: 0 },
            ],
        );
    }
}

#[test]
fn p3_p4_a_result_that_was_only_reported_may_be_lost_and_never_behind_a_later_durable_call() {
    let recheck = Mode::Recheck { says: Recheck::Happened(9), settles_within: 40 };
    for later in [
        None,
        Some(Command::Advance { nth: NEWEST, name: Name::Good(1), size: 7 }),
        Some(Command::AdvanceWith { nth: NEWEST, name: Name::Good(1), size: 7, rows: Rows::Fails }),
        Some(Command::Renew { nth: NEWEST }),
        Some(Command::Restart),
    ] {
        let mut commands = vec![Command::ClaimDeferred { key: 0, request: 0 }];
        commands.push(step(recheck, Effect::Succeeds, Meanwhile::Nothing));
        commands.extend(later);
        commands.extend([Command::Cut, Command::ClaimUnfinished { key: 0 }]);
        commands.push(step(recheck, Effect::Succeeds, Meanwhile::Nothing));
        commands.push(Command::EndWith { nth: NEWEST, is_success: true, size: 3, rows: Rows::InsertInBoth });
        commands.extend([Command::Cut, Command::Rows, Command::Claim { key: 0, request: 0 }]);
        follow(&commands);
    }
}

#[test]
fn p7_what_a_fenced_run_brings_late_is_evidence_whoever_came_after_it() {
    for meanwhile in [
        Meanwhile::Revoked,
        Meanwhile::TakenOver,
        Meanwhile::Visited,
        Meanwhile::Finished,
        Meanwhile::Forgotten,
        Meanwhile::Anew,
        Meanwhile::Resolved { happened: true },
        Meanwhile::Resolved { happened: false },
        Meanwhile::Lapsed,
    ] {
        for effect in [Effect::Succeeds, Effect::IsNotApplied] {
            follow_in(
                Setting { leased: true, ..Setting::PLAIN },
                &[
                    Command::Claim { key: 0, request: 0 },
                    step(Mode::AtMostOnce, effect, meanwhile),
                    Command::Progress { key: 0 },
                    // Goes through the writer, and so does all that was reported before.
                    Command::Revoke { key: 4 },
                    Command::Progress { key: 0 },
                    Command::Verify,
                    Command::Cut,
                    Command::ClaimUnfinished { key: 0 },
                    step(Mode::Keyed, Effect::Succeeds, Meanwhile::Nothing),
                ],
            );
        }
    }
}

/// Found by the model: what a run had reported when it was dropped was taken in twice, the second time as evidence.
#[test]
fn p3_p7_what_a_recheck_found_right_before_its_run_was_dropped_is_no_evidence_against_itself() {
    follow(&[
        Command::Claim { key: 0, request: 0 },
        step(Mode::Keyed, Effect::Panics, Meanwhile::Nothing),
        Command::DropRun { nth: NEWEST },
        Command::Claim { key: 0, request: 0 },
        step(Mode::Recheck { says: Recheck::Happened(9), settles_within: 0 }, Effect::Fails, Meanwhile::Nothing),
        Command::DropRun { nth: NEWEST },
        Command::Revoke { key: 4 },
        Command::Progress { key: 0 },
    ]);
}
