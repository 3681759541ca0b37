//! The file copied while a server is at work on it, as somebody does who knows of no other way to back it up.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use reentry::Store;

use super::folder;
use super::server::{Process, store_in};
use super::support::key;

const COPIES: usize = 20;

/// Such a copy holds all that was told before it was begun, or is refused; it never shows something else.
#[test]
fn p10_a_copy_of_a_file_at_work_is_refused_or_holds_what_was_told_before() {
    let (place, copies) = (folder(), folder());
    let process = Process::start(place.path(), 0, usize::MAX, 4, &[]);
    process.hear_first("claimed");
    let mut told = BTreeMap::new();
    let (mut refused, mut opened) = (0, 0);
    for nth in 0..COPIES {
        for line in process.hear_for(Duration::from_millis(10)) {
            if let Some((name, text)) = line.strip_prefix("done ").and_then(|done| done.split_once(' ')) {
                told.insert(name.to_owned(), text.to_owned());
            }
        }
        let copy = copies.path().join(format!("{nth}.reentry"));
        fs::copy(store_in(place.path()), &copy).unwrap();
        let before = fs::read(&copy).unwrap();
        match Store::open(&copy) {
            Ok(store) => {
                opened += 1;
                store.verify().unwrap();
                for (name, text) in &told {
                    let progress = store.progress(&key(name)).unwrap().unwrap_or_else(|| panic!("{name} is lost"));
                    let outcome = progress.outcome().unwrap_or_else(|| panic!("the outcome of {name} is lost"));
                    assert_eq!(outcome.decode::<String>().unwrap(), *text, "{name}");
                }
            }
            Err(error) => {
                refused += 1;
                assert_eq!(fs::read(&copy).unwrap(), before, "what is refused stays as it was: {error}");
            }
        }
        fs::remove_file(&copy).unwrap();
    }
    println!("{COPIES} copies at work, {} orders: {opened} opened, {refused} refused", told.len());
    assert!(!told.is_empty() && opened + refused == COPIES);
}
