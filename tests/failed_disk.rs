//! P10: a disk that fails is loud. After a failed write or sync nothing more is acknowledged, nobody hangs, and
//! reopening finds everything acknowledged; a full disk refuses, keeps serving replays and mends itself.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use reentry::{
    Claim, DiskCall, DiskFault, Error, ErrorKind, Loss, ManualClock, Pending, Result, SimulatedDisk, Store, Timestamp,
};
use support::{Gate, PATIENCE, broken, full, key, kind, request, run, run_of, settle, stand_in_line};

fn answer() -> String {
    "the answer".to_owned()
}

/// The kind of error that this comes to, within the time that any answer takes.
#[track_caller]
fn failure<T: std::fmt::Debug>(pending: Pending<T>) -> ErrorKind {
    pending.wait_for(PATIENCE).unwrap_err().kind()
}

#[track_caller]
fn is_replayed(store: &Store, name: &str) {
    match store.claim(&key(name), request()).wait_for(PATIENCE).unwrap() {
        Claim::Replay(outcome) => assert_eq!(outcome.bytes(), answer().as_bytes()),
        other => panic!("expected a replay of {name}, got {other:?}"),
    }
}

/// Lets the disk fail under a batch of every kind of change, with waiters and later calls behind it.
fn nobody_hangs_and_nothing_is_lost(fail: fn(&SimulatedDisk)) {
    let (disk, gate) = (SimulatedDisk::new(), Gate::new());
    let store = Store::builder().clock(gate.clone()).open_on(&disk).unwrap();
    run(&store, &key("done")).complete(&answer()).wait().unwrap();
    let (mut owner, completing) = (run(&store, &key("owned")), run(&store, &key("completing")));
    owner.advance("before", &answer()).wait().unwrap();
    let waiting = stand_in_line(&store, &key("owned"));
    let waiting_for_outcome = stand_in_line(&store, &key("completing"));
    drop(run(&store, &key("forgotten")));

    gate.hold(&store);
    let advance = owner.advance("after", &answer());
    let complete = completing.complete(&answer());
    let claim = store.claim(&key("fresh"), request());
    let forget = store.forget(&key("forgotten"));
    fail(&disk);
    gate.open();

    // The batch's commit failed: nobody can say whether it is durable.
    let kinds = [failure(advance), failure(complete), failure(claim), failure(forget)];
    assert!(kinds.iter().all(|kind| *kind == kinds[0]), "one batch, one fate: {kinds:?}");
    assert!(matches!(kinds[0], ErrorKind::OutcomeUnknown), "{kinds:?}");
    assert_eq!([failure(waiting), failure(waiting_for_outcome)], [ErrorKind::Failed; 2], "nobody waits for ever");

    // It stays so even if the disk is well again: what the system dropped meanwhile nobody knows.
    disk.fail(None);
    assert_eq!(failure(store.claim(&key("later"), request())), ErrorKind::Failed);
    assert_eq!(failure(owner.advance("later", &answer())), ErrorKind::Failed);
    assert_eq!(failure(owner.complete(&answer())), ErrorKind::Failed);
    assert_eq!(failure(store.forget(&key("done"))), ErrorKind::Failed);
    assert_eq!(failure(store.revoke(&key("owned"))), ErrorKind::Failed);
    replay_or_failed(store.claim(&key("done"), request()).wait_for(PATIENCE));
    if let Ok(progress) = store.progress(&key("owned")) {
        assert_eq!(progress.unwrap().checkpoint().unwrap().name(), "before", "what is not acknowledged is not shown");
    }
    drop(store.close());

    for loss in [Loss::Lost, Loss::Kept, Loss::Torn(100)] {
        let after = disk.cut(disk.calls(), |_| loss);
        let reopened = Store::builder().clock(gate.clock.clone()).open_on(&after).unwrap();
        is_replayed(&reopened, "done");
        let again = run(&reopened, &key("owned"));
        assert_eq!(again.attempt(), 2);
        let name = again.checkpoint().unwrap().name().to_owned();
        assert!(["before", "after"].contains(&name.as_str()), "{name}");
        assert!(reopened.progress(&key("later")).unwrap().is_none(), "refused, so not applied");
        assert!(reopened.progress(&key("completing")).unwrap().is_some(), "its claim was acknowledged");
        reopened.verify().unwrap();
    }
}

