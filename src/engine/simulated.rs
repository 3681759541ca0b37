//! A disk in memory that remembers every call, can be cut off at any of them, and goes wrong at any of them: for crash
//! tests and tests of faults.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::disk::{Disk, copy_in, copy_out};
use super::mishap::{DiskCall, DiskFault};
use crate::sync::plain::Mutex;

/// A disk that remembers every call since it was made, so that a test can see every file that a power cut at any of
/// them could leave, and that goes wrong where the test says so ([`fail`](Self::fail)). Clones share the disk.
///
/// ```
/// use reentry::{Fingerprint, Key, Loss, SimulatedDisk, Store};
///
/// let disk = SimulatedDisk::new();
/// let store = Store::builder().open_on(&disk)?;
/// let key = Key::new("orders", "1")?;
/// let run = store.claim(&key, Fingerprint::of("two pizzas")).wait()?;
/// let after_the_cut = disk.cut(disk.calls(), |_| Loss::Lost);
/// let store = Store::builder().open_on(&after_the_cut)?;
/// assert_eq!(store.unfinished().count(), 1, "the claim was told, so it is there");
/// # Ok::<(), reentry::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct SimulatedDisk(Arc<Mutex<State>>);

/// Few, so that a test soon comes to their end.
const JOURNAL_PAGES: u32 = 8;

#[derive(Debug, Default)]
struct State {
    /// The file as a reader sees it.
    image: Arc<Vec<u8>>,
    /// What it was before the first of `calls`.
    origin: Arc<Vec<u8>>,
    /// How many calls came before that.
    forgotten: usize,
    calls: Vec<Call>,
    /// Those of `calls` that a failed sync may have dropped for good: no later sync makes them durable.
    dropped: Vec<Range<usize>>,
    /// The file as the first so many of `calls` make it, kept so that a cut need not begin at the origin.
    base: Option<(usize, Arc<Vec<u8>>)>,
    room: Option<u64>,
    faults: Vec<DiskFault>,
    /// How many calls of each kind there were, how many syncs went well, and how many calls went wrong.
    seen: [usize; DiskCall::ALL.len()],
    syncs: usize,
    failed: usize,
    /// What was read, where that is asked for.
    reads: Option<Vec<Range<u64>>>,
    journal: Option<u32>,
}

#[derive(Debug, Clone)]
enum Call {
    /// The whole file appears, as by renaming it into its place.
    Publish(Arc<Vec<u8>>),
    Write(u64, Arc<[u8]>),
    SetLen(u64),
    Sync,
}

/// A call that no sync has made durable yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsynced {
    /// How many unsynced calls came before it.
    pub nth: usize,
    /// How many bytes it writes; 0 for a change of the file's length.
    pub bytes: usize,
}

/// What a power cut makes of an unsynced call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// It reached the disk.
    Kept,
    /// It did not.
    Lost,
    /// Of a write, only this many bytes from its start did.
    Torn(usize),
}

