//! Calls the property `key_answer` of `gateway/src/properties.rs` with arbitrary bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| backscroll_gateway::properties::key_answer(bytes));
