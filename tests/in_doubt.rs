//! A step in doubt, which has an intent and no result: what may become of it is said by how it is guarded, or by
//! somebody who found out. It is never run again silently.

mod support;

use std::cell::Cell;
use std::error::Error as _;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use reentry::{
    EffectId, ErrorKind, Failure, Loss, ManualClock, Resolution, Result, Run, SimulatedDisk, Step, StepState, Store,
    not_applied,
};
use support::{MODES, Mode, START, after_a_cut, does, guard, key, kind, never, run, settle, step_of, times_out};

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

fn in_memory() -> Store {
    Store::builder().in_memory().unwrap()
}

/// An error with a code, as clients of other services have them.
#[derive(Debug)]
struct BankError(u32);

impl fmt::Display for BankError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the bank answered {}", self.0)
    }
}

impl std::error::Error for BankError {}

/// A new run of an operation whose step "charge" is in doubt since the run before.
fn run_in_doubt(store: &Store, name: &str) -> Run {
    let mut first = run(store, &key(name));
    times_out(&mut first, "charge");
    drop(first);
    run(store, &key(name))
}

#[track_caller]
fn assert_state(store: &Store, name: &str, state: StepState) {
    settle(store);
    assert_eq!(step_of(store, &key(name), "charge").unwrap().state(), state);
}

#[test]
fn p4_an_effects_error_leaves_its_step_in_doubt_and_is_the_source() {
    let store = in_memory();
    for mode in MODES {
        let name = format!("{mode:?}");
        let mut run = run(&store, &key(&name));
        let error = guard(&mut run, mode, "charge", |_| Err::<(), Failure>(BankError(504).into())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::EffectFailed);
        assert!(error.to_string().contains("\"charge\""), "{error}");
        assert_eq!(error.source().unwrap().downcast_ref::<BankError>().unwrap().0, 504);
        assert_eq!(run.steps()[0].state(), StepState::InDoubt);
        drop(run);
        assert_state(&store, &name, StepState::InDoubt);
    }
    store.verify().unwrap();
}

#[test]
fn p4_what_was_not_applied_withdraws_the_intent_and_the_step_runs_again() {
    let disk = SimulatedDisk::new();
    let store = Store::builder().open_on(&disk).unwrap();
    for mode in MODES {
        let name = format!("{mode:?}");
        let mut first = run(&store, &key(&name));
        let refused = guard(&mut first, mode, "charge", |_| Err::<(), _>(not_applied(BankError(503)))).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NotApplied);
        assert_eq!(refused.source().unwrap().downcast_ref::<BankError>().unwrap().0, 503);
        first.advance("later", &()).wait().unwrap();
        drop(first);
        assert_state(&after_a_cut(&disk), &name, StepState::Withdrawn);
        let mut second = run(&store, &key(&name));
        assert_eq!(guard(&mut second, mode, "charge", |_| Ok("paid".to_owned())).unwrap(), "paid");
        let step = second.steps().remove(0);
        assert_eq!((step.state(), step.attempt()), (StepState::Done, 2));
    }
    store.verify().unwrap();
}

#[test]
fn p4_a_panic_passes_through_and_leaves_the_step_in_doubt() {
    let store = in_memory();
    for mode in MODES {
        let name = format!("{mode:?}");
        let mut first = run(&store, &key(&name));
        let effect = |_| -> Result<(), Failure> { std::panic::panic_any(7_u8) };
        let panic = catch_unwind(AssertUnwindSafe(|| guard(&mut first, mode, "charge", effect))).unwrap_err();
        assert_eq!(panic.downcast_ref::<u8>(), Some(&7), "it is the effect's own panic");
        assert_eq!(first.steps()[0].state(), StepState::InDoubt);
        // The run goes on where its owner caught it.
        does(&mut first, "mail", "sent");
        drop(first);
        assert_state(&store, &name, StepState::InDoubt);
    }
    let mut second = run(&store, &key("Rechecked"));
    let recheck = |_| -> Result<Option<()>, Failure> { panic!("the recheck panics") };
    let asked = || second.step("charge").recheck(recheck).run(never::<()>);
    assert!(catch_unwind(AssertUnwindSafe(asked)).is_err());
    drop(second);
    assert_state(&store, "Rechecked", StepState::InDoubt);
    store.verify().unwrap();
}

