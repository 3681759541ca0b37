//! Random histories of 2 to 16 threads on 1 to 3 keys of a real store, with crashes, dropped answers, lapsed leases and
//! ended retention inside: the calls on each key are linearizable (P1), whatever became of the process meanwhile.
//!
//! The plain `cargo test` takes the checker's own tests and some hundred histories. As many as asked, from another seed
//! where that is given, with figures:
//!
//! ```text
//! REENTRY_HISTORIES=100000 REENTRY_SEED=1 cargo test --release --test linearizability p1_p2_p7 -- --nocapture
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests panic")]
#![allow(clippy::print_stdout, reason = "a long run tells its figures")]

mod caller;
#[path = "../support/calls.rs"]
mod calls;
mod checker;
#[path = "../support/linearizable.rs"]
mod linearizable;
#[path = "../support/promises.rs"]
mod promises;
mod server;
#[path = "../support/mod.rs"]
mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use caller::Caller;
use linearizable::check_within;
use promises::Promises;
use server::{Death, Server};
use support::Dice;

/// One history in so many runs on a real file.
const ON_FILE: u64 = 100;

/// How many histories the plain run takes.
const HISTORIES: u64 = 200;

/// Configurations that one search looks at: where very much overlaps, a history is left undecided and counted so. The
/// plain run is not held up by the few that take many.
const SEARCH_MAX: usize = 400_000;
const SEARCH_SHORT_MAX: usize = 20_000;

/// What was looked at.
#[derive(Debug, Default)]
struct Figures {
    histories: AtomicU64,
    calls: AtomicU64,
    unknown: AtomicU64,
    crashes: AtomicU64,
    undecided: AtomicU64,
}

/// What the store of this history promises: with and without a lease, and with outcomes that are soon over.
fn rules(dice: &mut Dice) -> Promises {
    let lease = (dice.below(3) == 0).then_some(50);
    let (retention, tombstones) = match dice.below(4) {
        0 => (40, 30),
        1 => (60, 0),
        _ => (24 * 60 * 60 * 1000, 0),
    };
    Promises { lease, retention, tombstones, attempts_max: 3 }
}

/// Lets the threads of one history call, and checks what they were told.
fn history(seed: u64, search_max: usize, figures: &Figures) {
    let mut dice = Dice::new(seed);
    let (rules, keys, on_file) = (rules(&mut dice), 1 + dice.below(3), seed % ON_FILE == ON_FILE - 1);
    let server = Server::new(rules, keys, on_file);
    let threads = 2 + dice.below(15);
    let calls = if threads > 6 { 3 + dice.below(5) } else { 4 + dice.below(12) };
    thread::scope(|scope| {
        for number in 1..threads {
            let (server, dice) = (&server, Dice::new(dice.roll()));
            scope.spawn(move || Caller::new(server, number, dice).work(calls));
        }
        // This one lets time pass and the process die, and calls as well.
        let mut caller = Caller::new(&server, 0, Dice::new(dice.roll()));
        for _ in 0..3 {
            caller.work(1 + calls / 4);
            if dice.below(2) == 0 {
                server.clock.advance(Duration::from_millis(1 + dice.below(60) as u64));
            }
            match dice.below(8) {
                0 => server.crash(&mut dice, Death::Kill),
                1 => server.crash(&mut dice, Death::PowerCut),
                2 => {
                    server.break_syncs();
                    caller.work(2);
                    server.crash(&mut dice, Death::PowerCut);
                }
                _ => {}
            }
        }
    });
    close(&server, &mut dice);
    figures.crashes.fetch_add(server.crashes(), Ordering::Relaxed);
    figures.histories.fetch_add(1, Ordering::Relaxed);
    for contested in server.keys {
        let calls = contested.history.calls();
        figures.calls.fetch_add(calls.len() as u64, Ordering::Relaxed);
        figures.unknown.fetch_add(calls.iter().filter(|call| call.answer.is_none()).count() as u64, Ordering::Relaxed);
        match check_within(search_max, &rules, &calls) {
            Ok(is_decided) => {
                figures.undecided.fetch_add(u64::from(!is_decided), Ordering::Relaxed);
            }
            Err(violation) => {
                let all: Vec<String> = calls.iter().map(|call| format!("{call:?}")).collect();
                let all = all.join("\n");
                panic!("history {seed}, {rules:?}, {threads} threads, {keys} keys:\n{violation:?}\nall of it:\n{all}")
            }
        }
    }
}

/// Everybody is gone: all is free, and stays as it was told over one more power cut.
fn close(server: &Server, dice: &mut Dice) {
    if server.stopped() {
        server.crash(dice, Death::PowerCut);
    }
    server.audit();
    let mut last = Caller::new(server, 99, Dice::new(dice.roll()));
    for after_the_cut in [false, true] {
        if after_the_cut {
            server.crash(dice, Death::PowerCut);
        }
        let process = server.process();
        (0..server.keys.len()).for_each(|nth| last.look(&process, nth));
    }
    server.audit();
}

#[test]
fn p1_p2_p7_calls_on_a_key_are_linearizable_over_crashes_too() {
    let asked = |name| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let (first, count) = (asked("REENTRY_SEED").unwrap_or(0), asked("REENTRY_HISTORIES"));
    let search_max = if count.is_some() { SEARCH_MAX } else { SEARCH_SHORT_MAX };
    let count = count.unwrap_or(HISTORIES);
    let began = Instant::now();
    let (next, figures) = (AtomicU64::new(0), Figures::default());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let nth = next.fetch_add(1, Ordering::Relaxed);
                    if nth >= count {
                        return;
                    }
                    history(first + nth, search_max, &figures);
                    if nth % 1_000 == 999 {
                        tell(&figures, began);
                    }
                }
            });
        }
    });
    tell(&figures, began);
    let undecided = figures.undecided.into_inner();
    assert!(undecided * 20 <= count, "{undecided} keys of {count} histories are too much to search");
}

fn tell(figures: &Figures, began: Instant) {
    let Figures { histories, calls, unknown, crashes, undecided } = figures;
    let of = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
    let rate = of(histories) * 1_000 / u64::try_from(began.elapsed().as_millis()).unwrap().max(1);
    println!(
        "{} histories, {} calls, {} of them with an unknown outcome, {} crashes, {} keys undecided, {rate} a second",
        of(histories),
        of(calls),
        of(unknown),
        of(crashes),
        of(undecided),
    );
}
