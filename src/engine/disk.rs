//! What redb writes through: a disk of ours, so that every fault has a name and opening can be tried without harm.
//!
//! Invariants:
//! 1. Until an opened file is accepted nothing is written to it: what redb writes while it checks and repairs is
//!    staged in memory, so a file that is refused stays as it was (P10).
//! 2. The gravest fault since the batch began is remembered, with the call it came from: a failed sync is told apart
//!    from a full disk, which does not hide it (P10).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use redb::StorageBackend;

use crate::sync::plain::{AtomicBool, AtomicU64, Instant, Mutex, Ordering, RwLock};

/// The error type of redb's backend calls: `redb::BackendError` under its `experimental-api-5`.
pub(super) type BackendError = io::Error;

/// What staged writes are kept by, and entries of the journal.
pub(super) const PAGE_BYTES: usize = 4096;

const STOPPED: &str = "nothing is written any more after a sync, or the journal, failed";

/// A file, as the engine sees it.
pub(crate) trait Disk: fmt::Debug + Send + Sync + 'static {
    fn len(&self) -> io::Result<u64>;
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    fn sync(&self) -> io::Result<()>;

    /// Lets others open the file. Nothing is written after it.
    fn release(&self) -> io::Result<()> {
        Ok(())
    }

    /// Fails where the name no longer leads to the file that is written, or somebody cut that short: what is
    /// acknowledged would be lost.
    fn check_name(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A fault of the disk, and whether the sync itself failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) during_sync: bool,
    pub(crate) kind: io::ErrorKind,
}

impl Fault {
    /// Whether it means that there is no room: something that ends when somebody makes room.
    pub(crate) fn is_full(self) -> bool {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        !self.during_sync && matches!(self.kind, StorageFull | QuotaExceeded | FileTooLarge)
    }

    /// A full disk mends; what was not written or read may be tried again; what a sync dropped is gone.
    fn gravity(self) -> u8 {
        if self.during_sync { 2 } else { u8::from(!self.is_full()) }
    }
}

/// The disk under one open redb database: handed to redb as its backend, kept by the engine to accept and to ask.
#[derive(Debug, Clone)]
pub(crate) struct Backend(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    disk: Arc<dyn Disk>,
    /// How many bytes of the file stand before redb's.
    front: u64,
    /// Whether `staged` holds something: asked on every call, so that no call waits for another once it is open.
    opening: AtomicBool,
    staged: Mutex<Option<Staged>>,
    fault: Mutex<Option<Fault>>,
    /// Whether something failed that redb does not know of: nothing is written any more.
    is_stopped: AtomicBool,
    /// How long redb made the file, where that is not done yet.
    grows_to: Mutex<Option<u64>>,
    /// How long syncs took since that was last asked for.
    sync_nanos: AtomicU64,
}

impl Backend {
    /// A backend that writes nothing until it is accepted. So many bytes of the file stand before redb's.
    pub(crate) fn staged(disk: Arc<dyn Disk>, front: u64) -> io::Result<Self> {
        let there = disk.len()?;
        let staged = Staged { there, len: there, pages: BTreeMap::new(), calls: Vec::new() };
        Ok(Self::new(disk, front, Some(staged)))
    }

    /// A backend that writes at once.
    pub(crate) fn direct(disk: Arc<dyn Disk>, front: u64) -> Self {
        Self::new(disk, front, None)
    }

    fn new(disk: Arc<dyn Disk>, front: u64, staged: Option<Staged>) -> Self {
        let opening = AtomicBool::new(staged.is_some());
        let (staged, fault, sync_nanos) = (Mutex::new(staged), Mutex::default(), AtomicU64::default());
        let (is_stopped, grows_to) = (AtomicBool::default(), Mutex::default());
        Self(Arc::new(Inner { disk, front, opening, staged, fault, is_stopped, grows_to, sync_nanos }))
    }

    /// Writes what was staged, in its order and with its syncs, and from now on writes at once.
    pub(crate) fn accept(&self) -> io::Result<()> {
        let mut staged = self.0.staged.lock();
        for call in staged.iter().flat_map(|staged| &staged.calls) {
            match call {
                Call::Write(offset, data) => self.0.disk.write(*offset, data),
                Call::SetLen(len) => self.0.disk.set_len(*len),
                Call::Sync => self.0.disk.sync(),
            }?;
        }
        *staged = None;
        self.0.opening.store(false, Ordering::Release);
        Ok(())
    }

    /// Whether nothing is written yet.
    pub(crate) fn is_staged(&self) -> bool {
        self.0.opening.load(Ordering::Acquire)
    }

