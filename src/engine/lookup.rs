//! What only reads: the index, then one short read of the log, on the caller's own thread, past the writer.
//!
//! Invariant: what is found is durable (the index knows nothing else, P2), and is the key's own (its scope and key are
//! compared in full, P9). A row that moved meanwhile is looked up again; one that did not and is not there is damage.

use super::Shared;
use super::index::{KeyHash, Owner};
use super::place::Place;
use super::queue::Shut;
use super::request::{Claimed, Seen, Working};
use crate::error::{Error, ErrorKind, Result};
use crate::key::Key;
use crate::record::transitions::{Command, Decision, Situation, Standing, decide};
use crate::record::{Phase, Record};
use crate::sync::{Ordering, thread};

/// How often a reader looks a row up again that moved meanwhile.
const LOOK_UPS_MAX: usize = 10_000;

/// The record is at another place by now, or gone.
struct Moved;

impl Shared {
    /// The answer to a claim that changes nothing, without the writer; none where it may change something.
    pub(super) fn peek(&self, key: &Key, hash: KeyHash, command: &Command) -> Option<Result<Claimed>> {
        let (record, owner) = match self.look_up(key, hash) {
            Ok(Lookup::Found(record, owner)) => (*record, owner),
            Ok(Lookup::Absent | Lookup::Moving) => return None,
            Err(error) => return Some(Err(error)),
        };
        let situation = Situation { record: Some(&record), owner: owner.map(Owner::tenure) };
        let Decision::Stand(standing) = decide(situation, command, self.timeline.now(), self.policy) else {
            return None;
        };
        match (standing, record.phase, owner, command) {
            (Standing::Replay, Phase::Completed { outcome, .. }, ..) => Some(Ok(Claimed::Replay(outcome))),
            (Standing::Reject { since }, ..) => Some(Ok(Claimed::Reject { since })),
            (Standing::Wait, _, Some(owner), Command::Claim(ask)) => Some(Ok(Claimed::Wait(Working::of(owner, ask)))),
            // An expiry is told by the writer, which keeps the time it rests on.
            _ => None,
        }
    }

    /// The record of a key and whether it is owned, however fast it moves.
    pub(super) fn find(&self, key: &Key, hash: KeyHash) -> Result<Option<Seen>> {
        for _ in 0..LOOK_UPS_MAX {
            let moves = self.moves();
            match self.look_up(key, hash)? {
                Lookup::Absent => return Ok(None),
                Lookup::Found(record, owner) => return Ok(Some(Seen { record: *record, owner })),
                Lookup::Moving => moves?,
            }
            thread::yield_now();
        }
        Err(moves_too_fast())
    }

    /// The record that was born under this number and whether it is owned, however fast it moves; none where it is
    /// finished by now.
    pub(super) fn follow_unfinished(&self, born: u64, place: Place) -> Result<Option<Seen>> {
        let mut place = Some(place);
        for _ in 0..LOOK_UPS_MAX {
            let Some(found) = place else { return Ok(None) };
            let moves = self.moves();
            match self.log.read(found)? {
                Some(record) if record.born == born => {
                    let hash = self.index.hash(&record.key);
                    if let Ok(owner) = self.owner_there(hash, &record.key, found) {
                        return Ok(Some(Seen { record, owner }));
                    }
                }
                Some(_) => return Err(exchanged(found)),
                None => moves?,
            }
            let is_settled = self.is_settled();
            let next = self.index.unfinished().get(born).map(|open| open.place);
            if is_settled && next == place {
                return Err(missing(found));
            }
            place = next;
            thread::yield_now();
        }
        Err(moves_too_fast())
    }

    fn look_up(&self, key: &Key, hash: KeyHash) -> Result<Lookup> {
        if let Some(Shut::Closed) = self.queue.is_shut() {
            return Err(Shut::Closed.error());
        }
        let shard = self.index.shard(hash);
        let (mut places, owner) = (shard.places(hash), shard.owner(hash, key));
        // All at one moment: where one goes meanwhile the others keep their turn. There is hardly ever more than one.
        let (first, others): (_, Vec<_>) = (places.next(), places.collect());
        drop(shard);
        let mut moving = false;
        for place in first.into_iter().chain(others) {
            match self.log.read(place)? {
                Some(record) if record.key == *key => return Ok(Lookup::Found(Box::new(record), owner)),
                Some(record) if self.index.collides(hash, &record.key) => {}
                Some(_) => return Err(exchanged(place)),
                None if self.is_settled() && self.index.shard(hash).places(hash).any(|still| still == place) => {
                    return Err(missing(place));
                }
                None => moving = true,
            }
        }
        Ok(if moving { Lookup::Moving } else { Lookup::Absent })
    }

    /// Whether a row that is not found may have moved. In a store that stopped none does, but redb may show a commit
    /// that nobody was told of.
    fn moves(&self) -> Result<()> {
        match self.queue.is_shut() {
            Some(shut @ Shut::Failed) => Err(shut.error()),
            _ => Ok(()),
        }
    }

    /// Whether all that was committed before is published: a row that was not found then, and to which the index leads
    /// after this, did not move.
    fn is_settled(&self) -> bool {
        !self.is_moving.load(Ordering::Acquire)
    }

    /// A record that was read at this place with its owner; where it moved since, as it is now.
    pub(super) fn seen_at(&self, place: Place, record: Record) -> Seen {
        let hash = self.index.hash(&record.key);
        if let Ok(owner) = self.owner_there(hash, &record.key, place) {
            return Seen { record, owner };
        }
        let now = self.find(&record.key, hash).ok().flatten();
        now.unwrap_or(Seen { record, owner: None })
    }

