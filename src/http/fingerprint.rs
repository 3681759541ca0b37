//! What binds a key to one request: a digest over the parts of it that make two requests the same request.
//!
//! Invariant: every part is prefixed by its length, and by how often it is there, so no two requests that differ in one
//! of them are ever alike.

use std::fmt;
use std::sync::Arc;

use blake3::Hasher;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, header};

use crate::key::{Algorithm, Fingerprint};

/// What these digests are of, so that none is ever that of something else.
const CONTEXT: &str = "reentry 2026-11 http request v1";

type OfRequest = dyn Fn(&Parts, &[u8]) -> Fingerprint + Send + Sync;

/// What goes into the fingerprint.
#[derive(Clone)]
pub(super) enum Parting {
    /// Name of the layer, method, path, query, these headers and the body.
    Of(Vec<HeaderName>),
    /// What the server says.
    Own(Arc<OfRequest>),
}

impl Default for Parting {
    fn default() -> Self {
        Self::Of(vec![header::CONTENT_TYPE])
    }
}

impl Parting {
    /// The fingerprint of a request.
    pub(super) fn fingerprint(&self, name: &str, parts: &Parts, body: &[Bytes]) -> Fingerprint {
        let headers = match self {
            Self::Own(of_request) => return of_request(parts, &body.concat()),
            Self::Of(headers) => headers,
        };
        let mut hasher = Hasher::new_derive_key(CONTEXT);
        let method = parts.method.as_str();
        for part in [name, method, parts.uri.path()] {
            add(&mut hasher, [part]);
        }
        add(&mut hasher, parts.uri.query());
        for header in headers {
            add(&mut hasher, parts.headers.get_all(header).iter().collect::<Vec<_>>());
        }
        // What comes last needs no length.
        for chunk in body {
            hasher.update(chunk);
        }
        Fingerprint { algorithm: Algorithm::Blake3, digest: *hasher.finalize().as_bytes() }
    }

