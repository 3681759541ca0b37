//! A step guards one effect: its intent is durable before the effect runs, its result goes with the next durable call,
//! and an effect that has a result never runs again.

mod support;

use std::cell::Cell;

use reentry::{
    Bincode, DiskCall, ErrorKind, Failure, Json, Loss, Payload, Resolution, Run, SimulatedDisk, State, Step, StepState,
    Store, not_applied,
};
use support::{
    Gate, MODES, START, after_a_cut, broken, does, guard, key, kind, never, run, settle, step_of, times_out, until,
};

fn in_memory() -> Store {
    Store::builder().in_memory().unwrap()
}

/// The names of steps, with what is known of each.
fn shown(run: &Run) -> Vec<(String, StepState)> {
    run.steps().iter().map(|step| (step.name().to_owned(), step.state())).collect()
}

#[test]
fn p4_the_intent_is_on_disk_before_the_effect_runs_however_it_is_guarded() {
    for mode in MODES {
        let disk = SimulatedDisk::new();
        let store = Store::builder().open_on(&disk).unwrap();
        let mut run = run(&store, &key("order"));
        let ran = Cell::new(false);
        let result = guard(&mut run, mode, "charge", |_| {
            let left = after_a_cut(&disk);
            let step = step_of(&left, &key("order"), "charge").expect("the cut left its intent");
            assert_eq!((step.state(), step.attempt(), step.bytes()), (StepState::InDoubt, 1, None));
            assert_eq!(left.stats().unwrap().in_doubt, 1);
            left.verify().unwrap();
            ran.set(true);
            Ok("receipt 7".to_owned())
        });
        assert_eq!((result.unwrap().as_str(), ran.get()), ("receipt 7", true));
        store.verify().unwrap();
    }
}

/// What must be durable by a call of the run, as a closure that makes it.
type Call = fn(&mut Run);

#[test]
fn p3_a_result_is_on_disk_with_the_next_durable_call_of_its_run() {
    let calls: [(&str, Call); 6] = [
        ("the next intent", |run| does(run, "mail", "sent")),
        ("a checkpoint", |run| assert_eq!(run.advance("paid", &()).wait().unwrap().get(), 1)),
        ("a checkpoint with rows", |run| assert_eq!(run.advance_with("a", &(), |_| Ok(())).wait().unwrap().get(), 1)),
        ("an outcome with rows", |run| drop(run.complete_with(&(), |_| Ok(())).wait().unwrap())),
        ("a failure with rows", |run| drop(run.fail_with(&(), |_| Ok(())).wait().unwrap())),
        ("a resolution", |run| {
            run.resolve("doubtful", Resolution::DidNotHappen, "asked the bank").wait().unwrap();
        }),
    ];
    for (name, call) in calls {
        let disk = SimulatedDisk::new();
        let store = Store::builder().open_on(&disk).unwrap();
        let mut run = run(&store, &key("order"));
        times_out(&mut run, "doubtful");
        does(&mut run, "charge", "receipt 7");
        call(&mut run);
        let left = after_a_cut(&disk);
        let step = step_of(&left, &key("order"), "charge").unwrap();
        assert_eq!((step.state(), step.bytes()), (StepState::Done, Some(&b"receipt 7"[..])), "{name}");
        left.verify().unwrap();
        drop(run);
        store.verify().unwrap();
    }
}

#[test]
fn p2_p3_no_later_intent_and_no_outcome_is_on_disk_without_the_results_before_it() {
    let disk = SimulatedDisk::new();
    let store = Store::builder().open_on(&disk).unwrap();
    let mut run = run(&store, &key("order"));
    does(&mut run, "first", "1");
    does(&mut run, "second", "2");
    run.advance("half", &()).wait().unwrap();
    does(&mut run, "third", "3");
    run.complete(&"done".to_owned()).wait().unwrap();
    let told = disk.calls();
    let (mut outcomes, mut in_doubt) = (0, 0);
    for (at, loss) in (0..=told).flat_map(|at| [Loss::Lost, Loss::Kept].map(|loss| (at, loss))) {
        let left = Store::builder().open_on(&disk.cut(at, |_| loss)).unwrap();
        left.verify().unwrap();
        let Some(progress) = left.progress(&key("order")).unwrap() else { continue };
        let states: Vec<_> = progress.steps().iter().map(Step::state).collect();
        let done = states.iter().take_while(|state| **state == StepState::Done).count();
        assert!(states.len() - done <= 1, "only the last one can be in doubt: {states:?}");
        let is_over = progress.state() == State::Succeeded;
        let reached = if is_over { 3 } else { progress.checkpoint().map_or(0, |_| 2) };
        assert!(done >= reached, "cut at {at}: {states:?}, {:?}", progress.state());
        outcomes += usize::from(is_over);
        in_doubt += usize::from(done < states.len());
    }
    assert!(outcomes > 0 && in_doubt > 0, "there was something to cut");
}