#[test]
fn p4_a_recheck_that_finds_it_gives_the_result_and_runs_nothing() {
    let disk = SimulatedDisk::new();
    let store = Store::builder().open_on(&disk).unwrap();
    let mut second = run_in_doubt(&store, "order");
    let (id, asked) = (second.effect_id("charge"), Cell::new(None));
    let find = |id| Ok::<_, BankError>((asked.set(Some(id)), Some("receipt 7".to_owned())).1);
    assert_eq!(second.step("charge").recheck(find).run(never::<String>).unwrap(), "receipt 7");
    assert_eq!(asked.get(), Some(id), "it asks by the id that the effect was given");
    assert_eq!(kind(second.step("charge").run_keyed(never::<String>)), ErrorKind::StepRepeated);
    second.advance("paid", &()).wait().unwrap();
    drop(second);
    // From then on it is a result like any other, on disk too.
    for store in [&store, &after_a_cut(&disk)] {
        let mut third = run(store, &key("order"));
        let given = guard(&mut third, Mode::Rechecked, "charge", never::<String>);
        assert_eq!(given.unwrap(), "receipt 7");
        store.verify().unwrap();
    }
}

#[test]
fn p4_a_recheck_that_does_not_find_it_lets_it_run_under_a_new_intent() {
    let disk = SimulatedDisk::new();
    let store = Store::builder().open_on(&disk).unwrap();
    let mut second = run_in_doubt(&store, "order");
    let (asked, ran) = (Cell::new(0), Cell::new(0));
    let find = |_| Ok::<_, BankError>((asked.set(asked.get() + 1), None::<String>).1);
    let result = second.step("charge").recheck(find).run(|_| {
        let step = step_of(&after_a_cut(&disk), &key("order"), "charge").unwrap();
        assert_eq!((step.state(), step.attempt()), (StepState::InDoubt, 2), "the new intent is on disk");
        ran.set(ran.get() + 1);
        Ok::<_, BankError>("receipt 7".to_owned())
    });
    assert_eq!((result.unwrap().as_str(), asked.get(), ran.get()), ("receipt 7", 1, 1));
    second.complete(&()).wait().unwrap();
    store.verify().unwrap();
}

#[test]
fn p4_a_recheck_that_cannot_tell_runs_nothing_and_the_operation_stays_resumable() {
    let store = in_memory();
    let mut second = run_in_doubt(&store, "order");
    let find = |_| Err::<Option<()>, _>(BankError(503));
    let error = second.step("charge").recheck(find).run(never::<()>).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CannotTell);
    assert!(error.to_string().contains("\"charge\""), "{error}");
    assert_eq!(error.source().unwrap().downcast_ref::<BankError>().unwrap().0, 503);
    // Not even "it was not applied" is an answer of a recheck: it says so by finding nothing.
    let find = |_| Err::<Option<()>, _>(not_applied("no line"));
    assert_eq!(kind(second.step("charge").recheck(find).run(never::<()>)), ErrorKind::CannotTell);
    drop(second);
    assert_state(&store, "order", StepState::InDoubt);
    let mut third = run(&store, &key("order"));
    third.step("charge").recheck(|_| Ok::<_, Failure>(Some(()))).run(never::<()>).unwrap();
    third.complete(&()).wait().unwrap();
    store.verify().unwrap();
}

