//! The guide shows what the tool tells: every block of it is a snapshot, or its beginning.

use std::fs;
use std::path::Path;

#[test]
fn the_guide_shows_what_is_tested() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let guide = fs::read_to_string(root.join("docs/cli.md")).unwrap();
    let snapshots = fs::read_dir(root.join("tests/cli/snapshots")).unwrap();
    let told: Vec<String> =
        snapshots.map(|it| without_marks(&fs::read_to_string(it.unwrap().path()).unwrap())).collect();
    let blocks: Vec<_> = guide.split("```console\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(blocks.len() > 10, "{}", blocks.len());
    for block in blocks {
        assert!(told.iter().any(|told| told.starts_with(block)), "no snapshot begins with\n{block}");
    }
    for command in ["stat", "ls", "show", "verify", "backup", "export", "import", "resolve", "release", "forget"] {
        assert!(guide.contains(&format!("$ reentry {command} ")), "{command} is not shown");
    }
}

/// What a terminal shows of it.
fn without_marks(snapshot: &str) -> String {
    let lines = snapshot.lines().filter(|line| !line.starts_with("--- "));
    lines.flat_map(|line| [line, "\n"]).collect()
}
