//! Every cut of a server's disk, in every way that unsynced calls can be lost, and a look at what each leaves.

use std::collections::HashSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};

use reentry::{Key, Loss, SimulatedDisk, Unsynced};

use super::history::Expected;
use super::server::Server;
use super::support::{Dice, key};

/// How much of what can be tried is tried.
#[derive(Debug, Clone, Copy)]
struct Thoroughness {
    /// Of so many unsynced calls every subset is lost; of more, this many subsets.
    all_subsets_max: usize,
    subsets: usize,
    /// Places at which each write is torn.
    tears: usize,
    /// One cut out of this many is cut again, at every call of its recovery.
    again_one_in: usize,
}

impl Thoroughness {
    fn of_this_run() -> Self {
        match std::env::var_os("REENTRY_CRASH_FULL") {
            Some(_) => Self { all_subsets_max: 10, subsets: 2_000, tears: usize::MAX, again_one_in: 20 },
            None => Self { all_subsets_max: 5, subsets: 16, tears: 1, again_one_in: 150 },
        }
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
    let how = Thoroughness::of_this_run();
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
            let is_cut_again = dice.below(how.again_one_in) == 0;
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
    let how = Thoroughness::of_this_run();
    for at in 0..=server.disk.calls() {
        let expected = server.history.at(at);
        tally.cuts += 1;
        in_case(&Case { at, calls: server.disk.calls(), expected: &expected, losses: &[] }, || {
            let mut after = Server::after_a_cut(server.disk.killed(at), &expected, &keys);
            let opened = after.disk.calls();
            tally.images_again += cut_again(&after, opened..=opened, &mut dice);
            if dice.below(how.again_one_in / 10) == 0 {
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

/// The calls that a cut after the first `at` may lose.
fn unsynced(disk: &SimulatedDisk, at: usize) -> Vec<Unsynced> {
    let mut unsynced = Vec::new();
    drop(disk.cut(at, |call| {
        unsynced.push(call);
        Loss::Kept
    }));
    unsynced
}

fn cut(disk: &SimulatedDisk, at: usize, losses: &[Loss]) -> SimulatedDisk {
    disk.cut(at, |call| losses[call.nth])
}

/// The ways in which the calls that no sync covers yet are lost.
fn ways(disk: &SimulatedDisk, at: usize, how: Thoroughness, dice: &mut Dice) -> Vec<Vec<Loss>> {
    let calls = unsynced(disk, at);
    let (kept, lost) = (vec![Loss::Kept; calls.len()], vec![Loss::Lost; calls.len()]);
    let mut ways = vec![kept.clone(), lost.clone()];
    // Any subset of fewer calls is one of all calls up to the next sync as well, so those are tried once, there.
    let is_last_before_a_sync = at == disk.calls() || unsynced(disk, at + 1).is_empty();
    if !is_last_before_a_sync {
        return ways;
    }
    let kept_or_lost = |is_kept: bool| if is_kept { Loss::Kept } else { Loss::Lost };
    let chosen = |bits: usize| (0..calls.len()).map(move |nth| kept_or_lost(bits >> nth & 1 == 1));
    for nth in 0..calls.len() {
        ways.push(with(&kept, nth, Loss::Lost));
        ways.push(with(&lost, nth, Loss::Kept));
        ways.push((0..calls.len()).map(|other| kept_or_lost(other < nth)).collect());
    }
    if calls.len() <= how.all_subsets_max {
        ways.extend((0..1_usize << calls.len()).map(|bits| chosen(bits).collect()));
    } else {
        ways.extend((0..how.subsets).map(|_| chosen(dice.below(usize::MAX)).collect()));
    }
    for call in &calls {
        for bytes in tears(call.bytes, how.tears, dice) {
            ways.push(with(&kept, call.nth, Loss::Torn(bytes)));
            ways.push(with(&lost, call.nth, Loss::Torn(bytes)));
            let some: Vec<_> = chosen(dice.below(usize::MAX)).collect();
            ways.push(with(&some, call.nth, Loss::Torn(bytes)));
        }
    }
    ways
}

fn with(losses: &[Loss], nth: usize, loss: Loss) -> Vec<Loss> {
    let mut losses = losses.to_vec();
    losses[nth] = loss;
    losses
}

/// After how many bytes a write is torn: at the borders of sectors, and where no disk would.
fn tears(bytes: usize, most: usize, dice: &mut Dice) -> Vec<usize> {
    let mut tears: Vec<_> = (512..bytes).step_by(512).collect();
    tears.extend([1, 3, 511, 513, bytes / 2 + 1, bytes.saturating_sub(1)].into_iter().filter(|at| *at < bytes));
    while tears.len() > most {
        tears.swap_remove(dice.below(tears.len()));
    }
    tears
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
