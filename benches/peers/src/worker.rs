//! One contender in a process of its own: it can be killed, and its memory is its own. Requests come in as lines of
//! JSON, answers go out the same way.

use std::fs;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::callers::{self, Slice};
use crate::contenders::{Contender, Name};
use crate::probe::{Probe, disk_bytes, memory_bytes};
use crate::table::Place;
use crate::work::{Callers, Load, Work, scattered};

/// Keys that are asked for, made before: what makes them is not what is measured.
const KEYS: u64 = 64 * 1024;

/// Operations whose clients are still about to retry.
const HOT: u64 = 1000;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Open what is in the folder, or make it.
    Open(Setup),
    /// Make it anew, with this many finished operations.
    Fill {
        count: u64,
        expires_soon: bool,
    },
    Work(Shift),
    /// Let what expires soon be over.
    PassTime,
    Footprint,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) name: Name,
    pub(crate) folder: PathBuf,
    pub(crate) load: Load,
    pub(crate) is_expiring: bool,
    pub(crate) retention_ms: u64,
    /// Operations that are there already, to look one up: it is open when that is answered.
    pub(crate) kept: u64,
    /// How many processes had this folder before: each has new keys of its own.
    pub(crate) predecessors: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Shift {
    pub(crate) work: Work,
    pub(crate) callers: Callers,
    pub(crate) span_ms: u64,
    /// How large batches are to be, for loops without callers.
    pub(crate) batch: f64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Reply {
    Opened { seconds: f64, settings: String, server: Option<u32>, flush_us: f64 },
    Done,
    Measured(Measured),
    Footprint { memory_bytes: u64, disk_bytes: u64 },
}

/// What one slice of work came to.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) rate: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) claim_p50_us: f64,
    pub(crate) claim_p99_us: f64,
    /// Changes that shared a commit, where that is known.
    pub(crate) batch: Option<f64>,
    pub(crate) flush_us: f64,
    /// Operations that were removed meanwhile.
    pub(crate) removed: u64,
}

/// Serves until nobody asks any more.
pub(crate) fn serve() {
    let mut served: Option<Served> = None;
    let mut answers = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let request = serde_json::from_str(&line).expect("requests are ours");
        let reply = match request {
            Request::Open(setup) => {
                drop(served.take());
                let (opened, reply) = Served::open(setup);
                served = Some(opened);
                reply
            }
            other => served.as_mut().expect("it is opened first").answer(other),
        };
        let reply = serde_json::to_string(&reply).expect("replies are plain");
        if writeln!(answers, "{reply}").and_then(|()| answers.flush()).is_err() {
            break;
        }
    }
}

struct Served {
    setup: Setup,
    contender: Option<Arc<dyn Contender>>,
    probe: Probe,
    kept: u64,
    /// The number of the next new key.
    next: Arc<AtomicU64>,
}

impl Served {
    fn open(setup: Setup) -> (Self, Reply) {
        let data = setup.folder.join("data");
        fs::create_dir_all(&data).unwrap();
        let mut probe = Probe::new(&setup.folder);
        let flush_us = probe.flush_us();
        let begun = Instant::now();
        let contender = open(&setup);
        if setup.kept > 0 && !setup.name.is_limit() {
            let found = contender.reader(Work::ReplayHot, &[setup.kept / 2]).outcome(0);
            assert!(found.is_some(), "{} lost what it had acknowledged", setup.name);
        }
        let seconds = begun.elapsed().as_secs_f64();
        let reply = Reply::Opened { seconds, settings: contender.settings(), server: contender.server(), flush_us };
        let (kept, next) = (setup.kept, Arc::new(AtomicU64::new(setup.kept + (setup.predecessors << 32))));
        (Self { setup, contender: Some(contender), probe, kept, next }, reply)
    }

    fn contender(&self) -> &Arc<dyn Contender> {
        self.contender.as_ref().expect("it is open but while it is made anew")
    }

