//! A store that is opened to be read: not a byte of its file changes, and what is left of a damaged one can be read.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::SystemTime;

use reentry::{
    Error, ErrorKind, Key, ManualClock, Operations, Progress, Resolution, Revision, SimulatedDisk, State, Store,
};
use support::{PATIENCE, START, does, key, kind, request, run, tell_own_panics, times_out};
use tempfile::TempDir;

const PAGE: usize = 4096;

fn builder() -> reentry::Builder {
    Store::builder().clock(ManualClock::at(START)).cache_bytes(0)
}

/// A store in a file, with what `fill` puts into it.
fn made(fill: impl FnOnce(&Store)) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.reentry");
    let store = builder().open(&path).unwrap();
    fill(&store);
    store.close().unwrap();
    (folder, path)
}

/// What must not change.
fn state_of(path: &Path) -> (Vec<u8>, SystemTime, Vec<PathBuf>) {
    let names = fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path()).collect();
    (fs::read(path).unwrap(), fs::metadata(path).unwrap().modified().unwrap(), names)
}

fn fill(store: &Store) {
    run(store, &key("done")).complete(&vec![3_u8; 5_000]).wait().unwrap();
    let mut open = run(store, &key("open"));
    does(&mut open, "charge", "receipt");
    times_out(&mut open, "mail");
    open.advance("paid", &"half".to_owned()).wait().unwrap();
}

fn listed(store: &Store) -> Vec<String> {
    store.operations().map(|progress| format!("{:?}", progress.unwrap())).collect()
}

#[test]
fn not_a_byte_of_a_store_that_is_read_changes_and_it_tells_all() {
    let (_folder, path) = made(fill);
    let before = state_of(&path);
    let store = builder().open_to_read(&path).unwrap();
    let told = (listed(&store), store.unfinished().count(), store.stats().unwrap().operations);
    assert_eq!((told.1, told.2), (1, 2));
    assert_eq!(store.progress(&key("open")).unwrap().unwrap().in_doubt().count(), 1);
    assert_eq!(store.verify().unwrap().operations, 2);
    store.close().unwrap();
    assert_eq!(store.progress(&key("open")).unwrap_err().kind(), ErrorKind::Closed);
    drop(store);
    assert!(state_of(&path) == before, "the file changed");
    let store = builder().open(&path).unwrap();
    assert_eq!((listed(&store), store.unfinished().count(), store.stats().unwrap().operations), told);
}

/// The engine closes with a commit. In memory nobody needs it, and a damaged page that it writes anew can end the
/// process.
#[test]
fn p10_a_store_that_is_only_read_is_closed_without_another_look_at_its_pages() {
    let disk = SimulatedDisk::new();
    let store = builder().open_on(&disk).unwrap();
    fill(&store);
    store.close().unwrap();
    let read = || builder().open_to_read_on(&disk).unwrap();
    let (closed, dropped) = (read(), read());
    disk.watch_reads();
    closed.close().unwrap();
    assert_eq!(disk.reads(), []);
    drop(dropped);
    assert_eq!(disk.reads(), []);
}

#[test]
fn a_store_that_is_read_can_be_copied() {
    let (folder, path) = made(fill);
    let store = builder().open_to_read(&path).unwrap();
    let copy = folder.path().join("copy.reentry");
    assert_eq!(store.backup(&copy).unwrap().operations, 2);
    assert_eq!(listed(&builder().open_to_read(&copy).unwrap()), listed(&store));
}

#[test]
fn whatever_would_change_something_is_refused() {
    let (_folder, path) = made(fill);
    let before = state_of(&path);
    let store = builder().open_to_read(&path).unwrap();
    let (open, done, new) = (key("open"), key("done"), key("new"));
    let refused = [
        kind(store.claim(&open, request()).wait()),
        kind(store.claim(&new, request()).wait()),
        kind(store.claim_unfinished(&open).wait()),
        kind(store.advance(&open, Revision::NONE, "moved", &()).wait()),
        kind(store.resolve(&open, "mail", Resolution::DidNotHappen, "asked").wait()),
        kind(store.release_stuck(&open).wait()),
        kind(store.forget(&done).wait()),
        kind(store.revoke(&open).wait()),
    ];
    assert_eq!(refused, [ErrorKind::ReadOnly; 8]);
    // A replay changes nothing.
    assert!(matches!(store.claim(&done, request()).wait().unwrap(), reentry::Claim::Replay(_)));
    drop(store);
    assert!(state_of(&path) == before, "the file changed");
}

#[test]
fn a_store_that_a_crash_left_is_read_without_being_repaired() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let folder = tempfile::tempdir().unwrap();
    let [crashed, closed] = ["v1-unclean.reentry", "v1.reentry"].map(|name| {
        let path = folder.path().join(name);
        fs::write(&path, fs::read(fixtures.join(name)).unwrap()).unwrap();
        path
    });
    let before = state_of(&crashed);
    let [crashed_tells, closed_tells] = [&crashed, &closed].map(|path| listed(&builder().open_to_read(path).unwrap()));
    assert!(crashed_tells.len() > 3 && crashed_tells.len() == closed_tells.len());
    assert!(state_of(&crashed) == before, "the file changed");
}

