//! Everything that is kept, listed in pages by what is asked for, while it changes and where it is damaged.

mod support;

use std::ops::ControlFlow;
use std::time::Duration;

use reentry::{Cursor, DiskCall, DiskFault, ErrorKind, ManualClock, Operations, Progress, SimulatedDisk, State, Store};
use support::{START, broken, does, key, kind, run, times_out};

const HOUR: Duration = Duration::from_secs(3600);
const MOMENT: Duration = Duration::from_millis(1);
const NEARLY_AN_HOUR: Duration = Duration::from_millis(3_600_000 - 1);

fn name(progress: &Progress) -> String {
    progress.key().key().to_owned()
}

fn names(found: impl Iterator<Item = reentry::Result<Progress>>) -> Vec<String> {
    found.map(|progress| name(&progress.unwrap())).collect()
}

/// All of a list, a page at a time, each from the number that the last one handed out.
fn paged(list: impl Fn() -> Operations, page: usize, rows: u64) -> Vec<String> {
    let (mut all, mut link) = (Vec::new(), None);
    loop {
        let mut found = list().rows_max(rows);
        if let Some(number) = link {
            found = found.after(Cursor::from_number(number));
        }
        all.extend(names(found.by_ref().take(page)));
        link = found.cursor().map(Cursor::get);
        if link.is_none() {
            return all;
        }
    }
}

/// A store with a few operations of every state but `Owned`, in this order of their last changes.
fn every_state() -> (Store, ManualClock) {
    let clock = ManualClock::at(START);
    let builder = Store::builder().clock(clock.clone()).retention(HOUR).tombstones(1_000 * HOUR).attempts_max(2);
    let store = builder.in_memory().unwrap();
    for gone in ["gone 1", "gone 2"] {
        run(&store, &key(gone)).complete(&vec![7_u8; 2_000]).wait().unwrap();
    }
    clock.advance(HOUR);
    run(&store, &key("done")).complete(&()).wait().unwrap();
    run(&store, &key("refused")).fail(&vec![9_u8; 3_000]).wait().unwrap();
    for _ in 0..2 {
        drop(run(&store, &key("stuck")));
    }
    let mut open = run(&store, &key("open"));
    does(&mut open, "charge", "receipt");
    times_out(&mut open, "mail");
    open.advance("paid", &vec![5_u8; 4_000]).wait().unwrap();
    drop(open);
    (store, clock)
}

#[test]
fn p3_what_is_listed_is_what_progress_tells_with_every_payload() {
    let (store, _) = every_state();
    let owner = run(&store, &key("owned"));
    let listed: Vec<_> = store.operations().map(Result::unwrap).collect();
    let told = listed.iter().map(|it| format!("{} {}", name(it), it.state())).collect::<Vec<_>>();
    let expected = ["owned owned", "open unfinished", "stuck stuck", "refused failed", "done succeeded"];
    assert_eq!(told, [&expected[..], &["gone 2 gone", "gone 1 gone"]].concat());
    for progress in listed {
        let other = store.progress(progress.key()).unwrap().unwrap();
        assert_eq!(format!("{progress:?}"), format!("{other:?}"));
        assert_eq!(progress.checkpoint(), other.checkpoint());
        assert_eq!((progress.steps(), progress.outcome()), (other.steps(), other.outcome()));
    }
    drop(owner);
    store.verify().unwrap();
}

#[test]
fn each_filter_leaves_what_it_says_and_several_leave_what_all_of_them_do() {
    let (store, clock) = every_state();
    let list = || store.operations();
    let all = ["open", "stuck", "refused", "done", "gone 2", "gone 1"];
    assert_eq!(names(list()), all);
    assert_eq!(names(list().oldest_first()), ["gone 1", "gone 2", "done", "refused", "stuck", "open"]);
    assert_eq!(names(list().of_scope("scope")), all);
    assert_eq!(names(list().of_scope("scop")), [""; 0]);
    assert_eq!(names(list().in_state(State::Stuck).in_state(State::Failed)), ["stuck", "refused"]);
    assert_eq!(names(list().in_state(State::Gone)), ["gone 2", "gone 1"]);
    assert_eq!(names(list().at_checkpoint("paid")), ["open"]);
    assert_eq!(names(list().at_checkpoint("pai")), [""; 0]);
    assert_eq!(names(list().in_doubt()), ["open"]);
    assert_eq!(names(list().in_doubt().in_state(State::Stuck)), [""; 0]);
    clock.advance(HOUR / 2);
    assert_eq!(names(list().older_than(HOUR)), ["gone 2", "gone 1"]);
    assert_eq!(names(list().older_than(HOUR / 2)), all);
    assert_eq!(names(list().younger_than(HOUR)), all[..4]);
    assert_eq!(names(list().older_than(HOUR * 1_000_000_000)), [""; 0]);
    // What is over shows nowhere, removed or not.
    clock.advance(HOUR * 2_000);
    assert_eq!(names(list()), ["open", "stuck"]);
}

