//! What the store does in a second, beside what the bare redb loop does in the same second.
//!
//! `cargo bench` runs all of it and prints one table at its end; `cargo bench -- replay` runs what has that in its
//! name. Files are made in `REENTRY_BENCH_DIR`, or in the target folder: a folder in memory would measure no disk.
//!
//! The *limit* is one thread that appends ready-made rows of the same size under ascending numbers in batches of the
//! same size, and does nothing else: no keys, no index, no decisions, nobody to wake. The ratio tells what the store
//! costs above that. Disks are moody, so only slices that stand beside each other in time are compared: each sample of
//! criterion is one slice of ours and one of the limit's, in turn; the table shows the median of their ratios.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program for a terminal that should stop at a fault")]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts and rates are far below 2^52, and figures for people need no exactness"
)]

mod advance;
mod callers;
mod claims;
mod comparison;
mod limit;
mod opening;
mod probe;
mod reads;
mod shop;
mod steps;

use std::cell::LazyCell;

use comparison::Comparison;
use shop::Shop;

fn main() {
    let mut comparison = Comparison::from_args();
    let (small, large) = comparison.sizes();
    {
        let shop = LazyCell::new(|| Shop::keeping(small));
        claims::compare(&mut comparison, &shop);
        advance::compare(&mut comparison, &shop);
        steps::compare(&mut comparison, &shop);
        reads::compare(&mut comparison, &shop, small);
    }
    let shop = LazyCell::new(|| Shop::keeping(large));
    reads::compare(&mut comparison, &shop, large);
    opening::compare(&mut comparison, &shop, large);
    comparison.print();
}
