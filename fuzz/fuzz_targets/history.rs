//! See `src/history/mod.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reentry_fuzz::history::run(bytes));
