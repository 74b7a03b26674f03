//! Compiles `proto/` to Rust without an installed `protoc`, and keeps the
//! descriptor set, comments included, for reflection.

use std::fmt::Write;
use std::{env, fs, path::PathBuf};

use protox::prost_reflect::{DescriptorPool, MethodDescriptor, Value};

/// `MethodOptions.IdempotencyLevel.NO_SIDE_EFFECTS` of descriptor.proto.
const NO_SIDE_EFFECTS: i32 = 1;

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

    fs::write(out.join("scopes.rs"), scopes(&compiler.descriptor_pool())?)?;

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

/// The table of methods: path, the scopes of which one is needed, whether it
/// changes anything, whether a task is attached to its caller. A method without
/// scopes fails the build.
fn scopes(pool: &DescriptorPool) -> Result<String, Box<dyn std::error::Error>> {
    let mut table = String::from("&[\n");
    for service in pool.services() {
        for method in service.methods() {
            let path = format!("/{}/{}", service.full_name(), method.name());
            let scopes = scopes_of(pool, &method)?;
            if scopes.is_empty() {
                return Err(format!("{path} has no option (claudepool.v1.scopes)").into());
            }
            let told = method.method_descriptor_proto().options.as_ref();
            let changes = told.is_none_or(|o| o.idempotency_level != Some(NO_SIDE_EFFECTS));
            // Who may detach is attached otherwise.
            let attaches = method.input().get_field_by_name("detach").is_some();
            writeln!(
                table,
                "Method {{ path: {path:?}, scopes: &[{}], changes: {changes}, attaches: {attaches} }},",
                scopes.join(", ")
            )?;
        }
    }
    table.push_str("]\n");
    Ok(table)
}

/// The scopes of a method, as paths of our generated enum.
fn scopes_of(
    pool: &DescriptorPool,
    method: &MethodDescriptor,
) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let option = pool
        .get_extension_by_name("claudepool.v1.scopes")
        .ok_or("proto/claudepool/v1/scope.proto defines no scopes")?;
    let kind = pool
        .get_enum_by_name("claudepool.v1.Scope")
        .ok_or("proto/claudepool/v1/scope.proto defines no Scope")?;
    let options = method.options();
    let Value::List(numbers) = options.get_extension(&option).into_owned() else {
        return Err("(claudepool.v1.scopes) is not repeated".into());
    };
    numbers
        .iter()
        .map(|number| {
            let number = number.as_enum_number().unwrap_or_default();
            let value = kind.get_value(number).filter(|_| number != 0);
            let value = value.ok_or_else(|| format!("{} has no such scope", method.full_name()))?;
            let name = value.name().trim_start_matches("SCOPE_").to_lowercase();
            let (first, rest) = name.split_at(1);
            Ok(format!("Scope::{}{rest}", first.to_uppercase()))
        })
        .collect()
}
