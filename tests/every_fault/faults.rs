//! A workload without a fault, and the same one with a fault at one of its calls.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;

use reentry::{DiskCall, DiskFault, ErrorKind, Loss, SimulatedDisk, Timestamp};

use super::server::{Line, NAMES, Server, Shown, shown_by};
use super::watchdog::Watchdog;

/// What a disk that fails at calls of some kinds must come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Must {
    /// It refuses, and goes on when there is room.
    Mend,
    /// It acknowledges nothing more until it is opened anew.
    Stop,
    /// Nothing that it acknowledges is lost.
    KeepWord,
}

/// A kind of fault, that is tried at each call of these kinds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    /// The error's number; none where the call panics.
    pub(crate) errno: Option<i32>,
    pub(crate) calls: &'static [DiskCall],
    pub(crate) must: Must,
    /// Once, or for ever.
    pub(crate) lasts: bool,
    /// Whether the plain run tries it at every call too.
    pub(crate) always: bool,
    /// How many bytes of a write reach the file first.
    pub(crate) written: usize,
}

/// What was tried.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    pub(crate) workloads: usize,
    pub(crate) calls: usize,
    pub(crate) faults: usize,
    /// Faults of which somebody was told.
    pub(crate) told: usize,
    pub(crate) unknown: usize,
    pub(crate) images: usize,
    pub(crate) replays: usize,
    pub(crate) replays_refused: usize,
}

/// A workload without a fault.
struct Course {
    lines: Vec<&'static str>,
    answers: Vec<Vec<String>>,
    /// What a restart shows after each batch of opening, of the first line, and so on.
    shown: Vec<Vec<Shown>>,
    seen: SimulatedDisk,
    /// How many pages the journal has.
    journal: u32,
}

/// What images show; most faults leave one that another left before.
#[derive(Default)]
pub(crate) struct Images(HashMap<(u64, Timestamp), Shown>);

impl Images {
    fn shown(&mut self, disk: &SimulatedDisk, server: &Server) -> Shown {
        let mut hasher = DefaultHasher::new();
        disk.image().hash(&mut hasher);
        let id = (hasher.finish(), reentry::Clock::wall(&server.clock));
        self.0.entry(id).or_insert_with(|| shown_by(disk, &server.clock)).clone()
    }
}

fn text(answer: &reentry::Result<String>) -> String {
    match answer {
        Ok(told) => told.clone(),
        Err(error) => format!("{:?}", error.kind()),
    }
}

fn lost(disk: &SimulatedDisk) -> SimulatedDisk {
    disk.cut(disk.calls(), |_| Loss::Lost)
}

fn killed(disk: &SimulatedDisk) -> SimulatedDisk {
    disk.killed(disk.calls())
}

impl Course {
    fn new(workload: &'static str, images: &mut Images) -> Self {
        // Batches are committed in full, in turn, and but now and then.
        let journal = [0, 1, 8][workload.len() % 3];
        let mut server = Server::new(journal);
        server.open().unwrap();
        let lines: Vec<_> = workload.split(';').map(str::trim).collect();
        let mut shown = vec![vec![images.shown(&killed(&server.disk), &server)]];
        let mut answers = Vec::new();
        for line in &lines {
            let mut after = Vec::new();
            let came = server.line(line, |server| after.push(images.shown(&killed(&server.disk), server)));
            after.push(images.shown(&killed(&server.disk), &server));
            let end = images.shown(&lost(&server.disk), &server);
            assert_eq!(after.last(), Some(&end), "P2: a power cut after {line:?} loses what was told");
            shown.push(after);
            answers.push(came.answers.iter().map(text).collect());
        }
        server.end().unwrap();
        let rows = shown.last().and_then(|shown| shown.last()).map(|shown| shown["rows"].clone()).unwrap();
        let rows = rows.split(',').filter(|row| !row.is_empty()).count();
        assert_eq!(rows, workload.matches("+row").count(), "P8: rows there are");
        Self { lines, answers, shown, seen: server.disk.clone(), journal }
    }
}

/// Tries every fault of these kinds at every call of this workload, or one of `one_in`. Returns what was wrong.
pub(crate) fn fail_everywhere(
    (name, workload): (&str, &'static str),
    kinds: &[Kind],
    one_in: usize,
    tally: &mut Tally,
) -> Vec<String> {
    let mut failures = Vec::new();
    let mut images = Images::default();
    let watchdog = Watchdog::new();
    watchdog.watch(format!("{name:?} without a fault"));
    let course = Course::new(workload, &mut images);
    let defers = workload.contains("defer");
    let without_deferring = defers.then(|| Course::new(workload.replace("defer", "claim").leak(), &mut images));
    tally.workloads += 1;
    tally.calls += course.seen.seen(DiskCall::ALL);
    let mut turn = tally.workloads * 7;
    for kind in kinds {
        // The file appears, and its name is synced, by the simulation: nothing there may panic.
        let first = if kind.errno.is_none() && kind.calls.contains(&DiskCall::Publish) { 2 } else { 0 };
        for nth in first..course.seen.seen(kind.calls) {
            turn += 1;
            if !(turn.is_multiple_of(one_in) || kind.always) {
                continue;
            }
            tally.faults += 1;
            let what = format!("{name:?}, call {nth} of those it hits, {kind:?}");
            watchdog.watch(what.clone());
            let fails = AssertUnwindSafe(|| {
                let mut faulty = Faulty::new(&course, *kind, nth, &mut images, tally);
                faulty.without_deferring = without_deferring.as_ref();
                faulty.live();
            });
            if let Err(panic) = catch_unwind(fails) {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default();
                failures.push(format!("{what}: {text}"));
            }
        }
    }
    failures
}

/// The workload with a fault.
struct Faulty<'a> {
    course: &'a Course,
    /// The same without deferred claims: where a full disk let no numbers be reserved, each is written at once.
    without_deferring: Option<&'a Course>,
    kind: Kind,
    server: Server,
    images: &'a mut Images,
    tally: &'a mut Tally,
    /// What is known to be on disk, as places in `Course::shown`.
    sure: (usize, usize),
    /// The line in which the fault came, counted from 1; opening is 0.
    hit_in: Option<usize>,
}

