//! What is kept of an answer, and what is given again.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Router};
use reentry::Store;
use reentry::http::{IdempotencyLayer, Keep, Preset, StoredResponse};
use reentry::testing::conformance::WireAnswer;

use crate::server::{Runs, Server, code, is_replayed, principal, serve, store, streamed, text};

fn layer(store: &Store) -> IdempotencyLayer {
    IdempotencyLayer::new(store).scope(principal)
}

const SECRET: &str = "a-canary-that-nobody-else-may-see";

/// An answer with all that must be kept, and all that must not.
async fn rich(State(runs): State<Runs>) -> Response {
    let mut headers = HeaderMap::new();
    let mut add = |name: &'static str, value: &[u8]| {
        headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap());
    };
    for name in ["set-cookie", "set-cookie2", "authorization", "proxy-authorization", "www-authenticate", "x-secret"] {
        add(name, SECRET.as_bytes());
    }
    add("content-type", b"application/octet-stream");
    add("link", b"<a>; rel=next");
    add("link", b"<b>; rel=prev");
    add("etag", b"\"\xfe\xff\"");
    add("location", b"/orders/7");
    add("content-language", b"de");
    add("content-disposition", b"inline");
    add("content-encoding", b"identity");
    add("retry-after", b"30");
    let body = [b"run ", runs.next().to_string().as_bytes(), b" \x00\xff\r\n"].concat();
    (StatusCode::CREATED, headers, body).into_response()
}

const KEPT: [&str; 8] = [
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "etag",
    "link",
    "location",
    "retry-after",
];

fn kept_headers(answer: &WireAnswer) -> Vec<(String, Vec<u8>)> {
    answer.headers.iter().filter(|(name, _)| KEPT.contains(&name.as_str())).cloned().collect()
}

fn rich_server(store: Store) -> (Server, Runs) {
    let runs = Runs::default();
    let layer = layer(&store).keep_header(HeaderName::from_static("set-cookie"));
    (serve(store, layer, Router::new().route("/rich", post(rich)).with_state(runs.clone())), runs)
}

#[test]
fn p5_a_replay_is_equal_in_status_kept_headers_and_body() {
    let (server, runs) = rich_server(store());
    let first = server.post("/rich", "k", "");
    let retries: Vec<_> = (0..3).map(|_| server.post("/rich", "\"k\"", "")).collect();
    assert_eq!((first.status, first.body.as_slice()), (201, &b"run 1 \x00\xff\r\n"[..]));
    assert!(first.header("set-cookie").is_some() && !is_replayed(&first), "the first client gets all of it");
    for retry in retries {
        assert!(is_replayed(&retry));
        assert_eq!((retry.status, &retry.body), (first.status, &first.body));
        let mut kept = kept_headers(&retry);
        let mut expected = kept_headers(&first);
        kept.sort();
        expected.sort();
        assert_eq!(kept, expected);
        kept.dedup_by(|one, other| one.0 == other.0);
        assert!(kept.iter().map(|(name, _)| name).eq(KEPT), "each of them is there");
    }
    assert_eq!(runs.count(), 1);
    server.store.verify().unwrap();
}

#[test]
fn p5_every_header_that_is_asked_for_is_kept() {
    let names = ["x-order", "x-version"];
    let answer =
        move |State(runs): State<Runs>| async move { (names.map(|name| (name, runs.next().to_string())), "done") };
    let store = store();
    let layer = names.into_iter().fold(layer(&store), |layer, name| layer.keep_header(HeaderName::from_static(name)));
    let described = layer.describe();
    assert!(names.iter().all(|name| described.contains(name)), "{described}");
    let server = serve(store, layer, Router::new().route("/two", post(answer)).with_state(Runs::default()));
    let answers = [(); 2].map(|()| server.post("/two", "k", ""));
    assert_eq!(answers.each_ref().map(is_replayed), [false, true]);
    for answer in answers {
        assert_eq!(names.map(|name| answer.header(name)), [Some(&b"1"[..]), Some(b"2")]);
    }
}

