//! What is published through the `metrics` facade: the figures, under the names that the guide lists, and no key (P9).

#![cfg(not(any(shuttle, loom, miri)))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use metrics_util::MetricKind;
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use reentry::{
    Condition, DiskCall, DiskFault, ErrorKind, Fingerprint, Key, Percentiles, Request, SimulatedDisk, Stats, Store,
};
use support::{Gate, full, key, kind, request, run, run_of, settle, stand_in_line, times_out, until};

const HOUR: Duration = Duration::from_secs(3600);
const CANARY: &str = "canary-4111111111111111";

/// What was published: name and labels, in the form of an exporter, with the value.
type Published = BTreeMap<String, (MetricKind, f64)>;

fn published(publish: impl Fn()) -> Published {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, publish);
    let mut found = Published::new();
    for (key, unit, description, value) in snapshotter.snapshot().into_vec() {
        let (kind, key) = key.into_parts();
        assert!(unit.is_some() && description.is_some(), "{} is described", key.name());
        let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let value = match value {
            #[expect(clippy::cast_precision_loss, reason = "counts are small")]
            DebugValue::Counter(count) => count as f64,
            DebugValue::Gauge(value) => value.into_inner(),
            DebugValue::Histogram(_) => panic!("nothing is a histogram"),
        };
        found.insert(format!("{} {}", key.name(), labels.join(" ")), (kind, value));
    }
    found
}

fn busy_store() -> Store {
    let store = Store::builder().attempts_max(1).in_memory().unwrap();
    let canary = Key::new(format!("tenant {CANARY}"), CANARY).unwrap();
    drop(run(&store, &canary).complete(&CANARY.to_owned()).wait().unwrap());
    drop(store.claim(&canary, Fingerprint::of("another")).wait().unwrap());
    (0..5).for_each(|_| drop(store.claim(&canary, request()).wait().unwrap()));
    times_out(&mut run(&store, &key("doubtful")), "charge");
    store
}

#[test]
fn what_is_published_is_what_the_figures_tell() {
    let store = busy_store();
    let _owned = run(&store, &key("owned"));
    let found = published(|| store.publish_metrics("orders").unwrap());
    let Stats { unfinished, in_doubt, stuck, owned, completed, commits, changes, claims, commit_time, .. } =
        store.stats().unwrap();
    assert_eq!((unfinished, in_doubt, stuck, owned, completed), (2, 1, 1, 1, 1));
    let gauge = |name: &str| match found.get(&format!("{name} store=orders")) {
        Some((MetricKind::Gauge, value)) => *value,
        other => panic!("{name}: {other:?}"),
    };
    let counter = |name: &str| match found.get(name) {
        Some((MetricKind::Counter, value)) => *value,
        other => panic!("{name}: {other:?}"),
    };
    #[expect(clippy::cast_precision_loss, reason = "counts are small")]
    let float = |count: u64| count as f64;
    let close = |one: f64, other: f64| assert!((one - other).abs() < 1e-9, "{one} is not {other}");
    close(gauge("reentry_serving"), 1.0);
    close(gauge("reentry_unfinished"), float(unfinished));
    close(gauge("reentry_in_doubt"), float(in_doubt));
    close(gauge("reentry_stuck"), float(stuck));
    close(gauge("reentry_owned"), float(owned));
    close(gauge("reentry_completed"), float(completed));
    assert!(gauge("reentry_oldest_unfinished_seconds") >= 0.0 && gauge("reentry_file_bytes") > 4096.0);
    close(counter("reentry_commits_total store=orders"), float(commits));
    close(counter("reentry_changes_total store=orders"), float(changes));
    close(counter("reentry_claims_total store=orders answer=replayed"), 5.0);
    close(counter("reentry_claims_total store=orders answer=rejected"), 1.0);
    close(counter("reentry_claims_total store=orders answer=begun"), float(claims.begun));
    let median = &found["reentry_commit_seconds store=orders quantile=0.5"];
    close(median.1, commit_time.unwrap().p50.as_secs_f64());
}

