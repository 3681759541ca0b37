//! A kit with which users of this crate break their own handlers; feature `testing`.
//!
//! [`crash_everywhere`] calls a handler on a store whose disk is simulated, beside a simulated [`World`], and kills it
//! at every place where a crash makes a difference, one place a trial. After each crash it calls the handler again, as
//! a client's retry or a [`Resumer`](crate::Resumer) would, until it is done. Then it counts what happened in the
//! world.
//!
//! # How a handler is killed
//!
//! It really runs up to the place, and really stops there; nothing is rebuilt from a recording. A recording would be
//! cheaper, but it can take back only what it owns: a fake bank of the user's would remember what happened after the
//! place. At a call of the world the kill unwinds through the handler (without a message, and no panic hook is called),
//! so that nothing behind the call is done; at a call of the disk the disk takes nothing more, so that the handler gets
//! the store's error, whatever it does about it. Either way the process is dead from that moment on: the world counts
//! nothing that it does, nobody is told what it returns, and what it keeps in [`World::memory`] is gone.
//!
//! What that cannot find: a handler that hangs where its store fails hangs the test; and what a handler keeps in memory
//! of its own, outside of [`World::memory`], outlives the crash.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use crate::clock::{Clock, ManualClock, SystemClock};
use crate::engine::SimulatedDisk;
use crate::error::Source;
use crate::store::{Builder, Store};

#[cfg(feature = "http")]
pub mod conformance;
mod judge;
mod kill;
mod life;
mod report;
mod trial;
mod world;

use judge::Judge;
use kill::{Calls, Kill};
pub use report::{Count, Mistake, MistakeKind, Report};
use trial::{Check, Course, Handler, Setting, Trial};
pub use world::{Expected, Unanswered, World};

const PAIRS_MAX: usize = 200;
const SEED: u64 = 1;
const ATTEMPTS_MAX: usize = 8;
const PAUSE: Duration = Duration::from_secs(60 * 60);

/// How long each sync takes in the trials that look for handlers that do not wait for it.
const SLOW_SYNC: Duration = Duration::from_millis(25);

/// Kills a handler everywhere and tells what came of it, with the defaults of [`CrashTest`].
///
/// The handler gets the store and the world, does one operation (or several) as a server would for one request, and
/// returns `Ok` **where the client is told that it is done**, and an error for everything else: "in doubt", "busy",
/// "come back later". It is called many times: on a new store in each trial, and again on the same one after each crash
/// and each error. What is not done it must get on with, and what is done it must replay.
///
/// An async handler is blocked on: `crash_everywhere(|store, world| runtime.block_on(handle(store, world)))`.
///
/// ```
/// use reentry::testing::{MistakeKind, World, crash_everywhere};
/// use reentry::{Claim, Error, Key, Request, Run, Store};
///
/// fn order(store: &Store, world: &World) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
///     match store.claim(&Key::new("orders", "1")?, Request::of("two pizzas")).wait()? {
///         Claim::Run(run) => finish(run, world),
///         Claim::Replay(outcome) => Ok(outcome.decode()?),
///         _ => Err("come back later".into()),
///     }
/// }
///
/// fn finish(mut run: Run, world: &World) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
///     let receipt = run.step("charge").recheck(|id| world.find("charge", id)).run(|id| world.effect("charge", id))?;
///     world.effect("mail", "ada@example.org")?;                 // the mistake: outside of a step
///     Ok(run.complete(&receipt).wait()?.decode()?)
/// }
///
/// let report = crash_everywhere(order);
/// let mistake = &report.mistakes()[0];
/// assert_eq!((mistake.kind(), mistake.effect()), (MistakeKind::Twice, Some("mail")));
/// assert!(mistake.hint().contains("run.step(\"mail\")"));
/// ```
pub fn crash_everywhere<T, E>(handler: impl Fn(&Store, &World) -> Result<T, E>) -> Report
where
    T: PartialEq + fmt::Debug,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    CrashTest::new().run(handler)
}

