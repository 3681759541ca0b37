//! The kit for users: right handlers pass at every point, and each plausible mistake is found, with its hint.
//!
//! `REENTRY_KIT_FULL=1 cargo test --test crash_everywhere` tries every pair of points of the right handlers, too (about
//! ten minutes); without it some pairs are drawn.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests panic")]

use reentry::testing::{CrashTest, Mistake, Report, World};
use reentry::{Claim, Error, Key, Outcome, Request, Run, Store};

mod kit;
mod right;
mod wrong;

/// What handlers fail with.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What a client is told.
type Answer = Result<String, Failure>;

/// The one operation of most handlers here.
fn key() -> Key {
    Key::new("orders/ada", "key-1").unwrap()
}

/// Claims, finishes what is to be done, replays what is done; as a handler ought to.
fn claim(store: &Store, request: impl Into<Request>, finish: impl FnOnce(Run) -> Answer) -> Answer {
    match store.claim(&key(), request).wait()? {
        Claim::Run(run) => finish(run),
        Claim::Replay(outcome) => Ok(outcome.decode()?),
        other => Err(format!("not now: {other:?}").into()),
    }
}

fn pizzas() -> Request {
    Request::of("two pizzas")
}

fn text(outcome: &Outcome) -> Answer {
    Ok(outcome.decode()?)
}

/// Kills a handler at every point once, and at no pair.
fn once<E: Into<Failure>>(handler: impl Fn(&Store, &World) -> Result<String, E>) -> Report {
    CrashTest::new().pairs_max(0).run(handler)
}

/// The only mistake that was found.
#[track_caller]
fn only(report: &Report) -> &Mistake {
    match report.mistakes() {
        [mistake] => mistake,
        _ => panic!("expected one mistake: {report}"),
    }
}

/// Each point of the report was tried: before and after each call of the disk, in three places of each call of the
/// world, and when it told; as a killed process and as a power cut.
#[track_caller]
fn all_points_were_tried(report: &Report) {
    let points = 2 * (2 * report.disk_calls() + 3 * report.world_calls() + 1);
    assert_eq!(report.points(), points, "{report}");
    // Of calls of the kit's own other sides; fakes answer for themselves.
    assert!(report.lost_answers() <= 2 * report.world_calls() && report.lost_answers().is_multiple_of(2), "{report}");
}

/// For handlers whose error is the store's alone.
fn decoded(outcome: &Outcome) -> Result<String, Error> {
    outcome.decode()
}