/// A store with other counts of everything that can be counted.
fn store_of_many_figures(gate: &Gate) -> Store {
    let clock = &gate.clock;
    let builder = Store::builder().clock(gate.clone()).attempts_max(1).retention(HOUR).tombstones(HOUR);
    let store = builder.operations_max(25).in_memory().unwrap();
    let complete = |name: &str| drop(run(&store, &key(name)).complete(&vec![7_u8; 3_000]).wait().unwrap());
    (0..2).for_each(|nth| complete(&format!("removed {nth}")));
    clock.advance(HOUR);
    settle(&store);
    clock.advance(HOUR);
    settle(&store);
    (0..4).for_each(|nth| complete(&format!("tombstone {nth}")));
    clock.advance(HOUR);
    settle(&store);
    (0..5).for_each(|nth| complete(&format!("completed {nth}")));
    (0..6).for_each(|nth| times_out(&mut run(&store, &key(&format!("in doubt {nth}"))), "charge"));
    // In one commit, so that there are far more changes than commits.
    gate.hold(&store);
    let stuck: Vec<_> = (0..7).map(|nth| store.claim(&key(&format!("stuck {nth}")), request())).collect();
    gate.open();
    for claim in stuck {
        drop(claim.wait().unwrap());
    }
    let mut fenced = run(&store, &key("owned 0"));
    assert!(store.revoke(&key("owned 0")).wait().unwrap());
    (0..10).for_each(|_| assert_eq!(kind(fenced.advance("paid", &()).wait()), ErrorKind::Fenced));
    clock.advance(HOUR / 3);
    store
}

#[test]
fn each_figure_is_published_under_its_own_name() {
    let gate = Gate::new();
    let store = store_of_many_figures(&gate);
    let owned: Vec<_> = (0..3).map(|nth| run(&store, &key(&format!("owned {nth}")))).collect();
    let in_line = [(); 8].map(|()| stand_in_line(&store, &key("owned 1")));
    (0..11).for_each(|_| assert_eq!(kind(store.claim(&key("new"), request()).wait()), ErrorKind::Capacity));
    settle(&store);
    gate.hold(&store);
    let claims: Vec<_> = (0..20).map(|nth| store.claim(&key(&format!("stuck {}", nth % 7)), request())).collect();
    let (found, stats) = (published(|| store.publish_metrics("orders").unwrap()), store.stats().unwrap());
    gate.open();
    let told = [
        ("oldest_unfinished_seconds", stats.oldest_unfinished.unwrap().as_secs()),
        ("unfinished", stats.unfinished),
        ("owned", stats.owned),
        ("in_doubt", stats.in_doubt),
        ("stuck", stats.stuck),
        ("completed", stats.completed),
        ("tombstones", stats.tombstones),
        ("waiting", stats.waiting),
        ("queued", stats.queued),
        ("kept_bytes", stats.bytes),
        ("file_bytes", stats.disk_bytes),
        ("index_bytes", stats.index_bytes),
        ("commits_total", stats.commits),
        ("changes_total", stats.changes),
        ("removed_total", stats.removed),
        ("fenced_total", stats.fenced),
        ("refused_total", stats.refused),
        ("faults_total", stats.faults),
    ];
    for (name, figure) in told {
        #[expect(clippy::cast_precision_loss, reason = "counts are small")]
        let figure = figure as f64;
        let (_, value) = found[&format!("reentry_{name} store=orders")];
        assert!((value - figure).abs() < 1.0, "{name} is {figure}, and {value} is published");
    }
    let figures: BTreeSet<_> = told.iter().map(|(_, figure)| figure).collect();
    assert_eq!(figures.len(), told.len(), "one would not be told from another: {told:?}");
    for claim in claims {
        drop(claim.wait().unwrap());
    }
    drop((owned, in_line));
}

/// An alarm listens to this one: whatever keeps a store from serving has to set it off, and it has to end once the
/// store serves again.
#[test]
fn p10_a_store_that_serves_no_more_is_published_as_such() {
    let serves = |store: &Store, condition: Condition| {
        assert_eq!(store.stats().unwrap().condition, condition);
        let found = published(|| store.publish_metrics("orders").unwrap());
        let serving = found["reentry_serving store=orders"].1;
        let expected = if condition == Condition::Serving { 1.0 } else { 0.0 };
        assert!((serving - expected).abs() < 1e-9, "{serving} is published of a store that is {condition}");
    };
    let disk = SimulatedDisk::new();
    let store = Store::builder().open_on(&disk).unwrap();
    serves(&store, Condition::Serving);
    disk.fail(Some(full()));
    store.claim(&key("order"), request()).wait().unwrap_err();
    serves(&store, Condition::Full);
    disk.fail(None);
    until("the disk has room again", || store.claim(&key("order"), request()).wait().is_ok());
    serves(&store, Condition::Serving);
    store.close().unwrap();
    serves(&store, Condition::Closed);
    serves(&Store::builder().open_to_read_on(&disk).unwrap(), Condition::ReadOnly);
    let store = Store::builder().open_on(&disk).unwrap();
    disk.fail(Some(DiskFault::os(5).on(&[DiskCall::Sync])));
    store.claim(&key("another"), request()).wait().unwrap_err();
    serves(&store, Condition::Failed);
}

