//! Compiles `proto/` with a compiler written in Rust, so that a build needs no `protoc`.

use std::{env, fs, io, path::PathBuf};

use prost::Message as _;

const PROTOS: [&str; 6] = [
    "proto/backscroll/history/v1/admin_service.proto",
    "proto/backscroll/history/v1/error_reason.proto",
    "proto/backscroll/history/v1/feeder_service.proto",
    "proto/backscroll/history/v1/history_service.proto",
    "proto/backscroll/history/v1/ingest_service.proto",
    "proto/backscroll/history/v1/key_service.proto",
];

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"]).map_err(io::Error::other)?;
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    fs::write(out_dir.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)
}
