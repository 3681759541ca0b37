//! What a batch did and told: published once it is durable, and only then answered.
//!
//! Invariants:
//! 1. Where everything went stands in the index before anybody is answered (P2).
//! 2. An owner is seated before its claim is answered, and unseated before whoever ended it is (P1, P7).
//! 3. What one request did to a key's place and to its owner shows at once, and in the order of the requests. The rows
//!    before the last are gone, so a reader finds the last with the owner that it was decided with, or a later one.

use std::sync::Arc;

use super::Shared;
use super::capacity::Draft;
use super::index::{KeyHash, Owner, Shard, Waiter};
use super::place::Place;
use super::request::{
    Adopted, Advanced, Claimed, Granted, Known, Ownership, Reply, Report, Request, Stepped, harmless,
};
use super::unfinished::{Open, Opens, Tally};
use crate::clock::Now;
use crate::error::Error;
use crate::record::transitions::Ask;
use crate::record::{Outcome, Record};
use crate::sync::Ordering;

/// What a batch did, to be published once it is durable.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) moves: Vec<Move>,
    /// What is kept after it.
    pub(super) draft: Draft,
    /// What each request came to, in their order, and how many moves there were after it.
    pub(super) told: Vec<(Told, usize)>,
    /// Which requests, by their place, came from runs that showed by them that they are at work; kept where there is a
    /// lease.
    pub(super) renewed: Vec<usize>,
    /// The reports that it took in.
    pub(super) reported: Vec<Report>,
    /// Which requests, by their place, took in what their keys' owners may have left with the seat.
    pub(super) left: Vec<usize>,
    /// How many rows retention removed.
    pub(super) removed: u64,
    /// How many operations might not begin for what is kept already.
    pub(super) refused: u64,
    /// How many calls came from runs that had lost their operation.
    pub(super) fenced: u64,
    /// Whether an answer rests on time that no row of this batch keeps.
    pub(super) tells_time: bool,
    /// Whether a row comes from an export.
    pub(super) adopts: bool,
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
    Adopted(Adopted),
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
    pub(super) fn publish(mut self, shared: &Arc<Shared>, requests: &mut Vec<Request>, now: Now) {
        shared.ledger.publish(std::mem::take(&mut self.draft));
        let freed = self.publish_requests(shared, requests, now);
        // Behind that, so that whoever is told that a report is taken in finds what it came to.
        self.reported.iter().for_each(Report::take_in);
        for Request { key, hash, .. } in self.left.iter().filter_map(|nth| requests.get(*nth)) {
            shared.index.shard(*hash).forget_taken_in(*hash, key);
        }
        shared.meter.removed.fetch_add(self.removed, Ordering::Relaxed);
        shared.meter.refused.fetch_add(self.refused, Ordering::Relaxed);
        shared.meter.fenced.fetch_add(self.fenced, Ordering::Relaxed);
        for ((request, (told, _)), freed) in requests.drain(..).zip(self.told).zip(freed) {
            answer(shared, request, told, freed);
        }
    }

    /// Publishes what each request did, and what no request asked for behind that. Answers for each request who waits
    /// for its key no longer.
    fn publish_requests(&self, shared: &Shared, requests: &[Request], now: Now) -> Vec<Vec<Waiter>> {
        let (mut unfinished, mut moves) = (shared.index.unfinished(), self.moves.iter());
        let mut renewed = self.renewed.iter().peekable();
        let mut freed = Vec::with_capacity(requests.len());
        let mut published = 0;
        for (nth, (request, (told, moved))) in requests.iter().zip(&self.told).enumerate() {
            let mut part = shared.index.shard(request.hash);
            if renewed.next_if_eq(&&nth).is_some() {
                request.command.token().inspect(|token| part.renew(request.hash, &request.key, *token, now.time));
            }
            for movement in moves.by_ref().take(moved.saturating_sub(published)) {
                shared.index.replace_in(&mut part, movement.hash, movement.old, movement.new);
                movement.list(&mut unfinished);
            }
            published = *moved;
            freed.push(told.seat(&mut part, request));
        }
        publish_rest(shared, &mut unfinished, moves);
        freed
    }
}

/// A row that these moves wrote and that is still there at their end: what one request wrote the next may remove.
pub(super) fn row_left(moves: &[Move]) -> Option<Place> {
    (0..moves.len()).rev().find_map(|nth| {
        let (movement, later) = moves.get(nth..)?.split_first()?;
        movement.new.filter(|new| later.iter().all(|other| other.old != Some(*new)))
    })
}

impl Move {
    /// Counts the operation among the unfinished, or no longer.
    fn list(&self, unfinished: &mut Opens) {
        match self.new.zip(self.tally) {
            Some((place, tally)) => unfinished.insert(self.born, Open { place, tally }),
            None => unfinished.remove(self.born),
        }
    }
}

