//! An order handler with a mistake that no ordinary test finds: it mails outside of a step. The kit kills it
//! everywhere, finds the mistake, and says what to do; the mended handler passes.
//!
//! `cargo run --example crash_everywhere`

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;

use reentry::testing::{CrashTest, MistakeKind, World};
use reentry::{Claim, Key, Request, Run, Store, Table};

type Failure = Box<dyn Error + Send + Sync>;

const ORDERS: Table = Table::new("orders");

/// The bank and the mailer, as the shop calls them. In production these are HTTP clients.
trait Town {
    fn charge(&self, reference: &str, cents: u32) -> Result<String, Failure>;
    /// Asks the bank whether a charge happened.
    fn find_charge(&self, reference: &str) -> Result<Option<String>, Failure>;
    fn mail(&self, reference: &str, to: &str, text: &str) -> Result<(), Failure>;
}

/// For the test: whatever is done there is written down by the kit's world.
impl Town for World {
    fn charge(&self, reference: &str, _cents: u32) -> Result<String, Failure> {
        Ok(self.effect("charge", reference)?)
    }

    fn find_charge(&self, reference: &str) -> Result<Option<String>, Failure> {
        Ok(self.find("charge", reference)?)
    }

    fn mail(&self, reference: &str, _to: &str, _text: &str) -> Result<(), Failure> {
        // This mailer deduplicates on the reference.
        self.keyed_effect("mail", reference)?;
        Ok(())
    }
}

/// The request "two pizzas for Ada", under the key that her client chose. `Ok` is what answers it with 200; all else
/// asks the client to come again.
fn order(store: &Store, town: &impl Town, finish: fn(Run, &dyn Town) -> Answer) -> Answer {
    let key = Key::new("orders/ada", "key-1")?;
    match store.claim(&key, Request::of("two pizzas")).wait()? {
        Claim::Run(run) => finish(run, town),
        Claim::Replay(outcome) => Ok(outcome.decode()?),
        Claim::Wait(_) => Err("409: another copy of this request is at work".into()),
        Claim::Reject(_) => Err("422: this key belongs to another request".into()),
        Claim::Gone(_) => Err("410: done long ago, the answer is no longer kept".into()),
    }
}

type Answer = Result<String, Failure>;

/// As it went to production. It passes every test that kills nobody.
fn finish_with_a_mistake(mut run: Run, town: &dyn Town) -> Answer {
    let receipt = charge(&mut run, town)?;
    let order = run.effect_id("order");
    town.mail(&message_id(run.token()), "ada@example.org", &receipt)?;
    complete(run, &order.to_string(), &receipt)
}

/// A message id that is new in every attempt, as mail libraries make them.
fn message_id(number: u64) -> String {
    format!("<{number}@shop.example>")
}

/// As it is right: the mail has a step of its own, and the mailer gets the step's effect id.
fn finish_mended(mut run: Run, town: &dyn Town) -> Answer {
    let receipt = charge(&mut run, town)?;
    run.step("mail").run_keyed(|id| town.mail(&id.to_string(), "ada@example.org", &receipt))?;
    let order = run.effect_id("order");
    complete(run, &order.to_string(), &receipt)
}

fn charge(run: &mut Run, town: &dyn Town) -> Answer {
    let step = run.step("charge").recheck(|id| town.find_charge(&id.to_string()));
    Ok(step.run(|id| town.charge(&id.to_string(), 1750))?)
}

fn complete(mut run: Run, order: &str, receipt: &str) -> Answer {
    let (order, row) = (order.to_owned(), receipt.to_owned());
    let outcome = run.complete_with(&receipt.to_owned(), move |tx| {
        tx.open_table(ORDERS)?.insert(&order, &row)?;
        Ok(())
    });
    Ok(outcome.wait()?.decode()?)
}

/// An order stands in the shop's own table if, and only if, it is finished.
fn rows_go_with_outcomes(store: &Store, _: &World) -> Result<(), String> {
    let rows = store.read(|tx| tx.open_table(ORDERS).and_then(|rows| rows.len()));
    let rows = rows.and_then(|rows| rows).map_err(|error| error.to_string())?;
    let stats = store.stats().map_err(|error| error.to_string())?;
    if rows == stats.operations - stats.unfinished { Ok(()) } else { Err(format!("{rows} rows, {stats:?}")) }
}

fn main() -> Result<(), Failure> {
    let test = || CrashTest::new().check(rows_go_with_outcomes);

    let report = test().run(|store, world| order(store, world, finish_with_a_mistake));
    println!("The handler as it went to production:\n\n{report}\n");
    let [mistake] = report.mistakes() else { return Err("it has one mistake".into()) };
    assert_eq!((mistake.kind(), mistake.effect()), (MistakeKind::Twice, Some("mail")));
    assert!(mistake.hint().contains("run.step(\"mail\")"));

    let report = test().run(|store, world| order(store, world, finish_mended)).into_result()?;
    println!("The mended handler:\n\n{report}");
    assert_eq!(report.points(), 2 * (2 * report.disk_calls() + 3 * report.world_calls() + 1));
    Ok(())
}
