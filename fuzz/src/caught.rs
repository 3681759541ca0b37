//! Panics of redb on damaged pages are caught and made errors of, so a panic alone must not end a run of the fuzzer.

use std::panic;
use std::process;
use std::sync::Mutex;

/// What the last panic said.
static LAST: Mutex<String> = Mutex::new(String::new());

/// Lets panics only be noted from now on.
pub fn note_panics() {
    panic::set_hook(Box::new(|panic| *LAST.lock().unwrap() = panic.to_string()));
}

/// Ends the process where this panics, and tells why.
pub fn run(target: fn(&[u8]), bytes: &[u8]) {
    if panic::catch_unwind(|| target(bytes)).is_err() {
        eprintln!("{}", LAST.lock().unwrap());
        process::abort();
    }
}
