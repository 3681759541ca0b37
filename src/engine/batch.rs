//! One batch: every request that was queued, decided one after the other inside one redb transaction.
//!
//! Invariants:
//! 1. A request sees what those before it in the batch did, and the index otherwise (P1).
//! 2. Nothing leaves a batch before its commit: answers are kept with the changes they rest on (P2).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hashbrown::HashTable;

use super::Shared;
use super::index::Waiter;
use super::index::{KeyHash, NUMBER_MAX, Owner};
use super::log::{BODY_HERE_BYTES_MAX, Place, Tables};
use super::request::{Advanced, Claimed, Granted, Known, Ownership, Reply, Request, Turn, Working};
use crate::clock::Now;
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::pending::Promise;
use crate::record::transitions::{Change, Command, Decision, Refusal, Situation, Standing, apply, decide, is_kept};
use crate::record::{Body, Checkpoint, Outcome, Phase, Record};

/// The numbers that rows stand under.
#[derive(Debug, Clone, Copy)]
pub(super) struct Numbers {
    /// The next one to give.
    pub(super) next: u64,
    /// The newest one that a row stands under.
    pub(super) newest: u64,
    /// Whether that row went away, so that only the meta row can tell the next number.
    pub(super) newest_gone: bool,
}

/// What a batch did, to be published once it is durable.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) moves: Vec<Move>,
    answers: Vec<Kept>,
    /// How many rows retention removed.
    pub(super) removed: u64,
    /// Whether an answer rests on time that no row of this batch keeps.
    pub(super) tells_time: bool,
}

/// Where a record went.
#[derive(Debug, Clone, Copy)]
pub(super) struct Move {
    pub(super) hash: KeyHash,
    pub(super) old: Option<Place>,
    pub(super) new: Option<Place>,
    /// The number it was born under, and whether it is unfinished where it stands now.
    pub(super) born: u64,
    pub(super) unfinished: bool,
}

/// An answer that waits for the commit.
#[derive(Debug)]
struct Kept {
    key: Key,
    hash: KeyHash,
    answer: Answer,
    turn: Option<Turn>,
}

#[derive(Debug)]
enum Answer {
    Run {
        promise: Promise<Claimed>,
        owner: Owner,
        known: Known,
        checkpoint: Option<Checkpoint>,
    },
    Claim {
        promise: Promise<Claimed>,
        claimed: Claimed,
    },
    /// Waits for the run at work, where it is still there.
    Park(Waiter),
    Advance {
        promise: Promise<Advanced>,
        advanced: Advanced,
    },
    End {
        ownership: Ownership,
        promise: Promise<Outcome>,
        outcome: Outcome,
    },
    Unseat {
        promise: Promise<bool>,
        token: u64,
    },
    Done {
        promise: Promise<bool>,
        done: bool,
    },
    /// Waits like the rest: what it rests on may be a change of this very batch.
    Refuse {
        error: Error,
        reply: Reply,
    },
}

/// What this batch knows of one key.
#[derive(Debug, Default)]
pub(super) struct Touched {
    pub(super) record: Option<Arc<Record>>,
    pub(super) place: Option<Place>,
    pub(super) owner: Option<Owner>,
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
    pub(super) tables: Tables<'t>,
    pub(super) numbers: &'b mut Numbers,
    pub(super) now: Now,
    pub(super) done: &'b mut Done,
    /// Whether nobody waits for it.
    pub(super) is_idle: bool,
    touched: TouchedKeys,
    /// Operations that begin or go in this batch, which the index does not know of yet.
    begun: u64,
    gone: u64,
}

impl<'b, 't> Batch<'b, 't> {
    pub(super) fn new(
        shared: &'b Arc<Shared>,
        tables: Tables<'t>,
        numbers: &'b mut Numbers,
        now: Now,
        done: &'b mut Done,
        requests: usize,
    ) -> Self {
        done.moves.reserve(requests);
        done.answers.reserve(requests);
        let touched = TouchedKeys(HashTable::with_capacity(requests));
        Self { shared, tables, numbers, now, done, is_idle: requests == 0, touched, begun: 0, gone: 0 }
    }

