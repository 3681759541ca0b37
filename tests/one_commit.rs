//! The server's own rows and the operation's change are one commit: both or neither, whatever crashes when.

mod support;

use std::error::Error as _;
use std::io;
use std::panic::panic_any;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};

use reentry::{
    Claim, DiskCall, DiskFault, ErrorKind, Loss, Outcome, Pending, Result, Revision, Run, SimulatedDisk, State, Store,
    Table, Transaction,
};
use support::{Dice, Gate, after_a_cut, block_on, does, key, kind, request, run, settle, stand_in_line, step_of};

const ORDERS: Table = Table::new("orders");
const MAILS: Table = Table::new("mails");

type Source = Box<dyn std::error::Error + Send + Sync>;

fn in_memory() -> Store {
    Store::builder().in_memory().unwrap()
}

/// Puts one row.
fn put(name: &'static str) -> impl FnMut(&Transaction<'_>) -> Result<(), Source> + Send + 'static {
    move |tx| {
        tx.open_table(ORDERS)?.insert(name, "row")?;
        Ok(())
    }
}

fn has_row(store: &Store, name: &str) -> bool {
    store.read(|tx| tx.open_table(ORDERS)?.get(name)).unwrap().unwrap().is_some()
}

fn rows(store: &Store) -> u64 {
    store.read(|tx| tx.open_table(ORDERS)?.len()).unwrap().unwrap()
}

#[test]
fn p8_rows_and_change_are_both_there_or_neither_at_every_cut() {
    let disk = SimulatedDisk::new();
    let store = Store::builder().open_on(&disk).unwrap();
    let mut told = Vec::new();
    let mut order = run(&store, &key("order"));
    does(&mut order, "charge", "paid");
    order.advance_with("cooked", &(), put("cooked")).wait().unwrap();
    told.push((disk.calls(), 1));
    order.advance_with("packed", &"p".repeat(3_000), put("packed")).wait().unwrap();
    told.push((disk.calls(), 2));
    order.complete_with(&"done".to_owned(), put("done")).wait().unwrap();
    told.push((disk.calls(), 3));
    run(&store, &key("refused")).fail_with(&(), put("refused")).wait().unwrap();
    told.push((disk.calls(), 4));
    let mut dice = Dice::new(11);
    let mut seen = [0; 5];
    for at in 0..=disk.calls() {
        let mixed: Vec<_> = (0..6).map(|_| dice.roll()).collect();
        let mut ways: Vec<Box<dyn FnMut(reentry::Unsynced) -> Loss>> =
            vec![Box::new(|_| Loss::Lost), Box::new(|_| Loss::Kept)];
        for bits in mixed {
            ways.push(Box::new(move |call| match bits >> (2 * (call.nth % 32)) & 3 {
                0 => Loss::Lost,
                1 => Loss::Torn(call.bytes / 2),
                _ => Loss::Kept,
            }));
        }
        for loss in ways {
            let left = Store::builder().open_on(&disk.cut(at, loss)).unwrap();
            left.verify().unwrap();
            let progress = left.progress(&key("order")).unwrap();
            let revision = progress.as_ref().and_then(|p| p.checkpoint()).map_or(0, |c| c.revision().get());
            let is_over = progress.as_ref().is_some_and(|progress| progress.state() == State::Succeeded);
            let is_refused = left.progress(&key("refused")).unwrap().is_some_and(|p| p.state() == State::Failed);
            let expected = [revision >= 1, revision >= 2, is_over, is_refused];
            let found = ["cooked", "packed", "done", "refused"].map(|name| has_row(&left, name));
            assert_eq!(found, expected, "cut at {at}");
            let reached = found.iter().filter(|found| **found).count();
            let acknowledged = told.iter().filter(|(calls, _)| *calls <= at).map(|(_, n)| *n).max().unwrap_or(0);
            assert!(reached >= acknowledged, "cut at {at}: {reached} of {acknowledged}");
            assert!(reached == 0 || step_of(&left, &key("order"), "charge").unwrap().bytes().is_some());
            seen[reached] += 1;
        }
    }
    assert!(seen.iter().all(|times| *times > 0), "every stage was cut: {seen:?}");
    store.verify().unwrap();
}

