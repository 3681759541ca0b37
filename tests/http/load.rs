//! Many retries of many keys at once.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use reentry::http::{IdempotencyLayer, Idempotent};
use reentry::{Failure, Store};
use tokio::sync::Semaphore;

use crate::server::{Runs, principal, serve};

const KEYS: usize = 1_000;
const RETRIES: usize = 10;
/// Requests under way at a time.
const AT_ONCE: usize = 64;

/// Does one effect, and fails in the first run of every third key.
async fn order(
    State(effects): State<Runs>,
    Idempotent(mut run): Idempotent,
    body: String,
) -> Result<(StatusCode, String), reentry::http::Problem> {
    let effect = run.step("effect").run_keyed_async(async |_| Ok::<_, Failure>(effects.next().to_string())).await?;
    let is_unlucky = run.attempt() == 1 && body.len().is_multiple_of(3);
    let status = if is_unlucky { StatusCode::BAD_GATEWAY } else { StatusCode::CREATED };
    Ok((status, format!("{body} {effect}")))
}

#[test]
fn p1_p5_ten_thousand_retries_of_a_thousand_keys_get_a_thousand_answers() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("orders.reentry")).unwrap();
    let effects = Runs::default();
    let layer = IdempotencyLayer::new(&store).scope(principal);
    let server = serve(store, layer, Router::new().route("/orders", post(order)).with_state(effects.clone()));
    let (client, url) = (reqwest::Client::new(), format!("http://{}/orders", server.address));
    let at_once = Arc::new(Semaphore::new(AT_ONCE));
    let tasks: Vec<_> = (0..KEYS * RETRIES)
        .map(|nth| {
            let (client, url, at_once) = (client.clone(), url.clone(), Arc::clone(&at_once));
            server.runtime.spawn(async move {
                let _permit = at_once.acquire().await.unwrap();
                // Copies of a key come close to each other, so that many of them meet.
                let key = nth / RETRIES;
                loop {
                    let body = format!("order {}", "x".repeat(key % 7));
                    let sent = client.post(&url).header("authorization", "ada").body(body);
                    let answer = sent.header("idempotency-key", key.to_string()).send().await.unwrap();
                    match answer.status().as_u16() {
                        201 => return (key, answer.text().await.unwrap()),
                        409 | 502 => tokio::task::yield_now().await,
                        other => panic!("{other} is no answer to a retry"),
                    }
                }
            })
        })
        .collect();
    let mut answers: HashMap<usize, String> = HashMap::new();
    for task in tasks {
        let (key, answer) = server.runtime.block_on(task).unwrap();
        assert_eq!(answers.entry(key).or_insert_with(|| answer.clone()), &answer, "one key got two answers");
    }
    assert_eq!((answers.len(), effects.count()), (KEYS, KEYS as u64));
    let stats = server.store.stats().unwrap();
    assert_eq!((stats.operations, stats.unfinished, stats.owned), (KEYS as u64, 0, 0));
    server.store.verify().unwrap();
}
