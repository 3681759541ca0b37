//! See `rescue` in `src/store_file.rs`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reentry_fuzz::{caught, store_file};

fuzz_target!(
    init: {
        caught::note_panics();
        store_file::init();
    },
    |bytes: &[u8]| caught::run(store_file::rescue, bytes)
);
