//! When it looks, and when it tries again: from time to time, when it is woken, after a pause, and not what is stuck.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use reentry::{Clock, Key, ManualClock, Run, SimulatedDisk, State, Store, Timestamp};

use crate::support::{PATIENCE, START, key, run, settle, until};
use crate::{NEVER, attempt, builder, complete, got, in_memory, leave, look, outcome, state};

#[test]
fn it_looks_from_time_to_time() {
    let store = in_memory();
    let resumer = builder(&store).every(Duration::from_millis(1)).start(complete).unwrap();
    for nth in 1..=3 {
        leave(&store, &key(&format!("late {nth}")));
        until("what came after the start is finished", || resumer.stats().finished == nth);
    }
    resumer.stop();
    store.verify().unwrap();
}

#[test]
fn it_looks_when_it_is_woken_and_without_that_not_before_its_time() {
    let store = in_memory();
    leave(&store, &key("first"));
    let resumer = builder(&store).start(complete).unwrap();
    until("it has looked", || resumer.stats().finished == 1);
    leave(&store, &key("second"));
    settle(&store);
    assert_eq!((attempt(&store, &key("second")), resumer.stats().runs), (1, 1));
    resumer.wake();
    until("it has looked again", || resumer.stats().finished == 2);
    resumer.stop();
    store.verify().unwrap();
}

/// A clock that counts how often resumers ask for the time, which they do for every operation they look at, and that
/// can hold them there.
#[derive(Debug, Clone)]
struct Watched {
    clock: ManualClock,
    asked: Arc<AtomicUsize>,
    /// Whether they are held, and whether one is.
    held: Arc<(Mutex<(bool, bool)>, Condvar)>,
}

impl Watched {
    fn new() -> Self {
        Self { clock: ManualClock::at(START), asked: Arc::default(), held: Arc::default() }
    }

    fn hold(&self) {
        self.held.0.lock().unwrap().0 = true;
    }

    #[track_caller]
    fn holds_one(&self) {
        let waited = self.held.1.wait_timeout_while(self.held.0.lock().unwrap(), PATIENCE, |(_, is_held)| !*is_held);
        assert!(!waited.unwrap().1.timed_out(), "nobody asked for the time");
    }

    fn let_go(&self) {
        *self.held.0.lock().unwrap() = (false, false);
        self.held.1.notify_all();
    }
}

impl Clock for Watched {
    fn wall(&self) -> Timestamp {
        self.clock.wall()
    }

    fn elapsed(&self) -> Duration {
        if thread::current().name() == Some("reentry-resumer") {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let mut held = self.held.0.lock().unwrap();
            while held.0 {
                held.1 = true;
                self.held.1.notify_all();
                held = self.held.1.wait(held).unwrap();
            }
        }
        self.clock.elapsed()
    }
}

/// The story: a look that was under way when it was woken put the time of the next one over the wake.
#[test]
fn a_wake_in_the_midst_of_a_look_is_another_look() {
    let clock = Watched::new();
    let store = Store::builder().clock(clock.clone()).in_memory().unwrap();
    let busy = run(&store, &key("busy"));
    clock.hold();
    let resumer = builder(&store).start(complete).unwrap();
    clock.holds_one();
    // The look has read that it is owned.
    drop(busy);
    resumer.wake();
    clock.let_go();
    until("it is finished", || resumer.stats().finished == 1);
    resumer.stop();
    store.verify().unwrap();
}

/// The story: the pause after a failure was over, but the operation could not be run, so it looked without end.
#[test]
fn it_does_not_look_without_end_at_what_it_may_not_run() {
    let clock = Watched::new();
    let store = Store::builder().attempts_max(2).clock(clock.clone()).in_memory().unwrap();
    leave(&store, &key("stuck"));
    leave(&store, &key("slow"));
    store.release_stuck(&key("slow")).wait().unwrap();
    let (begun, of_begun) = channel();
    let (go_on, may_go_on) = channel::<()>();
    let may_go_on = Mutex::new(may_go_on);
    let resumer = builder(&store).concurrency(2).start(move |run: Run| match (run.key().key(), run.attempt()) {
        ("slow", 3) => {
            begun.send(()).unwrap();
            may_go_on.lock().unwrap().recv().unwrap();
            complete(run).map_err(io::Error::other)
        }
        _ => Err(io::Error::other("no flour")),
    });
    let resumer = resumer.unwrap();
    got(&of_begun);
    until("both have failed", || resumer.stats().failed == 2);
    assert_eq!(store.stats().unwrap().stuck, 1);
    // One is stuck, one is at work, and one thread is idle.
    let before = clock.asked.load(Ordering::SeqCst);
    for nth in 0..500 {
        run(&store, &key(&nth.to_string())).complete(&()).wait().unwrap();
        thread::yield_now();
    }
    let looks = clock.asked.load(Ordering::SeqCst) - before;
    assert!(looks < 50, "it asked for the time {looks} times with nothing to do");
    go_on.send(()).unwrap();
    until("the slow one is finished", || resumer.stats().finished == 1);
    resumer.stop();
    store.verify().unwrap();
}

