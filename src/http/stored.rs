//! An answer as it is kept: the outcome of an operation that a handler of HTTP ended.
//!
//! Its bytes are written down in `docs/format.md` and held by golden bytes. Invariants:
//! 1. An answer has one form in bytes, and whatever is read would be written in the same bytes.
//! 2. Every length is checked against the bytes that are there before anything is claimed for it.
//! 3. Nothing comes out that could not stand in a response, and no header that is never kept.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use super::policy::may_be_kept;
use crate::error::{Error, ErrorKind, Result};
use crate::payload::Payload;

/// What a kept answer begins with. No text does, nor any value of JSON.
const MAGIC: [u8; 7] = *b"\0reHTTP";
const VERSION: u8 = 1;
const CAPTURED: u8 = 0;
const NOT_CAPTURED: u8 = 1;

/// Headers, and trailers, of one answer at most.
const FIELDS_MAX: usize = 1024;

/// What all of an answer but its body may take: the layer lets a kept answer be larger than a payload by so much, so
/// that a body of the largest size is kept with its headers.
pub(super) const BYTES_BESIDE_BODY_MAX: usize = 64 * 1024;

/// What a field's name and value take beside themselves.
const FIELD_BYTES_BESIDE: usize = 2 + 4;
/// What an answer takes beside its fields and its body.
const BYTES_BESIDE: usize = MAGIC.len() + 1 + 1 + 2 + 2 + 2 + 4;

/// An answer that is kept as the outcome of an operation, and replayed to every later copy of the request.
///
/// The layer makes one of what a handler returns. A handler that ends its run by itself, to write rows of its own in
/// the same commit, makes one too, as does the function of a [`Resumer`](crate::Resumer):
///
/// ```
/// use http::{HeaderValue, StatusCode, header};
/// use reentry::http::StoredResponse;
/// use reentry::{Claim, Fingerprint, Key, Store, Table};
///
/// let store = Store::builder().in_memory()?;
/// let claim = store.claim(&Key::new("orders", "1")?, Fingerprint::of("two pizzas")).wait()?;
/// let Claim::Run(mut run) = claim else { panic!("it is new") };
/// let answer = StoredResponse::new(StatusCode::CREATED, r#"{"order":7}"#)
///     .header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
/// run.complete_with(&answer, |tx| {
///     tx.open_table(Table::new("orders"))?.insert("7", "two pizzas")?;
///     Ok(())
/// })
/// .wait()?;
/// # Ok::<(), reentry::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredResponse {
    status: StatusCode,
    /// None where the answer was passed on without being kept.
    content: Option<Content>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Content {
    headers: HeaderMap,
    trailers: HeaderMap,
    body: Bytes,
}

impl StoredResponse {
    /// An answer of this status, with this body and no headers so far.
    pub fn new(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self { status, content: Some(Content { body: body.into(), ..Content::default() }) }
    }

    /// Adds a header. One that is never kept (`Set-Cookie`, `Authorization`, `Date`, `Content-Length`, those of the
    /// connection) is left out.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        if let Some(content) = self.content.as_mut().filter(|_| may_be_kept(&name)) {
            content.headers.append(name, value);
        }
        self
    }

    pub(super) fn captured(status: StatusCode, headers: HeaderMap, trailers: HeaderMap, body: Bytes) -> Self {
        Self { status, content: Some(Content { headers, trailers, body }) }
    }

    pub(super) fn not_captured(status: StatusCode) -> Self {
        Self { status, content: None }
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Whether the answer is kept. Where it is not, the operation is over, and what it was answered went by.
    pub fn is_captured(&self) -> bool {
        self.content.is_some()
    }

    /// Its body; nothing where the answer is not kept.
    pub fn body(&self) -> &[u8] {
        self.content.as_ref().map_or(&[], |content| &content.body)
    }

    /// The response, without the trailers of gRPC.
    pub fn into_response<B: From<Bytes>>(self) -> Response<B> {
        let (response, _) = self.into_parts();
        response.map(B::from)
    }

    /// The response, and its trailers.
    pub(super) fn into_parts(self) -> (Response<Bytes>, HeaderMap) {
        let Content { headers, trailers, body } = self.content.unwrap_or_default();
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        *response.headers_mut() = headers;
        (response, trailers)
    }

    /// Whether it can be kept where a body may have so many bytes.
    pub(super) fn fits(&self, body_bytes_max: usize) -> bool {
        let has_few = |content: &Content| content.headers.len().max(content.trailers.len()) <= FIELDS_MAX;
        let (body, is_few) = (self.body().len(), self.content.as_ref().is_none_or(has_few));
        is_few && body <= body_bytes_max && self.bytes() - body <= BYTES_BESIDE_BODY_MAX
    }

    /// How many bytes it takes when it is kept.
    fn bytes(&self) -> usize {
        let of_fields = |fields: &HeaderMap| -> usize {
            fields.iter().map(|(name, value)| FIELD_BYTES_BESIDE + name.as_str().len() + value.len()).sum()
        };
        let content = self.content.as_ref();
        BYTES_BESIDE + content.map_or(0, |c| of_fields(&c.headers) + of_fields(&c.trailers) + c.body.len())
    }
}

