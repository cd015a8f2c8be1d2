//! See `server_name` in `gateway/src/properties.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| backscroll_gateway::properties::server_name(bytes));
