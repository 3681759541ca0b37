//! The layer around services that are not axum's: bodies of other types, an instance that must be ready, gRPC.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use reentry::http::{
    Idempotency, IdempotencyLayer, Idempotent, Keep, LayerHandle, LayerStats, PassedBody, Preset, Problem, ProblemCode,
    ResponseFuture, StoredResponse,
};
use reentry::testing::conformance::{Client, Sockets};
use reentry::{Fingerprint, Key, Store};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tower::{Layer, Service, ServiceExt};

use crate::server::{Runs, is_replayed, request, store};

fn layer(store: &Store) -> IdempotencyLayer {
    IdempotencyLayer::new(store).single_tenant()
}

#[test]
fn what_the_layer_gives_goes_where_a_server_needs_it() {
    fn send_and_sync<T: Send + Sync>() {}
    fn send<T: Send>() {}
    send_and_sync::<IdempotencyLayer>();
    send_and_sync::<Idempotency<()>>();
    send_and_sync::<LayerHandle>();
    send_and_sync::<LayerStats>();
    send_and_sync::<Problem>();
    send_and_sync::<StoredResponse>();
    send_and_sync::<Idempotent>();
    send::<PassedBody<Full<Bytes>>>();
    send::<ResponseFuture<Ready<()>, Full<Bytes>, Infallible>>();
}

/// A service whose clones are not ready until they are asked, and that fails where one is called all the same.
#[derive(Debug)]
struct Permits {
    is_ready: bool,
    runs: Runs,
}

impl Clone for Permits {
    fn clone(&self) -> Self {
        Self { is_ready: false, runs: self.runs.clone() }
    }
}

impl<B> Service<Request<PassedBody<B>>> for Permits
where
    B: http_body::Body,
{
    type Response = Response<Full<Bytes>>;
    type Error = &'static str;
    type Future = Ready<Result<Response<Full<Bytes>>, &'static str>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        self.is_ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<PassedBody<B>>) -> Self::Future {
        let was_ready = std::mem::take(&mut self.is_ready);
        ready(if was_ready { Ok(Response::new(self.runs.next().to_string().into())) } else { Err("it was not ready") })
    }
}

fn post(key: Option<&str>, body: &'static str) -> Request<Full<Bytes>> {
    let request = Request::post("http://here/orders");
    let request = key.into_iter().fold(request, |request, key| request.header("idempotency-key", key));
    request.body(Full::from(body)).unwrap()
}

async fn text<E: std::fmt::Debug>(body: impl http_body::Body<Data = Bytes, Error = E>) -> String {
    String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// The scope of all its keys is on disk, so it is the same in every version.
#[tokio::test]
async fn p5_the_keys_of_a_single_tenant_have_this_scope_for_ever() {
    let store = store();
    let service = tower::service_fn(|_: Request<PassedBody<Full<Bytes>>>| {
        ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("done"))))
    });
    layer(&store).layer(service).oneshot(post(Some("k"), "")).await.unwrap();
    assert!(store.progress(&Key::new("http", "k").unwrap()).unwrap().is_some());
}

#[tokio::test]
async fn the_instance_that_was_polled_ready_is_the_one_that_is_called() {
    let store = store();
    let mut service = layer(&store).layer(Permits { is_ready: false, runs: Runs::default() });
    for (key, expected) in [(Some("a"), "1"), (None, "2"), (Some("b"), "3"), (Some("a"), "1"), (None, "4")] {
        let called = ServiceExt::<Request<Full<Bytes>>>::ready(&mut service).await.unwrap().call(post(key, ""));
        assert_eq!(text(called.await.unwrap().into_body()).await, expected);
    }
}

/// hyper alone, with its own body and no framework around.
#[tokio::test]
async fn a_bare_service_of_hyper_needs_nothing_more() {
    let (store, runs) = (store(), Runs::default());
    let counted = tower::service_fn(move |request: Request<PassedBody<Incoming>>| {
        let nth = runs.next();
        async move {
            Ok::<_, hyper::Error>(Response::new(Full::<Bytes>::from(format!(
                "{nth} {}",
                text(request.into_body()).await
            ))))
        }
    });
    let service = layer(&store).layer(counted);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let service = TowerToHyperService::new(service.clone());
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(connection), service));
        }
    });
    let copies = [request("ada", "/orders", "k", "two pizzas"), request("ada", "/orders", "\"k\"", "two pizzas")];
    let answers = spawn_blocking(move || copies.map(|copy| Sockets::to(&*address).send(&[copy]).unwrap().remove(0)));
    let answers = answers.await.unwrap();
    assert_eq!(answers.each_ref().map(|answer| String::from_utf8_lossy(&answer.body)), ["1 two pizzas"; 2]);
    assert_eq!(answers.each_ref().map(is_replayed), [false, true]);
}

