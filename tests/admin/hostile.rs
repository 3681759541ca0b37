//! What a client sends to be taken for something else: every character of it is shown, as what it is, and does nothing.

use reentry::Key;

use super::html::Document;
use super::server::{Served, completed, in_doubt, link, serve, store};
use super::support::{does, run};

/// Scopes and keys that are allowed, and not meant well.
pub(crate) fn keys() -> Vec<Key> {
    let longest = "\u{202e}".repeat(85);
    let pairs = [
        ("<script>alert(1)</script>", "</title><script>document.title='owned'</script>"),
        ("\"><img src=x onerror=alert(1)>", "' onmouseover='alert(1)"),
        ("&lt;b&gt;", "&amp;&#60;&quot;"),
        ("orders/\u{202e}gnp.exe", "\u{2066}a\u{2069}\u{200f}"),
        ("\u{5d0}\u{5d1}\u{5d2}", "\u{627}\u{644} 123 \u{5d0}"),
        ("  spaces  ", " "),
        ("zero\u{200b}width", "\u{feff}\u{ad}"),
        ("arabic\u{61c}letter\u{2060}joined", "braille\u{2800}hangul\u{3164}\u{115f}\u{1160}\u{ffa0}"),
        ("\u{1f468}\u{200d}\u{1f373}", "a\u{300}\u{301}\u{302}\u{303}\u{304}\u{305}"),
        ("{{7*7}}${7*7}", "javascript:alert(1)//%0d%0aSet-Cookie:a=b"),
        ("../../etc", "?done=forgotten&key=other#top"),
        ("s", &longest),
        ("s", &"w".repeat(255)),
    ];
    pairs.into_iter().map(|(scope, key)| Key::new(scope, key).unwrap()).collect()
}

/// What shows as nothing or as a space, and is no control, no space and no mark of direction that is well known.
const BLANKS: &str = "\u{61c}\u{2060}\u{2800}\u{3164}\u{115f}\u{1160}\u{ffa0}";

pub(crate) const PAYLOADS: [&[u8]; 6] = [
    b"</pre></details><script>document.title='owned'</script>",
    b"\x1b[2J\x1b]0;owned\x07\0\r\n",
    "\u{202e}\u{2066}txt\u{2028}".as_bytes(),
    BLANKS.as_bytes(),
    &[0xff, 0xfe, b'<', b'/', b'p', b'r', b'e', b'>'],
    b"<!--<style>*{display:none}</style>",
];

/// A name that is shown, without the marks of what is invisible in it.
fn is_shown_by(text: &str, name: &str) -> bool {
    let shown: String =
        name.chars().map(|c| if is_plain(c) { c.to_string() } else { c.escape_unicode().to_string() }).collect();
    text.contains(&shown)
}

fn is_plain(c: char) -> bool {
    c == ' '
        || !(c.is_control()
            || c.is_whitespace()
            || "\u{202e}\u{2066}\u{2069}\u{200f}\u{200b}\u{200d}\u{feff}\u{ad}".contains(c)
            || BLANKS.contains(c))
}

/// Nothing on a page but what this page is made of.
#[track_caller]
fn is_harmless(page: &Document, body: &str) {
    for name in ["img", "b", "iframe", "object", "style", "base"] {
        assert_eq!(page.all(name).count(), 0, "{body}");
    }
    assert!(
        page.all("script").all(|script| script.attribute("src") == Some("live.js") && script.text.is_empty()),
        "{body}"
    );
    for element in &page.elements {
        assert!(element.attributes().all(|(name, _)| !name.starts_with("on") && name != "style"), "{body}");
    }
    // Marks of direction and what has no width are on no page, but as their numbers.
    for part in ["main", "title"] {
        let text = &page.all(part).next().unwrap().text;
        assert!(!text.contains(|c| !is_plain(c) && c != '\n'), "{body}");
    }
}

fn page(served: &Served, link: &str) -> Document {
    let got = served.get_as("writer", link);
    let page = got.document();
    is_harmless(&page, &got.body);
    page
}

