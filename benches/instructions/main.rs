//! How many instructions a call takes: a guard against getting slower that no other work on the machine disturbs.
//!
//! `cargo bench --bench instructions` counts under valgrind, and fails where a figure has grown by more than 5 % beside
//! `benches/instructions/figures.txt`; with `-- --accept` it writes that file anew. Each work is counted twice, with a
//! number of operations and with three times as many: the difference is theirs alone. The writer works by hand and the
//! disk is memory, so nothing depends on threads or on what a disk does; a commit that calls share is shared by 256.
//!
//! Another compiler makes other instructions, and another C library has others: then the figures are shown and nothing
//! fails.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program for a terminal that should stop at a fault")]
#![allow(clippy::cast_precision_loss, reason = "counts are far below 2^52, and figures for people need no exactness")]

mod works;

use std::path::Path;
use std::process::{Command, ExitCode};

use works::WORKS;

/// How much a figure may grow, in percent.
const GROWTH_MAX: u64 = 5;

/// The argument after which this program does one work and ends, under valgrind.
const ONLY: &str = "--only";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if let Some(at) = args.iter().position(|arg| arg == ONLY) {
        let work = WORKS.iter().find(|work| work.name == args[at + 1]).expect("a work of this name");
        (work.run)(args[at + 2].parse().unwrap());
        return ExitCode::SUCCESS;
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("skipped: valgrind is not here; install it to count instructions");
        return ExitCode::SUCCESS;
    }
    let counted: Vec<(&str, u64)> = WORKS.iter().map(|work| (work.name, count(work.name, work.operations))).collect();
    if args.iter().any(|arg| arg == "--accept") {
        write(&counted);
        return ExitCode::SUCCESS;
    }
    compare(&counted)
}

/// Instructions that one operation of this work takes.
fn count(work: &str, operations: u64) -> u64 {
    (under_valgrind(work, 3 * operations) - under_valgrind(work, operations)) / (2 * operations)
}

fn under_valgrind(work: &str, operations: u64) -> u64 {
    let program = std::env::current_exe().unwrap();
    let counted = Command::new("valgrind")
        .args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"])
        .arg(program)
        .args([ONLY, work, &operations.to_string()])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&counted.stderr);
    assert!(counted.status.success(), "{work} failed under valgrind: {told}");
    // "I refs: 1,234", with more spaces in older versions.
    let total = told.lines().filter_map(|line| line.split_once("refs:")).find(|(what, _)| what.trim().ends_with('I'));
    total.expect("valgrind tells the number").1.trim().replace(',', "").parse().unwrap()
}

/// Shows each figure beside the one that was accepted.
fn compare(counted: &[(&str, u64)]) -> ExitCode {
    let accepted = std::fs::read_to_string(figures()).unwrap();
    let (with, rows) = accepted.split_once('\n').unwrap();
    let is_comparable = with == tools();
    let accepted = |work: &str| {
        let figure = rows.lines().find_map(|row| row.strip_prefix(work)?.trim().parse::<u64>().ok());
        figure.unwrap_or_else(|| panic!("no figure of {work} was accepted; see the head of this program"))
    };
    let mut grown = Vec::new();
    println!("{:<48} {:>12} {:>12} {:>8}", "instructions an operation", "accepted", "now", "");
    for (work, now) in counted {
        let accepted = accepted(work);
        let change = (*now as f64 / accepted as f64 - 1.0) * 100.0;
        println!("{work:<48} {accepted:>12} {now:>12} {change:>+6.1} %");
        if now * 100 > accepted * (100 + GROWTH_MAX) {
            grown.push(*work);
        }
    }
    if !is_comparable {
        println!("accepted with {with}; counted with {}: nothing fails", tools());
    } else if !grown.is_empty() {
        println!("grown by more than {GROWTH_MAX} %: {}", grown.join(", "));
        println!("make it as fast as it was, or accept: cargo bench --bench instructions -- --accept");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn write(counted: &[(&str, u64)]) {
    let rows = counted.iter().map(|(work, figure)| format!("{work:<48} {figure:>10}"));
    let text = std::iter::once(tools()).chain(rows).collect::<Vec<_>>().join("\n");
    std::fs::write(figures(), format!("{text}\n")).unwrap();
    println!("accepted: {text}");
}

fn figures() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions/figures.txt"))
}

/// What else than our code the figures depend on: the compiler and what it compiles for, the C library, and valgrind,
/// which shows every program the same processor.
fn tools() -> String {
    let told = |program: &str, arg: &str| {
        let told = Command::new(program).arg(arg).output().map(|told| told.stdout).unwrap_or_default();
        String::from_utf8_lossy(&told).trim().to_owned()
    };
    let rustc = told("rustc", "-vV");
    let of_rustc = |what: &str| rustc.lines().find_map(|line| line.strip_prefix(what)).unwrap_or_default().trim();
    let (library, valgrind) = (told("getconf", "GNU_LIBC_VERSION"), told("valgrind", "--version"));
    format!("rustc {} for {}, {library}, {valgrind}", of_rustc("release:"), of_rustc("host:"))
}
