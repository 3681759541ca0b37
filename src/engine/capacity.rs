//! How much is kept, and how much may be: in all, and under each scope.
//!
//! Invariants:
//! 1. The ledger counts what is durable. A batch counts what it does in a draft of its own, which is published with it,
//!    so a batch that fails leaves nothing to take back.
//! 2. Only what begins an operation is refused for what is kept already. What has begun goes on, and nothing is removed
//!    to make room (P6).
//! 3. A scope is counted under its full name, where scopes are counted at all, and what is kept under one refuses
//!    nothing under another (P9).

use std::hash::RandomState;

use hashbrown::HashMap;

use crate::error::{Error, ErrorKind};
use crate::key::Key;
use crate::record::Record;
use crate::record::format::size;
use crate::sync::{AtomicU64, Mutex, Ordering};

/// Scopes that the ledger keeps room for, however few there are.
const SCOPES_KEPT: usize = 1024;

/// What is kept under each scope.
pub(crate) type Scopes = HashMap<String, Kept, RandomState>;

/// How much may be kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Capacity {
    pub(crate) all: Most,
    /// Under each scope.
    pub(crate) scope: Most,
}

/// How much may be kept at most; none where nothing limits it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Most {
    pub(crate) operations: Option<u64>,
    pub(crate) bytes: Option<u64>,
    pub(crate) unfinished: Option<u64>,
}

/// How much is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Tombstones among them, and what is expired and not removed yet.
    pub(crate) operations: u64,
    /// Of their rows, those of large payloads too.
    pub(crate) bytes: u64,
    pub(crate) unfinished: u64,
}

/// What is kept, as it stands on disk.
#[derive(Debug)]
pub(crate) struct Ledger {
    capacity: Capacity,
    all: [AtomicU64; 3],
    /// Those under which anything is kept; empty where they have no limit of their own.
    scopes: Mutex<Scopes>,
}

/// What a batch makes of the ledger: as much of it as the batch touched.
#[derive(Debug, Clone, Default)]
pub(crate) struct Draft {
    all: Kept,
    scopes: Scopes,
}

impl Kept {
    pub(crate) fn of(record: &Record) -> Self {
        Self { operations: 1, bytes: size::bytes(record), unfinished: u64::from(record.is_unfinished()) }
    }

    pub(crate) fn of_all<'a>(records: impl Iterator<Item = &'a Record>) -> Self {
        records.fold(Self::default(), |kept, record| kept.add(Self::of(record)))
    }

    /// What an operation takes that begins.
    pub(crate) fn begun(key: &Key, request: Option<&[u8]>) -> Self {
        Self { operations: 1, bytes: size::begun(key, request), unfinished: 1 }
    }

    pub(crate) fn add(self, other: Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    fn remove(self, other: Self) -> Self {
        self.with(other, u64::saturating_sub)
    }

    fn with(self, other: Self, with: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            operations: with(self.operations, other.operations),
            bytes: with(self.bytes, other.bytes),
            unfinished: with(self.unfinished, other.unfinished),
        }
    }
}

impl Most {
    fn is_limit(self) -> bool {
        self.operations.or(self.bytes).or(self.unfinished).is_some()
    }

    /// What is exceeded where this much would be kept: how much may be, of what, and the setting that says so.
    fn exceeded_by(self, kept: Kept) -> Option<(u64, &'static str, &'static str)> {
        let exceeded = |most: Option<u64>, kept| most.filter(|most| kept > *most);
        let operations = exceeded(self.operations, kept.operations).map(|most| (most, "operations", "operations_max"));
        let unfinished = exceeded(self.unfinished, kept.unfinished);
        let unfinished = unfinished.map(|most| (most, "unfinished operations", "unfinished_max"));
        let bytes = exceeded(self.bytes, kept.bytes).map(|most| (most, "bytes", "bytes_max"));
        operations.or(unfinished).or(bytes)
    }
}

impl Ledger {
    pub(crate) fn new(capacity: Capacity) -> Self {
        Self { capacity, all: Default::default(), scopes: Mutex::default() }
    }

    /// Whether scopes are counted.
    pub(crate) fn counts_scopes(&self) -> bool {
        self.capacity.scope.is_limit()
    }

