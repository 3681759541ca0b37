//! The page that is tested: nested in a real axum server on loopback, in a runtime of its own.

use std::net::SocketAddr;

use axum::Router;
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use reentry::admin::{Access, Page};
use reentry::{Key, ManualClock, Run, Store};
use reqwest::Client;
use reqwest::redirect::Policy;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

use super::html::Document;
use super::support::{PATIENCE, START, run};

/// Where the page is nested.
pub(crate) const NEST: &str = "/ops/page";

/// What says who asks, in these tests.
const WHO: &str = "x-who";

/// After so many runs an operation is stuck.
pub(crate) const ATTEMPTS_MAX: u32 = 3;

/// A page that is served, until this is dropped.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    client: Client,
    runtime: Runtime,
}

/// What a request came to.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Got {
    #[track_caller]
    pub(crate) fn document(&self) -> Document {
        assert_eq!(self.headers["content-type"], "text/html; charset=utf-8");
        Document::read(&self.body)
    }

    /// Where it leads to.
    pub(crate) fn location(&self) -> &str {
        self.headers["location"].to_str().unwrap()
    }
}

/// Believes what a request says of itself.
pub(crate) fn by_header(parts: &Parts) -> Access {
    match parts.headers.get(WHO).map(http::HeaderValue::as_bytes) {
        Some(b"writer") => Access::Write,
        Some(b"reader") => Access::Read,
        _ => Access::Denied,
    }
}

/// A store whose clock stands, so that every page is the same in every run.
pub(crate) fn store() -> (Store, ManualClock) {
    let clock = ManualClock::at(START);
    let store = Store::builder().attempts_max(ATTEMPTS_MAX).clock(clock.clone()).in_memory().unwrap();
    (store, clock)
}

/// A page that does all it can, for those who say that they may.
pub(crate) fn serve(store: &Store) -> Served {
    serve_page(Page::new(store).writable().show_payloads().authorize(by_header))
}

pub(crate) fn serve_page(page: Page) -> Served {
    serve_routes(Router::new().nest(NEST, page.router().unwrap()))
}

pub(crate) fn serve_routes(routes: Router) -> Served {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move { axum::serve(listener, routes).await });
    let client = Client::builder().redirect(Policy::none()).timeout(PATIENCE).build().unwrap();
    Served { address, client, runtime }
}

impl Served {
    pub(crate) fn url(&self, link: &str) -> String {
        let slash = if link.is_empty() { "" } else { "/" };
        format!("http://{}{NEST}{slash}{link}", self.address)
    }

    /// What whoever this is gets.
    #[track_caller]
    pub(crate) fn get_as(&self, who: &str, link: &str) -> Got {
        self.send(self.client.get(self.url(link)).header(WHO, who))
    }

    /// A page that there is.
    #[track_caller]
    pub(crate) fn get(&self, link: &str) -> Document {
        let got = self.get_as("writer", link);
        assert_eq!(got.status, StatusCode::OK, "{link}: {}", got.body);
        got.document()
    }

    /// What another path of the server gives.
    #[track_caller]
    pub(crate) fn get_at(&self, path: &str) -> Got {
        self.send(self.client.get(format!("http://{}{path}", self.address)).header(WHO, "writer"))
    }

    /// What a form comes to that is sent by a browser from the page itself, with these headers more.
    #[track_caller]
    pub(crate) fn post_as(&self, who: &str, verb: &str, fields: &[(String, String)], more: &[(&str, &str)]) -> Got {
        let mut request = self.client.post(self.url(verb)).header(WHO, who).form(fields);
        for (name, value) in more {
            request = request.header(*name, *value);
        }
        self.send(request)
    }

    /// Fills in the form behind a link, and sends it as a browser does.
    #[track_caller]
    pub(crate) fn act(&self, link: &str, filled_in: &[(&str, &str)]) -> Got {
        self.act_after(link, filled_in, || {})
    }

    /// The same, where something is done between the form and the act.
    #[track_caller]
    pub(crate) fn act_after(&self, link: &str, filled_in: &[(&str, &str)], meanwhile: impl FnOnce()) -> Got {
        let mut fields = self.get(link).hidden();
        meanwhile();
        fields.extend(owned(filled_in));
        let verb = link.split('?').next().unwrap();
        self.post_as("writer", verb, &fields, &[("sec-fetch-site", "same-origin")])
    }

    #[track_caller]
    fn send(&self, request: reqwest::RequestBuilder) -> Got {
        self.runtime.block_on(async {
            let answer = request.send().await.unwrap();
            let (status, headers) = (answer.status(), answer.headers().clone());
            Got { status, headers, body: answer.text().await.unwrap() }
        })
    }
}

pub(crate) fn owned(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The link to a page about an operation, made by a writer of links that is not ours.
pub(crate) fn link(page: &str, key: &Key, more: &[(&str, &str)]) -> String {
    let base = reqwest::Url::parse("http://localhost/").unwrap();
    let mut url = base.join(page).unwrap();
    url.query_pairs_mut().append_pair("scope", key.scope()).append_pair("key", key.key()).extend_pairs(more);
    format!("{page}?{}", url.query().unwrap())
}

/// An operation with one step in doubt.
pub(crate) fn in_doubt(store: &Store, key: &Key, step: &str) {
    let mut run = run(store, key);
    super::support::times_out(&mut run, step);
}

/// An operation that is stuck.
pub(crate) fn stuck(store: &Store, key: &Key) {
    (0..ATTEMPTS_MAX).for_each(|_| drop(run(store, key)));
}

/// An operation with an outcome.
pub(crate) fn completed(store: &Store, key: &Key, outcome: &str) {
    drop(run(store, key).complete(&outcome.to_owned()).wait().unwrap());
}

/// An operation that a run is at work on, as long as this is kept.
pub(crate) fn owned_by(store: &Store, key: &Key) -> Run {
    run(store, key)
}