/// Without a runtime of tokio the work is done where it is polled.
#[test]
fn it_works_on_any_executor() {
    let store = store();
    let service = layer(&store).wait_for_busy(std::time::Duration::from_secs(1));
    let service = service.layer(Permits { is_ready: false, runs: Runs::default() });
    let answer = |key| {
        let sent = service.clone().oneshot(post(Some(key), ""));
        block_on(async move { text(sent.await.unwrap().into_body()).await })
    };
    assert_eq!([answer("a"), answer("a"), answer("b")], ["1", "1", "2"]);
}

/// An executor that knows nothing but threads.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let (mut context, mut future) = (Context::from_waker(&waker), std::pin::pin!(future));
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// The error of the service inside is its caller's, as it is, and interrupts.
#[tokio::test]
async fn an_error_of_the_service_is_passed_on_and_interrupts() {
    let store = store();
    let failing = tower::service_fn(|_: Request<PassedBody<Full<Bytes>>>| {
        ready(Err::<Response<Empty<Bytes>>, _>("the service inside"))
    });
    let layer = layer(&store);
    let error = layer.layer(failing).oneshot(post(Some("k"), "")).await.unwrap_err();
    assert_eq!((error, store.stats().unwrap().unfinished), ("the service inside", 1));
    assert_eq!(layer.handle().stats().interrupted, 1);
}

/// A body of other data than bytes, the last frame first.
struct Slices(Vec<Frame<&'static [u8]>>);

impl http_body::Body for Slices {
    type Data = &'static [u8];
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<&'static [u8]>, Infallible>>> {
        Poll::Ready(self.0.pop().map(Ok))
    }
}

/// What is read of a body is given to the service, with its trailers, whatever its type was.
#[tokio::test]
async fn a_service_gets_the_whole_body_of_its_request() {
    let store = store();
    let echo = tower::service_fn(|request: Request<PassedBody<Slices>>| async {
        let collected = request.into_body().collect().await.unwrap();
        let trailer = collected.trailers().map_or("none", |trailers| trailers["x"].to_str().unwrap()).to_owned();
        let body = String::from_utf8(collected.to_bytes().to_vec()).unwrap();
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(format!("{body} {trailer}"))))
    });
    let service = layer(&store).layer(echo);
    for key in [Some("k"), Some("k"), None] {
        let mut trailers = HeaderMap::new();
        trailers.insert("x", HeaderValue::from_static("y"));
        let frames = vec![Frame::trailers(trailers), Frame::data(&b"pizzas"[..]), Frame::data(&b"two "[..])];
        let (parts, _) = post(key, "").into_parts();
        let answer = service.clone().oneshot(Request::from_parts(parts, Slices(frames))).await.unwrap();
        assert_eq!(text(answer.into_body()).await, "two pizzas y");
    }
    assert_eq!(store.stats().unwrap().operations, 1);
}

/// A call of gRPC: a message, and its status in the trailers.
#[derive(Clone)]
struct Grpc {
    status: &'static str,
    /// How many looks its trailers are away from its message.
    pauses: usize,
    /// What the handler itself says.
    keep: Option<Keep>,
    runs: Runs,
}

fn grpc(status: &'static str, runs: &Runs) -> Grpc {
    Grpc { status, pauses: 0, keep: None, runs: runs.clone() }
}