impl SimulatedDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// A disk that holds this file; of one that is shared no copy is made before it is written to.
    pub fn from_image(image: impl Into<Arc<Vec<u8>>>) -> Self {
        Self::holding(image.into())
    }

    /// Gives the journal of a store that is made on this disk so many pages, instead of 8. A page takes a small batch,
    /// and one that finds none free is committed in full: where there are none, each of them is.
    #[must_use]
    pub fn with_journal(self, pages: u32) -> Self {
        self.0.lock().journal = Some(pages);
        self
    }

    pub(super) fn journal_pages(&self) -> u32 {
        self.0.lock().journal.unwrap_or(JOURNAL_PAGES)
    }

    /// Remembers from now on which ranges of the file are read.
    pub fn watch_reads(&self) {
        self.0.lock().reads.get_or_insert_default();
    }

    /// The ranges that were read since they are watched, in their order.
    pub fn reads(&self) -> Vec<Range<u64>> {
        self.0.lock().reads.clone().unwrap_or_default()
    }

    fn holding(image: Arc<Vec<u8>>) -> Self {
        Self(Arc::new(Mutex::new(State { origin: Arc::clone(&image), image, ..State::default() })))
    }

    /// The file as it is now, synced or not.
    pub fn image(&self) -> Vec<u8> {
        self.0.lock().image.to_vec()
    }

    /// How many calls changed or synced the file. One that failed and did nothing is not among them.
    pub fn calls(&self) -> usize {
        self.0.lock().count()
    }

    /// How many of the calls were syncs.
    pub fn syncs(&self) -> usize {
        self.0.lock().syncs
    }

    /// How many calls of these kinds there were since the disk was made, those that failed too. A file that appears is
    /// one call, and the sync that makes its name durable another.
    pub fn seen(&self, kinds: &[DiskCall]) -> usize {
        let state = self.0.lock();
        DiskCall::ALL.iter().zip(state.seen).filter_map(|(kind, seen)| kinds.contains(kind).then_some(seen)).sum()
    }

    /// How many calls went wrong because of a [`DiskFault`], or for want of [room](Self::set_room).
    pub fn failed(&self) -> usize {
        self.0.lock().failed
    }

    /// The disk that a power cut after the first `at` calls leaves: all that was synced, and of what was not whatever
    /// `loss` says. What was not synced when a sync failed may be lost for ever, whatever is synced after it.
    #[must_use]
    pub fn cut(&self, at: usize, mut loss: impl FnMut(Unsynced) -> Loss) -> Self {
        let mut state = self.0.lock();
        let at = state.position(at);
        let durable = state.durable(at);
        let mut image = state.base(durable);
        let synced = state.synced(at);
        let mut nth = 0;
        for (place, call) in state.calls.iter().enumerate().take(at).skip(durable) {
            let is_durable = place < synced && !state.is_dropped(place, at);
            if is_durable || matches!(call, Call::Sync) {
                call.apply(&mut image, usize::MAX);
                continue;
            }
            match loss(Unsynced { nth, bytes: call.bytes() }) {
                Loss::Kept => call.apply(&mut image, usize::MAX),
                Loss::Torn(bytes) if matches!(call, Call::Write(..)) => call.apply(&mut image, bytes),
                Loss::Torn(_) | Loss::Lost => {}
            }
            nth += 1;
        }
        Self::holding(image)
    }

    /// The disk that a process killed after the first `at` calls leaves: all of them can be read, but what was not
    /// synced can still be lost to a power cut. It counts on from `at`, and remembers no more than it needs.
    #[must_use]
    pub fn killed(&self, at: usize) -> Self {
        let mut state = self.0.lock();
        let at = state.position(at);
        let durable = state.durable(at);
        let origin = state.base(durable);
        let calls = state.calls.get(durable..at).unwrap_or_default().to_vec();
        let mut image = Arc::clone(&origin);
        for call in &calls {
            call.apply(&mut image, usize::MAX);
        }
        let forgotten = state.forgotten + durable;
        let before = |range: &Range<usize>| {
            let range = range.start.saturating_sub(durable)..range.end.min(at).saturating_sub(durable);
            (range.start < range.end).then_some(range)
        };
        let dropped = state.dropped.iter().filter_map(before).collect();
        Self(Arc::new(Mutex::new(State { image, origin, forgotten, calls, dropped, ..State::default() })))
    }

    /// Forgets every call that nothing can undo any more, so that a long run takes no more memory than its file. A cut
    /// at one of them is one after the last of them from now on.
    pub fn forget_synced(&self) {
        let mut state = self.0.lock();
        let durable = state.durable(state.calls.len());
        state.origin = state.base(durable);
        state.base = None;
        state.calls.drain(..durable);
        state.forgotten += durable;
        state.dropped.retain_mut(|range| {
            *range = range.start.saturating_sub(durable)..range.end.saturating_sub(durable);
            range.start < range.end
        });
    }

    /// Lets the file grow to this many bytes and no further, as a full disk does; none takes the limit away.
    pub fn set_room(&self, bytes: Option<u64>) {
        self.0.lock().room = bytes;
    }

    /// Lets calls go wrong from now on, as these faults say and none before them; `None` lets all go well again. Of
    /// several faults each counts for itself, and the first that hits a call decides. A sync that fails makes nothing
    /// durable, and what it was to make durable may stay lost whatever is synced later.
    pub fn fail(&self, faults: impl IntoIterator<Item = DiskFault>) {
        let faults = faults.into_iter().collect();
        self.0.lock().faults = faults;
    }

    /// The system has kept what failed syncs left in its memory: the next sync makes that durable after all.
    pub fn keep_what_syncs_dropped(&self) {
        let mut state = self.0.lock();
        (state.base, state.dropped) = (None, Vec::new());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().image.is_empty()
    }

    /// Makes the file's name durable, where that was left undone.
    pub(super) fn settle_name(&self) -> io::Result<()> {
        let is_unsynced = {
            let state = self.0.lock();
            let unsynced = state.calls.iter().rev().take_while(|call| !matches!(call, Call::Sync));
            unsynced.into_iter().any(|call| matches!(call, Call::Publish(_)))
        };
        if is_unsynced { self.sync() } else { Ok(()) }
    }

    /// Puts a whole file in place at once, durably.
    pub(super) fn publish(&self, image: Vec<u8>) -> io::Result<()> {
        {
            let mut state = self.0.lock();
            state.may_call(DiskCall::Publish)?;
            state.may_grow(image.len() as u64)?;
            state.change(Call::Publish(Arc::new(image)));
        }
        self.sync()
    }
}

