//! What the layer of HTTP adds to a handler: `cargo bench --bench http`.
//!
//! One caller sends requests of 100 bytes to a handler that answers with 100, without a socket, so that what is
//! measured is the layer. Files are made in `REENTRY_BENCH_DIR`, or in the target folder: a folder in memory would
//! measure no disk. Beside the first call stands what the store needs for a claim and a completion by itself.
#![allow(clippy::unwrap_used, reason = "a program for a terminal that should stop at a fault")]

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use reentry::http::{IdempotencyLayer, PassedBody};
use reentry::{Claim, Fingerprint, Key, Store};
use tokio::runtime::Runtime;
use tower::{Layer, Service, ServiceExt};

const BODY: &[u8] = &[b'x'; 100];

fn handler<B>(_: Request<B>) -> Ready<Result<Response<Full<Bytes>>, Infallible>> {
    let response = Response::builder().header("content-type", "application/json");
    ready(Ok(response.body(Full::from(BODY)).unwrap()))
}

fn request(key: Option<u64>) -> Request<Full<Bytes>> {
    let request = Request::post("/orders").header("content-type", "application/json");
    let request = key.iter().fold(request, |request, key| request.header("idempotency-key", format!("\"{key:032}\"")));
    request.body(Full::from(BODY)).unwrap()
}

/// A key that was never sent before.
fn fresh() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Sends requests one after the other, each read to its end.
fn send<S, B>(criterion: &mut Criterion, name: &str, runtime: &Runtime, service: &S, key: impl Fn() -> Option<u64>)
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = Infallible> + Clone,
    B: http_body::Body<Error: std::fmt::Debug>,
{
    criterion.bench_function(&format!("http: {name}"), |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                let response = service.clone().oneshot(request(key())).await.unwrap();
                assert!(response.status().is_success());
                response.into_body().collect().await.unwrap().to_bytes()
            })
        });
    });
}

/// What the store needs by itself, and with the layer and a handler around it.
fn first_calls(criterion: &mut Criterion, runtime: &Runtime, store: &Store, place: &str) {
    let layer = || IdempotencyLayer::new(store).single_tenant();
    let inner = || tower::service_fn(handler::<PassedBody<Full<Bytes>>>);
    criterion.bench_function(&format!("http: the store alone, claim and complete, {place}"), |bencher| {
        bencher.iter(|| {
            let key = Key::new("alone", fresh().to_string()).unwrap();
            runtime.block_on(async {
                let Claim::Run(run) = store.claim(&key, Fingerprint::of(BODY)).await.unwrap() else {
                    panic!("it is new")
                };
                run.complete(&BODY.to_vec()).await.unwrap()
            })
        });
    });
    let (attached, detached) = (layer().attached().layer(inner()), layer().layer(inner()));
    send(criterion, &format!("first call, attached, {place}"), runtime, &attached, || Some(fresh()));
    send(criterion, &format!("first call, {place}"), runtime, &detached, || Some(fresh()));
    let deferred = layer().deferred().layer(inner());
    send(criterion, &format!("first call, claim deferred, {place}"), runtime, &deferred, || Some(fresh()));
}

fn layers(criterion: &mut Criterion) {
    let place = std::env::var_os("REENTRY_BENCH_DIR");
    let place = place.map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), Into::into);
    let folder = tempfile::tempdir_in(place).unwrap();
    let store = Store::open(folder.path().join("bench.reentry")).unwrap();
    let runtime = Runtime::new().unwrap();
    let inner = tower::service_fn(handler::<PassedBody<Full<Bytes>>>);
    let layered = IdempotencyLayer::new(&store).single_tenant().layer(inner);

    send(criterion, "bare handler", &runtime, &tower::service_fn(handler::<Full<Bytes>>), || None);
    send(criterion, "no key", &runtime, &layered, || None);
    let known = fresh();
    send(criterion, "replay", &runtime, &layered, || Some(known));
    first_calls(criterion, &runtime, &Store::builder().in_memory().unwrap(), "in memory");
    first_calls(criterion, &runtime, &store, "on disk");
}

criterion_group!(benches, layers);
criterion_main!(benches);
