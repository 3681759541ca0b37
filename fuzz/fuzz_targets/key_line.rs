//! See `src/key_line.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reentry_fuzz::key_line::run(bytes));
