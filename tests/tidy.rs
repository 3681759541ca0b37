//! The house style, executed: which room may name what, and how long things may be.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The rooms of `src/`, in order: a room uses only rooms before it.
const ROOMS: [&str; 21] = [
    "sync", "error", "clock", "key", "trace", "effect", "payload", "pending", "record", "engine", "progress", "run",
    "step", "claim", "store", "export", "resumer", "http", "admin", "testing", "cli",
];

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;
const COLUMNS_MAX: usize = 120;

/// Names that say nothing of what is in a file.
const EMPTY_NAMES: [&str; 5] = ["utils", "common", "helpers", "types", "manager"];

/// The promises.
const PROMISES: [&str; 11] = ["p1", "p2", "p3", "p4", "p5", "p6", "p7", "p8", "p9", "p10", "p11"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `folder` that ends with one of `endings`.
fn files(folder: &str, endings: &[&str]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !name.starts_with('.') && name != "target" {
                    folders.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    found.sort();
    found
}

fn rust_files() -> Vec<(PathBuf, String)> {
    ["src", "tests", "benches", "examples"].iter().flat_map(|folder| files(folder, &[".rs"])).collect()
}

/// The part of a file before its unit tests.
fn without_tests(text: &str) -> &str {
    let tests = ["mod ", "pub(super) mod "].map(|module| format!("\n#[cfg(test)]\n{module}"));
    let end = tests.iter().filter_map(|module| text.find(module)).min();
    end.map_or(text, |end| &text[..end])
}

/// A line without its comment. Strings with slashes in them are cut too, which only hides what stands behind.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or(line)
}

fn room_of(path: &Path) -> Option<String> {
    let inside = path.strip_prefix(root().join("src")).ok()?;
    let first = inside.components().next()?.as_os_str().to_string_lossy().into_owned();
    Some(first.trim_end_matches(".rs").to_owned())
}

/// The rooms that a text names by `crate::room`.
fn rooms_used(text: &str) -> Vec<&'static str> {
    let lines = || text.lines().map(code);
    ROOMS.iter().copied().filter(|room| lines().any(|line| names(line, &format!("crate::{room}")))).collect()
}

/// Whether `line` holds `word`, and not only as a part of a longer one.
fn names(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

/// The first line of every function that is longer than allowed, by the indentation of its braces.
fn long_functions(text: &str) -> Vec<usize> {
    let lines: Vec<&str> = text.lines().collect();
    let mut long = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let start = line.trim_start();
        let is_function = ["fn ", "pub fn ", "pub(crate) fn ", "pub(super) fn ", "async fn ", "pub(crate) async fn "]
            .iter()
            .any(|opening| start.starts_with(opening));
        if is_function && !start.ends_with('}') {
            let end = format!("{}}}", " ".repeat(indent));
            let length = lines[at..].iter().position(|line| *line == end).unwrap_or(0) + 1;
            if length > FUNCTION_LINES_MAX {
                long.push(at + 1);
            }
        }
    }
    long
}

/// Every line of `src/`, outside of unit tests, in a file that `is_asked` for, for which `is_wrong` holds.
fn wrong_lines(is_asked: impl Fn(&str) -> bool, is_wrong: impl Fn(&str) -> bool) -> Vec<String> {
    let mut wrong = Vec::new();
    for (path, text) in files("src", &[".rs"]) {
        let inside = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        if is_asked(&inside) {
            let lines = without_tests(&text).lines().enumerate();
            wrong.extend(lines.filter(|(_, line)| is_wrong(code(line))).map(|(n, _)| format!("{inside}:{}", n + 1)));
        }
    }
    wrong
}

const NONE: [String; 0] = [];

#[test]
fn a_room_uses_only_rooms_before_it() {
    let mut wrong = Vec::new();
    for (path, text) in files("src", &[".rs"]) {
        let room = room_of(&path).unwrap();
        let Some(place) = ROOMS.iter().position(|known| *known == room) else {
            assert_eq!(room, "lib", "{} is in no known room", path.display());
            continue;
        };
        let used = rooms_used(without_tests(&text));
        wrong.extend(
            used.into_iter()
                .filter(|used| ROOMS.iter().position(|r| r == used) > Some(place))
                .map(|used| format!("{} uses {used}", path.display())),
        );
    }
    assert_eq!(wrong, NONE);
}

