//! A small API on axum whose every order is made once, whatever its clients and the network do.
//!
//! ```text
//! cargo run --example axum_checkout            plays it through, and fails where anything is not as it says here
//! cargo run --example axum_checkout -- serve   the same server on 127.0.0.1:3000, to try by hand with curl; a path
//!                                              behind it is where it keeps its orders
//! ```
//!
//! From the outside to the inside: authentication, which says who the client is; the layer of idempotency, which keeps
//! that client's keys; the handler, which charges and mails in steps and ends the order in one commit with the row of
//! the server's own table. What traces or compresses goes outside of all of these, and so does a limit on rates.

#![allow(clippy::print_stdout, reason = "a program for a terminal")]

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use reentry::http::{IdempotencyLayer, Idempotent, LayerHandle, Problem, StoredResponse};
use reentry::{EffectId, Store, Table};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;

type Failure = Box<dyn Error + Send + Sync>;

/// The server's own table, in the same file: the order's id, and what was ordered.
const ORDERS: Table = Table::new("orders");

/// How long an answer is kept, counted from its order: longer than any client retries.
const RETENTION: Duration = Duration::from_secs(24 * 60 * 60);

/// How long requests may still take when the server is to stop.
const GRACE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Order {
    pizza: String,
    cents: u64,
}

/// A row of the table: an order, and whose it is.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    principal: String,
    order: Order,
}

/// Who a client is.
#[derive(Debug, Clone)]
struct Principal(String);

/// What every handler gets; clones share it.
#[derive(Clone)]
struct Shop {
    store: Store,
    world: World,
}

/// The routes, with everything around them.
fn routes(store: &Store, world: World) -> (Router, Arc<LayerHandle>) {
    let idempotency = IdempotencyLayer::new(store)
        .scope(|request: &Parts| request.extensions.get::<Principal>().map(|principal| principal.0.clone()))
        .required()
        .retention(RETENTION)
        .documentation("http://127.0.0.1:3000/idempotency");
    let (described, handle) = (idempotency.describe(), idempotency.handle());
    let routes = Router::new()
        .route("/checkout", post(checkout))
        .layer(idempotency)
        .route("/orders/{id}", get(order))
        .layer(from_fn(authenticate))
        .route("/idempotency", get(|| async { described }))
        .with_state(Shop { store: store.clone(), world });
    (routes, handle)
}

/// Stands for real authentication: the token names its principal.
async fn authenticate(mut request: Request, next: Next) -> Response {
    let token = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let Some(name) = token.and_then(|token| token.strip_prefix("Bearer ")).map(str::to_owned) else {
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")]).into_response();
    };
    request.extensions_mut().insert(Principal(name));
    next.run(request).await
}

/// `POST /checkout`. A retry enters it again where the last run stopped: what was charged is not charged again.
async fn checkout(
    State(shop): State<Shop>,
    Idempotent(mut run): Idempotent,
    Json(order): Json<Order>,
) -> Result<StoredResponse, Problem> {
    let find = async |id| shop.world.find(id);
    let charge = async |id| shop.world.charge(id, order.cents);
    let receipt = run.step("charge").recheck_async(find).run_async(charge).await?;
    run.advance("charged", &receipt).await?;
    run.step("mail").run_keyed_async(async |id| shop.world.mail(id)).await?;

    let id = run.effect_id("order");
    let body = json!({ "order": id, "receipt": receipt, "pizza": order.pizza }).to_string();
    let answer = StoredResponse::new(StatusCode::CREATED, body)
        .header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let row = json!(Row { principal: run.key().scope().to_owned(), order }).to_string();
    run.complete_with(&answer, move |tx| {
        tx.open_table(ORDERS)?.insert(id, &row)?;
        Ok(())
    })
    .await?;
    Ok(answer)
}

/// `GET /orders/{id}`, from the server's own table, for whoever ordered it.
async fn order(
    State(shop): State<Shop>,
    Extension(Principal(name)): Extension<Principal>,
    Path(id): Path<EffectId>,
) -> Result<Json<Order>, StatusCode> {
    let row = shop.store.read(|tx| tx.open_table(ORDERS)?.get(id)).and_then(|row| row);
    let row = row.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?.ok_or(StatusCode::NOT_FOUND)?;
    let row: Row = serde_json::from_slice(&row).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    if row.principal == name { Ok(Json(row.order)) } else { Err(StatusCode::NOT_FOUND) }
}

/// Stands for the bank, which can be asked by the id that it was given, and for the mailer, which sends one mail for
/// each id.
#[derive(Debug, Clone, Default)]
struct World(Arc<Mutex<Done>>);

#[derive(Debug, Default)]
struct Done {
    charges: HashMap<EffectId, u64>,
    mails: HashSet<EffectId>,
    /// The bank's answer to the next charge gets lost.
    loses_an_answer: bool,
}

