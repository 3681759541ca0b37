//! The HTTP that the server, the bank and the mailer have in common. Everything they say is JSON.

use std::fmt::Display;
use std::net::SocketAddr;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use reqwest::Client;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::Result;
use crate::ledger::Ledger;

/// The header by which a client says: this is the same request as before.
pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// What a part prints in front of its address once it can be reached.
pub(crate) const LISTENING: &str = "listening on ";

/// Listens on a loopback port (0: whichever is free) and says on standard output which one it got.
pub(crate) async fn listen(port: u16) -> Result<TcpListener> {
    let listener = TcpListener::bind(("127.0.0.1", port))
        .await
        .map_err(|error| format!("cannot listen on 127.0.0.1:{port}: {error}"))?;
    println!("{LISTENING}{}", listener.local_addr()?);
    Ok(listener)
}

/// Serves a part of the world outside until the process ends.
pub(crate) async fn serve_outside(port: u16, router: Router) -> Result<()> {
    Ok(axum::serve(listen(port).await?, router).await?)
}

/// An answer with a body of JSON that is made here.
pub(crate) fn reply(status: StatusCode, body: &Value) -> Response {
    raw(status, body.to_string().into_bytes())
}

/// An answer whose body is JSON already, byte for byte.
pub(crate) fn raw(status: StatusCode, body: Vec<u8>) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// The answer to a request that can never be served, however often it comes.
pub(crate) fn refused(status: StatusCode, why: &(impl Display + ?Sized)) -> Response {
    reply(status, &json!({ "error": why.to_string() }))
}

/// The answer when something failed that may work later. What was done stays done: the client retries with the
/// same key, and is never charged again for it.
pub(crate) fn unavailable(why: &(impl Display + ?Sized)) -> Response {
    let mut response = refused(StatusCode::SERVICE_UNAVAILABLE, why);
    response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    response
}

/// The idempotency key of a request.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<&str> {
    let value = headers.get(IDEMPOTENCY_KEY).ok_or("the header Idempotency-Key is missing")?;
    Ok(value.to_str().map_err(|_| "the header Idempotency-Key holds more than visible ASCII")?)
}

/// `GET /counts/{customer}`: what was asked of a ledger's keeper and what it did, for one customer.
pub(crate) async fn counts(State(ledger): State<Ledger>, Path(customer): Path<String>) -> Response {
    match ledger.count(&customer) {
        Ok(count) => Json(count).into_response(),
        Err(error) => unavailable(&error),
    }
}

/// A part of the world outside, as the server sees it.
#[derive(Clone)]
pub(crate) struct Outside {
    http: Client,
    url: String,
}

impl Outside {
    pub(crate) fn at(address: SocketAddr, path: &str) -> Self {
        Self { http: Client::new(), url: format!("http://{address}{path}") }
    }

    /// Asks for an effect under its id.
    pub(crate) async fn ask(&self, id: &str, body: &impl Serialize) -> reqwest::Result<(StatusCode, Value)> {
        let response = self.http.post(&self.url).header(IDEMPOTENCY_KEY, id).json(body).send().await?;
        Ok((response.status(), response.json().await?))
    }

    /// Asks what became of the effect of this id.
    pub(crate) async fn look(&self, id: &str) -> reqwest::Result<(StatusCode, Value)> {
        let response = self.http.get(format!("{}/{id}", self.url)).send().await?;
        Ok((response.status(), response.json().await?))
    }
}
