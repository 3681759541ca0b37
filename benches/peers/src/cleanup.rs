//! What is temporary goes, however the run ends: processes are killed and folders removed, on Ctrl-C and SIGTERM too.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::probe::family;

static IS_INTERRUPTED: AtomicBool = AtomicBool::new(false);

static STARTED: Mutex<(BTreeSet<u32>, BTreeSet<PathBuf>)> = Mutex::new((BTreeSet::new(), BTreeSet::new()));

fn started<T>(change: impl FnOnce(&mut BTreeSet<u32>, &mut BTreeSet<PathBuf>) -> T) -> T {
    let (processes, folders) = &mut *STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    change(processes, folders)
}

/// From now on Ctrl-C and SIGTERM end what was started and remove what was made.
pub(crate) fn on_interrupt() {
    let interrupted = || {
        IS_INTERRUPTED.store(true, Ordering::Relaxed);
        started(|processes, folders| {
            for process in processes.iter() {
                kill_family(*process);
            }
            for folder in folders.iter() {
                remove(folder);
            }
        });
        std::process::exit(130);
    };
    if let Err(error) = ctrlc::set_handler(interrupted) {
        eprintln!("Ctrl-C will leave temporary files behind: {error}");
    }
}

/// Whoever finds a process gone calls this before it says so: after Ctrl-C, which reaches all processes at once, that
/// is no news, and this program is about to end.
pub(crate) fn end_if_interrupted() {
    std::thread::sleep(Duration::from_millis(100));
    while IS_INTERRUPTED.load(Ordering::Relaxed) {
        std::thread::park();
    }
}

/// Removes a folder, although a process that was killed a moment ago may still make files in it.
fn remove(folder: &Path) {
    for _ in 0..100 {
        match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                std::thread::sleep(Duration::from_millis(20));
            }
            _ => return,
        }
    }
    eprintln!("{} could not be removed", folder.display());
}

/// A folder that is removed when this is dropped.
pub(crate) struct Folder(TempDir);

impl Folder {
    /// Others may look into it: a server that runs as another user has its files in there.
    pub(crate) fn in_folder(parent: &Path) -> Result<Self, String> {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::Builder::new()
            .prefix("reentry-peers-")
            .permissions(std::fs::Permissions::from_mode(0o755))
            .tempdir_in(parent)
            .map_err(|error| format!("{}: {error}", parent.display()))?;
        started(|_, folders| folders.insert(folder.path().to_owned()));
        Ok(Self(folder))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        started(|_, folders| folders.remove(self.0.path()));
    }
}

/// Remembers a process that was started.
pub(crate) fn began(process: u32) {
    started(|processes, _| processes.insert(process));
}

/// Forgets a process that has ended.
pub(crate) fn ended(process: u32) {
    started(|processes, _| processes.remove(&process));
}

/// Kills a process and its children at once, as `kill -9` does.
pub(crate) fn kill_family(process: u32) {
    for process in family(process) {
        if let Some(process) = i32::try_from(process).ok().and_then(Pid::from_raw) {
            // It may have ended by itself.
            let _ = kill_process(process, Signal::KILL);
        }
    }
}
