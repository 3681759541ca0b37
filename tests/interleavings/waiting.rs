//! Waiting for the run at work: everybody in line is answered, and only one runs at a time (P1, P5, P7).

use std::time::Duration;

use reentry::{Claim, ErrorKind, pass_time};
use shuttle::thread;

use crate::world::{Living, check, claim_after_others, end, key, open, poll_once, request, run_of};

#[test]
fn p5_whoever_waits_gets_the_outcome_that_the_run_brings() {
    check(|| {
        let store = open();
        let run = run_of(store.claim(&key(), request()).wait().unwrap());
        let others =
            [store.clone(), store.clone()].map(|store| thread::spawn(move || claim_after_others(&store).unwrap()));
        let outcome = run.complete(&"done".to_owned()).wait().unwrap();
        // From the moment that it is told everybody gets it.
        assert!(matches!(store.claim(&key(), request()).wait().unwrap(), Claim::Replay(again) if again == outcome));
        for other in others {
            assert!(matches!(other.join().unwrap(), Claim::Replay(again) if again == outcome));
        }
        end(&store);
    });
}

#[test]
fn p7_everybody_in_line_has_a_run_when_those_before_give_way() {
    check(|| {
        let (store, living) = (open(), Living::default());
        let run = run_of(store.claim(&key(), request()).wait().unwrap());
        let others = [store.clone(), store.clone()].map(|store| {
            let living = living.clone();
            thread::spawn(move || living.with(run_of(claim_after_others(&store).unwrap()), |run| run.attempt()))
        });
        living.with(run, |_| ());
        let mut attempts = others.map(|other| other.join().unwrap());
        attempts.sort_unstable();
        assert_eq!(attempts, [2, 3]);
        end(&store);
    });
}

#[test]
fn p7_who_leaves_the_line_leaves_it_to_the_next() {
    check(|| {
        let store = open();
        let run = run_of(store.claim(&key(), request()).wait().unwrap());
        let leaves = store.clone();
        let leaves = thread::spawn(move || match leaves.claim(&key(), request()).wait().unwrap() {
            Claim::Wait(busy) => drop(poll_once(busy.outcome())),
            other => drop(other),
        });
        let stays = store.clone();
        let stays = thread::spawn(move || drop(run_of(claim_after_others(&stays).unwrap())));
        run.release();
        leaves.join().unwrap();
        stays.join().unwrap();
        // What the writer grants to who has left is given back in a moment.
        drop(run_of(claim_after_others(&store).unwrap()));
        end(&store);
    });
}

#[test]
fn p7_a_claim_that_is_granted_as_its_time_is_over_is_given_back() {
    check(|| {
        let store = open();
        let run = run_of(store.claim(&key(), request()).wait().unwrap());
        let waits = store.clone();
        let waits = thread::spawn(move || match waits.claim(&key(), request()).wait().unwrap() {
            Claim::Wait(busy) => match busy.outcome().wait_for(Duration::from_secs(1)) {
                Ok(claim) => drop(run_of(claim)),
                Err(error) => assert_eq!(error.kind(), ErrorKind::TimedOut),
            },
            other => drop(run_of(other)),
        });
        let time = thread::spawn(|| pass_time(Duration::from_secs(1)));
        drop(run);
        time.join().unwrap();
        waits.join().unwrap();
        drop(run_of(claim_after_others(&store).unwrap()));
        end(&store);
    });
}
