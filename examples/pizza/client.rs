//! The clients: what they send, what they get, and how they fail to get it.

use std::collections::HashMap;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use reqwest::header::RETRY_AFTER;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::Result;
use crate::order::Order;
use crate::server::REPLAYED;
use crate::web::IDEMPOTENCY_KEY;

/// What a client got for one request. Where it is `None`, the client heard nothing.
pub(crate) struct Answer {
    key: String,
    pub(crate) status: u16,
    pub(crate) replayed: bool,
    retry_after: bool,
    in_doubt: bool,
    body: Vec<u8>,
}

/// A client of one server.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) http: reqwest::Client,
    pub(crate) server: SocketAddr,
}

impl Client {
    /// Orders a pizza under `key`, and waits for the answer or for the connection to break.
    pub(crate) async fn order(&self, key: &str, order: &Order) -> Option<Answer> {
        let url = format!("http://{}/orders", self.server);
        let request = self.http.post(url).header(IDEMPOTENCY_KEY, key).bearer_auth(&order.customer);
        let sent = request.json(order).send().await.ok()?;
        let mut answer = Answer {
            key: key.to_owned(),
            status: sent.status().as_u16(),
            replayed: sent.headers().contains_key(REPLAYED),
            retry_after: sent.headers().contains_key(RETRY_AFTER),
            in_doubt: false,
            body: sent.bytes().await.ok()?.to_vec(),
        };
        answer.in_doubt = answer.json()["code"] == "in_doubt";
        Some(answer)
    }

    /// Orders in the background, for a request whose answer is to be looked at later.
    pub(crate) fn order_meanwhile(&self, key: &'static str, order: &Order) -> JoinHandle<Option<Answer>> {
        let (client, order) = (self.clone(), order.clone());
        tokio::spawn(async move { client.order(key, &order).await })
    }

    /// Sends an order and does not read the answer. Dropping what this returns closes the connection.
    ///
    /// An HTTP client would read it; so this is the bare request on a bare connection, small enough not to block.
    pub(crate) fn order_without_reading(&self, key: &str, order: &Order) -> Result<TcpStream> {
        let body = serde_json::to_string(order)?;
        let mut connection = TcpStream::connect(self.server)?;
        let request = format!(
            "POST /orders HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\n{IDEMPOTENCY_KEY}: {key}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.server,
            order.customer,
            body.len()
        );
        connection.write_all(request.as_bytes())?;
        Ok(connection)
    }

    /// How far the server says that an order got.
    pub(crate) async fn standing(&self, key: &str, order: &Order) -> Result<String> {
        let Some(body) = self.progress(key, order).await? else { return Ok("unknown".to_owned()) };
        let state = body["state"].as_str().ok_or_else(|| format!("no state in {body}"))?;
        Ok(format!("{state}, attempt {}", body["attempt"]))
    }

    /// The effect id of the order's step that the server lists as in doubt, for who asks the bank about it.
    pub(crate) async fn in_doubt(&self, key: &str, order: &Order) -> Result<String> {
        let url = format!("http://{}/unfinished", self.server);
        let body: Value = self.http.get(url).send().await?.error_for_status()?.json().await?;
        let scope = format!("orders/{}", order.customer);
        let listed = body.as_array().into_iter().flatten().find(|o| o["scope"] == scope && o["key"] == key);
        let steps = listed.and_then(|o| o["steps"].as_array()).ok_or_else(|| format!("it is not listed in {body}"))?;
        let doubtful = steps.iter().find(|step| step["state"] == "in doubt");
        let id = doubtful.and_then(|step| step["effect_id"].as_str());
        Ok(id.ok_or_else(|| format!("nothing is in doubt in {body}"))?.to_owned())
    }

    /// Says, as an operator, what became of the charge, and sees that the note is kept.
    pub(crate) async fn resolve(&self, key: &str, order: &Order, charge_id: Option<String>) -> Result<()> {
        const NOTE: &str = "asked the bank by the effect id";
        let url = format!("http://{}/resolve/{}/{key}", self.server, order.customer);
        let verdict = json!({ "charge_id": charge_id, "note": NOTE });
        self.http.post(url).json(&verdict).send().await?.error_for_status()?;
        let body = self.progress(key, order).await?.ok_or("the order is unknown")?;
        if body["steps"][0]["notes"] != json!([NOTE]) {
            return Err(format!("the note is not kept in {body}").into());
        }
        Ok(())
    }

    /// Whether the server's own table has the order of this receipt.
    pub(crate) async fn has_row(&self, receipt: &Answer, order: &Order) -> Result<bool> {
        let receipt = receipt.json();
        let id = receipt["order_id"].as_str().ok_or_else(|| format!("no order id in {receipt}"))?;
        let row = self.http.get(format!("http://{}/orders/{id}", self.server)).send().await?;
        Ok(row.status().is_success() && row.json::<Order>().await?.customer == order.customer)
    }

    async fn progress(&self, key: &str, order: &Order) -> Result<Option<Value>> {
        let url = format!("http://{}/progress/{}/{key}", self.server, order.customer);
        let response = self.http.get(url).send().await?;
        if response.status().as_u16() == 404 {
            return Ok(None);
        }
        Ok(Some(response.error_for_status()?.json().await?))
    }
}

/// The answers in a few words: `no answer; 201; 31 x 201 replayed`.
pub(crate) fn in_words(answers: &[Option<Answer>]) -> String {
    let mut words: Vec<(String, usize)> = Vec::new();
    for answer in answers {
        let text = answer.as_ref().map_or_else(|| "no answer".to_owned(), Answer::in_words);
        match words.last_mut() {
            Some((last, times)) if *last == text => *times += 1,
            _ => words.push((text, 1)),
        }
    }
    let words = words.into_iter().map(|(text, times)| if times == 1 { text } else { format!("{times} x {text}") });
    words.collect::<Vec<_>>().join("; ")
}

/// Says what is wrong if two answers to one key differ by a byte, or the answers to two keys do not.
pub(crate) fn contradiction(answers: &[Option<Answer>]) -> Option<&'static str> {
    let mut bodies: HashMap<&str, &[u8]> = HashMap::new();
    for answer in answers.iter().flatten().filter(|answer| answer.is_outcome()) {
        if *bodies.entry(&answer.key).or_insert(&answer.body) != answer.body {
            return Some("one key got two different answers");
        }
    }
    let mut different: Vec<_> = bodies.values().collect();
    different.sort_unstable();
    different.dedup();
    (different.len() < bodies.len()).then_some("two keys got the same receipt")
}

impl Answer {
    /// Whether this is what the order ended with, and not a word about a request that could not be served.
    fn is_outcome(&self) -> bool {
        matches!(self.status, 201 | 402)
    }

    /// Its body; null where that is no JSON.
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    fn in_words(&self) -> String {
        let replayed = if self.replayed { " replayed" } else { "" };
        let later = if self.retry_after { " retry later" } else { "" };
        let in_doubt = if self.in_doubt { " in doubt" } else { "" };
        format!("{}{in_doubt}{replayed}{later}", self.status)
    }
}