/// Fails with [`ErrorKind::Codec`] where there are more headers, or larger ones, than lengths can say; and, decoding,
/// where the bytes are no kept answer or one of a newer version.
impl Payload for StoredResponse {
    fn encode(&self) -> Result<Vec<u8>> {
        let nothing = Content::default();
        let (kind, content) = match &self.content {
            Some(content) => (CAPTURED, content),
            None => (NOT_CAPTURED, &nothing),
        };
        let mut bytes = Vec::with_capacity(self.bytes());
        bytes.extend(MAGIC);
        bytes.extend([VERSION, kind]);
        bytes.extend(self.status.as_u16().to_le_bytes());
        for fields in [&content.headers, &content.trailers] {
            if fields.len() > FIELDS_MAX {
                return Err(codec("it has too many headers"));
            }
            bytes.extend(short(fields.len())?.to_le_bytes());
            for (name, value) in fields {
                bytes.extend(short(name.as_str().len())?.to_le_bytes());
                bytes.extend(long(value.len())?.to_le_bytes());
                bytes.extend(name.as_str().as_bytes());
                bytes.extend(value.as_bytes());
            }
        }
        bytes.extend(long(content.body.len())?.to_le_bytes());
        bytes.extend(&content.body);
        Ok(bytes)
    }

    fn bytes_min(&self) -> usize {
        self.bytes()
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let Some(rest) = bytes.strip_prefix(&MAGIC) else { return Err(codec("they hold no answer of HTTP")) };
        match rest.first() {
            Some(&VERSION) => {}
            Some(newer) if *newer > VERSION => return Err(codec("they were kept by a newer version of this crate")),
            _ => return Err(damaged()),
        }
        Reader(rest).response().ok_or_else(damaged)
    }
}

