//! Who holds the lock of a file, where the system tells: an operator wants to know which process it is.

use std::fs::File;

/// The process that has `file` locked, as a clause of a message; none where nobody can tell.
#[cfg(target_os = "linux")]
pub(super) fn holder(file: &File) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let found = file.metadata().ok()?;
    let process = by_lock(found.ino()).or_else(|| by_descriptor(found.dev(), found.ino()))?;
    if process == std::process::id() {
        return Some("this process itself".to_owned());
    }
    let name = std::fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    // Any process may give itself any name.
    let name: String = name.trim_end().chars().filter(|c| !c.is_control()).collect();
    Some(if name.is_empty() { format!("process {process}") } else { format!("process {process} ({name})") })
}

#[cfg(not(target_os = "linux"))]
pub(super) fn holder(_: &File) -> Option<String> {
    None
}

/// The process that is named in the system's table of locks: its fifth field, beside device and inode in the sixth.
/// What a file system tells as its device differs from what stands there on some, so only a lone inode counts.
#[cfg(target_os = "linux")]
fn by_lock(inode: u64) -> Option<u32> {
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let mut holders = locks.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().skip(4);
        let (process, place) = (fields.next()?, fields.next()?);
        (place.rsplit(':').next()?.parse() == Ok(inode)).then(|| process.parse::<u32>().ok())?
    });
    let holder = holders.next()?;
    holders.all(|other| other == holder).then_some(holder)
}

/// A process that has the file open; only root sees those of others.
#[cfg(target_os = "linux")]
fn by_descriptor(device: u64, inode: u64) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let mut numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.find(|process| {
        let is_same = |found: std::fs::Metadata| (found.dev(), found.ino()) == (device, inode);
        let open = std::fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
        *process != std::process::id()
            && open.map(|link| link.path()).any(|link| std::fs::metadata(link).is_ok_and(is_same))
    })
}

#[cfg(test)]
mod tests {
    /// Some file systems show no lock in the system's table.
    #[cfg(target_os = "linux")]
    #[test]
    fn who_has_a_file_open_is_found_where_the_table_of_locks_does_not_tell() {
        use std::os::unix::fs::MetadataExt;
        use std::process::{Command, Stdio};

        use super::{by_descriptor, by_lock, holder};

        let file = tempfile::tempfile().unwrap();
        let found = file.metadata().unwrap();
        assert_eq!(by_descriptor(found.dev(), found.ino()), None, "this process is not looked for");
        // It ends when its other end does.
        let mut other = Command::new("cat").stdin(Stdio::piped()).stderr(file.try_clone().unwrap()).spawn().unwrap();
        assert_eq!(by_descriptor(found.dev(), found.ino()), Some(other.id()));
        assert_eq!(by_lock(found.ino()), None, "it has locked nothing");
        assert_eq!(holder(&file), Some(format!("process {} (cat)", other.id())));
        drop(other.stdin.take());
        other.wait().unwrap();
        assert_eq!(by_descriptor(found.dev(), found.ino()), None);
    }
}
