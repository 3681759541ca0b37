//! The pizza server: `POST /orders` with an `Idempotency-Key`, and what its operator wants to know.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::{get, post};
use reentry::{Claim, EffectId, ErrorKind, Json, Key, Note, Progress, Request, Resolution, Resumer, Store};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::Result;
use crate::args::ServerOptions;
use crate::bank::Bank;
use crate::kitchen::{self, Ending, ORDERS, Shop};
use crate::ledger::Count;
use crate::mailer::Mailer;
use crate::order::{self, Charged, Order};
use crate::positions::{Position, Stops};
use crate::{process, resumer, web};

/// The header that marks an answer as the repetition of an earlier one.
pub(crate) const REPLAYED: &str = "idempotent-replayed";

/// What the server prints when a copy of a request begins to wait for the run at work.
pub(crate) const WAITS: &str = "a copy waits for the run at work";

/// How long a copy waits for the first, if the command line does not say.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a charge that was sent may still be on its way to the bank, if the command line does not say.
const SETTLES_WITHIN: Duration = Duration::from_secs(2);

/// How long requests may still take after Ctrl-C.
const GRACE: Duration = Duration::from_secs(2);

/// How long after an outcome's retention its key is still known to be used up.
const TOMBSTONES: Duration = Duration::from_secs(7 * 24 * 3600);

/// The largest order.
const BODY_BYTES_MAX: usize = 16 * 1024;

/// What every handler gets.
#[derive(Clone)]
struct Server {
    shop: Shop,
    patience: Duration,
    resumer: Option<Arc<Resumer>>,
}

/// Runs the server until its process ends.
pub(crate) async fn serve(options: ServerOptions) -> Result<()> {
    let (go_on, told) = watch::channel(false);
    process::follow_parent(options.with_parent, move || {
        go_on.send_replace(true);
    });
    let mut builder = Store::builder().tombstones(TOMBSTONES);
    if let Some(retention) = options.retention {
        builder = builder.retention(retention);
    }
    let shop = Shop {
        store: builder.open(options.data.join("orders.reentry"))?,
        bank: Bank::at(options.bank),
        mailer: Mailer::at(options.mailer),
        charging: options.charging,
        settles_within: options.settles_within.unwrap_or(SETTLES_WITHIN),
        stops: Stops::at(options.stop_at, told),
    };
    let store = shop.store.clone();
    let listener = web::listen(options.port).await?;
    let resumer = options.resume.then(|| resumer::start(shop.clone())).transpose()?.map(Arc::new);
    let server = Server { shop, patience: options.patience.unwrap_or(PATIENCE), resumer };
    let serving = axum::serve(listener, router(server)).with_graceful_shutdown(interrupted());
    tokio::select! {
        ended = serving => ended?,
        () = grace_is_over() => {}
    }
    // Orders that are still being made stay unfinished, as they would if the server were killed.
    Ok(store.close()?)
}

fn router(server: Server) -> Router {
    Router::new()
        .route("/orders", post(place_order))
        .route("/orders/{id}", get(order_row))
        .route("/progress/{customer}/{key}", get(progress))
        .route("/unfinished", get(unfinished))
        .route("/resolve/{customer}/{key}", post(resolve))
        .route("/counts/{customer}", get(counts))
        .with_state(server)
        .fallback(|| async { web::refused(StatusCode::NOT_FOUND, "no such page") })
        .method_not_allowed_fallback(|| async { web::refused(StatusCode::METHOD_NOT_ALLOWED, "not with this method") })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        // Without a handler Ctrl-C still ends the process, as every other way of dying does.
        std::future::pending::<()>().await;
    }
}

async fn grace_is_over() {
    interrupted().await;
    tokio::time::sleep(GRACE).await;
}