#[test]
fn p9_any_key_is_shown_whole_does_nothing_and_leads_to_its_own_operation() {
    let (store, _clock) = store();
    let served = serve(&store);
    for key in keys() {
        in_doubt(&store, &key, key.scope());
        let list = page(&served, "operations");
        let leads =
            list.all("a").filter(|link| is_shown_by(&link.text, key.key())).find(|a| is_shown_by(&a.text, key.scope()));
        let leads = leads.unwrap_or_else(|| panic!("{} is not listed", key.key())).attribute("href").unwrap();
        let operation = page(&served, leads);
        assert!(
            is_shown_by(operation.text(), key.key()) && is_shown_by(operation.text(), key.scope()),
            "{}",
            operation.text()
        );
        assert!(operation.all("bdi").any(|bdi| is_shown_by(&bdi.text, key.key())), "a key turns nothing around it");
        let resolve = page(&served, operation.link("Resolve"));
        let hidden = resolve.hidden();
        let hidden = |name: &str| hidden.iter().find(|(known, _)| known == name).unwrap().1.clone();
        assert_eq!(
            (hidden("scope"), hidden("key"), hidden("step")),
            (key.scope().into(), key.key().into(), key.scope().into())
        );
        let answer = [("happened", "no"), ("form", "text"), ("note", "n"), ("result", "")];
        let done = served.act(operation.link("Resolve"), &answer);
        assert!(page(&served, done.location()).text().contains("Resolved"));
        let forgotten = served.act(&link("forget", &key, &[]), &[("sure", "yes")]);
        assert!(page(&served, forgotten.location()).text().contains("Forgotten"));
        assert!(store.progress(&key).unwrap().is_none());
    }
}

#[test]
fn p9_any_payload_name_and_note_is_shown_as_what_it_is() {
    let (store, _clock) = store();
    let served = serve(&store);
    for (nth, payload) in PAYLOADS.into_iter().enumerate() {
        let key = Key::new("s", nth.to_string()).unwrap();
        let mut run = run(&store, &key);
        let name = "<script>alert(1)</script>\u{202e}";
        does(&mut run, name, "</td></tr></table><h1>owned</h1>");
        run.advance(name, &payload.to_vec()).wait().unwrap();
        drop(run.complete(&payload.to_vec()).wait().unwrap());
        let page = page(&served, &link("operation", &key, &[]));
        assert_eq!(page.all("h1").count(), 1);
        assert_eq!(page.all("pre").count(), 3);
    }
    let noted = Key::new("s", "noted").unwrap();
    in_doubt(&store, &noted, "charge");
    let note = "</q><script>alert(1)</script>\u{202e}";
    let answer = [("happened", "no"), ("form", "text"), ("note", note), ("result", "")];
    let done = served.act(&link("resolve", &noted, &[("step", "charge")]), &answer);
    assert!(is_shown_by(page(&served, done.location()).text(), note));
}

#[test]
fn p9_what_a_link_says_is_not_repeated_as_anything_but_text() {
    let (store, _clock) = store();
    completed(&store, &Key::new("s", "k").unwrap(), "receipt");
    let served = serve(&store);
    let base = reqwest::Url::parse("http://localhost/").unwrap();
    for value in [
        "\"><script>alert(1)</script>",
        "'\" onfocus=alert(1) autofocus=",
        "\u{202e}&lt;",
        "-1",
        "99999999999999999999",
    ] {
        for name in
            ["state", "scope", "key", "checkpoint", "minutes", "after", "part", "done", "refresh", "step", "unknown"]
        {
            for link in ["operations", "operation?scope=s&key=k", "overview", "forget?scope=s&key=k"] {
                let mut url = base.join(link).unwrap();
                url.query_pairs_mut().append_pair(name, value);
                let got = served.get_as("writer", &url.as_str()[base.as_str().len()..]);
                let page = got.document();
                assert!(page.all("script").all(|script| script.attribute("src") == Some("live.js")), "{url}");
                assert!(
                    page.elements.iter().all(|it| it.attributes().all(|(name, _)| !name.starts_with("on"))),
                    "{url}"
                );
                assert!(page.elements.iter().all(|it| it.attribute("autofocus").is_none()), "{url}");
            }
        }
    }
}