    /// Decides one request and writes what changes.
    ///
    /// # Errors
    ///
    /// Only where the whole batch cannot go on; whoever asked is then told with the rest.
    pub(super) fn process(&mut self, request: Request) -> Result<(), Broken> {
        let Request { key, hash, command, known, mut reply } = request;
        let turn = reply.take_turn();
        if reply.is_given_up() {
            return Ok(());
        }
        let touched = self.touched.take(hash, &key).or_else(|| self.still_known(&key, hash, known));
        let mut touched = match touched.map_or_else(|| self.look_up(&key, hash), Ok) {
            Ok(touched) => touched,
            // A damaged row is this caller's error and nobody else's.
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                reply.refuse(error);
                return Ok(());
            }
            Err(error) => return Err(Broken { error, reply }),
        };
        // Whatever is told of an expiry rests on the time, which must outlast a restart.
        self.done.tells_time |= touched.record.as_ref().is_some_and(|record| !is_kept(record, self.now.time));
        let situation = Situation { record: touched.record.as_deref(), owner: touched.owner.map(|owner| owner.token) };
        let decision = decide(situation, &command, self.now, self.shared.policy);
        let answer = match decision {
            Decision::Refuse(refusal) => Some(Answer::Refuse { error: refused(refusal), reply }),
            Decision::Change(Change::Begin { .. }) if touched.place.is_none() && self.is_at_capacity() => {
                Some(Answer::Refuse { error: self.at_capacity(), reply })
            }
            Decision::Stand(standing) => self.stand(&touched, standing, &command, reply, turn.is_some())?,
            Decision::Change(Change::Unseat) => unseat(&mut touched, reply),
            Decision::Change(change) => self.change(&key, hash, &mut touched, change, reply)?,
        };
        if let Some(answer) = answer {
            self.done.answers.push(Kept { key: key.clone(), hash, answer, turn });
        }
        self.touched.put(hash, key, touched);
        Ok(())
    }

    /// What the caller knows of the record, if that still stands where it knew it: a row never changes under its
    /// number, so it need not be read again.
    fn still_known(&self, key: &Key, hash: KeyHash, known: Option<Known>) -> Option<Touched> {
        let Known { place, record } = known?;
        let shard = self.shared.index.shard(hash);
        let stands = shard.places(hash).any(|found| found == place);
        let owner = shard.owner(hash, key);
        stands.then_some(Touched { record: Some(record), place: Some(place), owner })
    }

    fn look_up(&mut self, key: &Key, hash: KeyHash) -> Result<Touched> {
        for nth in 0.. {
            let shard = self.shared.index.shard(hash);
            let (place, owner) = (shard.places(hash).nth(nth), shard.owner(hash, key));
            drop(shard);
            let Some(place) = place else { break };
            let record = self.tables.read(place)?;
            if let Some(record) = record.filter(|record| record.key == *key) {
                return Ok(Touched { record: Some(Arc::new(record)), place: Some(place), owner });
            }
        }
        Ok(Touched::default())
    }

    fn is_at_capacity(&self) -> bool {
        let operations = self.shared.index.operations().saturating_add(self.begun);
        operations.saturating_sub(self.gone) >= self.shared.operations_max
    }

    fn at_capacity(&self) -> Error {
        let most = self.shared.operations_max;
        Error::new(ErrorKind::Capacity, format!("the store keeps {most} operations, the most it may; wait or raise it"))
    }

    /// The answer where nothing changes.
    fn stand(
        &mut self,
        touched: &Touched,
        standing: Standing,
        command: &Command,
        reply: Reply,
        waits: bool,
    ) -> Result<Option<Answer>, Broken> {
        let record = match touched.record.as_deref().map(|record| self.with_bodies(record.clone())).transpose() {
            Ok(record) => record,
            Err(error) => return Err(Broken { error, reply }),
        };
        Ok(Some(match reply {
            Reply::Claim { promise, .. } => {
                let claimed = match (standing, record.map(|record| record.phase), touched.owner) {
                    (Standing::Wait, _, Some(owner)) => Claimed::Wait(Working::of(owner, command)),
                    (Standing::Replay, Some(Phase::Completed { outcome, .. }), _) => Claimed::Replay(outcome),
                    (Standing::Reject { since }, ..) => Claimed::Reject { since },
                    (Standing::Gone { completed_at, until }, ..) => Claimed::Gone { completed_at, until },
                    // The rules give a claim no other standing; the promise breaks rather than lie.
                    _ => return Ok(None),
                };
                match claimed {
                    Claimed::Wait(Working { fingerprint, .. }) if waits => {
                        Answer::Park(Waiter { fingerprint, promise })
                    }
                    claimed => Answer::Claim { promise, claimed },
                }
            }
            Reply::Advance(promise) => {
                Answer::Advance { promise, advanced: Advanced::Lost(record.and_then(|record| record.checkpoint)) }
            }
            Reply::Done(promise) => Answer::Done { promise, done: false },
            // The rules let no end stand; the promise breaks rather than lie.
            Reply::End { .. } => return Ok(None),
        }))
    }

    /// Writes a change, and makes the answer to it.
    fn change(
        &mut self,
        key: &Key,
        hash: KeyHash,
        touched: &mut Touched,
        change: Change,
        reply: Reply,
    ) -> Result<Option<Answer>, Broken> {
        let is_entry = matches!(change, Change::Begin { .. } | Change::Enter { .. });
        let written = match self.write(key, hash, touched, change) {
            Ok(written) => written,
            Err(error) => return Err(Broken { error, reply }),
        };
        let known = touched.record.clone().zip(touched.place).map(|(record, place)| Known { place, record });
        Ok(Some(match (reply, written, known) {
            (Reply::Claim { promise, .. }, Some(record), Some(known)) if is_entry => {
                let checkpoint = match self.with_bodies(record) {
                    Ok(record) => record.checkpoint,
                    Err(error) => return Err(Broken { error, reply: Reply::Claim { turn: None, promise } }),
                };
                let Record { attempt, fingerprint, .. } = *known.record;
                let owner = Owner { token: known.place.number(), attempt, since: self.now.time, fingerprint };
                touched.owner = Some(owner);
                Answer::Run { promise, owner, known, checkpoint }
            }
            (Reply::Advance(promise), Some(Record { checkpoint: Some(checkpoint), .. }), Some(known)) => {
                Answer::Advance { promise, advanced: Advanced::Moved { checkpoint, known } }
            }
            (Reply::End { ownership, promise }, Some(Record { phase: Phase::Completed { outcome, .. }, .. }), _) => {
                touched.owner = None;
                Answer::End { ownership, promise, outcome }
            }
            (Reply::Done(promise), None, _) => Answer::Done { promise, done: true },
            // The rules answer no command with another's change; the promise breaks rather than lie.
            _ => return Ok(None),
        }))
    }

    /// Writes what a change makes of a record, and returns it as the change made it: with the new bytes in it.
    fn write(&mut self, key: &Key, hash: KeyHash, touched: &mut Touched, change: Change) -> Result<Option<Record>> {
        let old = touched.place;
        let number = self.number()?;
        let after = apply(touched.record.as_deref().cloned(), key, change, number, self.now);
        self.rewrite(hash, touched, after.clone(), Place::Log(number))?;
        match old {
            Some(old) => self.tables.remove(old)?,
            None => self.begun += 1,
        }
        self.gone += u64::from(touched.place.is_none());
        Ok(after)
    }

    /// Puts a record in the place of another, and removes the bodies that no record has any more. The old row itself
    /// is left to the caller, who may have many to remove.
    pub(super) fn rewrite(
        &mut self,
        hash: KeyHash,
        touched: &mut Touched,
        after: Option<Record>,
        place: Place,
    ) -> Result<()> {
        let before = touched.record.take();
        let old = touched.place.take();
        if let Some(mut record) = after {
            self.spill(&mut record)?;
            self.tables.put(place, &record)?;
            self.numbers.newest = place.number();
            self.numbers.newest_gone = false;
            touched.place = Some(place);
            touched.record = Some(Arc::new(record));
        }
        self.numbers.newest_gone |= old.is_some_and(|old| old.number() == self.numbers.newest);
        let (before, after) = (before.as_deref(), touched.record.as_deref());
        let kept: Vec<u64> = after.into_iter().flat_map(Record::rows_apart).collect();
        for row in before.into_iter().flat_map(Record::rows_apart).filter(|row| !kept.contains(row)) {
            self.tables.remove_body(row)?;
        }
        let born = after.or(before).map_or(0, |record| record.born);
        // A key that starts anew ends its old incarnation, which was not unfinished any more.
        let unfinished = after.is_some_and(Record::is_unfinished);
        self.done.moves.push(Move { hash, old, new: touched.place, born, unfinished });
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

/// A request that found the batch unable to go on.
pub(super) struct Broken {
    pub(super) error: Error,
    pub(super) reply: Reply,
}

fn unseat(touched: &mut Touched, reply: Reply) -> Option<Answer> {
    match (reply, touched.owner.take()) {
        (Reply::Done(promise), Some(owner)) => Some(Answer::Unseat { promise, token: owner.token }),
        // Only `revoke` unseats; the promise breaks rather than lie.
        _ => None,
    }
}

fn refused(refusal: Refusal) -> Error {
    let (kind, message) = match refusal {
        Refusal::NotFound => (ErrorKind::NotFound, "no operation is known under this key"),
        Refusal::Finished => (ErrorKind::Finished, "the operation has an outcome already; claim the key to read it"),
        Refusal::Fenced => (ErrorKind::Fenced, "this run no longer owns the operation; stop and change nothing more"),
        Refusal::Busy => (ErrorKind::Busy, "a run is at work on the operation; let it end or revoke it first"),
        Refusal::Exhausted => (ErrorKind::Capacity, "a counter of this operation has reached its end"),
    };
    Error::new(kind, message)
}

impl Done {
    pub(super) fn is_change(&self) -> bool {
        !self.moves.is_empty()
    }

    /// Publishes where everything went, and only then answers. The batch is durable.
    pub(super) fn publish(self, shared: &Arc<Shared>) {
        publish_moves(shared, &self.moves);
        shared.counters.removed.fetch_add(self.removed, Ordering::Relaxed);
        for Kept { key, hash, answer, turn } in self.answers {
            answer.give(shared, &key, hash, turn);
        }
    }

    /// Tells everybody that it came to nothing, or that nobody knows.
    pub(super) fn refuse(self, error: impl Fn() -> Error) {
        for Kept { answer, .. } in self.answers {
            answer.refuse(error());
        }
    }
}

/// Publishes where records went. They are durable there.
pub(super) fn publish_moves(shared: &Shared, moves: &[Move]) {
    let mut unfinished = shared.index.unfinished();
    for Move { hash, old, new, born, unfinished: is_unfinished } in moves {
        shared.index.replace(*hash, *old, *new);
        match new.filter(|_| *is_unfinished) {
            Some(place) => unfinished.insert(*born, place),
            None => unfinished.remove(born),
        };
    }
}

impl Answer {
    fn give(self, shared: &Arc<Shared>, key: &Key, hash: KeyHash, turn: Option<Turn>) {
        match self {
            Self::Run { promise, owner, known, checkpoint } => {
                let strangers = shared.index.shard(hash).seat(hash, key, owner);
                for waiter in strangers {
                    shared.readmit(key, hash, waiter);
                }
                // With an owner seated the turn ends quietly; later it might wake another for nothing.
                drop(turn);
                let ownership = Ownership { shared: Arc::clone(shared), key: key.clone(), hash, token: owner.token };
                let granted = Granted { ownership, known, checkpoint };
                promise.keep(Ok(Claimed::Run(granted)));
            }
            Self::Claim { promise, claimed } => promise.keep(Ok(claimed)),
            Self::Park(waiter) => {
                if let Err(waiter) = shared.park(key, hash, waiter) {
                    shared.readmit(key, hash, waiter);
                }
            }
            Self::Advance { promise, advanced } => promise.keep(Ok(advanced)),
            Self::End { ownership, promise, outcome } => {
                let waiters = shared.index.shard(hash).clear(hash, key);
                promise.keep(Ok(outcome.clone()));
                drop(ownership);
                for waiter in waiters {
                    waiter.promise.keep(Ok(Claimed::Replay(outcome.clone())));
                }
            }
            Self::Unseat { promise, token } => {
                let next = shared.index.shard(hash).unseat(hash, key, token);
                promise.keep(Ok(true));
                if let Some(waiter) = next {
                    shared.readmit(key, hash, waiter);
                }
            }
            Self::Done { promise, done } => promise.keep(Ok(done)),
            Self::Refuse { error, reply } => reply.refuse(error),
        }
    }

    fn refuse(self, error: Error) {
        match self {
            Self::Run { promise, .. } | Self::Claim { promise, .. } | Self::Park(Waiter { promise, .. }) => {
                promise.keep(Err(error));
            }
            Self::Advance { promise, .. } => promise.keep(Err(error)),
            Self::End { promise, ownership, .. } => Reply::End { ownership, promise }.refuse(error),
            Self::Unseat { promise, .. } | Self::Done { promise, .. } => promise.keep(Err(error)),
            Self::Refuse { reply, .. } => reply.refuse(error),
        }
    }
}
