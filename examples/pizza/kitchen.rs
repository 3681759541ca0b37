//! How one order is made: every effect once, whoever dies on the way.
//!
//! ```text
//!   claim -> "order received" -> charge -> "payment confirmed"
//!                             -> order row -> "order written"
//!                             -> mail -> "mail sent" -> outcome
//! ```
//!
//! Each name in quotes is a checkpoint, and it is durable before the next effect begins, so a run that
//! re-enters knows which effects are done and skips them. One window is left: a server that dies after an effect
//! and before its checkpoint leaves nobody knowing. There the effect is asked for again under the same id, and the
//! other side, which has seen that id, gives the old answer instead of doing it twice.

use reentry::{Json, Outcome, Run, Store};

use crate::Result;
use crate::bank::{Bank, Charged};
use crate::ledger::{Ledger, Request};
use crate::mailer::Mailer;
use crate::order::{Made, Order, Receipt, Refusal, effect_id};
use crate::positions::{Position, Stops};

/// What the server works with; clones share it.
#[derive(Clone)]
pub(crate) struct Shop {
    pub(crate) store: Store,
    /// The server's own table of orders.
    pub(crate) orders: Ledger,
    pub(crate) bank: Bank,
    pub(crate) mailer: Mailer,
    /// Only for the demonstration: where this server is to be killed.
    pub(crate) stops: Stops,
}

/// How an order ended: what its client gets now, and every later copy of the request too.
pub(crate) struct Ending {
    pub(crate) made: bool,
    pub(crate) body: Vec<u8>,
}

impl From<Outcome> for Ending {
    fn from(outcome: Outcome) -> Self {
        Self { made: outcome.is_success(), body: outcome.bytes().to_vec() }
    }
}

/// Makes what is still missing of an order, and ends its run with the outcome.
///
/// An error leaves the order unfinished and without an owner: the next retry, or the resumer, goes on from the last
/// checkpoint. `order` is the client's request; whoever has none can only go on with an order that was received.
pub(crate) async fn make(shop: &Shop, mut run: Run, order: Option<Order>) -> Result<Ending> {
    let mut so_far = received(shop, &mut run, order).await?;

    if so_far.0.charge_id.is_none() {
        shop.stops.reach(Position::BeforeCharge).await;
        let id = effect_id(run.key(), "charge");
        match shop.bank.charge(&id, &so_far.0.order).await? {
            Charged::Paid { charge_id } => so_far.0.charge_id = Some(charge_id),
            Charged::Declined { why } => return refuse(run, why).await,
        }
        shop.stops.reach(Position::AfterCharge).await;
        run.advance("payment confirmed", &so_far).await?;
    }

    if so_far.0.order_id.is_none() {
        shop.stops.reach(Position::BeforeRow).await;
        let id = effect_id(run.key(), "order");
        so_far.0.order_id = Some(write_row(&shop.orders, &id, &so_far.0).await?);
        shop.stops.reach(Position::AfterRow).await;
        run.advance("order written", &so_far).await?;
    }

    if so_far.0.mail_id.is_none() {
        shop.stops.reach(Position::BeforeMail).await;
        let id = effect_id(run.key(), "mail");
        so_far.0.mail_id = Some(shop.mailer.send(&id, &so_far.0.order).await?);
        shop.stops.reach(Position::AfterMail).await;
        run.advance("mail sent", &so_far).await?;
    }

    shop.stops.reach(Position::BeforeComplete).await;
    // The first client is answered from the outcome, as every later one is: the same bytes.
    let outcome = run.complete(&Json(receipt(so_far.0)?)).await?;
    shop.stops.reach(Position::AfterComplete).await;
    Ok(outcome.into())
}

/// What was done in earlier runs; in the first one, notes down the order before anything is done about it.
async fn received(shop: &Shop, run: &mut Run, order: Option<Order>) -> Result<Json<Made>> {
    if let Some(checkpoint) = run.checkpoint() {
        return Ok(checkpoint.decode()?);
    }
    shop.stops.reach(Position::AfterClaim).await;
    let order = order.ok_or("nobody but its client knows what was ordered")?;
    let so_far = Json(Made::nothing_yet(order));
    run.advance("order received", &so_far).await?;
    Ok(so_far)
}

/// Ends the run with a refusal. That is an outcome too: every copy of the request gets it, and nobody asks again.
async fn refuse(run: Run, why: String) -> Result<Ending> {
    Ok(run.fail(&Json(Refusal { error: why })).await?.into())
}

/// Writes the order's row into the server's own table, under an id that is the same on every retry.
async fn write_row(orders: &Ledger, id: &str, so_far: &Made) -> Result<String> {
    let request = Request { id: id.to_owned(), customer: so_far.order.customer.clone() };
    orders.perform(request, format!("order-{}", &id[..12])).await
}

fn receipt(made: Made) -> Result<Receipt> {
    let Made { order, charge_id: Some(charge_id), order_id: Some(order_id), mail_id: Some(_) } = made else {
        return Err("an order cannot be completed before all of it is done".into());
    };
    Ok(Receipt { order_id, charge_id, pizza: order.pizza, cents: order.cents })
}