/// Whether these bytes say that they are a kept answer, of whatever version.
pub(super) fn is_kept_answer(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

fn short(length: usize) -> Result<u16> {
    u16::try_from(length).map_err(|_| codec("there are too many headers, or their names are too long"))
}

fn long(length: usize) -> Result<u32> {
    u32::try_from(length).map_err(|_| codec("a header or the body is too long"))
}

fn codec(why: &str) -> Error {
    Error::new(ErrorKind::Codec, format!("a kept answer cannot be written or read: {why}"))
}

fn damaged() -> Error {
    codec("its bytes are damaged")
}

/// The bytes that are still to be read; none once something does not fit.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    /// All of a kept answer from its version on.
    fn response(mut self) -> Option<StoredResponse> {
        let [_version, kind] = self.array()?;
        let status = StatusCode::from_u16(u16::from_le_bytes(self.array()?)).ok()?;
        let (headers, trailers) = (self.fields()?, self.fields()?);
        let length = u32::from_le_bytes(self.array()?);
        let body = self.take(length)?;
        if !self.0.is_empty() {
            return None;
        }
        let content = Content { headers, trailers, body: Bytes::copy_from_slice(body) };
        match kind {
            CAPTURED => Some(StoredResponse { status, content: Some(content) }),
            NOT_CAPTURED if content == Content::default() => Some(StoredResponse::not_captured(status)),
            _ => None,
        }
    }

    fn fields(&mut self) -> Option<HeaderMap> {
        let count = u16::from_le_bytes(self.array()?);
        if usize::from(count) > FIELDS_MAX {
            return None;
        }
        let (mut fields, mut last) = (HeaderMap::new(), None);
        for _ in 0..count {
            let name_length = u16::from_le_bytes(self.array()?);
            let value_length = u32::from_le_bytes(self.array()?);
            let (name, value) = (self.take(name_length.into())?, self.take(value_length)?);
            let parsed = HeaderName::from_bytes(name).ok().filter(may_be_kept)?;
            // Values of one name stand together.
            let is_apart = fields.contains_key(&parsed) && last.as_ref() != Some(&parsed);
            if parsed.as_str().as_bytes() != name || is_apart {
                return None;
            }
            fields.try_append(parsed.clone(), HeaderValue::from_bytes(value).ok()?).ok()?;
            last = Some(parsed);
        }
        Some(fields)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn take(&mut self, length: u32) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VALUE: HeaderValue = HeaderValue::from_static("text/plain");

    fn golden() -> StoredResponse {
        StoredResponse::new(StatusCode::CREATED, "ok").header(http::header::CONTENT_TYPE, VALUE)
    }

    const GOLDEN: &[u8] = b"\0reHTTP\x01\x00\xc9\x00\
        \x01\x00\x0c\x00\x0a\x00\x00\x00content-typetext/plain\
        \x00\x00\x02\x00\x00\x00ok";

    #[test]
    fn an_answer_is_kept_in_these_bytes() {
        assert_eq!(golden().encode().unwrap(), GOLDEN);
        assert_eq!(StoredResponse::decode(GOLDEN).unwrap(), golden());
        assert_eq!([golden().bytes(), golden().bytes_min()], [GOLDEN.len(); 2]);
        assert_eq!((golden().status(), golden().body()), (StatusCode::CREATED, &b"ok"[..]));
        let not_captured = b"\0reHTTP\x01\x01\xc8\x00\x00\x00\x00\x00\x00\x00\x00\x00";
        assert_eq!(StoredResponse::not_captured(StatusCode::OK).encode().unwrap(), not_captured);
        assert!(!StoredResponse::decode(not_captured).unwrap().is_captured());
    }

    #[test]
    fn p9_a_header_that_is_never_kept_is_left_out() {
        for name in ["set-cookie", "authorization", "date", "content-length", "connection"] {
            assert_eq!(golden().header(HeaderName::from_static(name), VALUE), golden(), "{name}");
        }
    }

    #[test]
    fn repeated_headers_no_text_and_trailers_come_back() {
        let mut headers = HeaderMap::new();
        headers.append("link", HeaderValue::from_static("<a>"));
        headers.append("link", HeaderValue::from_static("<b>"));
        headers.append("etag", HeaderValue::from_bytes(b"\xfe\xff").unwrap());
        let mut trailers = HeaderMap::new();
        trailers.append("grpc-status", HeaderValue::from_static("0"));
        let kept = StoredResponse::captured(StatusCode::OK, headers, trailers, Bytes::from_static(&[0, 255]));
        let bytes = kept.encode().unwrap();
        assert_eq!((StoredResponse::decode(&bytes).unwrap(), kept.bytes_min()), (kept, bytes.len()));
    }

    #[test]
    fn every_cut_and_every_byte_too_many_is_an_error() {
        for length in 0..GOLDEN.len() {
            assert!(StoredResponse::decode(&GOLDEN[..length]).is_err(), "{length}");
        }
        assert!(StoredResponse::decode(&[GOLDEN, b"x"].concat()).is_err());
    }

    #[test]
    fn a_newer_version_is_named_and_what_is_no_answer_is_told_apart() {
        let mut newer = GOLDEN.to_vec();
        newer[MAGIC.len()] = 2;
        let error = StoredResponse::decode(&newer).unwrap_err();
        assert!(error.kind() == ErrorKind::Codec && error.to_string().contains("newer"), "{error}");
        newer[MAGIC.len()] = 0;
        let error = StoredResponse::decode(&newer).unwrap_err();
        assert!(error.kind() == ErrorKind::Codec && error.to_string().contains("damaged"), "{error}");
        assert!(is_kept_answer(&newer) && !is_kept_answer(b"{}") && !is_kept_answer(b""));
    }

    #[test]
    fn a_length_that_lies_claims_nothing() {
        for at in [11, 13, 15, 16, 17, 18, 41, 43, 46] {
            let mut lying = GOLDEN.to_vec();
            lying[at] = 0xff;
            assert!(StoredResponse::decode(&lying).is_err(), "{at}");
        }
    }

    #[test]
    fn what_could_split_a_response_or_is_never_kept_does_not_come_out() {
        let with = |name: &[u8], value: &[u8]| {
            let mut bytes = b"\0reHTTP\x01\x00\xc8\x00\x01\x00".to_vec();
            bytes.extend(short(name.len()).unwrap().to_le_bytes());
            bytes.extend(long(value.len()).unwrap().to_le_bytes());
            bytes.extend([name, value, &[0; 6]].concat());
            StoredResponse::decode(&bytes)
        };
        assert!(with(b"etag", b"x").is_ok());
        for (name, value) in [
            (&b"etag"[..], &b"x\r\nset-cookie: a"[..]),
            (b"etag", b"\0"),
            (b"etag\r\n", b"x"),
            (b"e tag", b"x"),
            (b"", b"x"),
            (b"ETag", b"x"),
            (b"set-cookie", b"x"),
            (b"content-length", b"7"),
        ] {
            assert!(with(name, value).is_err(), "{name:?}: {value:?}");
        }
    }

    /// More names than a map of headers takes would be a panic.
    #[test]
    fn more_headers_than_are_kept_are_an_error_and_no_panic() {
        let with = |count: u16| {
            let mut bytes = [b"\0reHTTP\x01\x00\xc8\x00", &count.to_le_bytes()[..]].concat();
            for nth in 0..count {
                bytes.extend([&[5, 0, 0, 0, 0, 0], format!("h{nth:04x}").as_bytes()].concat());
            }
            bytes.extend([0; 6]);
            StoredResponse::decode(&bytes)
        };
        let most = with(1_024).unwrap();
        assert!(most.fits(0));
        let over = most.header(http::header::ETAG, VALUE);
        assert!(!over.fits(usize::MAX) && over.encode().is_err());
        for count in [1_025, u16::MAX] {
            assert_eq!(with(count).unwrap_err().kind(), ErrorKind::Codec);
        }
    }

    #[test]
    fn what_fits_is_exact_for_the_body_and_for_what_is_beside_it() {
        assert!(golden().fits(2) && !golden().fits(1));
        let with = |bytes: usize| {
            let value = HeaderValue::try_from("x".repeat(bytes)).unwrap();
            StoredResponse::new(StatusCode::OK, "ok").header(http::header::ETAG, value)
        };
        let most = BYTES_BESIDE_BODY_MAX - BYTES_BESIDE - FIELD_BYTES_BESIDE - "etag".len();
        assert!(with(most).fits(2) && !with(most + 1).fits(2));
    }

    #[test]
    fn values_of_one_name_that_stand_apart_are_not_what_was_kept() {
        let fields = |names: &[u8]| {
            let mut bytes = b"\0reHTTP\x01\x00\xc8\x00".to_vec();
            bytes.extend(short(names.len()).unwrap().to_le_bytes());
            for name in names {
                bytes.extend([1, 0, 1, 0, 0, 0, *name, b'v']);
            }
            bytes.extend([0; 6]);
            StoredResponse::decode(&bytes)
        };
        assert!(fields(b"aab").is_ok() && fields(b"aba").is_err());
    }

    proptest! {
        /// Whatever is read would be written in the same bytes.
        #[test]
        fn damaged_bytes_are_an_error_or_one_answer(at in 0..GOLDEN.len(), byte: u8, more in 0..GOLDEN.len()) {
            let mut bytes = GOLDEN.to_vec();
            bytes[at] = byte;
            bytes[more] = bytes[more].wrapping_add(1);
            if let Ok(read) = StoredResponse::decode(&bytes) {
                prop_assert_eq!(read.encode().unwrap(), bytes);
            }
        }
    }
}
