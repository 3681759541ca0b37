//! Plausible handlers with one mistake each: it is found, at the right effect, with the right hint.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reentry::testing::{CrashTest, Expected, MistakeKind, Report};
use reentry::{Claim, ErrorKind, Failure, Fingerprint, Json, Key, Request, Store, Table};

use super::{claim, key, once, only, pizzas, text};

const ORDERS: Table = Table::new("orders");

/// A number that no other call gives.
fn number() -> u64 {
    static NUMBERS: AtomicU64 = AtomicU64::new(0);
    NUMBERS.fetch_add(1, Ordering::Relaxed)
}

/// The one mistake is of this kind, at this effect, and its hint says this.
#[track_caller]
fn is(report: &Report, kind: MistakeKind, effect: Option<&str>, hint: &str) {
    let mistake = only(report);
    assert_eq!((mistake.kind(), mistake.effect()), (kind, effect), "{report}");
    assert!(mistake.hint().contains(hint), "{report}");
    assert!(report.to_string().contains(mistake.hint()) && format!("{report:?}").contains(mistake.what()));
}

#[test]
fn an_effect_outside_of_a_step_happens_twice() {
    let report = once(|store, world| {
        claim(store, pizzas(), |mut run| {
            let receipt =
                run.step("charge").recheck(|id| world.find("charge", id)).run(|id| world.effect("charge", id))?;
            world.happens("mail", || ());
            text(&run.complete(&receipt).wait()?)
        })
    });
    is(&report, MistakeKind::Twice, Some("mail"), "outside of a step, so every attempt does it: wrap it in `run.step(");
    let mistake = only(&report);
    assert_eq!(mistake.what(), "the effect `mail` happened twice");
    let place = "killed after the effect `mail` of attempt 1, before its answer; after disk call ";
    assert!(mistake.place().starts_with(place), "{report}");
    assert!(mistake.story().iter().any(|line| line.contains("`mail` happens, outside of a step")), "{report}");
    assert_eq!(report.count("mail").unwrap().most(), 2);
    let more = mistake.places() - 1;
    assert!(more > 5 && report.to_string().contains(&format!("and in {more} more trials")), "{report}");
}

#[test]
fn how_often_an_effect_happened_is_told_in_words() {
    let report = once(|store, world| {
        claim(store, pizzas(), |run| {
            world.happens("mail", || ());
            world.happens("mail", || ());
            text(&run.complete(&"done".to_owned()).wait()?)
        })
    });
    is(&report, MistakeKind::Twice, Some("mail"), "outside of a step");
    assert_eq!(only(&report).what(), "the effect `mail` happened 3 times instead of twice");
}

#[test]
fn an_effect_before_the_claim_happens_for_every_copy_of_the_request() {
    let report = once(|store, world| {
        world.effect("charge", "order 1")?;
        claim(store, pizzas(), |run| text(&run.complete(&"done".to_owned()).wait()?))
    });
    is(&report, MistakeKind::Twice, Some("charge"), "done again when a client asks again: claim first");
    assert_eq!(only(&report).place(), "where nothing was killed");
}

#[test]
fn p4_run_keyed_at_a_side_that_does_not_deduplicate_happens_twice() {
    let report = once(|store, world| {
        claim(store, pizzas(), |mut run| {
            let receipt = run.step("charge").run_keyed(|id| world.effect("charge", id))?;
            text(&run.complete(&receipt).wait()?)
        })
    });
    is(&report, MistakeKind::Twice, Some("charge"), "does not deduplicate on the effect id");
}

#[test]
fn p4_a_recheck_that_asks_for_something_else_lets_it_happen_twice() {
    let report = once(|store, world| {
        claim(store, pizzas(), |mut run| {
            let step = run.step("charge").recheck(|_| world.find("charge", "order 1"));
            let receipt = step.run(|id| world.effect("charge", id))?;
            text(&run.complete(&receipt).wait()?)
        })
    });
    is(&report, MistakeKind::Twice, Some("charge"), "the recheck did not find it, though it happened");
}

#[test]
fn p4_a_recheck_that_ignores_what_it_finds_lets_it_happen_twice() {
    let report = once(|store, world| {
        claim(store, pizzas(), |mut run| {
            let recheck = |id| world.find("charge", id).map(|_| None);
            let receipt: String = run.step("charge").recheck(recheck).run(|id| world.effect("charge", id))?;
            text(&run.complete(&receipt).wait()?)
        })
    });
    is(&report, MistakeKind::Twice, Some("charge"), "the recheck found it, and the effect ran all the same");
}

