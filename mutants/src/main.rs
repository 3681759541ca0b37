//! Tries every mutant of a copy of the tree: `reentry-mutants COPY LIST TARGETS..`, as `run.sh` calls it.
//!
//! cargo-mutants builds and tests one mutant at a time. Here all of them are in one build, so that a run takes the time
//! of its tests; and each mutant is given only the tests that come to its place, the fastest first, until one fails.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use serde_json::Value;

mod trial;
mod weave;

use trial::Fault;
use weave::Mutant;

/// What is asked at each mutant's place.
const ASKED: &str = r#"//! Which mutant is tried.
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

static ASKED: OnceLock<(usize, Option<std::ffi::OsString>)> = OnceLock::new();
static SEEN: [AtomicBool; MUTANTS] = [const { AtomicBool::new(false) }; MUTANTS];

pub(crate) fn is(id: usize) -> bool {
    let (asked, log) = ASKED.get_or_init(|| {
        let asked = std::env::var("REENTRY_MUTANT").ok().and_then(|id| id.parse().ok());
        (asked.unwrap_or(usize::MAX), std::env::var_os("REENTRY_REACHED"))
    });
    if let Some(log) = log {
        if !SEEN[id].swap(true, Ordering::Relaxed) {
            let log = std::fs::OpenOptions::new().create(true).append(true).open(log);
            drop(log.and_then(|mut log| log.write_all(format!("{id}\n").as_bytes())));
        }
    }
    *asked == id
}
"#;

fn main() -> Result<(), Fault> {
    let mut words = env::args().skip(1);
    let (copy, list) = words.next().zip(words.next()).ok_or("give the copy, the list and what to test")?;
    let targets: Vec<String> = words.collect();
    let copy = PathBuf::from(copy);
    let list: Vec<Value> = serde_json::from_str(&fs::read_to_string(list)?)?;
    let mutants: Vec<Mutant> = list.iter().enumerate().filter_map(|(id, entry)| Mutant::read(id, entry)).collect();
    assert_eq!(mutants.len(), list.len(), "the list is of another version");
    let known = copy.join("mutants-woven.txt");
    let kept: BTreeSet<usize> = match fs::read_to_string(&known) {
        Ok(kept) => kept.lines().map(str::parse).collect::<Result<_, _>>()?,
        Err(_) => woven(&copy, &mutants)?,
    };
    let apart = mutants.iter().filter(|mutant| !kept.contains(&mutant.id));
    let apart: String = apart.map(|mutant| format!("{}\n", mutant.name)).collect();
    fs::write(copy.join("mutants-apart.txt"), apart)?;
    fs::write(known, kept.iter().map(|id| format!("{id}\n")).collect::<String>())?;
    println!("{} of {} mutants are in the build", kept.len(), mutants.len());
    let kept: Vec<&Mutant> = mutants.iter().filter(|mutant| kept.contains(&mutant.id)).collect();
    trial::run(&copy, &kept, &executables(&copy, &targets)?)
}

/// Puts into the copy every mutant with which it compiles. Returns which those are.
fn woven(copy: &Path, mutants: &[Mutant]) -> Result<BTreeSet<usize>, Fault> {
    let mut by_file: BTreeMap<&str, Vec<Mutant>> = BTreeMap::new();
    for mutant in mutants {
        by_file.entry(&mutant.file).or_default().push(mutant.clone());
    }
    let sources: BTreeMap<&str, String> = by_file
        .keys()
        .map(|file| Ok((*file, fs::read_to_string(copy.join(file))?)))
        .collect::<Result<_, std::io::Error>>()?;
    let front = copy.join("src/lib.rs");
    fs::write(&front, fs::read_to_string(&front)? + "\nmod mutant;\n")?;
    let asked = ASKED.replace("MUTANTS", &mutants.len().to_string());
    fs::write(copy.join("src/mutant.rs"), asked)?;
    let mut out: BTreeSet<usize> = BTreeSet::new();
    loop {
        for (file, mutants) in &mut by_file {
            mutants.retain(|mutant| !out.contains(&mutant.id));
            let (text, left) = weave::weave(&sources[file], mutants)?;
            out.extend(left);
            fs::write(copy.join(file), text)?;
        }
        let refused = refused(copy)?;
        if refused.is_empty() {
            return Ok(mutants.iter().map(|mutant| mutant.id).filter(|id| !out.contains(id)).collect());
        }
        println!("{} do not compile here", refused.len());
        out.extend(refused);
    }
}

