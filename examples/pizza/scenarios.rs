//! The scenarios in which nobody dies half-way, and the command that runs all of them.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use reentry::Store;

use crate::Result;
use crate::bank::CENTS_MAX;
use crate::client::{Answer, Client};
use crate::kitchen::ORDERS;
use crate::order::Order;
use crate::positions::{AT_POSITION, Position};
use crate::server::WAITS;
use crate::table::{Counts, Row, Table};
use crate::town::Town;
use crate::{doubts, kills};

/// How many copies of one request come at the same moment.
pub(crate) const COPIES: usize = 32;

/// How long a receipt is kept in the scenario that outlives it.
const RETENTION_MS: &str = "300";

/// The idempotency key of most scenarios. Each has a customer of its own, and so a scope of its own.
pub(crate) const KEY: &str = "key-1";

/// Runs every scenario, and fails if anything was done twice or not at all.
pub(crate) async fn run_all() -> Result<ExitCode> {
    tokio::select! {
        ended = every_scenario() => ended,
        // The select drops the town, and with it every process and the folder.
        _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
    }
}

async fn every_scenario() -> Result<ExitCode> {
    let began = Instant::now();
    let mut town = Town::open().await?;
    let mut table = Table::begin();
    table.add("one order", one_order(&mut town).await);
    table.add("one order that the bank declines", a_declined_order(&mut town).await);
    table.add("the same pizza twice", the_same_pizza_twice(&mut town).await);
    table.add("copies at the same moment", copies_at_the_same_moment(&mut town).await);
    table.add("a copy that cannot wait", a_copy_that_cannot_wait(&mut town).await);
    table.add("the answer is lost", the_answer_is_lost(&mut town).await);
    table.add("the client hangs up", the_client_hangs_up(&mut town).await);
    table.add("another order under the same key", another_order_under_the_same_key(&mut town).await);
    table.add("a late retry", a_late_retry(&mut town).await);
    table.add("a retry after retention", a_retry_after_retention(&mut town).await);
    kills::run_all(&mut town, &mut table).await;
    doubts::run_all(&mut town, &mut table).await;
    let (rows, bad, kills, seconds) = (table.rows, table.bad, town.kills, began.elapsed().as_secs_f32());
    if bad == 0 {
        println!(
            "\nall {rows} scenarios are ok: {kills} servers killed, nothing lost, nothing done twice but where that is \
             the mistake shown, {seconds:.1} s"
        );
    } else {
        println!("\n{bad} of {rows} scenarios are BAD ({kills} servers killed, {seconds:.1} s)");
    }
    println!("{}", inspect(&mut town)?);
    Ok(if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Looks into the store that all those servers were killed over: every order in it is finished, by whomever, and the
/// server's own table has a row for each that was made and none beside.
fn inspect(town: &mut Town) -> Result<String> {
    town.kill_9()?;
    let store = Store::open(town.store_path())?;
    store.verify()?;
    let unfinished = store.unfinished().collect::<reentry::Result<Vec<_>>>()?.len();
    let rows = store.read(|tx| tx.open_table(ORDERS)?.len())??;
    let operations = store.stats()?.operations;
    store.close()?;
    // The bank declined one.
    if unfinished != 0 || operations != rows + 1 {
        return Err(format!("{unfinished} orders are unfinished; {operations} are kept, {rows} have a row").into());
    }
    Ok(format!("their store is sound, no order in it is unfinished, and each of the {rows} that were made has its row"))
}

pub(crate) fn pizza_for(customer: &str) -> Order {
    Order { customer: customer.to_owned(), pizza: "margherita".to_owned(), cents: 990 }
}

async fn one_order(town: &mut Town) -> Result<Row> {
    let order = pizza_for("plain");
    let client = town.next_server(&[]).await?;
    let answers = [client.order(KEY, &order).await];
    Ok(town.row("one order", &order, &answers).await?.expect("201", Counts::once_for_each_of(1)))
}

async fn a_declined_order(town: &mut Town) -> Result<Row> {
    let order = Order { cents: CENTS_MAX + 1, ..pizza_for("declined") };
    let client = town.next_server(&[]).await?;
    let answers = [client.order(KEY, &order).await, client.order(KEY, &order).await];
    let mut wanted = Counts::once_for_each_of(0);
    wanted.bank.asked = 1;
    let row = town.row("one order that the bank declines, and again", &order, &answers).await?;
    Ok(row.expect("402; 402 replayed", wanted))
}

async fn the_same_pizza_twice(town: &mut Town) -> Result<Row> {
    let order = pizza_for("hungry");
    let client = town.next_server(&[]).await?;
    // The key decides, never the body: equal orders under two keys are two pizzas.
    let answers = [client.order("key-1", &order).await, client.order("key-2", &order).await];
    let row = town.row("the same order twice on purpose, under two keys", &order, &answers).await?;
    Ok(row.expect("2 x 201", Counts::once_for_each_of(2)))
}

async fn copies_at_the_same_moment(town: &mut Town) -> Result<Row> {
    let order = pizza_for("impatient");
    // The run stands still after the charge until every other copy has found it at work.
    let client = town.next_server(&["--stop-at", &Position::AfterCharge.to_string(), "--no-resume"]).await?;
    let copies = order_copies(&client, &order);
    for _ in 0..COPIES {
        town.server()?.until("").await?;
    }
    town.server()?.go_on()?;
    let answers = all_answers(copies).await?;
    let row = town.row(&format!("{COPIES} copies of one request at the same moment"), &order, &answers).await?;
    Ok(row.expect(&format!("201; {} x 201 replayed", COPIES - 1), Counts::once_for_each_of(1)))
}

async fn a_copy_that_cannot_wait(town: &mut Town) -> Result<Row> {
    let order = pizza_for("hasty");
    let stop = Position::AfterCharge.to_string();
    let client = town.next_server(&["--stop-at", &stop, "--patience-ms", "1"]).await?;
    let first = client.order_meanwhile(KEY, &order);
    town.server()?.until(AT_POSITION).await?;
    let copy = client.order(KEY, &order).await;
    town.server()?.go_on()?;
    let answers = [copy, first.await?, client.order(KEY, &order).await];
    let row = town.row("a copy whose patience ends first, and again later", &order, &answers).await?;
    Ok(row.expect("409 retry later; 201; 201 replayed", Counts::once_for_each_of(1)))
}

async fn the_answer_is_lost(town: &mut Town) -> Result<Row> {
    let order = pizza_for("offline");
    let client = town.next_server(&["--stop-at", &Position::AfterComplete.to_string()]).await?;
    let connection = client.order_without_reading(KEY, &order)?;
    town.server()?.until(AT_POSITION).await?;
    drop(connection);
    town.server()?.go_on()?;
    let answers = [None, client.order(KEY, &order).await];
    let row = town.row("the answer is lost on the way, retry", &order, &answers).await?;
    Ok(row.expect("no answer; 201 replayed", Counts::once_for_each_of(1)))
}

async fn the_client_hangs_up(town: &mut Town) -> Result<Row> {
    let order = pizza_for("in-a-tunnel");
    let client = town.next_server(&["--stop-at", &Position::AfterCharge.to_string()]).await?;
    let connection = client.order_without_reading(KEY, &order)?;
    town.server()?.until(AT_POSITION).await?;
    drop(connection);
    // The retry is there while the first run is still at work: it waits, and gets what that run ends with.
    let retry = client.order_meanwhile(KEY, &order);
    town.server()?.until(WAITS).await?;
    town.server()?.go_on()?;
    let answers = [None, retry.await?];
    let row = town.row("the client hangs up half-way, retry at once", &order, &answers).await?;
    Ok(row.expect("no answer; 201 replayed", Counts::once_for_each_of(1)))
}

async fn another_order_under_the_same_key(town: &mut Town) -> Result<Row> {
    let order = pizza_for("muddled");
    let other = Order { pizza: "quattro formaggi".to_owned(), ..order.clone() };
    let client = town.next_server(&["--stop-at", &Position::AfterCharge.to_string()]).await?;
    let first = client.order_meanwhile(KEY, &order);
    town.server()?.until(AT_POSITION).await?;
    let meanwhile = client.order(KEY, &other).await;
    town.server()?.go_on()?;
    let answers = [meanwhile, first.await?, client.order(KEY, &other).await];
    let row = town.row("another body under the same key, meanwhile and later", &order, &answers).await?;
    Ok(row.expect("422; 201; 422", Counts::once_for_each_of(1)))
}

async fn a_late_retry(town: &mut Town) -> Result<Row> {
    let order = pizza_for("patient");
    let client = town.next_server(&[]).await?;
    let first = client.order(KEY, &order).await;
    let client = town.next_server(&[]).await?;
    let answers = [first, client.order(KEY, &order).await];
    let row = town.row("a late retry, after the outcome and a kill -9", &order, &answers).await?;
    Ok(row.expect("201; 201 replayed", Counts::once_for_each_of(1)))
}

async fn a_retry_after_retention(town: &mut Town) -> Result<Row> {
    const LATEST: Duration = Duration::from_secs(10);
    let order = pizza_for("forgetful");
    let options = ["--retention-ms", RETENTION_MS];
    let client = town.next_server_in("short", &options).await?;
    let first = client.order(KEY, &order).await;
    // Asks until the answer is another one. How long that takes is the store's business, not the test's.
    let began = Instant::now();
    let mut later = client.order(KEY, &order).await;
    while later.as_ref().is_some_and(|answer| answer.status == 201) {
        if began.elapsed() > LATEST {
            return Err("the receipt is still kept, long after its retention".into());
        }
        later = client.order(KEY, &order).await;
    }
    let client = town.next_server_in("short", &options).await?;
    let answers = [first, later, client.order(KEY, &order).await];
    let row = town.row("a retry after retention, and again after a kill -9", &order, &answers).await?;
    Ok(row.expect("201; 2 x 410", Counts::once_for_each_of(1)))
}

/// Sends all copies of one request at once.
pub(crate) fn order_copies(client: &Client, order: &Order) -> Vec<tokio::task::JoinHandle<Option<Answer>>> {
    (0..COPIES).map(|_| client.order_meanwhile(KEY, order)).collect()
}

/// Waits for the answers to all copies. They come in any order; here the one that is no replay stands first.
pub(crate) async fn all_answers(copies: Vec<tokio::task::JoinHandle<Option<Answer>>>) -> Result<Vec<Option<Answer>>> {
    let mut answers = Vec::new();
    for copy in copies {
        answers.push(copy.await?);
    }
    answers.sort_by_key(|answer| answer.as_ref().is_some_and(|answer| answer.replayed));
    Ok(answers)
}
