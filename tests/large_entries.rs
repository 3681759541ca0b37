//! An entry of the journal is as large as what a batch changes: whatever its size, it comes back after a crash.

mod support;

use reentry::{Claim, Loss, SimulatedDisk, Store};
use support::{head_bytes, key, request, run};

const PAGE: usize = 4096;

/// How many operations redb holds by itself: those of the file without its journal.
fn in_redb(image: &[u8]) -> usize {
    let mut image = image.to_vec();
    let head = head_bytes(&image);
    image[PAGE..head].fill(0);
    Store::builder().open_to_read_on(&SimulatedDisk::from_image(image)).unwrap().operations().count()
}

/// The disk that a power cut leaves behind an outcome of so many bytes, and behind a claim where one is to follow.
fn left(bytes: usize, is_followed: bool) -> SimulatedDisk {
    let disk = SimulatedDisk::new().with_journal(256);
    let store = Store::builder().open_on(&disk).unwrap();
    run(&store, &key("large")).complete(&vec![7_u8; bytes]).wait().unwrap();
    if is_followed {
        drop(run(&store, &key("behind")));
    }
    disk.cut(disk.calls(), |_| Loss::Lost)
}

#[test]
fn p2_an_outcome_of_any_size_that_only_the_journal_holds_is_there_after_a_crash() {
    for bytes in [1, 4_000, 60_000, 262_000, 300_000, 900_000] {
        for is_followed in [false, true] {
            let left = left(bytes, is_followed);
            assert_eq!(in_redb(&left.image()), 0, "{bytes} bytes are in the journal alone");
            let store = Store::builder().open_on(&left).unwrap();
            let claim = store.claim(&key("large"), request()).wait().unwrap();
            assert!(
                matches!(&claim, Claim::Replay(outcome) if outcome.bytes() == vec![7; bytes]),
                "{bytes}: {claim:?}"
            );
            assert_eq!(store.progress(&key("behind")).unwrap().is_some(), is_followed);
            store.verify().unwrap();
        }
    }
}
