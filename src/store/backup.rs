//! A copy of the store's file, made while it serves.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use super::Store;
use crate::clock::Timestamp;
use crate::engine::{Made, OnProgress};
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;

/// What [`Store::backup`] made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backup {
    /// Operations in it, tombstones among them.
    pub operations: u64,
    /// Those of them that were unfinished.
    pub unfinished: u64,
    /// Bytes of the copy.
    pub bytes: u64,
    /// The moment that it shows, by the store's time.
    pub at: Timestamp,
}

impl Store {
    /// Makes a copy of the store's file at `path`, while the store serves: all that was acknowledged before this was
    /// called is in it, and it shows one moment, the server's own rows too. It is a store like any other: put it in the
    /// place of the original, or open it beside it. No claim waits for it.
    ///
    /// **Durable when it returns**, and checked: every page was read back. The file is readable by its owner only; it
    /// appears under its name when it is whole, and never in the place of another.
    ///
    /// What was acknowledged *after* it a store that is opened from it does not know; the guide `docs/operating.md`
    /// says what that means. A task gives the call to a thread that may block.
    ///
    /// ```
    /// use reentry::{Claim, Fingerprint, Key, Store};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let (path, copy) = (folder.path().join("orders.reentry"), folder.path().join("monday.reentry"));
    /// let store = Store::open(&path)?;
    /// let key = Key::new("orders", "1")?;
    /// let Claim::Run(run) = store.claim(&key, Fingerprint::of("two pizzas")).wait()? else { panic!("it is new") };
    /// run.complete(&"eaten".to_owned()).wait()?;
    /// store.backup(&copy)?;
    /// let restored = Store::open(&copy)?;
    /// let claim = restored.claim(&key, Fingerprint::of("two pizzas")).wait()?;
    /// assert!(matches!(claim, Claim::Replay(_)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Nothing is left at `path` then: [`ErrorKind::Exists`] where something stands there, [`ErrorKind::InUse`] where
    /// another copy is being made there, [`ErrorKind::Full`] where there is no room for it, [`ErrorKind::Corrupt`]
    /// where the store's own file is damaged, [`ErrorKind::Io`] where it cannot be read or written, or where the disk
    /// that the copy goes to cannot keep up with what claims write; [`ErrorKind::Closed`], [`ErrorKind::Failed`].
    pub fn backup(&self, path: impl AsRef<Path>) -> Result<Backup> {
        self.backup_with(path, |_| ControlFlow::Continue(()))
    }

    /// As [`backup`](Self::backup), telling from time to time which share of the work is done, 0.0 to 1.0. Where that
    /// answers [`ControlFlow::Break`], the copy is given up and nothing is left of it.
    ///
    /// ```
    /// use std::ops::ControlFlow;
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let copy = folder.path().join("monday.reentry");
    /// let store = reentry::Store::builder().in_memory()?;
    /// store.backup_with(&copy, |share| {
    ///     eprintln!("copying: {:.0} %", share * 100.0);
    ///     ControlFlow::Continue(())
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`backup`](Self::backup), and [`ErrorKind::Cancelled`].
    ///
    /// # Panics
    ///
    /// Only where `progress` does: that breaks the copy off too.
    pub fn backup_with(
        &self,
        path: impl AsRef<Path>,
        progress: impl Fn(f64) -> ControlFlow<()> + Send + Sync + 'static,
    ) -> Result<Backup> {
        let progress: Arc<OnProgress> = Arc::new(progress);
        self.engine.back_up(path.as_ref(), &progress).map(Backup::of)
    }

    /// As [`backup_with`](Self::backup_with), onto a simulated disk, which must be empty.
    ///
    /// # Errors
    ///
    /// As for [`backup_with`](Self::backup_with).
    #[cfg(any(test, feature = "testing"))]
    pub fn backup_onto(
        &self,
        disk: &crate::SimulatedDisk,
        progress: impl Fn(f64) -> ControlFlow<()> + Send + Sync + 'static,
    ) -> Result<Backup> {
        let (disk, progress): (Arc<dyn crate::engine::Disk>, Arc<OnProgress>) =
            (Arc::new(disk.clone()), Arc::new(progress));
        self.engine.copy_to(&disk, &progress).map(Backup::of)
    }
}

impl Backup {
    fn of(Made { kept, bytes, at }: Made) -> Self {
        Self { operations: kept.operations, unfinished: kept.unfinished, bytes, at }
    }
}
