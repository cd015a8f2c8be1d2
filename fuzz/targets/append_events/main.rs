//! Events that are appended, over a store of their own.
#![no_main]

use std::sync::LazyLock;

use backscroll::{
    context::Context,
    store::{Options, Store},
};
use libfuzzer_sys::fuzz_target;

mod property;

static CONTEXT: LazyLock<Context> = LazyLock::new(|| {
    // Gone when the process is, for all that anybody cares.
    let folder = std::env::temp_dir().join(format!("backscroll-fuzz-{}", std::process::id()));
    Context::new(Store::open(&Options::small(&folder)).expect("a store"))
});

fuzz_target!(|bytes: &[u8]| property::append_events(&CONTEXT, bytes));
