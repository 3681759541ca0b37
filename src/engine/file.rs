//! The real file: created so that no crash leaves half of one, opened so that nothing else is taken for a store.
//!
//! Invariants:
//! 1. A file appears under its name only when it is a whole store, synced, and its folder is synced after (P2).
//! 2. A file is readable and writable by its owner only, from its first moment.
//! 3. The file is locked before a byte of it is read, and stays locked while it is open (P1).
//! 4. No link is followed, nothing is written where the file is refused (P10).
//! 5. Nothing is written into, or acknowledged from, a file that somebody cut short while it is open (P10): a write
//!    behind the cut would fill what is missing with zeroes, and make the length look right again.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::Disk;
use super::holder::holder;
use super::journal::{FIRST_BYTES, Head, MAGIC, REDB_MAGIC};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::plain::RwLock;

/// Behind the name of a store that is being created.
const CREATING_SUFFIX: &str = ".creating";

/// Locked, open, and at `path`.
#[derive(Debug)]
pub(crate) struct RealFile {
    file: File,
    path: PathBuf,
    /// How long the file is, as far as this process made it: others may not make it shorter.
    len: RwLock<u64>,
    /// What the system calls the open file, where it tells.
    known_as: Option<PathBuf>,
}

/// Closing alone would not do: a child process that another thread is just starting holds a duplicate of the descriptor
/// until it runs its own program, and with it the lock.
impl Drop for RealFile {
    fn drop(&mut self) {
        drop(self.file.unlock());
    }
}

impl Disk for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    #[cfg(unix)]
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, out, offset)
    }

    #[cfg(unix)]
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check_len()?;
        std::os::unix::fs::FileExt::write_all_at(&self.file, data, offset)
    }

    #[cfg(windows)]
    fn read(&self, offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        let mut at = offset;
        while !out.is_empty() {
            match std::os::windows::fs::FileExt::seek_read(&self.file, out, at)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => {
                    out = out.split_at_mut(n).1;
                    at += n as u64;
                }
            }
        }
        Ok(())
    }

    #[cfg(windows)]
    fn write(&self, offset: u64, mut data: &[u8]) -> io::Result<()> {
        self.check_len()?;
        let mut at = offset;
        while !data.is_empty() {
            let n = std::os::windows::fs::FileExt::seek_write(&self.file, data, at)?;
            data = data.split_at(n).1;
            at += n as u64;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        // Nobody looks at it in between: who reads may have redb make it longer or shorter beside the writer.
        let mut known = self.len.write();
        self.check_len_of(*known)?;
        self.file.set_len(len)?;
        *known = len;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn release(&self) -> io::Result<()> {
        self.file.unlock()
    }

    fn check_name(&self) -> io::Result<()> {
        self.check_len()?;
        // A file that was removed, renamed or replaced is called otherwise. Whoever looks at a file's times, as
        // `is_same` does, makes the system note the next write by a time of its own, which the next sync pays for.
        // Where a folder in the name is a link, the file is called otherwise from the beginning.
        let is_called_the_same = self.known_as.as_deref() == Some(&self.path) && known_as(&self.file) == self.known_as;
        if is_called_the_same || is_same(&self.file, &self.path)? {
            Ok(())
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }
}

/// The store's file at `path`, made by `initialise` where there is none yet.
///
/// # Errors
///
/// With the path in the message: `InUse`, `NotAStore` or `Io`; and those of `initialise`.
pub(crate) fn open(path: &Path, initialise: impl Fn(Arc<dyn Disk>) -> Result<()>) -> Result<RealFile> {
    let absolute = std::path::absolute(path).map_err(|e| io_error("cannot resolve", path, e))?;
    loop {
        match fs::symlink_metadata(&absolute) {
            Ok(_) => return open_existing(&absolute, Use::Write),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error("cannot look at", path, error)),
        }
        create(&absolute, &initialise)?;
    }
}

/// Makes a file at `path`, readable by its owner only, that `write` fills: whole, synced and under its name, or not at
/// all. What stands at `path` is never replaced.
///
/// # Errors
///
/// With the path in the message: `Exists`, `InUse` where another copy is being made there, `Full` or `Io`; and those of
/// `write`.
pub(crate) fn create_copy<T>(path: &Path, write: impl FnOnce(Arc<dyn Disk>) -> Result<T>) -> Result<T> {
    let absolute = std::path::absolute(path).map_err(|e| io_error("cannot resolve", path, e))?;
    let failed = |error| io_error("cannot create", path, error);
    let exists = || Error::new(ErrorKind::Exists, format!("{} exists already; name another file", path.display()));
    let Some(creating) = creating(&absolute) else { return Err(not_a_store(path, "names no file")) };
    if fs::symlink_metadata(&absolute).is_ok() {
        return Err(exists());
    }
    if fs::symlink_metadata(&creating).is_ok_and(|found| !found.is_file()) {
        return Err(not_a_store(&creating, "is in the way of creating the copy; remove it"));
    }
    let file = new_file(&creating, path)?;
    let locked = Arc::new(lock(file, &creating, path, Use::Write)?);
    // One that died after it gave the file its name left both; the file was moved away since, and is not ours to clear.
    let is_ours =
        is_same(&locked.file, &creating).map_err(failed)? && !has_another_name(&locked.file).map_err(failed)?;
    if !is_ours {
        return Err(Error::new(ErrorKind::InUse, format!("{} was made by another; remove it", creating.display())));
    }
    let made = locked.set_len(0).map_err(failed).and_then(|()| write(Arc::<RealFile>::clone(&locked)));
    let named = made.and_then(|made| {
        locked.file.sync_all().map_err(failed)?;
        // Asked again, since the way of naming it may be one that replaces.
        if fs::symlink_metadata(&absolute).is_ok() {
            return Err(exists());
        }
        give_name(&creating, &absolute).map_err(failed)?;
        // Another that got the name meanwhile keeps it.
        if !is_same(&locked.file, &absolute).map_err(failed)? {
            return Err(exists());
        }
        if let Err(error) = sync_folder(&absolute) {
            // Nothing is left of a copy that nobody was told of.
            drop(fs::remove_file(&absolute));
            return Err(failed(error));
        }
        Ok(made)
    });
    // Whoever opens the copy finishes that, where it cannot be done now.
    drop(remove_name(&creating, &absolute));
    named
}

/// The store's file at `path`, to be read alone: nothing is created, finished or written, and others may read it too.
///
/// # Errors
///
/// With the path in the message: `InUse`, `NotAStore` or `Io`.
pub(crate) fn open_to_read(path: &Path) -> Result<RealFile> {
    let absolute = std::path::absolute(path).map_err(|e| io_error("cannot resolve", path, e))?;
    open_existing(&absolute, Use::Read)
}

/// The same of one that may be damaged: where redb's bytes begin in it, it may itself begin with anything.
///
/// # Errors
///
/// As for [`open_to_read`].
pub(crate) fn open_damaged(path: &Path) -> Result<RealFile> {
    let absolute = std::path::absolute(path).map_err(|e| io_error("cannot resolve", path, e))?;
    open_existing(&absolute, Use::Salvage)
}

/// The store's file at `path`, to be changed; nothing is created.
///
/// # Errors
///
/// As for [`open_to_read`].
pub(crate) fn open_to_write(path: &Path) -> Result<RealFile> {
    let absolute = std::path::absolute(path).map_err(|e| io_error("cannot resolve", path, e))?;
    open_existing(&absolute, Use::Write)
}

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Read,
    Salvage,
    Write,
}

