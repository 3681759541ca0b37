//! One batch: every request that was queued, decided one after the other inside one redb transaction.
//!
//! Invariants:
//! 1. A request sees what those before it in the batch did, and the index otherwise (P1).
//! 2. Nothing leaves a batch before its commit: what each request comes to is kept beside it (P2).
//! 3. A batch consumes no request: one that is given up can be done again from the start.

use std::sync::Arc;

use hashbrown::HashTable;

use super::Shared;
use super::capacity::Kept;
use super::done::{Done, Move, Told};
use super::index::{KeyHash, Owner};
use super::lookup::{exchanged, missing};
use super::place::{NUMBER_MAX, Place};
use super::request::{Adopted, Advanced, Claimed, Known, Report, Request, Stepped, Working};
use super::tables::Tables;
use super::unfinished::Tally;
use crate::clock::Now;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::record::step::StepChange;
use crate::record::transitions::{
    Ask, Change, Command, Decision, Refusal, Situation, Standing, apply, decide, is_kept,
};
use crate::record::{BODY_HERE_BYTES_MAX, Body, Phase, Record, Step};
use crate::sync::Ordering;

/// The numbers that rows stand under.
#[derive(Debug, Clone, Copy)]
pub(super) struct Numbers {
    /// The next one to give.
    pub(super) next: u64,
    /// What the meta row says that is on disk: no number below this one is given after a restart.
    pub(super) reserved: u64,
}

/// Why a request, or with it the whole batch, cannot go on.
#[derive(Debug)]
pub(super) enum Stop {
    /// A fault, of the disk or of what is on it.
    Fault(Error),
    /// The server's closure failed, so what it may have written must not be committed.
    Rows(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Fault(error)
    }
}

/// What this batch knows of one key.
#[derive(Debug, Default)]
pub(super) struct Touched {
    pub(super) record: Option<Arc<Record>>,
    pub(super) place: Option<Place>,
    /// What the row at that place counts for; the record may be ahead of it.
    pub(super) kept: Kept,
    pub(super) owner: Option<Owner>,
    /// Whether the record has a step's result that no row has yet.
    pub(super) is_ahead: bool,
    /// What owners reported before they left.
    pub(super) left: Vec<Report>,
    /// Which reports this batch has taken in.
    pub(super) reported: Vec<Report>,
}

impl Touched {
    fn situation(&self) -> Situation<'_> {
        Situation { record: self.record.as_deref(), owner: self.owner.map(Owner::tenure) }
    }

    /// Whether this report was taken in, by this batch or by one before it.
    fn knows(&self, report: &Report) -> bool {
        report.is_taken_in() || self.reported.iter().any(|known| known.is(report))
    }
}

/// What a batch knows of every key it touched. The hash is the index's: nothing is hashed twice.
#[derive(Debug)]
struct TouchedKeys(HashTable<(KeyHash, Key, Touched)>);

impl TouchedKeys {
    fn take(&mut self, hash: KeyHash, key: &Key) -> Option<Touched> {
        let found = self.0.find_entry(hash.word(), |(_, known, _)| known == key).ok()?;
        let ((_, _, touched), _) = found.remove();
        Some(touched)
    }

    fn put(&mut self, hash: KeyHash, key: Key, touched: Touched) {
        self.0.insert_unique(hash.word(), (hash, key, touched), |(hash, _, _)| hash.word());
    }
}

pub(super) struct Batch<'b, 't> {
    pub(super) shared: &'b Arc<Shared>,
    pub(super) tables: &'b mut Tables<'t>,
    pub(super) numbers: &'b mut Numbers,
    pub(super) now: Now,
    pub(super) done: &'b mut Done,
    /// Whether nobody waits for it.
    pub(super) is_idle: bool,
    touched: TouchedKeys,
    /// The keys whose records came to be ahead of their rows.
    ahead: Vec<(KeyHash, Key)>,
}

