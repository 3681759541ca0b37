//! The transaction that redb is yet to be told of: what it does is durable in the journal, and those who asked for it
//! have their answers meanwhile.
//!
//! Invariant: whoever reads finds it told. The writer does that once it has answered; a reader who comes first does it.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use redb::WriteTransaction;

use super::error::engine;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{AtomicBool, Mutex, Ordering};

#[derive(Default)]
pub(super) struct Follows {
    /// Whether there is one, or one has failed: asked at every read.
    is_behind: AtomicBool,
    waits: Mutex<Waits>,
}

#[derive(Default)]
enum Waits {
    #[default]
    Nothing,
    For(Box<WriteTransaction>),
    /// It could not be told.
    Failed {
        has_panicked: bool,
    },
}

impl fmt::Debug for Follows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follows").field("is_behind", &self.is_behind).finish_non_exhaustive()
    }
}

impl Follows {
    /// Leaves this transaction, which commits without a sync, for later.
    pub(super) fn put(&self, transaction: WriteTransaction) {
        *self.waits.lock() = Waits::For(Box::new(transaction));
        self.is_behind.store(true, Ordering::Release);
    }

    /// Tells redb what is left.
    pub(super) fn catch_up(&self) -> Result<()> {
        if !self.is_behind.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut waits = self.waits.lock();
        match std::mem::take(&mut *waits) {
            Waits::Nothing => {}
            Waits::For(transaction) => {
                let told = catch_unwind(AssertUnwindSafe(|| (*transaction).commit().map_err(engine)));
                let has_panicked = told.is_err();
                if let Err(error) = told.unwrap_or_else(|_| Err(Error::new(ErrorKind::Failed, "redb panicked"))) {
                    *waits = Waits::Failed { has_panicked };
                    return Err(error);
                }
            }
            failed @ Waits::Failed { .. } => {
                *waits = failed;
                return Err(Error::new(
                    ErrorKind::Failed,
                    "redb could not be told what is durable; open the store anew",
                ));
            }
        }
        self.is_behind.store(false, Ordering::Release);
        Ok(())
    }

    /// Whether redb panicked as it was told.
    pub(super) fn has_panicked(&self) -> bool {
        matches!(*self.waits.lock(), Waits::Failed { has_panicked: true, .. })
    }
}
