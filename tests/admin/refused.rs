//! Who gets nothing, and what is not done.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::StatusCode;
use http::request::Parts;
use reentry::State;
use reentry::admin::{Access, Page};

use super::server::{Served, completed, in_doubt, link, owned, owned_by, serve, serve_page, store, stuck};
use super::support::key;

const PAGES: [&str; 14] = [
    "",
    "overview",
    "live",
    "operations",
    "operation?scope=scope&key=k",
    "resolve?scope=scope&key=k&step=charge",
    "release?scope=scope&key=k",
    "revoke?scope=scope&key=k",
    "forget?scope=scope&key=k",
    "style.css",
    "live.js",
    "icon.svg",
    "nothing-here",
    "a/b",
];

const SAME: (&str, &str) = ("sec-fetch-site", "same-origin");

#[test]
fn p9_nobody_is_shown_anything_before_the_servers_hook_allows_it() {
    let (store, _clock) = store();
    in_doubt(&store, &key("k"), "charge");
    let served = serve(&store);
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let counting = serve_page(Page::new(&store).authorize(move |_: &Parts| {
        counted.fetch_add(1, Ordering::SeqCst);
        Access::Read
    }));
    for page in PAGES {
        let got = served.get_as("nobody", page);
        assert_eq!(got.status, StatusCode::FORBIDDEN, "{page}");
        assert!(!got.body.contains("charge") && !got.body.contains("color-scheme:"), "{page}");
        let before = asked.load(Ordering::SeqCst);
        counting.get_as("whoever", page);
        assert_eq!(asked.load(Ordering::SeqCst), before + 1, "{page}");
    }
    assert_eq!(served.post_as("nobody", "forget", &[], &[SAME]).status, StatusCode::FORBIDDEN);
}

#[test]
fn who_may_only_read_is_offered_no_act_and_can_do_none() {
    let (store, _clock) = store();
    in_doubt(&store, &key("k"), "charge");
    let (served, only_reads) = (serve(&store), serve_page(Page::new(&store).authorize(super::server::by_header)));
    let mut form = served.get(&link("forget", &key("k"), &[])).hidden();
    form.extend(owned(&[("sure", "yes")]));
    for (served, who) in [(&served, "reader"), (&only_reads, "writer")] {
        let page = served.get_as(who, &link("operation", &key("k"), &[])).document();
        assert!(!page.links().iter().any(|link| ["forget", "resolve"].iter().any(|verb| link.starts_with(verb))));
        assert!(served.get_as(who, "overview").document().text().contains("This page only reads."));
        for verb in ["resolve", "release", "revoke", "forget"] {
            assert_eq!(served.get_as(who, &link(verb, &key("k"), &[("step", "charge")])).status, StatusCode::FORBIDDEN);
            assert_eq!(served.post_as(who, verb, &form, &[SAME]).status, StatusCode::FORBIDDEN, "{verb}");
        }
    }
    assert!(store.progress(&key("k")).unwrap().is_some());
    assert_eq!(served.post_as("writer", "forget", &form, &[SAME]).status, StatusCode::SEE_OTHER, "the form was right");
}

#[test]
fn an_unprotected_page_writes_only_where_it_is_writable() {
    let (store, _clock) = store();
    stuck(&store, &key("k"));
    let link = link("release", &key("k"), &[]);
    let reads = serve_page(Page::new(&store).unprotected());
    assert_eq!(reads.get_as("", &link).status, StatusCode::FORBIDDEN);
    let writes = serve_page(Page::new(&store).writable().unprotected());
    assert_eq!(writes.act(&link, &[]).status, StatusCode::SEE_OTHER);
}

/// Everything that forgets an operation, but for one thing.
fn forgets(served: &Served, headers: &[(&str, &str)], change: impl Fn(&mut Vec<(String, String)>)) -> StatusCode {
    let mut form = served.get(&link("forget", &key("k"), &[])).hidden();
    form.extend(owned(&[("sure", "yes")]));
    change(&mut form);
    served.post_as("writer", "forget", &form, headers).status
}

