//! Nothing of one principal shows to another, and nothing that a client sends comes out where it does not belong.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse;
use axum::routing::post;
use reentry::http::IdempotencyLayer;

use crate::server::{Runs, Server, is_replayed, principal, request, serve, serve_guarded, store, text};

/// Answers with the secret of who asks.
async fn secret(State(runs): State<Runs>, headers: HeaderMap) -> String {
    let key = String::from_utf8_lossy(headers["idempotency-key"].as_bytes()).into_owned();
    format!("run {}: the secret of {} under {key}", runs.next(), headers["authorization"].to_str().unwrap())
}

fn secrets() -> Server {
    let store = store();
    let layer = IdempotencyLayer::new(&store).scope(principal);
    serve(store, layer, Router::new().route("/secret", post(secret)).with_state(Runs::default()))
}

/// What the second one gets is what a key that nobody ever had gets: same status, same headers, a run of its own.
#[test]
fn p9_a_key_of_another_principal_is_answered_as_one_that_nobody_had() {
    let server = secrets();
    server.send(&request("ada", "/secret", "k", "the body"));
    let fresh = server.send(&request("bob", "/secret", "nobodys", "the body"));
    for body in ["the body", "another"] {
        let taken = server.send(&request(&format!("bob-{body}"), "/secret", "k", body));
        let names = |answer: &reentry::testing::conformance::WireAnswer| {
            answer.headers.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        assert_eq!((taken.status, names(&taken)), (fresh.status, names(&fresh)));
        assert!(!is_replayed(&taken) && text(&taken).contains(&format!("bob-{body}")));
    }
    assert_eq!(text(&server.send(&request("ada", "/secret", "k", "the body"))), "run 1: the secret of ada under k");
}

/// What was kept is for whoever may ask for it now, so the layer stands within the authentication.
#[test]
fn p9_a_client_whose_token_was_revoked_gets_no_replay() {
    let (store, runs, revoked) = (store(), Runs::default(), Arc::new(AtomicBool::new(false)));
    let layer = IdempotencyLayer::new(&store).scope(principal);
    let (handle, is_revoked) = (layer.handle(), Arc::clone(&revoked));
    let routes = Router::new().route("/secret", post(secret)).with_state(runs.clone()).layer(layer);
    let checked = routes.layer(from_fn(move |request: Request, next: Next| {
        let is_ada = request.headers()["authorization"] == "ada";
        let is_refused = is_ada && is_revoked.load(Ordering::SeqCst);
        async move { if is_refused { StatusCode::UNAUTHORIZED.into_response() } else { next.run(request).await } }
    }));
    let server = serve_guarded(store, handle, checked);
    let ask = || server.send(&request("ada", "/secret", "k", "the body"));
    let first = ask();
    revoked.store(true, Ordering::SeqCst);
    let refused = ask();
    assert_eq!((refused.status, is_replayed(&refused)), (401, false));
    assert!(!text(&refused).contains("secret"));
    revoked.store(false, Ordering::SeqCst);
    let replayed = ask();
    assert!(is_replayed(&replayed) && replayed.body == first.body);
    assert_eq!(runs.count(), 1);
}

/// Time does not tell either: as much is written and waited for, by the same way, as for a key that nobody ever had.
#[test]
fn p9_a_key_of_another_principal_costs_what_a_key_that_nobody_had_costs() {
    let server = secrets();
    server.send(&request("ada", "/secret", "k", "the body"));
    let cost = |key: &str, body: &str| {
        let before = server.store.stats().unwrap();
        server.send(&request("bob", "/secret", key, body));
        let after = server.store.stats().unwrap();
        (after.changes - before.changes, after.commits - before.commits, after.operations - before.operations)
    };
    let fresh = cost("nobodys", "the body");
    assert_eq!(fresh, (2, 2, 1));
    assert_eq!(cost("k", "the body"), fresh);
}

/// Principals and keys between which every border can be moved: each pair has a secret of its own.
#[test]
fn p9_no_pair_of_principal_and_key_gets_the_secret_of_another() {
    let server = secrets();
    let names = ["a", "ab", "b", "a/b", "a-b", "1", "11", "A", "a%20b", "a:b", "a\\\\b", "\\\"a"];
    for round in 0..2 {
        for principal in names {
            for key in names {
                let answer = server.send(&request(principal, "/secret", &format!("\"{key}\""), ""));
                assert_eq!(is_replayed(&answer), round == 1, "{principal} {key}");
                let secret = format!("the secret of {principal} under \"{key}\"");
                assert!(text(&answer).ends_with(&secret), "{principal} {key}: {}", text(&answer));
            }
        }
    }
    assert_eq!(server.store.stats().unwrap().operations, (names.len() * names.len()) as u64);
}

#[test]
fn p9_no_answer_shows_a_key_and_no_key_makes_a_header() {
    let server = secrets();
    for line in [
        "k\r\nx-injected: yes",
        "\"k\r\nx-injected: yes\"",
        "k\nx-injected: yes",
        "k\rx-injected: yes",
        "k%0d%0ax-injected:%20yes",
        "\"<script>x-injected</script>",
        "${jndi:x-injected}, x",
        "\"x-injected\u{1b}[2J\"",
    ] {
        let mut connection = TcpStream::connect(server.address).unwrap();
        let head = format!(
            "POST /secret HTTP/1.1\r\nhost: here\r\nauthorization: ada\r\nconnection: close\r\ncontent-length: 0\r\n\
             idempotency-key: {line}\r\n\r\n"
        );
        connection.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        drop(connection.read_to_end(&mut answer));
        let answer = String::from_utf8_lossy(&answer).to_ascii_lowercase();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(!head.contains("injected"), "{line:?}: {answer}");
        let is_refused = head.starts_with("http/1.1 400");
        assert!(!is_refused || !body.contains("injected"), "{line:?}: {answer}");
    }
}
