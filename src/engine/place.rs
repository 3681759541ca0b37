//! Where records stand: the tables of rows, and the numbers in them.

use redb::TableDefinition;

use crate::record::{Phase, Record};

pub(super) type Definition<'a> = TableDefinition<'a, u64, &'static [u8]>;

pub(super) const LOG: Definition<'_> = TableDefinition::new("reentry/log");
pub(super) const UNFINISHED: Definition<'_> = TableDefinition::new("reentry/unfinished");
pub(super) const TOMBSTONES: Definition<'_> = TableDefinition::new("reentry/tombstones");
pub(super) const BODIES: Definition<'_> = TableDefinition::new("reentry/bodies");

/// What marks a place's word as one of the tombstones, or of what is unfinished. Numbers end before.
const TOMBSTONE_BIT: u64 = 1 << 63;
const UNFINISHED_BIT: u64 = 1 << 62;

/// The greatest number a row can have.
pub(crate) const NUMBER_MAX: u64 = UNFINISHED_BIT - 1;

/// Where a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// Among what ended.
    Log(u64),
    Unfinished(u64),
    Tombstone(u64),
}

impl Place {
    /// Where each table begins.
    pub(super) const STARTS: [Self; 3] = [Self::Log(0), Self::Unfinished(0), Self::Tombstone(0)];

    /// Where this record belongs under this number.
    pub(super) fn of(record: &Record, number: u64) -> Self {
        match record.phase {
            Phase::Unfinished => Self::Unfinished(number),
            Phase::Completed { .. } => Self::Log(number),
            Phase::Tombstone { .. } => Self::Tombstone(number),
        }
    }

    pub(crate) fn number(self) -> u64 {
        match self {
            Self::Log(number) | Self::Unfinished(number) | Self::Tombstone(number) => number,
        }
    }

    /// The place of this number in the same table.
    pub(crate) fn beside(self, number: u64) -> Self {
        match self {
            Self::Log(_) => Self::Log(number),
            Self::Unfinished(_) => Self::Unfinished(number),
            Self::Tombstone(_) => Self::Tombstone(number),
        }
    }

    /// As one number: that of its row, with a mark of its table.
    pub(crate) fn word(self) -> u64 {
        match self {
            Self::Log(number) => number,
            Self::Unfinished(number) => number | UNFINISHED_BIT,
            Self::Tombstone(number) => number | TOMBSTONE_BIT,
        }
    }

    pub(crate) fn from_word(word: u64) -> Self {
        let number = word & NUMBER_MAX;
        match (word & TOMBSTONE_BIT, word & UNFINISHED_BIT) {
            (0, 0) => Self::Log(number),
            (0, _) => Self::Unfinished(number),
            _ => Self::Tombstone(number),
        }
    }

    pub(super) fn table_name(self) -> &'static str {
        match self {
            Self::Log(_) => "reentry/log",
            Self::Unfinished(_) => "reentry/unfinished",
            Self::Tombstone(_) => "reentry/tombstones",
        }
    }

    pub(super) fn table(self) -> Definition<'static> {
        match self {
            Self::Log(_) => LOG,
            Self::Unfinished(_) => UNFINISHED,
            Self::Tombstone(_) => TOMBSTONES,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_known_by_its_word() {
        for number in [0, 1, 7, 1 << 32, NUMBER_MAX - 1, NUMBER_MAX] {
            let places = Place::STARTS.map(|start| start.beside(number));
            assert_eq!(places.map(Place::word).map(Place::from_word), places);
            assert_eq!(places.map(Place::number), [number; 3]);
        }
    }
}
