//! The commands that a random sequence is made of.

use proptest::prelude::*;

/// Few keys in few scopes, of which some are equal where scope and key are only joined.
pub(crate) const KEYS: [(&str, &str); 5] = [("a", "bc"), ("ab", "c"), ("a", "b"), ("b", "a"), ("b", "b")];

/// Requests that lay claim to them.
pub(crate) const REQUESTS: [&str; 2] = ["two pizzas", "three pizzas"];

/// As an `nth`: the one that came last, which is mostly a run at work.
pub(crate) const NEWEST: usize = 99;

/// How the store of a sequence is opened, each time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    /// Whether owners that stand still can be taken over.
    pub(crate) leased: bool,
    pub(crate) attempts_max: u32,
}

impl Setting {
    pub(crate) const PLAIN: Self = Self { leased: false, attempts_max: 16 };
}

/// One step of a sequence. `nth` picks among what is there at that moment (runs, answers), whichever that is.
#[derive(Debug, Clone)]
pub(crate) enum Command {
    Claim {
        key: usize,
        request: usize,
    },
    /// Claims with a request whose bytes are to be kept.
    ClaimToKeep {
        key: usize,
        request: usize,
        size: usize,
        deferred: bool,
    },
    ClaimDeferred {
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
        deferred: bool,
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
    AdvanceWith {
        nth: usize,
        name: Name,
        size: usize,
        rows: Rows,
    },
    Refresh {
        nth: usize,
    },
    Renew {
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
    EndWith {
        nth: usize,
        is_success: bool,
        size: usize,
        rows: Rows,
    },
    /// Asks for a step. `meanwhile` comes to pass during the recheck or, where there is none, during the effect.
    Step {
        nth: usize,
        name: Name,
        mode: Mode,
        effect: Effect,
        size: usize,
        meanwhile: Meanwhile,
    },
    Resolve {
        nth: usize,
        name: Name,
        size: Option<usize>,
        note: Note,
    },
    ResolveByAnybody {
        key: usize,
        name: Name,
        size: Option<usize>,
        note: Note,
    },
    ReleaseStuck {
        key: usize,
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
    /// The list of the unfinished, narrowed down in each of the ways there are.
    UnfinishedOf {
        scope: Option<usize>,
        age: Option<u64>,
        after: Option<usize>,
    },
    /// The server's own rows.
    Rows,
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

/// The name of a checkpoint or step, by what is the matter with it.
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
            Self::Good(n) => format!("name {n}"),
            Self::Longest => "n".repeat(128),
            Self::TooLong => "n".repeat(129),
            Self::Empty => String::new(),
            Self::Control => "paid\n".to_owned(),
        }
    }
}

/// A note on a resolution, by what is the matter with it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Note {
    Good,
    Longest,
    TooLong,
    Empty,
}

impl Note {
    pub(crate) fn text(self) -> String {
        match self {
            Self::Good => "asked the bank".to_owned(),
            Self::Longest => "n".repeat(1_000),
            Self::TooLong => "n".repeat(1_001),
            Self::Empty => String::new(),
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

/// What ends the builder of a step.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mode {
    Keyed,
    AtMostOnce,
    Recheck { says: Recheck, settles_within: u64 },
}

/// What a recheck answers.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Recheck {
    Happened(usize),
    DidNotHappen,
    CannotTell,
}

/// What an effect comes to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Effect {
    Succeeds,
    Fails,
    IsNotApplied,
    Panics,
    /// The future that waits for it is dropped while it is under way.
    IsDropped,
}

/// What comes to pass while an effect or a recheck is under way, all of it with the key that its run is for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Meanwhile {
    Nothing,
    /// The run is asked whether it is busy.
    Asked,
    Revoked,
    /// Somebody else enters the operation, and is at work.
    TakenOver,
    /// Somebody else entered it, and is gone again.
    Visited,
    /// Somebody else brought the outcome.
    Finished,
    Forgotten,
    /// The key was forgotten, and claimed anew.
    Anew,
    /// An operator takes it from the run and says what became of the step.
    Resolved {
        happened: bool,
    },
    /// So much time passes that a lease lapses, and somebody claims.
    Lapsed,
    Moved,
    Listed,
}

/// What a closure does to the server's own rows.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rows {
    Insert {
        table: usize,
    },
    InsertInBoth,
    Remove {
        table: usize,
    },
    /// Calls the store, which refuses, and writes all the same.
    CallsTheStore,
    Fails,
    Panics,
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

