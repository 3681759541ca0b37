//! The layer's own answers: what is wrong, in a form that programs read (RFC 9457).
//!
//! Invariants:
//! 1. Nothing that a client sent, and nothing of what is kept, stands in one.
//! 2. One that says "not now" says when: `Retry-After`.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::policy::Keep;
use crate::error::{Error, ErrorKind};

/// When a client is to come again, where nothing else is said.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What a problem is, for programs: stable over versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProblemCode {
    /// 400: the request has no key, and needs one.
    KeyMissing,
    /// 400: the header holds no key.
    KeyMalformed,
    /// 400: the request's body ended before it was all there.
    BodyBroken,
    /// 403: nobody is known in whose name the key could be kept.
    PrincipalMissing,
    /// 409: another copy of the request is at work.
    InProgress,
    /// 409: something was begun, and whether it happened is not known yet.
    InDoubt,
    /// 409: the operation is over, and its answer was not kept.
    ReplayUnavailable,
    /// 410: the operation ended long ago, and its answer is no longer kept.
    AnswerGone,
    /// 413: the request is larger than a request with a key may be.
    RequestTooLarge,
    /// 422: the key belongs to another request.
    KeyReused,
    /// 500: the handler asked the store for what it never gives, a payload that is too large say. Its code has to be
    /// mended; then the same request goes on where it stopped.
    InternalError,
    /// 503: the request cannot be guarded now, so nothing was done.
    Unavailable,
}

impl ProblemCode {
    /// How it is written in the body's member `code`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::KeyMissing => "key_missing",
            Self::KeyMalformed => "key_malformed",
            Self::BodyBroken => "body_broken",
            Self::PrincipalMissing => "principal_missing",
            Self::InProgress => "in_progress",
            Self::InDoubt => "in_doubt",
            Self::ReplayUnavailable => "replay_unavailable",
            Self::AnswerGone => "answer_gone",
            Self::RequestTooLarge => "request_too_large",
            Self::KeyReused => "key_reused",
            Self::InternalError => "internal_error",
            Self::Unavailable => "unavailable",
        }
    }

    /// The status that it is answered with.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::KeyMissing | Self::KeyMalformed | Self::BodyBroken => StatusCode::BAD_REQUEST,
            Self::PrincipalMissing => StatusCode::FORBIDDEN,
            Self::InProgress | Self::InDoubt | Self::ReplayUnavailable => StatusCode::CONFLICT,
            Self::AnswerGone => StatusCode::GONE,
            Self::RequestTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::InternalError => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::KeyMissing => "Idempotency-Key is missing",
            Self::KeyMalformed => "Idempotency-Key is malformed",
            Self::BodyBroken => "The request ended too early",
            Self::PrincipalMissing => "Idempotency-Key needs a principal",
            Self::InProgress => "A request is outstanding for this Idempotency-Key",
            Self::InDoubt => "The outcome for this Idempotency-Key is not known yet",
            Self::ReplayUnavailable => "The answer for this Idempotency-Key cannot be repeated",
            Self::AnswerGone => "The answer for this Idempotency-Key is no longer kept",
            Self::RequestTooLarge => "The request is too large",
            Self::KeyReused => "Idempotency-Key is already used",
            Self::InternalError => "The server made a mistake",
            Self::Unavailable => "The request cannot be served now",
        }
    }

    const fn detail(self) -> &'static str {
        match self {
            Self::KeyMissing => "This operation needs an Idempotency-Key: send one that is new for each operation.",
            Self::KeyMalformed => "The header is not a key.",
            Self::BodyBroken => "The body was cut off. Nothing was done: send the same request again.",
            Self::PrincipalMissing => "Nobody is known in whose name this key could be kept. Nothing was done.",
            Self::InProgress => {
                "Another copy of this request is at work, and its outcome is not known yet: send the same request \
                 again, later."
            }
            Self::InDoubt => {
                "Something was begun for this request, and whether it happened is not known yet: send the same request \
                 again, later."
            }
            Self::ReplayUnavailable => {
                "This request was done, and its answer was not kept. It will not be done again: look at what it did."
            }
            Self::AnswerGone => {
                "This request was done long ago, and its answer is no longer kept. It will not be done again."
            }
            Self::RequestTooLarge => "A request with an Idempotency-Key may not be this large. Nothing was done.",
            Self::KeyReused => {
                "This Idempotency-Key was used for another request. Do not retry: a key belongs to one request, and \
                 another request needs a new one."
            }
            Self::InternalError => {
                "The request could not be finished, and sending it again does not help before the server is mended."
            }
            Self::Unavailable => "The request could not be finished: send the same request again, later.",
        }
    }

    /// Whether the same request may be answered otherwise later.
    const fn is_for_now(self) -> bool {
        matches!(self, Self::InProgress | Self::InDoubt | Self::Unavailable)
    }

    /// The status of gRPC.
    const fn grpc_status(self) -> &'static str {
        match self {
            Self::KeyMissing | Self::KeyMalformed | Self::BodyBroken | Self::RequestTooLarge => "3",
            Self::PrincipalMissing => "7",
            Self::InProgress | Self::InDoubt => "10",
            Self::KeyReused | Self::AnswerGone | Self::ReplayUnavailable => "9",
            Self::InternalError => "13",
            Self::Unavailable => "14",
        }
    }
}

