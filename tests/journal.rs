//! The journal in front of redb's bytes: what it alone holds is there after a crash, whoever opens the file; what is
//! damaged in it is refused; and what a crash tore in it was never told. Crashes at every call are in `crash`,
//! `every_subset` and `simulation`, faults of every call in `every_fault`.

mod support;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use reentry::{
    Claim, DiskCall, DiskFault, Error, ErrorKind, Fingerprint, Key, Loss, ManualClock, OpenCheck, Progress,
    SimulatedDisk, State, Store,
};
use support::{START, database, head_bytes, key, kind, request, run, run_of};
use tempfile::TempDir;

const PAGE: usize = 4096;

fn builder() -> reentry::Builder {
    Store::builder().clock(ManualClock::at(START))
}

/// The disk that a crash leaves in which only these operations are in the journal, one batch each.
fn left_by_a_crash(names: &[&str], journal: u32) -> SimulatedDisk {
    let disk = SimulatedDisk::new().with_journal(journal);
    let store = builder().open_on(&disk).unwrap();
    for name in names {
        run(&store, &key(name)).release();
    }
    let left = disk.cut(disk.calls(), |_| Loss::Lost);
    SimulatedDisk::from_image(left.image())
}

/// What the store lists, oldest first.
fn names(store: &Store) -> Vec<String> {
    let name = |progress: reentry::Result<Progress>| progress.unwrap().key().key().to_owned();
    let mut names: Vec<_> = store.operations().map(name).collect();
    names.reverse();
    names
}

/// What redb holds by itself: the file without its journal.
fn in_redb(image: &[u8]) -> Vec<String> {
    let mut image = image.to_vec();
    let head = head_bytes(&image);
    image[PAGE..head].fill(0);
    names(&builder().open_to_read_on(&SimulatedDisk::from_image(image)).unwrap())
}

fn a_path() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.reentry");
    (folder, path)
}

/// Writes an image where a store can be opened by its name.
fn in_a_file(image: &[u8]) -> (TempDir, PathBuf) {
    let (folder, path) = a_path();
    fs::write(&path, image).unwrap();
    (folder, path)
}

#[test]
fn p2_what_only_the_journal_holds_is_there_whoever_opens_the_file() {
    let disk = left_by_a_crash(&["a", "b", "c"], 8);
    assert!(in_redb(&disk.image()).is_empty(), "redb was told nothing that is durable");
    let read = builder().open_to_read_on(&disk).unwrap();
    assert_eq!((names(&read), disk.calls()), (vec!["a".to_owned(), "b".to_owned(), "c".to_owned()], 0));
    drop(read);
    assert_eq!(disk.calls(), 0, "whoever reads writes nothing");
    let store = builder().open_on(&disk).unwrap();
    assert_eq!(names(&store), ["a", "b", "c"]);
    store.verify().unwrap();
    // Opening has taken it in: what is left in the journal does not count any more.
    assert_eq!(in_redb(&disk.cut(disk.calls(), |_| Loss::Lost).image()), ["a", "b", "c"]);
}

#[test]
fn p2_a_journal_that_is_full_is_taken_in_and_begins_anew() {
    let name: Vec<_> = (0..40).map(|nth| format!("{nth:02}")).collect();
    let all: Vec<_> = name.iter().map(String::as_str).collect();
    for journal in 0..5 {
        for count in [1, 2, 5, 11, 40] {
            let disk = left_by_a_crash(&all[..count], journal);
            let told = in_redb(&disk.image()).len();
            let whole = journal as usize + 1;
            assert_eq!(told, count / whole * whole, "{count} batches, of which every {whole}th is committed in full");
            let store = builder().open_on(&disk).unwrap();
            assert_eq!(names(&store), all[..count], "{journal} pages");
            store.verify().unwrap();
        }
    }
}

