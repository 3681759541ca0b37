//! A server on a simulated disk: opens its store, looks at what is there, and runs the operation to its end.

use std::sync::Arc;

use reentry::{Claim, Error, ErrorKind, Fingerprint, Progress, SimulatedDisk, State, StepState, Store, Table};

use super::handler::{Handler, ORDERS, PAID, Plan, RUBBISH, SETTLES, text};
use super::support::{Gate, key, request};
use super::world::{Guard, Outside, Present, Situation};

/// More runs than it takes to get to the end from anywhere.
const RUNS_MAX: usize = 8;

pub(crate) struct Server {
    pub(crate) plan: Plan,
    pub(crate) disk: SimulatedDisk,
    pub(crate) outside: Arc<Outside>,
    pub(crate) store: Option<Store>,
}

impl Server {
    /// A server on this disk, in the world as it was at that moment.
    pub(crate) fn new(plan: Plan, disk: SimulatedDisk, since: Option<&Present>) -> Self {
        let outside = Arc::new(Outside::new(&disk, &Gate::new(), since));
        Self { plan, disk, outside, store: None }
    }

    /// Another part of the same server, which is at another operation, in a world of its own.
    pub(crate) fn beside(&self, plan: Plan, since: Option<&Present>) -> Self {
        let outside = Arc::new(Outside::new(&self.disk, &self.outside.clock, since));
        Self { plan, disk: self.disk.clone(), outside, store: self.store.clone() }
    }

    pub(crate) fn open(&mut self) -> Result<(), Error> {
        self.store = Some(Store::builder().clock(self.outside.clock.clone()).open_on(&self.disk)?);
        Ok(())
    }

    pub(crate) fn store(&self) -> &Store {
        self.store.as_ref().expect("the store is open")
    }

    pub(crate) fn close(&mut self) {
        self.store.take().unwrap().close().unwrap();
    }

