//! What is refused at the door: paths that hold no store, values over a limit, one operation too many. An error names
//! the place and says what to do, and nothing on the disk is changed by it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use redb::{Database, TableDefinition};
use reentry::{Builder, Claim, Error, ErrorKind, Key, ManualClock, Revision, Store};
use support::{START, database, key, request, run, settle};
use tempfile::TempDir;

const META: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("reentry/meta");
const UNFINISHED: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("reentry/unfinished");

/// A folder for the files of one test, and the path of a store in it.
fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.reentry");
    (folder, path)
}

/// All that stands in a folder: each file's bytes; none for what is no file.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let bytes = |path: &Path| fs::symlink_metadata(path).unwrap().is_file().then(|| fs::read(path).unwrap());
    entries.map(|entry| (entry.path(), bytes(&entry.path()))).collect()
}

/// Opens what must be refused: with this kind, naming the path, and without a trace in its folder.
#[track_caller]
fn refused(path: &Path, kind: ErrorKind) -> Error {
    let before = contents(path.parent().unwrap());
    let error = Store::open(path).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    let message = error.to_string();
    assert!(message.contains(&path.display().to_string()), "the path is not named: {message}");
    assert!(contents(path.parent().unwrap()) == before, "the refusal left traces: {message}");
    error
}

/// Makes a store with one operation.
fn made(path: &Path) {
    let store = Store::open(path).unwrap();
    drop(run(&store, &key("a")));
    store.close().unwrap();
}

#[test]
fn a_path_that_is_a_folder_is_no_store() {
    let (_folder, path) = folder();
    fs::create_dir(&path).unwrap();
    refused(&path, ErrorKind::NotAStore);
}

#[cfg(unix)]
#[test]
fn a_symbolic_link_is_not_followed() {
    let (folder, path) = folder();
    let target = folder.path().join("elsewhere");
    std::os::unix::fs::symlink(&target, &path).unwrap();
    refused(&path, ErrorKind::NotAStore);
    assert!(!target.exists(), "nothing is made at the end of a link that leads nowhere");
    made(&target);
    refused(&path, ErrorKind::NotAStore);
}

#[test]
fn a_folder_that_is_not_there_is_not_made() {
    let (folder, _) = folder();
    let missing = folder.path().join("missing");
    let error = Store::open(missing.join("orders.reentry")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains(&missing.display().to_string()), "{error}");
    assert!(std::error::Error::source(&error).is_some(), "the system's reason is the source");
    assert!(!missing.exists());
}

#[cfg(unix)]
#[test]
fn a_file_or_folder_that_may_not_be_written_is_an_error_of_the_system() {
    use std::os::unix::fs::PermissionsExt;
    let (folder, path) = folder();
    made(&path);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    if fs::OpenOptions::new().write(true).open(&path).is_ok() {
        eprintln!("skipped: this user may write what nobody may write (root)");
        return;
    }
    refused(&path, ErrorKind::Io);
    let locked = folder.path().join("locked");
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o500)).unwrap();
    refused(&locked.join("orders.reentry"), ErrorKind::Io);
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn an_empty_file_is_not_taken_for_a_new_store() {
    let (_folder, path) = folder();
    fs::write(&path, b"").unwrap();
    refused(&path, ErrorKind::NotAStore);
}

#[test]
fn a_file_that_holds_something_else_is_no_store() {
    let (_folder, path) = folder();
    for text in [&b"x"[..], b"redb", b"Dear diary,\n", &[0; 8192]] {
        fs::write(&path, text).unwrap();
        refused(&path, ErrorKind::NotAStore);
        assert!(Store::open(&path).unwrap_err().to_string().contains("holds something else"));
    }
    // A store that lost all its bytes may have a copy; a diary is in the wrong place.
    fs::write(&path, b"").unwrap();
    assert!(Store::open(&path).unwrap_err().to_string().contains("is empty, which no store ever is"));
}

