//! The one thread that changes anything: takes the whole queue, decides, commits once, publishes, answers.
//!
//! Invariants:
//! 1. While a commit syncs the next batch gathers: no timer, no delay.
//! 2. After a failed sync, or a fault that is not a full disk, nothing more is acknowledged (P10).
//! 3. After a full disk redb is closed and opened anew, and the tail tells whether the last batch is there; until then
//!    nothing is acknowledged (P10).
//! 4. A panic is a failed store, not a hang.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::batch::{Batch, Numbers, Stop};
use super::capacity::Draft;
use super::disk::Fault;
use super::done::{Done, Move, publish_moves, row_left};
use super::meta::Meta;
use super::place::{NUMBER_MAX, Place};
use super::queue::{Shut, Taken};
use super::request::Request;
use super::retention::Retention;
use super::tables::Tables;
use crate::clock::Now;
use crate::error::{Error, ErrorKind, Result};
use crate::pending::caught;
use crate::record::transitions::has_lapsed;
use crate::sync::{Instant, Ordering};

/// How long the writer sleeps at least and at most where nobody asks for anything.
const IDLE_MIN: Duration = Duration::from_secs(1);
const IDLE_MAX: Duration = Duration::from_secs(60 * 60);

/// How long a full disk is left alone, at first and at most.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// How often the writer looks for owners that have lapsed, at most and at least, where there is a lease.
const LAPSED_MIN: Duration = Duration::from_millis(10);
const LAPSED_MAX: Duration = Duration::from_secs(1);

/// How many numbers are reserved ahead, for claims that are not written at once.
const RESERVE: u64 = 1 << 16;

/// How many times as long as opening the file anew took it is left alone after that.
const REOPEN_SHARE: u32 = 4;

#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    meta: Meta,
    numbers: Numbers,
    retention: Retention,
    full: Option<Full>,
    /// When it looks again for owners that have lapsed; counts where there is a lease.
    lapsed_at: Instant,
    /// Whether a test decides when it works, so that nothing is left for later.
    is_by_hand: bool,
}

/// A full disk, until a batch succeeds again.
#[derive(Debug)]
struct Full {
    backoff: Duration,
    until: Instant,
    /// Whether redb could not be opened anew yet.
    is_closed: bool,
    /// What the last batch did, where nobody knows yet whether that is on disk.
    in_doubt: Option<(Vec<Move>, Draft)>,
}

/// Where a batch failed.
enum Failure {
    /// Before its commit: nothing of it is on disk.
    Before(Error),
    /// In its commit or after: it may be on disk or not.
    In(Error),
    /// Before its commit, in the closure of the request at this place, which alone is to blame.
    Rows(usize, Error),
}

impl Failure {
    fn error(&self) -> &Error {
        match self {
            Self::Before(error) | Self::In(error) | Self::Rows(_, error) => error,
        }
    }

