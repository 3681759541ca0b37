//! P10: damage is loud. A store whose file was cut short or has a flipped bit is either refused, or every operation
//! reads back as it was: none is silently missing, none is another, nothing panics or hangs.
//!
//! With `REENTRY_DAMAGE_FULL=1` every bit of the file is flipped instead of a sample.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use reentry::{
    Checkpoint, Claim, ErrorKind, Fingerprint, Key, Loss, ManualClock, Outcome, SimulatedDisk, State, Store, Timestamp,
};
use support::{Dice, PATIENCE, START, key, request, run, settle};

const RETENTION: Duration = Duration::from_secs(1_000);
const PAGE: usize = 4096;
const OPERATIONS: usize = 40;

/// All that can be asked about an operation.
#[derive(Debug, Clone, PartialEq)]
struct Known {
    state: State,
    attempt: u32,
    since: Timestamp,
    fingerprint: Fingerprint,
    checkpoint: Option<Checkpoint>,
    outcome: Option<Outcome>,
}

type Everything = BTreeMap<Key, Known>;

fn builder(clock: &ManualClock) -> reentry::Builder {
    // No cache worth the name, so that what is asked is read from the file.
    Store::builder().retention(RETENTION).tombstones(RETENTION).cache_bytes(0).clock(clock.clone())
}

fn keys() -> impl Iterator<Item = Key> {
    (0..OPERATIONS).map(|nth| key(&format!("operation {nth}")))
}

/// What is small enough stands in its operation's row, what is over 1 KiB in a row of its own.
fn payload(nth: usize) -> Vec<u8> {
    let size = [0, 20, 1_024, 1_025, 5_000][nth % 5];
    (0..size).map(|at| u8::try_from((at * 7 + nth) % 256).unwrap()).collect()
}

/// Puts operations of every phase, with every kind of payload, into the store.
fn fill(store: &Store, clock: &ManualClock) {
    for (nth, key) in keys().enumerate() {
        if nth == OPERATIONS / 3 {
            // What was completed until now becomes tombstones.
            clock.advance(RETENTION);
            settle(store);
        }
        let mut owner = run(store, &key);
        if nth % 2 == 0 {
            owner.advance("charging", &payload(nth)).wait().unwrap();
            owner.advance("charged", &payload(nth / 2)).wait().unwrap();
        }
        match nth / 2 % 3 {
            0 => drop(owner.complete(&payload(nth)).wait().unwrap()),
            1 => drop(owner.fail(&payload(nth / 3)).wait().unwrap()),
            _ => {
                drop(owner);
                drop(run(store, &key));
            }
        }
    }
}

/// What the store tells of one operation.
fn ask(store: &Store, key: &Key) -> reentry::Result<Option<Known>> {
    Ok(store.progress(key)?.map(|progress| Known {
        state: progress.state(),
        attempt: progress.attempt(),
        since: progress.since(),
        fingerprint: progress.fingerprint(),
        checkpoint: progress.checkpoint().cloned(),
        outcome: progress.outcome().cloned(),
    }))
}

fn ask_all(store: &Store) -> Everything {
    keys().map(|key| (key.clone(), ask(store, &key).unwrap().unwrap())).collect()
}

/// A file, when it was left, and what it must tell.
#[derive(Debug, Clone)]
struct Original {
    image: Vec<u8>,
    clock: ManualClock,
    known: Everything,
    /// What it told before its last commit.
    before: Everything,
}

/// The two slots in redb's header, one of which tells where the newest commit is.
const SLOTS: std::ops::Range<usize> = 64..320;

impl Original {
    fn made(is_closed: bool) -> Self {
        let (disk, clock) = (SimulatedDisk::new(), ManualClock::at(START));
        let store = builder(&clock).open_on(&disk).unwrap();
        fill(&store, &clock);
        let before = ask_all(&store);
        // The last commit: one that is unfinished is claimed once more, which nothing else tells of.
        drop(run(&store, &keys().nth(4).unwrap()));
        let known = ask_all(&store);
        for state in [State::Unfinished, State::Succeeded, State::Failed, State::Gone] {
            assert!(known.values().any(|known| known.state == state), "none is {state}");
        }
        store.verify().unwrap();
        if is_closed {
            store.close().unwrap();
        }
        Self { image: disk.cut(disk.calls(), |_| Loss::Kept).image(), clock, known, before }
    }