/// Payloads in rows of their own, tombstones, what retention removes and what is forgotten: all that a batch can do.
#[test]
fn p2_every_kind_of_change_comes_back_from_the_journal() {
    let clock = ManualClock::at(START);
    let second = Duration::from_secs(1);
    let build = || Store::builder().clock(clock.clone()).retention(10 * second).tombstones(20 * second);
    let disk = SimulatedDisk::new().with_journal(64);
    let store = build().open_on(&disk).unwrap();
    let large = vec![7_u8; 5_000];
    for (nth, name) in ["old", "older", "large", "forgotten"].iter().enumerate() {
        run(&store, &key(name)).complete(&large[nth..].to_vec()).wait().unwrap();
        clock.advance(second);
    }
    assert!(store.forget(&key("forgotten")).wait().unwrap());
    clock.advance(8 * second);
    // Both outcomes are over by now, and fade into tombstones in these batches.
    let mut open = run(&store, &key("open"));
    open.advance("paid", &large).wait().unwrap();
    open.advance("sent", &large[9..].to_vec()).wait().unwrap();
    drop(open);
    let shown = |store: &Store| -> Vec<String> {
        store.operations().map(|progress| format!("{:?}", progress.unwrap())).collect()
    };
    let (told, stats) = (shown(&store), store.stats().unwrap());
    assert!(stats.tombstones > 0, "{stats:?}");
    let left = SimulatedDisk::from_image(disk.cut(disk.calls(), |_| Loss::Lost).image());
    assert!(in_redb(&left.image()).len() < told.len(), "some of it is in the journal alone");
    let again = build().open_on(&left).unwrap();
    assert_eq!(shown(&again), told);
    let kept = again.verify().unwrap();
    assert_eq!((kept.operations, kept.payload_rows), (stats.operations, store.verify().unwrap().payload_rows));
}

#[test]
fn p10_a_damaged_entry_with_another_behind_it_is_refused_by_number_and_offset_and_the_file_left_as_it_is() {
    let image = left_by_a_crash(&["a", "b", "c"], 8).image();
    for nth in 0..2 {
        let at = (nth + 1) * PAGE;
        for byte in [0, 10, 24, 31, 33, 40, 120] {
            let mut damaged = image.clone();
            damaged[at + byte] ^= 0x40;
            let disk = SimulatedDisk::from_image(damaged.clone());
            let error = builder().open_on(&disk).unwrap_err();
            let names = format!("entry {nth} of the journal, at offset {at}");
            assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains(&names), "{byte}: {error}");
            assert_eq!(disk.calls(), 0);
            // What stands before it can be read; that something is missing is told.
            let (_folder, path) = in_a_file(&damaged);
            let store = builder().open_damaged(&path).unwrap();
            let told: Vec<_> = store.operations().collect();
            let rest: Vec<_> = told.iter().filter_map(|told| told.as_ref().err().map(Error::to_string)).collect();
            assert_eq!(told.len() - rest.len(), nth, "{told:?}");
            assert!(rest.len() == 1 && rest[0].contains(&names), "{rest:?}");
        }
    }
}

/// redb takes its newest commit, where that does not read, for one that a crash tore, and shows the one before. An
/// entry that was made on the newest testifies that it was durable.
#[test]
fn p10_a_newest_commit_that_is_damaged_is_refused_where_an_entry_was_made_on_it() {
    for (journal, count) in [(1, 3), (2, 4), (2, 5), (8, 10)] {
        let name: Vec<_> = (0..count).map(|nth| nth.to_string()).collect();
        let all: Vec<_> = name.iter().map(String::as_str).collect();
        let image = left_by_a_crash(&all, journal).image();
        let head = head_bytes(&image);
        assert!(in_redb(&image).len() < all.len(), "the last is in the journal alone");
        let mut refused = 0;
        // Both slots, of which one is the newest commit's.
        for at in head + 64..head + 64 + 2 * 128 {
            let mut damaged = image.clone();
            damaged[at] ^= 0x40;
            // What is left of the journal on the commit before may be lost too, so that nothing else testifies.
            let mut no_older = damaged.clone();
            no_older[PAGE * (1 + count % (journal as usize + 1))..head].fill(0);
            for damaged in [damaged, no_older] {
                let disk = SimulatedDisk::from_image(damaged);
                match builder().open_on(&disk) {
                    Ok(store) => assert_eq!(names(&store), all, "{journal} pages, offset {at}"),
                    Err(error) => {
                        assert_eq!((error.kind(), disk.calls()), (ErrorKind::Corrupt, 0), "offset {at}: {error}");
                        refused += usize::from(error.to_string().contains("redb's newest commit is damaged"));
                    }
                }
            }
        }
        assert!(refused > 0, "{journal} pages: no damage met the newest commit");
    }
}

