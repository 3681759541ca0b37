//! An answer that is on its way: one type for threads and for tasks.
//!
//! Invariants:
//! 1. Every promise is kept or broken: a promise dropped without an answer answers with an error, so nobody waits for
//!    ever on a writer that is gone.
//! 2. An answer that nobody takes is dropped, and with it whatever ownership it carries.
//! 3. A thread sleeps by the bell of the batch that its answer comes with, where that has one; by itself where it waits
//!    for anything else. It waits for one thing at a time.

mod bell;
#[cfg(all(test, loom))]
mod orders;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, RefUnwindSafe, UnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

pub(crate) use bell::{Bell, Ringer};

use crate::error::{Error, ErrorKind, Result};
use crate::sync::thread::{self, Thread};
use crate::sync::{AtomicBool, Instant, Mutex, Ordering, thread_local};

/// An answer that waits for the disk or for another run.
///
/// Take it as a thread with [`wait`](Self::wait) or [`wait_for`](Self::wait_for), or as a task with `.await`, on any
/// executor. The call behind it is handed to the store at once; only where the store's queue is full does that happen
/// at the first wait or poll, so that a full queue slows its callers down instead of growing.
///
/// Dropping it loses the answer, not the call: a claim that was granted is given back, a change may or may not have
/// been made.
///
/// ```
/// use reentry::{Claim, Fingerprint, Key, Pending, Store};
/// use std::time::Duration;
///
/// let store = Store::builder().in_memory()?;
/// let claim = store.claim(&Key::new("orders", "1")?, Fingerprint::of("two pizzas")).wait_for(Duration::from_secs(5))?;
/// assert!(matches!(claim, Claim::Run(_)));
/// # Ok::<(), reentry::Error>(())
/// ```
#[must_use = "nothing is known until the answer is waited for: call `.wait()` or `.await`"]
pub struct Pending<T> {
    source: Source<T>,
    gives_up: ErrorKind,
}

enum Source<T> {
    Ready(Option<Result<T>>),
    Coming(Pin<Box<dyn Future<Output = Result<T>> + Send>>),
}

impl<T> Pending<T> {
    /// Blocks this thread until the answer is there.
    ///
    /// # Errors
    ///
    /// Those of the call that returned this.
    pub fn wait(self) -> Result<T> {
        self.block(None)
    }

    /// Blocks this thread until the answer is there, but no longer than `patience`.
    ///
    /// # Errors
    ///
    /// Those of the call that returned this; when the time is over, [`ErrorKind::TimedOut`] for a question or a claim
    /// (which is given back), [`ErrorKind::OutcomeUnknown`] for a change.
    pub fn wait_for(self, patience: Duration) -> Result<T> {
        self.block(Instant::now().checked_add(patience))
    }

    /// An answer that is there already.
    pub(crate) fn ready(answer: Result<T>) -> Self {
        Self { source: Source::Ready(Some(answer)), gives_up: ErrorKind::TimedOut }
    }

    /// An answer that comes from `future`; whoever gives up on it gets an error of kind `gives_up`.
    pub(crate) fn coming(gives_up: ErrorKind, future: impl Future<Output = Result<T>> + Send + 'static) -> Self {
        Self { source: Source::Coming(Box::pin(future)), gives_up }
    }

    /// The answer, made into another.
    pub(crate) fn map<U>(self, read: impl FnOnce(T) -> U + Send + 'static) -> Pending<U>
    where
        T: 'static,
    {
        let source = match self.source {
            Source::Ready(answer) => Source::Ready(answer.map(|answer| answer.map(read))),
            Source::Coming(answer) => Source::Coming(Box::pin(async move { answer.await.map(read) })),
        };
        Pending { source, gives_up: self.gives_up }
    }

    fn block(mut self, deadline: Option<Instant>) -> Result<T> {
        if let Source::Ready(answer) = &mut self.source {
            return answer.take().unwrap_or_else(|| Err(taken()));
        }
        let gives_up = self.gives_up;
        let gave_up = |()| Err(Error::new(gives_up, "gave up waiting for the answer"));
        drive(Pin::new(&mut self), deadline).unwrap_or_else(|| may_block().and_then(gave_up))
    }
}

/// Blocks this thread until the future is ready.
///
/// # Errors
///
/// Its own, and `WouldDeadlock` on a thread that the store waits for.
pub(crate) fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    // Without a deadline it only gives up where it may not wait.
    drive(std::pin::pin!(future), None).unwrap_or_else(|| Err(would_deadlock()))
}

/// Polls the future on this thread until it is ready; none at the deadline, or where this thread may not wait.
fn drive<F: Future>(mut future: Pin<&mut F>, deadline: Option<Instant>) -> Option<F::Output> {
    let sleeper = Sleeper::of_this_thread();
    let mut context = Context::from_waker(&sleeper.waker);
    loop {
        sleeper.bell.set(None);
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        if may_block().is_err() || !sleeper.sleep(deadline) {
            return None;
        }
    }
}

