//! Compiles `proto/` to Rust without an installed `protoc`, and keeps the
//! descriptor set, comments included, for reflection.

use std::{env, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut files: Vec<PathBuf> = fs::read_dir("proto/claudepool/v1")?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    files.sort();

    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(&files)?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(
        out.join("claudepool_descriptor.bin"),
        compiler.encode_file_descriptor_set(),
    )?;

    let messages = out.join("messages");
    fs::create_dir_all(&messages)?;
    tonic_prost_build::configure()
        .build_server(false)
        // Sorted maps: the same message always has the same bytes, so that a
        // request's fingerprint is one of its meaning.
        .btree_map(".")
        .build_client(env::var_os("CARGO_FEATURE_CLIENT").is_some())
        .out_dir(&messages)
        .compile_fds(compiler.file_descriptor_set())?;

    if env::var_os("CARGO_FEATURE_SERVER").is_some() {
        // The same services again, this time as traits. Streams of log entries
        // are answered with messages that carry stored bytes undecoded.
        let services = out.join("services");
        fs::create_dir_all(&services)?;
        let raw = "crate::event::wire";
        tonic_prost_build::configure()
            .build_client(false)
            .extern_path(
                ".claudepool.v1.WatchTaskResponse",
                format!("{raw}::WatchTaskResponse"),
            )
            .extern_path(
                ".claudepool.v1.RunStreamResponse",
                format!("{raw}::RunStreamResponse"),
            )
            .extern_path(".claudepool.v1", "crate::pb")
            .out_dir(&services)
            .compile_fds(compiler.file_descriptor_set())?;
    }
    Ok(())
}