impl fmt::Display for ProblemCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An answer that says what is wrong. The layer gives its own, and takes those of handlers: one is never an outcome, so
/// the operation stays unfinished and a retry re-enters it.
///
/// A handler turns the store's errors into one with `?`:
///
/// ```
/// use reentry::http::{Problem, ProblemCode};
/// # use reentry::{Key, Store};
/// # fn charge() -> Result<(), reentry::Error> {
/// #     let store = Store::builder().in_memory()?;
/// #     store.close()?;
/// #     store.progress(&Key::new("orders", "1")?).map(drop)
/// # }
///
/// fn handler() -> Result<&'static str, Problem> {
///     charge()?;                          // its step is in doubt, the disk is full ...
///     Ok("charged")
/// }
/// assert_eq!(handler().unwrap_err().code(), ProblemCode::Unavailable);
/// ```
#[derive(Debug, Clone)]
pub struct Problem {
    code: ProblemCode,
    detail: Cow<'static, str>,
    /// What the layer tells the server's log, and nobody else.
    cause: Option<Arc<Error>>,
}

impl From<ProblemCode> for Problem {
    fn from(code: ProblemCode) -> Self {
        Self { code, detail: code.detail().into(), cause: None }
    }
}

/// What the error of a step, a checkpoint or an outcome tells the client: that it is not known yet whether something
/// happened (409), that another copy is at work (409), that the handler asked for what it never gets (500), or to come
/// again (503). Nothing of the error's own words; those go to [`on_failure`](super::IdempotencyLayer::on_failure).
impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let code = match error.kind() {
            ErrorKind::InDoubt | ErrorKind::CannotTell | ErrorKind::EffectFailed | ErrorKind::OutcomeUnknown => {
                ProblemCode::InDoubt
            }
            ErrorKind::Fenced | ErrorKind::Busy => ProblemCode::InProgress,
            // The same code asks for the same again, whenever its client comes back.
            ErrorKind::InvalidKey
            | ErrorKind::InvalidName
            | ErrorKind::InvalidConfig
            | ErrorKind::PayloadTooLarge
            | ErrorKind::Codec
            | ErrorKind::StepRepeated
            | ErrorKind::WouldDeadlock => ProblemCode::InternalError,
            _ => ProblemCode::Unavailable,
        };
        Self { cause: Some(Arc::new(error)), ..code.into() }
    }
}

impl Problem {
    /// What it is.
    pub fn code(&self) -> ProblemCode {
        self.code
    }

    /// The error that it was made from.
    pub fn cause(&self) -> Option<&Error> {
        self.cause.as_deref()
    }

