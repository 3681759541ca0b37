//! Finishing without the client: a resumer takes up what is unfinished and free, tries again after a pause, and leaves
//! alone what is stuck.

mod panics;
mod pauses;
#[path = "../support/mod.rs"]
mod support;

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use redb::{ReadableTable, TableDefinition};
use reentry::{
    Claim, DiskCall, DiskFault, Error, ErrorKind, Key, Loss, ManualClock, Request, Resumer, ResumerBuilder, Run,
    SimulatedDisk, State, Store,
};
use support::{LULL, PATIENCE, START, database, key, lull, request, run, run_of, until};

/// Never: so that nothing is looked at but for a reason that the test names.
const NEVER: Duration = Duration::MAX;
const AT_ONCE: Duration = Duration::ZERO;

/// A resumer that looks when it is started and when it is woken, and tries again at once.
fn builder(store: &Store) -> ResumerBuilder {
    Resumer::builder(store).every(NEVER).backoff(AT_ONCE, AT_ONCE)
}

fn in_memory() -> Store {
    Store::builder().in_memory().unwrap()
}

/// Leaves an operation unfinished and free, as a client does whose handler dies.
fn leave(store: &Store, key: &Key) {
    drop(run(store, key));
}

fn complete(run: Run) -> Result<(), Error> {
    run.complete(&"by the resumer".to_owned()).wait().map(drop)
}

#[track_caller]
fn got<T>(from: &Receiver<T>) -> T {
    from.recv_timeout(PATIENCE).expect("it never came")
}

/// Waits until nobody can send any more.
#[track_caller]
fn ended<T>(from: &Receiver<T>) {
    loop {
        match from.recv_timeout(PATIENCE) {
            Ok(_) => {}
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => panic!("it never ended"),
        }
    }
}

fn attempt(store: &Store, key: &Key) -> u32 {
    store.progress(key).unwrap().unwrap().attempt()
}

fn state(store: &Store, key: &Key) -> State {
    store.progress(key).unwrap().unwrap().state()
}

fn outcome(store: &Store, key: &Key) -> String {
    match store.claim(key, request()).wait().unwrap() {
        Claim::Replay(outcome) => outcome.decode().unwrap(),
        other => panic!("{key:?} is not over: {other:?}"),
    }
}

/// Lets a resumer finish something else, so that it has met all that is older.
fn look(store: &Store, resumer: &Resumer, name: &str) {
    leave(store, &key(name));
    resumer.wake();
    until("what is free is finished", || state(store, &key(name)) == State::Succeeded);
}

/// The story: a look that a full disk broke off counted as a whole one, so what stood behind that was left for ever.
#[test]
fn p6_what_a_full_disk_hid_from_a_look_is_finished_all_the_same() {
    let disk = SimulatedDisk::new().with_journal(0);
    let clock = ManualClock::at(START);
    let kept = Store::builder().cache_bytes(0).clock(clock.clone()).retention(LULL).tombstones(LULL * 99);
    let store = kept.open_on(&disk).unwrap();
    lull(&store, &clock);
    (0..3).for_each(|nth| leave(&store, &key(&nth.to_string())));
    // There is no room even for opening the file anew.
    disk.fail([DiskFault::kind(io::ErrorKind::StorageFull).on(DiskCall::ALL).for_ever()]);
    store.claim(&key("refused"), request()).wait().unwrap_err();
    let looked = store.progress(&key("0")).unwrap_err();
    assert_eq!(looked.kind(), ErrorKind::Full);
    let (looks, has_looked) = channel();
    let resumer = builder(&store).start(move |run| {
        looks.send(()).unwrap();
        complete(run)
    });
    let resumer = resumer.unwrap();
    assert!(has_looked.recv_timeout(Duration::from_millis(200)).is_err());
    disk.fail(None);
    until("all is finished", || store.stats().is_ok_and(|stats| stats.unfinished == 0));
    resumer.stop();
    store.verify().unwrap();
}

