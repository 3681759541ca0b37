//! What is left of a damaged store that a crash left too, as most are: redb cannot repair it, and all the same it is
//! read.

mod support;

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use reentry::{ErrorKind, Loss, ManualClock, OpenCheck, SimulatedDisk, State, Store};
use support::{START, head_bytes, key, request, run, run_of, tell_own_panics};

const PAGE: usize = 4096;

fn builder() -> reentry::Builder {
    Store::builder().clock(ManualClock::at(START)).cache_bytes(0)
}

/// What redb has by itself.
fn in_redb(image: &[u8]) -> (usize, Option<State>) {
    let mut image = image.to_vec();
    let head = head_bytes(&image);
    image[PAGE..head].fill(0);
    let store = builder().open_to_read_on(&SimulatedDisk::from_image(image)).unwrap();
    (store.operations().count(), store.progress(&key("new")).unwrap().map(|new| new.state()))
}

/// The file of a store of 120 operations that a crash left; its journal alone says that one moved on, one ended and one
/// is new.
fn left_by_a_crash() -> Vec<u8> {
    let disk = SimulatedDisk::new().with_journal(16);
    let store = builder().open_on(&disk).unwrap();
    let large = |nth: u32| vec![u8::try_from(nth % 251).unwrap(); 1_500];
    for nth in 0..120 {
        let mut open = run(&store, &key(&nth.to_string()));
        if nth % 3 == 0 {
            open.advance("paid", &large(nth)).wait().unwrap();
        } else {
            open.complete(&large(nth)).wait().unwrap();
        }
    }
    // This is committed in full.
    assert!(store.forget(&key("1")).wait().unwrap());
    let take = |name: &str| run(&store, &key(name));
    take("0").complete(&"moved on".to_owned()).wait().unwrap();
    take("3").advance("sent", &large(7)).wait().unwrap();
    take("new").complete(&large(9)).wait().unwrap();
    let image = disk.cut(disk.calls(), |_| Loss::Lost).image();
    assert_eq!(in_redb(&image), (119, None));
    image
}

/// What a store tells, oldest first, and what it says of damage.
fn told(store: &Store, newest_first: bool) -> (Vec<String>, Vec<String>) {
    let operations = store.operations();
    let operations = if newest_first { operations } else { operations.oldest_first() };
    let (told, errors): (Vec<_>, Vec<_>) = operations.partition(Result::is_ok);
    let mut told: Vec<_> = told.into_iter().map(|progress| format!("{:?}", progress.unwrap())).collect();
    if newest_first {
        told.reverse();
    }
    (told, errors.into_iter().map(|error| error.unwrap_err().to_string()).collect())
}

/// Looks into a damaged store, of which `all` is true. Returns how many operations are left, and whether something is
/// said to be damaged.
fn look(what: &str, store: &Store, all: &[String]) -> (usize, bool) {
    let (found, errors) = told(store, false);
    let (newest, newest_errors) = told(store, true);
    assert!(found == newest && errors.len() == newest_errors.len(), "{what}: {errors:?}, {newest_errors:?}");
    let says = |part: &str| errors.iter().any(|error| error.contains(part));
    let lacks_journal = says("the journal cannot be read");
    let place = |one| all.iter().position(|each| each == one);
    let places: Vec<_> = found.iter().map(place).collect();
    assert!(lacks_journal || places.iter().all(Option::is_some), "{what}: it tells what is not so, {errors:?}");
    assert!(lacks_journal || places.is_sorted(), "{what}: {found:#?}");
    assert!(found.len() == all.len() || !errors.is_empty(), "{what}: {} in silence", found.len());
    assert!(found.len() < all.len() || !says("the tables count"), "{what}: {errors:?}");
    for name in ["0", "3", "new"].into_iter().filter(|_| !lacks_journal) {
        match store.progress(&key(name)) {
            Ok(progress) => {
                let progress = progress.expect("the journal is whole");
                assert!(found.contains(&format!("{progress:?}")), "{what}");
            }
            // A payload that it had before.
            Err(error) => assert!(errors.contains(&error.to_string()), "{what}: {error}"),
        }
    }
    assert!(store.progress(&key("1")).unwrap().is_none(), "{what}: it was forgotten");
    let exported = store.export_undamaged(io::sink(), |_| ControlFlow::Continue(()), |_| {}).unwrap();
    assert_eq!(exported.operations, found.len() as u64, "{what}");
    (found.len(), !errors.is_empty())
}