/// How [`crash_everywhere`] goes about it.
///
/// ```
/// use reentry::testing::CrashTest;
/// use reentry::{Claim, Key, Request, Store, Table};
///
/// const ORDERS: Table = Table::new("orders");
///
/// let report = CrashTest::new()
///     .store(|| Store::builder().tombstones(std::time::Duration::from_secs(60)))
///     .check(|store, _world| {
///         let rows = store.read(|tx| tx.open_table(ORDERS).and_then(|rows| rows.len()));
///         let rows = rows.and_then(|rows| rows).map_err(|error| error.to_string())?;
///         let unfinished = store.unfinished().count();
///         if rows == 0 || unfinished == 0 { Ok(()) } else { Err("an order that is not paid".to_owned()) }
///     })
///     .run(|store, world| match store.claim(&Key::new("orders", "1")?, Request::of("two pizzas")).wait()? {
///         Claim::Run(mut run) => {
///             let receipt = run.step("charge").run_keyed(|id| world.keyed_effect("charge", id))?;
///             let row = receipt.clone();
///             let outcome = run.complete_with(&receipt, move |tx| {
///                 tx.open_table(ORDERS)?.insert("1", &row)?;
///                 Ok(())
///             });
///             outcome.wait()?.decode::<String>()
///         }
///         Claim::Replay(outcome) => outcome.decode(),
///         _ => panic!("nobody else is there"),
///     });
/// assert!(report.mistakes().is_empty(), "{report}");
/// ```
#[must_use = "nothing is tried until `run`"]
pub struct CrashTest<'h> {
    builder: Box<dyn Fn() -> Builder + 'h>,
    checks: Vec<Box<Check<'h>>>,
    pairs_max: usize,
    seed: u64,
    attempts_max: usize,
    pause: Duration,
}

impl Default for CrashTest<'_> {
    fn default() -> Self {
        Self {
            builder: Box::new(Store::builder),
            checks: Vec::new(),
            pairs_max: PAIRS_MAX,
            seed: SEED,
            attempts_max: ATTEMPTS_MAX,
            pause: PAUSE,
        }
    }
}

impl fmt::Debug for CrashTest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("CrashTest");
        shown.field("pairs_max", &self.pairs_max).field("seed", &self.seed).field("attempts_max", &self.attempts_max);
        shown.field("pause", &self.pause).finish_non_exhaustive()
    }
}

impl<'h> CrashTest<'h> {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// How the store is opened, each time that it is: the server's own settings. The clock is the kit's, whatever this
    /// says. Default: [`Store::builder`].
    pub fn store(mut self, builder: impl Fn() -> Builder + 'h) -> Self {
        self.builder = Box::new(builder);
        self
    }

    /// Something that must always hold: it is checked whenever a store was opened, before the handler is called, and
    /// when a trial is over. For rows that belong to a checkpoint or an outcome, say. There may be several.
    pub fn check(mut self, check: impl Fn(&Store, &World) -> Result<(), String> + 'h) -> Self {
        self.checks.push(Box::new(check));
        self
    }

    /// How many trials kill the handler a second time, when it is called again. Where there are more such pairs of
    /// points, so many are drawn. Default: 200; 0 for none, `usize::MAX` for all.
    pub fn pairs_max(mut self, pairs: usize) -> Self {
        self.pairs_max = pairs;
        self
    }

    /// What pairs are drawn by. The same seed draws the same ones.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// How often the handler is called, at most, until it is done, counted from the last crash. Default: 8.
    pub fn attempts_max(mut self, attempts: usize) -> Self {
        self.attempts_max = attempts;
        self
    }

    /// How much time passes, by the store's clock, after each attempt that failed and each crash: longer than any
    /// [`settles_within`](crate::Rechecked::settles_within) and any lease. It never lasts to the end of an outcome that
    /// is kept, so the retention may be shorter. Default: an hour.
    pub fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Kills the handler everywhere; see [`crash_everywhere`].
    pub fn run<T, E>(self, handler: impl Fn(&Store, &World) -> Result<T, E> + 'h) -> Report
    where
        T: PartialEq + fmt::Debug,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let handler = move |store: &Store, world: &World| handler(store, world).map_err(Into::<Source>::into);
        let Self { builder, checks, pairs_max, seed, attempts_max, pause } = self;
        let fresh = fresh(&*builder);
        let setting = Setting { builder, checks, fresh, attempts_max, pause };
        Exploration::new(&setting, &handler, seed).explore(pairs_max)
    }
}

/// A store in which nothing was ever claimed; nothing where it cannot be made, which the first trial will tell.
fn fresh(builder: &dyn Fn() -> Builder) -> Vec<u8> {
    let disk = SimulatedDisk::new();
    // The time stands still, so that closing it writes nothing more now and then.
    if let Ok(store) = builder().clock(ManualClock::at(SystemClock::default().wall())).open_on(&disk) {
        drop(store.close());
    }
    disk.image()
}

/// All trials of one handler.
struct Exploration<'t, 'h, T> {
    setting: &'t Setting<'h>,
    handler: &'t Handler<'h, T>,
    judge: Judge,
    report: Report,
    dice: Dice,
}

