//! A server's handler: steps in an order that chance decides, checkpoints, an outcome, and every way to stop half-way.

use std::cell::Cell;
use std::future::Future;
use std::panic::panic_any;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use reentry::{
    EffectId, Error, ErrorKind, Failure, Outcome, Pending, Resolution, Revision, Run, Step, StepState, Table,
    Transaction, not_applied,
};

use super::rules::{Answer, Digest, Guard, Op, OpId, Rows, Standing};
use super::world::{Asked, OnPurpose, SETTLES, Shared, digest, mark_of, millis};

/// The server's own rows: what goes with the checkpoint, and with the outcome.
pub(crate) const PAID: Table = Table::new("paid");
pub(crate) const ORDERS: Table = Table::new("orders");

/// What a closure that fails wrote before it did.
pub(crate) const RUBBISH: &str = "rubbish";

/// How often a handler asks again for what may come if it waits.
const TRIES_MAX: usize = 3;
const TRIES_CALM_MAX: usize = 60;

/// Gives way to others this many times.
pub(crate) struct Nap(pub(crate) usize);

impl Future for Nap {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.0 == 0 {
            return Poll::Ready(());
        }
        self.0 -= 1;
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

pub(crate) async fn nap(world: &Shared, most: usize) {
    let naps = world.borrow_mut().dice.below(most + 1);
    Nap(naps).await;
}

/// A run, until it is dropped, however that comes.
pub(crate) struct Held {
    world: Shared,
    key: usize,
    id: OpId,
    born: u32,
    run: Option<Run>,
    asked: [bool; 8],
}

impl Held {
    /// The run that a claim came to.
    pub(crate) fn new(world: &Shared, key: usize, id: OpId, run: Run) -> Self {
        let born = world.borrow_mut().incarnation(key, id);
        Self { world: Rc::clone(world), key, id, born, run: Some(run), asked: [false; 8] }
    }

