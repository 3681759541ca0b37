//! Closing while calls are on their way: everybody is answered, and what was told is in the file (P2).

use reentry::{Claim, ErrorKind, Key};
use shuttle::thread;

use crate::world::{builder, check, claim_after_others, disk, end, key, request, run_of};

fn other_key() -> Key {
    Key::new("orders", "2").unwrap()
}

#[test]
fn p2_closing_answers_everybody_and_loses_nothing_that_was_told() {
    check(|| {
        let disk = disk();
        let store = builder().open_on(&disk).unwrap();
        let run = run_of(store.claim(&key(), request()).wait().unwrap());
        let in_line = store.clone();
        let in_line = thread::spawn(move || claim_after_others(&in_line).map(drop).unwrap_err().kind());
        let at_work = store.clone();
        let at_work = thread::spawn(move || match at_work.claim(&other_key(), request()).wait() {
            Ok(claim) => matches!(claim, Claim::Run(_)),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Closed);
                false
            }
        });
        store.close().unwrap();
        assert_eq!(in_line.join().unwrap(), ErrorKind::Closed);
        let was_told = at_work.join().unwrap();
        drop((run, store));
        let store = builder().open_on(&disk).unwrap();
        assert!(store.progress(&key()).unwrap().is_some());
        assert!(store.progress(&other_key()).unwrap().is_some() || !was_told);
        end(&store);
    });
}

#[test]
fn p2_the_last_handle_to_go_closes_the_file_on_whichever_thread() {
    check(|| {
        let disk = disk();
        let store = builder().open_on(&disk).unwrap();
        let other = store.clone();
        let other = thread::spawn(move || drop(other.claim(&key(), request()).wait().unwrap()));
        drop(store.claim(&other_key(), request()));
        drop(store);
        other.join().unwrap();
        let store = builder().open_on(&disk).unwrap();
        assert!(store.progress(&key()).unwrap().is_some());
        end(&store);
    });
}
