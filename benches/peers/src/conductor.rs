//! Gives each contender its turns, and makes rows of what they came to.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::cleanup::Folder;
use crate::contenders::{Name, is_installed};
use crate::hired::{FixedSync, Hired, folder_of};
use crate::options::Options;
use crate::plan::{SMALL, Stage};
use crate::rows::{Estimate, Results, Row};
use crate::work::{Callers, Kind, Mode, Work};
use crate::worker::{Measured, Request, Setup, Shift};

/// How long an outcome is kept: the store's default.
pub(crate) const RETENTION: Duration = Duration::from_secs(24 * 60 * 60);

/// Slices in which all that is over must have been removed.
const REMOVAL_SLICES_MAX: usize = 180;

/// How long the slices are in which something is removed, and the quiet ones that they are compared with.
const REMOVAL_SPAN: Duration = Duration::from_millis(500);

/// Callers that are at work when a process is killed.
const KILLED: Callers = Callers::threads(16);

/// The run: where files are, and what was found so far.
pub(crate) struct Conductor {
    pub(crate) disk_folder: PathBuf,
    pub(crate) memory_folder: PathBuf,
    pub(crate) fixed_sync: Option<FixedSync>,
    pub(crate) results: Results,
    pub(crate) date: String,
    pub(crate) bar: ProgressBar,
    /// Holds the library.
    _library: Folder,
}

impl Conductor {
    pub(crate) fn new(options: &Options, modes: &[Mode], slices: usize) -> Result<Self, String> {
        let library = Folder::in_folder(&std::env::temp_dir())?;
        let fixed_sync = if modes.contains(&Mode::Fixed) {
            Some(FixedSync { library: crate::preload::build(library.path())?, micros: options.sync })
        } else {
            None
        };
        let bar = ProgressBar::new(slices as u64);
        let style = ProgressStyle::with_template("{elapsed_precise} [{bar:40}] {pos}/{len} {eta_precise} {wide_msg}");
        bar.set_style(style.map_err(|error| error.to_string())?.progress_chars("=> "));
        Ok(Self {
            disk_folder: options.folder.clone(),
            memory_folder: options.memory_folder.clone(),
            fixed_sync,
            results: Results { machine: crate::machine::describe(options), ..Results::default() },
            date: crate::machine::today(),
            bar,
            _library: library,
        })
    }

    /// Measures one stage, on files of its own.
    pub(crate) fn stage(&mut self, stage: &Stage) -> Result<(), String> {
        let folder = self.folder(stage.mode)?;
        let mut hired = self.hire_all(stage, &folder);
        let is_kept = stage.kept > SMALL || stage.is_expiring();
        if is_kept {
            self.fill_all(stage, &mut hired);
        }
        let mut is_fresh = is_kept;
        for &(work, callers) in &stage.rows {
            self.say(&format!("{}, {} kept: {work}, {callers}", stage.mode, stage.kept));
            if !is_fresh && work != Work::Open {
                self.fill_all(stage, &mut hired);
            }
            // What only looks leaves nothing behind.
            is_fresh = is_kept || work.is_read() || work == Work::Footprint;
            match work {
                Work::Footprint => self.footprints(stage, &mut hired),
                Work::Open => self.openings(stage, &mut hired),
                Work::Removal => self.removals(stage, &mut hired, callers),
                _ => self.rounds(stage, &mut hired, work, callers),
            }
        }
        self.say("tidying up");
        Ok(())
    }

    /// Tells what comes next: beside the bar, or in a line where there is no terminal to draw one on.
    pub(crate) fn say(&self, what: &str) {
        self.bar.set_message(what.to_owned());
        if self.bar.is_hidden() {
            eprintln!("{:6.0} s  {what}", self.bar.elapsed().as_secs_f64());
        }
    }

    pub(crate) fn folder(&self, mode: Mode) -> Result<Folder, String> {
        Folder::in_folder(if mode == Mode::Disk { &self.disk_folder } else { &self.memory_folder })
    }

    /// Starts a process for each contender that takes part in anything.
    fn hire_all(&mut self, stage: &Stage, folder: &Folder) -> Vec<Hired> {
        let mut hired = Vec::new();
        for &name in &stage.contenders {
            if !stage.rows.iter().any(|(work, callers)| name.takes_part(*work, *callers)) {
                continue;
            }
            let setup = Setup {
                name,
                folder: folder_of(folder.path(), name),
                load: stage.load,
                is_expiring: stage.is_expiring(),
                retention_ms: u64::try_from(RETENTION.as_millis()).unwrap_or(u64::MAX),
                kept: 0,
                predecessors: 0,
            };
            hired.extend(self.hire(setup, stage.mode));
        }
        hired
    }

