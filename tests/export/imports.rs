//! What an import takes in beside what the store knows, whose clock is another, and of what is not whole.

use std::sync::mpsc::channel;
use std::time::Duration;

use reentry::{
    ErrorKind, Failure, Fingerprint, Loss, ManualClock, Request, Resolution, SimulatedDisk, State, StepState, Store,
    not_applied,
};

use super::support::{PATIENCE, START, does, key, kind, request, run, run_of, step_of, times_out, until};
use super::{GO_ON, HOUR, builder, exported, import};

/// A step that was begun in the future would be in doubt until then.
#[test]
fn p11_no_time_of_what_is_imported_is_later_than_the_stores_own() {
    let ahead = ManualClock::at(START + HOUR * 24 * 3650);
    let one = builder(&ahead).in_memory().unwrap();
    run(&one, &key("gone")).complete(&()).wait().unwrap();
    ahead.advance(HOUR);
    run(&one, &key("done")).complete(&()).wait().unwrap();
    let mut open = run(&one, &key("open"));
    does(&mut open, "charge", "receipt");
    open.advance("paid", &()).wait().unwrap();
    let withdrawn = open.step("sms").run_keyed(|_| Err::<(), _>(not_applied("no number")));
    assert_eq!(kind(withdrawn), ErrorKind::NotApplied);
    times_out(&mut open, "mail");
    drop(open);
    one.resolve(&key("open"), "mail", Resolution::DidNotHappen, "the mailer said so").wait().unwrap();
    let mut again = run(&one, &key("open"));
    times_out(&mut again, "mail");
    // What a run reports that was taken over is kept beside the step.
    let fenced = again.step("mail").run_keyed(|_| {
        one.revoke(&key("open")).wait().unwrap();
        drop(run(&one, &key("open")));
        Ok::<_, Failure>(())
    });
    assert_eq!(kind(fenced), ErrorKind::Fenced);
    drop(again);
    let lines = exported(&one);
    let now = START + HOUR * 24 * 3649;
    let other = builder(&ManualClock::at(now)).in_memory().unwrap();
    assert_eq!(import(&other, &lines).unwrap().new, 3);
    let states = [("charge", StepState::Done), ("sms", StepState::Withdrawn), ("mail", StepState::InDoubt)];
    for (name, state) in states {
        assert_eq!(step_of(&other, &key("open"), name).unwrap().state(), state, "{name}");
    }
    for told in other.operations().map(Result::unwrap) {
        let mut times = vec![told.since(), told.changed_at()];
        times.extend(told.ended_at());
        times.extend(told.checkpoint().map(reentry::Checkpoint::at));
        for step in told.steps() {
            times.push(step.begun_at());
            times.extend(step.settled_at());
            times.extend(step.notes().iter().map(reentry::Note::at));
            times.extend(step.late().iter().map(reentry::Late::at));
        }
        assert!(times.iter().all(|time| *time == now), "{told:?}");
        assert!(told.known_until().is_none_or(|until| until > START + HOUR * 24 * 3650), "no retention is shortened");
    }
    let again = import(&other, &lines).unwrap();
    assert_eq!((again.new, again.same, again.differing), (0, 3, 0), "it is the same still");
}

/// Rows of another time say nothing of when they were written.
#[test]
fn p11_an_expiry_that_is_told_beside_an_import_outlasts_a_restart_with_the_clock_turned_back() {
    let (disk, clock) = (SimulatedDisk::new(), ManualClock::at(START));
    let old = builder(&clock).in_memory().unwrap();
    drop(run(&old, &key("order")));
    let lines = exported(&old);
    let store = builder(&clock).open_on(&disk).unwrap();
    // What is kept longer stands before it, so that no sweep writes a row of that time.
    drop(run(&store, &key("long")).complete(&()).wait().unwrap());
    let mut short = run(&store, &key("short"));
    short.keep_for(Duration::from_secs(10));
    short.complete(&()).wait().unwrap();
    clock.advance(HOUR / 100);
    let imported = import(&store, &lines).unwrap();
    assert_eq!(imported.new, 1);
    assert_eq!(store.progress(&key("short")).unwrap().unwrap().state(), State::Gone);
    let cut = disk.cut(disk.calls(), |_| Loss::Lost);
    let store = builder(&ManualClock::at(START + Duration::from_secs(5))).open_on(&cut).unwrap();
    assert_eq!(store.progress(&key("short")).unwrap().unwrap().state(), State::Gone);
}