    /// The gravest fault since a batch began.
    pub(crate) fn fault(&self) -> Option<Fault> {
        *self.0.fault.lock()
    }

    /// How long syncs took since this was last asked.
    pub(crate) fn take_sync_time(&self) -> Duration {
        Duration::from_nanos(self.0.sync_nanos.swap(0, Ordering::Relaxed))
    }

    /// A batch begins. A fault that kept nothing from being committed before it was met by a reader, or by a write
    /// ahead of its time, which redb makes good by a later one. What a sync dropped is remembered for ever.
    pub(crate) fn forget_what_was_made_good(&self) {
        self.0.fault.lock().take_if(|fault| !fault.during_sync);
    }

    /// Does a call on what is staged while the file is being opened, else on the disk, and remembers its fault.
    fn call<T>(
        &self,
        during_sync: bool,
        while_opening: impl FnOnce(&mut Staged, &dyn Disk) -> io::Result<T>,
        else_on: impl FnOnce(&dyn Disk) -> io::Result<T>,
    ) -> Result<T, BackendError> {
        let inner = &*self.0;
        let result = if inner.opening.load(Ordering::Acquire) {
            match &mut *inner.staged.lock() {
                Some(staged) => while_opening(staged, &*inner.disk),
                None => else_on(&*inner.disk),
            }
        } else {
            else_on(&*inner.disk)
        };
        if let Err(error) = &result {
            let (fault, mut known) = (Fault { during_sync, kind: error.kind() }, inner.fault.lock());
            if known.is_none_or(|known| known.gravity() < fault.gravity()) {
                *known = Some(fault);
            }
        }
        // The conversion is one under redb's `experimental-api-5`.
        #[expect(clippy::needless_question_mark, reason = "see above")]
        Ok(result?)
    }
}

impl Backend {
    /// Reads from the file itself, before redb's bytes.
    pub(super) fn read_front(&self, offset: u64, out: &mut [u8]) -> Result<(), BackendError> {
        // Both closures fill the one buffer, of which only one runs.
        let out = std::cell::RefCell::new(out);
        self.call(
            false,
            |staged, disk| staged.read(disk, offset, &mut out.borrow_mut()),
            |disk| disk.read(offset, &mut out.borrow_mut()),
        )
    }

    /// Writes durably to the file itself, before redb's bytes. Where that fails nothing is written any more, as after a
    /// fault of redb's own: it would take in by a later commit what nobody may be told of.
    pub(super) fn write_front(&self, offset: u64, data: &[u8]) -> Result<(), BackendError> {
        self.check_stopped()?;
        if let Err(error) = self.write_at(offset, data) {
            self.stop();
            return Err(error);
        }
        self.sync()
    }

    /// Nothing is written any more.
    fn stop(&self) {
        self.0.is_stopped.store(true, Ordering::Release);
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), BackendError> {
        self.call(false, |staged, disk| staged.write(disk, offset, data), |disk| disk.write(offset, data))
    }

    /// Where it fails nothing is written any more. redb forgives that in a write ahead of its time, and could write a
    /// header over pages that were dropped.
    fn sync(&self) -> Result<(), BackendError> {
        let staged_sync = |staged: &mut Staged, _: &dyn Disk| {
            staged.calls.push(Call::Sync);
            Ok(())
        };
        let began = Instant::now();
        let synced = self.call(true, staged_sync, Disk::sync);
        let nanos = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.0.sync_nanos.fetch_add(nanos, Ordering::Relaxed);
        if synced.is_err() {
            self.stop();
        }
        synced
    }

    fn len_now(&self) -> Result<u64, BackendError> {
        self.call(false, |staged, _| Ok(staged.len), Disk::len)
    }

    fn set_len_now(&self, len: u64) -> Result<(), BackendError> {
        let set_staged = |staged: &mut Staged, _: &dyn Disk| {
            staged.set_len(len);
            Ok(())
        };
        self.call(false, set_staged, |disk| disk.set_len(len))
    }

    fn check_stopped(&self) -> Result<(), BackendError> {
        let is_stopped = self.0.is_stopped.load(Ordering::Acquire);
        // The conversion is one under redb's `experimental-api-5`.
        #[expect(clippy::useless_conversion, reason = "see above")]
        if is_stopped { Err(io::Error::other(STOPPED).into()) } else { Ok(()) }
    }

