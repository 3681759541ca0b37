//! What is known without reading: where each key's record stands, who owns what, who waits for whom, and what is
//! unfinished.
//!
//! Invariants:
//! 1. What stands here is durable: the writer publishes a change after its commit, never before (P2).
//! 2. Only the writer seats an owner; anybody may unseat the owner whose token it holds (P1, P7).
//! 3. A slot is a hint: whoever follows it compares scope and key in full (P9). Hashes are keyed at random at each
//!    open, since the keys are the attacker's.
//! 4. A slot takes 12 bytes and one of control; a table is at least 7/16 full after it grew, so a kept operation takes
//!    30 bytes at most. A table that has become nearly empty shrinks.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use hashbrown::HashTable;

use super::place::Place;
use super::request::{Claimed, Report};
use super::unfinished::Opens;
use crate::clock::Timestamp;
use crate::key::{Fingerprint, Key};
use crate::pending::Promise;
use crate::record::Record;
use crate::record::transitions::{Ask, Tenure};
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering};

/// Enough that callers seldom meet on one, and that growing one copies little. A model checker would try every order
/// of looking into each.
const SHARDS: usize = if cfg!(any(shuttle, loom)) { 2 } else { 256 };

/// Slots that a part of the index keeps room for, however few there are.
const SLOTS_KEPT: usize = 1024;

/// How many slots a part of the index takes in at once as the store is opened: one behind the other, the processor need
/// not wait for the memory of each.
const FOUND_AT_ONCE: usize = 512;

#[derive(Debug)]
pub(crate) struct Index {
    hasher: RandomState,
    /// Which bits of a hash count: all of them, but for tests.
    hash_mask: u64,
    shards: Box<[Mutex<Shard>]>,
    unfinished: Mutex<Opens>,
    operations: AtomicU64,
    tombstones: AtomicU64,
    /// All places, added up: every change gives a row another, so what lacks one comes to something else.
    places: AtomicU64,
}

/// One part of the index; all of one key is in the same part.
#[derive(Debug, Default)]
pub(crate) struct Shard {
    slots: HashTable<Slot>,
    /// What the file was found to hold and is not among the slots yet, while the store is opened.
    found: Vec<Slot>,
    seats: HashTable<Seat>,
}

/// Where a record stands: 32 bits of its key's hash, and its number in two halves so that a slot takes 12 bytes.
#[derive(Debug, Clone, Copy)]
struct Slot {
    tag: u32,
    number: [u32; 2],
}

/// The keyed hash of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyHash(u64);

/// Who owns an operation, and who waits for it.
#[derive(Debug)]
pub(crate) struct Seat {
    hash: KeyHash,
    key: Key,
    pub(crate) owner: Option<Owner>,
    /// The record of an owner whose claim is not on disk yet. It counts as long as no row of its key does.
    deferred: Option<Arc<Record>>,
    /// What owners had reported when they left, and what the writer may not have taken in yet.
    left: Vec<Report>,
    pub(crate) waiters: VecDeque<Waiter>,
}

/// A live run, as the store knows it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner {
    pub(crate) token: u64,
    pub(crate) attempt: u32,
    pub(crate) since: Timestamp,
    /// When it last moved or renewed; counts where there is a lease.
    pub(crate) moved: Timestamp,
    /// The number that the operation was born under.
    pub(crate) born: u64,
    /// The request it runs for: only claims of the same one may wait for it.
    pub(crate) fingerprint: Fingerprint,
}

impl Owner {
    pub(crate) fn tenure(self) -> Tenure {
        Tenure { token: self.token, moved: self.moved }
    }
}

/// A claim that waits for the run at work to end.
#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) ask: Ask,
    pub(crate) promise: Promise<Claimed>,
}

impl Waiter {
    fn is_for(&self, owner: Owner) -> bool {
        self.ask.fingerprint.is_none_or(|fingerprint| fingerprint == owner.fingerprint)
    }
}

impl Index {
    pub(crate) fn new(hash_mask: u64, attempts_max: u32) -> Self {
        Self {
            hasher: RandomState::new(),
            hash_mask,
            shards: std::iter::repeat_with(Mutex::default).take(SHARDS).collect(),
            unfinished: Mutex::new(Opens::new(attempts_max)),
            operations: AtomicU64::new(0),
            tombstones: AtomicU64::new(0),
            places: AtomicU64::new(0),
        }
    }

