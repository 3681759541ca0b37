//! Idempotency over HTTP; feature `http`.
//!
//! An [`IdempotencyLayer`] goes around any service of `tower` that answers requests of the crate `http`. It follows
//! draft-ietf-httpapi-idempotency-key-header-07: a request that carries an `Idempotency-Key` is done once, and every
//! copy of it gets the same answer. What the draft leaves open, and where the layer differs from it, stands row by row
//! in `docs/http.md`.
//!
//! ```text
//!  request ─▶ method, header, key, scope ─▶ body, fingerprint ─▶ claim ─▶ handler ─▶ what is kept ─▶ response
//!             400, 403                      413                  │ 409, 410, 422, 503   │
//!                                                                └─▶ replay             └─▶ interrupted
//! ```
//!
//! It goes inside authentication and limits on rates, around the handler. The rooms: `layer` holds the settings,
//! `service` looks at heads, `guard` takes one request all the way.

mod body;
#[cfg(feature = "axum")]
mod extractor;
mod fingerprint;
mod guard;
mod handle;
mod header;
mod layer;
mod lent;
mod policy;
mod problem;
mod service;
mod stored;

#[cfg(feature = "testing")]
pub(crate) use header::key_line;

pub use body::PassedBody;
#[cfg(feature = "axum")]
pub use extractor::NotLent;
pub use handle::{LayerHandle, LayerStats};
pub use layer::{IdempotencyLayer, Scoped, Unscoped};
pub use lent::{Idempotent, LentRun};
pub use policy::{Keep, Preset};
pub use problem::{Problem, ProblemCode};
pub use service::{Idempotency, ResponseFuture};
pub use stored::StoredResponse;

/// What is made of a head: its key, its fingerprint, and the headers that would be kept.
#[cfg(feature = "testing")]
pub(crate) fn head(
    parts: &http::request::Parts,
    is_strict: bool,
) -> (Result<Option<String>, String>, crate::key::Fingerprint, http::HeaderMap) {
    let fingerprint = fingerprint::Parting::default().fingerprint("orders", parts, &[]);
    (header::key_of(&parts.headers, is_strict), fingerprint, policy::KeptHeaders::default().of(&parts.headers))
}
