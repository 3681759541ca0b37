//! The decision table of `Store::claim`, line by line, on a real file.

use std::time::Duration;

use reentry::{Advance, Claim, ErrorKind, Fingerprint, Key, ManualClock, Revision, State, Store, Timestamp};

const HOUR: Duration = Duration::from_secs(3600);

struct World {
    clock: ManualClock,
    store: Store,
    key: Key,
    request: Fingerprint,
    _folder: tempfile::TempDir,
}

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(Timestamp::from_millis(1_700_000_000_000));
    let builder = Store::builder().clock(clock.clone()).retention(24 * HOUR).tombstones(24 * HOUR);
    let store = builder.open(folder.path().join("orders.reentry")).unwrap();
    let key = Key::new("orders/customer-1", "key-1").unwrap();
    World { clock, store, key, request: Fingerprint::of("two pizzas"), _folder: folder }
}

impl World {
    fn claim(&self) -> Claim {
        self.store.claim(&self.key, self.request).wait().unwrap()
    }

    fn run(&self) -> reentry::Run {
        match self.claim() {
            Claim::Run(run) => run,
            other => panic!("expected a run, got {other:?}"),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.store.verify().unwrap();
        }
    }
}

#[test]
fn p1_a_fresh_key_is_run_and_a_second_claim_waits() {
    let world = world();
    let run = world.run();
    assert_eq!((run.attempt(), run.checkpoint()), (1, None));
    let Claim::Wait(busy) = world.claim() else { panic!("a run is at work") };
    assert_eq!((busy.attempt(), busy.since()), (1, run.since()));
}

#[test]
fn p3_the_next_run_begins_where_the_last_one_stopped() {
    let world = world();
    let mut run = world.run();
    let first = run.advance("paid", &"receipt 7".to_owned()).wait().unwrap();
    assert_eq!(first.get(), 1);
    drop(run);
    let run = world.run();
    let checkpoint = run.checkpoint().unwrap();
    assert_eq!((run.attempt(), checkpoint.name(), checkpoint.revision()), (2, "paid", first));
    assert_eq!(checkpoint.decode::<String>().unwrap(), "receipt 7");
}

#[test]
fn p5_every_later_claim_gets_the_same_outcome() {
    let world = world();
    world.run().complete(&b"receipt".to_vec()).wait().unwrap();
    for _ in 0..3 {
        let Claim::Replay(outcome) = world.claim() else { panic!("it is over") };
        assert!(outcome.is_success());
        assert_eq!(outcome.bytes(), b"receipt");
    }
}

#[test]
fn p5_a_final_failure_is_replayed_as_such() {
    let world = world();
    world.run().fail(&"card stolen".to_owned()).wait().unwrap();
    let Claim::Replay(outcome) = world.claim() else { panic!("it is over") };
    assert!(!outcome.is_success());
    assert_eq!(outcome.decode::<String>().unwrap(), "card stolen");
}

#[test]
fn p5_another_fingerprint_is_rejected_at_any_time() {
    let world = world();
    let reject = |what: &str| {
        let claim = world.store.claim(&world.key, Fingerprint::of("other")).wait().unwrap();
        assert!(matches!(claim, Claim::Reject(_)), "{what}: {claim:?}");
    };
    let run = world.run();
    reject("in flight");
    drop(run);
    reject("unfinished");
    world.run().complete(&()).wait().unwrap();
    reject("completed");
    world.clock.advance(24 * HOUR);
    reject("tombstone");
}

#[test]
fn p5_p6_p11_retention_then_tombstone_then_as_if_never_seen() {
    let world = world();
    let mut run = world.run();
    run.advance("paid", &()).wait().unwrap();
    world.clock.advance(1000 * HOUR);
    assert_eq!(world.store.progress(&world.key).unwrap().unwrap().state(), State::Owned, "P6: unfinished is kept");
    run.complete(&"done".to_owned()).wait().unwrap();
    world.clock.advance(23 * HOUR + Duration::from_millis(3_599_999));
    assert!(matches!(world.claim(), Claim::Replay(_)), "a millisecond before its deadline");
    world.clock.advance(Duration::from_millis(1));
    let Claim::Gone(_) = world.claim() else { panic!("now >= deadline is expired") };
    assert_eq!(world.store.progress(&world.key).unwrap().unwrap().state(), State::Gone);
    world.clock.advance(24 * HOUR);
    assert!(world.store.progress(&world.key).unwrap().is_none());
    let run = world.run();
    assert_eq!((run.attempt(), run.checkpoint()), (1, None), "P6: nothing of the old incarnation shows");
}

#[test]
fn p7_dropping_a_run_frees_it_at_that_moment() {
    let world = world();
    for attempt in 1..5 {
        let run = world.run();
        assert_eq!(run.attempt(), attempt);
    }
}

#[test]
fn p7_a_panic_while_owning_frees_the_operation_and_keeps_its_record() {
    let world = world();
    let (store, key, request) = (world.store.clone(), world.key.clone(), world.request);
    let died = std::thread::spawn(move || {
        let Claim::Run(mut run) = store.claim(&key, request).wait().unwrap() else { return };
        run.advance("paid", &()).wait().unwrap();
        panic!("the handler dies");
    });
    died.join().unwrap_err();
    let run = world.run();
    assert_eq!((run.attempt(), run.checkpoint().unwrap().name()), (2, "paid"));
}