#[test]
fn p3_p6_what_a_power_cut_left_is_finished_when_the_store_is_back() {
    let disk = SimulatedDisk::new();
    let store = Store::builder().open_on(&disk).unwrap();
    let carried =
        run_of(store.claim(&key("claimed"), Request::from(request()).keep(&"flour".to_owned())).wait().unwrap());
    let mut paid = run(&store, &key("paid"));
    paid.step("charge").run_at_most_once(|_| Ok::<_, io::Error>("receipt 7".to_owned())).unwrap();
    paid.advance("paid", &b"here".to_vec()).wait().unwrap();
    run(&store, &key("done")).complete(&"before".to_owned()).wait().unwrap();
    let store = Store::builder().open_on(&disk.cut(disk.calls(), |_| Loss::Lost)).unwrap();
    drop((carried, paid));

    let resumer = builder(&store).start(|mut run: Run| -> Result<(), Error> {
        assert_eq!(run.attempt(), 2);
        let what = match run.checkpoint() {
            Some(checkpoint) => {
                let receipt = run.step("charge").run_at_most_once(|_| Err::<String, _>(io::Error::other("twice")))?;
                format!("{} {receipt}", checkpoint.name())
            }
            None => run.decode_request::<String>()?.unwrap_or_default(),
        };
        run.complete(&what).wait().map(drop)
    });
    let resumer = resumer.unwrap();
    until("all is finished", || store.stats().unwrap().unfinished == 0);
    until("it is counted", || resumer.stats().finished == 2);
    let stats = resumer.stats();
    assert_eq!((stats.runs, stats.failed, stats.at_work), (2, 0, 0));
    resumer.stop();
    let outcomes = ["claimed", "paid", "done"].map(|name| outcome(&store, &key(name)));
    assert_eq!(outcomes, ["flour", "paid receipt 7", "before"]);
    store.verify().unwrap();
}

#[test]
fn p1_what_is_owned_is_left_to_its_owner() {
    let store = in_memory();
    let owner = run(&store, &key("owned"));
    leave(&store, &key("free"));
    let resumer = builder(&store).start(complete).unwrap();
    until("the other one is finished", || resumer.stats().finished == 1);
    assert_eq!((state(&store, &key("owned")), attempt(&store, &key("owned"))), (State::Owned, 1));
    owner.complete(&"by its owner".to_owned()).wait().unwrap();
    resumer.stop();
    assert_eq!(outcome(&store, &key("owned")), "by its owner");
    store.verify().unwrap();
}

#[test]
fn p7_what_an_owner_let_lapse_is_taken_over_and_the_owner_is_fenced() {
    let clock = ManualClock::at(START);
    let lease = Duration::from_secs(10);
    let store = Store::builder().clock(clock.clone()).lease(lease).in_memory().unwrap();
    let mut hangs = run(&store, &key("hangs"));
    leave(&store, &key("free"));
    let resumer = builder(&store).start(complete).unwrap();
    until("it has looked", || resumer.stats().finished == 1);
    assert_eq!(state(&store, &key("hangs")), State::Owned);
    clock.advance(lease);
    resumer.wake();
    until("it is taken over", || resumer.stats().finished == 2);
    assert_eq!(hangs.advance("late", &()).wait().unwrap_err().kind(), ErrorKind::Fenced);
    resumer.stop();
    assert_eq!(outcome(&store, &key("hangs")), "by the resumer");
    store.verify().unwrap();
}

#[test]
fn never_more_run_at_a_time_than_it_was_told() {
    const MOST: usize = 3;
    let store = in_memory();
    (0..12).for_each(|nth| leave(&store, &key(&nth.to_string())));
    let (begun, of_begun) = channel();
    let (go_on, may_go_on) = channel::<()>();
    let (may_go_on, at_work, most) = (Mutex::new(may_go_on), AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let seen = Arc::clone(&most);
    let resumer = builder(&store).concurrency(MOST).start(move |run: Run| {
        most.fetch_max(at_work.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        begun.send(()).unwrap();
        may_go_on.lock().unwrap().recv().unwrap();
        at_work.fetch_sub(1, Ordering::SeqCst);
        complete(run)
    });
    let resumer = resumer.unwrap();
    (0..MOST).for_each(|_| got(&of_begun));
    assert_eq!(resumer.stats().at_work, MOST);
    assert!(of_begun.try_recv().is_err());
    for nth in MOST..12 {
        go_on.send(()).unwrap();
        got(&of_begun);
        assert!(resumer.stats().finished < nth as u64, "no run begins before another has ended");
    }
    (0..MOST).for_each(|_| go_on.send(()).unwrap());
    until("all are finished", || resumer.stats().finished == 12);
    assert_eq!((seen.load(Ordering::SeqCst), resumer.stats().at_work), (MOST, 0));
    resumer.stop();
    store.verify().unwrap();
}

#[test]
fn none_at_a_time_is_refused() {
    let refused = builder(&in_memory()).concurrency(0).start(complete).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidConfig);
}

#[test]
fn p10_a_damaged_record_stops_none_of_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.reentry");
    let store = Store::open(&path).unwrap();
    for name in ["before", "damaged", "after"] {
        drop(run_of(store.claim(&key(name), Request::of(name.repeat(500))).wait().unwrap()));
    }
    store.close().unwrap();
    damage_the_body_of(&path, "damaged");

    let store = Store::open(&path).unwrap();
    let resumer = builder(&store).start(complete).unwrap();
    until("the others are finished", || resumer.stats().finished == 2);
    assert_eq!(store.progress(&key("damaged")).unwrap_err().kind(), ErrorKind::Corrupt);
    resumer.stop();
    assert_eq!(store.verify().unwrap_err().kind(), ErrorKind::Corrupt);
}

