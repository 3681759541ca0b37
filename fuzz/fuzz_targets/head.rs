//! See `src/head.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reentry_fuzz::head::run(bytes));
