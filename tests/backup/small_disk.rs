//! A copy to a disk that is really full: a tmpfs in a mount namespace of its own, so that nothing stays mounted.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use reentry::{ErrorKind, Store};
use tempfile::tempdir;

use crate::names;
use crate::support::{key, kind, run};

const DISK: &str = "REENTRY_BACKUP_SMALL_DISK";

#[test]
fn p10_a_copy_to_a_full_disk_leaves_nothing_there_and_the_store_goes_on() {
    let folder = tempdir().unwrap();
    let script = "mount -t tmpfs -o size=2m none \"$1\" && \
                  exec \"$0\" --exact small_disk::what_is_copied_to_a_small_disk --nocapture";
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", script]).arg(env::current_exe().unwrap()).arg(folder.path());
    let output = match command.env(DISK, folder.path()).output() {
        Ok(output) if String::from_utf8_lossy(&output.stdout).contains("on a small disk") => output,
        _ => return println!("skipped: nothing may be mounted here"),
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_is_copied_to_a_small_disk() {
    let Some(disk) = env::var_os(DISK) else { return };
    println!("on a small disk");
    copy_to(&PathBuf::from(disk));
}

fn copy_to(disk: &Path) {
    let store = Store::builder().in_memory().unwrap();
    let fill = |nth: usize| run(&store, &key(&nth.to_string())).complete(&"o".repeat(20_000)).wait().unwrap();
    (0..10).for_each(|nth| drop(fill(nth)));
    store.backup(disk.join("fits.reentry")).unwrap();
    fs::remove_file(disk.join("fits.reentry")).unwrap();
    (10..100).for_each(|nth| drop(fill(nth)));
    assert_eq!(kind(store.backup(disk.join("too large.reentry"))), ErrorKind::Full);
    assert_eq!(names(disk), [""; 0]);
    fill(100);
    store.verify().unwrap();
}
