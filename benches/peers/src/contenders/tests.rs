//! Every contender gives the right answers, so that nobody is fast by doing less.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::ValueEnum;
use tempfile::TempDir;

use super::*;
use crate::work::{KeyShape, Load};

const LOAD: Load = Load { key: KeyShape::Uuid, payload_bytes: 100 };

/// Every contender that knows keys and is installed here.
fn stores() -> impl Iterator<Item = Name> {
    Name::value_variants().iter().copied().filter(|name| {
        let installed = is_installed(*name);
        if let Err(why) = &installed {
            println!("{why}");
        }
        !name.is_limit() && installed.is_ok()
    })
}

/// A folder that a server which runs as another user can reach.
fn folder() -> TempDir {
    use std::os::unix::fs::PermissionsExt;
    tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o755)).tempdir().unwrap()
}

fn place(folder: &TempDir, load: Load) -> Place {
    let retention = Duration::from_secs(24 * 60 * 60);
    Place { folder: folder.path().to_owned(), load, is_expiring: true, retention }
}

fn perform(contender: &dyn Contender, number: u64, work: Work, kind: Kind) -> Option<Vec<u8>> {
    let performed = contender.operation(work.operation(number), kind);
    match kind {
        Kind::Threads => pollster::block_on(performed).replayed,
        Kind::Tasks => crate::callers::runtime().block_on(performed).replayed,
    }
}

fn kinds(name: Name) -> impl Iterator<Item = Kind> {
    let kinds = [Kind::Threads, Kind::Tasks].into_iter();
    kinds.filter(move |kind| name.takes_part(Work::ClaimComplete, Callers { kind: *kind, count: 1 }))
}

#[test]
fn the_first_claim_runs_and_a_copy_gets_its_outcome_also_after_reopening() {
    for name in stores() {
        let folder = folder();
        let place = place(&folder, LOAD);
        let payload = LOAD.payload().to_vec();
        let mut done = Vec::new();
        {
            let contender = name.open(&place);
            for kind in kinds(name) {
                for work in [Work::ClaimComplete, Work::Checkpoints, Work::Steps] {
                    let number = done.len() as u64;
                    assert_eq!(perform(&*contender, number, work, kind), None, "{name} {work}");
                    assert_eq!(perform(&*contender, number, work, kind), Some(payload.clone()), "{name} {work}");
                    done.push(number);
                }
            }
            let mut absent = contender.reader(Work::Absent, &[1000]);
            assert_eq!(absent.outcome(0), None, "{name}");
        }
        let contender = name.open(&place);
        let mut reader = contender.reader(Work::ReplayCold, &done);
        for at in 0..done.len() {
            assert_eq!(reader.outcome(at), Some(payload.clone()), "{name} after reopening");
        }
        assert_eq!(perform(&*contender, 0, Work::ClaimComplete, Kind::Threads), Some(payload.clone()), "{name}");
    }
}

#[test]
fn of_many_that_claim_a_key_at_once_one_runs_and_all_others_get_its_outcome() {
    for name in stores() {
        let folder = folder();
        let contender: Arc<dyn Contender> = Arc::from(name.open(&place(&folder, LOAD)));
        for number in 0..5 {
            let runs = AtomicUsize::new(0);
            std::thread::scope(|scope| {
                for _ in 0..16 {
                    scope.spawn(|| match perform(&*contender, number, Work::ClaimComplete, Kind::Threads) {
                        None => drop(runs.fetch_add(1, Ordering::Relaxed)),
                        Some(outcome) => assert_eq!(outcome, LOAD.payload().to_vec(), "{name}"),
                    });
                }
            });
            assert_eq!(runs.into_inner(), 1, "{name}");
        }
    }
}