impl World {
    fn charge(&self, id: EffectId, cents: u64) -> Result<String, Failure> {
        let mut done = self.0.lock().map_err(|_| "the bank is closed")?;
        done.charges.insert(id, cents);
        let is_lost = std::mem::take(&mut done.loses_an_answer);
        if is_lost { Err("the bank was charged, and its answer got lost".into()) } else { Ok(receipt(id)) }
    }

    fn find(&self, id: EffectId) -> Result<Option<String>, Failure> {
        Ok(self.0.lock().map_err(|_| "the bank is closed")?.charges.contains_key(&id).then(|| receipt(id)))
    }

    fn mail(&self, id: EffectId) -> Result<(), Failure> {
        self.0.lock().map_err(|_| "the mailer is closed")?.mails.insert(id);
        Ok(())
    }

    /// What was charged in all, and how many mails were sent.
    fn totals(&self) -> (u64, usize) {
        self.0.lock().map_or((0, 0), |done| (done.charges.values().sum(), done.mails.len()))
    }
}

fn receipt(id: EffectId) -> String {
    format!("receipt {id}")
}

/// Serves until it is told to stop; then lets what is under way end, and closes the store.
async fn serve(
    listener: TcpListener,
    store: &Store,
    world: World,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Failure> {
    let (routes, handle) = routes(store, world);
    axum::serve(listener, routes).with_graceful_shutdown(stop).await?;
    // Handlers whose clients are gone may still be at work. What is not done in time is done by the next retry.
    drop(tokio::time::timeout(GRACE, handle.idle()).await);
    Ok(store.close()?)
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let (folder, mut arguments) = (tempfile::tempdir()?, std::env::args().skip(1));
    let is_served = arguments.next().as_deref() == Some("serve");
    let store = Store::open(arguments.next().map_or_else(|| folder.path().join("orders.reentry"), Into::into))?;
    if is_served {
        let listener = TcpListener::bind("127.0.0.1:3000").await?;
        println!("try this twice, then with another pizza; Ctrl-C ends it:\n");
        println!(
            "curl -i http://127.0.0.1:3000/checkout -H 'Authorization: Bearer ada' -H 'Idempotency-Key: \"k1\"' \\"
        );
        println!("  --json '{{\"pizza\":\"margherita\",\"cents\":950}}'");
        let interrupted = async { drop(tokio::signal::ctrl_c().await) };
        return serve(listener, &store, World::default(), interrupted).await;
    }
    let (listener, world) = (TcpListener::bind("127.0.0.1:0").await?, World::default());
    world.0.lock().map_err(|_| "the bank is closed")?.loses_an_answer = true;
    let url = format!("http://{}", listener.local_addr()?);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let served = (store.clone(), world.clone());
    let serving =
        tokio::spawn(async move { serve(listener, &served.0, served.1, async { drop(stopped.await) }).await });
    play(&url, &world).await?;
    drop(stop);
    serving.await?
}

/// What a client sees: an answer that is not known yet, the order, its repetition, and a refusal.
async fn play(url: &str, world: &World) -> Result<(), Failure> {
    let client = reqwest::Client::new();
    let send = async |principal: &str, pizza: &str| -> Result<(u16, bool, Value), Failure> {
        let request = client.post(format!("{url}/checkout")).bearer_auth(principal).header("idempotency-key", "\"k1\"");
        let answer = request.json(&json!({ "pizza": pizza, "cents": 950 })).send().await?;
        let (status, is_replayed) = (answer.status().as_u16(), answer.headers().contains_key("idempotent-replayed"));
        let body = answer.json().await?;
        println!("{principal:<4} {pizza:<11} {status}{} {body}", if is_replayed { ", replayed" } else { "" });
        Ok((status, is_replayed, body))
    };
    let (status, _, body) = send("ada", "margherita").await?;
    check(status == 409 && body["code"] == "in_doubt", "the bank's answer got lost, so nobody knows")?;
    let (status, _, made) = send("ada", "margherita").await?;
    check(status == 201 && world.totals() == (950, 1), "the retry asks the bank, and charges nothing")?;
    let (status, is_replayed, again) = send("ada", "margherita").await?;
    check(status == 201 && is_replayed && again == made, "every later copy gets the same answer")?;
    let (status, _, body) = send("ada", "funghi").await?;
    check(status == 422 && body["code"] == "key_reused", "another order under the key is refused")?;
    let (status, is_replayed, other) = send("bob", "margherita").await?;
    check(status == 201 && !is_replayed && other != made, "bob's key is another one")?;
    check(world.totals() == (1_900, 2), "two orders were charged and mailed, each once")?;
    let url = format!("{url}/orders/{}", made["order"].as_str().unwrap_or_default());
    let row: Order = client.get(&url).bearer_auth("ada").send().await?.error_for_status()?.json().await?;
    check(row.pizza == "margherita", "the order's row was written in the same commit as the answer")?;
    check(client.get(&url).bearer_auth("bob").send().await?.status() == 404, "and is nobody else's")
}

fn check(is_so: bool, what: &str) -> Result<(), Failure> {
    if is_so { Ok(()) } else { Err(format!("not so: {what}").into()) }
}