#[test]
fn a_database_of_somebody_else_is_no_store() {
    let (_folder, path) = folder();
    let orders: TableDefinition<'_, &str, u64> = TableDefinition::new("orders");
    let database = Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(orders).unwrap().insert("pizza", 2).unwrap();
    transaction.commit().unwrap();
    drop(database);
    refused(&path, ErrorKind::NotAStore);
    // The same name for a table of other types, and a table without its row.
    let database = Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    let theirs: TableDefinition<'_, &str, u64> = TableDefinition::new("reentry/meta");
    transaction.open_table(theirs).unwrap();
    transaction.commit().unwrap();
    drop(database);
    refused(&path, ErrorKind::NotAStore);
}

#[test]
fn a_store_without_its_meta_row_is_no_store() {
    let (_folder, path) = folder();
    made(&path);
    let database = database(&path);
    let transaction = database.begin_write().unwrap();
    transaction.open_table(META).unwrap().remove(0).unwrap();
    transaction.commit().unwrap();
    drop(database);
    refused(&path, ErrorKind::NotAStore);
}

/// What it held would begin anew.
#[test]
fn p1_p10_a_file_that_lacks_one_of_its_tables_is_refused() {
    for table in ["log", "unfinished", "tombstones"] {
        let (_folder, path) = folder();
        made(&path);
        let database = database(&path);
        let transaction = database.begin_write().unwrap();
        let name = format!("reentry/{table}");
        let lost: TableDefinition<'_, u64, &[u8]> = TableDefinition::new(&name);
        assert!(transaction.delete_table(lost).unwrap());
        transaction.commit().unwrap();
        drop(database);
        let error = refused(&path, ErrorKind::Corrupt);
        assert!(error.to_string().contains(table), "{error}");
    }
}

/// Changes the first row of a table by hand and puts the right checksum behind it.
fn patch(path: &Path, table: TableDefinition<'_, u64, &'static [u8]>, change: impl Fn(&mut Vec<u8>)) {
    use redb::ReadableTable;
    let database = database(path);
    let transaction = database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(table).unwrap();
        let (number, mut row) = {
            let (number, row) = table.first().unwrap().unwrap();
            (number.value(), row.value().to_vec())
        };
        row.truncate(row.len() - 4);
        change(&mut row);
        row.extend(crc32fast::hash(&row).to_le_bytes());
        table.insert(number, row.as_slice()).unwrap();
    }
    transaction.commit().unwrap();
}

#[test]
fn a_file_of_a_newer_format_is_refused_whatever_follows_its_version() {
    for more in [&b""[..], b"fields of the future"] {
        let (_folder, path) = folder();
        made(&path);
        patch(&path, META, |row| {
            row[..4].copy_from_slice(&7_u32.to_le_bytes());
            row.extend(more);
        });
        let error = refused(&path, ErrorKind::NewerFormat);
        assert!(error.to_string().contains('7'), "the format is not named: {error}");
        // Nor is what is left of it, which might be all but what the newer format keeps elsewhere.
        let error = Store::builder().open_damaged(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NewerFormat, "{error}");
    }
}

#[test]
fn a_record_of_a_newer_format_is_refused() {
    let (_folder, path) = folder();
    made(&path);
    patch(&path, UNFINISHED, |row| row[0] = 2);
    refused(&path, ErrorKind::NewerFormat);
}

#[test]
fn a_file_whose_meta_row_fits_its_checksum_and_nothing_else_is_corrupt() {
    let (_folder, path) = folder();
    made(&path);
    patch(&path, META, |row| row.push(0));
    refused(&path, ErrorKind::Corrupt);
    patch(&path, META, |row| row.truncate(20));
    refused(&path, ErrorKind::Corrupt);
}

#[test]
fn p1_a_store_that_is_open_cannot_be_opened_again_until_it_is_closed() {
    let (folder, path) = folder();
    let store = Store::open(&path).unwrap();
    drop(run(&store, &key("a")));
    refused(&path, ErrorKind::InUse);
    let roundabout = folder.path().join(".").join("orders.reentry");
    assert_eq!(Store::open(roundabout).unwrap_err().kind(), ErrorKind::InUse);
    #[cfg(unix)]
    {
        let second_name = folder.path().join("second name");
        fs::hard_link(&path, &second_name).unwrap();
        refused(&second_name, ErrorKind::InUse);
    }
    assert_eq!(run(&store, &key("a")).attempt(), 2, "the open store goes on");
    store.close().unwrap();
    let reopened = Store::open(&path).unwrap();
    assert_eq!(run(&reopened, &key("a")).attempt(), 3);
    reopened.verify().unwrap();
}

