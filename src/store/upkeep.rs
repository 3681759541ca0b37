//! What is done to a store that nobody has open.

use std::path::Path;

use super::Builder;
use crate::engine::{compact, migrate};
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;

/// The format of the files that this version of the crate writes, and the newest that it reads: `docs/format.md`.
pub use crate::engine::FORMAT_VERSION;

/// What [`Builder::compact`] came to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compacted {
    /// How many bytes the file had.
    pub bytes_before: u64,
    /// How many it has now.
    pub bytes_after: u64,
}

/// What [`Builder::migrate`] came to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Migrated {
    /// The format that the file had.
    pub from: u32,
    /// The one that it has now. Where it is the same the file was not changed.
    pub to: u32,
}

impl Builder {
    /// Gives back what the file of a store that nobody has open holds and does not use. While a store serves, what is
    /// freed is used again, so this is for one that will not become as large again soon. It moves most of the file:
    /// have a copy.
    ///
    /// **Durable when it returns**; a crash meanwhile leaves the store whole. What
    /// [`on_open_progress`](Self::on_open_progress) is told goes half-way while the file is opened, and on while it is
    /// moved; a panic of it does not stop the moving.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open), but that nothing is created: [`ErrorKind::Io`] where there is no such file.
    pub fn compact(self, path: impl AsRef<Path>) -> Result<Compacted> {
        let (_, options) = self.check_values()?;
        let [bytes_before, bytes_after] = compact(path.as_ref(), &options.opening)?;
        Ok(Compacted { bytes_before, bytes_after })
    }

    /// Brings the file of a store that nobody has open to the newest format, as [`open`](Self::open) does: this is for
    /// whoever wants to say when. It is one commit, for which every page of the file is checked; before it is whole
    /// nothing is changed. Older versions of the crate refuse the file from then on, so have a copy.
    ///
    /// **Durable when it returns.**
    ///
    /// # Errors
    ///
    /// As for [`compact`](Self::compact); [`ErrorKind::NewerFormat`] where it has a newer one than this version of the
    /// crate knows.
    pub fn migrate(self, path: impl AsRef<Path>) -> Result<Migrated> {
        let (_, options) = self.check_values()?;
        let [from, to] = migrate(path.as_ref(), &options.opening)?;
        Ok(Migrated { from, to })
    }
}
