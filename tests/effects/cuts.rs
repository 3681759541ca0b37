//! Every cut of a server's disk beside every moment of the world, and what each comes to.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};

use reentry::{Loss, SimulatedDisk};

use super::handler::Plan;
use super::losses::{Thoroughness, cut, unsynced, ways};
use super::server::Server;
use super::support::Dice;
use super::world::{Present, Situation};

/// What was tried.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) cuts: usize,
    pub(crate) images: usize,
    pub(crate) images_again: usize,
    pub(crate) situations: BTreeMap<Situation, usize>,
}

impl Tally {
    pub(crate) fn saw(&mut self, server: &Server) {
        for (situation, times) in server.outside.situations() {
            *self.situations.entry(situation).or_default() += times;
        }
    }
}

pub(crate) fn is_full() -> bool {
    std::env::var_os("REENTRY_CRASH_FULL").is_some()
}

fn how() -> Thoroughness {
    if is_full() {
        Thoroughness { all_subsets_max: 10, subsets: 1_000, tears: usize::MAX }
    } else {
        Thoroughness { all_subsets_max: 5, subsets: 16, tears: 1 }
    }
}

/// Lets a server do the whole operation once, and cuts it off everywhere.
pub(crate) fn survive(plan: Plan) -> Tally {
    let mut server = Server::new(plan, SimulatedDisk::new(), None);
    server.open().unwrap();
    server.finish().unwrap();
    server.audit();
    server.close();
    let mut all = Cuts { dice: Dice::new(5), seen: HashSet::new(), again: HashMap::new(), tally: Tally::default() };
    for at in 0..=server.disk.calls() {
        let losses = ways(&server.disk, at, how(), &mut all.dice);
        all.cut(&server, at, &losses, true);
    }
    all.tally
}

struct Cuts {
    dice: Dice,
    seen: HashSet<u64>,
    /// How often each situation that a crash leaves was cut again.
    again: HashMap<u64, usize>,
    tally: Tally,
}

impl Cuts {
    /// Cuts the power after `at` calls, in these ways, and kills the process there, at every moment of the world that
    /// fits.
    fn cut(&mut self, server: &Server, at: usize, losses: &[Vec<Loss>], is_first: bool) {
        self.tally.cuts += 1;
        for present in server.outside.presents_at(at) {
            for losses in losses {
                let case = Case { at, calls: server.disk.calls(), present: &present, losses: Some(losses) };
                self.reopen(server.plan, cut(&server.disk, at, losses), &case, is_first);
            }
            let case = Case { at, calls: server.disk.calls(), present: &present, losses: None };
            self.reopen(server.plan, server.disk.killed(at), &case, is_first);
        }
    }

    /// Opens what is left, looks at it, and runs it to its end; cuts that off too.
    fn reopen(&mut self, plan: Plan, left: SimulatedDisk, case: &Case<'_>, is_first: bool) {
        let present = case.present;
        let facts = (left.image(), &present.world, &present.told, present.wall, case.losses.is_some());
        if !self.seen.insert(digest(&facts)) {
            return;
        }
        *(if is_first { &mut self.tally.images } else { &mut self.tally.images_again }) += 1;
        if present.what == "inside the recheck" {
            *self.tally.situations.entry(Situation::CutInARecheck).or_default() += 1;
        }
        if present.told.notes > 0 {
            *self.tally.situations.entry(Situation::CutAfterAResolve).or_default() += 1;
        }
        let mut server = Server::new(plan, left, Some(present));
        let left_at = server.disk.calls();
        let standing = in_case(case, || {
            server.open().unwrap();
            let standing = server.look();
            server.finish().unwrap();
            server.audit();
            server.close();
            standing
        });
        self.tally.saw(&server);
        if is_first {
            let kind = digest(&(standing, &present.world, case.losses.is_some()));
            let times = self.again.entry(kind).or_default();
            *times += 1;
            let most = if is_full() { 12 } else { 1 };
            if *times <= most {
                in_case(case, || self.cut_again(&server, left_at));
            }
        }
    }

    /// Cuts what the server did after the cut, its recovery too, at every call, in a few ways.
    fn cut_again(&mut self, server: &Server, from: usize) {
        for at in from..=server.disk.calls() {
            let count = unsynced(&server.disk, at).len();
            let some = (0..count).map(|_| if self.dice.below(2) == 0 { Loss::Kept } else { Loss::Lost }).collect();
            let losses = [vec![Loss::Lost; count], vec![Loss::Kept; count], some];
            self.cut(server, at, &losses, false);
        }
    }
}

fn digest(facts: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    facts.hash(&mut hasher);
    hasher.finish()
}

/// Where a check is, for whoever must find out why it failed.
struct Case<'a> {
    at: usize,
    calls: usize,
    present: &'a Present,
    /// None where the process was killed.
    losses: Option<&'a [Loss]>,
}

impl fmt::Display for Case<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, calls, present, losses } = self;
        write!(f, "cut after call {at} of {calls}, after {:?}, with {losses:?}", present.what)
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
