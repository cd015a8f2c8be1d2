//! See `x_matrix_header` in `gateway/src/properties.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| backscroll_gateway::properties::x_matrix_header(bytes));
