//! What redb is yet to be told of: it is durable in the journal, and those who asked for it have their answers.
//!
//! Invariants:
//! 1. Whoever reads one row finds it here first, and then in redb; whoever reads many lets redb be told before. Only
//!    retention, which does so in each batch, looks at both.
//! 2. While a write transaction of redb's is open nothing is ahead of it.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use redb::Durability;

use super::changes::Changes;
use super::error::engine;
use super::journal::not_without_sync;
use super::latest::Latest;
use super::left::Redb;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{AtomicBool, Ordering, RwLock, RwLockReadGuard};

#[derive(Default)]
pub(super) struct Follows {
    /// Whether something is ahead of redb, or could not be told: asked at every read.
    is_behind: AtomicBool,
    ahead: RwLock<Ahead>,
}

/// What is ahead of redb.
#[derive(Default)]
pub(super) struct Ahead {
    pub(super) changes: Changes,
    /// Why redb could not be told of it, where it could not; and whether it panicked as it was told.
    failed: Option<ErrorKind>,
    has_panicked: bool,
}

impl fmt::Debug for Follows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follows").field("is_behind", &self.is_behind).finish_non_exhaustive()
    }
}

impl Follows {
    /// Leaves these changes for later.
    pub(super) fn put(&self, changes: &Changes) {
        let mut ahead = self.ahead.write();
        ahead.changes.absorb(changes);
        self.is_behind.store(true, Ordering::Release);
    }

    /// What redb does not know yet, if there is anything. While it is held redb is told nothing.
    pub(super) fn ahead(&self) -> Option<RwLockReadGuard<'_, Ahead>> {
        // Whoever waited for it while another told redb finds nothing.
        self.is_behind().then(|| self.ahead.read()).filter(|_| self.is_behind())
    }

    fn is_behind(&self) -> bool {
        self.is_behind.load(Ordering::Acquire)
    }

    /// Tells redb what it does not know yet, without a sync.
    pub(super) fn catch_up(&self, database: &Redb, latest: &Latest) -> Result<()> {
        if !self.is_behind() {
            return Ok(());
        }
        let mut ahead = self.ahead.write();
        if let Some(kind) = ahead.failed {
            return Err(untold(kind));
        }
        // Another told it meanwhile.
        if !self.is_behind() {
            return Ok(());
        }
        let told = catch_unwind(AssertUnwindSafe(|| {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(Durability::None).map_err(not_without_sync)?;
            ahead.changes.apply(&transaction)?;
            latest.over(|| transaction.commit()).map_err(engine)
        }));
        ahead.has_panicked = told.is_err();
        let told = told.unwrap_or_else(|_| Err(Error::new(ErrorKind::Failed, "redb panicked")));
        ahead.failed = told.as_ref().err().map(Error::kind);
        if told.is_ok() {
            ahead.changes = Changes::default();
            self.is_behind.store(false, Ordering::Release);
        }
        told
    }

    /// Fails where redb could not be told.
    pub(super) fn check(&self) -> Result<()> {
        self.ahead().and_then(|ahead| ahead.failed).map_or(Ok(()), |kind| Err(untold(kind)))
    }

    /// Whether redb panicked as it was told.
    pub(super) fn has_panicked(&self) -> bool {
        self.ahead().is_some_and(|ahead| ahead.has_panicked)
    }
}

/// Where the disk was full the next batch mends that; after anything else nothing does.
fn untold(kind: ErrorKind) -> Error {
    match kind {
        ErrorKind::Full => Error::new(kind, "redb could not be told what is durable, since the disk was full"),
        _ => Error::new(ErrorKind::Failed, "redb could not be told what is durable; open the store anew"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p9_nothing_of_what_is_ahead_is_shown() {
        let (follows, mut changes) = (Follows::default(), Changes::default());
        changes.put_body(7, b"a payload").unwrap();
        follows.put(&changes);
        assert_eq!(follows.ahead().unwrap().changes.body(7), Some(&b"a payload"[..]));
        assert_eq!(format!("{follows:?}"), "Follows { is_behind: true, .. }");
        assert_eq!(format!("{:?}", Latest::default()), "Latest { .. }");
    }
}