#[test]
fn p3_p7_no_call_waits_for_a_result_and_a_dropped_run_loses_none() {
    let gate = Gate::new();
    let disk = SimulatedDisk::new();
    let store = Store::builder().clock(gate.clone()).open_on(&disk).unwrap();
    for mode in MODES {
        let order = key(&format!("{mode:?}"));
        let mut first = run(&store, &order);
        // From the effect on the writer is held, so whatever waited for it would wait for ever.
        let result = guard(&mut first, mode, "charge", |_| {
            gate.hold(&store);
            Ok("receipt 7".to_owned())
        });
        assert_eq!(result.unwrap(), "receipt 7");
        let calls = disk.calls();
        drop(first);
        assert_eq!(disk.calls(), calls, "dropping a run does no I/O");
        gate.open();
        let mut second = run(&store, &order);
        assert_eq!(shown(&second), [("charge".to_owned(), StepState::Done)]);
        assert_eq!(guard(&mut second, mode, "charge", never::<String>).unwrap(), "receipt 7");
        assert!(step_of(&after_a_cut(&disk), &order, "charge").unwrap().bytes().is_some());
        drop(second);
    }
    store.verify().unwrap();
}

#[test]
fn p3_a_result_that_nothing_follows_gets_to_the_disk_by_itself_and_by_closing() {
    let disk = SimulatedDisk::new();
    let store = Store::builder().open_on(&disk).unwrap();
    let mut order = run(&store, &key("order"));
    does(&mut order, "charge", "paid");
    // Nobody calls anything any more; the run lives on, at an effect that takes its time.
    until("the result is on disk", || {
        step_of(&after_a_cut(&disk), &key("order"), "charge").unwrap().state() == StepState::Done
    });
    does(&mut order, "mail", "sent");
    drop(order);
    store.close().unwrap();
    let left = after_a_cut(&disk);
    assert_eq!(step_of(&left, &key("order"), "mail").unwrap().bytes(), Some(&b"sent"[..]));
    left.verify().unwrap();
    // The last handle to go closes the store as well.
    let mut order = run(&left, &key("order"));
    let image = SimulatedDisk::new();
    let other = Store::builder().open_on(&image).unwrap();
    let mut last = run(&other, &key("order"));
    drop(other);
    does(&mut last, "charge", "paid");
    drop(last);
    assert_eq!(step_of(&after_a_cut(&image), &key("order"), "charge").unwrap().state(), StepState::Done);
    assert_eq!(order.step("mail").run_keyed(never::<String>).unwrap(), "sent");
}

#[test]
fn p4_a_step_with_a_result_never_runs_again_nor_is_it_rechecked() {
    let disk = SimulatedDisk::new();
    let store = Store::builder().open_on(&disk).unwrap();
    for (recorded, asked) in MODES.into_iter().flat_map(|one| MODES.map(|other| (one, other))) {
        let order = key(&format!("{recorded:?} {asked:?}"));
        let mut first = run(&store, &order);
        guard(&mut first, recorded, "charge", |_| Ok(Bincode(1750_u32))).unwrap();
        drop(first);
        let mut second = run(&store, &order);
        assert_eq!(guard(&mut second, asked, "charge", never::<Bincode<u32>>).unwrap(), Bincode(1750));
        second.advance("charged", &()).wait().unwrap();
        drop(second);
        // Neither does it in another process.
        let left = after_a_cut(&disk);
        let mut third = run(&left, &order);
        assert_eq!(guard(&mut third, asked, "charge", never::<Bincode<u32>>).unwrap(), Bincode(1750));
        assert_eq!((third.attempt(), third.steps()[0].attempt()), (3, 1));
    }
    store.verify().unwrap();
}

