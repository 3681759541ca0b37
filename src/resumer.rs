//! Finishing without the client: claims what nobody finished and nobody is at work on, and hands it to the server.
//!
//! Invariants:
//! 1. It enters an operation by a claim like any other, so at most one run lives (P1), a client's included.
//! 2. What is stuck is left alone until somebody releases it by hand (P6: it stays unfinished, and is never evicted).
//! 3. Its memory is bounded: it keeps a page of what it found, and one entry for each operation that failed lately.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::claim::Claim;
use crate::error::{Error, ErrorKind, Result, Source};
use crate::key::Key;
use crate::pending::{caught, may_block};
use crate::progress::{Position, State};
use crate::run::Run;
use crate::store::Store;
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Condvar, Instant, Mutex};

const CONCURRENCY: usize = 4;
const EVERY: Duration = Duration::from_secs(10);
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(5 * 60);

/// How soon a look that was broken off is taken again, at the earliest: a full disk may break off each of them.
const BROKEN_OFF_MIN: Duration = Duration::from_millis(100);

/// Operations that are found ahead of those that are run.
const FOUND_MAX: usize = 256;

type Function = dyn Fn(Run) -> Result<(), Source> + Send + Sync;
type OnFailure = dyn Fn(&Key, &(dyn std::error::Error + Send + Sync)) + Send + Sync;

/// Finishes what clients left unfinished: at start and from time to time it claims every operation that is unfinished
/// and free, oldest first, and hands its [`Run`] to the server's function.
///
/// The function goes on where the run before stopped, as a client's retry would: it reads the request that the claim
/// [carried](crate::Request::of) or the checkpoint, asks for the steps, and completes the run. What it does not
/// complete (it returns an error, panics, or drops the run) is tried again after a growing pause, until the operation
/// has had [`Builder::attempts_max`](crate::Builder::attempts_max) runs (a client or a second resumer in the same
/// moment can make it one more); then it is [stuck](State::Stuck): listed by [`Store::unfinished`], counted by
/// [`Store::stats`], left alone, and tried again once [`Store::release_stuck`] was called for it.
///
/// It runs on threads of its own. In an async server the function enters the runtime:
/// `let handle = tokio::runtime::Handle::current();` and `.start(move |run| handle.block_on(finish(run)))`.
///
/// ```
/// use reentry::{Claim, Fingerprint, Key, Request, Resumer, Run, Store};
///
/// fn cook(mut run: Run) -> Result<(), reentry::Error> {
///     let order = String::from_utf8_lossy(run.request().unwrap_or_default()).into_owned();
///     run.step("oven").run_at_most_once(|_| Ok::<_, reentry::Error>(()))?;
///     run.complete(&format!("{order}, baked")).wait()?;
///     Ok(())
/// }
///
/// let store = Store::builder().in_memory()?;
/// let key = Key::new("orders", "1")?;
/// drop(store.claim(&key, Request::of("two pizzas")).wait()?);     // a client came, and its handler died
/// let resumer = Resumer::builder(&store).start(cook)?;
/// # let mut tries = 0;
/// # while store.stats()?.unfinished > 0 && tries < 1_000_000 { tries += 1; std::thread::yield_now(); }
/// resumer.stop();
/// # let Claim::Replay(outcome) = store.claim(&key, Fingerprint::of("two pizzas")).wait()? else { panic!() };
/// # assert_eq!(outcome.decode::<String>()?, "two pizzas, baked");
/// # Ok::<(), reentry::Error>(())
/// ```
///
/// Dropping it lets its threads end by themselves after the runs they are at; [`stop`](Self::stop) waits for them.
/// Until then it is a handle of the store.
#[derive(Debug)]
#[must_use = "dropping a resumer stops it"]
pub struct Resumer {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// How a resumer works; see [`Resumer::builder`].
#[must_use = "nothing is resumed until `start`"]
pub struct ResumerBuilder {
    store: Store,
    concurrency: usize,
    every: Duration,
    backoff_min: Duration,
    backoff_max: Duration,
    scope: Option<Box<str>>,
    on_failure: Box<OnFailure>,
}

/// Figures of a resumer since it was started; see [`Resumer::stats`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ResumerStats {
    /// Runs that its function is at.
    pub at_work: usize,
    /// Runs that its function was given.
    pub runs: u64,
    /// Runs that finished their operation.
    pub finished: u64,
    /// Runs that did not: the function returned an error, panicked or dropped the run.
    pub failed: u64,
}

struct Shared {
    settings: ResumerBuilder,
    function: Box<Function>,
    work: Mutex<Work>,
    changed: Condvar,
}

