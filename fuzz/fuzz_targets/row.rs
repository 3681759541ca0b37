//! See `src/row.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reentry_fuzz::row::run(bytes));