#[test]
fn p4_a_recheck_that_takes_everything_for_done_lets_it_never_happen() {
    let report = once(|store, world| {
        claim(store, pizzas(), |mut run| {
            let step = run.step("charge").recheck(|_| Ok::<_, Failure>(Some("charged".to_owned())));
            step.run(|id| world.effect("charge", id).map(|_| "charged".to_owned()))?;
            text(&run.complete(&"done".to_owned()).wait()?)
        })
    });
    is(&report, MistakeKind::Never, Some("charge"), "the step `charge` has a result, though it never happened");
    let told = "the effect `charge` never happened, though the client was told that it is done";
    assert_eq!(only(&report).what(), told);
}

#[test]
fn p3_what_is_done_after_the_outcome_never_happens() {
    let report = once(|store, world| {
        claim(store, pizzas(), |run| {
            let outcome = run.complete(&"done".to_owned()).wait()?;
            world.effect("mail", "ada@example.org")?;
            text(&outcome)
        })
    });
    is(&report, MistakeKind::Never, Some("mail"), "completed before it, so nobody comes back for it");
}

#[test]
fn p4_a_step_that_fails_and_is_passed_over_never_happens() {
    let report = once(|store, world| {
        world.expect("call", Expected::ExactlyOnce);
        claim(store, pizzas(), |mut run| match run.step("call").run_at_most_once(|id| world.effect("call", id)) {
            Err(error) if !matches!(error.kind(), ErrorKind::InDoubt | ErrorKind::EffectFailed) => Err(error)?,
            _ => text(&run.complete(&"done".to_owned()).wait()?),
        })
    });
    is(&report, MistakeKind::Never, Some("call"), "completed with the step `call` in doubt");
}

#[test]
fn another_name_in_every_attempt_lets_a_step_happen_twice() {
    let report = once(|store, world| {
        claim(store, pizzas(), |mut run| {
            let name = format!("charge {}", run.attempt());
            run.step(&name).recheck(|id| world.find("charge", id)).run(|id| world.effect("charge", id))?;
            text(&run.complete(&"done".to_owned()).wait()?)
        })
    });
    is(&report, MistakeKind::Twice, Some("charge"), "give it the same name in every attempt");
}

#[test]
fn another_id_in_every_attempt_is_not_deduplicated() {
    let report = once(|store, world| {
        claim(store, pizzas(), |mut run| {
            let reference = format!("mail {}", number());
            run.step("mail").run_keyed(|_| world.keyed_effect("mail", &reference))?;
            text(&run.complete(&"done".to_owned()).wait()?)
        })
    });
    is(&report, MistakeKind::Twice, Some("mail"), "gives the other side another id");
}

#[test]
fn p5_another_key_in_every_attempt_begins_anew() {
    let report = once(|store, world| {
        let key = Key::new("orders", format!("{}", number()))?;
        match store.claim(&key, pizzas()).wait()? {
            Claim::Run(mut run) => {
                let receipt = run.step("charge").run_keyed(|id| world.keyed_effect("charge", id))?;
                run.complete(&receipt).wait()?;
                Ok::<_, reentry::Error>("done".to_owned())
            }
            other => panic!("{other:?}"),
        }
    });
    is(&report, MistakeKind::Twice, Some("charge"), "each attempt claims another key");
}

#[test]
fn p5_another_request_in_every_attempt_is_rejected() {
    let report = once(|store, _| {
        let request = Fingerprint::of(format!("two pizzas, {}", number()));
        match store.claim(&key(), request).wait()? {
            Claim::Run(run) => text(&run.complete(&"done".to_owned()).wait()?),
            Claim::Replay(outcome) => text(&outcome),
            Claim::Reject(_) => Ok("422".to_owned()),
            other => panic!("{other:?}"),
        }
    });
    is(&report, MistakeKind::Changed, None, "make the fingerprint from what the client sent alone");
    assert!(only(&report).what().contains("told \"done\", and its retry is told \"422\""), "{report}");
}

#[test]
fn p2_an_outcome_that_nobody_waits_for_is_lost() {
    let report = once(|store, _| {
        claim(store, pizzas().deferred(), |run| {
            drop(run.complete(&"done".to_owned()));
            Ok("done".to_owned())
        })
    });
    is(&report, MistakeKind::Lost, None, "answer the client only after `complete` has answered");
}

