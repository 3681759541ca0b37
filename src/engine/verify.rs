//! Every invariant over every record, while claims go on: a slice at a time, each in a read of its own.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::Shared;
use super::backup::share;
use super::capacity::{Kept, Scopes};
use super::index::{NUMBER_MAX, Open, Tally};
use super::log::{Place, broken_off};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::record::{Phase, Record};
use crate::sync::Ordering;

/// Rows looked at in one read.
const SLICE: usize = 4096;

/// What was looked at.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) operations: u64,
    pub(crate) tombstones: u64,
    pub(crate) payload_rows: u64,
}

/// # Errors
///
/// `Corrupt` with the row at the first invariant that does not hold; `Cancelled` where `progress` breaks it off.
pub(super) fn verify(shared: &Arc<Shared>, progress: &mut dyn FnMut(f64) -> ControlFlow<()>) -> Result<Verdict> {
    let changes = shared.meter.commits.load(Ordering::Acquire);
    let mut verdict = Verdict::default();
    let (mut bodies, mut kept, mut scopes) = (HashSet::new(), Kept::default(), Scopes::default());
    let (mut in_doubt, mut tried_enough, mut oldest) = (0, 0, None);
    for start in [Place::Log(0), Place::Tombstone(0)] {
        let mut from = Some(start);
        while let Some(at) = from {
            let mut rows = Vec::new();
            from = shared.log.slice(at, SLICE, |place, record| {
                rows.push((place, record));
                Ok(())
            })?;
            for (place, record) in rows {
                if !check(shared, place, &record)? {
                    continue;
                }
                verdict.tombstones += u64::from(matches!(place, Place::Tombstone(_)));
                kept = kept.add(Kept::of(&record));
                if let Some(tally) = Tally::of(&record) {
                    in_doubt += u64::from(tally.is_in_doubt);
                    tried_enough += u64::from(tally.tries >= shared.policy.attempts_max);
                    oldest = Some(oldest.map_or(tally.since, |oldest: Timestamp| oldest.min(tally.since)));
                }
                if shared.ledger.counts_scopes() {
                    let scope = scopes.entry_ref(record.key.scope()).or_default();
                    *scope = scope.add(Kept::of(&record));
                }
                bodies.extend(record.rows_apart());
            }
            if progress(share(kept.operations, shared.index.operations())).is_break() {
                return Err(broken_off());
            }
        }
    }
    verdict.operations = kept.operations;
    verdict.payload_rows = shared.log.bodies()?;
    // Sums can only be compared where nothing moved meanwhile: all that was committed is published before they are
    // taken, and nothing was committed since the first row was read.
    let is_moving = shared.is_moving.load(Ordering::Acquire);
    let ledger = shared.ledger.all();
    let opens = shared.index.unfinished();
    let (listed, doubtful, stuck, known_oldest) =
        (opens.len(), opens.in_doubt(), opens.tried_enough(), opens.oldest_since());
    drop(opens);
    let sums = [
        ("the index holds another number of operations", kept.operations, shared.index.operations()),
        ("payload rows belong to no record or are missing", bodies.len() as u64, verdict.payload_rows),
        ("the list of the unfinished is wrong", kept.unfinished, listed),
        ("another number is counted as in doubt", in_doubt, doubtful),
        ("another number is counted as tried enough", tried_enough, stuck),
        ("another moment is told of the oldest unfinished", millis(oldest), millis(known_oldest)),
        ("another number of tombstones is counted", verdict.tombstones, shared.index.tombstones()),
        ("another number of operations is counted", kept.operations, ledger.operations),
        ("another number of the unfinished is counted", kept.unfinished, ledger.unfinished),
        ("another number of bytes is counted", kept.bytes, ledger.bytes),
        ("something else is counted under a scope", 1, shared.ledger.is_as_counted(&scopes).into()),
    ];
    if !is_moving && shared.meter.commits.load(Ordering::Acquire) == changes {
        for (fault, rows, known) in sums {
            if rows != known {
                return Err(Error::new(ErrorKind::Corrupt, format!("{fault}: {rows} by the rows, {known} known")));
            }
        }
    }
    Ok(verdict)
}

fn millis(moment: Option<Timestamp>) -> u64 {
    moment.map_or(0, Timestamp::as_millis)
}

/// Checks one row. Returns false where it moved since it was read, and so is no longer to be checked.
fn check(shared: &Arc<Shared>, place: Place, record: &Record) -> Result<bool> {
    let violated = |what: &str| {
        let message = format!("row {} breaks a rule: {what}", place.number());
        Err(Error::new(ErrorKind::Corrupt, message))
    };
    // The bodies apart are read with the record, and checked against it.
    if shared.log.read(place)?.is_none() {
        return Ok(false);
    }
    let hash = shared.index.hash(&record.key);
    let places: Vec<_> = shared.index.shard(hash).places(hash).collect();
    if !places.contains(&place) {
        let still_there = shared.log.holds(place)? && !shared.index.shard(hash).places(hash).any(|p| p == place);
        return if still_there { violated("the index does not lead to it") } else { Ok(false) };
    }
    for other in places.into_iter().filter(|other| *other != place) {
        if shared.log.read(other)?.is_some_and(|other| other.key == record.key) && shared.log.holds(place)? {
            return violated("its key has two rows");
        }
    }
    let newest = place.number().max(record.born);
    match &record.phase {
        _ if newest >= NUMBER_MAX || record.born > place.number() => violated("its numbers are not ascending"),
        _ if record.attempt == 0 => violated("it was never claimed"),
        _ if record.since > record.written => violated("it was written before it was claimed"),
        Phase::Completed { until, gone, .. } if until > gone => violated("its tombstone ends before its outcome"),
        Phase::Tombstone { .. } if matches!(place, Place::Log(_)) => violated("a tombstone stands in the log"),
        Phase::Unfinished | Phase::Completed { .. } if matches!(place, Place::Tombstone(_)) => {
            violated("it stands among the tombstones")
        }
        Phase::Unfinished if !is_listed(shared, place, record) => {
            let moved = !shared.log.holds(place)?;
            if moved { Ok(false) } else { violated("it is not listed as unfinished") }
        }
        _ => Ok(true),
    }
}

/// Whether the list of the unfinished has it at its place, with what is counted of it.
fn is_listed(shared: &Arc<Shared>, place: Place, record: &Record) -> bool {
    let listed = shared.index.unfinished().get(record.born);
    listed.zip(Tally::of(record)).is_some_and(|(open, tally)| open == Open { place, tally })
}
