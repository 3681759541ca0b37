//! Tries each mutant on the tests that come to its place.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use wait_timeout::ChildExt;

use crate::weave::Mutant;

/// How long a test may take that is tried on mutants at all.
const TEST_MAX: Duration = Duration::from_secs(10);

/// How long one mutant is tried at most.
const MUTANT_MAX: Duration = Duration::from_secs(60);

/// A test takes so much longer at most: a loop that never ends is a mutant that is noticed.
const SLOWER_MAX: u32 = 5;
const SLACK: Duration = Duration::from_secs(10);

/// How long a command is waited for at once.
const SLICE: Duration = Duration::from_millis(500);

/// How many of the tests that failed last are tried first.
const RECENT: usize = 4;

/// What a thread of this program takes its work from.
type Work<'w, T> = Mutex<Box<dyn Iterator<Item = T> + Send + 'w>>;

pub type Fault = Box<dyn Error + Send + Sync>;

#[derive(Debug, Clone)]
struct Test {
    name: String,
    executable: PathBuf,
    took: Duration,
    reached: BTreeSet<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Passed,
    Failed,
    Hung,
}

/// Tries all of these. What became of each stands in `mutants.txt`, line by line; what stands there is not tried again.
pub fn run(copy: &Path, mutants: &[&Mutant], executables: &[(String, PathBuf)]) -> Result<(), Fault> {
    let tests = tests(copy, executables)?;
    println!("{} tests, {:.0?} in all", tests.len(), tests.iter().map(|test| test.took).sum::<Duration>());
    let told = copy.join("mutants.txt");
    let known = fs::read_to_string(&told).unwrap_or_default();
    let known: BTreeSet<usize> = known.lines().filter_map(|line| line.split('\t').nth(1)?.parse().ok()).collect();
    let told = Mutex::new(OpenOptions::new().create(true).append(true).open(told)?);
    let mut left: Vec<&Mutant> = mutants.iter().copied().filter(|mutant| !known.contains(&mutant.id)).collect();
    // In an order of chance, the same in every run: what is done of a run that is broken off is a sample of all.
    left.sort_by_key(|mutant| (mutant.id as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let left: Work<'_, &Mutant> = Mutex::new(Box::new(left.into_iter()));
    let figures = Mutex::new(BTreeMap::new());
    by_all(|_| {
        let mut recent = VecDeque::new();
        while let Some(mutant) = next(&left) {
            let (word, line) = became(copy, mutant, &tests, &mut recent)?;
            *locked(&figures).entry(word).or_insert(0) += 1;
            writeln!(locked::<File>(&told), "{line}")?;
        }
        Ok(())
    })?;
    println!("{:?}", locked(&figures));
    Ok(())
}

/// Does this on every thread there is use for, each with its number.
fn by_all(work: impl Fn(usize) -> Result<(), Fault> + Sync) -> Result<(), Fault> {
    let threads = std::env::var("MUTANTS_THREADS").ok().and_then(|threads| threads.parse().ok());
    let threads = threads.or_else(|| thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
    let work = &work;
    thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|nth| scope.spawn(move || work(nth))).collect();
        all.into_iter().try_for_each(|one| one.join().map_err(|_| Fault::from("a thread panicked"))?)
    })
}

fn locked<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn next<T>(work: &Work<'_, T>) -> Option<T> {
    locked(work).next()
}

/// What becomes of a mutant, in a word and in a line.
fn became(
    copy: &Path,
    mutant: &Mutant,
    tests: &[Test],
    recent: &mut VecDeque<usize>,
) -> Result<(&'static str, String), Fault> {
    let mut order: Vec<usize> = (0..tests.len()).filter(|nth| tests[*nth].reached.contains(&mutant.id)).collect();
    order.sort_by_key(|nth| (recent.iter().position(|known| known == nth).unwrap_or(RECENT), tests[*nth].took));
    let (mut tried, mut spent, mut found) = (0, Duration::ZERO, None);
    for nth in &order {
        if spent > MUTANT_MAX {
            break;
        }
        let (end, took) = one(copy, &tests[*nth], Some(mutant.id), None)?;
        (tried, spent) = (tried + 1, spent + took);
        if end != End::Passed {
            found = Some((*nth, end));
            break;
        }
    }
    let (word, by) = match found {
        Some((nth, end)) => {
            recent.retain(|known| *known != nth);
            recent.push_front(nth);
            recent.truncate(RECENT);
            (if end == End::Hung { "hung" } else { "caught" }, tests[nth].name.clone())
        }
        None if order.is_empty() => ("unreached", String::new()),
        None => ("missed", format!("{tried} of {} tests", order.len())),
    };
    Ok((word, format!("{word}\t{}\t{}\t{by}\t{spent:.1?}", mutant.id, mutant.name)))
}