/// When another store began it says nothing of how long ago that is: its clock may be behind. So what is imported has
/// the whole time to settle.
#[test]
fn p4_p11_an_imported_step_has_the_whole_time_to_settle() {
    let (behind, clock) = (ManualClock::at(START), ManualClock::at(START + HOUR));
    let old = builder(&behind).in_memory().unwrap();
    times_out(&mut run(&old, &key("order")), "charge");
    let store = builder(&clock).in_memory().unwrap();
    clock.advance(HOUR);
    assert_eq!(import(&store, &exported(&old)).unwrap().new, 1);
    let charge = || {
        let mut order = run(&store, &key("order"));
        let step = order.step("charge").recheck(|_| Ok::<_, Failure>(None)).settles_within(HOUR);
        step.run(|_| Ok::<_, Failure>("receipt".to_owned()))
    };
    assert_eq!(kind(charge()), ErrorKind::CannotTell);
    clock.advance(Duration::from_millis(3_599_999));
    assert_eq!(kind(charge()), ErrorKind::CannotTell);
    clock.advance(Duration::from_millis(1));
    assert_eq!(charge().unwrap(), "receipt");
}

/// A wall clock that is ahead while the store is open is not its time, for what is taken in either.
#[test]
fn p5_p11_an_import_beside_a_wall_clock_that_jumped_ahead_and_back_keeps_what_is_kept_and_takes_in_no_later_time() {
    let clock = ManualClock::at(START);
    let old = builder(&clock).in_memory().unwrap();
    run(&old, &key("kept there")).complete(&()).wait().unwrap();
    let kept = exported(&old);
    clock.advance(HOUR * 24 * 3650);
    drop(run(&old, &key("ahead")));
    let ahead = exported(&old);
    let (disk, clock) = (SimulatedDisk::new(), ManualClock::at(START));
    let store = builder(&clock).open_on(&disk).unwrap();
    run(&store, &key("kept here")).complete(&()).wait().unwrap();
    clock.set_wall(START + HOUR * 24 * 3650);
    let imported = import(&store, &kept).unwrap();
    assert_eq!((imported.new, imported.over), (1, 0));
    assert_eq!(import(&store, &ahead).unwrap().new, 1);
    clock.set_wall(START);
    store.close().unwrap();
    let store = builder(&clock).open_on(&disk).unwrap();
    for name in ["kept here", "kept there"] {
        assert_eq!(store.progress(&key(name)).unwrap().unwrap().state(), State::Succeeded, "{name}");
    }
    let taken = store.progress(&key("ahead")).unwrap().unwrap();
    assert_eq!((taken.since(), taken.changed_at()), (START, START));
    store.verify().unwrap();
}

/// What a batch removes as over leaves no row of its time where all that it writes comes from an export.
#[test]
fn p5_p11_what_is_over_as_something_is_imported_stays_so_after_a_restart_with_the_clock_turned_back() {
    let clock = ManualClock::at(START);
    let old = builder(&clock).in_memory().unwrap();
    drop(run(&old, &key("order")));
    let (lines, disk) = (exported(&old), SimulatedDisk::new());
    let open = |disk: &SimulatedDisk, clock: &ManualClock| {
        Store::builder().clock(clock.clone()).retention(HOUR).open_on(disk).unwrap()
    };
    let store = open(&disk, &clock);
    drop(run(&store, &key("over")).complete(&()).wait().unwrap());
    clock.advance(HOUR);
    assert_eq!(import(&store, &lines).unwrap().new, 1);
    let store = open(&disk.cut(disk.calls(), |_| Loss::Lost), &ManualClock::at(START));
    assert!(run(&store, &key("new")).since() >= START + HOUR);
}

#[test]
fn p11_what_an_import_or_an_export_leaves_out_as_over_stays_so() {
    let at = |hours: u32| ManualClock::at(START + HOUR * hours);
    let open = |disk: &SimulatedDisk, clock: &ManualClock| {
        Store::builder().clock(clock.clone()).retention(HOUR).open_by_hand(disk).unwrap()
    };
    let old = Store::builder().clock(at(0)).retention(HOUR).in_memory().unwrap();
    drop(run(&old, &key("order")).complete(&()).wait().unwrap());
    let lines = exported(&old);
    let (disk, clock) = (SimulatedDisk::new(), at(0));
    let store = Store::builder().clock(clock.clone()).retention(HOUR).open_on(&disk).unwrap();
    clock.advance(HOUR);
    assert_eq!(import(&store, &lines).unwrap().over, 1);
    let store = Store::builder().clock(at(0)).open_on(&disk.cut(disk.calls(), |_| Loss::Lost)).unwrap();
    assert_eq!(import(&store, &lines).unwrap().over, 1, "it was told to be over");

    let (disk, clock) = (SimulatedDisk::new(), at(0));
    let store = open(&disk, &clock);
    let claim = store.claim(&key("order"), request());
    store.work_by_hand();
    let ended = run_of(claim.wait().unwrap()).complete(&());
    store.work_by_hand();
    ended.wait().unwrap();
    clock.advance(HOUR);
    assert_eq!(exported(&store).lines().count(), 2, "a header and a trailer");
    let store = open(&disk.cut(disk.calls(), |_| Loss::Lost), &at(0));
    assert_eq!(exported(&store).lines().count(), 2);
}

