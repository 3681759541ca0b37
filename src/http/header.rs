//! The header that carries the client's key.
//!
//! Invariants:
//! 1. One key has one form behind this: a bare value and its quoted form are the same key, and no other two values are.
//! 2. What comes out is 1 to 255 printable ASCII characters, so nothing of it can break a line of a log or a header.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};
use sfv::{Parser, StringRef};

/// Longest key, in characters; the store's own limit.
const KEY_CHARACTERS_MAX: usize = 255;

/// What a header may look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syntax {
    /// A String of structured fields, or a bare value.
    Lenient,
    /// A String of structured fields and nothing else.
    Strict,
}

/// Why a header holds no key, in words for its client. The words hold nothing of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("there is more than one header line; send one key")]
    SeveralLines,
    #[error("the key is empty; send 1 to 255 characters")]
    Empty,
    #[error("the key has more than 255 characters")]
    TooLong,
    #[error("the header holds control or non-ASCII characters; send printable ASCII")]
    NotPrintable,
    #[error(
        "the header is neither a String of structured fields, \"key\", nor a bare value without spaces, quotes, \
             backslashes, brackets, commas and semicolons"
    )]
    NotAKey,
    #[error("the header is not a String of structured fields; send the key in double quotes")]
    NotAString,
}

/// The key that a request carries; none where the header is not there.
pub(super) fn key<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
    syntax: Syntax,
) -> Result<Option<Cow<'h, str>>, Malformed> {
    let mut lines = headers.get_all(name).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return Err(Malformed::SeveralLines);
    }
    let line = line.as_bytes();
    if !line.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err(Malformed::NotPrintable);
    }
    let line = line.trim_ascii();
    let key = match (line, syntax) {
        ([], _) => return Err(Malformed::Empty),
        ([b'"', ..], _) => string(line).ok_or(Malformed::NotAString)?,
        (_, Syntax::Strict) => return Err(Malformed::NotAString),
        (_, Syntax::Lenient) => Cow::Borrowed(bare(line).ok_or(Malformed::NotAKey)?),
    };
    match key.len() {
        0 => Err(Malformed::Empty),
        n if n > KEY_CHARACTERS_MAX => Err(Malformed::TooLong),
        _ => Ok(Some(key)),
    }
}

/// The key that one line is.
#[cfg(feature = "testing")]
pub(crate) fn key_line(line: &[u8], is_strict: bool) -> Option<String> {
    let name = HeaderName::from_static("idempotency-key");
    let value = http::HeaderValue::from_bytes(line).ok()?;
    key_of(&HeaderMap::from_iter([(name, value)]), is_strict).ok()?
}

/// The key that a request carries, or why it carries none.
#[cfg(feature = "testing")]
pub(super) fn key_of(headers: &HeaderMap, is_strict: bool) -> Result<Option<String>, String> {
    let syntax = if is_strict { Syntax::Strict } else { Syntax::Lenient };
    let found = key(headers, &HeaderName::from_static("idempotency-key"), syntax);
    found.map(|key| key.map(Cow::into_owned)).map_err(|malformed| malformed.to_string())
}

/// What stands in a String of structured fields (RFC 9651, section 3.3.3). Its parameters say nothing, and must be
/// well-formed.
fn string(line: &[u8]) -> Option<Cow<'_, str>> {
    match Parser::new(line).parse_item::<Cow<'_, StringRef>>().ok()? {
        Cow::Borrowed(text) => Some(Cow::Borrowed(text.as_str())),
        Cow::Owned(text) => Some(Cow::Owned(text.into())),
    }
}