/// Nobody can tell a torn entry from one that was damaged later, as with redb's own newest commit.
#[test]
fn p10_a_torn_entry_with_none_behind_it_was_never_told_and_a_new_one_takes_its_place() {
    let image = left_by_a_crash(&["a", "b"], 8).image();
    let mut torn = image.clone();
    torn[2 * PAGE + 100..3 * PAGE].fill(0);
    let disk = SimulatedDisk::from_image(torn);
    let store = builder().open_on(&disk).unwrap();
    assert_eq!(names(&store), ["a"]);
    run(&store, &key("c")).release();
    let after = builder().open_on(&disk.cut(disk.calls(), |_| Loss::Lost)).unwrap();
    assert_eq!(names(&after), ["a", "c"]);
    after.verify().unwrap();
}

/// An entry that says that all rows are removed, as `docs/format.md` has it.
fn entry_that_removes_all(secret: &[u8], mark: u64, nth: u32) -> Vec<u8> {
    let change = |table: u32| [&table.to_le_bytes()[..], &(1_u64 << 40).to_le_bytes(), &2_u32.to_le_bytes()].concat();
    let changes = [change(0), change(3)].concat();
    let len = u32::try_from(changes.len()).unwrap();
    let head = [secret, &mark.to_le_bytes(), &nth.to_le_bytes(), &len.to_le_bytes()].concat();
    let crc = crc32fast::hash(&[head.as_slice(), &changes].concat());
    let mut entry = [head.as_slice(), &crc.to_le_bytes(), &changes].concat();
    entry.resize(PAGE, 0);
    entry
}

/// How many operations a crash leaves of a store into whose journal a client brought an entry of its own: within a
/// payload, at a page behind the last entry that counts, and right in all but, perhaps, the store's secret.
fn left_beside_a_forged_entry(knows_secret: bool) -> usize {
    const AHEAD: u32 = 2;
    let (folder, path) = a_path();
    let store = builder().open(&path).unwrap();
    run(&store, &key("first")).release();
    let first = fs::read(&path).unwrap()[PAGE..2 * PAGE].to_vec();
    let secret = if knows_secret { first[..16].to_vec() } else { vec![0x5A; 16] };
    let mark = u64::from_le_bytes(first[16..24].try_into().unwrap());
    // The first page of the entry has a head of 36 bytes, and 20 before the payload.
    let forged = entry_that_removes_all(&secret, mark + 1, AHEAD + 1);
    let payload = [vec![7; PAGE - 56].as_slice(), &forged].concat();
    let large = run(&store, &key("large"));
    large.complete(&payload).wait().unwrap();
    // It is the third: behind the first operation's and its own claim.
    let page = 1 + AHEAD as usize + 1;
    assert!(fs::read(&path).unwrap()[page * PAGE..][..PAGE] == forged, "it begins at a page");
    // Rows of the server's are committed in full, and the journal begins anew.
    run(&store, &key("rows")).complete_with(&"done".to_owned(), |_| Ok(())).wait().unwrap();
    for nth in 0..=AHEAD {
        run(&store, &key(&format!("after {nth}"))).release();
    }
    let image = fs::read(&path).unwrap();
    assert!(image[page * PAGE..][..PAGE] == forged, "nothing has taken its page yet");
    let (_other, copied) = in_a_file(&image);
    drop((store, folder));
    let left = builder().open(&copied).unwrap();
    assert_eq!(left.verify().is_err(), knows_secret, "what was removed leaves its payload");
    left.operations().count()
}

/// A client knows what an entry looks like, but not the secret that makes one count.
#[test]
fn p9_a_payload_that_is_made_like_an_entry_is_never_taken_for_one() {
    assert_eq!(left_beside_a_forged_entry(true), 0, "whoever knew the secret could remove everything");
    assert_eq!(left_beside_a_forged_entry(false), 6);
}

/// redb may take in what entries say without a mark of ours, as it does when a file is made smaller.
#[test]
fn p2_entries_that_redb_has_taken_in_already_come_to_the_same_once_more() {
    let (_folder, path) = in_a_file(&left_by_a_crash(&["a", "b", "c"], 8).image());
    builder().compact(&path).unwrap();
    assert_eq!(in_redb(&fs::read(&path).unwrap()), ["a", "b", "c"]);
    let store = builder().open(&path).unwrap();
    assert_eq!(names(&store), ["a", "b", "c"]);
    store.verify().unwrap();
}