/// Names of steps: few, so that they are asked for again and again.
fn step_name() -> impl Strategy<Value = Name> {
    prop_oneof![
        40 => (0_u8..3).prop_map(Name::Good),
        2 => Just(Name::Longest),
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
        Just(39),
        Just(40),
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

/// Some keys more often than others, so that a sequence comes back to them.
fn key() -> impl Strategy<Value = usize> {
    prop_oneof![3 => Just(0_usize), 2 => Just(1), 4 => 0..KEYS.len()]
}

/// One of the two requests is the usual one, or nearly every claim would be rejected.
fn request() -> impl Strategy<Value = usize> {
    prop_oneof![5 => Just(0_usize), 1 => Just(1_usize)]
}

fn nth() -> impl Strategy<Value = usize> {
    prop_oneof![1 => 0_usize..8, 1 => Just(NEWEST)]
}

fn claims() -> impl Strategy<Value = Command> {
    prop_oneof![
        18 => (key(), request()).prop_map(|(key, request)| Command::Claim { key, request }),
        4 => (key(), request(), size(), any::<bool>())
            .prop_map(|(key, request, size, deferred)| Command::ClaimToKeep { key, request, size, deferred }),
        5 => (key(), request()).prop_map(|(key, request)| Command::ClaimDeferred { key, request }),
        4 => key().prop_map(|key| Command::ClaimUnfinished { key }),
        2 => (key(), request(), any::<bool>())
            .prop_map(|(key, request, deferred)| Command::ClaimAndDrop { key, request, deferred }),
        9 => nth().prop_map(|nth| Command::StandInLine { nth }),
        2 => nth().prop_map(|nth| Command::LeaveLine { nth }),
    ]
}

fn rows() -> impl Strategy<Value = Rows> {
    prop_oneof![
        3 => (0_usize..2).prop_map(|table| Rows::Insert { table }),
        3 => Just(Rows::InsertInBoth),
        1 => (0_usize..2).prop_map(|table| Rows::Remove { table }),
        1 => Just(Rows::CallsTheStore),
        2 => Just(Rows::Fails),
        1 => Just(Rows::Panics),
    ]
}

fn runs() -> impl Strategy<Value = Command> {
    prop_oneof![
        5 => nth().prop_map(|nth| Command::DropRun { nth }),
        2 => nth().prop_map(|nth| Command::Release { nth }),
        8 => (nth(), name(), size()).prop_map(|(nth, name, size)| Command::Advance { nth, name, size }),
        4 => (nth(), name(), size(), rows())
            .prop_map(|(nth, name, size, rows)| Command::AdvanceWith { nth, name, size, rows }),
        2 => nth().prop_map(|nth| Command::Refresh { nth }),
        2 => nth().prop_map(|nth| Command::Renew { nth }),
        7 => (nth(), size()).prop_map(|(nth, size)| Command::Complete { nth, size }),
        2 => (nth(), size()).prop_map(|(nth, size)| Command::Fail { nth, size }),
        3 => (nth(), any::<bool>(), size(), rows())
            .prop_map(|(nth, is_success, size, rows)| Command::EndWith { nth, is_success, size, rows }),
    ]
}

fn mode() -> impl Strategy<Value = Mode> {
    let says = prop_oneof![
        2 => size().prop_map(Recheck::Happened),
        3 => Just(Recheck::DidNotHappen),
        1 => Just(Recheck::CannotTell),
    ];
    let settles_within = prop_oneof![3 => Just(0_u64), 1 => Just(1), 1 => Just(40), 1 => Just(u64::MAX)];
    prop_oneof![
        1 => Just(Mode::Keyed),
        1 => Just(Mode::AtMostOnce),
        2 => (says, settles_within).prop_map(|(says, settles_within)| Mode::Recheck { says, settles_within }),
    ]
}

fn meanwhile() -> impl Strategy<Value = Meanwhile> {
    prop_oneof![
        16 => Just(Meanwhile::Nothing),
        1 => Just(Meanwhile::Asked),
        1 => Just(Meanwhile::Revoked),
        2 => Just(Meanwhile::TakenOver),
        1 => Just(Meanwhile::Visited),
        1 => Just(Meanwhile::Finished),
        1 => Just(Meanwhile::Forgotten),
        1 => Just(Meanwhile::Anew),
        1 => any::<bool>().prop_map(|happened| Meanwhile::Resolved { happened }),
        1 => Just(Meanwhile::Lapsed),
        1 => Just(Meanwhile::Moved),
        1 => Just(Meanwhile::Listed),
    ]
}

fn steps() -> impl Strategy<Value = Command> {
    let effect = prop_oneof![
        5 => Just(Effect::Succeeds),
        4 => Just(Effect::Fails),
        2 => Just(Effect::IsNotApplied),
        1 => Just(Effect::Panics),
        1 => Just(Effect::IsDropped),
    ];
    let note = || {
        let bad = prop_oneof![Just(Note::TooLong), Just(Note::Empty)];
        prop_oneof![8 => Just(Note::Good), 1 => Just(Note::Longest), 2 => bad]
    };
    let result = || prop_oneof![2 => size().prop_map(Some), 1 => Just(None)];
    prop_oneof![
        20 => (nth(), step_name(), mode().boxed(), effect, size(), meanwhile().boxed()).prop_map(
            |(nth, name, mode, effect, size, meanwhile)| Command::Step { nth, name, mode, effect, size, meanwhile }),
        3 => (nth(), step_name(), result(), note())
            .prop_map(|(nth, name, size, note)| Command::Resolve { nth, name, size, note }),
        4 => (key(), step_name(), result(), note())
            .prop_map(|(key, name, size, note)| Command::ResolveByAnybody { key, name, size, note }),
    ]
}

fn by_name() -> impl Strategy<Value = Command> {
    let expected = prop_oneof![3 => Just(Expected::Right), 1 => Just(Expected::Stale), 1 => Just(Expected::Ahead)];
    let scope = prop_oneof![1 => Just(None), 2 => key().prop_map(Some)];
    let age = prop_oneof![2 => Just(None), 1 => Just(Some(0)), 2 => span().prop_map(Some), 1 => Just(Some(u64::MAX))];
    prop_oneof![
        7 => (key(), expected, name(), size())
            .prop_map(|(key, expected, name, size)| Command::AdvanceByAnybody { key, expected, name, size }),
        5 => key().prop_map(|key| Command::Forget { key }),
        3 => key().prop_map(|key| Command::Revoke { key }),
        2 => key().prop_map(|key| Command::ReleaseStuck { key }),
        6 => key().prop_map(|key| Command::Progress { key }),
        2 => Just(Command::Unfinished),
        2 => (scope, age, prop_oneof![Just(None), nth().prop_map(Some)])
            .prop_map(|(scope, age, after)| Command::UnfinishedOf { scope, age, after }),
        1 => Just(Command::Rows),
    ]
}

fn times() -> impl Strategy<Value = Command> {
    prop_oneof![
        8 => span().prop_map(|millis| Command::Pass { millis }),
        4 => jump().prop_map(|millis| Command::Jump { millis }),
        2 => Just(Command::Restart),
        3 => Just(Command::Cut),
        1 => Just(Command::Verify),
    ]
}

/// One run from its claim to its end, over and over for the same few keys: single commands by chance seldom come back
/// to a step.
fn visit() -> impl Strategy<Value = Vec<Command>> {
    let claim = key().prop_flat_map(|key| {
        prop_oneof![
            3 => Just(Command::Claim { key, request: 0 }),
            2 => Just(Command::ClaimDeferred { key, request: 0 }),
            2 => Just(Command::ClaimUnfinished { key }),
        ]
    });
    let mut of_newest = runs().boxed();
    of_newest = prop_oneof![3 => of_newest, 8 => steps().boxed()].prop_map(of_the_newest).boxed();
    let end = prop_oneof![
        4 => Just(Command::DropRun { nth: NEWEST }),
        1 => Just(Command::Restart),
        2 => Just(Command::Cut),
        1 => size().prop_map(|size| Command::Complete { nth: NEWEST, size }),
    ];
    (claim, proptest::collection::vec(of_newest, 1..5), end).prop_map(|(claim, mut of_newest, end)| {
        of_newest.insert(0, claim);
        of_newest.push(end);
        of_newest
    })
}

/// The same command, of the newest run, where it is one of a run.
fn of_the_newest(mut command: Command) -> Command {
    match &mut command {
        Command::Advance { nth, .. }
        | Command::AdvanceWith { nth, .. }
        | Command::Refresh { nth }
        | Command::Renew { nth }
        | Command::EndWith { nth, .. }
        | Command::Step { nth, .. }
        | Command::Resolve { nth, .. } => *nth = NEWEST,
        _ => {}
    }
    command
}

/// A setting and a sequence.
pub(crate) fn sequence() -> impl Strategy<Value = (Setting, Vec<Command>)> {
    let setting = (any::<bool>(), prop_oneof![Just(1_u32), Just(2), Just(3), Just(16)])
        .prop_map(|(leased, attempts_max)| Setting { leased, attempts_max });
    let single = prop_oneof![
        11 => claims().boxed(), 9 => runs().boxed(), 9 => steps().boxed(), 6 => by_name().boxed(), 4 => times().boxed(),
    ];
    let some = prop_oneof![9 => single.prop_map(|command| vec![command]), 2 => visit().boxed()];
    (setting, proptest::collection::vec(some, 1..60).prop_map(|some| some.concat()))
}