#[test]
fn p3_results_of_any_size_come_back_whole() {
    let disk = SimulatedDisk::new();
    let store = Store::builder().payload_bytes_max(100_000).open_on(&disk).unwrap();
    let sizes = [0, 1, 1_023, 1_024, 1_025, 65_536, 100_000];
    let bytes = |size: usize| (0..size).map(|n| u8::try_from(n % 251).unwrap()).collect::<Vec<u8>>();
    let mut first = run(&store, &key("order"));
    for size in sizes {
        first.step(&format!("{size}")).run_keyed(|_| Ok::<_, Failure>(bytes(size))).unwrap();
    }
    first.advance("done", &()).wait().unwrap();
    drop(first);
    for store in [&store, &after_a_cut(&disk)] {
        let mut again = run(store, &key("order"));
        for size in sizes {
            assert_eq!(again.step(&format!("{size}")).run_keyed(never::<Vec<u8>>).unwrap(), bytes(size));
            assert_eq!(step_of(store, &key("order"), &format!("{size}")).unwrap().bytes().unwrap(), bytes(size));
        }
        again.complete(&()).wait().unwrap();
        store.verify().unwrap();
    }
}

#[test]
fn the_same_name_twice_in_one_run_is_an_error_and_runs_nothing() {
    let store = in_memory();
    let mut first = run(&store, &key("order"));
    for mode in MODES {
        let name = format!("{mode:?}");
        guard(&mut first, mode, &name, |_| Ok(())).unwrap();
        for again in MODES {
            let error = guard(&mut first, again, &name, never::<()>).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::StepRepeated);
            assert!(error.to_string().contains(&name), "{error}");
        }
    }
    drop(first);
    // A recorded result is given once in a run, too.
    let mut second = run(&store, &key("order"));
    second.step("Keyed").run_keyed(never::<()>).unwrap();
    assert_eq!(kind(second.step("Keyed").run_keyed(never::<()>)), ErrorKind::StepRepeated);
    // What gave no result may be asked for again.
    let refused = second.step("late").run_keyed(|_| Err::<(), _>(not_applied("the bank is closed")));
    assert_eq!(kind(refused), ErrorKind::NotApplied);
    does(&mut second, "late", "open now");
    drop(second);
    store.verify().unwrap();
}

#[test]
fn a_loop_numbers_its_names_and_goes_on_where_it_stopped() {
    let store = in_memory();
    let mut first = run(&store, &key("order"));
    (0..3).for_each(|nth| does(&mut first, &format!("mail {nth}"), &nth.to_string()));
    drop(first);
    let mut second = run(&store, &key("order"));
    let ran = Cell::new(0);
    for nth in 0..5 {
        let send = |_| Ok::<_, Failure>((ran.set(ran.get() + 1), nth.to_string()).1);
        assert_eq!(second.step(&format!("mail {nth}")).run_at_most_once(send).unwrap(), nth.to_string());
    }
    assert_eq!((ran.get(), second.steps().len()), (2, 5));
    second.complete(&()).wait().unwrap();
    store.verify().unwrap();
}

#[test]
fn p3_steps_may_change_their_order_and_those_no_longer_asked_for_are_kept_and_reported() {
    let disk = SimulatedDisk::new();
    let store = Store::builder().open_on(&disk).unwrap();
    let mut first = run(&store, &key("order"));
    for name in ["charge", "mail", "print"] {
        does(&mut first, name, name);
    }
    times_out(&mut first, "fax");
    first.advance("all", &()).wait().unwrap();
    drop(first);
    for store in [&store, &after_a_cut(&disk)] {
        let mut second = run(store, &key("order"));
        let unasked = |run: &Run| run.unasked_steps().iter().map(|step| step.name().to_owned()).collect::<Vec<_>>();
        assert_eq!(unasked(&second), ["charge", "mail", "print", "fax"]);
        does(&mut second, "new", "new");
        for name in ["print", "charge"] {
            assert_eq!(second.step(name).run_at_most_once(never::<String>).unwrap(), name);
        }
        assert_eq!(unasked(&second), ["mail", "fax"]);
        assert_eq!(second.unasked_steps()[1].state(), StepState::InDoubt, "an effect that nobody rechecks any more");
        // Asking is enough, whatever comes of it.
        assert_eq!(kind(second.step("fax").run_at_most_once(never::<()>)), ErrorKind::InDoubt);
        assert_eq!(unasked(&second), ["mail"]);
        second.complete(&()).wait().unwrap();
        let kept = store.progress(&key("order")).unwrap().unwrap();
        let names: Vec<_> = kept.steps().iter().map(Step::name).collect();
        assert_eq!(names, ["charge", "mail", "print", "fax", "new"], "in the order of their first intents");
        store.verify().unwrap();
    }
}