impl<'t, 'h, T: PartialEq + fmt::Debug> Exploration<'t, 'h, T> {
    fn new(setting: &'t Setting<'h>, handler: &'t Handler<'h, T>, seed: u64) -> Self {
        let mut report = Report(Box::default());
        report.0.seed = seed;
        Self { setting, handler, judge: Judge::default(), report, dice: Dice(seed) }
    }

    fn explore(mut self, pairs_max: usize) -> Report {
        let undisturbed = Course::new(self.setting, self.handler, None).run(&[], None);
        self.judge.hear(&undisturbed, &undisturbed);
        let calls = undisturbed.calls.first().copied().unwrap_or_default();
        (self.report.0.disk_calls, self.report.0.world_calls) = (calls.disk, calls.world);
        // What is wrong where nobody is killed says nothing about crashes, and is mended first.
        if undisturbed.told.is_some() && self.judge.mistakes.is_empty() {
            let seconds = self.kill_everywhere(calls, &undisturbed);
            self.lose_everything(calls, &undisturbed);
            self.kill_slowly(&undisturbed);
            self.kill_twice(&seconds, pairs_max, &undisturbed);
        }
        self.report.0.mistakes = self.judge.mistakes;
        self.report.0.counts = self.judge.counts.into_values().collect();
        self.report
    }

    /// Runs one trial, and judges it.
    fn attempt(&mut self, plan: &[Kill], sync_takes: Option<Duration>, undisturbed: &Trial) -> Trial {
        let trial = Course::new(self.setting, self.handler, Some(undisturbed)).run(plan, sync_takes);
        self.report.0.crashes += trial.deaths.len();
        self.judge.hear(&trial, undisturbed);
        trial
    }

    /// Kills the handler once at every point. Returns each point with the calls of the process that came after.
    fn kill_everywhere(&mut self, calls: Calls, undisturbed: &Trial) -> Vec<(Kill, Calls)> {
        let mut seconds = Vec::new();
        for kill in (0..calls.kills()).filter_map(|nth| calls.kill(nth)) {
            let trial = self.attempt(&[kill], None, undisturbed);
            if trial.has_done(&[kill]) {
                self.report.0.points += 1;
                seconds.extend(trial.calls.get(1).map(|calls| (kill, *calls)));
            }
        }
        seconds
    }

    /// Lets every request to the world, and every answer, get lost.
    fn lose_everything(&mut self, calls: Calls, undisturbed: &Trial) {
        for loss in calls.losses() {
            let trial = self.attempt(&[loss], None, undisturbed);
            self.report.0.losses += usize::from(trial.ledger.has_lost);
        }
    }

    /// Cuts the power when the client was told, on a disk so slow that nothing is there that was not waited for.
    fn kill_slowly(&mut self, undisturbed: &Trial) {
        let told = Kill { moment: kill::Moment::Told, death: kill::Death::PowerCut };
        self.attempt(&[told], Some(SLOW_SYNC), undisturbed);
    }

    /// Kills the handler once, and again when it is called again.
    fn kill_twice(&mut self, seconds: &[(Kill, Calls)], pairs_max: usize, undisturbed: &Trial) {
        let possible = seconds.iter().map(|(_, calls)| calls.kills()).sum();
        self.report.0.pairs_possible = possible;
        let drawn = if possible <= pairs_max { (0..possible).collect() } else { self.draw(pairs_max, possible) };
        let (mut passed, mut seconds) = (0, seconds.iter());
        let mut at = seconds.next();
        for nth in drawn {
            while let Some((_, calls)) = at.filter(|(_, calls)| nth >= passed + calls.kills()) {
                passed += calls.kills();
                at = seconds.next();
            }
            let Some((first, calls)) = at else { return };
            let Some(second) = calls.kill(nth - passed) else { return };
            if self.attempt(&[*first, second], None, undisturbed).has_done(&[*first, second]) {
                self.report.0.pairs += 1;
            }
        }
    }

    /// So many numbers below `end`, in their order.
    fn draw(&mut self, count: usize, end: usize) -> BTreeSet<usize> {
        let mut drawn = BTreeSet::new();
        while drawn.len() < count.min(end) {
            drawn.insert(self.dice.below(end));
        }
        drawn
    }
}

/// Chance that is the same in every run (splitmix64, from the paper of Steele, Lea and Flood, 2014).
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    /// A number below `end`; 0 where there is none.
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        let rolled = (mixed ^ mixed >> 31).checked_rem(end as u64).unwrap_or_default();
        usize::try_from(rolled).unwrap_or_default()
    }
}
