//! Who takes part: one file each.

mod by_hand;
mod disk;
mod fjall;
mod limit;
mod lmdb;
mod postgres;
mod redb;
mod redis;
mod reentry;
mod server;
mod sqlite;

use std::fmt;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use futures_core::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::table::Place;
use crate::work::{Callers, Kind, Operation, Work};

pub(crate) use server::is_installed;

/// A contender's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Name {
    /// This crate.
    Reentry,
    /// This crate, its claims deferred.
    ReentryDeferred,
    /// Bare append and sync of a file, in the batches that reentry had.
    Disk,
    /// The bare redb loop: one thread that appends ready-made rows, in the batches that reentry had.
    Limit,
    /// The bare redb loop behind a channel, driven by as many callers.
    DrivenLimit,
    /// `SQLite`, each call a transaction.
    Sqlite,
    /// `SQLite` with a group commit.
    SqliteGroup,
    /// redb by key, each call a transaction.
    Redb,
    /// redb by key with a group commit.
    RedbGroup,
    /// fjall with a group commit.
    FjallGroup,
    /// LMDB with a group commit.
    LmdbGroup,
    /// `PostgreSQL` on loopback.
    Postgres,
    /// Redis on loopback.
    Redis,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("?", |value| value.get_name()))
    }
}

impl Name {
    /// What is no store: it only tells what a store could do at best.
    pub(crate) fn is_limit(self) -> bool {
        matches!(self, Self::Disk | Self::Limit | Self::DrivenLimit)
    }

    /// A peer whose commits are shared by callers.
    pub(crate) fn is_grouped_peer(self) -> bool {
        matches!(self, Self::SqliteGroup | Self::RedbGroup | Self::FjallGroup | Self::LmdbGroup)
    }

    /// Whether it can do this work with these callers at all.
    pub(crate) fn takes_part(self, work: Work, callers: Callers) -> bool {
        let blocks = matches!(self, Self::Sqlite | Self::Redb);
        match work {
            // What it does apart from the other begins with a claim.
            _ if self == Self::ReentryDeferred => matches!(work, Work::ClaimComplete | Work::Checkpoints | Work::Steps),
            _ if blocks && callers.kind == Kind::Tasks => false,
            // The bare loops know no keys, so they read nothing and nobody contends in them; they have no retention.
            Work::ReplayHot | Work::ReplayCold | Work::Absent | Work::Contention => !self.is_limit(),
            Work::Quiet | Work::Removal => !self.is_limit() && self != Self::Redis,
            Work::Sustained => self == Self::Reentry || self.is_grouped_peer(),
            Work::Open | Work::Footprint => !matches!(self, Self::Disk | Self::DrivenLimit),
            Work::ClaimComplete | Work::Checkpoints | Work::Steps => true,
        }
    }

    /// Opens it, anew or with what it kept.
    pub(crate) fn open(self, place: &Place) -> Box<dyn Contender> {
        use by_hand::ByHand;
        match self {
            Self::Reentry => Box::new(reentry::Reentry::open(place, false)),
            Self::ReentryDeferred => Box::new(reentry::Reentry::open(place, true)),
            Self::Disk => Box::new(disk::Disk::open(place)),
            Self::Limit => Box::new(limit::Limit::open(place)),
            Self::DrivenLimit => Box::new(limit::Driven::open(place)),
            Self::Sqlite => Box::new(ByHand::one_call(sqlite::Sqlite::open(place), place)),
            Self::SqliteGroup => Box::new(ByHand::grouped(sqlite::Sqlite::open(place), place)),
            Self::Redb => Box::new(ByHand::one_call(redb::Redb::open(place), place)),
            Self::RedbGroup => Box::new(ByHand::grouped(redb::Redb::open(place), place)),
            Self::FjallGroup => Box::new(ByHand::grouped(fjall::Fjall::open(place), place)),
            Self::LmdbGroup => Box::new(ByHand::grouped(lmdb::Lmdb::open(place), place)),
            Self::Postgres => Box::new(postgres::open(place)),
            Self::Redis => Box::new(redis::open(place)),
        }
    }
}

/// Who does the work.
pub(crate) trait Contender: Send + Sync {
    /// What makes it durable, and what else a reader should know.
    fn settings(&self) -> String;

    /// Keeps finished operations under these numbers, in an empty store. What `expires_soon` is over in an hour, all
    /// else in a day.
    fn fill(&self, count: u64, expires_soon: bool);

    /// Empties it, where that is cheaper than to make it anew; tells whether it did.
    fn clear(&self) -> bool {
        false
    }

    /// One operation, from its claim to its outcome.
    fn operation(&self, operation: Operation, kind: Kind) -> BoxFuture<'_, Performed>;

    /// A slice of work done by the contender's own loop instead of by callers, in batches of this size.
    fn alone(&self, _work: Work, _span: Duration, _batch: f64) -> Option<f64> {
        None
    }

    /// Who looks operations up by their numbers, in the order that is asked for; for one thread.
    fn reader(&self, _work: Work, _numbers: &[u64]) -> Box<dyn Lookup> {
        unreachable!("the plan asks only those for reads that can")
    }

    /// Changes and commits so far, where they are counted.
    fn counts(&self) -> Option<(u64, u64)> {
        None
    }

    /// Lets all that was filled to expire soon be over.
    fn pass_time(&self) {}

    /// Removes some of what is over, where nobody does so by itself; tells how many.
    fn sweep(&self) -> Option<usize> {
        None
    }

    /// How many operations it has removed by itself.
    fn removed(&self) -> u64 {
        0
    }

    /// The server's process, where it is one of its own.
    fn server(&self) -> Option<u32> {
        None
    }
}

/// What one operation came to.
#[derive(Debug, Clone)]
pub(crate) struct Performed {
    /// How long its claim took.
    pub(crate) claim: Duration,
    /// The outcome, where another caller brought it.
    pub(crate) replayed: Option<Vec<u8>>,
}

impl Performed {
    pub(crate) fn first(claim: Duration) -> Self {
        Self { claim, replayed: None }
    }

    pub(crate) fn replayed(begun: Instant, outcome: Vec<u8>) -> Self {
        Self { claim: begun.elapsed(), replayed: Some(outcome) }
    }
}

/// Looks up the keys it was made for, by their places.
pub(crate) trait Lookup: Send {
    /// The outcome, or none where the key was never claimed.
    fn outcome(&mut self, at: usize) -> Option<Vec<u8>>;
}

#[cfg(test)]
mod tests;