    fn into_error(self) -> Error {
        match self {
            Self::Before(error) | Self::In(error) | Self::Rows(_, error) => error,
        }
    }
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, meta: Meta) -> Self {
        // Until the first commit nothing is reserved: numbers may have been given that no row tells of.
        let numbers = Numbers { next: meta.next, reserved: 0 };
        let (lapsed_at, is_by_hand) = (Instant::now(), false);
        Self { shared, meta, numbers, retention: Retention::default(), full: None, lapsed_at, is_by_hand }
    }

    /// Reserves the first numbers, so that a claim can be deferred at once. A full disk refuses that and no more: until
    /// a batch succeeds no claim is deferred then.
    pub(super) fn reserve(&mut self) -> Result<()> {
        let (now, mut done) = (self.shared.timeline.now(), Done::default());
        match self.attempt(&mut [], now, &mut done) {
            Ok(_) => done.publish(&self.shared, &mut Vec::new(), now),
            Err(failure) if self.is_full(&failure) => {
                self.shared.log.reopen()?;
                // What retention removed may have landed all the same.
                if matches!(failure, Failure::In(_)) && landed(&self.shared, &done.moves)? {
                    publish_moves(&self.shared, &done.moves, done.draft);
                }
                self.shared.is_moving.store(false, Ordering::Release);
            }
            Err(failure) => return Err(failure.into_error()),
        }
        Ok(())
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Works until the queue is shut, then lets nobody wait any longer.
    pub(super) fn run(mut self) {
        let mut taken = Taken::default();
        loop {
            let turn = || {
                let patience = self.patience();
                self.turn(&mut taken, patience)
            };
            // Beside what `turn` catches itself, the server's clock may panic.
            let goes_on = caught(turn).unwrap_or_else(|| {
                self.shared.queue.shut(Shut::Failed);
                false
            });
            if !goes_on {
                break;
            }
        }
        self.end(taken);
    }

    /// Works when it is told to, and leaves nothing for later; on a thread of its own, when somebody waits for it.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn by_hand(self) -> Self {
        Self { is_by_hand: true, ..self }
    }

    /// Does one batch of all that is queued. Gives the writer back unless it has ended.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn work_by_hand(mut self: Box<Self>) -> Option<Box<Self>> {
        let mut taken = Taken::default();
        if self.turn(&mut taken, Duration::ZERO) {
            return Some(self);
        }
        self.end(taken);
        None
    }

    /// Gives so many numbers of those reserved to nobody.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn use_up_numbers(&mut self, count: u64) {
        self.numbers.next = self.numbers.next.saturating_add(count).min(self.numbers.reserved);
    }

    /// Takes what is queued, or waits for it for a while, and does it. Returns whether it goes on; where it does not,
    /// what it took is left to refuse.
    fn turn(&mut self, taken: &mut Taken, patience: Duration) -> bool {
        let shut = self.shared.queue.take(taken, patience);
        if shut == Some(Shut::Failed) || shut.is_some() && taken.requests.is_empty() {
            return false;
        }
        self.wake_lapsed();
        let mut batch = std::mem::take(&mut taken.requests);
        if catch_unwind(AssertUnwindSafe(|| self.work(&mut batch))).is_err() {
            // The promises of the batch broke with it: whoever waits for them knows that nobody knows.
            self.shared.queue.shut(Shut::Failed);
            self.shared.log.give_up();
            self.shared.keep_fault(&Error::new(ErrorKind::Failed, "the writer panicked; open the store anew"));
        }
        taken.requests = batch;
        taken.clear();
        true
    }

    /// The moment that is this much later.
    fn later(&self, span: Duration) -> Instant {
        if self.is_by_hand { Instant::now() } else { Instant::now() + span }
    }

    /// How long there is nothing to do, if nobody asks for anything.
    fn patience(&self) -> Duration {
        if self.is_by_hand {
            return IDLE_MIN;
        }
        let due = self.retention.due().since(self.shared.timeline.now().time);
        // A slice that did not reach the end goes on at once; single rows that fall due are gathered for a while.
        let patience = if due.is_zero() && self.full.is_none() { due } else { due.clamp(IDLE_MIN, IDLE_MAX) };
        // Those who only read wait for the file to be open again, and nothing they do would wake the writer.
        let patience = match &self.full {
            Some(full) if full.is_closed => patience.min(full.until.saturating_duration_since(Instant::now())),
            _ => patience,
        };
        match self.shared.policy.lease {
            Some(_) => patience.min(self.lapsed_at.saturating_duration_since(Instant::now())),
            None => patience,
        }
    }

    /// Where there is a lease, lets the next in line claim what its owner has let lapse.
    fn wake_lapsed(&mut self) {
        let (shared, policy) = (&self.shared, self.shared.policy);
        let Some(lease) = policy.lease else { return };
        if Instant::now() < self.lapsed_at {
            return;
        }
        let time = shared.timeline.now().time;
        let lapsed = |owner| has_lapsed(owner, time, policy);
        let mut next: Vec<_> = shared.index.shards().flat_map(|mut shard| shard.next_of_lapsed(lapsed)).collect();
        // The index is in an order of its own at every opening.
        next.sort_by(|(_, one, _), (_, other, _)| one.cmp(other));
        self.lapsed_at = self.later((lease / 4).clamp(LAPSED_MIN, LAPSED_MAX));
        for (hash, key, waiter) in next {
            shared.readmit(&key, hash, waiter);
        }
    }

    fn end(&mut self, taken: Taken) {
        let shut = self.shared.queue.is_shut().unwrap_or(Shut::Failed);
        // What came in after the queue was last taken and before it was shut; nothing comes after.
        let mut left = Taken::default();
        self.shared.queue.take(&mut left, Duration::ZERO);
        for mut taken in [taken, left] {
            taken.requests.drain(..).for_each(|request| request.refuse(shut.error()));
        }
        self.shared.ended.store(true, Ordering::Release);
        let waiters: Vec<_> = self.shared.index.shards().flat_map(|mut shard| shard.take_waiters()).collect();
        for waiter in waiters {
            waiter.promise.keep(Err(shut.error()));
        }
        if shut == Shut::Closed && self.full.is_none() {
            // Only saves a later restart from a clock turned back meanwhile, and from reading the journal; everything
            // told is durable already.
            let mut done = Done { tells_time: true, ..Done::default() };
            let last = catch_unwind(AssertUnwindSafe(|| {
                drop(self.attempt(&mut [], self.shared.timeline.now(), &mut done));
            }));
            if last.is_err() {
                self.shared.log.give_up();
            }
        }
    }

    /// Does one batch.
    fn work(&mut self, requests: &mut Vec<Request>) {
        let shared = Arc::clone(&self.shared);
        let _at_work = shared.at_work.lock();
        if requests.is_empty() && self.full.as_ref().is_some_and(|full| full.is_closed) {
            // It is tried again when its time has come; nobody is there to hear of it.
            drop(self.mend());
        }
        let now = self.shared.timeline.now();
        if requests.is_empty() && now.time < self.retention.due() {
            return;
        }
        if let Err(error) = self.mend() {
            requests.drain(..).for_each(|request| request.refuse(not_applied(&error)));
            return;
        }
        // What comes behind a request whose closure failed is a batch of its own, so that each is done twice at most.
        let mut behind = Vec::new();
        loop {
            let mut done = Done::default();
            match self.attempt(requests, now, &mut done) {
                Ok(is_durable) => {
                    // A batch that wrote nothing tells nothing of the disk.
                    if is_durable && self.full.take().is_some() {
                        self.shared.is_full.store(false, Ordering::Release);
                        self.shared.trace.mended();
                    }
                    done.publish(&self.shared, requests, now);
                }
                Err(Failure::Rows(nth, error)) => {
                    let mut failed = requests.split_off(nth.min(requests.len()));
                    if let Some(rows) = failed.first_mut().and_then(|request| request.rows.as_mut()) {
                        rows.failed = Some(error);
                    }
                    failed.append(&mut behind);
                    behind = failed;
                    if !requests.is_empty() {
                        continue;
                    }
                }
                Err(failure) => {
                    let is_full = self.is_full(&failure);
                    let refusal = if is_full { full } else { stopped };
                    behind.drain(..).for_each(|request: Request| request.refuse(refusal(failure.error())));
                    self.recover(failure, requests, done, now);
                }
            }
            if behind.is_empty() {
                return;
            }
            std::mem::swap(requests, &mut behind);
        }
    }

    /// Decides, writes and commits. What it did stands in `done`; where it failed, nothing of that is to be told.
    /// Returns whether there was anything to write.
    fn attempt(&mut self, requests: &mut [Request], now: Now, done: &mut Done) -> Result<bool, Failure> {
        let (span, retention) = (self.shared.trace.commit(requests.len()), self.retention);
        let attempted = span.within(|| self.attempt_within(requests, now, done));
        if attempted.is_err() {
            // What it removed stands there still.
            self.retention = retention;
        }
        attempted
    }

    fn attempt_within(&mut self, requests: &mut [Request], now: Now, done: &mut Done) -> Result<bool, Failure> {
        let shared = Arc::clone(&self.shared);
        let (numbers, began) = (self.numbers, Instant::now());
        // What was synced before, while the file was opened, is no commit's.
        shared.log.take_sync_time();
        shared.log.begin().map_err(Failure::Before)?;
        let mut tables = Tables::new(&shared.log);
        match self.fill(&mut tables, requests, now, done) {
            Ok(true) => {
                let prepared = shared.log.prepare(tables.into_parts()).map_err(Failure::Before)?;
                shared.is_moving.store(true, Ordering::Release);
                shared.log.commit(prepared).map_err(Failure::In)?;
            }
            Ok(false) => return tables.abort().map(|()| false).map_err(Failure::Before),
            // A closure that failed because the disk did is not to blame.
            Err(Stop::Rows(error)) if shared.log.fault().is_none() => {
                tables.abort().map_err(Failure::Before)?;
                self.numbers = numbers;
                return Err(Failure::Rows(done.told.len(), error));
            }
            Err(Stop::Fault(error) | Stop::Rows(error)) => return Err(Failure::Before(error)),
        }
        shared.log.check_name().map_err(Failure::In)?;
        self.numbers.reserved = self.numbers.reserved.max(self.meta.next);
        shared.durable_time.fetch_max(now.time.as_millis(), Ordering::AcqRel);
        shared.meter.commits.fetch_add(1, Ordering::Relaxed);
        shared.meter.changes.fetch_add(done.moves.len() as u64, Ordering::Relaxed);
        let (took, sync) = (began.elapsed(), shared.log.take_sync_time());
        if !requests.is_empty() {
            shared.meter.committed(requests.len(), took, sync);
        }
        shared.trace.committed(requests.len(), done.moves.len(), took, sync);
        Ok(true)
    }

    /// Decides, and gathers what is to be written. Returns whether that is anything.
    fn fill(
        &mut self,
        tables: &mut Tables<'_>,
        requests: &mut [Request],
        now: Now,
        done: &mut Done,
    ) -> Result<bool, Stop> {
        let shared = Arc::clone(&self.shared);
        let mut batch = Batch::new(&shared, tables, &mut self.numbers, now, done, requests.len());
        for request in requests {
            let told = batch.process(request)?;
            let moved = batch.done.moves.len();
            batch.done.told.push((told, moved));
        }
        batch.write_results()?;
        self.retention.sweep(&mut batch, shared.policy)?;
        let is_idle = batch.is_idle;
        let tells_time = done.tells_time && now.time.as_millis() > shared.durable_time.load(Ordering::Acquire);
        // A batch that leaves no row of its own keeps its time nowhere else. One that comes from an export may be of
        // another time.
        let leaves_nothing = done.is_change() && (done.adopts || row_left(&done.moves).is_none());
        let is_reserve_low = self.numbers.next.saturating_add(RESERVE / 2) > self.numbers.reserved;
        let reserves = is_reserve_low && (done.is_change() || self.numbers.reserved == 0);
        // Where nobody waits, redb takes in what is in the journal alone.
        let takes_in = is_idle && shared.log.is_journal_ahead();
        if tells_time || leaves_nothing || reserves || takes_in {
            let ahead = if reserves { RESERVE } else { 0 };
            self.meta.next = self.meta.next.max(self.numbers.next.saturating_add(ahead).min(NUMBER_MAX));
            self.meta.highest_time = self.meta.highest_time.max(now.time.as_millis());
            tables.put_meta(self.meta);
            return Ok(true);
        }
        Ok(done.is_change())
    }

    /// Whether it is a full disk alone that kept a batch from being done. Where a reader met it as redb was told what
    /// is durable, the error tells it.
    fn is_full(&self, failure: &Failure) -> bool {
        self.shared.log.fault().map_or(failure.error().kind() == ErrorKind::Full, Fault::is_full)
    }

    /// After a fault: tells everybody what is known, and goes on or stops for good.
    fn recover(&mut self, failure: Failure, requests: &mut Vec<Request>, done: Done, now: Now) {
        let is_full = self.is_full(&failure);
        let is_in_commit = matches!(failure, Failure::In(_));
        let error = failure.into_error();
        self.shared.keep_fault(&error);
        if !is_full {
            // A number that ran out or the like is no fault of the disk, and nothing of the batch is on it.
            if is_in_commit || self.shared.log.fault().is_some() || error.kind() != ErrorKind::Capacity {
                self.shared.queue.shut(Shut::Failed);
            }
            // A sync that found no room is no full disk either: nobody knows what it dropped.
            return requests.drain(..).for_each(|request| {
                let is_known = !is_in_commit || request.is_look();
                request.refuse(if is_known { stopped(&error) } else { unknown(&error) });
            });
        }
        let backoff = self.full.take().map_or(BACKOFF_MIN, |full| (full.backoff * 2).min(BACKOFF_MAX));
        let began = Instant::now();
        let reopened = self.shared.log.reopen();
        let backoff = left_alone(backoff, began.elapsed());
        // What was not committed is not there; what was may be, and the tail tells where it can be read.
        let landed = match reopened {
            _ if !is_in_commit => Some(false),
            Ok(()) => landed(&self.shared, &done.moves).ok(),
            Err(_) => None,
        };
        let in_doubt = landed.is_none().then(|| (done.moves.clone(), done.draft.clone()));
        let is_closed = reopened.is_err() || landed.is_none();
        self.stop_where_failed(reopened.as_ref().err());
        self.shared.is_full.store(true, Ordering::Release);
        self.full = Some(Full { backoff, until: self.later(backoff), is_closed, in_doubt });
        if landed == Some(true) {
            self.shared.meter.commits.fetch_add(1, Ordering::Relaxed);
            return done.publish(&self.shared, requests, now);
        }
        if landed.is_some() {
            self.shared.is_moving.store(false, Ordering::Release);
        }
        requests.drain(..).for_each(|request| {
            let is_known = landed.is_some() || request.is_look();
            let refusal = || reopened.as_ref().map_or_else(not_applied, |()| full(&error));
            request.refuse(if is_known { refusal() } else { unknown(&error) });
        });
    }

    /// Waits out a full disk, and opens redb anew where that is still to be done.
    fn mend(&mut self) -> Result<()> {
        let Some(mut full) = self.full.take() else { return Ok(()) };
        let mended = self.try_to_mend(&mut full);
        self.full = Some(full);
        self.stop_where_failed(mended.as_ref().err());
        mended
    }

    /// A fault that is not a full disk stops the store, while the file is opened anew too.
    fn stop_where_failed(&self, error: Option<&Error>) {
        if error.is_some_and(|error| error.kind() != ErrorKind::Full) {
            self.shared.queue.shut(Shut::Failed);
        }
    }

    fn try_to_mend(&self, full: &mut Full) -> Result<()> {
        if Instant::now() < full.until {
            return Err(Error::new(ErrorKind::Full, "the disk was full a moment ago"));
        }
        if full.is_closed {
            full.backoff = (full.backoff * 2).min(BACKOFF_MAX);
            full.until = self.later(full.backoff);
            self.shared.log.reopen()?;
            if let Some((moves, draft)) = &full.in_doubt
                && landed(&self.shared, moves)?
            {
                publish_moves(&self.shared, moves, draft.clone());
            }
            full.in_doubt = None;
            self.shared.is_moving.store(false, Ordering::Release);
            full.is_closed = false;
        }
        Ok(())
    }
}

