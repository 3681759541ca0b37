//! The commands that a random sequence is made of.

use proptest::prelude::*;

/// Few keys in few scopes, of which some are equal where scope and key are only joined.
pub(crate) const KEYS: [(&str, &str); 5] = [("a", "bc"), ("ab", "c"), ("a", "b"), ("b", "a"), ("b", "b")];

/// Requests that lay claim to them.
pub(crate) const REQUESTS: [&str; 2] = ["two pizzas", "three pizzas"];

/// One step of a sequence. `nth` picks among what is there at that moment (runs, answers), whichever that is.
#[derive(Debug, Clone)]
pub(crate) enum Command {
    Claim {
        key: usize,
        request: usize,
    },
    ClaimUnfinished {
        key: usize,
    },
    /// Claims, and drops the pending answer without a look.
    ClaimAndDrop {
        key: usize,
        request: usize,
    },
    /// Stands in line for a run that was busy when a claim asked, which may be long ago.
    StandInLine {
        nth: usize,
    },
    LeaveLine {
        nth: usize,
    },
    DropRun {
        nth: usize,
    },
    Release {
        nth: usize,
    },
    Advance {
        nth: usize,
        name: Name,
        size: usize,
    },
    Refresh {
        nth: usize,
    },
    Complete {
        nth: usize,
        size: usize,
    },
    Fail {
        nth: usize,
        size: usize,
    },
    AdvanceByAnybody {
        key: usize,
        expected: Expected,
        name: Name,
        size: usize,
    },
    Forget {
        key: usize,
    },
    Revoke {
        key: usize,
    },
    Progress {
        key: usize,
    },
    Unfinished,
    /// Time passes, on both clocks.
    Pass {
        millis: u64,
    },
    /// The wall clock jumps, and no time passes.
    Jump {
        millis: i64,
    },
    Restart,
    /// A power cut: all that no sync made durable is lost.
    Cut,
    Verify,
}

/// A checkpoint's name, by what is the matter with it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Name {
    Good(u8),
    Longest,
    TooLong,
    Empty,
    Control,
}

impl Name {
    pub(crate) fn text(self) -> String {
        match self {
            Self::Good(n) => format!("checkpoint {n}"),
            Self::Longest => "n".repeat(128),
            Self::TooLong => "n".repeat(129),
            Self::Empty => String::new(),
            Self::Control => "paid\n".to_owned(),
        }
    }
}

/// Which revision a compare-and-set by somebody who is not the owner expects.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Expected {
    Right,
    Stale,
    /// One that this operation has not reached, where another has.
    Ahead,
}

fn name() -> impl Strategy<Value = Name> {
    prop_oneof![
        20 => any::<u8>().prop_map(Name::Good),
        1 => Just(Name::Longest),
        1 => Just(Name::TooLong),
        1 => Just(Name::Empty),
        1 => Just(Name::Control),
    ]
}

/// Sizes on both sides of every border: none, in the record, in a row of its own, over the limit.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        2 => Just(0), 6 => 1_usize..50, 2 => Just(1_024), 2 => Just(1_025), 3 => 1_026_usize..4_000, 1 => Just(4_000),
        1 => Just(4_001),
    ]
}

/// Spans on both sides of every deadline, alone and together, and past the time at which old rows are moved.
fn span() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(1),
        Just(699),
        Just(700),
        Just(999),
        Just(1_000),
        Just(1_001),
        Just(1_699),
        Just(1_700),
        Just(61_000),
        1_u64..500,
    ]
}

fn jump() -> impl Strategy<Value = i64> {
    const TEN_YEARS: i64 = 315_360_000_000;
    prop_oneof![
        4 => -2_000_i64..2_000, 1 => Just(-1), 1 => Just(1), 2 => Just(10_000), 2 => Just(-10_000),
        1 => Just(-TEN_YEARS), 1 => Just(TEN_YEARS),
    ]
}

pub(crate) fn sequence() -> impl Strategy<Value = Vec<Command>> {
    let key = || 0..KEYS.len();
    // One of the two requests is the usual one, or nearly every claim would be rejected.
    let request = || prop_oneof![5 => Just(0_usize), 1 => Just(1_usize)];
    let nth = || 0_usize..8;
    let expected = prop_oneof![3 => Just(Expected::Right), 1 => Just(Expected::Stale), 1 => Just(Expected::Ahead)];
    let command = prop_oneof![
        24 => (key(), request()).prop_map(|(key, request)| Command::Claim { key, request }),
        4 => key().prop_map(|key| Command::ClaimUnfinished { key }),
        2 => (key(), request()).prop_map(|(key, request)| Command::ClaimAndDrop { key, request }),
        9 => nth().prop_map(|nth| Command::StandInLine { nth }),
        2 => nth().prop_map(|nth| Command::LeaveLine { nth }),
        5 => nth().prop_map(|nth| Command::DropRun { nth }),
        2 => nth().prop_map(|nth| Command::Release { nth }),
        10 => (nth(), name(), size()).prop_map(|(nth, name, size)| Command::Advance { nth, name, size }),
        2 => nth().prop_map(|nth| Command::Refresh { nth }),
        8 => (nth(), size()).prop_map(|(nth, size)| Command::Complete { nth, size }),
        3 => (nth(), size()).prop_map(|(nth, size)| Command::Fail { nth, size }),
        7 => (key(), expected, name(), size())
            .prop_map(|(key, expected, name, size)| Command::AdvanceByAnybody { key, expected, name, size }),
        5 => key().prop_map(|key| Command::Forget { key }),
        3 => key().prop_map(|key| Command::Revoke { key }),
        6 => key().prop_map(|key| Command::Progress { key }),
        2 => Just(Command::Unfinished),
        8 => span().prop_map(|millis| Command::Pass { millis }),
        4 => jump().prop_map(|millis| Command::Jump { millis }),
        2 => Just(Command::Restart),
        3 => Just(Command::Cut),
        1 => Just(Command::Verify),
    ];
    proptest::collection::vec(command, 1..80)
}