impl<'b, 't> Batch<'b, 't> {
    pub(super) fn new(
        shared: &'b Arc<Shared>,
        tables: &'b mut Tables<'t>,
        numbers: &'b mut Numbers,
        now: Now,
        done: &'b mut Done,
        requests: usize,
    ) -> Self {
        done.moves.reserve(requests);
        done.told.reserve(requests);
        done.draft = shared.ledger.draft();
        let touched = TouchedKeys(HashTable::with_capacity(requests));
        Self { shared, tables, numbers, now, done, is_idle: requests == 0, touched, ahead: Vec::new() }
    }

    /// Decides one request and writes what changes.
    ///
    /// # Errors
    ///
    /// Only where the whole batch cannot go on.
    pub(super) fn process(&mut self, request: &mut Request) -> Result<Told, Stop> {
        if request.reply.is_given_up() {
            return Ok(Told::Nothing);
        }
        let hash = request.hash;
        let touched = self.touched.take(hash, &request.key).or_else(|| self.still_known(request));
        let mut touched = match touched.map_or_else(|| self.look_up(&request.key, hash), Ok) {
            Ok(touched) => touched,
            Err(error) => return unread(error),
        };
        self.renew(&mut touched, request);
        let left = std::mem::take(&mut touched.left);
        // What the run carries it may leave with the seat before this batch is published.
        if request.report.is_some() || !left.is_empty() || !request.carried.reports.is_empty() {
            self.done.left.push(self.done.told.len());
        }
        for report in left.iter().chain(&request.carried.reports) {
            self.take_in(&mut touched, request, report)?;
        }
        let told = match request.report.clone() {
            _ if request.has_failed() => Told::Failed,
            Some(report) if touched.knows(&report) => Told::Stepped(Stepped::Nothing),
            report => {
                let told = self.decide(&mut touched, request)?;
                if !matches!(told, Told::Refused(_)) {
                    self.took_in(&mut touched, report);
                }
                told
            }
        };
        self.touched.put(hash, request.key.clone(), touched);
        Ok(told)
    }

    fn decide(&mut self, touched: &mut Touched, request: &mut Request) -> Result<Told, Stop> {
        // Whatever is told of an expiry rests on the time, which must outlast a restart.
        self.done.tells_time |= touched.record.as_ref().is_some_and(|record| !is_kept(record, self.now.time));
        let decision = decide(touched.situation(), &request.command, self.now, self.shared.policy);
        self.done.tells_time |= matches!(decision, Decision::Stand(Standing::Over));
        if let Decision::Change(change) = &decision
            && let Some(refusal) = self.over_capacity(touched, change, &request.key)
        {
            self.done.refused += 1;
            return Ok(Told::Refused(refusal));
        }
        Ok(match decision {
            Decision::Refuse(refusal) => {
                if matches!(refusal, Refusal::Fenced) {
                    self.done.fenced += 1;
                    self.shared.trace.fenced(&request.key);
                }
                Told::Refused(refused(refusal))
            }
            Decision::Stand(standing) => self.stand(touched, standing, request).or_else(unread)?,
            Decision::Change(Change::Unseat) => unseat(touched),
            Decision::Change(Change::Remove) => self.change(touched, Change::Remove, request)?,
            Decision::Change(change @ Change::Step { change: StepChange::Settle { .. }, .. }) => {
                self.settle(touched, change, request);
                Told::Stepped(Stepped::Nothing)
            }
            Decision::Change(change) if self.may_defer(touched, &change) => self.defer(touched, change, request)?,
            Decision::Change(change) => {
                if let Err(error) = self.read_ahead(touched, &change, request) {
                    return unread(error);
                }
                self.change(touched, change, request)?
            }
        })
    }

