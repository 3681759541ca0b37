//! Load for minutes: callers claim and complete on what is kept, while retention removes as fast as they come.

use std::time::{Duration, Instant};

use crate::conductor::{Conductor, RETENTION, shift};
use crate::contenders::Name;
use crate::hired::{Hired, folder_of};
use crate::options::Options;
use crate::plan::Stage;
use crate::rows::Row;
use crate::work::{Callers, KeyShape, Load, Mode, Work};
use crate::worker::{Measured, Request, Setup};

/// How long the rate is looked at before, which tells after which time a million are kept.
const TRIAL: Duration = Duration::from_secs(3);

/// Longest slice of a minute.
const SLICE: Duration = Duration::from_secs(5);

/// Measures what the options ask for, each contender on its own.
pub(crate) fn sustain(conductor: &mut Conductor, options: &Options, minutes: f64) -> Result<(), String> {
    let callers = match options.threads.as_deref() {
        Some([count, ..]) => Callers::threads(*count),
        _ => options.tasks.as_deref().and_then(<[_]>::first).map_or(Callers::threads(256), |n| Callers::tasks(*n)),
    };
    let first = |all: &Option<Vec<usize>>, other| all.as_ref().and_then(|all| all.first().copied()).unwrap_or(other);
    let load = Load { key: options.key.unwrap_or(KeyShape::Uuid), payload_bytes: first(&options.payload, 100) };
    let contenders = options.contenders.clone().unwrap_or_else(|| vec![Name::Reentry]);
    for mode in options.modes.clone().unwrap_or_else(|| vec![Mode::Disk]) {
        for name in contenders.iter().copied().filter(|name| name.takes_part(Work::Sustained, callers)) {
            let stage = Stage {
                mode,
                load,
                kept: options.sizes.as_ref().and_then(|sizes| sizes.first().copied()).unwrap_or(1_000_000),
                contenders: vec![name],
                rows: vec![(Work::Sustained, callers)],
                span: SLICE,
                rounds: 1,
            };
            one(conductor, &stage, name, callers, Duration::from_secs_f64(minutes * 60.0))?;
        }
    }
    Ok(())
}

fn one(conductor: &mut Conductor, stage: &Stage, name: Name, callers: Callers, span: Duration) -> Result<(), String> {
    let folder = conductor.folder(stage.mode)?;
    let mut setup = Setup {
        name,
        folder: folder_of(folder.path(), name),
        load: stage.load,
        is_expiring: true,
        retention_ms: u64::try_from(RETENTION.as_millis()).unwrap_or(u64::MAX),
        kept: 0,
        predecessors: 0,
    };
    conductor.say(&format!("{}: how fast {name} is", stage.mode));
    let Some(mut trial) = conductor.hire(setup.clone(), stage.mode) else { return Ok(()) };
    let rate = trial.work(shift(Work::ClaimComplete, callers, TRIAL, 1.0))?.rate;
    drop(trial);
    std::fs::remove_dir_all(&setup.folder).map_err(|error| error.to_string())?;
    let retention = Duration::from_secs_f64(stage.kept as f64 / rate);
    setup.retention_ms = u64::try_from(retention.as_millis()).unwrap_or(u64::MAX);
    let Some(mut hired) = conductor.hire(setup, stage.mode) else { return Ok(()) };
    hired.ask(&Request::Fill { count: 0, expires_soon: false })?;
    conductor.say(&format!("{}: {name} works until {} are kept", stage.mode, stage.kept));
    // One and a half, so that what is removed at first has had time to come round.
    run_for(&mut hired, callers, retention + retention / 2)?;
    let begun = Instant::now();
    for minute in 1.. {
        let left = span.saturating_sub(begun.elapsed());
        if left < Duration::from_secs(1) {
            return Ok(());
        }
        conductor.say(&format!("{}: {name}, minute {minute}", stage.mode));
        let found = run_for(&mut hired, callers, left.min(Duration::from_secs(60)))?;
        put(conductor, stage, callers, &mut hired, minute, &found)?;
    }
    Ok(())
}

/// Slices for about this long.
fn run_for(hired: &mut Hired, callers: Callers, span: Duration) -> Result<Vec<Measured>, String> {
    let (begun, mut found) = (Instant::now(), Vec::new());
    while begun.elapsed() < span {
        let slice = SLICE.min(span.saturating_sub(begun.elapsed())).max(Duration::from_millis(100));
        found.push(hired.work(shift(Work::Sustained, callers, slice, 1.0))?);
    }
    Ok(found)
}

fn put(
    conductor: &mut Conductor,
    stage: &Stage,
    callers: Callers,
    hired: &mut Hired,
    minute: u32,
    found: &[Measured],
) -> Result<(), String> {
    let (memory_bytes, disk_bytes) = hired.footprint()?;
    let row = conductor.row(stage, Work::Sustained, callers, hired.name(), found);
    // A median of slices that each removed and each claimed: the rates are comparable.
    let claimed: f64 = found.iter().map(|measured| measured.rate).sum();
    let removed: f64 = found.iter().map(|measured| measured.removed as f64).sum();
    let seconds = SLICE.as_secs_f64();
    let removed_rate = removed / (seconds * found.len() as f64);
    conductor.bar.suspend(|| {
        println!(
            "{} minute {minute}: {:.0} claims + completions/s, {:.0} removed/s, claim p99 {:.0} us, memory {} MiB, \
             disk {} MiB",
            hired.name(),
            claimed / found.len() as f64,
            removed_rate,
            row.claim_p99_us,
            memory_bytes >> 20,
            disk_bytes >> 20
        );
    });
    let (memory_bytes, disk_bytes, minute) = (Some(memory_bytes), Some(disk_bytes), Some(minute));
    let removed_rate = Some(removed_rate);
    conductor.results.put(Row { memory_bytes, disk_bytes, removed_rate, minute, ..row });
    Ok(())
}