/// To be told of entries redb writes pages anew, in memory alone, and one that is damaged could end the process there.
/// A file that was not closed it checks anyway; one that was, and has entries that count, is checked all the same.
#[test]
fn p10_redb_is_told_of_entries_where_every_page_was_checked_alone() {
    let (_folder, path) = in_a_file(&left_by_a_crash(&["one-key", "b", "c"], 8).image());
    builder().compact(&path).unwrap();
    let mut image = fs::read(&path).unwrap();
    let head = head_bytes(&image);
    for at in head..image.len() {
        image[at] ^= u8::from(image[at..].starts_with(b"one-key"));
    }
    let told = |image: &[u8]| {
        let disk = SimulatedDisk::from_image(image.to_vec());
        builder().check(OpenCheck::Quick).open_to_read_on(&disk).unwrap_err().to_string()
    };
    assert!(told(&image).contains("DB corrupted"), "{}", told(&image));
    // Without entries nobody looks at the pages.
    image[PAGE..head].fill(0);
    assert!(told(&image).contains("the row is damaged: its checksum does not match"), "{}", told(&image));
}

#[test]
fn a_store_that_is_closed_leaves_nothing_to_its_journal() {
    let (_folder, path) = a_path();
    let store = builder().open(&path).unwrap();
    run(&store, &key("a")).complete(&"done".to_owned()).wait().unwrap();
    store.close().unwrap();
    let mut image = fs::read(&path).unwrap();
    assert_eq!(in_redb(&image), ["a"]);
    // Whatever stands there is none of its entries.
    let head = head_bytes(&image);
    image[PAGE..head].fill(0xFF);
    fs::write(&path, &image).unwrap();
    assert_eq!(names(&builder().open(&path).unwrap()), ["a"]);
    drop(database(&path));
}

/// What a client sent stands in the journal, at the start of a page too.
#[test]
fn p9_p10_a_payload_that_begins_as_redbs_bytes_do_is_not_taken_for_them_where_the_head_is_damaged() {
    let (_folder, path) = a_path();
    let store = builder().open(&path).unwrap();
    // The first page of the entry has a head of 36 bytes, and 20 before the payload.
    let payload = [vec![7; PAGE - 56].as_slice(), b"redb\x1A\x0A\xA9\x0D\x0A", &[0; PAGE]].concat();
    run(&store, &key("a")).complete(&payload).wait().unwrap();
    let mut image = fs::read(&path).unwrap();
    assert!(image[3 * PAGE..].starts_with(b"redb\x1A"), "it begins at a page");
    image[13] ^= 0x10;
    let (_other, damaged) = in_a_file(&image);
    let rescued = builder().open_damaged(&damaged).unwrap();
    let told: Vec<_> = rescued.operations().filter_map(Result::ok).map(|progress| progress.state()).collect();
    assert_eq!(told, [State::Succeeded]);
}

/// What a copy has of the original's journal is taken in: so damage to it is none.
#[test]
fn p10_a_copy_has_a_journal_in_which_nothing_counts() {
    let (folder, path) = a_path();
    let store = builder().open(&path).unwrap();
    for name in ["a", "b", "c"] {
        run(&store, &key(name)).release();
    }
    let copy = folder.path().join("copy");
    store.backup(&copy).unwrap();
    let mut image = fs::read(&copy).unwrap();
    assert!(image[PAGE..2 * PAGE] == fs::read(&path).unwrap()[PAGE..2 * PAGE], "it has the entries");
    image[PAGE + 40] ^= 0x40;
    fs::write(&copy, &image).unwrap();
    assert_eq!(names(&builder().open(&copy).unwrap()), ["a", "b", "c"]);
}