/// Changes a byte of the payload that begins so.
fn damage_the_body_of(path: &std::path::Path, beginning: &str) {
    const BODIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("reentry/bodies");
    let transaction = database(path).begin_write().unwrap();
    let mut bodies = transaction.open_table(BODIES).unwrap();
    let found = bodies.iter().unwrap().map(|row| row.unwrap());
    let mut found = found.map(|(number, body)| (number.value(), body.value().to_vec()));
    let (number, mut body) = found.find(|(_, body)| body.starts_with(beginning.as_bytes())).unwrap();
    body[1000] ^= 1;
    drop(found);
    bodies.insert(number, body.as_slice()).unwrap();
    drop(bodies);
    transaction.commit().unwrap();
}

#[test]
fn a_store_that_is_closed_ends_its_threads() {
    thread_local! {
        static LAST_WORDS: std::cell::RefCell<Option<Sender<()>>> = const { std::cell::RefCell::new(None) };
    }
    let store = in_memory();
    for nth in 0..2 {
        leave(&store, &key(&nth.to_string()));
    }
    let (last_words, of_threads) = channel();
    let both = std::sync::Barrier::new(2);
    let last_words = Mutex::new(Some((2, last_words)));
    let resumer = builder(&store).concurrency(2).every(Duration::from_millis(1)).start(move |run: Run| {
        let mut left = last_words.lock().unwrap();
        let (threads, sender) = left.take().unwrap();
        LAST_WORDS.set(Some(sender.clone()));
        *left = (threads > 1).then_some((threads - 1, sender));
        drop(left);
        both.wait();
        complete(run)
    });
    let resumer = resumer.unwrap();
    until("both threads have run", || resumer.stats().finished == 2);
    store.close().unwrap();
    // Each thread holds a sender until it ends; the resumer is still there.
    ended(&of_threads);
    resumer.stop();
}

/// Nobody is told that an operation failed, where all that happened is that the store was closed.
#[test]
fn what_is_found_and_not_begun_as_the_store_is_closed_has_not_failed() {
    thread_local! {
        static LAST_WORDS: std::cell::RefCell<Option<Sender<()>>> = const { std::cell::RefCell::new(None) };
    }
    let store = in_memory();
    for nth in 0..9 {
        leave(&store, &key(&nth.to_string()));
    }
    let (last_words, of_thread) = channel();
    let (last_words, failed) = (Mutex::new(Some(last_words)), Arc::new(AtomicUsize::new(0)));
    let (of_hook, of_work) = (Arc::clone(&failed), store.clone());
    let resumer = builder(&store).concurrency(1).on_failure(move |_, _| {
        of_hook.fetch_add(1, Ordering::SeqCst);
    });
    let resumer = resumer.start(move |run: Run| {
        LAST_WORDS.set(last_words.lock().unwrap().take());
        complete(run)?;
        of_work.close()
    });
    let resumer = resumer.unwrap();
    // The thread has a sender until it ends, by itself: the resumer is still there.
    ended(&of_thread);
    assert_eq!((resumer.stats().runs, failed.load(Ordering::SeqCst)), (1, 0));
    resumer.stop();
}

/// A resumer of one thread that is at work on the first of two operations, until it is let go.
fn at_work(store: &Store) -> (Resumer, Sender<()>, Receiver<&'static str>) {
    leave(store, &key("first"));
    leave(store, &key("second"));
    let (tell, told) = channel();
    let (go_on, may_go_on) = channel::<()>();
    let may_go_on = Mutex::new(may_go_on);
    let resumer = builder(store).concurrency(1).start(move |run: Run| {
        tell.send("begun").unwrap();
        may_go_on.lock().unwrap().recv().unwrap();
        (0..1000).for_each(|_| thread::yield_now());
        complete(run).unwrap();
        tell.send("ended").unwrap();
        Ok::<_, Error>(())
    });
    assert_eq!(got(&told), "begun");
    (resumer.unwrap(), go_on, told)
}

#[test]
fn to_stop_it_is_to_wait_for_the_run_it_is_at() {
    let store = in_memory();
    let (resumer, go_on, told) = at_work(&store);
    go_on.send(()).unwrap();
    go_on.send(()).unwrap();
    resumer.stop();
    // Whether it took up the second one too depends on who was faster; it left nothing half-done.
    let words: Vec<_> = told.try_iter().collect();
    assert!([&["ended"][..], &["ended", "begun", "ended"]].contains(&&words[..]), "{words:?}");
    assert!(store.unfinished().all(|found| found.unwrap().state() == State::Unfinished));
    store.verify().unwrap();
}