/// `POST /orders`: the order of `body`, once for each idempotency key.
async fn place_order(
    State(server): State<Server>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(error) => return web::refused(error.status(), &error.body_text()),
    };
    // A request that makes no sense is turned away before it claims anything.
    let key = match understand(&headers, &body) {
        Ok(key) => key,
        Err(error) => return web::refused(StatusCode::BAD_REQUEST, &error),
    };
    server.shop.stops.reach(Position::BeforeClaim).await;
    // The claim carries the body, so that the resumer can make the order without its client.
    match answer(&server, &key, Request::of(&body)).await {
        Ok(response) => response,
        Err(error) if is_in_doubt(&error) => {
            let why = format!("whether this order was charged is not known yet; ask again later: {error}");
            let body = json!({ "error": why, "in_doubt": true });
            with(web::reply(StatusCode::CONFLICT, &body), header::RETRY_AFTER, "1")
        }
        Err(error) => web::unavailable(&error),
    }
}

fn understand(headers: &HeaderMap, body: &Bytes) -> Result<Key> {
    let order: Order = serde_json::from_slice(body).map_err(|error| format!("not an order: {error}"))?;
    Ok(order::key(&order.customer, web::idempotency_key(headers)?)?)
}

/// Whether the order waits for somebody to find out what happened. Everything else mends itself.
fn is_in_doubt(error: &crate::Failure) -> bool {
    error.downcast_ref::<reentry::Error>().is_some_and(|error| error.kind() == ErrorKind::InDoubt)
}

/// Claims the key, and gives one answer for each thing that the claim can say.
async fn answer(server: &Server, key: &Key, request: Request) -> Result<Response> {
    let give_up = Instant::now() + server.patience;
    let mut claim = server.shop.store.claim(key, request).await?;
    loop {
        match claim {
            Claim::Run(run) => {
                // In a task of its own: when the client hangs up, its handler is dropped, but the order is made.
                let shop = server.shop.clone();
                let work = tokio::spawn(async move { kitchen::make(&shop, run).await });
                return Ok(first(work.await??));
            }
            Claim::Replay(outcome) => return Ok(replay(outcome.into())),
            Claim::Wait(busy) => {
                println!("{WAITS}");
                let since = busy.since();
                let Ok(next) = timeout_at(give_up, busy.outcome()).await else {
                    let body = json!({ "error": "this order is being made", "since_ms": since.as_millis() });
                    return Ok(with(web::reply(StatusCode::CONFLICT, &body), header::RETRY_AFTER, "1"));
                };
                // That run has ended: with an outcome to replay, or it gave way and the order is ours to finish.
                claim = next?;
            }
            Claim::Reject(_) => {
                let why = "this idempotency key was used for another order";
                return Ok(web::refused(StatusCode::UNPROCESSABLE_ENTITY, why));
            }
            Claim::Gone(gone) => {
                let why = "this order has ended, and its receipt is no longer kept";
                let body = json!({ "error": why, "ended_at_ms": gone.completed_at().as_millis() });
                return Ok(web::reply(StatusCode::GONE, &body));
            }
        }
    }
}

/// The answer to the request that got the order made.
fn first(ending: Ending) -> Response {
    let status = if ending.made { StatusCode::CREATED } else { StatusCode::PAYMENT_REQUIRED };
    web::raw(status, ending.body)
}

/// The answer to every later one: the same bytes, marked.
fn replay(ending: Ending) -> Response {
    with(first(ending), HeaderName::from_static(REPLAYED), "true")
}

fn with(mut response: Response, name: HeaderName, value: &'static str) -> Response {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
    response
}

/// `GET /orders/{id}`: the order of this id, from the server's own table. It is there once it has its outcome.
async fn order_row(State(server): State<Server>, Path(id): Path<EffectId>) -> Response {
    let row = server.shop.store.read(|tx| tx.open_table(ORDERS)?.get(id));
    match row.and_then(|row| row) {
        Ok(Some(row)) => web::raw(StatusCode::OK, row),
        Ok(None) => web::refused(StatusCode::NOT_FOUND, "no such order"),
        Err(error) => web::unavailable(&error),
    }
}