/// A server that is killed leaves such a file, and redb then asks for every page of it.
#[test]
fn p10_what_is_left_of_a_damaged_file_that_a_crash_left_is_told_with_what_only_its_journal_holds() {
    tell_own_panics();
    let image = left_by_a_crash();
    let (all, none) = told(&builder().open_to_read_on(&SimulatedDisk::from_image(image.clone())).unwrap(), true);
    assert_eq!((all.len(), none.len()), (120, 0));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.reentry");
    let (mut whole, mut lost) = (0, 0);
    let pages = head_bytes(&image) / PAGE + 1..image.len() / PAGE;
    // In the midst of a page, so that a few of its rows, or its numbers, are hit; and all of it, but that redb with its
    // debug assertions looks at every page's first byte, and gives up.
    let parts = pages.filter(|page| [1, 2].contains(&image[page * PAGE])).filter_map(|page| match page % 8 {
        0 => Some((page, 2..PAGE)),
        1 | 3 | 6 => Some((page, 1_000..1_004)),
        _ => None,
    });
    for (page, part) in parts {
        let what = format!("{} bytes of page {page}", part.len());
        let mut image = image.clone();
        image[page * PAGE..][part.clone()].iter_mut().for_each(|byte| *byte ^= 0x5A);
        fs::write(&path, &image).unwrap();
        let is_refused = builder().open_to_read(&path).is_err_and(|error| error.kind() == ErrorKind::Corrupt);
        let store = builder().check(OpenCheck::Quick).open_damaged(&path).unwrap();
        let (left, is_damaged) = look(&what, &store, &all);
        assert!(left > 90 || part.len() > 4, "{what}: {left} are left");
        assert!(is_refused || left == all.len() && !is_damaged, "{what}");
        whole += usize::from(!is_damaged);
        lost += usize::from(is_damaged);
        drop(store);
        assert!(fs::read(&path).unwrap() == image, "{what}: the file changed");
    }
    assert!(lost > 25 && whole > 10, "{lost} files lack something, {whole} nothing");
}

/// Retention lets many fade at once: an entry has their tombstones, and says by its last that each row has left.
#[test]
fn p5_what_faded_is_told_once_where_only_the_journal_says_so() {
    tell_own_panics();
    let (disk, clock) = (SimulatedDisk::new().with_journal(64), ManualClock::at(START));
    let retention = Duration::from_secs(60);
    let store = builder().clock(clock.clone()).retention(retention).tombstones(retention).open_by_hand(&disk).unwrap();
    let claim = |name: String| {
        let claim = store.claim(&key(&name), request());
        store.work_by_hand();
        run_of(claim.wait().unwrap())
    };
    for nth in 0..60 {
        let done = claim(nth.to_string()).complete(&"done".to_owned());
        drop((claim(format!("open {nth}")), done.wait().unwrap()));
    }
    // This is committed in full.
    let forgotten = store.forget(&key("0"));
    store.work_by_hand();
    assert!(forgotten.wait().unwrap());
    clock.advance(retention);
    (0..3).for_each(|nth| drop(claim(format!("late {nth}"))));
    assert_eq!(store.stats().unwrap().completed, 0);
    let image = disk.cut(disk.calls(), |_| Loss::Lost).image();
    assert_eq!(in_redb(&image).0, 119);
    let mut rescued = 0;
    for page in (head_bytes(&image) / PAGE + 1..image.len() / PAGE).filter(|page| image[page * PAGE] == 1) {
        let mut image = image.clone();
        image[page * PAGE..][1_000..1_004].iter_mut().for_each(|byte| *byte ^= 0x5A);
        let Ok(store) = builder().open_damaged_on(&SimulatedDisk::from_image(image)) else { continue };
        let (found, errors) = told(&store, true);
        if errors.is_empty() || errors.iter().any(|error| error.contains("the journal cannot be read")) {
            continue;
        }
        let mut names: Vec<_> = store.operations().filter_map(Result::ok).map(|found| found.key().clone()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), found.len(), "page {page}: {found:#?}");
        rescued += 1;
    }
    assert!(rescued > 2, "{rescued} files lack something");
}

