//! `docs/benchmarks` and the README's part of it: rows, charts and tables, all from the results alone.

use std::fs;
use std::path::{Path, PathBuf};

use crate::charts;
use crate::contenders::Name;
use crate::goals::shown;
use crate::report::{self, Table, number};
use crate::rows::{Results, Row};
use crate::work::{Mode, Work};

/// What is written stands between these lines; what stands around them is written by hand.
const BEGIN: &str = "<!-- figures: written by the comparison, do not edit -->";
const END: &str = "<!-- end of figures -->";

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Where the repository keeps them.
pub(crate) fn folder() -> PathBuf {
    repository().join("docs/benchmarks")
}

pub(crate) fn write(results: &Results) -> Result<(), String> {
    let folder = folder();
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let charts = charts::write(results, &folder)?;
    replace(&folder.join("README.md"), &whole(results, &charts))?;
    replace(&repository().join("README.md"), &short(results))
}

/// When and where.
fn measured(results: &Results) -> String {
    let mut days: Vec<&str> = results.rows.iter().map(|row| row.date.as_str()).collect();
    days.sort_unstable();
    days.dedup();
    format!("{} on: {}.", days.join(", "), results.machine)
}

fn whole(results: &Results, charts: &[(String, String)]) -> String {
    let left_out = results.left_out.iter().map(|why| format!("\nLeft out: {why}.\n"));
    let settings = results.settings.iter().map(|(name, settings)| format!("| `{name}` | {settings} |\n"));
    let charts = charts.iter().map(|(file, title)| format!("\n![{title}]({file})\n"));
    let tables = report::tables(results);
    let tables = tables.iter().map(|table| format!("\n### {}\n\n{}", table.title, table.markdown()));
    [format!("Measured {}\n", measured(results))]
        .into_iter()
        .chain(left_out)
        .chain(["\n| contender | as measured |\n| --- | --- |\n".to_owned()])
        .chain(settings)
        .chain(charts)
        .chain(tables)
        .collect()
}

/// The README's: one chart and one small table, of the mode that can be repeated.
fn short(results: &Results) -> String {
    let is_told = |row: &&Row| row.mode == Mode::Fixed && row.work == Work::ClaimComplete;
    let mut rows: Vec<&Row> = results.rows.iter().filter(is_told).collect();
    let least = rows.iter().map(|row| (row.size, row.payload_bytes)).min().unwrap_or_default();
    rows.retain(|row| (row.size, row.payload_bytes) == least);
    let mut callers: Vec<_> = rows.iter().map(|row| row.concurrency).collect();
    callers.sort_unstable();
    callers.dedup();
    let mut names: Vec<Name> = rows.iter().map(|row| row.contender).collect();
    names.sort_unstable();
    names.dedup();
    let cell = |name, by| {
        let row = rows.iter().find(|row| (row.contender, row.concurrency) == (name, by));
        row.map_or(String::new(), |row| number(row.rate))
    };
    let line = |name: &Name| {
        let mut cells = vec![format!("`{name}`")];
        cells.extend(callers.iter().map(|by| cell(*name, *by)));
        cells
    };
    let text = format!(
        "![Claim and complete, operations a second](docs/benchmarks/claims-fixed.svg)\n\n\
         Claims with completion a second, \
         {} kept, {} bytes of payload, every sync {}. Measured {}\n\n",
        shown(least.0),
        least.1,
        rows.iter().map(|row| row.flush_us).reduce(f64::min).map_or(String::new(), |us| format!("{us:.0} us")),
        measured(results)
    );
    let mut head = vec!["contender".to_owned()];
    head.extend(callers.iter().map(ToString::to_string));
    text + &Table { title: String::new(), head, lines: names.iter().map(line).collect() }.markdown()
}

/// Puts a text between the two lines of a file.
fn replace(path: &Path, text: &str) -> Result<(), String> {
    let old = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let new =
        between(&old, text).ok_or_else(|| format!("{}: the lines {BEGIN} and {END} are missing", path.display()))?;
    fs::write(path, new).map_err(|error| format!("{}: {error}", path.display()))
}

fn between(old: &str, text: &str) -> Option<String> {
    let (before, rest) = old.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_between_the_lines_is_written() {
        let old = format!("by hand\n{BEGIN}\nold\n{END}\nby hand too\n");
        let new = between(&old, "new\n").unwrap();
        assert_eq!(new, format!("by hand\n{BEGIN}\n\nnew\n\n{END}\nby hand too\n"));
        assert_eq!(between(&new, "new"), Some(new));
        assert_eq!(between("no lines", "new"), None);
    }
}
