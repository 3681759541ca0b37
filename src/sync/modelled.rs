//! The names of `ordinary` over a model checker: each use of one is a moment at which it may let another thread run.
//!
//! Time stands still here until a test lets it [pass](pass_time): whoever waits with a deadline wakes when that has
//! come, so that a time-out is one more thing that happens at a moment of the checker's choice, and a wake-up that is
//! lost is found, not mended a second later.

use std::cell::RefCell;
use std::ops::{Add, Deref, DerefMut};
use std::sync::atomic::AtomicBool as PlainBool;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

#[cfg(loom)]
use loom as model;
#[cfg(shuttle)]
use shuttle as model;

pub(crate) use model::sync::RwLockReadGuard;
#[cfg(shuttle)]
pub(crate) use model::sync::atomic::AtomicBool;
pub(crate) use model::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
#[cfg(shuttle)]
pub(crate) use model::thread_local;

/// That of loom takes no `const`.
#[cfg(loom)]
macro_rules! thread_local_of_loom {
    (static $name:ident: $type:ty = const $init:block;) => {
        loom::thread_local! { static $name: $type = $init; }
    };
}
#[cfg(loom)]
pub(crate) use thread_local_of_loom as thread_local;

/// Runs `scenario` in every order there is.
#[cfg(all(test, loom))]
pub(crate) fn in_every_order(scenario: impl Fn() + Send + Sync + 'static) {
    in_orders(None, scenario);
}

/// Runs `scenario` in every order in which threads are interrupted so many times at most: for what has too many orders.
#[cfg(all(test, loom))]
pub(crate) fn in_every_order_of(interruptions: usize, scenario: impl Fn() + Send + Sync + 'static) {
    in_orders(Some(interruptions), scenario);
}

#[cfg(all(test, loom))]
fn in_orders(interruptions_max: Option<usize>, scenario: impl Fn() + Send + Sync + 'static) {
    let began = std::time::Instant::now();
    let orders = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = Arc::clone(&orders);
    let mut checker = model::model::Builder::new();
    checker.preemption_bound = interruptions_max;
    checker.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        scenario();
    });
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    eprintln!("{name}: {} orders in {:.1} s", orders.load(Ordering::Relaxed), began.elapsed().as_secs_f64());
}

/// Threads, by the names of the standard library.
pub(crate) mod thread {
    pub(crate) use super::model::thread::{Builder, JoinHandle, yield_now};
    #[cfg(shuttle)]
    pub(crate) use super::model::thread::{Thread, current, park};

    #[cfg(loom)]
    pub(crate) use super::parking::{Thread, current, park};

    #[cfg(test)]
    pub(crate) use super::model::thread::spawn;

    /// Sleeps until unparked or until so much time has passed; also without either, as the standard library's does.
    pub(crate) fn park_timeout(span: std::time::Duration) {
        super::park_until(super::Instant::now().checked_add(span));
    }
}

/// Parking for loom, whose own forgets an unpark that comes while the thread waits for a lock.
#[cfg(loom)]
mod parking {
    use std::sync::Arc;

    use super::model::sync::{Condvar, Mutex};
    use super::model::thread;

    #[derive(Debug, Clone)]
    pub(crate) struct Thread {
        named: thread::Thread,
        /// Whether it was unparked, and what it sleeps on until then.
        unparked: Arc<(Mutex<bool>, Condvar)>,
    }

    loom::thread_local! {
        static CURRENT: Thread =
            Thread { named: thread::current(), unparked: Arc::new((Mutex::new(false), Condvar::new())) };
    }

    pub(crate) fn current() -> Thread {
        CURRENT.with(Thread::clone)
    }

    /// Sleeps until unparked; at once where that was done before.
    pub(crate) fn park() {
        let me = current();
        let mut is_unparked = me.unparked.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        while !*is_unparked {
            is_unparked = me.unparked.1.wait(is_unparked).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        *is_unparked = false;
    }

    impl Thread {
        pub(crate) fn unpark(&self) {
            *self.unparked.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = true;
            self.unparked.1.notify_one();
        }

        pub(crate) fn id(&self) -> thread::ThreadId {
            self.named.id()
        }

        pub(crate) fn name(&self) -> Option<&str> {
            self.named.name()
        }
    }
}

/// A flag. To loom an exchange may pass over what another thread stored before it, which no memory allows: so a store
/// is an exchange too.
#[cfg(loom)]
#[derive(Debug, Default)]
pub(crate) struct AtomicBool(model::sync::atomic::AtomicBool);

#[cfg(loom)]
impl AtomicBool {
    pub(crate) fn new(value: bool) -> Self {
        Self(model::sync::atomic::AtomicBool::new(value))
    }

    pub(crate) fn load(&self, ordering: Ordering) -> bool {
        self.0.load(ordering)
    }

    pub(crate) fn store(&self, value: bool, ordering: Ordering) {
        self.0.swap(value, ordering);
    }

    pub(crate) fn swap(&self, value: bool, ordering: Ordering) -> bool {
        self.0.swap(value, ordering)
    }
}

/// A lock as `parking_lot`'s: a panic leaves it usable.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(model::sync::Mutex<T>);

/// A held lock. It is let go and taken again by who waits on a [`Condvar`].
#[derive(Debug)]
pub(crate) struct MutexGuard<'m, T> {
    mutex: &'m Mutex<T>,
    /// None only within a wait.
    held: Option<model::sync::MutexGuard<'m, T>>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(model::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard { mutex: self, held: Some(self.held()) }
    }

    fn held(&self) -> model::sync::MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.held.as_ref().unwrap_or_else(|| std::process::abort())
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_mut().unwrap_or_else(|| std::process::abort())
    }
}