    /// Takes in what a run reported, where that has not been taken in yet.
    fn take_in(&mut self, touched: &mut Touched, request: &Request, report: &Report) -> Result<()> {
        if touched.knows(report) {
            return Ok(());
        }
        match decide(touched.situation(), report.command(), self.now, self.shared.policy) {
            Decision::Change(change @ Change::Step { change: StepChange::Settle { .. }, .. }) => {
                self.settle(touched, change, request);
            }
            Decision::Change(change) => drop(self.write(touched, change, request)?),
            Decision::Stand(_) | Decision::Refuse(_) => {}
        }
        self.took_in(touched, Some(report.clone()));
        Ok(())
    }

    fn took_in(&mut self, touched: &mut Touched, report: Option<Report>) {
        touched.reported.extend(report.clone());
        self.done.reported.extend(report);
    }

    /// Begins the lease of the run that asks anew, whatever comes of what it asks: it is at work.
    fn renew(&mut self, touched: &mut Touched, request: &Request) {
        let Some(owner) = touched.owner.as_mut().filter(|owner| request.command.token() == Some(owner.token)) else {
            return;
        };
        if self.shared.policy.lease.is_some() {
            owner.moved = self.now.time;
            self.done.renewed.push(self.done.told.len());
        }
    }

    /// What the caller knows of the record, if that still stands where it knew it: a row never changes under its
    /// number, so it need not be read again.
    fn still_known(&self, request: &Request) -> Option<Touched> {
        let Known { place, record } = request.carried.known.as_ref()?;
        let shard = self.shared.index.shard(request.hash);
        let stands = shard.places(request.hash).any(|found| found == *place);
        let (owner, left) = shard.seated(request.hash, &request.key);
        let (kept, record) = (Kept::of(record), Some(Arc::clone(record)));
        stands.then_some(Touched { record, place: Some(*place), kept, owner, left, ..Touched::default() })
    }

    fn look_up(&mut self, key: &Key, hash: KeyHash) -> Result<Touched> {
        for nth in 0.. {
            let shard = self.shared.index.shard(hash);
            let (place, (owner, left)) = (shard.places(hash).nth(nth), shard.seated(hash, key));
            drop(shard);
            let Some(place) = place else { break };
            // What stands in the index is on disk, and nobody but the writer moves it.
            let Some(record) = self.tables.read(place)? else {
                // A key of the same hash that this batch has moved already.
                if self.done.moves.iter().any(|moved| moved.old == Some(place)) {
                    continue;
                }
                return Err(missing(place));
            };
            if record.key == *key {
                let (kept, record) = (Kept::of(&record), Some(Arc::new(record)));
                return Ok(Touched { record, place: Some(place), kept, owner, left, ..Touched::default() });
            }
            if !self.shared.index.collides(hash, &record.key) {
                return Err(exchanged(place));
            }
        }
        let deferred = self.shared.index.shard(hash).deferred(hash, key);
        let (record, owner) = deferred.unzip();
        Ok(Touched { record, owner, ..Touched::default() })
    }

    /// Why a change may not be made that begins an operation, or that is the first to be written of a deferred one.
    fn over_capacity(&mut self, touched: &Touched, change: &Change, key: &Key) -> Option<Error> {
        let begun = match (change, touched.place, &touched.record) {
            (Change::Begin { request, .. }, ..) => Kept::begun(key, request.as_deref()),
            (Change::Remove | Change::Unseat, ..) | (_, Some(_), _) | (.., None) => return None,
            (_, None, Some(deferred)) => Kept::of(deferred),
        };
        self.done.draft.refusal(&self.shared.ledger, key, touched.kept, begun)
    }

