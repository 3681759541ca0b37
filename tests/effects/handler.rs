//! A server's handler of three effects: what a user would write, noting what it is told.

use std::convert::Infallible;
use std::time::Duration;

use reentry::{Error, ErrorKind, Key, Outcome, Request, Resolution, Run, Step, StepState, Store, Table, Transaction};

use super::support::{key, request};
use super::world::{Guard, Outside, Situation};

/// Where the server keeps what goes with the checkpoint, and with the outcome.
pub(crate) const PAID: Table = Table::new("paid");
pub(crate) const ORDERS: Table = Table::new("orders");

/// What a closure that fails wrote before it did.
pub(crate) const RUBBISH: &str = "rubbish";

/// How long the bank needs until it finds a charge.
pub(crate) const SETTLES: Duration = Duration::from_secs(60);

/// The request's bytes, which travel with the claim.
pub(crate) const BODY: &[u8] = b"two pizzas";

/// One way to write the handler.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// The operation's key, and that of its rows.
    pub(crate) name: &'static str,
    pub(crate) order: [Guard; 3],
    /// How many steps come before the checkpoint.
    pub(crate) before_checkpoint: usize,
    pub(crate) deferred: bool,
    /// How many bytes more than needed each result has; over 1 KiB it stands in a row of its own.
    pub(crate) more_bytes: usize,
    /// Whether the checkpoint shares its batch with a claim and with a closure that fails.
    pub(crate) in_company: bool,
}

impl Plan {
    pub(crate) fn key(&self) -> Key {
        key(self.name)
    }

    pub(crate) fn request(&self) -> Request {
        let request = Request::of(BODY);
        if self.deferred { request.deferred() } else { request }
    }

    /// The steps that come before the checkpoint.
    pub(crate) fn first(&self) -> &[Guard] {
        &self.order[..self.before_checkpoint]
    }

    fn more(&self) -> String {
        "~".repeat(self.more_bytes)
    }
}

/// The handler, and what it is given.
pub(crate) struct Handler<'s> {
    pub(crate) plan: Plan,
    pub(crate) store: &'s Store,
    pub(crate) outside: &'s Outside,
}