#[test]
fn a_result_that_no_longer_decodes_names_step_and_type_and_keeps_its_bytes() {
    let store = in_memory();
    let mut first = run(&store, &key("order"));
    does(&mut first, "charge", "receipt 7");
    drop(first);
    let mut second = run(&store, &key("order"));
    for mode in MODES {
        let error = guard(&mut second, mode, "charge", never::<Json<Vec<u64>>>).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Codec);
        let text = error.to_string();
        assert!(text.contains("\"charge\"") && text.contains("Json<alloc::vec::Vec<u64>>"), "{text}");
        assert!(std::error::Error::source(&error).is_some(), "the codec's own error is its source");
    }
    // Neither this run nor the next one has lost it.
    assert_eq!(second.step("charge").run_keyed(never::<String>).unwrap(), "receipt 7");
    drop(second);
    let step = step_of(&store, &key("order"), "charge").unwrap();
    assert_eq!((step.state(), step.bytes()), (StepState::Done, Some(&b"receipt 7"[..])));
    assert_eq!(step.decode::<Bincode<u64>>().unwrap_err().kind(), ErrorKind::Codec);
    assert_eq!(step.decode::<String>().unwrap().unwrap(), "receipt 7");
    store.verify().unwrap();
}

#[test]
fn a_name_has_1_to_128_printable_bytes_and_a_bad_one_touches_nothing() {
    let store = in_memory();
    let mut run = run(&store, &key("order"));
    let (longest, umlauts) = ("n".repeat(128), "ü".repeat(64));
    for name in ["a", " ", "überweisen 🍕", &longest, &umlauts] {
        does(&mut run, name, "fine");
    }
    let (too_long, too_many) = ("n".repeat(129), format!("{umlauts}x"));
    for name in ["", "line\nbreak", "bell\u{7}", "nul\0", "\u{85}", &too_long, &too_many] {
        for mode in MODES {
            assert_eq!(kind(guard(&mut run, mode, name, never::<()>)), ErrorKind::InvalidName, "{name:?}");
        }
    }
    assert_eq!(run.steps().len(), 5);
    run.complete(&()).wait().unwrap();
    store.verify().unwrap();
}

#[test]
fn an_operation_has_1024_steps_and_one_more_is_refused_before_its_effect() {
    let store = in_memory();
    let mut first = run(&store, &key("order"));
    // What was withdrawn counts too: its name is remembered.
    let withdrawn = first.step("0").run_keyed(|_| Err::<(), _>(not_applied("closed")));
    assert_eq!(kind(withdrawn), ErrorKind::NotApplied);
    (1..1024).for_each(|nth| does(&mut first, &nth.to_string(), "x"));
    for mode in MODES {
        assert_eq!(kind(guard(&mut first, mode, "one more", never::<()>)), ErrorKind::Capacity);
    }
    // Those that are there go on.
    does(&mut first, "0", "x");
    drop(first);
    let mut second = run(&store, &key("order"));
    assert_eq!((second.steps().len(), second.unasked_steps().len()), (1024, 1024));
    assert_eq!(second.step("1023").run_at_most_once(never::<String>).unwrap(), "x");
    assert_eq!(kind(second.step("one more").run_keyed(never::<()>)), ErrorKind::Capacity);
    second.complete(&()).wait().unwrap();
    store.verify().unwrap();
}

