//! What is told to `tracing`: spans and events, with keys as digests (P9).

#![cfg(not(any(shuttle, loom, miri)))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use reentry::{DiskCall, DiskFault, ErrorKind, Failure, Fingerprint, Key, Request, Resolution, SimulatedDisk, Store};
use support::{PATIENCE, damage_wherever_it_stands, full, kind, run, run_of, times_out, until};
use tempfile::tempdir;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

const CANARY: &str = "canary-4111111111111111";

fn key() -> Key {
    Key::new(format!("tenant {CANARY}"), format!("key {CANARY}")).unwrap()
}

/// Everything that is told in this process, a line for each span and event.
#[derive(Clone, Default)]
struct Ear(Arc<Mutex<Vec<String>>>);

/// The writer tells on a thread of its own, so there is one ear for all tests, which take it in turn.
struct Turn {
    _turn: MutexGuard<'static, ()>,
    ear: Ear,
}

static TURN: Mutex<()> = Mutex::new(());
static EAR: OnceLock<Ear> = OnceLock::new();

impl Turn {
    fn take() -> Self {
        let turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let listen = || {
            let ear = Ear::default();
            tracing::subscriber::set_global_default(ear.clone()).unwrap();
            ear
        };
        let ear = EAR.get_or_init(listen).clone();
        ear.0.lock().unwrap().clear();
        Self { _turn: turn, ear }
    }

    fn lines(&self) -> Vec<String> {
        self.ear.0.lock().unwrap().clone()
    }

    /// The lines that begin with this.
    fn told(&self, start: &str) -> Vec<String> {
        self.lines().into_iter().filter(|line| line.starts_with(start)).collect()
    }

    #[track_caller]
    fn tells_once(&self, start: &str) -> String {
        let told = self.told(start);
        assert_eq!(told.len(), 1, "{start}: {told:?} of {:#?}", self.lines());
        told[0].clone()
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0 = self.0.replacen("event", &format!("{value:?}"), 1);
        } else {
            write!(self.0, " {}={value:?}", field.name()).unwrap();
        }
    }
}

