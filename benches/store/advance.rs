//! Checkpoints that a run moves, each durable before it is told.

use std::sync::Mutex;
use std::time::Duration;

use reentry::{Fingerprint, Run};

use crate::callers::{self, AsyncTask};
use crate::comparison::{Comparison, Goal, Sides, Slice, Work};
use crate::limit::Advancer;
use crate::shop::{LazyShop, RECEIPT, REQUEST, Shop, run};

const SPAN: Duration = Duration::from_millis(200);
const TASKS: usize = 256;

/// Compares one thread with the bare loop, and tasks with the loop that is driven by as many tasks.
pub(crate) fn compare(comparison: &mut Comparison, shop: &impl LazyShop) {
    comparison.compare(work("1 threads", "bare loop", Goal::OfTheLimit(0.9)), || {
        let mut log = shop.log("advance");
        let mut run = take_order(shop);
        Sides {
            ours: Box::new(move |span| shop.count_batches(|| advance_for(&mut run, span))),
            limit: Some(Box::new(move |span, batch| log.advance(span, batch))),
        }
    });
    comparison.compare(work(&format!("{TASKS} tasks"), "driven loop", Goal::OfTheLimit(0.6)), || {
        let (runtime, of_limit) = (callers::runtime(), callers::runtime());
        let appender = shop.log("advance-tasks").appender();
        Sides {
            ours: Box::new(move |span| {
                let mut cooks: Vec<_> = (0..TASKS).map(|_| Cook { run: take_order(shop) }).collect();
                let next = || cooks.pop().expect("there is a cook for each task");
                shop.count_batches(|| callers::tasks(&runtime, TASKS, span, next))
            }),
            limit: Some(Box::new(move |span, _| {
                callers::tasks(&of_limit, TASKS, span, || Advancer::new(appender.clone()))
            })),
        }
    });
}

fn work(callers: &str, limit: &'static str, goal: Goal) -> Work {
    Work { name: "advance".to_owned(), callers: callers.to_owned(), limit, goal, span: SPAN }
}

/// A task that works on one order.
struct Cook {
    run: Run,
}

impl AsyncTask for Cook {
    async fn once(&mut self) {
        self.run.advance("paid", &RECEIPT.to_vec()).await.unwrap();
    }
}

fn take_order(shop: &Shop) -> Run {
    let counter = &shop.counter;
    run(counter.store.claim(&counter.next_key(), Fingerprint::of(REQUEST)).wait().unwrap())
}

fn advance_for(run: &mut Run, span: Duration) -> Slice {
    let run = Mutex::new(run);
    callers::threads(1, span, || {
        run.lock().unwrap().advance("paid", &RECEIPT.to_vec()).wait().unwrap();
    })
}