    /// What it is made of, in words to publish.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Own(_) => "the parts that this service documents".to_owned(),
            Self::Of(headers) => {
                let headers = headers.iter().map(|header| format!("the header `{header}`"));
                let parts = ["method", "path", "query"].map(str::to_owned).into_iter().chain(headers);
                format!("{} and body", parts.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

impl fmt::Debug for Parting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

/// Adds one part: how many values it has, and each with its length.
fn add<V: AsRef<[u8]>>(hasher: &mut Hasher, values: impl IntoIterator<Item = V, IntoIter: ExactSizeIterator>) {
    let values = values.into_iter();
    hasher.update(&count(values.len()));
    for value in values {
        hasher.update(&count(value.as_ref().len())).update(value.as_ref());
    }
}

fn count(count: usize) -> [u8; 8] {
    (count as u64).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use http::Request;

    use super::*;

    fn of(method: &str, uri: &str, content_types: &[&str], body: &[&str]) -> Fingerprint {
        let mut request = Request::builder().method(method).uri(uri);
        for content_type in content_types {
            request = request.header("content-type", *content_type);
        }
        let (parts, ()) = request.header("date", "today").body(()).unwrap().into_parts();
        let body: Vec<_> = body.iter().map(|chunk| Bytes::copy_from_slice(chunk.as_bytes())).collect();
        Parting::default().fingerprint("", &parts, &body)
    }

    #[test]
    fn every_part_counts_and_its_borders_too() {
        let json: &[&str] = &["application/json"];
        let same = of("POST", "/orders?a=b", json, &["body"]);
        assert_eq!(same, of("POST", "/orders?a=b", json, &["bo", "dy"]), "how it is cut by the network says nothing");
        for other in [
            of("PATCH", "/orders?a=b", json, &["body"]),
            of("POST", "/order?a=b", json, &["body"]),
            of("POST", "/orders?a=", json, &["body"]),
            of("POST", "/orders", json, &["body"]),
            of("POST", "/orders?a=b", &[], &["body"]),
            of("POST", "/orders?a=b", &["application/jso"], &["nbody"]),
            of("POST", "/orders?a=b", &["application/json", ""], &["body"]),
            of("POST", "/orders?a=b", json, &["bodi"]),
            of("POST", "/orders?a=b", json, &[]),
        ] {
            assert_ne!(same, other);
        }
        assert_ne!(of("POST", "/orders?", json, &[]), of("POST", "/orders", json, &[]), "no query, or an empty one");
    }

    /// Each byte of each part counts, wherever it stands.
    #[test]
    fn p5_no_byte_of_a_request_may_be_another() {
        let text = |letter: u8| String::from_utf8(vec![letter; 100]).unwrap();
        let parts = [text(b'P'), format!("/{}", text(b'p')), text(b'q'), text(b'h')];
        let body = vec![b'b'; 1_000];
        let of = |[method, path, query, header]: &[String; 4], body: &[u8]| {
            let request = Request::builder().method(method.as_str()).uri(format!("{path}?{query}"));
            let (parts, ()) = request.header("content-type", header).body(()).unwrap().into_parts();
            let chunks: Vec<_> = body.chunks(300).map(Bytes::copy_from_slice).collect();
            Parting::default().fingerprint("", &parts, &chunks)
        };
        let (mut seen, mut tried) = (HashSet::from([of(&parts, &body).digest]), 1);
        for (part, is_path) in [(0, false), (1, true), (2, false), (3, false)] {
            for at in usize::from(is_path)..parts[part].len() {
                for other in [b'A', b'a', b'9'] {
                    let mut changed = parts.clone();
                    changed[part].replace_range(at..=at, std::str::from_utf8(&[other]).unwrap());
                    (tried, _) = (tried + 1, seen.insert(of(&changed, &body).digest));
                }
            }
        }
        for at in 0..body.len() {
            for flipped in [1, 0x80] {
                let mut changed = body.clone();
                changed[at] ^= flipped;
                (tried, _) = (tried + 1, seen.insert(of(&parts, &changed).digest));
            }
        }
        assert_eq!(seen.len(), tried);
    }

    /// Where each of two headers may be missing, and the query too, none is taken for another.
    #[test]
    fn p5_what_is_missing_counts_in_its_place() {
        let headers = ["x-a", "x-b"].map(HeaderName::from_static);
        let of = |uri: &str, of: &[(&str, &str)]| {
            let request = Request::post(uri);
            let request = of.iter().fold(request, |request, (name, value)| request.header(*name, *value));
            let (parts, ()) = request.body(()).unwrap().into_parts();
            Parting::Of(headers.to_vec()).fingerprint("", &parts, &[])
        };
        assert_ne!(of("/p", &[("x-a", "x")]), of("/p", &[("x-b", "x")]));
        assert_ne!(of("/p?x", &[]), of("/p", &[("x-a", "x")]));
        assert_ne!(of("/p", &[("x-a", "x"), ("x-a", "y")]), of("/p", &[("x-a", "x"), ("x-b", "y")]));
    }

    /// It is kept with each operation: another digest of the same request would refuse every retry after an upgrade.
    #[test]
    fn p5_the_fingerprint_of_a_request_is_the_same_for_ever() {
        let shown = blake3::Hash::from(of("POST", "/orders?a=b", &["application/json"], &["body"]).digest).to_hex();
        assert_eq!(shown.as_str(), "c32642c2ebb7abc2e2303cfd62c2a1f2ca93020db081601e0e90a49846279426");
    }

    #[test]
    fn the_name_and_the_servers_own_choice_of_parts_count() {
        let (parts, ()) = Request::post("/orders").header("x-version", "1").body(()).unwrap().into_parts();
        let body = [Bytes::from_static(b"body")];
        let parting = Parting::default();
        assert_ne!(parting.fingerprint("a", &parts, &body), parting.fingerprint("b", &parts, &body));
        let own = Parting::Own(Arc::new(|_: &Parts, body: &[u8]| Fingerprint::of(body)));
        assert_eq!(own.fingerprint("a", &parts, &body), Fingerprint::of("body"));
        let with_header = Parting::Of(vec![HeaderName::from_static("x-version")]);
        assert_ne!(with_header.fingerprint("a", &parts, &body), parting.fingerprint("a", &parts, &body));
    }
}