impl Service<Request<PassedBody<Full<Bytes>>>> for Grpc {
    type Response = Response<GrpcBody>;
    type Error = Infallible;
    type Future = Ready<Result<Response<GrpcBody>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<PassedBody<Full<Bytes>>>) -> Self::Future {
        let told = [(STATUS, self.status), (MESSAGE, "why"), (DETAILS, "AA")];
        let trailers = HeaderMap::from_iter(told.map(|(name, value)| (name, HeaderValue::from_static(value))));
        let message = Bytes::from(format!("\0\0\0\0\x01{}", self.runs.next()));
        let frames = vec![Frame::trailers(trailers), Frame::data(message)];
        let mut response = Response::new(GrpcBody { frames, pauses: self.pauses });
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        response.headers_mut().insert("grpc-encoding", HeaderValue::from_static("identity"));
        if let Some(keep) = self.keep {
            response.extensions_mut().insert(keep);
        }
        ready(Ok(response))
    }
}

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// As tonic's: nobody knows how long it is.
struct GrpcBody {
    /// The last one first.
    frames: Vec<Frame<Bytes>>,
    pauses: usize,
}

impl http_body::Body for GrpcBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.frames.len() == 1 && self.pauses > 0 {
            self.pauses -= 1;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(self.frames.pop().map(Ok))
    }
}

fn call(key: &str, message: &'static str) -> Request<Full<Bytes>> {
    let (mut parts, body) = post(Some(key), message).into_parts();
    parts.headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    Request::from_parts(parts, body)
}

/// The message, the status of gRPC wherever it stands, and whether it is a repetition.
async fn answered<S>(service: &Idempotency<S>, request: Request<Full<Bytes>>) -> (String, String, bool)
where
    S: Service<Request<PassedBody<Full<Bytes>>>, Response = Response<GrpcBody>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
    S::Future: 'static,
{
    let (parts, body) = service.clone().oneshot(request).await.unwrap().into_parts();
    let collected = body.collect().await.unwrap();
    // What the service says of its status comes with it, in a repetition too.
    for (name, value) in [(MESSAGE, "why"), (DETAILS, "AA")] {
        let trailer = collected.trailers().and_then(|trailers| trailers.get(&name));
        assert!(trailer.is_none_or(|found| found == value) && trailer.is_some() == collected.trailers().is_some());
    }
    let status = parts.headers.get("grpc-status").or(collected.trailers().and_then(|t| t.get("grpc-status"))).cloned();
    let message =
        String::from_utf8(collected.to_bytes().to_vec()).unwrap().trim_start_matches(['\0', '\x01']).to_owned();
    // Without it nobody can read a message that is compressed.
    assert!(message.is_empty() || parts.headers.contains_key("grpc-encoding"));
    (message, status.unwrap().to_str().unwrap().to_owned(), parts.headers.contains_key("idempotent-replayed"))
}

