//! Every command on a store as a shop leaves it.

use std::fs;
use std::process::Stdio;

use redb::ReadableTable;
use reentry::{Key, State, Store};

use super::support::{key, run, times_out};
use super::tool::{HOUR, Place, disputed, shop};

const STORE: &str = "orders.reentry";

#[test]
fn the_help_says_what_there_is() {
    let place = Place::new(|_, _| {});
    place.snapshot("help", &["--help"]);
    for command in ["stat", "ls", "show", "verify", "backup", "export", "import", "resolve", "release", "forget"] {
        let help = place.ok(&[command, "--help"]);
        assert!(help.contains(&format!("Usage: reentry {command}")), "{help}");
    }
}

#[test]
fn what_only_looks_tells_all_and_changes_nothing() {
    let place = Place::new(|store, clock| {
        shop(store, clock);
        disputed(store, clock);
    });
    let before = place.state();
    place.snapshot("stat", &["stat", STORE]);
    place.snapshot("stat_json", &["stat", STORE, "--json"]);
    place.snapshot("ls", &["ls", STORE]);
    place.snapshot("ls_json", &["ls", STORE, "--json"]);
    place.snapshot("show", &["show", STORE, "checkout/ada", "order-3"]);
    place.snapshot("show_payload", &["show", STORE, "checkout/ada", "order-3", "--payload"]);
    place.snapshot("show_json", &["show", STORE, "checkout/ada", "order-3", "--json", "--payload"]);
    place.snapshot("show_failed", &["show", STORE, "checkout/ada", "order-2", "--payload"]);
    place.snapshot("show_gone", &["show", STORE, "scope", "forgotten long ago"]);
    place.snapshot("show_disputed", &["show", STORE, "scope", "disputed", "--payload"]);
    place.snapshot("show_disputed_json", &["show", STORE, "scope", "disputed", "--json", "--payload"]);
    place.snapshot("show_unknown", &["show", STORE, "checkout/ada", "order-9"]);
    place.snapshot("verify", &["verify", STORE]);
    assert!(place.state() == before, "the file changed");
}

