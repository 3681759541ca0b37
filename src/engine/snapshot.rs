//! The disk under redb, of which a copy can be made while redb goes on writing.
//!
//! A [`Snapshot`] is the file as it was at one moment. Whoever takes it reads the file from its start to its end;
//! before redb writes over a block that has not been read yet, the block as it was is put aside. So the copy is what a
//! process killed at that moment would have left, which redb opens like any other; nothing of redb's format is known
//! here, and the file does not grow for it.
//!
//! Invariants:
//! 1. A block of a snapshot is read before it is written over, or put aside before that: one of the two.
//! 2. Writing waits for no reader of a snapshot, and never for the disk that a copy goes to. A snapshot that too much
//!    is put aside for is given up; redb's write is not.
//! 3. While a snapshot is taken the file is not cut: what is to be cut off is owed, and cut at its end.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use super::disk::Disk;
use crate::sync::plain::{Mutex, RwLock};

/// What is put aside at once.
const BLOCK_BYTES: u64 = 4096;

/// How much may be put aside for a reader that does not come for it.
const ASIDE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A disk, and the snapshots that are being taken of it.
#[derive(Debug)]
pub(crate) struct LiveDisk {
    disk: Arc<dyn Disk>,
    /// Held shared while something is written, so that a snapshot begins between two writes.
    taken: RwLock<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    /// Whether the store has let go of the file.
    is_released: bool,
    snapshots: Vec<Arc<Mutex<Left>>>,
    /// To how many bytes the file is to be cut when the last of them is over.
    owed: Mutex<Option<u64>>,
}

/// What is left to read of a snapshot.
#[derive(Debug)]
struct Left {
    /// Where it goes on, and where it ends.
    next: u64,
    end: u64,
    /// The blocks behind that which were put aside, by their number.
    saved: BTreeSet<u64>,
    aside: Vec<Part>,
    aside_bytes: usize,
    /// Why it was given up.
    given_up: Option<GivenUp>,
}

#[derive(Debug, Clone, Copy)]
enum GivenUp {
    Closed,
    Behind,
    Unreadable(io::ErrorKind),
}

/// Bytes of the file, and where they stand.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
}

/// The file as it was at one moment, while it is read.
#[derive(Debug)]
pub(crate) struct Snapshot {
    live: Arc<LiveDisk>,
    left: Arc<Mutex<Left>>,
    len: u64,
}

impl LiveDisk {
    pub(crate) fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, taken: RwLock::default() }
    }

    /// The file as it is now.
    pub(crate) fn snapshot(self: &Arc<Self>) -> io::Result<Snapshot> {
        let mut taken = self.taken.write();
        if taken.is_released {
            return Err(closed());
        }
        let owed = *taken.owed.lock();
        let len = owed.map_or_else(|| self.disk.len(), Ok)?;
        let left =
            Left { next: 0, end: len, saved: BTreeSet::new(), aside: Vec::new(), aside_bytes: 0, given_up: None };
        let left = Arc::new(Mutex::new(left));
        taken.snapshots.push(Arc::clone(&left));
        drop(taken);
        Ok(Snapshot { live: Arc::clone(self), left, len })
    }

    /// Ends one snapshot, and cuts the file where that is owed and no other is taken.
    fn end(&self, left: &Arc<Mutex<Left>>) -> io::Result<()> {
        let mut taken = self.taken.write();
        taken.snapshots.retain(|other| !Arc::ptr_eq(other, left));
        self.pay(&taken)
    }

    fn pay(&self, taken: &Taken) -> io::Result<()> {
        if !taken.snapshots.is_empty() {
            return Ok(());
        }
        taken.owed.lock().take().map_or(Ok(()), |len| self.disk.set_len(len))
    }
}

impl Disk for LiveDisk {
    fn len(&self) -> io::Result<u64> {
        let owed = *self.taken.read().owed.lock();
        owed.map_or_else(|| self.disk.len(), Ok)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.read(offset, out)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let taken = self.taken.read();
        for left in &taken.snapshots {
            left.lock().put_aside(&*self.disk, offset, data.len());
        }
        if let Some(owed) = &mut *taken.owed.lock() {
            *owed = (*owed).max(offset.saturating_add(data.len() as u64));
        }
        self.disk.write(offset, data)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let taken = self.taken.read();
        let is_cut = !taken.snapshots.is_empty() && len < self.disk.len()?;
        *taken.owed.lock() = is_cut.then_some(len);
        if is_cut { Ok(()) } else { self.disk.set_len(len) }
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.sync()
    }

