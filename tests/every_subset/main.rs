//! P2, P10: for workloads of up to three operations on a fresh store, its creation included, a power cut at every call
//! of the disk, which loses every subset of what was not synced. Some of the recoveries are cut again.
//!
//! The plain run takes one workload in so many. `REENTRY_CRASH_FULL=1 cargo test --test every_subset -- --nocapture`
//! takes all of them, and prints how many images that were.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, clippy::indexing_slicing, reason = "tests panic")]
#![allow(clippy::print_stdout, reason = "a long run tells its figures")]

#[path = "../every_fault/server.rs"]
#[allow(dead_code, reason = "shared with the tests of faults")]
mod server;
#[path = "../support/mod.rs"]
mod support;

use std::collections::{HashMap, HashSet};

use reentry::{Loss, ManualClock, SimulatedDisk};
use server::{Server, Shown, shown_by};
use support::{Dice, START};

/// Of so many unsynced calls every subset is tried; of more, this many subsets.
const ALL_SUBSETS_MAX: usize = 12;
const SUBSETS: usize = 4_096;

/// Of how many workloads the plain run takes one.
const ONE_IN: usize = 47;

/// Out of how many images one is recovered and cut again, at every call of its recovery.
const AGAIN_ONE_IN: usize = 48;

/// How a workload begins, what may come next to a run, and what may come when there is none.
const FIRST: [&str; 4] = ["claim a", "defer a", "claim a | claim b", "claim a | claim a"];
const OF_A_RUN: [&str; 14] = [
    "advance a 40",
    "advance a 3000",
    "advance+row a 40",
    "keyed a charge 40",
    "once a charge 3000",
    "doubt a charge",
    "outside a 40",
    "complete a 60",
    "complete a 3000",
    "complete+row a 40",
    "fail a 40",
    "drop a",
    "revoke a",
    "reopen",
];
const OF_NOBODY: [&str; 4] = ["claim a", "forget a", "outside a 40", "reopen"];

/// Every workload of up to three operations.
fn workloads() -> Vec<Vec<&'static str>> {
    let mut all = vec![vec!["reopen"]];
    for first in FIRST {
        all.push(vec![first]);
        for second in OF_A_RUN {
            let is_deferred = first == "defer a";
            // Nothing is known of a claim that is still deferred when its run is gone.
            if is_deferred && matches!(second, "drop a" | "revoke a" | "reopen" | "outside a 40") {
                continue;
            }
            all.push(vec![first, second]);
            let is_free = ["complete", "fail", "drop", "revoke", "reopen"].iter().any(|end| second.starts_with(end));
            let next = if is_free { OF_NOBODY.as_slice() } else { OF_A_RUN.as_slice() };
            // A run is given the result of a step of one name once.
            let is_step = |act: &str| act.contains("charge");
            let thirds = next.iter().filter(|third| !(is_step(second) && is_step(third)));
            all.extend(thirds.map(|third| vec![first, second, *third]));
        }
    }
    all
}

/// What was tried.
#[derive(Debug, Default)]
struct Tally {
    workloads: usize,
    cuts: usize,
    /// Ways to lose what was not synced, and images that differ, each opened, verified and audited.
    subsets: usize,
    images: usize,
    /// Cuts with too many unsynced calls to try every subset.
    sampled: usize,
    unsynced_max: usize,
    subsets_again: usize,
    images_again: usize,
}

/// What a restart must show from which call of the disk on.
type Course = Vec<(usize, Shown)>;

fn shown(disk: &SimulatedDisk) -> Shown {
    shown_by(disk, &ManualClock::at(START))
}

/// Does a workload, and tells what a restart must show, and after which call of the disk each line begins.
fn course(lines: &[&str], journal: u32) -> (SimulatedDisk, Course, Vec<usize>) {
    let mut server = Server::new(journal);
    let mut course = vec![(0, shown(&SimulatedDisk::new()))];
    server.open().unwrap();
    let mut begins = Vec::new();
    for line in lines {
        begins.push(server.disk.calls());
        server.line(line, |server| {
            let calls = server.disk.calls();
            course.push((calls, shown(&server.disk.killed(calls))));
        });
    }
    server.end().unwrap();
    (server.disk.clone(), course, begins)
}

/// How many calls a cut here may lose.
fn unsynced(disk: &SimulatedDisk, at: usize) -> usize {
    let mut count = 0;
    drop(disk.cut(at, |_| {
        count += 1;
        Loss::Kept
    }));
    count
}

/// The subsets of so many calls that are kept, as bits.
fn subsets(count: usize, dice: &mut Dice) -> Vec<u64> {
    if count <= ALL_SUBSETS_MAX {
        return (0..1 << count).collect();
    }
    [0, u64::MAX].into_iter().chain((2..SUBSETS).map(|_| dice.roll())).collect()
}

