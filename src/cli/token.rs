//! `claudepool token`: makes a bearer token.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use rand::RngCore;

use super::failure::Failure;
use crate::rpc::{self, Tokens};

/// Arguments of `token`.
#[derive(Args)]
pub(super) struct TokenArgs {
    /// The caller's name, as tasks and the audit log show it.
    name: String,
    /// What the caller may do: read, work, operate, author.
    #[arg(
        long = "scope",
        value_name = "SCOPE",
        required = true,
        value_delimiter = ','
    )]
    scopes: Vec<String>,
    /// Token file to add the line to; made for its owner alone if it is not
    /// there [default: the line is printed to stderr].
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Prints the token to stdout. It is kept nowhere: the line has its hash.
pub(super) fn run(args: &TokenArgs) -> Result<(), Failure> {
    let mut secret = [0; 32];
    rand::rng().fill_bytes(&mut secret);
    let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let token = format!("cp_{secret}");
    let line = format!(
        "{} {} {}",
        args.name,
        args.scopes.join(","),
        rpc::hash(&token)
    );
    Tokens::parse(&line)
        .map_err(|why| Failure::usage(why.strip_prefix("line 1: ").unwrap_or(&why).to_owned()))?;
    match &args.file {
        Some(file) => append(file, &line)
            .map_err(|error| Failure::failed(format!("{}: {error}", file.display())))?,
        None => eprintln!("{line}"),
    }
    println!("{token}");
    Ok(())
}

fn append(file: &Path, line: &str) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.create(true).append(true).mode(0o600).open(file)?;
    file.write_all(format!("{line}\n").as_bytes())
}
