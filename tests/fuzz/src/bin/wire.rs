//! See `reloop_tests::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reloop_tests::fuzz::wire::run(bytes));
