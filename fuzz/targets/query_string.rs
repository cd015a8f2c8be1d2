//! See `query_string` in `gateway/src/properties.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| backscroll_gateway::properties::query_string(bytes));
