//! The scenarios in which the server is killed, at every position that an order passes.

use std::time::{Duration, Instant};

use crate::Result;
use crate::client::Client;
use crate::order::Order;
use crate::positions::{ALL, AT_POSITION, Position};
use crate::scenarios::{COPIES, KEY, all_answers, order_copies, pizza_for};
use crate::table::{Counts, Row, Table};
use crate::town::Town;

/// Runs every scenario of this room.
pub(crate) async fn run_all(town: &mut Town, table: &mut Table) {
    for (position, words) in ALL {
        let did = format!("kill -9 at {position}, {words}; retry");
        table.add(&did, killed_and_retried(town, position, &did).await);
    }
    for (position, words) in ALL {
        let did = format!("kill -9 at {position}, {words}; no retry");
        table.add(&did, killed_and_never_retried(town, position, &did).await);
    }
    table.add("a server killed at every position", killed_at_every_position_in_turn(town).await);
    table.add("copies, and the server killed", copies_of_a_killed_server(town).await);
}

/// The retry finishes what the killed server began. Its resumer is off, so that nobody else can.
async fn killed_and_retried(town: &mut Town, position: Position, did: &str) -> Result<Row> {
    let order = pizza_for(&format!("retries-{position}"));
    let client = town.next_server(&["--stop-at", &position.to_string(), "--no-resume"]).await?;
    let first = client.order_meanwhile(KEY, &order);
    town.server()?.until(AT_POSITION).await?;
    town.kill_9()?;
    let first = first.await?;
    let client = town.next_server(&["--no-resume"]).await?;
    // Before anybody goes on, the row is there exactly when the outcome is.
    let rows = town.rows_of(&order).await?;
    if rows != u32::from(position == Position::AfterComplete) {
        return Err(format!("the killed server left {rows} rows").into());
    }
    let answers = [first, client.order(KEY, &order).await];
    let row = town.row(did, &order, &answers).await?.and_standing(&client.standing(KEY, &order).await?);
    let got = match position {
        // The killed server had written nothing yet.
        Position::BeforeClaim => "no answer; 201; succeeded, attempt 1",
        // It had written everything.
        Position::AfterComplete => "no answer; 201 replayed; succeeded, attempt 1",
        _ => "no answer; 201; succeeded, attempt 2",
    };
    Ok(row.expect(got, wanted_after_one_kill(position)))
}

/// Nobody retries: the next server finds the order and finishes it.
async fn killed_and_never_retried(town: &mut Town, position: Position, did: &str) -> Result<Row> {
    let order = pizza_for(&format!("leaves-{position}"));
    let client = town.next_server(&["--stop-at", &position.to_string(), "--no-resume"]).await?;
    let first = client.order_meanwhile(KEY, &order);
    town.server()?.until(AT_POSITION).await?;
    town.kill_9()?;
    let answers = [first.await?];
    let client = town.next_server(&[]).await?;
    let standing = resumed(&client, &order).await?;
    let row = town.row(did, &order, &answers).await?.and_standing(&standing);
    Ok(match position {
        Position::BeforeClaim => row.expect("no answer; unknown", Counts::once_for_each_of(0)),
        Position::AfterComplete => row.expect("no answer; succeeded, attempt 1", wanted_after_one_kill(position)),
        _ => row.expect("no answer; succeeded, attempt 2", wanted_after_one_kill(position)),
    })
}

/// How far the order got when the resumer is through with it.
pub(crate) async fn resumed(client: &Client, order: &Order) -> Result<String> {
    const LATEST: Duration = Duration::from_secs(10);
    let began = Instant::now();
    loop {
        let standing = client.standing(KEY, order).await?;
        if !standing.starts_with("unfinished") && !standing.starts_with("owned") || began.elapsed() > LATEST {
            return Ok(standing);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Everything is done once, and the bank, which would charge again, is asked once. Only the mailer, which knows the id,
/// is asked again where a kill left nobody knowing.
fn wanted_after_one_kill(position: Position) -> Counts {
    let mut wanted = Counts::once_for_each_of(1);
    // The mail's result is durable with the commit at the latest; at that position it is not.
    if matches!(position, Position::AfterMail | Position::InCommit) {
        wanted.mailer.asked = 2;
    }
    wanted
}

/// One order, whose client retries until it gets an answer, and a server that gets one position further each time.
async fn killed_at_every_position_in_turn(town: &mut Town) -> Result<Row> {
    let order = pizza_for("unlucky");
    let mut answers = Vec::new();
    for (position, _) in ALL {
        let client = town.next_server(&["--stop-at", &position.to_string(), "--no-resume"]).await?;
        let request = client.order_meanwhile(KEY, &order);
        town.server()?.until(AT_POSITION).await?;
        town.kill_9()?;
        answers.push(request.await?);
    }
    let client = town.next_server(&["--no-resume"]).await?;
    answers.push(client.order(KEY, &order).await);
    let row = town.row("one order, its server killed at every position in turn", &order, &answers).await?;
    let mut wanted = Counts::once_for_each_of(1);
    // The mail was in its window twice: asked for by both runs that were killed there and by the next one.
    wanted.mailer.asked = 3;
    Ok(row.expect("9 x no answer; 201 replayed", wanted))
}

/// All copies lose their server, and all retry at once, while the next server's resumer is after the same order.
async fn copies_of_a_killed_server(town: &mut Town) -> Result<Row> {
    let order = pizza_for("stubborn");
    let stop = Position::AfterCharge;
    let client = town.next_server(&["--stop-at", &stop.to_string(), "--no-resume"]).await?;
    let copies = order_copies(&client, &order);
    for _ in 0..COPIES {
        town.server()?.until("").await?;
    }
    town.kill_9()?;
    let mut answers = all_answers(copies).await?;
    let client = town.next_server(&[]).await?;
    let mut retries = all_answers(order_copies(&client, &order)).await?;
    // The run belongs to a retry or to the resumer, whoever was first. Both are right, so it is not looked at.
    retries.iter_mut().flatten().for_each(|answer| answer.replayed = false);
    answers.append(&mut retries);
    let did = format!("{COPIES} copies, kill -9 at {stop}; all retry, resumer too");
    let row = town.row(&did, &order, &answers).await?;
    Ok(row.expect(&format!("{COPIES} x no answer; {COPIES} x 201"), wanted_after_one_kill(stop)))
}
