#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod claim;
mod clock;
mod engine;
mod error;
mod key;
mod payload;
mod pending;
mod progress;
mod record;
mod run;
mod store;

pub use claim::{Busy, Claim, Gone, Rejected};
#[cfg(any(test, feature = "testing"))]
pub use clock::ManualClock;
pub use clock::{Clock, SystemClock, Timestamp};
pub use engine::OpenCheck;
#[cfg(any(test, feature = "testing"))]
pub use engine::{Loss, SimulatedDisk, Unsynced};
pub use error::{Error, ErrorKind, Result};
pub use key::{Fingerprint, Key};
#[cfg(feature = "json")]
pub use payload::Json;
pub use payload::{Bincode, Payload};
pub use pending::Pending;
pub use progress::{Progress, State, Unfinished};
pub use record::{Checkpoint, Outcome, Revision};
pub use run::Run;
pub use store::{Advance, Builder, Stats, Store, Verified};

/// For the fuzzer alone: decodes a row and encodes its record again.
#[cfg(feature = "testing")]
#[doc(hidden)]
pub fn fuzz_row(body: &[u8]) -> Option<Vec<u8>> {
    record::format::decode_and_encode(body)
}
