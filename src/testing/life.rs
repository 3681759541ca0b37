//! One process: from its start until it is killed, or until nobody asks anything of it any more.
//!
//! Invariants:
//! 1. What is dead does nothing: the disk takes no call of it, the world counts nothing of it.
//! 2. It dies at one moment for the disk and for the world: both ask under the same lock.

use std::io;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use super::kill::{Calls, Kill, Moment};
use crate::engine::{Disk, SimulatedDisk};
use crate::store::Store;
use crate::sync::{Condvar, Instant, Mutex, MutexGuard};

/// What unwinds through a handler whose process was killed at a call of the world.
struct Killed;

/// Stops what runs on this thread, as a killed process stops. Nothing is printed: nothing went wrong.
pub(super) fn stop() -> ! {
    resume_unwind(Box::new(Killed))
}

/// One process.
#[derive(Debug)]
pub(super) struct Life {
    kill: Option<Kill>,
    /// How many calls of the disk it would make if it were not killed, where that is known.
    disk_calls: Option<usize>,
    /// How long each sync takes, unless the handler returns meanwhile.
    sync_takes: Option<Duration>,
    vital: Mutex<Vital>,
    returned: Condvar,
    store: Mutex<Option<Store>>,
}

#[derive(Debug, Default)]
struct Vital {
    calls: Calls,
    /// Whether its handler was called, and the store is not being closed: what it does before and after says nothing
    /// about the handler.
    is_at_work: bool,
    /// Whether it dies at the next call.
    is_doomed: bool,
    /// Where it was killed.
    died: Option<String>,
    has_returned: bool,
    /// What it did last, for who reads where it was killed.
    last: String,
}

/// What becomes of a call of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Answered,
    RequestLost,
    AnswerLost,
}

impl Life {
    pub(super) fn new(kill: Option<Kill>, disk_calls: Option<usize>, sync_takes: Option<Duration>) -> Self {
        let (vital, returned, store) = (Mutex::default(), Condvar::new(), Mutex::default());
        Self { kill, disk_calls, sync_takes, vital, returned, store }
    }

    /// Where it was killed; none while it lives.
    pub(super) fn died(&self) -> Option<String> {
        self.vital.lock().died.clone()
    }

    pub(super) fn is_dead(&self) -> bool {
        self.vital.lock().died.is_some()
    }

    pub(super) fn calls(&self) -> Calls {
        self.vital.lock().calls
    }

    /// The store, from when it was opened until it is closed.
    pub(super) fn store(&self) -> Option<Store> {
        self.store.lock().clone()
    }

    pub(super) fn opened(&self, store: Store) {
        *self.store.lock() = Some(store);
    }

    /// Closes the store.
    pub(super) fn closes(&self) {
        self.vital.lock().is_at_work = false;
        let store = self.store.lock().take();
        // What closing came to is nothing to a process that ends.
        drop(store.map(|store| store.close()));
    }

    /// Notes that the handler is called.
    pub(super) fn enters(&self, attempt: usize) {
        let mut vital = self.vital.lock();
        (vital.is_at_work, vital.has_returned) = (true, false);
        vital.last = format!("in attempt {attempt}, before any call of the world");
    }

    /// Notes that the handler has returned, with success or not. Returns whether anybody heard it: a dead process tells
    /// nothing.
    pub(super) fn returns(&self, is_success: bool, last: String) -> bool {
        let mut vital = self.vital.lock();
        (vital.has_returned, vital.last) = (true, last);
        if vital.is_doomed {
            self.die(&mut vital, String::new());
        }
        let is_heard = vital.died.is_none();
        if is_success && self.kill.is_some_and(|kill| kill.moment == Moment::Told) {
            self.die(&mut vital, "as soon as the client was told that it is done".to_owned());
        }
        self.returned.notify_all();
        is_heard
    }

