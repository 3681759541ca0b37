//! What every type of the face can be used for: sent to threads, held over a panic, kept small.

use std::panic::{RefUnwindSafe, UnwindSafe};

use reentry::{
    Advance, Busy, Checkpoint, Claim, Error, Fingerprint, Gone, Key, Outcome, Pending, Progress, Rejected, Revision,
    Run, Stats, Store, Timestamp, Unfinished, Verified,
};

fn send<T: Send>() {}
fn sync<T: Sync>() {}
fn unpin<T: Unpin>() {}
fn unwind_safe<T: UnwindSafe + RefUnwindSafe>() {}
fn owned<T: 'static>() {}

macro_rules! all {
    ($check:ident: $($type:ty),+ $(,)?) => { $($check::<$type>();)+ };
}

#[test]
fn a_store_is_shared_by_threads_and_tasks() {
    all!(send: Store, Key, Fingerprint, Timestamp, Run, Busy, Claim, Outcome, Checkpoint, Error, Advance, Revision);
    all!(send: Pending<Claim>, Pending<Revision>, Pending<Outcome>, Progress, Unfinished, Stats, Verified);
    all!(send: Gone, Rejected);
    all!(sync: Store, Key, Fingerprint, Timestamp, Run, Busy, Claim, Outcome, Checkpoint, Error, Advance, Progress);
    all!(owned: Store, Run, Busy, Claim, Pending<Claim>, Error);
}

#[test]
fn an_answer_is_awaited_without_being_pinned() {
    all!(unpin: Pending<Claim>, Pending<Revision>, Pending<Outcome>, Pending<Advance>, Pending<bool>);
}

#[test]
fn p7_a_panic_may_pass_by_everything_that_owns() {
    all!(unwind_safe: Store, Key, Fingerprint, Run, Busy, Claim, Pending<Claim>, Outcome, Checkpoint);
}

#[test]
fn an_error_costs_its_callers_little() {
    assert!(size_of::<Error>() <= 48, "{}", size_of::<Error>());
    assert!(size_of::<reentry::Result<Revision>>() <= 48);
}

/// A trait with two blanket implementations, which only a type without `Clone` can choose between.
trait NotClone<Marker> {
    fn holds() {}
}

impl<T> NotClone<()> for T {}

struct IsClone;

impl<T: Clone> NotClone<IsClone> for T {}

#[test]
fn p1_a_run_cannot_be_cloned() {
    // Were `Run: Clone`, the compiler could not tell which implementation is meant.
    <Run as NotClone<_>>::holds();
    <Claim as NotClone<_>>::holds();
}
