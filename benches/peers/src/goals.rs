//! What the design wants, beside what was found: each a ratio or a figure made from rows alone.

use crate::contenders::Name;
use crate::rows::{Estimate, Results, Row};
use crate::work::{Callers, Mode, Work};

/// One line: what is wanted, and what it came to.
#[derive(Debug, Clone)]
pub(crate) struct Goal {
    pub(crate) text: String,
    pub(crate) wanted: Wanted,
    pub(crate) found: Estimate,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Wanted {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    pub(crate) fn is_reached(&self) -> bool {
        match self.wanted {
            Wanted::AtLeast(least) => self.found.median >= least,
            Wanted::AtMost(most) => self.found.median <= most,
        }
    }
}

/// Every goal that the rows of one mode can tell of.
pub(crate) fn goals(results: &Results, mode: Mode) -> Vec<Goal> {
    let rows = Rows { rows: results.rows.iter().filter(|row| row.mode == mode).collect() };
    let mut goals = Vec::new();
    let mut add = |text: &str, wanted: Wanted, found: Option<Estimate>| {
        goals.extend(found.map(|found| Goal { text: text.to_owned(), wanted, found }));
    };
    let (one, many) = (Callers::threads(1), Callers::threads(256));
    let (tasks, crowd) = (Callers::tasks(256), Callers::tasks(4096));
    let claims = Work::ClaimComplete;
    add("1 thread: of the limit", Wanted::AtLeast(0.9), rows.to(claims, one, Name::Limit));
    add("1 thread: of SQLite", Wanted::AtLeast(1.0), rows.to(claims, one, Name::Sqlite));
    add("1 thread, 3 guarded effects: of SQLite", Wanted::AtLeast(1.5), rows.to(Work::Steps, one, Name::Sqlite));
    add("256 threads: of the limit", Wanted::AtLeast(0.8), rows.to(claims, many, Name::Limit));
    add("256 threads: of the best peer with a group commit", Wanted::AtLeast(1.4), rows.to_best(claims, many));
    add("256 threads: of SQLite as users write it", Wanted::AtLeast(20.0), rows.to(claims, many, Name::Sqlite));
    add("256 tasks: of the limit driven by as many", Wanted::AtLeast(0.6), rows.to(claims, tasks, Name::DrivenLimit));
    add("4,096 tasks: of the limit driven by as many", Wanted::AtLeast(0.6), rows.to(claims, crowd, Name::DrivenLimit));
    for (size, text) in rows.sizes() {
        let rate = |work, by| rows.find(work, size, by, Name::Reentry).and_then(|row| Estimate::of(row.rates.clone()));
        add(&format!("{text} kept: replays of any, a second"), Wanted::AtLeast(300_000.0), rate(Work::ReplayCold, one));
        add(&format!("{text} kept: absent keys, a second"), Wanted::AtLeast(2_000_000.0), rate(Work::Absent, one));
        let opening = rows
            .find(Work::Open, size, one, Name::Reentry)
            .filter(|_| size >= 1_000_000)
            .and_then(|row| Estimate::of(row.rates.iter().map(|rate| 1_000_000.0 / rate)));
        add(&format!("{text} kept: open after kill -9, seconds a million"), Wanted::AtMost(1.0), opening);
        add(&format!("{text} kept: bytes on disk beside the payload"), Wanted::AtMost(100.0), rows.beside(size));
        let by_now = |size| rows.find(claims, size, one, Name::Reentry).map(|row| row.claim_p50_us);
        let slower = by_now(size).zip(by_now(10_000)).filter(|_| size > 10_000).map(|(large, small)| large / small);
        add(&format!("{text} kept: a claim's p50, to that of 10 k"), Wanted::AtMost(1.2), slower.and_then(single));
        let p99 = |work| rows.find(work, size, many, Name::Reentry).map(|row| row.claim_p99_us);
        let slower = p99(Work::Removal).zip(p99(Work::Quiet)).map(|(busy, quiet)| busy / quiet);
        add(
            &format!("{text} expired are removed: claims' p99, to the quiet one"),
            Wanted::AtMost(2.0),
            slower.and_then(single),
        );
        let flat = |figure: fn(&Row) -> Option<f64>| rows.last_to_first(size, figure);
        add(
            &format!("{text} kept, sustained: the last minute's rate to the first"),
            Wanted::AtLeast(0.9),
            flat(|row| Some(row.rate)),
        );
        add(
            &format!("{text} kept, sustained: memory, last to first"),
            Wanted::AtMost(1.1),
            flat(|row| row.memory_bytes.map(float)),
        );
        add(
            &format!("{text} kept, sustained: disk, last to first"),
            Wanted::AtMost(1.1),
            flat(|row| row.disk_bytes.map(float)),
        );
        add(
            &format!("{text} kept, sustained: bytes on disk, to payload + 100"),
            Wanted::AtMost(1.5),
            rows.churned(size),
        );
    }
    goals
}

fn single(figure: f64) -> Option<Estimate> {
    Estimate::of([figure])
}

fn float(bytes: u64) -> f64 {
    bytes as f64
}

/// The rows of one mode.
struct Rows<'r> {
    rows: Vec<&'r Row>,
}