    fn release(&self) -> io::Result<()> {
        let mut taken = self.taken.write();
        taken.is_released = true;
        for left in taken.snapshots.drain(..) {
            left.lock().give_up(GivenUp::Closed);
        }
        let paid = self.pay(&taken);
        self.disk.release().and(paid)
    }

    fn check_name(&self) -> io::Result<()> {
        self.disk.check_name()
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the store was closed")
}

impl Left {
    /// Puts aside what is about to be written over and was not read yet.
    fn put_aside(&mut self, disk: &dyn Disk, offset: u64, len: usize) {
        let (from, to) = (offset.max(self.next), offset.saturating_add(len as u64).min(self.end));
        if from >= to || self.given_up.is_some() {
            return;
        }
        for block in from / BLOCK_BYTES..to.div_ceil(BLOCK_BYTES) {
            if !self.saved.insert(block) {
                continue;
            }
            let offset = block * BLOCK_BYTES;
            let len = (self.end - offset).min(BLOCK_BYTES);
            let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
            if let Err(error) = disk.read(offset, &mut bytes) {
                return self.give_up(GivenUp::Unreadable(error.kind()));
            }
            self.aside_bytes += bytes.len();
            self.aside.push(Part { offset, bytes });
        }
        if self.aside_bytes > ASIDE_BYTES_MAX {
            self.give_up(GivenUp::Behind);
        }
    }

    fn give_up(&mut self, why: GivenUp) {
        self.given_up.get_or_insert(why);
        (self.saved, self.aside, self.aside_bytes) = (BTreeSet::new(), Vec::new(), 0);
    }

    /// Takes what was put aside, and of these bytes of the file, which begin where it goes on, those that were not.
    fn take(&mut self, bytes: &[u8]) -> Vec<Part> {
        let mut parts = std::mem::take(&mut self.aside);
        self.aside_bytes = 0;
        let start = self.next;
        self.next = start + bytes.len() as u64;
        let behind = self.saved.split_off(&self.next.div_ceil(BLOCK_BYTES));
        let saved = std::mem::replace(&mut self.saved, behind);
        let mut at = start;
        // Where the last block ends too, so that what lies between two blocks is one part.
        let edges = saved.iter().map(|block| (block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES));
        for (from, to) in edges.chain([(self.next, self.next)]) {
            if let Some(part) = within(bytes, start, at, from) {
                parts.push(Part { offset: at, bytes: part.to_vec() });
            }
            at = to;
        }
        parts
    }
}

/// What stands from `from` to `to`, in bytes that begin at `start`; none where that is nothing.
fn within(bytes: &[u8], start: u64, from: u64, to: u64) -> Option<&[u8]> {
    let at = |place: u64| usize::try_from(place.checked_sub(start)?).ok();
    bytes.get(at(from)?..at(to)?).filter(|part| !part.is_empty())
}

impl Snapshot {
    /// How long the file was.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// How far it is read.
    pub(crate) fn done(&self) -> u64 {
        self.left.lock().next
    }

    /// Reads up to `most` bytes more, which must be whole blocks; they may come in another order than that of the file.
    /// None at the end.
    pub(crate) fn read(&self, most: usize) -> io::Result<Option<Vec<Part>>> {
        let start = self.done();
        let len = usize::try_from(self.len - start).unwrap_or(usize::MAX).min(most);
        let mut bytes = vec![0; len];
        // What is written over meanwhile was put aside before: that is asked after this. So is whether it was given up:
        // as the store is closed its file may become shorter.
        let read = self.live.disk.read(start, &mut bytes);
        let mut left = self.left.lock();
        if let Some(why) = left.given_up {
            return Err(why.error());
        }
        read?;
        if bytes.is_empty() && left.aside.is_empty() {
            return Ok(None);
        }
        Ok(Some(left.take(&bytes)))
    }

