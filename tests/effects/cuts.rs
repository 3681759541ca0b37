//! Every cut of a server's disk beside every moment of the world, and what each comes to.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};

use reentry::{Clock, Loss, SimulatedDisk};

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
    let mut server = Server::new(plan, SimulatedDisk::new().with_journal(1), None);
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

/// Lets a server do several operations at once, and cuts it off everywhere. What shares a batch with what is a matter
/// of chance.
pub(crate) fn survive_together(plans: &[Plan]) -> Tally {
    let (mut tally, mut dice, mut seen) = (Tally::default(), Dice::new(9), HashSet::new());
    let servers = at_once(plans, SimulatedDisk::new().with_journal(1), None);
    let disk = &servers[0].disk;
    for at in 0..=disk.calls() {
        tally.cuts += 1;
        let count = unsynced(disk, at).len();
        let some = (0..count).map(|_| if dice.below(2) == 0 { Loss::Kept } else { Loss::Lost }).collect::<Vec<_>>();
        let powers = [vec![Loss::Lost; count], vec![Loss::Kept; count], some];
        let lefts = powers.iter().map(|losses| (cut(disk, at, losses), Some(&**losses)));
        for (left, losses) in lefts.chain([(disk.killed(at), None)]) {
            // Each of the worlds as it was when the call came, or with all that happened before the next.
            for is_late in [false, true] {
                let presents: Vec<_> = servers.iter().map(|server| present_at(server, at, is_late)).collect();
                let facts: Vec<_> = presents.iter().map(|it| (&it.world, &it.told, it.wall)).collect();
                if seen.insert(digest(&(left.image(), facts, losses.is_some()))) {
                    tally.images += 1;
                    let case = Case { at, calls: disk.calls(), present: &presents[0], losses };
                    let left = disk_again(&left);
                    let after = in_case(&case, || at_once(plans, left, Some(&presents)));
                    for server in &after {
                        tally.saw(server);
                    }
                }
            }
        }
    }
    tally
}

/// One world after `at` calls, with all that happened before the next or with as little as may be; looked at when the
/// clock is past every time that any of the operations saw.
fn present_at(server: &Server, at: usize, is_late: bool) -> Present {
    let mut presents = server.outside.presents_at(at);
    let present = if is_late { presents.pop() } else { presents.into_iter().next() };
    Present { wall: server.outside.clock.wall(), ..present.unwrap() }
}

/// The same, in a state that no other server changes.
fn disk_again(disk: &SimulatedDisk) -> SimulatedDisk {
    disk.killed(disk.calls())
}

/// Lets one server do all of these at once, each on a thread of its own, from these moments on.
fn at_once(plans: &[Plan], disk: SimulatedDisk, since: Option<&[Present]>) -> Vec<Server> {
    let mut first = Server::new(plans[0], disk, since.map(|presents| &presents[0]));
    let mut servers = Vec::new();
    for (nth, plan) in plans.iter().enumerate().skip(1) {
        servers.push(first.beside(*plan, since.map(|presents| &presents[nth])));
    }
    first.open().unwrap();
    for server in &mut servers {
        server.store.clone_from(&first.store);
    }
    servers.insert(0, first);
    for server in servers.iter().filter(|_| since.is_some()) {
        server.look();
    }
    std::thread::scope(|scope| {
        let running: Vec<_> = servers.iter().map(|server| scope.spawn(|| server.finish().unwrap())).collect();
        for finished in running {
            finished.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    servers.iter().for_each(Server::audit);
    for server in &mut servers {
        drop(server.store.take());
    }
    servers
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