    pub(crate) fn hash(&self, key: &Key) -> KeyHash {
        KeyHash(self.hasher.hash_one(key) & self.hash_mask)
    }

    /// Whether a slot of this hash may lead to a row of this key.
    pub(crate) fn collides(&self, hash: KeyHash, key: &Key) -> bool {
        self.hash(key).tag() == hash.tag()
    }

    /// The part of the index that this hash belongs to.
    #[expect(clippy::indexing_slicing, reason = "the index is a remainder of the length")]
    pub(crate) fn shard(&self, hash: KeyHash) -> MutexGuard<'_, Shard> {
        self.shards[usize::from(hash.shard()) % self.shards.len()].lock()
    }

    pub(crate) fn shards(&self) -> impl Iterator<Item = MutexGuard<'_, Shard>> {
        self.shards.iter().map(Mutex::lock)
    }

    /// Moves a key's slot from one place to another; without the first it is new, without the second it goes.
    pub(crate) fn replace(&self, hash: KeyHash, old: Option<Place>, new: Option<Place>) {
        self.replace_in(&mut self.shard(hash), hash, old, new);
    }

    /// The same, in the key's part of the index, for whoever changes more of it at that moment.
    pub(crate) fn replace_in(&self, shard: &mut Shard, hash: KeyHash, old: Option<Place>, new: Option<Place>) {
        match (old, new) {
            (None, None) => {}
            (None, Some(new)) => {
                self.count(None, Some(new));
                shard.slots.insert_unique(spread(hash.tag()), Slot::new(hash, new), Slot::spread);
                self.operations.fetch_add(1, Ordering::Relaxed);
            }
            (Some(old), new) => {
                let same = |slot: &Slot| slot.tag == hash.tag() && slot.place() == old;
                let Ok(mut found) = shard.slots.find_entry(spread(hash.tag()), same) else { return };
                self.count(Some(old), new);
                match new {
                    Some(new) => *found.get_mut() = Slot::new(hash, new),
                    None => {
                        found.remove();
                        shard.shrink_if_sparse();
                        self.operations.fetch_sub(1, Ordering::Relaxed);
                    }
                }
            }
        }
    }

    /// Where a record stands that the file was found to hold; in the index once it is [`settle`](Self::settle)d.
    pub(crate) fn found(&self, hash: KeyHash, place: Place) {
        let mut shard = self.shard(hash);
        shard.found.push(Slot::new(hash, place));
        if shard.found.len() == FOUND_AT_ONCE {
            self.settle_in(&mut shard);
        }
    }

    /// Takes in all that was found.
    pub(crate) fn settle(&self) {
        for mut shard in self.shards() {
            self.settle_in(&mut shard);
            shard.found = Vec::new();
        }
    }

    fn settle_in(&self, shard: &mut Shard) {
        let Shard { slots, found, .. } = shard;
        self.operations.fetch_add(found.len() as u64, Ordering::Relaxed);
        slots.reserve(found.len(), Slot::spread);
        for slot in found.drain(..) {
            self.count(None, Some(slot.place()));
            slots.insert_unique(slot.spread(), slot, Slot::spread);
        }
    }

    /// How many operations are kept, tombstones included.
    pub(crate) fn operations(&self) -> u64 {
        self.operations.load(Ordering::Relaxed)
    }

    /// How many of them are tombstones.
    pub(crate) fn tombstones(&self) -> u64 {
        self.tombstones.load(Ordering::Relaxed)
    }

    /// Where all rows stand, added up.
    pub(crate) fn places(&self) -> u64 {
        self.places.load(Ordering::Relaxed)
    }

    fn count(&self, old: Option<Place>, new: Option<Place>) {
        let word = |place: Option<Place>| place.map_or(0, Place::word);
        self.places.fetch_add(word(new).wrapping_sub(word(old)), Ordering::Relaxed);
        let is_one = |place: Option<Place>| matches!(place, Some(Place::Tombstone(_)));
        match (is_one(old), is_one(new)) {
            (false, true) => drop(self.tombstones.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(self.tombstones.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
    }

    pub(crate) fn unfinished(&self) -> MutexGuard<'_, Opens> {
        self.unfinished.lock()
    }

    /// Bytes that the slots take.
    pub(crate) fn bytes(&self) -> usize {
        self.shards().map(|shard| shard.slots.allocation_size()).sum()
    }
}

impl Shard {
    /// Gives memory back when most of what was kept is gone. What is left to move is a small part of what went.
    fn shrink_if_sparse(&mut self) {
        let (len, capacity) = (self.slots.len(), self.slots.capacity());
        if capacity > SLOTS_KEPT && len < capacity / 8 {
            self.slots.shrink_to(2 * len, Slot::spread);
        }
    }

    pub(crate) fn places(&self, hash: KeyHash) -> impl Iterator<Item = Place> {
        let same = move |slot: &&Slot| slot.tag == hash.tag();
        self.slots.iter_hash(spread(hash.tag())).filter(same).map(Slot::place)
    }

    pub(crate) fn owner(&self, hash: KeyHash, key: &Key) -> Option<Owner> {
        self.seats.find(hash.word(), |seat| seat.key == *key).and_then(|seat| seat.owner)
    }

    /// The record of an owner whose claim is not on disk yet.
    pub(crate) fn deferred(&self, hash: KeyHash, key: &Key) -> Option<(Arc<Record>, Owner)> {
        let seat = self.seats.find(hash.word(), |seat| seat.key == *key)?;
        Some((Arc::clone(seat.deferred.as_ref()?), seat.owner?))
    }

    /// Who owns this key, and what owners left behind that is not taken in.
    pub(crate) fn seated(&self, hash: KeyHash, key: &Key) -> (Option<Owner>, Vec<Report>) {
        let Some(seat) = self.seats.find(hash.word(), |seat| seat.key == *key) else { return (None, Vec::new()) };
        (seat.owner, seat.left.iter().filter(|report| !report.is_taken_in()).cloned().collect())
    }

    /// Forgets what of that is taken in by now.
    pub(crate) fn forget_taken_in(&mut self, hash: KeyHash, key: &Key) {
        if let Some(seat) = self.seat_mut(hash, key) {
            seat.left.retain(|report| !report.is_taken_in());
            self.tidy(hash, key);
        }
    }

    /// Begins the lease of this owner anew, where it is still the owner.
    pub(crate) fn renew(&mut self, hash: KeyHash, key: &Key, token: u64, now: Timestamp) {
        let owner = self.seat_mut(hash, key).and_then(|seat| seat.owner.as_mut());
        if let Some(owner) = owner.filter(|owner| owner.token == token) {
            owner.moved = now;
        }
    }

    /// The next in line of every key whose owner has lapsed.
    pub(crate) fn next_of_lapsed(&mut self, has_lapsed: impl Fn(Tenure) -> bool) -> Vec<(KeyHash, Key, Waiter)> {
        let lapsed = self.seats.iter_mut().filter(|seat| seat.owner.is_some_and(|owner| has_lapsed(owner.tenure())));
        lapsed
            .filter_map(|seat| {
                let mut line = std::iter::from_fn(|| seat.waiters.pop_front());
                let next = line.find(|waiter| !waiter.promise.is_abandoned())?;
                Some((seat.hash, seat.key.clone(), next))
            })
            .collect()
    }

    fn seat_mut(&mut self, hash: KeyHash, key: &Key) -> Option<&mut Seat> {
        self.seats.find_mut(hash.word(), |seat| seat.key == *key)
    }

    /// The seat of this key, a new one where there is none.
    fn seat_of(&mut self, hash: KeyHash, key: &Key) -> &mut Seat {
        let new =
            || Seat { hash, key: key.clone(), owner: None, deferred: None, left: Vec::new(), waiters: VecDeque::new() };
        let entry = self.seats.entry(hash.word(), |seat| seat.key == *key, |seat| seat.hash.word());
        entry.or_insert_with(new).into_mut()
    }

    /// Lets the seat of this key go where nobody owns it and nobody waits.
    fn tidy(&mut self, hash: KeyHash, key: &Key) {
        let is_left = |seat: &Seat| {
            let is_taken_in = seat.left.iter().all(Report::is_taken_in);
            seat.key == *key && seat.owner.is_none() && is_taken_in && seat.waiters.is_empty()
        };
        if let Ok(left) = self.seats.find_entry(hash.word(), is_left) {
            left.remove();
        }
    }

    /// Makes a run the owner. Whoever waits for this key goes on waiting, for this run. Gives back those who wait for
    /// another request: the key began anew while they stood in line.
    pub(crate) fn seat(
        &mut self,
        hash: KeyHash,
        key: &Key,
        owner: Owner,
        deferred: Option<Arc<Record>>,
    ) -> Vec<Waiter> {
        let seat = self.seat_of(hash, key);
        (seat.owner, seat.deferred) = (Some(owner), deferred);
        if seat.waiters.iter().all(|waiter| waiter.is_for(owner)) {
            return Vec::new();
        }
        let (same, others) = seat.waiters.drain(..).partition(|waiter| waiter.is_for(owner));
        seat.waiters = same;
        Vec::from(others)
    }

    /// Ends the ownership that has this token, and gives the next in line, who may claim now. None where somebody
    /// else owns it by now, or nobody waits.
    ///
    /// What the run `left` behind, the owner or not, stays here until the writer has taken it in: who enters next may
    /// stand in the queue before it, and what a full disk refused comes in no other way.
    pub(crate) fn unseat(
        &mut self,
        hash: KeyHash,
        key: &Key,
        token: u64,
        left: impl FnOnce() -> Vec<Report>,
    ) -> Option<Waiter> {
        let left = left();
        let seat = if left.is_empty() { self.seat_mut(hash, key)? } else { self.seat_of(hash, key) };
        seat.left.extend(left);
        if seat.owner?.token != token {
            return None;
        }
        (seat.owner, seat.deferred) = (None, None);
        self.next_of_unowned(hash, key)
    }

    /// Ends the ownership of an operation that is over, and gives everybody who waited. What owners left behind and the
    /// writer has not taken in stays.
    pub(crate) fn clear(&mut self, hash: KeyHash, key: &Key) -> VecDeque<Waiter> {
        let Some(seat) = self.seat_mut(hash, key) else { return VecDeque::new() };
        (seat.owner, seat.deferred) = (None, None);
        let waiters = std::mem::take(&mut seat.waiters);
        self.tidy(hash, key);
        waiters
    }

    /// Lets a claim wait for the run that owns the operation, or gives it back where none does for this request.
    pub(crate) fn park(&mut self, hash: KeyHash, key: &Key, waiter: Waiter) -> Result<(), Waiter> {
        match self.seat_mut(hash, key) {
            Some(seat) if seat.owner.is_some_and(|owner| waiter.is_for(owner)) => {
                // Those who gave up are removed whenever the line would have to grow for one more.
                if seat.waiters.len() == seat.waiters.capacity() {
                    seat.waiters.retain(|waiter| !waiter.promise.is_abandoned());
                }
                seat.waiters.push_back(waiter);
                Ok(())
            }
            _ => Err(waiter),
        }
    }

    /// The next in line of a key that nobody owns.
    pub(crate) fn next_of_unowned(&mut self, hash: KeyHash, key: &Key) -> Option<Waiter> {
        let seat = self.seat_mut(hash, key).filter(|seat| seat.owner.is_none())?;
        let next = std::iter::from_fn(|| seat.waiters.pop_front()).find(|waiter| !waiter.promise.is_abandoned());
        self.tidy(hash, key);
        next
    }

    pub(crate) fn seats(&self) -> impl Iterator<Item = &Seat> {
        self.seats.iter()
    }

    /// Everybody who waits for anything.
    pub(crate) fn take_waiters(&mut self) -> Vec<Waiter> {
        self.seats.iter_mut().flat_map(|seat| seat.waiters.drain(..)).collect()
    }
}

impl KeyHash {
    /// The whole hash, for tables of few entries.
    pub(crate) fn word(self) -> u64 {
        self.0
    }

    /// Which part of the index it belongs to.
    pub(crate) fn shard(self) -> u8 {
        self.0.to_be_bytes()[0]
    }

    #[expect(clippy::cast_possible_truncation, reason = "the low half is what a slot keeps")]
    fn tag(self) -> u32 {
        self.0 as u32
    }
}

impl Slot {
    #[expect(clippy::cast_possible_truncation, reason = "both halves are kept")]
    fn new(hash: KeyHash, place: Place) -> Self {
        let number = place.word();
        Self { tag: hash.tag(), number: [(number >> 32) as u32, number as u32] }
    }

    fn place(&self) -> Place {
        let [high, low] = self.number;
        Place::from_word(u64::from(high) << 32 | u64::from(low))
    }

    fn spread(&self) -> u64 {
        spread(self.tag)
    }
}

/// The hash that a table sorts a tag by: its own bits, spread over the word (Fibonacci hashing).
fn spread(tag: u32) -> u64 {
    u64::from(tag).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

// The bound that the crate's documentation states: a table is never less full than half of 7/8 after it grew.
const _: () = assert!((size_of::<Slot>() + 1) * 16 / 7 <= 32);

#[cfg(test)]
mod tests {
    use super::super::place::NUMBER_MAX;
    use super::*;
    use crate::pending::promise;
    use crate::record::transitions::Command;

    /// All under one hash, so that its part takes some of them in before the end.
    #[test]
    fn p1_all_that_is_found_stands_in_the_index_once_it_is_settled() {
        let index = Index::new(0, 1);
        let hash = index.hash(&Key::new("scope", "key").unwrap());
        let many = 2 * FOUND_AT_ONCE as u64 + 7;
        let place = |number| if number % 5 == 0 { Place::Tombstone(number) } else { Place::Log(number) };
        (0..many).for_each(|number| index.found(hash, place(number)));
        assert_eq!(index.operations(), 2 * FOUND_AT_ONCE as u64);
        index.settle();
        let mut found: Vec<_> = index.shard(hash).places(hash).collect();
        found.sort_by_key(|place| place.number());
        assert_eq!(found, (0..many).map(place).collect::<Vec<_>>());
        assert_eq!((index.operations(), index.tombstones()), (many, many.div_ceil(5)));
    }

    fn key(n: u64) -> Key {
        Key::new("scope", n.to_string()).unwrap()
    }

    #[test]
    fn a_kept_operation_takes_32_bytes_of_index_at_most() {
        let index = Index::new(u64::MAX, 16);
        for n in 0..300_000 {
            index.replace(index.hash(&key(n)), None, Some(Place::Log(n)));
            if n % 5_000 == 4_999 && n > 50_000 {
                let bytes = index.bytes() as u64;
                assert!(bytes <= 32 * (n + 1), "{bytes} bytes for {} operations", n + 1);
            }
        }
    }

    #[test]
    fn every_place_comes_back_and_goes_when_it_is_removed() {
        let index = Index::new(u64::MAX, 16);
        for n in 0..10_000 {
            let place = if n % 2 == 0 { Place::Log(n) } else { Place::Tombstone(NUMBER_MAX - n) };
            index.replace(index.hash(&key(n)), None, Some(place));
        }
        for n in 0..10_000 {
            let hash = index.hash(&key(n));
            let place = if n % 2 == 0 { Place::Log(n) } else { Place::Tombstone(NUMBER_MAX - n) };
            assert!(index.shard(hash).places(hash).any(|found| found == place));
            index.replace(hash, Some(place), None);
            assert!(!index.shard(hash).places(hash).any(|found| found == place));
        }
        assert_eq!(index.operations(), 0);
    }

    #[test]
    fn memory_is_given_back_when_most_is_gone() {
        let index = Index::new(u64::MAX, 16);
        for n in 0..300_000 {
            index.replace(index.hash(&key(n)), None, Some(Place::Log(n)));
        }
        let full = index.bytes();
        for n in 10_000..300_000 {
            index.replace(index.hash(&key(n)), Some(Place::Log(n)), None);
        }
        assert!(index.bytes() * 3 < full, "{} of {full}", index.bytes());
        for n in 0..10_000 {
            let hash = index.hash(&key(n));
            assert!(index.shard(hash).places(hash).any(|found| found == Place::Log(n)));
        }
    }

    #[test]
    fn p9_two_keys_of_one_hash_keep_a_place_each() {
        let index = Index::new(u64::MAX, 16);
        let hash = index.hash(&key(1));
        index.replace(hash, None, Some(Place::Log(1)));
        index.replace(hash, None, Some(Place::Log(2)));
        index.replace(hash, Some(Place::Log(1)), Some(Place::Log(3)));
        let mut places: Vec<_> = index.shard(hash).places(hash).collect();
        places.sort_unstable();
        assert_eq!(places, [Place::Log(2), Place::Log(3)]);
    }

    /// A server sees millions of keys: nothing may stay of one that nobody owns or waits for.
    #[test]
    fn no_seat_is_kept_that_nobody_needs() {
        let index = Index::new(u64::MAX, 16);
        let (key, hash) = (key(1), index.hash(&key(1)));
        let (at, fingerprint) = (Timestamp::from_millis(1), Fingerprint::of("request"));
        let owner = Owner { token: 7, attempt: 1, since: at, moved: at, born: 7, fingerprint };
        let report = Report::new(Command::Forget);
        let mut shard = index.shard(hash);
        for (left, is_kept) in [(Vec::new(), false), (vec![report.clone()], true)] {
            assert!(shard.seat(hash, &key, owner, None).is_empty());
            assert!(shard.unseat(hash, &key, 8, Vec::new).is_none() && shard.owner(hash, &key).is_some());
            assert!(shard.unseat(hash, &key, 7, || left).is_none() && shard.owner(hash, &key).is_none());
            assert_eq!(shard.seats().count() == 1, is_kept, "as long as the writer has not taken in what it left");
        }
        // Whoever enters meanwhile leaves it there, and what it leaves itself beside it.
        let other = Report::new(Command::Look);
        assert!(shard.seat(hash, &key, owner, None).is_empty());
        shard.forget_taken_in(hash, &key);
        assert_eq!(shard.seated(hash, &key).1.len(), 1);
        assert!(shard.unseat(hash, &key, 7, || vec![other.clone()]).is_none());
        assert_eq!(shard.seated(hash, &key).1.len(), 2);
        report.take_in();
        assert!(shard.seated(hash, &key).1.iter().all(|left| left.is(&other)));
        shard.forget_taken_in(hash, &key);
        assert_eq!(shard.seats().count(), 1);
        // Who is next in line is looked for when the run's turn ends, whatever came of its reports meanwhile.
        other.take_in();
        assert!(shard.next_of_unowned(hash, &key).is_none());
        assert_eq!(shard.seats().count(), 0);
        // One that lost its operation leaves what it reported too.
        assert!(shard.unseat(hash, &key, 9, || vec![Report::new(Command::Look)]).is_none());
        assert_eq!(shard.seated(hash, &key).1.len(), 1);
    }

    /// Clients that wait a while and come again would else fill the memory as long as one run lives.
    #[test]
    fn who_gave_up_does_not_stay_in_a_line_that_others_join() {
        let index = Index::new(u64::MAX, 16);
        let (key, hash) = (key(1), index.hash(&key(1)));
        let (at, fingerprint) = (Timestamp::from_millis(1), Fingerprint::of("request"));
        let owner = Owner { token: 7, attempt: 1, since: at, moved: at, born: 7, fingerprint };
        let mut shard = index.shard(hash);
        assert!(shard.seat(hash, &key, owner, None).is_empty());
        let mut join = || {
            let ask = Ask { fingerprint: Some(fingerprint), request: None, deferred: false };
            let (promise, answer) = promise();
            assert!(shard.park(hash, &key, Waiter { ask, promise }).is_ok());
            answer
        };
        let mut waits: Vec<_> = (0..3).map(|_| join()).collect();
        (0..10_000).for_each(|_| drop(join()));
        waits.extend((0..3).map(|_| join()));
        let waiters = &shard.seats().next().unwrap().waiters;
        assert!(waiters.len() < 100, "{} stand in the line", waiters.len());
        assert_eq!(waiters.iter().filter(|waiter| !waiter.promise.is_abandoned()).count(), waits.len());
    }
}
