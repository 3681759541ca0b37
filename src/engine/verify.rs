//! Every invariant over every record, while claims go on: a slice at a time, each in a read of its own.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::Shared;
use super::capacity::{Kept, Scopes};
use super::log::{broken_off, share};
use super::place::{NUMBER_MAX, Place};
use super::unfinished::{Open, Tally};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::pending::may_block;
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
    for start in Place::STARTS {
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
///
/// A row that is committed is not published yet for a moment: what breaks a rule then is looked at once more, where no
/// batch is under way.
fn check(shared: &Arc<Shared>, place: Place, record: &Record) -> Result<bool> {
    match check_row(shared, place, record) {
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            // Within a batch none other is under way.
            let _between = may_block().is_ok().then(|| shared.at_work.lock());
            // Where nobody knows what became of the last one nobody knows where its rows are.
            if shared.is_moving.load(Ordering::Acquire) { Ok(false) } else { check_row(shared, place, record) }
        }
        checked => checked,
    }
}

fn check_row(shared: &Arc<Shared>, place: Place, record: &Record) -> Result<bool> {
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
        _ if place != Place::of(record, place.number()) => violated("it stands in a table that it does not belong to"),
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

#[cfg(test)]
pub(super) mod tests {
    use std::fmt;
    use std::io;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::super::capacity::{Capacity, Most};
    use super::super::disk::Disk;
    use super::super::log::{Access, OpenCheck, Opening};
    use super::super::queue::QueueLimits;
    use super::super::tables::Tables;
    use super::super::{Engine, Options, SimulatedDisk};
    use super::*;
    use crate::clock::{SystemClock, Timestamp};
    use crate::key::{Fingerprint, Key};
    use crate::record::room::Room;
    use crate::record::transitions::Policy;
    use crate::record::{Body, Outcome};
    use crate::store::Store;
    use crate::sync::Mutex;
    use crate::trace::Trace;

    /// A fault, and what brings it about.
    type Break<'b> = (&'b str, &'b dyn Fn(&Engine));

    const END: Phase = Phase::Tombstone { completed_at: at(2), gone: at(9) };

    const fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    /// A store that counts scopes, with an operation of each kind in it. Its writer, which would change it beside the
    /// tests, does nothing.
    pub(in crate::engine) fn engine() -> Arc<Engine> {
        engine_of(u64::MAX)
    }

    /// The same, where only these bits of a key's hash count.
    pub(in crate::engine) fn engine_of(hash_mask: u64) -> Arc<Engine> {
        let room = Room { operation_bytes_max: u64::MAX, payload_bytes_max: 1000 };
        let (retention, tombstones) = (Duration::from_secs(1), Duration::ZERO);
        let progress = Arc::new(|_| ControlFlow::Continue(()));
        let options = Options {
            policy: Policy { retention, tombstones, lease: None, attempts_max: 3, room },
            queue: QueueLimits { commands_max: 9, bytes_max: 9000 },
            capacity: Capacity { all: Most::default(), scope: Most { operations: Some(9), ..Most::default() } },
            hash_mask,
            trace: Trace::default(),
            opening: Opening {
                access: Access::Write,
                check: OpenCheck::Quick,
                cache_bytes: 1 << 20,
                only_private: false,
                progress,
            },
            clock: Box::new(SystemClock::default()),
        };
        let engine = Engine::open_simulated(&SimulatedDisk::new(), options, true).unwrap();
        keep(&engine, Place::Unfinished(1), &record("open", 1, Phase::Unfinished));
        keep(&engine, Place::Log(2), &record("ended", 2, completed(8)));
        keep(&engine, Place::Tombstone(3), &record("over", 3, END));
        engine
    }

    pub(in crate::engine) fn record(name: &str, born: u64, phase: Phase) -> Record {
        let (key, fingerprint) = (Key::new(name, "key").unwrap(), Fingerprint::of("request"));
        let (request, checkpoint, steps) = (None, None, Vec::new());
        let (since, written) = (at(1), at(2));
        Record { key, fingerprint, born, attempt: 1, released: 0, since, written, request, checkpoint, steps, phase }
    }

    fn completed(until: u64) -> Phase {
        let outcome = Outcome { success: true, completed_at: at(2), body: Body::Here(b"done".as_slice().into()) };
        Phase::Completed { outcome, until: at(until), gone: at(8) }
    }

    fn write(engine: &Engine, write: impl FnOnce(&mut Tables<'_>)) {
        let log = &engine.shared.log;
        let mut tables = Tables::new(log);
        write(&mut tables);
        log.commit(log.prepare(tables.into_parts()).unwrap()).unwrap();
    }

    pub(in crate::engine) fn index(engine: &Engine, place: Place, record: &Record) {
        engine.shared.index.replace(engine.shared.index.hash(&record.key), None, Some(place));
    }

    /// Puts a record where it says, and counts it everywhere.
    pub(in crate::engine) fn keep(engine: &Engine, place: Place, record: &Record) {
        write(engine, |tables| tables.put(place, record).unwrap());
        index(engine, place, record);
        engine.shared.ledger.found(std::iter::once(record));
        if let Some(tally) = Tally::of(record) {
            engine.shared.index.unfinished().insert(record.born, Open { place, tally });
        }
    }

    fn verified(engine: &Engine) -> Result<Verdict> {
        engine.verify(&mut |_| ControlFlow::Continue(()))
    }

    #[track_caller]
    fn finds(engine: &Engine, fault: &str) {
        let error = verified(engine).unwrap_err();
        assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains(fault), "{fault}: {error}");
    }

    #[test]
    fn what_is_whole_is_counted() {
        let engine = engine();
        let verdict = verified(&engine).unwrap();
        assert_eq!((verdict.operations, verdict.tombstones, verdict.payload_rows), (3, 1, 0));
        assert_eq!(engine.verify(&mut |_| ControlFlow::Break(())).unwrap_err().kind(), ErrorKind::Cancelled);
    }

    #[test]
    fn every_rule_that_a_row_breaks_is_found() {
        let row = |phase| record("broken", 9, phase);
        let late = Record { born: 10, ..row(Phase::Unfinished) };
        let unclaimed = Record { attempt: 0, ..row(Phase::Unfinished) };
        let early = Record { since: at(3), ..row(Phase::Unfinished) };
        for (fault, place, broken) in [
            ("not ascending", Place::Unfinished(9), late),
            ("not ascending", Place::Unfinished(NUMBER_MAX), row(Phase::Unfinished)),
            ("never claimed", Place::Unfinished(9), unclaimed),
            ("before it was claimed", Place::Unfinished(9), early),
            ("ends before its outcome", Place::Log(9), row(completed(9))),
            ("a table that it does not belong to", Place::Log(9), row(END)),
            ("a table that it does not belong to", Place::Log(9), row(Phase::Unfinished)),
            ("a table that it does not belong to", Place::Unfinished(9), row(completed(8))),
            ("a table that it does not belong to", Place::Unfinished(9), row(END)),
            ("a table that it does not belong to", Place::Tombstone(9), row(Phase::Unfinished)),
            ("a table that it does not belong to", Place::Tombstone(9), row(completed(8))),
            ("its key has two rows", Place::Log(9), record("ended", 9, completed(8))),
        ] {
            let engine = engine();
            keep(&engine, place, &broken);
            finds(&engine, fault);
        }
    }

    #[test]
    fn a_row_that_is_not_where_the_index_and_the_list_say_is_found() {
        let (place, row) = (Place::Unfinished(9), record("lost", 9, Phase::Unfinished));
        let engine = engine();
        write(&engine, |tables| tables.put(place, &row).unwrap());
        finds(&engine, "the index does not lead to it");
        index(&engine, place, &row);
        finds(&engine, "not listed as unfinished");
        let tally = Tally { is_in_doubt: true, ..Tally::of(&row).unwrap() };
        engine.shared.index.unfinished().insert(9, Open { place, tally });
        finds(&engine, "not listed as unfinished");
    }

    #[test]
    fn every_sum_that_is_wrong_is_found_where_nothing_moves() {
        let one = |scope| Key::new(scope, "key").unwrap();
        let bytes = |bytes| Kept { bytes, ..Kept::default() };
        let count = |engine: &Engine, changes: &[(Key, Kept, Kept)]| {
            let ledger = &engine.shared.ledger;
            let mut draft = ledger.draft();
            for (key, before, after) in changes {
                draft.replace(ledger, key, *before, *after);
            }
            ledger.publish(draft);
        };
        let none = Kept::default();
        let extra =
            || Open { place: Place::Unfinished(9), tally: Tally { since: at(1), tries: 1, is_in_doubt: false } };
        let breaks: [Break<'_>; 7] = [
            ("the index holds another number", &|it| index(it, Place::Log(9), &record("none", 9, END))),
            ("payload rows belong to no record", &|it| write(it, |tables| tables.put_body(9, b"lost").unwrap())),
            ("the list of the unfinished is wrong", &|it| it.shared.index.unfinished().insert(9, extra())),
            ("another number of operations", &|it| count(it, &[(one("open"), none, Kept { operations: 1, ..none })])),
            ("of the unfinished is counted", &|it| count(it, &[(one("open"), none, Kept { unfinished: 1, ..none })])),
            ("another number of bytes", &|it| count(it, &[(one("open"), bytes(1), none)])),
            ("under a scope", &|it| count(it, &[(one("open"), bytes(1), none), (one("over"), none, bytes(1))])),
        ];
        for (fault, spoil) in breaks {
            let engine = engine();
            spoil(&engine);
            finds(&engine, fault);
            // What is under way may explain it.
            engine.shared.is_moving.store(true, Ordering::Release);
            verified(&engine).unwrap();
        }
    }

    /// A disk that does something where its file's name is looked at, which is behind each commit and before anything
    /// is known of it.
    pub(in crate::engine) struct Named<F>(pub(in crate::engine) SimulatedDisk, pub(in crate::engine) F);

    impl<F> fmt::Debug for Named<F> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_tuple("Named").field(&self.0).finish_non_exhaustive()
        }
    }

    impl<F: Fn(&SimulatedDisk) -> io::Result<()> + Send + Sync + 'static> Disk for Named<F> {
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.0.read(offset, out)
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.0.write(offset, data)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.0.set_len(len)
        }

        fn sync(&self) -> io::Result<()> {
            self.0.sync()
        }

        fn check_name(&self) -> io::Result<()> {
            (self.1)(&self.0)
        }
    }

    /// What is committed stands in the log before the index leads to it. Whoever verifies then waits for the batch, and
    /// on the writer's thread, which cannot wait for itself, takes what is not known yet for a row that moves.
    #[test]
    fn p10_a_store_that_is_sound_is_verified_as_such_while_claims_go_on() {
        let disk = SimulatedDisk::new();
        Store::builder().open_on(&disk).unwrap().close().unwrap();
        let (verifies, has_verified) = channel();
        let looking: Arc<Mutex<Option<Store>>> = Arc::default();
        let looks = Arc::clone(&looking);
        let between = move |_: &SimulatedDisk| {
            if let Some(store) = looks.lock().clone() {
                let verdict = store.verify().map(|verdict| verdict.operations);
                let verifies = verifies.clone();
                let other = std::thread::spawn(move || store.verify().map(|verdict| verdict.operations));
                let _ = verifies.send((verdict, other));
            }
            Ok(())
        };
        let store = Store::builder().open_disk(Arc::new(Named(disk, between))).unwrap();
        let claim = |nth: u32| {
            drop(store.claim(&Key::new("scope", nth.to_string()).unwrap(), Fingerprint::of("r")).wait().unwrap());
        };
        claim(0);
        *looking.lock() = Some(store.clone());
        (1..100).for_each(claim);
        *looking.lock() = None;
        let mut looks = 0;
        for (verdict, other) in has_verified.try_iter() {
            let (here, there) = (verdict.unwrap(), other.join().unwrap().unwrap());
            assert!(here <= there && there <= 100, "{here}, {there}");
            looks += 1;
        }
        assert!(looks >= 99, "{looks}");
        assert_eq!(store.verify().unwrap().operations, 100);
    }

    /// What came or went since the first row was read is no matter of what the rows come to.
    #[test]
    fn p10_a_store_that_is_sound_is_verified_as_such_though_it_is_changed_between_two_looks_at_its_rows() {
        let store = Store::builder().in_memory().unwrap();
        let key = |nth: u32| Key::new("scope", nth.to_string()).unwrap();
        let claim = |nth| drop(store.claim(&key(nth), Fingerprint::of("r")).wait().unwrap());
        (0..3).for_each(claim);
        let mut looks = 3;
        let come = store.verify_with(|_| {
            claim(looks);
            looks += 1;
            ControlFlow::Continue(())
        });
        come.unwrap();
        assert!(looks > 3);
        let mut looks = 0;
        let go = store.verify_with(|_| {
            assert!(store.forget(&key(looks)).wait().unwrap());
            looks += 1;
            ControlFlow::Continue(())
        });
        go.unwrap();
        assert!(looks > 0);
        store.verify().unwrap();
    }
}
