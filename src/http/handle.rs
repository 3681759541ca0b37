//! What a server keeps of its layer: figures, and the work that goes on without its client.

use std::sync::Arc;

use tokio::sync::watch;

use crate::sync::{AtomicU64, Ordering};

/// Figures of a layer since it was made; see [`LayerHandle::stats`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LayerStats {
    /// Runs that a handler was given.
    pub runs: u64,
    /// Answers that were kept, or whose operation was ended without keeping them.
    pub kept: u64,
    /// Of these, the ones that were too large, or streamed, and passed on without being kept.
    pub not_captured: u64,
    /// Runs that ended without an outcome, whatever ended them: a retry re-enters.
    pub interrupted: u64,
    /// Answers that went out though the store failed to keep them: a retry re-enters.
    pub not_kept: u64,
    /// Answers that were given again.
    pub replayed: u64,
    /// Requests that were told to come later, since another copy was at work.
    pub busy: u64,
    /// Requests whose key belonged to another one.
    pub rejected: u64,
    /// Requests whose answer is not there to be given again.
    pub gone: u64,
    /// Requests that were refused for what they are: without a key, malformed, too large, without a principal.
    pub refused: u64,
    /// Requests that were refused since the store could not decide.
    pub unavailable: u64,
}

/// One figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Count {
    Runs,
    Kept,
    NotCaptured,
    Interrupted,
    NotKept,
    Replayed,
    Busy,
    Rejected,
    Gone,
    Refused,
    Unavailable,
}

/// How many figures there are.
const COUNTS: usize = Count::Unavailable as usize + 1;

/// The figures of a layer and the work that it has under way; all clones of the layer share it.
///
/// At shutdown: stop accepting, wait until [`idle`](Self::idle), then close the store.
#[derive(Debug)]
pub struct LayerHandle {
    counts: [AtomicU64; COUNTS],
    at_work: watch::Sender<usize>,
}

/// One detached work that is under way, until this is dropped.
pub(super) struct AtWork(Arc<LayerHandle>);

impl LayerHandle {
    pub(super) fn new() -> Self {
        Self { counts: std::array::from_fn(|_| AtomicU64::new(0)), at_work: watch::Sender::new(0) }
    }

    /// Figures of this moment.
    pub fn stats(&self) -> LayerStats {
        let of = |count: Count| self.counts.get(count as usize).map_or(0, |figure| figure.load(Ordering::Relaxed));
        LayerStats {
            runs: of(Count::Runs),
            kept: of(Count::Kept),
            not_captured: of(Count::NotCaptured),
            interrupted: of(Count::Interrupted),
            not_kept: of(Count::NotKept),
            replayed: of(Count::Replayed),
            busy: of(Count::Busy),
            rejected: of(Count::Rejected),
            gone: of(Count::Gone),
            refused: of(Count::Refused),
            unavailable: of(Count::Unavailable),
        }
    }

    /// How many handlers are at work detached from their clients' connections.
    pub fn at_work(&self) -> usize {
        *self.at_work.borrow()
    }

    /// Waits until no handler is at work detached. Put a time-out around it: what is still at work then is interrupted
    /// by the end of the process, as it would be by a crash, and stays unfinished.
    pub async fn idle(&self) {
        // The sender is here, so this cannot fail.
        drop(self.at_work.subscribe().wait_for(|at_work| *at_work == 0).await);
    }

    pub(super) fn count(&self, count: Count) {
        if let Some(figure) = self.counts.get(count as usize) {
            figure.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl AtWork {
    pub(super) fn begin(handle: &Arc<LayerHandle>) -> Self {
        handle.at_work.send_modify(|at_work| *at_work += 1);
        Self(Arc::clone(handle))
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.at_work.send_modify(|at_work| *at_work -= 1);
    }
}
