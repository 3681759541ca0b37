//! Every cut of a server's disk, in every way that unsynced calls can be lost, and a look at what each leaves.

use std::collections::HashSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};

use reentry::{Key, Loss, SimulatedDisk};

use super::history::Expected;
use super::losses::{Thoroughness, cut, unsynced, ways};
use super::server::Server;
use super::support::{Dice, key};

/// How much of what can be tried is tried, and out of how many cuts one is cut again, at every call of its recovery.
fn thoroughness() -> (Thoroughness, usize) {
    match std::env::var_os("REENTRY_CRASH_FULL") {
        Some(_) => (Thoroughness { all_subsets_max: 10, subsets: 2_000, tears: usize::MAX }, 20),
        None => (Thoroughness { all_subsets_max: 5, subsets: 16, tears: 1 }, 150),
    }
}

/// What was tried.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) cuts: usize,
    pub(crate) images: usize,
    pub(crate) images_again: usize,
}

/// Cuts the disk of this server after every single call of its history, in every way, and looks at what is left.
pub(crate) fn cut_everywhere(server: &Server) -> Tally {
    let (how, again_one_in) = thoroughness();
    let keys = keys(server);
    let (mut tally, mut seen) = (Tally::default(), HashSet::new());
    let mut dice = Dice::new(7);
    let calls = server.disk.calls();
    for at in 0..=calls {
        let expected = server.history.at(at);
        tally.cuts += 1;
        for losses in ways(&server.disk, at, how, &mut dice) {
            let left = cut(&server.disk, at, &losses);
            if !seen.insert(digest(&left, &expected)) {
                continue;
            }
            tally.images += 1;
            let is_cut_again = dice.below(again_one_in) == 0;
            in_case(&Case { at, calls, expected: &expected, losses: &losses }, || {
                let mut after = Server::after_a_cut(left, &expected, &keys);
                after.go_on();
                if is_cut_again {
                    after.close();
                    tally.images_again += cut_again(&after, 0..=after.disk.calls(), &mut dice);
                }
            });
        }
    }
    tally
}

/// Every key that a server asked about, and one more.
fn keys(server: &Server) -> Vec<Key> {
    let mut keys = server.history.keys();
    keys.push(key("never asked about"));
    keys
}

/// Kills the server after every single call of its history, which loses nothing, looks at what the next one finds, and
/// cuts the power while that one is at work: what it found may not have been synced by the one before.
pub(crate) fn kill_everywhere(server: &Server) -> Tally {
    let (keys, mut dice, mut tally) = (keys(server), Dice::new(11), Tally::default());
    let (_, again_one_in) = thoroughness();
    for at in 0..=server.disk.calls() {
        let expected = server.history.at(at);
        tally.cuts += 1;
        in_case(&Case { at, calls: server.disk.calls(), expected: &expected, losses: &[] }, || {
            let mut after = Server::after_a_cut(server.disk.killed(at), &expected, &keys);
            let opened = after.disk.calls();
            tally.images_again += cut_again(&after, opened..=opened, &mut dice);
            if dice.below(again_one_in / 10) == 0 {
                after.go_on();
                after.close();
                tally.images_again += cut_again(&after, at..=after.disk.calls(), &mut dice);
            }
        });
    }
    tally
}

/// Cuts what a server did after a cut, its recovery too, after these calls, in a few ways.
fn cut_again(server: &Server, cuts: RangeInclusive<usize>, dice: &mut Dice) -> usize {
    let (calls, keys, mut images) = (server.disk.calls(), keys(server), 0);
    let mut seen = HashSet::new();
    for at in cuts {
        let expected = server.history.at(at);
        let count = unsynced(&server.disk, at).len();
        let some = (0..count).map(|_| if dice.below(2) == 0 { Loss::Kept } else { Loss::Lost }).collect();
        for losses in [vec![Loss::Lost; count], vec![Loss::Kept; count], some] {
            if !seen.insert(digest(&cut(&server.disk, at, &losses), &expected)) {
                continue;
            }
            images += 1;
            in_case(&Case { at, calls, expected: &expected, losses: &losses }, || {
                let mut after = Server::after_a_cut(cut(&server.disk, at, &losses), &expected, &keys);
                after.go_on();
            });
        }
    }
    images
}

/// What tells one image from another, with what is expected of it.
fn digest(disk: &SimulatedDisk, expected: &Expected) -> u64 {
    let mut hasher = DefaultHasher::new();
    disk.image().hash(&mut hasher);
    (&expected.during, expected.in_flight.len(), expected.told.len(), expected.wall, expected.token).hash(&mut hasher);
    hasher.finish()
}

/// Where a check is, for whoever must find out why it failed.
struct Case<'a> {
    at: usize,
    calls: usize,
    expected: &'a Expected,
    losses: &'a [Loss],
}

impl fmt::Display for Case<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, calls, expected, losses } = self;
        write!(f, "cut after call {at} of {calls}, during {}, with {losses:?}", expected.during)
    }
}

/// Does `check`, and says where a failure is.
fn in_case<T>(case: &Case<'_>, check: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(check)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        panic!("{case}: {}", text.unwrap_or_default())
    })
}
