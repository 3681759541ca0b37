//! Each setting does what it says, and changes nothing else.

use std::future::ready;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, Method};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::post;
use reentry::http::{IdempotencyLayer, Idempotent, Keep, Preset};
use reentry::testing::conformance::WireRequest;
use reentry::{Fingerprint, Store};

use crate::server::{Runs, Server, code, is_replayed, principal, request, serve, serve_guarded, store, text};

fn layer(store: &Store) -> IdempotencyLayer {
    IdempotencyLayer::new(store).scope(principal)
}

async fn counted(State(runs): State<Runs>) -> String {
    runs.next().to_string()
}

fn counting(configure: impl FnOnce(IdempotencyLayer) -> IdempotencyLayer) -> Server {
    let store = store();
    let layer = configure(layer(&store));
    let routes = Router::new().route("/orders", post(counted).put(counted).patch(counted)).with_state(Runs::default());
    serve(store, layer, routes)
}

/// Whether a second copy is answered from the first.
fn is_kept(server: &Server, request: &WireRequest) -> bool {
    server.send(request);
    is_replayed(&server.send(request))
}

#[test]
fn the_header_and_the_methods_are_the_servers_choice() {
    let server = counting(|layer| {
        layer.header(HeaderName::from_static("paypal-request-id")).methods([Method::PUT, Method::POST])
    });
    let mut ours = request("ada", "/orders", "k", "");
    assert!(!is_kept(&server, &ours), "the header has another name");
    ours.headers.push(("PayPal-Request-Id".to_owned(), b"k".to_vec()));
    assert!(is_kept(&server, &ours));
    ours.method = "PUT";
    assert_eq!(server.send(&ours).status, 422, "another method is another request");
    ours.headers.push(("paypal-request-id".to_owned(), b"k2".to_vec()));
    assert_eq!(code(&server.send(&ours)), "key_malformed");
    let mut patch = request("ada", "/orders", "", "");
    patch.method = "PATCH";
    patch.headers.push(("paypal-request-id".to_owned(), b"k3".to_vec()));
    assert!(!is_kept(&server, &patch));
}

#[test]
fn what_makes_two_requests_the_same_is_the_servers_choice() {
    let version = |version: &str, body: &str| {
        let mut request = request("ada", "/orders", "k", body);
        request.headers.push(("x-version".to_owned(), version.as_bytes().to_vec()));
        request
    };
    let server = counting(|layer| layer.fingerprint_headers([HeaderName::from_static("x-version")]));
    server.send(&version("1", ""));
    assert_eq!(server.send(&version("2", "")).status, 422);
    assert!(is_replayed(&server.send(&version("1", ""))));
    let server = counting(|layer| layer.fingerprint(|_, body| Fingerprint::of(body.to_ascii_lowercase())));
    server.send(&version("1", "Two Pizzas"));
    assert!(is_replayed(&server.send(&version("2", "two pizzas"))));
    assert_eq!(server.send(&version("1", "three pizzas")).status, 422);
}

/// Nested routers take the prefix from the path, so that two services see the same one.
#[test]
fn p5_layers_with_names_of_their_own_tell_their_services_apart() {
    let orders = |what: &'static str| Router::new().route("/orders", post(move || ready(what)));
    let nested = |pizza: Router, pasta: Router| Router::new().nest("/pizza", pizza).nest("/pasta", pasta);
    let one = store();
    let named = |what| orders(what).layer(layer(&one).named(what));
    let named = serve_guarded(one.clone(), layer(&one).handle(), nested(named("pizza"), named("pasta")));
    assert_eq!(text(&named.post("/pizza/orders", "k", "")), "pizza");
    assert_eq!(named.post("/pasta/orders", "k", "").status, 422, "a key belongs to one request");
    let one = store();
    let outside = serve(one.clone(), layer(&one), nested(orders("pizza"), orders("pasta")));
    assert_eq!(text(&outside.post("/pizza/orders", "k", "")), "pizza");
    assert_eq!(outside.post("/pasta/orders", "k", "").status, 422, "one layer around both sees the whole path");
}

