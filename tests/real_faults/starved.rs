//! What a process may lack: memory, a thread.

use std::env;
use std::path::Path;
use std::process::{Command, Output};

use reentry::{ErrorKind, Store};

use super::audit::Told;
use super::server::{Process, store_in};
use super::support::{key, run};
use super::{folder, seed};

/// Where the child that lacks a thread finds its store.
const PLACE: &str = "REENTRY_STARVED_PLACE";

/// Address space that the server has, in KiB: from too little to begin with to enough.
const ROOM: [usize; 24] = [
    12_000, 16_000, 20_000, 24_000, 28_000, 32_000, 36_000, 40_000, 44_000, 48_000, 56_000, 64_000, 72_000, 80_000,
    96_000, 112_000, 128_000, 160_000, 192_000, 256_000, 320_000, 384_000, 448_000, 512_000,
];

/// A process that gets no memory ends, as Rust does; that must be as good as a kill.
#[test]
fn p2_p4_p10_a_server_that_runs_out_of_memory_loses_nothing_that_it_told() {
    let all = env::var_os("REENTRY_STARVED_FULL").is_some();
    let (folder, mut told) = (folder(), Told::default());
    let (mut ended, mut lived) = (0, 0);
    let first = usize::try_from(seed()).unwrap() % 4;
    for (round, room) in ROOM.into_iter().enumerate().skip(if all { 0 } else { first }).step_by(if all { 1 } else { 4 })
    {
        let limit = ["sh", "-c", &format!("ulimit -v {room}; exec \"$0\" \"$@\"")].map(str::to_owned);
        let mut process = Process::start(folder.path(), round, 40, 8, &limit);
        let lines = process.hear_out();
        if process.child.wait().unwrap().success() && lines.iter().any(|line| line == "ended") {
            lived += 1;
        } else {
            ended += 1;
        }
        told.hear(&lines);
        if store_in(folder.path()).exists() {
            told.audit(folder.path());
        }
    }
    told.finish(folder.path());
    println!("{ended} servers ended for want of memory, {lived} did not");
    assert!(ended > 0 && lived > 0, "{ended} ended, {lived} lived");
}

/// No thread has a stack so large, so none can be had.
fn without_threads(place: &Path) -> Output {
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["--exact", "starved::the_process_without_threads", "--nocapture", "--test-threads=1"]);
    child.env("RUST_MIN_STACK", (1_u64 << 46).to_string()).env(PLACE, place).output().unwrap()
}

#[test]
fn the_process_without_threads() {
    let Ok(place) = env::var(PLACE) else { return };
    let path = store_in(Path::new(&place));
    for _ in 0..2 {
        // The second time the first must have let go of the file.
        let refused = Store::open(&path).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Io, "{refused}");
        println!("refused: {refused}");
    }
}

#[test]
fn p10_a_store_for_whose_writer_there_is_no_thread_is_refused_and_loses_nothing() {
    let folder = folder();
    for is_there in [false, true] {
        let output = without_threads(folder.path());
        let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && told.contains("refused: "), "{told}");
        let store = Store::open(store_in(folder.path())).unwrap();
        let order = key("order");
        assert_eq!(store.progress(&order).unwrap().is_some(), is_there);
        drop(run(&store, &order));
        store.close().unwrap();
    }
}
