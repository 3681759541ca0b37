//! Every single bit of a small store flipped in turn: `verify` finds it, or it provably does not matter: it says that
//! all is well, and every operation reads back to the last byte.
//!
//! A sample by default. All bits, on a machine that has hours:
//!
//! ```sh
//! REENTRY_DAMAGE_FULL=1 cargo test --release --test cli flipped -- --nocapture
//! ```

use std::fs;
use std::sync::Arc;

use reentry::{ErrorKind, ManualClock, SimulatedDisk, Store};

use super::support::{key, run, times_out};
use super::tool::{HOUR, NEW_YEAR_2100, Place, disputed, shop};

fn builder(clock: &ManualClock) -> reentry::Builder {
    Store::builder().clock(clock.clone()).retention(24 * HOUR).tombstones(1_000 * HOUR).cache_bytes(1 << 20)
}

/// Every kind of operation, with payloads in their rows and apart.
fn fill(store: &Store, clock: &ManualClock) {
    shop(store, clock);
    disputed(store, clock);
    run(store, &key("apart")).complete(&vec![3_u8; 3_000]).wait().unwrap();
    let mut open = run(store, &key("open"));
    open.advance("half", &vec![4_u8; 2_000]).wait().unwrap();
    times_out(&mut open, "mail");
}

/// What the tool tells of every operation, to the last byte, or that the store is damaged.
fn told(builder: reentry::Builder, disk: &SimulatedDisk) -> Result<String, ErrorKind> {
    let read = || {
        let store = builder.open_to_read_on(disk)?;
        store.verify()?;
        let mut lines = Vec::new();
        store.export(&mut lines, |_| std::ops::ControlFlow::Continue(()))?;
        Ok::<_, reentry::Error>(String::from_utf8(lines).unwrap())
    };
    read().map_err(|error| error.kind())
}

#[test]
fn p10_every_flipped_bit_is_found_by_verify_or_does_not_matter() {
    let (disk, clock) = (SimulatedDisk::new(), ManualClock::at(NEW_YEAR_2100));
    let store = builder(&clock).open_on(&disk).unwrap();
    fill(&store, &clock);
    store.close().unwrap();
    let mut image = Arc::new(disk.image());
    let expected = told(builder(&clock), &SimulatedDisk::from_image(Arc::clone(&image))).unwrap();
    assert_eq!(expected.lines().count(), 9 + 2);
    let is_full = std::env::var_os("REENTRY_DAMAGE_FULL").is_some_and(|value| value == "1");
    let stride = if is_full { 1 } else { 1009 };
    let (mut found, mut harmless) = (0_u64, 0_u64);
    for bit in (0..image.len() * 8).step_by(stride) {
        flip(&mut image, bit);
        let flipped = SimulatedDisk::from_image(Arc::clone(&image));
        match told(builder(&clock), &flipped) {
            Ok(told) => {
                assert!(told == expected, "bit {bit} changed what is told, and verify did not find it");
                harmless += 1;
            }
            Err(kind) => {
                let expected = [ErrorKind::Corrupt, ErrorKind::NotAStore, ErrorKind::NewerFormat];
                assert!(expected.contains(&kind), "bit {bit}: {kind:?}");
                found += 1;
            }
        }
        assert_eq!(flipped.calls(), 0, "bit {bit}: the file was written to");
        drop(flipped);
        flip(&mut image, bit);
    }
    println!("{} bytes, every {stride}th bit: {found} found, {harmless} harmless", image.len());
    assert!(found > harmless / 20, "{found} found, {harmless} harmless");
}

fn flip(image: &mut Arc<Vec<u8>>, bit: usize) {
    Arc::make_mut(image)[bit / 8] ^= 1 << (bit % 8);
}

/// A handful through the tool itself: its exit status says what it found.
#[test]
fn p10_the_exit_status_tells_whether_a_flipped_bit_matters() {
    let place = Place::new(fill);
    let (image, expected) = (place.image(), place.run(&["export", "orders.reentry"]).out);
    let (mut found, mut harmless) = (0, 0);
    for at in (0..image.len()).filter(|at| image[*at] != 0).step_by(397).chain([image.len() - 1, image.len() / 2]) {
        let mut flipped = image.clone();
        flipped[at] ^= 16;
        fs::write(place.store(), &flipped).unwrap();
        let told = place.run(&["verify", "orders.reentry"]);
        match told.status {
            0 => {
                assert_eq!(place.run(&["export", "orders.reentry"]).out, expected, "byte {at}");
                harmless += 1;
            }
            status => {
                assert!(status == 1 && told.out.is_empty() && told.err.starts_with("reentry: "), "byte {at}: {told:?}");
                found += 1;
            }
        }
        assert!(place.image() == flipped, "byte {at}: the file was changed");
    }
    assert!(found > 3 && harmless > 0, "{found} found, {harmless} harmless");
}