    /// Where in the file this place of redb's bytes is.
    fn behind_front(&self, offset: u64) -> Result<u64, BackendError> {
        // The conversion is one under redb's `experimental-api-5`.
        #[expect(clippy::useless_conversion, reason = "see above")]
        offset.checked_add(self.0.front).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput).into())
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> Result<u64, BackendError> {
        let grows_to = *self.0.grows_to.lock();
        let len = grows_to.map_or_else(|| self.len_now(), Ok)?;
        Ok(len.saturating_sub(self.0.front))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), BackendError> {
        self.read_front(self.behind_front(offset)?, out)
    }

    /// A file grows before something is next written to it, durably, as redb has it do at once. So where the disk is
    /// full redb can still be told, in memory, what the journal has room for.
    fn set_len(&self, len: u64) -> Result<(), BackendError> {
        self.check_stopped()?;
        let len = self.behind_front(len)?;
        let mut grows_to = self.0.grows_to.lock();
        if len > self.len_now()? {
            *grows_to = Some(len);
            return Ok(());
        }
        *grows_to = None;
        self.set_len_now(len)
    }

    fn sync_data(&self) -> Result<(), BackendError> {
        self.check_stopped()?;
        self.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), BackendError> {
        self.check_stopped()?;
        let mut grows_to = self.0.grows_to.lock();
        if let Some(len) = *grows_to {
            self.set_len_now(len)?;
            self.sync()?;
            *grows_to = None;
        }
        drop(grows_to);
        self.write_at(self.behind_front(offset)?, data)
    }
}

/// What redb wrote while a file was being opened: the pages as they would be, and the calls that make them so.
#[derive(Debug)]
struct Staged {
    /// How much of the file on the disk still counts: all of it, up to the shortest that it was cut to.
    there: u64,
    len: u64,
    pages: BTreeMap<u64, Box<[u8]>>,
    calls: Vec<Call>,
}

#[derive(Debug)]
enum Call {
    Write(u64, Box<[u8]>),
    SetLen(u64),
    Sync,
}

impl Staged {
    fn read(&self, disk: &dyn Disk, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if end(offset, out.len())? > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (page, within, part) in split(offset, out.len()) {
            let out = out.get_mut(part).unwrap_or_default();
            match self.pages.get(&page).and_then(|bytes| bytes.get(within.clone())) {
                Some(bytes) => out.copy_from_slice(bytes),
                None => read_or_zero(disk, self.there, page_offset(page) + within.start as u64, out)?,
            }
        }
        Ok(())
    }

    fn write(&mut self, disk: &dyn Disk, offset: u64, data: &[u8]) -> io::Result<()> {
        for (page, within, part) in split(offset, data.len()) {
            let bytes = self.page(disk, page)?;
            if let (Some(to), Some(from)) = (bytes.get_mut(within), data.get(part)) {
                to.copy_from_slice(from);
            }
        }
        self.len = self.len.max(end(offset, data.len())?);
        self.calls.push(Call::Write(offset, data.into()));
        Ok(())
    }

    fn set_len(&mut self, len: u64) {
        // What lies behind a cut is zero when the file grows again. redb makes a file twice as long to write a page as
        // it closes, and cuts it again: to keep all that would take the memory of a file.
        if len < self.len {
            self.there = self.there.min(len);
            self.pages.retain(|page, _| page_offset(*page) < len);
            let within = usize::try_from(len % PAGE_BYTES as u64).unwrap_or_default();
            let cut = self.pages.get_mut(&(len / PAGE_BYTES as u64));
            cut.and_then(|bytes| bytes.get_mut(within..)).into_iter().for_each(|tail| tail.fill(0));
        }
        self.len = len;
        self.calls.push(Call::SetLen(len));
    }

    /// The staged page of this number, taken from the disk where it is not staged yet.
    fn page(&mut self, disk: &dyn Disk, page: u64) -> io::Result<&mut [u8]> {
        let there = self.there;
        match self.pages.entry(page) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let mut bytes = vec![0; PAGE_BYTES].into_boxed_slice();
                read_or_zero(disk, there, page_offset(page), &mut bytes)?;
                Ok(entry.insert(bytes))
            }
        }
    }
}

/// A range of bytes as pages: the page's number, the range within it, and the range of the caller's buffer.
fn split(offset: u64, len: usize) -> impl Iterator<Item = (u64, Range<usize>, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let within = usize::try_from(at % PAGE_BYTES as u64).unwrap_or_default();
        let part = (PAGE_BYTES - within).min(len - done);
        let item = (at / PAGE_BYTES as u64, within..within + part, done..done + part);
        done += part;
        (part > 0).then_some(item)
    })
}

fn page_offset(page: u64) -> u64 {
    page.saturating_mul(PAGE_BYTES as u64)
}

