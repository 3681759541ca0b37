//! `PostgreSQL` on loopback: one statement a call, each committed by itself; the server groups commits.

use std::fs;
use std::process::{Command as Program, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use futures_core::future::BoxFuture;
use rustix::process::{Signal, geteuid};
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls, Statement};

use super::by_hand::ByHand;
use super::server::{Server, as_ordinary_user, find, free_port, ordinary_user};
use crate::table::{Answer, CACHE_BYTES, Calls, Command, Place, Reader};
use crate::work::{FINGERPRINT, Kind};

/// Connections at most, as a pool has them; callers beyond that wait for one, or share one where they are tasks. Twice
/// as many were no faster on two cores.
const CONNECTIONS: usize = 32;

/// Rows of one statement while a table is filled.
const FILL: usize = 20_000;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS operations (
        key bytea PRIMARY KEY, fingerprint bytea NOT NULL, checkpoint bytea, outcome bytea, until bigint
    ) WITH (fillfactor = 70);
    CREATE TABLE IF NOT EXISTS steps (key bytea, name text, result bytea, PRIMARY KEY (key, name));";

const BY_TIME: &str = "CREATE INDEX IF NOT EXISTS by_time ON operations (until) WHERE until IS NOT NULL;";

const STATEMENTS: [&str; 7] = [
    "INSERT INTO operations (key, fingerprint) VALUES ($1, $2) ON CONFLICT (key) DO NOTHING",
    "SELECT outcome, fingerprint FROM operations WHERE key = $1",
    "UPDATE operations SET checkpoint = $2 WHERE key = $1",
    "INSERT INTO steps (key, name) VALUES ($1, $2)",
    "UPDATE steps SET result = $3 WHERE key = $1 AND name = $2",
    "UPDATE operations SET checkpoint = NULL, outcome = $2, until = $3 WHERE key = $1",
    "DELETE FROM operations WHERE key IN
         (SELECT key FROM operations WHERE until <= $1 ORDER BY until LIMIT $2)",
];

pub(super) fn open(place: &Place) -> ByHand {
    ByHand::new(Postgres::open(place), place)
}

struct Postgres {
    pool: Mutex<Pool>,
    freed: Condvar,
    shared: OnceCell<Vec<Session>>,
    turn: AtomicUsize,
    port: u16,
    version: String,
    /// Stopped last.
    server: Server,
}

#[derive(Default)]
struct Pool {
    idle: Vec<Blocking>,
    opened: usize,
}

impl Postgres {
    fn open(place: &Place) -> Self {
        let data = place.folder.join("postgres");
        if !data.join("PG_VERSION").exists() {
            fs::create_dir_all(&data).unwrap();
            if let (true, Some((user, group))) = (geteuid().is_root(), ordinary_user()) {
                std::os::unix::fs::chown(&data, Some(user), Some(group)).unwrap();
            }
            let mut initdb = Program::new(find("initdb").expect("it is beside postgres"));
            initdb.args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync"]);
            initdb.arg("-D").arg(&data).current_dir("/").stdout(Stdio::null());
            assert!(as_ordinary_user(&mut initdb).status().unwrap().success(), "initdb failed");
        }
        // Left by a server that was killed. It names a process that may still be there as a zombie, and would hold up
        // this one; the folder is ours alone, so there is no other.
        let _ = fs::remove_file(data.join("postmaster.pid"));
        let port = free_port();
        let mut command = Program::new(find("postgres").expect("it was asked for before"));
        let settings = [
            "listen_addresses=127.0.0.1".to_owned(),
            "unix_socket_directories=".to_owned(),
            "synchronous_commit=on".to_owned(),
            "fsync=on".to_owned(),
            "max_connections=200".to_owned(),
            // In its own folder, so that a server that is killed leaves nothing elsewhere.
            "dynamic_shared_memory_type=mmap".to_owned(),
            format!("shared_buffers={}kB", 2 * CACHE_BYTES / 1024),
        ];
        command.arg("-D").arg(&data).args(["-p", &port.to_string()]).current_dir("/");
        for setting in settings {
            command.args(["-c", &setting]);
        }
        let mut server = Server::start(as_ordinary_user(&mut command), &place.folder, Signal::INT);
        let connection = server.until_it_answers(|| Blocking::connect(port));
        let by_time = if place.is_expiring { BY_TIME } else { "" };
        connection.run(&format!("{SCHEMA}{by_time}"));
        let connection = connection.prepared();
        let version = connection.runtime.block_on(connection.session.version());
        let pool = Mutex::new(Pool { idle: vec![connection], opened: 1 });
        let (freed, shared, turn) = (Condvar::new(), OnceCell::new(), AtomicUsize::new(0));
        Self { pool, freed, shared, turn, port, version, server }
    }

    /// Takes a connection from the pool for one call of a thread.
    fn block<T>(&self, call: impl AsyncFnOnce(&Session) -> T) -> T {
        let connection = self.take().unwrap_or_else(|| Blocking::connect(self.port).unwrap().prepared());
        let answer = connection.runtime.block_on(call(&connection.session));
        self.pool.lock().unwrap_or_else(PoisonError::into_inner).idle.push(connection);
        self.freed.notify_one();
        answer
    }

