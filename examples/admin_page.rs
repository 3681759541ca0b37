//! The page for operators inside a small axum server, over a store in which a few things went wrong.
//!
//! ```text
//! cargo run --example admin_page            looks at every page, mends what is stuck and in doubt, and fails where
//!                                           anything is not as it says here
//! cargo run --example admin_page -- serve   the same server on 127.0.0.1:3001, for a browser; a path behind it is the
//!                                           store to open instead
//! ```
//!
//! The page has no login of its own. Here HTTP's basic authentication stands for the server's: the user is `operator`,
//! and the password is what `ADMIN_PASSWORD` in the environment says, without which nothing is served to a browser.

#![allow(clippy::print_stdout, reason = "a program for a terminal")]

use std::error::Error;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use reentry::admin::{Access, Page};
use reentry::{Claim, Key, Run, Store};
use tokio::net::TcpListener;

type Failure = Box<dyn Error + Send + Sync>;

const USER: &str = "operator";

/// After so many runs an order is stuck.
const ATTEMPTS_MAX: u32 = 3;

/// Who the authentication found out the client to be.
#[derive(Debug, Clone)]
struct Operator;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let is_served = arguments.next().is_some_and(|mode| mode == "serve");
    let password = match std::env::var("ADMIN_PASSWORD") {
        Ok(password) => password,
        Err(_) if is_served => return Err("set ADMIN_PASSWORD to the password that the page is to have".into()),
        Err(_) => "of no use outside of this process".to_owned(),
    };
    let (store, folder) = match arguments.next() {
        Some(path) => (Store::open(path)?, None),
        None => {
            let folder = tempfile::tempdir()?;
            let store = Store::builder().attempts_max(ATTEMPTS_MAX).open(folder.path().join("orders.reentry"))?;
            (store, Some(folder))
        }
    };
    // It hangs at work as long as the server runs.
    let _owner = folder.is_some().then(|| go_wrong(&store)).transpose()?;
    let listener = TcpListener::bind(if is_served { "127.0.0.1:3001" } else { "127.0.0.1:0" }).await?;
    let address = format!("http://{}/admin/operations", listener.local_addr()?);
    let served = axum::serve(listener, routes(&store, &password)?).into_future();
    if is_served {
        println!("{address} for the user {USER}");
        return Ok(served.await?);
    }
    tokio::spawn(served);
    afternoon(&store, &address, &password).await?;
    store.verify()?;
    Ok(())
}

/// The page, nested behind the server's authentication.
fn routes(store: &Store, password: &str) -> Result<Router, Failure> {
    let page = Page::new(store).writable().show_payloads().authorize(|request: &Parts| {
        // The authentication outside has looked already; without it nobody is an operator.
        request.extensions.get::<Operator>().map_or(Access::Denied, |_| Access::Write)
    });
    // What a client sends for this user and password.
    let sent = reqwest::Client::new().get("http://localhost").basic_auth(USER, Some(password)).build()?;
    let expected = sent.headers().get(header::AUTHORIZATION).ok_or("there is no such password")?.as_bytes().to_vec();
    let authenticate = move |request: Request, next: Next| authenticated(expected.clone(), request, next);
    Ok(Router::new()
        .nest("/admin/operations", page.router()?)
        .layer(from_fn(authenticate))
        .route("/health", get(|| async { "well" })))
}

async fn authenticated(expected: Vec<u8>, mut request: Request, next: Next) -> Response {
    let told = request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes().to_vec());
    // Digests, so that the time it takes tells nothing of the password.
    if told.is_none_or(|told| reentry::Fingerprint::of(told) != reentry::Fingerprint::of(&expected)) {
        let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"operations\", charset=\"UTF-8\"")];
        return (StatusCode::UNAUTHORIZED, challenge).into_response();
    }
    request.extensions_mut().insert(Operator);
    next.run(request).await
}

