//! The five answers on a server that is no service of `tower`: actix, by hand.
//!
//! ```text
//! cargo run --manifest-path examples/actix/Cargo.toml            plays it through, and fails where anything is wrong
//! cargo run --manifest-path examples/actix/Cargo.toml -- serve   the same server on 127.0.0.1:3001, to try with curl
//! ```

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;

use actix_web::http::StatusCode;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, rt, web};
use reentry::http::StoredResponse;
use reentry::{Claim, EffectId, Failure, Fingerprint, Key, Run, Store};

/// What the bank was asked for, by the id that each request to it carried.
#[derive(Default)]
struct Bank(Mutex<Vec<EffectId>>);

impl Bank {
    async fn charge(&self, id: EffectId) -> Result<String, Failure> {
        let mut charged = self.0.lock().map_err(|_| "the bank is closed")?;
        if !charged.contains(&id) {
            charged.push(id);
        }
        Ok(format!("receipt {id}"))
    }
}

struct Shop {
    store: Store,
    bank: Bank,
}

/// Stands for real authentication: the token names its principal, and so the scope of its keys.
fn principal(request: &HttpRequest) -> Option<&str> {
    request.headers().get("authorization")?.to_str().ok()?.strip_prefix("Bearer ")
}

/// The client's key: one line, bare or in quotes, which is the same key.
fn key(request: &HttpRequest, principal: &str) -> Option<Key> {
    let mut lines = request.headers().get_all("idempotency-key");
    let (line, None) = (lines.next()?.to_str().ok()?.trim(), lines.next()) else { return None };
    let text = line.strip_prefix('"').and_then(|line| line.strip_suffix('"')).unwrap_or(line);
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\,;()".contains(&byte));
    Key::new(principal, text).ok().filter(|_| is_plain)
}

/// What makes two requests the same: method, path and body, each with its length.
fn fingerprint(request: &HttpRequest, body: &[u8]) -> Fingerprint {
    let parts = [request.method().as_str().as_bytes(), request.uri().to_string().as_bytes(), body].map(<[u8]>::to_vec);
    let parted = parts.iter().flat_map(|part| [&(part.len() as u64).to_le_bytes()[..], part].concat());
    Fingerprint::of(parted.collect::<Vec<u8>>())
}

async fn checkout(shop: web::Data<Shop>, request: HttpRequest, body: web::Bytes) -> HttpResponse {
    let Some(principal) = principal(&request) else { return HttpResponse::Unauthorized().finish() };
    let Some(key) = key(&request, principal) else { return HttpResponse::BadRequest().finish() };
    match shop.store.claim(&key, fingerprint(&request, &body)).await {
        // Detached, so that a client which hangs up does not stop it half-way.
        Ok(Claim::Run(run)) => match rt::spawn(finish(shop.clone(), run)).await {
            Ok(Ok(answer)) => shown(&answer, false),
            // The run is interrupted, and the client's retry goes on where it stopped.
            Ok(Err(_)) | Err(_) => later(StatusCode::SERVICE_UNAVAILABLE),
        },
        Ok(Claim::Replay(outcome)) => match outcome.decode::<StoredResponse>() {
            Ok(answer) => shown(&answer, true),
            Err(_) => HttpResponse::Conflict().finish(),
        },
        Ok(Claim::Wait(_)) => later(StatusCode::CONFLICT),
        Ok(Claim::Reject(_)) => HttpResponse::UnprocessableEntity().finish(),
        Ok(Claim::Gone(_)) => HttpResponse::Gone().finish(),
        // Nobody knows what the key stands for: nothing is run unguarded.
        Err(_) => later(StatusCode::SERVICE_UNAVAILABLE),
    }
}

async fn finish(shop: web::Data<Shop>, mut run: Run) -> reentry::Result<StoredResponse> {
    let receipt = run.step("charge").run_keyed_async(async |id| shop.bank.charge(id).await).await?;
    let answer = StoredResponse::new(http::StatusCode::CREATED, receipt);
    run.complete(&answer).await?;
    Ok(answer)
}

fn shown(answer: &StoredResponse, is_replayed: bool) -> HttpResponse {
    let status = StatusCode::from_u16(answer.status().as_u16()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = HttpResponse::build(status);
    if is_replayed {
        response.insert_header(("idempotent-replayed", "true"));
    }
    response.body(answer.body().to_vec())
}

fn later(status: StatusCode) -> HttpResponse {
    HttpResponse::build(status).insert_header(("retry-after", "1")).finish()
}

/// Sends a request as a client does, and gives the answer's status, whether it was a replay, and its body.
fn send(address: SocketAddr, principal: &str, key: &str, body: &str) -> io::Result<(u16, bool, String)> {
    let mut connection = TcpStream::connect(address)?;
    let len = body.len();
    write!(
        connection,
        "POST /checkout HTTP/1.1\r\nhost: shop\r\nconnection: close\r\nauthorization: Bearer {principal}\r\n\
         idempotency-key: {key}\r\ncontent-length: {len}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    Ok((status, head.contains("idempotent-replayed: true"), body.to_owned()))
}

/// What each of these comes to, as the comments say.
fn play(address: SocketAddr) -> io::Result<()> {
    let first = send(address, "ada", "\"k1\"", "two pizzas")?;
    assert_eq!((first.0, first.1), (201, false));
    // A copy gets the same answer, however its key is written.
    for key in ["\"k1\"", "k1"] {
        assert_eq!(send(address, "ada", key, "two pizzas")?, (201, true, first.2.clone()));
    }
    // Another request under the key is refused, and so is what is no key.
    assert_eq!(send(address, "ada", "k1", "three pizzas")?.0, 422);
    assert_eq!(send(address, "ada", "a, b", "two pizzas")?.0, 400);
    // The key of another principal is another key.
    let other = send(address, "bob", "k1", "two pizzas")?;
    assert_eq!((other.0, other.1), (201, false));
    assert_ne!(other.2, first.2);
    Ok(())
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let is_served = std::env::args().nth(1).as_deref() == Some("serve");
    let shop = web::Data::new(Shop { store: Store::builder().in_memory()?, bank: Bank::default() });
    let data = shop.clone();
    let app = move || App::new().app_data(data.clone()).route("/checkout", web::post().to(checkout));
    let server = HttpServer::new(app).workers(2).bind(if is_served { "127.0.0.1:3001" } else { "127.0.0.1:0" })?;
    let address = server.addrs().first().copied().ok_or("no address")?;
    println!("serving on http://{address}/checkout");
    let server = server.run();
    if is_served {
        return Ok(server.await?);
    }
    let handle = server.handle();
    let serving = rt::spawn(server);
    web::block(move || play(address)).await??;
    handle.stop(true).await;
    serving.await??;
    let charged = shop.bank.0.lock().map_err(|_| "the bank is closed")?.len();
    assert_eq!(charged, 2, "each order was charged once");
    println!("two orders in six requests, each charged once");
    Ok(())
}
