//! Long runs of the simulated world of `tests/simulation`: one seed after the other, on every core, until so many
//! images of power cuts were looked at.
//!
//! `cargo run --release --example simulation -- --images 10000000 --seed 1`; `--only SEED` repeats one run, and
//! `--threads N` says how many seeds run at a time. `--seeds N` runs so many seeds instead.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "it is a test")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it reports to whoever runs it")]

#[path = "../../tests/simulation/checker.rs"]
mod checker;
#[path = "../../tests/simulation/clients.rs"]
mod clients;
#[path = "../../tests/simulation/handler.rs"]
mod handler;
#[path = "../../tests/simulation/images.rs"]
mod images;
#[path = "../../tests/simulation/plan.rs"]
mod plan;
#[path = "../../tests/simulation/rules.rs"]
mod rules;
#[path = "../../tests/simulation/run.rs"]
mod run;
#[path = "../../tests/support/mod.rs"]
mod support;
#[path = "../../tests/simulation/world.rs"]
mod world;

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use images::Tally;

/// How often it says how far it is.
const REPORT_EVERY: Duration = Duration::from_secs(10);

struct Wanted {
    images: u64,
    seeds: u64,
    seed: u64,
    threads: usize,
}

fn main() -> ExitCode {
    let mut wanted = Wanted { images: 100_000, seeds: u64::MAX, seed: 1, threads: 0 };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let number = arguments.next().and_then(|value| value.parse::<u64>().ok());
        match (name.as_str(), number) {
            ("--images", Some(images)) => wanted.images = images,
            ("--seeds", Some(seeds)) => (wanted.seeds, wanted.images) = (seeds, u64::MAX),
            ("--seed", Some(seed)) => wanted.seed = seed,
            ("--only", Some(seed)) => (wanted.seed, wanted.seeds, wanted.threads) = (seed, 1, 1),
            ("--threads", Some(threads)) => wanted.threads = usize::try_from(threads).unwrap_or(1),
            _ => {
                eprintln!(
                    "what is {name}? Known are --images, --seeds, --seed, --only and --threads, each with a number"
                );
                return ExitCode::from(2);
            }
        }
    }
    world::quiet();
    run(&wanted)
}

fn run(wanted: &Wanted) -> ExitCode {
    let threads = match wanted.threads {
        0 => thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let (next, total, broken) = (AtomicU64::new(wanted.seed), Mutex::new(Tally::default()), Mutex::new(None));
    let last = wanted.seed.saturating_add(wanted.seeds);
    let began = Instant::now();
    let reported = Mutex::new(began);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let is_done = seed >= last || total.lock().unwrap().images >= wanted.images;
            if is_done || broken.lock().unwrap().is_some() {
                return;
            }
            match run::run_seed(seed) {
                Ok(tally) => {
                    let mut total = total.lock().unwrap();
                    total.add(tally);
                    let mut reported = reported.lock().unwrap();
                    if reported.elapsed() >= REPORT_EVERY {
                        *reported = Instant::now();
                        eprintln!("{}", line(*total, began));
                    }
                }
                Err(what) => {
                    broken.lock().unwrap().get_or_insert((seed, what));
                }
            }
        }
    };
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let total = *total.lock().unwrap();
    if let Some((seed, what)) = broken.lock().unwrap().take() {
        println!("{what}\n\nBROKEN by seed {seed} after {} seeds: {}", total.runs, line(total, began));
        println!("repeat with: cargo run --release --example simulation -- --only {seed}");
        return ExitCode::FAILURE;
    }
    println!("{}", line(total, began));
    println!("no promise was broken: seeds from {} on, {threads} at a time", wanted.seed);
    ExitCode::SUCCESS
}

fn line(total: Tally, began: Instant) -> String {
    let Tally { runs, images, compound, answers, effects, restarts, faults, faulty_openings, copies } = total;
    let seconds = began.elapsed().as_secs_f64().max(0.001);
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let (rate, share) = (images as f64 / seconds, compound as f64 * 100.0 / images.max(1) as f64);
    format!(
        "{images} images of power cuts, {compound} of them compound ({share:.0} %), in {seconds:.0} s: {rate:.0} a \
         second; {runs} runs with {restarts} restarts, {faults} faults of the disk, {faulty_openings} more as it was \
         opened, {copies} copies, {answers} answers and {effects} effects"
    )
}