    /// Counts records that were found when the store was opened: on any thread, beside others.
    pub(crate) fn found<'a>(&self, records: impl Iterator<Item = &'a Record> + Clone) {
        let mut scopes = self.scopes.lock();
        self.set_all(self.all().add(Kept::of_all(records.clone())));
        for record in records.filter(|_| self.counts_scopes()) {
            let scope = scopes.entry_ref(record.key.scope()).or_default();
            *scope = scope.add(Kept::of(record));
        }
    }

    /// A draft in which nothing has changed yet.
    pub(crate) fn draft(&self) -> Draft {
        Draft { all: self.all(), scopes: Scopes::default() }
    }

    /// Publishes what a batch made of it.
    pub(crate) fn publish(&self, draft: Draft) {
        self.set_all(draft.all);
        if draft.scopes.is_empty() {
            return;
        }
        let mut scopes = self.scopes.lock();
        for (scope, kept) in draft.scopes {
            match kept {
                Kept { operations: 0, .. } => scopes.remove(&scope),
                _ => scopes.insert(scope, kept),
            };
        }
        if scopes.capacity() > SCOPES_KEPT && scopes.len() < scopes.capacity() / 8 {
            let most = 2 * scopes.len();
            scopes.shrink_to(most);
        }
    }

    /// What is kept in all.
    pub(crate) fn all(&self) -> Kept {
        let [operations, bytes, unfinished] = self.all.each_ref().map(|figure| figure.load(Ordering::Relaxed));
        Kept { operations, bytes, unfinished }
    }

    /// Whether this is what is counted under each scope, and nothing under any other.
    pub(crate) fn is_as_counted(&self, counted: &Scopes) -> bool {
        let scopes = self.scopes.lock();
        scopes.len() == counted.len() && counted.iter().all(|(scope, kept)| scopes.get(scope) == Some(kept))
    }

    /// Memory that counting scopes takes, beside their names.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.scopes.lock().allocation_size()
    }

    fn set_all(&self, all: Kept) {
        for (figure, kept) in self.all.iter().zip([all.operations, all.bytes, all.unfinished]) {
            figure.store(kept, Ordering::Relaxed);
        }
    }

    fn scope(&self, key: &Key) -> Kept {
        self.scopes.lock().get(key.scope()).copied().unwrap_or_default()
    }
}

impl Draft {
    /// Counts that a record of a key takes the place of another.
    pub(crate) fn replace(&mut self, ledger: &Ledger, key: &Key, before: Kept, after: Kept) {
        self.all = self.all.remove(before).add(after);
        if ledger.counts_scopes() {
            let scope = self.scope(ledger, key);
            *scope = scope.remove(before).add(after);
        }
    }

    /// Why an operation of this size may not begin in the place of what its key has.
    pub(crate) fn refusal(&mut self, ledger: &Ledger, key: &Key, before: Kept, begun: Kept) -> Option<Error> {
        let all = self.all.remove(before).add(begun);
        let scope = if ledger.counts_scopes() { self.scope(ledger, key).remove(before).add(begun) } else { begun };
        ledger.capacity.refusal(all, scope)
    }

    fn scope(&mut self, ledger: &Ledger, key: &Key) -> &mut Kept {
        self.scopes.entry_ref(key.scope()).or_insert_with(|| ledger.scope(key))
    }
}

impl Capacity {
    /// Why so much may not be kept. It tells of the store and of this scope alone.
    fn refusal(self, all: Kept, scope: Kept) -> Option<Error> {
        let scope = self.scope.exceeded_by(scope).map(|exceeded| ("the scope", "scope_", exceeded));
        let (whose, prefix, (most, what, setting)) =
            scope.or_else(|| self.all.exceeded_by(all).map(|exceeded| ("the store", "", exceeded)))?;
        let message = format!(
            "{whose} would keep more than the {most} {what} that it may; nothing was begun: wait for retention or for \
             what is unfinished to end, forget some, or raise `{prefix}{setting}`"
        );
        Some(Error::new(ErrorKind::Capacity, message))
    }
}

// The bound that the documentation states: a table is never less full than half of 7/8 after it grew.
const _: () = assert!((size_of::<(String, Kept)>() + 1) * 16 / 7 <= 112);

#[cfg(test)]
mod tests {
    use super::*;

    fn key(nth: u64) -> Key {
        Key::new(format!("scope {nth}"), "key").unwrap()
    }

    /// Publishes, for each of these scopes, that it has so many operations more or fewer.
    fn publish(ledger: &Ledger, scopes: std::ops::Range<u64>, before: u64, after: u64) {
        let [before, after] = [before, after].map(|operations| Kept { operations, ..Kept::default() });
        let mut draft = ledger.draft();
        scopes.for_each(|nth| draft.replace(ledger, &key(nth), before, after));
        ledger.publish(draft);
    }

    #[test]
    fn memory_of_scopes_is_given_back_when_most_of_many_are_gone_and_of_few_never() {
        let scope = Most { operations: Some(1), ..Most::default() };
        let ledger = Ledger::new(Capacity { all: Most::default(), scope });
        publish(&ledger, 0..400, 0, 1);
        let few = ledger.memory_bytes();
        publish(&ledger, 1..400, 1, 0);
        assert_eq!(ledger.memory_bytes(), few, "a table of few keeps its room");
        publish(&ledger, 1..30_000, 0, 1);
        let full = ledger.memory_bytes();
        publish(&ledger, 10_000..30_000, 1, 0);
        assert_eq!(ledger.memory_bytes(), full, "a third of them is left");
        publish(&ledger, 1_000..10_000, 1, 0);
        let left = ledger.memory_bytes();
        assert!(left * 8 <= full && left >= 1_000 * (size_of::<(String, Kept)>() + 1), "{left} of {full}");
        for nth in [0, 999] {
            assert_eq!(ledger.scope(&key(nth)).operations, 1);
        }
        assert_eq!((ledger.scope(&key(1_000)).operations, ledger.all().operations), (0, 1_000));
    }
}
