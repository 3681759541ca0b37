//! What a batch did and told: published once it is durable, and only then answered.
//!
//! Invariants:
//! 1. Where everything went stands in the index before anybody is answered (P2).
//! 2. An owner is seated before its claim is answered, and unseated before whoever ended it is (P1, P7).

use std::sync::Arc;

use super::Shared;
use super::capacity::Draft;
use super::index::{KeyHash, Open, Owner, Tally, Waiter};
use super::log::Place;
use super::request::{Advanced, Claimed, Granted, Known, Ownership, Reply, Request, Stepped, harmless};
use crate::clock::Now;
use crate::error::Error;
use crate::key::Key;
use crate::record::transitions::Ask;
use crate::record::{Outcome, Record};
use crate::sync::Ordering;

/// What a batch did, to be published once it is durable.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) moves: Vec<Move>,
    /// What is kept after it.
    pub(super) draft: Draft,
    /// What each request came to, in their order.
    pub(super) told: Vec<Told>,
    /// The runs that showed that they are at work; kept where there is a lease.
    pub(super) renewed: Vec<(KeyHash, Key, u64)>,
    /// The keys whose last owner had left something behind, which is taken in now.
    pub(super) left: Vec<(KeyHash, Key)>,
    /// How many rows retention removed.
    pub(super) removed: u64,
    /// How many operations might not begin for what is kept already.
    pub(super) refused: u64,
    /// Whether an answer rests on time that no row of this batch keeps.
    pub(super) tells_time: bool,
}

/// Where a record went.
#[derive(Debug, Clone, Copy)]
pub(super) struct Move {
    pub(super) hash: KeyHash,
    pub(super) old: Option<Place>,
    pub(super) new: Option<Place>,
    /// The number it was born under, and what is counted of it where it is unfinished now.
    pub(super) born: u64,
    pub(super) tally: Option<Tally>,
}

/// What a request came to.
#[derive(Debug)]
pub(super) enum Told {
    /// Nobody waits for it, or the rules give it no answer: its promise breaks rather than lie.
    Nothing,
    Run {
        owner: Owner,
        /// Where its record stands; none where the claim is deferred.
        known: Option<Known>,
        record: Box<Record>,
    },
    Claimed(Claimed),
    /// Waits for the run at work, where it is still there.
    Parked(Ask),
    Advanced(Advanced),
    Stepped(Stepped),
    Ended(Outcome),
    Unseated(u64),
    Done(bool),
    /// Waits like the rest: what it rests on may be a change of this very batch.
    Refused(Error),
    /// The server's own rows could not be written; the request knows why.
    Failed,
}

impl Done {
    pub(super) fn is_change(&self) -> bool {
        !self.moves.is_empty()
    }

    /// Publishes where everything went, and only then answers. The batch is durable.
    pub(super) fn publish(self, shared: &Arc<Shared>, requests: impl Iterator<Item = Request>, now: Now) {
        publish_moves(shared, &self.moves, self.draft);
        for (hash, key) in self.left {
            shared.index.shard(hash).forget_left(hash, &key, |_| true);
        }
        for (hash, key, token) in self.renewed {
            shared.index.shard(hash).renew(hash, &key, token, now.time);
        }
        shared.counters.removed.fetch_add(self.removed, Ordering::Relaxed);
        shared.counters.refused.fetch_add(self.refused, Ordering::Relaxed);
        for (request, told) in requests.zip(self.told) {
            answer(shared, request, told);
        }
    }
}

/// Publishes where records went, and what is kept now. They are durable there.
pub(super) fn publish_moves(shared: &Shared, moves: &[Move], draft: Draft) {
    shared.ledger.publish(draft);
    let mut unfinished = shared.index.unfinished();
    for Move { hash, old, new, born, tally } in moves {
        shared.index.replace(*hash, *old, *new);
        match new.zip(*tally) {
            Some((place, tally)) => unfinished.insert(*born, Open { place, tally }),
            None => unfinished.remove(born),
        };
    }
    shared.is_moving.store(false, Ordering::Release);
}

/// Tells a caller what its request came to.
fn answer(shared: &Arc<Shared>, request: Request, told: Told) {
    let Request { key, hash, command, reply, rows, is_left, .. } = request;
    match (reply, told) {
        (Reply::Claim { promise, turn }, Told::Run { owner, known, record }) => {
            let deferred = known.is_none().then(|| Arc::new((*record).clone()));
            let strangers = shared.index.shard(hash).seat(hash, &key, owner, deferred);
            for waiter in strangers {
                shared.readmit(&key, hash, waiter);
            }
            // With an owner seated the turn ends quietly; later it might wake another for nothing.
            drop(turn);
            let (shared, reports) = (Arc::clone(shared), Arc::default());
            let ownership = Ownership { shared, key, hash, token: owner.token, reports };
            promise.keep(Ok(Claimed::Run(Granted { ownership, known, record })));
        }
        (Reply::Claim { promise, .. }, Told::Claimed(claimed)) => promise.keep(Ok(claimed)),
        (Reply::Claim { promise, turn }, Told::Parked(ask)) => {
            if let Err(waiter) = shared.park(&key, hash, Waiter { ask, promise }) {
                shared.readmit(&key, hash, waiter);
            }
            drop(turn);
        }
        (Reply::Advance(promise), Told::Advanced(advanced)) => promise.keep(Ok(advanced)),
        (Reply::Step(promise), Told::Stepped(stepped)) => {
            promise.keep(Ok(stepped));
            // A run that leaves now knows that it is taken in; one that left before did not.
            if is_left.is_some_and(|is_left| is_left.load(Ordering::Acquire)) {
                shared.index.shard(hash).forget_left(hash, &key, |left| left.step() == command.step());
            }
        }
        (Reply::End { ownership, promise }, Told::Ended(outcome)) => {
            let waiters = shared.index.shard(hash).clear(hash, &key);
            promise.keep(Ok(outcome.clone()));
            drop(ownership);
            for waiter in waiters {
                waiter.promise.keep(Ok(Claimed::Replay(outcome.clone())));
            }
        }
        (Reply::Done(promise), Told::Unseated(token)) => {
            let next = shared.index.shard(hash).unseat(hash, &key, token, Vec::new);
            promise.keep(Ok(true));
            if let Some(waiter) = next {
                shared.readmit(&key, hash, waiter);
            }
        }
        (Reply::Done(promise), Told::Done(done)) => promise.keep(Ok(done)),
        (reply, Told::Refused(error)) => reply.refuse(error),
        (reply, Told::Failed) => {
            if let Some(error) = rows.and_then(|mut rows| rows.failed.take()) {
                // Where nobody takes the answer, what the server's closure returned is dropped here.
                harmless(|| reply.refuse(error));
            }
        }
        // Whoever waits learns from the broken promise that nobody knows.
        (_, _) => {}
    }
}
