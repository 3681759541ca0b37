//! Who uses the store: clients that claim, a resumer, and an operator who does what is done by name.

use std::rc::Rc;

use reentry::{Advance, Claim, Pending, Request, Revision, Store};

use super::handler::{Held, handle, has_settled, looked_up, nap};
use super::rules::{Answer, Op, Rows};
use super::world::{Asked, Shared, digest, mark_of};

/// What a claim came to, told to the checker; the run, where it came to one.
fn told(world: &Shared, asked: &mut Asked, before: u64, claimed: &reentry::Result<Claim>) {
    asked.heard(|mut world, key, id| match claimed {
        Ok(Claim::Run(run)) => world.granted(key, id, run, before),
        Ok(Claim::Replay(outcome)) => {
            let (bytes, at) = (digest(outcome.bytes()), outcome.completed_at().as_millis());
            world.answered(key, id, &Answer::Replay { success: outcome.is_success(), bytes, at });
        }
        Ok(Claim::Wait(_)) => world.answered(key, id, &Answer::Wait),
        Ok(Claim::Reject(rejected)) => {
            world.answered(key, id, &Answer::Reject { since: rejected.since().as_millis() });
        }
        Ok(Claim::Gone(gone)) => {
            let (at, until) = (gone.completed_at().as_millis(), gone.until().as_millis());
            world.answered(key, id, &Answer::Gone { at, until });
            world.told = world.told.max(until - world.plan.policy.tombstones);
        }
        Err(error) => world.failed(key, id, error),
    });
    let _ = world;
}

/// Makes a claim and tells the checker; what it came to.
async fn claim(world: &Shared, key: usize, op: Op, make: impl FnOnce() -> Pending<Claim>) -> Option<Claimed> {
    let before = world.borrow().token;
    let mut asked = Asked::new(world, key, op);
    let id = asked.id;
    let claimed = make().await;
    told(world, &mut asked, before, &claimed);
    match claimed {
        Ok(Claim::Run(run)) => Some(Claimed::Held(Box::new(Held::new(world, key, id, run)))),
        Ok(Claim::Wait(busy)) => Some(Claimed::Busy(busy)),
        _ => None,
    }
}

enum Claimed {
    Held(Box<Held>),
    Busy(reentry::Busy),
}

/// Claims a key and handles it, waiting for others where they are at work.
pub(crate) async fn serve(world: &Shared, store: &Store, key: usize) {
    let (request, op) = {
        let mut world = world.borrow_mut();
        let nth = u8::from(world.chance(8));
        let carries = world.dice.below(2) == 0;
        let deferred = world.chance(40);
        let plan = &world.plan.keys[key];
        let body = &plan.bodies[usize::from(nth)];
        let request = if carries { Request::of(body) } else { Request::from(plan.fingerprint(nth)) };
        let request = if deferred { request.deferred() } else { request };
        let kept = if carries { digest(body) } else { 0 };
        (request, Op::Claim { fingerprint: Some(nth), request: kept, deferred, waits: false })
    };
    let name = world.borrow().plan.keys[key].key.clone();
    let line = match &op {
        Op::Claim { fingerprint, request, deferred, .. } => {
            Op::Claim { fingerprint: *fingerprint, request: *request, deferred: *deferred, waits: true }
        }
        _ => return,
    };
    match claim(world, key, op, || store.claim(&name, request)).await {
        Some(Claimed::Held(held)) => handle(Rc::clone(world), *held).await,
        Some(Claimed::Busy(busy)) if world.borrow_mut().chance(70) => {
            if let Some(Claimed::Held(held)) = claim(world, key, line, || busy.outcome()).await {
                handle(Rc::clone(world), *held).await;
            }
        }
        _ => {}
    }
}

pub(crate) async fn client(world: Shared, store: Store, requests: usize) {
    for _ in 0..requests {
        nap(&world, 6).await;
        let key = {
            let mut world = world.borrow_mut();
            let keys = world.plan.keys.len();
            world.dice.below(keys)
        };
        serve(&world, &store, key).await;
    }
}

/// Finishes what is unfinished and free, as a resumer does.
pub(crate) async fn resume(world: &Shared, store: &Store) {
    let mut found = Vec::new();
    for progress in store.unfinished() {
        match progress {
            Ok(progress) => {
                let key = world.borrow().plan.keys.iter().position(|plan| plan.key == *progress.key());
                let Some(key) = key else { continue };
                world.borrow_mut().looked(key, Some(&progress), "the list of the unfinished");
                found.push((key, progress.state()));
            }
            Err(error) => return world.borrow_mut().reading_failed(&error),
        }
    }
    not_listed(world, &found);
    for (key, state) in found {
        if state != reentry::State::Unfinished && !(world.borrow().is_calm && state == reentry::State::Stuck) {
            continue;
        }
        let name = world.borrow().plan.keys[key].key.clone();
        let op = Op::Claim { fingerprint: None, request: 0, deferred: false, waits: false };
        if let Some(Claimed::Held(held)) = claim(world, key, op, || store.claim_unfinished(&name)).await {
            handle(Rc::clone(world), *held).await;
        }
    }
}

