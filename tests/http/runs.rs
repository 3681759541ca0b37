//! What a handler does with its run, and what becomes of it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use reentry::http::{IdempotencyLayer, Idempotent, LayerStats, LentRun, Problem, StoredResponse};
use reentry::testing::conformance::Client;
use reentry::{
    ErrorKind, Failure, Key, ManualClock, Resolution, Resumer, Run, State as Standing, Store, Table, Timestamp,
};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::server::{Runs, Server, code, is_replayed, principal, request, serve, store, text};

const ORDERS: Table = Table::new("orders");

fn layer(store: &Store) -> IdempotencyLayer {
    IdempotencyLayer::new(store).scope(principal)
}

fn key(name: &str) -> Key {
    Key::new("ada", name).unwrap()
}

fn state(server: &Server, name: &str) -> (Standing, u32) {
    let progress = server.store.progress(&key(name)).unwrap().expect("it is known");
    (progress.state(), progress.attempt())
}

/// Charges once, and then fails in its first run in the way that it was asked to.
async fn charged(run: &mut LentRun, charges: &Runs) -> Result<String, Problem> {
    let charge = run.step("charge").run_at_most_once_async(async |_| Ok::<_, Failure>(charges.next().to_string()));
    let receipt = charge.await?;
    if run.checkpoint().is_none() {
        run.advance("charged", &receipt).await?;
    }
    Ok(format!("receipt {receipt}, attempt {}", run.attempt()))
}

async fn fails_at_first(State(charges): State<Runs>, Idempotent(mut run): Idempotent) -> Result<Response, Problem> {
    let receipt = charged(&mut run, &charges).await?;
    let status = if run.attempt() == 1 { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::CREATED };
    Ok((status, receipt).into_response())
}

async fn panics_at_first(State(charges): State<Runs>, Idempotent(mut run): Idempotent) -> Result<String, Problem> {
    let receipt = charged(&mut run, &charges).await?;
    assert!(run.attempt() > 1, "the panic that this test is about");
    Ok(receipt)
}

async fn hangs_at_first(State(charges): State<Runs>, Idempotent(mut run): Idempotent) -> Result<String, Problem> {
    let receipt = charged(&mut run, &charges).await?;
    if run.attempt() == 1 {
        std::future::pending::<()>().await;
    }
    Ok(receipt)
}

async fn impatient(request: Request, next: Next) -> Response {
    let answered = timeout(Duration::from_millis(200), next.run(request)).await;
    answered.unwrap_or_else(|_| StatusCode::REQUEST_TIMEOUT.into_response())
}

fn charging_server() -> (Server, Runs) {
    let (store, charges) = (store(), Runs::default());
    let layer = layer(&store);
    let hangs = Router::new().route("/hangs", post(hangs_at_first)).layer(from_fn(impatient));
    let routes = Router::new()
        .route("/fails", post(fails_at_first))
        .route("/panics", post(panics_at_first))
        .merge(hangs)
        .with_state(charges.clone());
    (serve(store, layer, routes), charges)
}

#[track_caller]
fn a_retry_goes_on(server: &Server, charges: &Runs, target: &str) {
    assert_eq!(state(server, "k"), (Standing::Unfinished, 1));
    let retry = server.post(target, "k", "");
    assert_eq!(text(&retry), "receipt 1, attempt 2");
    assert!(!is_replayed(&retry) && is_replayed(&server.post(target, "k", "")));
    assert_eq!(charges.count(), 1, "the effect of the first run was not done again");
    server.store.verify().unwrap();
}

#[test]
fn p3_an_answer_of_5xx_interrupts_and_a_retry_goes_on_where_it_stopped() {
    let (server, charges) = charging_server();
    let first = server.post("/fails", "k", "");
    assert_eq!((first.status, text(&first).as_str()), (500, "receipt 1, attempt 1"));
    a_retry_goes_on(&server, &charges, "/fails");
}

#[test]
fn p7_a_panic_interrupts_and_a_retry_goes_on_where_it_stopped() {
    let (server, charges) = charging_server();
    let client = server.client();
    let first = client.send(&[request("ada", "/panics", "k", "")]);
    assert!(first.is_err(), "the connection breaks, as it does without the layer: {first:?}");
    assert_eq!(server.handle.stats().interrupted, 1);
    a_retry_goes_on(&server, &charges, "/panics");
}