fn replay_or_failed(claim: Result<Claim>) {
    match claim {
        Ok(Claim::Replay(outcome)) => assert_eq!(outcome.bytes(), answer().as_bytes()),
        Err(error) if error.kind() == ErrorKind::Failed => {}
        other => panic!("expected a replay or `Failed`, got {other:?}"),
    }
}

#[test]
fn p10_after_a_failed_sync_nothing_is_acknowledged_and_nobody_hangs() {
    nobody_hangs_and_nothing_is_lost(|disk| disk.fail(Some(broken(&[DiskCall::Sync]))));
}

#[test]
fn p10_after_a_failed_write_nothing_is_acknowledged_and_nobody_hangs() {
    nobody_hangs_and_nothing_is_lost(|disk| disk.fail(Some(broken(&[DiskCall::Write, DiskCall::SetLen]))));
}

/// Claims and completes `nth` with enough bytes to fill a small disk soon.
fn fill_one(store: &Store, nth: usize) -> Result<()> {
    let key = key(&format!("filling {nth}"));
    match store.claim(&key, request()).wait_for(PATIENCE)? {
        Claim::Run(run) => run.complete(&vec![7_u8; 3_000]).wait_for(PATIENCE).map(drop),
        Claim::Replay(_) => Ok(()),
        other => panic!("nobody else runs it, but there is {other:?}"),
    }
}

/// Tries again until the store took it: it mends itself, at a time of its own.
fn until_taken<T>(mut attempt: impl FnMut() -> Result<T>) -> T {
    let began = std::time::Instant::now();
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(error) if is_full(&error) => std::thread::yield_now(),
            Err(error) => panic!("a full disk must not come to this: {error}"),
        }
        assert!(began.elapsed() < PATIENCE, "it never mended itself");
    }
}

/// Refused, or committed in part and not known yet: what a full disk may come to.
fn is_full(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Full | ErrorKind::OutcomeUnknown)
}

#[test]
fn p10_a_full_disk_refuses_keeps_serving_replays_and_mends_itself() {
    let empty = {
        let disk = SimulatedDisk::new();
        Store::builder().open_on(&disk).unwrap().close().unwrap();
        disk.image().len()
    };
    for more in (0..64).map(|step| step * 2_560) {
        let disk = SimulatedDisk::new();
        let store = Store::builder().open_on(&disk).unwrap();
        run(&store, &key("done")).complete(&answer()).wait().unwrap();
        let mut owner = run(&store, &key("owned"));
        disk.set_room(Some((empty + more) as u64));
        let mut taken = Vec::new();
        let refusal = (0..2_000).find_map(|nth| match fill_one(&store, nth) {
            Ok(()) => {
                taken.push(nth);
                None
            }
            Err(error) => Some(error),
        });
        let refusal = refusal.expect("a disk of this size is full at last");
        assert!(is_full(&refusal), "{more} bytes more: {refusal}");
        // Tries while it is full, some of which find it being opened anew.
        for nth in 0..5 {
            is_replayed(&store, "done");
            if let Err(error) = fill_one(&store, 10_000 + nth) {
                assert!(is_full(&error), "{more} bytes more: {error}");
            }
        }
        disk.set_room(None);
        until_taken(|| fill_one(&store, 20_000));
        owner.advance("paid", &answer()).wait().unwrap();
        is_replayed(&store, "done");
        store.verify().unwrap();
        // What was told is there, on this store and after a power cut.
        let after = Store::builder().open_on(&disk.cut(disk.calls(), |_| Loss::Lost)).unwrap();
        for store in [&store, &after] {
            for nth in &taken {
                let claim = store.claim(&key(&format!("filling {nth}")), request()).wait().unwrap();
                assert!(matches!(claim, Claim::Replay(_)), "{more} bytes more, operation {nth}: {claim:?}");
            }
        }
        assert_eq!(run(&after, &key("owned")).checkpoint().unwrap().name(), "paid");
        after.verify().unwrap();
    }
}

