//! What power cuts leave: draws images of the disk, opens each, and looks whether all that was told is there.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use reentry::{
    Claim, DiskCall, DiskFault, Fingerprint, Key, Loss, ManualClock, OpenCheck, Pending, SimulatedDisk, Store,
    Timestamp,
};

use super::handler::{ORDERS, PAID, RUBBISH};
use super::plan::Plan;
use super::rules::{Answer, Now, Op, State, apply};
use super::support::Dice;
use super::world::digest;

/// What was tried.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) runs: u64,
    /// Every image that was opened, those of a second cut among them.
    pub(crate) images: u64,
    /// Those of a second cut: while the first was recovered from, or in the first work after it.
    pub(crate) compound: u64,
    pub(crate) answers: u64,
    pub(crate) effects: u64,
    pub(crate) restarts: u64,
    pub(crate) faults: u64,
    /// Openings in which a call of the disk failed.
    pub(crate) faulty_openings: u64,
    /// Copies that were made, and held against what was told.
    pub(crate) copies: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: Self) {
        self.runs += other.runs;
        self.images += other.images;
        self.compound += other.compound;
        self.answers += other.answers;
        self.effects += other.effects;
        self.restarts += other.restarts;
        self.faults += other.faults;
        self.faulty_openings += other.faulty_openings;
        self.copies += other.copies;
    }
}

/// What is known at a cut.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    /// The states that each key may be in.
    pub(crate) states: Vec<Vec<State>>,
    /// The time that was told, which no restart comes before, and the highest that ever was, which it does not pass.
    pub(crate) told: u64,
    pub(crate) highest: u64,
    pub(crate) token: u64,
}

pub(crate) fn open(plan: &Plan, disk: &SimulatedDisk, clock: &ManualClock, check: OpenCheck) -> reentry::Result<Store> {
    let policy = plan.policy;
    let mut builder = Store::builder()
        .retention(std::time::Duration::from_millis(policy.retention))
        .tombstones(std::time::Duration::from_millis(policy.tombstones))
        .attempts_max(policy.attempts_max)
        .cache_bytes(plan.cache_bytes)
        .check(check)
        .clock(clock.clone());
    if let Some(lease) = plan.lease() {
        builder = builder.lease(lease);
    }
    if plan.one_hash {
        builder = builder.with_one_hash_for_all();
    }
    builder.open_by_hand(disk)
}

/// The disk that a power cut at some call from `from` to `to` leaves, in some way.
pub(crate) fn draw(disk: &SimulatedDisk, from: usize, to: usize, dice: &mut Dice) -> SimulatedDisk {
    let at = from + dice.below(to - from + 1);
    let way = dice.below(8);
    let special = dice.below(12);
    let kept_where = |is_kept: bool| if is_kept { Loss::Kept } else { Loss::Lost };
    disk.cut(at, |call| match way {
        0 | 1 => kept_where(way == 1),
        2 => kept_where(call.nth != special),
        3 => kept_where(call.nth == special),
        4 => kept_where(call.nth < special),
        5 if call.nth == special => torn(call.bytes, dice),
        5 => kept_where(true),
        _ => match dice.below(5) {
            0 | 1 => Loss::Kept,
            2 | 3 => Loss::Lost,
            _ => torn(call.bytes, dice),
        },
    })
}

fn torn(bytes: usize, dice: &mut Dice) -> Loss {
    let at = dice.below(bytes.max(1));
    // Mostly at the border of a sector.
    Loss::Torn(if dice.below(4) == 0 { at } else { at / 512 * 512 })
}

