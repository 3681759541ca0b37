//! Nobody hangs: a fault that keeps its callers waiting for more than five seconds ends the test, by its name.

use std::io::Write as _;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{io, process, thread};

/// Where the whole machine stands still, one of these passes and no more.
const TICK: Duration = Duration::from_millis(50);

/// How many of them a fault may take: five seconds. It takes a few milliseconds.
const TICKS_MAX: u32 = 100;

/// What is tried, and how many ticks it has taken.
type Tried = (String, u32);

/// Looks at what is tried until it is dropped.
pub(crate) struct Watchdog {
    tried: Arc<Mutex<Tried>>,
    _until: Sender<()>,
}

impl Watchdog {
    pub(crate) fn new() -> Self {
        let tried = Arc::new(Mutex::new(Tried::default()));
        let (until, is_over) = channel::<()>();
        let seen = Arc::clone(&tried);
        thread::spawn(move || {
            while is_over.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                let mut tried = seen.lock().unwrap_or_else(PoisonError::into_inner);
                tried.1 += 1;
                if tried.1 > TICKS_MAX {
                    // Whoever hangs keeps the test from ending in any other way, and its output from being shown.
                    drop(writeln!(io::stderr(), "P10: somebody hangs: {}", tried.0));
                    process::exit(1);
                }
            }
        });
        Self { tried, _until: until }
    }

    /// From here on this is tried.
    pub(crate) fn watch(&self, what: String) {
        *self.tried.lock().unwrap_or_else(PoisonError::into_inner) = (what, 0);
    }
}