const ROLE: &str = "REENTRY_TEST_FULL_FILE";

/// Not a test of its own: what the child process of the next one does.
#[cfg(unix)]
#[test]
fn role_of_the_child_whose_file_may_not_grow() {
    let Some(path) = std::env::var_os(ROLE) else { return };
    let store = Store::open(path).unwrap();
    run(&store, &key("done")).complete(&answer()).wait().unwrap();
    let refusal = (0..100_000).find_map(|nth| fill_one(&store, nth).err()).expect("the file may not grow for ever");
    assert!(is_full(&refusal), "{refusal}");
    for nth in 0..10 {
        is_replayed(&store, "done");
        // What fits into pages that have become free meanwhile is taken.
        assert!(fill_one(&store, 200_000 + nth).err().is_none_or(|error| is_full(&error)));
    }
    // Ends without closing, as a process that is killed.
    std::process::exit(42);
}

#[cfg(unix)]
#[test]
fn p10_a_real_file_that_may_not_grow_is_a_full_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.reentry");
    Store::open(&path).unwrap().close().unwrap();
    // In blocks of 512 bytes, or of 1,024 where the shell counts so: some way above the empty file either way.
    let blocks = fs::metadata(&path).unwrap().len() / 512 + 256;
    let script = format!(
        "trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" role_of_the_child_whose_file_may_not_grow --exact --nocapture"
    );
    let this = std::env::current_exe().unwrap();
    let output = Command::new("sh").arg("-c").arg(script).arg(this).env(ROLE, &path).output().unwrap();
    assert_eq!(output.status.code(), Some(42), "{}", String::from_utf8_lossy(&output.stderr));
    // Without the limit it is a store like any other.
    let store = Store::open(&path).unwrap();
    is_replayed(&store, "done");
    fill_one(&store, 300_000).unwrap();
    store.verify().unwrap();
}

/// Takes the file away under an open store in some way; nothing may be acknowledged into it after that.
fn nothing_is_acknowledged_after(take_away: fn(&Path)) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.reentry");
    let store = Store::open(&path).unwrap();
    run(&store, &key("done")).complete(&answer()).wait().unwrap();
    let owner = run(&store, &key("owned"));
    let waiting = stand_in_line(&store, &key("owned"));
    settle(&store);
    take_away(&path);
    assert_eq!(failure(store.claim(&key("fresh"), request())), ErrorKind::OutcomeUnknown);
    assert_eq!(failure(store.claim(&key("later"), request())), ErrorKind::Failed);
    assert_eq!(failure(owner.complete(&answer())), ErrorKind::Failed);
    assert_eq!(failure(waiting), ErrorKind::Failed);
    drop(store.close());
}

#[cfg(unix)]
#[test]
fn p10_nothing_is_acknowledged_into_a_file_that_was_removed() {
    nothing_is_acknowledged_after(|path| fs::remove_file(path).unwrap());
}

#[cfg(unix)]
#[test]
fn p10_nothing_is_acknowledged_into_a_file_that_was_renamed() {
    nothing_is_acknowledged_after(|path| fs::rename(path, path.with_extension("old")).unwrap());
}

#[cfg(unix)]
#[test]
fn p10_nothing_is_acknowledged_into_a_file_that_was_replaced() {
    nothing_is_acknowledged_after(|path| {
        let copy = path.with_extension("copy");
        fs::copy(path, &copy).unwrap();
        fs::rename(&copy, path).unwrap();
    });
}

#[test]
fn p10_a_waiter_whose_owner_goes_after_a_failed_sync_does_not_hang() {
    let disk = SimulatedDisk::new();
    let store = Store::builder().open_on(&disk).unwrap();
    let owner = run(&store, &key("owned"));
    let waiting = stand_in_line(&store, &key("owned"));
    disk.fail(Some(broken(&[DiskCall::Sync])));
    drop(owner);
    // Its turn came, and the claim it then made could not be made durable.
    let kind = failure(waiting);
    assert!(matches!(kind, ErrorKind::OutcomeUnknown | ErrorKind::Failed), "{kind:?}");
    let busy = store.claim(&key("owned"), request());
    assert_eq!(failure(busy), ErrorKind::Failed);
    drop(store.close());
    let reopened = Store::builder().open_on(&disk.cut(disk.calls(), |_| Loss::Lost)).unwrap();
    drop(run_of(reopened.claim(&key("owned"), request()).wait().unwrap()));
    reopened.verify().unwrap();
}

