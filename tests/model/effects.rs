//! What a run does beside moving its checkpoint: guarded effects, resolutions, the server's own rows.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use reentry::{
    EffectId, ErrorKind, Failure, ReadTransaction, Resolution, Result, Run, Store, Table, Transaction, not_applied,
};

use crate::answers::{Answer, Bytes};
use crate::commands::{Command, Effect, Expected, Meanwhile, Mode, NEWEST, Name, Note, Recheck, Rows};
use crate::rules::{LEASE, With};
use crate::steps::{Asked, Resolved};
use crate::support::PATIENCE;
use crate::world::{Compared, World, key_of, pick};

/// The server's own tables.
const TABLES: [Table; 2] = [Table::new("orders"), Table::new("mails")];

type Source = Box<dyn std::error::Error + Send + Sync>;

/// One step that is asked for, while it is under way: what is called of the caller's own is played here.
struct Scene<'w> {
    world: &'w mut World,
    run: usize,
    name: String,
    /// What comes next, by the model.
    asked: Asked,
    meanwhile: Option<Meanwhile>,
    effect: Effect,
    result: Bytes,
    found: Bytes,
    says: Recheck,
    rechecks: u32,
    effects: u32,
    /// What the comparisons came to that were made meanwhile.
    compared: Compared,
}

impl World {
    /// `Run::step`.
    pub(crate) fn guard(
        &mut self,
        nth: usize,
        name: &str,
        mode: Mode,
        effect: Effect,
        size: usize,
        meanwhile: Meanwhile,
    ) -> Compared {
        let Some((number, mut run)) = pick(&mut self.runs, nth) else { return Ok(()) };
        self.check_id(number, name, run.effect_id(name))?;
        let says = if let Mode::Recheck { says, .. } = mode { says } else { Recheck::CannotTell };
        let found = self.bytes(if let Recheck::Happened(size) = says { size } else { 0 });
        let (result, asked) = (self.bytes(size), self.model.ask_step(number, name, mode));
        let scene = RefCell::new(Scene {
            world: self,
            run: number,
            name: name.to_owned(),
            asked,
            meanwhile: Some(meanwhile),
            effect,
            result,
            found,
            says,
            rechecks: 0,
            effects: 0,
            compared: Ok(()),
        });
        let called = catch_unwind(AssertUnwindSafe(|| match effect {
            Effect::IsDropped => run_and_drop(&mut run, name, mode, &scene),
            _ => Some(run_step(&mut run, name, mode, &scene)),
        }));
        let Scene { asked, rechecks, effects, compared, .. } = scene.into_inner();
        compared?;
        let real = match called {
            Err(_) => Answer::Panicked,
            Ok(None) => Answer::Dropped,
            Ok(Some(Err(error))) => Answer::Refused(error.kind()),
            Ok(Some(Ok(bytes))) if effects > 0 => Answer::Ran(Bytes(bytes)),
            Ok(Some(Ok(bytes))) if rechecks > 0 => Answer::Found(Bytes(bytes)),
            Ok(Some(Ok(bytes))) => Answer::Known(Bytes(bytes)),
        };
        let Asked::Answered(expected) = asked else {
            return Err(TestCaseError::fail(format!("{asked:?} must be called, and was not: {real:?}")));
        };
        self.compare(&real, &expected)?;
        self.put_back(number, run)
    }

    /// An effect id depends on key and name, and on nothing else.
    fn check_id(&mut self, run: usize, name: &str, id: EffectId) -> Compared {
        let of = (self.model.runs[run].key, name.to_owned());
        let others = self.effect_ids.iter().filter(|(known, _)| **known != of).any(|(_, known)| *known == id);
        prop_assert!(!others, "P9: two effects have one id");
        prop_assert_eq!(*self.effect_ids.entry(of).or_insert(id), id, "P4: an effect id is the same for every retry");
        Ok(())
    }