    /// Ends it.
    ///
    /// # Errors
    ///
    /// What cutting the file came to, where redb had asked for that meanwhile.
    pub(crate) fn end(&self) -> io::Result<()> {
        self.live.end(&self.left)
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        // A file that is longer than it need be is as good; it is cut when redb next cuts it.
        drop(self.end());
    }
}

impl GivenUp {
    fn error(self) -> io::Error {
        match self {
            Self::Closed => closed(),
            Self::Behind => {
                let message = "the disk that the copy goes to does not keep up; copy to a faster one first";
                io::Error::new(io::ErrorKind::TimedOut, message)
            }
            Self::Unreadable(kind) => kind.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::disk::{Memory, copy_in};
    use super::*;
    use crate::sync::plain::{AtomicBool, Ordering};

    /// Chance that is the same in every run (a linear congruence).
    struct Chance(u64);

    impl Chance {
        fn below(&mut self, end: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % end
        }
    }

    /// A disk of this many bytes, not a whole number of blocks.
    fn disk(len: u64) -> (Arc<Memory>, Arc<LiveDisk>) {
        let memory = Arc::new(Memory::default());
        let bytes: Vec<u8> = (0..len).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect();
        memory.write(0, &bytes).unwrap();
        (Arc::<Memory>::clone(&memory), Arc::new(LiveDisk::new(memory)))
    }

    /// Reads a part of a snapshot into a copy. Returns whether there may be more.
    fn read(snapshot: &Snapshot, copy: &mut [Option<u8>], most: usize) -> bool {
        let Some(parts) = snapshot.read(most).unwrap() else { return false };
        for part in parts {
            for (nth, byte) in part.bytes.into_iter().enumerate() {
                let at = usize::try_from(part.offset).unwrap() + nth;
                assert_eq!(copy[at].replace(byte), None, "byte {at} came twice");
            }
        }
        true
    }

    fn change(live: &LiveDisk, chance: &mut Chance, nth: u64) {
        let len = live.len().unwrap();
        match chance.below(6) {
            0 => live.set_len(chance.below(len) + 1).unwrap(),
            1 => live.set_len(len + chance.below(30_000)).unwrap(),
            _ => {
                let bytes = vec![u8::try_from(nth % 256).unwrap(); 1 + usize::try_from(chance.below(9_000)).unwrap()];
                live.write(chance.below(len + 1), &bytes).unwrap();
            }
        }
    }

    /// The file is cut as it is let go of, where that was owed: what then lies behind its end is no damage.
    #[test]
    fn p10_a_snapshot_that_is_given_up_says_so_though_the_file_is_shorter_by_then() {
        let (_, live) = disk(4 * BLOCK_BYTES);
        let snapshot = live.snapshot().unwrap();
        assert!(snapshot.read(3 * 4096).unwrap().is_some());
        live.set_len(BLOCK_BYTES).unwrap();
        live.release().unwrap();
        assert_eq!(snapshot.read(4096).map(drop).unwrap_err().kind(), io::ErrorKind::NotConnected);
    }

    /// Its lock is gone, and whoever opened the file since may write to it.
    #[test]
    fn p10_no_snapshot_is_taken_of_a_file_that_was_let_go() {
        let (_, live) = disk(BLOCK_BYTES);
        assert!(live.snapshot().is_ok());
        live.release().unwrap();
        assert_eq!(live.snapshot().map(drop).unwrap_err().kind(), io::ErrorKind::NotConnected);
    }

    #[test]
    fn a_snapshot_is_the_file_as_it_was_whatever_is_written_and_cut_meanwhile() {
        for seed in 0..300 {
            let mut chance = Chance(seed);
            let (memory, live) = disk(40_000 + seed * 11);
            (0..5).for_each(|nth| change(&live, &mut chance, nth));
            let before = memory.image();
            let snapshot = live.snapshot().unwrap();
            assert_eq!(snapshot.len(), before.len() as u64);
            let mut copy = vec![None; before.len()];
            let mut nth = 0;
            while read(&snapshot, &mut copy, 4096 * (1 + usize::try_from(chance.below(3)).unwrap())) {
                for _ in 0..chance.below(4) {
                    change(&live, &mut chance, nth);
                    nth += 1;
                }
            }
            let copy: Vec<u8> = copy.into_iter().map(|byte| byte.expect("every byte came")).collect();
            assert!(copy == before, "seed {seed}");
            let len = live.len().unwrap();
            snapshot.end().unwrap();
            assert_eq!((live.len().unwrap(), memory.len().unwrap()), (len, len), "what was owed is cut");
        }
    }

    /// The writer never waits for the reader, so whatever is read may be written over at that moment.
    #[test]
    fn a_snapshot_is_the_file_as_it_was_while_another_thread_writes_as_fast_as_it_can() {
        let (memory, live) = disk(2_000_000);
        let (pause, is_over) = (Mutex::new(()), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut chance = Chance(1);
                while !is_over.load(Ordering::Relaxed) {
                    let paused = pause.lock();
                    let fill = u8::try_from(chance.below(256)).unwrap();
                    live.write(chance.below(2_000_000 - 9_000), &[fill; 9_000]).unwrap();
                    drop(paused);
                }
            });
            for nth in 0..100 {
                let paused = pause.lock();
                let (snapshot, before) = (live.snapshot().unwrap(), memory.image());
                drop(paused);
                let mut copy = vec![0; before.len()];
                while let Some(parts) = snapshot.read(16 * 4096).unwrap() {
                    for part in parts {
                        copy_in(&mut copy, part.offset, &part.bytes).unwrap();
                    }
                }
                let is_same = copy == before;
                is_over.store(!is_same || nth == 99, Ordering::Relaxed);
                assert!(is_same, "snapshot {nth}");
            }
        });
    }