/// What `open` opens; where it has to be its owner's alone, as long as it and its folder are.
///
/// # Errors
///
/// `Exposed`, or `Io` where the system does not tell; and those of `open`.
pub(crate) fn private(path: &Path, is_asked: bool, open: impl FnOnce() -> Result<RealFile>) -> Result<RealFile> {
    if !is_asked {
        return open();
    }
    check_private_folder(path)?;
    let file = open()?;
    file.check_private()?;
    Ok(file)
}

/// Fails where others than its owner may write to a store's folder, and so put another file in its place.
fn check_private_folder(path: &Path) -> Result<()> {
    let absolute = std::path::absolute(path).map_err(|e| io_error("cannot resolve", path, e))?;
    let Some(folder) = absolute.parent() else { return Ok(()) };
    let mode = mode(&fs::metadata(folder).map_err(|e| io_error("cannot look at the folder of", path, e))?);
    // In a sticky folder, as /tmp is, others can neither remove nor rename the file.
    if mode & 0o022 != 0 && mode & 0o1000 == 0 {
        return Err(exposed(path, "others may write to its folder, and put another file in its place (chmod go-w)"));
    }
    Ok(())
}

fn exposed(path: &Path, what: &str) -> Error {
    Error::new(ErrorKind::Exposed, format!("{}: {what}", path.display()))
}

/// What everybody may do with a file or folder; nothing that others may where the system has no such bits.
fn mode(found: &fs::Metadata) -> u32 {
    #[cfg(unix)]
    return std::os::unix::fs::MetadataExt::mode(found);
    #[cfg(not(unix))]
    return (found, 0).1;
}

impl RealFile {
    /// Fails where somebody cut the file short.
    fn check_len(&self) -> io::Result<()> {
        let known = self.len.read();
        self.check_len_of(*known)
    }

    fn check_len_of(&self, known: u64) -> io::Result<()> {
        // Not by its metadata, which has its times in it; see `check_name`. Nothing goes by the file's position.
        if (&self.file).seek(SeekFrom::End(0))? < known {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file was cut short"));
        }
        Ok(())
    }