impl Rows<'_> {
    /// Sizes that were measured, and how they are written.
    fn sizes(&self) -> Vec<(u64, String)> {
        let mut sizes: Vec<u64> = self.rows.iter().map(|row| row.size).collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes.into_iter().map(|size| (size, shown(size))).collect()
    }

    /// A row; where several loads were measured, the one of the smallest payload.
    fn find(&self, work: Work, size: u64, by: Callers, name: Name) -> Option<&Row> {
        let is_it = |row: &&&Row| (row.work, row.size, row.concurrency, row.contender) == (work, size, by, name);
        self.rows.iter().filter(is_it).min_by_key(|row| row.payload_bytes).copied()
    }

    /// How reentry compares with another on the smallest size that both did.
    fn to(&self, work: Work, by: Callers, other: Name) -> Option<Estimate> {
        let both = |size| Some((self.find(work, size, by, Name::Reentry)?, self.find(work, size, by, other)?));
        let (ours, theirs) = self.sizes().into_iter().find_map(|(size, _)| both(size))?;
        Estimate::ratio(&ours.rates, &theirs.rates)
    }

    fn to_best(&self, work: Work, by: Callers) -> Option<Estimate> {
        let is_it = |row: &&&Row| row.work == work && row.concurrency == by && row.contender.is_grouped_peer();
        let smallest = self.sizes().first()?.0;
        let peers = self.rows.iter().filter(is_it).filter(|row| row.size == smallest);
        let best = peers.max_by(|a, b| a.rate.total_cmp(&b.rate))?;
        self.to(work, by, best.contender)
    }

    /// Bytes on disk of an operation, beside its payload.
    fn beside(&self, size: u64) -> Option<Estimate> {
        let row = self.find(Work::Footprint, size, Callers::threads(1), Name::Reentry).filter(|_| size >= 100_000)?;
        single(float(row.disk_bytes?) / size as f64 - row.payload_bytes as f64)
    }

    fn minutes(&self, size: u64) -> Vec<&Row> {
        let is_it = |row: &&&Row| row.work == Work::Sustained && row.size == size && row.contender == Name::Reentry;
        let mut minutes: Vec<&Row> = self.rows.iter().filter(is_it).copied().collect();
        minutes.sort_by_key(|row| row.minute);
        minutes
    }

    fn last_to_first(&self, size: u64, figure: fn(&Row) -> Option<f64>) -> Option<Estimate> {
        let minutes = self.minutes(size);
        single(figure(minutes.last()?)? / figure(minutes.first()?)?)
    }

    fn churned(&self, size: u64) -> Option<Estimate> {
        let last = *self.minutes(size).last()?;
        single(float(last.disk_bytes?) / size as f64 / (last.payload_bytes as f64 + 100.0))
    }
}

/// A number of operations as people write it.
pub(crate) fn shown(size: u64) -> String {
    match size {
        size if size >= 1_000_000 && size % 1_000_000 == 0 => format!("{} M", size / 1_000_000),
        size if size >= 1000 && size % 1000 == 0 => format!("{} k", size / 1000),
        size => size.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::KeyShape;

    fn row(work: Work, size: u64, concurrency: Callers, contender: Name, rates: &[f64]) -> Row {
        Row {
            work,
            size,
            concurrency,
            contender,
            mode: Mode::Fixed,
            key: KeyShape::Uuid,
            payload_bytes: 100,
            rate: rates[0],
            p50_us: 0.0,
            p99_us: 0.0,
            claim_p50_us: 100.0 + size as f64 / 100_000.0,
            claim_p99_us: if work == Work::Removal { 300.0 } else { 100.0 },
            ratio_to_limit: None,
            ratio_min: None,
            ratio_max: None,
            flush_us: 150.0,
            batch: None,
            memory_bytes: None,
            disk_bytes: Some(size * 190),
            removed_rate: None,
            minute: None,
            rates: rates.to_vec(),
            date: String::new(),
        }
    }

    #[test]
    fn goals_are_ratios_of_rounds_that_stand_beside_each_other() {
        let (one, many) = (Callers::threads(1), Callers::threads(256));
        let (claims, large) = (Work::ClaimComplete, 1_000_000);
        let rows = vec![
            row(claims, 10_000, one, Name::Reentry, &[9.0, 18.0]),
            row(claims, 10_000, one, Name::Limit, &[10.0, 20.0]),
            row(claims, 10_000, one, Name::Sqlite, &[10.0, 20.0]),
            row(claims, 10_000, many, Name::Reentry, &[28.0, 28.0]),
            row(claims, 10_000, many, Name::FjallGroup, &[20.0, 20.0]),
            row(claims, 10_000, many, Name::SqliteGroup, &[10.0, 10.0]),
            row(claims, large, one, Name::Reentry, &[9.0, 18.0]),
            row(Work::Footprint, large, one, Name::Reentry, &[0.0]),
            row(Work::Open, large, one, Name::Reentry, &[500_000.0]),
            row(Work::Quiet, large, many, Name::Reentry, &[1.0]),
            row(Work::Removal, large, many, Name::Reentry, &[1.0]),
        ];
        let goals = goals(&Results { rows, ..Results::default() }, Mode::Fixed);
        let told: Vec<(&str, f64, bool)> = goals
            .iter()
            .map(|goal| (&*goal.text, (goal.found.median * 100.0).round() / 100.0, goal.is_reached()))
            .collect();
        let expected = [
            ("1 thread: of the limit", 0.9, true),
            ("1 thread: of SQLite", 0.9, false),
            ("256 threads: of the best peer with a group commit", 1.4, true),
            ("1 M kept: open after kill -9, seconds a million", 2.0, false),
            ("1 M kept: bytes on disk beside the payload", 90.0, true),
            ("1 M kept: a claim's p50, to that of 10 k", 1.1, true),
            ("1 M expired are removed: claims' p99, to the quiet one", 3.0, false),
        ];
        assert_eq!(told, expected);
    }
}
