//! How a store comes to be open: what is on its disk is read, checked and accepted, and its writer begins to work.

use std::path::Path;
use std::sync::Arc;

#[cfg(any(test, feature = "testing"))]
use super::SimulatedDisk;
use super::capacity::Ledger;
use super::disk::{self, Disk};
use super::index::Index;
use super::journal;
use super::log::{Access, Log};
use super::meta::{self, Meta};
use super::meter::Meter;
use super::place::Place;
use super::queue::{Queue, Shut};
use super::snapshot::LiveDisk;
use super::unfinished::{Open, Tally};
use super::writer::Writer;
use super::{AtWork, Engine, Options, Shared, error, file};
use crate::clock::{Timeline, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::pending::thread_waited_for;
use crate::record::Record;
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering, thread};

/// Puts an empty store on an empty disk.
fn new_store(disk: Arc<dyn Disk>) -> Result<()> {
    Log::initialise(disk, meta::random_id(), meta::random_id(), journal::PAGES)
}

impl Engine {
    /// The store in the file at `path`, which is created where there is none.
    pub(crate) fn open_file(path: &Path, options: Options) -> Result<Arc<Self>> {
        let file = file::private(path, options.opening.only_private, || match options.opening.access {
            Access::Write => file::open(path, new_store),
            Access::Read => file::open_to_read(path),
            Access::Salvage => file::open_damaged(path),
        })?;
        let opened = match options.opening.access {
            Access::Write => Self::prepare(Arc::new(file), options).and_then(Self::start),
            Access::Read | Access::Salvage => Self::open_to_read(Arc::new(file), options),
        };
        opened.map_err(|error| error.within(&path.display().to_string()))
    }

    /// The store on this disk, with nobody to change it.
    pub(crate) fn open_to_read(disk: Arc<dyn Disk>, options: Options) -> Result<Arc<Self>> {
        let (shared, _) = Self::read(disk, options)?;
        // What it tells of an expiry is kept by nobody.
        shared.durable_time.store(u64::MAX, Ordering::Release);
        shared.queue.shut(Shut::ReadOnly);
        shared.tell_opened();
        Ok(Arc::new(Self { shared, writer: Mutex::new(None) }))
    }

    /// A store in memory.
    pub(crate) fn open_memory(options: Options) -> Result<Arc<Self>> {
        let disk = Arc::new(disk::Memory::default());
        new_store(Arc::<disk::Memory>::clone(&disk))?;
        Self::prepare(disk, options).and_then(Self::start)
    }

    /// A store on a simulated disk, which is initialised where it is empty. By hand it works only when it is told to.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn open_simulated(disk: &SimulatedDisk, options: Options, by_hand: bool) -> Result<Arc<Self>> {
        let unnamed = |e| error::engine(redb::Error::Io(e));
        if disk.is_empty() {
            let made = Arc::new(disk::Memory::default());
            // Without an id of its own: the same calls leave the same bytes.
            Log::initialise(Arc::<disk::Memory>::clone(&made), [0; 16], [0; 16], disk.journal_pages())?;
            disk.publish(made.image()).map_err(unnamed)?;
        }
        disk.settle_name().map_err(unnamed)?;
        let writer = Self::prepare(Arc::new(disk.clone()), options)?;
        if !by_hand {
            return Self::start(writer);
        }
        let shared = Arc::clone(writer.shared());
        Ok(Arc::new(Self { shared, writer: Mutex::new(Some(AtWork::ByHand(Box::new(writer.by_hand())))) }))
    }

    /// The store on this disk, which holds one. Its writer does nothing of its own accord, so that one caller's calls
    /// come to the same batches whenever they are made.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn open_disk(disk: Arc<dyn Disk>, options: Options) -> Result<Arc<Self>> {
        Self::prepare(disk, options).map(Writer::by_hand).and_then(Self::start)
    }

    /// Opens what is on the disk.
    fn prepare(disk: Arc<dyn Disk>, options: Options) -> Result<Writer> {
        let (shared, meta) = Self::read(disk, options)?;
        let mut writer = Writer::new(shared, meta);
        // Where the check is off, redb may first meet damage here, and panic.
        error::unwound(|| writer.reserve())?;
        writer.shared().tell_opened();
        Ok(writer)
    }

    /// Reads what is on the disk.
    fn read(disk: Arc<dyn Disk>, options: Options) -> Result<(Arc<Shared>, Meta)> {
        let (index, ledger) =
            (Index::new(options.hash_mask, options.policy.attempts_max), Ledger::new(options.capacity));
        let highest_time = AtomicU64::new(0);
        let each = |rows: Vec<(Place, Record)>| {
            let records = rows.iter().map(|(_, record)| record);
            let written = records.clone().map(|record| record.written.as_millis()).max();
            highest_time.fetch_max(written.unwrap_or_default(), Ordering::Relaxed);
            ledger.found(records);
            for (place, record) in &rows {
                index.found(index.hash(&record.key), *place);
                if let Some(tally) = Tally::of(record) {
                    index.unfinished().insert(record.born, Open { place: *place, tally });
                }
            }
            Ok(())
        };
        let disk = Arc::new(LiveDisk::new(disk));
        let (log, mut meta) = Log::open(Arc::<LiveDisk>::clone(&disk), &options.opening, each)?;
        index.settle();
        meta.highest_time = meta.highest_time.max(highest_time.load(Ordering::Relaxed));
        let shared = Arc::new(Shared {
            queue: Arc::new(Queue::new(options.queue)),
            index,
            log,
            disk,
            timeline: Timeline::start(options.clock, Timestamp::from_millis(meta.highest_time)),
            policy: options.policy,
            ledger,
            trace: options.trace,
            at_work: Mutex::default(),
            is_moving: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            durable_time: AtomicU64::new(meta.highest_time),
            meter: Meter::default(),
            adopted_at: AtomicU64::new(0),
            is_full: AtomicBool::new(false),
            is_read_only: options.opening.access != Access::Write,
        });
        Ok((shared, meta))
    }

    /// Lets the writer work.
    fn start(writer: Writer) -> Result<Arc<Self>> {
        let shared = Arc::clone(writer.shared());
        let work = move || thread_waited_for(|| writer.run());
        let thread = thread::Builder::new().name("reentry-writer".to_owned()).spawn(work);
        let thread = thread.map_err(|e| Error::because(ErrorKind::Io, "cannot start the writer thread", e))?;
        Ok(Arc::new(Self { shared, writer: Mutex::new(Some(AtWork::OnItsThread(thread))) }))
    }
}
