//! A server process that is killed in the middle of a request, and comes again.
//!
//! The test executable starts itself once more as the server. There the test `the_server_that_is_killed` finds a place
//! in its environment and serves; without one it returns at once.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::{env, fs, io};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use reentry::http::{IdempotencyLayer, Idempotent, Problem};
use reentry::testing::conformance::{Client, Sockets};
use reentry::{Failure, Store};

use crate::server::{is_replayed, principal, request, serve, text};

const PLACE: &str = "REENTRY_HTTP_PLACE";
const TOLD: &str = "told: ";

/// Every effect that a server did is a line in this file.
const EFFECTS: &str = "effects";

#[test]
fn the_server_that_is_killed() {
    let Ok(place) = env::var(PLACE) else { return };
    let store = Store::open(Path::new(&place).join("orders.reentry")).unwrap();
    let layer = IdempotencyLayer::new(&store).scope(principal);
    let server = serve(store, layer, Router::new().route("/orders", post(order)).with_state(place));
    tell(&format!("serving {}", server.address));
    // Until its killer is gone.
    drop(io::stdin().read_to_end(&mut Vec::new()));
}

fn tell(line: &str) {
    let mut output = io::stdout().lock();
    output.write_all(format!("{TOLD}{line}\n").as_bytes()).unwrap();
    output.flush().unwrap();
}

/// Two effects. The first run stays behind the first one until it is killed; the second run stays within the second.
async fn order(State(place): State<String>, Idempotent(mut run): Idempotent) -> Result<(StatusCode, String), Problem> {
    let attempt = run.attempt();
    let charge = run.step("charge").run_at_most_once_async(async |_| effect(&place, "charge")).await?;
    run.advance("charged", &charge).await?;
    if attempt == 1 {
        stay("behind the charge").await;
    }
    let mail = run.step("mail").run_keyed_async(async |id| {
        let done = effect(&place, &format!("mail {id}"));
        if attempt == 2 {
            stay("within the mail").await;
        }
        done
    });
    let mail = mail.await?;
    Ok((StatusCode::CREATED, format!("{charge}; {}; attempt {attempt}", mail.split(' ').next().unwrap_or_default())))
}

async fn stay(place: &str) {
    tell(place);
    std::future::pending::<()>().await;
}

fn effect(place: &str, what: &str) -> Result<String, Failure> {
    let path = Path::new(place).join(EFFECTS);
    let mut file = fs::OpenOptions::new().append(true).create(true).open(path)?;
    file.write_all(format!("{what}\n").as_bytes())?;
    Ok(what.to_owned())
}

struct Process {
    child: Child,
    _input: ChildStdin,
    lines: Box<dyn Iterator<Item = io::Result<String>>>,
}

impl Process {
    /// Starts it, and gives its address.
    fn start(place: &Path) -> (Self, String) {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "killed::the_server_that_is_killed", "--nocapture"]).env(PLACE, place);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut process = Self { child, _input: input, lines: Box::new(BufReader::new(output).lines()) };
        let told = process.hear();
        (process, told.strip_prefix("serving ").unwrap().to_owned())
    }

    fn hear(&mut self) -> String {
        loop {
            let line = self.lines.next().expect("it ended by itself; its own error stands above").unwrap();
            // The harness writes before it, without a line's end.
            if let Some((_, told)) = line.split_once(TOLD) {
                return told.to_owned();
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Sends an order, and does not wait for its answer.
fn send(address: &str) -> TcpStream {
    let mut connection = TcpStream::connect(address).unwrap();
    let head = "POST /orders HTTP/1.1\r\nhost: here\r\nauthorization: ada\r\ncontent-type: text/plain\r\n\
        idempotency-key: \"k\"\r\ncontent-length: 10\r\n\r\ntwo pizzas";
    connection.write_all(head.as_bytes()).unwrap();
    connection
}

#[test]
fn p2_p3_p4_a_server_that_is_killed_in_the_middle_goes_on_when_it_comes_again() {
    let folder = tempfile::tempdir().unwrap();
    for stays in ["behind the charge", "within the mail"] {
        let (mut server, address) = Process::start(folder.path());
        let _connection = send(&address);
        assert_eq!(server.hear(), stays);
    }
    let (server, address) = Process::start(folder.path());
    let order = [request("ada", "/orders", "\"k\"", "two pizzas")];
    let answer = Sockets::to(address).send(&order).unwrap().remove(0);
    assert_eq!((answer.status, text(&answer).as_str()), (201, "charge; mail; attempt 3"));
    drop(server);
    let (_server, address) = Process::start(folder.path());
    let retry = Sockets::to(address).send(&order).unwrap().remove(0);
    assert!(is_replayed(&retry) && retry.body == answer.body, "the answer outlasts the process that gave it");
    let effects = fs::read_to_string(folder.path().join(EFFECTS)).unwrap();
    let effects: Vec<_> = effects.lines().collect();
    assert_eq!((effects.len(), effects[0]), (3, "charge"), "the charge once; the mail again, under the same id");
    assert_eq!(effects[1], effects[2]);
}
