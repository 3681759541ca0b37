//! Connections that are slow, broken or gone.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http_body::Frame;
use reentry::State as Standing;
use reentry::http::{IdempotencyLayer, Idempotent};
use tokio::sync::Semaphore;

use crate::server::{Runs, Server, is_replayed, principal, serve, serve_guarded, store, text};

async fn counted(State(runs): State<Runs>, body: String) -> String {
    format!("run {} of {body}", runs.next())
}

fn counting() -> (Server, Runs) {
    let (store, runs) = (store(), Runs::default());
    let layer = IdempotencyLayer::new(&store).scope(principal);
    (serve(store, layer, Router::new().route("/orders", post(counted)).with_state(runs.clone())), runs)
}

/// The head of a request of ada's with a body of so many bytes.
fn head(length: usize) -> String {
    format!(
        "POST /orders HTTP/1.1\r\nhost: here\r\nauthorization: ada\r\ncontent-type: text/plain\r\n\
         idempotency-key: \"k\"\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    )
}

/// A body that comes slowly claims nothing until it is there, so it is in nobody's way.
#[test]
fn a_slow_body_holds_up_nobody() {
    let (server, runs) = counting();
    let mut slow = TcpStream::connect(server.address).unwrap();
    slow.write_all(head(9).as_bytes()).unwrap();
    slow.write_all(b"two ").unwrap();
    assert_eq!(text(&server.post("/orders", "k", "two pizzas")), "run 1 of two pizzas");
    assert_eq!(server.store.stats().unwrap().owned, 0);
    slow.write_all(b"pizza").unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 422"), "it is another request: {answer}");
    assert_eq!(runs.count(), 1);
}

#[test]
fn a_body_that_is_cut_off_runs_nothing_and_uses_no_key() {
    let (server, runs) = counting();
    for sent in [0, 4, 9] {
        let mut cut = TcpStream::connect(server.address).unwrap();
        cut.write_all(head(10).as_bytes()).unwrap();
        cut.write_all(&b"two pizzas"[..sent]).unwrap();
        // Half-closed, so that the end arrives and what the server says does too.
        cut.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        drop(cut.read_to_end(&mut answer));
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&answer));
    }
    assert_eq!((runs.count(), server.store.stats().unwrap().operations), (0, 0));
    assert_eq!(text(&server.post("/orders", "k", "two pizzas")), "run 1 of two pizzas");
}

/// A request whose head alone is sent, and whose body is announced as too large: refused without waiting for it.
#[test]
fn a_body_that_is_announced_as_too_large_is_refused_before_it_comes() {
    let (server, _) = counting();
    let mut large = TcpStream::connect(server.address).unwrap();
    large.write_all(head(1024 * 1024 + 1).as_bytes()).unwrap();
    let mut answer = [0; 12];
    large.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

/// Nobody knows how long it is until it is too long; no more of it is read, or held, than that.
#[test]
fn a_body_that_goes_on_without_end_is_refused_once_it_is_too_large() {
    let (server, runs) = counting();
    let mut endless = TcpStream::connect(server.address).unwrap();
    let head = head(0).replace("content-length: 0", "transfer-encoding: chunked");
    endless.write_all(head.as_bytes()).unwrap();
    let chunk = format!("{:x}\r\n{}\r\n", 64 * 1024, "x".repeat(64 * 1024));
    // It is cut off when enough was sent, so this ends.
    while endless.write_all(chunk.as_bytes()).is_ok() {}
    server.until("it is refused", || server.handle.stats().refused == 1);
    assert_eq!((runs.count(), server.store.stats().unwrap().operations), (0, 0));
}

/// A client that asks first whether it may send its body: only one whose key is right is told to.
#[test]
fn a_key_is_looked_at_before_a_body_is_asked_for() {
    let (server, _) = counting();
    for (key, expected) in [("\"k\"", "HTTP/1.1 100"), ("\"k", "HTTP/1.1 400"), ("k, k", "HTTP/1.1 400")] {
        let mut asking = TcpStream::connect(server.address).unwrap();
        let head = head(10).replace("\"k\"", key).replace("connection: close", "expect: 100-continue");
        asking.write_all(head.as_bytes()).unwrap();
        let mut answer = [0; 12];
        asking.read_exact(&mut answer).unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), expected, "{key}");
    }
}

/// A body that is announced with its length, and breaks half-way.
struct Breaks(usize);

impl http_body::Body for Breaks {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        self.0 += 1;
        Poll::Ready(Some(if self.0 <= 2 { Ok(Frame::data(Bytes::from_static(b"half"))) } else { Err("it broke") }))
    }
}

