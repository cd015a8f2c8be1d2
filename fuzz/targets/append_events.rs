//! Appends arbitrary events to a store of its own.
#![no_main]

use std::sync::LazyLock;

use backscroll::{
    context::Context,
    properties,
    store::{Options, Store},
};
use libfuzzer_sys::fuzz_target;

static CONTEXT: LazyLock<Context> = LazyLock::new(|| {
    // In the folder of temporary files: nothing removes it, since the fuzzer aborts the process.
    let folder = std::env::temp_dir().join(format!("backscroll-fuzz-{}", std::process::id()));
    Context::new(Store::open(&Options::small(&folder)).expect("a store"))
});

fuzz_target!(|bytes: &[u8]| properties::append_events(&CONTEXT, bytes));