#[test]
fn what_fails_panics_or_is_dropped_is_told_and_tried_again() {
    let store = in_memory();
    leave(&store, &key("unlucky"));
    let (tell, told) = channel();
    let tell = Mutex::new(tell);
    let hook = move |key: &Key, error: &(dyn std::error::Error + Send + Sync)| {
        tell.lock().unwrap().send((key.clone(), error.to_string())).unwrap();
    };
    let resumer = builder(&store).on_failure(hook).start(|run: Run| match run.attempt() {
        2 => Err(io::Error::other("no flour")),
        3 => panic!("the oven is on fire"),
        4 => Ok(()),
        _ => complete(run).map_err(io::Error::other),
    });
    let resumer = resumer.unwrap();
    let failures = [(); 3].map(|()| got(&told));
    assert!(failures.iter().all(|(of, _)| *of == key("unlucky")));
    assert_eq!(failures[0].1, "no flour");
    assert!(failures[1].1.contains("panicked") && failures[2].1.contains("dropped"), "{failures:?}");
    until("it is finished", || resumer.stats().finished == 1);
    assert_eq!((resumer.stats().runs, resumer.stats().failed, attempt(&store, &key("unlucky"))), (4, 3, 5));
    resumer.stop();
    store.verify().unwrap();
}

#[test]
fn a_hook_that_panics_stops_nobody() {
    let store = in_memory();
    leave(&store, &key("unlucky"));
    let resumer = builder(&store).concurrency(1).on_failure(|_, _| panic!("the log is full"));
    let resumer = resumer.start(|run: Run| match run.attempt() {
        2 | 3 => Err(io::Error::other("no flour")),
        _ => complete(run).map_err(io::Error::other),
    });
    let resumer = resumer.unwrap();
    until("it is finished", || resumer.stats().finished == 1);
    assert_eq!(resumer.stats().failed, 2);
    resumer.stop();
    store.verify().unwrap();
}

#[test]
fn what_failed_is_left_alone_for_its_pause_until_a_wake_ends_that() {
    let store = in_memory();
    leave(&store, &key("unlucky"));
    let resumer = builder(&store).backoff(NEVER, NEVER).every(Duration::from_millis(1));
    let resumer = resumer.start(|run: Run| match (run.key().key(), run.attempt()) {
        ("unlucky", 2) => Err(io::Error::other("no flour")),
        _ => complete(run).map_err(io::Error::other),
    });
    let resumer = resumer.unwrap();
    until("it has failed", || resumer.stats().failed == 1);
    for nth in 1..=5 {
        // Whatever finds this one meets the other first, which is older.
        leave(&store, &key(&nth.to_string()));
        until("the younger one is finished", || resumer.stats().finished == nth);
    }
    assert_eq!(attempt(&store, &key("unlucky")), 2);
    resumer.wake();
    until("it is tried again", || state(&store, &key("unlucky")) == State::Succeeded);
    assert_eq!(attempt(&store, &key("unlucky")), 3);
    resumer.stop();
    store.verify().unwrap();
}

/// One order that cannot be finished is no reason to look less often for all the others.
#[test]
fn what_failed_keeps_no_other_waiting_for_its_pause() {
    let store = in_memory();
    leave(&store, &key("unlucky"));
    let hour = Duration::from_secs(3600);
    let resumer = builder(&store).backoff(hour, hour).every(Duration::from_millis(1));
    let resumer = resumer.start(|run: Run| match run.key().key() {
        "unlucky" => Err(io::Error::other("no flour")),
        _ => complete(run).map_err(io::Error::other),
    });
    let resumer = resumer.unwrap();
    until("it has failed", || resumer.stats().failed == 1);
    for nth in 1..=3 {
        // A look that was due before the failure may find the first.
        leave(&store, &key(&nth.to_string()));
        until("the younger one is finished", || resumer.stats().finished == nth);
    }
    assert_eq!((attempt(&store, &key("unlucky")), resumer.stats().failed), (2, 1));
    resumer.stop();
    store.verify().unwrap();
}

