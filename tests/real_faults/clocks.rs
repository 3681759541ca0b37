//! The system's own clock under a real process: turned ten years both ways, at work and between two starts, and going
//! on while the whole process stands still.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};
use std::{env, fs};

use reentry::{Claim, Run, Store};

use super::server::{Process, store_in, tell};
use super::support::{key, request};
use super::{folder, signal};

const PLACE: &str = "REENTRY_CLOCKS_PLACE";

const LEASE: Duration = Duration::from_secs(1);
const RETENTION: Duration = Duration::from_secs(3_600);

const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// Does what it is asked, a line each: `claim`, and `complete` with the attempt that does it.
#[test]
fn the_process_that_is_asked() {
    let Ok(place) = env::var(PLACE) else { return };
    let store = Store::builder().lease(LEASE).retention(RETENTION).open(store_in(Path::new(&place))).unwrap();
    let mut runs: BTreeMap<u32, Run> = BTreeMap::new();
    for line in io::stdin().lock().lines() {
        let line = line.unwrap();
        let told = match line.strip_prefix("complete ").map(|attempt| attempt.parse().unwrap()) {
            Some(attempt) => match runs.remove(&attempt).unwrap().complete(&attempt.to_string()).wait() {
                Ok(outcome) => format!("ended {}", outcome.decode::<String>().unwrap()),
                Err(error) => format!("refused {:?}", error.kind()),
            },
            None => match store.claim(&key("order"), request()).wait().unwrap() {
                Claim::Run(run) => {
                    let attempt = run.attempt();
                    runs.insert(attempt, run);
                    format!("run {attempt}")
                }
                Claim::Replay(outcome) => format!("replayed {}", outcome.decode::<String>().unwrap()),
                other => format!("{other:?}"),
            },
        };
        tell(&format!("{} at {}", told, seconds(SystemTime::now())));
    }
    store.verify().unwrap();
    drop(runs);
    store.close().unwrap();
    tell("closed");
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// The process, with this in its environment.
fn asked(place: &Path, environment: &[(&str, &str)]) -> Process {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "clocks::the_process_that_is_asked", "--nocapture", "--test-threads=1"]);
    command.env(PLACE, place).envs(environment.iter().copied());
    Process::of(command.stdin(Stdio::piped()))
}

/// What it answers, and how far its clock is from this process's, forward or back.
fn ask(process: &mut Process, what: &str) -> (String, i64) {
    writeln!(process.child.stdin.as_mut().unwrap(), "{what}").unwrap();
    let line = process.hear_first("");
    let (told, at) = line.split_once(" at ").unwrap();
    let at = i64::try_from(at.parse::<u64>().unwrap()).unwrap();
    (told.to_owned(), at - i64::try_from(seconds(SystemTime::now())).unwrap())
}

fn end(mut process: Process) {
    drop(process.child.stdin.take());
    assert_eq!(process.hear_out(), ["closed"]);
    assert!(process.child.wait().unwrap().success());
}

#[test]
fn p7_an_owner_whose_whole_process_stood_still_past_its_lease_is_fenced() {
    let folder = folder();
    let mut process = asked(folder.path(), &[]);
    assert_eq!(ask(&mut process, "claim").0, "run 1");
    signal(&process.child, "STOP");
    assert!(process.hear_for(LEASE + LEASE / 2).is_empty());
    signal(&process.child, "CONT");
    assert_eq!(ask(&mut process, "claim").0, "run 2");
    assert_eq!(ask(&mut process, "complete 1").0, "refused Fenced");
    assert_eq!(ask(&mut process, "complete 2").0, "ended 2");
    assert_eq!(ask(&mut process, "claim").0, "replayed 2");
    end(process);
}

/// Where libfaketime is; none where it is not there.
fn library() -> Option<String> {
    let output = Command::new("faketime").args(["-f", "+0", "printenv", "LD_PRELOAD"]).output().ok()?;
    let library = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    (output.status.success() && !library.is_empty()).then_some(library)
}

#[test]
fn p5_p11_a_system_clock_that_is_turned_ends_no_outcome_early_and_revives_none() {
    let Some(library) = library() else { return println!("skipped: there is no faketime") };
    let folder = folder();
    let told = folder.path().join("clock");
    let turn = |by: &str| fs::write(&told, by).unwrap();
    let environment = [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME_TIMESTAMP_FILE", told.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let ten_years = i64::try_from((10 * YEAR).as_secs()).unwrap();
    let is_near = |off: i64, years: i64| (off - years * ten_years / 10).abs() < ten_years / 100;
    turn("+0");
    let mut process = asked(folder.path(), &environment);
    assert_eq!(ask(&mut process, "claim").0, "run 1");
    assert_eq!(ask(&mut process, "complete 1").0, "ended 1");
    // At work what passes by the monotonic clock is all that passes.
    for (by, years) in [("+10y", 10), ("-10y", -10), ("+0", 0)] {
        turn(by);
        let (answer, off) = ask(&mut process, "claim");
        assert_eq!(answer, "replayed 1", "{by}");
        assert!(is_near(off, years), "{by}: it is off by {off} s");
    }
    end(process);
    // At a start a clock that is behind is not believed, and one that is ahead is.
    for (by, years, expected) in [("-10y", -10, "replayed 1"), ("+10y", 10, "run 1"), ("+0", 0, "run 2")] {
        turn(by);
        let mut process = asked(folder.path(), &environment);
        let (answer, off) = ask(&mut process, "claim");
        assert_eq!(answer, expected, "{by}");
        assert!(is_near(off, years), "{by}: it is off by {off} s");
        end(process);
    }
}
