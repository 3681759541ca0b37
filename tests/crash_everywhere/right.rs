//! Handlers that are right: no point at which they are killed shows anything.

use std::sync::Mutex;
use std::time::Duration;

use reentry::testing::{CrashTest, Expected, Report, World};
use reentry::{Claim, Json, Key, Run, Store, Table, not_applied};

use super::{Answer, all_points_were_tried, claim, decoded, key, pizzas, text};

const ORDERS: Table = Table::new("orders");
const PAID: Table = Table::new("paid");

/// Some pairs, or all where that is asked for.
fn test<'h>() -> CrashTest<'h> {
    let is_full = std::env::var_os("REENTRY_KIT_FULL").is_some();
    CrashTest::new().pairs_max(if is_full { usize::MAX } else { 40 })
}

/// Nothing is wrong, at every point.
#[track_caller]
fn passes(report: &Report) {
    assert!(report.mistakes().is_empty(), "{report}");
    all_points_were_tried(report);
    let pairs = report.pairs_possible();
    assert_eq!(report.pairs(), if std::env::var_os("REENTRY_KIT_FULL").is_some() { pairs } else { pairs.min(40) });
    for count in report.counts() {
        assert_eq!((count.least(), count.most()), (count.undisturbed(), count.undisturbed()), "{report}");
    }
}

fn the_readmes(mut run: Run, world: &World) -> Answer {
    let receipt = run.step("charge").recheck(|id| world.find("charge", id)).run(|id| world.effect("charge", id))?;
    run.step("mail").run_keyed(|id| world.keyed_effect("mail", id))?;
    let (order, row) = (run.effect_id("order"), receipt.clone());
    let outcome = run.complete_with(&receipt, move |tx| {
        tx.open_table(ORDERS)?.insert(order, &row)?;
        Ok(())
    });
    text(&outcome.wait()?)
}

#[test]
fn the_readmes_handler_passes_at_every_point() {
    passes(&test().run(|store, world| claim(store, pizzas(), |run| the_readmes(run, world))));
}

/// Where an outcome is kept for less than the kit lets pass after a crash, it is still there when its retry comes:
/// once, it was over by then, and a right handler that charged anew was told to be wrong.
#[test]
fn p5_a_retention_that_is_shorter_than_the_pause_passes_at_every_point() {
    let (minute, day) = (Duration::from_secs(60), Duration::from_secs(24 * 60 * 60));
    for (retention, tombstones, keeps_for) in
        [(10 * minute, Duration::ZERO, None), (10 * minute, day, None), (day, day, Some(minute))]
    {
        let server = || Store::builder().retention(retention).tombstones(tombstones);
        passes(&test().store(server).run(|store, world| {
            claim(store, pizzas(), |mut run| {
                if let Some(span) = keeps_for {
                    run.keep_for(span);
                }
                the_readmes(run, world)
            })
        }));
    }
}

#[test]
fn p4_each_kind_of_step_passes_at_every_point() {
    let report = test().run(|store, world| {
        world.expect("call", Expected::AtMostOnce);
        claim(store, pizzas(), |mut run| {
            let bank = |id| world.effect("charge", id);
            run.step("charge")
                .recheck(|id| world.find("charge", id))
                .settles_within(Duration::from_secs(60))
                .run(bank)?;
            run.step("mail").run_keyed(|id| world.keyed_effect("mail", id))?;
            run.step("call").run_at_most_once(|id| world.effect("call", id))?;
            text(&run.complete(&"done".to_owned()).wait()?)
        })
    });
    passes(&report);
    assert_eq!((report.world_calls(), report.counts().len()), (3, 3));
}

#[test]
fn p8_rows_beside_a_deferred_claim_a_checkpoint_and_the_outcome_pass() {
    let count = |store: &Store, table: Table| store.read(|tx| tx.open_table(table).and_then(|rows| rows.len()));
    let report = test()
        .check(move |store, _| {
            let progress = store.progress(&key()).unwrap();
            let is_paid = progress.as_ref().is_some_and(|progress| progress.checkpoint().is_some());
            let is_done = progress.as_ref().is_some_and(|progress| progress.outcome().is_some());
            let rows = (count(store, PAID).unwrap().unwrap(), count(store, ORDERS).unwrap().unwrap());
            let expected = (u64::from(is_paid), u64::from(is_done));
            if rows == expected { Ok(()) } else { Err(format!("{rows:?} rows, not {expected:?}")) }
        })
        .run(|store, world| {
            claim(store, pizzas().deferred(), |mut run| {
                if run.checkpoint().is_none() {
                    let receipt = run.step("charge").run_keyed(|id| world.keyed_effect("charge", id))?;
                    let row = receipt.clone();
                    let moved = run.advance_with("paid", &receipt, move |tx| {
                        tx.open_table(PAID)?.insert("1", &row)?;
                        Ok(())
                    });
                    moved.wait()?;
                }
                let receipt: String = run.checkpoint().unwrap().decode()?;
                let row = receipt.clone();
                let outcome = run.complete_with(&receipt, move |tx| {
                    tx.open_table(ORDERS)?.insert("1", &row)?;
                    Ok(())
                });
                text(&outcome.wait()?)
            })
        });
    passes(&report);
}