#[test]
fn to_drop_it_is_to_wait_for_nobody_and_to_begin_nothing_more() {
    let store = in_memory();
    let (resumer, go_on, told) = at_work(&store);
    drop(resumer);
    assert_eq!(state(&store, &key("first")), State::Owned, "it is at work all the same");
    go_on.send(()).unwrap();
    go_on.send(()).unwrap();
    assert_eq!(got(&told), "ended");
    ended(&told);
    assert_eq!([state(&store, &key("first")), state(&store, &key("second"))], [State::Succeeded, State::Unfinished]);
    store.verify().unwrap();
}

#[test]
fn p9_only_the_scope_it_is_told_is_resumed() {
    let store = in_memory();
    let foreign = Key::new("scope of others", "key").unwrap();
    leave(&store, &foreign);
    leave(&store, &key("ours"));
    let resumer = builder(&store).scope("scope").start(complete).unwrap();
    until("ours is finished", || resumer.stats().finished == 1);
    look(&store, &resumer, "ours too");
    resumer.stop();
    assert_eq!((state(&store, &foreign), attempt(&store, &foreign)), (State::Unfinished, 1));
    store.verify().unwrap();
}

#[test]
fn p9_only_its_scope_is_resumed_behind_the_first_that_it_found_too() {
    let store = in_memory();
    let foreign = |nth: u32| Key::new("scope of others", nth.to_string()).unwrap();
    // More than it finds ahead at a time, 256, stand before the first of the others' operations.
    for nth in 0..320 {
        leave(&store, &key(&nth.to_string()));
        if nth >= 280 {
            leave(&store, &foreign(nth));
        }
    }
    let resumer = builder(&store).scope("scope").start(complete).unwrap();
    until("ours are finished", || resumer.stats().finished >= 320);
    look(&store, &resumer, "ours too");
    resumer.stop();
    for nth in 280..320 {
        assert_eq!((state(&store, &foreign(nth)), attempt(&store, &foreign(nth))), (State::Unfinished, 1), "{nth}");
    }
    store.verify().unwrap();
}

#[test]
fn p1_two_resumers_share_the_work() {
    const OPERATIONS: u64 = 200;
    let store = in_memory();
    (0..OPERATIONS).for_each(|nth| leave(&store, &key(&nth.to_string())));
    let at_work: Arc<Mutex<HashMap<Key, u32>>> = Arc::default();
    let resumers = [(); 2].map(|()| {
        let at_work = Arc::clone(&at_work);
        let resumer = builder(&store).start(move |run: Run| {
            let key = run.key().clone();
            assert!(at_work.lock().unwrap().insert(key.clone(), run.attempt()).is_none(), "two runs live");
            thread::yield_now();
            at_work.lock().unwrap().remove(&key);
            complete(run)
        });
        resumer.unwrap()
    });
    until("all are finished", || store.stats().unwrap().unfinished == 0);
    until("all are counted", || resumers.iter().map(|r| r.stats().finished).sum::<u64>() == OPERATIONS);
    assert_eq!(resumers.iter().map(|r| r.stats().failed).sum::<u64>(), 0);
    resumers.into_iter().for_each(Resumer::stop);
    assert!((0..OPERATIONS).all(|nth| attempt(&store, &key(&nth.to_string())) == 2), "nothing ran twice");
    store.verify().unwrap();
}

#[test]
fn p5_a_client_that_waits_gets_what_the_resumer_brings() {
    let store = in_memory();
    let (resumer, go_on, _told) = at_work(&store);
    let clients = [(); 3].map(|()| support::stand_in_line(&store, &key("first")));
    go_on.send(()).unwrap();
    go_on.send(()).unwrap();
    for client in clients {
        match client.wait_for(PATIENCE).unwrap() {
            Claim::Replay(outcome) => assert_eq!(outcome.decode::<String>().unwrap(), "by the resumer"),
            other => panic!("expected its outcome, got {other:?}"),
        }
    }
    resumer.stop();
    store.verify().unwrap();
}

#[test]
fn p7_a_client_that_waits_enters_what_the_resumer_gives_up() {
    let store = in_memory();
    leave(&store, &key("unlucky"));
    let (begun, of_begun) = channel();
    let (go_on, may_go_on) = channel::<()>();
    let may_go_on = Mutex::new(may_go_on);
    let resumer = builder(&store).start(move |_| {
        begun.send(()).unwrap();
        may_go_on.lock().unwrap().recv().unwrap();
        Err(io::Error::other("no flour"))
    });
    let resumer = resumer.unwrap();
    got(&of_begun);
    let client = support::stand_in_line(&store, &key("unlucky"));
    go_on.send(()).unwrap();
    let client = run_of(client.wait_for(PATIENCE).unwrap());
    assert_eq!(client.attempt(), 3);
    client.complete(&()).wait().unwrap();
    resumer.stop();
    store.verify().unwrap();
}
