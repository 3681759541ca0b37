//! What the machine takes at this moment: a bare write and sync; and what a contender has taken, memory and disk.

use std::fs::{self, File};
use std::io::{Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

/// Writes and syncs one page, over and over in the same place.
pub(crate) struct Probe {
    file: File,
}

impl Probe {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { file: File::create(folder.join("probe")).unwrap() }
    }

    /// Microseconds that one write with its sync takes now: the middle of five.
    pub(crate) fn flush_us(&mut self) -> f64 {
        let mut times = [0.0; 5];
        for time in &mut times {
            let start = Instant::now();
            self.file.rewind().unwrap();
            self.file.write_all(&[0; 4096]).unwrap();
            self.file.sync_data().unwrap();
            *time = start.elapsed().as_secs_f64() * 1e6;
        }
        times.sort_by(f64::total_cmp);
        times[2]
    }
}

/// Bytes that all files below a folder take on its disk.
pub(crate) fn disk_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = |path: &Path| fs::symlink_metadata(path).map_or(0, |found| found.blocks() * 512);
    entries.map(|entry| entry.path()).map(|path| if path.is_dir() { disk_bytes(&path) } else { bytes(&path) }).sum()
}

/// Bytes of memory of a process and its children that no file stands behind: what the system cannot take back. Pages of
/// mapped files, which are the system's cache, do not count; what processes share counts once.
pub(crate) fn memory_bytes(process: u32) -> u64 {
    let kibibytes: u64 = family(process)
        .iter()
        .map(|id| {
            let maps = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).unwrap_or_default();
            let of =
                |name: &str| maps.lines().find_map(|line| line.strip_prefix(name)).and_then(first_number).unwrap_or(0);
            // A server's shared memory is not of a file, but looks like one in memory.
            of("Pss_Anon:") + if *id == process && family(process).len() == 1 { 0 } else { of("Pss_Shmem:") }
        })
        .sum();
    kibibytes * 1024
}

fn first_number(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

/// A process and its children.
pub(crate) fn family(process: u32) -> Vec<u32> {
    let mut family = vec![process];
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for id in processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        // The name may hold spaces and brackets; what follows is the state and then the parent.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        if parent == Some(process) {
            family.push(id);
        }
    }
    family
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_takes_its_blocks_and_a_process_has_memory() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("inner")).unwrap();
        fs::write(folder.path().join("inner/file"), vec![1; 1 << 20]).unwrap();
        assert!((1 << 20..2 << 20).contains(&disk_bytes(folder.path())));
        assert!(memory_bytes(std::process::id()) > 100_000);
        assert!(Probe::new(folder.path()).flush_us() > 0.0);
    }
}