#[test]
fn p7_a_claim_whose_answer_nobody_takes_is_given_back() {
    let world = world();
    for _ in 0..50 {
        drop(world.store.claim(&world.key, world.request));
    }
    let run = world.run();
    assert!(run.attempt() >= 1);
}

#[test]
fn p7_a_revoked_run_changes_nothing_more() {
    let world = world();
    let mut old = world.run();
    assert!(world.store.revoke(&world.key).wait().unwrap());
    let new = world.run();
    assert!(new.token() > old.token());
    assert_eq!(old.advance("x", &()).wait().unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(old.complete(&()).wait().unwrap_err().kind(), ErrorKind::Fenced);
    let progress = world.store.progress(&world.key).unwrap().unwrap();
    assert_eq!((progress.state(), progress.attempt()), (State::Owned, 2), "the new run still owns it");
    drop(new);
    assert!(!world.store.revoke(&world.key).wait().unwrap(), "nobody owns it");
}

#[test]
fn p3_a_non_owner_moves_the_checkpoint_by_compare_and_set() {
    let world = world();
    let mut run = world.run();
    run.advance("waiting for payment", &()).wait().unwrap();
    let seen = run.checkpoint().unwrap().revision();
    let advance = |expected| world.store.advance(&world.key, expected, "paid", &"webhook".to_owned()).wait().unwrap();
    let Advance::Lost(Some(current)) = advance(Revision::NONE) else { panic!("a stale revision loses") };
    assert_eq!(current.revision(), seen);
    let Advance::Moved(moved) = advance(seen) else { panic!("the right revision wins") };
    assert_eq!(run.advance("mine", &()).wait().unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(run.checkpoint().unwrap(), moved, "the loser gets the current one");
    run.advance("mine", &()).wait().unwrap();
}

#[test]
fn advancing_what_is_unknown_or_over_is_an_error() {
    let world = world();
    let kind = || world.store.advance(&world.key, Revision::NONE, "x", &()).wait().unwrap_err().kind();
    assert_eq!(kind(), ErrorKind::NotFound);
    world.run().complete(&()).wait().unwrap();
    assert_eq!(kind(), ErrorKind::Finished);
}

#[test]
fn forgetting_makes_the_key_new_and_refuses_while_it_is_owned() {
    let world = world();
    assert!(!world.store.forget(&world.key).wait().unwrap());
    let run = world.run();
    assert_eq!(world.store.forget(&world.key).wait().unwrap_err().kind(), ErrorKind::Busy);
    run.complete(&vec![7_u8; 5_000]).wait().unwrap();
    assert!(world.store.forget(&world.key).wait().unwrap());
    assert!(world.store.progress(&world.key).unwrap().is_none());
    assert_eq!(world.run().attempt(), 1);
}

#[test]
fn p6_unfinished_lists_what_nobody_finished_oldest_first() {
    let world = world();
    let keys: Vec<_> = (0..600).map(|n| Key::new("orders", n.to_string()).unwrap()).collect();
    for (n, key) in keys.iter().enumerate() {
        let Claim::Run(mut run) = world.store.claim(key, world.request).wait().unwrap() else { panic!() };
        if n % 3 == 0 {
            run.complete(&()).wait().unwrap();
        } else {
            run.advance("half", &()).wait().unwrap();
        }
    }
    let listed: Vec<_> = world.store.unfinished().map(|p| p.unwrap().key().clone()).collect();
    let expected: Vec<_> = keys.iter().enumerate().filter(|(n, _)| n % 3 != 0).map(|(_, key)| key.clone()).collect();
    assert_eq!(listed, expected);
}

#[test]
fn an_unfinished_operation_is_claimed_without_its_request() {
    let world = world();
    let claim = || world.store.claim_unfinished(&world.key).wait();
    assert_eq!(claim().unwrap_err().kind(), ErrorKind::NotFound);
    drop(world.run());
    let Claim::Run(run) = claim().unwrap() else { panic!("it is unfinished and free") };
    assert_eq!(run.attempt(), 2);
    run.complete(&()).wait().unwrap();
    assert!(matches!(claim().unwrap(), Claim::Replay(_)));
}

#[test]
fn a_large_payload_survives_moves_and_is_removed_with_its_record() {
    let world = world();
    let large = vec![5_u8; 700_000];
    let mut run = world.run();
    run.advance("large", &large).wait().unwrap();
    drop(run);
    let run = world.run();
    assert_eq!(run.checkpoint().unwrap().bytes(), large);
    run.complete(&large).wait().unwrap();
    let Claim::Replay(outcome) = world.claim() else { panic!() };
    assert_eq!(outcome.bytes(), large);
    assert_eq!(world.store.verify().unwrap().payload_rows, 2);
    world.store.forget(&world.key).wait().unwrap();
    assert_eq!(world.store.verify().unwrap().payload_rows, 0);
}

/// Nothing is made of what no store could keep, no fingerprint either: it must not bind the key to nothing.
#[test]
fn p5_a_request_that_no_store_could_keep_is_refused_where_something_else_is_kept_too() {
    let world = world();
    let request = reentry::Request::of(vec![0; (1 << 30) + 1]).keep(&());
    let refused = world.store.claim(&world.key, request).wait().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::PayloadTooLarge);
    assert!(world.store.progress(&world.key).unwrap().is_none());
}
