//! See `rescue` in `src/store_file.rs`.
#![no_main]

use std::panic;
use std::sync::Mutex;

use libfuzzer_sys::fuzz_target;
use reentry_fuzz::store_file;

/// What the last panic said.
static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

fuzz_target!(
    init: {
        // Panics of redb on damaged pages are caught and made errors of, so a panic alone must not end the run.
        panic::set_hook(Box::new(|panic| *LAST_PANIC.lock().unwrap() = panic.to_string()));
        store_file::init();
    },
    |bytes: &[u8]| {
        if panic::catch_unwind(|| store_file::rescue(bytes)).is_err() {
            eprintln!("{}", LAST_PANIC.lock().unwrap());
            std::process::abort();
        }
    }
);
