//! Redis on loopback: `SET .. NX`, every write synced before it is answered; the server groups what came together.

use std::process::Command as Program;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_core::future::BoxFuture;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, Connection, Value, cmd};
use rustix::process::Signal;
use tokio::sync::OnceCell;

use super::by_hand::ByHand;
use super::server::{Server, find, free_port};
use crate::table::{Answer, Calls, Command, Place, Reader, row};
use crate::work::Kind;

/// Connections that tasks share. A server reads 16 KiB of each at a time, so one alone would make small groups.
const CONNECTIONS: usize = 64;

/// Rows of one pipeline while it is filled.
const FILL: usize = 10_000;

pub(super) fn open(place: &Place) -> ByHand {
    ByHand::new(Redis::open(place), place)
}

struct Redis {
    client: Client,
    idle: Mutex<Vec<Connection>>,
    shared: OnceCell<Vec<MultiplexedConnection>>,
    turn: AtomicUsize,
    version: String,
    server: Server,
}

impl Redis {
    fn open(place: &Place) -> Self {
        let port = free_port().to_string();
        let mut command = Program::new(find("redis-server").expect("it was asked for before"));
        command.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--maxclients", "4096"]);
        command.args(["--appendonly", "yes", "--appendfsync", "always", "--dir"]).arg(&place.folder);
        let mut server = Server::start(&mut command, &place.folder, Signal::TERM);
        let client = Client::open(format!("redis://127.0.0.1:{port}/")).unwrap();
        let mut connection = server.until_it_answers(|| {
            let mut connection = client.get_connection()?;
            // While it loads its file it answers with an error.
            cmd("PING").exec(&mut connection).map(|()| connection)
        });
        let info: String = cmd("INFO").arg("server").query(&mut connection).unwrap();
        let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or("?").to_owned();
        let (idle, shared) = (Mutex::new(vec![connection]), OnceCell::new());
        Self { client, idle, shared, turn: AtomicUsize::new(0), version, server }
    }

    fn connection(&self) -> Connection {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.unwrap_or_else(|| self.client.get_connection().unwrap())
    }

    async fn shared(&self) -> MultiplexedConnection {
        let connect = async || {
            let mut connections = Vec::new();
            for _ in 0..CONNECTIONS {
                let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
                connections.push(self.client.get_multiplexed_async_connection_with_config(&config).await.unwrap());
            }
            connections
        };
        let connections = self.shared.get_or_init(connect).await;
        connections[self.turn.fetch_add(1, Ordering::Relaxed) % connections.len()].clone()
    }
}

impl Calls for Redis {
    fn call(&self, command: Command, kind: Kind) -> BoxFuture<'_, Answer> {
        let sent = spoken(&command);
        Box::pin(async move {
            let value = match kind {
                Kind::Threads => {
                    let mut connection = self.connection();
                    let value = sent.query(&mut connection);
                    self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
                    value
                }
                Kind::Tasks => sent.query_async(&mut self.shared().await).await,
            };
            heard(&command, value.unwrap())
        })
    }

    fn fill(&self, rows: &mut dyn Iterator<Item = Vec<Arc<[u8]>>>, payload: &Arc<[u8]>, until: u64) {
        let mut connection = self.connection();
        let mut set_sync = |how| cmd("CONFIG").arg(&["SET", "appendfsync", how]).exec(&mut connection).unwrap();
        set_sync("no");
        let mut filling = self.client.get_connection().unwrap();
        for keys in rows {
            for keys in keys.chunks(FILL) {
                let mut pipe = redis::pipe();
                for key in keys {
                    let complete = Command::Complete(Arc::clone(key), Arc::clone(payload), until);
                    pipe.add_command(spoken(&complete)).ignore();
                }
                pipe.exec(&mut filling).unwrap();
            }
        }
        set_sync("always");
    }

    fn clear(&self) -> bool {
        cmd("FLUSHALL").exec(&mut self.connection()).unwrap();
        true
    }

    fn reader(&self) -> Box<dyn Reader> {
        Box::new(Asking(self.client.get_connection().unwrap()))
    }

    fn settings(&self) -> String {
        let version = &self.version;
        format!(
            "Redis {version} on 127.0.0.1, SET NX, appendfsync=always, one connection a thread, {CONNECTIONS} that \
             tasks share"
        )
    }

    fn server(&self) -> Option<u32> {
        Some(self.server.id())
    }
}

/// The command as Redis knows it.
fn spoken(command: &Command) -> Cmd {
    let mut set = cmd("SET");
    match command {
        Command::Claim(key) => set.arg(&**key).arg(row::running(&[])).arg("NX").arg("GET"),
        Command::Checkpoint(key, payload) => set.arg(&**key).arg(row::running(payload)),
        Command::Intent(key, name) => set.arg(row::step_key(key, name)).arg(""),
        Command::Result(key, name, result) => set.arg(row::step_key(key, name)).arg(&**result),
        Command::Complete(key, outcome, until) => {
            set.arg(&**key).arg(row::done(outcome, *until)).arg("PXAT").arg(*until)
        }
        Command::Expire(..) => unreachable!("Redis removes what has expired by itself"),
    };
    set
}

fn heard(command: &Command, value: Value) -> Answer {
    match (command, value) {
        (Command::Claim(_), Value::Nil) => Answer::Claimed,
        (Command::Claim(_), Value::BulkString(row)) => row::answer(&row),
        (Command::Claim(_), other) => panic!("a claim is answered with a row or none, got {other:?}"),
        _ => Answer::Done,
    }
}

struct Asking(Connection);

impl Reader for Asking {
    fn outcome(&mut self, key: &Arc<[u8]>) -> Option<Vec<u8>> {
        let row: Option<Vec<u8>> = cmd("GET").arg(&**key).query(&mut self.0).unwrap();
        row.as_deref().and_then(row::outcome)
    }
}
