//! A part of the server that does not own an operation moves its checkpoint: a payment provider's webhook.
//!
//! `cargo run --example webhook` starts a shop and a payment provider on loopback and orders one pizza:
//!
//! 1. The order's handler starts the payment, leaves the operation at the checkpoint "waiting for payment" and answers
//!    202: nobody knows when the customer will have paid, so nobody waits. The resumer tries the operation a few times
//!    meanwhile, finds it not paid, and gives it up: it is stuck.
//! 2. The provider calls the shop's webhook, twice at the same moment, as providers do. The webhook owns nothing. It
//!    looks how far the operation got and moves the checkpoint to "paid" by compare-and-set: one delivery moves it, the
//!    other loses, is told which checkpoint stands, and finds its own news there. There is news, so the webhook lets
//!    the resumer try again.
//! 3. The resumer enters the operation, finds it paid and completes it. The client's retry gets the receipt, and a
//!    delivery that comes after all that changes nothing.
//!
//! It fails where anything is not as it says here.

#![allow(clippy::print_stdout, reason = "a program for a terminal")]

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use reentry::{Advance, Claim, EffectId, ErrorKind, Key, Request, Resumer, Run, Store};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::Barrier;

type Failure = Box<dyn Error + Send + Sync>;
type Answer = (StatusCode, String);

const WAITING: &str = "waiting for payment";
const PAID: &str = "paid";

/// How often the resumer tries an order that nobody has paid, before it gives it up.
const TRIES: u32 = 3;

/// How soon it looks again, and so does this program. A real server lets it take its time.
const PAUSE: Duration = Duration::from_millis(5);

/// What takes longer has failed. It is a limit for broken builds, and never waited out.
const LATEST: Duration = Duration::from_secs(30);

struct Shop {
    store: Store,
    resumer: Resumer,
    provider: String,
    client: reqwest::Client,
    /// Lets both deliveries look before either moves the checkpoint, so that one is sure to lose.
    both_have_looked: Barrier,
    moved: AtomicUsize,
    lost: AtomicUsize,
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let store = Store::builder().attempts_max(1 + TRIES).open(folder.path().join("orders.reentry"))?;
    let runtime = Handle::current();
    let resumer = Resumer::builder(&store).every(PAUSE).backoff(PAUSE, PAUSE);
    let resumer = resumer.start(move |run| runtime.block_on(go_on(run)).map(drop))?;
    let provider = serve(Router::new().route("/payments", post(start_payment))).await?;
    let shop = Arc::new(Shop {
        store,
        resumer,
        provider,
        client: reqwest::Client::new(),
        both_have_looked: Barrier::new(2),
        moved: AtomicUsize::new(0),
        lost: AtomicUsize::new(0),
    });
    let routes = Router::new().route("/orders", post(order)).route("/webhook", post(webhook));
    let address = serve(routes.with_state(Arc::clone(&shop))).await?;

    let (status, text) = place_order(&address).await?;
    println!("the order is answered {status}: {text}");
    check(status == StatusCode::ACCEPTED, "nobody waits for the customer to pay")?;
    until("the resumer gives the order up", || Ok(shop.store.stats()?.stuck == 1)).await?;
    println!("the resumer has tried it {TRIES} times, and leaves it alone");

    let event = json!({ "order": "key-1", "receipt": "receipt 7" });
    let deliver = || shop.client.post(format!("{address}/webhook")).json(&event).send();
    let (one, two) = tokio::join!(deliver(), deliver());
    check(one?.status().is_success() && two?.status().is_success(), "both deliveries are taken")?;
    let counts = || (shop.moved.load(Ordering::SeqCst), shop.lost.load(Ordering::SeqCst));
    println!("of two deliveries at once {} moved the checkpoint, {} lost", counts().0, counts().1);
    check(counts() == (1, 1), "one delivery moves the checkpoint, the other loses")?;

    until("the resumer finishes the order", || Ok(shop.resumer.stats().finished == 1)).await?;
    let (status, text) = place_order(&address).await?;
    println!("the resumer finished it, and the retry is answered {status}: {text}");
    check(status == StatusCode::OK && text == "two pizzas, paid with receipt 7", "the receipt is the provider's")?;
    check(
        deliver().await?.status().is_success() && counts() == (1, 1),
        "a late delivery is taken and changes nothing",
    )?;
    shop.store.verify()?;
    Ok(())
}

/// Takes an order, or tells how far it is.
async fn order(State(shop): State<Arc<Shop>>, headers: HeaderMap, body: String) -> Answer {
    taken(&shop, &headers, &body).await.unwrap_or_else(|e| (StatusCode::SERVICE_UNAVAILABLE, e.to_string()))
}