#[cfg(unix)]
#[test]
fn a_new_store_is_one_file_that_only_its_owner_may_read() {
    use std::os::unix::fs::PermissionsExt;
    let (folder, path) = folder();
    let store = Store::open(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    store.close().unwrap();
    assert_eq!(contents(folder.path()).into_keys().collect::<Vec<_>>(), [path]);
}

#[cfg(unix)]
fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
}

#[cfg(unix)]
#[test]
fn p9_a_file_that_is_open_to_others_is_refused_where_that_is_asked_for() {
    let (folder, path) = folder();
    let opened = || Store::builder().only_private(true).open(&path).map(|store| store.close().unwrap());
    chmod(folder.path(), 0o770);
    assert_eq!(opened().unwrap_err().kind(), ErrorKind::Exposed);
    assert!(contents(folder.path()).is_empty(), "nothing is made there");
    chmod(folder.path(), 0o700);
    opened().unwrap();
    for (mode, is_exposed) in [(0o600, false), (0o640, true), (0o604, true), (0o620, true), (0o700, false)] {
        chmod(&path, mode);
        assert_eq!(opened().err().map(|error| error.kind()), is_exposed.then_some(ErrorKind::Exposed), "{mode:o}");
        let builder = || Store::builder().only_private(true);
        for opened in [
            builder().compact(&path).map(drop),
            builder().migrate(&path).map(drop),
            builder().open_to_read(&path).map(drop),
            builder().open_damaged(&path).map(drop),
        ] {
            assert_eq!(opened.err().map(|error| error.kind()), is_exposed.then_some(ErrorKind::Exposed), "{mode:o}");
        }
    }
    chmod(&path, 0o600);
    for (mode, is_exposed) in [(0o755, false), (0o770, true), (0o702, true), (0o1777, false)] {
        chmod(folder.path(), mode);
        assert_eq!(opened().err().map(|error| error.kind()), is_exposed.then_some(ErrorKind::Exposed), "{mode:o}");
        Store::open(&path).unwrap().verify().unwrap();
    }
}

/// Whoever put it there may have it open still.
#[cfg(unix)]
#[test]
fn p9_a_file_that_others_may_write_is_not_what_a_crash_left_while_creating() {
    let (folder, path) = folder();
    let creating = folder.path().join("orders.reentry.creating");
    for mode in [0o666, 0o640, 0o602] {
        fs::write(&creating, b"").unwrap();
        chmod(&creating, mode);
        assert_eq!(Store::open(&path).unwrap_err().kind(), ErrorKind::Exposed, "{mode:o}");
        assert_eq!(contents(folder.path()).into_keys().collect::<Vec<_>>(), std::slice::from_ref(&creating));
        fs::remove_file(&creating).unwrap();
    }
    made(&path);
}

#[test]
fn what_a_crash_left_while_creating_is_not_in_the_way() {
    let (whole_folder, whole) = folder();
    made(&whole);
    let whole_bytes = fs::read(&whole).unwrap();
    drop(whole_folder);
    for left in [&b""[..], b"half", &whole_bytes[..whole_bytes.len() / 2], &whole_bytes] {
        let (folder, path) = folder();
        let creating = folder.path().join("orders.reentry.creating");
        fs::write(&creating, left).unwrap();
        #[cfg(unix)]
        chmod(&creating, 0o600);
        let store = Store::open(&path).unwrap();
        assert_eq!(store.stats().unwrap().operations, 0, "made anew");
        assert_eq!(run(&store, &key("a")).attempt(), 1);
        store.verify().unwrap();
        store.close().unwrap();
        assert_eq!(contents(folder.path()).into_keys().collect::<Vec<_>>(), [path]);
    }
}

