//! Rows of results, and the file that keeps them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::contenders::Name;
use crate::work::{Callers, KeyShape, Load, Mode, Work};

/// What one contender did of one kind of work. Figures are medians over the rounds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) work: Work,
    /// Operations that were kept before.
    pub(crate) size: u64,
    /// As `256 threads`.
    pub(crate) concurrency: Callers,
    pub(crate) contender: Name,
    pub(crate) mode: Mode,
    pub(crate) key: KeyShape,
    pub(crate) payload_bytes: usize,
    /// Operations a second; for `open` operations that are kept, a second of opening.
    pub(crate) rate: f64,
    /// Of whole operations; of one read; for `open` of all of it.
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Of the claim alone.
    pub(crate) claim_p50_us: f64,
    pub(crate) claim_p99_us: f64,
    /// To the bare loop for threads, to the driven loop for tasks, slice by slice.
    pub(crate) ratio_to_limit: Option<f64>,
    pub(crate) ratio_min: Option<f64>,
    pub(crate) ratio_max: Option<f64>,
    /// A bare write and sync right before each slice.
    pub(crate) flush_us: f64,
    /// Changes that shared a commit.
    pub(crate) batch: Option<f64>,
    /// Memory that no file stands behind, and all files' blocks; of `footprint` and `sustained`.
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) disk_bytes: Option<u64>,
    /// Operations removed a second, of `removal` and `sustained`.
    pub(crate) removed_rate: Option<f64>,
    /// Which minute it is of, of `sustained`.
    pub(crate) minute: Option<u32>,
    /// The rate of each round, in their order: rounds of different contenders are beside each other in time.
    pub(crate) rates: Vec<f64>,
    /// The day of the run.
    pub(crate) date: String,
}

impl Row {
    pub(crate) fn load(&self) -> Load {
        Load { key: self.key, payload_bytes: self.payload_bytes }
    }

    /// What it is a row of; a newer row of the same takes its place.
    fn is_of(&self, other: &Self) -> bool {
        let of = |row: &Self| (row.work, row.size, row.concurrency, row.contender, row.mode, row.load(), row.minute);
        of(self) == of(other)
    }
}

/// All rows, and what they were measured on.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: String,
    /// What each contender says of itself.
    pub(crate) settings: BTreeMap<Name, String>,
    pub(crate) left_out: Vec<String>,
    pub(crate) rows: Vec<Row>,
}

impl Results {
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Writes a row a line, so that versions can be compared.
    pub(crate) fn write(&self, path: &Path) -> Result<(), String> {
        let json = |value| serde_json::to_string(value).map_err(|error| error.to_string());
        let rows: Vec<String> =
            self.rows.iter().map(serde_json::to_string).collect::<Result<_, _>>().map_err(|error| error.to_string())?;
        let settings = serde_json::to_string_pretty(&self.settings).map_err(|error| error.to_string())?;
        let text = format!(
            "{{\n\"machine\": {},\n\"settings\": {settings},\n\"left_out\": {},\n\"rows\": [\n{}\n]\n}}\n",
            json(&self.machine)?,
            serde_json::to_string(&self.left_out).map_err(|error| error.to_string())?,
            rows.join(",\n")
        );
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        }
        // Whoever interrupts the run in this moment keeps what was there.
        let new = path.with_extension("new");
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, path))
            .map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Adds a row, in the place of an older one of the same.
    pub(crate) fn put(&mut self, row: Row) {
        self.rows.retain(|known| !known.is_of(&row));
        self.rows.push(row);
    }

    /// Adds what another run found.
    pub(crate) fn merge(&mut self, newer: Self) {
        self.machine = newer.machine;
        self.settings.extend(newer.settings);
        self.left_out.extend(newer.left_out);
        self.left_out.sort();
        self.left_out.dedup();
        newer.rows.into_iter().for_each(|row| self.put(row));
    }
}

/// A figure with the range it was found in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Estimate {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Estimate {
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut figures: Vec<f64> = figures.into_iter().filter(|figure| figure.is_finite()).collect();
        figures.sort_by(f64::total_cmp);
        let (min, max) = (*figures.first()?, *figures.last()?);
        // Of an even number the mean of the two in the middle.
        let middle = figures[(figures.len() - 1) / 2].midpoint(figures[figures.len() / 2]);
        Some(Self { median: middle, min, max })
    }

    /// How the rates of one compare with those of another, round by round.
    pub(crate) fn ratio(of: &[f64], to: &[f64]) -> Option<Self> {
        Self::of(of.iter().zip(to).map(|(of, to)| of / to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_the_median_of_the_rounds_and_knows_their_range() {
        let ratio = Estimate::ratio(&[1.0, 6.0, 2.0, 9.0], &[2.0, 2.0, 4.0, 3.0]).unwrap();
        assert_eq!(ratio, Estimate { median: 1.75, min: 0.5, max: 3.0 });
        assert_eq!(Estimate::ratio(&[], &[1.0]), None);
    }

    #[test]
    fn rows_come_back_from_their_file_and_a_newer_one_takes_the_place_of_an_older() {
        let row = |contender, rate| Row {
            work: Work::ClaimComplete,
            size: 10_000,
            concurrency: Callers::tasks(4096),
            contender,
            mode: Mode::Fixed,
            key: KeyShape::Uuid,
            payload_bytes: 100,
            rate,
            p50_us: 1.5,
            p99_us: 2.5,
            claim_p50_us: 1.0,
            claim_p99_us: 2.0,
            ratio_to_limit: Some(0.5),
            ratio_min: None,
            ratio_max: None,
            flush_us: 150.0,
            batch: Some(8.0),
            memory_bytes: None,
            disk_bytes: None,
            removed_rate: None,
            minute: None,
            rates: vec![rate],
            date: "2026-11-28".to_owned(),
        };
        let path = tempfile::tempdir().unwrap().keep().join("new folder/results.json");
        let mut results = Results { machine: "a \"machine\"".to_owned(), ..Results::default() };
        results.put(row(Name::Redis, 1.0));
        results.put(row(Name::Reentry, 2.0));
        results.write(&path).unwrap();
        let mut read = Results::read(&path).unwrap();
        assert_eq!(read.machine, results.machine);
        read.merge(Results { rows: vec![row(Name::Redis, 3.0)], ..Results::default() });
        let told: Vec<_> = read.rows.iter().map(|row| (row.contender, row.concurrency, row.rate)).collect();
        let by = Callers::tasks(4096);
        assert_eq!(told, [(Name::Reentry, by, 2.0), (Name::Redis, by, 3.0)]);
        fs::remove_dir_all(path.parent().and_then(Path::parent).unwrap()).unwrap();
    }
}