    fn run(&mut self) -> &mut Run {
        self.run.as_mut().expect("the run has not ended")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(run) = self.run.take() {
            drop(run);
            let mut world = self.world.borrow_mut();
            if !world.is_dead {
                world.left(self.key, self.id);
            }
        }
    }
}

/// Runs the operation to its end, or to the first thing that stops it.
pub(crate) async fn handle(world: Shared, mut held: Held) {
    let key = held.key;
    let steps = world.borrow().plan.keys[key].guards.len();
    let mut order: Vec<usize> = (0..steps).collect();
    for nth in (1..steps).rev() {
        let other = world.borrow_mut().dice.below(nth + 1);
        order.swap(nth, other);
    }
    let mut results = Vec::new();
    for name in order {
        if pauses(&world, &mut held).await.is_none() {
            return;
        }
        let Some(result) = insist(&world, &mut held, name).await else { return };
        results.push(result);
        if world.borrow_mut().chance(30) && advance(&world, &mut held).await.is_none() {
            return;
        }
    }
    if world.borrow_mut().chance(40) && advance(&world, &mut held).await.is_none() {
        return;
    }
    if pauses(&world, &mut held).await.is_some() {
        results.sort_unstable();
        finish(&world, held, &results.join("+")).await;
    }
}

/// Hangs at times, longer than any lease.
async fn hang(world: &Shared) {
    if !world.borrow_mut().chance(4) {
        return;
    }
    let until = world.borrow().elapsed() + world.borrow().plan.policy.lease.unwrap_or(1_000) + 1;
    let mut turns = 0;
    while world.borrow().elapsed() < until && turns < 100 && !world.borrow().is_calm {
        Nap(1).await;
        turns += 1;
    }
}

/// What a handler does between what matters; none where it stops there.
async fn pauses(world: &Shared, held: &mut Held) -> Option<()> {
    nap(world, 2).await;
    hang(world).await;
    if world.borrow_mut().chance(5) {
        let mut asked = Asked::new(world, held.key, Op::Renew { by: held.id });
        let renewed = held.run().renew().await;
        asked.heard(|mut world, key, id| match &renewed {
            Ok(()) => world.answered(key, id, &Answer::Ok),
            Err(error) => world.failed(key, id, error),
        });
        renewed.ok()?;
    }
    if world.borrow_mut().chance(5) {
        refresh(world, held)?;
    }
    if world.borrow_mut().chance(2) {
        panic_any(OnPurpose);
    }
    if world.borrow_mut().chance(4) { None } else { Some(()) }
}

/// Reads the checkpoint anew.
fn refresh(world: &Shared, held: &mut Held) -> Option<()> {
    let refreshed = held.run().refresh();
    let (key, id) = (held.key, held.id);
    let mut world = world.borrow_mut();
    match &refreshed {
        Ok(checkpoint) => {
            let seen = checkpoint.as_ref().map(mark_of);
            world.say(|| format!("k{key} run {id} refreshes: {seen:?}"));
            let now = world.now();
            let is_so = |state: &super::rules::State, _| {
                let record = state.record.as_ref();
                state.owner.is_some_and(|owner| owner.run == id)
                    && record.is_some_and(|record| record.checkpoint == seen)
            };
            let result = world.checkers[key].seen(now, "P3: a run refreshes", is_so);
            if let Err(violation) = result {
                world.broken(violation.0);
            }
        }
        Err(error) if error.kind() == ErrorKind::Fenced => world.told_fenced(key, id),
        Err(error) => world.reading_failed(error),
    }
    refreshed.ok().map(drop)
}

/// Asks for a step until it has a result, or until that is of no use.
async fn insist(world: &Shared, held: &mut Held, name: usize) -> Option<String> {
    let tries = if world.borrow().is_calm { TRIES_CALM_MAX } else { TRIES_MAX };
    for _ in 0..tries {
        let is_calm = world.borrow().is_calm;
        match guarded(world, held, name).await {
            Ok(result) => return Some(result),
            Err(error) => match error.kind() {
                ErrorKind::EffectFailed | ErrorKind::NotApplied => {
                    if world.borrow_mut().chance(40) {
                        return None;
                    }
                }
                ErrorKind::CannotTell if is_calm => Nap(5).await,
                ErrorKind::InDoubt if is_calm || world.borrow_mut().chance(60) => resolve(world, held, name).await?,
                _ => return None,
            },
        }
    }
    None
}

/// What is seen of a step while it is under way.
#[derive(Default)]
struct Seen {
    is_rechecked: Cell<bool>,
    is_found: Cell<bool>,
    /// What the effect came to: a result, or nothing that happened.
    came_to: Cell<Option<bool>>,
}

async fn guarded(world: &Shared, held: &mut Held, name: usize) -> Result<String, Error> {
    let (key, by, born) = (held.key, held.id, held.born);
    let guard = world.borrow().plan.keys[key].guards[name];
    let number = u8::try_from(name).expect("a step's number is small");
    // What is asked for again renews first.
    let renews = std::mem::replace(&mut held.asked[name], true) && world.borrow().plan.policy.lease.is_some();
    let renewal = renews.then(|| Asked::new(world, key, Op::Renew { by }).id);
    let (attempt, asked_at) = (held.run().attempt(), world.borrow().now().time);
    let asked = Rc::new(std::cell::RefCell::new(Asked::new(world, key, Op::Step { by, name: number, guard })));
    let seen = Rc::new(Seen::default());
    let effect = {
        let (world, asked, seen) = (Rc::clone(world), Rc::clone(&asked), Rc::clone(&seen));
        move |effect: EffectId| {
            let may_be_again = guard == Guard::Keyed || seen.is_rechecked.get();
            asked.borrow_mut().heard(|mut world, key, id| {
                world.answered_as(key, id, "the effect runs", |answer| {
                    *answer == Answer::Fresh || may_be_again && *answer == Answer::Again
                });
                world.begins_effect(key, by);
            });
            async move {
                let came_to = perform(&world, (key, number, born), effect, asked_at).await;
                match &came_to {
                    Ok(_) => seen.came_to.set(Some(true)),
                    Err((_, true)) => seen.came_to.set(Some(false)),
                    Err((_, false)) => {}
                }
                came_to.map_err(|(failure, _)| failure)
            }
        }
    };
    let recheck = {
        let (world, seen) = (Rc::clone(world), Rc::clone(&seen));
        move |effect: EffectId| {
            seen.is_rechecked.set(true);
            async move {
                nap(&world, 2).await;
                if world.borrow_mut().chance(15) {
                    return Err("the bank does not answer");
                }
                let found = world.borrow_mut().asked_by(key, number, effect).find(key, number, born);
                seen.is_found.set(found.is_some());
                Ok(found)
            }
        }
    };
    let step_name = format!("s{name}");
    let is_in_doubt = |step: &Step| step.name() == step_name && step.state() == StepState::InDoubt;
    let may_have_happened = guard == Guard::Keyed && held.run().steps().iter().any(is_in_doubt);
    let step = held.run().step(&step_name);
    let came = match guard {
        Guard::Rechecked => step.recheck_async(recheck).settles_within(SETTLES).run_async(effect).await,
        Guard::Keyed => step.run_keyed_async(effect).await,
        Guard::AtMostOnce => step.run_at_most_once_async(effect).await,
    };
    let mut asked = asked.borrow_mut();
    came_to(&mut asked, &seen, &came, guard, by);
    if may_have_happened && came.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotApplied) {
        world.borrow_mut().broken("P4: what a later try says of itself withdraws an earlier one");
    }
    if let Some(renewal) = renewal {
        world.borrow_mut().decided(key, renewal);
    }
    let is_fenced = came.as_ref().is_err_and(|error| error.kind() == ErrorKind::Fenced);
    if let Some(result) = reported(&came, &seen) {
        let was_owner = !is_fenced;
        world.borrow_mut().ask(key, Op::Report { by, born, attempt, was_owner, name: number, result });
    }
    came
}

