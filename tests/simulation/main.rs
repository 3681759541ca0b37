//! A simulated world that tries to break every promise; each seed is one run that can be repeated exactly.
//!
//! A run has a disk, a clock, banks, clients, a resumer and an operator, and one choice after the other of what happens
//! next is drawn from its seed. `cargo run --release --example simulation -- --images 10000000 --seed 1` runs for long;
//! `--only SEED` repeats one run, and `REENTRY_SIMULATION_TRACE=1` shows all of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests panic")]

mod checker;
mod clients;
mod handler;
mod images;
mod plan;
mod rules;
mod run;
#[path = "../support/mod.rs"]
mod support;
mod world;

use images::Tally;

/// How many images one test looks at.
const IMAGES: u64 = 5_000;

#[test]
fn p1_to_p11_hold_in_a_simulated_world_whatever_fails_when() {
    world::quiet();
    let mut tally = Tally::default();
    for seed in 1.. {
        match run::run_seed(seed) {
            Ok(one) => tally.add(one),
            Err(broken) => panic!("{broken}\nrepeat with: cargo run --release --example simulation -- --only {seed}"),
        }
        if tally.images >= IMAGES {
            break;
        }
    }
    assert!(tally.compound * 4 >= tally.images, "{tally:?}");
}
