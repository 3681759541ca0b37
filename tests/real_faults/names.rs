//! The file taken away or changed under an open store, by whoever may do so.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

use reentry::{Claim, ErrorKind, Store};

use super::folder;
use super::support::{PATIENCE, key, request, run};

/// Something that is done to a store's file, and its name.
type Way = (&'static str, fn(&Path));

/// Does it under an open store: nothing may be acknowledged after that.
fn is_told_before_the_next_acknowledgement(what: &str, take_away: fn(&Path)) {
    let folder = folder();
    let inner = folder.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let path = inner.join("orders.reentry");
    let store = Store::open(&path).unwrap();
    run(&store, &key("done")).complete(&"receipt".to_owned()).wait().unwrap();
    let mut owner = run(&store, &key("owned"));
    take_away(&path);
    let kinds = [
        owner.advance("paid", &()).wait_for(PATIENCE).unwrap_err().kind(),
        store.claim(&key("new"), request()).wait_for(PATIENCE).unwrap_err().kind(),
        owner.complete(&()).wait_for(PATIENCE).unwrap_err().kind(),
    ];
    assert_eq!(kinds, [ErrorKind::OutcomeUnknown, ErrorKind::Failed, ErrorKind::Failed], "{what}");
    drop(store.close());
}

fn aside(path: &Path) -> std::path::PathBuf {
    let aside = path.with_extension("aside");
    fs::rename(path, &aside).unwrap();
    aside
}

#[test]
fn p10_nothing_is_acknowledged_into_a_file_that_its_name_no_longer_leads_to() {
    let ways: [Way; 9] = [
        ("removed", |path| fs::remove_file(path).unwrap()),
        ("renamed", |path| drop(aside(path))),
        ("replaced by a copy", |path| {
            fs::copy(aside(path), path).unwrap();
        }),
        ("behind a symbolic link", |path| symlink(aside(path), path).unwrap()),
        ("a folder in its place", |path| {
            aside(path);
            fs::create_dir(path).unwrap();
        }),
        ("a socket in its place", |path| {
            aside(path);
            drop(UnixListener::bind(path).unwrap());
        }),
        ("a pipe in its place", |path| {
            aside(path);
            assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
        }),
        ("its folder removed", |path| fs::remove_dir_all(path.parent().unwrap()).unwrap()),
        ("its folder renamed", |path| drop(aside(path.parent().unwrap()))),
    ];
    for (what, take_away) in ways {
        is_told_before_the_next_acknowledgement(what, take_away);
    }
}

/// In many a container nobody tells what an open file is called: an empty folder over `/proc`, in a mount namespace of
/// its own. Then the store looks at what its name leads to.
#[test]
fn p10_where_the_system_does_not_tell_an_open_files_name_the_name_itself_is_looked_at() {
    let script = "mount -t tmpfs none /proc && test ! -e /proc/self && echo covered && exec \"$0\" --exact \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", script]).arg(env::current_exe().unwrap()).args([
        "names::p10_nothing_is_acknowledged_into_a_file_that_its_name_no_longer_leads_to",
        "names::p10_a_store_goes_on_where_its_name_still_leads_to_it",
    ]);
    let told = match command.output() {
        Ok(output) if output.stdout.starts_with(b"covered") => output,
        _ => return println!("skipped: nothing may be mounted here"),
    };
    let text = String::from_utf8_lossy(&told.stdout);
    assert!(told.status.success() && text.contains("2 passed"), "{text}");
}

/// A deployment turns a link that stands in the path, to a folder with a copy of the file or with none.
#[test]
fn p10_nothing_is_acknowledged_into_a_file_whose_folder_is_reached_by_a_link_that_was_turned() {
    for is_turned in [false, true] {
        for has_copy in [false, true] {
            let folder = folder();
            let [one, two, current] = ["one", "two", "current"].map(|name| folder.path().join(name));
            fs::create_dir(&one).unwrap();
            fs::create_dir(&two).unwrap();
            symlink(&one, &current).unwrap();
            let store = Store::open(current.join("orders.reentry")).unwrap();
            let mut owner = run(&store, &key("owned"));
            if has_copy {
                fs::copy(one.join("orders.reentry"), two.join("orders.reentry")).unwrap();
            }
            if is_turned {
                fs::remove_file(&current).unwrap();
                symlink(&two, &current).unwrap();
            }
            let advanced = owner.advance("paid", &()).wait_for(PATIENCE).map(drop).map_err(|error| error.kind());
            let expected = if is_turned { Err(ErrorKind::OutcomeUnknown) } else { Ok(()) };
            assert_eq!(advanced, expected, "a copy is there: {has_copy}");
            drop(owner);
            drop(store.close());
        }
    }
}

#[test]
fn p10_a_store_goes_on_where_its_name_still_leads_to_it() {
    let ways: [Way; 3] = [
        ("another name", |path| fs::hard_link(path, path.with_extension("other")).unwrap()),
        ("nobody may read it", |path| fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap()),
        ("renamed and back", |path| fs::rename(aside(path), path).unwrap()),
    ];
    for (what, change) in ways {
        let folder = folder();
        let path = folder.path().join("orders.reentry");
        let store = Store::open(&path).unwrap();
        let owner = run(&store, &key("owned"));
        change(&path);
        owner.complete(&"receipt".to_owned()).wait().unwrap_or_else(|error| panic!("{what}: {error}"));
        store.close().unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let store = Store::open(&path).unwrap();
        let claim = store.claim(&key("owned"), request()).wait().unwrap();
        assert!(matches!(claim, Claim::Replay(_)), "{what}: {claim:?}");
        store.verify().unwrap();
    }
}

/// A child of a server with an open store has no door to it: the descriptor is closed when its program begins.
#[test]
fn p1_a_child_process_inherits_no_descriptor_of_the_store() {
    let folder = folder();
    let path = folder.path().join("orders.reentry");
    let store = Store::open(&path).unwrap();
    let held = Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap();
    assert!(held.status.success());
    assert!(!String::from_utf8_lossy(&held.stdout).contains("orders.reentry"), "the child holds the store open");
    let own = format!("/proc/{}/fd", std::process::id());
    let own = Command::new("ls").args(["-l", &own]).output().unwrap();
    assert!(String::from_utf8_lossy(&own.stdout).contains("orders.reentry"), "it would have been seen");
    store.verify().unwrap();
}

#[test]
fn what_is_no_regular_file_is_no_store_and_is_not_waited_for() {
    let folder = folder();
    let path = folder.path().join("orders.reentry");
    let plants: [fn(&Path); 3] = [
        |path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success()),
        |path| drop(UnixListener::bind(path).unwrap()),
        |path| fs::create_dir(path).unwrap(),
    ];
    let creating = folder.path().join("orders.reentry.creating");
    for plant in plants {
        for place in [&path, &creating] {
            plant(place);
            assert_eq!(Store::open(&path).unwrap_err().kind(), ErrorKind::NotAStore);
            drop(fs::remove_file(place).or_else(|_| fs::remove_dir(place)));
        }
    }
    assert_eq!(Store::open("/dev/null").unwrap_err().kind(), ErrorKind::NotAStore);
    Store::open(&path).unwrap().verify().unwrap();
}