/// While a machine sleeps its wall clock goes on and its monotonic clock does not, so the process before cannot have
/// told how long ago it began the step.
#[test]
fn p4_p11_what_an_earlier_process_began_has_the_whole_time_to_settle_after_the_restart() {
    let (disk, clock) = (SimulatedDisk::new(), ManualClock::at(START));
    let open = |disk: &SimulatedDisk| Store::builder().clock(clock.clone()).open_on(disk).unwrap();
    let store = open(&disk);
    clock.set_wall(START + SECOND * 3_600);
    times_out(&mut run(&store, &key("order")), "charge");
    let store = open(&disk.cut(disk.calls(), |_| Loss::Lost));
    let mut second = run(&store, &key("order"));
    let find = |_| Ok::<_, Failure>(None);
    let asked = second.step("charge").recheck(find).settles_within(SECOND * 60).run(never::<String>);
    assert_eq!(kind(asked), ErrorKind::CannotTell);
    clock.advance(SECOND * 60);
    let paid =
        second.step("charge").recheck(find).settles_within(SECOND * 60).run(|_| Ok::<_, Failure>("paid".to_owned()));
    assert_eq!(paid.unwrap(), "paid");
}

#[test]
fn p4_p11_it_did_not_happen_counts_from_the_settling_time_on_and_not_before() {
    let clock = ManualClock::at(START);
    let store = Store::builder().clock(clock.clone()).in_memory().unwrap();
    let mut second = run_in_doubt(&store, "order");
    let not_found = |run: &mut Run, effect: fn(EffectId) -> Result<String, Failure>| {
        let asked = Cell::new(0);
        let find = |_| Ok::<_, Failure>((asked.set(asked.get() + 1), None).1);
        let answer = run.step("charge").recheck(find).settles_within(SECOND * 10).run(effect);
        assert_eq!(asked.get(), 1, "it is asked at any time: it may have been found");
        answer
    };
    for wait in [Duration::ZERO, SECOND, Duration::from_millis(8_999)] {
        clock.advance(wait);
        let error = not_found(&mut second, never::<String>).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CannotTell);
        assert!(error.source().is_none(), "the recheck returned no error");
    }
    clock.advance(MILLI);
    // At the border it runs; this time the connection breaks, and the time to settle begins anew.
    assert_eq!(kind(not_found(&mut second, |_| Err("broken".into()))), ErrorKind::EffectFailed);
    clock.advance(Duration::from_millis(9_999));
    assert_eq!(kind(not_found(&mut second, never::<String>)), ErrorKind::CannotTell);
    clock.advance(MILLI);
    assert_eq!(not_found(&mut second, |_| Ok("paid".to_owned())).unwrap(), "paid");
    second.complete(&()).wait().unwrap();
    store.verify().unwrap();
}

#[test]
fn p4_a_recheck_is_believed_for_the_moment_it_was_asked_at_and_a_find_at_any_time() {
    let clock = ManualClock::at(START);
    let store = Store::builder().clock(clock.clone()).in_memory().unwrap();
    let mut second = run_in_doubt(&store, "order");
    // While it is asked the time to settle passes, but what it looked at was before.
    let slow = |_| Ok::<_, Failure>((clock.advance(SECOND * 10), None::<()>).1);
    let asked = second.step("charge").recheck(slow).settles_within(SECOND * 10).run(never::<()>);
    assert_eq!(kind(asked), ErrorKind::CannotTell);
    drop(second);
    let mut third = run_in_doubt(&store, "found");
    let find = |_| Ok::<_, Failure>(Some("found".to_owned()));
    let found = third.step("charge").recheck(find).settles_within(Duration::MAX).run(never::<String>);
    assert_eq!(found.unwrap(), "found");
    let mut fourth = run_in_doubt(&store, "never");
    clock.advance(SECOND * 1_000_000);
    let find = |_| Ok::<_, Failure>(None::<()>);
    let asked = fourth.step("charge").recheck(find).settles_within(Duration::MAX).run(never::<()>);
    assert_eq!(kind(asked), ErrorKind::CannotTell);
    store.verify().unwrap();
}