    /// Fails where others than its owner may read or write the file.
    fn check_private(&self) -> Result<()> {
        let found = self.file.metadata().map_err(|e| io_error("cannot look at", &self.path, e))?;
        if mode(&found) & 0o077 != 0 {
            return Err(exposed(&self.path, "others may read or write it; take that away (chmod 600)"));
        }
        Ok(())
    }
}

fn open_existing(path: &Path, to: Use) -> Result<RealFile> {
    let found = fs::symlink_metadata(path).map_err(|e| io_error("cannot look at", path, e))?;
    if found.is_symlink() {
        return Err(not_a_store(path, "is a symbolic link; open the file it leads to"));
    }
    if found.is_dir() {
        return Err(not_a_store(path, "is a folder; name a file in it"));
    }
    if !found.is_file() {
        return Err(not_a_store(path, "is no regular file"));
    }
    let options = OpenOptions::new().read(true).write(to == Use::Write).to_owned();
    let what = if to == Use::Write { "cannot open for writing" } else { "cannot open" };
    let file = options.open(path).map_err(|e| io_error(what, path, e))?;
    let locked = lock(file, path, path, to)?;
    if !is_same(&locked.file, path).map_err(|e| io_error("cannot look at", path, e))? {
        return Err(Error::new(ErrorKind::InUse, format!("{} was replaced while it was opened", path.display())));
    }
    let mut start = [0; REDB_MAGIC.len()];
    let is_store = |start: &[u8]| start == REDB_MAGIC || start.starts_with(&MAGIC);
    match (&locked.file).read_exact(&mut start) {
        Ok(()) if is_store(&start) && to != Use::Write => Ok(locked),
        Ok(()) if is_store(&start) => {
            settle_name(&locked, path).map_err(|e| io_error("cannot make durable the name of", path, e))?;
            Ok(locked)
        }
        _ if to == Use::Salvage && Head::find(&locked).is_some() => Ok(locked),
        Ok(()) if Head::find(&locked).is_some() => {
            Err(Error::new(ErrorKind::Corrupt, format!("{}: {FIRST_BYTES}", path.display())))
        }
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(io_error("cannot read", path, error)),
        Err(_) if found.len() == 0 => {
            Err(not_a_store(path, "is empty, which no store ever is: restore a copy, or remove it to start anew"))
        }
        _ => Err(not_a_store(path, "holds something else than a store")),
    }
}

/// Makes the file under another name, and gives it its own only when it is whole.
///
/// Whoever holds the lock of the other name's file may finish or replace it; a file left there by a crash is locked by
/// nobody and taken over.
fn create(path: &Path, initialise: impl Fn(Arc<dyn Disk>) -> Result<()>) -> Result<()> {
    let Some(creating) = creating(path) else {
        return Err(not_a_store(path, "names no file"));
    };
    let failed = |error| io_error("cannot create", path, error);
    if fs::symlink_metadata(&creating).is_ok_and(|found| !found.is_file()) {
        return Err(not_a_store(&creating, "is in the way of creating the store; remove it"));
    }
    let file = new_file(&creating, path)?;
    let locked = Arc::new(lock(file, &creating, path, Use::Write)?);
    if !is_same(&locked.file, &creating).unwrap_or(false) {
        // Its maker finished between our opening and our locking it.
        return Ok(());
    }
    // A maker that died after giving the file its name left both names: then this file is the store.
    if fs::symlink_metadata(path).is_err() {
        if has_another_name(&locked.file).map_err(failed)? {
            // It was the store, and somebody moved it away: it is whole, and not ours to clear.
            return remove_name(&creating, path).map_err(failed);
        }
        locked.set_len(0).map_err(failed)?;
        initialise(Arc::<RealFile>::clone(&locked))?;
        locked.file.sync_all().map_err(failed)?;
        give_name(&creating, path).map_err(failed)?;
        sync_folder(path).map_err(failed)?;
        return remove_name(&creating, path).map_err(failed);
    }
    remove_name(&creating, path).map_err(failed)
}

/// Finishes what the file's maker may have left undone when it died: the name that was made last may not be durable,
/// and the other may still be there.
fn settle_name(locked: &RealFile, path: &Path) -> io::Result<()> {
    match creating(path) {
        Some(creating) if is_same(&locked.file, &creating).unwrap_or(false) => remove_name(&creating, path),
        _ => sync_folder(path),
    }
}

/// The name that a store has while it is made.
fn creating(path: &Path) -> Option<PathBuf> {
    let mut creating = path.file_name()?.to_owned();
    creating.push(CREATING_SUFFIX);
    Some(path.with_file_name(creating))
}

