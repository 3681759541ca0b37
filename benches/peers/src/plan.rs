//! What is measured in which order: stages, each with its own files, and in each stage kinds of work and callers.

use std::time::Duration;

use clap::ValueEnum;

use crate::contenders::Name;
use crate::options::Options;
use crate::work::{Callers, KeyShape, Kind, Load, Mode, Work};

/// Stores that keep no more than this are made anew for each row, so that no row stands on what one before it left.
pub(crate) const SMALL: u64 = 100_000;

/// From this many kept on only some take part, so that an hour, the disk and the memory suffice.
const LARGE: u64 = 5_000_000;

const THREADS: [usize; 3] = [1, 16, 256];
const TASKS: [usize; 3] = [1, 256, 4096];

/// Everything that is measured on the same files.
#[derive(Debug, Clone)]
pub(crate) struct Stage {
    pub(crate) mode: Mode,
    pub(crate) load: Load,
    pub(crate) kept: u64,
    pub(crate) contenders: Vec<Name>,
    pub(crate) rows: Vec<(Work, Callers)>,
    pub(crate) span: Duration,
    pub(crate) rounds: usize,
}

impl Stage {
    /// Whether an index by time is kept, and what is kept expires soon.
    pub(crate) fn is_expiring(&self) -> bool {
        self.rows.iter().any(|(work, _)| *work == Work::Removal)
    }

    /// How many slices it takes.
    pub(crate) fn slices(&self) -> usize {
        let takes_part = |(work, callers): &(Work, Callers)| {
            self.contenders.iter().filter(|name| name.takes_part(*work, *callers)).count()
        };
        self.rows.iter().map(takes_part).sum::<usize>() * self.rounds
    }
}

/// What the options ask for.
pub(crate) fn plan(options: &Options) -> Vec<Stage> {
    let modes = options.modes.clone().unwrap_or_else(|| vec![Mode::Fixed, Mode::Disk]);
    let sizes = options.sizes.clone().unwrap_or_else(|| preset(options, &[10_000], &[10_000, 1_000_000, 10_000_000]));
    let payloads = options.payload.clone().unwrap_or_else(|| preset(options, &[100], &[100, 4096]));
    let mut stages = Vec::new();
    for mode in modes {
        for &kept in &sizes {
            for &payload_bytes in &payloads {
                // Large payloads beside many operations would only measure how large the disk is.
                if options.payload.is_some() || payload_bytes <= 1024 || kept <= SMALL {
                    let load = Load { key: options.key.unwrap_or(KeyShape::Uuid), payload_bytes };
                    stages.extend(Draft { options, mode, kept, load }.stages());
                }
            }
        }
    }
    stages.retain(|stage| !stage.rows.is_empty() && !stage.contenders.is_empty());
    stages
}

fn preset<T: Clone>(options: &Options, quick: &[T], full: &[T]) -> Vec<T> {
    if options.quick { quick.to_vec() } else { full.to_vec() }
}

/// What the stages of one mode, size and payload are made from.
struct Draft<'o> {
    options: &'o Options,
    mode: Mode,
    kept: u64,
    load: Load,
}

