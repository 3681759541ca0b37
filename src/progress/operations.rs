//! Everything that is kept, finished or not, for those who look for something.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::{Progress, State};
use crate::clock::Timestamp;
use crate::engine::{Engine, Order, Page, Place, Seen};
use crate::error::Result;
use crate::record::{Phase, Record, Step};

/// Every operation that is kept, tombstones too, in the order in which they changed last; read in pages as it is
/// iterated, so that it holds up nobody, however many there are.
///
/// Newest first unless it is told otherwise. A damaged record is an error in its place, and the next ones follow. What
/// changes while it is iterated moves to the newest end, or among the tombstones, and so may come twice or be left out;
/// oldest first, only what becomes a tombstone is left out within one list. An export is of one moment. Where only what
/// is unfinished is asked for, [`unfinished`](crate::Store::unfinished) finds it without reading the rest.
///
/// ```
/// use reentry::{Claim, Fingerprint, Key, State, Store};
///
/// let store = Store::builder().in_memory()?;
/// for nth in ["1", "2", "3"] {
///     let key = Key::new("orders", nth)?;
///     if let Claim::Run(run) = store.claim(&key, Fingerprint::of("two pizzas")).wait()? {
///         run.complete(&"receipt".to_owned()).wait()?;
///     }
/// }
/// let mut list = store.operations().of_scope("orders").in_state(State::Succeeded).rows_max(10_000);
/// let page: Vec<_> = list.by_ref().take(2).collect::<Result<_, _>>()?;
/// assert_eq!(page.iter().map(|it| it.key().key()).collect::<Vec<_>>(), ["3", "2"]);
/// let next = list.cursor().map(|cursor| cursor.get()); // a number, for the link to the next page
/// # let next = reentry::Cursor::from_number(next.unwrap_or_default());
/// assert_eq!(store.operations().after(next).count(), 1);
/// # Ok::<(), reentry::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "nothing is read until it is iterated"]
pub struct Operations {
    engine: Arc<Engine>,
    wanted: Wanted,
    order: Order,
    /// The place of what was given last.
    given: Place,
    /// What ended, and what is unfinished: given as one, in the order of their numbers.
    lists: [List; 2],
    /// Oldest first, up to where all that ended was read while what is unfinished is not yet: what ends meanwhile comes
    /// behind it.
    ended: Option<Place>,
    /// Whether a page could not be read, which ended it before its end.
    is_broken_off: bool,
    /// When it was asked for.
    time: Timestamp,
    rows_left: u64,
}

/// One of the lists that are given as one.
#[derive(Debug)]
struct List {
    /// What was read and not given yet.
    page: VecDeque<(Place, Result<Seen>)>,
    /// When that was: what it tells of an expiry rests on it (P11).
    time: Timestamp,
    /// Behind which place the next page begins; none after the last.
    next: Option<Place>,
    /// A row of each is looked at, however few may be: else the same pages might come again and again.
    is_looked_at: bool,
}

impl List {
    fn behind(place: Option<Place>) -> Self {
        Self { page: VecDeque::new(), time: Timestamp::default(), next: place, is_looked_at: false }
    }

    /// Up to where nothing of it is left to be given, where that can only be told by reading on.
    fn waits_at(&self) -> Option<Place> {
        self.next.filter(|_| self.page.is_empty())
    }

    /// Where what it gives next stands.
    fn front(&self) -> Option<Place> {
        self.page.front().map(|(place, _)| *place)
    }
}

/// Which operations are asked for.
#[derive(Debug, Default)]
struct Wanted {
    scope: Option<Box<str>>,
    states: Vec<State>,
    checkpoint: Option<Box<str>>,
    is_in_doubt: bool,
    /// When they were first claimed: at this moment or before, and at this moment or after.
    until: Option<Timestamp>,
    from: Option<Timestamp>,
}

/// A place in the list of [`Operations`]. It stays right whatever comes and goes, over restarts too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cursor(u64);