/// A page of rows that says that it holds one alone hides the others, which nothing but their number tells.
#[test]
fn p10_rows_that_a_damaged_page_hides_are_counted() {
    let image = left_by_a_crash();
    let mut hidden = 0;
    for page in (head_bytes(&image) / PAGE + 1..image.len() / PAGE).filter(|page| image[page * PAGE] == 1) {
        let rows = u16::from_le_bytes([image[page * PAGE + 2], image[page * PAGE + 3]]);
        let mut image = image.clone();
        image[page * PAGE + 2..][..2].copy_from_slice(&1_u16.to_le_bytes());
        let Ok(store) = builder().open_damaged_on(&SimulatedDisk::from_image(image)) else { continue };
        let (found, errors) = told(&store, true);
        assert!(found.len() == 120 || !errors.is_empty(), "page {page}: {} in silence", found.len());
        // Of 119 rows in redb and 3 in the journal, two of which say what became of two others.
        let counted = format!("the tables count 122 rows, of which {} can be read", 122 - rows);
        hidden += usize::from(errors.contains(&counted));
    }
    assert!(hidden > 4, "{hidden} pages of rows were met");
}

/// Makes a leaf of redb's with keys of 8 bytes one without its last row, whole but for its checksum: how many rows,
/// where each value ends, the keys, the values. Returns whether it is one with rows enough.
fn hide_last_row(page: &mut [u8]) -> bool {
    let rows = u16::from_le_bytes([page[2], page[3]]);
    let many = usize::from(rows);
    let end = |row: usize| u32::from_le_bytes(*page[4 + 4 * row..].first_chunk().unwrap());
    let values = 4 + 12 * many;
    if rows < 2 || end(many - 1) as usize > PAGE || end(0) as usize <= values {
        return false;
    }
    let ends: Vec<u8> = (0..many - 1).flat_map(|row| (end(row) - 12).to_le_bytes()).collect();
    let (keys, values) = (&page[4 + 4 * many..][..8 * (many - 1)], &page[values..end(many - 2) as usize]);
    let whole = [&(rows - 1).to_le_bytes(), &*ends, keys, values].concat();
    page[2..][..whole.len()].copy_from_slice(&whole);
    true
}

/// Exchanges the numbers of the first two rows of such a leaf.
fn exchange_rows(page: &mut [u8]) -> bool {
    let rows = usize::from(u16::from_le_bytes([page[2], page[3]]));
    if rows < 2 || 4 + 12 * rows > PAGE {
        return false;
    }
    page[4 + 4 * rows..][..16].rotate_left(8);
    true
}

/// The same of a file that was closed, whose pages nobody checks: a key that is hidden would be run again.
#[test]
fn p1_p10_rows_that_a_damaged_page_hides_or_exchanges_refuse_the_file_though_no_page_is_checked() {
    refuse_the_file(hide_last_row, "the tables count");
    refuse_the_file(exchange_rows, "not in order");
}

/// A page of rows that this was done to refuses the file for this reason.
fn refuse_the_file(damage: fn(&mut [u8]) -> bool, why: &str) {
    let disk = SimulatedDisk::from_image(left_by_a_crash());
    let all = builder().open_on(&disk).unwrap().operations().count();
    let image = disk.image();
    let mut refused = 0;
    for page in (head_bytes(&image) / PAGE + 1..image.len() / PAGE).filter(|page| image[page * PAGE] == 1) {
        let mut image = image.clone();
        if !damage(&mut image[page * PAGE..][..PAGE]) {
            continue;
        }
        let disk = SimulatedDisk::from_image(image.clone());
        match builder().check(OpenCheck::Quick).open_on(&disk) {
            // Each is told, or that its payload is gone.
            Ok(store) => assert_eq!(store.operations().count(), all, "page {page}"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                assert!(disk.image() == image, "page {page}: the file changed");
                refused += usize::from(error.to_string().contains(why));
            }
        }
    }
    assert!(refused > 4, "{why}: {refused} pages of rows were met");
}