fn end(offset: u64, len: usize) -> io::Result<u64> {
    offset.checked_add(len as u64).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// Reads what is there, up to `there`; what lies behind that is zero.
fn read_or_zero(disk: &dyn Disk, there: u64, offset: u64, out: &mut [u8]) -> io::Result<()> {
    let present = usize::try_from(there.saturating_sub(offset)).unwrap_or(usize::MAX).min(out.len());
    let (present, absent) = out.split_at_mut(present);
    absent.fill(0);
    if present.is_empty() { Ok(()) } else { disk.read(offset, present) }
}

/// A disk in memory, for a store that is not meant to outlive its process.
#[derive(Debug, Default)]
pub(crate) struct Memory(RwLock<Vec<u8>>);

#[cfg(any(test, feature = "testing"))]
impl Memory {
    pub(crate) fn image(&self) -> Vec<u8> {
        self.0.read().clone()
    }
}

impl Disk for Memory {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.read().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        copy_out(&self.0.read(), offset, out)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        copy_in(&mut self.0.write(), offset, data)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.write().resize(usize::try_from(len).map_err(io::Error::other)?, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads from an image of a file.
pub(crate) fn copy_out(image: &[u8], offset: u64, out: &mut [u8]) -> io::Result<()> {
    let start = usize::try_from(offset).map_err(io::Error::other)?;
    let end = start.checked_add(out.len()).ok_or(io::ErrorKind::InvalidInput)?;
    out.copy_from_slice(image.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
    Ok(())
}

/// Writes into an image of a file, which grows as a file does.
pub(crate) fn copy_in(image: &mut Vec<u8>, offset: u64, data: &[u8]) -> io::Result<()> {
    let start = usize::try_from(offset).map_err(io::Error::other)?;
    let end = start.checked_add(data.len()).ok_or(io::ErrorKind::InvalidInput)?;
    if image.len() < end {
        image.resize(end, 0);
    }
    image.get_mut(start..end).ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(data);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::mishap::{DiskCall, DiskFault};
    use super::super::simulated::SimulatedDisk;
    use super::*;

    /// The same calls on a staged backend and on plain memory must read alike, and leave alike when accepted.
    #[test]
    fn p10_staged_calls_read_back_and_reach_the_disk_only_when_accepted() {
        let disk = Arc::new(Memory::default());
        // No two bytes near each other are the same.
        disk.write(0, &(0..10_000).map(|at: u32| (at % 251).to_le_bytes()[0]).collect::<Vec<_>>()).unwrap();
        let before = disk.0.read().clone();
        let plain = Memory(RwLock::new(before.clone()));
        let backend = Backend::staged(Arc::<Memory>::clone(&disk), 0).unwrap();
        backend.write(4_090, &[1; 20]).unwrap();
        plain.write(4_090, &[1; 20]).unwrap();
        backend.set_len(5_000).unwrap();
        plain.set_len(5_000).unwrap();
        backend.set_len(20_000).unwrap();
        plain.set_len(20_000).unwrap();
        backend.write(19_990, &[9; 10]).unwrap();
        plain.write(19_990, &[9; 10]).unwrap();
        let (mut staged, mut expected) = (vec![0; 20_000], vec![0; 20_000]);
        backend.read(0, &mut staged).unwrap();
        plain.read(0, &mut expected).unwrap();
        assert!(staged == expected);
        for (offset, len) in [(1, 10), (4_000, 200), (4_095, 2), (4_999, 9_000), (12_287, 7_713), (20_000, 0)] {
            let mut part = vec![8; len];
            backend.read(offset as u64, &mut part).unwrap();
            assert!(part == expected[offset..offset + len], "{len} bytes at {offset}");
        }
        assert!(backend.read(19_999, &mut [0; 2]).is_err());
        assert!(*disk.0.read() == before, "nothing was written before it was accepted");
        backend.accept().unwrap();
        assert!(*disk.0.read() == expected);
    }

    /// redb makes a file twice as long as it closes it, and cuts it: neither takes memory, nor does what was there.
    #[test]
    fn a_file_that_is_made_longer_and_cut_while_it_is_staged_takes_no_memory_and_is_zero_behind_the_cut() {
        let disk = Arc::new(Memory::default());
        disk.write(0, &[7; 10_000]).unwrap();
        let mut staged = Staged { there: 10_000, len: 10_000, pages: BTreeMap::new(), calls: Vec::new() };
        staged.set_len(1 << 50);
        staged.write(&*disk, (1 << 50) - 5, &[3; 5]).unwrap();
        staged.write(&*disk, 8_000, &[1; 10]).unwrap();
        staged.set_len(8_005);
        staged.set_len(1 << 50);
        assert_eq!(staged.pages.len(), 1);
        let read = |offset| {
            let mut bytes = [9; 10];
            staged.read(&*disk, offset, &mut bytes).unwrap();
            bytes
        };
        assert_eq!((read(7_990), read(8_000)), ([7; 10], [1, 1, 1, 1, 1, 0, 0, 0, 0, 0]));
        assert_eq!((read(9_000), read((1 << 50) - 10)), ([0; 10], [0; 10]));
    }

    /// Each of its calls fails in this way.
    #[derive(Debug)]
    struct Failing(Mutex<io::ErrorKind>);

    impl Disk for Failing {
        fn len(&self) -> io::Result<u64> {
            Ok(0)
        }

        fn read(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
            Err((*self.0.lock()).into())
        }

        fn write(&self, _: u64, _: &[u8]) -> io::Result<()> {
            Err((*self.0.lock()).into())
        }

        fn set_len(&self, _: u64) -> io::Result<()> {
            Ok(())
        }

        fn sync(&self) -> io::Result<()> {
            Err((*self.0.lock()).into())
        }
    }

    #[test]
    fn p10_the_gravest_fault_of_a_batch_is_remembered_and_a_failed_sync_beyond_it() {
        use io::ErrorKind::{Other, PermissionDenied, StorageFull};
        let disk = Arc::new(Failing(Mutex::new(StorageFull)));
        let backend = Backend::direct(Arc::<Failing>::clone(&disk), 0);
        let write = |kind| {
            *disk.0.lock() = kind;
            assert!(backend.write(0, &[1]).is_err());
            backend.fault().map(|fault| (fault.kind, fault.during_sync))
        };
        assert_eq!(write(StorageFull), Some((StorageFull, false)));
        assert_eq!(write(Other), Some((Other, false)), "it is graver");
        assert_eq!(write(StorageFull), Some((Other, false)));
        assert_eq!(write(PermissionDenied), Some((Other, false)), "of two as grave the first is the cause");
        backend.forget_what_was_made_good();
        assert_eq!(write(StorageFull), Some((StorageFull, false)));
        assert!(backend.sync_data().is_err());
        assert_eq!(write(Other), Some((StorageFull, true)));
        backend.forget_what_was_made_good();
        assert!(backend.fault().is_some_and(|fault| fault.during_sync && !fault.is_full()));
    }

    /// redb forgives the write before which the file grows.
    #[test]
    fn p10_where_the_sync_of_a_longer_file_failed_nothing_is_written_any_more() {
        let disk = SimulatedDisk::from_image(vec![7; 3 * PAGE_BYTES]);
        let backend = Backend::direct(Arc::new(disk.clone()), PAGE_BYTES as u64);
        backend.set_len(9 * PAGE_BYTES as u64).unwrap();
        disk.fail([DiskFault::kind(io::ErrorKind::Other).on(&[DiskCall::Sync])]);
        assert!(backend.write(0, &[1]).is_err());
        let (image, seen) = (disk.image(), disk.seen(DiskCall::ALL));
        assert!(backend.write(0, &[1]).is_err() && backend.sync_data().is_err() && backend.set_len(0).is_err());
        assert!(backend.write_front(0, &[1]).is_err(), "nor an entry of the journal");
        assert!(disk.image() == image && disk.seen(DiskCall::ALL) == seen);
    }

    /// redb hears nothing of it, and would go on to write and sync.
    #[test]
    fn p10_where_the_journal_could_not_be_written_nothing_is_written_any_more() {
        type Call = fn(&Backend) -> Result<(), BackendError>;
        let calls: [Call; 3] = [|backend| backend.write(0, &[1]), |backend| backend.set_len(0), Backend::sync_data];
        let failing: [&[DiskCall]; 2] = [&[DiskCall::Write], &[DiskCall::Sync]];
        for (kinds, call) in failing.into_iter().flat_map(|kinds| calls.map(|call| (kinds, call))) {
            let disk = SimulatedDisk::from_image(vec![7; 3 * PAGE_BYTES]);
            let backend = Backend::direct(Arc::new(disk.clone()), PAGE_BYTES as u64);
            backend.write_front(0, &[1; 10]).unwrap();
            call(&backend).unwrap();
            disk.fail([DiskFault::kind(io::ErrorKind::Other).on(kinds)]);
            assert!(backend.write_front(0, &[2; 10]).is_err());
            let image = disk.image();
            let seen = disk.seen(DiskCall::ALL);
            assert!(call(&backend).is_err());
            assert!(disk.image() == image && disk.seen(DiskCall::ALL) == seen);
        }
    }
}
