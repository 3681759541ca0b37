//! Bits flipped behind an open store: what is read is right or an error.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use reentry::{ErrorKind, ManualClock, State, Store};
use tempfile::TempDir;

use super::original::{Everything, RETENTION, ask, ask_all, builder, fill, is_right, told};
use super::support::{Dice, START, key, request, run_of};
use super::{is_full, none_hangs};

const OPERATIONS: usize = 24;

/// A folder in memory where there is one: no disk is meant to fail here, and a sync on a real one takes its time.
fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// A store in a file, and what it tells. Without a cache worth the name, so that what is asked is read from the file.
fn made(folder: &TempDir) -> (PathBuf, ManualClock, Store, Everything) {
    let (path, clock) = (folder.path().join("orders.reentry"), ManualClock::at(START));
    let store = builder(&clock).cache_bytes(0).open(&path).unwrap();
    fill(&store, &clock, OPERATIONS);
    let known = ask_all(&store, OPERATIONS);
    store.close().unwrap();
    let store = builder(&clock).cache_bytes(0).open(&path).unwrap();
    (path, clock, store, known)
}

/// Flips a bit wherever the file holds this.
fn damage(path: &Path, mark: &[u8]) {
    let image = std::fs::read(path).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let found = (0..image.len()).filter(|at| image[*at..].starts_with(mark));
    assert!(found.map(|at| flip(&file, at * 8)).count() > 0);
}

fn flip(file: &File, bit: usize) {
    let (mut byte, at) = ([0], (bit / 8) as u64);
    file.read_exact_at(&mut byte, at).unwrap();
    byte[0] ^= 1 << (bit % 8);
    file.write_all_at(&byte, at).unwrap();
}

/// A sample of the bits of what the file holds, or all of them.
fn bits(image: &[u8], sample: usize) -> Vec<usize> {
    let filled: Vec<_> = (0..image.len()).filter(|at| image[*at] != 0).collect();
    if is_full() {
        return filled.iter().flat_map(|at| (0..8).map(move |bit| at * 8 + bit)).collect();
    }
    let mut dice = Dice::new(9);
    (0..sample).map(|_| filled[dice.below(filled.len())] * 8 + dice.below(8)).collect()
}

#[test]
fn p10_a_bit_flipped_behind_an_open_store_is_an_error_or_the_right_answer() {
    let folder = folder();
    let (path, _, store, known) = made(&folder);
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let image = std::fs::read(&path).unwrap();
    // A page whose number of rows is wrong gives one row for another, each with a checksum that is right.
    let pages = (0..image.len()).step_by(4096).filter(|at| image[*at] != 0);
    let rows: Vec<_> = pages.flat_map(|at| [0, 1].map(|bit| (at + 2) * 8 + bit)).collect();
    let bits = bits(&image, 250).into_iter().chain(rows);
    let noticed = none_hangs("behind, asked", bits, move |bit| {
        let mut is_noticed = false;
        flip(&file, bit);
        for (key, known) in &known {
            match ask(&store, key) {
                Ok(told) => assert_eq!(told.as_ref(), Some(known), "bit {bit}"),
                Err(error) => {
                    // Damage does not go away by asking again.
                    assert_ne!(error.kind(), ErrorKind::TimedOut, "bit {bit}: {error:?}");
                    is_noticed = true;
                }
            }
            // Nothing is written for those, so the flip can be taken back.
            if matches!(known.state, State::Succeeded | State::Failed)
                && let Ok(claim) = told(&store, store.claim(key, known.fingerprint))
            {
                assert!(is_right(known, &claim), "bit {bit}: {known:?} became {claim:?}");
            }
        }
        flip(&file, bit);
        is_noticed
    });
    assert!(noticed > 0, "no flip met anything that is read");
}

/// What is flipped behind an open store must not come to look whole because pages beside it are written anew: what
/// opens after that tells all, or something was an error.
#[test]
fn p10_a_claim_that_meets_a_bit_flipped_behind_an_open_store_is_an_error_or_right_and_stays_so() {
    let folder = folder();
    let (path, clock, store, known) = made(&folder);
    store.close().unwrap();
    let image = std::fs::read(&path).unwrap();
    let noticed = none_hangs("behind, claimed", bits(&image, 60).into_iter(), move |bit| {
        std::fs::write(&path, &image).unwrap();
        let store = builder(&clock).cache_bytes(0).open(&path).unwrap();
        flip(&OpenOptions::new().read(true).write(true).open(&path).unwrap(), bit);
        let mut is_noticed = false;
        for (key, known) in &known {
            match told(&store, store.claim(key, known.fingerprint)) {
                Ok(claim) => assert!(is_right(known, &claim), "bit {bit}: {known:?} became {claim:?}"),
                Err(_) => is_noticed = true,
            }
        }
        is_noticed |= store.close().is_err();
        drop(store);
        let Ok(store) = builder(&clock).open(&path) else { return true };
        for (key, known) in &known {
            match ask(&store, key) {
                Ok(told) => {
                    let told = told.unwrap_or_else(|| panic!("bit {bit}: {known:?} is silently gone"));
                    assert!(told.state == known.state && told.attempt >= known.attempt, "bit {bit}: {told:?}");
                }
                Err(_) => is_noticed = true,
            }
        }
        is_noticed
    });
    assert!(noticed > 0, "no flip met anything that is read");
}