struct Work {
    found: VecDeque<(Position, Key)>,
    /// Where the pass over the unfinished that is under way goes on; none where the next begins at `look_at`.
    behind: Option<Position>,
    /// None where that is never.
    look_at: Option<Instant>,
    /// When the first of what this pass left alone for having failed is due.
    due: Option<Instant>,
    /// Whether another pass begins as soon as the one that is under way has ended.
    is_woken: bool,
    is_looking: bool,
    running: HashSet<Position>,
    backoffs: HashMap<Position, Backoff>,
    stats: ResumerStats,
    is_stopped: bool,
}

/// When an operation that failed is tried again.
struct Backoff {
    failures: u32,
    /// None where that is never.
    until: Option<Instant>,
    /// Whether the pass over the unfinished that is under way has met it.
    is_met: bool,
}

impl Resumer {
    /// How a resumer of this store is made.
    pub fn builder(store: &Store) -> ResumerBuilder {
        ResumerBuilder {
            store: store.clone(),
            concurrency: CONCURRENCY,
            every: EVERY,
            backoff_min: BACKOFF_MIN,
            backoff_max: BACKOFF_MAX,
            scope: None,
            on_failure: Box::new(|_, _| {}),
        }
    }

    /// Lets it look at once, instead of when its time has come, and at what it leaves alone for having failed too:
    /// after something was released by hand, say, or after the other side is up again.
    pub fn wake(&self) {
        let mut work = self.shared.work.lock();
        let now = Some(Instant::now());
        work.backoffs.values_mut().for_each(|backoff| backoff.until = now);
        work.is_woken = true;
        drop(work);
        self.shared.changed.notify_all();
    }

    /// Figures of this moment.
    pub fn stats(&self) -> ResumerStats {
        let work = self.shared.work.lock();
        ResumerStats { at_work: work.running.len(), ..work.stats }
    }

    /// Lets it begin nothing more, and waits until the runs it is at have ended; but for one that calls this itself,
    /// and not inside a closure that the store waits for.
    pub fn stop(mut self) {
        self.shared.stop();
        let others = self.threads.drain(..).filter(|thread| thread.thread().id() != thread::current().id());
        for thread in others.filter(|_| may_block().is_ok()) {
            // The function's panics were caught; nothing else is lost with a thread.
            drop(thread.join());
        }
    }
}

impl Drop for Resumer {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl ResumerBuilder {
    /// How many operations are run at a time, each on a thread of its own. Default: 4.
    pub fn concurrency(mut self, runs: usize) -> Self {
        self.concurrency = runs;
        self
    }

    /// How long after one look at all that is unfinished comes the next; [`Duration::MAX`] is never, until it is woken.
    /// Default: 10 seconds.
    pub fn every(mut self, span: Duration) -> Self {
        self.every = span;
        self
    }

    /// How long an operation that failed is left alone, at first and, doubling each time, at most; zero is not at all
    /// (P6). Default: 1 second and 5 minutes.
    pub fn backoff(mut self, min: Duration, max: Duration) -> Self {
        (self.backoff_min, self.backoff_max) = (min, max.max(min));
        self
    }

    /// Only operations of this scope (P9). Default: all.
    pub fn scope(mut self, scope: &str) -> Self {
        self.scope = Some(scope.into());
        self
    }

    /// What is told, with the key, why a run did not finish: what the function returned, that it panicked, or that it
    /// dropped the run. It is for a log; the operation is tried again all the same.
    pub fn on_failure(
        mut self,
        tell: impl Fn(&Key, &(dyn std::error::Error + Send + Sync)) + Send + Sync + 'static,
    ) -> Self {
        self.on_failure = Box::new(tell);
        self
    }

    /// Starts it (P1, P3): from now on every run is handed to this function.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`] where the concurrency is zero, [`ErrorKind::Io`] where no thread can be started.
    pub fn start<E: Into<Source>>(
        self,
        function: impl Fn(Run) -> Result<(), E> + Send + Sync + 'static,
    ) -> Result<Resumer> {
        if self.concurrency == 0 {
            return Err(Error::new(ErrorKind::InvalidConfig, "the concurrency is zero, so nothing would be resumed"));
        }
        let concurrency = self.concurrency;
        let shared = Arc::new(Shared {
            settings: self,
            function: Box::new(move |run| function(run).map_err(Into::into)),
            work: Mutex::new(Work::new()),
            changed: Condvar::new(),
        });
        let mut resumer = Resumer { shared, threads: Vec::new() };
        for _ in 0..concurrency {
            let shared = Arc::clone(&resumer.shared);
            let thread = thread::Builder::new().name("reentry-resumer".to_owned()).spawn(move || shared.run());
            let failed = |e| Error::because(ErrorKind::Io, "cannot start a thread of the resumer", e);
            resumer.threads.push(thread.map_err(failed)?);
        }
        Ok(resumer)
    }
}

impl fmt::Debug for ResumerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("ResumerBuilder");
        shown.field("concurrency", &self.concurrency).field("every", &self.every);
        shown.field("backoff_min", &self.backoff_min).field("backoff_max", &self.backoff_max).finish_non_exhaustive()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Work {
    fn new() -> Self {
        Self {
            found: VecDeque::new(),
            behind: None,
            look_at: None,
            due: None,
            is_woken: true,
            is_looking: false,
            running: HashSet::new(),
            backoffs: HashMap::new(),
            stats: ResumerStats::default(),
            is_stopped: false,
        }
    }

    /// Takes up an operation that is free, unless it is too early for it or it is taken up already.
    fn meet(&mut self, position: Position, key: &Key) {
        if self.running.contains(&position) || self.found.iter().any(|(found, _)| *found == position) {
            return;
        }
        match self.backoffs.get(&position) {
            Some(backoff) if !has_come(backoff.until) => self.due = earlier(self.due, backoff.until),
            _ => self.found.push_back((position, key.clone())),
        }
    }

    /// Whether somebody should look for more now.
    fn wants_a_look(&self) -> bool {
        !self.is_looking && (self.behind.is_some() || self.is_woken || has_come(self.look_at))
    }
}

impl Shared {
    fn stop(&self) {
        self.work.lock().is_stopped = true;
        self.changed.notify_all();
    }