    /// Enters the operation again and again until it has an outcome.
    pub(crate) fn finish(&self) -> Result<(), Error> {
        let handler = Handler { plan: self.plan, store: self.store(), outside: &self.outside };
        for _ in 0..RUNS_MAX {
            let run = match self.claim()? {
                Claim::Run(run) => run,
                Claim::Replay(outcome) => {
                    let outcome = outcome.decode::<String>().unwrap();
                    self.outside.write("the outcome was told", |present| present.told.outcome = Some(outcome));
                    return Ok(());
                }
                other => panic!("P7: nobody else is at work, but {other:?}"),
            };
            match handler.handle(run) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::InDoubt => handler.operate()?,
                Err(error) if error.kind() == ErrorKind::CannotTell => {
                    self.outside.saw(Situation::RecheckedTooEarly);
                    self.outside.clock.clock.advance(SETTLES);
                    self.outside.write("time passed", |_| ());
                }
                Err(error) => return Err(error),
            }
        }
        panic!("it never ends");
    }

    /// Claims the operation: as a client does who tries again, or as the server does who finds it unfinished.
    fn claim(&self) -> Result<Claim, Error> {
        let listed = self.store().unfinished().collect::<Result<Vec<_>, _>>()?;
        let listed = listed.iter().any(|progress| *progress.key() == self.plan.key());
        if listed && self.outside.now().told.token.is_multiple_of(2) {
            self.outside.saw(Situation::EnteredWithoutTheClient);
            return self.store().claim_unfinished(&self.plan.key()).wait();
        }
        self.store().claim(&self.plan.key(), self.plan.request()).wait()
    }

    /// Looks at what is there before anybody enters it: all that was told, and nothing that did not happen.
    pub(crate) fn look(&self) -> Standing {
        let Present { world, told, .. } = self.outside.now();
        for other in &told.others {
            assert!(self.store().progress(&key(other)).unwrap().is_some(), "P2: the claim of {other} was told");
        }
        let rows = [PAID, ORDERS].map(|table| self.row(table));
        let Some(progress) = self.store().progress(&self.plan.key()).unwrap() else {
            assert_eq!(Guard::ALL.map(|guard| world.happened(guard).len()), [0; 3], "P4: effects without an intent");
            assert!(told.attempt == 0 && told.outcome.is_none(), "P2: {told:?}, but nothing is there");
            assert_eq!(rows, [None, None], "P8: rows without an operation");
            let lost = if told.token > 0 { Situation::DeferredAndLost } else { Situation::NeverClaimed };
            self.outside.saw(lost);
            return Standing::default();
        };
        assert!(progress.attempt() >= told.attempt, "P2: attempt {} was told", told.attempt);
        let states = self.plan.order.map(|guard| self.look_at_step(guard, &progress, &world.happened(guard)));
        for guard in &told.results {
            let nth = self.plan.order.iter().position(|it| it == guard).unwrap();
            assert_eq!(states[nth], Some(StepState::Done), "P2: the result of {guard:?} was on disk");
        }
        for pair in states.windows(2) {
            assert!(pair[1].is_none() || pair[0] == Some(StepState::Done), "P3: a step before its time: {states:?}");
        }
        self.look_at_rows(&progress, states, &rows);
        let notes: usize = progress.steps().iter().map(|step| step.notes().len()).sum();
        assert!(notes >= told.notes, "P4: a note of the operator's is gone");
        self.look_at_doubts(&progress);
        Standing { states, checkpoint: progress.checkpoint().is_some(), is_over: progress.outcome().is_some() }
    }

    fn look_at_step(&self, guard: Guard, progress: &Progress, happened: &[&str]) -> Option<StepState> {
        let step = progress.steps().iter().find(|step| step.name() == guard.step());
        let state = step.map(reentry::Step::state);
        assert!(happened.len() <= 1, "P4: {guard:?} happened {} times", happened.len());
        match state {
            None | Some(StepState::Withdrawn) => {
                assert!(happened.is_empty(), "P4: {guard:?} happened without an intent on disk");
            }
            Some(StepState::InDoubt) => {
                self.outside.saw(Situation::InDoubt(guard));
                if !happened.is_empty() {
                    self.outside.saw(Situation::HappenedUnheard(guard));
                }
            }
            Some(StepState::Done) => {
                self.outside.saw(Situation::Done(guard));
                let result = step.unwrap().decode::<String>().unwrap().unwrap();
                assert_eq!(happened, [&*result], "P4: what is kept of {guard:?} is not what happened");
            }
        }
        state
    }

    fn look_at_rows(&self, progress: &Progress, states: [Option<StepState>; 3], rows: &[Option<String>; 2]) {
        let Present { world, told, .. } = self.outside.now();
        let done = |guards: &[Guard]| {
            let result = |guard: &Guard| (*guard, world.happened(*guard)[0].to_owned());
            text(&guards.iter().map(result).collect::<Vec<_>>())
        };
        let checkpoint = progress.checkpoint().map(|checkpoint| checkpoint.decode::<String>().unwrap());
        assert_eq!(rows[0], checkpoint, "P8: the row is there exactly when the checkpoint is");
        let outcome = progress.outcome().map(|outcome| outcome.decode::<String>().unwrap());
        assert_eq!(rows[1], outcome, "P8: the row is there exactly when the outcome is");
        assert!(checkpoint.is_some() || !told.checkpoint, "P2: the checkpoint was told");
        assert!(outcome == told.outcome || told.outcome.is_none(), "P2: the outcome was told");
        if checkpoint.is_some() {
            let first = &states[..self.plan.before_checkpoint];
            assert!(first.iter().all(|state| *state == Some(StepState::Done)), "P3: a checkpoint after {first:?}");
            assert_eq!(checkpoint, Some(done(self.plan.first())));
        } else {
            let rest = &states[self.plan.before_checkpoint..];
            assert!(rest.iter().all(Option::is_none), "P3: no checkpoint, but {rest:?} behind it");
        }
        if outcome.is_some() {
            assert_eq!((states, outcome), ([Some(StepState::Done); 3], Some(done(&self.plan.order))), "P3");
            self.outside.saw(Situation::Over);
            assert_eq!(progress.state(), State::Succeeded);
        } else {
            self.outside.saw(Situation::Unfinished);
            assert_eq!(progress.state(), State::Unfinished, "P7: nobody owns anything");
        }
    }

    /// What is in doubt is told to whoever asks: by its key, in the list of the unfinished, in the figures.
    fn look_at_doubts(&self, progress: &Progress) {
        let doubts =
            |progress: &Progress| -> Vec<String> { progress.in_doubt().map(|step| step.name().to_owned()).collect() };
        let found = doubts(progress);
        let unfinished: Vec<_> = self.store().unfinished().map(Result::unwrap).collect();
        let listed: Vec<_> = unfinished.iter().filter(|it| *it.key() == self.plan.key()).collect();
        assert_eq!(listed.len(), usize::from(progress.outcome().is_none()), "P3: the list of the unfinished");
        assert!(listed.iter().all(|listed| doubts(listed) == found), "P4: {found:?} are in doubt");
        let in_doubt = unfinished.iter().filter(|it| !doubts(it).is_empty()).count();
        assert_eq!(self.store().stats().unwrap().in_doubt, in_doubt as u64, "P4: {found:?} are in doubt");
    }

    /// A row of the server's; where there is another, it was to be undone.
    fn row(&self, table: Table) -> Option<String> {
        let read = self.store().read(|tx| {
            let rows = tx.open_table(table)?;
            assert_eq!(rows.get(RUBBISH)?, None, "P8: what a closure that failed had written is there");
            rows.get(self.plan.name)
        });
        read.unwrap().unwrap().map(|row| String::from_utf8(row).unwrap())
    }

    /// Counts what happened, after all is done, and asks everybody for the answer.
    pub(crate) fn audit(&self) {
        let standing = self.look();
        assert!(standing.is_over);
        let Present { world, told, .. } = self.outside.now();
        for guard in Guard::ALL {
            assert_eq!(world.happened(guard).len(), 1, "P4: {guard:?}, counted outside: {world:?}");
        }
        let outcome = told.outcome.unwrap();
        let (by_client, by_server) = (
            self.store().claim(&self.plan.key(), self.plan.request()),
            self.store().claim_unfinished(&self.plan.key()),
        );
        for claim in [by_client, by_server] {
            match claim.wait().unwrap() {
                Claim::Replay(replayed) => assert_eq!(replayed.bytes(), outcome.as_bytes(), "P5"),
                other => panic!("P5: it is over, but {other:?}"),
            }
        }
        let other = self.store().claim(&self.plan.key(), Fingerprint::of("another request")).wait().unwrap();
        assert!(matches!(other, Claim::Reject(_)), "P5");
        assert!(matches!(self.store().claim(&key("fresh"), request()).wait().unwrap(), Claim::Run(_)));
        self.store().verify().unwrap();
    }
}

/// What is known of the operation after a crash.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Standing {
    states: [Option<StepState>; 3],
    checkpoint: bool,
    is_over: bool,
}
