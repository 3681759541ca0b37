//! A client that retries: one key over all tries, `Retry-After` honoured, and an end where retrying cannot help.
//!
//! `cargo run --example retrying_client` starts a server that breaks in four ways, and orders from it. **Copy
//! `Retrying`**; the rest is there to be broken.

#![allow(clippy::print_stdout, reason = "a program for a terminal")]

use std::error::Error;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use reentry::Store;
use reentry::http::{IdempotencyLayer, Problem, ProblemCode};
use reqwest::header::RETRY_AFTER;
use reqwest::{Client, Response};
use tokio::net::TcpListener;

type Failure = Box<dyn Error + Send + Sync>;

/// A client of a service that takes keys.
#[derive(Debug, Clone)]
struct Retrying {
    client: Client,
    tries_max: u32,
    /// How long it waits where the server does not say; doubled with each try.
    pause: Duration,
    /// The longest it waits, whatever the server says.
    pause_max: Duration,
}

impl Retrying {
    /// Sends one operation until it has an answer. The key is made once: **keep it with the operation** if the client
    /// itself may die, and send it again when it comes back.
    async fn post(&self, url: &str, key: &str, body: &str) -> Result<Response, Failure> {
        let mut pause = self.pause;
        for nth in 1..=self.tries_max {
            let request = self.client.post(url).header("idempotency-key", format!("\"{key}\"")).body(body.to_owned());
            let wait = match request.send().await {
                Ok(answer) if !is_for_now(&answer) => return Ok(answer),
                Ok(answer) => {
                    println!("  try {nth}: {}", answer.status());
                    retry_after(&answer).unwrap_or(pause)
                }
                // Nobody knows whether the server did it. That is what the key is for.
                Err(error) => {
                    println!("  try {nth}: no answer, {error}");
                    pause
                }
            };
            tokio::time::sleep(wait.min(self.pause_max)).await;
            pause *= 2;
        }
        Err(format!("no answer after {} tries; the key is kept, so it may be tried again tomorrow", self.tries_max)
            .into())
    }
}

/// Whether the same request may be answered otherwise later. What the server calls wrong (400, 422 for a key that was
/// used for another request) never is; nor is a 409 without a time to come again.
fn is_for_now(answer: &Response) -> bool {
    match answer.status().as_u16() {
        409 => answer.headers().contains_key(RETRY_AFTER),
        408 | 425 | 429 => true,
        status => status >= 500,
    }
}

fn retry_after(answer: &Response) -> Option<Duration> {
    let seconds = answer.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// A key that nobody else has. A real client takes a UUID.
fn new_key() -> String {
    format!("{:016x}{:016x}", RandomState::new().hash_one("a key"), RandomState::new().hash_one("another half"))
}

/// How often the handler was entered.
type Tries = Arc<AtomicU32>;

/// Fails in another way each time, then does the work.
async fn order(State(tries): State<Tries>, body: String) -> Result<(StatusCode, String), Problem> {
    match tries.fetch_add(1, Ordering::SeqCst) {
        0 => Ok((StatusCode::BAD_GATEWAY, "the bank is down".to_owned())),
        1 => Err(ProblemCode::InDoubt.into()),
        2 => Ok((StatusCode::TOO_MANY_REQUESTS, "too fast".to_owned())),
        // What breaks the connection, as a crash would. Nothing is said about it in the terminal.
        3 => std::panic::resume_unwind(Box::new("the handler is killed")),
        _ => Ok((StatusCode::CREATED, format!("made: {body}"))),
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let store = Store::builder().in_memory()?;
    let tries = Tries::default();
    let layer = IdempotencyLayer::new(&store).single_tenant().required();
    let routes = Router::new().route("/orders", post(order)).layer(layer).with_state(Arc::clone(&tries));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/orders", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, routes).await });

    let (pause, pause_max) = (Duration::from_millis(10), Duration::from_millis(100));
    let client = Retrying { client: Client::new(), tries_max: 8, pause, pause_max };
    let key = new_key();
    println!("one order, sent until it is answered:");
    let made = client.post(&url, &key, "two pizzas").await?;
    println!("  {}", made.status());
    check(made.status() == StatusCode::CREATED && made.text().await? == "made: two pizzas", "the fifth try makes it")?;
    let again = client.post(&url, &key, "two pizzas").await?;
    check(again.headers().contains_key("idempotent-replayed"), "the same key gets the same answer")?;
    check(tries.load(Ordering::SeqCst) == 5, "and nothing is made again")?;
    println!("another order under the same key is not retried:");
    let refused = client.post(&url, &key, "three pizzas").await?;
    println!("  {}", refused.status());
    check(refused.status() == StatusCode::UNPROCESSABLE_ENTITY, "the client stops where retrying cannot help")
}

fn check(is_so: bool, what: &str) -> Result<(), Failure> {
    if is_so { Ok(()) } else { Err(format!("not so: {what}").into()) }
}