/// It is lost where the disk is slow; what the handler does beside takes longer than a fast one takes.
#[test]
fn p2_an_outcome_that_is_durable_in_time_by_luck_alone_is_lost() {
    let report = || {
        once(|store, _| {
            claim(store, pizzas().deferred(), |run| {
                drop(run.complete(&"done".to_owned()));
                let rendered = Instant::now();
                while rendered.elapsed() < Duration::from_millis(1) {
                    std::hint::spin_loop();
                }
                Ok("done".to_owned())
            })
        })
    };
    // A machine that has no time for this thread may be slower than the disk.
    let found = (0..9).map(|_| report()).find(|report| !report.mistakes().is_empty());
    is(&found.expect("it is found"), MistakeKind::Lost, None, "answer the client only after `complete` has answered");
}

#[test]
fn an_answer_before_it_is_done_is_lost() {
    let report = once(|store, _| {
        claim(store, pizzas(), |mut run| {
            run.advance("taken in", &()).wait()?;
            Ok("thanks for your order".to_owned())
        })
    });
    is(&report, MistakeKind::Lost, None, "answer the client only after");
}

#[test]
fn p8_rows_apart_from_the_outcome_are_not_together_with_it() {
    let report = CrashTest::new()
        .pairs_max(0)
        .check(|store: &Store, _| {
            let rows = store.read(|tx| tx.open_table(ORDERS).and_then(|rows| rows.len()));
            let is_done = store.progress(&key()).unwrap().is_some_and(|progress| progress.outcome().is_some());
            match (rows.unwrap().unwrap(), is_done) {
                (0, false) | (1, true) => Ok(()),
                (rows, _) => Err(format!("{rows} rows, and done is {is_done}")),
            }
        })
        .run(|store, _| {
            claim(store, pizzas(), |mut run| {
                let written = run.advance_with("row", &(), |tx| {
                    tx.open_table(ORDERS)?.insert("1", "two pizzas")?;
                    Ok(())
                });
                written.wait()?;
                text(&run.complete(&"done".to_owned()).wait()?)
            })
        });
    is(&report, MistakeKind::Broken, None, "in the closure of `advance_with` or `complete_with`");
    assert!(only(&report).what().contains("1 rows, and done is false"), "{report}");
}

#[test]
fn an_effect_in_the_closure_of_an_outcome_happens_twice() {
    let report = once(|store, world| {
        claim(store, pizzas(), |mut run| {
            let world = world.clone();
            let outcome = run.complete_with(&"done".to_owned(), move |_| {
                world.effect("mail", "ada@example.org")?;
                Ok(())
            });
            text(&outcome.wait()?)
        })
    });
    is(&report, MistakeKind::Twice, Some("mail"), "in a closure of `complete_with`");
}

#[test]
fn p4_a_step_left_in_doubt_needs_somebody_who_finds_out() {
    let handler = |expected: Option<Expected>| {
        once(move |store, world| {
            if let Some(expected) = expected {
                world.expect("call", expected);
            }
            claim(store, pizzas(), |mut run| {
                run.step("call").run_at_most_once(|id| world.effect("call", id))?;
                text(&run.complete(&"done".to_owned()).wait()?)
            })
        })
    };
    is(&handler(None), MistakeKind::InDoubt, Some("call"), "tell the kit so (`Expected::AtMostOnce` for `call`");
    let operated = handler(Some(Expected::AtMostOnce));
    assert!(operated.mistakes().is_empty(), "{operated}");
}

#[test]
fn a_recheck_that_never_can_tell_is_never_done() {
    let report = once(|store, world| {
        claim(store, pizzas(), |mut run| {
            let step = run.step("charge").recheck(|_| Err::<Option<String>, _>(Failure::from("no such call")));
            step.run(|id| world.effect("charge", id))?;
            text(&run.complete(&"done".to_owned()).wait()?)
        })
    });
    is(&report, MistakeKind::Unfinished, None, "the recheck never can tell");
    assert!(only(&report).what().contains("no such call"), "{report}");
}

#[test]
fn a_handler_that_panics_on_re_entry_is_never_done() {
    let report = once(|store, world| {
        claim(store, pizzas(), |mut run| {
            assert_eq!(run.attempt(), 1, "only first entries were thought of");
            run.step("charge").run_keyed(|id| world.keyed_effect("charge", id))?;
            text(&run.complete(&"done".to_owned()).wait()?)
        })
    });
    is(&report, MistakeKind::Unfinished, None, "get on from wherever the one before it stopped");
    assert!(only(&report).what().contains("only first entries were thought of"), "{report}");
}

#[test]
fn a_step_that_is_asked_for_again_after_its_result_is_never_done() {
    let report = once(|store, world| {
        claim(store, pizzas(), |mut run| {
            for _ in 0..2 {
                run.step("mail").run_keyed(|id| world.keyed_effect("mail", id))?;
            }
            text(&run.complete(&"done".to_owned()).wait()?)
        })
    });
    is(&report, MistakeKind::Unfinished, None, "number the names of steps in a loop");
}

