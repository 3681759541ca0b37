//! Files of every released format open for ever, and are laid out as `docs/format.md` says.
//!
//! `tests/fixtures/v2.reentry` was closed, `tests/fixtures/v2-unclean.reentry` was left as a crash leaves it. Both were
//! made by `REENTRY_MAKE_FIXTURES=1 cargo test --test format`, as those of format 1 were, and are never made again: a
//! new format gets new files.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use reentry::{
    Checkpoint, Claim, Error, ErrorKind, FORMAT_VERSION, Failure, Fingerprint, Key, Loss, ManualClock, Outcome,
    Request, Resolution, SimulatedDisk, State, Step, StepState, Store, Timestamp, not_applied,
};
use support::{START, database, key, request, run, run_of};
use tempfile::TempDir;

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

/// Of an older format, the first two from before there was a journal. The last is as a crash left it, and its newest
/// changes are in its journal alone.
const OLDER: [&str; 3] = ["v1.reentry", "v1-unclean.reentry", "v1-journal.reentry"];

/// When all files were left, and when the tests open them.
const LEFT: Timestamp = Timestamp::from_millis(START.as_millis() + 2 * 3_600_000 + 1_000);

type Rows = TableDefinition<'static, u64, &'static [u8]>;

const LOG: Rows = TableDefinition::new("reentry/log");
const UNFINISHED: Rows = TableDefinition::new("reentry/unfinished");
const TOMBSTONES: Rows = TableDefinition::new("reentry/tombstones");
const BODIES: Rows = TableDefinition::new("reentry/bodies");
const META: Rows = TableDefinition::new("reentry/meta");

/// What a row has beside scope, key, checkpoint and payloads, by `docs/format.md`.
const UNFINISHED_BYTES: usize = 72;
const ENDED_BYTES: usize = 87;
const MORE_BYTES: usize = 7;

/// What `guarded` is known by at whom it charged; computed without this crate, by `docs/format.md`.
const CHARGE_ID: &str = "ae25b2cf-5814-83de-97e0-7936501da279";

/// Runs after which an operation is stuck, in the store that the tests open.
const ATTEMPTS_MAX: u32 = 3;

fn large(seed: u8) -> Vec<u8> {
    (0..3_000_u32).map(|n| u8::try_from((n * 7 + u32::from(seed)) % 251).unwrap()).collect()
}

fn foreign() -> Fingerprint {
    Fingerprint::from_digest([0xAB; 32])
}

fn longest() -> Key {
    Key::new("s".repeat(128), "k".repeat(255)).unwrap()
}