impl Told {
    /// Gives the key the owner that it has from now on, and answers who waits for it no longer.
    fn seat(&self, shard: &mut Shard, request: &Request) -> Vec<Waiter> {
        let Request { hash, key, .. } = request;
        match self {
            Self::Run { owner, known, record } => {
                let deferred = known.is_none().then(|| Arc::new((**record).clone()));
                shard.seat(*hash, key, *owner, deferred)
            }
            Self::Ended(_) => Vec::from(shard.clear(*hash, key)),
            Self::Unseated(token) => shard.unseat(*hash, key, *token, Vec::new).into_iter().collect(),
            _ => Vec::new(),
        }
    }
}

/// Publishes where records went, and what is kept now. They are durable there, and nobody is told.
pub(super) fn publish_moves(shared: &Shared, moves: &[Move], draft: Draft) {
    shared.meter.commits.fetch_add(1, Ordering::Relaxed);
    shared.ledger.publish(draft);
    publish_rest(shared, &mut shared.index.unfinished(), moves.iter());
}

fn publish_rest<'m>(shared: &Shared, unfinished: &mut Opens, moves: impl Iterator<Item = &'m Move>) {
    for movement in moves {
        shared.index.replace(movement.hash, movement.old, movement.new);
        movement.list(unfinished);
    }
    shared.is_moving.store(false, Ordering::Release);
}

/// Tells a caller what its request came to, and those who waited for its key that they wait no longer.
fn answer(shared: &Arc<Shared>, request: Request, told: Told, freed: Vec<Waiter>) {
    let Request { key, hash, reply, rows, .. } = request;
    match (reply, told) {
        (Reply::Claim { promise, turn }, Told::Run { owner, known, record }) => {
            // The key began anew while they stood in line, for another request.
            for waiter in freed {
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
        (Reply::Step(promise), Told::Stepped(stepped)) => promise.keep(Ok(stepped)),
        (Reply::End { ownership, promise }, Told::Ended(outcome)) => {
            promise.keep(Ok(outcome.clone()));
            drop(ownership);
            for waiter in freed {
                waiter.promise.keep(Ok(Claimed::Replay(outcome.clone())));
            }
        }
        (Reply::Done(promise), Told::Unseated(_)) => {
            promise.keep(Ok(true));
            for waiter in freed {
                shared.readmit(&key, hash, waiter);
            }
        }
        (Reply::Adopt(promise), Told::Adopted(adopted)) => promise.keep(Ok(adopted)),
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

#[cfg(test)]
mod tests {
    use super::super::Engine;
    use super::super::request::Carried;
    use super::super::verify::tests::{engine, record};
    use super::*;
    use crate::record::Phase;
    use crate::record::transitions::{Command, Reporter};

    /// How many keys have a seat in memory.
    fn seats(engine: &Engine) -> usize {
        engine.shared.index.shards().map(|shard| shard.seats().count()).sum()
    }

    /// A step's result may be large, and nobody may ever enter that key again.
    #[test]
    fn nothing_stays_in_memory_of_a_run_that_left_with_a_report_once_that_is_taken_in() {
        for is_forgotten in [false, true] {
            let (engine, order) = (engine(), record("order", 20, Phase::Unfinished));
            let ask = Ask { fingerprint: Some(order.fingerprint), request: None, deferred: false };
            let claim = engine.claim(&order.key, ask, |_, claimed| claimed);
            engine.work_by_hand();
            let Claimed::Run(Granted { ownership, record, .. }) = claim.wait().unwrap() else { panic!("it is free") };
            let (token, name) = (ownership.token(), Arc::<str>::from("charge"));
            let intent = Command::Intend { token, name: Arc::clone(&name), again: false };
            let begun = engine.step(&order.key, Carried::default(), intent, Ok);
            engine.work_by_hand();
            assert!(matches!(begun.wait().unwrap(), Stepped::Changed { .. }));
            let by = Reporter { token, born: record.born, attempt: 1, was_owner: true };
            let result: Arc<[u8]> = vec![7; 100].into();
            engine.report(&ownership, Command::Report { by, name, result: Some(Arc::clone(&result)) });
            drop(ownership);
            assert_eq!(seats(&engine), 1, "who enters next finds it there");
            let forgotten = is_forgotten.then(|| engine.by_name(&order.key, Command::Forget));
            engine.work_by_hand();
            assert!(forgotten.is_none_or(|forgotten| forgotten.wait().unwrap()));
            assert_eq!((seats(&engine), Arc::strong_count(&result)), (0, 1), "is it forgotten: {is_forgotten}");
        }
    }
}