    fn answer(&mut self, request: Request) -> Reply {
        match request {
            Request::Open(_) => unreachable!("that makes another one"),
            Request::Fill { count, expires_soon } => self.fill(count, expires_soon),
            Request::Work(shift) => return Reply::Measured(self.work(&shift)),
            Request::PassTime => self.contender().pass_time(),
            Request::Footprint => {
                let process = self.contender().server().unwrap_or_else(std::process::id);
                let disk_bytes = disk_bytes(&self.setup.folder.join("data"));
                return Reply::Footprint { memory_bytes: memory_bytes(process), disk_bytes };
            }
        }
        Reply::Done
    }

    fn fill(&mut self, count: u64, expires_soon: bool) {
        if !self.contender().clear() {
            self.contender = None;
            fs::remove_dir_all(self.setup.folder.join("data")).unwrap();
            fs::create_dir(self.setup.folder.join("data")).unwrap();
            self.contender = Some(open(&self.setup));
        }
        self.contender().fill(count, expires_soon);
        self.kept = count;
        self.next.store(count, Ordering::Relaxed);
    }

    fn work(&mut self, shift: &Shift) -> Measured {
        let flush_us = self.probe.flush_us();
        let contender = Arc::clone(self.contender());
        let span = Duration::from_millis(shift.span_ms);
        if let Some(rate) = contender.alone(shift.work, span, shift.batch) {
            return Measured { rate, flush_us, ..Measured::default() };
        }
        let (counts, removed) = (contender.counts(), contender.removed());
        let slice = if shift.work.is_read() {
            self.read(shift, span)
        } else if shift.work.is_sweeping() {
            self.beside_a_sweep(|| callers::work(&contender, (shift.work, shift.callers), span, &self.next))
        } else {
            callers::work(&contender, (shift.work, shift.callers), span, &self.next)
        };
        let batch = counts.zip(contender.counts()).and_then(|(before, after)| mean(before, after));
        let removed = contender.removed() - removed;
        Measured { batch, removed, ..measured(&slice, flush_us) }
    }

    /// Lets what is over be removed meanwhile, slice after slice, where nobody does so by itself.
    fn beside_a_sweep(&self, work: impl FnOnce() -> Slice) -> Slice {
        let (contender, is_over) = (self.contender(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    match contender.sweep() {
                        None => return,
                        Some(0) => std::thread::sleep(Duration::from_millis(1)),
                        Some(_) => {}
                    }
                }
            });
            let slice = work();
            is_over.store(true, Ordering::Relaxed);
            slice
        })
    }

    fn read(&self, shift: &Shift, span: Duration) -> Slice {
        let kept = self.kept.max(1);
        let number = |nth: u64| match shift.work {
            Work::ReplayHot => kept - 1 - scattered(nth) % HOT.min(kept),
            Work::ReplayCold => scattered(nth) % kept,
            _ => u64::MAX - nth,
        };
        let numbers: Vec<u64> = (0..KEYS).map(number).collect();
        let each = (numbers.len() / shift.callers.count).max(1);
        let reader = |numbers| self.contender().reader(shift.work, numbers);
        let readers = numbers.chunks(each).take(shift.callers.count).map(reader).collect();
        callers::read(readers, each, shift.work != Work::Absent, span)
    }
}

fn open(setup: &Setup) -> Arc<dyn Contender> {
    let place = Place {
        folder: setup.folder.join("data"),
        load: setup.load,
        is_expiring: setup.is_expiring,
        retention: Duration::from_millis(setup.retention_ms),
    };
    Arc::from(setup.name.open(&place))
}

fn mean(before: (u64, u64), after: (u64, u64)) -> Option<f64> {
    let (changes, commits) = (after.0 - before.0, after.1 - before.1);
    (commits > 0).then(|| changes as f64 / commits as f64)
}

fn measured(slice: &Slice, flush_us: f64) -> Measured {
    let micros = |histogram: &Histogram<u64>, share| histogram.value_at_quantile(share) as f64 / 1000.0;
    Measured {
        rate: slice.rate,
        p50_us: micros(&slice.latencies, 0.5),
        p99_us: micros(&slice.latencies, 0.99),
        claim_p50_us: micros(&slice.claims, 0.5),
        claim_p99_us: micros(&slice.claims, 0.99),
        flush_us,
        ..Measured::default()
    }
}
