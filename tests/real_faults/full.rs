//! A small disk that is really full: a tmpfs in a mount namespace of its own, so that nothing stays mounted.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use std::{env, fs, thread};

use reentry::{Claim, ErrorKind, Result, Store};

use super::folder;
use super::support::{PATIENCE, key, request, run};

const DISK: &str = "REENTRY_FAULTS_SMALL_DISK";

/// Of the small disk, and of what is filled before the store begins.
const DISK_BYTES: usize = 5 * 1024 * 1024;

#[test]
fn p10_a_server_whose_small_disk_is_full_refuses_replays_and_goes_on() {
    let folder = folder();
    let script =
        "mount -t tmpfs -o size=5m none \"$1\" && exec \"$0\" --exact full::the_server_on_a_small_disk --nocapture";
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", script]).arg(env::current_exe().unwrap()).arg(folder.path());
    let output = match command.env(DISK, folder.path()).output() {
        Ok(output) if String::from_utf8_lossy(&output.stdout).contains("on a small disk") => output,
        _ => return println!("skipped: nothing may be mounted here"),
    };
    let (told, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{told}");
    assert!(output.status.success(), "{error}");
}

#[test]
fn the_server_on_a_small_disk() {
    let Some(disk) = env::var_os(DISK) else { return };
    let disk = PathBuf::from(disk);
    println!("on a small disk");
    let sizes = if env::var_os("REENTRY_SMALL_DISK_FULL").is_some() { 400 } else { 6 };
    for room in (0..sizes).map(|nth| 1312 * 1024 + (nth * 37 % 800) * 4 * 1024) {
        with_room_for(&disk, room);
    }
}

fn with_room_for(disk: &Path, room: usize) {
    let (path, ballast) = (disk.join("orders.reentry"), disk.join("ballast"));
    let store = Store::open(&path).unwrap();
    run(&store, &key("done")).complete(&"receipt".to_owned()).wait().unwrap();
    fs::write(&ballast, vec![1; DISK_BYTES - room]).unwrap();
    let mut taken = Vec::new();
    let refusal = (0..10_000).find_map(|nth| fill(&store, nth).map(|()| taken.push(nth)).err()).unwrap();
    assert!([ErrorKind::Full, ErrorKind::OutcomeUnknown].contains(&refusal.kind()), "{room}: {refusal}");
    is_replayed(&store, "done");
    fs::remove_file(&ballast).unwrap();
    let began = Instant::now();
    while let Err(error) = fill(&store, 20_000) {
        assert!([ErrorKind::Full, ErrorKind::OutcomeUnknown].contains(&error.kind()), "{room}: {error}");
        assert!(began.elapsed() < PATIENCE, "{room}: it never mended itself");
        thread::yield_now();
    }
    store.verify().unwrap();
    store.close().unwrap();
    let store = Store::open(&path).unwrap();
    for nth in taken.into_iter().chain([20_000]) {
        is_replayed(&store, &format!("filling {nth}"));
    }
    is_replayed(&store, "done");
    store.verify().unwrap();
    store.close().unwrap();
    fs::remove_file(&path).unwrap();
}

fn fill(store: &Store, nth: usize) -> Result<()> {
    match store.claim(&key(&format!("filling {nth}")), request()).wait_for(PATIENCE)? {
        Claim::Run(run) => run.complete(&vec![7_u8; 9_000]).wait_for(PATIENCE).map(drop),
        Claim::Replay(_) => Ok(()),
        other => panic!("nobody else runs it, but there is {other:?}"),
    }
}

fn is_replayed(store: &Store, name: &str) {
    let began = Instant::now();
    loop {
        match store.claim(&key(name), request()).wait_for(PATIENCE) {
            Ok(Claim::Replay(_)) => return,
            // It is being opened anew in this moment.
            Err(error) if error.kind() == ErrorKind::Full && began.elapsed() < PATIENCE => thread::yield_now(),
            other => panic!("{name} must be replayed, but there is {other:?}"),
        }
    }
}