#[test]
fn p4_a_keyed_step_in_doubt_runs_again_under_the_same_id_and_a_new_intent() {
    let disk = SimulatedDisk::new();
    let store = Store::builder().open_on(&disk).unwrap();
    let ids = Cell::new(Vec::new());
    let note = |id| ids.set([ids.take(), vec![id]].concat());
    for attempt in 1..=3 {
        let mut run = run(&store, &key("order"));
        let result = run.step("mail").run_keyed(|id| {
            let step = step_of(&after_a_cut(&disk), &key("order"), "mail").unwrap();
            assert_eq!((step.state(), step.attempt()), (StepState::InDoubt, attempt));
            note(id);
            if attempt < 3 { Err(BankError(504)) } else { Ok("sent".to_owned()) }
        });
        assert_eq!(result.is_ok(), attempt == 3);
    }
    let ids = ids.take();
    assert!(ids.len() == 3 && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    store.verify().unwrap();
}

#[test]
fn p4_that_one_more_keyed_try_did_not_happen_says_nothing_of_the_tries_before() {
    let store = in_memory();
    let closed = |_| Err::<String, _>(not_applied("closed"));
    let mut second = run_in_doubt(&store, "keyed");
    assert_eq!(kind(second.step("charge").run_keyed(closed)), ErrorKind::EffectFailed);
    drop(second);
    assert_state(&store, "keyed", StepState::InDoubt);
    // After a recheck it does: that one said that none of them happened.
    let mut second = run_in_doubt(&store, "rechecked");
    let asked = second.step("charge").recheck(|_| Ok::<_, Failure>(None)).run(closed);
    assert_eq!(kind(asked), ErrorKind::NotApplied);
    drop(second);
    assert_state(&store, "rechecked", StepState::Withdrawn);
    store.verify().unwrap();
}

#[test]
fn p4_a_find_that_cannot_be_kept_leaves_the_step_in_doubt() {
    let store = Store::builder().payload_bytes_max(3).in_memory().unwrap();
    let mut second = run_in_doubt(&store, "order");
    let find = |found: &'static str| move |_| Ok::<_, Failure>(Some(found.to_owned()));
    let asked = second.step("charge").recheck(find("long")).run(never::<String>);
    assert_eq!(kind(asked), ErrorKind::PayloadTooLarge);
    assert_state(&store, "order", StepState::InDoubt);
    assert_eq!(second.step("charge").recheck(find("not")).run(never::<String>).unwrap(), "not");
    drop(second);
    assert_state(&store, "order", StepState::Done);
    store.verify().unwrap();
}

#[test]
fn p4_at_most_once_is_an_error_in_this_run_and_every_later_one_until_it_is_resolved() {
    let disk = SimulatedDisk::new();
    let store = Store::builder().open_on(&disk).unwrap();
    let mut first = run(&store, &key("order"));
    times_out(&mut first, "charge");
    let mut run_now = Some(first);
    for _ in 0..3 {
        let mut again = run_now.take().unwrap_or_else(|| run(&store, &key("order")));
        let error = again.step("charge").run_at_most_once(never::<()>).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InDoubt);
        assert!(error.to_string().contains("\"charge\""), "{error}");
    }
    let left = after_a_cut(&disk);
    assert_eq!(kind(run(&left, &key("order")).step("charge").run_at_most_once(never::<()>)), ErrorKind::InDoubt);
    store.resolve(&key("order"), "charge", Resolution::DidNotHappen, "not in the bank's list").wait().unwrap();
    let ran = Cell::new(0);
    let mut last = run(&store, &key("order"));
    let charge = |_| Ok::<_, Failure>((ran.set(ran.get() + 1), "paid".to_owned()).1);
    assert_eq!(last.step("charge").run_at_most_once(charge).unwrap(), "paid");
    assert_eq!(ran.get(), 1);
    last.complete(&()).wait().unwrap();
    store.verify().unwrap();
}