    /// Begins a call of the world. Does not return where the process is dead, or dies here.
    pub(super) fn begins(&self, what: &str) -> (usize, Fate) {
        let mut vital = self.vital.lock();
        if vital.died.is_some() {
            drop(vital);
            stop();
        }
        let nth = vital.calls.world;
        vital.calls.world += 1;
        let moment = self.kill.map(|kill| kill.moment);
        if vital.is_doomed || moment == Some(Moment::BeforeWorld(nth)) {
            self.die(&mut vital, format!("before {what}"));
            drop(vital);
            stop();
        }
        let fate = match moment {
            Some(Moment::RequestLost(lost)) if lost == nth => Fate::RequestLost,
            Some(Moment::AnswerLost(lost)) if lost == nth => Fate::AnswerLost,
            _ => Fate::Answered,
        };
        (nth, fate)
    }

    /// Ends a call of the world. Does not return where the process is dead, or dies here.
    pub(super) fn ends(&self, nth: usize, what: &str) {
        let mut vital = self.vital.lock();
        if vital.died.is_none() {
            match self.kill.map(|kill| kill.moment) {
                Some(Moment::Unheard(killed)) if killed == nth => {
                    self.die(&mut vital, format!("after {what}, before its answer"));
                }
                Some(Moment::AfterWorld(killed)) if killed == nth => vital.is_doomed = true,
                _ => {}
            }
        }
        vital.last = format!("after {what}");
        if vital.died.is_some() {
            drop(vital);
            stop();
        }
    }

    fn die(&self, vital: &mut MutexGuard<'_, Vital>, place: String) {
        let (Some(kill), None) = (self.kill, &vital.died) else { return };
        let place = if vital.is_doomed { format!("{}, behind its answer", vital.last) } else { place };
        let nth = vital.calls.disk;
        let of = self.disk_calls.map(|calls| format!(" of {}", calls.max(nth))).unwrap_or_default();
        let at = match kill.moment {
            // It says so itself.
            Moment::BeforeDisk(_) | Moment::AfterDisk(_) => String::new(),
            _ => format!("; after disk call {nth}{of}"),
        };
        vital.died = Some(format!("{} {place}{at}", kill.death));
    }

    /// Does one call of the disk, if it is to be done at all.
    fn call(&self, what: &str, call: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut vital = self.vital.lock();
        if vital.died.is_some() {
            return Err(dead());
        }
        if !vital.is_at_work {
            return call();
        }
        let nth = vital.calls.disk;
        vital.calls.disk += 1;
        let moment = self.kill.map(|kill| kill.moment);
        let of = self.disk_calls.map(|calls| format!(" of {}", calls.max(nth + 1))).unwrap_or_default();
        let place = |side| format!("{side} disk call {}{of} ({what}), ", nth + 1);
        if vital.is_doomed || moment == Some(Moment::BeforeDisk(nth)) {
            let place = place("before") + &vital.last;
            self.die(&mut vital, place);
            return Err(dead());
        }
        let result = call();
        if moment == Some(Moment::AfterDisk(nth)) {
            let place = place("after") + &vital.last;
            self.die(&mut vital, place);
            return Err(dead());
        }
        result
    }

    /// Lets a sync take its time: whoever does not wait for it goes on meanwhile.
    fn lingers(&self) {
        if let Some(span) = self.sync_takes {
            let mut vital = self.vital.lock();
            if !vital.has_returned && vital.died.is_none() {
                self.returned.wait_until(&mut vital, Instant::now() + span);
            }
        }
    }
}

fn dead() -> io::Error {
    io::Error::other("the process is dead")
}

/// A disk that a process writes to as long as it lives.
#[derive(Debug)]
pub(super) struct Mortal {
    pub(super) disk: SimulatedDisk,
    pub(super) life: Arc<Life>,
}

impl Disk for Mortal {
    fn len(&self) -> io::Result<u64> {
        self.disk.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.read(offset, out)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.life.call("a write", || self.disk.write(offset, data))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.life.call("a change of the file's length", || self.disk.set_len(len))
    }

    fn sync(&self) -> io::Result<()> {
        self.life.lingers();
        self.life.call("a sync", || self.disk.sync())
    }
}
