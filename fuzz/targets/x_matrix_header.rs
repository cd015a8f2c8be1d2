//! Calls the property `x_matrix_header` of `gateway/src/properties.rs` with arbitrary bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| backscroll_gateway::properties::x_matrix_header(bytes));
