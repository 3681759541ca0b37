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

/// How far an order got: the payload of every checkpoint.
///
/// It holds the whole order, and not only what was done about it, so that whoever re-enters can finish it
/// without the client. It is `Json`, which can still be read after the next deployment has added a field.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Made {
    pub(crate) order: Order,
    pub(crate) charge_id: Option<String>,
    pub(crate) order_id: Option<String>,
    pub(crate) mail_id: Option<String>,
}

impl Made {
    pub(crate) fn nothing_yet(order: Order) -> Self {
        Self { order, charge_id: None, order_id: None, mail_id: None }
    }
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
    Key::new(format!("orders/{customer}"), client_key)
}

/// The id under which the world outside knows one effect of one order.
///
/// It follows from the key and the effect's name alone, so every retry asks under the same id, and the bank
/// can tell a retry from a second order. Each part goes in with its length in front: joined without, the
/// customer "a/b" with the key "c" and the customer "a" with the key "b/c" could end up with one id.
pub(crate) fn effect_id(key: &Key, effect: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in [key.scope(), key.key(), effect] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().to_hex().as_str()[..32].to_owned()
}