    /// The same problem, in other words for its client.
    #[must_use]
    pub fn with_detail(self, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { detail: detail.into(), ..self }
    }

    /// As a response, for handlers without axum: the layer knows it for a problem, and writes its own settings in.
    pub fn into_response<B: From<Bytes>>(self) -> Response<B> {
        let mut response = ProblemStyle::default().render(&self).map(B::from);
        response.extensions_mut().insert(Keep::Nothing);
        response.extensions_mut().insert(self);
        response
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

impl StdError for Problem {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause().map(|cause| cause as &(dyn StdError + 'static))
    }
}

/// How problems are written.
#[derive(Debug, Clone)]
pub(super) struct ProblemStyle {
    /// Where the service documents them.
    pub(super) documentation: Option<String>,
    pub(super) is_linked: bool,
    pub(super) retry_after: Duration,
}

impl Default for ProblemStyle {
    fn default() -> Self {
        Self { documentation: None, is_linked: false, retry_after: RETRY_AFTER }
    }
}

impl ProblemStyle {
    /// The problem as a response of HTTP.
    pub(super) fn render(&self, problem: &Problem) -> Response<Bytes> {
        let Problem { code, detail, .. } = problem;
        let (kind, status) = (self.documentation.as_deref().unwrap_or("about:blank"), code.status());
        let members = [("title", code.title()), ("detail", detail), ("code", code.as_str())];
        let mut body = format!("{{\"type\":{},\"status\":{}", quoted(kind), status.as_u16());
        for (name, text) in members {
            body.extend([",\"", name, "\":", &quoted(text)]);
        }
        body.push('}');
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CONTENT_LANGUAGE, HeaderValue::from_static("en"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        self.add_times_and_links(*code, headers);
        response
    }

    /// The problem as a response of gRPC that is over with its headers.
    pub(super) fn render_grpc(&self, problem: &Problem) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from_static(problem.code.grpc_status()));
        if let Ok(message) = HeaderValue::try_from(percent_encoded(&problem.to_string())) {
            headers.insert("grpc-message", message);
        }
        self.add_times_and_links(problem.code, headers);
        response
    }

    fn add_times_and_links(&self, code: ProblemCode, headers: &mut HeaderMap) {
        if code.is_for_now() {
            // A second at least: zero would be "at once, and again".
            let seconds = self.retry_after.as_secs().saturating_add(u64::from(self.retry_after.subsec_nanos() > 0));
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        let link = self.documentation.as_ref().filter(|_| self.is_linked);
        let link = link.map(|url| HeaderValue::try_from(format!("<{url}>; rel=\"describedby\"; type=\"text/html\"")));
        if let Some(Ok(link)) = link {
            headers.insert(header::LINK, link);
        }
    }
}

/// Text as a string of JSON (RFC 8259, section 7).
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            c if c.is_control() => quoted.extend(["\\u", &format!("{:04x}", u32::from(c))]),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Text as gRPC wants it in a header.
fn percent_encoded(text: &str) -> String {
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'%';
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        if is_plain(byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.extend(["%", &format!("{byte:02X}")]);
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [ProblemCode; 12] = [
        ProblemCode::KeyMissing,
        ProblemCode::KeyMalformed,
        ProblemCode::BodyBroken,
        ProblemCode::PrincipalMissing,
        ProblemCode::InProgress,
        ProblemCode::InDoubt,
        ProblemCode::ReplayUnavailable,
        ProblemCode::AnswerGone,
        ProblemCode::RequestTooLarge,
        ProblemCode::KeyReused,
        ProblemCode::InternalError,
        ProblemCode::Unavailable,
    ];

    #[test]
    fn a_code_is_shown_as_clients_see_it() {
        assert!(ALL.iter().all(|code| code.to_string() == code.as_str() && !code.as_str().is_empty()));
    }

    #[test]
    fn every_problem_is_valid_json_with_all_its_members() {
        let style = ProblemStyle { documentation: Some("https://example.org/\"\\\n\u{1}ü".to_owned()), ..style() };
        for code in ALL {
            let detail = "a \"quote\", a \\, a line\nand ü";
            let response = style.render(&Problem::from(code).with_detail(detail));
            let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
            assert_eq!(body["type"], "https://example.org/\"\\\n\u{1}ü");
            assert_eq!(body["status"], response.status().as_u16());
            assert_eq!((&body["code"], &body["detail"]), (&code.as_str().into(), &detail.into()));
            assert!(body["title"].as_str().is_some_and(|title| !title.is_empty()));
            assert_eq!(response.headers()["content-type"], "application/problem+json");
            assert_eq!(response.headers().contains_key("retry-after"), code.is_for_now());
            assert!(!response.headers().contains_key("link"), "a line break is no part of a header");
        }
    }

    fn style() -> ProblemStyle {
        ProblemStyle { is_linked: true, ..ProblemStyle::default() }
    }

    #[test]
    fn a_link_and_a_time_are_given_where_they_are_asked_for() {
        let documentation = Some("https://example.org/idempotency".to_owned());
        let style = ProblemStyle { documentation, is_linked: true, retry_after: Duration::from_millis(2_100) };
        let headers = style.render(&ProblemCode::InProgress.into()).headers().clone();
        assert_eq!(headers["link"], "<https://example.org/idempotency>; rel=\"describedby\"; type=\"text/html\"");
        assert_eq!(headers["retry-after"], "3");
        let none = ProblemStyle { retry_after: Duration::ZERO, ..ProblemStyle::default() };
        assert_eq!(none.render(&ProblemCode::InProgress.into()).headers()["retry-after"], "1");
        let blank: serde_json::Value =
            serde_json::from_slice(none.render(&ProblemCode::KeyReused.into()).body()).unwrap();
        assert_eq!(blank["type"], "about:blank");
    }

    #[test]
    fn each_problem_has_its_status_of_grpc() {
        for (code, status) in [
            (ProblemCode::KeyMalformed, "3"),
            (ProblemCode::PrincipalMissing, "7"),
            (ProblemCode::KeyReused, "9"),
            (ProblemCode::AnswerGone, "9"),
            (ProblemCode::ReplayUnavailable, "9"),
            (ProblemCode::InProgress, "10"),
            (ProblemCode::InDoubt, "10"),
            (ProblemCode::InternalError, "13"),
            (ProblemCode::Unavailable, "14"),
        ] {
            let response = style().render_grpc(&Problem::from(code).with_detail("100 %\n"));
            assert_eq!(
                (response.status(), &response.headers()["grpc-status"]),
                (StatusCode::OK, &status.parse().unwrap())
            );
            assert_eq!(response.headers()["grpc-message"], format!("{code}: 100 %25%0A"));
        }
    }

    /// A client is told what to do; whose fault it is in the store's words is for the server's log alone.
    #[test]
    fn an_error_of_the_store_becomes_a_problem_that_keeps_it_as_its_cause() {
        for (kind, code) in [
            (ErrorKind::CannotTell, ProblemCode::InDoubt),
            (ErrorKind::OutcomeUnknown, ProblemCode::InDoubt),
            (ErrorKind::Busy, ProblemCode::InProgress),
            (ErrorKind::Fenced, ProblemCode::InProgress),
            (ErrorKind::Full, ProblemCode::Unavailable),
            (ErrorKind::PayloadTooLarge, ProblemCode::InternalError),
            (ErrorKind::Codec, ProblemCode::InternalError),
            (ErrorKind::StepRepeated, ProblemCode::InternalError),
            (ErrorKind::InvalidName, ProblemCode::InternalError),
        ] {
            let problem = Problem::from(Error::new(kind, "row 7 of ada"));
            assert_eq!(problem.code(), code, "{kind:?}");
            assert!(problem.source().is_some_and(|cause| cause.to_string() == "row 7 of ada"));
            assert!(!problem.to_string().contains("ada"), "{problem}");
        }
        assert!(Problem::from(ProblemCode::InDoubt).source().is_none());
    }
}