/// A page that leads beyond the end of the file costs what it leads to, of a file that was closed too.
#[test]
fn p10_what_a_page_leads_to_beyond_the_end_costs_no_other() {
    tell_own_panics();
    let disk = SimulatedDisk::from_image(left_by_a_crash());
    builder().open_on(&disk).unwrap().close().unwrap();
    let image = disk.image();
    let (mut lost, mut looked) = (0, 0);
    for page in (head_bytes(&image) / PAGE + 1..image.len() / PAGE).filter(|page| image[page * PAGE] == 2) {
        let mut image = image.clone();
        // The number of its first child, behind what stands before it and their checksums: redb's own layout.
        let children = usize::from(u16::from_le_bytes([image[page * PAGE + 2], image[page * PAGE + 3]])) + 1;
        image[page * PAGE + 8 + 16 * children..][..3].copy_from_slice(&[0xFF, 0xFF, 0x0F]);
        let is_refused = builder().open_to_read_on(&SimulatedDisk::from_image(image.clone())).is_err();
        let disk = SimulatedDisk::from_image(image);
        let Ok(store) = builder().check(OpenCheck::Quick).open_damaged_on(&disk) else { continue };
        let (found, errors) = told(&store, false);
        assert!(is_refused || errors.is_empty(), "page {page}: {errors:?}");
        assert!(found.len() > 20, "page {page}: {} are left, {errors:?}", found.len());
        looked += 1;
        lost += usize::from(found.len() < 120);
    }
    assert!(lost > 0, "{looked} pages lead to none of what counts");
}

/// In the first format what is unfinished stood in the log, and of a file that redb cannot repair it still does. Every
/// page is checked, whatever is asked for, before a file is brought to the newest format.
#[test]
fn p10_of_a_damaged_file_of_the_first_format_too_all_is_told_that_is_left() {
    tell_own_panics();
    let (mut refused, mut pages) = (0, 0);
    for fixture in ["v1.reentry", "v1-journal.reentry"] {
        let fixture = format!("{}/tests/fixtures/{fixture}", env!("CARGO_MANIFEST_DIR"));
        let image = fs::read(&fixture).unwrap();
        let (all, none) = told(&builder().open_to_read_on(&SimulatedDisk::from_image(image.clone())).unwrap(), true);
        assert_eq!((all.len(), none.len()), (10, 0));
        let first = if image.starts_with(b"redb") { 0 } else { head_bytes(&image) / PAGE };
        for page in first + 1..image.len() / PAGE {
            let what = format!("page {page} of {fixture}");
            let mut image = image.clone();
            image[page * PAGE..][1_000..1_004].iter_mut().for_each(|byte| *byte ^= 0x5A);
            let disk = SimulatedDisk::from_image(image);
            let [full, quick] = [OpenCheck::Full, OpenCheck::Quick].map(|check| {
                let store = builder().check(check).open_to_read_on(&disk);
                store.map(|store| told(&store, true)).map_err(|error| (error.kind(), error.to_string()))
            });
            assert_eq!(full, quick, "{what}");
            match full {
                Ok(read) => assert_eq!(read, (all.clone(), Vec::new()), "{what}"),
                Err((kind, error)) => {
                    assert!(kind == ErrorKind::Corrupt, "{what}: {error}");
                    refused += 1;
                }
            }
            let store = builder().open_damaged_on(&disk).unwrap();
            let (found, errors) = told(&store, false);
            assert!(found.iter().all(|one| all.contains(one)), "{what}: it tells what is not so, {errors:?}");
            assert!(found.len() == all.len() || !errors.is_empty(), "{what}: {} in silence", found.len());
            assert!(errors.iter().all(|error| !error.contains("no table")), "{what}: {errors:?}");
            pages += 1;
        }
    }
    assert!(refused > 10 && refused < pages, "{refused} of {pages} pages");
}

