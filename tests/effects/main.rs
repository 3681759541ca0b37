//! Power cuts and kills at every call of the disk, and at every moment in between, of an operation with three effects
//! in an outside world that no crash takes back. After reopening and running to the end each happened exactly once,
//! and the server's rows are there exactly when the checkpoint and the outcome are.
//!
//! `REENTRY_CRASH_FULL=1` tries each plan under both kinds of claim, loses far more subsets, and cuts far more of the
//! second runs again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests panic")]
#![allow(clippy::print_stdout, reason = "whoever asks for it sees how much was tried")]

#[path = "../support/losses.rs"]
mod losses;
#[path = "../support/mod.rs"]
mod support;

mod cuts;
mod faults;
mod handler;
mod server;
mod world;

use cuts::{Tally, is_full, survive, survive_together};
use faults::{break_everywhere, fill_everywhere, fill_slowly};
use handler::Plan;
use world::Guard::{self, AtMostOnce, Keyed, Rechecked};
use world::Situation::{self, *};

/// What every plan brings about, whatever its order.
const ALWAYS: [Situation; 22] = [
    NeverClaimed,
    Unfinished,
    Over,
    BehindTheCheckpoint,
    InDoubt(Rechecked),
    InDoubt(Keyed),
    InDoubt(AtMostOnce),
    Done(Rechecked),
    Done(Keyed),
    Done(AtMostOnce),
    HappenedUnheard(Rechecked),
    HappenedUnheard(Keyed),
    HappenedUnheard(AtMostOnce),
    RecheckedHappened,
    RecheckedNot,
    RecheckedTooEarly,
    KeyedAgain,
    ResolvedHappened,
    ResolvedNot,
    CutInARecheck,
    CutAfterAResolve,
    EnteredWithoutTheClient,
];

/// Cuts this plan off everywhere, and makes sure that there was something to cut.
fn survives(plan: Plan) {
    let claims = if is_full() { vec![false, true] } else { vec![plan.deferred] };
    for deferred in claims {
        let tally = survive(Plan { deferred, ..plan });
        let Tally { cuts, images, images_again, situations } = &tally;
        assert!(*cuts > 400 && *images > 150 && *images_again > 700, "{tally:?}");
        for situation in ALWAYS.into_iter().chain(deferred.then_some(DeferredAndLost)) {
            assert!(situations.contains_key(&situation), "{situation:?} never came up: {tally:?}");
        }
        println!("{plan:?}: {cuts} cuts, {images} images, and {images_again} after a second crash");
    }
}

fn plan(order: [Guard; 3], before_checkpoint: usize) -> Plan {
    Plan { name: "order", order, before_checkpoint, deferred: false, more_bytes: 0, in_company: false }
}

#[test]
fn p4_p8_recheck_then_keyed_then_at_most_once() {
    survives(plan([Rechecked, Keyed, AtMostOnce], 1));
}

#[test]
fn p4_p8_recheck_then_at_most_once_then_keyed_after_a_deferred_claim() {
    survives(Plan { deferred: true, ..plan([Rechecked, AtMostOnce, Keyed], 2) });
}

#[test]
fn p4_p8_keyed_then_recheck_then_at_most_once_with_results_in_rows_of_their_own() {
    survives(Plan { more_bytes: 1_500, ..plan([Keyed, Rechecked, AtMostOnce], 2) });
}

#[test]
fn p4_p8_keyed_then_at_most_once_then_recheck_beside_a_closure_that_fails() {
    survives(Plan { in_company: true, ..plan([Keyed, AtMostOnce, Rechecked], 1) });
}

#[test]
fn p4_p8_at_most_once_then_recheck_then_keyed_after_a_deferred_claim_and_with_a_checkpoint_at_last() {
    survives(Plan { deferred: true, ..plan([AtMostOnce, Rechecked, Keyed], 3) });
}

#[test]
fn p4_p8_at_most_once_then_keyed_then_recheck_with_all_at_once() {
    let with_all =
        Plan { deferred: true, more_bytes: 3_000, in_company: true, ..plan([AtMostOnce, Keyed, Rechecked], 2) };
    survives(with_all);
}

#[test]
fn p1_p4_p8_several_operations_at_once_do_each_of_their_effects_once() {
    let tally = survive_together(&[
        Plan { name: "a", more_bytes: 1_500, ..plan([Rechecked, Keyed, AtMostOnce], 1) },
        Plan { name: "b", deferred: true, ..plan([AtMostOnce, Keyed, Rechecked], 2) },
        Plan { name: "c", in_company: true, ..plan([Keyed, AtMostOnce, Rechecked], 1) },
    ]);
    // How many calls there are to cut is a matter of what shares a batch with what; each leaves more than one image.
    assert!(tally.cuts > 50 && tally.images > tally.cuts, "{tally:?}");
    assert_seen(&tally, &ALWAYS[..19]);
    println!("{} cuts, {} images", tally.cuts, tally.images);
}

/// Makes sure that each of these came up.
fn assert_seen(tally: &Tally, situations: &[Situation]) {
    for situation in situations {
        assert!(tally.situations.contains_key(situation), "{situation:?} never came up: {tally:?}");
    }
}

#[test]
fn p4_p8_p10_every_effect_happens_once_whenever_the_disk_breaks() {
    for plan in [
        plan([Rechecked, Keyed, AtMostOnce], 1),
        Plan { deferred: true, more_bytes: 1_500, in_company: true, ..plan([AtMostOnce, Rechecked, Keyed], 2) },
    ] {
        let tally = break_everywhere(plan);
        assert!(tally.cuts > 50 && tally.images > 300, "{tally:?}");
        assert_seen(&tally, &[Failed, Over, InDoubt(Rechecked), InDoubt(Keyed), InDoubt(AtMostOnce)]);
        assert_seen(&tally, &[HappenedUnheard(Rechecked), HappenedUnheard(Keyed), HappenedUnheard(AtMostOnce)]);
        println!("{tally:?}");
    }
}

#[test]
fn p4_p8_p10_every_effect_happens_once_whenever_the_disk_is_full() {
    for plan in [
        plan([Rechecked, Keyed, AtMostOnce], 1),
        Plan { deferred: true, in_company: true, ..plan([Keyed, AtMostOnce, Rechecked], 2) },
    ] {
        let tally = fill_everywhere(plan);
        println!("{tally:?}");
        assert!(tally.cuts > 40, "{tally:?}");
        assert_seen(&tally, &[Refused, Mended, HappenedUnheard(Rechecked), HappenedUnheard(AtMostOnce)]);
    }
}

#[test]
fn p3_p4_p10_a_run_that_a_full_disk_refused_goes_on_when_there_is_room() {
    let tally = fill_slowly(Plan { deferred: true, more_bytes: 9_000, ..plan([AtMostOnce, Rechecked, Keyed], 2) });
    println!("{tally:?}");
    assert_seen(&tally, &[Insisted, Over]);
}