/// A copy of a fixture, since opening a file writes to it.
fn copy(fixture: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copy.reentry");
    fs::write(&path, fs::read(fixtures().join(fixture)).unwrap()).unwrap();
    (folder, path)
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn open(path: &Path) -> reentry::Result<Store> {
    Store::builder().clock(ManualClock::at(LEFT)).attempts_max(ATTEMPTS_MAX).open(path)
}

/// How the fixtures were made: what is written today reads back as they do. With `REENTRY_MAKE_FIXTURES=1` those that
/// are not there are made.
#[test]
fn what_is_written_today_reads_back_as_the_fixtures_do() {
    let (disk, clock) = (SimulatedDisk::new().with_journal(16), ManualClock::at(START));
    let builder = Store::builder().clock(clock.clone()).retention(HOUR).tombstones(1_000_000 * HOUR);
    let store = builder.open_on(&disk).unwrap();
    run(&store, &key("gone")).complete(&large(1)).wait().unwrap();
    clock.advance(HOUR);
    // This claim's batch lets the outcome before fade to a tombstone.
    drop(run(&store, &key("fresh")));
    store.close().unwrap();
    let builder = Store::builder().clock(clock.clone()).retention(1_000_000 * HOUR);
    let store = builder.open_on(&disk).unwrap();
    run(&store, &key("half")).advance("paid", &"receipt 7".to_owned()).wait().unwrap();
    clock.advance(HOUR);
    run(&store, &key("half")).advance("grün", &large(2)).wait().unwrap();
    let mut succeeded = run_of(store.claim(&key("succeeded"), foreign()).wait().unwrap());
    succeeded.advance("sent", &large(3)).wait().unwrap();
    succeeded.complete(&"done".to_owned()).wait().unwrap();
    run(&store, &key("failed")).fail(&large(4)).wait().unwrap();
    run(&store, &longest()).complete(&()).wait().unwrap();
    guard(&store, &clock);
    let unclean = disk.image();
    store.close().unwrap();
    let makes = std::env::var_os("REENTRY_MAKE_FIXTURES").is_some_and(|value| value == "1");
    for (name, image) in [("v2-unclean.reentry", unclean), ("v2.reentry", disk.image())] {
        // One that is there was made by an older version, which is its worth.
        if makes && !fixtures().join(name).exists() {
            fs::write(fixtures().join(name), &image).unwrap();
        }
        let builder = Store::builder().clock(ManualClock::at(LEFT)).attempts_max(ATTEMPTS_MAX);
        let store = builder.open_on(&SimulatedDisk::from_image(image)).unwrap();
        reads_back(&store);
        store.verify().unwrap();
    }
}

/// Operations with a kept request, with steps that came to everything a step can come to, and with many runs.
fn guard(store: &Store, clock: &ManualClock) {
    let lost = || Err::<Vec<u8>, _>(Failure::from("the answer was lost"));
    let request = || Request::from(request()).keep(&large(6));
    let mut run = run_of(store.claim(&key("guarded"), request()).wait().unwrap());
    run.step("charge").run_keyed(|_| Ok::<_, Error>("receipt 8".to_owned())).unwrap();
    run.step("invoice").run_keyed(|_| Ok::<_, Error>(large(7))).unwrap();
    run.step("sms").run_at_most_once(|_| Err::<(), _>(not_applied("no such number"))).unwrap_err();
    for (at, resolution) in
        [Resolution::DidNotHappen, Resolution::happened(&b"parcel 3".to_vec()).unwrap()].into_iter().enumerate()
    {
        run.step("überweisen").run_at_most_once(|_| lost()).unwrap_err();
        run.resolve("überweisen", resolution, ["Ada: nicht im Buch", "Ada: doch"][at]).wait().unwrap();
    }
    let mut late = |result: Result<Vec<u8>, Failure>| {
        let not_found = |_| Ok::<Option<Vec<u8>>, Error>(None);
        let fenced = run.step("slow").recheck(not_found).run(|_| {
            assert!(store.revoke(&key("guarded")).wait().unwrap());
            result
        });
        assert_eq!(fenced.unwrap_err().kind(), ErrorKind::Fenced);
        run = run_of(store.claim(&key("guarded"), request()).wait().unwrap());
    };
    late(Ok(large(8)));
    late(Err(not_applied("it was not sent")));
    late(Ok(b"too late".to_vec()));
    clock.advance(SECOND);
    run.step("mail").run_at_most_once(|_| lost()).unwrap_err();
    drop(run);
    assert!(store.release_stuck(&key("guarded")).wait().unwrap());

    (0..4).for_each(|_| drop(support::run(store, &key("stuck"))));
    (0..4).for_each(|_| drop(support::run(store, &key("released"))));
    assert!(store.release_stuck(&key("released")).wait().unwrap());
    drop(support::run(store, &key("released")));
    let mut shipped = support::run(store, &key("shipped"));
    shipped.step("ship").run_at_most_once(|_| lost()).unwrap_err();
    shipped.resolve("ship", Resolution::Happened(b"truck 12".to_vec()), "seen").wait().unwrap();
    shipped.complete(&"on its way".to_owned()).wait().unwrap();
}

/// All that the fixtures hold, read by whoever asks and by whoever claims.
fn reads_back(store: &Store) {
    let verified = store.verify().unwrap();
    assert_eq!((verified.operations, verified.tombstones, verified.payload_rows), (10, 1, 6));
    let unfinished: Vec<_> = store.unfinished().map(|progress| progress.unwrap().key().clone()).collect();
    assert_eq!(unfinished, ["fresh", "half", "guarded", "stuck", "released"].map(key), "oldest first");
    let stats = store.stats().unwrap();
    assert_eq!((stats.operations, stats.unfinished, stats.stuck, stats.in_doubt), (10, 5, 1, 1));

    let shown = |key: &Key, state, attempt, since: Timestamp, fingerprint| {
        let progress = store.progress(key).unwrap().unwrap();
        assert_eq!((progress.key(), progress.state(), progress.attempt()), (key, state, attempt));
        assert_eq!((progress.since(), progress.fingerprint()), (since, fingerprint));
        (progress.checkpoint().map(position), progress.outcome().map(end))
    };
    let (first, then) = (START + HOUR, START + 2 * HOUR);
    assert_eq!(shown(&key("gone"), State::Gone, 1, START, request()), (None, None));
    assert_eq!(shown(&key("fresh"), State::Unfinished, 1, first, request()), (None, None));
    let half = Some(("grün".to_owned(), 2, then, large(2)));
    assert_eq!(shown(&key("half"), State::Unfinished, 2, first, request()), (half.clone(), None));
    let sent = Some(("sent".to_owned(), 1, then, large(3)));
    let done = Some((true, then, b"done".to_vec()));
    assert_eq!(shown(&key("succeeded"), State::Succeeded, 1, then, foreign()), (sent, done.clone()));
    let failed = Some((false, then, large(4)));
    assert_eq!(shown(&key("failed"), State::Failed, 1, then, request()), (None, failed.clone()));
    assert_eq!(shown(&longest(), State::Succeeded, 1, then, request()), (None, Some((true, then, Vec::new()))));

    let claim = |key: &Key, fingerprint| store.claim(key, fingerprint).wait().unwrap();
    let Claim::Gone(gone) = claim(&key("gone"), request()) else { panic!("its tombstone stands") };
    assert_eq!((gone.completed_at(), gone.until()), (START, START + HOUR + 1_000_000 * HOUR));
    for (key, fingerprint, end_before) in [("succeeded", foreign(), done), ("failed", request(), failed)] {
        let Claim::Replay(outcome) = claim(&support::key(key), fingerprint) else { panic!("{key} is over") };
        assert_eq!(Some(end(&outcome)), end_before);
        assert!(matches!(claim(&support::key(key), Fingerprint::of("another")), Claim::Reject(_)));
    }
    assert_eq!(shown(&key("stuck"), State::Stuck, 4, then + SECOND, request()), (None, None));
    assert_eq!(shown(&key("released"), State::Unfinished, 5, then + SECOND, request()), (None, None));
    let on_its_way = Some((true, then + SECOND, b"on its way".to_vec()));
    assert_eq!(shown(&key("shipped"), State::Succeeded, 1, then + SECOND, request()), (None, on_its_way));
    steps_read_back(store);
    let Claim::Run(run) = claim(&key("half"), request()) else { panic!("it is unfinished and free") };
    assert_eq!((run.attempt(), run.checkpoint().as_ref().map(position)), (3, half));
}

/// A step's notes, and what was reported of it late.
type Told = (Vec<(Timestamp, bool, String)>, Vec<(u32, Timestamp, Option<Vec<u8>>)>);

fn told(step: &Step) -> Told {
    let notes = step.notes().iter().map(|note| (note.at(), note.happened(), note.text().to_owned()));
    let late = step.late().iter().map(|late| (late.attempt(), late.at(), late.bytes().map(<[u8]>::to_vec)));
    (notes.collect(), late.collect())
}

/// What steps came to, their notes and late reports, and the request; and that a run goes on from there.
fn steps_read_back(store: &Store) {
    let then = START + 2 * HOUR;
    let progress = store.progress(&key("guarded")).unwrap().unwrap();
    assert_eq!((progress.state(), progress.attempt(), progress.since()), (State::Unfinished, 4, then));
    assert_eq!((progress.request(), progress.checkpoint()), (Some(&large(6)[..]), None));
    let (done, parcel) = (StepState::Done, Some(b"parcel 3".to_vec()));
    let expected = [
        ("charge", 1, then, done, Some(then), Some(b"receipt 8".to_vec())),
        ("invoice", 1, then, done, Some(then), Some(large(7))),
        ("sms", 1, then, StepState::Withdrawn, Some(then), None),
        ("überweisen", 1, then, done, Some(then), parcel),
        ("slow", 3, then, StepState::InDoubt, None, None),
        ("mail", 4, LEFT, StepState::InDoubt, None, None),
    ];
    assert_eq!(progress.steps().len(), expected.len());
    for (step, (name, attempt, begun_at, state, settled_at, bytes)) in progress.steps().iter().zip(expected) {
        assert_eq!((step.name(), step.attempt(), step.begun_at(), step.state()), (name, attempt, begun_at, state));
        assert_eq!((step.settled_at(), step.bytes().map(<[u8]>::to_vec)), (settled_at, bytes), "{name}");
        let notes = vec![(then, false, "Ada: nicht im Buch".to_owned()), (then, true, "Ada: doch".to_owned())];
        let late = vec![(1, then, Some(large(8))), (2, then, None), (3, then, Some(b"too late".to_vec()))];
        let expected = match name {
            "überweisen" => (notes, Vec::new()),
            "slow" => (Vec::new(), late),
            _ => Told::default(),
        };
        assert_eq!(told(step), expected, "{name}");
    }
    let shipped = store.progress(&key("shipped")).unwrap().unwrap();
    let [step] = shipped.steps() else { panic!("steps stay as long as the outcome") };
    assert_eq!((step.name(), step.bytes()), ("ship", Some(&b"truck 12"[..])));
    assert_eq!(told(step), (vec![(LEFT, true, "seen".to_owned())], Vec::new()));

    let mut run = run(store, &key("guarded"));
    assert_eq!((run.attempt(), run.request()), (5, Some(&large(6)[..])));
    let never = || Err::<Vec<u8>, _>(Failure::from("it is recorded"));
    assert_eq!(run.step("charge").run_at_most_once(|_| never()).unwrap(), b"receipt 8");
    assert_eq!(run.step("invoice").run_at_most_once(|_| never()).unwrap(), large(7));
    assert_eq!(run.step("überweisen").run_at_most_once(|_| never()).unwrap(), b"parcel 3");
    assert_eq!(run.step("mail").run_at_most_once(|_| never()).unwrap_err().kind(), ErrorKind::InDoubt);
    // Files of a format must find what was sent under the ids of their time.
    assert_eq!(run.effect_id("charge").to_string(), CHARGE_ID);
    run.step("sms").run_at_most_once(|_| Ok::<_, Error>(())).unwrap();
    let left: Vec<_> = run.unasked_steps().iter().map(|step| step.name().to_owned()).collect();
    assert_eq!(left, ["slow"]);
}

fn position(checkpoint: &Checkpoint) -> (String, u64, Timestamp, Vec<u8>) {
    (checkpoint.name().to_owned(), checkpoint.revision().get(), checkpoint.at(), checkpoint.bytes().to_vec())
}

fn end(outcome: &Outcome) -> (bool, Timestamp, Vec<u8>) {
    (outcome.is_success(), outcome.completed_at(), outcome.bytes().to_vec())
}

#[test]
fn p3_p5_p6_a_store_of_any_format_reads_back_whole_and_goes_on() {
    for fixture in OLDER.into_iter().chain(["v2.reentry", "v2-unclean.reentry"]) {
        let (_folder, path) = copy(fixture);
        let store = open(&path).unwrap();
        reads_back(&store);
        run(&store, &key("further")).complete(&large(5)).wait().unwrap();
        store.close().unwrap();
        let store = open(&path).unwrap();
        assert!(matches!(store.claim(&key("further"), request()).wait().unwrap(), Claim::Replay(_)));
        store.verify().unwrap();
    }
}

/// Every row of a table.
fn rows(database: &Database, table: Rows) -> Vec<(u64, Vec<u8>)> {
    let table = database.begin_read().unwrap().open_table(table).unwrap();
    let rows = table.range::<u64>(..).unwrap().map(|row| row.unwrap());
    rows.map(|(number, row)| (number.value(), row.value().to_vec())).collect()
}

/// Every number that something stands under, in order.
fn numbers(database: &Database) -> Vec<u64> {
    let rows = [LOG, UNFINISHED, TOMBSTONES, BODIES].into_iter().flat_map(|table| rows(database, table));
    let mut numbers: Vec<_> = rows.map(|(number, _)| number).collect();
    numbers.sort_unstable();
    numbers
}

fn assert_summed(row: &[u8]) {
    let (body, checksum) = row.split_last_chunk::<4>().unwrap();
    assert_eq!(crc32fast::hash(body).to_le_bytes(), *checksum);
}

/// The row of `guarded`, counted by `docs/format.md`.
fn guarded_bytes() -> usize {
    const REQUEST_APART: usize = 17;
    const IN_DOUBT: usize = 16;
    const WITHDRAWN: usize = 25;
    const DONE: usize = 30;
    const DONE_APART: usize = 42;
    const NOTE: usize = 11;
    let (late_none, late_here, late_apart) = (13, 18, 30);
    let steps = [
        "charge".len() + DONE + "receipt 8".len(),
        "invoice".len() + DONE_APART,
        "sms".len() + WITHDRAWN,
        "überweisen".len() + DONE + "parcel 3".len() + 2 * NOTE + "Ada: nicht im Buch".len() + "Ada: doch".len(),
        "slow".len() + IN_DOUBT + late_apart + late_none + late_here + "too late".len(),
        "mail".len() + IN_DOUBT,
    ];
    let steps: usize = steps.iter().sum();
    UNFINISHED_BYTES + MORE_BYTES + REQUEST_APART + "scope".len() + "guarded".len() + steps
}

#[test]
fn a_store_is_laid_out_as_the_format_says() {
    let (_folder, path) = copy("v2.reentry");
    let database = database(&path);
    let [(0, meta), (1, mark)] = &rows(&database, META)[..] else { panic!("the meta row, and the mark") };
    assert_summed(meta);
    assert_summed(mark);
    assert_eq!((meta.len(), &meta[..4]), (40, [2, 0, 0, 0].as_slice()));
    let next = u64::from_le_bytes(meta[20..28].try_into().unwrap());
    let highest_time = u64::from_le_bytes(meta[28..36].try_into().unwrap());

    let [log, unfinished, tombstones, bodies] =
        [LOG, UNFINISHED, TOMBSTONES, BODIES].map(|table| rows(&database, table));
    // The phase stands behind the version, three bytes, two numbers and two times.
    let phases = |rows: &[(u64, Vec<u8>)]| rows.iter().map(|(_, row)| row[32]).collect::<Vec<_>>();
    assert_eq!([phases(&unfinished), phases(&tombstones)], [vec![0; 5], vec![3]]);
    assert_eq!(phases(&log).iter().filter(|phase| [1, 2].contains(phase)).count(), 4, "{:?}", phases(&log));
    let numbers = numbers(&database);
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "no number stands twice");
    assert!(numbers[0] >= 1 && *numbers.last().unwrap() < next, "numbers are reserved ahead");
    let mut kept: Vec<_> = bodies.into_iter().map(|(_, body)| body).collect();
    kept.sort_unstable();
    let mut large = [2, 3, 4, 6, 7, 8].map(large);
    large.sort_unstable();
    assert_eq!(kept, large, "nothing but the payload");
    let mut times = vec![highest_time];
    let all: Vec<_> = log.iter().chain(&unfinished).chain(&tombstones).map(|(_, row)| row).collect();
    for row in &all {
        assert_eq!(row[0], 1);
        assert_summed(row);
        times.push(u64::from_le_bytes(row[24..32].try_into().unwrap()));
    }
    // The time is in the newest row or, where that is older, in the meta row.
    assert_eq!(times.into_iter().max().map(Timestamp::from_millis), Some(LEFT));
    let lengths: Vec<_> = all.iter().map(|row| row.len()).collect();
    let fresh = UNFINISHED_BYTES + "scope".len() + "fresh".len();
    assert!(lengths.contains(&fresh) && lengths.contains(&(ENDED_BYTES + 128 + 255)), "{lengths:?}");
    let released = UNFINISHED_BYTES + MORE_BYTES + "scope".len() + "released".len();
    let stuck = UNFINISHED_BYTES + "scope".len() + "stuck".len();
    assert!(lengths.contains(&released) && lengths.contains(&stuck), "{lengths:?}");
    assert!(lengths.contains(&guarded_bytes()), "{lengths:?}, not {}", guarded_bytes());
    // The tombstone was written after its operation ended, so it also holds when that was.
    assert_eq!(tombstones[0].1.len(), ENDED_BYTES + 8 + "scope".len() + "gone".len());
}