/// A full disk is waited out by opening the file anew, and that writes and syncs too: where such a sync fails, the
/// system may have dropped what was written, and trying again would read it back as good.
#[test]
fn p10_a_sync_that_fails_while_a_full_disk_is_mended_stops_the_store() {
    let disk = SimulatedDisk::new();
    let store = Store::builder().open_by_hand(&disk).unwrap();
    let claim = |name| {
        let claim = store.claim(&key(name), request());
        store.work_by_hand();
        claim.wait()
    };
    drop(run_of(claim("before").unwrap()));
    disk.fail([full(), broken(&[DiskCall::Sync])]);
    assert!(claim("full").is_err());
    disk.fail(Some(broken(&[DiskCall::Sync])));
    // Its reopening fails now or with the next batch.
    let _ = claim("failing");
    disk.fail(None);
    assert_eq!(kind(claim("after")), ErrorKind::Failed);
    assert_eq!(kind(claim("ever after")), ErrorKind::Failed);
    assert!(!store.work_by_hand());
    drop(store);
    let store = Store::builder().open_on(&disk.killed(disk.calls())).unwrap();
    assert_eq!(store.unfinished().count(), 1, "what was told is there, and nothing that was refused");
    store.verify().unwrap();
}

/// A store that works by hand, and has met a full disk which it made good by itself: redb writes ahead where its cache
/// is small, and writes once more what it could not.
fn after_a_full_disk_that_was_made_good() -> (SimulatedDisk, Store) {
    let disk = SimulatedDisk::new().with_journal(0);
    let store = Store::builder().cache_bytes(0).open_by_hand(&disk).unwrap();
    for nth in 0..100 {
        let before = disk.failed();
        disk.fail([DiskFault::kind(std::io::ErrorKind::StorageFull).on(&[DiskCall::Write])]);
        let claims: Vec<_> = (0..20).map(|one| store.claim(&key(&format!("{nth} {one}")), request())).collect();
        store.work_by_hand();
        disk.fail(None);
        if claims.into_iter().all(|claim| claim.wait().is_ok()) && disk.failed() > before {
            return (disk, store);
        }
    }
    panic!("redb never wrote ahead");
}

/// The full disk of an earlier batch must not hide that: what a failed sync dropped would be read back as good.
#[test]
fn p10_a_sync_that_fails_after_a_full_disk_was_made_good_stops_the_store() {
    let (disk, store) = after_a_full_disk_that_was_made_good();
    disk.fail([DiskFault::kind(std::io::ErrorKind::Other).on(&[DiskCall::Sync])]);
    let claim = store.claim(&key("order"), request());
    store.work_by_hand();
    disk.fail(None);
    assert_eq!(kind(claim.wait()), ErrorKind::OutcomeUnknown);
    assert_eq!(kind(store.claim(&key("later"), request()).wait()), ErrorKind::Failed);
}

