//! A scripted CLI: speaks the lines of the real one, plays the script in each
//! prompt, and needs neither a network nor a key.
//!
//! The prompt grammar is that of `claudepool::demo::script`, with some faults
//! of a process added (see `faults.rs`).

#![allow(missing_docs)]
#![allow(
    clippy::disallowed_methods,
    reason = "a program of its own: the bans are the server's"
)]

mod args;
mod cli;
mod commands;
mod control;
mod faults;
mod input;
mod lines;
mod record;
mod results;
mod retry;
mod session;
mod tasks;
mod tools;
mod tree;
mod turn;

use std::os::unix::process::CommandExt;

/// First argument of the copy of this program that a tool's shell starts as:
/// a session of its own cannot be had from safe code before the exec.
const IN_SESSION: &str = "__in-session";

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let argv: Vec<String> = std::env::args().skip(1).collect();
    if let [first, command] = argv.as_slice()
        && first == IN_SESSION
    {
        let started = rustix::process::setsid();
        let error = std::process::Command::new("/bin/sh")
            .arg("-c")
            .arg(command)
            .exec();
        eprintln!("no shell: {error} ({started:?})");
        std::process::exit(127);
    }
    let args = match args::parse(&argv) {
        Ok(args) => args,
        Err(line) => fail(&line),
    };
    if args.version {
        let version = lines::version();
        println!("{version} (Claude Code)");
        return;
    }
    if let Some(ms) = env_number("FAKE_START_DELAY_MS") {
        tokio::time::sleep(std::time::Duration::from_millis(ms as u64)).await;
    }
    // Only while that file is there: what fails can be made good.
    if let Some(file) = std::env::var_os("FAKE_START_HANG_FILE")
        && std::path::Path::new(&file).exists()
    {
        std::future::pending::<()>().await;
    }
    if std::env::var_os("FAKE_START_FAIL").is_some() {
        fail("Error: the start failed, as asked");
    }
    match cli::Cli::start(args) {
        Ok(cli) => cli.run().await,
        Err(line) => fail(&line),
    }
}

fn fail(line: &str) -> ! {
    eprintln!("{line}");
    std::process::exit(1);
}

/// The number in the variable `name`.
fn env_number(name: &str) -> Option<f64> {
    std::env::var(name).ok()?.parse().ok()
}
