//! Power cuts at every call of the disk. What was acknowledged before is there, what was in flight is there wholly or
//! not at all, and the store goes on.
//!
//! `REENTRY_CRASH_FULL=1` loses every subset of up to ten unsynced calls, tears every write at the border of every
//! sector, and cuts far more recoveries a second time.

#[path = "../support/losses.rs"]
mod losses;
#[path = "../support/mod.rs"]
mod support;

mod cuts;
mod history;
mod server;

use cuts::{cut_everywhere, kill_everywhere};
use history::{RETENTION, TOMBSTONES};
use reentry::Claim;
use server::Server;
use support::{key, request};

/// A payload of this many bytes, none like another.
fn payload(seed: usize, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| u8::try_from((n * 31 + seed * 17 + n / 251) % 251).unwrap()).collect()
}

/// Cuts and kills everywhere, and makes sure that there was something to cut.
fn survives(server: &Server, images_min: usize) {
    let tally = cut_everywhere(server);
    assert!(tally.images >= images_min && tally.images_again > 0, "{tally:?}");
    let tally = kill_everywhere(server);
    assert!(tally.cuts > 50 && tally.images_again > tally.cuts, "{tally:?}");
}

#[test]
fn p2_p3_p10_one_operation_from_the_creation_of_its_store_to_the_close() {
    let mut server = Server::new();
    server.open();
    let mut run = server.claim(&key("order"));
    server.advance(&mut run, "paid", &payload(1, 40));
    server.advance(&mut run, "sent", &payload(2, 40));
    server.complete(run, &payload(3, 60));
    server.close();
    survives(&server, 150);
}

#[test]
fn p2_p3_p10_payloads_in_rows_of_their_own_come_and_go_with_their_records() {
    let mut server = Server::new();
    server.open();
    let (mut run, other) = (server.claim(&key("large")), server.claim(&key("other")));
    for (seed, bytes) in [(1, 5_000), (2, 9_000), (3, 10), (4, 1_025)] {
        server.advance(&mut run, "large", &payload(seed, bytes));
    }
    server.complete(run, &payload(5, 20_000));
    server.fail(other, &payload(6, 3_000));
    server.forget(&key("large"));
    server.close();
    survives(&server, 350);
}

#[test]
fn p2_p3_p10_reentry_and_checkpoints_moved_from_outside() {
    let mut server = Server::new();
    server.open();
    let run = server.claim(&key("a"));
    server.advance_from_outside(&key("a"), "paid", &payload(1, 3_000));
    server.advance_from_outside(&key("a"), "sent", &payload(2, 30));
    drop(run);
    let mut run = server.claim(&key("a"));
    server.advance(&mut run, "by the second run", &payload(3, 30));
    run.release();
    server.claim(&key("b")).release();
    server.close();
    server.open();
    let run = server.claim(&key("a"));
    server.fail(run, &payload(4, 30));
    let mut run = server.claim(&key("b"));
    server.advance(&mut run, "half", &payload(5, 30));
    server.forget(&key("a"));
    let run = server.claim(&key("a"));
    server.complete(run, &Vec::new());
    survives(&server, 400);
}

#[test]
fn p2_p3_p10_what_retention_removes_fades_or_moves_out_of_the_way() {
    let mut server = Server::new();
    server.open();
    let keys: Vec<_> = (0..6).map(|n| key(&format!("order {n}"))).collect();
    let mut runs = server.claims(&keys);
    let (mut unfinished, failed) = (runs.pop().unwrap(), runs.pop().unwrap());
    server.advance(&mut unfinished, "half", &payload(1, 2_000));
    server.completes(runs, &payload(2, 2_000));
    server.fail(failed, &payload(3, 30));
    drop(unfinished);
    server.pass(RETENTION);
    assert!(matches!(server.ask(&keys[0], request()), Claim::Gone(_)));
    let run = server.claim(&key("while they fade"));
    server.complete(run, &payload(4, 30));
    server.pass(TOMBSTONES);
    let run = server.claim(&keys[0]);
    server.complete(run, &payload(5, 30));
    let run = server.claim(&keys[5]);
    server.complete(run, &payload(6, 1_500));
    server.pass(RETENTION + TOMBSTONES);
    let run = server.claim(&keys[1]);
    server.complete(run, &payload(7, 30));
    server.close();
    survives(&server, 400);
}

#[test]
fn p2_p3_p10_so_many_operations_that_pages_split_and_merge() {
    let mut server = Server::new();
    server.open();
    for wave in 0..3 {
        let keys: Vec<_> = (0..36).map(|n| key(&format!("wave {wave} order {n}"))).collect();
        let mut runs = server.claims(&keys);
        server.advance(&mut runs[7], "half", &payload(wave, 30));
        let unfinished = runs.split_off(31);
        server.completes(runs, &payload(wave, 40));
        drop(unfinished);
        server.pass(RETENTION);
    }
    server.pass(TOMBSTONES);
    let run = server.claim(&key("wave 0 order 33"));
    server.complete(run, &payload(9, 40));
    server.close();
    survives(&server, 500);
}

#[test]
fn p3_p4_p6_p10_steps_and_their_results_come_move_and_go_with_their_records() {
    let mut server = Server::new();
    server.open();
    let mut run = server.claim(&key("a"));
    server.guard(&mut run, "charge", Some(&payload(1, 40)));
    server.advance(&mut run, "paid", &payload(2, 30));
    server.guard(&mut run, "mail", Some(&payload(3, 3_000)));
    server.guard(&mut run, "call", None);
    drop(run);
    server.resolve(&key("a"), "call", &payload(4, 2_000));
    let mut run = server.claim(&key("b"));
    server.guard(&mut run, "mail", Some(&payload(5, 5_000)));
    // Another operation's call takes the report along.
    server.claim(&key("c")).release();
    server.complete(run, &payload(6, 30));
    server.pass(RETENTION);
    let mut run = server.claim(&key("a"));
    server.guard_again(&mut run, "call", &payload(4, 2_000));
    server.guard(&mut run, "last", Some(&payload(7, 2_000)));
    server.complete(run, &payload(8, 30));
    server.pass(RETENTION);
    let run = server.claim(&key("while it fades"));
    server.complete(run, &payload(9, 30));
    server.pass(TOMBSTONES);
    let mut run = server.claim(&key("a"));
    server.guard(&mut run, "charge", None);
    server.close();
    drop(run);
    survives(&server, 400);
}
