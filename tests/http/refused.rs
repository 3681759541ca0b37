//! What the layer answers by itself: where it cannot decide, and where there is nothing left to run.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use reentry::http::{IdempotencyLayer, Idempotent};
use reentry::testing::conformance::Client;
use reentry::{DiskCall, DiskFault, ErrorKind, ManualClock, SimulatedDisk, Store, Timestamp};

use crate::server::{Runs, Server, code, is_replayed, principal, request, serve, serve_guarded, store, text};

fn layer(store: &Store) -> IdempotencyLayer {
    IdempotencyLayer::new(store).scope(principal)
}

async fn counted(State(runs): State<Runs>) -> String {
    format!("run {}", runs.next())
}

fn counting(store: Store, layer: IdempotencyLayer) -> (Server, Runs) {
    let runs = Runs::default();
    (serve(store, layer, Router::new().route("/orders", post(counted)).with_state(runs.clone())), runs)
}

#[test]
fn p10_where_the_store_cannot_decide_the_handler_never_runs() {
    let store = store();
    let told = Arc::new(Mutex::new(Vec::new()));
    let tells = Arc::clone(&told);
    let layer = layer(&store).on_failure(move |key, error| {
        tells.lock().unwrap().push((key.key().to_owned(), error.kind()));
    });
    let (server, runs) = counting(store, layer);
    server.store.close().unwrap();
    let answer = server.post("/orders", "k", "");
    assert_eq!((answer.status, code(&answer).as_str()), (503, "unavailable"));
    assert_eq!(answer.header("retry-after"), Some(&b"1"[..]));
    assert_eq!((runs.count(), server.handle.stats().unavailable), (0, 1));
    assert_eq!(*told.lock().unwrap(), [("k".to_owned(), ErrorKind::Closed)]);
    assert_eq!(text(&server.post("/orders", "", "")), "run 1", "what has no key is not guarded");
}

#[test]
fn p6_a_store_that_is_full_refuses_new_keys_and_goes_on_replaying() {
    let store = Store::builder().operations_max(1).in_memory().unwrap();
    let layer = layer(&store);
    let (server, runs) = counting(store, layer);
    assert_eq!(text(&server.post("/orders", "a", "")), "run 1");
    assert_eq!(code(&server.post("/orders", "b", "")), "unavailable");
    assert!(is_replayed(&server.post("/orders", "a", "")));
    assert_eq!(runs.count(), 1);
}

/// The handler has run, and the disk fails before its answer is kept: the client is told what happened all the same.
#[test]
fn p10_an_answer_that_the_store_fails_to_keep_goes_out_and_is_counted() {
    let disk = SimulatedDisk::new();
    let store = Store::builder().open_on(&disk).unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let tells = Arc::clone(&told);
    let layer = layer(&store).on_failure(move |_, error| tells.lock().unwrap().push(error.kind()));
    let breaking = |State(disk): State<SimulatedDisk>, Idempotent(run): Idempotent| async move {
        if run.attempt() == 1 {
            disk.fail(Some(DiskFault::kind(std::io::ErrorKind::Other).on(&[DiskCall::Sync]).for_ever()));
        }
        (StatusCode::CREATED, "charged")
    };
    let routes = Router::new().route("/orders", post(breaking)).with_state(disk.clone());
    let server = serve(store, layer, routes);
    let answer = server.post("/orders", "k", "");
    assert_eq!((answer.status, text(&answer).as_str()), (201, "charged"));
    let stats = server.handle.stats();
    assert_eq!((stats.not_kept, stats.kept), (1, 0));
    assert_eq!(*told.lock().unwrap(), [ErrorKind::OutcomeUnknown]);
    // The run is free a moment after the store has said that it failed; until then it is at work.
    server.until("the store refuses", || code(&server.post("/orders", "k", "")) == "unavailable");
    assert_eq!(server.handle.stats().runs, 1);
}

#[test]
fn p5_an_answer_that_is_no_longer_kept_is_gone_and_never_done_again() {
    let clock = ManualClock::at(Timestamp::from_millis(1_700_000_000_000));
    let (hour, day) = (Duration::from_secs(3_600), Duration::from_secs(86_400));
    let store = Store::builder().retention(hour).tombstones(day).clock(clock.clone()).in_memory().unwrap();
    let layer = layer(&store);
    let (server, runs) = counting(store, layer);
    server.post("/orders", "k", "");
    clock.advance(hour);
    for _ in 0..2 {
        let answer = server.post("/orders", "k", "");
        assert_eq!((answer.status, code(&answer).as_str()), (410, "answer_gone"));
    }
    assert_eq!(server.post("/orders", "k", "another body").status, 422, "a tombstone knows its request");
    assert_eq!(runs.count(), 1);
    clock.advance(day);
    assert_eq!(text(&server.post("/orders", "k", "")), "run 2", "then the key starts anew");
}

/// Two routes over one store, each with a retention of its own.
#[test]
fn p5_each_route_keeps_its_answers_for_as_long_as_its_layer_says() {
    let clock = ManualClock::at(Timestamp::from_millis(1_700_000_000_000));
    let hour = Duration::from_secs(3_600);
    let store = Store::builder().retention(hour * 2).clock(clock.clone()).in_memory().unwrap();
    let (short, long) = (layer(&store).retention(hour), layer(&store).retention(hour * 3));
    let route = |path: &str, layer: IdempotencyLayer| Router::new().route(path, post(counted)).layer(layer);
    let handle = short.handle();
    let routes = route("/short", short).merge(route("/long", long)).merge(route("/default", layer(&store)));
    let server = serve_guarded(store, handle, routes.with_state(Runs::default()));
    let still_kept = || ["/short", "/default", "/long"].map(|path| is_replayed(&server.post(path, path, "")));
    assert_eq!(still_kept(), [false; 3], "each is new");
    assert_eq!(still_kept(), [true; 3]);
    clock.advance(Duration::from_millis(3_600_000 - 1));
    assert_eq!(still_kept(), [true; 3]);
    clock.advance(Duration::from_millis(1));
    assert_eq!(still_kept(), [false, true, true]);
    clock.advance(hour);
    assert_eq!(still_kept(), [false, false, true]);
    clock.advance(hour);
    assert_eq!(still_kept(), [false, true, false]);
    server.store.verify().unwrap();
}