#[test]
fn p7_a_time_out_interrupts_and_a_retry_goes_on_where_it_stopped() {
    let (server, charges) = charging_server();
    assert_eq!(server.post("/hangs", "k", "").status, 408);
    a_retry_goes_on(&server, &charges, "/hangs");
}

/// A step in doubt is told as one, with a time to come again; nothing is done until somebody finds out.
#[test]
fn p4_a_step_in_doubt_is_answered_409_and_resolved_by_name() {
    async fn lost(State(tries): State<Runs>, Idempotent(mut run): Idempotent) -> Result<String, Problem> {
        let charge = run.step("charge").run_at_most_once_async(async |_| -> Result<String, &str> {
            tries.next();
            Err("the connection broke")
        });
        Ok(charge.await?)
    }
    let (store, tries) = (store(), Runs::default());
    let told = Arc::new(Mutex::new(Vec::new()));
    let tells = Arc::clone(&told);
    let layer = layer(&store).retry_after(Duration::from_secs(7)).documentation("https://example.org/keys");
    let layer = layer.on_failure(move |_, error| tells.lock().unwrap().push(error.kind()));
    let server = serve(store, layer, Router::new().route("/lost", post(lost)).with_state(tries.clone()));
    for _ in 0..3 {
        let answer = server.post("/lost", "k", "");
        assert_eq!((answer.status, code(&answer).as_str()), (409, "in_doubt"));
        assert_eq!(answer.header("retry-after"), Some(&b"7"[..]));
        let told = text(&answer);
        assert!(told.contains("not known yet") && told.contains("https://example.org/keys"), "{told}");
    }
    assert_eq!(tries.count(), 1);
    let log = [ErrorKind::EffectFailed, ErrorKind::InDoubt, ErrorKind::InDoubt];
    assert_eq!(*told.lock().unwrap(), log, "what the client is not told");
    let found = Resolution::happened(&"receipt 7".to_owned()).unwrap();
    server.store.resolve(&key("k"), "charge", found, "asked the bank").wait().unwrap();
    assert_eq!(text(&server.post("/lost", "k", "")), "receipt 7");
    assert_eq!(tries.count(), 1);
}

/// The answer and the server's own row are one commit; whatever the handler returns then, the outcome is the answer.
#[test]
fn p8_a_handler_that_completes_by_itself_is_replayed_too() {
    async fn order(State(runs): State<Runs>, Idempotent(mut run): Idempotent) -> Result<Response, Problem> {
        let body = format!("order {}", runs.next());
        let answer = StoredResponse::new(StatusCode::CREATED, body.clone())
            .header(http::header::LOCATION, HeaderValue::from_static("/orders/1"))
            .header(HeaderName::from_static("x-order"), HeaderValue::from_static("1"))
            .header(http::header::LINK, HeaderValue::from_static("<a>"))
            .header(http::header::LINK, HeaderValue::from_static("<b>"));
        let row = run.effect_id("order");
        run.complete_with(&answer, move |tx| {
            tx.open_table(ORDERS)?.insert(row, &body)?;
            Ok(())
        })
        .await?;
        // Layers inside add headers to what it returns then.
        let headers = [("x-request-id", "7"), ("x-order", "1"), ("content-type", "text/odd"), ("content-length", "0")];
        Ok((StatusCode::INTERNAL_SERVER_ERROR, headers, "").into_response())
    }
    let (store, runs) = (store(), Runs::default());
    let layer = layer(&store);
    let server = serve(store, layer, Router::new().route("/orders", post(order)).with_state(runs.clone()));
    let (first, retry) = (server.post("/orders", "k", ""), server.post("/orders", "k", ""));
    assert_eq!((first.status, text(&first).as_str()), (201, "order 1"));
    assert_eq!((retry.status, text(&retry).as_str()), (201, "order 1"));
    assert_eq!(first.header("x-request-id"), Some(&b"7"[..]), "the first client's own");
    for answer in [&first, &retry] {
        assert_eq!((answer.header("location"), answer.header("content-type")), (Some(&b"/orders/1"[..]), None));
        assert_eq!(answer.headers.iter().filter(|(name, _)| name == "x-order").count(), 1, "once");
        let links = answer.headers.iter().filter(|(name, _)| name == "link");
        assert!(links.map(|(_, value)| value.as_slice()).eq([b"<a>", b"<b>"]), "both, in order");
    }
    assert!(is_replayed(&retry) && !is_replayed(&first) && retry.header("x-request-id").is_none());
    assert_eq!((runs.count(), server.store.read(|tx| tx.open_table(ORDERS)?.len()).unwrap().unwrap()), (1, 1));
}