    /// An idle connection, when there is one; none where one more may be opened.
    fn take(&self) -> Option<Blocking> {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(connection) = pool.idle.pop() {
                return Some(connection);
            }
            if pool.opened < CONNECTIONS {
                pool.opened += 1;
                return None;
            }
            pool = self.freed.wait(pool).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A connection that a task shares with others: their calls follow each other without waiting.
    async fn shared(&self) -> &Session {
        let connect = async || {
            let mut sessions = Vec::new();
            for _ in 0..CONNECTIONS {
                let mut session = Session::connect(self.port).await.unwrap();
                session.prepare().await;
                sessions.push(session);
            }
            sessions
        };
        let sessions = self.shared.get_or_init(connect).await;
        &sessions[self.turn.fetch_add(1, Ordering::Relaxed) % sessions.len()]
    }
}

impl Calls for Postgres {
    fn call(&self, command: Command, kind: Kind) -> BoxFuture<'_, Answer> {
        match kind {
            Kind::Threads => Box::pin(async move { self.block(async |session| session.carry_out(&command).await) }),
            Kind::Tasks => Box::pin(async move { self.shared().await.carry_out(&command).await }),
        }
    }

    fn fill(&self, rows: &mut dyn Iterator<Item = Vec<Arc<[u8]>>>, payload: &Arc<[u8]>, until: u64) {
        let until = i64::try_from(until).unwrap_or(i64::MAX);
        self.block(async |session| {
            session.client.batch_execute("SET synchronous_commit = off").await.unwrap();
            let insert = "INSERT INTO operations (key, fingerprint, outcome, until)
                              SELECT key, $2, $3, $4 FROM unnest($1::bytea[]) AS key";
            for keys in rows {
                for keys in keys.chunks(FILL) {
                    let keys: Vec<&[u8]> = keys.iter().map(|key| &**key).collect();
                    session.client.execute(insert, &[&keys, &&FINGERPRINT[..], &&**payload, &until]).await.unwrap();
                }
            }
            session.client.batch_execute("SET synchronous_commit = on").await.unwrap();
            session.client.batch_execute("VACUUM ANALYZE operations").await.unwrap();
            session.client.batch_execute("CHECKPOINT").await.unwrap();
        });
    }

    fn clear(&self) -> bool {
        self.block(async |session| session.client.batch_execute("TRUNCATE operations, steps").await.unwrap());
        true
    }

    fn reader(&self) -> Box<dyn Reader> {
        Box::new(Blocking::connect(self.port).unwrap().prepared())
    }

    fn settings(&self) -> String {
        let version = &self.version;
        format!(
            "PostgreSQL {version} on 127.0.0.1, INSERT .. ON CONFLICT, synchronous_commit=on, up to {CONNECTIONS} \
             connections (tasks share them, without waiting for each other), 128 MB of shared buffers"
        )
    }

    fn server(&self) -> Option<u32> {
        Some(self.server.id())
    }
}

/// A connection that one thread at a time uses, and drives itself.
struct Blocking {
    session: Session,
    runtime: Runtime,
}

impl Blocking {
    fn connect(port: u16) -> Result<Self, tokio_postgres::Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let session = runtime.block_on(Session::connect(port))?;
        Ok(Self { session, runtime })
    }

    fn prepared(mut self) -> Self {
        self.runtime.block_on(self.session.prepare());
        self
    }

    fn run(&self, sql: &str) {
        self.runtime.block_on(self.session.client.batch_execute(sql)).unwrap();
    }
}

impl Reader for Blocking {
    fn outcome(&mut self, key: &Arc<[u8]>) -> Option<Vec<u8>> {
        match self.runtime.block_on(self.session.look(key)) {
            Answer::Outcome(outcome) => Some(outcome),
            _ => None,
        }
    }
}

/// A connection and its prepared statements.
struct Session {
    client: Client,
    statements: Vec<Statement>,
}

impl Session {
    async fn connect(port: u16) -> Result<Self, tokio_postgres::Error> {
        let address = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
        let (client, connection) = tokio_postgres::connect(&address, NoTls).await?;
        tokio::spawn(connection);
        Ok(Self { client, statements: Vec::new() })
    }

    async fn prepare(&mut self) {
        for sql in STATEMENTS {
            self.statements.push(self.client.prepare(sql).await.unwrap());
        }
    }

    async fn version(&self) -> String {
        self.client.query_one("SHOW server_version", &[]).await.unwrap().get(0)
    }

    async fn carry_out(&self, command: &Command) -> Answer {
        let [claim, _, checkpoint, intent, result, complete, expire] = &self.statements[..] else {
            unreachable!("all are prepared")
        };
        let execute = async |statement, parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)]| {
            self.client.execute(statement, parameters).await.unwrap()
        };
        match command {
            Command::Claim(key) => {
                if execute(claim, &[&&**key, &&FINGERPRINT[..]]).await == 1 {
                    return Answer::Claimed;
                }
                return self.look(key).await;
            }
            Command::Checkpoint(key, payload) => execute(checkpoint, &[&&**key, &&**payload]).await,
            Command::Intent(key, name) => execute(intent, &[&&**key, name]).await,
            Command::Result(key, name, bytes) => execute(result, &[&&**key, name, &&**bytes]).await,
            Command::Complete(key, outcome, until) => {
                let until = i64::try_from(*until).unwrap_or(i64::MAX);
                execute(complete, &[&&**key, &&**outcome, &until]).await
            }
            Command::Expire(now, most) => {
                let now = i64::try_from(*now).unwrap_or(i64::MAX);
                let most = i64::try_from(*most).unwrap_or(i64::MAX);
                let removed = execute(expire, &[&now, &most]).await;
                return Answer::Removed(usize::try_from(removed).unwrap_or(usize::MAX));
            }
        };
        Answer::Done
    }

    async fn look(&self, key: &[u8]) -> Answer {
        let row = self.client.query_opt(&self.statements[1], &[&key]).await.unwrap();
        let Some(row) = row else { return Answer::Done };
        assert_eq!(row.get::<_, &[u8]>(1), FINGERPRINT, "every request has the same fingerprint");
        row.get::<_, Option<Vec<u8>>>(0).map_or(Answer::Running, Answer::Outcome)
    }
}