fn cargo(copy: &Path, words: &[&str]) -> Result<(bool, Vec<Value>), Fault> {
    let output = Command::new("cargo").args(words).arg("--message-format=json").current_dir(copy).output()?;
    let lines = String::from_utf8(output.stdout)?;
    Ok((output.status.success(), lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()))
}

/// The mutants at the places at which the compiler finds a mistake.
fn refused(copy: &Path) -> Result<BTreeSet<usize>, Fault> {
    let (is_built, messages) = cargo(copy, &["check", "--lib", "--all-features"])?;
    let mut refused = BTreeSet::new();
    for message in messages.iter().filter(|message| message["message"]["level"] == "error") {
        for span in message["message"]["spans"].as_array().into_iter().flatten() {
            let Some(file) = span["file_name"].as_str().filter(|_| span["is_primary"] == true) else { continue };
            let text = fs::read_to_string(copy.join(file))?;
            let place = |name: &str| span[name].as_u64().and_then(|at| usize::try_from(at).ok()).unwrap_or_default();
            let (first, last) = (place("line_start"), place("line_end"));
            // Of a match that lacks an arm the compiler names what is matched; the arm stands behind that.
            let is_match = message["message"]["code"]["code"] == "E0004";
            refused.extend(if is_match { behind(&text, first) } else { at(&text, first, last) });
        }
    }
    if !is_built && refused.is_empty() {
        let told = messages.iter().filter_map(|message| message["message"]["rendered"].as_str());
        return Err(told.collect::<String>().into());
    }
    Ok(refused)
}

/// The mutants in a line that are asked for by these words.
fn of(line: &str, asked: &str) -> Vec<usize> {
    let asked = line.split(asked).skip(1);
    asked.filter_map(|rest| rest.split(')').next()?.parse().ok()).collect()
}

/// The first mutant behind this line by which an arm is gone.
fn behind(text: &str, first: usize) -> Vec<usize> {
    let arms = text.lines().skip(first).map(|line| of(line, " if !crate::mutant::is("));
    arms.into_iter().find(|arms| !arms.is_empty()).unwrap_or_default()
}

/// The mutants in these lines, or in the last one before that has any.
fn at(text: &str, first: usize, last: usize) -> Vec<usize> {
    let lines: Vec<&str> = text.lines().take(last).collect();
    let of = |line: &&str| of(line, "crate::mutant::is(");
    let here: Vec<usize> = lines.iter().skip(first.saturating_sub(1)).flat_map(of).collect();
    if here.is_empty() { lines.iter().rev().map(of).find(|ids| !ids.is_empty()).unwrap_or_default() } else { here }
}

/// Builds the tests, and tells where they are.
fn executables(copy: &Path, targets: &[String]) -> Result<Vec<(String, PathBuf)>, Fault> {
    let words: Vec<&str> = ["test", "--no-run"].into_iter().chain(targets.iter().map(String::as_str)).collect();
    let (is_built, messages) = cargo(copy, &words)?;
    if !is_built {
        let told = messages.iter().filter_map(|message| message["message"]["rendered"].as_str());
        return Err(told.collect::<String>().into());
    }
    let built = messages.iter().filter(|message| message["profile"]["test"] == true);
    let built = built.filter_map(|message| {
        let (name, path) = (message["target"]["name"].as_str()?, message["executable"].as_str()?);
        Some((name.to_owned(), PathBuf::from(path)))
    });
    Ok(built.collect())
}