/// Its run is over by then and the operation free, so that another thread of the resumer could take it up: an order
/// whose failures are sent somewhere slow would have all of its runs in seconds.
#[test]
fn what_is_being_told_to_have_failed_is_not_taken_up_meanwhile() {
    let store = in_memory();
    leave(&store, &key("unlucky"));
    let (tell, told) = channel();
    let (go_on, may_go_on) = channel::<()>();
    let hook = Mutex::new((tell, may_go_on));
    let resumer = builder(&store).concurrency(2).backoff(NEVER, NEVER).on_failure(move |_, _| {
        let hook = hook.lock().unwrap();
        hook.0.send(()).unwrap();
        hook.1.recv().unwrap();
    });
    let resumer = resumer.start(|run: Run| match (run.key().key(), run.attempt()) {
        ("unlucky", 2) => Err(io::Error::other("no flour")),
        _ => complete(run).map_err(io::Error::other),
    });
    let resumer = resumer.unwrap();
    got(&told);
    look(&store, &resumer, "another");
    assert_eq!((attempt(&store, &key("unlucky")), resumer.stats().runs), (2, 2));
    until("one is at work still", || resumer.stats().at_work == 1);
    go_on.send(()).unwrap();
    until("its failure is told", || resumer.stats().failed == 1);
    resumer.stop();
    store.verify().unwrap();
}

/// Nothing here is measured but that it was not too early, which no slow machine changes.
#[test]
fn what_fails_again_is_left_alone_twice_as_long_each_time_up_to_the_most() {
    let store = Store::builder().attempts_max(u32::MAX).in_memory().unwrap();
    leave(&store, &key("unlucky"));
    let (tell, told) = channel();
    let tell = Mutex::new(tell);
    let resumer = builder(&store).backoff(Duration::from_millis(10), Duration::from_millis(50));
    let resumer = resumer.start(move |run: Run| {
        let begun = Instant::now();
        if run.attempt() == 8 {
            return complete(run).map_err(io::Error::other);
        }
        drop(run);
        tell.lock().unwrap().send((begun, Instant::now())).unwrap();
        Err(io::Error::other("no flour"))
    });
    let resumer = resumer.unwrap();
    let runs = [(); 6].map(|()| got(&told));
    let pauses: Vec<_> = runs.windows(2).map(|runs| runs[1].0 - runs[0].1).collect();
    let least = [10, 20, 40, 50, 50].map(Duration::from_millis);
    assert!(pauses.iter().zip(least).all(|(pause, least)| *pause >= least), "{pauses:?}");
    until("it is finished", || resumer.stats().finished == 1);
    resumer.stop();
    store.verify().unwrap();
}

/// Twice as long each time would be days by then.
#[test]
fn what_fails_all_the_time_is_left_alone_for_no_longer_than_the_most() {
    let store = Store::builder().attempts_max(u32::MAX).in_memory().unwrap();
    leave(&store, &key("unlucky"));
    let resumer = builder(&store).backoff(Duration::from_millis(1), Duration::from_millis(2));
    let resumer = resumer.start(|run: Run| match run.attempt() {
        ..40 => Err(io::Error::other("no flour")),
        _ => complete(run).map_err(io::Error::other),
    });
    let resumer = resumer.unwrap();
    until("it is finished", || resumer.stats().finished == 1);
    assert_eq!(resumer.stats().failed, 38);
    resumer.stop();
}

#[test]
fn p6_what_is_dropped_at_its_last_try_has_failed_and_is_told() {
    let store = Store::builder().attempts_max(2).in_memory().unwrap();
    leave(&store, &key("unlucky"));
    let (tell, told) = channel();
    let tell = Mutex::new(tell);
    let resumer = builder(&store).on_failure(move |key, error| {
        tell.lock().unwrap().send((key.clone(), error.to_string())).unwrap();
    });
    let resumer = resumer.start(|run: Run| {
        run.release();
        Ok::<_, io::Error>(())
    });
    let resumer = resumer.unwrap();
    until("its run is counted", || resumer.stats().finished + resumer.stats().failed == 1);
    assert_eq!((resumer.stats().finished, resumer.stats().failed), (0, 1));
    let (of, error) = told.try_recv().unwrap();
    assert!(of == key("unlucky") && error.contains("dropped"), "{error}");
    assert_eq!(state(&store, &key("unlucky")), State::Stuck);
    resumer.stop();
    store.verify().unwrap();
}

/// Fails everything, but what the bakery has flour for.
fn fails_without(flour: &Arc<AtomicUsize>) -> impl Fn(Run) -> Result<(), io::Error> + Send + Sync + 'static {
    let flour = Arc::clone(flour);
    move |run: Run| match flour.load(Ordering::SeqCst) {
        0 if run.key().key() == "stuck" => Err(io::Error::other("no flour")),
        _ => complete(run).map_err(io::Error::other),
    }
}

