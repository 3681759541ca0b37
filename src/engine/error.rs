//! Errors and panics of redb, as errors of ours.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::log::broken_off;
use crate::error::{Error, ErrorKind, Result};

/// An error of redb's as one of ours.
pub(crate) fn engine(error: impl Into<redb::Error>) -> Error {
    use std::io::ErrorKind as Io;
    let error = error.into();
    let (kind, message) = match &error {
        redb::Error::Corrupted(_) => (ErrorKind::Corrupt, "the file is damaged"),
        redb::Error::Io(e) => match e.kind() {
            Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge => (ErrorKind::Full, "the disk is full"),
            Io::UnexpectedEof | Io::InvalidData => (ErrorKind::Corrupt, "the file is damaged or cut short"),
            _ => (ErrorKind::Io, "the disk failed"),
        },
        redb::Error::ValueTooLarge(_) => (ErrorKind::PayloadTooLarge, "the payload is too large for the file"),
        redb::Error::DatabaseAlreadyOpen => (ErrorKind::InUse, "the file is open elsewhere"),
        redb::Error::UpgradeRequired(_) => (ErrorKind::NotAStore, "the file has a format of redb that is too old"),
        redb::Error::PreviousIo => (ErrorKind::Failed, "the disk failed before; reopen the store"),
        redb::Error::RepairAborted => return broken_off(),
        redb::Error::DatabaseClosed => (ErrorKind::Closed, "the store is closed"),
        _ => (ErrorKind::Failed, "the engine failed; reopen the store"),
    };
    Error::because(kind, format!("{message}: {error}"), error)
}

/// Does something that redb may panic in where a page is damaged: to a caller that is an error like any other damage.
pub(crate) fn unwound<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(damaged(&*panic)))
}

/// Drops what is redb's as a panic would, though nobody hears of one: redb then writes nothing any more. Where panics
/// end the process it is only dropped.
pub(super) fn drop_unwinding<T>(held: T) {
    let unwound = catch_unwind(AssertUnwindSafe(move || {
        let _held = held;
        if cfg!(panic = "unwind") {
            resume_unwind(Box::new(()));
        }
    }));
    drop(unwound);
}

fn damaged(panic: &(dyn Any + Send)) -> Error {
    let message = format!("the file is damaged: {}", text_of(panic).unwrap_or("reading it panicked"));
    Error::new(ErrorKind::Corrupt, message)
}

/// What a panic said.
pub(crate) fn text_of(panic: &(dyn Any + Send)) -> Option<&str> {
    panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied())
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// The kind tells a caller what to do next: to make room, to restore a copy, or to open the store anew.
    #[test]
    fn every_error_of_redbs_has_the_kind_that_says_what_to_do() {
        let of_io = |kind: io::ErrorKind| redb::Error::Io(kind.into());
        for (error, kind) in [
            (redb::Error::Corrupted("page 7".to_owned()), ErrorKind::Corrupt),
            (of_io(io::ErrorKind::UnexpectedEof), ErrorKind::Corrupt),
            (of_io(io::ErrorKind::InvalidData), ErrorKind::Corrupt),
            (of_io(io::ErrorKind::StorageFull), ErrorKind::Full),
            (of_io(io::ErrorKind::QuotaExceeded), ErrorKind::Full),
            (of_io(io::ErrorKind::FileTooLarge), ErrorKind::Full),
            (of_io(io::ErrorKind::Other), ErrorKind::Io),
            (redb::Error::ValueTooLarge(1 << 32), ErrorKind::PayloadTooLarge),
            (redb::Error::DatabaseAlreadyOpen, ErrorKind::InUse),
            (redb::Error::UpgradeRequired(1), ErrorKind::NotAStore),
            (redb::Error::PreviousIo, ErrorKind::Failed),
            (redb::Error::RepairAborted, ErrorKind::Cancelled),
            (redb::Error::DatabaseClosed, ErrorKind::Closed),
            (redb::Error::LockPoisoned(std::panic::Location::caller()), ErrorKind::Failed),
        ] {
            let message = error.to_string();
            assert_eq!(engine(error).kind(), kind, "{message}");
        }
    }
}