#[test]
fn p10_a_head_that_is_damaged_or_newer_is_refused_and_what_stands_behind_a_damaged_one_can_be_rescued() {
    let image = left_by_a_crash(&["a"], 8).image();
    let closed = {
        let disk = SimulatedDisk::from_image(image.clone());
        builder().open_on(&disk).unwrap().close().unwrap();
        disk.image()
    };
    for byte in [9, 12, 13, 15, 17] {
        let mut damaged = closed.clone();
        damaged[byte] ^= 0x10;
        let disk = SimulatedDisk::from_image(damaged.clone());
        let expected = if byte == 9 { ErrorKind::NewerFormat } else { ErrorKind::Corrupt };
        assert_eq!(kind(builder().open_on(&disk)), expected, "{byte}");
        assert_eq!(disk.calls(), 0);
        let (_folder, path) = in_a_file(&damaged);
        if expected == ErrorKind::NewerFormat {
            assert_eq!(kind(builder().open_damaged(&path)), expected);
        } else {
            let store = builder().open_damaged(&path).unwrap();
            let told: Vec<_> = store.operations().collect();
            assert_eq!(told.iter().filter(|told| told.is_ok()).count(), 1, "{byte}: {told:?}");
            assert!(told.iter().any(|told| told.as_ref().is_err_and(|e| e.to_string().contains("head"))), "{told:?}");
        }
    }
    // All of a journal is read at once, so there is an end to how long one may be, right in all else as it is.
    for (pages, is_refused) in [(4_095_u32, false), (4_096, true)] {
        let mut long = [&closed[..12], &pages.to_le_bytes()].concat();
        long.extend(crc32fast::hash(&long).to_le_bytes());
        long.resize(PAGE * (pages as usize + 1), 0);
        long.extend_from_slice(&closed[head_bytes(&closed)..]);
        let (_folder, path) = in_a_file(&long);
        let told = builder().open(&path).map(|store| names(&store)).map_err(|error| error.kind());
        assert_eq!(told, if is_refused { Err(ErrorKind::Corrupt) } else { Ok(vec!["a".to_owned()]) }, "{pages}");
    }
    // In its journal, and right behind it.
    for left in [3 * PAGE, head_bytes(&image)] {
        let (_folder, path) = in_a_file(&image[..left]);
        let error = builder().open(&path).unwrap_err();
        assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains("cut short"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), image[..left]);
    }
}

/// A sync that failed may have dropped an entry that can still be read: opening writes it anew before it builds on it.
#[test]
fn p10_a_damaged_head_hides_no_damaged_entry() {
    let mut image = left_by_a_crash(&["a", "b"], 8).image();
    image[13] ^= 0x10;
    image[PAGE + 40] ^= 0x40;
    let store = builder().open_damaged_on(&SimulatedDisk::from_image(image)).unwrap();
    let told: Vec<_> = store.operations().filter_map(Result::err).map(|error| error.to_string()).collect();
    let says = |part| told.iter().any(|told| told.contains(part));
    assert!(told.len() == 2 && says("the head of the file") && says("entry 0 of the journal"), "{told:?}");
}

#[test]
fn p2_an_entry_that_a_failed_sync_dropped_is_durable_once_the_store_is_open_again() {
    let disk = SimulatedDisk::new();
    let store = builder().open_on(&disk).unwrap();
    run(&store, &key("a")).release();
    disk.fail([DiskFault::kind(std::io::ErrorKind::Other).on(&[DiskCall::Sync])]);
    let claim = store.claim(&key("b"), request());
    assert_eq!(kind(claim.wait()), ErrorKind::OutcomeUnknown);
    assert_eq!(kind(store.claim(&key("c"), request()).wait()), ErrorKind::Failed);
    drop(store);
    // Likewise where the disk is full as it is opened, so that no commit in full takes the entries in.
    let mut opened_full = 0;
    for nth in 0..24 {
        let killed = disk.killed(disk.calls());
        killed.fail([DiskFault::kind(std::io::ErrorKind::StorageFull).on(DiskCall::GROWS).after(nth)]);
        let store = match builder().open_on(&killed) {
            Ok(store) => store,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Full, "{nth}: {error:?}");
                continue;
            }
        };
        opened_full += killed.failed();
        killed.fail(None);
        // Whoever reads is told of it before anything is committed.
        assert_eq!(names(&store), ["a", "b"]);
        let cut = builder().open_on(&killed.cut(killed.calls(), |_| Loss::Lost)).unwrap();
        assert_eq!(names(&cut), ["a", "b"], "{nth}");
        run(&store, &key("d")).release();
        let cut = builder().open_on(&killed.cut(killed.calls(), |_| Loss::Lost)).unwrap();
        assert_eq!(names(&cut), ["a", "b", "d"], "{nth}");
    }
    assert!(opened_full > 0, "no fault came as it was opened");
}