    /// Starts one, or says why not.
    pub(crate) fn hire(&mut self, setup: Setup, mode: Mode) -> Option<Hired> {
        let name = setup.name;
        let fixed_sync = self.fixed_sync.clone().filter(|_| mode == Mode::Fixed);
        match is_installed(name).and_then(|()| Hired::hire(setup, fixed_sync)) {
            Ok(hired) => {
                self.results.settings.insert(name, hired.settings.clone());
                Some(hired)
            }
            Err(why) => {
                self.leave_out(why);
                None
            }
        }
    }

    fn leave_out(&mut self, why: String) {
        if !self.results.left_out.contains(&why) {
            self.bar.suspend(|| eprintln!("{why}"));
            self.results.left_out.push(why);
        }
    }

    /// Lets each do something, and goes on without those that fail.
    fn each(&mut self, hired: &mut Vec<Hired>, mut act: impl FnMut(&mut Self, &mut Hired) -> Result<(), String>) {
        hired.retain_mut(|hired| match act(self, hired) {
            Ok(()) => true,
            Err(why) => {
                self.leave_out(why);
                false
            }
        });
    }

    fn fill_all(&mut self, stage: &Stage, hired: &mut Vec<Hired>) {
        self.each(hired, |this, hired| {
            if stage.kept > SMALL {
                this.say(&format!("{}: {} is filled with {}", stage.mode, hired.name(), stage.kept));
            }
            let fill = Request::Fill { count: stage.kept, expires_soon: stage.is_expiring() };
            hired.setup.kept = stage.kept;
            hired.ask(&fill).map(drop)
        });
    }

    /// Slices of all contenders in turn, several rounds. reentry is first, since bare loops work in its batches; the
    /// peers change places, so that nobody is always behind the same neighbour.
    fn rounds(&mut self, stage: &Stage, hired: &mut Vec<Hired>, work: Work, callers: Callers) {
        let mut found: BTreeMap<Name, Vec<Measured>> = BTreeMap::new();
        let span = if work == Work::Quiet { REMOVAL_SPAN.max(stage.span) } else { stage.span };
        let mut batch = callers.count as f64;
        // The round before the first is not counted: it connects, prepares, and fills caches.
        for round in 0..=stage.rounds {
            let span = if round == 0 { span / 4 } else { span };
            self.each(hired, |this, hired| {
                let name = hired.name();
                if !name.takes_part(work, callers) {
                    return Ok(());
                }
                this.bar.set_message(format!("{}, {} kept: {work}, {callers}: {name}", stage.mode, stage.kept));
                let measured = hired.work(shift(work, callers, span, batch))?;
                if name == Name::Reentry {
                    batch = measured.batch.unwrap_or(batch);
                }
                if round > 0 {
                    found.entry(name).or_default().push(measured);
                    this.bar.inc(1);
                }
                Ok(())
            });
            if let Some(peers) =
                hired.iter().position(|hired| !hired.name().is_limit() && hired.name() != Name::Reentry)
            {
                hired[peers..].rotate_left(1);
            }
        }
        self.put_rows(stage, work, callers, &found);
    }

    fn put_rows(&mut self, stage: &Stage, work: Work, callers: Callers, found: &BTreeMap<Name, Vec<Measured>>) {
        let limit = if callers.kind == Kind::Tasks { Name::DrivenLimit } else { Name::Limit };
        let rates = |name| -> Vec<f64> {
            found.get(&name).into_iter().flatten().map(|measured: &Measured| measured.rate).collect()
        };
        let limit = rates(limit);
        for (name, measured) in found {
            let ratio = Estimate::ratio(&rates(*name), &limit);
            let mut row = self.row(stage, work, callers, *name, measured);
            row.ratio_to_limit = ratio.map(|ratio| ratio.median);
            row.ratio_min = ratio.map(|ratio| ratio.min);
            row.ratio_max = ratio.map(|ratio| ratio.max);
            self.results.put(row);
        }
    }