impl State {
    fn count(&self) -> usize {
        self.forgotten + self.calls.len()
    }

    /// The place among `calls` behind the first `at` of all.
    fn position(&self, at: usize) -> usize {
        at.saturating_sub(self.forgotten).min(self.calls.len())
    }

    /// The place behind the last sync of the first `at`.
    fn synced(&self, at: usize) -> usize {
        let calls = self.calls.get(..at).unwrap_or_default();
        calls.iter().rposition(|call| matches!(call, Call::Sync)).map_or(0, |last| last + 1)
    }

    /// How many of the first `at` calls nothing can undo any more.
    fn durable(&self, at: usize) -> usize {
        let dropped = self.dropped.first().map_or(usize::MAX, |range| range.start);
        self.synced(at).min(dropped)
    }

    /// Whether a sync that failed within the first `at` calls may have dropped this one. Not the file's name: that a
    /// folder takes in by a journal, which fails for good.
    fn is_dropped(&self, place: usize, at: usize) -> bool {
        let is_name = matches!(self.calls.get(place), Some(Call::Publish(_)));
        !is_name && self.dropped.iter().any(|range| range.contains(&place) && range.end <= at)
    }

    /// The file as the first `at` calls make it.
    fn base(&mut self, at: usize) -> Arc<Vec<u8>> {
        let (from, mut image) = match self.base.take() {
            Some((from, image)) if from <= at => (from, image),
            _ => (0, Arc::clone(&self.origin)),
        };
        for call in self.calls.get(from..at).unwrap_or_default() {
            call.apply(&mut image, usize::MAX);
        }
        self.base = Some((at, Arc::clone(&image)));
        image
    }

    fn change(&mut self, call: Call) {
        call.apply(&mut self.image, usize::MAX);
        self.calls.push(call);
    }

    /// Counts a call, and fails where it is to go wrong.
    fn may_call(&mut self, kind: DiskCall) -> io::Result<()> {
        self.may_write(kind, 0, &[])
    }

