//! The bank: a process of its own that takes money, and the server's way to reach it.

use std::net::SocketAddr;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use reentry::{EffectId, Failure, not_applied};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::watch;

use crate::Result;
use crate::args::BankOptions;
use crate::ledger::{Ledger, Repeats, Request};
use crate::order::{Charged, Order};
use crate::process;
use crate::web::{self, Outside};

/// The dearest pizza that the bank pays for.
pub(crate) const CENTS_MAX: u64 = 100_000;

/// What the bank prints when a charge that it holds is there, and when it has made it.
pub(crate) const HELD: &str = "a charge is on its way";
pub(crate) const MADE: &str = "the charge is made";

#[derive(Clone)]
struct Desk {
    ledger: Ledger,
    /// Only for the demonstration: whose charges wait until the parent says "go on".
    holds: Option<String>,
    go_on: watch::Receiver<bool>,
}

#[derive(Serialize, Deserialize)]
struct Charge {
    customer: String,
    cents: u64,
}

/// Runs the bank until its process ends.
pub(crate) async fn serve(options: BankOptions) -> Result<()> {
    let (go_on, told) = watch::channel(false);
    process::follow_parent(options.outside.with_parent, move || {
        go_on.send_replace(true);
    });
    let repeats = if options.charges_again { Repeats::DoneAgain } else { Repeats::Answered };
    let ledger = Ledger::open(&options.outside.data.join(format!("{}.ledger", options.name())), repeats)?;
    let router = Router::new()
        .route("/charges/{id}", get(find))
        .route("/counts/{customer}", get(web::counts))
        .with_state(ledger.clone())
        .route("/charges", post(charge).with_state(Desk { ledger, holds: options.holds, go_on: told }));
    web::serve_outside(options.outside.port, router).await
}

/// Takes the money: once for each idempotency key, or, in the variant that does not deduplicate, as often as it is
/// asked. The charge is synced to the bank's own disk before it answers, so a server that is killed at that moment
/// cannot unsay it.
async fn charge(State(desk): State<Desk>, headers: HeaderMap, Json(wanted): Json<Charge>) -> Response {
    let id = match web::idempotency_key(&headers) {
        Ok(id) => id.to_owned(),
        Err(error) => return web::refused(StatusCode::BAD_REQUEST, &error),
    };
    let answer = json!({ "charge_id": format!("charge-{}", &id[..id.len().min(12)]), "cents": wanted.cents });
    let request = Request { id, customer: wanted.customer };
    if desk.holds.as_ref() == Some(&request.customer) {
        // In a task of its own: what was sent arrives, whether or not its sender still lives.
        let charging = tokio::spawn(charge_later(desk, request, answer.to_string()));
        return charging.await.unwrap_or_else(|error| web::unavailable(&error));
    }
    let ledger = desk.ledger;
    if wanted.cents > CENTS_MAX {
        return match ledger.refuse(request).await {
            Ok(()) => web::refused(StatusCode::PAYMENT_REQUIRED, &format!("no more than {CENTS_MAX} cents a pizza")),
            Err(error) => web::unavailable(&error),
        };
    }
    match ledger.perform(request, answer.to_string()).await {
        Ok(answer) => web::raw(StatusCode::OK, answer.into_bytes()),
        Err(error) => web::unavailable(&error),
    }
}

/// Takes the money when the parent says so.
async fn charge_later(mut desk: Desk, request: Request, answer: String) -> Response {
    println!("{HELD}");
    let charged = async {
        desk.go_on.wait_for(|go_on| *go_on).await?;
        desk.ledger.perform(request, answer).await
    };
    match charged.await {
        Ok(answer) => {
            println!("{MADE}");
            web::raw(StatusCode::OK, answer.into_bytes())
        }
        Err(error) => web::unavailable(&error),
    }
}

/// Tells what became of the charge of this id.
async fn find(State(ledger): State<Ledger>, Path(id): Path<String>) -> Response {
    match ledger.answer(&id) {
        Ok(Some(answer)) => web::raw(StatusCode::OK, answer.into_bytes()),
        Ok(None) => web::refused(StatusCode::NOT_FOUND, "no such charge"),
        Err(error) => web::unavailable(&error),
    }
}

/// The bank as the server sees it.
#[derive(Clone)]
pub(crate) struct Bank(Outside);

impl Bank {
    pub(crate) fn at(address: SocketAddr) -> Self {
        Self(Outside::at(address, "/charges"))
    }

    /// Charges the customer of `order`, under this id.
    ///
    /// Only an error that came before anything was sent says that nothing happened. After any other, a time-out say,
    /// nobody knows.
    pub(crate) async fn charge(&self, id: EffectId, order: &Order) -> Result<Charged, Failure> {
        let wanted = Charge { customer: order.customer.clone(), cents: order.cents };
        let unreached = |error: reqwest::Error| if error.is_connect() { not_applied(error) } else { error.into() };
        let (status, body) = self.0.ask(&id.to_string(), &wanted).await.map_err(unreached)?;
        match (status, body["charge_id"].as_str()) {
            (StatusCode::OK, Some(charge_id)) => Ok(Charged::Paid { charge_id: charge_id.to_owned() }),
            (StatusCode::PAYMENT_REQUIRED, _) => {
                Ok(Charged::Declined { why: body["error"].as_str().unwrap_or("declined").to_owned() })
            }
            _ => Err(format!("the bank answered {status}: {body}").into()),
        }
    }

    /// Asks the bank whether it charged anything under this id.
    pub(crate) async fn find(&self, id: EffectId) -> Result<Option<Charged>> {
        let (status, body) =
            self.0.look(&id.to_string()).await.map_err(|error| format!("cannot reach the bank: {error}"))?;
        match (status, body["charge_id"].as_str()) {
            (StatusCode::OK, Some(charge_id)) => Ok(Some(Charged::Paid { charge_id: charge_id.to_owned() })),
            (StatusCode::NOT_FOUND, _) => Ok(None),
            _ => Err(format!("the bank answered {status}: {body}").into()),
        }
    }
}
