//! Slices of ours and of the limit in turn, and the table that they end in.

use std::time::Duration;

use criterion::{Criterion, SamplingMode};

use crate::probe::Probe;

/// How many pairs of slices are compared: the fewest that criterion takes.
const PAIRS: usize = 10;

/// What a slice of work came to.
#[derive(Debug, Default)]
pub(crate) struct Slice {
    pub(crate) per_second: f64,
    /// Changes that shared a commit, where there were any.
    pub(crate) batch: f64,
    /// How long single operations took, where that was cheap to tell.
    pub(crate) latencies: Vec<Duration>,
}

/// Both sides of a comparison: each works for about the time it is given. The limit is told the size of our batches.
pub(crate) struct Sides<'s> {
    pub(crate) ours: Box<dyn FnMut(Duration) -> Slice + 's>,
    pub(crate) limit: Option<Box<dyn FnMut(Duration, f64) -> Slice + 's>>,
}

/// What is compared with what.
#[derive(Debug, Clone)]
pub(crate) struct Work {
    pub(crate) name: String,
    pub(crate) callers: String,
    /// What the limit is.
    pub(crate) limit: &'static str,
    pub(crate) goal: Goal,
    /// How long a slice is: long enough for each caller to be answered several times.
    pub(crate) span: Duration,
}

/// What the design wants of a row.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    OfTheLimit(f64),
    PerSecond(u32),
    None,
}

/// Everything measured in one run.
pub(crate) struct Comparison {
    criterion: Criterion,
    probe: Probe,
    is_trial: bool,
    rows: Vec<Row>,
}

struct Row {
    work: Work,
    pairs: Vec<Pair>,
}

struct Pair {
    ours: Slice,
    limit: Option<Slice>,
    flush: Duration,
}

impl Comparison {
    /// Takes criterion's arguments; with `--test` each work is only tried once, on little.
    pub(crate) fn from_args() -> Self {
        let is_trial = std::env::args().any(|arg| arg == "--test");
        let criterion = Criterion::default().without_plots().sample_size(PAIRS).configure_from_args();
        Self { criterion, probe: Probe::new(), is_trial, rows: Vec::new() }
    }

    /// How many operations the small and the large store keep.
    pub(crate) fn sizes(&self) -> (u64, u64) {
        if self.is_trial { (1_000, 2_000) } else { (100_000, 1_000_000) }
    }

    /// Compares the two sides, which are only made where the arguments ask for this work.
    pub(crate) fn compare<'s>(&mut self, work: Work, make: impl FnOnce() -> Sides<'s>) {
        let (mut sides, mut make) = (None, Some(make));
        let mut pairs = Vec::new();
        let span = if self.is_trial { Duration::from_millis(5) } else { work.span };
        let mut group = self.criterion.benchmark_group(&work.name);
        // One iteration is a pair of slices, so criterion's own warming up is one pair, and its time only a hint.
        group.sampling_mode(SamplingMode::Flat).warm_up_time(Duration::from_nanos(1)).measurement_time(span * 40);
        group.bench_function(format!("{} beside {}", work.callers, work.limit), |bencher| {
            let Sides { ours, limit } =
                sides.get_or_insert_with(|| make.take().expect("the sides are only made once")());
            bencher.iter_custom(|iterations| {
                let flush = self.probe.flush();
                let ours = ours(span);
                let limit = limit.as_mut().map(|limit| limit(span, ours.batch));
                let time = Duration::from_secs_f64(iterations as f64 / ours.per_second);
                pairs.push(Pair { ours, limit, flush });
                time
            });
        });
        group.finish();
        pairs.drain(..pairs.len().saturating_sub(PAIRS));
        if !pairs.is_empty() {
            self.rows.push(Row { work, pairs });
        }
    }

    /// Prints the table.
    pub(crate) fn print(self) {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        println!("\n{cores} cores; files in {}; each row {PAIRS} pairs of slices in turn", self.probe.folder());
        println!(
            "{:<26} {:>11} {:>10} {:>10} {:>6} {:>13} {:>10} {:>8} {:>8} {:>6} {:>8}",
            "work",
            "callers",
            "ours/s",
            "limit/s",
            "ratio",
            "min .. max",
            "goal",
            "p50 us",
            "p99 us",
            "batch",
            "flush us"
        );
        self.rows.into_iter().for_each(Row::print);
        self.criterion.final_summary();
    }
}

impl Row {
    fn print(self) {
        let of = |figure: fn(&Pair) -> Option<f64>| sorted(self.pairs.iter().filter_map(figure).collect());
        let ours = of(|pair| Some(pair.ours.per_second));
        let limit = of(|pair| pair.limit.as_ref().map(|limit| limit.per_second));
        let ratios = of(|pair| pair.limit.as_ref().map(|limit| pair.ours.per_second / limit.per_second));
        let batches = of(|pair| Some(pair.ours.batch));
        let flushes = of(|pair| Some(pair.flush.as_secs_f64() * 1e6));
        let latencies = self.pairs.iter().flat_map(|pair| &pair.ours.latencies).map(|l| l.as_secs_f64() * 1e6);
        let latencies = sorted(latencies.collect());
        let range = match (ratios.first(), ratios.last()) {
            (Some(least), Some(most)) => format!("{least:.2} .. {most:.2}"),
            _ => String::from("-"),
        };
        let Work { name, callers, limit: beside, goal, .. } = self.work;
        let goal = match goal {
            Goal::OfTheLimit(ratio) => format!("{ratio:.2}"),
            Goal::PerSecond(rate) => format!("{rate}/s"),
            Goal::None => String::from("-"),
        };
        println!(
            "{name:<26} {callers:>11} {beside:>14} {:>9} {:>9} {:>6} {range:>13} {goal:>11} {:>7} {:>7} {:>6} {:>8}",
            figure(&ours, 0.5, 0),
            figure(&limit, 0.5, 0),
            figure(&ratios, 0.5, 2),
            figure(&latencies, 0.5, 0),
            figure(&latencies, 0.99, 0),
            figure(&batches, 0.5, 0),
            figure(&flushes, 0.5, 0),
        );
    }
}

fn sorted(mut figures: Vec<f64>) -> Vec<f64> {
    figures.sort_by(f64::total_cmp);
    figures
}

/// The figure that this share of all lies below; a dash where there are none.
fn figure(sorted: &[f64], share: f64, digits: usize) -> String {
    let nth = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
    sorted.get(nth).map_or_else(|| String::from("-"), |figure| format!("{figure:.digits$}"))
}