/// As the layer does, so a handler: a body of the largest size is kept with its headers. Nothing else is larger by it,
/// since what has happened must always find room.
#[test]
fn p5_a_handler_and_a_resumer_end_their_runs_with_as_much_as_the_layer_keeps() {
    const MOST: usize = 1_000;
    fn answer(bytes: usize) -> StoredResponse {
        StoredResponse::new(StatusCode::OK, vec![b'x'; bytes]).header(http::header::ETAG, HeaderValue::from_static("7"))
    }
    async fn order(Path(bytes): Path<usize>, Idempotent(mut run): Idempotent) -> Result<(), Problem> {
        let too_large = run.advance("charged", &vec![b'x'; MOST + 1]).await;
        assert_eq!(too_large.unwrap_err().kind(), ErrorKind::PayloadTooLarge);
        run.complete_with(&answer(bytes), |_| Ok(())).await?;
        Ok(())
    }
    let store = Store::builder().payload_bytes_max(MOST).in_memory().unwrap();
    let layer = layer(&store).keep_requests();
    let prepares = layer.clone();
    let routes = Router::new()
        .route("/orders/{bytes}", post(order))
        .route("/resumed", post(|| async { StatusCode::SERVICE_UNAVAILABLE }));
    let server = serve(store, layer, routes);
    for is_repeated in [false, true] {
        let answer = server.post(&format!("/orders/{MOST}"), "a", "");
        assert_eq!((answer.status, answer.body.len(), is_replayed(&answer)), (200, MOST, is_repeated));
    }
    assert_eq!(server.post("/resumed", "c", "").status, 503);
    let resumer = Resumer::builder(&server.store).start(move |mut run: Run| {
        prepares.prepare(&mut run);
        run.complete(&answer(MOST)).wait().map(drop)
    });
    let resumer = resumer.unwrap();
    server.until("the order is finished", || resumer.stats().finished == 1);
    resumer.stop();
    assert_eq!(server.post("/resumed", "c", "").body.len(), MOST);
    server.store.verify().unwrap();
}

/// No retry mends what the handler's own code asks for: its client is not told to come again, and it is not over.
#[test]
fn p3_a_mistake_of_the_handlers_own_is_no_time_to_come_later() {
    async fn order(Idempotent(mut run): Idempotent) -> Result<(), Problem> {
        let name = if run.attempt() == 1 { "" } else { "charged" };
        run.advance(name, &()).await?;
        Ok(())
    }
    let store = store();
    let layer = layer(&store);
    let server = serve(store, layer, Router::new().route("/orders", post(order)));
    let answer = server.post("/orders", "k", "");
    assert_eq!((answer.status, code(&answer).as_str()), (500, "internal_error"));
    assert_eq!(answer.header("retry-after"), None);
    assert_eq!(state(&server, "k"), (Standing::Unfinished, 1));
    assert_eq!(server.post("/orders", "k", "").status, 200, "once it is mended the same request goes on");
}