#[test]
fn p4_what_is_resolved_as_happened_is_a_result_durable_when_it_answers() {
    for by_run in [true, false] {
        let disk = SimulatedDisk::new();
        let store = Store::builder().open_on(&disk).unwrap();
        let happened = Resolution::happened(&"receipt 7".to_owned()).unwrap();
        let mut second = run_in_doubt(&store, "order");
        if by_run {
            second.resolve("charge", happened, "Ada called the bank").wait().unwrap();
            assert_eq!(guard(&mut second, Mode::AtMostOnce, "charge", never::<String>).unwrap(), "receipt 7");
        } else {
            drop(second);
            store.resolve(&key("order"), "charge", happened, "Ada called the bank").wait().unwrap();
        }
        let left = after_a_cut(&disk);
        let step = step_of(&left, &key("order"), "charge").unwrap();
        assert_eq!((step.state(), step.bytes()), (StepState::Done, Some(&b"receipt 7"[..])));
        assert_eq!((step.notes()[0].text(), step.notes()[0].happened()), ("Ada called the bank", true));
        for mode in MODES {
            assert_eq!(guard(&mut run(&left, &key("order")), mode, "charge", never::<String>).unwrap(), "receipt 7");
        }
        left.verify().unwrap();
        store.verify().unwrap();
    }
}

#[test]
fn notes_are_kept_in_their_order_over_attempts_restarts_and_the_outcome() {
    let clock = ManualClock::at(START);
    let disk = SimulatedDisk::new();
    let store = Store::builder().clock(clock.clone()).open_on(&disk).unwrap();
    for (nth, note) in ["not in the list", "not in the list either"].into_iter().enumerate() {
        let second = run_in_doubt(&store, "order");
        drop(second);
        clock.advance(SECOND);
        store.resolve(&key("order"), "charge", Resolution::DidNotHappen, note).wait().unwrap();
        assert_eq!(step_of(&store, &key("order"), "charge").unwrap().notes().len(), nth + 1);
    }
    let mut last = run_in_doubt(&store, "order");
    let happened = Resolution::Happened(b"7".to_vec());
    last.resolve("charge", happened, "found: ümlaut 🍕").wait().unwrap();
    last.complete(&()).wait().unwrap();
    let left = Store::builder().clock(clock).open_on(&disk.cut(disk.calls(), |_| Loss::Lost)).unwrap();
    let step = step_of(&left, &key("order"), "charge").unwrap();
    let notes: Vec<_> = step.notes().iter().map(|note| (note.text(), note.happened(), note.at())).collect();
    let expected = [
        ("not in the list", false, START + SECOND),
        ("not in the list either", false, START + SECOND * 2),
        ("found: ümlaut 🍕", true, START + SECOND * 2),
    ];
    assert_eq!(notes, expected);
    store.verify().unwrap();
}

#[test]
fn p4_a_resolution_that_does_not_fit_is_refused_and_changes_nothing() {
    let store = Store::builder().payload_bytes_max(10).in_memory().unwrap();
    let resolve = |name: &str, step: &str, resolution: Resolution, note: &str| {
        store.resolve(&key(name), step, resolution, note).wait().map_err(|error| error.kind())
    };
    let did_not = || Resolution::DidNotHappen;
    assert_eq!(resolve("unknown", "charge", did_not(), "note"), Err(ErrorKind::NotFound));
    let mut second = run_in_doubt(&store, "order");
    // A run is at work: nobody else can tell what it does at this moment.
    assert_eq!(resolve("order", "charge", did_not(), "note"), Err(ErrorKind::Busy));
    does(&mut second, "done", "x");
    let withdrawn = second.step("withdrawn").run_keyed(|_| Err::<(), _>(not_applied("closed")));
    assert_eq!(kind(withdrawn), ErrorKind::NotApplied);
    for (step, refused) in
        [("done", ErrorKind::NotInDoubt), ("withdrawn", ErrorKind::NotInDoubt), ("none", ErrorKind::NotFound)]
    {
        assert_eq!(kind(second.resolve(step, did_not(), "note").wait()), refused, "{step}");
    }
    drop(second);
    assert_eq!(resolve("order", "done", did_not(), "note"), Err(ErrorKind::NotInDoubt));
    assert_eq!(resolve("order", "withdrawn", Resolution::Happened(Vec::new()), "note"), Err(ErrorKind::NotInDoubt));
    assert_eq!(resolve("order", "none", did_not(), "note"), Err(ErrorKind::NotFound));
    let too_long = "n".repeat(1001);
    for note in ["", "two\nlines", &too_long] {
        assert_eq!(resolve("order", "charge", did_not(), note), Err(ErrorKind::InvalidName), "{note:?}");
    }
    assert_eq!(resolve("order", "", did_not(), "note"), Err(ErrorKind::InvalidName));
    assert_eq!(resolve("order", "charge", Resolution::Happened(vec![0; 11]), "note"), Err(ErrorKind::PayloadTooLarge));
    let step = step_of(&store, &key("order"), "charge").unwrap();
    assert_eq!((step.state(), step.notes().len()), (StepState::InDoubt, 0));
    assert_eq!(resolve("order", "charge", Resolution::Happened(vec![0; 10]), &"n".repeat(1000)), Ok(()));
    assert_eq!(resolve("order", "charge", did_not(), "too late"), Err(ErrorKind::NotInDoubt));
    let mut over = run_in_doubt(&store, "over");
    over.complete_with(&(), |_| Ok(())).wait().unwrap();
    drop(over);
    assert_eq!(resolve("over", "charge", did_not(), "note"), Err(ErrorKind::Finished));
    store.verify().unwrap();
}