/// A lock for many readers, as `parking_lot`'s.
#[derive(Debug)]
pub(crate) struct RwLock<T>(model::sync::RwLock<T>);

impl<T: Default> Default for RwLock<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> RwLock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(model::sync::RwLock::new(value))
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> model::sync::RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets threads wait for a change of what a lock guards, as `parking_lot`'s does: made here from parking, since that of
/// the checkers never times out.
#[derive(Debug)]
pub(crate) struct Condvar {
    waiting: std::sync::Mutex<Vec<Arc<Waiting>>>,
    /// How many wait: what the checker sees of the list, which is only touched along with it.
    count: AtomicUsize,
}

#[derive(Debug)]
struct Waiting {
    thread: thread::Thread,
    is_notified: PlainBool,
}

/// How a wait ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    pub(crate) fn timed_out(self) -> bool {
        self.0
    }
}

impl Condvar {
    pub(crate) fn new() -> Self {
        Self { waiting: std::sync::Mutex::default(), count: AtomicUsize::new(0) }
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        self.sleep(guard, None);
    }

    pub(crate) fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, until: Instant) -> WaitTimeoutResult {
        WaitTimeoutResult(self.sleep(guard, Some(until)))
    }

    pub(crate) fn notify_one(&self) {
        if self.count.load(Ordering::SeqCst) > 0 {
            let first = self.list().first().map(Arc::clone);
            first.iter().for_each(|waiting| self.notify(waiting));
        }
    }

    pub(crate) fn notify_all(&self) {
        if self.count.load(Ordering::SeqCst) > 0 {
            let all = self.list().clone();
            all.iter().for_each(|waiting| self.notify(waiting));
        }
    }

    fn notify(&self, waiting: &Arc<Waiting>) {
        if self.leave(waiting) {
            waiting.is_notified.store(true, Ordering::SeqCst);
            waiting.thread.unpark();
        }
    }

    /// Waits, with the lock let go, until notified or until the deadline. Returns whether it gave up.
    fn sleep<T>(&self, guard: &mut MutexGuard<'_, T>, until: Option<Instant>) -> bool {
        let me = Arc::new(Waiting { thread: thread::current(), is_notified: PlainBool::new(false) });
        self.count.fetch_add(1, Ordering::SeqCst);
        self.list().push(Arc::clone(&me));
        guard.held = None;
        while !me.is_notified.load(Ordering::SeqCst) && until.is_none_or(|until| Instant::now() < until) {
            park_until(until);
        }
        // Who is no longer in the list was notified, if only in the last moment.
        let gave_up = self.leave(&me);
        guard.held = Some(guard.mutex.held());
        gave_up
    }

    /// Takes one who waits off the list. Returns whether it was there.
    fn leave(&self, waiting: &Arc<Waiting>) -> bool {
        self.count.fetch_sub(1, Ordering::SeqCst);
        let mut list = self.list();
        let before = list.len();
        list.retain(|other| !Arc::ptr_eq(other, waiting));
        let was_there = list.len() < before;
        drop(list);
        if !was_there {
            self.count.fetch_add(1, Ordering::SeqCst);
        }
        was_there
    }

    fn list(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Waiting>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For many threads that wait for one thing.
pub(crate) mod crowd {
    use super::Instant;
    pub(crate) use super::{Condvar, Mutex, MutexGuard};

    pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock()
    }

    /// Waits until notified or until the deadline.
    pub(crate) fn wait<'m, T>(
        condvar: &Condvar,
        mut held: MutexGuard<'m, T>,
        deadline: Option<Instant>,
    ) -> MutexGuard<'m, T> {
        match deadline {
            None => condvar.wait(&mut held),
            Some(deadline) => drop(condvar.wait_until(&mut held, deadline)),
        }
        held
    }
}

/// A moment by the time that tests let pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(Duration);

struct Time {
    now: Duration,
    /// Who sleeps until when.
    sleepers: Vec<(Instant, thread::Thread)>,
}

// All threads of a checker are run on one thread, and nothing here lasts over a moment at which it may switch.
std::thread_local! {
    static TIME: RefCell<Time> = const { RefCell::new(Time { now: Duration::ZERO, sleepers: Vec::new() }) };
}

impl Instant {
    pub(crate) fn now() -> Self {
        Self(TIME.with_borrow(|time| time.now))
    }

    pub(crate) fn checked_add(self, span: Duration) -> Option<Self> {
        self.0.checked_add(span).map(Self)
    }

    pub(crate) fn saturating_duration_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    pub(crate) fn elapsed(self) -> Duration {
        Self::now().saturating_duration_since(self)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }
}

/// Lets so much time pass for all who wait with a deadline. The store's clock is another, and stays.
pub fn pass_time(span: Duration) {
    // A moment at which another thread may run, and nothing else.
    #[cfg(shuttle)]
    model::thread::sleep(span);
    #[cfg(loom)]
    thread::yield_now();
    let woken = TIME.with_borrow_mut(|time| {
        time.now = time.now.saturating_add(span);
        let now = Instant(time.now);
        time.sleepers.extract_if(.., |(until, _)| *until <= now).collect::<Vec<_>>()
    });
    for (_, thread) in woken {
        thread.unpark();
    }
}

fn park_until(until: Option<Instant>) {
    let me = thread::current();
    if let Some(until) = until {
        TIME.with_borrow_mut(|time| time.sleepers.push((until, me.clone())));
    }
    thread::park();
    if until.is_some() {
        TIME.with_borrow_mut(|time| time.sleepers.retain(|(_, sleeper)| sleeper.id() != me.id()));
    }
}