#[test]
fn one_room_names_each_dependency() {
    let only = |word: &str, room: &str| wrong_lines(|file| !file.starts_with(room), |line| names(line, word));
    assert_eq!(only("redb", "src/engine/"), NONE);
    assert_eq!(only("bincode", "src/payload.rs"), NONE);
    assert_eq!(only("uuid", "src/effect.rs"), NONE);
    let is_json = |file: &str| ["src/payload.rs", "src/export/", "src/cli/"].iter().any(|room| file.starts_with(room));
    assert_eq!(wrong_lines(|file| !is_json(file), |line| names(line, "serde_json")), NONE);
    assert_eq!(only("base64", "src/export/"), NONE);
    for of_cli in ["clap", "indicatif"] {
        assert_eq!(only(of_cli, "src/cli/"), NONE, "{of_cli}");
    }
    assert_eq!(only("SystemTime", "src/clock.rs"), NONE);
    for of_http in ["tower_layer", "tower_service", "http_body", "bytes::", "pin_project_lite"] {
        assert_eq!(only(of_http, "src/http/"), NONE, "{of_http}");
    }
    let of_no_server = |file: &str| !file.starts_with("src/http/") && !file.starts_with("src/admin/");
    assert_eq!(wrong_lines(of_no_server, |line| names(line, "tokio::")), NONE);
    assert_eq!(only("axum::", "src/admin/"), NONE);
    assert_eq!(only("maud", "src/admin/"), NONE);
    assert_eq!(only("form_urlencoded", "src/admin/fields.rs"), NONE);
    assert_eq!(only("getrandom", "src/admin/token.rs"), NONE);
    assert_eq!(only("tracing::", "src/trace.rs"), NONE);
    assert_eq!(only("metrics::", "src/store/metrics.rs"), NONE);
    assert_eq!(only("sfv", "src/http/header.rs"), NONE);
    assert_eq!(only("axum_core", "src/http/extractor.rs"), NONE);
    // A lock that a model checker does not see is one whose orders are never tried.
    for unseen in ["parking_lot", "std::sync::atomic", "std::thread", "shuttle", "loom"] {
        let is_cfg = |line: &str| line.contains("cfg");
        let names_it = |line: &str| names(line, unseen) && !is_cfg(line);
        assert_eq!(wrong_lines(|file| !file.starts_with("src/sync/"), names_it), NONE, "{unseen}");
    }
    let calls_of_redb = |file: &str| {
        // And what is only counted: nothing is decided by it, so no order of it is of interest. And the threads that
        // read a file with more rows than any that a model checker opens.
        ["disk", "file", "meter", "mishap", "scan", "simulated", "snapshot", "upkeep"]
            .iter()
            .any(|room| file == format!("src/engine/{room}.rs"))
    };
    let is_plain = |file: &str| !file.starts_with("src/sync/") && !calls_of_redb(file);
    assert_eq!(wrong_lines(is_plain, |line| names(line, "sync::plain")), NONE);
    let patient = |file: &str| {
        // The last measures how long a sync takes, and waits for nothing.
        let patient = ["clock.rs", "pending.rs", "pending/bell.rs", "resumer.rs"];
        let of_engine = ["engine/writer.rs", "engine/queue.rs", "engine/disk.rs"];
        let mut patient = patient.iter().chain(&of_engine).map(|file| format!("src/{file}"));
        // The kit's disk may take its time.
        !patient.any(|room| room == file) && !file.starts_with("src/sync/") && file != "src/testing/life.rs"
    };
    assert_eq!(wrong_lines(patient, |line| names(line, "Instant")), NONE);
}

/// What the default build takes in beside redb: a crate more is a decision, and stands in docs/threats.md.
#[test]
fn the_default_build_takes_in_these_crates_and_no_other() {
    // Those of redb itself, what runs at build time alone, and what is linked.
    let of_redb = ["libc", "redb"];
    let at_build_time = ["proc_macro2", "quote", "serde_derive", "syn", "thiserror_impl", "unicode_ident"];
    let linked = [
        "arrayvec",
        "bincode",
        "blake3",
        "cfg_if",
        "constant_time_eq",
        "cpufeatures",
        "crc32fast",
        "hashbrown",
        "lock_api",
        "parking_lot",
        "parking_lot_core",
        "scopeguard",
        "serde",
        "serde_core",
        "smallvec",
        "thiserror",
        "unty",
        "uuid",
    ];
    let mut tree = Command::new(env!("CARGO"));
    tree.args(["tree", "--locked", "--offline", "--edges", "normal", "--prefix", "none", "--format", "{lib}"]);
    let output = tree.current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8(output.stdout).unwrap();
    let found: BTreeSet<&str> = told.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let expected = of_redb.iter().chain(&at_build_time).chain(&linked).chain(&["reentry"]).copied();
    let beside: Vec<_> = found.difference(&expected.collect()).copied().collect();
    assert_eq!(beside, NONE);
}

#[test]
fn the_rules_know_no_disk_no_clock_and_no_threads() {
    let forbidden = ["engine", "Mutex", "RwLock", "thread", "Instant", "SystemTime", "File", "io"];
    let is_wrong = |line: &str| forbidden.iter().any(|word| names(line, word));
    assert_eq!(wrong_lines(|file| file.starts_with("src/record/"), is_wrong), NONE);
}

#[test]
fn nothing_in_the_library_panics_on_purpose() {
    let forbidden = [".unwrap()", ".expect(", "panic!(", "todo!(", "unimplemented!(", "unreachable!(", "dbg!("];
    assert_eq!(wrong_lines(|_| true, |line| forbidden.iter().any(|call| line.contains(call))), NONE);
}