/// What is not in the list is not unfinished (P6).
fn not_listed(world: &Shared, found: &[(usize, reentry::State)]) {
    let mut world = world.borrow_mut();
    let now = world.now();
    for key in 0..world.plan.keys.len() {
        if found.iter().all(|(listed, _)| *listed != key) {
            let is_so = |state: &super::rules::State, _| {
                state.record.as_ref().is_none_or(|record| record.end.is_some() || !record.durable)
            };
            let seen = world.checkers[key].seen(now, "P6: it is not in the list of the unfinished", is_so);
            if let Err(violation) = seen {
                world.broken(violation.0);
            }
        }
    }
}

pub(crate) async fn resumer(world: Shared, store: Store) {
    for _ in 0..4 {
        nap(&world, 20).await;
        resume(&world, &store).await;
    }
}

/// Looks at one key, claiming nothing.
pub(crate) fn look(world: &Shared, store: &Store, key: usize) -> Option<reentry::Progress> {
    let name = world.borrow().plan.keys[key].key.clone();
    let progress = store.progress(&name);
    let mut world = world.borrow_mut();
    match progress {
        Ok(progress) => {
            world.looked(key, progress.as_ref(), "whoever asks");
            progress
        }
        Err(error) => {
            world.reading_failed(&error);
            None
        }
    }
}

/// An operator, or another part of the server.
pub(crate) async fn operator(world: Shared, store: Store, acts: usize) {
    for _ in 0..acts {
        nap(&world, 8).await;
        let (key, act) = {
            let mut world = world.borrow_mut();
            let keys = world.plan.keys.len();
            (world.dice.below(keys), world.dice.below(16))
        };
        let name = world.borrow().plan.keys[key].key.clone();
        match act {
            0 => by_name(&world, key, Op::Forget, store.forget(&name)).await,
            1..4 => by_name(&world, key, Op::Revoke, store.revoke(&name)).await,
            4..6 => by_name(&world, key, Op::Free, store.release_stuck(&name)).await,
            6..9 => resolve(&world, &store, key).await,
            9..13 => advance(&world, &store, key).await,
            _ => drop(look(&world, &store, key)),
        }
    }
}

async fn by_name(world: &Shared, key: usize, op: Op, asking: Pending<bool>) {
    let mut asked = Asked::new(world, key, op);
    let done = asking.await;
    asked.heard(|mut world, key, id| match &done {
        Ok(done) => world.answered(key, id, &Answer::Done(*done)),
        Err(error) => world.failed(key, id, error),
    });
}

/// Says what became of a step in doubt that has settled, after a look into the ledger.
pub(crate) async fn resolve(world: &Shared, store: &Store, key: usize) {
    let now = world.borrow().now();
    // Which incarnation it is of, the operator knows by other ways.
    let records: Vec<_> = world.borrow().after_a_crash()[key].iter().filter_map(|state| state.record.clone()).collect();
    let Some(first) = records.first() else { return };
    if records.iter().any(|record| record.born != first.born) {
        return;
    }
    let Some(step) = first.steps.iter().find(|step| has_settled(step.standing, step.begun, now.time)) else { return };
    if records.iter().any(|record| !record.steps.contains(step)) {
        return;
    }
    let (resolution, result) = looked_up(world, key, step.name, first.born);
    let name = world.borrow().plan.keys[key].key.clone();
    let mut asked = Asked::new(world, key, Op::Resolve { by: None, name: step.name, result });
    let resolved = store.resolve(&name, &format!("s{}", step.name), resolution, "looked into the ledger").await;
    asked.heard(|mut world, key, id| match &resolved {
        Ok(()) => world.answered(key, id, &Answer::Ok),
        Err(error) => world.failed(key, id, error),
    });
}

/// Moves a checkpoint from outside.
async fn advance(world: &Shared, store: &Store, key: usize) {
    let progress = look(world, store, key);
    let expected = progress.and_then(|it| it.checkpoint().map(reentry::Checkpoint::revision)).unwrap_or(Revision::NONE);
    if world.borrow_mut().chance(30) {
        nap(world, 3).await;
    }
    let payload = format!("from outside after {}", expected.get()).into_bytes();
    let bytes = digest(&[b"outside", &payload[..]].concat());
    let name = world.borrow().plan.keys[key].key.clone();
    let op = Op::Advance { by: None, expected: expected.get(), bytes, rows: Rows::None };
    let mut asked = Asked::new(world, key, op);
    let advanced = store.advance(&name, expected, "outside", &payload).await;
    asked.heard(|mut world, key, id| match &advanced {
        Ok(Advance::Moved(checkpoint)) => {
            world.answered(key, id, &Answer::Moved { revision: checkpoint.revision().get() });
        }
        Ok(Advance::Lost(stands)) => world.answered(key, id, &Answer::Lost(stands.as_ref().map(mark_of))),
        Err(error) => world.failed(key, id, error),
    });
}