async fn taken(shop: &Shop, headers: &HeaderMap, body: &str) -> Result<Answer, Failure> {
    let client_key = headers.get("idempotency-key").ok_or("an order needs an Idempotency-Key")?.to_str()?;
    let mut run = match shop.store.claim(&key(client_key)?, Request::of(body)).await? {
        Claim::Run(run) => run,
        Claim::Replay(outcome) => return Ok((StatusCode::OK, outcome.decode()?)),
        Claim::Wait(_) => return Ok((StatusCode::ACCEPTED, "in progress".to_owned())),
        Claim::Reject(_) => return Ok((StatusCode::UNPROCESSABLE_ENTITY, "another order has this key".to_owned())),
        Claim::Gone(_) => return Ok((StatusCode::GONE, "done long ago".to_owned())),
    };
    // The provider deduplicates on the effect id, so that a retry starts no second payment.
    let pay = async |id: EffectId| -> reqwest::Result<String> {
        let payment = json!({ "id": id, "order": client_key });
        let asked = shop.client.post(format!("{}/payments", shop.provider)).json(&payment);
        asked.send().await?.error_for_status()?.text().await
    };
    let payment = run.step("start the payment").run_keyed_async(pay).await?;
    if run.checkpoint().is_none() {
        run.advance(WAITING, &payment).await?;
    }
    // Where the customer has paid meanwhile, the retry goes on like the resumer does. Else the run ends, and the
    // operation stays: whoever comes next enters it at its checkpoint.
    Ok(match go_on(run).await? {
        Some(receipt) => (StatusCode::OK, receipt),
        None => (StatusCode::ACCEPTED, payment),
    })
}

/// What the provider calls when the customer has paid. It owns no operation, and needs none.
async fn webhook(State(shop): State<Arc<Shop>>, Json(event): Json<Value>) -> Answer {
    paid(&shop, &event).await.unwrap_or_else(|e| (StatusCode::SERVICE_UNAVAILABLE, e.to_string()))
}

async fn paid(shop: &Shop, event: &Value) -> Result<Answer, Failure> {
    let text = |name: &str| event[name].as_str().map(str::to_owned).ok_or("the event is not complete");
    let (key, receipt) = (key(&text("order")?)?, text("receipt")?);
    let progress = shop.store.progress(&key)?.ok_or("no such order is known")?;
    let seen = progress.checkpoint().ok_or("no payment was started")?;
    if seen.name() == PAID {
        return Ok((StatusCode::OK, "known already".to_owned()));
    }
    shop.both_have_looked.wait().await;
    let thanks = match shop.store.advance(&key, seen.revision(), PAID, &receipt).await {
        Ok(Advance::Moved(_)) => {
            shop.moved.fetch_add(1, Ordering::SeqCst);
            "thank you"
        }
        // Somebody else was faster. Where it is the same news there is nothing left to do.
        Ok(Advance::Lost(Some(current))) if current.name() == PAID => {
            shop.lost.fetch_add(1, Ordering::SeqCst);
            "known already"
        }
        // So much faster that the order is finished, which only one that is paid can be.
        Err(error) if error.kind() == ErrorKind::Finished => {
            shop.lost.fetch_add(1, Ordering::SeqCst);
            "known already"
        }
        // Anything else the provider is to deliver again, and this looks again then.
        Ok(Advance::Lost(_)) => return Ok((StatusCode::CONFLICT, "the order has moved, deliver again".to_owned())),
        Err(error) => return Err(error.into()),
    };
    // The loser does this too: the winner may die before it. Twice is harmless, and so is too late.
    match shop.store.release_stuck(&key).await {
        Err(error) if error.kind() != ErrorKind::Finished => return Err(error.into()),
        Ok(_) | Err(_) => shop.resumer.wake(),
    }
    Ok((StatusCode::OK, thanks.to_owned()))
}

/// Goes on with an order behind its payment, for the resumer or the client's retry. None where nobody has paid yet: the
/// run ends then, unfinished.
async fn go_on(run: Run) -> Result<Option<String>, Failure> {
    let Some(paid) = run.checkpoint().filter(|checkpoint| checkpoint.name() == PAID) else { return Ok(None) };
    let order = String::from_utf8_lossy(run.request().unwrap_or_default()).into_owned();
    let receipt: String = paid.decode()?;
    Ok(Some(run.complete(&format!("{order}, paid with {receipt}")).await?.decode()?))
}

/// The provider: takes a payment to be made, and calls back when it is.
async fn start_payment(Json(payment): Json<Value>) -> Answer {
    (StatusCode::ACCEPTED, format!("payment {} waits for the customer", payment["id"].as_str().unwrap_or_default()))
}

async fn place_order(address: &str) -> Result<Answer, Failure> {
    let order = reqwest::Client::new().post(format!("{address}/orders")).header("Idempotency-Key", "key-1");
    let answer = order.body("two pizzas").send().await?;
    Ok((StatusCode::from_u16(answer.status().as_u16())?, answer.text().await?))
}

async fn serve(routes: Router) -> Result<String, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, routes).await });
    Ok(address)
}

/// Looks until something is so.
async fn until(what: &str, is_so: impl Fn() -> Result<bool, Failure>) -> Result<(), Failure> {
    let began = Instant::now();
    while !is_so()? {
        check(began.elapsed() < LATEST, what)?;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

fn key(client_key: &str) -> reentry::Result<Key> {
    Key::new("orders", client_key)
}

fn check(is_so: bool, what: &str) -> Result<(), Failure> {
    if is_so { Ok(()) } else { Err(format!("not so: {what}").into()) }
}