    /// Opens the damaged file. Returns whether it was refused; where it was not, all must be as it was.
    fn is_refused(&self, image: &[u8], damage: &str) -> bool {
        let disk = SimulatedDisk::from_image(image.to_vec());
        let store = match builder(&self.clock).open_on(&disk) {
            Ok(store) => store,
            Err(error) => {
                let expected = [ErrorKind::Corrupt, ErrorKind::NotAStore, ErrorKind::NewerFormat];
                assert!(expected.contains(&error.kind()), "{damage}: {:?}: {error}", error.kind());
                assert!(disk.image() == image, "{damage}: the refused file was changed");
                return true;
            }
        };
        for (key, known) in &self.known {
            let told = ask(&store, key);
            assert!(matches!(&told, Ok(Some(told)) if told == known), "{damage}: {known:?} became {told:?}");
        }
        let unfinished = store.unfinished().map(|progress| progress.unwrap().key().clone());
        let expected = self.known.iter().filter(|(_, known)| known.state == State::Unfinished);
        assert_eq!(unfinished.count(), expected.count(), "{damage}: the list of the unfinished");
        for (nth, (key, known)) in self.known.iter().enumerate().step_by(5) {
            let claimed = store.claim(key, request()).wait_for(PATIENCE);
            assert!(is_right(known, &claimed.unwrap()), "{damage}: the claim of operation {nth} in order");
        }
        store.verify().unwrap_or_else(|error| panic!("{damage}: {error}"));
        store.close().unwrap_or_else(|error| panic!("{damage}: {error}"));
        false
    }
}

/// Whether this claim is what an operation that is known so must answer.
fn is_right(known: &Known, claim: &Claim) -> bool {
    match (known.state, claim) {
        (State::Unfinished, Claim::Run(run)) => run.attempt() > known.attempt && run.checkpoint() == known.checkpoint,
        (State::Succeeded | State::Failed, Claim::Replay(outcome)) => known.outcome.as_ref() == Some(outcome),
        (State::Gone, Claim::Gone(_)) => true,
        _ => false,
    }
}

