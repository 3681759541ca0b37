//! What is shown where something cannot be shown or done: what it is, and what to do next.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};

use super::frame::Sheet;
use crate::error::{Error, ErrorKind};

/// A page that says what went wrong.
pub(super) struct Problem {
    pub(super) status: StatusCode,
    title: &'static str,
    text: String,
    next: &'static str,
    /// The form to try it again with.
    again: Option<Markup>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, title: &'static str, text: impl Into<String>) -> Self {
        Self { status, title, text: text.into(), next: "", again: None }
    }

    pub(super) fn with(self, again: Option<Markup>) -> Self {
        Self { again, ..self }
    }

    /// Something of this page itself has panicked.
    pub(super) fn broken() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "This page failed", "A fault of the page, not of the store.")
    }
}

/// Errors of the store say what they are, and hold no key and no payload.
impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let (status, title, next) = of_kind(error.kind());
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        Self { status, title, text, next, again: None }
    }
}

/// What to do next about an error of this kind.
pub(super) fn next(kind: ErrorKind) -> &'static str {
    of_kind(kind).2
}

fn of_kind(kind: ErrorKind) -> (StatusCode, &'static str, &'static str) {
    match kind {
        ErrorKind::InvalidKey => (StatusCode::BAD_REQUEST, "No such key can be", "Give a scope and a key."),
        ErrorKind::InvalidName => (
            StatusCode::BAD_REQUEST,
            "The note cannot be kept",
            "Give 1 to 1,000 bytes of printable text. Nothing was changed.",
        ),
        ErrorKind::PayloadTooLarge => {
            (StatusCode::PAYLOAD_TOO_LARGE, "The result is too large", "Nothing was changed.")
        }
        ErrorKind::NotFound => (
            StatusCode::NOT_FOUND,
            "Nothing is known of it",
            "It was never claimed, was forgotten, or its retention is over; or it has no such step.",
        ),
        ErrorKind::Finished => {
            (StatusCode::CONFLICT, "It has ended", "It has an outcome meanwhile, which nothing changes any more.")
        }
        ErrorKind::Busy => (
            StatusCode::CONFLICT,
            "A run is at work on it",
            "Let it end, or revoke it first: then its owner can change nothing any more. Nothing was changed.",
        ),
        ErrorKind::NotInDoubt => {
            (StatusCode::CONFLICT, "The step is not in doubt", "Look at it anew: it has a result, or was withdrawn.")
        }
        ErrorKind::OutcomeUnknown | ErrorKind::TimedOut => (
            StatusCode::SERVICE_UNAVAILABLE,
            "Not known whether it was done",
            "It may have been done or may be yet. Look at the operation, and at the overview for how the store does.",
        ),
        ErrorKind::Full => (
            StatusCode::SERVICE_UNAVAILABLE,
            "The disk is full",
            "Nothing was changed. Make room on the disk: the store mends itself within seconds. Replays go on.",
        ),
        ErrorKind::Failed => (
            StatusCode::SERVICE_UNAVAILABLE,
            "The store has stopped",
            "Restart the server, which opens it anew; what was acknowledged is there. Where a sync had failed, restart \
             the machine first, or copy the file and open the copy.",
        ),
        ErrorKind::ReadOnly => {
            (StatusCode::CONFLICT, "The store is opened to be read", "Open it for writing; nothing was changed.")
        }
        ErrorKind::Closed => {
            (StatusCode::SERVICE_UNAVAILABLE, "The store is closed", "The server is stopping, or has to open it anew.")
        }
        ErrorKind::Corrupt => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "The file is damaged",
            "Other operations go on. Verify a copy of the file to see what else is damaged, and restore one that is \
             whole.",
        ),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "It cannot be read", "Look at the server's disk, and at its log."),
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = html! {
            p.problem role="alert" { (self.text) }
            @if !self.next.is_empty() { p { (self.next) } }
            @if let Some(form) = self.again { h2 { "Again" } (form) }
            p { a href="overview" { "To the overview" } }
        };
        Sheet::new(self.title, body).into_response_as(self.status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an operator did wrong is told apart from what the store cannot do, and each with the next thing to do.
    #[test]
    fn every_kind_of_error_has_its_status_and_says_what_to_do_next() {
        use ErrorKind::{Busy, Closed, Corrupt, Failed, Finished, Full, Io, NotFound, NotInDoubt, ReadOnly, TimedOut};
        for (kind, status, next) in [
            (ErrorKind::InvalidKey, 400, "Give a scope and a key"),
            (ErrorKind::InvalidName, 400, "1 to 1,000 bytes"),
            (ErrorKind::PayloadTooLarge, 413, "Nothing was changed"),
            (NotFound, 404, "never claimed"),
            (Finished, 409, "an outcome meanwhile"),
            (Busy, 409, "revoke it first"),
            (NotInDoubt, 409, "Look at it anew"),
            (ReadOnly, 409, "Open it for writing"),
            (ErrorKind::OutcomeUnknown, 503, "may have been done"),
            (TimedOut, 503, "may have been done"),
            (Full, 503, "Make room"),
            (Failed, 503, "Restart the server"),
            (Closed, 503, "open it anew"),
            (Corrupt, 500, "restore one that is whole"),
            (Io, 500, "the server's disk"),
        ] {
            let problem = Problem::from(Error::new(kind, "what the store says"));
            assert_eq!((problem.status.as_u16(), problem.next.contains(next)), (status, true), "{kind:?}");
            assert_eq!(problem.text, "what the store says");
        }
    }

    #[test]
    fn a_problem_tells_the_causes_of_its_error_too() {
        let error = Error::because(ErrorKind::Io, "cannot read the file", std::io::Error::other("the cable is out"));
        let shown = Problem::from(error).text;
        assert!(shown.contains("cannot read the file") && shown.contains("the cable is out"), "{shown}");
    }
}
