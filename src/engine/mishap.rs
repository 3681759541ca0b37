//! What goes wrong with a simulated disk: which of its calls, and how.

use std::io;

/// A kind of call that a disk sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DiskCall {
    /// Asks how long the file is.
    Len,
    /// Reads.
    Read,
    /// Writes; the file grows where that goes past its end.
    Write,
    /// Changes the length of the file.
    SetLen,
    /// Makes durable what was changed.
    Sync,
    /// Lets the file appear under its name, whole; once, when the store is created.
    Publish,
}

impl DiskCall {
    /// Every kind.
    pub const ALL: &[Self] = &[Self::Len, Self::Read, Self::Write, Self::SetLen, Self::Sync, Self::Publish];

    /// Those that change or sync the file: what [`SimulatedDisk::calls`](crate::SimulatedDisk::calls) counts.
    pub const CHANGES: &[Self] = &[Self::Write, Self::SetLen, Self::Sync, Self::Publish];

    /// Those that take room on the disk.
    pub const GROWS: &[Self] = &[Self::Write, Self::SetLen, Self::Publish];
}

/// Which calls of a disk go wrong, and how; see [`SimulatedDisk::fail`](crate::SimulatedDisk::fail). Unless it
/// says more, that is the next call alone, whatever its kind, and nothing of it is done.
///
/// ```
/// use reentry::{DiskCall, DiskFault, ErrorKind, Fingerprint, Key, SimulatedDisk, Store};
///
/// let disk = SimulatedDisk::new();
/// let store = Store::builder().open_on(&disk)?;
/// // The next write, and each after it, is cut short after 512 bytes by an error of the device.
/// let eio = 5;
/// disk.fail(Some(DiskFault::os(eio).on(&[DiskCall::Write]).having_written(512).for_ever()));
/// let claim = store.claim(&Key::new("orders", "1")?, Fingerprint::of("two pizzas")).wait();
/// assert_eq!(claim.unwrap_err().kind(), ErrorKind::OutcomeUnknown);
/// assert_eq!(disk.failed(), 1, "the store asks nothing more of a disk that failed");
/// # Ok::<(), reentry::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "it goes wrong when it is given to `SimulatedDisk::fail`"]
pub struct DiskFault {
    with: Mishap,
    on: &'static [DiskCall],
    after: usize,
    written_bytes: usize,
    for_ever: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mishap {
    Os(i32),
    Kind(io::ErrorKind),
    Panic,
}

impl DiskFault {
    /// The call fails with this error number of the operating system (`errno`).
    pub fn os(errno: i32) -> Self {
        Self::with(Mishap::Os(errno))
    }

    /// The call fails with an error of this kind.
    pub fn kind(kind: io::ErrorKind) -> Self {
        Self::with(Mishap::Kind(kind))
    }

    /// The call panics, without a message; while a thread is panicking already, it fails.
    pub fn panic() -> Self {
        Self::with(Mishap::Panic)
    }

    fn with(with: Mishap) -> Self {
        Self { with, on: DiskCall::ALL, after: 0, written_bytes: 0, for_ever: false }
    }

    /// Only calls of these kinds go wrong, and are counted by [`after`](Self::after).
    pub fn on(self, kinds: &'static [DiskCall]) -> Self {
        Self { on: kinds, ..self }
    }

    /// So many calls go well first, counted from when the fault is set.
    pub fn after(self, calls: usize) -> Self {
        Self { after: calls, ..self }
    }

    /// Of a write, this many bytes from its start reach the file before it goes wrong, or all where it has fewer.
    pub fn having_written(self, bytes: usize) -> Self {
        Self { written_bytes: bytes, ..self }
    }

    /// Not that call alone goes wrong, but every one from there on.
    pub fn for_ever(self) -> Self {
        Self { for_ever: true, ..self }
    }

    /// Whether a call of this kind goes wrong now. One that goes well is counted.
    pub(super) fn hits(&mut self, kind: DiskCall) -> bool {
        let counts = self.on.contains(&kind);
        let hits = counts && self.after == 0;
        self.after -= usize::from(counts && !hits);
        hits
    }

    /// Whether it hits one call alone.
    pub(super) fn is_once(&self) -> bool {
        !self.for_ever
    }

    /// The part of a write that reaches the file all the same.
    pub(super) fn written<'a>(&self, data: &'a [u8]) -> &'a [u8] {
        data.get(..self.written_bytes).unwrap_or(data)
    }

    /// Goes wrong.
    pub(super) fn happen(&self) -> io::Error {
        match self.with {
            Mishap::Os(errno) => io::Error::from_raw_os_error(errno),
            Mishap::Kind(kind) => kind.into(),
            // A panic that meets another ends the process, which tells nobody anything.
            Mishap::Panic if crate::sync::plain::thread::panicking() => io::Error::other("the simulated disk panics"),
            // Past the panic hook, since a test that wants this knows.
            Mishap::Panic => std::panic::resume_unwind(Box::new("the simulated disk panics")),
        }
    }
}