    /// The answer where nothing changes.
    fn stand(&mut self, touched: &Touched, standing: Standing, request: &Request) -> Result<Told> {
        let told = match (&request.command, standing) {
            (Command::Claim(ask), standing) => return self.stand_claim(touched, standing, ask, request),
            (Command::Advance { .. }, Standing::Lost) => {
                let current = self.whole(touched)?.and_then(|record| record.checkpoint);
                Told::Advanced(Advanced::Lost(current))
            }
            (Command::Intend { name, .. }, Standing::Done) => {
                let steps = self.whole(touched)?.map(|record| record.steps).unwrap_or_default();
                let step = steps.into_iter().find(|step| step.name == *name);
                step.map_or(Told::Nothing, |step| Told::Stepped(Stepped::Done(step)))
            }
            (Command::Report { .. }, _) => Told::Stepped(Stepped::Nothing),
            (_, Standing::Renewed) => Told::Done(true),
            // What a deferred claim holds in memory is not on disk, and may never be.
            (_, Standing::Same) if touched.place.is_none() => Told::Adopted(Adopted::Differs),
            (_, Standing::Same) => Told::Adopted(Adopted::Same),
            (_, Standing::Differs) => Told::Adopted(Adopted::Differs),
            (_, Standing::Over) => Told::Adopted(Adopted::Over),
            (_, Standing::Nothing) => Told::Done(false),
            _ => Told::Nothing,
        };
        Ok(told)
    }

    fn stand_claim(&mut self, touched: &Touched, standing: Standing, ask: &Ask, request: &Request) -> Result<Told> {
        Ok(Told::Claimed(match (standing, touched.owner) {
            (Standing::Wait, Some(_)) if request.reply.has_turn() => return Ok(Told::Parked(ask.clone())),
            (Standing::Wait, Some(owner)) => Claimed::Wait(Working::of(owner, ask)),
            (Standing::Reject { since }, _) => Claimed::Reject { since },
            (Standing::Gone { completed_at, until }, _) => Claimed::Gone { completed_at, until },
            (Standing::Replay, _) => match self.whole(touched)?.map(|record| record.phase) {
                Some(Phase::Completed { outcome, .. }) => Claimed::Replay(outcome),
                _ => return Ok(Told::Nothing),
            },
            // The rules give a claim no other standing.
            _ => return Ok(Told::Nothing),
        }))
    }

    /// Whether this change may wait for the next one to become durable: it begins an operation of which no row tells
    /// anything yet, the number that it takes is never given again even if no row ever stands under it, and the disk is
    /// not known to be full, which would refuse the next one (P10).
    fn may_defer(&self, touched: &Touched, change: &Change) -> bool {
        let is_deferred = matches!(change, Change::Begin { deferred: true, .. });
        let is_full = || self.shared.is_full.load(Ordering::Acquire);
        is_deferred && touched.place.is_none() && self.numbers.next < self.numbers.reserved && !is_full()
    }

    /// Begins an operation in memory only.
    fn defer(&mut self, touched: &mut Touched, change: Change, request: &Request) -> Result<Told> {
        let number = self.number()?;
        let Some(record) = apply(None, &request.key, change, number, self.now) else { return Ok(Told::Nothing) };
        let owner = self.owner(number, &record);
        (touched.record, touched.owner) = (Some(Arc::new(record.clone())), Some(owner));
        Ok(Told::Run { owner, known: None, record: Box::new(record) })
    }

    fn owner(&self, token: u64, record: &Record) -> Owner {
        let (attempt, born, fingerprint) = (record.attempt, record.born, record.fingerprint);
        Owner { token, attempt, since: self.now.time, moved: self.now.time, born, fingerprint }
    }

    /// Takes in a step's result. Nobody waits for it, and something else mostly follows in this batch: one row then has
    /// both.
    fn settle(&mut self, touched: &mut Touched, change: Change, request: &Request) {
        let record = touched.record.as_deref().cloned();
        touched.record = apply(record, &request.key, change, 0, self.now).map(Arc::new);
        if !std::mem::replace(&mut touched.is_ahead, true) {
            self.ahead.push((request.hash, request.key.clone()));
        }
    }

    /// Writes the results that nothing followed.
    pub(super) fn write_results(&mut self) -> Result<()> {
        for (hash, key) in std::mem::take(&mut self.ahead) {
            let Some(mut touched) = self.touched.take(hash, &key) else { continue };
            if let (true, Some(old)) = (touched.is_ahead, touched.place) {
                let after = touched.record.as_deref().cloned().zip(Some(self.number()?));
                self.rewrite(hash, &mut touched, after)?;
                self.tables.remove(old);
            }
            self.touched.put(hash, key, touched);
        }
        Ok(())
    }

