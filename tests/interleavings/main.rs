//! Interleavings: whole scenarios on a real store, its writer and its callers as threads of the model checker shuttle,
//! which tries one order of their steps after the other: at random, and by PCT (few switches, at the worst moments).
//! Nobody may hang (the checker knows when all wait), and what each scenario asserts must hold in every order.
//!
//! ```sh
//! RUSTFLAGS="--cfg shuttle" CARGO_TARGET_DIR=target/shuttle cargo test --release --test interleavings
//! ```
//!
//! `REENTRY_SCHEDULES=1000000` sets how many orders each scenario is run in, half of them at random and half by PCT;
//! `REENTRY_SCHEDULES_SEED` where they begin; `REENTRY_PCT_DEPTH` how many switches PCT places (3). What fails prints
//! its schedule, and `REENTRY_REPLAY=<schedule>` with the test's name runs that one again. With `--nocapture` each
//! scenario tells how many orders it was run in, and how fast.
//!
//! Without the cfg nothing is here.
#![cfg(shuttle)]
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests panic, and tell their figures"
)]

mod claims;
mod closing;
mod faults;
mod publication;
mod queue;
mod takeover;
mod waiting;
mod world;
