#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

#[cfg(feature = "admin")]
pub mod admin;
mod claim;
mod clock;
mod effect;
mod engine;
mod error;
#[cfg(feature = "export")]
mod export;
#[cfg(feature = "http")]
pub mod http;
mod key;
mod payload;
mod pending;
mod progress;
mod record;
mod resumer;
mod run;
mod step;
mod store;
mod sync;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod trace;

pub use claim::{Busy, Claim, Gone, Rejected, Request};
#[cfg(any(test, feature = "testing"))]
pub use clock::ManualClock;
pub use clock::{Clock, SystemClock, Timestamp};
pub use effect::EffectId;
#[cfg(any(test, feature = "testing"))]
pub use engine::{DiskCall, DiskFault, Loss, SimulatedDisk, Unsynced};
pub use engine::{OpenCheck, ReadRows, ReadTransaction, RowRange, Rows, Table, Transaction};
pub use error::{Error, ErrorKind, Result};
#[cfg(feature = "export")]
pub use export::{Exported, Imported, check_export};
pub use key::{Fingerprint, Key};
#[cfg(feature = "json")]
pub use payload::Json;
pub use payload::{Bincode, Payload};
pub use pending::Pending;
pub use progress::{Cursor, Operations, Position, Progress, State, Unfinished};
pub use record::{Checkpoint, Late, Note, Outcome, Resolution, Revision, Step, StepState};
pub use resumer::{Resumer, ResumerBuilder, ResumerStats};
pub use run::Run;
pub use step::{Failure, Rechecked, StepBuilder, not_applied};
pub use store::{
    Advance, Backup, Builder, Claims, Compacted, Condition, FORMAT_VERSION, LastFault, Migrated, Percentiles, Stats,
    Store, Verified,
};
#[cfg(any(shuttle, loom))]
#[doc(hidden)]
pub use sync::pass_time;

/// For the fuzzer alone: decodes a row and encodes its record again.
#[cfg(feature = "testing")]
#[doc(hidden)]
pub fn fuzz_row(body: &[u8]) -> Option<Vec<u8>> {
    record::format::decode_and_encode(body)
}

/// For the fuzzer alone: the key that a header's line is, strict or not.
#[cfg(all(feature = "testing", feature = "http"))]
#[doc(hidden)]
pub fn fuzz_key_line(line: &[u8], is_strict: bool) -> Option<String> {
    http::key_line(line, is_strict)
}

/// For the fuzzer alone: the key that a request's head carries, or why it carries none; its fingerprint; and which of
/// its headers would be kept of an answer.
#[cfg(all(feature = "testing", feature = "http"))]
#[doc(hidden)]
pub fn fuzz_head(
    parts: &::http::request::Parts,
    is_strict: bool,
) -> (std::result::Result<Option<String>, String>, Fingerprint, ::http::HeaderMap) {
    http::head(parts, is_strict)
}

/// The guide's code, as tests.
#[cfg(doctest)]
#[doc = include_str!("../docs/effects.md")]
pub struct Effects;

/// The guide for operators, likewise.
#[cfg(doctest)]
#[doc = include_str!("../docs/operating.md")]
pub struct Operating;

/// The guide to the page for operators, likewise.
#[cfg(all(doctest, feature = "admin"))]
#[doc = include_str!("../docs/admin.md")]
pub struct Admin;

/// The guide to testing a handler, likewise.
#[cfg(all(doctest, feature = "testing"))]
#[doc = include_str!("../docs/testing.md")]
pub struct Testing;