/// What an operator sees of it, and what `Outcome` tells: the status decides.
#[test]
fn an_answer_that_says_that_it_failed_is_the_outcome_of_a_failure() {
    let asked = |Path(status): Path<u16>| async move { (StatusCode::from_u16(status).unwrap(), Keep::Answer, "told") };
    let store = store();
    let server = serve(store.clone(), layer(&store), Router::new().route("/{status}", post(asked)));
    for (status, is_success) in [(200, true), (302, true), (404, false), (422, false), (500, false), (503, false)] {
        let key = status.to_string();
        assert_eq!(server.post(&format!("/{status}"), &key, "").status, status);
        assert!(is_replayed(&server.post(&format!("/{status}"), &key, "")));
        let known = server.store.operations().map(Result::unwrap).find(|progress| progress.key().key() == key).unwrap();
        assert_eq!(known.outcome().unwrap().is_success(), is_success, "{status}");
    }
}

/// A handler of axum gives an answer that it has as it was kept.
#[tokio::test]
async fn a_stored_answer_is_a_response() {
    let stored =
        StoredResponse::new(StatusCode::CREATED, "two pizzas").header(header::ETAG, HeaderValue::from_static("7"));
    let response = IntoResponse::into_response(stored);
    assert_eq!((response.status(), &response.headers()["etag"]), (StatusCode::CREATED, &HeaderValue::from_static("7")));
    assert_eq!(axum::body::to_bytes(response.into_body(), 99).await.unwrap(), "two pizzas");
}

#[test]
fn p9_no_header_of_one_client_is_replayed_or_stands_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.reentry");
    let (server, _) = rich_server(Store::open(&path).unwrap());
    server.post("/rich", "k", "");
    let retry = server.post("/rich", "k", "");
    let values: Vec<_> = retry.headers.iter().map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect();
    assert!(is_replayed(&retry) && !values.iter().any(|value| value.contains(SECRET)), "{values:?}");
    server.store.close().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds("rel=next") && !holds(SECRET));
}

async fn with_status(State(runs): State<Runs>, Path(status): Path<u16>) -> (StatusCode, String) {
    (StatusCode::from_u16(status).unwrap(), format!("run {}", runs.next()))
}

/// The statuses that a preset keeps, as a retry sees it.
fn kept_statuses(preset: Preset) -> Vec<u16> {
    let store = store();
    let layer = layer(&store).keep(preset);
    let routes = Router::new().route("/status/{status}", post(with_status)).with_state(Runs::default());
    let server = serve(store, layer, routes);
    let statuses = [200, 201, 202, 204, 301, 303, 400, 401, 402, 403, 404, 408, 409, 410, 422, 425, 429, 500, 503, 504];
    let is_kept = |status: &u16| {
        let (target, key) = (format!("/status/{status}"), format!("k{status}"));
        let (first, retry) = (server.post(&target, &key, ""), server.post(&target, &key, ""));
        assert_eq!((first.status, retry.status), (*status, *status));
        assert_eq!(is_replayed(&retry), first.body == retry.body || retry.status == 204);
        is_replayed(&retry)
    };
    statuses.into_iter().filter(is_kept).collect()
}

#[test]
fn each_preset_keeps_the_statuses_that_it_says() {
    let resume = [200, 201, 202, 204, 301, 303, 400, 402, 404, 409, 410, 422];
    assert_eq!(kept_statuses(Preset::Resume), resume);
    let all = [200, 201, 202, 204, 301, 303, 400, 401, 402, 403, 404, 408, 409, 410, 422, 425, 429, 500, 503, 504];
    assert_eq!(kept_statuses(Preset::StoreAll), all);
    assert_eq!(kept_statuses(Preset::SuccessOnly), [200, 201, 202, 204]);
}

#[test]
fn a_closure_decides_by_the_head_of_an_answer() {
    let store = store();
    let layer =
        layer(&store).keep_by(|head| if head.headers.contains_key("x-final") { Keep::Answer } else { Keep::Nothing });
    let routes = Router::new()
        .route("/final", post(|State(runs): State<Runs>| async move { ([("x-final", "1")], runs.next().to_string()) }))
        .route("/not-yet", post(|State(runs): State<Runs>| async move { runs.next().to_string() }))
        .with_state(Runs::default());
    let server = serve(store, layer, routes);
    assert_eq!([(); 2].map(|()| text(&server.post("/not-yet", "a", ""))), ["1", "2"]);
    assert_eq!([(); 2].map(|()| text(&server.post("/final", "b", ""))), ["3", "3"]);
}

