//! One run: an executor whose every next choice is drawn from the seed.

use std::future::Future;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use reentry::{DiskCall, DiskFault, OpenCheck, SimulatedDisk, Store, Timestamp};

use super::clients::{client, look, operator, resolve, resume, resumer, serve};
use super::images::{Expected, Tally, draw, open, probe, time_of, try_copy, try_image};
use super::plan::Plan;
use super::support::Dice;
use super::world::{Faults, OnPurpose, Shared, World};

/// More turns than it takes to drive everything to its end.
const CALM_TURNS_MAX: usize = 60_000;
const CALM_ROUNDS_MAX: usize = 60;

#[derive(Debug)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Task {
    future: Pin<Box<dyn Future<Output = ()>>>,
    woken: Arc<Woken>,
}

/// A server, its disk and all who use it.
struct Simulation {
    world: Shared,
    plan: Plan,
    disk: SimulatedDisk,
    store: Option<Store>,
    tasks: Vec<Task>,
    dice: Dice,
    tally: Tally,
}

/// Runs one seed. The error says what was broken, with the last that happened before it.
pub(crate) fn run_seed(seed: u64) -> Result<Tally, String> {
    let mut dice = Dice::new(seed);
    let plan = Plan::draw(&mut dice);
    let world = World::new(plan.clone(), Dice::new(dice.roll()));
    let simulation = Simulation {
        world: Rc::clone(&world),
        disk: SimulatedDisk::new().with_journal(plan.journal),
        plan,
        store: None,
        tasks: Vec::new(),
        dice,
        tally: Tally::default(),
    };
    let ran = catch_unwind(AssertUnwindSafe(|| simulation.run()));
    let broken = match ran {
        Ok(Ok(tally)) => return Ok(tally),
        Ok(Err(broken)) => broken,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            format!("a panic: {}", text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("of no text"))
        }
    };
    let trace = world.try_borrow().map(|world| world.trace()).unwrap_or_default();
    Err(format!("{trace}\nseed {seed}: {broken}"))
}

impl Simulation {
    fn run(mut self) -> Result<Tally, String> {
        self.create()?;
        self.spawn();
        for _ in 0..self.plan.turns {
            self.turn()?;
        }
        self.drive_to_the_end()?;
        let world = self.world.borrow();
        self.tally.runs = 1;
        (self.tally.answers, self.tally.effects) = (world.answers, world.effects);
        Ok(self.tally)
    }

    /// Makes the store, and cuts the power while it is made.
    fn create(&mut self) -> Result<(), String> {
        self.open()?;
        let calls = self.disk.calls();
        let expected = self.expected();
        for _ in 0..2 {
            let image = draw(&self.disk, 0, calls, &mut self.dice);
            try_image(&self.plan, &image, &expected, &mut self.dice, &mut self.tally)?;
        }
        Ok(())
    }

    fn expected(&self) -> Expected {
        let world = self.world.borrow();
        Expected { states: world.after_a_crash(), told: world.told, highest: world.highest, token: world.token }
    }

    fn open(&mut self) -> Result<(), String> {
        let check = if self.dice.below(2) == 0 { OpenCheck::Full } else { OpenCheck::Quick };
        let clock = self.world.borrow().clock.clone();
        let store = open(&self.plan, &self.disk, &clock, check).map_err(|e| format!("P10: it does not open: {e:?}"))?;
        let time = time_of(&store)?;
        let mut world = self.world.borrow_mut();
        world.faults = Faults::default();
        let wall = reentry::Clock::wall(&clock).as_millis();
        if time < world.told.max(wall) || time > world.highest.max(wall) {
            let (told, highest) = (world.told, world.highest);
            return Err(format!(
                "P11: it opens at {time} with {wall} on the wall; {told} was told, {highest} the highest"
            ));
        }
        world.is_dead = false;
        world.opened_at(time);
        world.say(|| format!("opened at {time}"));
        self.store = Some(store);
        Ok(())
    }

    fn store(&self) -> Store {
        self.store.clone().expect("the store is open")
    }