#[cfg(unix)]
#[test]
fn a_crash_between_giving_the_name_and_removing_the_other_leaves_a_store() {
    let (folder, path) = folder();
    made(&path);
    fs::hard_link(&path, folder.path().join("orders.reentry.creating")).unwrap();
    let store = Store::open(&path).unwrap();
    assert_eq!(run(&store, &key("a")).attempt(), 2);
    store.verify().unwrap();
}

#[cfg(unix)]
#[test]
fn a_link_in_the_place_where_a_store_is_created_is_not_followed() {
    let (folder, path) = folder();
    let (target, creating) = (folder.path().join("target"), folder.path().join("orders.reentry.creating"));
    fs::write(&target, b"precious").unwrap();
    std::os::unix::fs::symlink(&target, &creating).unwrap();
    refused(&path, ErrorKind::NotAStore);
}

#[test]
fn scope_and_key_are_taken_up_to_their_limits_and_kept_whole() {
    let (_folder, path) = folder();
    let store = Store::open(&path).unwrap();
    let mut taken = Vec::new();
    for (scope, name) in [(1, 1), (127, 254), (128, 255)] {
        let key = Key::new("s".repeat(scope), "k".repeat(name)).unwrap();
        run(&store, &key).complete(&vec![scope.try_into().unwrap()]).wait().unwrap();
        taken.push((key, scope));
    }
    // 2 bytes a letter: bytes are counted, not letters.
    taken.push((Key::new("ü".repeat(64), "ü".repeat(127)).unwrap(), 0));
    run(&store, &taken[3].0).complete(&vec![0]).wait().unwrap();
    for (scope, name) in [(0, 1), (1, 0), (129, 1), (1, 256)] {
        let error = Key::new("s".repeat(scope), "k".repeat(name)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidKey, "{scope} and {name} bytes");
    }
    assert_eq!(Key::new("ü".repeat(65), "k").unwrap_err().kind(), ErrorKind::InvalidKey);
    assert_eq!(Key::new("s", "ü".repeat(128)).unwrap_err().kind(), ErrorKind::InvalidKey);
    for control in ["\0", "\n", "\u{7f}", "\u{85}", "a\u{1b}[31m"] {
        let error = Key::new("s", control).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidKey);
        assert!(!error.to_string().contains(control), "a control character reached the message");
        assert_eq!(Key::new(control, "k").unwrap_err().kind(), ErrorKind::InvalidKey);
    }
    store.close().unwrap();
    let reopened = Store::open(&path).unwrap();
    for (key, byte) in taken {
        match reopened.claim(&key, request()).wait().unwrap() {
            Claim::Replay(outcome) => assert_eq!(outcome.bytes(), [u8::try_from(byte).unwrap()]),
            other => panic!("expected a replay, got {other:?}"),
        }
    }
    reopened.verify().unwrap();
}

#[test]
fn a_checkpoints_name_is_taken_up_to_its_limit() {
    let store = Store::builder().in_memory().unwrap();
    let mut owner = run(&store, &key("a"));
    for length in [1, 127, 128] {
        owner.advance(&"n".repeat(length), &()).wait().unwrap();
        assert_eq!(owner.checkpoint().unwrap().name().len(), length);
    }
    let seen = owner.checkpoint().unwrap();
    for name in [String::new(), "n".repeat(129), "a\nb".to_owned()] {
        assert_eq!(owner.advance(&name, &()).wait().unwrap_err().kind(), ErrorKind::InvalidName);
        let by_another = store.advance(&key("a"), seen.revision(), &name, &()).wait();
        assert_eq!(by_another.unwrap_err().kind(), ErrorKind::InvalidName);
    }
    assert_eq!(owner.refresh().unwrap(), Some(seen), "nothing was touched");
    store.verify().unwrap();
}