    /// Reads what the answer to a change needs of payloads apart, before anything is written.
    fn read_ahead(&mut self, touched: &Touched, change: &Change, request: &Request) -> Result<()> {
        let step = request.command.step().and_then(|name| touched.record.as_ref()?.step(name));
        if matches!(change, Change::Enter { .. }) || step.is_some_and(|step| !step.is_here()) {
            self.whole(touched)?;
        }
        Ok(())
    }

    /// Writes a change, with the server's own rows where it has any, and makes the answer to it.
    fn change(&mut self, touched: &mut Touched, change: Change, request: &mut Request) -> Result<Told, Stop> {
        let is_entry = matches!(change, Change::Begin { .. } | Change::Enter { .. });
        let written = self.write(touched, change, request)?;
        if let Some(rows) = &mut request.rows {
            rows.write(&self.tables.transaction()?).map_err(Stop::Rows)?;
        }
        let known = touched.record.clone().zip(touched.place).map(|(record, place)| Known { place, record });
        Ok(match (&request.command, written, known) {
            (Command::Claim(_), Some(record), Some(known)) if is_entry => {
                let record = self.with_bodies(record)?;
                let owner = self.owner(known.place.number(), &record);
                touched.owner = Some(owner);
                Told::Run { owner, known: Some(known), record: Box::new(record) }
            }
            (Command::Advance { .. }, Some(Record { checkpoint: Some(checkpoint), .. }), Some(known)) => {
                Told::Advanced(Advanced::Moved { checkpoint, known })
            }
            (
                Command::Intend { name, .. } | Command::Report { name, .. } | Command::Resolve { name, .. },
                Some(record),
                Some(known),
            ) => {
                let is_whole = record.step(name).is_none_or(Step::is_here);
                let record = if is_whole { record } else { self.with_bodies(record)? };
                let step = record.steps.into_iter().find(|step| step.name == *name);
                step.map_or(Told::Nothing, |step| Told::Stepped(Stepped::Changed { step, known }))
            }
            (Command::End { .. }, Some(Record { phase: Phase::Completed { outcome, .. }, .. }), _) => {
                touched.owner = None;
                Told::Ended(outcome)
            }
            (Command::Forget, None, _) | (Command::Free, Some(_), _) => Told::Done(true),
            (Command::Adopt(_), Some(_), _) => {
                self.done.adopts = true;
                Told::Adopted(Adopted::New)
            }
            // The rules answer no command with another's change.
            _ => Told::Nothing,
        })
    }

    /// Writes what a change makes of a record, and returns it as the change made it: with the new bytes in it.
    fn write(&mut self, touched: &mut Touched, change: Change, request: &Request) -> Result<Option<Record>> {
        let old = touched.place;
        let number = self.number()?;
        let after = apply(touched.record.as_deref().cloned(), &request.key, change, number, self.now);
        self.rewrite(request.hash, touched, after.clone().map(|record| (record, number)))?;
        if let Some(old) = old {
            self.tables.remove(old);
        }
        Ok(after)
    }

    /// Puts a record in the place of another, under its number, and removes the bodies that no record has any more. The
    /// old row itself is left to the caller, who may have many to remove.
    pub(super) fn rewrite(&mut self, hash: KeyHash, touched: &mut Touched, after: Option<(Record, u64)>) -> Result<()> {
        let before = touched.record.take();
        let old = touched.place.take();
        touched.is_ahead = false;
        if let Some((mut record, number)) = after {
            self.spill(&mut record)?;
            let place = Place::of(&record, number);
            self.tables.put(place, &record)?;
            touched.place = Some(place);
            touched.record = Some(Arc::new(record));
        }
        let (before, after) = (before.as_deref(), touched.record.as_deref());
        let kept: Vec<u64> = after.into_iter().flat_map(Record::rows_apart).collect();
        for row in before.into_iter().flat_map(Record::rows_apart).filter(|row| !kept.contains(row)) {
            self.tables.remove_body(row);
        }
        let counts = after.map(Kept::of).unwrap_or_default();
        let replaced = std::mem::replace(&mut touched.kept, counts);
        if let Some(Record { key, .. }) = after.or(before) {
            self.done.draft.replace(&self.shared.ledger, key, replaced, counts);
        }
        let born = after.or(before).map_or(0, |record| record.born);
        // A key that starts anew ends its old incarnation, which was not unfinished any more.
        let tally = after.and_then(Tally::of);
        self.done.moves.push(Move { hash, old, new: touched.place, born, tally });
        Ok(())
    }

