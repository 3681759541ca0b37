//! How the kit itself behaves: what it counts, repeats and leaves alone.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reentry::testing::{Count, CrashTest, Expected, MistakeKind, Report, World};
use reentry::{Run, Store};

use super::{Answer, Failure, all_points_were_tried, claim, once, pizzas, text};

fn charged(mut run: Run, world: &World) -> Answer {
    let receipt = run.step("charge").recheck(|id| world.find("charge", id)).run(|id| world.effect("charge", id))?;
    text(&run.complete(&receipt).wait()?)
}

fn handler(store: &Store, world: &World) -> Answer {
    claim(store, pizzas(), |run| charged(run, world))
}

/// Every point once; of the pairs some, always the same; and all where they are few enough.
#[test]
fn points_are_counted_and_pairs_drawn_by_the_seed() {
    let run = |seed| CrashTest::new().pairs_max(10).seed(seed).run(handler);
    let (one, same, other) = (run(7), run(7), run(8));
    for report in [&one, &same, &other] {
        all_points_were_tried(report);
        assert_eq!((report.pairs(), report.mistakes().len()), (10, 0), "{report}");
        assert_eq!((report.world_calls(), report.lost_answers()), (1, 2), "{report}");
    }
    assert!(one.pairs_possible() > 10 * one.points(), "{one}");
    assert_eq!((one.seed(), one.to_string()), (7, same.to_string()));
    assert!(one.to_string().contains("drawn by seed 7") && other.to_string().contains("drawn by seed 8"));
    // Each point is one crash, each pair two, and one more on a slow disk.
    assert_eq!(one.crashes(), one.points() + 2 * one.pairs() + 1, "{one}");
}

/// The store is the server's own, what must always hold is looked at, and who never ends is called so often, no more.
#[test]
fn a_test_goes_about_it_as_it_is_told() {
    let (opened, checked, calls) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let count = |counter: &AtomicUsize| counter.fetch_add(1, Ordering::Relaxed);
    let lease = Duration::from_secs(50);
    let test = || {
        let builder = || {
            count(&opened);
            Store::builder().lease(lease)
        };
        let check = |_: &Store, world: &World| {
            count(&checked);
            if world.count("charge") > 1 { Err("charged again".to_owned()) } else { Ok(()) }
        };
        CrashTest::new().pairs_max(0).attempts_max(3).pause(lease).store(builder).check(check)
    };
    let report = test().run(handler);
    assert!(report.mistakes().is_empty(), "{report}");
    let opened_with = opened.load(Ordering::Relaxed);
    assert!(opened_with > report.points() && checked.load(Ordering::Relaxed) >= opened_with, "{report}");
    let report = test().run(|store, world| {
        let answer = claim(store, pizzas(), |run| {
            world.happens("charge", || ());
            text(&run.complete(&"done".to_owned()).wait()?)
        });
        answer.map_err(|error| error.to_string())
    });
    let again = report.mistakes().iter().find(|mistake| mistake.what().contains("charged again"));
    assert!(again.is_some_and(|mistake| mistake.places() > 0 && !mistake.story().is_empty()), "{report}");
    let counts: Vec<_> = report.counts().iter().map(|it| (it.effect(), it.undisturbed(), it.least())).collect();
    assert_eq!(counts, [("charge", 1, 1)], "{report}");
    let report = test().run(|_, world| {
        count(&calls);
        world.find("charge", "none")?;
        Err::<String, Failure>("never".into())
    });
    assert_eq!((report.points(), calls.load(Ordering::Relaxed)), (0, 3), "{report}");
    let report = reentry::testing::crash_everywhere(handler);
    assert_eq!((report.mistakes().len(), report.pairs()), (0, 200), "{report}");
}

/// Each of several checks is looked at, and is a mistake of its own; one that fails twice in a trial shows in one.
#[test]
fn every_check_counts_and_by_the_trials_in_which_it_failed() {
    let looked = [const { AtomicUsize::new(0) }; 2];
    let look = |nth: usize| {
        looked[nth].fetch_add(1, Ordering::Relaxed);
        Ok(())
    };
    let report = CrashTest::new().pairs_max(0).check(|_, _| look(0)).check(|_, _| look(1)).run(handler);
    let looked = looked.map(AtomicUsize::into_inner);
    assert!(report.mistakes().is_empty() && looked[0] == looked[1] && looked[0] > report.points(), "{report}");
    let test = CrashTest::new().pairs_max(0);
    let report = test.check(|_, _| Err("cold".to_owned())).check(|_, _| Err("late".to_owned())).run(handler);
    let told: Vec<_> = report.mistakes().iter().map(|it| (it.kind(), it.what(), it.places(), it.effect())).collect();
    let broken = |what, places| (MistakeKind::Broken, what, places, None);
    let of = ["a check of yours does not hold: cold", "a check of yours does not hold: late"];
    // Nothing is killed where it is wrong already.
    assert_eq!((told, report.crashes()), (of.map(|what| broken(what, 1)).to_vec(), 0), "{report}");
}