    #[test]
    fn several_snapshots_are_each_of_their_moment_and_the_last_one_cuts() {
        let (memory, live) = disk(100_000);
        let (first, first_image) = (live.snapshot().unwrap(), memory.image());
        live.write(3_000, &vec![1; 50_000]).unwrap();
        let (second, second_image) = (live.snapshot().unwrap(), memory.image());
        live.set_len(10_000).unwrap();
        live.write(0, &[2; 9_000]).unwrap();
        for (snapshot, image) in [(first, first_image), (second, second_image)] {
            assert_eq!((live.len().unwrap(), memory.len().unwrap()), (10_000, 100_000));
            let mut copy = vec![None; image.len()];
            while read(&snapshot, &mut copy, 8192) {}
            assert!(copy.into_iter().map(Option::unwrap).eq(image));
        }
        assert_eq!(memory.len().unwrap(), 10_000);
        // Without a snapshot nothing is owed.
        live.set_len(5_000).unwrap();
        assert_eq!(memory.len().unwrap(), 5_000);
    }

    #[test]
    fn p10_who_does_not_come_for_what_is_put_aside_loses_the_snapshot_and_no_write_fails() {
        let len = ASIDE_BYTES_MAX as u64 + 1024 * 1024;
        let (memory, live) = disk(len);
        let snapshot = live.snapshot().unwrap();
        for offset in (0..len).step_by(64 * 1024) {
            live.write(offset, &vec![9; 64 * 1024]).unwrap();
        }
        assert_eq!(snapshot.read(4096).unwrap_err().kind(), io::ErrorKind::TimedOut);
        let image = memory.image();
        assert!(image.iter().all(|byte| *byte == 9), "all was written");
    }

    /// However much is written over in all: what its reader has taken is put aside no more.
    #[test]
    fn a_snapshot_whose_reader_keeps_up_is_read_to_its_end_though_all_of_it_is_written_over() {
        const STEP: usize = 8 * 1024 * 1024;
        let len = ASIDE_BYTES_MAX + 3 * STEP;
        let memory = Arc::new(Memory::default());
        memory.write(0, &vec![1; len]).unwrap();
        let live = Arc::new(LiveDisk::new(memory));
        let (snapshot, before, mut seen) = (live.snapshot().unwrap(), vec![1; STEP], 0);
        for offset in (0..len).step_by(STEP).rev() {
            live.write(offset as u64, &vec![2; STEP]).unwrap();
            let parts = snapshot.read(4096).unwrap().unwrap();
            assert!(parts.iter().all(|part| before.starts_with(&part.bytes)), "written over from {offset}");
            seen += parts.iter().map(|part| part.bytes.len()).sum::<usize>();
        }
        while let Some(parts) = snapshot.read(STEP).unwrap() {
            seen += parts.iter().map(|part| part.bytes.len()).sum::<usize>();
        }
        assert_eq!(seen, len);
    }
}
