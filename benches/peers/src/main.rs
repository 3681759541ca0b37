//! What `reentry` does in a second beside the same table written by hand on other stores, what redb could do at best,
//! and what the disk alone could do.
//!
//! `cargo run --release --manifest-path benches/peers/Cargo.toml -- --quick` measures a useful part in under a minute.
//! How it is measured, and what each contender does, stands in `docs/benchmarks/README.md`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts and rates are far below 2^52, and figures for people need no exactness"
)]
#![allow(clippy::unwrap_used, reason = "a contender that fails stops its process, and the others go on without it")]

mod callers;
mod charts;
mod cleanup;
mod committer;
mod conductor;
mod contenders;
mod docs;
mod goals;
mod hired;
mod machine;
mod options;
mod plan;
mod preload;
mod probe;
mod report;
mod rows;
mod sustained;
mod table;
mod work;
mod worker;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

use conductor::Conductor;
use options::Options;
use rows::Results;
use work::Mode;

fn main() -> ExitCode {
    let options = Options::parse();
    if options.worker {
        worker::serve();
        return ExitCode::SUCCESS;
    }
    cleanup::on_interrupt();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    let (json, begun) = (options.json(), Instant::now());
    let is_continued = options.show || (options.append && json.exists());
    let mut results = if is_continued { Results::read(&json)? } else { Results::default() };
    if !options.show {
        measure(options, |found| {
            results.merge(found);
            results.write(&json)
        })?;
    }
    for table in report::tables(&results) {
        print!("{}", table.plain());
    }
    println!("\n{}", results.machine);
    results.settings.iter().for_each(|(name, settings)| println!("{name}: {settings}"));
    results.left_out.iter().for_each(|why| println!("left out: {why}"));
    println!("rows: {}; took {:.0} s", json.display(), begun.elapsed().as_secs_f64());
    if options.docs {
        docs::write(&results)?;
    }
    Ok(())
}

/// Measures what the options ask for, and hands over what each stage found: who interrupts the run has all before.
fn measure(options: &Options, mut keep: impl FnMut(Results) -> Result<(), String>) -> Result<(), String> {
    let plan = plan::plan(options);
    let modes: Vec<Mode> = match options.sustained {
        Some(_) => options.modes.clone().unwrap_or_else(|| vec![Mode::Disk]),
        None => plan.iter().map(|stage| stage.mode).collect(),
    };
    if modes.contains(&Mode::Disk) && machine::file_system(&options.folder) == "tmpfs" {
        return Err(format!("{} is in memory: give a --folder on a disk", options.folder.display()));
    }
    let slices = plan.iter().map(plan::Stage::slices).sum();
    let mut conductor = Conductor::new(options, &modes, slices)?;
    if let Some(minutes) = options.sustained {
        sustained::sustain(&mut conductor, options, minutes)?;
        keep(conductor.results.clone())?;
    } else {
        for stage in &plan {
            conductor.stage(stage)?;
            keep(conductor.results.clone())?;
        }
    }
    conductor.bar.finish_and_clear();
    Ok(())
}