    /// Whose the record of this key is: that was so when it was read at this place, as long as it stands there.
    fn owner_there(&self, hash: KeyHash, key: &Key, place: Place) -> Result<Option<Owner>, Moved> {
        let shard = self.index.shard(hash);
        if shard.places(hash).any(|still| still == place) { Ok(shard.owner(hash, key)) } else { Err(Moved) }
    }
}

/// What the index filed under another key's hash: a page that was damaged since the file was opened may give one row
/// for another, and its checksum is right.
pub(super) fn exchanged(place: Place) -> Error {
    let message =
        format!("row {} holds another operation than when the file was opened: it is damaged", place.number());
    Error::new(ErrorKind::Corrupt, message)
}

/// What the index leads to is on disk, and only the writer takes it away.
pub(super) fn missing(place: Place) -> Error {
    let message = format!("row {} is missing: the file was damaged since it was opened", place.number());
    Error::new(ErrorKind::Corrupt, message)
}

fn moves_too_fast() -> Error {
    Error::new(ErrorKind::TimedOut, "a row moves faster than it can be read; ask again")
}

/// What looking a key up comes to.
enum Lookup {
    Absent,
    /// The writer is about to publish where its record went.
    Moving,
    Found(Box<Record>, Option<Owner>),
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::Engine;
    use super::*;
    use crate::clock::Timestamp;
    use crate::engine::verify::tests::{engine, engine_of, index, keep, record};
    use crate::key::Fingerprint;
    use crate::record::transitions::Ask;

    #[test]
    fn p10_a_row_that_holds_another_operation_than_the_one_that_is_followed_is_damaged() {
        let engine = engine();
        keep(&engine, Place::Unfinished(20), &record("there", 20, Phase::Unfinished));
        let found = engine.shared.follow_unfinished(20, Place::Unfinished(20)).unwrap();
        assert_eq!(found.unwrap().record.born, 20);
        let error = engine.shared.follow_unfinished(19, Place::Unfinished(20)).unwrap_err();
        assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains("another operation"), "{error}");
    }

    /// redb may fail once it shows a commit: the index then leads to rows that are not there any more.
    #[test]
    fn p10_whoever_looks_for_a_row_that_a_commit_of_unknown_end_took_is_told_that_the_store_stopped() {
        let engine = engine();
        let shared = &engine.shared;
        let (there, gone) = (record("there", 20, Phase::Unfinished), record("gone", 21, Phase::Unfinished));
        keep(&engine, Place::Unfinished(20), &there);
        index(&engine, Place::Unfinished(21), &gone);
        let look = |record: &Record| shared.find(&record.key, shared.index.hash(&record.key));
        assert_eq!(look(&gone).unwrap_err().kind(), ErrorKind::Corrupt, "nothing is under way that could explain it");
        shared.is_moving.store(true, Ordering::Release);
        assert_eq!(look(&gone).unwrap_err().kind(), ErrorKind::TimedOut, "the writer is to publish where it went");
        shared.queue.shut(Shut::Failed);
        assert_eq!(look(&gone).unwrap_err().kind(), ErrorKind::Failed);
        assert_eq!(shared.follow_unfinished(21, Place::Unfinished(21)).unwrap_err().kind(), ErrorKind::Failed);
        assert_eq!(
            look(&there).unwrap().unwrap().record.written,
            Timestamp::from_millis(2_000),
            "what is there is found"
        );
    }

    /// What the writer answers to whoever would enter this operation next, and to who would forget it, in a batch
    /// that forgets another before.
    fn decided(engine: &Arc<Engine>, hidden: &Record) -> [ErrorKind; 2] {
        let ask = Ask { fingerprint: Some(Fingerprint::of("request")), request: None, deferred: false };
        let other = engine.by_name(&record("open", 1, Phase::Unfinished).key, Command::Forget);
        let claim = engine.claim_after(&hidden.key, ask, |_, claimed| claimed);
        let forgotten = engine.by_name(&hidden.key, Command::Forget);
        engine.work_by_hand();
        assert!(other.wait().unwrap(), "it stops nobody else");
        [claim.wait().unwrap_err().kind(), forgotten.wait().unwrap_err().kind()]
    }

    /// A damaged page may hide a row behind an open store. Were its key new, what was done for it would be done
    /// again.
    #[test]
    fn p1_p10_the_writer_begins_nothing_anew_whose_row_it_does_not_find() {
        // All keys under one hash too, so that what this batch removed stands before the row that is hidden.
        for hash_mask in [u64::MAX, 0] {
            let (engine, hidden) = (engine_of(hash_mask), record("hidden", 20, Phase::Unfinished));
            index(&engine, Place::Unfinished(20), &hidden);
            assert_eq!(decided(&engine, &hidden), [ErrorKind::Corrupt; 2], "mask {hash_mask}");
        }
    }

    #[test]
    fn p1_p10_the_writer_begins_nothing_anew_whose_row_was_exchanged_for_another() {
        let (engine, hidden) = (engine(), record("hidden", 20, Phase::Unfinished));
        keep(&engine, Place::Unfinished(20), &record("there", 20, Phase::Unfinished));
        index(&engine, Place::Unfinished(20), &hidden);
        assert_eq!(decided(&engine, &hidden), [ErrorKind::Corrupt; 2]);
    }
}