/// Which format it is stands in a row too. Where that is lost all operations are told, and that it is.
#[test]
fn p10_of_a_file_of_the_first_format_whose_meta_row_is_damaged_every_operation_is_left() {
    tell_own_panics();
    let fixture = format!("{}/tests/fixtures/v1.reentry", env!("CARGO_MANIFEST_DIR"));
    let image = fs::read(&fixture).unwrap();
    let (all, _) = told(&builder().open_to_read_on(&SimulatedDisk::from_image(image.clone())).unwrap(), true);
    let mut of_meta = 0;
    for page in 1..image.len() / PAGE {
        let bytes = &image[page * PAGE..][..PAGE];
        // Leaves alone, and not those that name the tables.
        if bytes[0] != 1 || bytes.windows(8).any(|window| window == b"reentry/") {
            continue;
        }
        let mut image = image.clone();
        image[page * PAGE..][2..200].iter_mut().for_each(|byte| *byte ^= 0x5A);
        let store = match builder().open_damaged_on(&SimulatedDisk::from_image(image)) {
            Ok(store) => store,
            // redb itself does not get as far as its tables.
            Err(error) => {
                assert!(error.to_string().contains("Primary is corrupted"), "page {page}: {error}");
                continue;
            }
        };
        let (found, errors) = told(&store, false);
        assert!(found.iter().all(|one| all.contains(one)), "page {page}: it tells what is not so, {errors:?}");
        assert!(found.len() == all.len() || !errors.is_empty(), "page {page}: {} in silence", found.len());
        let is_of_meta = errors.iter().any(|error| error.contains("whether there was a table of what is unfinished"));
        assert!(!is_of_meta || found.len() == all.len(), "page {page}: {} of {}", found.len(), all.len());
        of_meta += usize::from(is_of_meta);
    }
    assert_eq!(of_meta, 1);
}

/// Whoever pages through what is left goes on where the last page ended, also within what only the journal tells.
#[test]
fn p10_pages_of_what_is_left_come_to_all_of_it() {
    tell_own_panics();
    let image = left_by_a_crash();
    let mut paged = 0;
    for page in (head_bytes(&image) / PAGE + 1..image.len() / PAGE).filter(|page| image[page * PAGE] == 1).take(12) {
        let mut image = image.clone();
        image[page * PAGE..][1_000..1_004].iter_mut().for_each(|byte| *byte ^= 0x5A);
        let Ok(store) = builder().open_damaged_on(&SimulatedDisk::from_image(image)) else { continue };
        let (all, errors) = told(&store, true);
        let (mut one_by_one, mut cursor) = (Vec::new(), None);
        for _ in 0..all.len() + errors.len() {
            let list = store.operations();
            let mut list = if let Some(cursor) = cursor { list.after(cursor) } else { list };
            one_by_one.extend(list.next().and_then(Result::ok).map(|progress| format!("{progress:?}")));
            cursor = list.cursor();
            if cursor.is_none() {
                break;
            }
        }
        one_by_one.reverse();
        assert_eq!(one_by_one, all, "page {page}, {errors:?}");
        paged += usize::from(!errors.is_empty());
    }
    assert!(paged > 4, "{paged} files lack something");
}

/// What the file and redb's part of it begin with is known, so that it costs nothing.
#[test]
fn p10_of_a_file_whose_first_bytes_or_redbs_are_damaged_all_is_left_and_the_damage_is_told() {
    tell_own_panics();
    let left = left_by_a_crash();
    let disk = SimulatedDisk::from_image(left.clone());
    builder().open_on(&disk).unwrap().close().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.reentry");
    for image in [left, disk.image()] {
        let (all, none) = told(&builder().open_to_read_on(&SimulatedDisk::from_image(image.clone())).unwrap(), true);
        assert_eq!((all.len(), none.len()), (120, 0));
        let redb = head_bytes(&image);
        // Its version is another matter: that of a newer file may have anything behind it.
        for at in (0..8).chain(12..20).chain(redb..redb + 9) {
            let mut image = image.clone();
            image[at] ^= 0x40;
            fs::write(&path, &image).unwrap();
            for error in [builder().open(&path), builder().open_to_read(&path)].map(Result::unwrap_err) {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at}");
                let says_so = error.to_string().contains("orders.reentry: the first bytes of the file are damaged");
                assert_eq!(says_so, at < 8, "byte {at}: {error}");
            }
            let store = builder().open_damaged(&path).unwrap();
            let (found, errors) = told(&store, true);
            assert!(found == all, "byte {at}: {errors:?}");
            assert_eq!(errors.len(), 1, "byte {at}: {errors:?}");
            drop(store);
            assert!(fs::read(&path).unwrap() == image, "byte {at}: the file changed");
        }
    }
}
