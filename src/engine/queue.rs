//! The queue between callers and the writer: taken whole, bounded by count and bytes.
//!
//! Invariants:
//! 1. It never grows past its bounds: a full one keeps a caller's request with the caller. Only what was admitted
//!    once already (the next in line for a key) and what has happened already (a step's result: one at most for each
//!    effect under way) comes in without asking for room.
//! 2. Whatever is pushed is answered: once the queue is shut a request is refused on the spot. The bell of its batch
//!    rings after that.
//! 3. A request that nobody waits for goes with the next batch that somebody waits for, at the latest after a second;
//!    order is kept.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::request::Request;
use crate::error::{Error, ErrorKind};
use crate::pending::{Bell, Ringer, wake};
use crate::sync::{Condvar, Instant, Mutex};

/// How long what nobody waits for is kept from the disk at most.
const PATIENCE_MAX: Duration = Duration::from_secs(1);

/// How many of a batch are woken one by one, each as soon as it is answered. The others sleep by its bell: where there
/// are many, waking one by one is what takes most of the writer's time.
const SINGLE_MAX: usize = if cfg!(any(shuttle, loom)) { 0 } else { 16 };

/// How much may wait for the writer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueLimits {
    pub(crate) commands_max: usize,
    pub(crate) bytes_max: usize,
}

#[derive(Debug)]
pub(crate) struct Queue {
    limits: QueueLimits,
    state: Mutex<State>,
    filled: Condvar,
}

#[derive(Debug, Default)]
struct State {
    requests: Vec<Request>,
    /// Rings once these are answered, where they are many.
    ringer: Option<Ringer>,
    bytes: usize,
    /// Whether anybody waits for one of the requests, or they are too many to wait for that.
    is_pressing: bool,
    /// When the first of them came.
    patient_since: Option<Instant>,
    /// Whether the writer sleeps longer than what nobody waits for may be kept from the disk.
    sleeps_long: bool,
    /// Callers whose request did not fit, each under a number of its own.
    outside: BTreeMap<u64, Waker>,
    next_outside: u64,
    shut: Option<Shut>,
}

/// What became of a request that was pushed.
#[derive(Debug)]
pub(crate) enum Pushed {
    /// It is answered already, or with the batch of this bell.
    In(Option<Arc<Bell>>),
    /// There is no room for it yet.
    Back(Box<Request>),
}

/// What was taken from the queue at once. Who sleeps until it is answered is woken when this is gone, or empty again.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) requests: Vec<Request>,
    ringer: Option<Ringer>,
}

impl Taken {
    /// Drops what is left of it, and wakes who waited. The buffer is kept: the queue swaps it for the next batch.
    pub(crate) fn clear(&mut self) {
        self.requests.clear();
        self.ringer = None;
    }
}

/// Why nothing more is taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shut {
    Closed,
    Failed,
    /// It was opened to be read.
    ReadOnly,
}

impl Shut {
    pub(crate) fn error(self) -> Error {
        match self {
            Self::Closed => Error::new(ErrorKind::Closed, "the store is closed; open it anew"),
            Self::Failed => {
                let message = "the store stopped after a fault; close it and open it anew to go on";
                Error::new(ErrorKind::Failed, message)
            }
            Self::ReadOnly => {
                Error::new(ErrorKind::ReadOnly, "the store was opened to be read; open it for writing to change it")
            }
        }
    }
}

impl Queue {
    pub(crate) fn new(limits: QueueLimits) -> Self {
        Self { limits, state: Mutex::default(), filled: Condvar::new() }
    }

    /// Takes the request in, or gives it back where there is no room. A shut queue refuses it.
    pub(crate) fn push(&self, request: Request) -> Pushed {
        let mut state = self.state.lock();
        if let Some(shut) = state.shut {
            drop(state);
            request.refuse(shut.error());
            return Pushed::In(None);
        }
        let bytes = request.bytes();
        let fits = state.requests.len() < self.limits.commands_max
            && (state.requests.is_empty() || state.bytes.saturating_add(bytes) <= self.limits.bytes_max);
        if !fits {
            // Room is made by taking what is there, whoever waits for it.
            state.is_pressing = true;
            self.filled.notify_one();
            return Pushed::Back(Box::new(request));
        }
        self.admit(&mut state, request, bytes);
        let is_one_of_many = state.requests.len() > SINGLE_MAX;
        Pushed::In(is_one_of_many.then(|| Arc::clone(state.ringer.get_or_insert_default().bell())))
    }

    /// Takes in a request that was admitted before, whether or not there is room.
    pub(crate) fn readmit(&self, request: Request) {
        let mut state = self.state.lock();
        if let Some(shut) = state.shut {
            drop(state);
            return request.refuse(shut.error());
        }
        let bytes = request.bytes();
        self.admit(&mut state, request, bytes);
    }