/// Lets the writer do what is queued, and takes an answer that must be there then.
pub(crate) fn now_answered<T>(store: &Store, mut pending: Pending<T>) -> Option<reentry::Result<T>> {
    store.work_by_hand();
    match Pin::new(&mut pending).poll_once() {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

trait PollOnce {
    type Output;
    fn poll_once(self) -> Poll<Self::Output>;
}

impl<F: Future> PollOnce for Pin<&mut F> {
    type Output = F::Output;
    fn poll_once(self) -> Poll<F::Output> {
        self.poll(&mut Context::from_waker(Waker::noop()))
    }
}

/// Opens an image and looks at everything in it; then, often, cuts the power again.
pub(crate) fn try_image(
    plan: &Plan,
    disk: &SimulatedDisk,
    expected: &Expected,
    dice: &mut Dice,
    tally: &mut Tally,
) -> Result<(), String> {
    tally.images += 1;
    let image = Image::open(plan, disk, expected, dice)?;
    let opened = disk.calls();
    let seen = image.look(plan, expected)?;
    match dice.below(20) {
        0..6 => {
            // While it was recovered from; nobody had looked yet, unless all of the recovery was done.
            let again = draw(disk, 0, opened, dice);
            drop(image.end(disk));
            cut_again(plan, &again, expected, dice, tally)
        }
        6..9 => {
            let next = Expected { states: seen, highest: expected.highest.max(image.now.ahead), ..expected.clone() };
            let again = image.work(plan, disk, &next, dice)?;
            drop(image.end(disk));
            let (again, next) = again;
            cut_again(plan, &again, &next, dice, tally)
        }
        9 => {
            let next = Expected { states: seen, highest: expected.highest.max(image.now.ahead), ..expected.clone() };
            // All that was looked at stays, whatever of the recovery is lost.
            let again = draw(disk, disk.calls(), disk.calls(), dice);
            drop(image.end(disk));
            cut_again(plan, &again, &next, dice, tally)
        }
        _ => Ok(()),
    }
}

/// Looks into a copy, which holds what a power cut would have left.
pub(crate) fn try_copy(plan: &Plan, disk: &SimulatedDisk, expected: &Expected, dice: &mut Dice) -> Result<(), String> {
    let copy = Image::open(plan, disk, expected, dice).map_err(|e| format!("of a copy: {e}"))?;
    copy.look(plan, expected).map_err(|e| format!("of a copy: {e}"))?;
    drop(copy.end(disk));
    Ok(())
}

fn cut_again(
    plan: &Plan,
    disk: &SimulatedDisk,
    expected: &Expected,
    dice: &mut Dice,
    tally: &mut Tally,
) -> Result<(), String> {
    tally.images += 1;
    tally.compound += 1;
    let again = Image::open(plan, disk, expected, dice).map_err(|e| format!("after a second cut: {e}"))?;
    again.look(plan, expected).map_err(|e| format!("after a second cut: {e}"))?;
    drop(again.end(disk));
    Ok(())
}

/// A store that was opened on what a cut left.
struct Image {
    store: Store,
    now: Now,
}

impl Image {
    fn open(plan: &Plan, disk: &SimulatedDisk, expected: &Expected, dice: &mut Dice) -> Result<Self, String> {
        let is_turned_back = dice.below(8) == 0;
        let wall = if is_turned_back { 1_000 } else { expected.highest };
        let check = if dice.below(3) == 0 { OpenCheck::Full } else { OpenCheck::Quick };
        let clock = ManualClock::at(Timestamp::from_millis(wall));
        let store = open(plan, disk, &clock, check).map_err(|e| format!("P10: it does not open: {e:?}"))?;
        let time = if is_turned_back { time_of(&store)? } else { wall };
        if time < expected.told.max(wall) || time > expected.highest.max(wall) {
            let Expected { told, highest, .. } = expected;
            return Err(format!("P11: it opens at {time}, though {told} was told and {highest} the highest ever"));
        }
        Ok(Self { store, now: Now { time, ahead: time.max(wall) } })
    }

    /// Looks at everything. The states that are left are those that fit what it saw.
    fn look(&self, plan: &Plan, expected: &Expected) -> Result<Vec<Vec<State>>, String> {
        let wrong = |e: reentry::Error| format!("P10: it does not read: {e:?}");
        self.store.verify().map_err(wrong)?;
        let rows = self.rows(plan)?;
        let mut left = Vec::new();
        let mut unfinished = Vec::new();
        for (key, states) in expected.states.iter().enumerate() {
            let progress = self.store.progress(&plan.keys[key].key).map_err(wrong)?;
            let seen = progress.map(|progress| plan.keys[key].view(&progress));
            let (paid, order) = rows[key];
            let fits = |state: &&State| {
                (state.paid, state.order) == (paid, order) && state.view(self.now, plan.policy) == seen
            };
            let fitting: Vec<_> = states.iter().filter(fits).cloned().collect();
            let Some(first) = fitting.first() else {
                return Err(format!(
                    "P2, P3, P5, P6, P8: key {key} shows {seen:#?} with rows {paid:x} and {order:x} at {:?}, but may \
                     be one of {states:#?}",
                    self.now
                ));
            };
            let is_unfinished = |state: &State| state.record.as_ref().is_some_and(|record| record.end.is_none());
            if is_unfinished(first) {
                unfinished.push(key);
            }
            left.push(fitting);
        }
        let listed = self.store.unfinished().collect::<Result<Vec<_>, _>>().map_err(wrong)?;
        let mut listed: Vec<_> =
            listed.iter().filter_map(|it| plan.keys.iter().position(|plan| plan.key == *it.key())).collect();
        listed.sort_unstable();
        if listed != unfinished {
            return Err(format!("P6: {listed:?} are listed as unfinished, but {unfinished:?} are"));
        }
        Ok(left)
    }

    fn rows(&self, plan: &Plan) -> Result<Vec<(u64, u64)>, String> {
        let read = self.store.read(|tx| {
            let (paid, orders) = (tx.open_table(PAID)?, tx.open_table(ORDERS)?);
            let is_clean = paid.get(RUBBISH)?.is_none() && orders.get(RUBBISH)?.is_none();
            let row = |row: Option<Vec<u8>>| row.map_or(0, |row| digest(&row));
            let rows = (0..plan.keys.len())
                .map(|key| Ok((row(paid.get(key.to_be_bytes())?), row(orders.get(key.to_be_bytes())?))));
            Ok::<_, reentry::Error>((is_clean, rows.collect::<Result<Vec<_>, reentry::Error>>()?))
        });
        let (is_clean, rows) = read.and_then(|it| it).map_err(|e| format!("P10: its rows do not read: {e:?}"))?;
        if is_clean { Ok(rows) } else { Err("P8: what a closure that failed had written is there".to_owned()) }
    }

    /// Goes on with the work, and cuts the power in its midst.
    fn work(
        &self,
        plan: &Plan,
        disk: &SimulatedDisk,
        expected: &Expected,
        dice: &mut Dice,
    ) -> Result<(SimulatedDisk, Expected), String> {
        let before = disk.calls();
        let key = dice.below(plan.keys.len());
        let op = Op::Claim { fingerprint: Some(0), request: 0, deferred: false, waits: false };
        let claiming = self.store.claim(&plan.keys[key].key, plan.keys[key].fingerprint(0));
        let claimed = now_answered(&self.store, claiming).ok_or("a claim is not answered")?;
        let claimed = claimed.map_err(|e| format!("after a cut a claim fails: {e:?}"))?;
        let made: Vec<_> = expected.states[key]
            .iter()
            .flat_map(|state| apply(state, u32::MAX, &op, self.now, plan.policy, true))
            .collect();
        let answer = match &claimed {
            Claim::Run(run) => {
                if run.token() <= expected.token {
                    return Err(format!("P7: token {} after {} was told", run.token(), expected.token));
                }
                Answer::Run(plan.keys[key].entered(run))
            }
            Claim::Replay(outcome) => Answer::Replay {
                success: outcome.is_success(),
                bytes: digest(outcome.bytes()),
                at: outcome.completed_at().as_millis(),
            },
            Claim::Wait(_) => Answer::Wait,
            Claim::Reject(it) => Answer::Reject { since: it.since().as_millis() },
            Claim::Gone(it) => Answer::Gone { at: it.completed_at().as_millis(), until: it.until().as_millis() },
        };
        if !made.iter().any(|(_, possible)| *possible == answer) {
            return Err(format!(
                "P3, P5: after a cut a claim of key {key} came to {answer:?}, not to one of {made:#?}"
            ));
        }
        let mut next = expected.clone();
        let states = &mut next.states[key];
        let entered: Vec<_> =
            made.into_iter().filter(|(_, possible)| *possible == answer).map(|(state, _)| state.freed()).collect();
        if dice.below(4) == 0 {
            // It was told, so it stays.
            *states = entered;
            return Ok((draw(disk, disk.calls(), disk.calls(), dice), next));
        }
        for state in entered {
            if !states.contains(&state) {
                states.push(state);
            }
        }
        Ok((draw(disk, before, disk.calls(), dice), next))
    }

    /// Ends it as a power cut does: nothing is written any more.
    fn end(self, disk: &SimulatedDisk) -> Store {
        disk.fail([DiskFault::kind(std::io::ErrorKind::Other).on(DiskCall::CHANGES).for_ever()]);
        self.store
    }
}

/// A key that nobody uses for anything.
pub(crate) fn probe() -> Key {
    Key::new("probe", "probe").expect("it is a key")
}

/// The store's time, as a claim that is not written tells it.
pub(crate) fn time_of(store: &Store) -> Result<u64, String> {
    let claiming = store.claim(&probe(), reentry::Request::from(Fingerprint::of("probe")).deferred());
    match now_answered(store, claiming).ok_or("a claim is not answered")? {
        Ok(Claim::Run(run)) => Ok(run.since().as_millis()),
        other => Err(format!("a fresh key is not free: {other:?}")),
    }
}
