//! Where and when it was measured.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::options::Options;

/// Processor, cores, memory, system and file systems, in a line.
pub(crate) fn describe(options: &Options) -> String {
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).and_then(|line| line.split_once(':'));
        line.map_or("?".to_owned(), |(_, value)| value.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kibibytes = field("/proc/meminfo", "MemTotal").split(' ').next().and_then(|n| n.parse::<u64>().ok());
    let system = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{}, {cores} cores, {} GiB of memory, Linux {}; disk: {}, memory: {}",
        field("/proc/cpuinfo", "model name"),
        kibibytes.unwrap_or(0).div_ceil(1024 * 1024),
        // Whose build of it that is says nothing about how fast it is.
        system.trim().split('-').next().unwrap_or("?"),
        file_system(&options.folder),
        file_system(&options.memory_folder),
    )
}

/// The kind of file system that a folder is on.
pub(crate) fn file_system(folder: &Path) -> String {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let holds = mounts.filter(|(place, _)| folder.starts_with(place)).max_by_key(|(place, _)| place.len());
    holds.map_or("?", |(_, kind)| kind).to_owned()
}

/// The day, by UTC, as `2026-11-28`.
pub(crate) fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    format!("{year}-{month:02}-{day:02}")
}

/// The date that is this many days after 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut year, mut days) = (1970, days);
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    (year, month as u64 + 1, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_over_leap_years() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(59 + 365 * 2), (1972, 2, 29));
        assert_eq!(civil(19_782), (2024, 2, 29));
        assert_eq!(civil(20_785), (2026, 11, 28));
    }
}