/// The first write after a cut may fill what is missing with zeroes, and so make the length look right: each cut is
/// tried with small and large changes after it.
#[test]
fn p10_nothing_is_acknowledged_into_a_file_that_was_cut_short_behind_an_open_store() {
    let folder = folder();
    let (path, clock, store, _) = made(&folder);
    store.close().unwrap();
    drop(store);
    let image = std::fs::read(&path).unwrap();
    let cuts = (0..16).map(|part| image.len() * part / 16).chain([image.len() - 4096, image.len() - 1]);
    for (cut, bytes) in cuts.flat_map(|cut| [(cut, 0), (cut, 200_000)]) {
        std::fs::write(&path, &image).unwrap();
        let store = builder(&clock).open(&path).unwrap();
        let mut owner = run_of(told(&store, store.claim(&key("new"), request())).unwrap());
        let len = std::fs::metadata(&path).unwrap().len();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(cut as u64).unwrap();
        let kinds = [
            told(&store, owner.advance("paid", &vec![7_u8; bytes])).unwrap_err().kind(),
            told(&store, store.claim(&key("newer"), request())).map(drop).unwrap_err().kind(),
        ];
        assert!(
            matches!(kinds, [ErrorKind::OutcomeUnknown | ErrorKind::Failed | ErrorKind::Corrupt, ErrorKind::Failed]),
            "{len} bytes cut to {cut}, then {bytes} more: {kinds:?}"
        );
        drop(store.close());
    }
}

/// What retention finds damaged stays for whoever looks for it, and stops nobody.
#[test]
fn p6_p10_a_damaged_row_at_the_head_is_kept_by_retention_and_in_nobodys_way() {
    const MARK: &[u8] = b"what stands at the head";
    let folder = folder();
    let (path, clock) = (folder.path().join("orders.reentry"), ManualClock::at(START));
    let open = || builder(&clock).cache_bytes(0).open(&path).unwrap();
    let complete = |store: &Store, name: &str, bytes: &[u8]| {
        let claim = told(store, store.claim(&key(name), request())).unwrap();
        told(store, run_of(claim).complete(&bytes.to_vec())).unwrap()
    };
    let store = open();
    complete(&store, "first", MARK);
    store.close().unwrap();
    // What it reads from now on is in the file.
    let store = open();
    damage(&path, MARK);
    clock.advance(RETENTION * 3);
    for name in ["second", "third"] {
        complete(&store, name, b"done");
        assert_eq!(ask(&store, &key(name)).unwrap().map(|it| it.state), Some(State::Succeeded));
    }
    assert_eq!(store.progress(&key("first")).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(told(&store, store.claim(&key("first"), request())).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(store.verify().unwrap_err().kind(), ErrorKind::Corrupt);
}

/// It alone still tells that its key was used.
#[test]
fn p1_p10_a_damaged_tombstone_stays_for_good_when_its_neighbours_leave() {
    const MARK: &str = "a key of which a tombstone is left";
    let folder = folder();
    let (path, clock) = (folder.path().join("orders.reentry"), ManualClock::at(START));
    let open = || builder(&clock).cache_bytes(0).open(&path);
    // Each is a batch, and each looks at the heads.
    let sweep = |store: &Store| assert!(!told(store, store.forget(&key("nobody's"))).unwrap());
    let store = open().unwrap();
    for name in ["before", MARK, "after"] {
        told(&store, run_of(told(&store, store.claim(&key(name), request())).unwrap()).complete(&())).unwrap();
    }
    clock.advance(RETENTION);
    sweep(&store);
    assert_eq!(store.stats().unwrap().tombstones, 3);
    store.close().unwrap();
    let store = open().unwrap();
    damage(&path, MARK.as_bytes());
    clock.advance(RETENTION);
    (0..3).for_each(|_| sweep(&store));
    for gone in ["before", "after"] {
        assert_eq!(ask(&store, &key(gone)).unwrap(), None, "{gone}");
    }
    assert_eq!(told(&store, store.claim(&key(MARK), request())).unwrap_err().kind(), ErrorKind::Corrupt);
    store.close().unwrap();
    // What nobody can read any more is not as if it had never been.
    assert_eq!(open().unwrap_err().kind(), ErrorKind::Corrupt);
}