/// Whether a batch of these moves is on disk: it is whole or not at all, so one place tells that it fills or empties. A
/// row that it made and removed again tells nothing. Of a batch without such a place nobody can tell whether the time
/// that its answers rest on is there; refusing it loses nothing.
fn landed(shared: &Shared, moves: &[Move]) -> Result<bool> {
    if let Some(left) = row_left(moves) {
        return shared.log.holds(left);
    }
    let was_there = |old: &Place| moves.iter().all(|other| other.new != Some(*old));
    match moves.iter().filter_map(|moved| moved.old).find(was_there) {
        Some(removed) => Ok(!shared.log.holds(removed)?),
        None => Ok(false),
    }
}

fn full(error: &Error) -> Error {
    Error::new(ErrorKind::Full, format!("refused and not applied, the disk is full; make room and try again: {error}"))
}

fn not_applied(error: &Error) -> Error {
    match error.kind() {
        ErrorKind::Full => full(error),
        _ => stopped(error),
    }
}

fn stopped(error: &Error) -> Error {
    match error.kind() {
        ErrorKind::Capacity => Error::new(ErrorKind::Capacity, error.to_string()),
        _ => Error::new(ErrorKind::Failed, format!("not applied, the store stopped; open it anew: {error}")),
    }
}

fn unknown(error: &Error) -> Error {
    let message = format!("nobody knows whether the change is on disk; open the store anew and claim again: {error}");
    Error::new(ErrorKind::OutcomeUnknown, message)
}

