//! A day of somebody who runs a store: looks how it is, publishes its figures, copies it while it serves, loses the
//! file, puts the copy in its place, and finds what is unfinished.
//!
//! `cargo run --example operate`
//!
//! It fails where anything is not as it says here.

#![allow(clippy::print_stdout, reason = "a program for a terminal")]

use std::error::Error;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fs, thread};

use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use reentry::{Claim, Condition, Fingerprint, Key, Resolution, Run, Store};

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

fn main() -> Outcome {
    // A server takes its level from a setting; DEBUG shows each claim and commit.
    tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).without_time().with_target(false).init();
    let folder = tempfile::tempdir()?;
    let (path, copy) = (folder.path().join("orders.reentry"), folder.path().join("monday.reentry"));
    let store = Store::open(&path)?;
    serve(&store)?;

    println!("\n-- how is it?");
    look(&store)?;
    println!("\n-- what an exporter gets");
    publish(&store)?;
    println!("\n-- a copy, while orders come in");
    copy_under_load(&store, &copy)?;

    println!("\n-- the disk is lost; the copy takes its place");
    store.close()?;
    fs::remove_file(&path)?;
    fs::rename(&copy, &path)?;
    let store = Store::open(&path)?;
    store.verify_with(|share| {
        println!("verified: {:.0} %", share * 100.0);
        ControlFlow::Continue(())
    })?;
    finish_what_is_left(&store)?;
    look(&store)
}

fn run(store: &Store, order: &str) -> Result<Run, Box<dyn Error + Send + Sync>> {
    match store.claim(&Key::new("orders/ada", order)?, Fingerprint::of("two pizzas")).wait()? {
        Claim::Run(run) => Ok(run),
        other => Err(format!("the key is new, but there is {other:?}").into()),
    }
}

/// A few orders that come to their end, and one whose payment timed out.
fn serve(store: &Store) -> Outcome {
    for order in 0..20 {
        run(store, &format!("order {order}"))?.complete(&"receipt".to_owned()).wait()?;
    }
    let mut order = run(store, "the one in doubt")?;
    let charged = order.step("charge").run_at_most_once(|_| Err::<String, _>("timed out"));
    drop(charged);
    Ok(())
}

fn look(store: &Store) -> Outcome {
    let stats = store.stats()?;
    println!("{}, {} completed, {} unfinished", stats.condition, stats.completed, stats.unfinished);
    println!("{} in doubt, {} stuck, the oldest {:?} old", stats.in_doubt, stats.stuck, stats.oldest_unfinished);
    println!("claims: {:?}", stats.claims);
    println!("commits of {:?} took {:?}", stats.batch, stats.commit_time);
    println!("{} bytes on disk, {} of index, last fault {:?}", stats.disk_bytes, stats.index_bytes, stats.last_fault);
    if stats.condition == Condition::Serving { Ok(()) } else { Err("it does not serve".into()) }
}

/// In a server the recorder is an exporter's, installed once, and this is called before each scrape.
fn publish(store: &Store) -> Outcome {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || store.publish_metrics("orders"))?;
    let published = snapshotter.snapshot().into_vec();
    for (key, _, _, value) in &published {
        let name = key.key().name();
        if let ("reentry_in_doubt" | "reentry_oldest_unfinished_seconds", DebugValue::Gauge(value)) = (name, value) {
            println!("{name} {value}");
        }
    }
    println!("and {} more", published.len() - 2);
    Ok(())
}

fn copy_under_load(store: &Store, copy: &Path) -> Outcome {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let orders = scope.spawn(|| -> Outcome {
            for order in 0.. {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                run(store, &format!("meanwhile {order}"))?.complete(&"receipt".to_owned()).wait()?;
            }
            Ok(())
        });
        let made = store.backup(copy);
        is_over.store(true, Ordering::Relaxed);
        let made = made?;
        println!("{} operations, {} of them unfinished, {} bytes", made.operations, made.unfinished, made.bytes);
        orders.join().map_err(|_| "an order panicked")?
    })
}

/// What somebody does about a step in doubt: asks the bank for its effect id, says what came of it, and finishes it. An
/// order that the copy caught between its claim and its end has no step yet, and is paid now.
fn finish_what_is_left(store: &Store) -> Outcome {
    for progress in store.unfinished() {
        let progress = progress?;
        println!("{:?} is unfinished since {}", progress.key(), progress.since());
        for step in progress.in_doubt() {
            println!("{} is in doubt; the bank knows it as {}", step.name(), progress.effect_id(step.name()));
            let happened = Resolution::happened(&"receipt 7".to_owned())?;
            store.resolve(progress.key(), step.name(), happened, "in the bank's list of today").wait()?;
        }
        if let Claim::Run(mut run) = store.claim_unfinished(progress.key()).wait()? {
            let was_in_doubt = progress.in_doubt().next().is_some();
            let charge = || if was_in_doubt { Err("it is not done twice") } else { Ok("receipt 8".to_owned()) };
            let receipt = run.step("charge").run_at_most_once(|_| charge())?;
            run.complete(&receipt).wait()?;
        }
    }
    Ok(())
}
