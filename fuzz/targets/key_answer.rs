//! See `key_answer` in `gateway/src/properties.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| backscroll_gateway::properties::key_answer(bytes));
