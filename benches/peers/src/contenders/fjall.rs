//! fjall: a log-structured tree, each batch a transaction that is synced.

use std::sync::Arc;

use fjall::{
    KeyspaceCreateOptions, PersistMode, Readable, SingleWriterTxDatabase, SingleWriterTxKeyspace,
    SingleWriterWriteTx as Transaction,
};

use crate::table::{Answer, CACHE_BYTES, Command, Place, Reader, Table, row};

/// Rows of one transaction while a table is filled.
const FILL: usize = 50_000;

pub(crate) struct Fjall {
    database: SingleWriterTxDatabase,
    operations: SingleWriterTxKeyspace,
    by_time: SingleWriterTxKeyspace,
    is_expiring: bool,
    /// Up to where the index by time was removed: a tree of this kind walks over what is gone but not yet compacted.
    swept: Vec<u8>,
}

impl Fjall {
    pub(crate) fn open(place: &Place) -> Self {
        let path = place.folder.join("operations.fjall");
        let database = SingleWriterTxDatabase::builder(path).cache_size(CACHE_BYTES as u64).open().unwrap();
        let keyspace = |name| database.keyspace(name, KeyspaceCreateOptions::default).unwrap();
        let (operations, by_time) = (keyspace("operations"), keyspace("by time"));
        Self { database, operations, by_time, is_expiring: place.is_expiring, swept: Vec::new() }
    }

    fn carry_out(&mut self, transaction: &mut Transaction<'_>, command: &Command) -> Answer {
        match command {
            Command::Claim(key) => match transaction.get(&self.operations, key).unwrap() {
                Some(row) => row::answer(&row),
                None => {
                    transaction.insert(&self.operations, &**key, row::running(&[]));
                    Answer::Claimed
                }
            },
            Command::Checkpoint(key, payload) => {
                transaction.insert(&self.operations, &**key, row::running(payload));
                Answer::Done
            }
            Command::Intent(key, name) => {
                transaction.insert(&self.operations, row::step_key(key, name), []);
                Answer::Done
            }
            Command::Result(key, name, result) => {
                transaction.insert(&self.operations, row::step_key(key, name), &**result);
                Answer::Done
            }
            Command::Complete(key, outcome, until) => {
                transaction.insert(&self.operations, &**key, row::done(outcome, *until));
                if self.is_expiring {
                    transaction.insert(&self.by_time, row::time_key(*until, key), []);
                }
                Answer::Done
            }
            Command::Expire(now, most) => {
                let until = self.swept.clone()..now.to_be_bytes().to_vec();
                let over = transaction.range(&self.by_time, until).take(*most);
                let over: Vec<_> = over.map(|entry| entry.key().unwrap()).collect();
                for entry in &over {
                    transaction.remove(&self.operations, &entry[8..]);
                    transaction.remove(&self.by_time, entry.clone());
                }
                if let Some(last) = over.last() {
                    self.swept = last.to_vec();
                }
                Answer::Removed(over.len())
            }
        }
    }
}

impl Table for Fjall {
    fn apply(&mut self, commands: &[Command]) -> Vec<Answer> {
        let database = self.database.clone();
        let mut transaction = database.write_tx().durability(Some(PersistMode::SyncData));
        let answers: Vec<_> = commands.iter().map(|command| self.carry_out(&mut transaction, command)).collect();
        if answers.iter().any(Answer::is_of_a_change) {
            transaction.commit().unwrap();
        } else {
            transaction.rollback();
        }
        answers
    }

    fn fill(&mut self, keys: &[Arc<[u8]>], payload: &Arc<[u8]>, until: u64) {
        let row = row::done(payload, until);
        for keys in keys.chunks(FILL) {
            let mut transaction = self.database.write_tx().durability(None);
            for key in keys {
                transaction.insert(&self.operations, &**key, &*row);
                if self.is_expiring {
                    transaction.insert(&self.by_time, row::time_key(until, key), []);
                }
            }
            transaction.commit().unwrap();
        }
    }

    fn settle(&mut self) {
        self.database.persist(PersistMode::SyncAll).unwrap();
        self.operations.inner().rotate_memtable_and_wait().unwrap();
    }

    fn reader(&self) -> Box<dyn Reader> {
        Box::new(Keyspace(self.operations.clone()))
    }

    fn settings(&self) -> String {
        "fjall 3, PersistMode::SyncData".to_owned()
    }
}

struct Keyspace(SingleWriterTxKeyspace);

impl Reader for Keyspace {
    fn outcome(&mut self, key: &Arc<[u8]>) -> Option<Vec<u8>> {
        self.0.get(key).unwrap().and_then(|row| row::outcome(&row))
    }
}