#[test]
fn several_operations_and_a_loop_of_steps_pass_in_one_handler() {
    let report = test().run(|store, world| {
        let mut told = Vec::new();
        for order in ["1", "2"] {
            let answer = match store.claim(&Key::new("orders", order)?, pizzas()).wait()? {
                Claim::Replay(outcome) => decoded(&outcome)?,
                Claim::Run(mut run) => {
                    for item in 0..2 {
                        let step = run.step(&format!("ship {item}"));
                        step.recheck(|id| world.find("ship", id)).run(|id| world.effect("ship", id))?;
                    }
                    decoded(&run.complete(&order.to_owned()).wait()?)?
                }
                other => panic!("{other:?}"),
            };
            told.push(answer);
        }
        Ok::<_, reentry::Error>(told)
    });
    passes(&report);
    assert_eq!(report.count("ship").unwrap().undisturbed(), 4);
}

#[test]
fn a_fake_of_the_users_that_deduplicates_is_counted_by_what_it_says() {
    #[derive(Default)]
    struct Mailer(Mutex<Vec<String>>);

    let report = test().run(|store, world| {
        claim(store, pizzas(), |mut run| {
            run.step("mail").run_keyed(|id| {
                let mailer = world.outside::<Mailer>();
                world.asks("the mailer", || {
                    let mut sent = mailer.0.lock().unwrap();
                    if !sent.contains(&id.to_string()) {
                        sent.push(id.to_string());
                        world.happened("mail");
                    }
                });
                Ok::<_, reentry::Failure>(())
            })?;
            text(&run.complete(&"done".to_owned()).wait()?)
        })
    });
    // This fake never lets an answer get lost, so nothing of that kind is tried.
    passes(&report);
}

#[test]
fn an_async_handler_passes_where_it_is_blocked_on() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let report = test().run(|store, world| {
        runtime
            .block_on(async {
                match store.claim(&key(), pizzas()).await? {
                    Claim::Replay(outcome) => outcome.decode::<Json<String>>(),
                    Claim::Run(mut run) => {
                        let receipt = run
                            .step("charge")
                            .recheck_async(async |id| world.find("charge", id))
                            .run_async(async |id| world.effect("charge", id))
                            .await?;
                        run.complete(&Json(receipt)).await?.decode()
                    }
                    other => panic!("{other:?}"),
                }
            })
            .map(|Json(receipt)| receipt)
    });
    passes(&report);
}

/// Who refuses before anything was sent may say so: the step is withdrawn and runs again.
#[test]
fn an_effect_that_was_refused_is_tried_again() {
    #[derive(Default)]
    struct Refused(Mutex<bool>);

    let report = test().run(|store, world| {
        claim(store, pizzas(), |mut run| {
            let refused = world.outside::<Refused>();
            run.step("charge").recheck(|id| world.find("charge", id)).run(|id| {
                if !std::mem::replace(&mut *refused.0.lock().unwrap(), true) {
                    return Err(not_applied("the bank is closed"));
                }
                world.effect("charge", id).map_err(reentry::Failure::from)
            })?;
            text(&run.complete(&"done".to_owned()).wait()?)
        })
    });
    assert!(report.mistakes().is_empty(), "{report}");
}

/// The operator says what a step gave, whatever the step makes of the other side's answer and whatever it is called.
#[test]
fn p4_an_operator_gives_a_step_the_result_that_it_usually_has() {
    let report = test().run(|store, world| {
        for effect in ["call", "fax", "print"] {
            world.expect(effect, Expected::AtMostOnce);
        }
        claim(store, pizzas(), |mut run| {
            run.step("phone").run_at_most_once(|_| world.effect("call", "Ada").map(drop))?;
            let fax = run.step("fax").run_at_most_once(|id| world.effect("fax", id).map(|_| Json(7)))?;
            run.step("printer").run_at_most_once(|_| {
                world.happens("print", || ());
                Ok::<_, reentry::Failure>("printed".to_owned())
            })?;
            text(&run.complete(&fax.0.to_string()).wait()?)
        })
    });
    assert!(report.mistakes().is_empty(), "{report}");
}