/// What the store waits for on a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WaitedFor {
    Nothing,
    /// The thread itself, which answers others: it may call the store, as a task does that is run where it is woken,
    /// and never block.
    Thread,
    /// What the thread does at this moment: it may call nothing that would need an answer.
    Work,
}

thread_local! {
    static WAITED_FOR: Cell<WaitedFor> = const { Cell::new(WaitedFor::Nothing) };
}

/// Does `work` as something that the store waits for: in it no call is made that would wait for the store.
pub(crate) fn waited_for<T>(work: impl FnOnce() -> T) -> T {
    within(WaitedFor::Work, work)
}

/// Does `work` on a thread that the store waits for: in it nothing blocks.
pub(crate) fn thread_waited_for<T>(work: impl FnOnce() -> T) -> T {
    within(WaitedFor::Thread, work)
}

/// Wakes a task. Where it is run at once it is no part of the work in which it is woken, but it keeps that thread. Its
/// panic is no matter of this thread, which has others to wake.
pub(crate) fn wake(waker: Waker) {
    let wake = || match may_ask() {
        Ok(()) => waker.wake(),
        Err(_) => thread_waited_for(|| waker.wake()),
    };
    caught(wake);
}

/// Does `work` that is not ours, and gives what it gives; none where it panics. What it panicked with is not dropped:
/// it may panic again.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).map_err(std::mem::forget).ok()
}

fn within<T>(what: WaitedFor, work: impl FnOnce() -> T) -> T {
    struct Ends(WaitedFor);
    impl Drop for Ends {
        fn drop(&mut self) {
            let before = self.0;
            let _ = WAITED_FOR.try_with(|waited_for| waited_for.set(before));
        }
    }
    let _ends = Ends(WAITED_FOR.try_with(|waited_for| waited_for.replace(what)).unwrap_or(WaitedFor::Nothing));
    work()
}

/// # Errors
///
/// `WouldDeadlock` in what the store waits for.
pub(crate) fn may_ask() -> Result<()> {
    let is_allowed = WAITED_FOR.try_with(Cell::get).unwrap_or(WaitedFor::Nothing) != WaitedFor::Work;
    if is_allowed { Ok(()) } else { Err(would_deadlock()) }
}

/// # Errors
///
/// `WouldDeadlock` on a thread that the store waits for.
pub(crate) fn may_block() -> Result<()> {
    let is_allowed = WAITED_FOR.try_with(Cell::get).unwrap_or(WaitedFor::Nothing) == WaitedFor::Nothing;
    if is_allowed { Ok(()) } else { Err(would_deadlock()) }
}

fn would_deadlock() -> Error {
    let message = "this call would wait for the store in something that the store waits for; make it outside";
    Error::new(ErrorKind::WouldDeadlock, message)
}

impl<T> Unpin for Pending<T> {}

// An answer that is on its way is whole or not there yet, whatever panics meanwhile.
impl<T> UnwindSafe for Pending<T> {}
impl<T> RefUnwindSafe for Pending<T> {}

impl<T> Future for Pending<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.source {
            Source::Ready(answer) => Poll::Ready(answer.take().unwrap_or_else(|| Err(taken()))),
            Source::Coming(future) => {
                let answer = future.as_mut().poll(context);
                if answer.is_ready() {
                    self.source = Source::Ready(None);
                } else {
                    may_ask()?;
                }
                answer
            }
        }
    }
}

impl<T> fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").finish_non_exhaustive()
    }
}

fn taken() -> Error {
    Error::new(ErrorKind::TimedOut, "this answer was taken already")
}

/// A thread that waits.
struct Sleeper {
    parker: Arc<Parker>,
    /// Wakes it where it sleeps by itself.
    waker: Waker,
    /// What it sleeps by instead: given by the answer that it polled last.
    bell: Cell<Option<Arc<Bell>>>,
}

thread_local! {
    static SLEEPER: RefCell<Option<Rc<Sleeper>>> = const { RefCell::new(None) };
}

impl Sleeper {
    /// That of the calling thread, made once.
    fn of_this_thread() -> Rc<Self> {
        let kept = SLEEPER.try_with(|slot| Rc::clone(slot.borrow_mut().get_or_insert_with(Self::make)));
        kept.unwrap_or_else(|_| Self::make())
    }

    fn make() -> Rc<Self> {
        let parker = Arc::new(Parker { thread: thread::current(), woken: AtomicBool::new(false) });
        Rc::new(Self { waker: Waker::from(Arc::clone(&parker)), parker, bell: Cell::new(None) })
    }

