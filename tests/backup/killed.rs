//! `kill -9` in the midst of copying: a copy that has its name is whole, the original is as it was, and what is left of
//! a copy is in nobody's way.

use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, io, thread};

use reentry::Store;
use tempfile::tempdir;

use crate::chain::{Chain, moves_of};
use crate::names;
use crate::support::{key, next_told, run};

const FOLDER: &str = "REENTRY_BACKUP_FOLDER";

/// What every line of the killed process begins with; the test harness writes lines of its own.
const TOLD: &str = "told: ";

/// After which line the process of each round is killed.
const LINES: [usize; 8] = [30, 3, 77, 150, 8, 210, 41, 120];

fn tell(line: &str) {
    let mut output = io::stdout().lock();
    output.write_all(format!("{TOLD}{line}\n").as_bytes()).unwrap();
    output.flush().unwrap();
}

#[test]
fn the_process_that_copies_and_is_killed() {
    let Ok(folder) = env::var(FOLDER) else { return };
    let folder = PathBuf::from(folder);
    let store = Store::open(folder.join("orders.reentry")).unwrap();
    let round = names(&folder).len();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut chain = Chain::new(&store, &format!("chain {round}"));
            loop {
                chain.go_on();
            }
        });
        for nth in 0.. {
            run(&store, &key(&format!("{round} {nth}"))).complete(&"o".repeat(20_000)).wait().unwrap();
            let copy = folder.join(format!("copy-{round}-{nth}.reentry"));
            let told = |share| {
                tell(&format!("copying {share}"));
                std::ops::ControlFlow::Continue(())
            };
            store.backup_with(copy, told).unwrap();
            tell("made");
        }
    });
}

fn kill_after(folder: &Path, lines: usize) {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "killed::the_process_that_copies_and_is_killed", "--nocapture"]).env(FOLDER, folder);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    for _ in 0..lines {
        next_told(&mut output, TOLD).expect("it ended by itself; its own error stands above");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn p2_a_copy_that_has_its_name_is_whole_whenever_the_process_is_killed() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("orders.reentry");
    let (mut whole, mut left_over) = (0, 0);
    for lines in LINES {
        kill_after(folder.path(), lines);
        for name in names(folder.path()) {
            let at = folder.path().join(&name);
            if let Some(name) = name.strip_suffix(".creating") {
                left_over += 1;
                // The next copy of this name is made all the same.
                let store = Store::open(&path).unwrap();
                store.backup(folder.path().join(name)).unwrap();
            } else {
                let store = Store::open(&at).unwrap();
                store.verify().unwrap();
                (0..100).for_each(|round| _ = moves_of(&store, &format!("chain {round}")));
                whole += usize::from(at != path);
            }
        }
    }
    assert!(whole > 3 && left_over > 3, "{whole} whole, {left_over} left over");
}