/// How long a full disk is left alone that it took so long to try. Opening a large file takes its time: most of it goes
/// to those who read meanwhile.
fn left_alone(backoff: Duration, took: Duration) -> Duration {
    backoff.max(took.saturating_mul(REOPEN_SHARE))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::super::mishap::{DiskCall, DiskFault};
    use super::super::simulated::SimulatedDisk;
    use super::super::verify::tests::{Named, engine};
    use super::*;
    use crate::key::{Fingerprint, Key};
    use crate::store::Store;

    /// A full disk is waited out, and what landed on it is told: but not of a file that nobody finds again.
    #[test]
    fn a_full_disk_is_left_alone_for_most_of_the_time_however_long_it_takes_to_try_it() {
        let seconds = Duration::from_secs;
        assert_eq!(left_alone(BACKOFF_MIN, seconds(20)), seconds(80));
        assert_eq!(left_alone(BACKOFF_MAX, Duration::from_millis(1)), BACKOFF_MAX);
    }

    #[test]
    fn p10_nothing_is_acknowledged_into_a_file_that_was_moved_away_while_the_disk_was_full() {
        let mut met = [0, 0];
        let ways = [0, 1 << 20].into_iter().flat_map(|written| (0..24).map(move |after| (written, after)));
        for (written, after) in ways {
            // Each batch is committed in full, so nothing is left to go wrong behind an answer.
            let disk = SimulatedDisk::new().with_journal(0);
            Store::builder().open_on(&disk).unwrap().close().unwrap();
            // Its file has another name once a call of it failed.
            let renamed = |disk: &SimulatedDisk| match disk.failed() {
                0 => Ok(()),
                _ => Err(io::ErrorKind::NotFound.into()),
            };
            let store = Store::builder().cache_bytes(0).open_disk(Arc::new(Named(disk.clone(), renamed))).unwrap();
            let full = DiskFault::kind(io::ErrorKind::StorageFull).on(DiskCall::GROWS);
            disk.fail([full.after(after).having_written(written)]);
            for nth in 0..9 {
                let claim = store.claim(&Key::new("scope", nth.to_string()).unwrap(), Fingerprint::of("r")).wait();
                if disk.failed() > 0 {
                    met[usize::from(written > 0)] += 1;
                    assert!(claim.is_err(), "{nth} was acknowledged");
                    break;
                }
                drop(claim.unwrap());
            }
        }
        assert!(met.iter().all(|met| *met > 9), "{met:?} faults came");
    }

    /// However long there was no room: whoever makes some finds the store at work again a moment later.
    #[test]
    fn p10_a_disk_that_was_full_for_long_is_left_alone_for_no_longer_than_at_most() {
        let mut writer = Writer::new(Arc::clone(&engine().shared), Meta::new([0; 16]));
        let now = writer.shared.timeline.now();
        for is_closed in [false; 9].into_iter().chain([true; 3]) {
            let began = Instant::now();
            let failure = Failure::Before(Error::new(ErrorKind::Full, "no room"));
            writer.recover(failure, &mut Vec::new(), Done::default(), now);
            if let Some(full) = &mut writer.full {
                (full.until, full.is_closed) = (began, is_closed);
            }
            writer.mend().unwrap();
            let backoff = writer.full.as_ref().unwrap().backoff;
            // It may be longer only where opening the file took long.
            assert!(backoff <= BACKOFF_MAX.max(began.elapsed() * REOPEN_SHARE), "{backoff:?}");
        }
        assert!(writer.full.unwrap().backoff >= BACKOFF_MAX, "it was doubled often enough");
    }
}
