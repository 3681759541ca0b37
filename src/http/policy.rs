//! What of an answer is kept: whether it is the operation's outcome, and which of its headers are replayed.
//!
//! Invariants:
//! 1. A header that belongs to one client, one connection or one moment is never kept, whatever the server allows.
//! 2. What says that the work was not done, or not wholly, is no outcome under the preset that is the default.

use std::fmt;
use std::sync::Arc;

use http::response::Parts;
use http::{HeaderMap, HeaderName, StatusCode, header};

/// What becomes of an operation when its handler has answered.
///
/// The layer's preset decides by the status. A handler that knows better puts one of these into its response's
/// extensions; with axum (feature `axum`) it returns one in front of the body: `(Keep::Nothing, "come back later")`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Keep {
    /// The answer is the outcome: every later copy of the request gets it again. An answer whose length is not known
    /// before it ends, or that is over the limit, is passed on as it comes and counts as [`Ended`](Self::Ended). Of
    /// gRPC no length is known, so what is all there at once is kept.
    Answer,
    /// As [`Answer`](Self::Answer), where the length is not known in advance too: nothing goes out before all of it is
    /// there.
    WholeAnswer,
    /// The operation is over, and its answer is not kept: a later copy is told so (409, `replay_unavailable`), and
    /// never runs again.
    Ended,
    /// The run is interrupted: the operation stays unfinished, with its checkpoint and steps, and a retry re-enters it.
    Nothing,
}

/// Which answers are outcomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Preset {
    /// What the handler answered with 2xx, 3xx and 4xx, but for what says that the work was not done and may be tried
    /// again: 401, 403, 408, 425, 429, and a [`Problem`](super::Problem). What is 5xx interrupts.
    #[default]
    Resume,
    /// Every answer of the handler, errors of the server among them, but for a [`Problem`](super::Problem).
    StoreAll,
    /// 2xx alone; everything else interrupts.
    SuccessOnly,
}

type Decide = dyn Fn(&Parts) -> Keep + Send + Sync;

/// A preset, or what the server says.
#[derive(Clone)]
pub(super) enum Policy {
    Preset(Preset),
    Own(Arc<Decide>),
}

impl Default for Policy {
    fn default() -> Self {
        Self::Preset(Preset::default())
    }
}

impl Policy {
    /// What becomes of an operation that was answered with `status`, which for gRPC is not the one in `parts`.
    pub(super) fn keep(&self, parts: &Parts, status: StatusCode) -> Keep {
        match self {
            _ if status.is_informational() => Keep::Nothing,
            Self::Own(decide) => decide(parts),
            Self::Preset(preset) if preset.keeps(status) => Keep::Answer,
            Self::Preset(_) => Keep::Nothing,
        }
    }

    /// Whether nothing is to be kept for this status, which came behind the body. A server's own choice is made by the
    /// head, and was asked for before.
    pub(super) fn refuses(&self, status: StatusCode) -> bool {
        matches!(self, Self::Preset(preset) if !preset.keeps(status))
    }

    /// In words to publish.
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Self::Own(_) => "what this service documents",
            Self::Preset(Preset::Resume) => {
                "every answer with a status of 2xx, 3xx or 4xx, but 401, 403, 408, 425 and 429"
            }
            Self::Preset(Preset::StoreAll) => "every answer, whatever its status",
            Self::Preset(Preset::SuccessOnly) => "every answer with a status of 2xx",
        }
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.describe())
    }
}

impl Preset {
    fn keeps(self, status: StatusCode) -> bool {
        match self {
            Self::StoreAll => true,
            Self::SuccessOnly => status.is_success(),
            Self::Resume => !status.is_server_error() && !matches!(status.as_u16(), 401 | 403 | 408 | 425 | 429),
        }
    }
}

/// The headers that are kept unless the server adds to them.
const ALLOWED: [HeaderName; 8] = [
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_DISPOSITION,
    header::LOCATION,
    header::ETAG,
    header::LINK,
    header::RETRY_AFTER,
];

/// What is never kept. The connection's own, and what is computed anew, would be wrong; the others would hand one
/// client's secret to whoever retries.
const NEVER: [&str; 19] = [
    "authentication-info",
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "date",
    "idempotent-replayed",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "set-cookie",
    "set-cookie2",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "www-authenticate",
];

/// The trailers, and headers, that gRPC puts its status into, and how it says that a message is compressed.
const OF_GRPC: [&str; 4] = ["grpc-encoding", "grpc-message", "grpc-status", "grpc-status-details-bin"];

/// Whether a header of this name may be kept at all.
pub(super) fn may_be_kept(name: &HeaderName) -> bool {
    !NEVER.contains(&name.as_str())
}

