//! LMDB, through heed: a tree mapped into memory, two syncs a commit (the pages, then the meta page).

use std::ops::Bound;
use std::sync::Arc;

use heed::types::Bytes;
use heed::{Database, Env, EnvFlags, EnvOpenOptions, FlagSetMode, RwTxn, WithoutTls};

use crate::table::{Answer, Command, Place, Reader, Table, row};

/// Address space: files are only as large as what is in them.
const MAP_BYTES: usize = 64 * 1024 * 1024 * 1024;

/// Rows of one transaction while a table is filled.
const FILL: usize = 50_000;

pub(crate) struct Lmdb {
    env: Env<WithoutTls>,
    operations: Database<Bytes, Bytes>,
    by_time: Database<Bytes, Bytes>,
    is_expiring: bool,
}

impl Lmdb {
    #[expect(unsafe_code, reason = "opening a file that is mapped is unsafe in every wrapper of LMDB")]
    pub(crate) fn open(place: &Place) -> Self {
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(MAP_BYTES).max_dbs(2).max_readers(512);
        // SAFETY: the file is in a folder of our own, opened once in this process and changed by nobody else.
        let env = unsafe { options.open(&place.folder) }.unwrap();
        env.clear_stale_readers().unwrap();
        let mut transaction = env.write_txn().unwrap();
        let operations = env.create_database(&mut transaction, Some("operations")).unwrap();
        let by_time = env.create_database(&mut transaction, Some("by time")).unwrap();
        transaction.commit().unwrap();
        Self { env, operations, by_time, is_expiring: place.is_expiring }
    }

    fn carry_out(&self, transaction: &mut RwTxn<'_>, command: &Command) -> Answer {
        let mut put = |key: &[u8], value: &[u8]| self.operations.put(transaction, key, value).unwrap();
        match command {
            Command::Claim(key) => {
                let new = row::running(&[]);
                let known = self.operations.get_or_put(transaction, key, &new).unwrap();
                return known.map_or(Answer::Claimed, row::answer);
            }
            Command::Checkpoint(key, payload) => put(key, &row::running(payload)),
            Command::Intent(key, name) => put(&row::step_key(key, name), &[]),
            Command::Result(key, name, result) => put(&row::step_key(key, name), result),
            Command::Complete(key, outcome, until) => {
                put(key, &row::done(outcome, *until));
                if self.is_expiring {
                    self.by_time.put(transaction, &row::time_key(*until, key), &[]).unwrap();
                }
            }
            Command::Expire(now, most) => return self.expire(transaction, *now, *most),
        }
        Answer::Done
    }

    fn expire(&self, transaction: &mut RwTxn<'_>, now: u64, most: usize) -> Answer {
        let end = now.to_be_bytes();
        let until = (Bound::Unbounded, Bound::Excluded(&end[..]));
        let over = self.by_time.range(transaction, &until).unwrap().take(most);
        let over: Vec<_> = over.map(|entry| entry.unwrap().0.to_vec()).collect();
        for entry in &over {
            self.operations.delete(transaction, &entry[8..]).unwrap();
            self.by_time.delete(transaction, entry).unwrap();
        }
        Answer::Removed(over.len())
    }

    #[expect(unsafe_code, reason = "the wrapper leaves it to the caller that flags may break durability")]
    fn sync(&self, mode: FlagSetMode) {
        // SAFETY: without syncs a crash may lose what is being filled, which nobody needs then.
        unsafe { self.env.set_flags(EnvFlags::NO_SYNC, mode) }.unwrap();
    }
}

impl Table for Lmdb {
    fn apply(&mut self, commands: &[Command]) -> Vec<Answer> {
        let mut transaction = self.env.write_txn().unwrap();
        let answers = commands.iter().map(|command| self.carry_out(&mut transaction, command)).collect();
        transaction.commit().unwrap();
        answers
    }

    fn fill(&mut self, keys: &[Arc<[u8]>], payload: &Arc<[u8]>, until: u64) {
        self.sync(FlagSetMode::Enable);
        let row = row::done(payload, until);
        for keys in keys.chunks(FILL) {
            let mut transaction = self.env.write_txn().unwrap();
            for key in keys {
                self.operations.put(&mut transaction, key, &row).unwrap();
                if self.is_expiring {
                    self.by_time.put(&mut transaction, &row::time_key(until, key), &[]).unwrap();
                }
            }
            transaction.commit().unwrap();
        }
    }

    fn settle(&mut self) {
        self.sync(FlagSetMode::Disable);
        self.env.force_sync().unwrap();
    }

    fn reader(&self) -> Box<dyn Reader> {
        Box::new(Snapshots { env: self.env.clone(), operations: self.operations })
    }

    fn settings(&self) -> String {
        "LMDB 0.9 through heed, synced commits (data and meta page)".to_owned()
    }
}

struct Snapshots {
    env: Env<WithoutTls>,
    operations: Database<Bytes, Bytes>,
}

impl Reader for Snapshots {
    fn outcome(&mut self, key: &Arc<[u8]>) -> Option<Vec<u8>> {
        let transaction = self.env.read_txn().unwrap();
        self.operations.get(&transaction, key).unwrap().and_then(row::outcome)
    }
}