impl Handler<'_> {
    /// Runs the operation to its end, or to the first thing that it cannot get past.
    pub(crate) fn handle(&self, mut run: Run) -> Result<Outcome, Error> {
        self.entered(&run);
        let mut results: Vec<(Guard, String)> = Vec::new();
        for (nth, guard) in self.plan.order.into_iter().enumerate() {
            if nth == self.plan.before_checkpoint {
                self.outside.insist(|| self.checkpoint(&mut run, &results))?;
            }
            let result = self.outside.insist(|| self.step(&mut run, guard, &results))?;
            results.push((guard, result));
        }
        if self.plan.before_checkpoint == results.len() {
            self.outside.insist(|| self.checkpoint(&mut run, &results))?;
        }
        let text = text(&results);
        let outcome = self.outside.insist(|| {
            let (name, row) = (self.plan.name, text.clone());
            let write = move |tx: &Transaction<'_>| {
                tx.open_table(ORDERS)?.insert(name, &row)?;
                Ok(())
            };
            run.complete_with(&text, write).wait()
        })?;
        self.outside.write("the outcome was told", |present| {
            present.told.results.extend(Guard::ALL);
            present.told.outcome = Some(text);
        });
        Ok(outcome)
    }

    /// What a run finds when it begins.
    fn entered(&self, run: &Run) {
        assert_eq!(run.request(), Some(BODY));
        let told = self.outside.now().told;
        assert!(run.token() > told.token, "P7: token {} was given before, as {} was", run.token(), told.token);
        // A first claim that is deferred is as if it had never been until something of it is on disk.
        let is_sure = run.attempt() > 1 || !self.plan.deferred;
        assert!(run.attempt() > told.attempt, "P3: attempt {} was told before", told.attempt);
        self.outside.write("the claim was told", |present| {
            present.told.token = run.token();
            if is_sure {
                present.told.attempt = run.attempt();
            }
        });
    }

    fn step(&self, run: &mut Run, guard: Guard, before: &[(Guard, String)]) -> Result<String, Error> {
        let doubted = run.steps().iter().find(|step| step.name() == guard.step()).map(Step::state);
        let was_in_doubt = doubted == Some(StepState::InDoubt);
        let attempt = run.attempt();
        let effect = |id| {
            let name = guard.step();
            // The intent is durable, so is what was reported before it.
            self.outside.write(&format!("about to {name}"), |present| {
                present.told.results.extend(before.iter().map(|(guard, _)| *guard));
                present.told.attempt = attempt;
            });
            if was_in_doubt && guard == Guard::Keyed {
                self.outside.saw(Situation::KeyedAgain);
            }
            Ok::<_, Infallible>(self.outside.effect(guard, id, &self.plan.more()))
        };
        let step = run.step(guard.step());
        match guard {
            Guard::Rechecked => {
                let recheck = |id| Ok::<_, Infallible>(self.outside.find(guard, id));
                step.recheck(recheck).settles_within(SETTLES).run(effect)
            }
            Guard::Keyed => step.run_keyed(effect),
            Guard::AtMostOnce => match step.run_at_most_once(effect) {
                // One half of the time the run itself finds out, the other half it leaves that to the operator.
                Err(error) if error.kind() == ErrorKind::InDoubt && run.attempt() % 2 == 1 => {
                    let (resolution, note) = self.find_out(guard);
                    run.resolve(guard.step(), resolution, note).wait()?;
                    self.resolved(before.iter().map(|(guard, _)| *guard));
                    self.step(run, guard, before)
                }
                otherwise => otherwise,
            },
        }
    }

    /// Looks at the world as nobody can who has only the network: what happened there.
    fn find_out(&self, guard: Guard) -> (Resolution, &'static str) {
        match self.outside.now().world.happened(guard).first() {
            Some(result) => {
                self.outside.saw(Situation::ResolvedHappened);
                (Resolution::happened(&(*result).to_owned()).unwrap(), "they remember it")
            }
            None => {
                self.outside.saw(Situation::ResolvedNot);
                (Resolution::DidNotHappen, "they know nothing of it")
            }
        }
    }

    fn resolved(&self, before: impl Iterator<Item = Guard>) {
        self.outside.write("the resolution was told", |present| {
            present.told.notes += 1;
            present.told.results.extend(before);
        });
    }

    /// What an operator does about a step that is in doubt, while nobody is at work.
    pub(crate) fn operate(&self) -> Result<(), Error> {
        let (resolution, note) = self.find_out(Guard::AtMostOnce);
        self.store.resolve(&self.plan.key(), Guard::AtMostOnce.step(), resolution, note).wait()?;
        self.resolved(std::iter::empty());
        Ok(())
    }

    /// Moves the checkpoint, with a row of the server's.
    fn checkpoint(&self, run: &mut Run, results: &[(Guard, String)]) -> Result<(), Error> {
        if run.checkpoint().is_some() {
            self.outside.saw(Situation::BehindTheCheckpoint);
            return Ok(());
        }
        let payload = text(results);
        let (name, row) = (self.plan.name, payload.clone());
        let write = move |tx: &Transaction<'_>| {
            tx.open_table(PAID)?.insert(name, &row)?;
            Ok(())
        };
        if self.plan.in_company {
            self.checkpoint_in_company(run, &payload, write)?;
        } else {
            run.advance_with("paid", &payload, write).wait()?;
        }
        self.outside.write("the checkpoint was told", |present| {
            present.told.checkpoint = true;
            present.told.results.extend(results.iter().map(|(guard, _)| *guard));
        });
        Ok(())
    }

    /// The same in one batch with another operation's claim and with a closure that fails after it wrote something.
    fn checkpoint_in_company(
        &self,
        run: &mut Run,
        payload: &String,
        write: impl FnMut(&Transaction<'_>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
    ) -> Result<(), Error> {
        let other = format!("other {}", run.token());
        let gate = &self.outside.clock;
        gate.hold(self.store);
        let claim = self.store.claim(&key(&other), request());
        let failing = run.advance_with("rubbish", payload, |tx| {
            tx.open_table(PAID)?.insert(RUBBISH, RUBBISH)?;
            tx.open_table(ORDERS)?.insert(RUBBISH, RUBBISH)?;
            Err("after it wrote".into())
        });
        let moving = run.advance_with("paid", payload, write);
        gate.open();
        let (claim, failing, moving) = (claim.wait(), failing.wait(), moving.wait());
        drop(claim?);
        self.outside.write("the other claim was told", |present| present.told.others.insert(other));
        let aborted = failing.unwrap_err();
        assert!(matches!(aborted.kind(), ErrorKind::Aborted) || moving.is_err(), "P8: {aborted}");
        moving.map(drop)
    }
}

/// What the results of steps come to: a checkpoint's payload, an outcome, a row.
pub(crate) fn text(results: &[(Guard, String)]) -> String {
    results.iter().map(|(_, result)| &**result).collect::<Vec<_>>().join(" + ")
}
