//! Any head of a request, as lines: its method, its URI, and its headers. It has a key, or none, or a client is told why
//! not; what makes it another request gives it another fingerprint, and nothing else does; and of an answer with such
//! headers none is kept that belongs to a client or a connection.

use std::str;

use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Uri, header};

const KEY: &str = "idempotency-key";
const NEVER_KEPT: [&str; 6] = ["authorization", "cookie", "set-cookie", "connection", "transfer-encoding", "date"];

pub fn run(bytes: &[u8]) {
    let Some(parts) = head(bytes) else { return };
    let lines = parts.headers.get_all(KEY).iter().count();
    let (lenient, fingerprint, kept) = reentry::fuzz_head(&parts, false);
    let (strict, ..) = reentry::fuzz_head(&parts, true);
    match (lines, &lenient) {
        (0, found) => assert_eq!(*found, Ok(None)),
        (1, Ok(None)) => panic!("a key is overlooked"),
        (1, Ok(Some(key))) => {
            assert!((1..=255).contains(&key.len()) && key.bytes().all(|byte| matches!(byte, b' '..=b'~')));
        }
        (1, Err(why)) => assert!(why.is_ascii()),
        (_, found) => assert!(found.is_err(), "one of several keys is taken"),
    }
    assert!(strict.is_err() || strict == lenient, "a head has two keys");
    assert!(kept.keys().all(|name| !NEVER_KEPT.contains(&name.as_str())));
    assert!(kept.keys().all(|name| kept.get_all(name).iter().eq(parts.headers.get_all(name))));
    for (other, is_another) in others(&parts) {
        assert_eq!(reentry::fuzz_head(&other, false).1 != fingerprint, is_another, "{other:?}");
    }
}

/// Heads that are like this one but for one thing, and whether that makes each another request.
fn others(parts: &Parts) -> Vec<(Parts, bool)> {
    let mut others = Vec::new();
    let mut other = |change: &dyn Fn(&mut Parts), is_another| {
        let mut changed = parts.clone();
        change(&mut changed);
        others.push((changed, is_another));
    };
    let get_or_put = if parts.method == Method::PUT { Method::GET } else { Method::PUT };
    other(&|it| it.method = get_or_put.clone(), true);
    other(&|it| _ = it.headers.append(header::CONTENT_TYPE, HeaderValue::from_static("text/plain")), true);
    other(&|it| drop(it.headers.remove(header::CONTENT_TYPE)), parts.headers.contains_key(header::CONTENT_TYPE));
    other(&|it| _ = it.headers.append(KEY, HeaderValue::from_static("another")), false);
    other(&|it| _ = it.headers.append("x-request-id", HeaderValue::from_static("7")), false);
    let (path, query) = (parts.uri.path(), parts.uri.query());
    let longer = format!("{path}{}x", query.map(|query| format!("?{query}")).unwrap_or_default());
    if let Ok(uri) = longer.parse::<Uri>().map_err(drop)
        && (uri.path(), uri.query()) != (path, query)
    {
        other(&|it| it.uri = uri.clone(), true);
    }
    others
}

/// The head that these lines are.
fn head(bytes: &[u8]) -> Option<Parts> {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let (method, uri) = str::from_utf8(lines.next()?).ok()?.split_once(' ')?;
    let (mut parts, ()) = Request::builder().method(method).uri(uri).body(()).ok()?.into_parts();
    for line in lines {
        let at = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = (HeaderName::from_bytes(&line[..at]).ok()?, HeaderValue::from_bytes(&line[at + 1..]).ok()?);
        parts.headers.append(name, value);
    }
    Some(parts)
}
