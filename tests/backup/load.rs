//! Copies of a real file while threads write as fast as they can.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use reentry::{Claim, Store};
use tempfile::tempdir_in;

use crate::chain::{Chain, moves_of};
use crate::support::{key, request, run};

const COPIES: usize = 12;
const CHAINS: usize = 3;
const CLAIMERS: usize = 4;

#[test]
fn p2_a_copy_under_load_shows_a_moment_between_the_call_and_its_answer() {
    // On the disk that the build is on: the system's own for temporary files is often none.
    let folder = tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = Store::open(folder.path().join("orders.reentry")).unwrap();
    let (moves, claimed) = ([const { AtomicU64::new(0) }; CHAINS], [const { AtomicU64::new(0) }; CLAIMERS]);
    let is_over = AtomicBool::new(false);
    let store_of_all = &store;
    thread::scope(|scope| {
        for (nth, moves) in moves.iter().enumerate() {
            let is_over = &is_over;
            scope.spawn(move || {
                let mut chain = Chain::new(store_of_all, &nth.to_string());
                while !is_over.load(Ordering::Relaxed) {
                    moves.store(chain.go_on(), Ordering::Release);
                }
            });
        }
        for (nth, claimed) in claimed.iter().enumerate() {
            let is_over = &is_over;
            scope.spawn(move || {
                for done in 1.. {
                    let key = key(&format!("claimer {nth} {done}"));
                    run(store_of_all, &key).complete(&"o".repeat(done % 3_000)).wait().unwrap();
                    // Some go again, so that pages are freed and used anew.
                    if done % 3 == 0 {
                        store_of_all.forget(&key).wait().unwrap();
                    }
                    claimed.store(done as u64, Ordering::Release);
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
        }
        // A copy that fails ends the others too.
        let _over = Over(&is_over);
        for nth in 0..COPIES {
            let told = || (moves.each_ref().map(load), claimed.each_ref().map(load));
            let path = folder.path().join(format!("{nth}.reentry"));
            let (least, least_claimed) = told();
            store_of_all.backup(&path).unwrap();
            let (most, _) = told();
            let restored = Store::open(&path).unwrap();
            for (nth, (least, most)) in least.iter().zip(most).enumerate() {
                let shown = moves_of(&restored, &nth.to_string());
                // One more may have been committed and not been acknowledged yet.
                assert!((*least..=most + 1).contains(&shown), "{shown} of {least}..={most}");
            }
            for (nth, least) in least_claimed.iter().enumerate().filter(|(_, least)| **least % 3 != 0) {
                let claim = restored.claim(&key(&format!("claimer {nth} {least}")), request()).wait().unwrap();
                assert!(matches!(claim, Claim::Replay(_)), "what was acknowledged is not in the copy");
            }
            restored.verify().unwrap();
        }
    });
    store.verify().unwrap();
}

/// Ends the threads when it goes.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn load(count: &AtomicU64) -> u64 {
    count.load(Ordering::Acquire)
}
