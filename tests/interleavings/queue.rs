//! A full queue: callers wait outside, one gives up, and all others are let in.

use reentry::{Claim, Key, Store};
use shuttle::thread;

use crate::world::{builder, check, disk, end, poll_once, request};

/// Claims a key, waiting for who is at work on it.
fn claims(store: &Store, nth: u32) -> bool {
    let key = Key::new("orders", nth.to_string()).unwrap();
    match store.claim(&key, request()).wait().unwrap() {
        Claim::Wait(busy) => matches!(busy.outcome().wait().unwrap(), Claim::Run(_)),
        claim => matches!(claim, Claim::Run(_)),
    }
}

#[test]
fn whoever_waits_outside_a_full_queue_gets_in() {
    check(|| {
        let store = builder().queue_commands_max(1).open_on(&disk()).unwrap();
        let callers = [1, 2].map(|nth| {
            let store = store.clone();
            thread::spawn(move || assert!(claims(&store, nth)))
        });
        assert!(claims(&store, 3));
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        end(&store);
    });
}

#[test]
fn who_gives_up_outside_a_full_queue_holds_nobody_up() {
    check(|| {
        let store = builder().queue_commands_max(1).open_on(&disk()).unwrap();
        let gives_up = store.clone();
        let gives_up = thread::spawn(move || {
            let key = Key::new("orders", "1").unwrap();
            drop(poll_once(gives_up.claim(&key, request())));
        });
        let stays = store.clone();
        let stays = thread::spawn(move || assert!(claims(&stays, 2)));
        // What was granted to who gave up was given back.
        assert!(claims(&store, 3));
        gives_up.join().unwrap();
        stays.join().unwrap();
        assert!(claims(&store, 1));
        end(&store);
    });
}
