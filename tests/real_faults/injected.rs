//! System calls on the store's file that fail, once or for ever, in the real process.

use std::path::Path;
use std::process::{Command, Stdio};
use std::{env, fs};

use reentry::{Claim, Fingerprint, Key, Store};

use super::audit::Told;
use super::server::{Process, store_in};
use super::support::until;
use super::{folder, signal};

/// Calls, the errors that fit, and whether they may fail for ever: a call that is interrupted for ever is none.
const FAULTS: [(&str, &[&str], bool); 8] = [
    ("pwrite64", &["EIO", "ENOSPC", "EDQUOT", "EROFS", "ENOMEM", "EFBIG"], true),
    ("fdatasync", &["EIO", "ENOSPC", "EDQUOT", "EROFS"], true),
    ("ftruncate", &["EIO", "ENOSPC", "EDQUOT", "EFBIG", "EROFS"], true),
    ("pread64", &["EIO", "ENOMEM"], true),
    ("openat", &["EMFILE", "ENFILE", "EIO", "EACCES", "ENOMEM", "EROFS"], true),
    ("flock", &["ENOLCK", "EIO"], true),
    ("statx", &["EIO", "ENOMEM"], true),
    ("pwrite64,fdatasync,ftruncate,pread64,openat", &["EINTR"], false),
];

fn strace(path: &Path, calls: &str, error: &str, when: &str) -> Vec<String> {
    let inject = format!("inject={calls}:error={error}:when={when}");
    let path = path.to_str().unwrap();
    let trace = format!("trace={calls}");
    let arguments = ["strace", "-f", "-qqq", "-o", "/dev/null", "-P", path, "-e", &trace, "-e", &inject];
    arguments.map(str::to_owned).to_vec()
}

/// Whether there is a strace that may trace.
fn can_trace() -> bool {
    let command = strace(Path::new("/dev/null"), "pwrite64", "EIO", "60000");
    let traced = Command::new(&command[0]).args(&command[1..]).arg("true").stderr(Stdio::null()).status();
    let can = traced.is_ok_and(|status| status.success());
    if !can {
        println!("skipped: there is no strace, or it may not trace");
    }
    can
}

/// What the server told; nothing that was acknowledged may be lost, and after a fault that is no full disk nothing
/// more may be.
fn faulty(calls: &str, error: &str, when: &str) -> bool {
    let folder = folder();
    let path = store_in(folder.path());
    Store::open(&path).unwrap().close().unwrap();
    let prefix = strace(&path, calls, error, when);
    let mut process = Process::start(folder.path(), 0, 6, 1, &prefix);
    let lines = process.hear_out();
    let status = process.child.wait().unwrap();
    let what = format!("{calls} {error} {when}");
    assert!(status.success(), "{what}: it must not die, but {status}; its own error stands above");
    let failed = |line: &String| ["error Failed", "error OutcomeUnknown"].iter().any(|it| line.starts_with(it));
    let is_full = ["ENOSPC", "EDQUOT", "EFBIG"].contains(&error) && calls != "fdatasync";
    if let (false, Some(at)) = (is_full, lines.iter().position(failed)) {
        let later = lines[at..].iter().find(|line| line.starts_with("paid") || line.starts_with("claimed"));
        assert_eq!(later, None, "P10: {what}: told after {}", lines[at]);
    }
    let mut told = Told::default();
    told.hear(&lines);
    told.audit(folder.path());
    told.finish(folder.path());
    let is_met = lines.iter().any(|line| line.starts_with("error"));
    assert!(!is_met || error != "EINTR", "{what}: {lines:?}");
    // Every order is written and synced: where that fails for ever, it must be told.
    let must_be_met = ["pwrite64", "fdatasync"].contains(&calls) && when.ends_with('+');
    assert!(is_met || !must_be_met, "P10: {what}: nobody told of it: {lines:?}");
    is_met
}

#[test]
fn p2_p10_a_server_whose_calls_are_injected_with_errors_loses_nothing_that_it_told() {
    if !can_trace() {
        return;
    }
    let is_full = env::var_os("REENTRY_INJECT_FULL").is_some();
    let (mut tried, mut met) = (0, 0);
    for (nth, (calls, errors, may_last)) in FAULTS.into_iter().enumerate() {
        for (at, error) in errors.iter().enumerate() {
            let places: Vec<usize> = if is_full { (1..16).collect() } else { vec![1 + (nth + at * 3) % 7] };
            for when in places {
                // By default each is tried in one of the two ways.
                let lasts = may_last && (is_full || (nth + at) % 2 == 0);
                let ways = [(is_full || !lasts).then(|| when.to_string()), lasts.then(|| format!("{when}+"))];
                for when in ways.into_iter().flatten() {
                    tried += 1;
                    met += usize::from(faulty(calls, error, &when));
                }
            }
        }
    }
    println!("{tried} servers with a failing call, {met} of which met it");
    assert!(met > tried / 4, "of {tried} only {met} met their fault");
}