#[test]
fn a_list_leaves_what_is_asked_for() {
    let place = Place::new(shop);
    let keys = |args: &[&str]| -> Vec<String> {
        let out = place.ok(&[&["ls", STORE, "--json"], args].concat());
        let keys = out.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        keys.map(|it| it["key"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(keys(&["--scope", "checkout/ada"]), ["order-3", "order-2", "order-1"]);
    assert_eq!(keys(&["--state", "stuck"]), ["order-1"]);
    assert_eq!(keys(&["--state", "failed", "--state", "gone"]), ["order-2", "forgotten long ago"]);
    assert_eq!(keys(&["--in-doubt"]), ["order-3"]);
    assert_eq!(keys(&["--checkpoint", "charged"]), ["order-3"]);
    assert_eq!(keys(&["--older-than", "1d"]), ["forgotten long ago"]);
    assert_eq!(keys(&["--younger-than", "210m", "--oldest-first"]), ["order-1", "fresh"]);
    for age in ["6h", "360m", "21600s"] {
        assert_eq!(keys(&["--younger-than", age]), ["fresh", "order-1", "order-3", "order-2", "order-1"], "{age}");
        assert_eq!(keys(&["--older-than", age]), ["forgotten long ago"], "{age}");
    }
    assert_eq!(keys(&["--limit", "1"]), ["fresh"]);
    assert_eq!(keys(&["--state", "stuck", "--attempts-max", "17"]), [""; 0]);
    let wrong = place.run(&["ls", STORE, "--older-than", "soon"]);
    assert_eq!(wrong.status, 2, "{wrong:?}");
}

#[test]
fn a_store_in_use_is_refused_with_the_name_of_who_has_it() {
    let place = Place::new(shop);
    let server = place.builder().open(place.store()).unwrap();
    for args in [
        &["stat", STORE][..],
        &["ls", STORE],
        &["verify", STORE],
        &["backup", STORE, "copy.reentry"],
        &["export", STORE, "copy.jsonl"],
        &["export", STORE, "copy.jsonl", "--skip-damaged"],
        &["ls", STORE, "--skip-damaged"],
        &["forget", STORE, "scope", "fresh", "--yes"],
        &["compact", STORE],
    ] {
        let told = place.run(args);
        assert_eq!((told.status, &*told.out), (1, ""), "{told:?}");
        assert!(told.err.contains("orders.reentry is open in "), "{told:?}");
        if cfg!(target_os = "linux") {
            assert!(told.err.contains(&format!("process {} (", std::process::id())), "{told:?}");
        }
    }
    drop(server);
    place.ok(&["verify", STORE]);
}

#[test]
fn what_is_no_store_is_refused_and_none_is_made() {
    let place = Place::new(|_, _| {});
    fs::write(place.path("text"), "this is a text, and long enough to be taken for more than that").unwrap();
    place.snapshot("no_store", &["stat", "text"]);
    place.snapshot("no_file", &["ls", "absent.reentry"]);
    for args in [
        &["forget", "absent.reentry", "a", "b", "--yes"][..],
        &["compact", "absent.reentry"],
        &["migrate", "absent.reentry"],
        &["resolve", "absent.reentry", "a", "b", "c", "--did-not-happen", "--note", "x", "--yes"],
    ] {
        assert_eq!(place.run(args).status, 1, "{args:?}");
        assert!(!place.path("absent.reentry").exists(), "{args:?}");
    }
}

#[test]
fn a_copy_is_a_store_that_tells_the_same_and_replaces_nothing() {
    let place = Place::new(shop);
    let before = place.state();
    place.snapshot("backup", &["backup", STORE, "copy.reentry"]);
    assert!(place.state() == before, "the file changed");
    assert_eq!(place.ok(&["ls", "copy.reentry"]), place.ok(&["ls", STORE]));
    let again = place.run(&["backup", STORE, "copy.reentry"]);
    assert_eq!(again.status, 1);
    assert!(again.err.contains("exists already"), "{again:?}");
}

#[test]
fn an_export_goes_to_a_file_or_a_pipe_and_comes_back() {
    let place = Place::new(shop);
    let before = place.state();
    place.snapshot("export_file", &["export", STORE, "monday.jsonl"]);
    let piped = place.run(&["export", STORE]);
    assert_eq!((piped.status, piped.out), (0, fs::read_to_string(place.path("monday.jsonl")).unwrap()));
    assert!(place.state() == before, "the file changed");
    assert_eq!(place.run(&["export", STORE, "monday.jsonl"]).status, 1);
    place.snapshot("import", &["import", "new.reentry", "monday.jsonl"]);
    assert_eq!(place.ok(&["ls", "new.reentry", "--state", "stuck", "--state", "gone"]).lines().count(), 3);
    place.snapshot("import_again", &["import", "new.reentry", "monday.jsonl"]);
    let lines = fs::read(place.path("monday.jsonl")).unwrap();
    // Made at the same moment, so that no time is later than the store's own.
    place.builder().open(place.path("other.reentry")).unwrap().close().unwrap();
    // What is no file is read once.
    let from_pipe = place.run_with(&["import", "named.reentry", "/dev/stdin"], &lines);
    assert!(from_pipe.status == 0 || !cfg!(target_os = "linux"), "{from_pipe:?}");
    let from_pipe = place.run_with(&["import", "other.reentry", "-"], &lines);
    assert_eq!(from_pipe.status, 0, "{from_pipe:?}");
    place.ok(&["export", "other.reentry", "other.jsonl"]);
    assert_eq!(fs::read(place.path("other.jsonl")).unwrap(), lines);
}

#[test]
fn an_import_that_meets_something_else_or_was_cut_short_says_so() {
    let place = Place::new(shop);
    place.ok(&["export", STORE, "monday.jsonl"]);
    let other = place.builder().open(place.path("other.reentry")).unwrap();
    run(&other, &Key::new("checkout/ada", "order-1").unwrap()).complete(&()).wait().unwrap();
    other.close().unwrap();
    place.snapshot("import_known", &["import", "other.reentry", "monday.jsonl"]);
    place.snapshot("import_skip", &["import", "other.reentry", "monday.jsonl", "--skip-existing"]);
    let lines = fs::read_to_string(place.path("monday.jsonl")).unwrap();
    fs::write(place.path("cut.jsonl"), &lines[..lines.len() / 2]).unwrap();
    place.snapshot("import_cut", &["import", "new.reentry", "cut.jsonl"]);
    assert!(!place.path("new.reentry").exists(), "an export that was cut short made a store");
    fs::write(place.path("newer.jsonl"), lines.replacen("\"reentry_export\":1", "\"reentry_export\":2", 1)).unwrap();
    place.snapshot("import_newer", &["import", "new.reentry", "newer.jsonl"]);
}

fn state(place: &Place, key: &Key) -> State {
    let store = place.builder().open_to_read(place.store()).unwrap();
    store.progress(key).unwrap().unwrap().state()
}

#[test]
fn what_is_in_doubt_is_resolved_either_way() {
    let place = Place::new(shop);
    let key = Key::new("checkout/ada", "order-3").unwrap();
    let resolve = ["resolve", STORE, "checkout/ada", "order-3", "mail"];
    let asked = place.run(&[&resolve[..], &["--did-not-happen", "--note", "none came"]].concat());
    assert_eq!(asked.status, 2, "without a terminal it must be told --yes: {asked:?}");
    let wrong = place.run(&[&resolve[..], &["--note", "none came", "--yes"]].concat());
    assert_eq!(wrong.status, 2, "{wrong:?}");
    fs::write(place.path("result"), "message 7").unwrap();
    place.snapshot("resolve", &[&resolve[..], &["--happened", "result", "--note", "it arrived", "--yes"]].concat());
    let store = place.builder().open_to_read(place.store()).unwrap();
    let progress = store.progress(&key).unwrap().unwrap();
    let step = &progress.steps()[1];
    assert_eq!((step.bytes(), step.notes()[0].text()), (Some(&b"message 7"[..]), "it arrived"));
    drop(store);
    place.snapshot("resolve_again", &[&resolve[..], &["--did-not-happen", "--note", "none came", "--yes"]].concat());
    let unknown = ["resolve", STORE, "checkout/ada", "order-3", "sms", "--did-not-happen", "--note", "x", "--yes"];
    place.snapshot("resolve_unknown", &unknown);
}

/// The step's type decodes from just these bytes: a newline too many, and no run could ever go on.
#[test]
fn a_result_is_taken_from_its_file_or_the_standard_input_to_the_last_byte() {
    // A server may take more than one does by default.
    let large = vec![7; 2 << 20];
    let results = [&b"receipt 7\n"[..], b"", b"\r\n\r\n", b" \t\n", b"\0\xff\xfe\x1a\n", b"{\n  \"n\": 7\n}\n", &large];
    for (nth, result) in results.into_iter().enumerate() {
        let place = Place::new(|store, _| {
            for name in ["file", "input"] {
                times_out(&mut run(store, &key(name)), "mail");
            }
        });
        fs::write(place.path("result"), result).unwrap();
        let resolve = |key, from, input: &[u8]| {
            let args = ["resolve", STORE, "scope", key, "mail", "--happened", from, "--note", "x", "--yes"];
            let told = place.run_with(&args, input);
            assert_eq!((told.status, &*told.err), (0, ""), "{told:?}");
        };
        resolve("file", "result", b"nothing to be read here");
        resolve("input", "-", result);
        let store = place.builder().open_to_read(place.store()).unwrap();
        for name in ["file", "input"] {
            let progress = store.progress(&key(name)).unwrap().unwrap();
            let kept = progress.steps()[0].bytes();
            assert!(kept == Some(result), "{name}, {nth}: {} bytes", kept.map_or(0, <[u8]>::len));
        }
    }
}

/// It holds what clients sent, as the store does.
#[cfg(unix)]
#[test]
fn p9_an_export_is_readable_by_its_owner_alone_whatever_the_umask_is() {
    use std::os::unix::fs::PermissionsExt;

    let place = Place::new(shop);
    for mask in ["000", "022", "077", "027"] {
        let to = format!("{mask}.jsonl");
        let mut shell = place.program("sh");
        shell.args(["-c", "umask \"$1\" && exec \"$0\" export \"$2\" \"$3\"", env!("CARGO_BIN_EXE_reentry")]);
        let told = place.told(shell.args([mask, STORE, &to]).output().unwrap());
        assert_eq!(told.status, 0, "{told:?}");
        let mode = fs::metadata(place.path(&to)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600, "under umask {mask} it became {mode:o}");
    }
}

#[test]
fn what_is_stuck_is_released_and_what_is_not_wanted_is_forgotten() {
    let place = Place::new(shop);
    let stuck = Key::new("mails", "order-1").unwrap();
    assert_eq!(state(&place, &stuck), State::Stuck);
    place.snapshot("release", &["release", STORE, "mails", "order-1", "--yes"]);
    assert_eq!(state(&place, &stuck), State::Unfinished);
    place.snapshot("release_again", &["release", STORE, "mails", "order-1", "--yes"]);
    place.snapshot("release_ended", &["release", STORE, "checkout/ada", "order-1", "--yes"]);
    assert_eq!(place.run(&["forget", STORE, "mails", "order-1"]).status, 2);
    place.snapshot("forget", &["forget", STORE, "mails", "order-1", "--yes"]);
    place.snapshot("forget_again", &["forget", STORE, "mails", "order-1", "--yes"]);
    place.ok(&["verify", STORE]);
}

#[test]
fn a_file_with_space_that_nothing_uses_is_made_smaller() {
    let place = Place::new(|store, clock| {
        for nth in 0..400 {
            run(store, &key(&nth.to_string())).complete(&vec![1_u8; 20_000]).wait().unwrap();
        }
        drop(run(store, &key("kept")));
        clock.advance(2_000 * HOUR);
    });
    // What is over is removed when the store is next written to.
    let store = place.builder().open(place.store()).unwrap();
    while store.stats().unwrap().operations > 1 {
        store.forget(&key("nobody's")).wait().unwrap();
    }
    store.close().unwrap();
    let before = place.image().len();
    let told = place.ok(&["compact", STORE]);
    assert!(told.contains(" bytes before, "), "{told}");
    assert!(place.image().len() * 4 < before, "{before} bytes became {}: {told}", place.image().len());
    assert!(place.ok(&["ls", STORE]).contains("kept"));
    place.ok(&["verify", STORE]);
}

#[test]
fn a_store_of_the_newest_format_is_left_as_it_is_and_one_of_a_newer_is_refused() {
    let place = Place::new(shop);
    let before = place.state();
    place.snapshot("migrate", &["migrate", STORE]);
    assert!(place.state() == before, "the file changed");
    newer(&place);
    let before = place.state();
    place.snapshot("migrate_newer", &["migrate", STORE]);
    place.snapshot("stat_newer", &["stat", STORE]);
    assert!(place.state() == before, "the file changed");
}

/// Gives the store a version that this crate does not know.
fn newer(place: &Place) {
    const META: redb::TableDefinition<'_, u64, &[u8]> = redb::TableDefinition::new("reentry/meta");
    let database = super::support::database(&place.store());
    let transaction = database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(META).unwrap();
        let mut row = table.get(0).unwrap().unwrap().value().to_vec();
        row.truncate(row.len() - 4);
        row[0] = 9;
        row.extend_from_slice(&crc32fast::hash(&row).to_le_bytes());
        table.insert(0, row.as_slice()).unwrap();
    }
    transaction.commit().unwrap();
}

#[test]
fn a_reader_that_has_had_enough_ends_it_quietly() {
    let place = Place::new(|store, _| {
        let claims: Vec<_> =
            (0..3_000).map(|nth| store.claim(&key(&nth.to_string()), super::support::request())).collect();
        for claim in claims {
            drop(claim.wait().unwrap());
        }
    });
    for args in [&["ls", STORE][..], &["ls", STORE, "--json"], &["export", STORE]] {
        let mut child = place.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let ended = child.wait_with_output().unwrap();
        assert_eq!((ended.status.code(), ended.stderr.len()), (Some(0), 0), "{args:?}: {ended:?}");
    }
}

/// A script would else take a list that was cut short, or is empty, for all that there is.
#[cfg(target_os = "linux")]
#[test]
fn an_answer_that_cannot_be_written_is_told_and_is_no_success() {
    let place = Place::new(shop);
    for args in [
        &["stat", STORE][..],
        &["ls", STORE],
        &["ls", STORE, "--in-doubt", "--json"],
        &["show", STORE, "checkout/ada", "order-3"],
        &["verify", STORE],
        &["export", STORE],
    ] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let told = place.told(place.command(args).stdout(full).stderr(Stdio::piped()).output().unwrap());
        assert!(told.status == 1 && told.err.contains("No space left on device"), "{args:?}: {told:?}");
    }
}

#[test]
fn a_store_that_a_crash_left_is_looked_at_without_a_change() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let place = Place::new(|_, _| {});
    fs::write(place.store(), fs::read(folder.join("v1-unclean.reentry")).unwrap()).unwrap();
    let before = place.state();
    place.ok(&["verify", STORE]);
    let listed = place.ok(&["ls", STORE]);
    assert!(place.state() == before, "the file changed");
    assert!(listed.lines().count() > 3, "{listed}");
    drop(Store::open(place.store()).unwrap());
}

