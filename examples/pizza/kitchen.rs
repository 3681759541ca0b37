//! How one order is made: every effect once, whoever dies on the way.
//!
//! ```text
//!   claim, with the request ─▶ step "charge" ─▶ "payment confirmed" ─▶ step "mail" ─▶ outcome + order row
//! ```
//!
//! Each step's intent is durable before its effect begins, and its result before whatever comes next. A run that
//! re-enters gets every result again and runs nothing for it. What was under way when the server died is in doubt:
//!
//! - The bank can be asked, so the charge is **rechecked**: it runs again only if it did not happen.
//! - The mailer deduplicates on the id that it is given, so the mail is **keyed**: it is asked for again.
//! - The order row is the server's own, so it is written **in one commit** with the outcome: both or neither.

use std::time::Duration;

use reentry::{EffectId, Failure, Json, Outcome, Run, Store, Table, Transaction};

use crate::Result;
use crate::bank::Bank;
use crate::mailer::Mailer;
use crate::order::{Charged, Order, Receipt, Refusal};
use crate::positions::{Position, Stops};

/// The server's own table, in the file of the store: the order's id, and what was ordered.
pub(crate) const ORDERS: Table = Table::new("orders");

/// What the server works with; clones share it.
#[derive(Clone)]
pub(crate) struct Shop {
    pub(crate) store: Store,
    pub(crate) bank: Bank,
    pub(crate) mailer: Mailer,
    pub(crate) charging: Charging,
    /// How long a charge that was sent may still be on its way to the bank.
    pub(crate) settles_within: Duration,
    /// Only for the demonstration: where this server is to be killed.
    pub(crate) stops: Stops,
}

/// How the charge is guarded. A real server has one way: the one that fits its bank.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Charging {
    /// The bank can be asked whether it happened.
    Rechecked,
    /// The bank deduplicates on the id. Where it does not, this charges twice.
    Keyed,
    /// The bank does neither.
    AtMostOnce,
}

/// Makes what is still missing of an order, and ends its run with the outcome.
///
/// An error leaves the order unfinished and without an owner: the next retry, or the resumer, goes on from there. It
/// needs no client for that, since the claim carried the request.
pub(crate) async fn make(shop: &Shop, run: &mut Run) -> Result<Outcome> {
    let order: Order = serde_json::from_slice(run.request().ok_or("the claim carried no request")?)?;
    shop.stops.reach(Position::AfterClaim).await;
    let charge_id = match charge(shop, run, &order).await? {
        Charged::Paid { charge_id } => charge_id,
        // An outcome too: every copy of the request gets it, and nobody asks again.
        Charged::Declined { why } => return Ok(run.fail_with(&Json(Refusal { error: why }), |_| Ok(())).await?),
    };
    if run.checkpoint().is_none() {
        // For whoever asks how far the order got.
        run.advance("payment confirmed", &charge_id).await?;
    }
    shop.stops.reach(Position::Paid).await;
    let send = async |id: EffectId| {
        shop.stops.reach(Position::BeforeMail).await;
        let sent = shop.mailer.send(id, &order).await;
        shop.stops.reach(Position::AfterMail).await;
        sent
    };
    run.step("mail").run_keyed_async(send).await?;

    let order_id = run.effect_id("order");
    let row = serde_json::to_vec(&order)?;
    let receipt = Receipt { order_id: order_id.to_string(), charge_id, pizza: order.pizza.clone(), cents: order.cents };
    let stops = shop.stops.clone();
    let write = move |tx: &Transaction<'_>| {
        tx.open_table(ORDERS)?.insert(order_id, &row)?;
        stops.reach_in_commit();
        Ok(())
    };
    // The first client is answered from the outcome, as every later one is: the same bytes.
    let outcome = run.complete_with(&Json(receipt), write).await?;
    shop.stops.reach(Position::AfterComplete).await;
    Ok(outcome)
}

async fn charge(shop: &Shop, run: &mut Run, order: &Order) -> Result<Charged> {
    let charge = async |id: EffectId| -> Result<Json<Charged>, Failure> {
        shop.stops.reach(Position::BeforeCharge).await;
        let charged = shop.bank.charge(id, order).await?;
        shop.stops.reach(Position::AfterCharge).await;
        Ok(Json(charged))
    };
    let find = async |id: EffectId| -> Result<Option<Json<Charged>>> { Ok(shop.bank.find(id).await?.map(Json)) };
    let step = run.step("charge");
    let Json(charged) = match shop.charging {
        Charging::Rechecked => step.recheck_async(find).settles_within(shop.settles_within).run_async(charge).await?,
        Charging::Keyed => step.run_keyed_async(charge).await?,
        Charging::AtMostOnce => step.run_at_most_once_async(charge).await?,
    };
    Ok(charged)
}
