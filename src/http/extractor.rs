//! What axum takes from a request and makes of an answer; feature `axum`.

use std::convert::Infallible;

use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use axum_core::response::{IntoResponse, IntoResponseParts, Response, ResponseParts};
use http::StatusCode;
use http::request::Parts;

use super::lent::{Idempotent, Slot};
use super::policy::Keep;
use super::problem::Problem;
use super::stored::StoredResponse;

/// Why a handler is not given the run it asks for. Each is a mistake of the server's, and says which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotLent {
    /// The request did not come through the layer, or came without a key.
    #[error(
        "this handler takes `Idempotent`, and its request has none: put `IdempotencyLayer` around its route, for this \
         method, and make the key `.required()`; or take `Option<Idempotent>` where requests without a key are served"
    )]
    NoKey,
    /// Another extractor of the same request has it.
    #[error("this handler takes `Idempotent` twice: the run is lent to one at a time")]
    LentAlready,
}

impl IntoResponse for NotLent {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, Keep::Nothing, self.to_string()).into_response()
    }
}

/// The run of the request, lent to the handler.
impl<S: Sync> FromRequestParts<S> for Idempotent {
    type Rejection = NotLent;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, NotLent> {
        match Self::of(&parts.extensions) {
            Some(idempotent) => Ok(idempotent),
            None if parts.extensions.get::<Slot>().is_some() => Err(NotLent::LentAlready),
            None => Err(NotLent::NoKey),
        }
    }
}

/// The run of the request; none where the request has no key.
impl<S: Sync> OptionalFromRequestParts<S> for Idempotent {
    type Rejection = NotLent;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Option<Self>, NotLent> {
        match <Self as FromRequestParts<S>>::from_request_parts(parts, state).await {
            Ok(idempotent) => Ok(Some(idempotent)),
            Err(NotLent::NoKey) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        Self::into_response(self)
    }
}

impl IntoResponse for StoredResponse {
    fn into_response(self) -> Response {
        Self::into_response(self)
    }
}

/// Says what becomes of the operation, in front of a body.
impl IntoResponseParts for Keep {
    type Error = Infallible;

    fn into_response_parts(self, mut response: ResponseParts) -> Result<ResponseParts, Infallible> {
        response.extensions_mut().insert(self);
        Ok(response)
    }
}