impl Draft<'_> {
    /// What is removed changes everything beside it, so it has a stage of its own.
    fn stages(&self) -> [Stage; 2] {
        let (apart, together) = self.works().into_iter().partition(|work| matches!(work, Work::Removal | Work::Quiet));
        let rows = |works: Vec<Work>| {
            let rows = works.into_iter().flat_map(|work| self.callers(work).into_iter().map(move |by| (work, by)));
            rows.collect()
        };
        [self.stage(rows(together)), self.stage(rows(apart))]
    }

    fn stage(&self, rows: Vec<(Work, Callers)>) -> Stage {
        let options = self.options;
        let seconds = options.seconds.unwrap_or(if options.quick { 0.1 } else { 0.4 });
        Stage {
            mode: self.mode,
            load: self.load,
            kept: self.kept,
            contenders: self.contenders(),
            rows,
            span: Duration::from_secs_f64(seconds),
            rounds: options.rounds.unwrap_or(if options.quick { 3 } else { 5 }),
        }
    }

    fn works(&self) -> Vec<Work> {
        use Work::{
            Absent, Checkpoints, ClaimComplete, Contention, Footprint, Open, Quiet, Removal, ReplayCold, ReplayHot,
            Steps,
        };
        let mut works = match &self.options.works {
            Some(works) => works.clone(),
            None if self.options.quick && self.mode == Mode::Disk => vec![ClaimComplete],
            None if self.options.quick => vec![Footprint, ClaimComplete, Steps, ReplayHot, Absent],
            None if self.load.payload_bytes > 1024 => vec![Footprint, ClaimComplete, ReplayHot, Open],
            None if self.kept >= LARGE => vec![Footprint, ClaimComplete, ReplayHot, ReplayCold, Absent, Open],
            None if self.kept > SMALL => {
                vec![Footprint, ClaimComplete, ReplayHot, ReplayCold, Absent, Open, Removal]
            }
            None => vec![Footprint, ClaimComplete, Checkpoints, Steps, ReplayHot, ReplayCold, Absent, Contention, Open],
        };
        if works.contains(&Removal) && !works.contains(&Quiet) {
            works.push(Quiet);
        }
        works.retain(|work| *work != Work::Sustained);
        works.sort_by_key(|work| order(*work));
        works.dedup();
        works
    }

    fn contenders(&self) -> Vec<Name> {
        use Name::{FjallGroup, Limit, LmdbGroup, Reentry, Sqlite};
        let all = Name::value_variants().iter().copied();
        match &self.options.contenders {
            // In the order of the turns: the bare loops take the size of their batches from reentry.
            Some(asked) => all.filter(|name| asked.contains(name)).collect(),
            None if self.kept >= LARGE && self.mode == Mode::Fixed => vec![Reentry, Limit, Sqlite],
            None if self.kept >= LARGE => vec![Reentry, Limit, Sqlite, FjallGroup, LmdbGroup],
            None => all.collect(),
        }
    }

    fn callers(&self, work: Work) -> Vec<Callers> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (threads, tasks) = self.numbers();
        let of = |kind, counts: &[usize]| -> Vec<Callers> {
            counts.iter().filter(|count| **count > 0).map(|count| Callers { kind, count: *count }).collect()
        };
        let most = |counts: &[usize]| counts.iter().copied().max().into_iter().collect::<Vec<_>>();
        let is_asked = self.options.threads.is_some() || self.options.tasks.is_some();
        match work {
            Work::Open | Work::Footprint => of(Kind::Threads, &[1]),
            Work::ReplayHot | Work::ReplayCold | Work::Absent => {
                let mut counts = if self.options.threads.is_some() { threads } else { vec![1, cores] };
                counts.dedup();
                if self.options.quick && !is_asked {
                    counts.truncate(1);
                }
                of(Kind::Threads, &counts)
            }
            Work::Steps | Work::Checkpoints if !is_asked && self.options.quick => of(Kind::Threads, &[1]),
            Work::Steps if !is_asked => of(Kind::Threads, &[1, 256]),
            Work::Checkpoints if !is_asked => [of(Kind::Threads, &[1, 256]), of(Kind::Tasks, &[256])].concat(),
            Work::Contention if !is_asked => [of(Kind::Threads, &[256]), of(Kind::Tasks, &[256])].concat(),
            Work::Quiet | Work::Removal => of(Kind::Threads, &most(&threads)),
            _ => [of(Kind::Threads, &threads), of(Kind::Tasks, &tasks)].concat(),
        }
    }

    /// How many threads, and how many tasks.
    fn numbers(&self) -> (Vec<usize>, Vec<usize>) {
        let (threads, tasks) = match (&self.options.threads, &self.options.tasks) {
            (None, None) => (None, None),
            // Who asks for the one wants none of the other.
            (threads, tasks) => (Some(threads.clone().unwrap_or_default()), Some(tasks.clone().unwrap_or_default())),
        };
        let is_small = self.kept <= SMALL && self.load.payload_bytes <= 1024;
        let is_narrow = self.options.quick || !is_small;
        let few = |all: [usize; 3], some: &[usize]| if is_narrow { some.to_vec() } else { all.to_vec() };
        let is_quick_on_disk = self.options.quick && self.mode == Mode::Disk;
        (
            threads.unwrap_or_else(|| few(THREADS, &[1, 256])),
            tasks.unwrap_or_else(|| if is_quick_on_disk { Vec::new() } else { few(TASKS, &[256]) }),
        )
    }
}

/// Memory and disk are looked at first, before other work adds to them; what is killed, last.
fn order(work: Work) -> (u8, Work) {
    let place = match work {
        Work::Footprint => 0,
        Work::ReplayHot | Work::ReplayCold | Work::Absent => 1,
        Work::Open => 3,
        Work::Quiet => 4,
        Work::Removal => 5,
        _ => 2,
    };
    (place, work)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn planned(arguments: &[&str]) -> Vec<Stage> {
        plan(&Options::parse_from(["peers"].iter().chain(arguments)))
    }

    #[test]
    fn a_narrow_question_is_one_stage_with_what_was_asked_for_alone() {
        let arguments = ["--modes=disk", "--sizes=7", "--payload=9", "--threads=3", "--works=claim-complete"];
        let [stage] = &planned(&arguments)[..] else { panic!("one mode, size and payload are one stage") };
        assert_eq!((stage.mode, stage.kept, stage.load.payload_bytes), (Mode::Disk, 7, 9));
        assert_eq!(stage.rows, [(Work::ClaimComplete, Callers::threads(3))]);
        assert_eq!(planned(&["--contenders=redis", "--quick"])[0].contenders, [Name::Redis]);
    }

    #[test]
    fn bare_loops_stand_behind_the_store_whose_batches_they_take() {
        for stage in planned(&[]) {
            let place = |name| stage.contenders.iter().position(|known| *known == name);
            assert!(place(Name::Reentry) < place(Name::Limit) && place(Name::Reentry) == Some(0));
        }
    }

    #[test]
    fn what_removes_everything_has_files_of_its_own_and_a_quiet_time_before() {
        let apart: Vec<Stage> = planned(&[]).into_iter().filter(Stage::is_expiring).collect();
        assert!(!apart.is_empty());
        for stage in apart {
            assert_eq!(stage.rows.iter().map(|row| row.0).collect::<Vec<_>>(), [Work::Quiet, Work::Removal]);
        }
    }
}