#[test]
fn p11_an_expiry_is_told_of_a_store_that_is_read_and_changes_nothing() {
    let (_folder, path) = made(fill);
    let before = state_of(&path);
    let later = ManualClock::at(START + std::time::Duration::from_secs(365 * 24 * 3600));
    let store = Store::builder().clock(later).open_to_read(&path).unwrap();
    assert!(store.progress(&key("done")).unwrap().is_none());
    assert_eq!(store.operations().map(|it| it.unwrap().state()).collect::<Vec<_>>(), [State::Unfinished]);
    drop(store);
    assert!(state_of(&path) == before, "the file changed");
}

#[test]
fn p1_many_read_at_once_and_none_reads_what_is_open_for_writing() {
    let (_folder, path) = made(fill);
    let readers = [0, 1].map(|_| builder().open_to_read(&path).unwrap());
    let error = builder().open(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    drop(readers);
    let writer = builder().open(&path).unwrap();
    let error = builder().open_to_read(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    if cfg!(target_os = "linux") {
        assert!(error.to_string().contains("is open in this process itself"), "{error}");
    }
    drop(writer);
}

/// Under whoever writes, the pages change as they are read: rows would be told as damaged that are not.
#[test]
fn p1_what_is_left_of_a_file_is_read_beside_readers_and_never_beside_a_writer() {
    let (_folder, path) = made(fill);
    let readers = [builder().open_to_read(&path).unwrap(), builder().open_damaged(&path).unwrap()];
    assert_eq!(readers.each_ref().map(|store| listed(store).len()), [2, 2]);
    for reader in readers {
        assert_eq!(kind(builder().open(&path)), ErrorKind::InUse);
        drop(reader);
    }
    let writer = builder().open(&path).unwrap();
    assert_eq!(kind(builder().open_damaged(&path)), ErrorKind::InUse);
    drop(writer);
}

#[test]
fn what_is_no_store_is_refused_and_nothing_is_created() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("absent.reentry");
    assert_eq!(builder().open_to_read(&path).unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    fs::write(&path, "something else, and long enough to be more than its magic").unwrap();
    assert_eq!(builder().open_to_read(&path).unwrap_err().kind(), ErrorKind::NotAStore);
}

fn number(progress: &Progress) -> u64 {
    progress.key().key().parse().unwrap()
}

/// What a list gives, and what it says is damaged.
fn read(list: Operations) -> (BTreeSet<u64>, Vec<Error>) {
    let (mut found, mut errors, mut twice) = (BTreeSet::new(), Vec::<Error>::new(), 0);
    for progress in list {
        match progress {
            Ok(progress) => twice += usize::from(!found.insert(number(&progress))),
            Err(error) => errors.push(error),
        }
    }
    assert!(errors.iter().all(|error| error.kind() == ErrorKind::Corrupt), "{errors:?}");
    // Where a page tells its number of rows wrong, one may be given for another, with a checksum that is right.
    assert!(twice <= 3, "{twice} came twice");
    (found, errors)
}

/// Many small operations, each under the number that is its key; some of them with a payload in a row of its own.
fn many(store: &Store) {
    let claims: Vec<_> = (0..600).map(|nth| store.claim(&key(&nth.to_string()), request())).collect();
    for (nth, claim) in claims.into_iter().enumerate() {
        let run = support::run_of(claim.wait().unwrap());
        if nth % 40 == 7 {
            run.complete(&vec![7_u8; 1_500]).wait().unwrap();
        }
    }
}

/// A copy leaves 2^40 numbers to its original: once, what stood behind a damaged page was looked for by each of them.
#[test]
fn p10_what_is_left_of_a_restored_copy_is_found_behind_a_damaged_page_before_its_gap_of_numbers() {
    tell_own_panics();
    let (folder, original) = made(many);
    let path = folder.path().join("copy.reentry");
    builder().open(&original).unwrap().backup(&path).unwrap();
    let store = builder().open(&path).unwrap();
    for nth in 600..900 {
        drop(run(&store, &key(&nth.to_string())));
    }
    store.close().unwrap();
    let image = fs::read(&path).unwrap();
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || {
        for page in (1..image.len() / PAGE).filter(|page| image[page * PAGE] == 1) {
            let mut image = image.clone();
            // redb with its debug assertions looks at every page's first byte, and gives up.
            let first = if cfg!(debug_assertions) { 2 } else { 0 };
            image[page * PAGE..][first..PAGE].fill(0x5A);
            fs::write(&path, &image).unwrap();
            let Ok(store) = builder().open_damaged(&path) else { continue };
            let newest = read(store.operations());
            done.send((page, newest, read(store.operations().oldest_first()))).unwrap();
        }
        drop(folder);
    });
    let mut lost = 0;
    loop {
        let (page, (found, errors), (again, errors_again)) = match is_done.recv_timeout(PATIENCE) {
            Ok(told) => told,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => panic!("what is left is looked for without an end"),
        };
        let differing: Vec<_> = found.symmetric_difference(&again).collect();
        assert!(differing.is_empty(), "page {page}: {differing:?}");
        assert!(found.len() > 800, "page {page}: {} of 900, {errors:?}", found.len());
        // One page is one run of rows, and that the tables count more than there are.
        assert!(errors.len() <= 2 && errors_again.len() <= 2, "page {page}: {errors:?}, {errors_again:?}");
        assert!(found.len() == 900 || !errors.is_empty() && !errors_again.is_empty(), "page {page}");
        lost += usize::from(found.len() < 900);
    }
    assert!(lost > 5, "only {lost} pages took rows with them");
}

#[test]
fn p10_every_row_that_can_be_reached_of_a_damaged_store_is_told_and_every_other_is_an_error() {
    tell_own_panics();
    let (_folder, path) = made(many);
    let image = fs::read(&path).unwrap();
    let (mut tried, mut lost) = (0, 0);
    for page in (1..image.len() / PAGE).filter(|page| image[page * PAGE] == 1) {
        // Where the numbers of its rows stand: behind two bytes, how many there are, and where each ends.
        let numbers = 4 + 4 * usize::from(u16::from_le_bytes([image[page * PAGE + 2], image[page * PAGE + 3]]));
        let is_number = |at: usize| image[at + 2..at + 8] == [0; 6];
        let far = if is_number(page * PAGE + numbers) { &[0, 0xF0, 0, 0, 0, 0, 0, 0][..] } else { &[] };
        // A leaf whose number of rows makes no sense, one that says that it has three, one that is no page any more,
        // and one whose first row stands under a number far from it.
        for (at, damage) in [(2, &[0xFF_u8; 4][..]), (2, &[3, 0]), (0, &[0x5A; PAGE]), (numbers, far)] {
            let mut image = image.clone();
            let at = page * PAGE + at;
            image[at..at + damage.len()].copy_from_slice(damage);
            fs::write(&path, &image).unwrap();
            tried += 1;
            let Ok(store) = builder().open_damaged(&path) else { continue };
            let (found, errors) = read(store.operations());
            let (again, errors_again) = read(store.operations().oldest_first());
            assert!(
                found == again || damage.len() == 2,
                "page {page}: {:?}",
                found.symmetric_difference(&again).collect::<Vec<_>>()
            );
            // Where the rows are missing that were claimed first, or last, nothing comes behind them in one order.
            for errors in [&errors, &errors_again] {
                assert!(found.len() == 600 || !errors.is_empty(), "page {page}: {} in silence", found.len());
            }
            // One leaf holds 50 rows or less.
            assert!(found.len() > 500, "page {page}: {} of 600, {errors:?}", found.len());
            for nth in found.iter().filter(|_| damage.len() != 2) {
                assert!(store.progress(&key(&nth.to_string())).unwrap().is_some());
            }
            lost += usize::from(found.len() < 600);
            drop(store);
            assert!(fs::read(&path).unwrap() == image, "the file changed");
        }
    }
    assert!(lost > 2, "only {lost} of {tried} damaged files lack rows");
}

#[test]
fn p10_a_damaged_row_is_passed_over_by_whoever_asks_for_what_is_left() {
    const MARK: &[u8] = b"what one operation came to";
    let (_folder, path) = made(|store| {
        for nth in 0..3 {
            run(store, &key(&nth.to_string())).complete(&[MARK, nth.to_string().as_bytes()].concat()).wait().unwrap();
        }
    });
    let mut image = fs::read(&path).unwrap();
    let marks: Vec<_> = (0..image.len()).filter(|at| image[*at..].starts_with(&[MARK, b"1"].concat())).collect();
    for at in marks {
        image[at] ^= 1;
    }
    fs::write(&path, &image).unwrap();
    assert_eq!(builder().open_to_read(&path).unwrap_err().kind(), ErrorKind::Corrupt);
    let store = builder().open_damaged(&path).unwrap();
    let told: Vec<_> = store.operations().map(|it| it.map(|it| number(&it)).map_err(|e| e.to_string())).collect();
    assert_eq!((&told[0], &told[2]), (&Ok(2), &Ok(0)));
    assert!(told[1].as_ref().unwrap_err().contains("of table reentry/log"), "{told:?}");
    assert!(store.progress(&key("1")).unwrap().is_none());
    assert!(store.progress(&Key::new("scope", "2").unwrap()).unwrap().is_some());
}