/// A closure that fails, in one way or the other.
type Fails = fn(&Transaction<'_>) -> Result<(), Source>;

const FAILS: [Fails; 3] = [
    |tx| {
        tx.open_table(ORDERS)?.insert("failed", "row")?;
        Err(io::Error::other("no such pizza").into())
    },
    |tx| {
        let mut rows = tx.open_table(ORDERS)?;
        rows.insert("failed", "row")?;
        panic!("no such pizza")
    },
    |tx| {
        tx.open_table(ORDERS)?.insert("failed", "row")?;
        panic_any(7_u8)
    },
];

#[test]
fn p8_a_closure_that_fails_or_panics_aborts_both_and_the_run_goes_on() {
    for fails in FAILS {
        let disk = SimulatedDisk::new();
        let store = Store::builder().open_on(&disk).unwrap();
        let mut order = run(&store, &key("order"));
        order.advance("paid", &()).wait().unwrap();
        let calls = disk.calls();
        assert_eq!(kind(order.advance_with("cooked", &(), fails).wait()), ErrorKind::Aborted);
        assert_eq!(kind(order.fail_with(&(), fails).wait()), ErrorKind::Aborted);
        assert_eq!(kind(order.complete_with(&(), fails).wait()), ErrorKind::Aborted);
        assert_eq!(disk.calls(), calls, "nothing was written");
        let progress = store.progress(&key("order")).unwrap().unwrap();
        assert_eq!((progress.state(), progress.checkpoint().unwrap().name()), (State::Owned, "paid"));
        assert_eq!(rows(&store), 0);
        assert!(matches!(store.claim(&key("order"), request()).wait().unwrap(), Claim::Wait(_)));
        // It goes on as if nothing had been.
        does(&mut order, "mail", "sent");
        assert_eq!(order.advance_with("cooked", &(), put("cooked")).wait().unwrap().get(), 2);
        let outcome = order.complete_with(&"done".to_owned(), put("done")).wait().unwrap();
        assert_eq!(outcome.decode::<String>().unwrap(), "done");
        assert_eq!(rows(&after_a_cut(&disk)), 2);
        drop(order);
        store.verify().unwrap();
    }
}

#[test]
fn what_a_closure_returned_or_panicked_with_is_in_the_error() {
    let store = in_memory();
    let mut order = run(&store, &key("order"));
    let error = order.advance_with("cooked", &(), FAILS[0]).wait().unwrap_err();
    let source = error.source().expect("the closure's own error");
    assert_eq!(source.downcast_ref::<io::Error>().unwrap().to_string(), "no such pizza");
    let error = order.advance_with("cooked", &(), FAILS[1]).wait().unwrap_err();
    assert!(error.to_string().contains("no such pizza"), "{error}");
    let error = block_on(order.advance_with("cooked", &(), FAILS[2])).unwrap_err();
    assert!(error.to_string().contains("panicked"), "{error}");
    order.complete(&()).wait().unwrap();
    store.verify().unwrap();
}

#[test]
fn after_complete_with_every_call_of_the_run_is_finished() {
    let store = in_memory();
    let mut order = run(&store, &key("order"));
    does(&mut order, "charge", "paid");
    order.complete_with(&"done".to_owned(), put("done")).wait().unwrap();
    assert_eq!(kind(order.complete_with(&(), put("again")).wait()), ErrorKind::Finished);
    assert_eq!(kind(order.fail_with(&(), put("again")).wait()), ErrorKind::Finished);
    assert_eq!(kind(order.advance("again", &()).wait()), ErrorKind::Finished);
    assert_eq!(kind(order.advance_with("again", &(), put("again")).wait()), ErrorKind::Finished);
    assert_eq!(kind(order.renew().wait()), ErrorKind::Finished);
    assert_eq!(kind(order.refresh()), ErrorKind::Finished);
    assert_eq!(kind(order.step("charge").run_keyed(support::never::<String>)), ErrorKind::Finished);
    assert_eq!(kind(order.step("mail").run_keyed(support::never::<String>)), ErrorKind::Finished);
    assert_eq!(kind(order.complete(&()).wait()), ErrorKind::Finished);
    let Claim::Replay(outcome) = store.claim(&key("order"), request()).wait().unwrap() else { panic!("it is over") };
    assert_eq!((outcome.decode::<String>().unwrap().as_str(), rows(&store)), ("done", 1));
    store.verify().unwrap();
}

#[test]
fn p1_p7_who_waits_goes_on_waiting_through_an_abort_and_gets_the_outcome() {
    let store = in_memory();
    let mut order = run(&store, &key("order"));
    let mut waiter = stand_in_line(&store, &key("order"));
    for fails in FAILS {
        assert_eq!(kind(order.complete_with(&(), fails).wait()), ErrorKind::Aborted);
        settle(&store);
        assert!(support::poll(&mut waiter, &support::Wakes::new()).is_pending());
    }
    order.complete_with(&"done".to_owned(), put("done")).wait().unwrap();
    let Claim::Replay(outcome) = waiter.wait().unwrap() else { panic!("it is over") };
    assert_eq!(outcome.decode::<String>().unwrap(), "done");
    store.verify().unwrap();
}

#[test]
fn p7_a_run_that_is_dropped_while_its_closure_fails_is_free_and_its_waiter_enters() {
    let gate = Gate::new();
    let store = Store::builder().clock(gate.clone()).in_memory().unwrap();
    let mut order = run(&store, &key("order"));
    let waiter = stand_in_line(&store, &key("order"));
    gate.hold(&store);
    let pending = order.complete_with(&(), FAILS[1]);
    drop(order);
    gate.open();
    assert_eq!(kind(pending.wait()), ErrorKind::Aborted);
    assert_eq!(support::run_of(waiter.wait().unwrap()).attempt(), 2);
    assert_eq!(rows(&store), 0);
    store.verify().unwrap();
}

/// A change of one of several runs in a batch.
fn change(run: &mut Run, nth: usize, calls: &Arc<AtomicUsize>, fails: Option<Fails>) -> Pending<Revision> {
    let calls = Arc::clone(calls);
    run.advance_with("cooked", &(), move |tx| {
        calls.fetch_add(1, Ordering::SeqCst);
        let mut orders = tx.open_table(ORDERS)?;
        orders.insert(format!("{nth}"), "row")?;
        drop(orders);
        // The rows of those before it in the batch are there, as long as nobody knows that they fail.
        fails.map_or(Ok(()), |fails| fails(tx))
    })
}

#[test]
fn p8_in_one_batch_the_others_commit_although_some_closures_fail() {
    let gate = Gate::new();
    let store = Store::builder().clock(gate.clone()).in_memory().unwrap();
    let mut runs: Vec<_> = (0..9).map(|nth| run(&store, &key(&format!("{nth}")))).collect();
    let calls: Vec<Arc<AtomicUsize>> = (0..9).map(|_| Arc::default()).collect();
    let fails = |nth: usize| (nth % 3 == 1).then(|| FAILS[nth / 3]);
    let commits = store.stats().unwrap().commits;
    gate.hold(&store);
    let mut answers = Vec::new();
    for (nth, run) in runs.iter_mut().enumerate() {
        answers.push(change(run, nth, &calls[nth], fails(nth)));
    }
    // What has no rows of its own, and what is only looked at, is in the same batch.
    let (claim, forgotten) = (store.claim(&key("beside"), request()), store.forget(&key("unknown")));
    let deferred = store.claim(&key("deferred"), reentry::Request::from(request()).deferred());
    gate.open();
    for (nth, answer) in answers.into_iter().enumerate() {
        match (answer.wait(), fails(nth)) {
            (Ok(revision), None) => assert_eq!(revision.get(), 1),
            (Err(error), Some(_)) => assert_eq!(error.kind(), ErrorKind::Aborted),
            (other, _) => panic!("{nth}: {other:?}"),
        }
        assert_eq!(has_row(&store, &nth.to_string()), fails(nth).is_none(), "{nth}");
        let progress = store.progress(&key(&nth.to_string())).unwrap().unwrap();
        assert_eq!(progress.checkpoint().is_some(), fails(nth).is_none());
        assert_eq!(progress.state(), State::Owned);
    }
    assert_eq!(store.stats().unwrap().commits, commits + 4, "what comes behind one that failed is a batch of its own");
    let calls: Vec<_> = calls.iter().map(|calls| calls.load(Ordering::SeqCst)).collect();
    assert_eq!(calls, [2, 1, 2, 2, 1, 2, 2, 1, 1], "done twice at most, and one that failed is not called again");
    let (beside, deferred) = (support::run_of(claim.wait().unwrap()), support::run_of(deferred.wait().unwrap()));
    assert!(beside.token() < deferred.token() && !forgotten.wait().unwrap());
    for run in &mut runs {
        run.complete_with(&(), |_| Ok(())).wait().unwrap();
    }
    drop((runs, beside, deferred));
    store.verify().unwrap();
}

/// One that gives its row away can be called once only. It is done again where one behind it in the batch fails.
#[test]
fn p8_a_closure_that_fails_when_it_is_called_again_takes_nobody_along_who_stands_behind_it() {
    let gate = Gate::new();
    let store = Store::builder().clock(gate.clone()).in_memory().unwrap();
    let [mut once, mut fails, ends] = ["once", "fails", "ends"].map(|name| run(&store, &key(name)));
    gate.hold(&store);
    let mut row = Some("row");
    let given = once.advance_with("cooked", &(), move |tx| {
        tx.open_table(ORDERS)?.insert("once", row.take().ok_or("it was given away")?)?;
        Ok(())
    });
    let failed = fails.advance_with("cooked", &(), FAILS[0]);
    let (claimed, ended) = (store.claim(&key("new"), request()), ends.complete(&"done".to_owned()));
    gate.open();
    assert_eq!([kind(given.wait()), kind(failed.wait())], [ErrorKind::Aborted; 2]);
    assert_eq!(support::run_of(claimed.wait().unwrap()).attempt(), 1);
    assert_eq!(ended.wait().unwrap().decode::<String>().unwrap(), "done");
    assert_eq!(rows(&store), 0);
    drop((once, fails));
    store.verify().unwrap();
}

#[test]
fn p8_a_closure_is_called_only_where_its_change_is_made() {
    let store = in_memory();
    let never = |_: &Transaction<'_>| -> Result<(), Source> { panic!("its change is not made") };
    let mut order = run(&store, &key("order"));
    assert_eq!(kind(order.advance_with("", &(), never).wait()), ErrorKind::InvalidName);
    drop(store.advance(&key("order"), Revision::NONE, "theirs", &()).wait().unwrap());
    assert_eq!(kind(order.advance_with("mine", &(), never).wait()), ErrorKind::Conflict);
    let small = Store::builder().payload_bytes_max(1).in_memory().unwrap();
    let mut large = run(&small, &key("large"));
    assert_eq!(kind(large.complete_with(&"too large".to_owned(), never).wait()), ErrorKind::PayloadTooLarge);
    drop(large);
    store.revoke(&key("order")).wait().unwrap();
    assert_eq!(kind(order.complete_with(&(), never).wait()), ErrorKind::Fenced);
    drop(order);
    small.verify().unwrap();
    store.verify().unwrap();
}

#[test]
fn p8_a_reader_sees_what_is_committed_and_nothing_else() {
    let store = in_memory();
    assert_eq!(rows(&store), 0, "a table that does not exist yet reads as empty");
    let mut order = run(&store, &key("order"));
    let inner = store.clone();
    let advanced = order.advance_with("cooked", &(), move |tx| {
        let mut orders = tx.open_table(ORDERS)?;
        orders.insert("1", "row")?;
        assert_eq!((orders.len()?, rows(&inner)), (1, 0), "the closure sees its own rows, nobody else does");
        Ok(())
    });
    advanced.wait().unwrap();
    // A reader goes on with what was there when it began.
    let seen = store.read(|tx| {
        order.advance_with("packed", &(), put("2")).wait().unwrap();
        tx.open_table(ORDERS)?.len()
    });
    assert_eq!((seen.unwrap().unwrap(), rows(&store)), (1, 2));
    order.complete(&()).wait().unwrap();
    store.verify().unwrap();
}

/// Space that is freed cannot be used again while somebody reads; that it is missing is told, and it is not lost.
#[test]
fn p8_a_read_that_is_held_for_long_shows_one_moment_and_the_file_grows_no_longer_than_that() {
    let store = in_memory();
    let mut order = run(&store, &key("order"));
    let mut churn = |of: u8| {
        for _ in 0..100 {
            let replaced = order.advance_with("cooked", &(), move |tx| {
                tx.open_table(ORDERS)?.insert("order", vec![of; 64 * 1024].as_slice())?;
                Ok(())
            });
            replaced.wait().unwrap();
        }
        store.stats().unwrap().disk_bytes
    };
    let before = churn(1);
    let held = store.read(|tx| {
        let orders = tx.open_table(ORDERS)?;
        let during = churn(2);
        let row = orders.get("order")?.unwrap();
        assert!(row.iter().all(|byte| *byte == 1));
        assert_eq!(tx.open_table(ORDERS)?.get("order")?.unwrap(), row);
        Ok::<_, reentry::Error>(during)
    });
    let during = held.unwrap().unwrap();
    assert!(during > before + 50 * 64 * 1024, "{before} bytes, and {during} while it is read");
    for _ in 0..3 {
        let after = churn(3);
        assert!(after <= during, "{during} bytes while it was read, and {after} since");
    }
    drop(order);
    store.verify().unwrap();
}

#[test]
fn p8_the_stores_own_tables_are_out_of_reach_by_name() {
    let store = in_memory();
    let mut order = run(&store, &key("order"));
    for name in ["reentry/log", "reentry/meta", "reentry/bodies", "reentry/tombstones", "reentry/", "reentry/mine", ""]
    {
        let table = Table::new(name);
        let opened = order.advance_with("own", &(), move |tx| {
            let error = tx.open_table(table).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidName);
            Err(error.into())
        });
        let error = opened.wait().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Aborted);
        let source = error.source().unwrap().downcast_ref::<reentry::Error>().unwrap();
        assert_eq!(source.kind(), ErrorKind::InvalidName, "{name}");
        assert_eq!(kind(store.read(|tx| tx.open_table(table).map(drop)).unwrap()), ErrorKind::InvalidName, "{name}");
    }
    // Names that only look alike are the server's, and a refused table spoils nothing else.
    for name in ["reentry", "Reentry/log", "my/reentry/log"] {
        let table = Table::new(name);
        let written = order.advance_with("mine", &(), move |tx| {
            assert!(tx.open_table(Table::new("reentry/log")).is_err());
            tx.open_table(table)?.insert("k", "v")?;
            Ok(())
        });
        written.wait().unwrap();
    }
    order.complete(&()).wait().unwrap();
    store.verify().unwrap();
}

