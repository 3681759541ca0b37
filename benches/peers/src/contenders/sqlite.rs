//! `SQLite`: a write-ahead log that is synced at every commit, prepared statements, one connection that writes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use crate::table::{Answer, CACHE_BYTES, Command, Place, Reader, Table};
use crate::work::FINGERPRINT;

/// Rows of about 1 KiB and more are better off outside of the key's tree.
const WITHOUT_ROWID_BYTES_MAX: usize = 512;

pub(crate) struct Sqlite {
    connection: Connection,
    path: PathBuf,
}

impl Sqlite {
    pub(crate) fn open(place: &Place) -> Self {
        let path = place.folder.join("operations.sqlite");
        let connection = connect(&path);
        connection.execute_batch("PRAGMA synchronous = FULL").unwrap();
        let without_rowid = if place.load.payload_bytes <= WITHOUT_ROWID_BYTES_MAX { "WITHOUT ROWID" } else { "" };
        let by_time = if place.is_expiring {
            "CREATE INDEX IF NOT EXISTS by_time ON operations (until) WHERE until IS NOT NULL;"
        } else {
            ""
        };
        let schema = format!(
            "CREATE TABLE IF NOT EXISTS operations (
                 key BLOB PRIMARY KEY NOT NULL, fingerprint BLOB NOT NULL, checkpoint BLOB, outcome BLOB, until INTEGER
             ) {without_rowid};
             CREATE TABLE IF NOT EXISTS steps (
                 key BLOB NOT NULL, name TEXT NOT NULL, result BLOB, PRIMARY KEY (key, name)
             ) WITHOUT ROWID;
             {by_time}"
        );
        connection.execute_batch(&schema).unwrap();
        Self { connection, path }
    }
}

fn connect(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    let kibibytes = CACHE_BYTES / 1024;
    connection.execute_batch(&format!("PRAGMA journal_mode = WAL; PRAGMA cache_size = -{kibibytes};")).unwrap();
    connection.set_prepared_statement_cache_capacity(32);
    connection
}

impl Table for Sqlite {
    fn apply(&mut self, commands: &[Command]) -> Vec<Answer> {
        // A single statement commits by itself, which spares two more.
        if let [command] = commands {
            return vec![carry_out(&self.connection, command)];
        }
        let transaction = Transaction::new(&mut self.connection, TransactionBehavior::Immediate).unwrap();
        let answers = commands.iter().map(|command| carry_out(&transaction, command)).collect();
        transaction.commit().unwrap();
        answers
    }

    fn fill(&mut self, keys: &[Arc<[u8]>], payload: &Arc<[u8]>, until: u64) {
        self.connection.execute_batch("PRAGMA synchronous = OFF").unwrap();
        let transaction = self.connection.transaction().unwrap();
        {
            let mut insert = transaction
                .prepare("INSERT INTO operations (key, fingerprint, outcome, until) VALUES (?1, ?2, ?3, ?4)")
                .unwrap();
            for key in keys {
                insert.execute(params![&**key, FINGERPRINT, &**payload, signed(until)]).unwrap();
            }
        }
        transaction.commit().unwrap();
    }

    fn settle(&mut self) {
        self.connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA wal_checkpoint(TRUNCATE);").unwrap();
    }

    fn reader(&self) -> Box<dyn Reader> {
        Box::new(ReadingConnection { connection: connect(&self.path) })
    }

    fn settings(&self) -> String {
        format!("SQLite {}, WAL, synchronous=FULL, prepared statements", rusqlite::version())
    }
}

/// Times are in the lower half of what `SQLite`'s integers hold.
fn signed(until: u64) -> i64 {
    i64::try_from(until).unwrap_or(i64::MAX)
}

fn carry_out(connection: &Connection, command: &Command) -> Answer {
    let execute = |sql: &str, parameters: &[&dyn rusqlite::ToSql]| {
        connection.prepare_cached(sql).unwrap().execute(parameters).unwrap()
    };
    match command {
        Command::Claim(key) => {
            let sql = "INSERT INTO operations (key, fingerprint) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
            if execute(sql, &[&&**key, &FINGERPRINT]) == 1 { Answer::Claimed } else { look(connection, key) }
        }
        Command::Checkpoint(key, payload) => {
            execute("UPDATE operations SET checkpoint = ?2 WHERE key = ?1", &[&&**key, &&**payload]);
            Answer::Done
        }
        Command::Intent(key, name) => {
            execute("INSERT INTO steps (key, name) VALUES (?1, ?2)", &[&&**key, name]);
            Answer::Done
        }
        Command::Result(key, name, result) => {
            execute("UPDATE steps SET result = ?3 WHERE key = ?1 AND name = ?2", &[&&**key, name, &&**result]);
            Answer::Done
        }
        Command::Complete(key, outcome, until) => {
            let sql = "UPDATE operations SET checkpoint = NULL, outcome = ?2, until = ?3 WHERE key = ?1";
            execute(sql, &[&&**key, &&**outcome, &signed(*until)]);
            Answer::Done
        }
        Command::Expire(now, most) => {
            let sql = "DELETE FROM operations WHERE key IN
                           (SELECT key FROM operations WHERE until <= ?1 ORDER BY until LIMIT ?2)";
            let most = i64::try_from(*most).unwrap_or(i64::MAX);
            Answer::Removed(execute(sql, &[&signed(*now), &most]))
        }
    }
}

fn look(connection: &Connection, key: &[u8]) -> Answer {
    let mut select = connection.prepare_cached("SELECT outcome, fingerprint FROM operations WHERE key = ?1").unwrap();
    select
        .query_row([key], |row| {
            assert_eq!(row.get_ref(1)?.as_blob()?, FINGERPRINT, "every request has the same fingerprint");
            Ok(row.get::<_, Option<Vec<u8>>>(0)?.map_or(Answer::Running, Answer::Outcome))
        })
        .optional()
        .unwrap()
        .unwrap_or(Answer::Done)
}

struct ReadingConnection {
    connection: Connection,
}

impl Reader for ReadingConnection {
    fn outcome(&mut self, key: &Arc<[u8]>) -> Option<Vec<u8>> {
        match look(&self.connection, key) {
            Answer::Outcome(outcome) => Some(outcome),
            _ => None,
        }
    }
}
