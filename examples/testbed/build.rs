//! Generates the gRPC code from `proto/` in Rust alone: no `protoc` needed.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["testbed.proto"], ["proto"])?;
    // `Blob.data` is `Bytes`: a chunk is made once and only counted after that.
    tonic_prost_build::configure()
        .build_client(false)
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
