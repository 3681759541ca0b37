//! A disk in memory that remembers every call, and can be cut off at any of them: for crash tests.

use std::io;
use std::sync::Arc;

use super::disk::{Disk, copy_in, copy_out};
use crate::sync::plain::Mutex;

/// A disk that remembers every call since it was made, so that a test can see every file that a power cut at any of
/// them could leave. Clones share the disk.
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

#[derive(Debug, Default)]
struct State {
    /// The file as a reader sees it.
    image: Vec<u8>,
    /// What it began as.
    origin: Vec<u8>,
    calls: Vec<Call>,
    room: Option<u64>,
    writes_fail: bool,
    syncs_fail: bool,
    fails_from: Option<(usize, io::ErrorKind)>,
}

#[derive(Debug, Clone)]
enum Call {
    /// The whole file appears, as by renaming it into its place.
    Publish(Vec<u8>),
    Write(u64, Vec<u8>),
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

    /// A disk that holds this file.
    pub fn from_image(image: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(State { origin: image.clone(), image, ..State::default() })))
    }

    /// The file as it is now, synced or not.
    pub fn image(&self) -> Vec<u8> {
        self.0.lock().image.clone()
    }

    /// How many calls that change or sync the file there were.
    pub fn calls(&self) -> usize {
        self.0.lock().calls.len()
    }

    /// How many of the calls were syncs.
    pub fn syncs(&self) -> usize {
        self.0.lock().calls.iter().filter(|call| matches!(call, Call::Sync)).count()
    }

    /// The disk that a power cut after the first `at` calls leaves: all that was synced, and of what was not whatever
    /// `loss` says.
    #[must_use]
    pub fn cut(&self, at: usize, mut loss: impl FnMut(Unsynced) -> Loss) -> Self {
        let state = self.0.lock();
        let calls = state.calls.get(..at).unwrap_or(&state.calls);
        let synced = calls.iter().rposition(|call| matches!(call, Call::Sync)).map_or(0, |last| last + 1);
        let mut image = state.origin.clone();
        let (durable, unsynced) = calls.split_at(synced);
        for call in durable {
            call.apply(&mut image, usize::MAX);
        }
        for (nth, call) in unsynced.iter().enumerate() {
            match loss(Unsynced { nth, bytes: call.bytes() }) {
                Loss::Kept => call.apply(&mut image, usize::MAX),
                Loss::Torn(bytes) if matches!(call, Call::Write(..)) => call.apply(&mut image, bytes),
                Loss::Torn(_) | Loss::Lost => {}
            }
        }
        Self::from_image(image)
    }

    /// The disk that a process killed after the first `at` calls leaves: all of them can be read, but what was not
    /// synced can still be lost to a power cut.
    #[must_use]
    pub fn killed(&self, at: usize) -> Self {
        let state = self.0.lock();
        let calls = state.calls.get(..at).unwrap_or(&state.calls).to_vec();
        let mut image = state.origin.clone();
        for call in &calls {
            call.apply(&mut image, usize::MAX);
        }
        Self(Arc::new(Mutex::new(State { image, origin: state.origin.clone(), calls, ..State::default() })))
    }

    /// Lets the file grow to this many bytes and no further, as a full disk does; none takes the limit away.
    pub fn set_room(&self, bytes: Option<u64>) {
        self.0.lock().room = bytes;
    }

    /// Makes every sync fail from now on, or succeed again. A sync that fails makes nothing durable.
    pub fn fail_syncs(&self, fail: bool) {
        self.0.lock().syncs_fail = fail;
    }

    /// Makes every write and every change of the file's length fail from now on, or succeed again.
    pub fn fail_writes(&self, fail: bool) {
        self.0.lock().writes_fail = fail;
    }

    /// Makes every write, every change of the file's length and every sync fail with this kind of error once the disk
    /// has seen this many calls; none lets them succeed again. A call that fails is not counted. A full disk
    /// (`StorageFull`) syncs all the same.
    pub fn fail_from(&self, fails: Option<(usize, io::ErrorKind)>) {
        self.0.lock().fails_from = fails;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().image.is_empty()
    }

    /// Makes the file's name durable, where that was left undone.
    pub(super) fn settle_name(&self) {
        let mut state = self.0.lock();
        let unsynced = state.calls.iter().rev().take_while(|call| !matches!(call, Call::Sync));
        if unsynced.into_iter().any(|call| matches!(call, Call::Publish(_))) {
            state.calls.push(Call::Sync);
        }
    }

    /// Puts a whole file in place at once, durably.
    pub(super) fn publish(&self, image: Vec<u8>) {
        let mut state = self.0.lock();
        state.image.clone_from(&image);
        state.calls.extend([Call::Publish(image), Call::Sync]);
    }
}

impl State {
    fn may_call(&self) -> io::Result<()> {
        match self.fails_from {
            Some((calls, kind)) if self.calls.len() >= calls => Err(kind.into()),
            _ => Ok(()),
        }
    }

    fn may_write(&self, end: u64) -> io::Result<()> {
        self.may_call()?;
        match self.room {
            _ if self.writes_fail => Err(io::Error::other("the simulated write fails")),
            Some(room) if end > room && end > self.image.len() as u64 => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }
}

impl Call {
    fn bytes(&self) -> usize {
        match self {
            Self::Publish(bytes) | Self::Write(_, bytes) => bytes.len(),
            Self::SetLen(_) | Self::Sync => 0,
        }
    }

    /// Does the call, or the first `most` bytes of it.
    fn apply(&self, image: &mut Vec<u8>, most: usize) {
        match self {
            Self::Publish(bytes) => image.clone_from(bytes),
            Self::Write(offset, bytes) => {
                // An image is never so long that this fails.
                drop(copy_in(image, *offset, bytes.get(..most).unwrap_or(bytes)));
            }
            Self::SetLen(len) => image.resize(usize::try_from(*len).unwrap_or(usize::MAX), 0),
            Self::Sync => {}
        }
    }
}

impl Disk for SimulatedDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().image.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        copy_out(&self.0.lock().image, offset, out)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.0.lock();
        state.may_write(offset.saturating_add(data.len() as u64))?;
        state.calls.push(Call::Write(offset, data.to_vec()));
        copy_in(&mut state.image, offset, data)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.0.lock();
        state.may_write(len)?;
        state.calls.push(Call::SetLen(len));
        state.image.resize(usize::try_from(len).map_err(io::Error::other)?, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.syncs_fail {
            return Err(io::Error::other("the simulated sync fails"));
        }
        if !matches!(state.fails_from, Some((_, io::ErrorKind::StorageFull))) {
            state.may_call()?;
        }
        state.calls.push(Call::Sync);
        Ok(())
    }
}