    fn spawn(&mut self) {
        let store = self.store();
        let Plan { clients, resumers, operators, .. } = self.plan;
        for _ in 0..clients {
            self.task(client(Rc::clone(&self.world), store.clone(), 8));
        }
        for _ in 0..resumers {
            self.task(resumer(Rc::clone(&self.world), store.clone()));
        }
        for _ in 0..operators {
            self.task(operator(Rc::clone(&self.world), store.clone(), 12));
        }
    }

    fn task(&mut self, future: impl Future<Output = ()> + 'static) {
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        self.tasks.push(Task { future: Box::pin(future), woken });
    }

    fn turn(&mut self) -> Result<(), String> {
        match self.dice.below(100) {
            0..62 => self.poll_one(),
            62..90 => self.batch(),
            90..95 => self.let_time_pass(),
            95 => self.copy(),
            96..98 => {
                self.drop_one();
                self.broken()
            }
            _ => {
                if self.tasks.len() < self.plan.clients {
                    let store = self.store();
                    self.task(client(Rc::clone(&self.world), store, 4));
                }
                Ok(())
            }
        }
    }

    fn broken(&self) -> Result<(), String> {
        self.world.borrow_mut().violation.take().map_or(Ok(()), Err)
    }

    /// Polls one of the tasks that were woken. A wake that is lost is a task that never ends.
    fn poll_one(&mut self) -> Result<(), String> {
        let woken: Vec<_> =
            (0..self.tasks.len()).filter(|at| self.tasks[*at].woken.0.load(Ordering::Relaxed)).collect();
        if woken.is_empty() {
            return Ok(());
        }
        let at = woken[self.dice.below(woken.len())];
        let task = &mut self.tasks[at];
        task.woken.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(&task.woken));
        let polled = catch_unwind(AssertUnwindSafe(|| task.future.as_mut().poll(&mut Context::from_waker(&waker))));
        match polled {
            Ok(Poll::Pending) => {}
            Ok(Poll::Ready(())) => drop(self.tasks.swap_remove(at)),
            Err(panic) if panic.is::<OnPurpose>() => drop(self.tasks.swap_remove(at)),
            Err(panic) => resume_unwind(panic),
        }
        self.broken()
    }

    fn drop_one(&mut self) {
        if !self.tasks.is_empty() {
            let at = self.dice.below(self.tasks.len());
            self.world.borrow_mut().say(|| "a task is dropped".to_owned());
            drop(self.tasks.swap_remove(at));
        }
    }

    fn let_time_pass(&mut self) -> Result<(), String> {
        let span = match self.to_the_next_border().filter(|_| self.dice.below(4) == 0) {
            Some(exactly) => exactly - self.dice.below(2) as u64,
            None => [1, 10, 300, 900, 2_500, 12_000][self.dice.below(6)],
        };
        let jump = match self.dice.below(12) {
            0 => Some(self.world.borrow().now().ahead + 100_000),
            1 => Some(5_000),
            2 => Some(self.world.borrow().now().time),
            _ => None,
        };
        self.world.borrow_mut().pass(Duration::from_millis(span), jump);
        self.broken()
    }

    /// How long it is to the moment at which something is over.
    fn to_the_next_border(&self) -> Option<u64> {
        let world = self.world.borrow();
        let now = world.now();
        let next = world.checkers.iter().filter_map(|checker| checker.next_border(now)).min();
        next.map(|border| border - now.time)
    }

    /// Lets the writer do a batch, and what the seed has for it.
    fn batch(&mut self) -> Result<(), String> {
        let before = self.disk.calls();
        let next = self.world.borrow().next_op();
        let fault = self.dice.below(1_000) < self.plan.faults;
        if fault {
            self.fault();
        }
        self.world.borrow_mut().say(|| "a batch".to_owned());
        let (failed, failed_syncs) = (self.disk.failed(), self.failed_syncs());
        let goes_on = self.store().work_by_hand();
        let after = self.disk.calls();
        if self.disk.failed() > failed {
            self.failed(self.failed_syncs() > failed_syncs);
        }
        if self.dice.below(1_000) < self.plan.looks && after > before {
            self.look_at_images(before, after)?;
        }
        if self.dice.below(1_000) < self.plan.cuts || !goes_on {
            return self.crash(before, after);
        }
        if fault {
            if self.dice.below(2) == 0 {
                self.disk.fail(None);
                self.disk.set_room(None);
            }
        } else {
            self.settle(next);
        }
        self.broken()
    }

    /// Copies the store, and looks into the copy. What the disk's faults do to it they do to whoever reads.
    fn copy(&mut self) -> Result<(), String> {
        let copy = SimulatedDisk::new();
        match self.store().backup_onto(&copy, |_| ControlFlow::Continue(())) {
            Ok(_) => {
                self.world.borrow_mut().say(|| "a copy is made".to_owned());
                self.tally.copies += 1;
                let (calls, expected) = (copy.calls(), self.expected());
                let kept = draw(&copy, calls, calls, &mut self.dice);
                try_copy(&self.plan, &kept, &expected, &mut self.dice)?;
            }
            Err(error) => self.world.borrow_mut().reading_failed(&error),
        }
        self.broken()
    }

    /// The store does not open, since a call of the disk fails; which must harm nothing.
    fn fail_to_open(&mut self) -> Result<(), String> {
        let kinds: &'static [DiskCall] = match self.dice.below(4) {
            0 => &[DiskCall::Read],
            1 => &[DiskCall::Sync],
            2 => &[DiskCall::Write],
            _ => DiskCall::CHANGES,
        };
        let (before, failed) = (self.disk.calls(), self.disk.failed());
        let failed_syncs = self.failed_syncs();
        let fault = DiskFault::kind(ErrorKind::Other).on(kinds).after(self.dice.below(12));
        self.world.borrow_mut().say(|| format!("it is opened with a fault: {fault:?}"));
        self.disk.fail([fault]);
        let check = if self.dice.below(2) == 0 { OpenCheck::Full } else { OpenCheck::Quick };
        let opened = open(&self.plan, &self.disk, &self.world.borrow().clock, check);
        let has_failed = self.disk.failed() > failed;
        let is_sync = self.failed_syncs() > failed_syncs;
        self.tally.faulty_openings += u64::from(has_failed);
        // It goes as a process that dies.
        self.disk.fail([DiskFault::kind(ErrorKind::Other).on(DiskCall::CHANGES).for_ever()]);
        match opened {
            // See `failed`.
            Ok(_) if is_sync => return Err("P10: a sync failed as it was opened, and nobody heard of it".to_owned()),
            Ok(store) => drop(store),
            Err(error) if has_failed && error.kind() == reentry::ErrorKind::Io => {}
            Err(error) => return Err(format!("P10: it does not open: {error:?}")),
        }
        let after = self.disk.calls();
        self.disk = match self.dice.below(2) {
            0 => draw(&self.disk, before, after, &mut self.dice),
            // See `crash`.
            _ if is_sync => SimulatedDisk::from_image(self.disk.image()),
            _ => self.disk.killed(after),
        };
        Ok(())
    }

    fn failed_syncs(&self) -> usize {
        self.disk.seen(&[DiskCall::Sync]) - self.disk.syncs()
    }

    /// A call of the disk failed in a batch.
    fn failed(&self, is_sync: bool) {
        let mut probe = self.store().revoke(&probe());
        let polled = Pin::new(&mut probe).poll(&mut Context::from_waker(Waker::noop()));
        let is_stopped = matches!(polled, Poll::Ready(Err(error)) if error.kind() == reentry::ErrorKind::Failed);
        let mut world = self.world.borrow_mut();
        // A write that failed may be made good by a later one, but what a sync dropped is gone.
        if is_sync && !is_stopped {
            world.broken("P10: a sync failed, and the store goes on");
        }
        let now = world.now();
        for checker in &mut world.checkers {
            if is_stopped { checker.stopped(now) } else { checker.was_full(now) }
        }
    }

    /// The writer has decided all that was asked before; where the disk had a fault nobody knows how.
    fn settle(&mut self, next: super::rules::OpId) {
        let mut world = self.world.borrow_mut();
        if world.faults.full || world.faults.failed {
            return;
        }
        let now = world.now();
        world.checkers.iter_mut().filter(|it| it.has_pending()).for_each(|checker| checker.settle(now, next));
    }

    fn fault(&mut self) {
        self.tally.faults += 1;
        let after = self.dice.below(9);
        let is_full = self.dice.below(3) == 0;
        let fault = match self.dice.below(8) {
            _ if is_full => DiskFault::kind(ErrorKind::StorageFull).on(DiskCall::GROWS),
            0 | 1 => DiskFault::kind(ErrorKind::Other).on(&[DiskCall::Sync]),
            2 => DiskFault::kind(ErrorKind::Other).on(&[DiskCall::Read]),
            3 => DiskFault::kind(ErrorKind::Other).on(&[DiskCall::Len, DiskCall::SetLen]),
            4 => DiskFault::kind(ErrorKind::Other).on(&[DiskCall::Write]).having_written(512),
            _ => DiskFault::kind(ErrorKind::Other).on(DiskCall::CHANGES),
        };
        // A batch has one sync or two.
        let fault = fault.after(if after > 6 { 0 } else { after });
        let fault = if self.dice.below(2) == 0 { fault.for_ever() } else { fault };
        let room = (is_full && self.dice.below(3) == 0).then(|| self.disk.image().len() as u64);
        // A full disk, and then a sync that fails: two that come together hide each other.
        let sync = DiskFault::kind(ErrorKind::Other).on(&[DiskCall::Sync]).after(self.dice.below(3));
        let sync = (is_full && self.dice.below(3) == 0).then_some(sync);
        let mut world = self.world.borrow_mut();
        world.faults.full |= is_full;
        world.faults.failed |= !is_full || sync.is_some();
        world.say(|| format!("a fault: {fault:?}, or room {room:?}, and {sync:?}"));
        match room {
            Some(_) => self.disk.set_room(room),
            None => self.disk.fail([fault].into_iter().chain(sync)),
        }
        world.checkers.iter_mut().for_each(|checker| checker.is_sure = false);
    }

    /// Draws images of a power cut in or after the last batch, opens each and looks whether all that was told is there.
    fn look_at_images(&mut self, before: usize, after: usize) -> Result<(), String> {
        let expected = self.expected();
        for _ in 0..self.plan.images {
            let image = draw(&self.disk, before, after, &mut self.dice);
            try_image(&self.plan, &image, &expected, &mut self.dice, &mut self.tally)?;
        }
        Ok(())
    }

    /// The process dies in or after the last batch, by a power cut or alone, or is ended; and is started again.
    fn crash(&mut self, before: usize, after: usize) -> Result<(), String> {
        self.tally.restarts += 1;
        self.disk.fail(None);
        self.disk.set_room(None);
        let way = self.dice.below(5);
        if way == 0 && !self.world.borrow().faults.failed {
            self.world.borrow_mut().say(|| "the store is closed".to_owned());
            self.world.borrow_mut().faults.closed = true;
            self.store().close().map_err(|e| format!("it does not close: {e:?}"))?;
            // Some of the tasks learn of it.
            for _ in 0..self.dice.below(8) {
                self.poll_one()?;
            }
            let states = self.expected().states;
            self.bury();
            return self.restart(states);
        }
        self.look_at_images(before, after)?;
        let states = self.expected().states;
        let next = if way < 3 {
            draw(&self.disk, before, after, &mut self.dice)
        } else if self.world.borrow().faults.failed {
            // What a failed sync left out of the disk and in the system's memory, a restart of the process alone cannot
            // know; here the system has written it after all.
            SimulatedDisk::from_image(self.disk.image())
        } else {
            self.disk.killed(before + self.dice.below(after - before + 1))
        };
        self.world.borrow_mut().say(|| if way < 3 { "a POWER CUT" } else { "the process is KILLED" }.to_owned());
        // What goes now writes nothing any more.
        self.disk.fail([DiskFault::kind(ErrorKind::Other).on(DiskCall::CHANGES).for_ever()]);
        self.bury();
        self.disk = next;
        self.restart(states)
    }

    /// All of the process is gone.
    fn bury(&mut self) {
        self.world.borrow_mut().is_dead = true;
        self.tasks.clear();
        let store = self.store.take();
        // What panicked in the disk may do so again as the file is closed; that harms nobody any more.
        drop(catch_unwind(AssertUnwindSafe(|| drop(store))));
    }

    fn restart(&mut self, states: Vec<Vec<super::rules::State>>) -> Result<(), String> {
        {
            let mut world = self.world.borrow_mut();
            world.arrivals(true);
            let policy = self.plan.policy;
            world.checkers = states.into_iter().map(|states| super::checker::Checker::of(policy, states)).collect();
            let wall = match self.dice.below(6) {
                0 => Some(world.highest + 50_000),
                1 => Some(7_000),
                _ => None,
            };
            if let Some(wall) = wall {
                world.clock.set_wall(Timestamp::from_millis(wall));
            }
        }
        if self.plan.faults > 0 && self.dice.below(3) == 0 {
            self.fail_to_open()?;
        }
        self.open()?;
        let store = self.store();
        for key in 0..self.plan.keys.len() {
            if self.dice.below(2) == 0 {
                drop(look(&self.world, &store, key));
            }
        }
        self.broken()?;
        self.spawn();
        Ok(())
    }

    /// No more faults: every task ends, and then every operation can be driven to its end.
    fn drive_to_the_end(&mut self) -> Result<(), String> {
        let is_failed = self.world.borrow().faults.failed;
        let calls = self.disk.calls();
        if is_failed {
            self.crash(calls, calls)?;
        }
        self.disk.fail(None);
        self.disk.set_room(None);
        self.world.borrow_mut().is_calm = true;
        self.until_all_end()?;
        for _ in 0..CALM_ROUNDS_MAX {
            let store = self.store();
            let keys = self.plan.keys.len();
            let world = Rc::clone(&self.world);
            self.task(async move {
                for key in 0..keys {
                    resolve(&world, &store, key).await;
                }
                resume(&world, &store).await;
                for key in 0..keys {
                    serve(&world, &store, key).await;
                }
            });
            self.until_all_end()?;
            if self.store().stats().map_err(|e| e.to_string())?.unfinished == 0 {
                return self.close();
            }
        }
        Err("an operation cannot be driven to its end".to_owned())
    }

    fn until_all_end(&mut self) -> Result<(), String> {
        for turn in 0..CALM_TURNS_MAX {
            if self.tasks.is_empty() {
                return Ok(());
            }
            self.poll_one()?;
            if turn % 3 == 0 {
                let next = self.world.borrow().next_op();
                if !self.store().work_by_hand() {
                    return Err("the store stopped, though nothing failed".to_owned());
                }
                self.settle(next);
            }
            if turn % 50 == 0 {
                self.world.borrow_mut().pass(Duration::from_millis(300), None);
            }
            self.broken()?;
        }
        Err(format!("{} tasks never end", self.tasks.len()))
    }

    /// The last look: everything is over, and stays so over a restart.
    fn close(&mut self) -> Result<(), String> {
        let store = self.store();
        for key in 0..self.plan.keys.len() {
            drop(look(&self.world, &store, key));
            self.broken()?;
        }
        self.every_effect_happened()?;
        store.verify().map_err(|e| format!("{e:?}"))?;
        let stats = store.stats().map_err(|e| e.to_string())?;
        if (stats.unfinished, stats.owned, stats.waiting, stats.in_doubt) != (0, 0, 0, 0) {
            return Err(format!("P7: nobody is left, but {stats:?}"));
        }
        store.close().map_err(|e| format!("{e:?}"))
    }

    /// A step that a finished operation has a result of happened, and with that result.
    fn every_effect_happened(&self) -> Result<(), String> {
        let world = self.world.borrow();
        for (key, states) in world.after_a_crash().iter().enumerate() {
            let records = states.iter().filter_map(|state| state.record.as_ref());
            for record in records {
                for step in &record.steps {
                    if let super::rules::Standing::Done(result) = step.standing {
                        let found = world.find(key, step.name, record.born);
                        if found.is_none_or(|found| super::world::digest(found.as_bytes()) != result) {
                            return Err(format!(
                                "P4: step {} of key {key} has a result of what never happened",
                                step.name
                            ));
                        }
                    }
                }
            }
        }
        Ok(())
    }
}