#[test]
fn what_a_killed_export_left_is_told_by_its_name_and_an_export_replaces_nothing() {
    let place = Place::new(shop);
    fs::write(place.path("monday.jsonl.creating"), "half of it").unwrap();
    let told = place.run(&["export", STORE, "monday.jsonl"]);
    assert!(told.status == 1 && told.err.contains("monday.jsonl.creating is in the way"), "{told:?}");
    assert!(!place.path("monday.jsonl").exists());
    assert_eq!(fs::read_to_string(place.path("monday.jsonl.creating")).unwrap(), "half of it");
    fs::remove_file(place.path("monday.jsonl.creating")).unwrap();
    place.ok(&["export", STORE, "monday.jsonl"]);
    let told = place.run(&["export", STORE, "monday.jsonl"]);
    assert!(told.status == 1 && told.err.contains("exists already"), "{told:?}");
}

#[test]
fn what_is_wrongly_asked_says_what_was_wanted() {
    let place = Place::new(shop);
    let resolve = ["resolve", STORE, "checkout/ada", "order-3", "mail", "--note", "x", "--yes"];
    let told = place.run(&resolve);
    assert!(told.status == 2 && told.err.contains("<--happened <RESULT>|--did-not-happen>"), "{told:?}");
    let told = place.run(&[&resolve[..], &["--happened", "receipt 3"]].concat());
    assert!(told.status == 1 && told.err.contains("cannot read the result from receipt 3: No such file"), "{told:?}");
    let told =
        place.run(&["resolve", STORE, "checkout/ada", "order-3", "", "--did-not-happen", "--note", "x", "--yes"]);
    assert!(told.status == 2 && told.err.contains("step"), "{told:?}");
    assert_eq!(place.run(&["ls", STORE, "--attempts-max", "0"]).status, 2);
    // What is no export is not told as a damaged store.
    let told = place.run(&["import", "new.reentry", STORE]);
    assert!(told.status == 1 && told.err.contains("cannot import orders.reentry: line 1 of the export"), "{told:?}");
    assert!(!told.err.contains("--skip-damaged") && !place.path("new.reentry").exists(), "{told:?}");
    let cut = place.run(&["export", STORE]).out;
    let told = place.run_with(&["import", "new.reentry", "-"], &cut.as_bytes()[..cut.len() - 9]);
    assert!(told.status == 1 && told.err.contains("what came before that was taken in"), "{told:?}");
}
