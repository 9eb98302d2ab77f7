//! Compiles `proto/` without an external protoc.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new("../../proto");
    let files = [
        "holdfast/consensus/v1/log.proto",
        "holdfast/registry/v1/registry.proto",
        "holdfast/partition/v1/partition.proto",
        "holdfast/device/v1/state.proto",
        "holdfast/blob/v1/blob.proto",
        "holdfast/cluster/v1/peer.proto",
        "holdfast/cluster/v1/session.proto",
        "holdfast/cluster/v1/route.proto",
        "holdfast/cluster/v1/control.proto",
    ];
    println!("cargo:rerun-if-changed={}", root.display());
    let descriptors = protox::compile(files, [root])?;
    prost_build::Config::new()
        .bytes(["."])
        // By far the largest command, while every proposal carries one by value.
        .boxed("holdfast.registry.v1.RegistryCommand.command.put_registration")
        .compile_fds(descriptors)?;
    Ok(())
}
