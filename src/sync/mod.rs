//! What threads meet on: locks, atomics, threads, and the time they wait by. The one room that says what these are, so
//! that a model checker can take their place and try the orders in which threads may run.
//!
//! Without a cfg they are those of `parking_lot` and the standard library, by their names and at no cost. Under
//! `--cfg shuttle`, which tries orders of whole scenarios by chance, and under `--cfg loom`, which tries every order of
//! small parts, the same names lead to the checker's.
//!
//! Invariants:
//! 1. Whatever one thread does that another can see goes through here, or is done between two uses of it.
//! 2. Nothing of the checker's is used while redb holds a lock of its own, which the checker knows nothing of: what
//!    redb calls takes what is [`plain`]. A plain lock is never held where the checker may let another thread run.

#[cfg(any(shuttle, loom))]
mod modelled;

#[cfg(any(shuttle, loom))]
pub use modelled::pass_time;
#[cfg(any(shuttle, loom))]
pub(crate) use modelled::*;
#[cfg(not(any(shuttle, loom)))]
pub(crate) use ordinary::*;

/// What is the same under a model checker: for what redb calls while it holds locks of its own.
pub(crate) mod plain {
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    pub(crate) use std::thread;
    pub(crate) use std::time::Instant;

    pub(crate) use parking_lot::{Mutex, RwLock};
}

#[cfg(not(any(shuttle, loom)))]
mod ordinary {
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    pub(crate) use std::time::Instant;
    pub(crate) use std::{thread, thread_local};

    pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard};

    /// For many threads that wait for one thing: those of the standard library wake all in one call of the system,
    /// where `parking_lot`'s wake one, which wakes the next.
    pub(crate) mod crowd {
        use std::sync::PoisonError;
        pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
        use std::time::Instant;

        pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
            mutex.lock().unwrap_or_else(PoisonError::into_inner)
        }

        /// Waits until notified or until the deadline; also without either.
        pub(crate) fn wait<'m, T>(
            condvar: &Condvar,
            held: MutexGuard<'m, T>,
            deadline: Option<Instant>,
        ) -> MutexGuard<'m, T> {
            match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                None => condvar.wait(held).unwrap_or_else(PoisonError::into_inner),
                Some(left) => condvar.wait_timeout(held, left).unwrap_or_else(PoisonError::into_inner).0,
            }
        }
    }
}