/// Wherever it fails, once: in the commit, as the file is closed to be opened anew, as it is opened.
#[test]
fn p10_any_sync_that_fails_around_a_full_disk_stops_the_store() {
    const ROWS: reentry::Table = reentry::Table::new("rows");
    let mut failed = [0, 0];
    for (full, sync) in (0..12).flat_map(|full| (0..4).map(move |sync| (full, sync))) {
        for (closure, failed) in failed.iter_mut().enumerate() {
            let disk = SimulatedDisk::new();
            let store = Store::builder().cache_bytes(0).open_by_hand(&disk).unwrap();
            let claim = |name| {
                let claim = store.claim(&key(name), request());
                store.work_by_hand();
                claim.wait()
            };
            let mut run = run_of(claim("before").unwrap());
            let syncs = || disk.seen(&[DiskCall::Sync]) - disk.syncs();
            let none = DiskFault::kind(std::io::ErrorKind::StorageFull).on(DiskCall::GROWS).after(full);
            disk.fail([none, DiskFault::kind(std::io::ErrorKind::Other).on(&[DiskCall::Sync]).after(sync)]);
            let told = if closure == 0 {
                claim("order").map(drop)
            } else {
                // What redb could not write ahead is not missed, so the file is closed as a whole one.
                let moved = run.advance_with("paid", &answer(), |tx| {
                    (0..9).try_for_each(|nth| tx.open_table(ROWS)?.insert([nth], vec![nth; 3_000]).map(drop))?;
                    Err("the row is not valid".into())
                });
                store.work_by_hand();
                moved.wait().map(drop)
            };
            if syncs() > 0 {
                *failed += 1;
                assert!(told.is_err(), "{full}, {sync}");
                assert_eq!(kind(claim("later")), ErrorKind::Failed, "{full}, {sync}, closure: {closure}");
            }
        }
    }
    assert!(failed[0] > 12 && failed[1] > 2, "{failed:?} syncs failed");
}

/// Nor is it to blame for a closure that fails later.
#[test]
fn p8_a_closure_that_fails_after_a_full_disk_was_made_good_fails_alone() {
    let (_disk, store) = after_a_full_disk_that_was_made_good();
    let claim = store.claim(&key("order"), request());
    store.work_by_hand();
    let mut run = run_of(claim.wait().unwrap());
    let moved = run.advance_with("paid", &answer(), |_| Err("the row is not valid".into()));
    let other = store.claim(&key("other"), request());
    store.work_by_hand();
    assert_eq!(kind(moved.wait()), ErrorKind::Aborted);
    drop(run_of(other.wait().unwrap()));
    let moved = run.advance("paid", &answer());
    store.work_by_hand();
    moved.wait().unwrap();
}

/// A closure that fails because the disk is full is not to blame for it, and neither are those behind it in the batch.
#[test]
fn p8_p10_rows_that_a_full_disk_has_no_room_for_are_refused_as_such() {
    const ROWS: reentry::Table = reentry::Table::new("rows");
    let disk = SimulatedDisk::new();
    let store = Store::builder().open_by_hand(&disk).unwrap();
    let claims: Vec<_> = (0..3).map(|nth| store.claim(&key(&nth.to_string()), request())).collect();
    store.work_by_hand();
    let mut runs: Vec<_> = claims.into_iter().map(|claim| run_of(claim.wait().unwrap())).collect();
    disk.set_room(Some(disk.image().len() as u64));
    for _ in 0..2 {
        let moves: Vec<_> = runs
            .iter_mut()
            .map(|run| {
                run.advance_with("large", &answer(), |tx| {
                    Ok(tx.open_table(ROWS)?.insert("row", vec![7; 1 << 20]).map(drop)?)
                })
            })
            .collect();
        store.work_by_hand();
        for moved in moves {
            assert_eq!(kind(moved.wait()), ErrorKind::Full);
        }
    }
    disk.set_room(None);
    let moves: Vec<_> = runs.iter_mut().map(|run| run.advance("small", &answer())).collect();
    store.work_by_hand();
    for moved in moves {
        moved.wait().unwrap();
    }
    store.verify().unwrap();
}