/// What the store was told became of a step, if it was told: a result, or that nothing happened.
#[expect(clippy::option_option, reason = "a report of nothing is a report")]
fn reported(came: &Result<String, Error>, seen: &Seen) -> Option<Option<Digest>> {
    let is_fenced = came.as_ref().is_err_and(|error| error.kind() == ErrorKind::Fenced);
    match (came, seen.came_to.get()) {
        (Ok(result), Some(true)) => Some(Some(digest(result.as_bytes()))),
        (Ok(result), None) if seen.is_found.get() => Some(Some(digest(result.as_bytes()))),
        (Err(error), Some(false)) if error.kind() == ErrorKind::NotApplied => Some(None),
        // What it reports late is evidence, and nobody learns here what it was.
        (Err(_), Some(true)) if is_fenced => Some(Some(1)),
        (Err(_), Some(false)) if is_fenced => Some(None),
        (Err(_), None) if is_fenced && seen.is_found.get() => Some(Some(1)),
        _ => None,
    }
}

/// Tells the checker what asking for a step came to, where the effect did not run.
fn came_to(asked: &mut Asked, seen: &Seen, came: &Result<String, Error>, guard: Guard, by: OpId) {
    asked.heard(|mut world, key, id| match came {
        Ok(_) if seen.is_found.get() => world.refused(key, id, "it was found"),
        Ok(result) => world.answered(key, id, &Answer::Known(digest(result.as_bytes()))),
        Err(error) if error.kind() == ErrorKind::CannotTell && guard == Guard::Rechecked => {
            world.refused(key, id, "nobody can tell");
        }
        Err(error) if error.kind() == ErrorKind::Fenced && seen.is_found.get() => {
            world.refused(key, id, "it was found");
        }
        Err(error) if error.kind() == ErrorKind::Fenced => world.overtaken(key, id, by),
        Err(error) => world.failed(key, id, error),
    });
}

/// The effect, as the world does it. The error says whether it is certain that nothing happened.
async fn perform(
    world: &Shared,
    (key, name, born): (usize, u8, u32),
    id: EffectId,
    asked_at: u64,
) -> Result<String, (Failure, bool)> {
    _ = world.borrow_mut().asked_by(key, name, id);
    nap(world, 2).await;
    let way = if world.borrow().is_calm { 9 } else { world.borrow_mut().dice.below(12) };
    if way == 0 {
        hang(world).await;
        return Err((not_applied("the bank is closed"), true));
    }
    // Nothing is sent that could arrive after it was said to have settled, which is counted from the intent.
    let last = asked_at + millis(SETTLES);
    let now = world.borrow().now().time;
    if way == 1 || now + 1 >= last {
        return Err(("timed out before it was sent".into(), false));
    }
    if way == 2 {
        let mut world = world.borrow_mut();
        let delay = 1 + world.dice.below(usize::try_from(last - now - 1).unwrap_or(1).max(1)) as u64;
        let due = world.elapsed() + delay.min(last - now - 1);
        world.send(key, name, born, Some(due));
        return Err(("timed out while it was on its way".into(), false));
    }
    let result = world.borrow_mut().send(key, name, born, None);
    nap(world, 2).await;
    hang(world).await;
    match way {
        3 => Err(("timed out after it happened".into(), false)),
        4 if world.borrow_mut().chance(30) => panic_any(OnPurpose),
        _ => Ok(result),
    }
}

/// Says what became of a step in doubt, after a look into the ledger.
async fn resolve(world: &Shared, held: &mut Held, name: usize) -> Option<()> {
    let step_name = format!("s{name}");
    let step = held.run().steps().into_iter().find(|step| step.name() == step_name)?;
    let settled = step.begun_at().as_millis() + millis(SETTLES);
    while world.borrow().is_calm && world.borrow().now().time < settled {
        Nap(1).await;
    }
    if step.state() != StepState::InDoubt || world.borrow().now().time < settled {
        return None;
    }
    let number = u8::try_from(name).ok()?;
    let (resolution, result) = looked_up(world, held.key, number, held.born);
    let op = Op::Resolve { by: Some(held.id), name: number, result };
    let mut asked = Asked::new(world, held.key, op);
    let resolved = held.run().resolve(&step_name, resolution, "looked into the ledger").await;
    asked.heard(|mut world, key, id| match &resolved {
        Ok(()) => world.answered(key, id, &Answer::Ok),
        Err(error) => world.failed(key, id, error),
    });
    resolved.ok()
}