/// Does `each` with every item on a thread of its own, and fails when one takes longer than any should. Returns how
/// many of them noticed the damage.
fn none_hangs<T: Send + 'static>(
    items: impl Iterator<Item = T> + Send + 'static,
    each: impl Fn(T) -> bool + Send + 'static,
) -> usize {
    let (done, is_done) = mpsc::channel();
    let worker = std::thread::spawn(move || items.for_each(|item| done.send(each(item)).unwrap()));
    let mut noticed = 0;
    loop {
        match is_done.recv_timeout(PATIENCE) {
            Ok(is_noticed) => noticed += usize::from(is_noticed),
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("opening or asking a damaged store hangs"),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    if let Err(panic) = worker.join() {
        std::panic::resume_unwind(panic);
    }
    noticed
}

#[test]
fn p10_the_file_as_it_was_left_opens_and_tells_all() {
    for is_closed in [true, false] {
        let original = Original::made(is_closed);
        assert!(!original.is_refused(&original.image, "no damage"));
    }
}

#[test]
fn p10_a_file_cut_short_at_any_page_is_refused_or_whole() {
    for is_closed in [true, false] {
        let original = Original::made(is_closed);
        let whole = original.image.len();
        let odd = [1, 8, 9, 63, 64, 320, PAGE - 1, PAGE + 1, whole / 2 + 1, whole - 513, whole - 1];
        let lengths: Vec<_> = (1..whole.div_ceil(PAGE)).map(|page| page * PAGE).chain(odd).collect();
        let refused = none_hangs(lengths.into_iter(), move |length| {
            original.is_refused(&original.image[..length], &format!("cut to {length} of {whole} bytes"))
        });
        assert!(refused > 0, "no cut met anything that is read");
    }
}

/// The bits to flip: all of them, or a sample, most of them where the file holds something.
fn bits(image: &[u8], sample: usize) -> Vec<usize> {
    if std::env::var_os("REENTRY_DAMAGE_FULL").is_some_and(|value| value == "1") {
        return (0..image.len() * 8).collect();
    }
    let filled: Vec<_> = (0..image.len()).filter(|at| image[*at] != 0).collect();
    let mut dice = Dice::new(7);
    // The head of the file tells where everything else is.
    let head = (0..sample / 4).map(|nth| nth * 512 * 8 / (sample / 4) + nth % 8);
    let inside: Vec<_> = (0..sample / 2).map(|_| filled[dice.below(filled.len())] * 8 + dice.below(8)).collect();
    let any: Vec<_> = (0..sample / 4).map(|_| dice.below(image.len() * 8)).collect();
    head.chain(inside).chain(any).collect()
}

fn every_flip_is_refused_or_harmless(is_closed: bool) {
    let original = Original::made(is_closed);
    let is_asked = |bit: &usize| is_closed || !SLOTS.contains(&(bit / 8));
    let bits: Vec<_> = bits(&original.image, 1_200).into_iter().filter(is_asked).collect();
    let refused = none_hangs(bits.into_iter(), move |bit| {
        let mut image = original.image.clone();
        image[bit / 8] ^= 1 << (bit % 8);
        original.is_refused(&image, &format!("bit {} of byte {} flipped", bit % 8, bit / 8))
    });
    assert!(refused > 0, "no flip met anything that is read");
}

#[test]
fn p10_a_flipped_bit_in_a_file_that_was_closed_is_refused_or_harmless() {
    every_flip_is_refused_or_harmless(true);
}

#[test]
fn p10_a_flipped_bit_in_a_file_that_a_crash_left_is_refused_or_harmless() {
    every_flip_is_refused_or_harmless(false);
}

/// After a crash, damage to the slot of the newest commit looks like a commit that the crash tore: redb then takes the
/// one before it. Nothing older is ever taken, and nothing else shows.
#[test]
fn p10_a_flipped_bit_in_the_newest_commits_slot_after_a_crash_loses_that_commit_at_most() {
    let original = Original::made(false);
    let older = Original { known: original.before.clone(), ..original.clone() };
    let noticed = none_hangs(SLOTS.flat_map(|byte| (0..8).map(move |bit| byte * 8 + bit)), move |bit| {
        let mut image = original.image.clone();
        image[bit / 8] ^= 1 << (bit % 8);
        let disk = SimulatedDisk::from_image(image.clone());
        let Ok(store) = builder(&original.clock).open_on(&disk) else { return true };
        let is_older = ask_all(&store) == original.before;
        drop(store);
        let whole = if is_older { &older } else { &original };
        whole.is_refused(&image, &format!("bit {} of byte {} flipped", bit % 8, bit / 8)) || is_older
    });
    assert!(noticed > 0, "no flip met the slot in use");
}

/// Flips one bit of the file.
fn flip(path: &Path, bit: usize) {
    let mut file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start((bit / 8) as u64)).unwrap();
    file.read_exact(&mut byte).unwrap();
    byte[0] ^= 1 << (bit % 8);
    file.seek(SeekFrom::Start((bit / 8) as u64)).unwrap();
    file.write_all(&byte).unwrap();
}

#[test]
fn p10_a_bit_flipped_behind_an_open_store_is_an_error_or_the_right_answer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.reentry");
    let clock = ManualClock::at(START);
    let store = builder(&clock).open(&path).unwrap();
    fill(&store, &clock);
    let known = ask_all(&store);
    let image = std::fs::read(&path).unwrap();
    let bits = bits(&image, 800);
    let noticed = none_hangs(bits.into_iter(), move |bit| {
        let mut is_noticed = false;
        flip(&path, bit);
        for (key, known) in &known {
            let damage = format!("bit {} of byte {} flipped", bit % 8, bit / 8);
            match ask(&store, key) {
                Ok(told) => assert_eq!(told.as_ref(), Some(known), "{damage}"),
                Err(_) => is_noticed = true,
            }
            // Nothing is written for those, so the flip can be taken back.
            if matches!(known.state, State::Succeeded | State::Failed)
                && let Ok(claim) = store.claim(key, request()).wait_for(PATIENCE)
            {
                assert!(is_right(known, &claim), "{damage}: {known:?} became {claim:?}");
            }
        }
        flip(&path, bit);
        is_noticed
    });
    assert!(noticed > 0, "no flip met anything that is read");
    drop(folder);
}

#[test]
fn p10_a_claim_that_meets_a_bit_flipped_behind_an_open_store_is_an_error_or_right() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.reentry");
    let clock = ManualClock::at(START);
    let store = builder(&clock).open(&path).unwrap();
    fill(&store, &clock);
    let known = ask_all(&store);
    store.close().unwrap();
    let image = std::fs::read(&path).unwrap();
    let bits = bits(&image, 200);
    let noticed = none_hangs(bits.into_iter(), move |bit| {
        let mut is_noticed = false;
        std::fs::write(&path, &image).unwrap();
        let store = builder(&clock).open(&path).unwrap();
        flip(&path, bit);
        for (key, known) in &known {
            match store.claim(key, request()).wait_for(PATIENCE) {
                Ok(claim) => {
                    let damage = format!("bit {} of byte {} flipped", bit % 8, bit / 8);
                    assert!(is_right(known, &claim), "{damage}: {known:?} became {claim:?}");
                }
                Err(_) => is_noticed = true,
            }
        }
        drop(store.close());
        is_noticed
    });
    assert!(noticed > 0, "no flip met anything that is read");
    drop(folder);
}
