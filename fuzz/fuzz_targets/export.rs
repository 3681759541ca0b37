//! See `src/export.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reentry_fuzz::export::run(bytes));