#[test]
fn a_payload_is_taken_up_to_the_limit() {
    for (builder, most) in [(Store::builder(), 1024 * 1024), (Store::builder().payload_bytes_max(2000), 2000)] {
        let store = builder.in_memory().unwrap();
        let mut owner = run(&store, &key("a"));
        for size in [0, most - 1, most] {
            owner.advance("paid", &vec![7; size]).wait().unwrap();
            assert_eq!(owner.refresh().unwrap().unwrap().bytes().len(), size);
        }
        let too_large = vec![7_u8; most + 1];
        assert_eq!(owner.advance("paid", &too_large).wait().unwrap_err().kind(), ErrorKind::PayloadTooLarge);
        let by_another = store.advance(&key("a"), Revision::NONE, "paid", &too_large).wait();
        assert_eq!(by_another.unwrap_err().kind(), ErrorKind::PayloadTooLarge);
        assert_eq!(owner.complete(&too_large).wait().unwrap_err().kind(), ErrorKind::PayloadTooLarge);
        let again = run(&store, &key("a"));
        assert_eq!(again.attempt(), 2, "the operation is unfinished and free");
        assert_eq!(again.checkpoint().unwrap().bytes().len(), most, "and its checkpoint untouched");
        assert_eq!(again.complete(&vec![7; most]).wait().unwrap().bytes().len(), most);
        store.verify().unwrap();
    }
}

#[test]
fn a_configuration_that_cannot_work_is_refused_before_anything_is_made() {
    let bad: [fn(Builder) -> Builder; 9] = [
        |builder| builder.retention(Duration::ZERO),
        |builder| builder.retention(Duration::from_micros(999)),
        |builder| builder.operations_max(0),
        |builder| builder.attempts_max(0),
        |builder| builder.lease(Duration::from_micros(999)),
        |builder| builder.queue_commands_max(0),
        |builder| builder.queue_bytes_max(0),
        |builder| builder.payload_bytes_max(1024 * 1024 * 1024 + 1),
        |builder| builder.payload_bytes_max(usize::MAX),
    ];
    for make in bad {
        let (folder, path) = folder();
        assert_eq!(make(Store::builder()).open(&path).unwrap_err().kind(), ErrorKind::InvalidConfig);
        assert!(contents(folder.path()).is_empty());
        assert_eq!(make(Store::builder()).in_memory().unwrap_err().kind(), ErrorKind::InvalidConfig);
    }
    let least = Store::builder().retention(Duration::from_millis(1)).operations_max(1).queue_commands_max(1);
    let least = least.queue_bytes_max(1).payload_bytes_max(1024 * 1024 * 1024).in_memory().unwrap();
    run(&least, &key("a")).complete(&vec![7; 5000]).wait().unwrap();
    least.verify().unwrap();
}

#[test]
fn p6_one_operation_too_many_is_refused_and_all_others_go_on() {
    let clock = ManualClock::at(START);
    let store = Store::builder().operations_max(3).clock(clock.clone()).in_memory().unwrap();
    run(&store, &key("done")).complete(&"the answer".to_owned()).wait().unwrap();
    let mut owner = run(&store, &key("owned"));
    drop(run(&store, &key("free")));
    let one_more = || store.claim(&key("one more"), request()).wait();
    assert_eq!(one_more().unwrap_err().kind(), ErrorKind::Capacity);
    assert!(store.progress(&key("one more")).unwrap().is_none(), "nothing of it is kept");
    // Everything that is known already goes on.
    assert!(matches!(store.claim(&key("done"), request()).wait().unwrap(), Claim::Replay(_)));
    assert!(matches!(store.claim(&key("owned"), request()).wait().unwrap(), Claim::Wait(_)));
    owner.advance("paid", &()).wait().unwrap();
    owner.complete(&()).wait().unwrap();
    assert_eq!(run(&store, &key("free")).attempt(), 2);
    assert_eq!(one_more().unwrap_err().kind(), ErrorKind::Capacity, "what is completed is kept, and counts");
    // Room by name.
    assert!(store.forget(&key("done")).wait().unwrap());
    drop(support::run_of(one_more().unwrap()));
    assert_eq!(store.claim(&key("yet another"), request()).wait().unwrap_err().kind(), ErrorKind::Capacity);
    // Room by retention, which takes what is completed and nothing else.
    clock.advance(Duration::from_secs(24 * 60 * 60));
    settle(&store);
    drop(run(&store, &key("yet another")));
    assert_eq!(store.stats().unwrap().operations, 3);
    assert_eq!(store.unfinished().count(), 3, "what is unfinished stands");
    store.verify().unwrap();
}