/// What the handler's own body does wrong goes to the client as it would without the layer, and is no outcome.
#[test]
fn p3_an_answer_that_breaks_half_way_is_passed_on_and_interrupts() {
    async fn breaks_at_first(Idempotent(run): Idempotent) -> Response {
        let body = if run.attempt() == 1 { Body::new(Breaks(0)) } else { Body::from("half and half") };
        ([("content-length", "13")], body).into_response()
    }
    let store = store();
    let layer = IdempotencyLayer::new(&store).scope(principal);
    let server = serve(store, layer, Router::new().route("/orders", post(breaks_at_first)));
    let mut broken = TcpStream::connect(server.address).unwrap();
    broken.write_all(format!("{}two pizzas", head(10)).as_bytes()).unwrap();
    let mut answer = Vec::new();
    drop(broken.read_to_end(&mut answer));
    assert!(!answer.ends_with(b"half and half"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(server.handle.stats().interrupted, 1);
    assert_eq!(text(&server.post("/orders", "k", "two pizzas")), "half and half");
    assert!(is_replayed(&server.post("/orders", "k", "two pizzas")));
}

/// What a handler waits for, and what is known of its connection.
#[derive(Clone)]
struct Watched {
    gate: Arc<Semaphore>,
    is_connection_gone: Arc<AtomicBool>,
    is_handler_dropped: Arc<AtomicBool>,
}

/// Sets a flag when it is dropped, unless that was expected.
struct Dropped(Arc<AtomicBool>, bool);

impl Drop for Dropped {
    fn drop(&mut self) {
        if !self.1 {
            self.0.store(true, Ordering::SeqCst);
        }
    }
}

/// Outside of the layer: hyper drops this where the client is gone.
async fn watch_connection(State(watched): State<Watched>, request: Request, next: Next) -> Response {
    let mut dropped = Dropped(watched.is_connection_gone, false);
    let response = next.run(request).await;
    dropped.1 = true;
    response
}

async fn waits_at_the_gate(State(watched): State<Watched>, Idempotent(run): Idempotent) -> String {
    let mut dropped = Dropped(watched.is_handler_dropped, false);
    if run.attempt() == 1 {
        watched.gate.acquire().await.unwrap().forget();
    }
    dropped.1 = true;
    format!("attempt {}", run.attempt())
}

fn watching(configure: impl FnOnce(IdempotencyLayer) -> IdempotencyLayer) -> (Server, Watched) {
    let store = store();
    let flag = || Arc::new(AtomicBool::new(false));
    let (gate, is_connection_gone) = (Arc::new(Semaphore::new(0)), flag());
    let watched = Watched { gate, is_connection_gone, is_handler_dropped: flag() };
    let layer = configure(IdempotencyLayer::new(&store).scope(principal));
    let handle = layer.handle();
    let routes = Router::new().route("/orders", post(waits_at_the_gate)).with_state(watched.clone());
    let routes = routes.layer(layer).layer(from_fn_with_state(watched.clone(), watch_connection));
    (serve_guarded(store, handle, routes), watched)
}

/// Sends a request, waits until its handler is at work, and hangs up.
fn hang_up(server: &Server, watched: &Watched) {
    let mut connection = TcpStream::connect(server.address).unwrap();
    connection.write_all(format!("{}two pizzas", head(10)).as_bytes()).unwrap();
    server.until("the handler is at work", || server.handle.stats().runs == 1);
    drop(connection);
    server.until("the connection is gone", || watched.is_connection_gone.load(Ordering::SeqCst));
}

#[test]
fn p7_a_client_that_hangs_up_does_not_cancel_its_work() {
    let (server, watched) = watching(|layer| layer);
    hang_up(&server, &watched);
    assert_eq!((server.handle.at_work(), server.store.stats().unwrap().owned), (1, 1));
    assert!(!watched.is_handler_dropped.load(Ordering::SeqCst));
    watched.gate.add_permits(1);
    // As a server does at its shutdown.
    let waited =
        server.runtime.block_on(async { tokio::time::timeout(crate::server::PATIENCE, server.handle.idle()).await });
    waited.unwrap();
    assert_eq!((server.handle.at_work(), server.handle.stats().kept), (0, 1));
    let retry = server.post("/orders", "k", "two pizzas");
    assert!(is_replayed(&retry) && text(&retry) == "attempt 1");
}

#[test]
fn p7_a_client_that_hangs_up_interrupts_cleanly_where_the_layer_is_attached() {
    let (server, watched) = watching(IdempotencyLayer::attached);
    hang_up(&server, &watched);
    server.until("the handler is dropped", || watched.is_handler_dropped.load(Ordering::SeqCst));
    server.until("the run is free", || server.store.stats().unwrap().owned == 0);
    server.until("it is counted", || server.handle.stats().interrupted == 1);
    let key = reentry::Key::new("ada", "k").unwrap();
    assert_eq!(server.store.progress(&key).unwrap().unwrap().state(), Standing::Unfinished);
    assert_eq!(text(&server.post("/orders", "k", "two pizzas")), "attempt 2");
}

/// What is dropped with its runtime was interrupted like any other.
#[test]
fn p7_work_that_the_end_of_its_runtime_drops_is_interrupted_and_counted() {
    let (server, watched) = watching(|layer| layer);
    hang_up(&server, &watched);
    let Server { runtime, handle, store, .. } = server;
    assert_eq!((handle.at_work(), handle.stats().interrupted), (1, 0));
    drop(runtime);
    assert!(watched.is_handler_dropped.load(Ordering::SeqCst));
    assert_eq!((handle.at_work(), handle.stats().interrupted, store.stats().unwrap().owned), (0, 1, 0));
}

#[test]
fn waiting_for_a_layer_without_work_is_over_at_once() {
    let (server, _) = watching(|layer| layer);
    let waited =
        server.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), server.handle.idle()).await });
    assert!(waited.is_ok());
}