#[test]
fn p8_rows_that_do_not_fit_on_a_full_disk_are_refused_with_the_change() {
    let disk = SimulatedDisk::new();
    let store = Store::builder().open_on(&disk).unwrap();
    let mut order = run(&store, &key("order"));
    disk.set_room(Some(0));
    let large = |tx: &Transaction<'_>| -> Result<(), Source> {
        let mut orders = tx.open_table(ORDERS)?;
        for nth in 0..64_u32 {
            orders.insert(nth.to_be_bytes(), vec![7; 65_536])?;
        }
        Ok(())
    };
    assert_eq!(kind(order.advance_with("large", &(), large).wait()), ErrorKind::Full);
    assert!(order.checkpoint().is_none());
    disk.set_room(None);
    // It mends itself in a moment, and until then says so.
    while let Err(error) = order.advance_with("large", &(), large).wait() {
        assert_eq!(error.kind(), ErrorKind::Full);
    }
    let left = after_a_cut(&disk);
    assert_eq!((rows(&left), left.progress(&key("order")).unwrap().unwrap().checkpoint().is_some()), (64, true));
    left.verify().unwrap();
    order.complete(&()).wait().unwrap();
    store.verify().unwrap();
}

#[test]
fn p8_an_answer_that_nobody_takes_changes_nothing_of_both_or_neither() {
    let store = in_memory();
    let mut order = run(&store, &key("order"));
    drop(order.advance_with("cooked", &(), put("cooked")));
    drop(order.complete_with(&"done".to_owned(), put("done")));
    settle(&store);
    let progress = store.progress(&key("order")).unwrap().unwrap();
    assert_eq!(has_row(&store, "cooked"), progress.checkpoint().is_some());
    assert_eq!(has_row(&store, "done"), progress.state() == State::Succeeded);
    drop(order);
    store.verify().unwrap();
}

