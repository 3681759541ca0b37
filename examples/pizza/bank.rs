//! The bank: a process of its own that takes money, and the server's way to reach it.

use std::net::SocketAddr;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::Result;
use crate::args::OutsideOptions;
use crate::ledger::{Ledger, Request};
use crate::order::Order;
use crate::process;
use crate::web::{self, Outside};

/// The dearest pizza that the bank pays for.
pub(crate) const CENTS_MAX: u64 = 100_000;

#[derive(Serialize, Deserialize)]
struct Charge {
    customer: String,
    cents: u64,
}

/// Runs the bank until its process ends.
pub(crate) async fn serve(options: OutsideOptions) -> Result<()> {
    process::follow_parent(options.with_parent, || {});
    let router = Router::new()
        .route("/charges", post(charge))
        .route("/counts/{customer}", get(web::counts))
        .with_state(Ledger::open(&options.data.join("bank.ledger"))?);
    web::serve_outside(options.port, router).await
}

/// Takes the money, once for each idempotency key. The charge is synced to the bank's own disk before it answers,
/// so a server that is killed at that moment cannot unsay it.
async fn charge(State(ledger): State<Ledger>, headers: HeaderMap, Json(wanted): Json<Charge>) -> Response {
    let id = match web::idempotency_key(&headers) {
        Ok(id) => id.to_owned(),
        Err(error) => return web::refused(StatusCode::BAD_REQUEST, &error),
    };
    let answer = json!({ "charge_id": format!("charge-{}", &id[..id.len().min(12)]), "cents": wanted.cents });
    let request = Request { id, customer: wanted.customer };
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

/// The bank as the server sees it.
#[derive(Clone)]
pub(crate) struct Bank(Outside);

/// What the bank says to a charge. That it cannot be reached is neither, but an error: ask again later.
pub(crate) enum Charged {
    Paid { charge_id: String },
    Declined { why: String },
}

impl Bank {
    pub(crate) fn at(address: SocketAddr) -> Self {
        Self(Outside::at(address, "/charges"))
    }

    /// Charges the customer of `order` under `id`: once, however often it is asked under that id.
    pub(crate) async fn charge(&self, id: &str, order: &Order) -> Result<Charged> {
        let wanted = Charge { customer: order.customer.clone(), cents: order.cents };
        let (status, body) =
            self.0.ask(id, &wanted).await.map_err(|error| format!("cannot reach the bank: {error}"))?;
        match (status, body["charge_id"].as_str()) {
            (StatusCode::OK, Some(charge_id)) => Ok(Charged::Paid { charge_id: charge_id.to_owned() }),
            (StatusCode::PAYMENT_REQUIRED, _) => {
                Ok(Charged::Declined { why: body["error"].as_str().unwrap_or("declined").to_owned() })
            }
            _ => Err(format!("the bank answered {status}: {body}").into()),
        }
    }
}
