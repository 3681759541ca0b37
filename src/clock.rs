//! Time: what a clock is, and the store's own time made from it.
//!
//! Invariants (P11), kept by `Timeline`:
//! 1. The store's time never goes back, not over a restart either: it starts at the highest time on disk or the wall
//!    clock, whichever is later.
//! 2. While the store is open its time runs with the monotonic clock alone, so a jump of the wall clock expires
//!    nothing early and stops nothing.
//! 3. A deadline is counted from the store's time or the wall clock, whichever is ahead, so a deadline written while
//!    the store's time lags (a suspended machine) is not early after the next restart.

use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A moment, in milliseconds since the Unix epoch.
///
/// ```
/// use reentry::Timestamp;
/// use std::time::Duration;
///
/// let noon = Timestamp::from_millis(1_700_000_000_000);
/// assert_eq!((noon + Duration::from_secs(1)).as_millis(), 1_700_000_001_000);
/// assert_eq!(noon.since(noon + Duration::from_secs(1)), Duration::ZERO);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The moment this many milliseconds after the Unix epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this moment is; zero if it is not after it.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Saturates at the end of time.
impl std::ops::Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// A time before the epoch counts as the epoch.
impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        Self(0) + time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03} s", self.0 / 1000, self.0 % 1000)
    }
}

/// What the store reads time from; [`SystemClock`] unless the builder is given another.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// The wall clock. It may jump in either direction.
    fn wall(&self) -> Timestamp;

    /// Time passed since some fixed moment. It never goes back and ignores every jump of the wall clock.
    fn elapsed(&self) -> Duration;
}

/// The machine's clocks.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    origin: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { origin: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn wall(&self) -> Timestamp {
        SystemTime::now().into()
    }

    fn elapsed(&self) -> Duration {
        self.origin.elapsed()
    }
}

/// A clock that moves only when a test moves it. Clones share the time.
///
/// ```
/// use reentry::{Clock, ManualClock, Timestamp};
/// use std::time::Duration;
///
/// let clock = ManualClock::at(Timestamp::from_millis(5_000));
/// clock.advance(Duration::from_secs(1));
/// clock.set_wall(Timestamp::from_millis(10));
/// assert_eq!((clock.wall().as_millis(), clock.elapsed().as_millis()), (10, 1_000));
/// ```
#[cfg(any(test, feature = "testing"))]
#[derive(Debug, Clone)]
pub struct ManualClock(std::sync::Arc<crate::sync::Mutex<(Timestamp, Duration)>>);

#[cfg(any(test, feature = "testing"))]
impl ManualClock {
    /// A clock that stands at this moment.
    pub fn at(wall: Timestamp) -> Self {
        Self(std::sync::Arc::new(crate::sync::Mutex::new((wall, Duration::ZERO))))
    }

    /// Lets this much time pass, on both clocks.
    pub fn advance(&self, span: Duration) {
        let mut clocks = self.0.lock();
        clocks.0 = clocks.0 + span;
        clocks.1 = clocks.1.saturating_add(span);
    }

    /// Makes the wall clock jump, in either direction; no time passes.
    pub fn set_wall(&self, wall: Timestamp) {
        self.0.lock().0 = wall;
    }
}

#[cfg(any(test, feature = "testing"))]
impl Clock for ManualClock {
    fn wall(&self) -> Timestamp {
        self.0.lock().0
    }

    fn elapsed(&self) -> Duration {
        self.0.lock().1
    }
}

/// What one decision knows of time; read once a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// The store's time: what decides whether a deadline has passed.
    pub(crate) time: Timestamp,
    /// What new deadlines are counted from: the store's time or the wall clock, whichever is ahead.
    pub(crate) ahead: Timestamp,
}

/// The store's time while it is open.
#[derive(Debug)]
pub(crate) struct Timeline {
    clock: Box<dyn Clock>,
    base: Timestamp,
    origin: Duration,
}

impl Timeline {
    /// Starts at the highest time ever seen or the wall clock, whichever is later.
    pub(crate) fn start(clock: Box<dyn Clock>, highest_seen: Timestamp) -> Self {
        let base = clock.wall().max(highest_seen);
        let origin = clock.elapsed();
        Self { clock, base, origin }
    }

    /// The time at which it started.
    pub(crate) fn start_time(&self) -> Timestamp {
        self.base
    }

    pub(crate) fn now(&self) -> Now {
        let time = self.base + self.clock.elapsed().saturating_sub(self.origin);
        Now { time, ahead: time.max(self.clock.wall()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Unless somebody gives another clock a store lives by the system's.
    #[test]
    fn the_clock_of_the_machine_tells_its_time_and_goes_on() {
        let clock = SystemClock::default();
        let (before, told, after) = (Timestamp::from(SystemTime::now()), clock.wall(), SystemTime::now().into());
        assert!((before..=after).contains(&told), "{told:?} is not between {before:?} and {after:?}");
        assert!(told.as_millis() > 1_700_000_000_000, "{told:?}");
        let second = Duration::from_secs(1);
        let older = SystemClock { origin: clock.origin.checked_sub(second).unwrap() };
        let elapsed = clock.elapsed();
        assert!(older.elapsed() >= elapsed + second);
    }

    #[test]
    fn p11_the_stores_time_ignores_jumps_of_the_wall_clock() {
        let clock = ManualClock::at(Timestamp::from_millis(1_000));
        let timeline = Timeline::start(Box::new(clock.clone()), Timestamp::default());
        clock.set_wall(Timestamp::from_millis(900_000));
        assert_eq!(timeline.now().time.as_millis(), 1_000);
        assert_eq!(timeline.now().ahead.as_millis(), 900_000);
        clock.set_wall(Timestamp::from_millis(3));
        clock.advance(Duration::from_millis(7));
        assert_eq!(timeline.now().time.as_millis(), 1_007);
        assert_eq!(timeline.now().ahead.as_millis(), 1_007);
    }

    #[test]
    fn p11_a_restart_with_the_clock_turned_back_starts_at_the_highest_time_seen() {
        let clock = ManualClock::at(Timestamp::from_millis(1_000));
        let timeline = Timeline::start(Box::new(clock), Timestamp::from_millis(50_000));
        assert_eq!(timeline.now().time.as_millis(), 50_000);
    }
}
