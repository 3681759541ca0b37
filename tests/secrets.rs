//! Keys belong to clients, and payloads to nobody's log: no error and no `Debug` shows a scope, a key, a payload, a
//! fingerprint or a token of a request, whatever goes wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests panic")]

mod support;

use std::error::Error as StdError;
use std::fmt::Debug;
use std::time::Duration;

use reentry::{
    Advance, Bincode, Claim, DiskCall, Error, Failure, Fingerprint, Json, Key, Payload, Request, Resolution, Resumer,
    Revision, SimulatedDisk, Store,
};
use support::{Gate, broken, full, run_of, until};

/// What must not be seen: the scope, the key, the request, and all payloads hold it.
const CANARY: &str = "canary-4111111111111111";

fn key() -> Key {
    Key::new(format!("tenant {CANARY}"), format!("key {CANARY}")).unwrap()
}

fn payload() -> String {
    format!("payload {CANARY}")
}

/// All that a log would get to see of a value, and the ways in which text may be hidden in it.
fn assert_hidden(what: &str, shown: &str) {
    let as_bytes = format!("{:?}", CANARY.as_bytes());
    let as_bytes = as_bytes.trim_matches(['[', ']']);
    // The first bytes of the request's fingerprint, in the form that `Debug` of bytes has.
    let digest = blake3::hash(payload().as_bytes());
    let digest = format!("{:?}", &digest.as_bytes()[..4]);
    let digest = digest.trim_matches(['[', ']']);
    let found = [CANARY, as_bytes, digest].into_iter().find(|secret| shown.contains(secret));
    assert_eq!(found, None, "{what} shows it");
}

fn hidden(what: &str, value: &impl Debug) {
    let shown = format!("{value:?}");
    assert!(shown.chars().any(char::is_alphanumeric), "{what} shows nothing at all");
    assert_hidden(what, &shown);
    assert_hidden(what, &format!("{value:#?}"));
}

#[track_caller]
fn hidden_error<T>(what: &str, answer: Result<T, Error>) {
    let error = answer.err().unwrap_or_else(|| panic!("{what} is an error"));
    hidden(what, &error);
    let mut cause: Option<&dyn StdError> = Some(&error);
    while let Some(error) = cause {
        assert_hidden(what, &error.to_string());
        cause = error.source();
    }
}

fn claim(store: &Store) -> Claim {
    store.claim(&key(), Request::of(payload())).wait().unwrap()
}

#[test]
fn p9_no_value_shows_what_it_stands_for() {
    let store = Store::builder().tombstones(Duration::from_secs(60)).in_memory().unwrap();
    let pending = store.claim(&key(), Request::of(payload()));
    hidden("a pending claim", &pending);
    let claimed = pending.wait().unwrap();
    hidden("a claim that is granted", &claimed);
    let mut run = run_of(claimed);
    hidden("a key", &key());
    hidden("a fingerprint", &Fingerprint::of(payload()));
    hidden("a request", &Request::of(payload()));
    hidden("a run", &run);
    hidden("a step that is asked for", &run.step("charge"));
    let result = run.step("charge").run_keyed(|_| Ok::<_, Failure>(payload())).unwrap();
    assert_eq!(result, payload());
    run.advance("paid", &payload()).wait().unwrap();
    let moved = store.advance(&key(), Revision::default(), "elsewhere", &payload()).wait().unwrap();
    assert!(matches!(moved, Advance::Lost(_)));
    hidden("a checkpoint that was lost", &moved);
    hidden("a run that has gone on", &run);
    hidden("its steps", &run.steps());
    hidden("its checkpoint", &run.checkpoint());
    hidden("a claim that waits", &claim(&store));
    hidden("a claim that is rejected", &store.claim(&key(), Fingerprint::of("another")).wait().unwrap());
    hidden("progress", &store.progress(&key()).unwrap());
    hidden("a resolution", &Resolution::happened(&payload()).unwrap());
    let unfinished: Vec<_> = store.unfinished().collect();
    hidden("what is unfinished", &unfinished);
    hidden("an outcome", &run.complete(&payload()).wait().unwrap());
    hidden("a replay", &claim(&store));
    hidden("the store", &store);
    hidden("its figures", &store.stats().unwrap());
    hidden("a builder", &Store::builder());
    let resumer = Resumer::builder(&store).start(|_| Ok::<_, Error>(())).unwrap();
    hidden("a resumer", &resumer);
    resumer.stop();
    store.verify().unwrap();
}