/// A batch that ends an operation and forgets it leaves no row that tells whether it is on disk: that the row which it
/// would have made and removed again is not there says nothing.
#[test]
fn p2_p4_what_was_ended_and_forgotten_on_a_full_disk_is_forgotten_wholly_or_not_at_all() {
    let (mut lost, mut landed) = (0, 0);
    // The write that fails reaches the disk, or nothing of it does.
    let ways = [(false, 0), (true, 0), (false, 1 << 20)];
    for (after, (for_ever, written)) in (0..32).flat_map(|after| ways.map(|way| (after, way))) {
        let disk = SimulatedDisk::new();
        let store = Store::builder().open_by_hand(&disk).unwrap();
        let claim = store.claim(&key("order"), request());
        store.work_by_hand();
        let mut run = run_of(claim.wait().unwrap());
        let moved = run.advance("charged", &answer());
        store.work_by_hand();
        moved.wait().unwrap();
        let full = DiskFault::kind(std::io::ErrorKind::StorageFull).on(DiskCall::GROWS).after(after);
        let (full, failed) = (full.having_written(written), disk.failed());
        disk.fail([if for_ever { full.for_ever() } else { full }]);
        let (ended, forgotten) = (run.complete(&answer()), store.forget(&key("order")));
        store.work_by_hand();
        disk.fail(None);
        let is_told = [ended.wait().is_ok(), forgotten.wait().is_ok_and(|was_there| was_there)];
        assert_eq!(is_told[0], is_told[1], "one batch, one fate");
        lost += usize::from(!is_told[0]);
        landed += usize::from(is_told[0] && disk.failed() > failed);
        let claim = until_taken(|| {
            let claim = store.claim(&key("order"), request());
            store.work_by_hand();
            claim.wait()
        });
        let seen = run_of(claim).attempt();
        store.close().unwrap();
        let reopened = Store::builder().open_on(&disk.killed(disk.calls())).unwrap();
        let kept = reopened.progress(&key("order")).unwrap().unwrap();
        assert_eq!(kept.attempt(), seen, "call {after} failed, for ever: {for_ever}");
        assert_eq!(kept.checkpoint().is_some(), seen == 2, "call {after} failed, for ever: {for_ever}");
    }
    assert!(lost > 2, "the disk was never full while both were in one batch");
    assert!(landed > 0, "no write that failed was the one that made the commit");
}

/// The write that fails for want of room may have reached the disk, and while that stays full the file cannot be opened
/// anew to look: nobody knows what became of the batch until it can, and then all of it shows, or nothing.
#[test]
fn p2_p10_what_landed_on_a_disk_that_stayed_full_shows_once_it_is_mended() {
    let mut landed = 0;
    for after in 0..12 {
        let disk = SimulatedDisk::new();
        let store = Store::builder().open_by_hand(&disk).unwrap();
        let work = |pending: Pending<Claim>| {
            store.work_by_hand();
            pending.wait()
        };
        drop(run_of(work(store.claim(&key("forgotten"), request())).unwrap()));
        let full = DiskFault::kind(std::io::ErrorKind::StorageFull).on(DiskCall::GROWS);
        disk.fail([full.after(after).having_written(1 << 20), full.after(after + 1).for_ever()]);
        let forgotten = store.forget(&key("forgotten"));
        let claimed = work(store.claim(&key("order"), request()));
        let fates = [claimed.map(drop), forgotten.wait().map(drop)].map(|told| told.err().map(|error| error.kind()));
        assert_eq!(fates[0], fates[1], "one batch, one fate");
        disk.fail(None);
        drop(until_taken(|| work(store.claim(&key("another"), request()))));
        let shown = ["order", "forgotten"].map(|name| store.progress(&key(name)).unwrap().is_some());
        assert_ne!(shown[0], shown[1], "all of the batch or nothing of it, {after}");
        store.verify().unwrap();
        store.close().unwrap();
        let reopened = Store::builder().open_on(&disk.killed(disk.calls())).unwrap();
        let kept = ["order", "forgotten"].map(|name| reopened.progress(&key(name)).unwrap().is_some());
        assert_eq!(kept, shown, "{after}");
        landed += usize::from(fates[0] == Some(ErrorKind::OutcomeUnknown) && shown[0]);
    }
    assert!(landed > 0, "no write that failed was the one that made its commit");
}

/// Each try closes the file and opens it anew: those who come meanwhile are refused without one. From one to the next
/// it is left alone for twice as long.
#[test]
fn p10_a_full_disk_is_left_alone_for_a_while_however_many_ask() {
    let disk = SimulatedDisk::new().with_journal(0);
    let store = Store::builder().cache_bytes(0).open_on(&disk).unwrap();
    disk.fail([DiskFault::kind(std::io::ErrorKind::StorageFull).on(DiskCall::GROWS).for_ever()]);
    for nth in 0..500 {
        assert_eq!(kind(store.claim(&key(&nth.to_string()), request()).wait()), ErrorKind::Full);
    }
    // On the slowest of machines too: ten tries take twenty seconds.
    assert!((1..100).contains(&disk.failed()), "{} calls met the full disk", disk.failed());
    disk.fail(None);
    drop(until_taken(|| store.claim(&key("order"), request()).wait()));
}