    /// Likewise; of a write that goes wrong, some may reach the file.
    fn may_write(&mut self, kind: DiskCall, offset: u64, data: &[u8]) -> io::Result<()> {
        let kinds = DiskCall::ALL.iter().zip(&mut self.seen);
        kinds.filter(|(of, _)| **of == kind).for_each(|(_, seen)| *seen += 1);
        let mut hits = None;
        self.faults.retain_mut(|fault| {
            let is_hit = fault.hits(kind) && hits.is_none();
            hits = hits.or(is_hit.then_some(*fault));
            !(is_hit && fault.is_once())
        });
        let Some(fault) = hits else { return Ok(()) };
        self.failed += 1;
        let written = fault.written(data);
        if !written.is_empty() {
            self.change(Call::Write(offset, written.into()));
        }
        if kind == DiskCall::Sync {
            let synced = self.synced(self.calls.len());
            self.dropped.push(synced..self.calls.len());
        }
        Err(fault.happen())
    }

    fn may_grow(&mut self, end: u64) -> io::Result<()> {
        match self.room {
            Some(room) if end > room && end > self.image.len() as u64 => {
                self.failed += 1;
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }
}

impl Call {
    fn bytes(&self) -> usize {
        match self {
            Self::Publish(bytes) => bytes.len(),
            Self::Write(_, bytes) => bytes.len(),
            Self::SetLen(_) | Self::Sync => 0,
        }
    }

    /// Does the call, or the first `most` bytes of it.
    fn apply(&self, image: &mut Arc<Vec<u8>>, most: usize) {
        match self {
            Self::Publish(bytes) => image.clone_from(bytes),
            Self::Write(offset, bytes) => {
                // An image is never so long that this fails.
                drop(copy_in(Arc::make_mut(image), *offset, bytes.get(..most).unwrap_or(bytes)));
            }
            Self::SetLen(len) => Arc::make_mut(image).resize(usize::try_from(*len).unwrap_or(usize::MAX), 0),
            Self::Sync => {}
        }
    }
}

impl Disk for SimulatedDisk {
    fn len(&self) -> io::Result<u64> {
        let mut state = self.0.lock();
        state.may_call(DiskCall::Len)?;
        Ok(state.image.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.0.lock();
        state.may_call(DiskCall::Read)?;
        if let Some(reads) = &mut state.reads {
            reads.push(offset..offset.saturating_add(out.len() as u64));
        }
        copy_out(&state.image, offset, out)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.0.lock();
        state.may_write(DiskCall::Write, offset, data)?;
        state.may_grow(offset.saturating_add(data.len() as u64))?;
        state.change(Call::Write(offset, data.into()));
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.0.lock();
        state.may_call(DiskCall::SetLen)?;
        state.may_grow(len)?;
        usize::try_from(len).map_err(io::Error::other)?;
        state.change(Call::SetLen(len));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        state.may_call(DiskCall::Sync)?;
        state.calls.push(Call::Sync);
        state.syncs += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    const EIO: i32 = 5;

    /// The file that these calls make of nothing, where `reaches` tells how much of each reaches the disk.
    fn replayed(calls: &[Call], mut reaches: impl FnMut(usize) -> Option<usize>) -> Vec<u8> {
        let mut image = Arc::default();
        for (place, call) in calls.iter().enumerate() {
            if let Some(most) = reaches(place) {
                call.apply(&mut image, most);
            }
        }
        image.to_vec()
    }

    /// A disk with a few hundred calls, some syncs of which fail, and for each call whether a cut can undo it: from
    /// which call on it is durable.
    fn busy_disk() -> (SimulatedDisk, Vec<Call>, Vec<usize>) {
        let (disk, mut durable_from) = (SimulatedDisk::new(), Vec::new());
        let mut first = 0;
        for nth in 0..400_usize {
            match nth * 7 % 13 {
                0 => disk.set_len((nth * 3) as u64).unwrap(),
                5 if nth % 3 == 0 => {
                    disk.fail(Some(DiskFault::os(EIO).on(&[DiskCall::Sync])));
                    assert_eq!(disk.sync().unwrap_err().raw_os_error(), Some(EIO));
                    // What it was to make durable may be lost for ever.
                    durable_from.resize(disk.calls(), usize::MAX);
                    first = disk.calls();
                }
                5 => {
                    disk.sync().unwrap();
                    durable_from.resize(first, usize::MAX);
                    durable_from.resize(disk.calls(), disk.calls());
                    first = disk.calls();
                }
                _ => disk.write((nth * 37 % 900) as u64, &[u8::try_from(nth % 251).unwrap(); 40]).unwrap(),
            }
        }
        durable_from.resize(disk.calls(), usize::MAX);
        let calls = disk.0.lock().calls.clone();
        (disk, calls, durable_from)
    }

    #[test]
    fn a_cut_anywhere_leaves_what_a_replay_of_its_calls_leaves() {
        let (disk, calls, durable_from) = busy_disk();
        // In an order in which the kept base is of use, and in one in which it is not.
        for at in (0..=calls.len()).chain((0..=calls.len()).rev()) {
            for way in 0..4_usize {
                let reaches = |nth: usize| (way + nth) % 3;
                let mut nth = 0;
                let expected = replayed(&calls[..at], |place| {
                    if matches!(calls[place], Call::Sync) || durable_from[place] <= at {
                        return Some(usize::MAX);
                    }
                    nth += 1;
                    match reaches(nth - 1) {
                        0 => None,
                        1 => Some(usize::MAX),
                        _ => matches!(calls[place], Call::Write(..)).then_some(11),
                    }
                });
                let left = disk.cut(at, |call| [Loss::Lost, Loss::Kept, Loss::Torn(11)][reaches(call.nth)]);
                assert!(left.image() == expected, "cut at {at}, way {way}");
                assert_eq!(left.calls(), 0);
            }
        }
    }

    #[test]
    fn a_killed_process_leaves_every_call_and_a_cut_after_it_what_was_not_synced() {
        let (disk, calls, _) = busy_disk();
        for at in 0..=calls.len() {
            let killed = disk.killed(at);
            assert!(killed.image() == replayed(&calls[..at], |_| Some(usize::MAX)), "killed at {at}");
            assert_eq!(killed.calls(), at);
            let losses: [fn(Unsynced) -> Loss; 2] = [|_| Loss::Lost, |call| [Loss::Kept, Loss::Torn(9)][call.nth % 2]];
            for loss in losses {
                assert!(killed.cut(at, loss).image() == disk.cut(at, loss).image(), "killed and cut at {at}");
            }
            // Whoever goes on from there syncs what it found.
            killed.write(0, &[1, 2, 3]).unwrap();
            killed.sync().unwrap();
            assert!(killed.cut(at, |_| Loss::Kept).image() == replayed(&calls[..at], |_| Some(usize::MAX)));
            assert!(at < 1 || killed.cut(at, |_| Loss::Lost).image() == disk.cut(at, |_| Loss::Lost).image());
        }
    }

    #[test]
    fn what_is_forgotten_makes_no_difference_to_later_cuts() {
        let (disk, _, _) = busy_disk();
        // Without the calls that a failed sync may have dropped, which are remembered for ever.
        let (disk, other) = (SimulatedDisk::from_image(disk.image()), SimulatedDisk::from_image(disk.image()));
        for nth in 0..60_u8 {
            for disk in [&disk, &other] {
                disk.write(u64::from(nth) * 5, &[nth; 30]).unwrap();
                if nth % 7 == 0 {
                    disk.sync().unwrap();
                }
            }
            disk.forget_synced();
            assert!(disk.0.lock().calls.len() < 7);
            let at = disk.calls();
            assert_eq!((at, disk.syncs()), (other.calls(), other.syncs()));
            for loss in [Loss::Lost, Loss::Kept, Loss::Torn(3)] {
                assert!(disk.cut(at, |_| loss).image() == other.cut(at, |_| loss).image());
            }
            assert!(disk.killed(at).image() == other.killed(at).image());
        }
    }

    /// Which of ten writes and syncs in turn fail under a fault.
    fn failing(fault: DiskFault) -> Vec<usize> {
        let disk = SimulatedDisk::new();
        disk.fail(Some(fault));
        let call = |nth: usize| if nth.is_multiple_of(2) { disk.write(nth as u64, &[7]) } else { disk.sync() };
        let failing = (0..10).filter(|nth| call(*nth).is_err()).collect::<Vec<_>>();
        assert_eq!((disk.seen(DiskCall::ALL), disk.failed(), disk.calls()), (10, failing.len(), 10 - failing.len()));
        failing
    }

    #[test]
    fn what_finds_no_room_went_wrong_too() {
        let disk = SimulatedDisk::new();
        disk.set_room(Some(4));
        assert!(disk.write(0, &[7; 4]).is_ok() && disk.write(1, &[7]).is_ok(), "within its room");
        let full = Some(io::ErrorKind::StorageFull);
        assert_eq!([disk.write(4, &[7]), disk.set_len(5)].map(|call| call.err().map(|error| error.kind())), [full; 2]);
        assert_eq!((disk.failed(), disk.image()), (2, vec![7; 4]));
        disk.set_room(None);
        assert!(disk.set_len(5).is_ok());
    }

    #[test]
    fn of_several_faults_each_counts_for_itself() {
        let disk = SimulatedDisk::new();
        let full = DiskFault::kind(io::ErrorKind::StorageFull).on(&[DiskCall::Write]);
        disk.fail([full.after(3).for_ever(), DiskFault::os(EIO).after(1)]);
        let kinds: Vec<_> = (0..5).map(|nth| disk.write(nth, &[7]).map_err(|error| error.kind())).collect();
        let (full, eio) = (Err(io::ErrorKind::StorageFull), Err(io::Error::from_raw_os_error(EIO).kind()));
        assert_eq!(kinds, [Ok(()), eio, Ok(()), full, full]);
    }

    #[test]
    fn a_fault_hits_the_calls_that_it_says() {
        let eio = DiskFault::os(EIO);
        assert_eq!(failing(eio), [0]);
        assert_eq!(failing(eio.after(3)), [3]);
        assert_eq!(failing(eio.after(3).for_ever()), [3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(failing(eio.on(&[DiskCall::Sync]).after(1)), [3]);
        assert_eq!(failing(eio.on(&[DiskCall::Sync]).after(1).for_ever()), [3, 5, 7, 9]);
        assert_eq!(failing(eio.on(&[DiskCall::Read])), [0; 0]);
        assert_eq!(failing(eio.after(10)), [0; 0]);
    }

    #[test]
    fn of_a_torn_write_the_start_is_there() {
        let disk = SimulatedDisk::from_image(vec![1; 8]);
        disk.fail(Some(DiskFault::kind(io::ErrorKind::StorageFull).having_written(3)));
        assert_eq!(disk.write(2, &[7; 5]).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!((disk.image(), disk.calls()), (vec![1, 1, 7, 7, 7, 1, 1, 1], 1));
        assert_eq!(disk.cut(1, |call| Loss::Torn(call.bytes - 1)).image(), [1, 1, 7, 7, 1, 1, 1, 1]);
    }

    #[test]
    fn a_disk_that_panics_does_so_once_and_is_as_it_was() {
        let disk = SimulatedDisk::from_image(vec![1; 8]);
        disk.fail(Some(DiskFault::panic()));
        catch_unwind(AssertUnwindSafe(|| disk.write(0, &[2]))).unwrap_err();
        assert_eq!(disk.image(), [1; 8]);
        disk.write(0, &[2]).unwrap();
    }
}