fn with(disk: &SimulatedDisk, at: usize, kept: u64) -> SimulatedDisk {
    disk.cut(at, |call| if kept >> (call.nth % 64) & 1 == 1 { Loss::Kept } else { Loss::Lost })
}

/// What was left by the calls that no cut undoes and these of the others; no image is opened twice.
type Left = HashMap<(usize, u64), Shown>;

/// Cuts a workload off everywhere behind what was tried with another.
fn cut_everywhere(
    lines: &'static [&'static str],
    journal: u32,
    tried: &mut HashSet<&'static [&'static str]>,
    dice: &mut Dice,
    tally: &mut Tally,
) {
    let (disk, course, begins) = course(lines, journal);
    let known = (0..lines.len()).rev().find(|most| tried.contains(&lines[..*most]));
    // The same calls leave the same bytes, so nothing is new up to the line in which they part.
    let from = known.map_or(0, |most| begins[most]);
    tried.extend((0..=lines.len()).map(|most| &lines[..most]));
    tally.workloads += 1;
    let mut left = Left::new();
    for at in from..=disk.calls() {
        let sure = course.iter().rposition(|(calls, _)| *calls <= at).unwrap();
        let allowed: Vec<_> = course[sure..].iter().take(2).map(|(_, shown)| shown).collect();
        let count = unsynced(&disk, at);
        tally.cuts += 1;
        tally.unsynced_max = tally.unsynced_max.max(count);
        tally.sampled += usize::from(count > ALL_SUBSETS_MAX);
        for kept in subsets(count, dice) {
            tally.subsets += 1;
            let image = || with(&disk, at, kept);
            let (found, is_new) = seen(&mut left, (at - count, kept), || shown(&image()));
            assert!(
                allowed.contains(&&found),
                "{lines:?}, cut at {at} of {}, kept {kept:b} of {count}: there is {found:#?}, allowed is {allowed:#?}",
                disk.calls(),
            );
            tally.images += usize::from(is_new);
            if is_new && dice.below(AGAIN_ONE_IN) == 0 {
                cut_again(&image(), &found, dice, tally);
            }
        }
    }
}

fn seen(left: &mut Left, id: (usize, u64), look: impl FnOnce() -> Shown) -> (Shown, bool) {
    match left.get(&id) {
        Some(shown) => (shown.clone(), false),
        None => (left.entry(id).or_insert(look()).clone(), true),
    }
}

/// Recovers from a cut, and cuts that off everywhere: what the first cut left stays so.
fn cut_again(image: &SimulatedDisk, before: &Shown, dice: &mut Dice, tally: &mut Tally) {
    let recovering = image.killed(image.calls());
    let mut server = Server::on(recovering.clone(), ManualClock::at(START));
    server.open().unwrap();
    let mut left = Left::new();
    for at in 0..=recovering.calls() {
        let count = unsynced(&recovering, at);
        for kept in subsets(count, dice) {
            let (again, is_new) = seen(&mut left, (at - count, kept), || shown(&with(&recovering, at, kept)));
            tally.subsets_again += 1;
            tally.images_again += usize::from(is_new);
            assert!(again == *before, "cut again at {at}, kept {kept:b} of {count}: {again:#?}, before {before:#?}");
        }
    }
}

/// Every workload, or some of them, on a store whose journal has so many pages.
fn cut_all(journal: u32, one_in: usize) -> Tally {
    let is_full = std::env::var_os("REENTRY_CRASH_FULL").is_some();
    let (mut tally, mut tried, mut dice) = (Tally::default(), HashSet::new(), Dice::new(13));
    let workloads: &'static [Vec<_>] = workloads().leak();
    let one_in = if is_full { 1 } else { one_in };
    for lines in workloads.iter().step_by(one_in) {
        cut_everywhere(lines, journal, &mut tried, &mut dice, &mut tally);
    }
    println!("{} workloads there are, {tally:?}", workloads.len());
    assert_eq!(tally.workloads, workloads.len().div_ceil(one_in));
    tally
}

#[test]
fn p2_p10_every_subset_of_unsynced_calls_under_three_operations_leaves_what_was_told() {
    let tally = cut_all(0, ONE_IN);
    assert!(tally.images > 100 && tally.images_again > 100, "{tally:?}");
}

#[test]
fn p2_p10_every_subset_of_unsynced_calls_leaves_what_was_told_where_the_journal_is_often_full() {
    // A commit in full that takes in an entry loses more calls, and has far more subsets of them.
    let tally = cut_all(1, 7 * ONE_IN);
    assert!(tally.images > 50 && tally.images_again > 50, "{tally:?}");
}