/// A client who knew it could send a payload that a crash makes an entry of the journal of.
#[test]
fn p9_every_store_draws_a_secret_of_its_own_that_is_not_its_id() {
    const PAGE: usize = 4096;
    let drawn = [0, 1].map(|_| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.reentry");
        let store = Store::open(&path).unwrap();
        run(&store, &key("first")).release();
        // The journal's first entry begins with it.
        let secret = fs::read(&path).unwrap()[PAGE..][..16].to_vec();
        store.close().unwrap();
        let id = rows(&database(&path), META)[0].1[4..20].to_vec();
        [secret, id]
    });
    let known: BTreeSet<_> = drawn.concat().into_iter().chain([vec![0; 16]]).collect();
    assert_eq!(known.len(), 5, "{known:?}");
}

#[test]
fn no_number_is_used_twice_over_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new.reentry");
    for restart in 0..4_u8 {
        let store = open(&path).unwrap();
        drop(run(&store, &key(&format!("fresh {restart}"))));
        // The newest number of all is that of a payload.
        run(&store, &key(&format!("half {restart}"))).advance("large", &large(restart)).wait().unwrap();
        store.verify().unwrap();
        store.close().unwrap();
        let numbers = numbers(&database(&path));
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "after restart {restart}: {numbers:?}");
    }
}

