//! What a full disk refused is as if it had not been tried: nothing is taken for done, and nothing is left for later.

mod support;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reentry::{Claim, Condition, DiskCall, DiskFault, ErrorKind, Loss, ManualClock, Request, SimulatedDisk, Store};
use support::{START, full, key, kind, request, run_of};

const RETENTION: Duration = Duration::from_secs(100);

fn claim(store: &Store, name: &str, asked: impl Into<Request>) -> reentry::Result<Claim> {
    let claim = store.claim(&key(name), asked);
    store.work_by_hand();
    claim.wait()
}

fn complete(store: &Store, name: &str) {
    let ended = run_of(claim(store, name, request()).unwrap()).complete(&"done".to_owned());
    store.work_by_hand();
    ended.wait().unwrap();
}

/// A deferred claim writes nothing, so a full disk would let every retry of a request begin anew, and do its work, and
/// then refuse its outcome.
#[test]
fn p10_on_a_disk_that_is_known_to_be_full_no_claim_is_deferred() {
    let disk = SimulatedDisk::new().with_journal(0);
    let store = Store::builder().open_by_hand(&disk).unwrap();
    let deferred = || Request::from(request()).deferred();
    let first = run_of(claim(&store, "order", deferred()).unwrap());
    // What is there can be written anew, as on a real disk.
    disk.set_room(Some(disk.image().len() as u64));
    let ended = first.complete(&vec![7; 500_000]);
    store.work_by_hand();
    assert_eq!(kind(ended.wait()), ErrorKind::Full);
    for _ in 0..3 {
        // What has nothing to write tells nothing of the disk.
        let nothing = store.revoke(&key("nothing"));
        store.work_by_hand();
        drop(nothing.wait());
        assert_eq!(store.stats().unwrap().condition, Condition::Full);
    }
    let second = claim(&store, "order", Request::of(vec![7; 500_000]).deferred());
    assert_eq!(kind(second), ErrorKind::Full, "it is not deferred");
    disk.set_room(None);
    let owner = run_of(claim(&store, "order", deferred()).unwrap());
    let syncs = disk.syncs();
    let other = run_of(claim(&store, "other", deferred()).unwrap());
    assert_eq!(disk.syncs(), syncs, "it is deferred again once the disk took a batch");
    drop((owner, other));
    store.verify().unwrap();
}

/// Else they would stay until the next one is over, and count meanwhile.
#[test]
fn what_retention_could_not_remove_from_a_full_disk_goes_as_soon_as_there_is_room() {
    let (disk, clock) = (SimulatedDisk::new(), ManualClock::at(START));
    let store = Store::builder().retention(RETENTION).clock(clock.clone()).open_by_hand(&disk).unwrap();
    (0..10).for_each(|nth| complete(&store, &format!("early {nth}")));
    clock.advance(RETENTION * 9 / 10);
    complete(&store, "late");
    store.work_by_hand();
    clock.advance(RETENTION / 10);
    disk.fail([full()]);
    assert_eq!(kind(claim(&store, "refused", request())), ErrorKind::OutcomeUnknown);
    assert_eq!(store.stats().unwrap().completed, 11);
    disk.fail(None);
    drop(run_of(claim(&store, "taken", request()).unwrap()));
    assert_eq!(store.stats().unwrap().completed, 1);
    store.verify().unwrap();
}

/// Opening commits too, and removes what is over. Where the disk has no room for that it may have landed all the same.
#[test]
fn p10_what_an_opening_removed_on_a_full_disk_is_gone_or_there_as_the_file_says() {
    let (disk, clock) = (SimulatedDisk::new(), ManualClock::at(START));
    let builder = || Store::builder().retention(RETENTION).clock(clock.clone());
    let store = builder().open_on(&disk).unwrap();
    run_of(store.claim(&key("over"), request()).wait().unwrap()).complete(&"done".to_owned()).wait().unwrap();
    store.close().unwrap();
    clock.advance(RETENTION);
    let mut opened = 0;
    for after in 0..24 {
        let disk = disk.cut(disk.calls(), |_| Loss::Kept);
        let full = DiskFault::kind(io::ErrorKind::StorageFull).on(&[DiskCall::Write]);
        disk.fail([full.after(after).having_written(1 << 20)]);
        let Ok(store) = builder().open_on(&disk) else { continue };
        opened += usize::from(disk.failed() > 0);
        disk.fail(None);
        assert!(store.progress(&key("over")).unwrap().is_none(), "write {after}");
        store.verify().unwrap();
        assert_eq!(run_of(store.claim(&key("over"), request()).wait().unwrap()).attempt(), 1, "write {after}");
        store.verify().unwrap();
    }
    assert!(opened > 0, "no fault came where the opening commits");
}

/// A write that found no room may have landed whole. What is told of it is made durable before.
#[test]
fn p2_what_landed_though_the_disk_was_full_is_durable_where_it_is_told() {
    let mut told = 0;
    for after in 0..6 {
        let disk = SimulatedDisk::new().with_journal(64);
        let store = Store::builder().open_by_hand(&disk).unwrap();
        for name in ["first", "second"] {
            drop(run_of(claim(&store, name, request()).unwrap()));
        }
        disk.fail([DiskFault::kind(io::ErrorKind::StorageFull)
            .on(DiskCall::GROWS)
            .after(after)
            .having_written(1 << 20)]);
        let answer = claim(&store, "landed", request());
        if disk.failed() == 0 || answer.is_err() {
            continue;
        }
        told += 1;
        let left = Store::builder().open_on(&disk.cut(disk.calls(), |_| Loss::Lost)).unwrap();
        assert!(left.progress(&key("landed")).unwrap().is_some(), "write {after}: it was told, and is lost");
        left.verify().unwrap();
    }
    assert!(told > 0, "nothing that landed was told");
}

/// Each refused batch has redb opened anew, which forgets what it is read by.
#[test]
fn p10_whoever_reads_while_a_full_disk_is_opened_anew_is_told_at_most_that_it_is_full() {
    let disk = SimulatedDisk::new().with_journal(0);
    let store = Store::builder().cache_bytes(0).open_on(&disk).unwrap();
    for nth in 0..600 {
        let run = run_of(store.claim(&key(&nth.to_string()), request()).wait().unwrap());
        drop(run.complete(&vec![7_u8; 200]));
    }
    assert!(!store.revoke(&key("nothing")).wait().unwrap());
    disk.set_room(Some(disk.image().len() as u64));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                for nth in (0..600).cycle().take_while(|_| !is_over.load(Ordering::Relaxed)) {
                    let told = [
                        store.claim(&key(&nth.to_string()), request()).wait().map(drop),
                        store.progress(&key(&nth.to_string())).map(drop),
                        store.operations().rows_max(9).try_for_each(|it| it.map(drop)),
                    ];
                    for error in told.into_iter().filter_map(Result::err) {
                        assert_eq!(error.kind(), ErrorKind::Full, "{error}");
                    }
                }
            });
        }
        // Most are refused at once, since the disk was full a moment ago.
        let large = vec![7; 500_000];
        while disk.failed() < 6 {
            assert!(store.claim(&key("large"), Request::of(&large)).wait().is_err());
        }
        is_over.store(true, Ordering::Relaxed);
    });
    disk.set_room(None);
    store.verify().unwrap();
}
