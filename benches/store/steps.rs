//! An operation of three guarded effects, each intent durable before its effect. The effects do nothing.

use std::time::Duration;

use reentry::{Error, Fingerprint, Request, Run};

use crate::callers;
use crate::comparison::{Comparison, Goal, Sides, Slice, Work};
use crate::shop::{Counter, LazyShop, RECEIPT, REQUEST, run};

const SPAN: Duration = Duration::from_millis(200);
const STEPS: [&str; 3] = ["charge", "mail", "notify"];

/// Compares one thread with the bare loop that waits for the disk as often: once for each intent, once for the outcome,
/// and once for the claim where that is not deferred.
pub(crate) fn compare(comparison: &mut Comparison, shop: &impl LazyShop) {
    for (name, is_deferred) in [("claim + 3 steps", false), ("deferred + 3 steps", true)] {
        let waits = if is_deferred { STEPS.len() + 1 } else { STEPS.len() + 2 };
        let work = Work {
            name: name.to_owned(),
            callers: "1 threads".to_owned(),
            limit: "bare loop",
            goal: Goal::None,
            span: SPAN,
        };
        comparison.compare(work, || {
            let mut log = shop.log(&format!("steps-{waits}"));
            Sides {
                ours: Box::new(move |span| {
                    let counter = &shop.counter;
                    shop.count_batches(|| callers::threads(1, span, || counter.claim_and_step(is_deferred)))
                }),
                limit: Some(Box::new(move |span, _| {
                    let slice = log.advance(span, 1.0);
                    Slice { per_second: slice.per_second / waits as f64, ..slice }
                })),
            }
        });
    }
}

impl Counter {
    /// Takes an order, does its effects and finishes it.
    fn claim_and_step(&self, is_deferred: bool) {
        let request = Request::from(Fingerprint::of(REQUEST));
        let request = if is_deferred { request.deferred() } else { request };
        let mut run: Run = run(self.store.claim(&self.next_key(), request).wait().unwrap());
        for name in STEPS {
            run.step(name).run_keyed(|_| Ok::<_, Error>(RECEIPT.to_vec())).unwrap();
        }
        run.complete(&RECEIPT.to_vec()).wait().unwrap();
    }
}