#[cfg(unix)]
fn has_another_name(file: &File) -> io::Result<bool> {
    Ok(std::os::unix::fs::MetadataExt::nlink(&file.metadata()?) > 1)
}

#[cfg(not(unix))]
fn has_another_name(_: &File) -> io::Result<bool> {
    Ok(false)
}

/// Gives the file a second name, which never replaces a file that has it already.
fn give_name(creating: &Path, path: &Path) -> io::Result<()> {
    match fs::hard_link(creating, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        // Not every file system has hard links.
        Err(error) if matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied) => {
            fs::rename(creating, path)
        }
        result => result,
    }
}

fn remove_name(creating: &Path, path: &Path) -> io::Result<()> {
    match fs::remove_file(creating) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => sync_folder(path),
    }
}

/// The file at `at` that the store of this `path` is made in: a new one, or one that a crash left there. Whoever made
/// one that others may read or write might have it open still.
fn new_file(at: &Path, path: &Path) -> Result<File> {
    let failed = |error| io_error("cannot create", path, error);
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.clone().create_new(true).open(at) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => return made.map_err(failed),
    }
    let left = options.create(true).truncate(false).open(at).map_err(failed)?;
    if mode(&left.metadata().map_err(failed)?) & 0o077 != 0 {
        return Err(exposed(at, "others may read or write it, so no store left it there; remove it"));
    }
    Ok(left)
}

/// The file at `at`, locked; `path` is the store's name, for the error.
fn lock(file: File, at: &Path, path: &Path, to: Use) -> Result<RealFile> {
    let locked = if to == Use::Write { file.try_lock() } else { file.try_lock_shared() };
    match locked {
        Ok(()) => {
            let len = file.metadata().map_err(|e| io_error("cannot look at", path, e))?.len();
            let known_as = known_as(&file);
            Ok(RealFile { file, path: at.to_owned(), len: RwLock::new(len), known_as })
        }
        Err(TryLockError::WouldBlock) => {
            let holder = holder(&file).unwrap_or_else(|| "another process, or already open in this one".to_owned());
            let message = format!("{} is open in {holder}", path.display());
            Err(Error::new(ErrorKind::InUse, message))
        }
        Err(TryLockError::Error(error)) => Err(io_error("cannot lock", path, error)),
    }
}

/// Makes a new name durable.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(path.parent().unwrap_or_else(|| Path::new("/")))?.sync_all()?;
    }
    Ok(())
}

/// Whether `path` is the name of the open `file`.
#[cfg(unix)]
fn is_same(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let (open, named) = (file.metadata()?, fs::symlink_metadata(path)?);
    Ok((open.dev(), open.ino()) == (named.dev(), named.ino()))
}

/// The path that the system knows an open file by.
#[cfg(target_os = "linux")]
fn known_as(file: &File) -> Option<PathBuf> {
    use std::os::fd::AsRawFd;
    fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()
}

#[cfg(not(target_os = "linux"))]
fn known_as(_: &File) -> Option<PathBuf> {
    None
}

/// Whether `path` is the name of the open `file`; here, where an open file cannot be replaced, whether it exists.
#[cfg(not(unix))]
fn is_same(_: &File, path: &Path) -> io::Result<bool> {
    fs::symlink_metadata(path).map(|_| true)
}

fn io_error(what: &str, path: &Path, source: io::Error) -> Error {
    let kind = match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => ErrorKind::Full,
        _ => ErrorKind::Io,
    };
    Error::because(kind, format!("{what} {}: {source}", path.display()), source)
}

fn not_a_store(path: &Path, why: &str) -> Error {
    Error::new(ErrorKind::NotAStore, format!("{} {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Else the write would fill what is missing with zeroes, and nothing would tell afterwards.
    #[test]
    fn p10_nothing_is_written_behind_a_cut_that_somebody_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.reentry");
        let file = lock(new_file(&path, &path).unwrap(), &path, &path, Use::Write).unwrap();
        file.set_len(8192).unwrap();
        file.write(4096, &[7; 4096]).unwrap();
        file.check_name().unwrap();
        File::options().write(true).open(&path).unwrap().set_len(4096).unwrap();
        assert!(file.write(4096, &[7; 4096]).is_err());
        assert!(file.set_len(8192).is_err());
        assert!(file.check_name().is_err());
        assert_eq!(file.len().unwrap(), 4096);
    }

    /// Whoever reads many rows has redb told of what is ahead of it, beside the writer.
    #[test]
    fn a_file_that_is_made_longer_and_shorter_beside_a_check_is_none_that_was_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.reentry");
        let file = lock(new_file(&path, &path).unwrap(), &path, &path, Use::Write).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..20_000).for_each(|nth| file.set_len(4096 << (nth % 2)).unwrap()));
            (0..20_000).for_each(|_| file.check_name().unwrap());
        });
    }
}
