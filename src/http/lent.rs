//! The run that the layer lends to the handler.
//!
//! Invariants:
//! 1. The layer owns the run; a handler has it as long as it holds what was lent, and nobody else meanwhile.
//! 2. Once the layer has closed the slot nobody is lent anything, and a run that comes back is dropped (P7).

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use http::Extensions;
use tokio::sync::{Mutex, OwnedMappedMutexGuard, OwnedMutexGuard};

use super::handle::{Count, LayerHandle};
use crate::run::Run;
use crate::sync::{AtomicBool, Ordering};

/// The run of the request that a handler serves: for its steps, its checkpoints, and the ids it sends downstream.
///
/// As an extractor of axum (feature `axum`) it is an argument of the handler, `Idempotent(mut run): Idempotent`, or
/// `Option<Idempotent>` where requests without a key are served too. Anywhere else it is taken from the request's
/// extensions with [`of`](Self::of).
///
/// The layer ends the run with the response, so a handler need not. One that writes rows of its own in the same commit
/// ends it by [`complete_with`](Run::complete_with), with a [`StoredResponse`](super::StoredResponse).
#[derive(Debug)]
pub struct Idempotent(pub LentRun);

/// A run that was lent by the layer: a [`Run`], in all that it can do. It goes back when it is dropped.
///
/// Moved into a task that outlives the response it keeps the operation owned: the response goes out and is no outcome,
/// copies of the request are told to come later, and what the task completes is what they get then.
pub struct LentRun {
    run: OwnedMappedMutexGuard<Option<Run>, Run>,
    // Dropped behind the run, so that it is back when this looks.
    _back: Back,
}

/// Where the run lies while nobody has it.
#[derive(Debug, Clone)]
pub(super) struct Slot(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    run: Arc<Mutex<Option<Run>>>,
    is_closed: AtomicBool,
    /// Where a run that comes back too late is counted.
    handle: Arc<LayerHandle>,
}

/// The layer's own side of the slot, which closes it when it is dropped.
#[derive(Debug)]
pub(super) struct Lender(Slot);

struct Back(Slot);

impl Idempotent {
    /// The run of the request with these extensions; none where the request has no key or did not come through the
    /// layer, or where somebody has the run already.
    pub fn of(extensions: &Extensions) -> Option<Self> {
        let slot = extensions.get::<Slot>()?;
        let guard = Arc::clone(&slot.0.run).try_lock_owned().ok()?;
        let run = OwnedMutexGuard::try_map(guard, Option::as_mut).ok()?;
        Some(Self(LentRun { run, _back: Back(slot.clone()) }))
    }
}

impl Lender {
    pub(super) fn new(run: Run, handle: Arc<LayerHandle>) -> Self {
        let run = Arc::new(Mutex::new(Some(run)));
        Self(Slot(Arc::new(Inner { run, is_closed: AtomicBool::new(false), handle })))
    }

    /// What the handler finds the run by.
    pub(super) fn slot(&self) -> Slot {
        self.0.clone()
    }

    /// Lends no more, and gives back the run; none where the handler has handed it on.
    pub(super) fn close(&self) -> Option<Run> {
        self.0.0.is_closed.store(true, Ordering::SeqCst);
        self.0.take()
    }
}

/// A handler that panicked, or whose task was dropped, may have left the slot in something that lives on.
impl Drop for Lender {
    fn drop(&mut self) {
        drop(self.close());
    }
}

impl Drop for Back {
    fn drop(&mut self) {
        if self.0.0.is_closed.load(Ordering::SeqCst)
            && let Some(run) = self.0.take()
        {
            self.0.0.handle.count(if run.is_over() { Count::Kept } else { Count::Interrupted });
        }
    }
}

impl Slot {
    fn take(&self) -> Option<Run> {
        self.0.run.try_lock().ok()?.take()
    }
}

impl Deref for LentRun {
    type Target = Run;

    fn deref(&self) -> &Run {
        &self.run
    }
}

impl DerefMut for LentRun {
    fn deref_mut(&mut self) -> &mut Run {
        &mut self.run
    }
}

impl fmt::Debug for LentRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LentRun").field(&**self).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Claim, Fingerprint, Key, Store};

    fn lender(store: &Store) -> Lender {
        match store.claim(&Key::new("s", "k").unwrap(), Fingerprint::of("")).wait().unwrap() {
            Claim::Run(run) => Lender::new(run, Arc::new(LayerHandle::new())),
            other => panic!("expected a run, got {other:?}"),
        }
    }

    fn extensions(lender: &Lender) -> Extensions {
        let mut extensions = Extensions::new();
        extensions.insert(lender.slot());
        extensions
    }

    #[test]
    fn p1_the_run_is_lent_to_one_at_a_time_and_comes_back() {
        let store = Store::builder().in_memory().unwrap();
        let lender = lender(&store);
        let extensions = extensions(&lender);
        let Idempotent(run) = Idempotent::of(&extensions).unwrap();
        assert_eq!(run.attempt(), 1);
        assert!(Idempotent::of(&extensions).is_none(), "it is lent already");
        drop(run);
        assert!(Idempotent::of(&extensions).is_some());
        assert!(lender.close().is_some());
        assert!(Idempotent::of(&extensions).is_none(), "it is closed");
    }

    #[test]
    fn p7_a_run_that_comes_back_too_late_is_free_at_that_moment() {
        let store = Store::builder().in_memory().unwrap();
        let lender = lender(&store);
        let extensions = extensions(&lender);
        let lent = Idempotent::of(&extensions).unwrap();
        assert!(lender.close().is_none());
        drop(lender);
        assert_eq!(store.stats().unwrap().owned, 1);
        drop(lent);
        assert_eq!(store.stats().unwrap().owned, 0, "though the extensions live on");
        drop(extensions);
    }

    #[test]
    fn p7_a_lender_that_is_dropped_frees_the_run_though_its_slot_lives_on() {
        let store = Store::builder().in_memory().unwrap();
        let lender = lender(&store);
        let extensions = extensions(&lender);
        drop(lender);
        assert_eq!(store.stats().unwrap().owned, 0);
        assert!(Idempotent::of(&extensions).is_none());
    }
}