    /// Plays what comes to pass while an effect of this run is under way.
    fn play(&mut self, run: usize, name: &str, meanwhile: Meanwhile) -> Compared {
        let key = self.model.runs[run].key;
        let (revoke, enter) = (Command::Revoke { key }, Command::ClaimUnfinished { key });
        let commands = match meanwhile {
            Meanwhile::Nothing => vec![],
            Meanwhile::Asked => vec![enter, Command::Progress { key }],
            Meanwhile::Revoked => vec![revoke],
            Meanwhile::TakenOver => vec![revoke, enter],
            Meanwhile::Visited => {
                [revoke, enter].iter().try_for_each(|command| self.step(command))?;
                vec![Command::DropRun { nth: NEWEST }]
            }
            Meanwhile::Finished => {
                [revoke, enter].iter().try_for_each(|command| self.step(command))?;
                vec![Command::Complete { nth: NEWEST, size: 7 }]
            }
            Meanwhile::Forgotten => vec![revoke, Command::Forget { key }],
            Meanwhile::Anew => vec![revoke, Command::Forget { key }, Command::Claim { key, request: 0 }],
            Meanwhile::Resolved { happened } => {
                self.step(&revoke)?;
                let (size, note) = (happened.then_some(9), Note::Good);
                return self.resolve_by_anybody(key, name, size, &note.text());
            }
            Meanwhile::Lapsed => vec![Command::Pass { millis: LEASE }, enter],
            Meanwhile::Moved => {
                let (expected, name) = (Expected::Right, Name::Good(9));
                vec![Command::AdvanceByAnybody { key, expected, name, size: 8 }, Command::Progress { key }]
            }
            Meanwhile::Listed => vec![Command::Unfinished, Command::Progress { key }],
        };
        commands.iter().try_for_each(|command| self.step(command))
    }

    /// `Run::resolve`.
    pub(crate) fn resolve(&mut self, nth: usize, name: &str, size: Option<usize>, note: &str) -> Compared {
        let Some((number, mut run)) = pick(&mut self.runs, nth) else { return Ok(()) };
        let result = size.map(|size| self.bytes(size));
        let resolution = resolution(result.as_ref());
        let expected = self.model.resolve(number, &Resolved { step: name, result, note });
        let resolved = run.resolve(name, resolution, note).wait_for(PATIENCE);
        let real = resolved.map_or_else(|error| Answer::Refused(error.kind()), |()| Answer::Resolved);
        self.compare(&real, &expected)?;
        self.put_back(number, run)
    }

    /// `Store::resolve`.
    pub(crate) fn resolve_by_anybody(&mut self, key: usize, name: &str, size: Option<usize>, note: &str) -> Compared {
        let result = size.map(|size| self.bytes(size));
        let resolution = resolution(result.as_ref());
        let expected = self.model.resolve_by_anybody(key, &Resolved { step: name, result, note });
        let resolved = self.store.resolve(&key_of(key), name, resolution, note).wait_for(PATIENCE);
        let real = resolved.map_or_else(|error| Answer::Refused(error.kind()), |()| Answer::Resolved);
        self.compare(&real, &expected)
    }

    /// The closure that writes the server's rows beside a change of this run.
    pub(crate) fn writes(
        &self,
        run: usize,
        with: With,
    ) -> Option<impl FnMut(&Transaction<'_>) -> std::result::Result<(), Source> + Send + use<>> {
        let (rows, step) = with?;
        let (key, store) = (self.model.runs[run].key, self.store.clone());
        Some(move |transaction: &Transaction<'_>| write(transaction, rows, key, step, &store))
    }

    /// P8: the server's rows are there exactly where the change is that they went with.
    pub(crate) fn compare_rows(&mut self) -> Compared {
        let real = self.store.read(read).and_then(|rows| rows).map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert_eq!(real, self.model.rows.clone(), "P8: the server's rows");
        Ok(())
    }
}

impl Scene<'_> {
    /// What is played meanwhile, once. A comparison that failed ends the play.
    fn meanwhile(&mut self) {
        if let Some(meanwhile) = self.meanwhile.take() {
            self.compared = self.world.play(self.run, &self.name, meanwhile);
        }
    }

    fn must(&mut self, is_right: bool, what: &str) {
        if !is_right && self.compared.is_ok() {
            self.compared = Err(TestCaseError::fail(format!("P4: {what} is called, where {:?}", self.asked)));
        }
    }

    fn recheck(&mut self, id: EffectId) -> std::result::Result<Option<Vec<u8>>, Failure> {
        self.rechecks += 1;
        let has_settled = matches!(self.asked, Asked::Recheck { has_settled: true });
        self.must(matches!(self.asked, Asked::Recheck { .. }), "a recheck");
        self.compared =
            std::mem::replace(&mut self.compared, Ok(())).and(self.world.check_id(self.run, &self.name, id));
        if self.compared.is_ok() {
            self.meanwhile();
            self.asked = self.world.model.rechecked(self.run, &self.name, self.says, has_settled, &self.found);
        }
        match self.says {
            Recheck::Happened(_) => Ok(Some(self.found.0.clone())),
            Recheck::DidNotHappen => Ok(None),
            Recheck::CannotTell => Err("the bank does not answer".into()),
        }
    }