    /// Lets this thread sleep by the bell, where it is `waker` that would wake it. Returns whether it does.
    fn goes_by(bell: &Arc<Bell>, waker: &Waker) -> bool {
        let goes = |sleeper: &Rc<Self>| {
            let is_woken_so = sleeper.waker.will_wake(waker);
            if is_woken_so {
                sleeper.bell.set(Some(Arc::clone(bell)));
            }
            is_woken_so
        };
        SLEEPER.try_with(|slot| slot.borrow().as_ref().is_some_and(goes)).unwrap_or(false)
    }

    /// Sleeps until there may be something to poll (true) or until the deadline (false).
    fn sleep(&self, deadline: Option<Instant>) -> bool {
        match self.bell.take() {
            Some(bell) => bell.sleep(deadline),
            None => self.parker.park(deadline),
        }
    }
}

/// Lets a thread sleep until a waker made from it wakes it.
struct Parker {
    thread: Thread,
    woken: AtomicBool,
}

impl Parker {
    /// Sleeps until woken (true) or until the deadline (false).
    fn park(&self, deadline: Option<Instant>) -> bool {
        while !self.woken.swap(false, Ordering::Acquire) {
            match deadline.map(|d| d.saturating_duration_since(Instant::now())) {
                None => thread::park(),
                Some(Duration::ZERO) => return false,
                Some(left) => thread::park_timeout(left),
            }
        }
        true
    }
}

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// The half of an answer that the store keeps.
#[derive(Debug)]
pub(crate) struct Promise<T> {
    slot: Option<Arc<Slot<T>>>,
}

/// The half of an answer that the caller keeps.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    slot: Arc<Slot<T>>,
    /// What rings once the batch that it comes with is answered.
    bell: Option<Arc<Bell>>,
}

#[derive(Debug)]
struct Slot<T>(Mutex<Content<T>>);

#[derive(Debug)]
enum Content<T> {
    Empty(Option<Waker>),
    Filled(Result<T>),
    Taken,
}

/// Both halves of a new answer.
pub(crate) fn promise<T>() -> (Promise<T>, Answer<T>) {
    let slot = Arc::new(Slot(Mutex::new(Content::Empty(None))));
    (Promise { slot: Some(Arc::clone(&slot)) }, Answer { slot, bell: None })
}

impl<T> Promise<T> {
    /// Gives the answer and wakes whoever waits for it.
    pub(crate) fn keep(mut self, answer: Result<T>) {
        self.fill(answer);
    }

    /// Whether nobody can take the answer any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.slot.as_ref().is_none_or(|slot| Arc::strong_count(slot) == 1)
    }

    fn fill(&mut self, answer: Result<T>) {
        let Some(slot) = self.slot.take() else { return };
        let before = std::mem::replace(&mut *slot.0.lock(), Content::Filled(answer));
        if let Content::Empty(Some(waker)) = before {
            wake(waker);
        }
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        if self.slot.is_some() {
            let message = "the store stopped before it answered; reopen it and claim again";
            self.fill(Err(Error::new(ErrorKind::OutcomeUnknown, message)));
        }
    }
}

impl<T> Answer<T> {
    /// The same, of a request that is in the batch of this bell.
    pub(crate) fn rung_by(mut self, bell: Option<Arc<Bell>>) -> Self {
        self.bell = bell;
        self
    }
}

/// Whoever gives up is not woken any more: the promise may be dropped where the store holds a lock, and a waker may run
/// its task at once, which asks the store.
impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        let mut held = self.slot.0.lock();
        let waker = if let Content::Empty(waker) = &mut *held { waker.take() } else { None };
        drop(held);
        drop(waker);
    }
}

/// Whether this thread goes to sleep until the bell rings.
fn sleeps_by(bell: &Arc<Bell>, waker: &Waker) -> bool {
    !bell.has_rung() && Sleeper::goes_by(bell, waker)
}

