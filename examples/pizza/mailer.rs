//! The mailer: a process of its own that sends mails, and the server's way to reach it.

use std::net::SocketAddr;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use reentry::EffectId;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::Result;
use crate::args::OutsideOptions;
use crate::ledger::{Ledger, Repeats, Request};
use crate::order::Order;
use crate::process;
use crate::web::{self, Outside};

#[derive(Serialize, Deserialize)]
struct Mail {
    customer: String,
    text: String,
}

/// Runs the mailer until its process ends.
pub(crate) async fn serve(options: OutsideOptions) -> Result<()> {
    process::follow_parent(options.with_parent, || {});
    let router = Router::new()
        .route("/mails", post(send))
        .route("/counts/{customer}", get(web::counts))
        .with_state(Ledger::open(&options.data.join("mailer.ledger"), Repeats::Answered)?);
    web::serve_outside(options.port, router).await
}

/// Sends a mail, once for each idempotency key; here that means: writes it down and syncs it.
async fn send(State(ledger): State<Ledger>, headers: HeaderMap, Json(mail): Json<Mail>) -> Response {
    let id = match web::idempotency_key(&headers) {
        Ok(id) => id.to_owned(),
        Err(error) => return web::refused(StatusCode::BAD_REQUEST, &error),
    };
    let answer = json!({ "mail_id": format!("mail-{}", &id[..id.len().min(12)]), "text": mail.text });
    match ledger.perform(Request { id, customer: mail.customer }, answer.to_string()).await {
        Ok(answer) => web::raw(StatusCode::OK, answer.into_bytes()),
        Err(error) => web::unavailable(&error),
    }
}

/// The mailer as the server sees it.
#[derive(Clone)]
pub(crate) struct Mailer(Outside);

impl Mailer {
    pub(crate) fn at(address: SocketAddr) -> Self {
        Self(Outside::at(address, "/mails"))
    }

    /// Tells the customer that the order is on its way: once, however often it is asked under this `id`.
    pub(crate) async fn send(&self, id: EffectId, order: &Order) -> Result<String> {
        let text = format!("Dear {}, your {} is on its way.", order.customer, order.pizza);
        let mail = Mail { customer: order.customer.clone(), text };
        let (status, body) =
            self.0.ask(&id.to_string(), &mail).await.map_err(|error| format!("cannot reach the mailer: {error}"))?;
        match (status, body["mail_id"].as_str()) {
            (StatusCode::OK, Some(mail_id)) => Ok(mail_id.to_owned()),
            _ => Err(format!("the mailer answered {status}: {body}").into()),
        }
    }
}
