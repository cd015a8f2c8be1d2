//! Compiles `../proto/` with a compiler written in Rust, so that a build needs no `protoc`.

use std::{env, fs, io, path::PathBuf};

const PROTOS: [&str; 3] = [
    "../proto/backscroll/history/v1/feeder_service.proto",
    "../proto/backscroll/history/v1/history_service.proto",
    "../proto/backscroll/history/v1/key_service.proto",
];

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=../proto");
    let descriptors = protox::compile(PROTOS, ["../proto"]).map_err(io::Error::other)?;
    // The messages alone: the gateway calls the methods with its own client.
    tonic_prost_build::configure()
        .bytes(".")
        .build_client(false)
        .build_server(false)
        .compile_fds(descriptors.clone())?;
    // The servers, for tests with a fake history service. They use the messages of the program.
    // Methods that a fake does not implement return UNIMPLEMENTED.
    let servers =
        PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?).join("servers");
    fs::create_dir_all(&servers)?;
    tonic_prost_build::configure()
        .build_client(false)
        .generate_default_stubs(true)
        .extern_path(".backscroll.history.v1", "crate::proto::v1")
        .out_dir(servers)
        .compile_fds(descriptors)
}
