//! Figures of the last minutes, taken whenever somebody looks: what the chart is drawn from.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::error::Result;
use crate::store::{Stats, Store};
use crate::sync::Mutex;

/// Most samples that are kept, how far they are apart at least, and how old they become.
const SAMPLES_MAX: usize = 300;
const APART: Duration = Duration::from_secs(1);
const AGE_MAX: Duration = Duration::from_secs(10 * 60);

/// The figures that are charted, at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) at: Timestamp,
    pub(super) claims: u64,
    /// What ninety-nine of a hundred of the last syncs took at most; nothing before the first.
    pub(super) sync: Duration,
}

#[derive(Default)]
pub(super) struct Samples(Mutex<VecDeque<Sample>>);

impl Samples {
    /// The figures of now, kept as a sample where the last one is old enough.
    pub(super) fn take(&self, store: &Store) -> Result<Stats> {
        let stats = store.stats()?;
        let sync = stats.sync_time.map(|times| times.p99).unwrap_or_default();
        let sample = Sample { at: store.time(), claims: stats.claims.total(), sync };
        let mut kept = self.0.lock();
        if kept.back().is_none_or(|last| sample.at >= last.at + APART) {
            kept.push_back(sample);
            while kept.len() > SAMPLES_MAX || kept.front().is_some_and(|first| first.at + AGE_MAX < sample.at) {
                kept.pop_front();
            }
        }
        Ok(stats)
    }

    /// All samples, oldest first.
    pub(super) fn all(&self) -> Vec<Sample> {
        self.0.lock().iter().copied().collect()
    }
}
