//! Builds the library that makes every sync take the same time; see `preload/fixed_sync.c`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = include_str!("../preload/fixed_sync.c");

/// Puts the library into this folder.
pub(crate) fn build(folder: &Path) -> Result<PathBuf, String> {
    let (source, library) = (folder.join("fixed_sync.c"), folder.join("fixed_sync.so"));
    fs::write(&source, SOURCE).map_err(|error| format!("{}: {error}", source.display()))?;
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let mut command = Command::new(&compiler);
    command.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl");
    match command.output() {
        Ok(output) if output.status.success() => Ok(library),
        Ok(output) => Err(format!("{compiler} failed: {}", String::from_utf8_lossy(&output.stderr))),
        Err(error) => Err(format!("{compiler} cannot be run: {error}")),
    }
}
