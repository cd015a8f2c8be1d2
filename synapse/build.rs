//! Compiles `../proto/` with a compiler written in Rust, so that a build needs no `protoc`.

use std::io;

const PROTOS: [&str; 6] = [
    "../proto/backscroll/history/v1/admin_service.proto",
    "../proto/backscroll/history/v1/error_reason.proto",
    "../proto/backscroll/history/v1/feeder_service.proto",
    "../proto/backscroll/history/v1/history_service.proto",
    "../proto/backscroll/history/v1/ingest_service.proto",
    "../proto/backscroll/history/v1/key_service.proto",
];

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=../proto");
    let descriptors = protox::compile(PROTOS, ["../proto"]).map_err(io::Error::other)?;
    // The servers are for tests with a fake history service. Methods that a fake does not implement
    // return UNIMPLEMENTED.
    tonic_prost_build::configure().bytes(".").generate_default_stubs(true).compile_fds(descriptors)
}