#[test]
fn a_handler_decides_for_its_own_answer() {
    let store = store();
    let layer = layer(&store);
    let routes =
        Router::new()
            .route("/nothing", post(|State(runs): State<Runs>| async move { (Keep::Nothing, runs.next().to_string()) }))
            .route(
                "/answer",
                post(|State(runs): State<Runs>| async move {
                    (StatusCode::BAD_GATEWAY, Keep::Answer, runs.next().to_string())
                }),
            )
            .route("/ended", post(|| async { (Keep::Ended, "said once") }))
            .route("/whole", post(|| async { (Extension(Keep::WholeAnswer), streamed(3)) }))
            .route("/announced", post(|| async { ([("content-length", "24")], streamed(3)) }))
            .with_state(Runs::default());
    let server = serve(store, layer, routes);
    assert_eq!([(); 2].map(|()| text(&server.post("/nothing", "a", ""))), ["1", "2"]);
    assert_eq!([(); 2].map(|()| text(&server.post("/answer", "b", ""))), ["3", "3"]);
    assert_eq!(text(&server.post("/ended", "c", "")), "said once");
    assert_eq!(code(&server.post("/ended", "c", "")), "replay_unavailable");
    let whole = [(); 2].map(|()| server.post("/whole", "d", ""));
    assert_eq!(whole.each_ref().map(text), ["chunk 0;chunk 1;chunk 2;"; 2]);
    assert!(is_replayed(&whole[1]));
    let announced = [(); 2].map(|()| server.post("/announced", "e", ""));
    assert_eq!(announced.each_ref().map(text), ["chunk 0;chunk 1;chunk 2;"; 2]);
    assert!(is_replayed(&announced[1]), "its length is known by its header");
    assert_eq!(server.handle.stats().not_captured, 1);
}

/// One byte more than is kept is passed on whole, and never done again.
#[test]
fn an_answer_over_the_limit_is_given_once_and_never_a_second_run() {
    let store = store();
    let layer = layer(&store).response_bytes_max(1_000);
    let runs = Runs::default();
    let sized = |State(runs): State<Runs>, Path(bytes): Path<usize>| async move {
        runs.next();
        "x".repeat(bytes)
    };
    let routes = Router::new()
        .route("/sized/{bytes}", post(sized))
        .route("/streamed", post(|| async { (Keep::WholeAnswer, streamed(500)) }))
        .with_state(runs.clone());
    let server = serve(store, layer, routes);
    assert_eq!([(); 2].map(|()| server.post("/sized/1000", "a", "").body.len()), [1_000, 1_000]);
    assert_eq!(server.post("/sized/1001", "b", "").body.len(), 1_001);
    for _ in 0..2 {
        let retry = server.post("/sized/1001", "b", "");
        assert_eq!((retry.status, code(&retry).as_str()), (409, "replay_unavailable"));
        assert_eq!(retry.header("retry-after"), None, "it will never be there");
    }
    let streamed = text(&server.post("/streamed", "c", ""));
    assert!(streamed.starts_with("chunk 0;chunk 1;") && streamed.ends_with("chunk 499;"), "what was read comes first");
    assert_eq!(code(&server.post("/streamed", "c", "")), "replay_unavailable");
    assert_eq!(runs.count(), 2);
}

/// With the defaults, and where the store's own limit on payloads is smaller than the layer's: a body of the largest
/// size is kept with its headers.
#[test]
fn an_answer_that_is_too_large_for_the_store_is_given_once_too() {
    let mebibyte = 1024 * 1024;
    for (store, most) in [(store(), mebibyte), (Store::builder().payload_bytes_max(10).in_memory().unwrap(), 10)] {
        let sized = |Path(bytes): Path<usize>| async move { "x".repeat(bytes) };
        let layer = layer(&store);
        let server = serve(store, layer, Router::new().route("/sized/{bytes}", post(sized)));
        for (bytes, is_kept) in [(most - 1, true), (most, true), (most + 1, false)] {
            let (target, key) = (format!("/sized/{bytes}"), bytes.to_string());
            assert_eq!(server.post(&target, &key, "").body.len(), bytes);
            let retry = server.post(&target, &key, "");
            assert_eq!(is_replayed(&retry), is_kept, "{bytes}");
            assert_eq!(retry.body.len() == bytes, is_kept);
        }
        server.store.verify().unwrap();
    }
}