/// Where the queue has room for one, all others of a broken import are on their way still.
#[test]
fn p2_what_came_before_a_line_that_is_damaged_is_taken_in_and_told() {
    let clock = ManualClock::at(START);
    let one = builder(&clock).in_memory().unwrap();
    (0..50).for_each(|nth| drop(run(&one, &key(&nth.to_string()))));
    let lines: String = exported(&one).lines().take(51).flat_map(|line| [line, "\n"]).collect();
    let gate = super::support::Gate::new();
    let other = Store::builder().clock(gate.clone()).queue_commands_max(1).in_memory().unwrap();
    drop(run_of(other.claim(&key("7"), Fingerprint::of("another")).wait().unwrap()));
    gate.hold(&other);
    let mut differing = Vec::new();
    let imported = std::thread::scope(|threads| {
        let read = |bytes| {
            if bytes >= lines.len() as u64 {
                gate.open();
            }
            GO_ON
        };
        let lines = format!("{lines}damaged\n");
        let taken = threads.spawn({
            let (other, differing) = (&other, &mut differing);
            move || other.import(lines.as_bytes(), read, |key| differing.push(key.clone()))
        });
        taken.join().unwrap()
    });
    assert_eq!(kind(imported), ErrorKind::Corrupt);
    assert_eq!(differing, [key("7")]);
    assert_eq!(other.unfinished().count(), 50);
}

/// It is in memory alone, and gone with its run.
#[test]
fn p2_what_only_a_deferred_claim_tells_is_not_taken_for_known() {
    let clock = ManualClock::at(START);
    let one = builder(&clock).in_memory().unwrap();
    drop(run(&one, &key("order")));
    let lines = exported(&one);
    let other = builder(&clock).in_memory().unwrap();
    let deferred = Request::from(request()).deferred();
    let owner = run_of(other.claim(&key("order"), deferred).wait().unwrap());
    let imported = import(&other, &lines).unwrap();
    assert_eq!((imported.same, imported.differing), (0, 1));
    drop(owner);
    assert_eq!(import(&other, &lines).unwrap().new, 1);
}

/// Its answers are waited for when all lines are read. Whoever heard that all is well would serve without what is
/// missing, and run it anew.
#[test]
fn p2_p10_an_import_that_a_full_disk_does_not_take_says_so_and_is_done_again_once_there_is_room() {
    let clock = ManualClock::at(START);
    let one = builder(&clock).in_memory().unwrap();
    run(&one, &key("order")).complete(&vec![7_u8; 500_000]).wait().unwrap();
    let lines = exported(&one);
    let disk = SimulatedDisk::new().with_journal(0);
    let other = builder(&clock).open_on(&disk).unwrap();
    disk.set_room(Some(disk.image().len() as u64));
    assert_eq!(kind(import(&other, &lines)), ErrorKind::Full);
    disk.set_room(None);
    let mut imported = None;
    until("there is room again", || {
        imported = import(&other, &lines).ok();
        imported.is_some()
    });
    assert_eq!(imported.unwrap().new, 1);
    assert_eq!(exported(&other), lines);
}

/// At most 32 MiB of payloads are on their way to the writer at once, however many there are in all.
#[test]
fn p3_an_import_of_more_payloads_than_may_be_under_way_takes_in_all_of_them() {
    let clock = ManualClock::at(START);
    let [one, other] = [0, 1].map(|_| builder(&clock).in_memory().unwrap());
    for nth in 0..34 {
        run(&one, &key(&nth.to_string())).complete(&vec![7_u8; 1_000_000]).wait().unwrap();
    }
    let lines = exported(&one);
    let (tell, told) = channel();
    std::thread::spawn(move || tell.send(import(&other, &lines).map(|imported| imported.new)));
    assert_eq!(told.recv_timeout(PATIENCE).expect("it ends").unwrap(), 34);
}