/// The answer is there before redb is told; whoever reads finds it told.
#[test]
fn p2_whoever_is_answered_finds_it_whatever_he_asks() {
    let folder = tempfile::tempdir().unwrap();
    let store = builder().open(folder.path().join("orders.reentry")).unwrap();
    for nth in 0..300 {
        let name = Key::new("scope", format!("{nth:03}")).unwrap();
        let run = run_of(store.claim(&name, Fingerprint::of("r")).wait().unwrap());
        assert_eq!(store.unfinished().count(), 1);
        run.complete(&name.key().to_owned()).wait().unwrap();
        let last = store.operations().next().unwrap().unwrap();
        assert_eq!((last.key(), last.state()), (&name, State::Succeeded), "in the list");
        assert!(matches!(store.claim(&name, Fingerprint::of("r")).wait().unwrap(), Claim::Replay(_)));
        assert_eq!(store.progress(&name).unwrap().unwrap().state(), State::Succeeded);
    }
    assert_eq!(store.verify().unwrap().operations, 300);
}

/// The journal has its room from the start, and redb is told in memory of what is in it.
#[test]
fn p10_what_the_journal_takes_while_the_disk_is_full_is_there_for_whoever_asks() {
    let disk = SimulatedDisk::new().with_journal(64);
    let store = builder().open_on(&disk).unwrap();
    let fill = |nth: usize| {
        let claim = store.claim(&key(&nth.to_string()), request()).wait()?;
        run_of(claim).complete(&vec![7_u8; 3_000]).wait()
    };
    let is_kept = |store: &Store, nth: usize| {
        let claim = store.claim(&key(&nth.to_string()), request()).wait().unwrap();
        assert!(matches!(claim, Claim::Replay(_)), "{nth}: {claim:?}");
    };
    fill(0).unwrap();
    disk.set_room(Some(disk.image().len() as u64));
    let refused = (1..2_000).find(|nth| fill(*nth).is_err()).expect("a journal of this size is full at last");
    assert!((16..64).contains(&refused), "{refused} operations, each an entry of one page and one of two at most");
    (0..refused).for_each(|nth| is_kept(&store, nth));
    // Beside them at most the one that was claimed, and could not be completed.
    assert!((refused..=refused + 1).contains(&names(&store).len()));
    store.verify().unwrap();
    (0..refused).for_each(|nth| is_kept(&store, nth));
    disk.set_room(None);
    let left = builder().open_on(&disk.cut(disk.calls(), |_| Loss::Lost)).unwrap();
    (0..refused).for_each(|nth| is_kept(&left, nth));
}

/// A store that works by hand, and has told a claim that redb is not told of.
fn told_in_the_journal(cache_bytes: usize) -> (SimulatedDisk, Store) {
    let disk = SimulatedDisk::new();
    let store = builder().cache_bytes(cache_bytes).open_by_hand(&disk).unwrap();
    // The first batch after an opening is committed in full.
    for name in ["first", "a"] {
        let claim = store.claim(&key(name), request());
        store.work_by_hand();
        drop(run_of(claim.wait().unwrap()));
        store.work_by_hand();
    }
    (disk, store)
}

/// The same, after it met this fault as it listed what it keeps.
fn told_before_a_fault(fault: DiskFault, after: usize) -> Option<(SimulatedDisk, Store)> {
    let (disk, store) = told_in_the_journal(0);
    disk.fail([fault.after(after)]);
    let has_met = store.operations().next().is_none_or(|first| first.is_err()) && disk.failed() > 0;
    disk.fail(None);
    has_met.then_some((disk, store))
}

