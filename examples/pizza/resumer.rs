//! Finishes the orders that a dead server left behind, also those that no client ever asks about again.

use std::time::Duration;

use reentry::Resumer;
use tokio::runtime::Handle;

use crate::Result;
use crate::kitchen::{self, Shop};

/// How often a running server looks. The first look is at once, for what the last server left behind; the later
/// ones are for orders that failed meanwhile, because the bank was down, and whose clients gave up.
const EVERY: Duration = Duration::from_secs(30);

/// How long an order that could not be finished is left alone, at first and at most. An operator who resolves what is
/// in doubt wakes the resumer, so nobody waits for that.
const BACKOFF: (Duration, Duration) = (EVERY, EVERY.saturating_mul(10));

/// What the server prints when it could not finish an order now.
pub(crate) const LEFT: &str = "an order stays unfinished for now: ";

/// Goes over the unfinished orders for as long as what this returns lives.
///
/// In the background: a client that retries at the same time is served at once. The store sees to it that only one of
/// the two gets the run.
pub(crate) fn start(shop: Shop) -> Result<Resumer> {
    let (store, runtime) = (shop.store.clone(), Handle::current());
    let resumer = Resumer::builder(&store).every(EVERY).backoff(BACKOFF.0, BACKOFF.1);
    let resumer = resumer.on_failure(|_, error| println!("{LEFT}{error}"));
    Ok(resumer.start(move |mut run| runtime.block_on(kitchen::make(&shop, &mut run)).map(drop))?)
}