/// Whatever became of the run, what its handler says is a problem is told to the log; and it is its client's answer
/// where there is no outcome, written as every problem is.
#[test]
fn a_problem_of_a_run_that_is_over_or_was_handed_on_is_a_problem_all_the_same() {
    fn closed() -> reentry::Error {
        let store = store();
        store.close().unwrap();
        store.progress(&key("k")).unwrap_err()
    }
    async fn hands_on(State(gate): State<Arc<Semaphore>>, Idempotent(run): Idempotent) -> Result<(), Problem> {
        tokio::spawn(async move {
            drop(gate.acquire().await);
            drop(run);
        });
        Err(closed().into())
    }
    async fn ends(Idempotent(mut run): Idempotent) -> Result<(), Problem> {
        run.complete_with(&StoredResponse::new(StatusCode::CREATED, "done"), |_| Ok(())).await?;
        Err(closed().into())
    }
    let (store, gate, told) = (store(), Arc::new(Semaphore::new(0)), Arc::new(Mutex::new(Vec::new())));
    let tells = Arc::clone(&told);
    let layer = layer(&store).retry_after(Duration::from_secs(7)).documentation("https://example.org/keys");
    let layer = layer.on_failure(move |key, error| tells.lock().unwrap().push((key.key().to_owned(), error.kind())));
    let routes = Router::new().route("/hands-on", post(hands_on)).route("/ends", post(ends));
    let server = serve(store, layer, routes.with_state(Arc::clone(&gate)));
    let answer = server.post("/hands-on", "a", "");
    assert_eq!((answer.status, code(&answer).as_str()), (503, "unavailable"));
    assert_eq!(answer.header("retry-after"), Some(&b"7"[..]));
    assert!(text(&answer).contains("https://example.org/keys"), "{answer:?}");
    let over = server.post("/ends", "b", "");
    assert_eq!((over.status, text(&over).as_str()), (201, "done"), "the outcome is the answer");
    assert_eq!(*told.lock().unwrap(), ["a", "b"].map(|key| (key.to_owned(), ErrorKind::Closed)));
    let counted = |stats: LayerStats| (stats.runs, stats.kept, stats.interrupted, stats.not_kept);
    assert_eq!(counted(server.handle.stats()), (2, 1, 0, 0), "one is at work still");
    gate.add_permits(1);
    server.until("it is interrupted", || counted(server.handle.stats()) == (2, 1, 1, 0));
}

/// A run that was handed on and completed before its handler answered is counted once, as it comes back.
#[test]
fn a_run_that_is_handed_on_and_completed_at_once_is_counted_once() {
    type Gate = Arc<Semaphore>;
    async fn order(State(gate): State<Gate>, Idempotent(mut run): Idempotent) -> &'static str {
        let (ended, ends) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            drop(run.complete_with(&StoredResponse::new(StatusCode::CREATED, "done"), |_| Ok(())).await);
            ended.send(()).unwrap();
            drop(gate.acquire().await);
            drop(run);
        });
        ends.await.unwrap();
        "told"
    }
    let (store, gate) = (store(), Arc::new(Semaphore::new(0)));
    let layer = layer(&store);
    let server = serve(store, layer, Router::new().route("/orders", post(order)).with_state(Arc::clone(&gate)));
    assert_eq!(text(&server.post("/orders", "k", "")), "done");
    assert_eq!(server.handle.stats().kept, 0, "its task has it still");
    gate.add_permits(1);
    server.until("it has come back", || server.handle.stats().kept > 0);
    assert!(is_replayed(&server.post("/orders", "k", "")));
    let stats = server.handle.stats();
    assert_eq!((stats.runs, stats.kept, stats.interrupted, stats.replayed), (1, 1, 0, 1));
}

/// Each run is counted once, whatever ended it: here nobody is left to say so.
#[test]
fn every_panic_that_leaves_an_operation_unfinished_is_counted() {
    async fn panics(Idempotent(_run): Idempotent) {
        panic!("the panic that this test is about");
    }
    async fn ends_and_panics(Idempotent(mut run): Idempotent) {
        run.complete_with(&StoredResponse::new(StatusCode::CREATED, "done"), |_| Ok(())).await.unwrap();
        panic!("another panic that this test is about");
    }
    for configure in [|layer: IdempotencyLayer| layer, IdempotencyLayer::attached] {
        let store = store();
        let layer = configure(layer(&store));
        let routes = Router::new().route("/panics", post(panics)).route("/ends", post(ends_and_panics));
        let server = serve(store, layer, routes);
        for (target, interrupted) in [("/panics", 1), ("/panics", 2), ("/ends", 2)] {
            assert!(server.client().send(&[request("ada", target, target, "")]).is_err(), "the connection breaks");
            assert_eq!(server.handle.stats().interrupted, interrupted, "{target}");
        }
        assert_eq!(text(&server.post("/ends", "/ends", "")), "done");
    }
}