#[test]
fn a_result_that_is_read_as_another_type_on_re_entry_is_never_done() {
    let report = once(|store, world| {
        claim(store, pizzas(), |mut run| {
            let is_first = run.attempt() == 1;
            let step = run.step("charge");
            if is_first {
                step.run_keyed(|id| world.keyed_effect("charge", id).map(Json))?;
            } else {
                step.run_keyed(|id| world.keyed_effect("charge", id).map(|_| Json(7_u64)))?;
            }
            run.step("mail").run_keyed(|id| world.keyed_effect("mail", id))?;
            text(&run.complete(&"done".to_owned()).wait()?)
        })
    });
    is(&report, MistakeKind::Unfinished, None, "ask for it as the type that it was written as");
}

#[test]
fn an_effect_that_fails_in_every_attempt_is_never_done() {
    let report = once(|store, _| {
        claim(store, pizzas(), |mut run| {
            run.step("charge").run_keyed(|_| Err::<(), _>(Failure::from("no such card")))?;
            text(&run.complete(&"done".to_owned()).wait()?)
        })
    });
    is(&report, MistakeKind::Unfinished, None, "its effect fails in every attempt");
    assert!(only(&report).what().contains("no such card"), "{report}");
}

#[test]
fn p4_a_time_out_taken_for_not_applied_happens_twice() {
    let report = once(|store, world| {
        claim(store, pizzas(), |mut run| {
            let step = run.step("charge").recheck(|id| world.find("charge", id));
            step.run(|id| world.effect("charge", id).map_err(reentry::not_applied))?;
            text(&run.complete(&"done".to_owned()).wait()?)
        })
    });
    is(&report, MistakeKind::Twice, Some("charge"), "is not `not_applied`");
    assert!(only(&report).story().iter().any(|line| line.contains("no answer to the effect `charge`")), "{report}");
}

/// What a process keeps in its memory is no memory of what happened.
#[test]
fn a_list_of_what_was_done_that_is_kept_in_memory_is_lost_in_a_crash() {
    #[derive(Default)]
    struct Sent(Mutex<Vec<String>>);

    let report = once(|store, world| {
        claim(store, pizzas(), |run| {
            let sent = world.memory::<Sent>();
            if sent.0.lock().unwrap().is_empty() {
                sent.0.lock().unwrap().push("ada".to_owned());
                world.happens("mail", || ());
            }
            text(&run.complete(&"done".to_owned()).wait()?)
        })
    });
    is(&report, MistakeKind::Twice, Some("mail"), "wrap it in `run.step(\"mail\")`");
}

#[test]
fn an_alert_that_only_a_crash_brings_about_is_asked_about() {
    let handler = |expected: Option<Expected>| {
        once(move |store, world| {
            if let Some(expected) = expected {
                world.expect("alert", expected);
            }
            claim(store, Request::of("two pizzas"), |mut run| {
                if run.attempt() > 1 {
                    world.effect("alert", run.token())?;
                }
                run.advance("on its way", &()).wait()?;
                text(&run.complete(&"done".to_owned()).wait()?)
            })
        })
    };
    let report = handler(None);
    let mistake = only(&report);
    assert_eq!((mistake.kind(), mistake.effect()), (MistakeKind::Twice, Some("alert")), "{report}");
    assert!(mistake.what().contains("which it does not do where nothing is killed"), "{report}");
    let expected = handler(Some(Expected::AnyNumber));
    assert!(expected.mistakes().is_empty(), "{expected}");
    // Of the trials that are told done, some need no second run, as the undisturbed one.
    let count = expected.count("alert").unwrap();
    assert_eq!((count.undisturbed(), count.least(), count.most()), (0, 0, 1), "{expected}");
}

/// What happens in trials alone that are never told done happened never, at least, in those that are.
#[test]
fn an_effect_of_trials_that_are_never_done_is_counted_by_those_that_are() {
    let report = once(|store, world| {
        world.expect("alert", Expected::AnyNumber);
        claim(store, pizzas(), |mut run| {
            if run.attempt() > 1 {
                world.effect("alert", run.token())?;
                return Err("nobody thought of a second run".into());
            }
            run.advance("on its way", &()).wait()?;
            text(&run.complete(&"done".to_owned()).wait()?)
        })
    });
    is(&report, MistakeKind::Unfinished, None, "get on from wherever the one before it stopped");
    let count = report.count("alert").unwrap();
    assert_eq!((count.undisturbed(), count.least()), (0, 0), "{report}");
    assert!(report.to_string().contains("effect `alert`: 0 undisturbed, 0 at least, "), "{report}");
}
