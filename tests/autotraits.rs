//! What every type of the face can be used for: sent to threads, held over a panic, kept small.

use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::Duration;

use reentry::{
    Advance, Backup, Busy, Checkpoint, Claim, Claims, Compacted, Condition, Cursor, EffectId, Error, Exported, Failure,
    Fingerprint, Gone, Imported, Key, LastFault, Late, Migrated, Note, Operations, Outcome, Pending, Percentiles,
    Position, Progress, Rechecked, Rejected, Request, Resolution, Result, Resumer, ResumerBuilder, ResumerStats,
    Revision, Run, State, Stats, Step, StepBuilder, StepState, Store, Table, Timestamp, Unfinished, Verified,
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
    all!(send: Gone, Rejected, Backup, Claims, Condition, LastFault, Percentiles<Duration>);
    all!(sync: Backup, Claims, Condition, LastFault, Percentiles<Duration>);
    all!(sync: Store, Key, Fingerprint, Timestamp, Run, Busy, Claim, Outcome, Checkpoint, Error, Advance, Progress);
    all!(owned: Store, Run, Busy, Claim, Pending<Claim>, Error);
}

#[test]
fn what_is_listed_and_what_a_copy_came_to_goes_to_other_threads() {
    all!(send: Operations, Cursor, Exported, Imported, Compacted, Migrated);
    all!(sync: Operations, Cursor, Exported, Imported, Compacted, Migrated);
    all!(owned: Operations, Cursor, Exported, Imported, Compacted, Migrated);
    assert!(size_of::<Cursor>() == 8);
}

#[test]
fn what_is_told_of_steps_is_shared_and_kept() {
    all!(send: EffectId, Step, StepState, Note, Late, Resolution, Failure, Request, Position, State, Table);
    all!(sync: EffectId, Step, StepState, Note, Late, Resolution, Failure, Position, State, Table, Unfinished);
    all!(unwind_safe: EffectId, Step, StepState, Note, Late, Resolution, Position, Progress, Table);
    all!(owned: EffectId, Step, Note, Late, Resolution, Failure, Request, Resumer, ResumerBuilder, Table);
    assert!(size_of::<EffectId>() == 16 && size_of::<Table>() <= 16);
}

#[test]
fn a_resumer_is_started_and_stopped_from_any_thread() {
    all!(send: Resumer, ResumerBuilder, ResumerStats);
    all!(sync: Resumer, ResumerBuilder, ResumerStats);
}

/// A step borrows its run, and goes where that goes.
#[test]
fn a_step_and_its_effect_may_be_handed_to_another_thread() {
    all!(send: StepBuilder<'_>, Rechecked<'_, fn(EffectId) -> Result<Option<()>, Failure>>);
}

/// The futures of a step can be spawned on a runtime of many threads, where the effect's can.
#[test]
fn p4_a_steps_future_is_send_where_its_effects_future_is() {
    fn is_send<T: Send>(_: T) {}
    async fn effect(_: EffectId) -> Result<String, Failure> {
        std::future::ready(Ok("paid".to_owned())).await
    }
    async fn find(_: EffectId) -> Result<Option<String>, Failure> {
        std::future::ready(Ok(None)).await
    }
    // Never run: it is there to compile.
    let _ = |run: &mut Run| {
        is_send(run.step("charge").run_keyed_async(effect));
        is_send(run.step("charge").run_at_most_once_async(effect));
        is_send(run.step("charge").recheck_async(find).run_async(effect));
    };
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
    assert!(size_of::<Result<Revision>>() <= 48);
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

#[test]
fn the_kits_world_goes_where_a_handler_goes() {
    use reentry::testing::{Count, CrashTest, Expected, Mistake, MistakeKind, Report, Unanswered, World};
    all!(send: World, Report, Mistake, MistakeKind, Count, Expected, Unanswered);
    all!(sync: World, Report, Mistake, MistakeKind, Count, Expected, Unanswered);
    all!(owned: World, Report, CrashTest<'static>, Unanswered);
}