#[tokio::test]
async fn a_unary_call_of_grpc_is_replayed_with_its_trailers() {
    let (store, runs) = (store(), Runs::default());
    let service = layer(&store).required().layer(grpc("0", &runs));
    assert_eq!(answered(&service, call("k", "one")).await, ("1".to_owned(), "0".to_owned(), false));
    assert_eq!(answered(&service, call("k", "one")).await, ("1".to_owned(), "0".to_owned(), true));
    assert_eq!(answered(&service, call("k", "another")).await.1, "9", "FAILED_PRECONDITION");
    assert_eq!(answered(&service, call("\"", "one")).await.1, "3", "INVALID_ARGUMENT");
    store.close().unwrap();
    assert_eq!(answered(&service, call("k", "one")).await.1, "14", "UNAVAILABLE");
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn a_status_of_grpc_that_may_be_tried_again_interrupts() {
    let kept = ["0", "3", "5", "6", "9", "11"].map(|status| (status, true));
    let not_kept = ["4", "7", "8", "14", "16"].map(|status| (status, false));
    for (status, is_kept) in kept.into_iter().chain(not_kept) {
        let (store, runs) = (store(), Runs::default());
        let service = layer(&store).layer(grpc(status, &runs));
        for _ in 0..2 {
            assert_eq!(answered(&service, call("k", "")).await.1, status);
        }
        assert_eq!(runs.count(), if is_kept { 1 } else { 2 }, "{status}");
    }
}

/// Whatever the preset is, it looks at the status that stands behind the message, and at the one in its place.
#[tokio::test]
async fn every_preset_judges_the_status_of_a_call_of_grpc_wherever_it_stands() {
    for (preset, status, is_kept) in [
        (Preset::StoreAll, "0", true),
        (Preset::StoreAll, "7", true),
        (Preset::StoreAll, "14", true),
        (Preset::SuccessOnly, "0", true),
        (Preset::SuccessOnly, "3", false),
        (Preset::SuccessOnly, "14", false),
    ] {
        let (store, runs) = (store(), Runs::default());
        let service = layer(&store).keep(preset).layer(grpc(status, &runs));
        for _ in 0..2 {
            assert_eq!(answered(&service, call("k", "")).await.1, status);
        }
        assert_eq!(runs.count(), if is_kept { 1 } else { 2 }, "{preset:?} {status}");
    }
}

/// What the server says of a call counts as it is said, though its status stands behind its message.
#[tokio::test]
async fn a_closure_decides_of_a_call_of_grpc_too() {
    // (what it says, whether the message and the status are there at once, the status, what the second call gets, runs)
    for (keep, pauses, status, second, expected) in [
        (Keep::Answer, 0, "0", ("1", "0", true), 1),
        (Keep::Answer, 0, "14", ("1", "14", true), 1),
        (Keep::Answer, 1, "0", ("", "9", false), 1),
        (Keep::WholeAnswer, 1, "0", ("1", "0", true), 1),
        (Keep::WholeAnswer, 1, "7", ("1", "7", true), 1),
        (Keep::Ended, 0, "0", ("", "9", false), 1),
        (Keep::Nothing, 0, "0", ("2", "0", false), 2),
    ] {
        let by_layer = |layer: IdempotencyLayer, runs: &Runs| {
            layer.keep_by(move |_| keep).layer(Grpc { pauses, ..grpc(status, runs) })
        };
        let by_handler =
            |layer: IdempotencyLayer, runs: &Runs| layer.layer(Grpc { pauses, keep: Some(keep), ..grpc(status, runs) });
        for says in [&by_layer as &dyn Fn(IdempotencyLayer, &Runs) -> Idempotency<Grpc>, &by_handler] {
            let (store, runs) = (store(), Runs::default());
            let service = says(layer(&store), &runs);
            assert_eq!(answered(&service, call("k", "")).await, ("1".to_owned(), status.to_owned(), false));
            let (message, again, is_replayed) = answered(&service, call("k", "")).await;
            assert_eq!((&*message, &*again, is_replayed), second, "{keep:?} of {status} after {pauses} pauses");
            assert_eq!(runs.count(), expected);
        }
    }
}

/// Its handler wants its answer kept; where that is a stream it is passed on as it comes.
#[tokio::test]
async fn a_stream_of_grpc_is_not_held_back_until_it_ends() {
    let (store, runs) = (store(), Runs::default());
    let endless = Grpc { pauses: usize::MAX, keep: Some(Keep::Answer), ..grpc("0", &runs) };
    let service = layer(&store).layer(endless);
    let comes = async {
        let mut body = service.oneshot(call("k", "")).await.unwrap().into_body();
        body.frame().await.unwrap().unwrap().into_data().unwrap()
    };
    let message = tokio::time::timeout(crate::server::PATIENCE, comes).await.expect("the message is there");
    assert_eq!(message, "\0\0\0\0\x011");
}

/// What an operator sees of it, as for a status of HTTP.
#[tokio::test]
async fn a_call_of_grpc_that_says_that_it_failed_is_the_outcome_of_a_failure() {
    for (status, is_success) in [("0", true), ("3", false), ("5", false)] {
        let (store, runs) = (store(), Runs::default());
        let service = layer(&store).layer(grpc(status, &runs));
        for is_replayed in [false, true] {
            assert_eq!(answered(&service, call("k", "")).await, ("1".to_owned(), status.to_owned(), is_replayed));
        }
        let known = store.operations().next().unwrap().unwrap();
        assert_eq!(known.outcome().unwrap().is_success(), is_success, "{status}");
    }
}

/// An answer that is over with its headers, as tonic gives one for an error.
#[tokio::test]
async fn a_status_of_grpc_in_the_headers_decides_too() {
    for (status, expected) in [("14", None), ("3", Some(false)), ("0", Some(true))] {
        let (store, runs) = (store(), Runs::default());
        let answers = grpc(status, &runs);
        let over = tower::service_fn(move |request| {
            let answered = answers.clone().oneshot(request);
            async move {
                let (mut parts, _) = answered.await?.into_parts();
                parts.headers.insert(STATUS, HeaderValue::from_static(status));
                Ok(Response::from_parts(parts, GrpcBody { frames: Vec::new(), pauses: 0 }))
            }
        });
        let service = layer(&store).layer(over);
        for nth in 0..2 {
            let (_, told, is_replayed) = answered(&service, call("k", "")).await;
            assert_eq!((&*told, is_replayed), (status, nth > 0 && expected.is_some()));
        }
        let known = store.operations().next().unwrap().unwrap();
        assert_eq!(known.outcome().map(reentry::Outcome::is_success), expected, "{status}");
    }
}

/// A run that somebody else has: what its handler says is a problem is written for its client, and told to the log.
#[tokio::test]
async fn a_problem_of_a_run_that_was_handed_on_has_the_form_of_grpc() {
    let (store, held) = (store(), Arc::new(Mutex::new(None)));
    let holds = Arc::clone(&held);
    let handler = tower::service_fn(move |request: Request<PassedBody<Full<Bytes>>>| {
        *holds.lock().unwrap() = Idempotent::of(request.extensions());
        ready(Ok::<_, Infallible>(Problem::from(ProblemCode::InDoubt).into_response::<Full<Bytes>>()))
    });
    let response = layer(&store).layer(handler).oneshot(call("k", "")).await.unwrap();
    assert_eq!((response.status().as_u16(), &response.headers()[STATUS]), (200, &HeaderValue::from_static("10")));
    assert!(response.extensions().get::<Problem>().is_none() && response.extensions().get::<Keep>().is_none());
    assert!(held.lock().unwrap().is_some(), "it was at work all the time");
}

/// Tokio cannot be asked whether there is one.
#[test]
fn on_a_runtime_without_a_timer_a_copy_is_told_at_once_to_come_later() {
    let (store, gate) = (store(), Arc::new(Semaphore::new(0)));
    let layer = layer(&store).wait_for_busy(crate::server::PATIENCE);
    let (handle, opens) = (layer.handle(), Arc::clone(&gate));
    let service = layer.layer(tower::service_fn(move |_: Request<PassedBody<Full<Bytes>>>| {
        let gate = Arc::clone(&gate);
        async move {
            drop(gate.acquire().await);
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("done")))
        }
    }));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    runtime.block_on(async {
        let first = tokio::spawn(service.clone().oneshot(post(Some("k"), "")));
        while handle.stats().runs == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(service.clone().oneshot(post(Some("k"), "")).await.unwrap().status(), 409);
        opens.add_permits(1);
        assert_eq!(text(first.await.unwrap().unwrap().into_body()).await, "done");
    });
    assert_eq!((handle.stats().busy, handle.stats().kept), (1, 1));
}