/// Every test that passes in time, with what it comes to.
fn tests(copy: &Path, executables: &[(String, PathBuf)]) -> Result<Vec<Test>, Fault> {
    let mut listed = Vec::new();
    for (target, executable) in executables {
        let output = Command::new(executable).args(["--list", "--format", "terse"]).current_dir(copy).output()?;
        for name in String::from_utf8(output.stdout)?.lines().filter_map(|line| line.strip_suffix(": test")) {
            let (name, executable) = (format!("{target}::{name}"), executable.clone());
            listed.push(Test { name, executable, took: TEST_MAX, reached: BTreeSet::new() });
        }
    }
    let left: Work<'_, Test> = Mutex::new(Box::new(listed.into_iter()));
    let tests = Mutex::new(Vec::new());
    by_all(|nth| {
        let reached = copy.join(format!("reached-{nth}.txt"));
        while let Some(mut test) = next(&left) {
            drop(fs::remove_file(&reached));
            let (end, took) = one(copy, &test, None, Some(&reached))?;
            if end != End::Passed || took > TEST_MAX {
                println!("left out: {} {end:?} after {took:.0?}", test.name);
                continue;
            }
            let seen = fs::read_to_string(&reached).unwrap_or_default();
            (test.took, test.reached) = (took, seen.lines().filter_map(|line| line.parse().ok()).collect());
            locked(&tests).push(test);
        }
        Ok(())
    })?;
    Ok(tests.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

/// Runs one test, and tells how it ended and how long it took.
fn one(copy: &Path, test: &Test, mutant: Option<usize>, reached: Option<&Path>) -> Result<(End, Duration), Fault> {
    let (_, name) = test.name.split_once("::").ok_or("a test has no target")?;
    let mut command = Command::new(&test.executable);
    command.args(["--exact", name]).current_dir(copy).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    if let Some(mutant) = mutant {
        command.env("REENTRY_MUTANT", mutant.to_string());
    }
    if let Some(reached) = reached {
        command.env("REENTRY_REACHED", reached);
    }
    let most = if mutant.is_some() { test.took * SLOWER_MAX + SLACK } else { TEST_MAX };
    ended_within(command, most)
}

/// Runs a command, and ends it where it takes longer. Time is counted slice by slice, so that of a pause of the whole
/// machine one slice counts at most.
fn ended_within(mut command: Command, most: Duration) -> Result<(End, Duration), Fault> {
    let mut child = command.process_group(0).spawn()?;
    let mut took = Duration::ZERO;
    while took <= most {
        let begun = Instant::now();
        let ended = child.wait_timeout(SLICE)?;
        took += begun.elapsed().min(SLICE);
        if let Some(status) = ended {
            return Ok((if status.success() { End::Passed } else { End::Failed }, took));
        }
    }
    // What it has started goes with it.
    Command::new("kill").args(["-KILL", "--", &format!("-{}", child.id())]).status()?;
    child.wait()?;
    Ok((End::Hung, took))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_command_passes_fails_or_hangs_and_is_ended_with_what_it_started() {
        let ended = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            ended_within(command, SLICE).unwrap()
        };
        assert_eq!(ended("exit 0").0, End::Passed);
        assert_eq!(ended("exit 7").0, End::Failed);
        let (end, took) = ended("sleep 0.2");
        assert!(end == End::Passed && (Duration::from_millis(100)..SLICE * 2).contains(&took), "{end:?} {took:?}");
        let (mut said, says) = std::io::pipe().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "(sleep 60; echo went on) & wait"]).stdout(says);
        let (end, took) = ended_within(command, SLICE).unwrap();
        assert!(end == End::Hung && took > SLICE && took <= SLICE * 2, "{end:?} {took:?}");
        // The pipe ends when nobody has it any more.
        let mut last = String::new();
        said.read_to_string(&mut last).unwrap();
        assert_eq!(last, "", "what it started went on");
    }
}