/// What makes a file under another name, and gives it its own.
const MAKES: &str = "trace=link,linkat,fsync,fdatasync,write,pwrite64,ftruncate";

/// Fails where a file got its name before all that was written to it was durable: a power cut would leave it empty.
#[track_caller]
fn was_whole_before_it_had_its_name(trace: &str) {
    let made = trace.lines().take_while(|line| !line.contains(" link")).filter(|line| line.contains(".creating>"));
    let is_sync = |line: &&str| line.contains(" fsync(") || line.contains(" fdatasync(");
    let (syncs, writes): (Vec<_>, Vec<_>) = made.clone().partition(is_sync);
    assert!(!writes.is_empty() && !syncs.is_empty(), "{trace}");
    assert!(made.last().is_some_and(|last| is_sync(&last)), "{trace}");
}

/// A power cut would else take the name of a store away in which orders were acknowledged: also where its maker died
/// before that was durable, and another goes on.
#[test]
fn p2_the_folder_of_a_store_is_synced_after_the_store_has_its_name_and_whenever_it_is_opened() {
    if !can_trace() {
        return;
    }
    let folder = folder();
    let synced = format!("<{}>", folder.path().display());
    let is_synced = |line: &str| line.contains(" fsync(") && line.contains(&synced);
    let trace = || {
        let trace = folder.path().join("trace");
        let calls = ["strace", "-f", "-y", "-qqq", "-o", trace.to_str().unwrap(), "-e", MAKES];
        let mut process = Process::start(folder.path(), 0, 1, 1, &calls.map(str::to_owned));
        process.hear_out();
        assert!(process.child.wait().unwrap().success());
        fs::read_to_string(trace).unwrap()
    };
    let made = trace();
    was_whole_before_it_had_its_name(&made);
    let mut lines = made.lines().skip_while(|line| !line.contains(" link"));
    assert!(lines.next().is_some_and(|line| line.contains(".creating")), "{made}");
    assert!(lines.any(is_synced), "{made}");
    let opened = trace();
    assert!(!opened.contains(" link") && opened.lines().any(is_synced), "{opened}");
}

/// A power cut would else take the name of an export or a copy away that was told to be there.
#[test]
fn p2_the_folder_of_an_export_or_a_copy_is_synced_after_it_has_its_name() {
    if !can_trace() {
        return;
    }
    let folder = folder();
    let (path, trace) = (store_in(folder.path()), folder.path().join("trace"));
    Store::open(&path).unwrap().close().unwrap();
    let synced = format!("<{}>", folder.path().display());
    for to in [folder.path().join("monday.jsonl").to_str().unwrap(), "tuesday.jsonl", "copy.reentry"] {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-y", "-qqq", "-o"]).arg(&trace).args(["-e", MAKES]);
        let command = if to.ends_with("reentry") { "backup" } else { "export" };
        strace.arg(env!("CARGO_BIN_EXE_reentry")).arg(command).arg(&path).arg(to).current_dir(folder.path());
        let done = strace.output().unwrap();
        assert!(done.status.success(), "{done:?}");
        let trace = fs::read_to_string(&trace).unwrap();
        was_whole_before_it_had_its_name(&trace);
        let mut lines = trace.lines().skip_while(|line| !line.contains(" link"));
        assert!(lines.next().is_some_and(|line| line.contains(".creating")), "{trace}");
        assert!(lines.any(|line| line.contains(" fsync(") && line.contains(&synced)), "{trace}");
        // And only then it is told.
        assert!(lines.any(|line| line.contains(" write(1<")), "{trace}");
    }
}

/// A copy would else be told to be whole into which the export goes on writing.
#[test]
fn p10_a_copy_takes_no_file_that_an_export_is_writing() {
    if !can_trace() {
        return;
    }
    let folder = folder();
    let (path, to) = (store_in(folder.path()), folder.path().join("monday"));
    Store::open(&path).unwrap().close().unwrap();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qqq", "-o", "/dev/null", "-e", "trace=link,linkat", "-e"]);
    strace.arg("inject=link,linkat:delay_enter=3000000");
    strace.arg(env!("CARGO_BIN_EXE_reentry")).arg("export").arg(&path).arg(&to);
    let mut late = strace.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let creating = folder.path().join("monday.creating");
    // It has written all of it, and is about to give it its name.
    while fs::metadata(&creating).map_or(0, |made| made.len()) == 0 && late.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    let copied = Command::new(env!("CARGO_BIN_EXE_reentry")).arg("backup").arg(&path).arg(&to).output().unwrap();
    let late = late.wait_with_output().unwrap();
    assert!(copied.status.code() == Some(1) && late.status.success(), "{copied:?}, {late:?}");
    assert!(fs::read_to_string(&to).unwrap().starts_with("{\"reentry_export\":1}\n"));
}