    /// Gives large bodies rows of their own.
    fn spill(&mut self, record: &mut Record) -> Result<()> {
        for body in record.bodies_mut() {
            let Body::Here(bytes) = body else { continue };
            if bytes.len() > BODY_HERE_BYTES_MAX {
                let row = self.number()?;
                self.tables.put_body(row, bytes)?;
                let len = u32::try_from(bytes.len()).map_err(|e| {
                    Error::because(ErrorKind::PayloadTooLarge, "a payload is longer than the format allows", e)
                })?;
                *body = Body::Apart { row, len, crc: crc32fast::hash(bytes) };
            }
        }
        Ok(())
    }

    /// The record with all its bodies.
    fn whole(&mut self, touched: &Touched) -> Result<Option<Record>> {
        touched.record.as_deref().map(|record| self.with_bodies(record.clone())).transpose()
    }

    fn with_bodies(&mut self, mut record: Record) -> Result<Record> {
        self.tables.load_bodies(&mut record)?;
        Ok(record)
    }

    /// The next number, which nothing else has or ever had.
    pub(super) fn number(&mut self) -> Result<u64> {
        let number = self.numbers.next;
        if number >= NUMBER_MAX {
            return Err(Error::new(ErrorKind::Capacity, "the store has used up its sequence numbers; start a new one"));
        }
        self.numbers.next = number + 1;
        Ok(number)
    }
}

/// What a request comes to that met a fault before anything of it was written: what is damaged is its caller's error
/// and nobody else's.
fn unread(error: Error) -> Result<Told, Stop> {
    if error.kind() == ErrorKind::Corrupt { Ok(Told::Refused(error)) } else { Err(Stop::Fault(error)) }
}

/// Takes an operation from its run. What is not on disk yet goes with it.
fn unseat(touched: &mut Touched) -> Told {
    if touched.place.is_none() {
        touched.record = None;
    }
    touched.owner.take().map_or(Told::Nothing, |owner| Told::Unseated(owner.token))
}

fn refused(refusal: Refusal) -> Error {
    let (kind, message) = match refusal {
        Refusal::NotFound => (ErrorKind::NotFound, "no operation or step is known under this name"),
        Refusal::Finished => (ErrorKind::Finished, "the operation has an outcome already; claim the key to read it"),
        Refusal::Fenced => (ErrorKind::Fenced, "this run no longer owns the operation; stop and change nothing more"),
        Refusal::Busy => (ErrorKind::Busy, "a run is at work on the operation; let it end or revoke it first"),
        Refusal::InDoubt => (ErrorKind::InDoubt, "the step is in doubt; claim again to learn how far it got"),
        Refusal::NotInDoubt => (ErrorKind::NotInDoubt, "the step is not in doubt; look at what became of it"),
        Refusal::TooManySteps => (ErrorKind::Capacity, "the operation has 1024 steps, the most it may; use fewer"),
        Refusal::NoRoom => (
            ErrorKind::Capacity,
            "the operation would take the room that its next result and its outcome may need; keep less in it or raise \
             `operation_bytes_max`",
        ),
        Refusal::Exhausted => (ErrorKind::Capacity, "a counter of this operation has reached its end"),
    };
    Error::new(kind, message)
}
