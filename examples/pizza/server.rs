//! The pizza server: `POST /orders` with an `Idempotency-Key`, and what its operator wants to know.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use reentry::http::{IdempotencyLayer, Idempotent, Problem, ProblemCode};
use reentry::{EffectId, Json, Note, Outcome, Progress, Resolution, Resumer, Store};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::Result;
use crate::args::ServerOptions;
use crate::bank::Bank;
use crate::kitchen::{self, ORDERS, Shop};
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

/// How soon the demonstration looks again for copies that wait.
const LOOKS_AGAIN: Duration = Duration::from_millis(1);

/// Who sends a request.
#[derive(Clone)]
struct Customer(String);

/// What every handler gets.
#[derive(Clone)]
struct Server {
    shop: Shop,
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
    let idempotency = idempotency(&shop, options.patience.unwrap_or(PATIENCE));
    let at_work = idempotency.handle();
    if options.stop_at.is_some() {
        tokio::spawn(tell_of_copies(store.clone()));
    }
    let serving = axum::serve(listener, router(Server { shop, resumer }, idempotency));
    let serving = async {
        serving.with_graceful_shutdown(interrupted()).await?;
        // Orders whose clients have hung up may still be made.
        at_work.idle().await;
        Ok::<_, io::Error>(())
    };
    tokio::select! {
        ended = serving => ended?,
        () = grace_is_over() => {}
    }
    // Orders that are still being made stay unfinished, as they would if the server were killed.
    Ok(store.close()?)
}

fn router(server: Server, idempotency: IdempotencyLayer) -> Router {
    Router::new()
        .route("/orders", post(place_order))
        .layer(idempotency)
        .layer(from_fn_with_state(server.clone(), authenticate))
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

/// The layer that gives every order one answer.
fn idempotency(shop: &Shop, patience: Duration) -> IdempotencyLayer {
    IdempotencyLayer::new(&shop.store)
        .scope(|request: &Parts| request.extensions.get::<Customer>().map(|Customer(name)| order::scope(name)))
        .required()
        .request_bytes_max(BODY_BYTES_MAX)
        .wait_for_busy(patience)
        // The claim carries the body, so that the resumer can make the order without its client.
        .keep_requests()
        .render(answer)
        .on_failure(|_, error| println!("the store failed: {error}"))
}

/// Who sends a request. Stands for real authentication: it believes what the request says.
async fn authenticate(State(server): State<Server>, mut request: Request, next: Next) -> Response {
    let told = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let Some(name) = told.and_then(|told| told.strip_prefix("Bearer ")).map(str::to_owned) else {
        return web::refused(StatusCode::UNAUTHORIZED, "say who you are: Authorization: Bearer NAME");
    };
    request.extensions_mut().insert(Customer(name));
    server.shop.stops.reach(Position::BeforeClaim).await;
    next.run(request).await
}

/// `POST /orders`, once for each idempotency key: the layer has claimed it, and gives every copy of the request what
/// this run ends with.
async fn place_order(
    State(server): State<Server>,
    Idempotent(mut run): Idempotent,
    axum::Json(order): axum::Json<Order>,
) -> Result<StatusCode, Problem> {
    if order::scope(&order.customer) != run.key().scope() {
        return Ok(StatusCode::FORBIDDEN);
    }
    match kitchen::make(&server.shop, &mut run).await {
        // The layer answers with the outcome, the first client as every later one.
        Ok(_) => Ok(StatusCode::OK),
        // Where a step is in doubt the client is told so. Everything else mends itself.
        Err(error) => Err(error.downcast::<reentry::Error>().map_or(ProblemCode::Unavailable.into(), |e| (*e).into())),
    }
}

/// The answer that an outcome is: a receipt, or a refusal.
fn answer(outcome: &Outcome) -> Option<http::Response<Bytes>> {
    let status = if outcome.is_success() { StatusCode::CREATED } else { StatusCode::PAYMENT_REQUIRED };
    let response = http::Response::builder().status(status).header(header::CONTENT_TYPE, "application/json");
    response.body(Bytes::copy_from_slice(outcome.bytes())).ok()
}

/// Only for the demonstration: says so when a copy of a request begins to wait for the run at work.
async fn tell_of_copies(store: Store) {
    let mut waiting = 0;
    while let Ok(stats) = store.stats() {
        (waiting..stats.waiting).for_each(|_| println!("{WAITS}"));
        waiting = stats.waiting;
        tokio::time::sleep(LOOKS_AGAIN).await;
    }
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