#[test]
fn p9_a_request_of_nobody_is_refused_and_neither_runs_nor_claims() {
    let store = store();
    let layer = layer(&store);
    let (server, runs) = counting(store, layer);
    let answer = server.send(&request("nobody", "/orders", "k", ""));
    assert_eq!((answer.status, code(&answer).as_str()), (403, "principal_missing"));
    let unnameable = server.send(&request(&"a".repeat(129), "/orders", "k", ""));
    assert_eq!((unnameable.status, code(&unnameable).as_str()), (403, "principal_missing"));
    assert_eq!((runs.count(), server.store.stats().unwrap().operations), (0, 0));
}

#[test]
fn a_malformed_key_is_refused_before_the_store_is_asked() {
    let store = store();
    let layer = layer(&store);
    let (server, _) = counting(store, layer);
    server.store.close().unwrap();
    assert_eq!(server.post("/orders", "\"", "").status, 400);
    assert_eq!(server.handle.stats().refused, 1);
}

#[test]
fn a_request_that_is_too_large_to_be_kept_is_refused_as_such() {
    let store = Store::builder().payload_bytes_max(1_000).in_memory().unwrap();
    let layer = layer(&store).keep_requests();
    let (server, runs) = counting(store, layer);
    assert_eq!(server.post("/orders", "a", &"x".repeat(1_000)).status, 200);
    let answer = server.post("/orders", "b", &"x".repeat(1_001));
    assert_eq!((answer.status, code(&answer).as_str()), (413, "request_too_large"));
    assert_eq!(runs.count(), 1);
}

#[test]
fn a_copy_waits_for_the_run_at_work_where_that_is_asked_for() {
    let store = store();
    let layer = layer(&store).wait_for_busy(crate::server::PATIENCE);
    // It goes on when all copies stand in line.
    let slow = |State((runs, store)): State<(Runs, Store)>| async move {
        while store.stats().is_ok_and(|stats| stats.waiting < 4) {
            tokio::task::yield_now().await;
        }
        format!("run {}", runs.next())
    };
    let (runs, looks) = (Runs::default(), store.clone());
    let routes = Router::new().route("/orders", post(slow)).with_state((runs.clone(), looks));
    let server = serve(store, layer, routes);
    let copies = vec![request("ada", "/orders", "k", ""); 5];
    let answers = server.client().send(&copies).unwrap();
    assert!(answers.iter().all(|answer| answer.status == 200 && text(answer) == "run 1"), "{answers:?}");
    assert_eq!((answers.iter().filter(|answer| is_replayed(answer)).count(), runs.count()), (4, 1));
}

/// The first gives way instead of answering for both: the copy that waits is not refused, it goes on.
#[test]
fn p3_a_copy_that_waits_gets_the_run_that_gives_way() {
    async fn order(State(store): State<Store>, Idempotent(run): Idempotent) -> (StatusCode, String) {
        while run.attempt() == 1 && store.stats().is_ok_and(|stats| stats.waiting == 0) {
            tokio::task::yield_now().await;
        }
        let status = if run.attempt() == 1 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::CREATED };
        (status, format!("attempt {}", run.attempt()))
    }
    let store = store();
    let layer = layer(&store).wait_for_busy(crate::server::PATIENCE);
    let routes = Router::new().route("/orders", post(order)).with_state(store.clone());
    let server = serve(store, layer, routes);
    let answers = server.client().send(&vec![request("ada", "/orders", "k", ""); 2]).unwrap();
    let mut told: Vec<_> = answers.iter().map(|answer| (answer.status, text(answer))).collect();
    told.sort();
    assert_eq!(told, [(201, "attempt 2".to_owned()), (503, "attempt 1".to_owned())]);
    assert!(!answers.iter().any(is_replayed) && server.handle.stats().busy == 0);
}

#[test]
fn a_copy_that_waits_too_long_is_told_to_come_later() {
    let store = store();
    let layer = layer(&store).wait_for_busy(Duration::from_millis(20));
    let busy = |State(gate): State<Arc<tokio::sync::Semaphore>>| async move {
        drop(gate.acquire().await);
        "done"
    };
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let server = serve(store, layer, Router::new().route("/orders", post(busy)).with_state(Arc::clone(&gate)));
    let (client, first) = (server.client(), request("ada", "/orders", "k", ""));
    let at_work = std::thread::spawn(move || client.send(&[first]));
    server.until("the first is at work", || server.handle.stats().runs == 1);
    assert_eq!(code(&server.post("/orders", "k", "")), "in_progress");
    assert_eq!(server.post("/orders", "k", "another").status, 422, "at once, in flight too");
    gate.add_permits(1);
    assert_eq!(text(&at_work.join().unwrap().unwrap()[0]), "done");
}

#[test]
fn the_policy_is_described_for_clients() {
    let store = store();
    let layer = layer(&store).required().strict().retention(Duration::from_secs(86_400));
    let text = layer.documentation("https://example.org/keys").describe();
    for part in ["POST and PATCH", "must carry", "`idempotency-key`", "for 1 d", "422", "for each principal", "/keys"] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
}