    /// Runs one operation after the other.
    fn run(&self) {
        while let Some((position, key)) = self.next() {
            // What the server's own code panics with takes no thread with it, and no operation is passed over for that.
            let ended = caught(|| self.resume(&key)).unwrap_or(Ended::Failed);
            let mut work = self.work.lock();
            work.running.remove(&position);
            match ended {
                Ended::Finished => {
                    work.stats.finished += 1;
                    work.backoffs.remove(&position);
                }
                Ended::Failed => {
                    work.stats.failed += 1;
                    self.back_off(&mut work, position);
                }
                Ended::NotOurs => {}
                Ended::StoreIsGone => work.is_stopped = true,
            }
            drop(work);
            self.changed.notify_all();
        }
    }

    /// The next operation to run; none when it is to stop.
    fn next(&self) -> Option<(Position, Key)> {
        let mut work = self.work.lock();
        loop {
            if work.is_stopped {
                return None;
            }
            if let Some((position, key)) = work.found.pop_front() {
                work.running.insert(position);
                return Some((position, key));
            }
            if work.wants_a_look() {
                work.is_looking = true;
                let behind = work.behind;
                drop(work);
                let looked = caught(|| self.look(behind));
                work = self.work.lock();
                if looked.is_none() {
                    self.look_again_soon(&mut work);
                }
                work.is_looking = false;
                work.is_stopped |= looked == Some(false);
                self.changed.notify_all();
            } else {
                match work.look_at.filter(|_| !work.is_looking) {
                    Some(until) => drop(self.changed.wait_until(&mut work, until)),
                    None => self.changed.wait(&mut work),
                }
            }
        }
    }

    /// Looks for what is unfinished and free, behind this position or from the start. Returns false where the store is
    /// gone.
    fn look(&self, behind: Option<Position>) -> bool {
        let mut unfinished = self.settings.store.unfinished();
        if let Some(scope) = &self.settings.scope {
            unfinished = unfinished.of_scope(scope);
        }
        if let Some(position) = behind {
            unfinished = unfinished.after(position);
        } else {
            let mut work = self.work.lock();
            (work.is_woken, work.due) = (false, None);
            work.backoffs.values_mut().for_each(|backoff| backoff.is_met = false);
        }
        let mut is_broken_off = false;
        for progress in unfinished {
            let progress = match progress {
                Ok(progress) => progress,
                Err(error) if is_gone(&error) => return false,
                // A damaged record is for whoever asks for it; the others go on.
                Err(error) if error.kind() == ErrorKind::Corrupt => continue,
                Err(_) => {
                    is_broken_off = true;
                    continue;
                }
            };
            let mut work = self.work.lock();
            let position = progress.position();
            if let Some(backoff) = work.backoffs.get_mut(&position) {
                backoff.is_met = true;
            }
            if progress.state() == State::Unfinished {
                work.meet(position, progress.key());
            }
            if work.found.len() >= FOUND_MAX {
                work.behind = Some(position);
                return true;
            }
        }
        let mut work = self.work.lock();
        work.behind = None;
        if is_broken_off {
            // Nobody knows what stands behind that; it is looked for again soon, whenever the next look would be.
            self.look_again_soon(&mut work);
            return true;
        }
        // What was not met is finished, by whomever.
        let running = std::mem::take(&mut work.running);
        work.backoffs.retain(|position, backoff| backoff.is_met || running.contains(position));
        work.running = running;
        work.look_at = earlier(work.due, Instant::now().checked_add(self.settings.every));
        true
    }

