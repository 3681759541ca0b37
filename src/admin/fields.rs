//! What a link or a form says: names and values, read and written.

use form_urlencoded::Serializer;

use crate::error::Result;
use crate::key::Key;

/// The names and values of a query or a form.
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    pub(super) fn parse(text: &[u8]) -> Self {
        Self(form_urlencoded::parse(text).into_owned().collect())
    }

    /// The value of this name; empty where there is none.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// The number of this name; none where there is none, or no number.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.get(name).trim().parse().ok()
    }

    /// The operation they name.
    pub(super) fn key(&self) -> Result<Key> {
        Key::new(self.get("scope"), self.get("key"))
    }
}

/// A relative link with these values; what is empty is left out.
pub(super) fn link(page: &str, values: &[(&str, &str)]) -> String {
    let mut query = Serializer::new(String::new());
    query.extend_pairs(values.iter().filter(|(_, value)| !value.is_empty()));
    match query.finish() {
        none if none.is_empty() => page.to_owned(),
        query => format!("{page}?{query}"),
    }
}

/// The link to what this page says of one operation.
pub(super) fn link_to(page: &str, key: &Key, more: &[(&str, &str)]) -> String {
    link(page, &[&[("scope", key.scope()), ("key", key.key())], more].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p9_any_key_survives_its_link() {
        for (scope, key) in [
            ("a&b=c", "%41+ ?#/\\\"'<>"),
            ("../..", "//evil.example"),
            ("\u{202e}txt", "\u{5d0}\u{5d1} \u{1f355}"),
            ("s", &"\u{fffd}".repeat(85)),
        ] {
            let key = Key::new(scope, key).unwrap();
            let link = link_to("operation", &key, &[("done", "")]);
            let query = link.strip_prefix("operation?").unwrap();
            assert!(query.is_ascii() && !query.contains(['<', '>', '"', '\'', ' ', '#', '/']), "{query}");
            assert_eq!(Fields::parse(query.as_bytes()).key().unwrap(), key);
        }
        assert_eq!(link("operations", &[("scope", "")]), "operations");
    }
}