/// What an operator finds: an order whose bank timed out, one that fails in every run, and one whose run hangs, which
/// is returned.
fn go_wrong(store: &Store) -> Result<Run, Failure> {
    let run = |client_key: &str| -> Result<Run, Failure> {
        match store.claim(&Key::new("orders/ada", client_key)?, reentry::Request::of("two pizzas")).wait()? {
            Claim::Run(run) => Ok(run),
            other => Err(format!("{client_key} is {other:?}").into()),
        }
    };
    run("order-1")?.complete(&"two pizzas, paid".to_owned()).wait()?;
    let mut in_doubt = run("order-2")?;
    in_doubt.advance("accepted", &"two pizzas".to_owned()).wait()?;
    let charged = in_doubt.step("charge").run_at_most_once(|_| Err::<String, _>("the bank timed out"));
    drop((charged, in_doubt));
    for _ in 0..ATTEMPTS_MAX {
        let mut stuck = run("order-3")?;
        stuck.step("charge").run_keyed(|id| Ok::<_, Failure>(format!("receipt {id}")))?;
        let mailed = stuck.step("mail").run_keyed(|_| Err::<(), _>(reentry::not_applied("no such address")));
        drop(mailed);
    }
    let mut hangs = run("order-4")?;
    hangs.advance("waiting for the kitchen", &"two pizzas".to_owned()).wait()?;
    Ok(hangs)
}

/// An operator's afternoon, with a browser's requests.
async fn afternoon(store: &Store, address: &str, password: &str) -> Result<(), Failure> {
    let browser = Browser { client: client()?, address: address.to_owned(), password: password.to_owned() };
    let refused = reqwest::get(format!("{address}/overview")).await?;
    check(refused.status() == StatusCode::UNAUTHORIZED, "nobody sees the page without a password")?;

    let overview = browser.get("overview").await?;
    check(
        overview.contains("1 operation stuck") && overview.contains("1 operation in doubt"),
        "it tells what is wrong",
    )?;
    println!("the overview tells of one operation that is stuck and one in doubt");

    let list = browser.get("operations?state=in+doubt").await?;
    check(list.contains("order-2") && !list.contains("order-3"), "what is in doubt is listed by itself")?;
    let operation = browser.get("operation?scope=orders%2Fada&key=order-2").await?;
    check(operation.contains("charge") && operation.contains("effect id"), "its timeline tells of the step")?;
    let resolved = [("happened", "yes"), ("form", "text"), ("result", "receipt 7"), ("note", "the bank has it")];
    browser.act("resolve?scope=orders%2Fada&key=order-2&step=charge", &resolved).await?;
    println!("the bank has the payment of order-2: its step is resolved");

    browser.act("release?scope=orders%2Fada&key=order-3", &[]).await?;
    println!("the address of order-3 is mended: it is released");
    browser.act("revoke?scope=orders%2Fada&key=order-4", &[]).await?;
    browser.act("forget?scope=orders%2Fada&key=order-4", &[("sure", "yes")]).await?;
    println!("the run of order-4 hung and had done nothing: revoked, and forgotten");

    let stats = store.stats()?;
    check((stats.stuck, stats.in_doubt, stats.owned, stats.operations) == (0, 0, 0, 3), "everything is mended")
}

/// Sends what a browser sends.
struct Browser {
    client: reqwest::Client,
    address: String,
    password: String,
}

impl Browser {
    async fn get(&self, link: &str) -> Result<String, Failure> {
        let asked = self.client.get(format!("{}/{link}", self.address)).basic_auth(USER, Some(&self.password));
        Ok(asked.send().await?.error_for_status()?.text().await?)
    }

    /// Fills in the form behind a link and sends it, with what the page hid in it.
    async fn act(&self, link: &str, filled_in: &[(&str, &str)]) -> Result<(), Failure> {
        let form = self.get(link).await?;
        let mut fields: Vec<(String, String)> = filled_in.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
        for hidden in form.split("<input type=\"hidden\" name=\"").skip(1) {
            let parts: Vec<&str> = hidden.splitn(4, '"').collect();
            if let [name, _, value, _] = parts[..] {
                fields.push((name.to_owned(), value.to_owned()));
            }
        }
        let verb = link.split('?').next().unwrap_or_default();
        let sent = self.client.post(format!("{}/{verb}", self.address)).basic_auth(USER, Some(&self.password));
        let sent = sent.header("sec-fetch-site", "same-origin").form(&fields).send().await?;
        check(sent.status() == StatusCode::SEE_OTHER, "what was asked for is done")
    }
}

fn client() -> Result<reqwest::Client, Failure> {
    let limits = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    Ok(limits.timeout(Duration::from_secs(30)).build()?)
}

fn check(is_so: bool, what: &str) -> Result<(), Failure> {
    if is_so { Ok(()) } else { Err(format!("not so: {what}").into()) }
}
