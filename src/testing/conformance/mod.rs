//! A table of what a service with an `Idempotency-Key` must answer, for any service that can be reached; features
//! `testing` and `http`.
//!
//! Each [`Row`] is a few requests and the answer that each must get, with the section of
//! draft-ietf-httpapi-idempotency-key-header that asks for it. [`Conformance::run`] sends them over real connections;
//! another [`Client`] sends them in its own way.
//!
//! ```no_run
//! use reentry::testing::conformance::{Conformance, Sockets};
//!
//! let (one, another) = (r#"{"pizza":"margherita"}"#, r#"{"pizza":"funghi"}"#);
//! let suite = Conformance::of("/orders").body("application/json", one, another);
//! let report = suite.run(&Sockets::to("127.0.0.1:3000"));
//! assert!(report.is_passed(), "{report}");
//! ```

use std::fmt;
use std::hash::{BuildHasher, RandomState};

mod rows;
mod wire;

use rows::Expected;
pub use rows::Row;
pub use wire::{Client, Sockets, WireAnswer, WireRequest};

/// What the service under test is like.
///
/// Only the path, and two bodies that it does different things for, must be told. Rows that need more than was told are
/// skipped, and the report says which.
#[derive(Debug, Clone)]
#[must_use = "nothing is sent until `run`"]
pub struct Conformance {
    path: String,
    content_type: String,
    body: Vec<u8>,
    other_body: Vec<u8>,
    principals: Option<[(String, String); 2]>,
    slow_path: Option<String>,
    streamed_path: Option<String>,
    large_body_bytes: Option<usize>,
    is_required: bool,
    is_strict: bool,
}

impl Conformance {
    /// A service that takes POST at this path, and answers with a status of 2xx that it keeps.
    pub fn of(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            content_type: "text/plain".to_owned(),
            body: b"one".to_vec(),
            other_body: b"another".to_vec(),
            principals: None,
            slow_path: None,
            streamed_path: None,
            large_body_bytes: None,
            is_required: false,
            is_strict: false,
        }
    }

    /// What is sent there: a body, and another one that is another request. Default: two short texts.
    pub fn body(self, content_type: &str, body: impl Into<Vec<u8>>, other_body: impl Into<Vec<u8>>) -> Self {
        let (body, other_body) = (body.into(), other_body.into());
        Self { content_type: content_type.to_owned(), body, other_body, ..self }
    }

    /// Header and value by which the service knows two principals; the first is who sends all rows but one. Default: no
    /// such header is sent.
    pub fn principals(self, header: &str, first: &str, second: &str) -> Self {
        let principals = [(header.to_owned(), first.to_owned()), (header.to_owned(), second.to_owned())];
        Self { principals: Some(principals), ..self }
    }

    /// A path whose handler takes so long that a request that is sent at the same moment meets it: a second, say.
    pub fn slow_path(self, path: &str) -> Self {
        Self { slow_path: Some(path.to_owned()), ..self }
    }

    /// A path whose answer is streamed, so that it is not kept.
    pub fn streamed_path(self, path: &str) -> Self {
        Self { streamed_path: Some(path.to_owned()), ..self }
    }

    /// How large a body must be to be refused.
    pub fn large_body_bytes(self, bytes: usize) -> Self {
        Self { large_body_bytes: Some(bytes), ..self }
    }

    /// Says that the service requires a key.
    pub fn required(self) -> Self {
        Self { is_required: true, ..self }
    }

    /// Says that the service takes only Strings of structured fields.
    pub fn strict(self) -> Self {
        Self { is_strict: true, ..self }
    }

    /// The rows that can be sent to this service.
    pub fn rows(&self) -> Vec<Row> {
        rows::rows(self)
    }

    /// Sends every row, and compares. Each run uses keys of its own.
    pub fn run(&self, client: &(impl Client + ?Sized)) -> Report {
        let run = format!("{:016x}", RandomState::new().hash_one("a run of the conformance suite"));
        let results = self.rows().into_iter().enumerate().map(|(nth, row)| {
            let verdict = match &row.skipped {
                Some(why) => Verdict::Skipped(why),
                None => match row.judge(&format!("{run}-{nth:02}-"), client) {
                    Ok(()) => Verdict::Passed,
                    Err(why) => Verdict::Failed(why),
                },
            };
            (row, verdict)
        });
        Report { results: results.collect() }
    }
}

/// What a row came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every answer was the one that is asked for.
    Passed,
    /// The suite was not told what it needs for this row.
    Skipped(&'static str),
    /// An answer was another one, or there was none.
    Failed(String),
}

/// What all rows came to. It displays as one line a row.
#[derive(Debug, Clone)]
#[must_use = "it may tell of answers that are wrong"]
pub struct Report {
    results: Vec<(Row, Verdict)>,
}

impl Report {
    /// Whether no row failed.
    pub fn is_passed(&self) -> bool {
        !self.results.iter().any(|(_, verdict)| matches!(verdict, Verdict::Failed(_)))
    }

    /// Each row, with what it came to.
    pub fn results(&self) -> impl Iterator<Item = (&Row, &Verdict)> {
        self.results.iter().map(|(row, verdict)| (row, verdict))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (row, verdict) in &self.results {
            let verdict = match verdict {
                Verdict::Passed => "passed".to_owned(),
                Verdict::Skipped(why) => format!("skipped: {why}"),
                Verdict::Failed(why) => format!("FAILED: {why}"),
            };
            writeln!(f, "{:<60} {:<4} {verdict}", row.name, row.section)?;
        }
        Ok(())
    }
}

impl Row {
    /// Sends the requests, and compares the answers.
    fn judge(&self, prefix: &str, client: &(impl Client + ?Sized)) -> Result<(), String> {
        let requests: Vec<WireRequest> = self.exchanges.iter().map(|exchange| exchange.request(prefix)).collect();
        let mut answers: Vec<WireAnswer> = Vec::new();
        if self.is_at_once {
            answers = client.send(&requests).map_err(|error| format!("no answer: {error}"))?;
        } else {
            for (nth, request) in requests.iter().enumerate() {
                let answer = client.send(std::slice::from_ref(request));
                answers.extend(answer.map_err(|error| format!("request {}: no answer: {error}", nth + 1))?);
            }
        }
        if answers.len() != requests.len() {
            return Err(format!("{} answers to {} requests", answers.len(), requests.len()));
        }
        let expected: Vec<&Expected> = self.exchanges.iter().map(|exchange| &exchange.expected).collect();
        if self.is_at_once { either_order(&expected, &answers) } else { in_order(&expected, &answers) }
    }
}

fn in_order(expected: &[&Expected], answers: &[WireAnswer]) -> Result<(), String> {
    for (nth, (expected, answer)) in expected.iter().zip(answers).enumerate() {
        expected.compare(answer, answers).map_err(|why| format!("request {}: {why}", nth + 1))?;
    }
    Ok(())
}

/// Of two requests at once either may be the first.
fn either_order(expected: &[&Expected], answers: &[WireAnswer]) -> Result<(), String> {
    let turned: Vec<_> = expected.iter().rev().copied().collect();
    in_order(expected, answers).or_else(|why| in_order(&turned, answers).map_err(|_| why))
}