#[test]
fn p9_no_error_of_a_caller_shows_what_it_was_about() {
    let store = Store::builder().payload_bytes_max(64).operations_max(2).in_memory().unwrap();
    hidden_error("a scope with a control character", Key::new(format!("{CANARY}\n"), "key"));
    hidden_error("a key with a control character", Key::new("scope", format!("{CANARY}\u{1b}")));
    hidden_error("a key that is too long", Key::new("scope", CANARY.repeat(20)));
    let mut run = run_of(claim(&store));
    hidden_error("a name that is too long", run.advance(&CANARY.repeat(20), &1_u32.to_string()).wait());
    hidden_error("a payload that is too large", run.advance("paid", &payload().repeat(4)).wait());
    hidden_error("an effect that failed", run.step("mail").run_at_most_once(|_| Err::<(), _>("timed out")));
    hidden_error("a step in doubt", run.step("charge").run_at_most_once(|_| Err::<(), _>("timed out")));
    let in_doubt = run.resolve("charge", Resolution::happened(&payload()).unwrap(), "the bank says so").wait();
    in_doubt.unwrap();
    hidden_error("a step resolved twice", run.resolve("charge", Resolution::DidNotHappen, "").wait());
    hidden_error("a result of another type", run.step("charge").run_keyed(|_| Ok::<_, Failure>(Json(1_u32))));
    hidden_error("a forgotten operation that is owned", store.forget(&key()).wait());
    let rows = run.advance_with("rows", &payload(), |_| Err::<(), _>("no rows today".into()));
    hidden_error("rows that failed", rows.wait());
    store.revoke(&key()).wait().unwrap();
    hidden_error("a fenced run", run.advance("paid", &payload()).wait());
    let outcome = run_of(claim(&store)).complete(&payload()).wait().unwrap();
    hidden_error("an outcome of another type", outcome.decode::<Json<u32>>());
    hidden_error("an outcome of another codec", outcome.decode::<Bincode<u64>>());
    hidden_error("what is over", store.advance(&key(), Revision::default(), "late", &payload()).wait());
    let absent = Key::new(CANARY, CANARY).unwrap();
    hidden_error("what is unknown", store.advance(&absent, Revision::default(), "late", &payload()).wait());
    drop(store.claim(&absent, Fingerprint::of(CANARY)).wait().unwrap());
    let over = Key::new("over", CANARY).unwrap();
    hidden_error("one operation too many", store.claim(&over, Fingerprint::of(CANARY)).wait());
    store.verify().unwrap();
    store.close().unwrap();
    hidden_error("a closed store", store.claim(&over, Fingerprint::of(CANARY)).wait());
    hidden_error("bytes that are no payload", <Json<u32> as Payload>::decode(CANARY.as_bytes()));
}

#[test]
fn p9_no_error_of_a_disk_shows_what_was_to_be_written() {
    let disk = SimulatedDisk::new();
    let store = Store::builder().open_on(&disk).unwrap();
    let mut run = run_of(claim(&store));
    run.advance("paid", &payload()).wait().unwrap();
    disk.fail(Some(full()));
    hidden_error("a full disk", run.advance("full", &payload()).wait());
    disk.fail(Some(broken(&[DiskCall::Sync])));
    drop(run);
    // The full disk is left alone for a while first.
    let mut failed = store.claim(&Key::new("a", CANARY).unwrap(), Request::of(payload())).wait();
    until("the full disk is tried again", || {
        failed = store.claim(&Key::new("a", CANARY).unwrap(), Request::of(payload())).wait();
        !matches!(&failed, Err(error) if error.kind() == reentry::ErrorKind::Full)
    });
    hidden_error("a failed sync", failed);
    hidden_error("a stopped store", store.forget(&key()).wait());
    drop(store.close());
}

#[test]
fn p9_no_error_of_a_damaged_file_shows_what_it_held() {
    let disk = SimulatedDisk::new();
    let store = Store::builder().open_on(&disk).unwrap();
    run_of(claim(&store)).complete(&payload()).wait().unwrap();
    store.verify().unwrap();
    store.close().unwrap();
    let image = disk.image();
    let mut told = 0;
    for place in (0..image.len()).step_by(101) {
        let mut damaged = image.clone();
        damaged[place] ^= 0x40;
        let opened = Store::builder().open_on(&SimulatedDisk::from_image(damaged));
        if let Err(error) = opened {
            hidden_error::<()>("a damaged file", Err(error));
            told += 1;
        }
    }
    assert!(told > 10, "{told}");
}

#[test]
fn p9_what_a_resumer_tells_of_a_failure_is_the_key_by_its_digest_alone() {
    let (gate, (tell, told)) = (Gate::new(), std::sync::mpsc::channel());
    let store = Store::builder().clock(gate.clock.clone()).in_memory().unwrap();
    drop(run_of(claim(&store)));
    let resumer = Resumer::builder(&store).on_failure(move |key, error| {
        drop(tell.send((format!("{key:?}"), format!("{error:?} {error}"))));
    });
    let resumer = resumer.start(|_run| -> Result<(), String> { panic!("{}", CANARY) }).unwrap();
    let (key, error) = told.recv().unwrap();
    assert_hidden("the key", &key);
    assert_hidden("the panic", &error);
    resumer.stop();
    store.verify().unwrap();
}