    fn look_again_soon(&self, work: &mut Work) {
        let pause = self.settings.backoff_min.min(self.settings.every).max(BROKEN_OFF_MIN);
        work.look_at = earlier(work.due, Instant::now().checked_add(pause));
    }

    fn resume(&self, key: &Key) -> Ended {
        // What was found may have had its last try, or its end, since.
        match self.settings.store.progress(key) {
            Ok(Some(progress)) if progress.state() == State::Unfinished => {}
            Ok(_) => return Ended::NotOurs,
            Err(error) if is_gone(&error) => return Ended::StoreIsGone,
            Err(error) => return self.failed(key, &error),
        }
        let run = match self.settings.store.claim_unfinished(key).wait() {
            Ok(Claim::Run(run)) => run,
            Ok(Claim::Replay(_) | Claim::Wait(_) | Claim::Reject(_) | Claim::Gone(_)) => return Ended::NotOurs,
            Err(error) if is_gone(&error) => return Ended::StoreIsGone,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ended::NotOurs,
            Err(error) => return self.failed(key, &error),
        };
        self.work.lock().stats.runs += 1;
        match caught(|| (self.function)(run)) {
            Some(Ok(())) => self.finished(key),
            Some(Err(error)) => self.failed(key, &*error),
            None => self.failed(key, &Error::new(ErrorKind::Aborted, "the function that resumes panicked")),
        }
    }

    /// What became of an operation whose function says that all went well.
    fn finished(&self, key: &Key) -> Ended {
        match self.settings.store.progress(key) {
            Ok(Some(progress)) if matches!(progress.state(), State::Owned | State::Unfinished | State::Stuck) => {
                self.failed(key, &Error::new(ErrorKind::NotApplied, "the run was dropped unfinished"))
            }
            Ok(_) => Ended::Finished,
            Err(error) if is_gone(&error) => Ended::Finished,
            // It may be unfinished, and is met again then.
            Err(error) => self.failed(key, &error),
        }
    }

    fn failed(&self, key: &Key, error: &(dyn std::error::Error + Send + Sync)) -> Ended {
        // A hook that panics makes no other of it.
        caught(|| (self.settings.on_failure)(key, error));
        Ended::Failed
    }

    fn back_off(&self, work: &mut Work, position: Position) {
        let fresh = Backoff { failures: 0, until: None, is_met: true };
        let backoff = work.backoffs.entry(position).or_insert(fresh);
        let doubled = 2_u32.saturating_pow(backoff.failures);
        let pause = self.settings.backoff_min.saturating_mul(doubled).min(self.settings.backoff_max);
        (backoff.failures, backoff.until) = (backoff.failures.saturating_add(1), Instant::now().checked_add(pause));
        let until = backoff.until;
        // The pass that is under way may be past it.
        (work.due, work.look_at) = (earlier(work.due, until), earlier(work.look_at, until));
    }
}

/// Whether this moment has come; none never does.
fn has_come(moment: Option<Instant>) -> bool {
    moment.is_some_and(|moment| Instant::now() >= moment)
}

/// The earlier of two moments; none is never.
fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    [one, other].into_iter().flatten().min()
}

/// What running one operation came to.
enum Ended {
    Finished,
    Failed,
    /// Somebody else was faster.
    NotOurs,
    StoreIsGone,
}

fn is_gone(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Closed | ErrorKind::Failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Fingerprint;

    const NEVER: Duration = Duration::MAX;

    #[track_caller]
    fn until(mut is_so: impl FnMut() -> bool) {
        let began = Instant::now();
        while !is_so() {
            assert!(began.elapsed() < Duration::from_secs(120), "it never came");
            thread::yield_now();
        }
    }

    /// Nobody tells a resumer that a client came back after all; it sees at its next look that there is nothing left.
    #[test]
    fn what_failed_and_was_finished_by_its_client_is_remembered_no_longer() {
        let store = Store::builder().in_memory().unwrap();
        let claim = |nth: u32| {
            let key = Key::new("orders", nth.to_string()).unwrap();
            match store.claim(&key, Fingerprint::of("two pizzas")).wait().unwrap() {
                Claim::Run(run) => run,
                other => panic!("{other:?}"),
            }
        };
        (0..100).for_each(|nth| drop(claim(nth)));
        let fails = |_| Err(Error::new(ErrorKind::Aborted, "no flour"));
        let resumer = Resumer::builder(&store).every(NEVER).backoff(NEVER, NEVER).start(fails).unwrap();
        let remembered = || resumer.shared.work.lock().backoffs.len();
        until(|| resumer.stats().failed == 100);
        assert_eq!(remembered(), 100);
        for nth in 0..100 {
            claim(nth).complete(&()).wait().unwrap();
        }
        resumer.wake();
        until(|| remembered() == 0);
        resumer.stop();
    }
}
