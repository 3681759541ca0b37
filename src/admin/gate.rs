//! What every request passes before anything is shown, and every answer on its way out.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{self, HeaderName};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::page::{Access, Console};
use super::problem::Problem;

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Nothing from elsewhere, nothing inline, in nobody's frame.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// What every answer says. `Referrer-Policy` is not `no-referrer`, since browsers then send `Origin: null` with forms.
const HEADERS: [(HeaderName, &str); 7] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "same-origin"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Asks the server's hook, and lets a POST through only from this page's own origin.
pub(super) async fn pass(State(console): State<Arc<Console>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let access = console.access(&parts);
    let mut response = if access == Access::Denied {
        Problem::new(StatusCode::FORBIDDEN, "Not allowed", "Nothing here is for this request.").into_response()
    } else if parts.method == Method::POST && !is_same_origin(&parts) {
        let text = "The form was sent from another site, or by a program that does not say from where.";
        Problem::new(StatusCode::FORBIDDEN, "From elsewhere", text).into_response()
    } else {
        let mut request = Request::from_parts(parts, body);
        request.extensions_mut().insert(access);
        next.run(request).await
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Whether a browser says that the request comes from the origin that it goes to. `Sec-Fetch-Site` says so by itself,
/// and no script can set it; a browser that does not send it (over plain HTTP) sends `Origin`.
fn is_same_origin(parts: &Parts) -> bool {
    if let Some(site) = parts.headers.get(FETCH_SITE) {
        return site == "same-origin";
    }
    let origin = parts.headers.get(header::ORIGIN).and_then(|value| value.to_str().ok());
    let origin = origin.and_then(|origin| origin.parse::<Uri>().ok()).and_then(|origin| origin.into_parts().authority);
    let host = parts.headers.get(header::HOST).and_then(|value| value.to_str().ok());
    let host = host.or(parts.uri.authority().map(Authority::as_str));
    origin.zip(host).is_some_and(|(origin, host)| origin.as_str().eq_ignore_ascii_case(host))
}