/// A payload of the handler's own is an answer where the layer is told how.
#[test]
fn an_outcome_of_another_kind_is_rendered_or_told_to_be_unavailable() {
    async fn order(Idempotent(mut run): Idempotent) -> Result<String, Problem> {
        run.complete_with(&"receipt 7".to_owned(), |_| Ok(())).await?;
        Ok("made by the handler".to_owned())
    }
    let routes = || Router::new().route("/orders", post(order));
    let one = store();
    let plain = serve(one.clone(), layer(&one), routes());
    assert_eq!(text(&plain.post("/orders", "k", "")), "made by the handler");
    assert_eq!(code(&plain.post("/orders", "k", "")), "replay_unavailable");
    assert_eq!((plain.handle.stats().kept, plain.handle.stats().interrupted), (1, 0), "it is over");
    let one = store();
    let rendering = layer(&one).render(|outcome| {
        let body = format!("{{\"receipt\":\"{}\"}}", outcome.decode::<String>().ok()?);
        let response = http::Response::builder().status(201).header("set-cookie", "secret").header("etag", "\"1\"");
        response.body(body.into()).ok()
    });
    let rendering = serve(one, rendering, routes());
    for nth in 0..2 {
        let answer = rendering.post("/orders", "k", "");
        assert_eq!((answer.status, text(&answer).as_str()), (201, r#"{"receipt":"receipt 7"}"#));
        assert_eq!((is_replayed(&answer), answer.header("set-cookie")), (nth > 0, None));
    }
}

/// 202 now, and the work goes on: copies are told to come later, and get what it came to.
#[test]
fn p1_a_run_that_is_handed_on_keeps_the_operation_until_it_ends() {
    type Gate = Arc<Semaphore>;
    async fn order(State(gate): State<Gate>, Idempotent(mut run): Idempotent) -> (StatusCode, &'static str) {
        tokio::spawn(async move {
            drop(gate.acquire().await);
            drop(run.complete_with(&StoredResponse::new(StatusCode::CREATED, "done"), |_| Ok(())).await);
        });
        (StatusCode::ACCEPTED, "it is being made")
    }
    let (store, gate) = (store(), Arc::new(Semaphore::new(0)));
    let layer = layer(&store);
    let server = serve(store, layer, Router::new().route("/orders", post(order)).with_state(Arc::clone(&gate)));
    assert_eq!(server.post("/orders", "k", "").status, 202);
    assert_eq!(code(&server.post("/orders", "k", "")), "in_progress");
    gate.add_permits(1);
    server.until("the order is made", || state(&server, "k").0 == Standing::Succeeded);
    let answer = server.post("/orders", "k", "");
    assert!(is_replayed(&answer) && answer.status == 201 && text(&answer) == "done");
}

#[test]
fn the_extractor_says_what_is_missing_in_the_router() {
    async fn twice(Idempotent(_one): Idempotent, other: Option<Idempotent>) -> String {
        format!("{}", other.is_some())
    }
    let store = store();
    let layer = layer(&store);
    let routes = Router::new()
        .route("/with", post(|Idempotent(run): Idempotent| async move { run.attempt().to_string() }))
        .route("/either", post(|run: Option<Idempotent>| async move { run.is_some().to_string() }))
        .route("/twice", post(twice));
    let server = serve(store, layer, routes);
    let missing = server.post("/with", "", "");
    assert_eq!(missing.status, 500);
    assert!(text(&missing).contains("IdempotencyLayer") && text(&missing).contains("Option<Idempotent>"));
    assert_eq!(text(&server.post("/with", "a", "")), "1");
    assert_eq!([text(&server.post("/either", "", "")), text(&server.post("/either", "b", ""))], ["false", "true"]);
    let twice = server.post("/twice", "c", "");
    assert!(twice.status == 500 && text(&twice).contains("twice"), "{twice:?}");
}

/// What the client does not come back for the resumer finishes, from the request that the layer kept.
#[test]
fn p3_p6_a_resumer_finishes_what_the_layer_began() {
    fn finish(mut run: Run) -> reentry::Result<()> {
        let order = String::from_utf8_lossy(run.request().unwrap_or_default()).into_owned();
        let answer = StoredResponse::new(StatusCode::CREATED, format!("{order}, by the resumer"));
        run.complete_with(&answer, |_| Ok(())).wait()?;
        Ok(())
    }
    let store = store();
    let layer = layer(&store).keep_requests();
    let routes = Router::new().route("/orders", post(|| async { StatusCode::SERVICE_UNAVAILABLE }));
    let server = serve(store, layer, routes);
    assert_eq!(server.post("/orders", "k", "two pizzas").status, 503);
    let resumer = Resumer::builder(&server.store).start(finish).unwrap();
    server.until("the order is finished", || resumer.stats().finished == 1);
    let answer = server.post("/orders", "k", "two pizzas");
    assert!(is_replayed(&answer) && text(&answer) == "two pizzas, by the resumer");
    resumer.stop();
}

/// The resumed run did not come through the layer, and its clients were told the layer's span all the same.
#[test]
fn p5_what_a_resumer_finishes_is_kept_for_as_long_as_the_layer_says() {
    let (clock, hour) = (ManualClock::at(Timestamp::from_millis(1_700_000_000_000)), Duration::from_secs(3_600));
    let store = Store::builder().retention(hour).clock(clock.clone()).in_memory().unwrap();
    let (layer, runs) = (layer(&store).keep_requests().retention(hour * 3), Runs::default());
    assert!(layer.describe().contains("for 3 h after the request was done"));
    let counted = |State(runs): State<Runs>| async move {
        runs.next();
        StatusCode::SERVICE_UNAVAILABLE
    };
    let prepares = layer.clone();
    let server = serve(store, layer, Router::new().route("/orders", post(counted)).with_state(runs.clone()));
    assert_eq!(server.post("/orders", "k", "").status, 503);
    let resumer = Resumer::builder(&server.store).start(move |mut run: Run| {
        prepares.prepare(&mut run);
        run.complete(&StoredResponse::new(StatusCode::CREATED, "by the resumer")).wait().map(drop)
    });
    let resumer = resumer.unwrap();
    server.until("the order is finished", || resumer.stats().finished == 1);
    resumer.stop();
    clock.advance(hour * 2);
    assert!(is_replayed(&server.post("/orders", "k", "")));
    clock.advance(hour);
    assert_eq!((server.post("/orders", "k", "").status, runs.count()), (503, 2), "then the key starts anew");
}

/// A handler that hangs is taken over after its lease. When it comes back nothing of it is kept, and its client is told
/// to ask again: what the other run ended with is the answer.
#[test]
fn p7_a_run_that_was_taken_over_answers_for_nobody() {
    async fn order(State(gate): State<Arc<Semaphore>>, Idempotent(run): Idempotent) -> String {
        let attempt = run.attempt();
        drop(run);
        if attempt == 1 {
            drop(gate.acquire().await);
        }
        format!("attempt {attempt}")
    }
    let (clock, lease) = (ManualClock::at(Timestamp::from_millis(1_700_000_000_000)), Duration::from_secs(60));
    let store = Store::builder().lease(lease).clock(clock.clone()).in_memory().unwrap();
    let (layer, gate) = (layer(&store), Arc::new(Semaphore::new(0)));
    let server = serve(store, layer, Router::new().route("/orders", post(order)).with_state(Arc::clone(&gate)));
    let (client, copy) = (server.client(), request("ada", "/orders", "k", ""));
    let hanging = std::thread::spawn(move || client.send(&[copy]));
    server.until("the first is at work", || server.handle.stats().runs == 1);
    assert_eq!(code(&server.post("/orders", "k", "")), "in_progress");
    clock.advance(lease);
    assert_eq!(text(&server.post("/orders", "k", "")), "attempt 2");
    gate.add_permits(1);
    let late = hanging.join().unwrap().unwrap().remove(0);
    assert_eq!((late.status, code(&late).as_str()), (409, "in_progress"));
    assert!(late.header("retry-after").is_some());
    let retry = server.post("/orders", "k", "");
    assert!(is_replayed(&retry) && text(&retry) == "attempt 2");
}

/// Two layers around one handler claim once, under the settings of the outer one.
#[test]
fn a_layer_inside_another_passes_on_what_is_guarded_already() {
    let store = store();
    let inner = Router::new().route("/orders", post(|| async { "done" })).layer(layer(&store));
    let outer = layer(&store);
    let server = serve(store, outer, inner);
    assert_eq!(text(&server.post("/orders", "k", "")), "done");
    assert!(is_replayed(&server.post("/orders", "k", "")));
    assert_eq!(server.store.stats().unwrap().operations, 1);
}