#[test]
fn p8_several_tables_and_removed_rows_go_with_the_same_commit() {
    let disk = SimulatedDisk::new();
    let store = Store::builder().open_on(&disk).unwrap();
    let mut order = run(&store, &key("order"));
    order.advance_with("cooked", &(), put("order")).wait().unwrap();
    let moved = order.complete_with(&(), |tx| {
        let (mut orders, mut mails) = (tx.open_table(ORDERS)?, tx.open_table(MAILS)?);
        let row = orders.remove("order")?.ok_or("no order")?;
        mails.insert("order", row)?;
        Ok(())
    });
    let _: Outcome = moved.wait().unwrap();
    for at in 0..=disk.calls() {
        let left = Store::builder().open_on(&disk.cut(at, |_| Loss::Kept)).unwrap();
        let mails = left.read(|tx| tx.open_table(MAILS)?.len()).unwrap().unwrap();
        let stage =
            left.progress(&key("order")).unwrap().map(|progress| (progress.state(), progress.checkpoint().is_some()));
        let expected = match stage {
            Some((State::Succeeded, _)) => (0, 1),
            Some((_, true)) => (1, 0),
            _ => (0, 0),
        };
        assert_eq!((rows(&left), mails), expected, "cut at {at}");
    }
    store.verify().unwrap();
}