#[test]
fn p4_a_result_that_cannot_be_kept_leaves_the_step_in_doubt() {
    struct Unwritable;
    impl Payload for Unwritable {
        fn encode(&self) -> reentry::Result<Vec<u8>> {
            String::decode(&[0xff]).map(String::into_bytes)
        }
        fn decode(_: &[u8]) -> reentry::Result<Self> {
            Ok(Self)
        }
    }
    let store = Store::builder().payload_bytes_max(10).in_memory().unwrap();
    for mode in MODES {
        let order = key(&format!("{mode:?}"));
        let mut first = run(&store, &order);
        guard(&mut first, mode, "fits", |_| Ok("0123456789".to_owned())).unwrap();
        let too_large = guard(&mut first, mode, "large", |_| Ok("0123456789x".to_owned()));
        assert_eq!(kind(too_large), ErrorKind::PayloadTooLarge);
        let unwritable = guard(&mut first, mode, "unwritable", |_| Ok(Unwritable));
        assert_eq!(kind(unwritable), ErrorKind::Codec);
        drop(first);
        let second = run(&store, &order);
        let states: Vec<_> = second.steps().iter().map(Step::state).collect();
        assert_eq!(states, [StepState::Done, StepState::InDoubt, StepState::InDoubt], "they have happened");
    }
    store.verify().unwrap();
}

#[test]
fn p4_an_effect_does_not_run_where_its_intent_cannot_be_written() {
    for mode in MODES {
        let disk = SimulatedDisk::new();
        let store = Store::builder().open_on(&disk).unwrap();
        let mut run = run(&store, &key("order"));
        disk.fail(Some(broken(&[DiskCall::Sync])));
        assert_eq!(kind(guard(&mut run, mode, "charge", never::<()>)), ErrorKind::OutcomeUnknown);
        assert_eq!(kind(guard(&mut run, mode, "mail", never::<()>)), ErrorKind::Failed);
        drop(run);
        assert_eq!(step_of(&after_a_cut(&disk), &key("order"), "charge"), None);
    }
}

#[test]
fn p3_p10_a_result_that_a_full_disk_refused_is_on_disk_before_what_follows_from_it() {
    let disk = SimulatedDisk::new();
    let store = Store::builder().open_on(&disk).unwrap();
    let mut run = run(&store, &key("order"));
    let result = run.step("charge").run_keyed(|_| {
        disk.set_room(Some(0));
        Ok::<_, Failure>("x".repeat(200_000))
    });
    result.unwrap();
    // Refused until there is room; the result waits for it in the run.
    while let Err(error) = run.advance("no room", &"y".repeat(200_000)).wait() {
        assert_eq!(error.kind(), ErrorKind::Full);
        disk.set_room(None);
    }
    let left = after_a_cut(&disk);
    assert_eq!(step_of(&left, &key("order"), "charge").unwrap().bytes().unwrap().len(), 200_000);
    left.verify().unwrap();
    run.complete(&()).wait().unwrap();
    store.verify().unwrap();
}

#[test]
fn p3_steps_tell_when_they_began_and_settled_and_by_which_attempt() {
    let clock = reentry::ManualClock::at(START);
    let second = std::time::Duration::from_secs(1);
    let store = Store::builder().clock(clock.clone()).in_memory().unwrap();
    let mut first = run(&store, &key("order"));
    clock.advance(second);
    let takes_a_second = |_| {
        clock.advance(second);
        Ok::<_, Failure>(())
    };
    first.step("charge").run_keyed(takes_a_second).unwrap();
    settle(&store);
    let step = step_of(&store, &key("order"), "charge").unwrap();
    assert_eq!((step.begun_at(), step.settled_at()), (START + second, Some(START + second * 2)));
    times_out(&mut first, "mail");
    drop(first);
    clock.advance(second);
    let mut again = run(&store, &key("order"));
    does(&mut again, "mail", "sent");
    settle(&store);
    let step = step_of(&store, &key("order"), "mail").unwrap();
    assert_eq!((step.attempt(), step.begun_at(), step.settled_at()), (2, START + second * 3, Some(START + second * 3)));
    assert_eq!(store.progress(&key("order")).unwrap().unwrap().in_doubt().count(), 0);
    again.complete(&()).wait().unwrap();
    store.verify().unwrap();
}

#[test]
fn p4_an_effect_may_call_the_store_and_even_other_operations() {
    let store = in_memory();
    let mut outer = run(&store, &key("outer"));
    let id = outer.effect_id("nested");
    let given = outer.step("nested").run_keyed(|given| {
        let mut inner = run(&store, &key("inner"));
        does(&mut inner, "deep", "down");
        inner.complete(&()).wait()?;
        assert_eq!(store.progress(&key("outer"))?.unwrap().state(), State::Owned);
        Ok::<_, reentry::Error>(given.to_string())
    });
    assert_eq!(given.unwrap(), id.to_string());
    outer.complete(&()).wait().unwrap();
    store.verify().unwrap();
}
