//! The figures, published through the `metrics` facade; the only file that names it.
//!
//! They are published when the server asks for it, as they are then: a claim costs nothing for it, and no figure has a
//! name or a label that a client chooses (P9).

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use super::{Condition, Percentiles, Stats, Store};
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;

/// What stands for itself at one moment: its name, its unit, what it is, and its value.
type Gauge = (&'static str, Unit, &'static str, fn(&Stats) -> f64);

/// What only grows while the store is open.
type Counter = (&'static str, &'static str, fn(&Stats) -> u64);

const GAUGES: [Gauge; 13] = [
    ("reentry_serving", Unit::Count, "1 where the store serves, 0 where it is full, failed or closed", |stats| {
        if stats.condition == Condition::Serving { 1.0 } else { 0.0 }
    }),
    (
        "reentry_oldest_unfinished_seconds",
        Unit::Seconds,
        "age of the oldest unfinished operation, 0 if none",
        |stats| stats.oldest_unfinished.unwrap_or_default().as_secs_f64(),
    ),
    ("reentry_unfinished", Unit::Count, "operations without an outcome", |stats| float(stats.unfinished)),
    ("reentry_owned", Unit::Count, "operations that a run is at work on", |stats| float(stats.owned)),
    ("reentry_in_doubt", Unit::Count, "unfinished operations with a step in doubt", |stats| float(stats.in_doubt)),
    ("reentry_stuck", Unit::Count, "operations that no resumer tries again", |stats| float(stats.stuck)),
    ("reentry_completed", Unit::Count, "operations whose outcome is kept", |stats| float(stats.completed)),
    ("reentry_tombstones", Unit::Count, "operations of which the tombstone is kept", |stats| float(stats.tombstones)),
    ("reentry_waiting", Unit::Count, "claims that wait for another run", |stats| float(stats.waiting)),
    ("reentry_queued", Unit::Count, "commands that wait for the writer", |stats| float(stats.queued)),
    ("reentry_kept_bytes", Unit::Bytes, "bytes of all rows", |stats| float(stats.bytes)),
    ("reentry_file_bytes", Unit::Bytes, "size of the file", |stats| float(stats.disk_bytes)),
    ("reentry_index_bytes", Unit::Bytes, "memory of the index", |stats| float(stats.index_bytes)),
];

const COUNTERS: [Counter; 6] = [
    ("reentry_commits_total", "commits", |stats| stats.commits),
    ("reentry_changes_total", "changes of operations", |stats| stats.changes),
    ("reentry_removed_total", "operations that retention removed", |stats| stats.removed),
    ("reentry_fenced_total", "calls of runs that had lost their operation", |stats| stats.fenced),
    ("reentry_refused_total", "claims that were refused for what is kept already", |stats| stats.refused),
    ("reentry_faults_total", "errors of the store's own", |stats| stats.faults),
];

const CLAIMS: &str = "reentry_claims_total";
const COMMIT: &str = "reentry_commit_seconds";
const SYNC: &str = "reentry_sync_seconds";
const BATCH: &str = "reentry_batch_size";

impl Store {
    /// Publishes the figures of this moment ([`stats`](Self::stats)) to the recorder that the server installed, under
    /// the names of the guide `docs/operating.md`, each with the label `store`, whose value is `name`: one that tells
    /// the stores of a process apart. No other label is chosen by anybody, and no key is ever one (P9). Feature
    /// `metrics`.
    ///
    /// Call it before each scrape, or every few seconds. It costs what `stats` costs, and claims nothing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] where the file's size cannot be asked for.
    pub fn publish_metrics(&self, name: &str) -> Result<()> {
        publish(&self.stats()?, name);
        Ok(())
    }
}

fn publish(stats: &Stats, name: &str) {
    let store = || name.to_owned();
    for (metric, unit, what, value) in GAUGES {
        describe_gauge!(metric, unit, what);
        gauge!(metric, "store" => store()).set(value(stats));
    }
    for (metric, what, value) in COUNTERS {
        describe_counter!(metric, Unit::Count, what);
        counter!(metric, "store" => store()).absolute(value(stats));
    }
    describe_counter!(CLAIMS, Unit::Count, "claims, by what they came to");
    for (answer, count) in stats.claims.by_answer() {
        counter!(CLAIMS, "store" => store(), "answer" => answer).absolute(count);
    }
    let seconds = |span: Duration| span.as_secs_f64();
    describe_gauge!(COMMIT, Unit::Seconds, "how long commits took, of the last 1,024");
    describe_gauge!(SYNC, Unit::Seconds, "how long syncs took, of the last 1,024 commits");
    describe_gauge!(BATCH, Unit::Count, "how many commands shared a commit, of the last 1,024");
    for (metric, found) in [
        (COMMIT, stats.commit_time.map(|found| found.map(seconds))),
        (SYNC, stats.sync_time.map(|found| found.map(seconds))),
        (BATCH, stats.batch.map(|found| found.map(float))),
    ] {
        let Some(Percentiles { p50, p90, p99, max }) = found else { continue };
        for (quantile, value) in [("0.5", p50), ("0.9", p90), ("0.99", p99), ("1", max)] {
            gauge!(metric, "store" => store(), "quantile" => quantile).set(value);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people needs no exactness")]
fn float(value: u64) -> f64 {
    value as f64
}
