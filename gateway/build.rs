//! Compiles `../proto/` with a pure-Rust compiler, so that building needs nothing but cargo.
//! The server side comes along for the tests, which put a fake history service behind the gateway:
//! what it does not answer is UNIMPLEMENTED.

use std::io;

const PROTOS: [&str; 2] = [
    "../proto/backscroll/history/v1/history_service.proto",
    "../proto/backscroll/history/v1/key_service.proto",
];

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=../proto");
    let descriptors = protox::compile(PROTOS, ["../proto"]).map_err(io::Error::other)?;
    tonic_prost_build::configure()
        .bytes(".")
        // `src/history/call.rs` asks.
        .build_client(false)
        .generate_default_stubs(true)
        .compile_fds(descriptors)
}