/// Makes the first byte 3 in the first row of a table, and lets the checksum fit again.
fn make_newer(path: &Path, table: Rows) {
    let database = database(path);
    let (number, mut row) = rows(&database, table).remove(0);
    row.truncate(row.len() - 4);
    row[0] = 3;
    let checksum = crc32fast::hash(&row);
    row.extend_from_slice(&checksum.to_le_bytes());
    let transaction = database.begin_write().unwrap();
    transaction.open_table(table).unwrap().insert(number, row.as_slice()).unwrap();
    transaction.commit().unwrap();
}

#[test]
fn p10_a_file_or_a_row_of_a_newer_format_is_refused_and_left_as_it_is() {
    for (table, fixture) in [
        (META, "v2.reentry"),
        (LOG, "v2.reentry"),
        (UNFINISHED, "v2.reentry"),
        (TOMBSTONES, "v2-unclean.reentry"),
        (META, "v1.reentry"),
        (LOG, "v1-unclean.reentry"),
    ] {
        let (folder, path) = copy(fixture);
        make_newer(&path, table);
        let before = fs::read(&path).unwrap();
        let error = open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NewerFormat, "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()) && error.to_string().contains('3'), "{error}");
        assert!(fs::read(&path).unwrap() == before, "nothing in it was changed");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }
}

