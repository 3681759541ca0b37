//! redb with the client's key as the table's key.

use std::sync::Arc;

use redb::{Database, Durability, ReadableDatabase, ReadableTable, Table as Rows, TableDefinition};

use crate::table::{Answer, CACHE_BYTES, Command, Place, Reader, Table, row};

const OPERATIONS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("operations");
const BY_TIME: TableDefinition<'_, &[u8], ()> = TableDefinition::new("by time");

/// Rows of one transaction while a table is filled.
const FILL: usize = 50_000;

pub(crate) struct Redb {
    database: Arc<Database>,
    is_expiring: bool,
}

impl Redb {
    pub(crate) fn open(place: &Place) -> Self {
        let path = place.folder.join("operations.redb");
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(path).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(OPERATIONS).unwrap();
        transaction.open_table(BY_TIME).unwrap();
        transaction.commit().unwrap();
        Self { database: Arc::new(database), is_expiring: place.is_expiring }
    }
}

impl Table for Redb {
    fn apply(&mut self, commands: &[Command]) -> Vec<Answer> {
        let transaction = self.database.begin_write().unwrap();
        let answers: Vec<Answer> = {
            let mut operations = transaction.open_table(OPERATIONS).unwrap();
            // Another table costs every commit something, so it is opened only where it is kept.
            let mut by_time = self.is_expiring.then(|| transaction.open_table(BY_TIME).unwrap());
            commands.iter().map(|command| carry_out(&mut operations, by_time.as_mut(), command)).collect()
        };
        // Where all that was asked for was there already, nothing waits for the disk.
        if answers.iter().any(Answer::is_of_a_change) {
            transaction.commit().unwrap();
        } else {
            transaction.abort().unwrap();
        }
        answers
    }

    fn fill(&mut self, keys: &[Arc<[u8]>], payload: &Arc<[u8]>, until: u64) {
        let row = row::done(payload, until);
        for keys in keys.chunks(FILL) {
            let mut transaction = self.database.begin_write().unwrap();
            transaction.set_durability(Durability::None).unwrap();
            {
                let mut operations = transaction.open_table(OPERATIONS).unwrap();
                let mut by_time = self.is_expiring.then(|| transaction.open_table(BY_TIME).unwrap());
                for key in keys {
                    operations.insert(&**key, &*row).unwrap();
                    if let Some(by_time) = &mut by_time {
                        by_time.insert(&*row::time_key(until, key), ()).unwrap();
                    }
                }
            }
            transaction.commit().unwrap();
        }
        // Pages of commits that are not durable are only given back after one that is.
        self.database.begin_write().unwrap().commit().unwrap();
    }

    fn reader(&self) -> Box<dyn Reader> {
        Box::new(Snapshots(Arc::clone(&self.database)))
    }

    fn settings(&self) -> String {
        "redb 4 by key, Durability::Immediate".to_owned()
    }
}

fn carry_out(
    operations: &mut Rows<'_, &[u8], &[u8]>,
    by_time: Option<&mut Rows<'_, &[u8], ()>>,
    command: &Command,
) -> Answer {
    match command {
        Command::Claim(key) => {
            let known = operations.get(&**key).unwrap().map(|row| row::answer(row.value()));
            known.unwrap_or_else(|| {
                operations.insert(&**key, &*row::running(&[])).unwrap();
                Answer::Claimed
            })
        }
        Command::Checkpoint(key, payload) => {
            operations.insert(&**key, &*row::running(payload)).unwrap();
            Answer::Done
        }
        Command::Intent(key, name) => {
            operations.insert(&*row::step_key(key, name), &[][..]).unwrap();
            Answer::Done
        }
        Command::Result(key, name, result) => {
            operations.insert(&*row::step_key(key, name), &**result).unwrap();
            Answer::Done
        }
        Command::Complete(key, outcome, until) => {
            operations.insert(&**key, &*row::done(outcome, *until)).unwrap();
            if let Some(by_time) = by_time {
                by_time.insert(&*row::time_key(*until, key), ()).unwrap();
            }
            Answer::Done
        }
        Command::Expire(now, most) => {
            let by_time = by_time.expect("the index by time is kept where something is removed");
            let end = now.to_be_bytes();
            let over = by_time.extract_from_if(..&end[..], |_, ()| true).unwrap().take(*most);
            let over: Vec<_> = over.map(|entry| entry.unwrap().0.value().to_vec()).collect();
            for entry in &over {
                operations.remove(&entry[8..]).unwrap();
            }
            Answer::Removed(over.len())
        }
    }
}

struct Snapshots(Arc<Database>);

impl Reader for Snapshots {
    fn outcome(&mut self, key: &Arc<[u8]>) -> Option<Vec<u8>> {
        let operations = self.0.begin_read().unwrap().open_table(OPERATIONS).unwrap();
        operations.get(&**key).unwrap().and_then(|row| row::outcome(row.value()))
    }
}
