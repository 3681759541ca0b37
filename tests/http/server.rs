//! The services that are tested: real axum servers on loopback, each in a runtime of its own.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use reentry::Store;
use reentry::http::{IdempotencyLayer, LayerHandle};
use reentry::testing::conformance::{Client, Sockets, WireAnswer, WireRequest};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

/// Longer than anything takes; what waits for it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How soon what waits for something looks again.
const PAUSE: Duration = Duration::from_millis(1);

/// A server, until this is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) store: Store,
    pub(crate) handle: Arc<LayerHandle>,
    pub(crate) runtime: Runtime,
}

/// Who sends a request.
#[derive(Debug, Clone)]
pub(crate) struct Principal(pub(crate) String);

/// Stands for an authentication: believes what the request says, and refuses those who say nothing.
async fn authenticated(mut request: Request, next: Next) -> Response {
    let told = request.headers().get("authorization").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let Some(told) = told else { return StatusCode::UNAUTHORIZED.into_response() };
    if told != "nobody" {
        request.extensions_mut().insert(Principal(told));
    }
    next.run(request).await
}

/// The principal of a request, as a layer's scope.
pub(crate) fn principal(parts: &Parts) -> Option<String> {
    parts.extensions.get::<Principal>().map(|principal| principal.0.clone())
}

pub(crate) fn store() -> Store {
    Store::builder().in_memory().unwrap()
}

/// Serves these routes behind the layer, behind the authentication.
pub(crate) fn serve(store: Store, layer: IdempotencyLayer, routes: Router) -> Server {
    let handle = layer.handle();
    serve_guarded(store, handle, routes.layer(layer))
}

/// Serves these routes, which are behind layers already, behind the authentication.
pub(crate) fn serve_guarded(store: Store, handle: Arc<LayerHandle>, routes: Router) -> Server {
    let routes = routes.layer(from_fn(authenticated));
    let runtime = Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move { axum::serve(listener, routes).await });
    Server { address, store, handle, runtime }
}

impl Server {
    pub(crate) fn client(&self) -> Sockets {
        Sockets::to(self.address.to_string())
    }

    /// Sends one request, and gets its answer.
    #[track_caller]
    pub(crate) fn send(&self, request: &WireRequest) -> WireAnswer {
        self.client().send(std::slice::from_ref(request)).unwrap().remove(0)
    }

    /// Sends a POST of ada's.
    #[track_caller]
    pub(crate) fn post(&self, target: &str, key: &str, body: &str) -> WireAnswer {
        self.send(&request("ada", target, key, body))
    }

    /// Waits until something is so.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let waits = async {
            while !is_so() {
                tokio::time::sleep(PAUSE).await;
            }
        };
        let waited = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, waits).await });
        waited.unwrap_or_else(|_| panic!("it never came to: {what}"));
    }
}

/// A request of one principal.
pub(crate) fn request(principal: &str, target: &str, key: &str, body: &str) -> WireRequest {
    let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
    let mut headers = vec![header("authorization", principal), header("content-type", "text/plain")];
    if !key.is_empty() {
        headers.push(header("idempotency-key", key));
    }
    WireRequest { method: "POST", target: target.to_owned(), headers, body: body.as_bytes().to_vec() }
}

pub(crate) fn text(answer: &WireAnswer) -> String {
    String::from_utf8(answer.body.clone()).unwrap()
}

/// The code of a problem, which must be valid JSON.
#[track_caller]
pub(crate) fn code(answer: &WireAnswer) -> String {
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(problem["status"], answer.status);
    problem["code"].as_str().unwrap().to_owned()
}

pub(crate) fn is_replayed(answer: &WireAnswer) -> bool {
    answer.header("idempotent-replayed") == Some(b"true")
}

/// How often something ran.
#[derive(Debug, Clone, Default)]
pub(crate) struct Runs(Arc<AtomicU64>);

impl Runs {
    pub(crate) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// A body that is streamed: chunks, and nobody knows how many.
#[derive(Debug)]
pub(crate) struct Chunks(pub(crate) VecDeque<Bytes>);

impl http_body::Body for Chunks {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.0.pop_front().map(|chunk| Ok(http_body::Frame::data(chunk))))
    }
}

pub(crate) fn streamed(chunks: usize) -> Body {
    Body::new(Chunks((0..chunks).map(|nth| Bytes::from(format!("chunk {nth};"))).collect()))
}

/// What the service of the conformance table knows.
#[derive(Clone)]
pub(crate) struct Shop {
    runs: Runs,
    slow: Runs,
    /// The layer around the slow handler alone.
    handle: Arc<LayerHandle>,
}

/// The service that the conformance table is sent to.
pub(crate) fn shop(configure: impl Fn(IdempotencyLayer) -> IdempotencyLayer) -> Server {
    let store = store();
    let layer = || configure(IdempotencyLayer::new(&store).scope(principal).request_bytes_max(4096));
    let (fast, slow) = (layer(), layer());
    let (handle, slow_handle) = (fast.handle(), slow.handle());
    let routes = Router::new()
        .route("/orders", post(order).get(|| async { "orders" }))
        .route("/streamed", post(|| async { streamed(3) }))
        .layer(fast)
        .merge(Router::new().route("/slow", post(slow_order)).layer(slow))
        .with_state(Shop { runs: Runs::default(), slow: Runs::default(), handle: slow_handle });
    serve_guarded(store, handle, routes)
}

async fn order(State(shop): State<Shop>) -> Response {
    let nth = shop.runs.next();
    let mut headers = HeaderMap::new();
    headers.insert("location", HeaderValue::try_from(format!("/orders/{nth}")).unwrap());
    headers.insert("set-cookie", HeaderValue::try_from(format!("session={nth}")).unwrap());
    headers.append(HeaderName::from_static("link"), HeaderValue::from_static("<a>"));
    headers.append(HeaderName::from_static("link"), HeaderValue::from_static("<b>"));
    (StatusCode::CREATED, headers, format!("order {nth}")).into_response()
}

/// Ends when a copy of its request, or another request under its key, was told what there is to tell: each of these
/// requests meets one.
async fn slow_order(State(shop): State<Shop>) -> Response {
    let nth = shop.slow.next();
    let waits = async {
        while shop.handle.stats().busy + shop.handle.stats().rejected < nth {
            tokio::time::sleep(PAUSE).await;
        }
    };
    match tokio::time::timeout(PATIENCE, waits).await {
        Ok(()) => order(State(shop.clone())).await,
        Err(_) => StatusCode::GATEWAY_TIMEOUT.into_response(),
    }
}
