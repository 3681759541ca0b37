//! What the threads that wait for one batch sleep by. A thread that is woken by itself costs its waker a call of the
//! system, and most often another processor's sleep; all who sleep by a bell are woken in one.
//!
//! Invariants:
//! 1. A bell rings once, at the latest when its [`Ringer`] is dropped, and from then on nobody sleeps by it.
//! 2. Whoever holds the requests of a batch holds its ringer, and lets go of it last.

use std::sync::Arc;

use crate::sync::Instant;
use crate::sync::crowd::{Condvar, Mutex, MutexGuard, lock, wait};

#[derive(Debug)]
pub(crate) struct Bell {
    state: Mutex<State>,
    rung: Condvar,
}

#[derive(Debug, Default)]
struct State {
    has_rung: bool,
    sleepers: usize,
}

impl Bell {
    fn new() -> Self {
        Self { state: Mutex::default(), rung: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub(super) fn has_rung(&self) -> bool {
        self.state().has_rung
    }

    /// Sleeps until it rings (true) or until the deadline (false).
    pub(super) fn sleep(&self, deadline: Option<Instant>) -> bool {
        let mut state = self.state();
        state.sleepers += 1;
        while !state.has_rung && deadline.is_none_or(|deadline| Instant::now() < deadline) {
            state = wait(&self.rung, state, deadline);
        }
        state.sleepers -= 1;
        state.has_rung
    }
}

/// Rings its bell when it is dropped.
#[derive(Debug)]
pub(crate) struct Ringer(Arc<Bell>);

impl Ringer {
    pub(crate) fn bell(&self) -> &Arc<Bell> {
        &self.0
    }
}

impl Default for Ringer {
    fn default() -> Self {
        Self(Arc::new(Bell::new()))
    }
}

impl Drop for Ringer {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.has_rung = true;
        let is_anybody_here = state.sleepers > 0;
        drop(state);
        if is_anybody_here {
            self.0.rung.notify_all();
        }
    }
}