#[test]
fn files_functions_and_lines_stay_short() {
    let mut wrong = Vec::new();
    for (path, text) in rust_files() {
        let shown = path.display();
        if text.lines().count() > FILE_LINES_MAX {
            wrong.push(format!("{shown} has {} lines", text.lines().count()));
        }
        wrong.extend(long_functions(&text).into_iter().map(|line| format!("{shown}:{line} begins a long function")));
        let wide = text.lines().enumerate().filter(|(_, line)| line.chars().count() > COLUMNS_MAX);
        wrong.extend(wide.map(|(n, _)| format!("{shown}:{} is wide", n + 1)));
    }
    assert_eq!(wrong, NONE);
}

#[test]
fn names_of_files_say_what_is_in_them() {
    for (path, _) in rust_files() {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(!EMPTY_NAMES.contains(&name.as_str()), "{}", path.display());
    }
}

#[test]
fn every_promise_has_a_test_that_bears_its_number() {
    let texts: Vec<String> = ["src", "tests"].iter().flat_map(|f| files(f, &[".rs"])).map(|(_, text)| text).collect();
    for promise in PROMISES {
        let bears = |line: &str| {
            let name = line.trim_start().strip_prefix("fn ").unwrap_or_default();
            name.split(['_', '(']).take_while(|part| part.starts_with('p')).any(|part| part == promise)
        };
        assert!(texts.iter().any(|text| text.lines().any(bears)), "{promise} has no test");
    }
}

/// The names in backquotes that are sentences: tests, as the documents name them.
fn named_tests(text: &str) -> Vec<&str> {
    let is_name = |word: &&str| word.matches('_').count() >= 4 && !word.contains(|c: char| !is_in_a_name(c));
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)).filter(is_name).collect()
}

fn is_in_a_name(c: char) -> bool {
    c == '_' || c.is_ascii_lowercase() || c.is_ascii_digit()
}

#[test]
fn every_test_that_a_document_names_is_there() {
    let code: String = ["src", "tests"].iter().flat_map(|f| files(f, &[".rs"])).map(|(_, text)| text).collect();
    let mut named = 0;
    for (path, text) in files("docs", &[".md"]) {
        for name in named_tests(&text) {
            let is_there = ['(', '<'].iter().any(|end| code.contains(&format!("fn {name}{end}")));
            assert!(is_there, "{} names {name}", path.display());
            named += 1;
        }
    }
    assert!(named > 0);
}

/// The rows of the tables in a text, by their lines' numbers, that have more or fewer cells than their table's head.
fn broken_rows(text: &str) -> Vec<usize> {
    let mut broken = Vec::new();
    let mut head = None;
    for (at, line) in text.lines().enumerate() {
        if !line.starts_with('|') {
            head = None;
            continue;
        }
        let cells = line.replace("\\|", "").matches('|').count();
        if *head.get_or_insert(cells) != cells || !line.ends_with('|') {
            broken.push(at + 1);
        }
    }
    broken
}

#[test]
fn every_row_of_a_table_has_the_cells_of_its_head() {
    for (path, text) in files("docs", &[".md"]).into_iter().chain(files("fuzz", &[".md"])) {
        assert_eq!(broken_rows(&text), [0; 0], "{}", path.display());
    }
}

#[test]
fn no_test_waits_by_sleeping() {
    // Put together here, so that this line is not the one that is found.
    let sleeping = ["thread::", "sleep"].concat();
    for (path, text) in files("tests", &[".rs"]) {
        assert!(!text.contains(&sleeping), "{}", path.display());
    }
}

#[test]
fn nothing_names_a_place_on_the_machine_it_was_made_on() {
    let forbidden = [["/wo", "rk/"], ["/ro", "ot/"], [".lib", "rary"], ["../sha", "red"]].map(|parts| parts.concat());
    let endings = [".rs", ".md", ".toml", "run", ".yml", ".lock"];
    for (path, text) in files(".", &endings).into_iter().chain(files(".ci", &endings)) {
        assert!(!forbidden.iter().any(|place| text.contains(place)), "{}", path.display());
    }
}

/// Each rule bites: what it is there to find is found in a small text.
#[test]
fn the_rules_of_this_file_find_what_they_are_there_for() {
    assert_eq!(rooms_used("use crate::store::Store; // crate::run"), ["store"]);
    assert!(names("let x = redb::Database;", "redb") && !names("let my_redb = 1;", "redb"));
    assert_eq!(code("a // .unwrap()"), "a ");
    assert_eq!(without_tests("fn a() {}\n#[cfg(test)]\nmod tests { x.unwrap() }"), "fn a() {}");
    assert_eq!(named_tests("`p9_what_is_it_that`, `a_b` and `x_y_z_z::y`"), ["p9_what_is_it_that"]);
    assert_eq!(without_tests("fn a() {}\n#[cfg(test)]\npub(super) mod tests {}"), "fn a() {}");
    assert_eq!(broken_rows("| a | b |\n| --- | --- |\n| 1 |\n| 1 | 2 |\n\n| c |\n| 3 |\n| 4 | 5"), [3, 8]);
    let long = format!("fn long() {{\n{}}}\n", "    x();\n".repeat(FUNCTION_LINES_MAX));
    assert_eq!((long_functions(&long), long_functions("fn short() {\n}\n")), (vec![1], vec![]));
}
