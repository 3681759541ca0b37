//! Claims of one key, made at one moment (P1, P7).

use reentry::Claim;
use shuttle::thread;

use crate::world::{check, end, key, open, request, run_of};

#[test]
fn p1_of_two_claims_at_one_moment_one_runs_and_the_other_waits() {
    check(|| {
        let store = open();
        let other = store.clone();
        let other = thread::spawn(move || other.claim(&key(), request()).wait().unwrap());
        let claims = [store.claim(&key(), request()).wait().unwrap(), other.join().unwrap()];
        let runs = claims.iter().filter(|claim| matches!(claim, Claim::Run(run) if run.attempt() == 1)).count();
        let waits = claims.iter().filter(|claim| matches!(claim, Claim::Wait(busy) if busy.attempt() == 1)).count();
        assert_eq!((runs, waits), (1, 1));
        drop(claims);
        let run = run_of(store.claim(&key(), request()).wait().unwrap());
        assert_eq!(run.attempt(), 2);
        drop(run);
        end(&store);
    });
}