/// Bounds that the handler keeps where nothing is killed, and not where something is.
#[test]
fn p4_what_is_expected_of_an_effect_is_what_it_is_held_to() {
    let outside_of_a_step = |expected: Expected| {
        once(move |store, world| {
            claim(store, pizzas(), |run| {
                world.expect("call", expected);
                world.happens("call", || ());
                text(&run.complete(&"done".to_owned()).wait()?)
            })
        })
    };
    let behind_the_end = |expected: Expected| {
        once(move |store, world| {
            claim(store, pizzas(), |run| {
                world.expect("call", expected);
                let done = text(&run.complete(&"done".to_owned()).wait()?)?;
                world.happens("call", || ());
                Ok(done)
            })
        })
    };
    let (twice, never) = (MistakeKind::Twice, MistakeKind::Never);
    for (expected, more, less) in [
        (Expected::ExactlyOnce, Some(twice), Some(never)),
        (Expected::AtMostOnce, Some(twice), None),
        (Expected::AtLeastOnce, None, Some(never)),
        (Expected::AnyNumber, None, None),
    ] {
        for (report, found) in [(outside_of_a_step(expected), more), (behind_the_end(expected), less)] {
            let kinds: Vec<_> = report.mistakes().iter().map(|it| (it.kind(), it.effect())).collect();
            assert_eq!(kinds, found.map(|kind| (kind, Some("call"))).into_iter().collect::<Vec<_>>(), "{report}");
            assert_eq!(report.lost_answers(), 0, "a fake answers for itself: {report}");
        }
    }
}

/// A process that is dead does nothing: what its handler goes on with is not counted, and nobody hears its answer.
#[test]
fn what_a_killed_handler_goes_on_with_does_not_count() {
    let (went_on, calls) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let report = once(|store, world| {
        calls.fetch_add(1, Ordering::Relaxed);
        claim(store, pizzas(), |run| {
            let answer = charged(run, world);
            if answer.is_err() {
                went_on.fetch_add(1, Ordering::Relaxed);
                world.effect("apology", "ada@example.org")?;
            }
            answer
        })
    });
    // An error that is not a crash is another matter: the apology is then sent.
    let apology = report.count("apology").map(Count::most);
    assert!(went_on.load(Ordering::Relaxed) > 0 && calls.load(Ordering::Relaxed) > report.points());
    assert_eq!(apology, Some(1), "{report}");
    let after_a_kill = |report: &Report| report.mistakes().iter().any(|m| m.place() != "where nothing was killed");
    assert!(!after_a_kill(&report), "{report}");
}

/// The handler gets the same error, and only the world knows which of both it was.
#[test]
fn a_request_that_is_lost_does_not_happen_and_one_whose_answer_is_lost_does() {
    for is_keyed in [false, true] {
        let happened = Mutex::new(Vec::new());
        let report = once(|store, world| {
            claim(store, pizzas(), |mut run| {
                let step = run.step("charge").recheck(|id| world.find("charge", id));
                let receipt = step.run(|id| {
                    let told = if is_keyed { world.keyed_effect("charge", id) } else { world.effect("charge", id) };
                    told.inspect_err(|_| happened.lock().unwrap().push(world.count("charge")))
                })?;
                text(&run.complete(&receipt).wait()?)
            })
        });
        assert_eq!((report.lost_answers(), report.mistakes().len()), (2, 0), "{report}");
        assert_eq!(*happened.lock().unwrap(), [0, 1], "{report}");
    }
}

#[test]
fn a_handler_that_fails_by_itself_is_told_so_and_killed_nowhere() {
    let report = once(|_, _| Err::<String, _>("the oven is cold"));
    assert_eq!((report.points(), report.crashes(), report.mistakes().len()), (0, 0, 1));
    assert!(report.mistakes()[0].what().contains("the oven is cold"), "{report}");
    assert!(report.into_result().is_err());
}

/// The hint at the place, the story and the counts, as a developer reads them.
#[test]
fn a_report_reads_like_this() {
    let report = once(|store, world| {
        claim(store, pizzas(), |run| {
            world.happens("mail", || ());
            text(&run.complete(&"done".to_owned()).wait()?)
        })
    });
    let text = report.to_string();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("1 mistake"));
    for part in [
        "1. the effect `mail` happened twice",
        "   killed after the effect `mail` of attempt 1, before its answer; after disk call ",
        "     - attempt 1: the effect `mail` happens, outside of a step",
        "     - attempt 2: the effect `mail` happens, outside of a step",
        "     - attempt 2 returns Ok: the client is told",
        "   hint: it is done outside of a step, so every attempt does it: wrap it in `run.step(\"mail\")`",
        "effect `mail`: 1 undisturbed, 1 at least, 2 at most",
    ] {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
}
