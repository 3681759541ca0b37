//! The scenarios in which a server dies between an effect and its result, and the ways to guard the effect.

use crate::Result;
use crate::bank::{HELD, MADE};
use crate::client::{Answer, Client};
use crate::kills::resumed;
use crate::order::Order;
use crate::positions::{AT_POSITION, Position};
use crate::resumer::LEFT;
use crate::scenarios::{KEY, pizza_for};
use crate::table::{Counts, Row, Table};
use crate::town::{HELD_CUSTOMER, SETTLE, Town};

/// Runs every scenario of this room.
pub(crate) async fn run_all(town: &mut Town, table: &mut Table) {
    table.add("rechecked", rechecked(town).await);
    table.add("rechecked too early", rechecked_too_early(town).await);
    table.add("keyed", keyed(town).await);
    table.add("keyed, by mistake", keyed_by_mistake(town).await);
    for position in [Position::AfterCharge, Position::BeforeCharge] {
        table.add("at most once", at_most_once(town, position).await);
    }
    table.add("at most once, nobody retries", at_most_once_and_no_retry(town).await);
}

/// Orders, kills the server at this position, and gives what the client got.
async fn killed_at(town: &mut Town, client: &Client, order: &Order) -> Result<Option<Answer>> {
    let first = client.order_meanwhile(KEY, order);
    town.server()?.until(AT_POSITION).await?;
    town.kill_9()?;
    Ok(first.await?)
}

/// The bank would charge again, and is asked first whether it did.
async fn rechecked(town: &mut Town) -> Result<Row> {
    let order = pizza_for("rechecks");
    let stop = Position::AfterCharge.to_string();
    let client = town.next_server(&["--stop-at", &stop, "--no-resume"]).await?;
    let first = killed_at(town, &client, &order).await?;
    let client = town.next_server(&["--no-resume"]).await?;
    let answers = [first, client.order(KEY, &order).await];
    let row = town.row("recheck: charged, killed; the bank is asked about it", &order, &answers).await?;
    Ok(row.expect("no answer; 201", Counts::once_for_each_of(1)))
}

/// The charge was sent, and is still on its way when the server is dead and the bank is asked. "It did not happen"
/// counts for nothing until the charge has had its time, or it would be sent again.
async fn rechecked_too_early(town: &mut Town) -> Result<Row> {
    let order = pizza_for(HELD_CUSTOMER);
    let options = ["--no-resume", SETTLE, "600000"];
    let client = town.next_server(&options).await?;
    let first = client.order_meanwhile(KEY, &order);
    town.careless_bank.until(HELD).await?;
    town.kill_9()?;
    let client = town.next_server(&options).await?;
    let too_early = client.order(KEY, &order).await;
    town.careless_bank.go_on()?;
    town.careless_bank.until(MADE).await?;
    let answers = [first.await?, too_early, client.order(KEY, &order).await];
    let row = town.row("recheck: killed while the charge is on its way", &order, &answers).await?;
    Ok(row.expect("no answer; 409 in doubt retry later; 201", Counts::once_for_each_of(1)))
}

/// The bank knows the id, so it is asked to charge again, and does not.
async fn keyed(town: &mut Town) -> Result<Row> {
    let order = pizza_for("keyed");
    let stop = Position::AfterCharge.to_string();
    let keyed = ["--charge", "keyed", "--no-resume", "--stop-at", &stop];
    let client = town.next_server_at_careful_bank(&keyed).await?;
    let first = killed_at(town, &client, &order).await?;
    let client = town.next_server_at_careful_bank(&keyed[..3]).await?;
    let answers = [first, client.order(KEY, &order).await];
    let row = town.row("run_keyed at a bank that knows the id", &order, &answers).await?;
    let mut wanted = Counts::once_for_each_of(1);
    wanted.bank.asked = 2;
    Ok(row.expect("no answer; 201", wanted))
}

/// The mistake that the guide warns of: this bank does not look at the id. It shows that the bank above, which most of
/// the scenarios use, would have charged twice, had it not been asked first.
async fn keyed_by_mistake(town: &mut Town) -> Result<Row> {
    let order = pizza_for("mistaken");
    let stop = Position::AfterCharge.to_string();
    let keyed = ["--charge", "keyed", "--no-resume", "--stop-at", &stop];
    let client = town.next_server(&keyed).await?;
    let first = killed_at(town, &client, &order).await?;
    let client = town.next_server(&keyed[..3]).await?;
    let answers = [first, client.order(KEY, &order).await];
    let row = town.row("MISTAKE: run_keyed at one that does not: charged twice", &order, &answers).await?;
    let mut wanted = Counts::once_for_each_of(1);
    (wanted.bank.done, wanted.bank.asked) = (2, 2);
    Ok(row.expect("no answer; 201", wanted))
}

/// A server that neither rechecks nor is deduplicated stops there, until an operator has found out and says so.
async fn at_most_once(town: &mut Town, position: Position) -> Result<Row> {
    let order = pizza_for(&format!("doubts-{position}"));
    let at_most_once = ["--charge", "at-most-once", "--no-resume", "--stop-at", &position.to_string()];
    let client = town.next_server(&at_most_once).await?;
    let first = killed_at(town, &client, &order).await?;
    let client = town.next_server(&at_most_once[..3]).await?;
    let in_doubt = client.order(KEY, &order).await;
    let charge = town.charge_of(&client.in_doubt(KEY, &order).await?).await?;
    let verdict = if charge.is_some() { "it happened" } else { "it did not" };
    client.resolve(KEY, &order, charge).await?;
    let answers = [first, in_doubt, client.order(KEY, &order).await];
    let row = town.row(&format!("run_at_most_once: in doubt; by hand: {verdict}"), &order, &answers).await?;
    Ok(row.expect("no answer; 409 in doubt retry later; 201", Counts::once_for_each_of(1)))
}

/// The resumer stops there too. It goes on by itself as soon as an operator has said what happened.
async fn at_most_once_and_no_retry(town: &mut Town) -> Result<Row> {
    let order = pizza_for("doubts-and-leaves");
    let stop = Position::AfterCharge.to_string();
    let client = town.next_server(&["--charge", "at-most-once", "--no-resume", "--stop-at", &stop]).await?;
    let first = killed_at(town, &client, &order).await?;
    let client = town.next_server(&["--charge", "at-most-once"]).await?;
    town.server()?.until(LEFT).await?;
    let charge = town.charge_of(&client.in_doubt(KEY, &order).await?).await?;
    client.resolve(KEY, &order, charge).await?;
    let standing = resumed(&client, &order).await?;
    let row = town.row("the same, and no retry: the resumer goes on", &order, &[first]).await?;
    Ok(row.and_standing(&standing).expect("no answer; succeeded, attempt 3", Counts::once_for_each_of(1)))
}
