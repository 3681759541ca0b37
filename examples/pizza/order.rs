//! The words that clients, server, bank and mailer share.

use reentry::Key;
use serde::{Deserialize, Serialize};

/// What a client asks for: the body of `POST /orders`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) customer: String,
    pub(crate) pizza: String,
    pub(crate) cents: u64,
}

/// What the bank says to a charge: the result of the step, kept as `Json`, which can still be read after the next
/// deployment has added a field. A refusal is a result too. That the bank cannot be reached is none, but an error.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Charged {
    Paid { charge_id: String },
    Declined { why: String },
}

/// What a client gets for an order that was made: the outcome, and the body of its answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Receipt {
    pub(crate) order_id: String,
    pub(crate) charge_id: String,
    pub(crate) pizza: String,
    pub(crate) cents: u64,
}

/// What a client gets for an order that the bank will not pay for: an outcome too, and replayed like any other.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) error: String,
}

/// The key of one order.
///
/// The scope keeps customers apart: two that choose the same key never meet. A real server takes the customer
/// from the session it has authenticated, never from the body.
pub(crate) fn key(customer: &str, client_key: &str) -> reentry::Result<Key> {
    Key::new(scope(customer), client_key)
}

/// In whose name a customer's keys are kept.
pub(crate) fn scope(customer: &str) -> String {
    format!("orders/{customer}")
}