/// Whoever looks at what is over asks for its time to be put on disk. Nothing is in doubt where that fails.
#[test]
fn p10_a_look_that_the_disk_fails_is_told_so_and_not_that_nobody_knows() {
    let is_closed = DiskFault::kind(std::io::ErrorKind::StorageFull).on(DiskCall::GROWS);
    for (fault, expected) in [
        (is_closed.for_ever(), ErrorKind::Full),
        (is_closed.after(1).for_ever(), ErrorKind::Full),
        (broken(&[DiskCall::Sync]), ErrorKind::Failed),
    ] {
        let (disk, clock) = (SimulatedDisk::new(), ManualClock::at(Timestamp::from_millis(1_000_000)));
        let builder = Store::builder().clock(clock.clone()).retention(Duration::from_secs(1));
        let store = builder.open_by_hand(&disk).unwrap();
        let claim = store.claim(&key("over"), request());
        store.work_by_hand();
        let ended = run_of(claim.wait().unwrap()).complete(&answer());
        store.work_by_hand();
        ended.wait().unwrap();
        clock.advance(Duration::from_secs(2));
        disk.fail([fault]);
        assert_eq!(kind(store.progress(&key("over"))), expected, "{fault:?}");
    }
}

/// A panic inside redb poisons its locks, and closing it would panic again: in the caller, or twice at once.
#[test]
fn p10_a_disk_that_panics_stops_the_store_and_nothing_else() {
    let mut stopped = 0;
    for after in 0..24 {
        let disk = SimulatedDisk::new();
        let store = Store::builder().open_by_hand(&disk).unwrap();
        let claim = |name| {
            let claim = store.claim(&key(name), request());
            store.work_by_hand();
            claim.wait()
        };
        let mut run = run_of(claim("before").unwrap());
        disk.fail([DiskFault::panic().on(DiskCall::CHANGES).after(after)]);
        let mut told = 0;
        for nth in 0..4 {
            let moved = run.advance(&format!("on {nth}"), &answer());
            store.work_by_hand();
            told += usize::from(moved.wait().is_ok());
        }
        stopped += usize::from(told < 4);
        disk.fail(None);
        drop(run);
        if after % 2 == 0 {
            drop(store.close());
        }
        drop(store);
        let store = Store::builder().open_on(&disk.killed(disk.calls())).unwrap();
        let position = store.progress(&key("before")).unwrap().unwrap();
        let moves = position.checkpoint().map_or(0, |checkpoint| checkpoint.name()[3..].parse::<usize>().unwrap() + 1);
        assert!((told..=told + 1).contains(&moves), "{told} were told, {moves} are there");
        store.verify().unwrap();
    }
    assert!(stopped > 2, "{stopped}");
}

/// A clock of the server's that panics, where the writer only asks how long it may sleep.
#[test]
fn p10_a_clock_that_panics_stops_the_store_and_hangs_nobody() {
    #[derive(Debug)]
    struct Broken(std::sync::Arc<std::sync::atomic::AtomicBool>);
    impl reentry::Clock for Broken {
        fn wall(&self) -> Timestamp {
            support::START
        }
        fn elapsed(&self) -> Duration {
            assert!(!self.0.load(std::sync::atomic::Ordering::Relaxed), "the clock is broken");
            Duration::ZERO
        }
    }
    let is_broken = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let store = Store::builder().clock(Broken(is_broken.clone())).in_memory().unwrap();
    let run = run(&store, &key("1"));
    let waits = stand_in_line(&store, &key("1"));
    is_broken.store(true, std::sync::atomic::Ordering::Relaxed);
    // The writer meets it now or when it would sleep next.
    assert!(run.complete(&answer()).wait().is_err());
    assert!(waits.wait().is_err());
    drop(store.close());
}
