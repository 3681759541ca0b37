//! What the server's own code panics with ends no resuming: its function, what that panicked with, its clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use reentry::{Clock, ManualClock, ResumerBuilder, Run, Store, Timestamp};

use crate::support::{START, key, until};
use crate::{NEVER, attempt, builder, complete, in_memory, leave};

/// What panics again as it is dropped.
#[derive(Debug)]
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("what it panicked with panics too");
    }
}

/// An error whose drop panics.
#[derive(Debug)]
struct Explodes(#[expect(dead_code, reason = "it is there to be dropped")] Option<Bomb>);

impl std::fmt::Display for Explodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no flour")
    }
}

impl std::error::Error for Explodes {}

#[test]
fn p6_what_a_function_left_that_panics_as_it_is_dropped_ends_no_resuming() {
    let store = in_memory();
    for name in ["one", "two"] {
        leave(&store, &key(name));
    }
    let resumer = builder(&store).concurrency(1).start(|run: Run| match run.attempt() {
        2 => std::panic::panic_any(Bomb),
        3 => Err(Explodes(Some(Bomb))),
        _ => complete(run).map_err(|_| Explodes(None)),
    });
    let resumer = resumer.unwrap();
    until("both are finished", || store.stats().is_ok_and(|stats| stats.unfinished == 0));
    assert_eq!((attempt(&store, &key("one")), attempt(&store, &key("two"))), (4, 4));
    until("none is at work", || resumer.stats().at_work == 0);
    resumer.stop();
    store.verify().unwrap();
}

/// A clock that panics once where a resumer asks it.
#[derive(Debug)]
struct PanicsOnce(ManualClock, Arc<AtomicBool>);

impl Clock for PanicsOnce {
    fn wall(&self) -> Timestamp {
        self.0.wall()
    }

    fn elapsed(&self) -> Duration {
        let is_resumer = thread::current().name() == Some("reentry-resumer");
        assert!(!is_resumer || self.1.swap(true, Ordering::SeqCst), "the clock is broken");
        self.0.elapsed()
    }
}

/// Soon, as one is that an error broke off, however long the pause of what has failed.
#[test]
fn p6_a_look_that_panics_is_taken_again() {
    a_look_that_panics_is_taken_again(|resumer| resumer);
    a_look_that_panics_is_taken_again(|resumer| resumer.every(Duration::from_millis(1)).backoff(NEVER, NEVER));
}

fn a_look_that_panics_is_taken_again(timed: fn(ResumerBuilder) -> ResumerBuilder) {
    let has_panicked = Arc::new(AtomicBool::new(false));
    let clock = PanicsOnce(ManualClock::at(START), Arc::clone(&has_panicked));
    let store = Store::builder().clock(clock).in_memory().unwrap();
    leave(&store, &key("order"));
    let resumer = timed(builder(&store).concurrency(1)).start(complete).unwrap();
    until("it is finished", || resumer.stats().finished == 1);
    assert!(has_panicked.load(Ordering::SeqCst));
    resumer.stop();
    store.verify().unwrap();
}