impl<'a> Faulty<'a> {
    fn new(course: &'a Course, kind: Kind, nth: usize, images: &'a mut Images, tally: &'a mut Tally) -> Self {
        let server = Server::new(course.journal);
        let fault = kind
            .errno
            .map_or_else(DiskFault::panic, DiskFault::os)
            .on(kind.calls)
            .after(nth)
            .having_written(kind.written);
        server.disk.fail(Some(if kind.lasts { fault.for_ever() } else { fault }));
        Self { course, without_deferring: None, kind, server, images, tally, sure: (0, 0), hit_in: None }
    }

    fn live(mut self) {
        if let Err(error) = self.server.open() {
            self.tally.told += 1;
            self.may_be_told(error.kind(), true);
            return self.restart(0);
        }
        self.note_hit(0);
        if self.hit_in.is_some() && self.kind.must == Must::Mend {
            self.course = self.without_deferring.unwrap_or(self.course);
        }
        for (nth, line) in self.course.lines.iter().enumerate() {
            let came = self.server.line(line, |_| {});
            self.note_hit(nth + 1);
            if self.server.store.is_none() {
                self.tally.told += 1;
                let error = came.answers.into_iter().find_map(Result::err).expect("opening it failed");
                self.may_be_told(error.kind(), true);
                return self.restart(nth + 1);
            }
            if self.is_refused(nth, &came) {
                self.tally.told += 1;
                return self.refused(nth, &came);
            }
        }
        let last = self.course.lines.len();
        if self.hit_in.is_some() {
            return self.probe_and_audit(last, true);
        }
        // Only closing is left, which tells nobody that something is durable.
        drop(self.server.end());
        assert_eq!(self.server.disk.failed().min(1), 1, "the fault did not come");
        let allowed = self.allowed(last, true);
        self.audit(&allowed, Some(false));
    }

    fn note_hit(&mut self, line: usize) {
        if self.server.disk.failed() > 0 {
            self.hit_in.get_or_insert(line);
        }
    }

    /// Whether a line came to a fault; else every answer must be the one without a fault.
    fn is_refused(&mut self, nth: usize, came: &Line) -> bool {
        let expected = &self.course.answers[nth];
        let differs = |(came, expected): (&reentry::Result<String>, &String)| text(came) != *expected;
        let differing: Vec<_> = came.answers.iter().zip(expected).map(differs).collect();
        if !differing.contains(&true) {
            let batches = self.course.shown[nth + 1].len();
            let is_sure = self.hit_in.is_none();
            let is_told = came.answers.iter().zip(&came.at_once).any(|(answer, at_once)| answer.is_ok() && !at_once);
            if is_sure {
                self.sure = (nth + 1, batches - 1);
            } else if is_told {
                // The batch that nobody waits for may have failed.
                self.sure = (nth + 1, batches.saturating_sub(3));
            }
            return false;
        }
        for ((answer, at_once), differs) in came.answers.iter().zip(&came.at_once).zip(differing) {
            match answer {
                Ok(told) if differs => panic!("told {told:?} in line {nth}, not {expected:?}"),
                Ok(told) => assert!(at_once, "one batch, one fate, but {told:?} was told beside an error"),
                Err(error) if differs => self.may_be_told(error.kind(), false),
                Err(_) => {}
            }
        }
        true
    }

    /// Whether callers may be told of the fault in this way.
    fn may_be_told(&mut self, kind: ErrorKind, opening: bool) {
        assert!(self.server.disk.failed() > 0, "{kind:?} before the fault");
        self.tally.unknown += usize::from(kind == ErrorKind::OutcomeUnknown);
        let may = match (self.kind.must, opening) {
            // Whatever panics while it reads is taken for damage.
            _ if self.kind.errno.is_none() && kind == ErrorKind::Corrupt => true,
            (Must::Mend, true) => matches!(kind, ErrorKind::Full),
            (Must::Mend, false) => matches!(kind, ErrorKind::Full | ErrorKind::OutcomeUnknown),
            (_, true) => matches!(kind, ErrorKind::Io | ErrorKind::Failed | ErrorKind::Full),
            (_, false) => matches!(kind, ErrorKind::Io | ErrorKind::Failed | ErrorKind::OutcomeUnknown),
        };
        assert!(may, "nobody may be told {kind:?}");
    }

