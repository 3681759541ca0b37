//! What the kit found, in words that a developer understands at once.

use std::fmt;

/// What trying a handler everywhere came to; from [`crash_everywhere`](super::crash_everywhere).
///
/// [`Display`](fmt::Display) and `Debug` both print it for people, so that a test may return it as its error:
///
/// ```
/// use reentry::testing::crash_everywhere;
/// use reentry::{Claim, Key, Request};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let report = crash_everywhere(|store, world| {
///     match store.claim(&Key::new("orders", "1")?, Request::of("two pizzas")).wait()? {
///         Claim::Run(mut run) => {
///             let receipt = run.step("charge").run_keyed(|id| world.keyed_effect("charge", id))?;
///             Ok(run.complete(&receipt).wait()?.decode()?)
///         }
///         Claim::Replay(outcome) => outcome.decode::<String>(),
///         _ => panic!("nobody else is there"),
///     }
/// })
/// .into_result()?;
/// assert_eq!(report.count("charge").map(|count| count.undisturbed()), Some(1));
/// # Ok(())
/// # }
/// ```
#[must_use = "a handler that is wrong is found here; call `into_result`"]
pub struct Report(pub(super) Box<Inner>);

#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) mistakes: Vec<Mistake>,
    pub(super) counts: Vec<Count>,
    pub(super) disk_calls: usize,
    pub(super) world_calls: usize,
    pub(super) points: usize,
    pub(super) losses: usize,
    pub(super) pairs: usize,
    pub(super) pairs_possible: usize,
    pub(super) crashes: usize,
    pub(super) seed: u64,
}

/// Something that is wrong with a handler.
#[derive(Debug, Clone)]
pub struct Mistake {
    pub(super) kind: MistakeKind,
    pub(super) about: About,
    pub(super) what: String,
    pub(super) place: String,
    pub(super) places: usize,
    /// The last of them, so that what shows twice in one counts once.
    pub(super) last_trial: usize,
    pub(super) hint: String,
    pub(super) story: Vec<String>,
}

/// What a mistake is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum About {
    All,
    Effect(String),
    /// One of the user's checks, by its place among them.
    Check(usize),
}

/// What a mistake comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MistakeKind {
    /// An effect happened more often than it may.
    Twice,
    /// An effect never happened, or less often than it must, though the client was told that it is done.
    Never,
    /// The client was told that it is done, and the store does not know of it.
    Lost,
    /// The client was told something, and its retry is told something else.
    Changed,
    /// However often the handler is called, it is not done.
    Unfinished,
    /// A step is left in doubt, and nothing in the handler gets on from there.
    InDoubt,
    /// A [check](super::CrashTest::check) of yours does not hold.
    Broken,
    /// The store does not open, or its own check fails: a bug of this crate.
    Damaged,
}

/// How often an effect happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    pub(super) effect: String,
    pub(super) undisturbed: usize,
    pub(super) least: usize,
    pub(super) most: usize,
}

impl Report {
    /// The report where nothing is wrong, the same report as an error where something is.
    ///
    /// # Errors
    ///
    /// The report, where there is a mistake.
    pub fn into_result(self) -> Result<Self, Self> {
        if self.0.mistakes.is_empty() { Ok(self) } else { Err(self) }
    }

    /// What is wrong, each with the first place at which it showed. None is well.
    pub fn mistakes(&self) -> &[Mistake] {
        &self.0.mistakes
    }

    /// How often each effect happened.
    pub fn counts(&self) -> &[Count] {
        &self.0.counts
    }

    /// How often the effect of this name happened, if it ever did.
    pub fn count(&self, effect: &str) -> Option<&Count> {
        self.0.counts.iter().find(|count| count.effect == effect)
    }

    /// How many calls that change or sync the disk a run makes that nothing disturbs, from the first call of the
    /// handler on. What opening and closing the store takes says nothing about the handler, and is not counted.
    pub fn disk_calls(&self) -> usize {
        self.0.disk_calls
    }

