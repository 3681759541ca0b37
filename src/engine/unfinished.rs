//! What nobody has finished: listed, and counted, without reading a row.
//!
//! Invariant: what stands here is durable, as in the index, and every unfinished operation does.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;

use super::place::Place;
use crate::clock::Timestamp;
use crate::record::Record;

/// An unfinished operation, as far as it is counted and listed without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Open {
    pub(crate) place: Place,
    pub(crate) tally: Tally,
}

/// Every unfinished operation by the number it was born under, in that order, and how many are what.
#[derive(Debug)]
pub(crate) struct Opens {
    by_birth: BTreeMap<u64, Open>,
    /// How many of them were first claimed at which moment: what was imported is older than its birth here says.
    by_claim: BTreeMap<Timestamp, u32>,
    /// After how many runs an operation is stuck.
    attempts_max: u32,
    in_doubt: u64,
    tried_enough: u64,
}

impl Opens {
    pub(super) fn new(attempts_max: u32) -> Self {
        let (by_birth, by_claim) = (BTreeMap::new(), BTreeMap::new());
        Self { by_birth, by_claim, attempts_max, in_doubt: 0, tried_enough: 0 }
    }

    pub(crate) fn insert(&mut self, born: u64, open: Open) {
        self.in_doubt += u64::from(open.tally.is_in_doubt);
        self.tried_enough += u64::from(open.tally.tries >= self.attempts_max);
        *self.by_claim.entry(open.tally.since).or_default() += 1;
        if let Some(before) = self.by_birth.insert(born, open) {
            self.discount(before.tally);
        }
    }

    pub(crate) fn remove(&mut self, born: u64) {
        if let Some(open) = self.by_birth.remove(&born) {
            self.discount(open.tally);
        }
    }

    fn discount(&mut self, tally: Tally) {
        self.in_doubt -= u64::from(tally.is_in_doubt);
        self.tried_enough -= u64::from(tally.tries >= self.attempts_max);
        if let Entry::Occupied(mut claimed) = self.by_claim.entry(tally.since) {
            match claimed.get_mut() {
                1 => drop(claimed.remove()),
                many => *many -= 1,
            }
        }
    }

    pub(crate) fn get(&self, born: u64) -> Option<Open> {
        self.by_birth.get(&born).copied()
    }

    /// Those born after this number.
    pub(crate) fn after(&self, born: u64) -> impl Iterator<Item = (u64, Open)> {
        let range = (Bound::Excluded(born), Bound::Unbounded);
        self.by_birth.range(range).map(|(born, open)| (*born, *open))
    }

    pub(crate) fn len(&self) -> u64 {
        self.by_birth.len() as u64
    }

    /// How many have a step in doubt.
    pub(crate) fn in_doubt(&self) -> u64 {
        self.in_doubt
    }

    /// How many have had so many runs that they are stuck, where none is at work.
    pub(crate) fn tried_enough(&self) -> u64 {
        self.tried_enough
    }

    /// Whether this one has.
    pub(crate) fn is_tried_enough(&self, born: u64) -> bool {
        self.by_birth.get(&born).is_some_and(|open| open.tally.tries >= self.attempts_max)
    }

    /// When the oldest was first claimed.
    pub(crate) fn oldest_since(&self) -> Option<Timestamp> {
        self.by_claim.first_key_value().map(|(since, _)| *since)
    }
}

/// What is counted of an unfinished operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    /// When it was claimed for the first time.
    pub(crate) since: Timestamp,
    /// How many runs count towards its being stuck.
    pub(crate) tries: u32,
    pub(crate) is_in_doubt: bool,
}

impl Tally {
    /// None where the operation is not unfinished.
    pub(crate) fn of(record: &Record) -> Option<Self> {
        let is_in_doubt = || record.steps.iter().any(crate::record::Step::is_in_doubt);
        let tally = || Self { since: record.since, tries: record.tries(), is_in_doubt: is_in_doubt() };
        record.is_unfinished().then(tally)
    }
}