impl Subscriber for Ear {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "reentry"
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut line = Line(format!("{} span {}", span.metadata().level(), span.metadata().name()));
        span.record(&mut line);
        let mut lines = self.0.lock().unwrap();
        lines.push(line.0);
        Id::from_u64(lines.len() as u64)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(format!("{} event", event.metadata().level()));
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// One who hears no more than warnings, as servers are set up.
struct Hard(Ear);

impl Subscriber for Hard {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata) && *metadata.level() <= Level::WARN
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        self.0.new_span(span)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        self.0.event(event);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// What somebody must look at is told to whoever hears warnings alone.
#[test]
fn a_run_that_leaves_a_step_in_doubt_or_is_the_last_one_warns_who_hears_warnings_alone() {
    let _turn = Turn::take();
    let store = Store::builder().attempts_max(1).in_memory().unwrap();
    let mut order = run(&store, &key());
    times_out(&mut order, "charge");
    let ear = Ear::default();
    tracing::subscriber::with_default(Hard(ear.clone()), || drop(order));
    let told = ear.0.lock().unwrap();
    let names: Vec<_> = told.iter().map(|line| line.split(" key=").next().unwrap()).collect();
    assert_eq!(names, ["WARN in doubt", "WARN stuck"]);
}

/// One who asks the store whenever he is told something.
struct Asks(Store);

impl Subscriber for Asks {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "reentry"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {
        drop(self.0.stats());
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Whoever listens runs the server's code, which may ask for anything, or wait for whoever does.
#[test]
fn p10_a_run_that_leaves_tells_of_it_under_no_lock_of_the_store() {
    let _turn = Turn::take();
    let store = Store::builder().in_memory().unwrap();
    let mut order = run(&store, &key());
    times_out(&mut order, "charge");
    let (left, leaves) = std::sync::mpsc::channel();
    let asks = Asks(store.clone());
    std::thread::spawn(move || {
        tracing::subscriber::with_default(asks, || drop(order));
        left.send(()).unwrap();
    });
    if leaves.recv_timeout(PATIENCE).is_err() {
        std::mem::forget(store);
        panic!("it hangs");
    }
}

#[test]
fn a_store_that_is_only_read_is_told_to_be_opened_and_closed_once_each() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("orders.reentry");
    drop(run(&Store::open(&path).unwrap(), &key()));
    let turn = Turn::take();
    let store = Store::builder().open_to_read(&path).unwrap();
    assert!(turn.tells_once("INFO opened").contains("operations=1 unfinished=1"));
    store.close().unwrap();
    store.close().unwrap();
    drop(store);
    turn.tells_once("INFO closed");
}

#[test]
fn a_claim_a_step_and_a_commit_are_spans_and_their_answers_events() {
    let turn = Turn::take();
    let store = Store::builder().in_memory().unwrap();
    assert!(turn.tells_once("INFO opened").contains("operations=0 unfinished=0 in_doubt=0 stuck=0"));
    let digest = key().digest();
    let mut order = run(&store, &key());
    assert_eq!(turn.tells_once("DEBUG span claim"), format!("DEBUG span claim key={digest}"));
    let claimed = format!("DEBUG claimed key={digest} answer=\"begun\" attempt=1");
    assert_eq!(turn.tells_once("DEBUG claimed"), claimed);
    order.step("charge").run_keyed(|_| Ok::<_, Failure>(1_u64.to_string())).unwrap();
    let step = format!("DEBUG span step key={digest} name=\"charge\" attempt=1 again=false");
    assert_eq!(turn.tells_once("DEBUG span step"), step);
    order.complete(&()).wait().unwrap();
    drop(store.claim(&key(), support::request()).wait().unwrap());
    assert!(turn.told("DEBUG claimed").last().unwrap().contains("answer=\"replayed\""));
    assert!(turn.told("DEBUG span commit").len() >= 3);
    let committed = turn.told("DEBUG committed");
    assert!(committed.len() >= 3 && committed.iter().all(|line| line.contains("sync=")), "{committed:?}");
    store.close().unwrap();
    turn.tells_once("INFO closed");
    assert_eq!(turn.told("WARN"), [""; 0]);
    assert_eq!(turn.told("ERROR"), [""; 0]);
}

#[test]
fn what_needs_somebody_is_a_warning() {
    let turn = Turn::take();
    let store = Store::builder().attempts_max(2).in_memory().unwrap();
    let digest = key().digest();
    let mut order = run(&store, &key());
    times_out(&mut order, "charge");
    drop(order);
    assert_eq!(turn.tells_once("WARN"), format!("WARN in doubt key={digest} attempt=1"));
    drop(run(&store, &key()));
    assert_eq!(turn.tells_once("WARN stuck"), format!("WARN stuck key={digest} attempt=2"));
    let mut lost = run(&store, &key());
    store.revoke(&key()).wait().unwrap();
    lost.advance("late", &()).wait().unwrap_err();
    assert_eq!(turn.tells_once("WARN fenced"), format!("WARN fenced key={digest}"));
    drop(store.claim(&key(), Fingerprint::of("another request")).wait().unwrap());
    assert_eq!(turn.tells_once("INFO mismatch"), format!("INFO mismatch key={digest}"));
    store.resolve(&key(), "charge", Resolution::DidNotHappen, "the bank says so").wait().unwrap();
    store.release_stuck(&key()).wait().unwrap();
    store.forget(&key()).wait().unwrap();
    let by_hand: Vec<_> =
        turn.told("INFO by hand").iter().map(|line| line.rsplit('=').next().unwrap().to_owned()).collect();
    assert_eq!(by_hand, ["\"revoke\"", "\"resolve\"", "\"release\"", "\"forget\""]);
    // A run that ends as it should, and one whose step has its result, warn of nothing.
    let warnings = turn.told("WARN").len();
    let mut order = run(&store, &key());
    order.step("charge").run_keyed(|_| Ok::<_, Failure>(String::new())).unwrap();
    drop(order);
    run(&store, &key()).complete(&()).wait().unwrap();
    assert_eq!(turn.told("WARN").len(), warnings, "{:#?}", turn.told("WARN"));
}

#[test]
fn p10_every_fault_is_told_and_its_end_too() {
    let turn = Turn::take();
    let disk = SimulatedDisk::new();
    let store = Store::builder().open_on(&disk).unwrap();
    disk.fail(Some(full()));
    store.claim(&key(), support::request()).wait().unwrap_err();
    turn.tells_once("WARN full");
    disk.fail(None);
    until("the disk has room again", || store.claim(&key(), support::request()).wait().is_ok());
    turn.tells_once("INFO mended");
    disk.fail(Some(DiskFault::os(5).on(&[DiskCall::Sync])));
    store.claim(&support::key("another"), support::request()).wait().unwrap_err();
    turn.tells_once("ERROR failed");
}

/// Who is told that the store stopped starts it again, where a copy would be asked for; and it serves all the others.
#[test]
fn p10_damage_is_told_as_such_and_not_as_a_store_that_stopped() {
    let turn = Turn::take();
    let folder = tempdir().unwrap();
    let path = folder.path().join("orders.reentry");
    let open = || Store::builder().cache_bytes(0).open(&path).unwrap();
    let store = open();
    run(&store, &key()).complete(&"the canary".to_owned()).wait().unwrap();
    store.close().unwrap();
    let store = open();
    damage_wherever_it_stands(&path, b"the canary");
    assert_eq!(kind(store.claim(&key(), support::request()).wait()), ErrorKind::Corrupt);
    turn.tells_once("ERROR damaged");
    assert_eq!(turn.told("ERROR").len(), 1, "{:#?}", turn.told("ERROR"));
}

#[test]
fn a_copy_is_told_with_what_it_came_to() {
    let turn = Turn::take();
    let folder = tempdir().unwrap();
    let copy = folder.path().join("copy.reentry");
    let store = Store::builder().in_memory().unwrap();
    drop(run(&store, &key()));
    store.backup(&copy).unwrap();
    turn.tells_once("DEBUG span backup");
    assert!(turn.tells_once("INFO backed up").contains("operations=1"));
    store.backup(&copy).unwrap_err();
    turn.tells_once("WARN backup failed");
}

#[test]
fn keys_are_shown_where_the_server_asks_for_it() {
    let turn = Turn::take();
    let store = Store::builder().show_keys_in_traces(true).in_memory().unwrap();
    drop(run(&store, &key()));
    let shown = format!("key=\"tenant {CANARY}\"/\"key {CANARY}\"");
    assert!(turn.tells_once("DEBUG claimed").contains(&shown));
}

#[test]
fn p9_nothing_that_is_told_shows_a_key_a_payload_or_a_fingerprint() {
    let turn = Turn::take();
    let disk = SimulatedDisk::new();
    let store = Store::builder().attempts_max(1).open_on(&disk).unwrap();
    let payload = format!("payload {CANARY}");
    let claim = || store.claim(&key(), Request::of(payload.clone())).wait();
    let mut order = run_of(claim().unwrap());
    order.step("charge").run_keyed(|_| Ok::<_, Failure>(payload.clone())).unwrap();
    order.advance("paid", &payload).wait().unwrap();
    drop(order.step("mail").run_keyed(|_| Err::<(), _>(CANARY)).unwrap_err());
    drop(order);
    drop(store.claim(&key(), Fingerprint::of(CANARY)).wait().unwrap());
    drop(run_of(claim().unwrap()).complete(&payload).wait().unwrap());
    drop(claim().unwrap());
    disk.fail(Some(DiskFault::os(5).on(&[DiskCall::Sync])));
    store.forget(&key()).wait().unwrap_err();
    drop(claim());
    let lines = turn.lines();
    let kinds: BTreeSet<_> = lines.iter().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
    assert!(kinds.len() >= 8, "{kinds:?}");
    let fingerprint = blake3::hash(payload.as_bytes()).to_hex();
    for line in lines {
        let hidden = [CANARY, &fingerprint[..8], "99, 97, 110, 97, 114, 121"];
        assert!(!hidden.iter().any(|hidden| line.contains(hidden)), "{line}");
    }
}

/// The names of all spans and events, as the guide lists them.
#[test]
fn every_span_and_event_is_in_the_guide_and_nothing_else_is() {
    let room = include_str!("../src/trace.rs");
    let guide = include_str!("../docs/operating.md");
    let quoted = |line: &str| line.rsplit('"').nth(1).map(str::to_owned);
    let events = room.lines().filter(|line| line.contains("tell!(") && line.contains('"')).filter_map(quoted);
    let spans = room.lines().filter(|line| line.contains("span!(\"")).filter_map(|line| line.split('"').nth(1));
    let names: BTreeSet<_> = events.chain(spans.map(str::to_owned)).collect();
    // The rows whose second cell is a level.
    let listed = |line: &'static str| {
        let (name, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
        rest.split(' ').next()?.parse::<Level>().ok().map(|_| name.to_owned())
    };
    assert_eq!(guide.lines().filter_map(listed).collect::<BTreeSet<_>>(), names);
    let level = Level::WARN;
    assert!(guide.contains(&format!("| `in doubt` | {level} |")));
}