#[test]
fn p6_what_had_its_runs_is_stuck_until_it_is_released_over_restarts_too() {
    let (disk, flour) = (SimulatedDisk::new(), Arc::new(AtomicUsize::new(0)));
    let open = || Store::builder().attempts_max(3).open_on(&disk).unwrap();
    let store = open();
    leave(&store, &key("stuck"));
    let resumer = builder(&store).start(fails_without(&flour)).unwrap();
    // A claim shows in the record a moment before its owner does.
    until("it is stuck", || resumer.stats().failed == 2 && state(&store, &key("stuck")) == State::Stuck);
    assert_eq!(attempt(&store, &key("stuck")), 3, "the client's run counts");
    let listed: Vec<_> = store.unfinished().map(|found| found.unwrap().state()).collect();
    assert_eq!(listed, [State::Stuck]);
    look(&store, &resumer, "another");
    assert_eq!((attempt(&store, &key("stuck")), resumer.stats().failed), (3, 2), "it is left alone");
    resumer.stop();
    store.close().unwrap();

    let store = open();
    let resumer = builder(&store).start(fails_without(&flour)).unwrap();
    look(&store, &resumer, "one more");
    assert_eq!((store.stats().unwrap().stuck, attempt(&store, &key("stuck"))), (1, 3), "it is left alone still");
    assert_eq!(run(&store, &key("stuck")).attempt(), 4, "a client enters it all the same");
    assert_eq!(state(&store, &key("stuck")), State::Stuck);

    assert!(store.release_stuck(&key("stuck")).wait().unwrap());
    resumer.wake();
    until("it was tried as often again", || {
        resumer.stats().failed == 3 && state(&store, &key("stuck")) == State::Stuck
    });
    assert_eq!(attempt(&store, &key("stuck")), 7);
    assert!(store.release_stuck(&key("stuck")).wait().unwrap());
    resumer.stop();
    store.close().unwrap();

    let store = open();
    flour.store(1, Ordering::SeqCst);
    assert_eq!((state(&store, &key("stuck")), store.stats().unwrap().stuck), (State::Unfinished, 0));
    let resumer = builder(&store).start(fails_without(&flour)).unwrap();
    until("it is finished", || store.stats().unwrap().unfinished == 0);
    resumer.stop();
    assert_eq!((outcome(&store, &key("stuck")), attempt(&store, &key("stuck"))), ("by the resumer".to_owned(), 8));
    store.verify().unwrap();
}

/// The story: a page of what is unfinished is older than the claims of what it holds, so one that failed for the last
/// time in between was run once more.
#[test]
fn p6_what_had_its_last_run_since_it_was_read_is_left_alone() {
    let clock = Watched::new();
    let store = Store::builder().attempts_max(2).clock(clock.clone()).in_memory().unwrap();
    leave(&store, &key("stuck"));
    clock.hold();
    let resumer = builder(&store).start(complete).unwrap();
    clock.holds_one();
    // The look has read that it may be run once more; a client comes first.
    assert_eq!(run(&store, &key("stuck")).attempt(), 2);
    clock.let_go();
    look(&store, &resumer, "another");
    resumer.stop();
    assert_eq!((state(&store, &key("stuck")), attempt(&store, &key("stuck"))), (State::Stuck, 2));
    store.verify().unwrap();
}

#[test]
fn p6_nothing_is_tried_more_often_than_it_may_be() {
    let store = Store::builder().attempts_max(4).in_memory().unwrap();
    (0..200).for_each(|nth| leave(&store, &key(&nth.to_string())));
    let resumer = builder(&store).concurrency(4).start(|_| Err(io::Error::other("no flour"))).unwrap();
    until("all are stuck", || store.stats().unwrap().stuck == 200);
    resumer.stop();
    assert!((0..200).all(|nth| attempt(&store, &key(&nth.to_string())) == 4));
    store.verify().unwrap();
}

#[test]
fn what_fails_all_the_time_starves_nothing_behind_it() {
    // More than it finds ahead at a time, 256, in front of and behind the ones that fail.
    let store = Store::builder().attempts_max(u32::MAX).in_memory().unwrap();
    let fails = |nth: u64| (100..400).contains(&nth);
    (0..700).for_each(|nth| leave(&store, &key(&nth.to_string())));
    let resumer = builder(&store).concurrency(3).start(move |run: Run| match run.key().key().parse() {
        Ok(nth) if fails(nth) => Err(io::Error::other("no flour")),
        _ => complete(run).map_err(io::Error::other),
    });
    let resumer = resumer.unwrap();
    // Not even when it is woken all the time.
    until("the others are finished", || {
        resumer.wake();
        resumer.stats().finished == 400
    });
    resumer.stop();
    assert_eq!(store.stats().unwrap().unfinished, 300);
    assert!((0..700).filter(|nth| fails(*nth)).all(|nth| attempt(&store, &key(&nth.to_string())) > 1));
    store.verify().unwrap();
}