/// `GET /progress/{customer}/{key}`: how far an order got. Asking claims nothing and disturbs nobody.
async fn progress(State(server): State<Server>, Path((customer, key)): Path<(String, String)>) -> Response {
    let key = match order::key(&customer, &key) {
        Ok(key) => key,
        Err(error) => return web::refused(StatusCode::BAD_REQUEST, &error),
    };
    match server.shop.store.progress(&key) {
        Ok(Some(progress)) => web::reply(StatusCode::OK, &described(&progress)),
        Ok(None) => web::refused(StatusCode::NOT_FOUND, "no such order"),
        Err(error) => web::unavailable(&error),
    }
}

/// `GET /unfinished`: the orders that have no outcome yet, oldest first.
async fn unfinished(State(server): State<Server>) -> Response {
    const ORDERS_MAX: usize = 100;
    let found: reentry::Result<Vec<Progress>> = server.shop.store.unfinished().take(ORDERS_MAX).collect();
    match found {
        Ok(found) => web::reply(StatusCode::OK, &found.iter().map(described).collect()),
        Err(error) => web::unavailable(&error),
    }
}

/// What an operator found out about a charge that is in doubt, and how.
#[derive(Deserialize)]
struct Verdict {
    /// None where nothing was charged.
    charge_id: Option<String>,
    note: String,
}

/// `POST /resolve/{customer}/{key}`: says what became of the charge, for somebody who has found out. A real server
/// lets its operators in here and nobody else.
async fn resolve(
    State(server): State<Server>,
    Path((customer, key)): Path<(String, String)>,
    axum::Json(verdict): axum::Json<Verdict>,
) -> Response {
    let resolved = async {
        let resolution = match verdict.charge_id {
            Some(charge_id) => Resolution::happened(&Json(Charged::Paid { charge_id }))?,
            None => Resolution::DidNotHappen,
        };
        server.shop.store.resolve(&order::key(&customer, &key)?, "charge", resolution, &verdict.note).await
    };
    match resolved.await {
        Ok(()) => {
            server.resumer.iter().for_each(|resumer| resumer.wake());
            web::reply(StatusCode::OK, &json!({ "resolved": "the resumer, or the next retry, goes on" }))
        }
        Err(error) => web::refused(StatusCode::CONFLICT, &error),
    }
}

/// `GET /counts/{customer}`: the customer's rows in the server's own table.
async fn counts(State(server): State<Server>, Path(customer): Path<String>) -> Response {
    let counted = server.shop.store.read(|tx| -> Result<u32> {
        let mut rows = 0;
        for row in tx.open_table(ORDERS)?.range(..)? {
            rows += u32::from(serde_json::from_slice::<Order>(&row?.1)?.customer == customer);
        }
        Ok(rows)
    });
    match counted.map_err(Into::into).and_then(|counted| counted) {
        Ok(rows) => web::reply(StatusCode::OK, &json!(Count { done: rows, asked: rows })),
        Err(error) => web::unavailable(&error),
    }
}

fn described(progress: &Progress) -> Value {
    let steps = progress.steps().iter().map(|step| {
        json!({
            "name": step.name(),
            "state": step.state().to_string(),
            "effect_id": progress.effect_id(step.name()),
            "begun_at_ms": step.begun_at().as_millis(),
            "notes": step.notes().iter().map(Note::text).collect::<Vec<_>>(),
        })
    });
    json!({
        "scope": progress.key().scope(),
        "key": progress.key().key(),
        "state": progress.state().to_string(),
        "attempt": progress.attempt(),
        "since_ms": progress.since().as_millis(),
        "checkpoint": progress.checkpoint().map(|checkpoint| json!({
            "name": checkpoint.name(),
            "revision": checkpoint.revision().get(),
            "at_ms": checkpoint.at().as_millis(),
        })),
        "steps": steps.collect::<Vec<_>>(),
    })
}