    /// The row of what one contender measured, without what others tell of it.
    pub(crate) fn row(&self, stage: &Stage, work: Work, callers: Callers, name: Name, of: &[Measured]) -> Row {
        let median = |figure: fn(&Measured) -> f64| Estimate::of(of.iter().map(figure)).map_or(0.0, |e| e.median);
        Row {
            work,
            size: stage.kept,
            concurrency: callers,
            contender: name,
            mode: stage.mode,
            key: stage.load.key,
            payload_bytes: stage.load.payload_bytes,
            rate: median(|measured| measured.rate),
            p50_us: median(|measured| measured.p50_us),
            p99_us: median(|measured| measured.p99_us),
            claim_p50_us: median(|measured| measured.claim_p50_us),
            claim_p99_us: median(|measured| measured.claim_p99_us),
            ratio_to_limit: None,
            ratio_min: None,
            ratio_max: None,
            flush_us: median(|measured| measured.flush_us),
            batch: Estimate::of(of.iter().filter_map(|measured| measured.batch)).map(|batch| batch.median),
            memory_bytes: None,
            disk_bytes: None,
            removed_rate: None,
            minute: None,
            rates: of.iter().map(|measured| measured.rate).collect(),
            date: self.date.clone(),
        }
    }

    fn footprints(&mut self, stage: &Stage, hired: &mut Vec<Hired>) {
        self.each(hired, |this, hired| {
            if hired.name().takes_part(Work::Footprint, Callers::threads(1)) {
                let (memory_bytes, disk_bytes) = hired.footprint()?;
                let row = this.row(stage, Work::Footprint, Callers::threads(1), hired.name(), &[]);
                let (memory_bytes, disk_bytes) = (Some(memory_bytes), Some(disk_bytes));
                this.results.put(Row { memory_bytes, disk_bytes, ..row });
                this.bar.inc(stage.rounds as u64);
            }
            Ok(())
        });
    }

    /// Each is killed in the midst of work and opened again, some rounds; then its neighbour.
    fn openings(&mut self, stage: &Stage, hired: &mut Vec<Hired>) {
        let mut found: BTreeMap<Name, Vec<Measured>> = BTreeMap::new();
        self.each(hired, |this, hired| {
            let name = hired.name();
            if !name.takes_part(Work::Open, Callers::threads(1)) {
                return Ok(());
            }
            for _ in 0..stage.rounds {
                this.bar.set_message(format!("{}, {} kept: {name} is killed and opened", stage.mode, stage.kept));
                hired.kill_and_open(shift(Work::ClaimComplete, KILLED, Duration::from_millis(300), 16.0))?;
                let (rate, micros) = (stage.kept as f64 / hired.seconds, hired.seconds * 1e6);
                let flush_us = hired.flush_us;
                let measured = Measured { rate, p50_us: micros, p99_us: micros, flush_us, ..Measured::default() };
                found.entry(name).or_default().push(measured);
                this.bar.inc(1);
            }
            Ok(())
        });
        self.put_rows(stage, Work::Open, Callers::threads(1), &found);
    }

    /// Each has its million expire at once, and works until all of it is removed.
    fn removals(&mut self, stage: &Stage, hired: &mut Vec<Hired>, callers: Callers) {
        self.each(hired, |this, hired| {
            let name = hired.name();
            if !name.takes_part(Work::Removal, callers) {
                return Ok(());
            }
            hired.ask(&Request::PassTime)?;
            let (mut found, mut removed, begun) = (Vec::new(), 0, Instant::now());
            while removed < stage.kept && found.len() < REMOVAL_SLICES_MAX {
                this.bar.set_message(format!("{}: {name} removes: {removed} of {}", stage.mode, stage.kept));
                let span = REMOVAL_SPAN.max(stage.span);
                let measured = hired.work(shift(Work::Removal, callers, span, 1.0))?;
                removed += measured.removed;
                found.push(measured);
            }
            if removed < stage.kept {
                this.leave_out(format!("{name}: only {removed} were removed in the time that the others needed"));
            }
            let row = this.row(stage, Work::Removal, callers, name, &found);
            let removed_rate = Some(removed as f64 / begun.elapsed().as_secs_f64());
            this.results.put(Row { removed_rate, ..row });
            this.bar.inc(stage.rounds as u64);
            Ok(())
        });
    }
}

/// A slice of work.
pub(crate) fn shift(work: Work, callers: Callers, span: Duration, batch: f64) -> Shift {
    Shift { work, callers, span_ms: u64::try_from(span.as_millis()).unwrap_or(u64::MAX), batch }
}