/// Drops the run as it is woken, on the thread that answers it, and notes whether the operation is free at that moment.
struct DropsTheRun {
    store: Store,
    run: Mutex<Option<Run>>,
    seen: Mutex<Option<State>>,
}

impl Wake for DropsTheRun {
    fn wake(self: Arc<Self>) {
        let run = self.run.lock().unwrap().take();
        drop(run);
        let state = self.store.progress(&key("order")).unwrap().unwrap().state();
        self.seen.lock().unwrap().get_or_insert(state);
    }
}

/// The answer is there once nothing but the run owns: whoever gives up at an error has given the operation free.
#[test]
fn p7_a_run_that_is_dropped_at_the_error_of_its_end_is_free_at_that_moment() {
    let disk = SimulatedDisk::new();
    let store = Store::builder().open_by_hand(&disk).unwrap();
    let full = DiskFault::kind(io::ErrorKind::StorageFull).on(DiskCall::GROWS);
    for (expected, fault) in [(ErrorKind::Aborted, None), (ErrorKind::Full, Some(full))] {
        let claim = store.claim(&key("order"), request());
        store.work_by_hand();
        let Claim::Run(mut owner) = claim.wait().unwrap() else { panic!("it is free") };
        let fails = fault.is_none();
        let mut ends = owner.complete_with(&(), move |_| if fails { Err("no".into()) } else { Ok(()) });
        let (run, seen) = (Mutex::new(Some(owner)), Mutex::default());
        let drops = Arc::new(DropsTheRun { store: store.clone(), run, seen });
        let waker = Waker::from(Arc::clone(&drops));
        assert!(Pin::new(&mut ends).poll(&mut Context::from_waker(&waker)).is_pending());
        disk.fail(fault);
        store.work_by_hand();
        disk.fail(None);
        assert_eq!(*drops.seen.lock().unwrap(), Some(State::Unfinished), "{expected:?}");
        assert_eq!(kind(ends.wait()), expected);
    }
    let claim = store.claim(&key("order"), request());
    store.work_by_hand();
    assert!(matches!(claim.wait().unwrap(), Claim::Run(run) if run.attempt() == 3));
    store.verify().unwrap();
}
