//! Finishes the orders that a dead server left behind, also those that no client ever asks about again.

use std::time::Duration;

use reentry::{Claim, Progress, State};
use tokio::time::{MissedTickBehavior, interval};

use crate::Result;
use crate::kitchen::{self, Shop};

/// How often a running server looks. The first look is at once, for what the last server left behind; the later
/// ones are for orders that failed meanwhile, because the bank was down, and whose clients gave up.
const EVERY: Duration = Duration::from_secs(30);

/// What the server prints when it has gone over everything.
pub(crate) const RESUMED: &str = "resumed: ";

/// Goes over the unfinished orders for as long as the server lives.
pub(crate) async fn run(shop: Shop) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut first = true;
    loop {
        ticks.tick().await;
        match look(&shop).await {
            // Later looks are worth a line only if they found something to do.
            Ok((0, _)) if !first => {}
            Ok((finished, left)) => println!("{RESUMED}{finished} finished, {left} left to others"),
            Err(error) => println!("{RESUMED}not everything, because {error}"),
        }
        first = false;
    }
}

/// Finishes every order that can be finished without its client, and counts those and the others.
async fn look(shop: &Shop) -> Result<(u32, u32)> {
    // This reads the disk. A server with very many unfinished orders takes them in pages, with `take`.
    let store = shop.store.clone();
    let unfinished: Vec<Progress> =
        tokio::task::spawn_blocking(move || store.unfinished().collect::<reentry::Result<_>>()).await??;
    let (mut finished, mut left) = (0, 0);
    for order in unfinished {
        match finish(shop, &order).await {
            Ok(true) => finished += 1,
            Ok(false) => left += 1,
            Err(error) => {
                // One order that cannot be finished now must not keep the others waiting.
                println!("an order stays unfinished for now: {error}");
                left += 1;
            }
        }
    }
    Ok((finished, left))
}

/// Finishes one order, if it is there to be finished.
async fn finish(shop: &Shop, order: &Progress) -> Result<bool> {
    // A live run is at work on it: leave it alone.
    if order.state() == State::Owned {
        return Ok(false);
    }
    // The last server died between claim and first checkpoint: only the client knows what it wanted, and nothing was
    // done yet. Its retry will start from there.
    if order.checkpoint().is_none() {
        return Ok(false);
    }
    match shop.store.claim_unfinished(order.key()).await? {
        Claim::Run(run) => kitchen::make(shop, run, None).await.map(|_| true),
        // The client was quicker with its retry: its run does the work, or has done it.
        Claim::Wait(_) | Claim::Replay(_) | Claim::Gone(_) | Claim::Reject(_) => Ok(false),
    }
}