    /// What may be there when line `last` (opening is 0) is applied or not.
    fn allowed(&self, last: usize, may_be_applied: bool) -> Vec<Shown> {
        let (line, batch) = self.sure;
        let mut allowed: Vec<_> = self.course.shown[line][batch..].to_vec();
        let end = if may_be_applied { last } else { last.saturating_sub(1) };
        allowed.extend((line + 1..=end).flat_map(|line| self.course.shown[line].iter().cloned()));
        allowed
    }

    /// What every image of the disk must show.
    fn audit(&mut self, allowed: &[Shown], probe: Option<bool>) {
        let disk = &self.server.disk;
        let mut nth = 0;
        let some = disk.cut(disk.calls(), |_| {
            nth += 1;
            if nth % 2 == 0 { Loss::Kept } else { Loss::Lost }
        });
        for (what, left) in [("killed", killed(disk)), ("cut", lost(disk)), ("partly cut", some)] {
            self.tally.images += 1;
            let mut shown = self.images.shown(&left, &self.server);
            let found = shown.remove("probe").is_some();
            assert!(probe.is_none_or(|told| told == found), "{what}: a later claim was told: {probe:?}, is: {found}");
            assert!(allowed.contains(&shown), "{what}: there is {shown:#?}, allowed is {allowed:#?}");
        }
    }

    /// The process gave up opening the store, and starts again when the disk is well.
    fn restart(&mut self, line: usize) {
        // What a line before told may have been unwritten by nobody; opening itself changes nothing.
        let allowed = self.allowed(line, true);
        self.audit(&allowed, Some(false));
        self.server.disk.fail(None);
        // What a sync dropped as the store was closed, and was dropped again as it was opened anew, a restart of the
        // process alone cannot know (docs/reliability.md); here the system has kept it.
        if self.server.is_kept {
            self.server.disk.keep_what_syncs_dropped();
        }
        self.server.open().expect("the disk is well again");
        self.server.store().verify().unwrap();
        self.server.end().unwrap();
        self.audit(&allowed, Some(false));
    }

    /// A line was refused, or nobody knows.
    fn refused(&mut self, nth: usize, came: &Line) {
        let unknown = |answer: &reentry::Result<String>| {
            answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::OutcomeUnknown)
        };
        let may_be_applied = came.answers.iter().any(unknown);
        self.probe_and_audit(nth + 1, may_be_applied);
    }

    /// Asks on, before and after the disk is well again, and looks at what is on it.
    fn probe_and_audit(&mut self, line: usize, may_be_applied: bool) {
        let allowed = self.allowed(line, may_be_applied);
        self.audit(&allowed, Some(false));
        let is_reopened = (self.hit_in.unwrap_or(0).max(1)..=line).any(|nth| self.course.lines[nth - 1] == "reopen");
        if self.kind.must == Must::Mend {
            self.replays_go_on(&allowed);
        }
        let before = self.probe();
        self.server.disk.fail(None);
        let after = self.probe();
        match self.kind.must {
            Must::Mend => assert!(after.is_ok(), "there is room again, and it says {after:?}"),
            Must::Stop if !is_reopened && self.hit_in.is_some_and(|hit| hit > 0) => {
                assert!(matches!(before, Err(ErrorKind::Failed | ErrorKind::OutcomeUnknown)), "a claim: {before:?}");
                assert_eq!(after, Err(ErrorKind::Failed), "a disk that is well again is no reason to go on");
            }
            Must::Stop | Must::KeepWord => {}
        }
        let probe = match (&before, &after) {
            (Ok(_), _) | (_, Ok(_)) => Some(true),
            (Err(ErrorKind::OutcomeUnknown), _) | (_, Err(ErrorKind::OutcomeUnknown)) => None,
            _ => Some(false),
        };
        if after.is_ok() {
            self.server.store().verify().unwrap();
        }
        self.audit(&allowed, probe);
        drop(self.server.end());
        self.audit(&allowed, probe);
    }

    /// One more claim, which must be answered.
    fn probe(&mut self) -> Result<String, ErrorKind> {
        let answer = self.server.line("claim probe", |_| {}).answers.remove(0);
        answer.map_err(|error| error.kind())
    }

    /// What has an outcome is replayed while the disk is full.
    fn replays_go_on(&mut self, allowed: &[Shown]) {
        for name in NAMES {
            let ended = |shown: &Shown| shown.get(name).is_some_and(|shown| shown.contains("outcome"));
            if !allowed.iter().all(ended) {
                continue;
            }
            match self.server.replay(name) {
                Poll::Ready(Ok(Some(_))) => self.tally.replays += 1,
                // Where the file cannot even be opened anew nothing can be read.
                Poll::Ready(Err(error)) if error.kind() == ErrorKind::Full => self.tally.replays_refused += 1,
                other => panic!("a replay of {name} while the disk is full: {other:?}"),
            }
        }
    }
}