/// One durable wait less: the claim is written with the outcome.
#[test]
fn a_deferred_claim_is_written_with_its_outcome() {
    for (is_deferred, keeps_requests, expected) in [(false, false, 2), (true, false, 1), (true, true, 1)] {
        let deferred = |layer: IdempotencyLayer| if is_deferred { layer.deferred() } else { layer };
        let server = counting(|layer| if keeps_requests { deferred(layer).keep_requests() } else { deferred(layer) });
        let before = server.store.stats().unwrap().changes;
        assert!(is_kept(&server, &request("ada", "/orders", "k", "")));
        assert_eq!(server.store.stats().unwrap().changes - before, expected);
    }
}

/// A layer between ours and the handler gets the run too, and gives it back.
#[test]
fn a_layer_inside_may_look_at_the_run_before_the_handler_has_it() {
    async fn looks(request: Request, next: Next) -> Response {
        let attempt = Idempotent::of(request.extensions()).map_or(0, |Idempotent(run)| run.attempt());
        let mut response = next.run(request).await;
        response.headers_mut().insert("x-attempt", attempt.into());
        response
    }
    let store = store();
    let layer = layer(&store);
    let handler = |Idempotent(run): Idempotent| async move { run.attempt().to_string() };
    let server = serve(store, layer, Router::new().route("/orders", post(handler)).layer(from_fn(looks)));
    let answer = server.post("/orders", "k", "");
    assert_eq!((answer.header("x-attempt"), text(&answer).as_str()), (Some(&b"1"[..]), "1"));
}

/// A single tenant needs nobody's name, and says so.
#[test]
fn a_layer_for_one_tenant_asks_for_no_principal() {
    let store = store();
    let layer = IdempotencyLayer::new(&store).single_tenant();
    let described = layer.describe();
    let server = serve(store, layer, Router::new().route("/orders", post(counted)).with_state(Runs::default()));
    assert!(described.contains("All clients share keys"));
    assert_eq!(text(&server.send(&request("nobody", "/orders", "k", ""))), "1");
    assert!(is_replayed(&server.send(&request("ada", "/orders", "k", ""))));
}

/// What is published follows from what the layer was told.
#[test]
fn every_setting_is_published() {
    let store = store();
    let told = |configure: fn(IdempotencyLayer) -> IdempotencyLayer| configure(layer(&store)).describe();
    let spans = [(500, "500 ms"), (1_500, "1500 ms"), (45_000, "45 s"), (600_000, "10 min"), (18_000_000, "5 h")];
    for (span, shown) in spans {
        let text = layer(&store).wait_for_busy(Duration::from_millis(span)).describe();
        assert!(text.contains(&format!("waits up to {shown}, and then gets 409")), "{text}");
    }
    let text = told(|layer| layer.retention(Duration::from_millis(86_400_001)));
    assert!(text.contains("for 86400001 ms after"), "{text}");
    let text = told(|layer| layer.keep(Preset::StoreAll).fingerprint(|_, body| Fingerprint::of(body)));
    assert!(text.contains("every answer, whatever its status"), "{text}");
    assert!(text.contains("the parts that this service documents"), "{text}");
    let text = told(|layer| layer.keep(Preset::SuccessOnly).fingerprint_headers([HeaderName::from_static("x-tenant")]));
    assert!(text.contains("every answer with a status of 2xx"), "{text}");
    assert!(text.contains("the header `x-tenant`") && !text.contains("the header `content-type`"), "{text}");
    let text = told(|layer| layer.keep_by(|_| Keep::Answer).keep_header(HeaderName::from_static("x-price")));
    assert!(text.contains("what this service documents") && text.contains("`x-price`"), "{text}");
    let text = IdempotencyLayer::new(&store).single_tenant().describe();
    assert!(!text.contains("for each principal"), "{text}");
}

#[test]
fn a_layer_shows_its_settings_and_nothing_that_is_kept() {
    let store = store();
    drop(store.claim(&reentry::Key::new("ada", "a secret").unwrap(), Fingerprint::of("")).wait().unwrap());
    let layer = layer(&store).named("payments").strict();
    let service = tower::Layer::layer(&layer, "the service inside");
    for shown in [format!("{layer:?}"), format!("{service:?}")] {
        assert!(shown.contains("payments") && shown.contains("Strict") && !shown.contains("secret"), "{shown}");
    }
    assert!(format!("{service:?}").contains("the service inside"));
}