impl Cursor {
    /// As a number, to hand to a page's next link.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// From the number it was handed out as. Any number is a cursor.
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }
}

impl Operations {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        let (wanted, order, time) = (Wanted::default(), Order::NewestFirst, engine.time());
        let (given, lists) = (order.start(), order.starts().map(|start| List::behind(Some(start))));
        Self { engine, wanted, order, given, lists, ended: None, is_broken_off: false, time, rows_left: u64::MAX }
    }

    /// What changed first comes first, behind all tombstones. Say it before [`after`](Self::after).
    pub fn oldest_first(mut self) -> Self {
        self.order = Order::OldestFirst;
        let start = self.order.start();
        self.behind(start)
    }

    /// Only the operations of this scope (P9).
    pub fn of_scope(mut self, scope: &str) -> Self {
        self.wanted.scope = Some(scope.into());
        self
    }

    /// Only what is in this state; said again, in that one too.
    pub fn in_state(mut self, state: State) -> Self {
        self.wanted.states.push(state);
        self
    }

    /// Only what stands at a checkpoint of this name.
    pub fn at_checkpoint(mut self, name: &str) -> Self {
        self.wanted.checkpoint = Some(name.into());
        self
    }

    /// Only what is unfinished and has a step in doubt (P4).
    pub fn in_doubt(mut self) -> Self {
        self.wanted.is_in_doubt = true;
        self
    }

    /// Only operations that were first claimed this long ago or longer (P11).
    pub fn older_than(mut self, age: Duration) -> Self {
        self.wanted.until = Some(before(self.time, age));
        self
    }

    /// Only operations that were first claimed this long ago or later (P11).
    pub fn younger_than(mut self, age: Duration) -> Self {
        self.wanted.from = Some(before(self.time, age));
        self
    }

    /// Only what stands behind this [`cursor`](Self::cursor), in the same order: how a page goes on where the last one
    /// ended.
    pub fn after(self, cursor: Cursor) -> Self {
        self.behind(Place::from_word(cursor.0))
    }

    fn behind(mut self, place: Place) -> Self {
        self.given = place;
        self.lists = self.order.behind(place).map(List::behind);
        (self.ended, self.is_broken_off) = (None, false);
        self
    }

    /// Looks at no more than about so many operations, asked for or not: a page that answers soon even where nothing is
    /// found. When that ends it, [`cursor`](Self::cursor) tells where to go on.
    pub fn rows_max(mut self, rows: u64) -> Self {
        self.rows_left = rows;
        self
    }

    /// Where it goes on, behind an error that ended it too; none where it has come to its end.
    pub fn cursor(&self) -> Option<Cursor> {
        let place = match (self.waits_at(), self.front()) {
            (Some(waits_at), front) if front.is_none_or(|front| self.order.is_before(waits_at, front)) => {
                if self.order.is_before(waits_at, self.given) { self.given } else { waits_at }
            }
            (None, None) => return None,
            _ => self.given,
        };
        Some(Cursor(place.word()))
    }

    /// Up to where nothing is left to be given, where a list must be read on to tell what follows.
    fn waits_at(&self) -> Option<Place> {
        self.order.first(self.lists.iter().filter_map(List::waits_at))
    }

    /// Where what comes next stands, of what was read.
    fn front(&self) -> Option<Place> {
        self.order.first(self.lists.iter().filter_map(List::front))
    }

    /// Takes what comes next, where that is known, with the moment at which it was read.
    fn take(&mut self) -> Option<(Place, Result<Seen>, Timestamp)> {
        let front = self.front()?;
        if self.waits_at().is_some_and(|waits_at| self.order.is_before(waits_at, front)) {
            return None;
        }
        let list = self.lists.iter_mut().find(|list| list.front() == Some(front))?;
        list.page.pop_front().map(|(place, seen)| (place, seen, list.time))
    }

    /// Reads the next page of the list that waits for it first. Returns whether there was one.
    fn read(&mut self) -> Result<bool> {
        let waits_at = self.waits_at();
        let Some(list) = self.lists.iter_mut().find(|list| waits_at.is_some() && list.waits_at() == waits_at) else {
            return Ok(false);
        };
        let rows_max = self.rows_left.max((!list.is_looked_at).into());
        let Some(behind) = waits_at.filter(|_| rows_max > 0) else { return Ok(false) };
        let wanted = |record: &Record| self.wanted.is_record(record);
        let (page, time) = self.engine.operations(behind, self.order, rows_max, wanted)?;
        let Page { found, after, looked } = page;
        let newest = found.last().map_or(Some(behind), |(place, row)| row.is_ok().then_some(*place));
        *list = List { page: found.into(), time, next: after, is_looked_at: true };
        self.rows_left = self.rows_left.saturating_sub(looked);
        self.look_again_behind(newest);
        Ok(true)
    }

    /// Oldest first, what ends moves from the list of what is unfinished to the end of the other. Where that end was
    /// read first, up to `newest`, what is behind that is read once more.
    fn look_again_behind(&mut self, newest: Option<Place>) {
        let [of_ended, unfinished] = &mut self.lists;
        match (of_ended.next, unfinished.next) {
            (None, Some(_)) if self.order == Order::OldestFirst && self.ended.is_none() => {
                self.ended = newest.filter(|place| matches!(place, Place::Log(_)));
            }
            (None, None) => of_ended.next = self.ended.take(),
            _ => {}
        }
    }
}