#[test]
fn pages_of_any_size_come_to_the_whole_list_in_both_orders() {
    let clock = ManualClock::at(START);
    let builder = Store::builder().clock(clock.clone()).retention(HOUR).tombstones(100 * HOUR);
    let store = builder.in_memory().unwrap();
    let complete =
        |nth: u32, bytes: &[u8]| run(&store, &key(&nth.to_string())).complete(&bytes.to_vec()).wait().unwrap();
    (0..40).for_each(|nth| drop(complete(nth, b"over")));
    clock.advance(HOUR);
    while store.stats().unwrap().tombstones < 40 {
        store.forget(&key("nobody's")).wait().unwrap();
    }
    // More than is read at a time, 512, and more than its bytes; of what ended, and of what is unfinished.
    for nth in 40..1_800 {
        match nth % 5 {
            0 | 3 if nth < 1_500 => drop(run(&store, &key(&nth.to_string()))),
            _ if nth % 100 == 1 => drop(complete(nth, &vec![1_u8; 1 << 20])),
            _ => drop(complete(nth, b"")),
        }
    }
    let ascending: Vec<_> = (0..1_800).map(|nth| nth.to_string()).collect();
    let descending: Vec<_> = ascending.iter().rev().cloned().collect();
    assert_eq!((names(store.operations()), names(store.operations().oldest_first())), (descending.clone(), ascending));
    for (page, rows) in [(1, 3), (7, 10_000), (511, 10_000), (512, 512), (2_000, 1_000), (5_000, 10_000)] {
        assert_eq!(paged(|| store.operations(), page, rows), descending, "pages of {page}, {rows} rows");
        let oldest = paged(|| store.operations().oldest_first(), page, rows);
        assert!(oldest.iter().rev().eq(&descending), "oldest first, pages of {page}, {rows} rows");
        let unfound = paged(|| store.operations().at_checkpoint("nowhere"), page, rows);
        assert_eq!(unfound, [""; 0], "pages of {page}, {rows} rows");
    }
    store.close().unwrap();
    assert_eq!(store.operations().next().unwrap().unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn a_list_goes_on_while_what_it_lists_comes_and_goes() {
    let store = Store::builder().in_memory().unwrap();
    (0..2_000).for_each(|nth| drop(run(&store, &key(&nth.to_string()))));
    let mut list = store.operations().oldest_first();
    assert_eq!(list.by_ref().take(512).count(), 512);
    assert!(store.forget(&key("1000")).wait().unwrap());
    run(&store, &key("1500")).advance("moved", &()).wait().unwrap();
    let rest = names(list);
    let expected = (512..2_000).filter(|nth| ![1_000, 1_500].contains(nth)).map(|nth| nth.to_string());
    assert_eq!(rest, expected.chain(["1500".to_owned()]).collect::<Vec<_>>());
}

#[test]
fn what_ends_while_all_is_listed_oldest_first_is_not_left_out() {
    let store = Store::builder().in_memory().unwrap();
    (0..1_800).for_each(|nth| drop(run(&store, &key(&nth.to_string()))));
    (1_800..1_810).for_each(|nth| drop(run(&store, &key(&nth.to_string())).complete(&()).wait().unwrap()));
    // All that has ended is read with the first page of what has not.
    let mut list = store.operations().oldest_first();
    assert_eq!(list.by_ref().take(10).count(), 10);
    for ended in ["1200", "1700"] {
        run(&store, &key(ended)).complete(&()).wait().unwrap();
    }
    let rest = names(list);
    let expected = (10..1_810).filter(|nth| ![1_200, 1_700].contains(nth)).chain([1_200, 1_700]);
    assert_eq!(rest, expected.map(|nth| nth.to_string()).collect::<Vec<_>>());
}

#[test]
fn p11_what_a_list_tells_of_an_expiry_outlasts_a_restart_with_the_clock_turned_back() {
    let (disk, clock) = (SimulatedDisk::new(), ManualClock::at(START));
    let open = |disk: &SimulatedDisk, clock: &ManualClock| {
        Store::builder().clock(clock.clone()).retention(HOUR).tombstones(HOUR).open_on(disk).unwrap()
    };
    let store = open(&disk, &clock);
    run(&store, &key("a")).complete(&()).wait().unwrap();
    clock.advance(HOUR);
    let told: Vec<_> = store.operations().map(|it| it.unwrap().state()).collect();
    assert_eq!(told, [State::Gone]);
    let cut = disk.cut(disk.calls(), |_| reentry::Loss::Lost);
    let store = open(&cut, &ManualClock::at(START));
    assert_eq!(store.progress(&key("a")).unwrap().unwrap().state(), State::Gone);
}

/// Whichever of those that are listed it is: before and behind others that are kept.
#[test]
fn p11_every_expiry_in_a_list_outlasts_a_restart_with_the_clock_turned_back() {
    for expired in ["a", "b", "c"] {
        let (disk, clock) = (SimulatedDisk::new(), ManualClock::at(START));
        let open = |disk: &SimulatedDisk, clock: &ManualClock| {
            Store::builder().clock(clock.clone()).tombstones(HOUR).open_on(disk).unwrap()
        };
        let store = open(&disk, &clock);
        for name in ["a", "b", "c"] {
            let mut owner = run(&store, &key(name));
            owner.keep_for(if name == expired { HOUR } else { 3 * HOUR });
            owner.complete(&()).wait().unwrap();
        }
        clock.advance(HOUR);
        let gone = |store: &Store| names(store.operations().in_state(State::Gone));
        assert_eq!(gone(&store), [expired]);
        let cut = disk.cut(disk.calls(), |_| reentry::Loss::Lost);
        assert_eq!(gone(&open(&cut, &ManualClock::at(START))), [expired]);
    }
}

/// Nothing is told at a moment that is not on disk: what is read before the deadline is as it was then.
#[test]
fn p11_what_a_list_read_before_an_expiry_is_told_as_it_was_though_the_rest_is_read_after_it() {
    let clock = ManualClock::at(START);
    let store = Store::builder().clock(clock.clone()).retention(HOUR).tombstones(HOUR).in_memory().unwrap();
    run(&store, &key("a")).complete(&()).wait().unwrap();
    (0..600).for_each(|nth| drop(run(&store, &key(&nth.to_string()))));
    let mut list = store.operations();
    assert_eq!(list.by_ref().take(512).count(), 512);
    clock.advance(HOUR);
    let states: Vec<_> = list.map(|it| it.unwrap().state()).collect();
    assert_eq!(states, [vec![State::Unfinished; 88], vec![State::Succeeded]].concat());
}

#[test]
fn p11_what_a_list_leaves_out_as_over_stays_so_after_a_restart_with_the_clock_turned_back() {
    let (disk, clock) = (SimulatedDisk::new(), ManualClock::at(START));
    let open = |disk: &SimulatedDisk, clock: &ManualClock| {
        Store::builder().clock(clock.clone()).retention(HOUR).open_by_hand(disk).unwrap()
    };
    let store = open(&disk, &clock);
    let claim = store.claim(&key("a"), support::request());
    store.work_by_hand();
    let ended = support::run_of(claim.wait().unwrap()).complete(&());
    store.work_by_hand();
    ended.wait().unwrap();
    clock.advance(HOUR);
    assert_eq!(store.operations().count(), 0);
    let cut = disk.cut(disk.calls(), |_| reentry::Loss::Lost);
    assert_eq!(open(&cut, &ManualClock::at(START)).operations().count(), 0);
    // A disk that is full keeps nobody from looking.
    disk.fail([support::full()]);
    clock.advance(HOUR);
    assert_eq!(store.operations().count(), 0);
}

/// Where the time that it rests on is not put on disk it would be there again, with the clock turned back.
#[test]
fn p10_p11_a_list_tells_of_no_expiry_whose_time_the_disk_does_not_take() {
    let no_room = DiskFault::kind(std::io::ErrorKind::StorageFull).on(DiskCall::GROWS);
    for (fault, expected) in [
        (no_room.for_ever(), ErrorKind::Full),
        (no_room, ErrorKind::Full),
        (broken(&[DiskCall::Sync]), ErrorKind::Failed),
    ] {
        let (disk, clock) = (SimulatedDisk::new(), ManualClock::at(START));
        let open = |disk: &SimulatedDisk, clock: &ManualClock| {
            Store::builder().clock(clock.clone()).retention(HOUR).tombstones(HOUR).open_by_hand(disk).unwrap()
        };
        let store = open(&disk, &clock);
        let claim = store.claim(&key("a"), support::request());
        store.work_by_hand();
        let ended = support::run_of(claim.wait().unwrap()).complete(&());
        store.work_by_hand();
        ended.wait().unwrap();
        clock.advance(HOUR);
        disk.fail([fault]);
        let told: Vec<_> = store.operations().map(|it| it.map(|it| it.state()).map_err(|e| e.kind())).collect();
        assert_eq!(told, [Err(expected)], "{fault:?}");
        let left = open(&disk.cut(disk.calls(), |_| reentry::Loss::Lost), &ManualClock::at(START));
        assert_eq!(left.progress(&key("a")).unwrap().unwrap().state(), State::Succeeded);
    }
}

#[test]
fn what_is_over_stands_at_no_checkpoint_whether_it_was_removed_or_not() {
    let clock = ManualClock::at(START);
    let store = Store::builder().clock(clock.clone()).retention(2 * HOUR).tombstones(HOUR).in_memory().unwrap();
    // It is kept longer, and holds up what stands behind it.
    run(&store, &key("b")).complete(&()).wait().unwrap();
    let mut run = run(&store, &key("a"));
    run.advance("paid", &()).wait().unwrap();
    run.keep_for(HOUR);
    run.complete(&()).wait().unwrap();
    assert_eq!(names(store.operations().at_checkpoint("paid")), ["a"]);
    clock.advance(HOUR);
    assert_eq!(names(store.operations().at_checkpoint("paid")), [""; 0]);
    assert_eq!(names(store.operations().in_state(State::Gone)), ["a"]);
}

/// Whoever pages until there is no cursor would take the error for the end.
#[test]
fn p10_a_list_that_an_error_ended_goes_on_behind_what_it_gave() {
    let disk = SimulatedDisk::new();
    let store = Store::builder().open_on(&disk).unwrap();
    (0..1_200).for_each(|nth| drop(run(&store, &key(&nth.to_string()))));
    let mut list = store.operations();
    let mut given = names(list.by_ref().take(512));
    store.close().unwrap();
    assert_eq!(list.next().unwrap().unwrap_err().kind(), ErrorKind::Closed);
    assert!(list.next().is_none(), "it has ended");
    let store = Store::builder().open_on(&disk).unwrap();
    given.extend(names(store.operations().after(list.cursor().unwrap())));
    assert_eq!(given, (0..1_200).rev().map(|nth| nth.to_string()).collect::<Vec<_>>());
}

#[test]
fn p10_a_damaged_row_is_an_error_in_its_place_and_the_next_ones_follow() {
    const MARK: &[u8] = b"what one operation came to";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.reentry");
    let store = Store::builder().cache_bytes(0).open(&path).unwrap();
    for nth in ["1", "2", "3"] {
        let bytes = if nth == "2" { MARK.to_vec() } else { Vec::new() };
        run(&store, &key(nth)).complete(&bytes).wait().unwrap();
    }
    store.close().unwrap();
    let store = Store::builder().cache_bytes(0).open(&path).unwrap();
    let mut image = std::fs::read(&path).unwrap();
    for at in (0..image.len()).filter(|at| image[*at..].starts_with(MARK)).collect::<Vec<_>>() {
        image[at] ^= 1;
    }
    // In place: the store has the file open.
    std::io::Write::write_all(&mut std::fs::OpenOptions::new().write(true).open(&path).unwrap(), &image).unwrap();
    let told: Vec<_> = store.operations().map(|it| it.map(|it| name(&it)).map_err(|e| e.kind())).collect();
    assert_eq!(told, [Ok("3".to_owned()), Err(ErrorKind::Corrupt), Ok("1".to_owned())]);
}

#[test]
fn p5_until_when_an_outcome_is_kept_is_told_while_it_is_whether_it_was_removed_or_not() {
    let clock = ManualClock::at(START);
    let store = Store::builder().clock(clock.clone()).retention(2 * HOUR).tombstones(HOUR).in_memory().unwrap();
    // It is kept longer, and holds up what stands behind it.
    run(&store, &key("b")).complete(&()).wait().unwrap();
    let mut run = run(&store, &key("a"));
    run.keep_for(HOUR);
    run.complete(&()).wait().unwrap();
    let told = || {
        let progress = store.progress(&key("a")).unwrap().unwrap();
        let listed = store.operations().map(Result::unwrap).find(|it| it.key() == &key("a")).unwrap();
        assert_eq!(listed.kept_until(), progress.kept_until());
        (progress.state(), progress.ended_at(), progress.kept_until(), progress.known_until())
    };
    let (ended, kept, known) = (Some(START), Some(START + HOUR), Some(START + 2 * HOUR));
    clock.advance(NEARLY_AN_HOUR);
    assert_eq!(told(), (State::Succeeded, ended, kept, known));
    clock.advance(MOMENT);
    assert_eq!(told(), (State::Gone, ended, None, known));
    assert_eq!(store.stats().unwrap().tombstones, 0, "it was not removed");
    clock.advance(NEARLY_AN_HOUR);
    support::settle(&store);
    assert_eq!(told(), (State::Gone, ended, None, known));
}

#[test]
fn p11_what_is_exactly_as_young_is_young_enough() {
    let clock = ManualClock::at(START);
    let store = Store::builder().clock(clock.clone()).in_memory().unwrap();
    drop(run(&store, &key("first")));
    clock.advance(HOUR);
    run(&store, &key("second")).complete(&()).wait().unwrap();
    clock.advance(HOUR);
    let younger = |age| names(store.operations().younger_than(age));
    assert_eq!(younger(2 * HOUR), ["second", "first"]);
    assert_eq!(younger(HOUR + NEARLY_AN_HOUR), ["second"]);
    assert_eq!(younger(HOUR), ["second"]);
    assert_eq!(younger(NEARLY_AN_HOUR), [""; 0]);
    assert_eq!(names(store.operations().younger_than(2 * HOUR).older_than(2 * HOUR)), ["first"]);
    assert_eq!(younger(Duration::MAX), ["second", "first"]);
}

#[test]
fn p4_what_ended_with_a_step_in_doubt_is_not_among_what_somebody_must_look_into() {
    let store = Store::builder().in_memory().unwrap();
    for name in ["completed", "failed", "open"] {
        let mut order = run(&store, &key(name));
        times_out(&mut order, "charge");
        match name {
            "completed" => drop(order.complete(&()).wait().unwrap()),
            "failed" => drop(order.fail(&()).wait().unwrap()),
            _ => drop(order),
        }
        assert_eq!(store.progress(&key(name)).unwrap().unwrap().in_doubt().count(), 1, "{name}");
    }
    assert_eq!(names(store.operations().in_doubt()), ["open"]);
    assert_eq!(names(store.operations().in_doubt().oldest_first()), ["open"]);
    assert_eq!(names(store.operations().in_doubt().in_state(State::Succeeded).in_state(State::Failed)), [""; 0]);
    assert_eq!(store.stats().unwrap().in_doubt, 1);
}

/// Nobody knows what a failed sync left of its batch, and the failed store shows each operation as it was last told.
#[test]
fn p2_what_a_failed_sync_leaves_unknown_is_neither_listed_nor_exported() {
    let disk = SimulatedDisk::new().with_journal(64);
    let store = Store::builder().open_by_hand(&disk).unwrap();
    let claim = store.claim(&key("order"), support::request());
    store.work_by_hand();
    let order = support::run_of(claim.wait().unwrap());
    assert_eq!(names(store.operations()), ["order"]);
    disk.fail([broken(&[DiskCall::Sync])]);
    let ended = order.complete(&"a receipt".to_owned());
    store.work_by_hand();
    assert_eq!(kind(ended.wait()), ErrorKind::OutcomeUnknown);
    let listed: Vec<_> = store.operations().map(|it| it.unwrap().outcome().is_some()).collect();
    assert_eq!(listed, [false]);
    let mut lines = Vec::new();
    let exported = store.export(&mut lines, |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(exported.operations, 1);
    assert!(!String::from_utf8(lines).unwrap().contains("a receipt"));
}