/// Which headers of answers are kept.
#[derive(Debug, Clone, Default)]
pub(super) struct KeptHeaders {
    added: Vec<HeaderName>,
}

impl KeptHeaders {
    pub(super) fn add(&mut self, name: HeaderName) {
        self.added.push(name);
    }

    pub(super) fn keeps(&self, name: &HeaderName) -> bool {
        let is_allowed = ALLOWED.contains(name) || self.added.contains(name) || OF_GRPC.contains(&name.as_str());
        is_allowed && may_be_kept(name)
    }

    /// Those of an answer that are kept, in their order, repeated ones as often as they are there. One that the answer
    /// itself binds to its connection is not.
    pub(super) fn of(&self, headers: &HeaderMap) -> HeaderMap {
        let is_bound = |name: &HeaderName| {
            let options = headers
                .get_all(header::CONNECTION)
                .iter()
                .flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
            options.map(<[u8]>::trim_ascii).any(|option| option.eq_ignore_ascii_case(name.as_str().as_bytes()))
        };
        let kept = headers.iter().filter(|(name, _)| self.keeps(name) && !is_bound(name));
        let mut found = HeaderMap::new();
        for (name, value) in kept {
            found.append(name.clone(), value.clone());
        }
        found
    }

    /// Their names, to publish.
    pub(super) fn describe(&self) -> String {
        let names = ALLOWED.iter().chain(&self.added).filter(|name| may_be_kept(name));
        names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Response};

    use super::*;

    fn kept(preset: Preset) -> Vec<u16> {
        let (parts, ()) = Response::new(()).into_parts();
        let statuses = (100..600).filter_map(|code| StatusCode::from_u16(code).ok());
        let policy = Policy::Preset(preset);
        statuses.filter(|status| policy.keep(&parts, *status) == Keep::Answer).map(|status| status.as_u16()).collect()
    }

    #[test]
    fn each_preset_keeps_what_it_says() {
        let resume: Vec<u16> = (200..500).filter(|code| ![401, 403, 408, 425, 429].contains(code)).collect();
        assert_eq!(kept(Preset::Resume), resume);
        assert_eq!(kept(Preset::StoreAll), (200..600).collect::<Vec<_>>());
        assert_eq!(kept(Preset::SuccessOnly), (200..300).collect::<Vec<_>>());
    }

    #[test]
    fn what_belongs_to_a_client_a_connection_or_a_moment_is_kept_under_no_setting() {
        let mut all = KeptHeaders::default();
        let mut headers = HeaderMap::new();
        for name in NEVER.map(HeaderName::from_static) {
            all.add(name.clone());
            headers.append(name, HeaderValue::from_static("secret"));
        }
        assert_eq!(all.of(&headers), HeaderMap::new());
    }

    /// Written out, so that no line can be lost from the table by mistake.
    #[test]
    fn p9_no_header_of_authentication_and_no_cookie_is_kept_or_told() {
        for name in ["authorization", "proxy-authorization", "www-authenticate", "cookie", "set-cookie", "set-cookie2"]
        {
            let (name, mut kept) = (HeaderName::from_static(name), KeptHeaders::default());
            kept.add(name.clone());
            let headers = HeaderMap::from_iter([(name.clone(), HeaderValue::from_static("secret"))]);
            assert!(kept.of(&headers).is_empty() && !kept.describe().contains(name.as_str()), "{name}");
        }
    }

    #[test]
    fn repeated_headers_and_values_that_are_no_text_are_kept_as_they_are() {
        let mut headers = HeaderMap::new();
        headers.append("link", HeaderValue::from_static("<a>"));
        headers.append("link", HeaderValue::from_static("<b>"));
        headers.append("etag", HeaderValue::from_bytes(b"\"\xff\"").unwrap());
        let mut expected = headers.clone();
        headers.append("x-request-id", HeaderValue::from_static("7"));
        assert_eq!(KeptHeaders::default().of(&headers), expected);
        let mut with_one_more = KeptHeaders::default();
        with_one_more.add(HeaderName::from_static("x-request-id"));
        expected.append("x-request-id", HeaderValue::from_static("7"));
        assert_eq!(with_one_more.of(&headers), expected);
    }

    #[test]
    fn a_header_that_the_answer_binds_to_its_connection_is_not_kept() {
        let mut headers = HeaderMap::new();
        headers.append("connection", HeaderValue::from_static("close, ETag"));
        headers.append("etag", HeaderValue::from_static("\"1\""));
        headers.append("link", HeaderValue::from_static("<a>"));
        assert_eq!(KeptHeaders::default().of(&headers).keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["link"]);
    }
}
