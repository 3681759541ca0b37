//! What is measured: kinds of work, callers, and what keys and payloads look like.

use std::fmt;
use std::sync::Arc;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A kind of work. Every contender does the same: what it acknowledges is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Work {
    /// Claim a new key, then give it its outcome.
    ClaimComplete,
    /// Claim, move a checkpoint three times, complete.
    Checkpoints,
    /// Claim, three effects with an intent before and a result after each, complete.
    Steps,
    /// Ask for the outcome of one of the thousand newest keys.
    ReplayHot,
    /// Ask for the outcome of any key that is kept, in no order.
    ReplayCold,
    /// Ask for a key that was never claimed.
    Absent,
    /// Callers that all claim the same new key at once; all get its outcome.
    Contention,
    /// Open what a process left that was killed by `kill -9`.
    Open,
    /// Memory and disk that what is kept takes.
    Footprint,
    /// Claim and complete beside what is to be removed, before it is over.
    Quiet,
    /// Claim and complete while all that is kept is over and is removed.
    Removal,
    /// Claim and complete for minutes while retention removes as fast as they come.
    Sustained,
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("?", |value| value.get_name()))
    }
}

impl Work {
    /// Checkpoints and steps of its operations.
    pub(crate) fn operation(self, number: u64) -> Operation {
        let checkpoints = if self == Self::Checkpoints { CHECKPOINTS } else { 0 };
        let steps: &'static [&'static str] = if self == Self::Steps { &["charge", "mail", "notify"] } else { &[] };
        Operation { number, checkpoints, steps }
    }

    /// How often the store waits for the disk in one of its operations.
    pub(crate) fn waits(self) -> usize {
        let operation = self.operation(0);
        2 + operation.checkpoints + operation.steps.len()
    }

    /// Whether it only asks.
    pub(crate) fn is_read(self) -> bool {
        matches!(self, Self::ReplayHot | Self::ReplayCold | Self::Absent)
    }

    /// Whether something removes what is over meanwhile.
    pub(crate) fn is_sweeping(self) -> bool {
        matches!(self, Self::Removal | Self::Sustained)
    }
}

/// One operation, from its claim to its outcome.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operation {
    pub(crate) number: u64,
    pub(crate) checkpoints: usize,
    pub(crate) steps: &'static [&'static str],
}

/// Whether callers are threads, which block, or tasks, which are polled by one worker a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Threads,
    Tasks,
}

/// How many callers there are, and what they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct Callers {
    pub(crate) kind: Kind,
    pub(crate) count: usize,
}

impl Callers {
    pub(crate) const fn threads(count: usize) -> Self {
        Self { kind: Kind::Threads, count }
    }

    pub(crate) const fn tasks(count: usize) -> Self {
        Self { kind: Kind::Tasks, count }
    }
}

impl fmt::Display for Callers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.count == 1 { "" } else { "s" };
        match self.kind {
            Kind::Threads => write!(f, "{} thread{plural}", self.count),
            Kind::Tasks => write!(f, "{} task{plural}", self.count),
        }
    }
}

impl From<Callers> for String {
    fn from(callers: Callers) -> Self {
        callers.to_string()
    }
}

impl TryFrom<String> for Callers {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (count, kind) = text.split_once(' ').ok_or_else(|| format!("{text:?} are no callers"))?;
        let kind = if kind.starts_with("thread") { Kind::Threads } else { Kind::Tasks };
        Ok(Self { kind, count: count.parse().map_err(|_| format!("{count:?} is no number of callers"))? })
    }
}

/// Where files are and what a sync takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// The real disk, whatever its mood.
    Disk,
    /// Files in memory, and every sync of every contender takes the same time.
    Fixed,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Disk { "disk" } else { "fixed" })
    }
}

/// What clients' keys look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum KeyShape {
    /// As long as a UUID, and in no order: what clients are told to send.
    Uuid,
    /// As long, and each greater than the one before.
    Ascending,
    /// Eleven characters, in no order.
    Short,
    /// 200 characters, in no order.
    Long,
}

impl fmt::Display for KeyShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("?", |value| value.get_name()))
    }
}

/// How often a checkpoint moves in an operation that has one.
const CHECKPOINTS: usize = 3;

/// The fingerprint of every request. It is made once, for all contenders: hashing is nobody's store.
pub(crate) const FINGERPRINT: [u8; 32] = [0x5A; 32];

/// What an operation's key and payload look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) key: KeyShape,
    pub(crate) payload_bytes: usize,
}

impl Load {
    /// The client's key of an operation.
    pub(crate) fn client_key(self, number: u64) -> String {
        let (high, low) = (scattered(number), scattered(!number));
        match self.key {
            KeyShape::Uuid => {
                let (a, b, c) = (high >> 32, (high >> 16) & 0xFFFF, high & 0xFFF);
                format!("{a:08x}-{b:04x}-4{c:03x}-{:04x}-{:012x}", 0x8000 | (low >> 50), low & 0xFFFF_FFFF_FFFF)
            }
            KeyShape::Ascending => format!("{number:036}"),
            KeyShape::Short => format!("{:011x}", high >> 20),
            KeyShape::Long => format!("{high:016x}{:0>184}", format!("{low:016x}")),
        }
    }

    /// Scope and client key as a table by hand keeps them: with the scope's length before, so that no two are alike.
    pub(crate) fn row_key(self, number: u64) -> Arc<[u8]> {
        let scope = scope(number);
        let mut key = vec![u8::try_from(scope.len()).expect("scopes are short")];
        key.extend_from_slice(scope.as_bytes());
        key.extend_from_slice(self.client_key(number).as_bytes());
        key.into()
    }

    /// A payload that nobody's compression makes smaller.
    pub(crate) fn payload(self) -> Arc<[u8]> {
        (0..self.payload_bytes as u64).map(|at| scattered(at).to_le_bytes()[0]).collect()
    }

    /// Payloads of an operation's checkpoints: each other than the one before, or a store may find nothing to write.
    pub(crate) fn checkpoints(self) -> Vec<Arc<[u8]>> {
        let nth = |nth: usize| self.payload().iter().map(|byte| byte.wrapping_add(nth as u8)).collect();
        (1..=CHECKPOINTS).map(nth).collect()
    }
}

/// The scope of an operation, which the server chooses: one of a hundred customers.
pub(crate) fn scope(number: u64) -> String {
    format!("checkout/customer-{:02}", number % 100)
}

/// Numbers all over the range (`SplitMix64`), each only once.
pub(crate) fn scattered(number: u64) -> u64 {
    let mut z = number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn keys_of_every_shape_are_all_different_and_as_long_as_it_says() {
        for (shape, length) in
            [(KeyShape::Uuid, 36), (KeyShape::Ascending, 36), (KeyShape::Short, 11), (KeyShape::Long, 200)]
        {
            let load = Load { key: shape, payload_bytes: 0 };
            let keys: HashSet<String> = (0..20_000).map(|number| load.client_key(number)).collect();
            assert_eq!(keys.len(), 20_000, "{shape}");
            assert!(keys.iter().all(|key| key.len() == length), "{shape}");
        }
    }
}