#[test]
fn p4_a_run_that_does_not_know_of_a_resolution_from_outside_is_told_by_the_step_itself() {
    let store = in_memory();
    // The run learns of a step only by asking; what it had seen is older than what an operator said meanwhile.
    let mut first = run(&store, &key("order"));
    times_out(&mut first, "charge");
    store.revoke(&key("order")).wait().unwrap();
    store.resolve(&key("order"), "charge", Resolution::Happened(b"7".to_vec()), "found").wait().unwrap();
    // The old run is fenced and runs nothing, though it still believes that the step is in doubt.
    assert_eq!(kind(first.step("charge").run_keyed(never::<String>)), ErrorKind::Fenced);
    let mut second = run(&store, &key("order"));
    assert_eq!(second.step("charge").run_keyed(never::<String>).unwrap(), "7");
    drop((first, second));
    store.verify().unwrap();
}

#[test]
fn stats_and_progress_count_what_is_in_doubt() {
    let store = in_memory();
    let mut runs: Vec<_> = ["a", "b", "c"].iter().map(|name| run_in_doubt(&store, name)).collect();
    times_out(&mut runs[0], "mail");
    assert_eq!(store.stats().unwrap().in_doubt, 3, "operations, not steps");
    let in_doubt = |name: &str| {
        let progress = store.progress(&key(name)).unwrap().unwrap();
        progress.in_doubt().map(|step| step.name().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(
        (in_doubt("a"), in_doubt("b")),
        (vec!["charge".to_owned(), "mail".to_owned()], vec!["charge".to_owned()])
    );
    runs[1].resolve("charge", Resolution::DidNotHappen, "note").wait().unwrap();
    runs[2].complete_with(&(), |_| Ok(())).wait().unwrap();
    assert_eq!(store.stats().unwrap().in_doubt, 1);
    assert_eq!(runs[0].steps().iter().filter(|step: &&Step| step.state() == StepState::InDoubt).count(), 2);
    drop(runs);
    store.verify().unwrap();
}

/// A row has room for so many: one more could not be written.
#[test]
fn p4_of_a_step_that_is_resolved_by_hand_over_and_over_the_last_16_notes_are_kept() {
    let disk = SimulatedDisk::new();
    let store = Store::builder().open_on(&disk).unwrap();
    let noted = |store: &Store| {
        let step = step_of(store, &key("order"), "charge").unwrap();
        step.notes().iter().map(|note| note.text().to_owned()).collect::<Vec<_>>()
    };
    for nth in 1..=20 {
        drop(run_in_doubt(&store, "order"));
        let note = format!("asked {nth} times");
        store.resolve(&key("order"), "charge", Resolution::DidNotHappen, &note).wait().unwrap();
    }
    let last: Vec<_> = (5..=20).map(|nth| format!("asked {nth} times")).collect();
    assert_eq!((noted(&store), noted(&after_a_cut(&disk))), (last.clone(), last));
    store.verify().unwrap();
}