/// Cross-site request forgery: a page elsewhere sends a form in the name of an operator who is logged in here.
#[test]
fn a_form_from_elsewhere_is_refused_whatever_else_is_right() {
    let (store, _clock) = store();
    let served = serve(&store);
    completed(&store, &key("k"), "receipt");
    let own = format!("http://{}", served.address);
    let upper = own.to_uppercase().replace("HTTP", "http");
    let (other_port, other_host) =
        ("http://127.0.0.1:1", format!("http://127.0.0.1.evil.example:{}", served.address.port()));
    for headers in [
        &[][..],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("sec-fetch-site", "none")],
        &[("sec-fetch-site", "cross-site"), ("origin", &own)],
        &[("origin", "null")],
        &[("origin", "https://evil.example")],
        &[("origin", other_port)],
        &[("origin", &other_host)],
        &[("origin", "")],
        &[("referer", &own)],
    ] {
        assert_eq!(forgets(&served, headers, |_| ()), StatusCode::FORBIDDEN, "{headers:?}");
        assert!(store.progress(&key("k")).unwrap().is_some(), "{headers:?}");
    }
    for headers in [&[SAME][..], &[("origin", &own)], &[("origin", &upper)], &[SAME, ("origin", "null")]] {
        assert_eq!(forgets(&served, headers, |_| ()), StatusCode::SEE_OTHER, "{headers:?}");
        completed(&store, &key("k"), "receipt");
    }
}

#[test]
fn a_form_without_its_own_token_is_refused() {
    let (store, _clock) = store();
    let served = serve(&store);
    completed(&store, &key("k"), "receipt");
    completed(&store, &key("other"), "receipt");
    let _run = owned_by(&store, &key("own"));
    let set = |name: &'static str, value: String| {
        move |form: &mut Vec<(String, String)>| {
            form.iter_mut().filter(|(known, _)| known == name).for_each(|(_, old)| old.clone_from(&value));
        }
    };
    let token = |served: &Served, link: &str| {
        served.get(link).hidden().into_iter().find(|(name, _)| name == "token").map(|(_, value)| value).unwrap()
    };
    let of_other_key = token(&served, &link("forget", &key("other"), &[]));
    let of_other_act = token(&served, &link("revoke", &key("own"), &[]));
    let of_other_process = token(&serve(&store), &link("forget", &key("k"), &[]));
    for wrong in [String::new(), "0".repeat(64), of_other_key, of_other_act, of_other_process] {
        assert_eq!(forgets(&served, &[SAME], set("token", wrong.clone())), StatusCode::FORBIDDEN, "{wrong}");
    }
    assert_eq!(forgets(&served, &[SAME], set("seen", "1 1 owned 0".to_owned())), StatusCode::FORBIDDEN);
    assert_eq!(forgets(&served, &[SAME], set("key", "other".to_owned())), StatusCode::FORBIDDEN);
    assert_eq!(forgets(&served, &[SAME], |form| form.retain(|(name, _)| name != "token")), StatusCode::FORBIDDEN);
    for name in ["k", "other"] {
        assert_eq!(store.progress(&key(name)).unwrap().unwrap().state(), State::Succeeded);
    }
    assert_eq!(forgets(&served, &[SAME], |_| ()), StatusCode::SEE_OTHER);
}

#[test]
fn what_is_no_form_or_too_large_is_refused() {
    const FORM: &str = "application/x-www-form-urlencoded";
    // Without a socket: a server that refuses a body may close it before its answer is read.
    let (store, _clock) = store();
    let page: axum::Router = Page::new(&store).writable().unprotected().router().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let post = |link: &str, kind: &str, body: String| {
        let request = http::Request::post(link).header("content-type", kind).header(SAME.0, SAME.1);
        let request = request.body(axum::body::Body::from(body)).unwrap();
        runtime.block_on(tower::ServiceExt::oneshot(page.clone(), request)).unwrap().status()
    };
    for kind in ["text/plain", "application/json", "multipart/form-data; boundary=x"] {
        assert_eq!(post("/forget", kind, "{}".to_owned()), StatusCode::UNSUPPORTED_MEDIA_TYPE, "{kind}");
    }
    assert_eq!(post("/forget", FORM, "x".repeat(3 << 20)), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(post("/overview", FORM, String::new()), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(post("/forget", FORM, "x".repeat(1 << 20)), StatusCode::BAD_REQUEST, "a form of no key");
}

#[test]
fn every_answer_says_that_nothing_from_elsewhere_belongs_to_it() {
    let (store, _clock) = store();
    in_doubt(&store, &key("k"), "charge");
    let served = serve(&store);
    let posted = served.post_as("writer", "forget", &[], &[]);
    let gets = PAGES.iter().flat_map(|page| ["writer", "nobody"].map(|who| served.get_as(who, page)));
    for got in gets.chain([posted]) {
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "same-origin"),
            ("cache-control", "no-store"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(got.headers[name], value, "{name}");
        }
        let policy = got.headers["content-security-policy"].to_str().unwrap();
        for part in [
            "default-src 'none'",
            "script-src 'self'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
            "form-action 'self'",
        ] {
            assert!(policy.split("; ").any(|it| it == part), "{policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
        if got.headers.get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"text/html")) {
            let outside = ["://", "style=\"", "onclick", "javascript:"];
            assert!(!outside.iter().any(|it| got.body.contains(it)), "{}", got.body);
        }
    }
}