#[test]
fn what_is_filled_is_found_and_is_removed_once_it_is_over_but_nothing_else_is() {
    const COUNT: u64 = 3000;
    const PLACES: usize = 3000;
    for name in stores() {
        let folder = folder();
        let contender = name.open(&place(&folder, LOAD));
        contender.fill(COUNT, true);
        let numbers: Vec<u64> = (0..=COUNT).collect();
        let found = |contender: &dyn Contender| {
            let mut reader = contender.reader(Work::ReplayCold, &numbers[..PLACES]);
            (0..PLACES).filter(|at| reader.outcome(*at).is_some()).count() as u64
        };
        assert_eq!(found(&*contender), COUNT, "{name}");
        if !name.takes_part(Work::Removal, Callers::threads(1)) {
            continue;
        }
        assert_eq!((contender.sweep().unwrap_or(0), contender.removed()), (0, 0), "{name}");
        contender.pass_time();
        // A store that removes by itself does so beside its callers.
        for number in COUNT.. {
            perform(&*contender, number, Work::ClaimComplete, Kind::Threads);
            contender.sweep();
            if contender.removed() == COUNT {
                break;
            }
            assert!(number < 10 * COUNT, "{name} removes nothing");
        }
        let mut newest = contender.reader(Work::ReplayHot, &[COUNT]);
        assert_eq!(newest.outcome(0), Some(LOAD.payload().to_vec()), "{name}");
        let mut oldest = contender.reader(Work::Absent, &[0]);
        assert_eq!(oldest.outcome(0), None, "{name}");
    }
}

#[test]
fn large_payloads_and_every_shape_of_key_are_kept() {
    for name in stores() {
        for key in [KeyShape::Ascending, KeyShape::Short, KeyShape::Long] {
            let (folder, load) = (folder(), Load { key, payload_bytes: 4096 });
            let contender = name.open(&place(&folder, load));
            assert_eq!(perform(&*contender, 7, Work::Checkpoints, Kind::Threads), None, "{name}");
            let outcome = perform(&*contender, 7, Work::Checkpoints, Kind::Threads);
            assert_eq!(outcome, Some(load.payload().to_vec()), "{name} {key}");
        }
    }
}

#[test]
fn the_limits_finish_operations_in_batches_of_the_size_they_are_told() {
    for name in [Name::Limit, Name::Disk] {
        let folder = folder();
        let contender = name.open(&place(&folder, LOAD));
        contender.fill(10, false);
        for work in [Work::ClaimComplete, Work::Steps] {
            for batch in [1.0, 2.5, 256.0] {
                let rate = contender.alone(work, Duration::from_millis(20), batch).unwrap();
                assert!(rate > 0.0, "{name} {work} {batch}");
            }
        }
    }
    let mut batches = limit::Batches::default();
    let sizes: Vec<_> = (0..4).map(|_| batches.next(2.5, 2, 100)).collect();
    assert_eq!(sizes, [(1, 1), (1, 2), (1, 1), (1, 2)]);
    assert_eq!(limit::Batches::default().next(10.0, 5, 3), (7, 3));
}

/// What a sync takes in the process that the next test starts, and how that process is told.
const SLOW_SYNC: Duration = Duration::from_millis(20);
const IS_SLOW: &str = "REENTRY_PEERS_SYNCS_ARE_SLOW";

/// Durability cannot be seen from outside, but a sync that takes long can: who answered sooner did not wait for one.
#[test]
fn nobody_acknowledges_a_change_before_it_is_synced() {
    let folder = folder();
    let Ok(library) = crate::preload::build(folder.path()) else {
        println!("no C compiler is here");
        return;
    };
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "contenders::tests::an_operation_takes_as_long_as_its_syncs"]);
    again.env("LD_PRELOAD", library).env("FIXED_SYNC_MICROS", SLOW_SYNC.as_micros().to_string()).env(IS_SLOW, "");
    let output = again.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn an_operation_takes_as_long_as_its_syncs() {
    if std::env::var_os(IS_SLOW).is_none() {
        println!("only in a process whose syncs are slow: the test before starts it");
        return;
    }
    for name in stores() {
        let folder = folder();
        let contender = name.open(&place(&folder, LOAD));
        // Not the first, which may make files.
        perform(&*contender, 0, Work::ClaimComplete, Kind::Threads);
        let works = [Work::ClaimComplete, Work::Checkpoints, Work::Steps];
        for (number, (kind, work)) in (1..).zip(kinds(name).flat_map(|kind| works.map(|work| (kind, work)))) {
            let begun = Instant::now();
            perform(&*contender, number, work, kind);
            let took = begun.elapsed();
            // A deferred claim is the one call that is answered before it is durable.
            let waits = u32::try_from(work.waits()).unwrap() - u32::from(name == Name::ReentryDeferred);
            assert!(took >= SLOW_SYNC * waits, "{name}, {work} as {kind:?}: {took:?}");
        }
    }
}
