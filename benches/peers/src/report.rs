//! Tables of results, for the terminal and for documents.

use crate::goals::{Goal, Wanted, goals, shown};
use crate::rows::{Results, Row};
use crate::work::{Mode, Work};

/// One table: a title, a head, and lines of as many cells.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub(crate) title: String,
    pub(crate) head: Vec<String>,
    pub(crate) lines: Vec<Vec<String>>,
}

fn head(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// Every table that the results have rows for: goals first, then works in their order.
pub(crate) fn tables(results: &Results) -> Vec<Table> {
    let mut tables = Vec::new();
    for mode in [Mode::Fixed, Mode::Disk] {
        tables.extend(goal_table(results, mode));
    }
    let mut works: Vec<_> = results.rows.iter().map(|row| (row.mode, row.work, row.size, row.load())).collect();
    works.sort_by_key(|(mode, work, size, load)| (*mode == Mode::Disk, *work, *size, *load));
    works.dedup();
    for (mode, work, size, load) in works {
        let is_of = |row: &&Row| (row.mode, row.work, row.size, row.load()) == (mode, work, size, load);
        let mut rows: Vec<&Row> = results.rows.iter().filter(is_of).collect();
        rows.sort_by_key(|row| (row.concurrency, row.contender, row.minute));
        let title = format!(
            "{work}, {} kept, {} bytes of payload, {} keys, mode {mode}",
            shown(size),
            load.payload_bytes,
            load.key
        );
        tables.push(match work {
            Work::Footprint => footprint_table(title, &rows),
            _ => rate_table(title, &rows),
        });
    }
    tables
}

fn goal_table(results: &Results, mode: Mode) -> Option<Table> {
    let goals = goals(results, mode);
    let line = |goal: &Goal| {
        let wanted = match goal.wanted {
            Wanted::AtLeast(least) => format!("at least {}", number(least)),
            Wanted::AtMost(most) => format!("at most {}", number(most)),
        };
        let verdict = if goal.is_reached() { "yes" } else { "no" };
        let found = goal.found;
        vec![
            goal.text.clone(),
            wanted,
            number(found.median),
            format!("{} .. {}", number(found.min), number(found.max)),
            verdict.to_owned(),
        ]
    };
    (!goals.is_empty()).then(|| Table {
        title: format!("goals, mode {mode}"),
        head: head(&["reentry", "goal", "found", "min .. max", "reached"]),
        lines: goals.iter().map(line).collect(),
    })
}

fn rate_table(title: String, rows: &[&Row]) -> Table {
    let line = |row: &&Row| {
        let ratio = row.ratio_to_limit.map_or(String::new(), |ratio| format!("{ratio:.2}"));
        let range =
            row.ratio_min.zip(row.ratio_max).map_or(String::new(), |(min, max)| format!("{min:.2} .. {max:.2}"));
        let micros = |figure: f64| if figure > 0.0 { number(figure) } else { String::new() };
        let minute = row.minute.map_or(String::new(), |minute| format!(", minute {minute}"));
        vec![
            format!("{}{minute}", row.concurrency),
            row.contender.to_string(),
            number(row.rate),
            ratio,
            range,
            micros(row.p50_us),
            micros(row.p99_us),
            micros(row.claim_p50_us),
            micros(row.claim_p99_us),
            row.batch.map_or(String::new(), |batch| format!("{batch:.1}")),
            number(row.flush_us),
            row.removed_rate.map_or(String::new(), number),
        ]
    };
    let head = head(&[
        "callers",
        "contender",
        "a second",
        "of limit",
        "min .. max",
        "p50 us",
        "p99 us",
        "claim p50",
        "claim p99",
        "batch",
        "flush us",
        "removed/s",
    ]);
    without_empty(Table { title, head, lines: rows.iter().map(line).collect() })
}

fn footprint_table(title: String, rows: &[&Row]) -> Table {
    let line = |row: &&Row| {
        let each =
            |bytes: Option<u64>| bytes.map_or(String::new(), |bytes| number(bytes as f64 / row.size.max(1) as f64));
        let mebibytes = |bytes: Option<u64>| bytes.map_or(String::new(), |bytes| number(bytes as f64 / 1_048_576.0));
        vec![row.contender.to_string(), mebibytes(row.memory_bytes), mebibytes(row.disk_bytes), each(row.disk_bytes)]
    };
    let head = head(&["contender", "memory MiB", "disk MiB", "bytes on disk an operation"]);
    Table { title, head, lines: rows.iter().map(line).collect() }
}

/// A table without the columns that say nothing.
fn without_empty(table: Table) -> Table {
    let is_told = |column: &usize| table.lines.iter().any(|line| !line[*column].is_empty());
    let columns: Vec<usize> = (0..table.head.len()).filter(is_told).collect();
    Table {
        title: table.title,
        head: columns.iter().map(|column| table.head[*column].clone()).collect(),
        lines: table.lines.iter().map(|line| columns.iter().map(|column| line[*column].clone()).collect()).collect(),
    }
}

/// A figure with three digits that count, and groups of three.
pub(crate) fn number(figure: f64) -> String {
    if figure.abs() < 10.0 {
        return format!("{figure:.2}");
    }
    if figure.abs() < 100.0 {
        return format!("{figure:.1}");
    }
    let digits = format!("{figure:.0}");
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) && digit != '-' {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

impl Table {
    /// For a terminal: the first columns to the left, figures to the right.
    pub(crate) fn plain(&self) -> String {
        let width = |column: usize| {
            let cells = self.lines.iter().map(|line| line[column].chars().count());
            cells.chain([self.head[column].chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let line = |cells: &[String]| {
            let is_text = |column: usize| column == 0 || self.head[column] == "contender";
            let cell = |(column, cell): (usize, &String)| {
                let width = widths[column];
                if is_text(column) { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            };
            cells.iter().enumerate().map(cell).collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
        };
        let lines: String = self.lines.iter().map(|cells| line(cells)).collect();
        format!("\n{}\n{}{lines}", self.title, line(&self.head))
    }

    /// For a document.
    pub(crate) fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let rule = vec!["---".to_owned(); self.head.len()];
        let lines: String = self.lines.iter().map(|cells| line(cells)).collect();
        format!("{}{}{lines}", line(&self.head), line(&rule))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_and_grouped() {
        let shown: Vec<String> = [0.123, 9.99, 12.34, 999.6, 1_234_567.0].into_iter().map(number).collect();
        assert_eq!(shown, ["0.12", "9.99", "12.3", "1,000", "1,234,567"]);
    }

    #[test]
    fn a_table_is_as_wide_as_its_widest_cells_and_loses_empty_columns() {
        let lines = vec![vec!["a".to_owned(), String::new(), "10".to_owned()]];
        let table = without_empty(Table { title: "t".to_owned(), head: head(&["first", "none", "x"]), lines });
        assert_eq!(table.plain(), "\nt\nfirst   x\na      10\n");
        assert_eq!(table.markdown(), "| first | x |\n| --- | --- |\n| a | 10 |\n");
    }
}
