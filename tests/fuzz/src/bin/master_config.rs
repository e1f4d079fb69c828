//! See `reloop_rig::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reloop_rig::fuzz::config::master(bytes));