/// A server's own digest is of all that came, in however many pieces.
#[tokio::test]
async fn a_fingerprint_of_the_servers_own_sees_the_whole_body() {
    let store = store();
    // Pieces that are kept as they come, without being put together.
    let pieces = ["one ", "two ", "three"].map(|text| &*text.repeat(2_000).leak());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let keeps = Arc::clone(&seen);
    let layer = layer(&store).fingerprint(move |_, body| {
        keeps.lock().unwrap().push(body.to_vec());
        Fingerprint::of(body)
    });
    let service = layer.layer(tower::service_fn(|_: Request<PassedBody<Slices>>| {
        ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("done"))))
    }));
    let frames = pieces.iter().rev().map(|piece| Frame::data(piece.as_bytes())).collect();
    let (parts, _) = post(Some("k"), "").into_parts();
    service.oneshot(Request::from_parts(parts, Slices(frames))).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), [pieces.concat().into_bytes()]);
}

/// The layer's marks are its own: neither is left in what goes out.
#[tokio::test]
async fn an_override_is_taken_out_of_the_answer() {
    let store = store();
    let service = layer(&store).layer(tower::service_fn(|_: Request<PassedBody<Full<Bytes>>>| async {
        let mut response = Response::new(Full::<Bytes>::from("x"));
        response.extensions_mut().insert(Keep::Nothing);
        Ok::<_, Infallible>(response)
    }));
    let response = service.oneshot(post(Some("k"), "")).await.unwrap();
    assert!(response.extensions().get::<Keep>().is_none());
}