pub(crate) fn looked_up(world: &Shared, key: usize, name: u8, born: u32) -> (Resolution, Option<u64>) {
    match world.borrow().find(key, name, born) {
        Some(result) => {
            let result = result.into_bytes();
            let digest = digest(&result);
            (Resolution::Happened(result), Some(digest))
        }
        None => (Resolution::DidNotHappen, None),
    }
}

/// The server's own rows, or a closure that fails after it wrote something.
fn write_rows(
    table: Table,
    key: usize,
    row: Vec<u8>,
    how: usize,
) -> impl FnMut(&Transaction<'_>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> + Send + 'static {
    move |tx| {
        if how < 2 {
            tx.open_table(PAID)?.insert(RUBBISH, RUBBISH)?;
            tx.open_table(ORDERS)?.insert(RUBBISH, RUBBISH)?;
        }
        match how {
            0 => Err("after it wrote".into()),
            1 => panic_any(OnPurpose),
            _ => {
                tx.open_table(table)?.insert(key.to_be_bytes(), &row)?;
                Ok(())
            }
        }
    }
}

fn rows_of(how: usize, row: &[u8]) -> Rows {
    if how < 2 { Rows::Fail } else { Rows::Written(digest(row)) }
}

/// Moves the checkpoint; none where the handler stops there.
async fn advance(world: &Shared, held: &mut Held) -> Option<()> {
    let (key, by) = (held.key, held.id);
    let expected = held.run().checkpoint().map_or(Revision::NONE, |it| it.revision()).get();
    let (payload, how) = {
        let mut world = world.borrow_mut();
        let filler = if world.dice.below(5) == 0 { 1_400 } else { 5 };
        let payload = format!("by {by} after {expected}{}", "~".repeat(filler)).into_bytes();
        // Half of them with rows of the server's.
        (payload, if world.is_calm { 9 } else { world.dice.below(16) })
    };
    let bytes = digest(&[b"checkpoint", &payload[..]].concat());
    let has_rows = how < 8;
    let rows = if has_rows { rows_of(how, &payload) } else { Rows::None };
    let mut asked = Asked::new(world, key, Op::Advance { by: Some(by), expected, bytes, rows });
    let moving = if has_rows {
        held.run().advance_with("checkpoint", &payload, write_rows(PAID, key, payload.clone(), how))
    } else {
        held.run().advance("checkpoint", &payload)
    };
    let moved = moving.await;
    let stands = held.run().checkpoint().as_ref().map(mark_of);
    asked.heard(|mut world, key, id| match &moved {
        Ok(revision) => world.answered(key, id, &Answer::Moved { revision: revision.get() }),
        Err(error) if error.kind() == ErrorKind::Conflict => world.answered(key, id, &Answer::Lost(stands)),
        Err(error) => world.failed(key, id, error),
    });
    match moved {
        Ok(_) => Some(()),
        Err(error) => matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Aborted).then_some(()),
    }
}

/// Ends the operation, or lets it be.
async fn finish(world: &Shared, mut held: Held, results: &str) {
    let (key, by) = (held.key, held.id);
    let (way, how) = {
        let mut world = world.borrow_mut();
        if world.is_calm { (0, 9) } else { (world.dice.below(10), world.dice.below(10)) }
    };
    let outcome = format!("{results} by run {by}").into_bytes();
    let bytes = digest(&outcome);
    let (success, consumes) = (way < 7, matches!(way, 0..3 | 7));
    if way == 9 {
        // Released: the same as dropped.
        return;
    }
    let rows = if consumes { Rows::None } else { rows_of(how, &outcome) };
    let mut asked = Asked::new(world, key, Op::End { by, success, bytes, rows, consumes });
    let write = write_rows(ORDERS, key, outcome.clone(), how);
    let ending: Pending<Outcome> = match (success, consumes) {
        (true, true) => held.run.take().expect("it has not ended").complete(&outcome),
        (false, true) => held.run.take().expect("it has not ended").fail(&outcome),
        (true, false) => held.run().complete_with(&outcome, write),
        (false, false) => held.run().fail_with(&outcome, write),
    };
    let ended = ending.await;
    asked.heard(|mut world, key, id| match &ended {
        Ok(ended) => {
            if ended.bytes() != outcome || ended.is_success() != success {
                world.broken("P5: who completes gets another outcome");
            }
            world.answered(key, id, &Answer::Ok);
        }
        Err(error) => {
            world.failed(key, id, error);
            if consumes {
                world.left(key, by);
            }
        }
    });
}

/// Whether a stage that a record has is in doubt and has settled.
pub(crate) fn has_settled(standing: Standing, begun: u64, now: u64) -> bool {
    standing == Standing::InDoubt && now >= begun + millis(SETTLES)
}