/// What was told is durable before redb is told of it: it is not taken back, and nobody is told that it is not there.
#[test]
fn p2_p10_a_disk_that_fails_as_redb_is_told_stops_the_store_and_loses_nothing() {
    let mut stopped = [0, 0];
    let faults = [DiskFault::kind(std::io::ErrorKind::Other), DiskFault::panic()];
    for (fault, stopped) in faults.into_iter().zip(&mut stopped) {
        for (disk, store) in (0..24).filter_map(|after| told_before_a_fault(fault.on(&[DiskCall::Read]), after)) {
            // It is in memory still; or the store says that it failed.
            let seen = store.progress(&key("a"));
            assert!(seen.as_ref().map_or_else(|error| error.kind() == ErrorKind::Failed, Option::is_some), "{seen:?}");
            let claim = store.claim(&key("b"), request());
            store.work_by_hand();
            // Where it came as redb was told; one that came as redb was read is the error of who asked.
            if let Err(error) = claim.wait() {
                assert_eq!(error.kind(), ErrorKind::Failed);
                assert!(!store.work_by_hand(), "it goes on");
                *stopped += 1;
                // What redb holds after that is let go as it is.
                let calls = disk.calls();
                drop(store);
                assert_eq!(disk.calls(), calls);
            }
            for left in [disk.killed(disk.calls()), disk.cut(disk.calls(), |_| Loss::Lost)] {
                let store = builder().open_on(&left).unwrap();
                assert_eq!(names(&store)[..2], ["first", "a"]);
                store.verify().unwrap();
            }
        }
    }
    assert!(stopped.iter().all(|stopped| *stopped > 3), "{stopped:?} faults came as redb was told");
}

/// redb forgives a write ahead of its time, and with it the sync that makes the file longer before it. What that sync
/// dropped nobody may build on: whatever sync fails, nobody is told anything after it.
#[test]
fn p10_any_sync_that_fails_while_the_file_grows_stops_the_store() {
    let payload = vec![7; 3_000];
    let mut stopped = 0;
    for (journal, nth) in [0, 8, 64].into_iter().flat_map(|journal| (0..48).map(move |nth| (journal, nth))) {
        let disk = SimulatedDisk::new().with_journal(journal);
        let store = builder().cache_bytes(0).open_on(&disk).unwrap();
        disk.fail([DiskFault::kind(std::io::ErrorKind::Other).on(&[DiskCall::Sync]).after(nth)]);
        for name in 0..60 {
            let had_failed = disk.failed() > 0;
            let claim = store.claim(&key(&format!("{name:02}")), Fingerprint::of(&payload)).wait();
            let which = format!("{journal} pages, sync {nth}");
            if had_failed {
                assert!(claim.is_err(), "{which}: {claim:?}");
                let again = store.claim(&key("again"), Fingerprint::of(&payload)).wait();
                assert_eq!(kind(again), ErrorKind::Failed, "{which}");
                stopped += 1;
                break;
            }
            match claim {
                Ok(Claim::Run(run)) => drop(run.complete(&payload).wait()),
                other => assert!(disk.failed() > 0, "{which}: {other:?}"),
            }
            if name % 9 == 8 {
                let _ = store.operations().count();
            }
        }
    }
    assert!(stopped > 100, "{stopped}");
}

/// redb keeps in memory what it is told; where it has no room for that, every row can be read by itself.
#[test]
fn p2_p10_a_disk_that_is_full_as_redb_is_told_keeps_nobody_from_reading() {
    let full = DiskFault::kind(std::io::ErrorKind::StorageFull).on(DiskCall::GROWS).for_ever();
    for (after, cache_bytes) in (0..9).flat_map(|after| [(after, 1 << 20), (after, 0)]) {
        let (disk, store) = told_in_the_journal(cache_bytes);
        disk.fail([full.after(after)]);
        // Each time anew: it is the disk that is full, until the next batch mends it.
        for _ in 0..2 {
            match store.operations().collect::<Result<Vec<_>, Error>>() {
                Ok(all) => assert_eq!(all.len(), 2),
                Err(error) => assert_eq!((error.kind(), cache_bytes), (ErrorKind::Full, 0)),
            }
        }
        assert!(store.progress(&key("a")).unwrap().is_some());
        disk.fail(None);
        // The next batch finds that redb could not be told, and mends it.
        for name in ["b", "c"] {
            let claim = store.claim(&key(name), request());
            store.work_by_hand();
            drop(claim.wait());
        }
        assert_eq!(names(&store)[..2], ["first", "a"]);
        store.verify().unwrap();
    }
}