/// The format that the file's own meta row names.
fn format_of(path: &Path) -> u8 {
    rows(&database(path), META)[0].1[0]
}

#[test]
fn a_file_of_an_older_format_is_brought_to_this_one_by_whoever_writes_to_it() {
    for fixture in OLDER {
        let (_folder, path) = copy(fixture);
        let before = fs::read(&path).unwrap();
        let reading = Store::builder().clock(ManualClock::at(LEFT)).attempts_max(ATTEMPTS_MAX);
        let store = reading.open_to_read(&path).unwrap();
        assert_eq!((store.stats().unwrap().format, store.unfinished().count()), (1, 5));
        store.verify().unwrap();
        drop(store);
        assert!(fs::read(&path).unwrap() == before, "who only reads it changes nothing");
        let migrated = Store::builder().migrate(&path).unwrap();
        assert_eq!((migrated.from, migrated.to, format_of(&path)), (1, FORMAT_VERSION, 2));
        let migrated = Store::builder().migrate(&path).unwrap();
        assert_eq!((migrated.from, migrated.to), (2, 2));
        let store = open(&path).unwrap();
        assert_eq!(store.stats().unwrap().format, 2);
        reads_back(&store);
        store.verify().unwrap();
    }
}

/// Nothing is lost, and nothing stands twice, wherever the power goes while a file is brought to this format: also of
/// what its journal says, which is told once more to a file that has this format already.
#[test]
fn p2_a_crash_while_a_file_is_brought_to_this_format_loses_nothing() {
    let mut at_once = 0;
    for fixture in OLDER {
        let disk = SimulatedDisk::from_image(fs::read(fixtures().join(fixture)).unwrap());
        let builder = || Store::builder().clock(ManualClock::at(LEFT)).attempts_max(ATTEMPTS_MAX);
        builder().open_on(&disk).unwrap().close().unwrap();
        for at in 0..=disk.calls() {
            for loss in [Loss::Lost, Loss::Kept, Loss::Torn(700)] {
                let left = disk.cut(at, |unsynced| if unsynced.nth % 2 == 0 { loss } else { Loss::Lost });
                let store = builder().open_on(&left).unwrap();
                reads_back(&store);
                store.verify().unwrap();
                at_once += 1;
            }
        }
    }
    assert!(at_once > 60, "{at_once} crashes");
}

#[test]
fn the_servers_own_tables_live_beside_the_stores() {
    const ORDERS: TableDefinition<'_, &str, u64> = TableDefinition::new("orders");
    let (_folder, path) = copy("v1.reentry");
    let insert = |order: &str| {
        let database = database(&path);
        let transaction = database.begin_write().unwrap();
        transaction.open_table(ORDERS).unwrap().insert(order, 7).unwrap();
        transaction.commit().unwrap();
    };
    insert("before");
    let store = open(&path).unwrap();
    reads_back(&store);
    store.close().unwrap();
    insert("after");
    let database = database(&path);
    let orders = database.begin_read().unwrap().open_table(ORDERS).unwrap();
    assert_eq!(orders.iter().unwrap().count(), 2);
    drop((orders, database));
    open(&path).unwrap().verify().unwrap();
}