    fn admit(&self, state: &mut State, request: Request, bytes: usize) {
        state.bytes = state.bytes.saturating_add(bytes);
        let is_full = state.requests.len() >= self.limits.commands_max || state.bytes >= self.limits.bytes_max;
        let is_pressing = !request.is_patient() || is_full;
        state.requests.push(request);
        if is_pressing && !state.is_pressing {
            state.is_pressing = true;
            self.filled.notify_one();
        } else if !state.is_pressing && state.patient_since.is_none() {
            state.patient_since = Some(Instant::now());
            if std::mem::take(&mut state.sleeps_long) {
                self.filled.notify_one();
            }
        }
    }

    /// Waits for requests, for the queue to be shut, or for `patience` to end; then swaps all there is for the empty
    /// `taken`.
    pub(crate) fn take(&self, taken: &mut Taken, patience: Duration) -> Option<Shut> {
        let mut state = self.state.lock();
        let wakes_at = Instant::now() + patience;
        while !state.is_pressing && state.shut.is_none() {
            let until = state.patient_since.map_or(wakes_at, |since| wakes_at.min(since + PATIENCE_MAX));
            state.sleeps_long = state.patient_since.is_none() && patience > PATIENCE_MAX;
            if self.filled.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        std::mem::swap(&mut state.requests, &mut taken.requests);
        std::mem::swap(&mut state.ringer, &mut taken.ringer);
        (state.bytes, state.is_pressing, state.patient_since, state.sleeps_long) = (0, false, None, false);
        let outside = std::mem::take(&mut state.outside);
        let shut = state.shut;
        drop(state);
        outside.into_values().for_each(wake);
        shut
    }

    /// Lets nothing more in and wakes everybody outside. What is inside stays for the writer. The first reason stands,
    /// but where it was that nothing is written.
    pub(crate) fn shut(&self, why: Shut) {
        let mut state = self.state.lock();
        state.shut.take_if(|known| *known == Shut::ReadOnly);
        state.shut.get_or_insert(why);
        let outside = std::mem::take(&mut state.outside);
        drop(state);
        self.filled.notify_one();
        outside.into_values().for_each(wake);
    }

    /// Wakes `waker` when there may be room. Whoever waits already goes on under its number.
    fn wait_outside(&self, number: Option<u64>, waker: &Waker) -> u64 {
        let mut state = self.state.lock();
        let number = number.unwrap_or(state.next_outside);
        state.next_outside = state.next_outside.max(number.saturating_add(1));
        let replaced = state.outside.insert(number, waker.clone());
        drop(state);
        drop(replaced);
        number
    }

    pub(crate) fn is_shut(&self) -> Option<Shut> {
        self.state.lock().shut
    }

    pub(crate) fn len(&self) -> usize {
        self.state.lock().requests.len()
    }
}

/// Waits for room, then hands the request over. Comes to the bell of its batch.
#[derive(Debug)]
pub(crate) struct HandOver {
    queue: Arc<Queue>,
    pushed: Pushed,
    /// Its number among those outside.
    outside: Option<u64>,
}

impl HandOver {
    pub(crate) fn new(queue: Arc<Queue>, pushed: Pushed) -> Self {
        Self { queue, pushed, outside: None }
    }
}

impl Future for HandOver {
    type Output = Option<Arc<Bell>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let request = match std::mem::replace(&mut self.pushed, Pushed::In(None)) {
            Pushed::In(bell) => return Poll::Ready(bell),
            Pushed::Back(request) => request,
        };
        // Outside before trying: room made in between wakes us.
        self.outside = Some(self.queue.wait_outside(self.outside, context.waker()));
        match self.queue.push(*request) {
            Pushed::In(bell) => Poll::Ready(bell),
            back @ Pushed::Back(_) => {
                self.pushed = back;
                Poll::Pending
            }
        }
    }
}

impl Drop for HandOver {
    fn drop(&mut self) {
        if let Some(number) = self.outside {
            // What a waker holds may ask the store as it is dropped, so the lock is given back before.
            let waker = self.queue.state.lock().outside.remove(&number);
            drop(waker);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;
    use crate::engine::index::Index;
    use crate::engine::request::{Carried, Reply};
    use crate::key::Key;
    use crate::record::transitions::{Command, Reporter};

    /// Nobody waits for it.
    fn report() -> Request {
        let key = Key::new("scope", "key").unwrap();
        let hash = Index::new(u64::MAX, 1).hash(&key);
        let by = Reporter { token: 1, born: 1, attempt: 1, was_owner: true };
        let command = Command::Report { by, name: "charge".into(), result: None };
        Request { key, hash, command, carried: Carried::default(), rows: None, report: None, reply: Reply::Nobody }
    }

    #[test]
    fn p3_what_nobody_waits_for_is_taken_soon_by_a_writer_that_would_sleep_for_long() {
        let queue = Arc::new(Queue::new(QueueLimits { commands_max: 9, bytes_max: 9_999 }));
        let (takes, has_taken) = channel();
        let writer = Arc::clone(&queue);
        thread::spawn(move || {
            let mut all = Taken::default();
            assert_eq!(writer.take(&mut all, Duration::from_secs(60 * 60)), None);
            takes.send(all.requests.len()).unwrap();
        });
        while !queue.state.lock().sleeps_long {
            thread::yield_now();
        }
        queue.readmit(report());
        assert_eq!(has_taken.recv_timeout(Duration::from_secs(120)), Ok(1));
    }
}