/// A bare value: what clients send that know nothing of structured fields. None of its characters means anything in a
/// header, so it cannot be taken for a list or for parameters.
fn bare(line: &[u8]) -> Option<&str> {
    let means_something = |byte: &u8| matches!(byte, b' ' | b'"' | b'\\' | b',' | b';' | b'(' | b')');
    if line.iter().any(means_something) { None } else { std::str::from_utf8(line).ok() }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const NAME: HeaderName = HeaderName::from_static("idempotency-key");

    fn read(lines: &[&[u8]], syntax: Syntax) -> Result<Option<String>, Malformed> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(NAME, HeaderValue::from_bytes(line).unwrap());
        }
        key(&headers, &NAME, syntax).map(|key| key.map(Cow::into_owned))
    }

    fn lenient(line: &str) -> Result<Option<String>, Malformed> {
        read(&[line.as_bytes()], Syntax::Lenient)
    }

    #[test]
    fn a_bare_value_is_the_same_key_as_its_quoted_form() {
        for bare in ["k", "8e03978e-40d5-43dd-bc93-6894a57f9324", "YWJj+/=", ":YWJj:", "?1", "12.5", "a:b", "{k}"] {
            assert_eq!(lenient(bare), Ok(Some(bare.to_owned())), "{bare}");
            assert_eq!(lenient(&format!("\"{bare}\"")), Ok(Some(bare.to_owned())), "{bare}");
            assert_eq!(lenient(&format!("  \"{bare}\"  ")), Ok(Some(bare.to_owned())), "{bare}");
        }
    }

    #[test]
    fn escapes_are_resolved_and_parameters_say_nothing() {
        assert_eq!(lenient(r#""a\"b\\c""#), Ok(Some(r#"a"b\c"#.to_owned())));
        assert_eq!(lenient(r#""a, b; c""#), Ok(Some("a, b; c".to_owned())));
        assert_eq!(lenient(r#""k";a=1;b="x";c"#), Ok(Some("k".to_owned())));
        assert_eq!(lenient(r#""k";a=("x")"#), Err(Malformed::NotAString));
        assert_eq!(lenient(r#""k";A=1"#), Err(Malformed::NotAString));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for line in [r#""k"#, r#"k""#, r#""a\b""#, r#""a" "b""#, r#""a", "b""#, r#""k"x"#, r#""a\"#] {
            assert!(matches!(lenient(line), Err(Malformed::NotAString | Malformed::NotAKey)), "{line}");
        }
        for line in ["a,b", "a, b", "a b", "(a b)", "k;a=1", r"a\b", "a\"b"] {
            assert_eq!(lenient(line), Err(Malformed::NotAKey), "{line}");
        }
        for line in ["", " ", "\"\""] {
            assert_eq!(lenient(line), Err(Malformed::Empty), "{line:?}");
        }
        for line in [&b"a\tb"[..], b"\"\xc3\xa4\"", b"\xff", b"k\x80"] {
            assert_eq!(read(&[line], Syntax::Lenient), Err(Malformed::NotPrintable), "{line:?}");
        }
        assert_eq!(read(&[b"a", b"a"], Syntax::Lenient), Err(Malformed::SeveralLines));
        assert_eq!(read(&[], Syntax::Lenient), Ok(None));
    }

    #[test]
    fn the_limit_counts_characters_of_the_key_and_not_of_the_header() {
        let (most, more) = ("k".repeat(255), "k".repeat(256));
        assert_eq!(lenient(&most), Ok(Some(most.clone())));
        assert_eq!(lenient(&format!("\"{most}\"")), Ok(Some(most)));
        assert_eq!(lenient(&more), Err(Malformed::TooLong));
        assert_eq!(lenient(&format!("\"{more}\"")), Err(Malformed::TooLong));
        let escaped = format!("\"{}\"", r#"\""#.repeat(255));
        assert_eq!(lenient(&escaped), Ok(Some("\"".repeat(255))));
    }

    #[test]
    fn strict_takes_only_the_string() {
        let strict = |line: &str| read(&[line.as_bytes()], Syntax::Strict);
        assert_eq!(strict("\"k\";a=1"), Ok(Some("k".to_owned())));
        for line in ["k", "1", "1.5", "?1", ":YWJj:", "@1659578233", "%\"k\"", "(\"k\")", "\"a\", \"b\""] {
            assert_eq!(strict(line), Err(Malformed::NotAString), "{line}");
        }
    }
}