impl Iterator for Operations {
    type Item = Result<Progress>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.is_broken_off {
            while let Some((place, seen, time)) = self.take() {
                self.given = place;
                let progress = seen.map(|seen| Progress::new(seen, time, self.engine.policy()));
                if progress.as_ref().map_or(true, |progress| self.wanted.is_progress(progress)) {
                    return Some(progress);
                }
            }
            match self.read() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    self.is_broken_off = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

impl Wanted {
    /// Whether the record may be one that is asked for. What it shows depends on more.
    fn is_record(&self, record: &Record) -> bool {
        let is_phase = |state: &State| match record.phase {
            Phase::Unfinished => matches!(state, State::Owned | State::Unfinished | State::Stuck),
            Phase::Completed { .. } => matches!(state, State::Succeeded | State::Failed | State::Gone),
            Phase::Tombstone { .. } => *state == State::Gone,
        };
        let is_at = |name: &str| record.checkpoint.as_ref().is_some_and(|checkpoint| &*checkpoint.name == name);
        self.scope.as_deref().is_none_or(|scope| scope == record.key.scope())
            && (self.states.is_empty() || self.states.iter().any(is_phase))
            && self.checkpoint.as_deref().is_none_or(is_at)
            && (!self.is_in_doubt || record.is_unfinished() && record.steps.iter().any(Step::is_in_doubt))
            && self.until.is_none_or(|until| record.since <= until)
            && self.from.is_none_or(|from| record.since >= from)
    }

    /// Whether it is: an outcome that is over, removed or not, shows no checkpoint; and what is shown may be younger
    /// than the record that was looked at.
    fn is_progress(&self, progress: &Progress) -> bool {
        let is_at = |name: &str| progress.checkpoint().is_some_and(|checkpoint| checkpoint.name() == name);
        let is_in_doubt = || progress.ended_at().is_none() && progress.in_doubt().next().is_some();
        (self.states.is_empty() || self.states.contains(&progress.state()))
            && self.checkpoint.as_deref().is_none_or(is_at)
            && (!self.is_in_doubt || is_in_doubt())
    }
}

/// The moment so long before `time`. What was claimed before the epoch is claimed at it.
pub(super) fn before(time: Timestamp, age: Duration) -> Timestamp {
    let earlier = u64::try_from(age.as_millis()).ok().and_then(|age| time.as_millis().checked_sub(age));
    Timestamp::from_millis(earlier.unwrap_or(0))
}
