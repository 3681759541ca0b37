//! A claim and its outcome, each durable before it is told.

use std::time::Duration;

use crate::callers;
use crate::comparison::{Comparison, Goal, Sides, Work};
use crate::shop::LazyShop;

const FEW: Duration = Duration::from_millis(200);
const MANY: Duration = Duration::from_millis(500);

/// Compares threads with the bare loop, and threads and tasks with the loop that is driven by as many of them.
pub(crate) fn compare(comparison: &mut Comparison, shop: &impl LazyShop) {
    for (count, goal) in [(1, Goal::OfTheLimit(0.9)), (16, Goal::None), (256, Goal::OfTheLimit(0.8))] {
        comparison.compare(work(count, "threads", "bare loop", goal, FEW), || {
            let mut log = shop.log(&format!("{count}-threads"));
            Sides {
                ours: Box::new(move |span| {
                    let counter = &shop.counter;
                    shop.count_batches(|| callers::threads(count, span, || counter.claim_and_complete()))
                }),
                limit: Some(Box::new(move |span, batch| log.claim_and_complete(span, batch))),
            }
        });
    }
    comparison.compare(work(256, "threads", "driven loop", Goal::None, FEW), || {
        let appender = shop.log("driven-threads").appender();
        Sides {
            ours: Box::new(move |span| {
                let counter = &shop.counter;
                shop.count_batches(|| callers::threads(256, span, || counter.claim_and_complete()))
            }),
            limit: Some(Box::new(move |span, _| callers::threads(256, span, || appender.claim_and_complete()))),
        }
    });
    for (count, span) in [(256, FEW), (4096, MANY)] {
        comparison.compare(work(count, "tasks", "driven loop", Goal::OfTheLimit(0.6), span), || {
            let (runtime, of_limit) = (callers::runtime(), callers::runtime());
            let appender = shop.log(&format!("{count}-tasks")).appender();
            Sides {
                ours: Box::new(move |span| {
                    shop.count_batches(|| callers::tasks(&runtime, count, span, || shop.counter.clone()))
                }),
                limit: Some(Box::new(move |span, _| callers::tasks(&of_limit, count, span, || appender.clone()))),
            }
        });
    }
}

fn work(count: usize, callers: &str, limit: &'static str, goal: Goal, span: Duration) -> Work {
    Work { name: "claim + complete".to_owned(), callers: format!("{count} {callers}"), limit, goal, span }
}