    /// How many calls of the world it makes: effects and look-ups.
    pub fn world_calls(&self) -> usize {
        self.0.world_calls
    }

    /// At how many points the handler was killed, each in a trial of its own: before and after each call of the disk;
    /// before each call of the world, between it and its answer, and behind it; and when the client was told. Each as a
    /// killed process and as a power cut.
    pub fn points(&self) -> usize {
        self.0.points
    }

    /// In how many trials nobody was killed, but a request to the world or its answer got lost.
    pub fn lost_answers(&self) -> usize {
        self.0.losses
    }

    /// In how many trials the handler was killed at one point, and again when it was called again.
    pub fn pairs(&self) -> usize {
        self.0.pairs
    }

    /// How many such trials there could be. Where there are more than
    /// [`pairs_max`](super::CrashTest::pairs_max), [`pairs`](Self::pairs) of them were drawn by the
    /// [seed](Self::seed).
    pub fn pairs_possible(&self) -> usize {
        self.0.pairs_possible
    }

    /// How often a process was killed, in all trials together.
    pub fn crashes(&self) -> usize {
        self.0.crashes
    }

    /// What the pairs were drawn by.
    pub fn seed(&self) -> u64 {
        self.0.seed
    }
}

impl Mistake {
    /// What it comes to.
    pub fn kind(&self) -> MistakeKind {
        self.kind
    }

    /// The effect it is about, if it is about one.
    pub fn effect(&self) -> Option<&str> {
        if let About::Effect(effect) = &self.about { Some(effect) } else { None }
    }

    /// What is wrong, in words.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Where the process was killed in the first trial that showed it.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// In how many trials it showed.
    pub fn places(&self) -> usize {
        self.places
    }

    /// What to do about it, as far as the kit can tell.
    pub fn hint(&self) -> &str {
        &self.hint
    }

    /// What happened in that trial, line by line.
    pub fn story(&self) -> &[String] {
        &self.story
    }
}

impl Count {
    /// The effect's name.
    pub fn effect(&self) -> &str {
        &self.effect
    }

    /// How often it happened in the run that nothing disturbed.
    pub fn undisturbed(&self) -> usize {
        self.undisturbed
    }

    /// How often it happened at least, in the trials that were told done.
    pub fn least(&self) -> usize {
        self.least
    }

    /// How often it happened at most.
    pub fn most(&self) -> usize {
        self.most
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        match inner.mistakes.len() {
            0 => writeln!(f, "nothing is wrong")?,
            1 => writeln!(f, "1 mistake")?,
            more => writeln!(f, "{more} mistakes")?,
        }
        for (nth, mistake) in inner.mistakes.iter().enumerate() {
            writeln!(f, "\n{}. {mistake}", nth + 1)?;
        }
        writeln!(f)?;
        let Inner { disk_calls, world_calls, points, losses, pairs, pairs_possible, crashes, seed, .. } = inner;
        writeln!(f, "killed at {points} points of {disk_calls} calls of the disk and {world_calls} of the world,")?;
        let drawn = if pairs < pairs_possible { format!(", drawn by seed {seed}") } else { String::new() };
        writeln!(f, "at {pairs} of {pairs_possible} pairs of points{drawn}; {losses} lost requests and answers;")?;
        write!(f, "{crashes} crashes in all")?;
        for Count { effect, undisturbed, least, most } in &inner.counts {
            write!(f, "\neffect `{effect}`: {undisturbed} undisturbed, {least} at least, {most} at most")?;
        }
        Ok(())
    }
}

/// As it is displayed: it is what a test that fails shows.
impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl std::error::Error for Report {}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.what)?;
        writeln!(f, "   {}", self.place)?;
        for line in &self.story {
            writeln!(f, "     - {line}")?;
        }
        if self.places > 1 {
            writeln!(f, "   and in {} more trials", self.places - 1)?;
        }
        write!(f, "   hint: {}", self.hint)
    }
}