impl<T> Future for Answer<T> {
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut held = self.slot.0.lock();
        let before = match std::mem::replace(&mut *held, Content::Taken) {
            Content::Filled(answer) => return Poll::Ready(answer),
            Content::Taken => return Poll::Ready(Err(taken())),
            Content::Empty(before) => before,
        };
        // The slot is filled before the bell rings. Who finds it empty after that waits for something else, for the run
        // at work to end.
        let sleeps = self.bell.as_ref().is_some_and(|bell| sleeps_by(bell, context.waker()));
        let (waker, replaced) = match before {
            before if sleeps => (None, before),
            Some(known) if known.will_wake(context.waker()) => (Some(known), None),
            before => (Some(context.waker().clone()), before),
        };
        *held = Content::Empty(waker);
        drop(held);
        // What a waker holds may ask the store as it is dropped.
        drop(replaced);
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending<T: Send + 'static>(answer: Answer<T>) -> Pending<T> {
        Pending::coming(ErrorKind::OutcomeUnknown, answer)
    }

    #[test]
    fn a_thread_gets_the_answer_that_another_gives() {
        let (promise, answer) = promise();
        let giver = thread::spawn(move || promise.keep(Ok(7)));
        assert_eq!(pending(answer).wait().unwrap(), 7);
        giver.join().unwrap();
    }

    #[test]
    fn a_broken_promise_is_an_error_and_no_hang() {
        let (promise, answer) = promise::<u8>();
        drop(promise);
        assert_eq!(pending(answer).wait().unwrap_err().kind(), ErrorKind::OutcomeUnknown);
    }

    #[test]
    fn giving_up_says_what_kind_of_loss_it_is() {
        let (promise, answer) = promise::<u8>();
        let error = pending(answer).wait_for(Duration::from_millis(1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
        assert!(promise.is_abandoned());
    }

    #[test]
    fn whoever_sleeps_by_a_bell_wakes_when_it_rings_and_goes_on_where_the_answer_comes_later() {
        let ringer = Ringer::default();
        let (mut promises, mut waits) = (Vec::new(), Vec::new());
        for nth in 0..8 {
            let (promise, answer) = promise();
            let answer = answer.rung_by(Some(Arc::clone(ringer.bell())));
            promises.push((nth, promise));
            waits.push(thread::spawn(move || pending(answer).wait().unwrap()));
        }
        // All sleep by the bell now, or will find that it has rung.
        let late = promises.split_off(4);
        for (nth, promise) in promises {
            promise.keep(Ok(nth));
        }
        drop(ringer);
        for (nth, promise) in late {
            promise.keep(Ok(nth));
        }
        let answers: Vec<_> = waits.into_iter().map(|wait| wait.join().unwrap()).collect();
        assert_eq!(answers, [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn a_bell_that_does_not_ring_is_given_up_in_time_and_misleads_no_later_wait() {
        let ringer = Ringer::default();
        let (kept, answer) = promise::<u8>();
        let error = pending(answer.rung_by(Some(Arc::clone(ringer.bell())))).wait_for(Duration::from_millis(1));
        assert_eq!(error.unwrap_err().kind(), ErrorKind::OutcomeUnknown);
        assert!(kept.is_abandoned());
        let (promise, answer) = promise();
        let giver = thread::spawn(move || promise.keep(Ok(7)));
        assert_eq!(pending(answer).wait().unwrap(), 7);
        giver.join().unwrap();
    }

    #[test]
    fn a_task_does_not_sleep_by_a_bell() {
        let ringer = Ringer::default();
        let (promise, answer) = promise();
        let mut answer = answer.rung_by(Some(Arc::clone(ringer.bell())));
        let woken = Arc::new(Parker { thread: thread::current(), woken: AtomicBool::new(false) });
        let waker = Waker::from(Arc::clone(&woken));
        // On a thread that has waited itself too.
        assert_eq!(Pending::coming(ErrorKind::TimedOut, async { Ok(1) }).wait().unwrap(), 1);
        assert!(Pin::new(&mut answer).poll(&mut Context::from_waker(&waker)).is_pending());
        promise.keep(Ok(7));
        assert!(woken.woken.load(Ordering::Acquire));
    }

    /// Closures of the server's run on the writer's thread, which is the writer's after them as well.
    #[test]
    fn a_thread_is_waited_for_after_a_work_as_it_was_before_it() {
        let may = || (may_ask().is_ok(), may_block().is_ok());
        assert_eq!(may(), (true, true));
        thread_waited_for(|| {
            assert_eq!(may(), (true, false));
            waited_for(|| assert_eq!(may(), (false, false)));
            assert_eq!(may(), (true, false));
            catch_unwind(|| waited_for(|| panic!("no flour"))).unwrap_err();
            assert_eq!(may(), (true, false));
        });
        assert_eq!(may(), (true, true));
    }

    #[test]
    fn an_answer_nobody_takes_is_dropped() {
        let carried = Arc::new(());
        let (promise, answer) = promise();
        drop(answer);
        promise.keep(Ok(Arc::clone(&carried)));
        assert_eq!(Arc::strong_count(&carried), 1);
    }

    #[test]
    fn polling_again_after_the_answer_is_an_error_and_no_panic() {
        let mut answered = Pending::ready(Ok(1));
        let mut context = Context::from_waker(Waker::noop());
        assert!(matches!(Pin::new(&mut answered).poll(&mut context), Poll::Ready(Ok(1))));
        assert!(matches!(Pin::new(&mut answered).poll(&mut context), Poll::Ready(Err(_))));
    }
}