    fn effect(&mut self, id: EffectId) -> Effect {
        self.effects += 1;
        let in_doubt = matches!(self.asked, Asked::Effect { in_doubt: true });
        self.must(matches!(self.asked, Asked::Effect { .. }), "an effect");
        self.compared =
            std::mem::replace(&mut self.compared, Ok(())).and(self.world.check_id(self.run, &self.name, id));
        if self.compared.is_ok() {
            self.meanwhile();
            let answer = self.world.model.effected(self.run, &self.name, self.effect, in_doubt, &self.result);
            self.asked = Asked::Answered(answer);
        }
        self.effect
    }
}

/// What an effect comes to.
fn effect(scene: &RefCell<Scene<'_>>, id: EffectId) -> std::result::Result<Vec<u8>, Failure> {
    let effect = scene.borrow_mut().effect(id);
    match effect {
        Effect::Succeeds | Effect::IsDropped => Ok(scene.borrow().result.0.clone()),
        Effect::Fails => Err("the connection broke".into()),
        Effect::IsNotApplied => Err(not_applied("the bank is closed")),
        // Past the panic hook, which would only fill the output.
        Effect::Panics => resume_unwind(Box::new("the effect dies")),
    }
}

fn run_step(run: &mut Run, name: &str, mode: Mode, scene: &RefCell<Scene<'_>>) -> Result<Vec<u8>> {
    let step = run.step(name);
    match mode {
        Mode::Keyed => step.run_keyed(|id| effect(scene, id)),
        Mode::AtMostOnce => step.run_at_most_once(|id| effect(scene, id)),
        Mode::Recheck { settles_within, .. } => step
            .recheck(|id| scene.borrow_mut().recheck(id))
            .settles_within(Duration::from_millis(settles_within))
            .run(|id| effect(scene, id)),
    }
}

/// Asks for the step as a task, and drops the future as soon as its effect is under way.
fn run_and_drop(run: &mut Run, name: &str, mode: Mode, scene: &RefCell<Scene<'_>>) -> Option<Result<Vec<u8>>> {
    let is_under_way = Cell::new(false);
    let effect = async |id| {
        let result = effect(scene, id);
        is_under_way.set(true);
        std::future::pending::<()>().await;
        result
    };
    let step = run.step(name);
    match mode {
        Mode::Keyed => drive(step.run_keyed_async(effect), &is_under_way),
        Mode::AtMostOnce => drive(step.run_at_most_once_async(effect), &is_under_way),
        Mode::Recheck { settles_within, .. } => {
            let step = step.recheck_async(async |id| scene.borrow_mut().recheck(id));
            drive(step.settles_within(Duration::from_millis(settles_within)).run_async(effect), &is_under_way)
        }
    }
}

/// Polls the future until it is ready, or what it waits for is under way; then drops it.
fn drive<F: Future>(future: F, is_under_way: &Cell<bool>) -> Option<F::Output> {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return Some(output),
            Poll::Pending if is_under_way.get() => return None,
            Poll::Pending => thread::park_timeout(PATIENCE),
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn resolution(result: Option<&Bytes>) -> Resolution {
    result.map_or(Resolution::DidNotHappen, |bytes| Resolution::Happened(bytes.0.clone()))
}

fn write(
    transaction: &Transaction<'_>,
    rows: Rows,
    key: usize,
    step: u8,
    store: &Store,
) -> std::result::Result<(), Source> {
    let (row, value) = ([u8::try_from(key)?], [step; 3]);
    let insert = |table: usize| transaction.open_table(TABLES[table])?.insert(row, value).map(drop);
    match rows {
        Rows::Insert { table } => insert(table)?,
        Rows::InsertInBoth => {
            insert(0)?;
            insert(1)?;
        }
        Rows::Remove { table } => drop(transaction.open_table(TABLES[table])?.remove(row)?),
        Rows::CallsTheStore => {
            let waits = store.forget(&key_of(key)).wait().err().map(|error| error.kind());
            let closes = store.close().err().map(|error| error.kind());
            if (waits, closes) != (Some(ErrorKind::WouldDeadlock), Some(ErrorKind::WouldDeadlock)) {
                return Err(format!("{waits:?}, {closes:?}").into());
            }
            // What only reads works.
            store.progress(&key_of(key))?;
            insert(0)?;
        }
        Rows::Fails => {
            insert(0)?;
            insert(1)?;
            return Err("the order has no address".into());
        }
        Rows::Panics => {
            insert(1)?;
            resume_unwind(Box::new("the closure dies"));
        }
    }
    Ok(())
}

fn read(transaction: &ReadTransaction<'_>) -> Result<BTreeMap<(usize, u8), Bytes>> {
    let mut all = BTreeMap::new();
    for (nth, table) in TABLES.into_iter().enumerate() {
        for row in transaction.open_table(table)?.range(..)? {
            let (key, value) = row?;
            all.insert((nth, key[0]), Bytes(value));
        }
    }
    Ok(all)
}