/// A store of 119 commits, of which a hundred took in one command, fifteen two, three three and one four, so that no
/// quantile is another. Each took a millisecond more than its sync, for rows of the server's own.
fn store_of_many_commits() -> Store {
    let store = Store::builder().open_by_hand(&SimulatedDisk::new()).unwrap();
    // That is no commit.
    let claim = store.claim(&key("order"), Request::from(request()).deferred());
    store.work_by_hand();
    let (mut order, mut claims) = (run_of(claim.wait().unwrap()), Vec::new());
    let sizes = [(1, 100), (2, 15), (3, 3), (4, 1)].into_iter().flat_map(|(size, times)| [size].repeat(times));
    for (nth, size) in sizes.enumerate() {
        let moved = order.advance_with("paid", &(), |_| {
            let began = Instant::now();
            until("it has taken a millisecond", || began.elapsed() > Duration::from_millis(1));
            Ok(())
        });
        // They are kept to the end, so that no run is given back in between.
        claims.extend((1..size).map(|other| store.claim(&key(&format!("{nth} {other}")), request())));
        store.work_by_hand();
        moved.wait().unwrap();
    }
    store
}

/// A disk that slows down and a server whose own rows take too long are told apart by these.
#[test]
fn commits_and_syncs_and_batches_are_each_published_with_their_own_quantiles() {
    let store = store_of_many_commits();
    let found = published(|| store.publish_metrics("orders").unwrap());
    let Stats { commit_time: Some(commit), sync_time: Some(sync), batch: Some(batch), .. } = store.stats().unwrap()
    else {
        panic!("nothing was committed")
    };
    assert!(commit.max > sync.max && commit.p50 > sync.p50, "one would not be told from another: {commit:?} {sync:?}");
    assert_eq!([batch.p50, batch.p90, batch.p99, batch.max], [1, 2, 3, 4]);
    let of = |Percentiles { p50, p90, p99, max, .. }: Percentiles<Duration>| {
        [p50, p90, p99, max].map(|span| span.as_secs_f64())
    };
    let spreads = [("commit_seconds", of(commit)), ("sync_seconds", of(sync)), ("batch_size", [1.0, 2.0, 3.0, 4.0])];
    for (name, spread) in spreads {
        for (quantile, told) in ["0.5", "0.9", "0.99", "1"].into_iter().zip(spread) {
            let (_, value) = found[&format!("reentry_{name} store=orders quantile={quantile}")];
            assert!((value - told).abs() < 1e-9, "{name} of {quantile} is {told}, and {value} is published");
        }
    }
}

#[test]
fn p9_no_key_and_no_scope_is_a_name_or_a_label() {
    let store = busy_store();
    let found = published(|| store.publish_metrics("orders").unwrap());
    assert!(found.len() > 30, "{found:?}");
    for name in found.keys() {
        assert!(!name.contains(CANARY), "{name}");
        let labels = name.split(' ').skip(1);
        let known = ["store=orders", "answer=", "quantile="];
        assert!(labels.into_iter().all(|label| known.iter().any(|known| label.starts_with(known))), "{name}");
    }
    // However many keys there are, there are as many metrics.
    (0..100).for_each(|n| drop(run(&store, &key(&n.to_string()))));
    assert_eq!(published(|| store.publish_metrics("orders").unwrap()).len(), found.len());
}

#[test]
fn every_metric_is_in_the_guide_and_nothing_else_is() {
    let store = busy_store();
    let found = published(|| store.publish_metrics("orders").unwrap());
    let found: BTreeSet<_> = found.keys().map(|name| name.split(' ').next().unwrap()).collect();
    let guide = include_str!("../docs/operating.md");
    // The first cell of its row; labels stand behind the name.
    let named = |line: &'static str| line.strip_prefix("| `reentry_").and_then(|rest| rest.split(['`', '{']).next());
    let named: BTreeSet<_> = guide.lines().filter_map(named).map(|name| format!("reentry_{name}")).collect();
    assert_eq!(named, found.into_iter().map(str::to_owned).collect());
}
