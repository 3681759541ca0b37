//! Calls of many threads on few keys are linearizable.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests panic")]

#[path = "../support/calls.rs"]
mod calls;
mod checker;
#[path = "../support/linearizable.rs"]
mod linearizable;
#[path = "../support/promises.rs"]
mod promises;
#[path = "../support/mod.rs"]
mod support;