/// Where there are no hard links a file is renamed, which would replace one that somebody made meanwhile.
#[test]
fn an_export_replaces_no_file_that_was_made_meanwhile_where_there_are_no_hard_links_either() {
    if !can_trace() {
        return;
    }
    let folder = folder();
    let (path, to) = (store_in(folder.path()), folder.path().join("monday.jsonl"));
    Store::open(&path).unwrap().close().unwrap();
    let creating = folder.path().join("monday.jsonl.creating");
    let export = |more: &str| {
        let inject = format!("inject=link,linkat:error=EPERM{more}");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qqq", "-o", "/dev/null", "-e", "trace=link,linkat", "-e", &inject]);
        strace.arg(env!("CARGO_BIN_EXE_reentry")).arg("export").arg(&path).arg(&to);
        strace.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    // The call comes back so late that a file can be made before it fails.
    let mut late = export(":delay_exit=3000000");
    while !creating.exists() && late.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    fs::write(&to, "somebody's own").unwrap();
    let late = late.wait_with_output().unwrap();
    assert_eq!(late.status.code(), Some(1), "{late:?}");
    assert_eq!(fs::read_to_string(&to).unwrap(), "somebody's own");
    assert!(!creating.exists());
    fs::remove_file(&to).unwrap();
    let done = export("").wait_with_output().unwrap();
    assert!(done.status.success(), "{done:?}");
    assert!(fs::read_to_string(&to).unwrap().starts_with("{\"reentry_export\":1}\n") && !creating.exists());
}

/// The process is stopped as it has written all of its copy, and goes on when the other file is there.
#[test]
fn a_copy_replaces_no_file_that_was_made_meanwhile_where_there_are_no_hard_links_either() {
    if !can_trace() {
        return;
    }
    let folder = folder();
    let [to, creating, trace] = ["monday", "monday.creating", "trace"].map(|name| folder.path().join(name));
    let path = store_in(folder.path());
    Store::open(&path).unwrap().close().unwrap();
    let backup = |stop: &[&str]| {
        let mut strace = Command::new("strace");
        // Its tracer stands aside: the child is the tool itself.
        strace.args(["-D", "-f", "-qqq", "-o"]).arg(&trace).args(["-e", "trace=link,linkat,fsync"]);
        strace.args(["-e", "inject=link,linkat:error=EPERM"]).args(stop);
        strace.arg(env!("CARGO_BIN_EXE_reentry")).arg("backup").arg(&path).arg(&to);
        strace.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let late = backup(&["-e", "inject=fsync:signal=STOP:when=1"]);
    until("it is stopped", || fs::read_to_string(&trace).is_ok_and(|told| told.contains("stopped by SIGSTOP")));
    fs::write(&to, "somebody's own").unwrap();
    signal(&late, "CONT");
    let late = late.wait_with_output().unwrap();
    assert_eq!(late.status.code(), Some(1), "{late:?}");
    assert_eq!(fs::read_to_string(&to).unwrap(), "somebody's own");
    assert!(!creating.exists());
    fs::remove_file(&to).unwrap();
    let done = backup(&[]).wait_with_output().unwrap();
    assert!(done.status.success() && !creating.exists(), "{done:?}");
    Store::open(&to).unwrap().verify().unwrap();
}

/// A power cut after it would else leave pages half moved.
#[test]
fn p2_what_compacting_moves_is_synced_before_it_is_told() {
    if !can_trace() {
        return;
    }
    let folder = folder();
    let (path, trace) = (store_in(folder.path()), folder.path().join("trace"));
    let store = Store::open(&path).unwrap();
    let keys: Vec<_> = (0..40).map(|nth| Key::new("orders", nth.to_string()).unwrap()).collect();
    for key in &keys {
        let Claim::Run(run) = store.claim(key, Fingerprint::of("order")).wait().unwrap() else { panic!() };
        run.complete(&vec![7_u8; 100_000]).wait().unwrap();
    }
    // The first are left at the end of the file.
    for key in &keys[..39] {
        assert!(store.forget(key).wait().unwrap());
    }
    store.close().unwrap();
    let before = fs::metadata(&path).unwrap().len();
    let calls = "trace=pwrite64,ftruncate,fdatasync";
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qqq", "-o"]).arg(&trace).args(["-e", calls, "-P"]).arg(&path);
    let done = strace.arg(env!("CARGO_BIN_EXE_reentry")).arg("compact").arg(&path).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    assert!(fs::metadata(&path).unwrap().len() < before / 2, "nothing was moved");
    let trace = fs::read_to_string(trace).unwrap();
    let last = |call: &str| trace.rfind(call);
    assert!(last("ftruncate(").is_some() && last("pwrite64(").is_some(), "{trace}");
    assert!(last("fdatasync(") > last("pwrite64(").max(last("ftruncate(")), "{trace}");
    let synced = trace.lines().filter(|line| line.contains("fdatasync(")).count();
    assert!(synced >= 4, "not after each of redb's commits: {trace}");
}
