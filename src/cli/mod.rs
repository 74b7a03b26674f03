//! The `claudepool` command.
//!
//! `serve` and `demo` wire a server from the modules below; everything else is
//! a client that knows the wire contract ([`crate::pb`]) and nothing of the pool.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod args;
mod catalog;
mod chain;
mod client;
mod connect;
mod context;
#[cfg(feature = "demo")]
mod demo;
mod failure;
#[cfg(feature = "server")]
mod files;
#[cfg(feature = "server")]
mod harden;
#[cfg(feature = "demo")]
mod install;
mod json;
#[cfg(feature = "server")]
mod listen;
#[cfg(feature = "server")]
mod load;
#[cfg(feature = "server")]
mod logs;
mod operate;
#[cfg(feature = "server")]
mod paths;
#[cfg(feature = "server")]
mod program;
mod render;
#[cfg(feature = "server")]
mod scratch;
#[cfg(feature = "server")]
mod serve;
#[cfg(feature = "server")]
mod signals;
#[cfg(feature = "server")]
mod status;
mod table;
#[cfg(feature = "server")]
mod token;
mod watch;

use failure::Failure;

/// Keeps warm Claude Code processes and runs prompts on them.
///
/// Exit status: 0 success, 1 the task failed or the server could not do its
/// work, 2 usage or configuration, 3 the task was cancelled, 4 the server
/// refused, 5 the server cannot be reached.
#[derive(Parser)]
#[command(name = "claudepool", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the pool over gRPC until SIGTERM or Ctrl-C.
    #[cfg(feature = "server")]
    Serve(Box<serve::ServeArgs>),
    /// Make a token for a caller; prints it, and its line of the token file.
    #[cfg(feature = "server")]
    Token(token::TokenArgs),
    /// Show everything once on this machine; installs what is missing.
    #[cfg(feature = "demo")]
    Demo(demo::DemoArgs),
    #[command(flatten)]
    Client(Box<args::ClientCommand>),
    /// Print the completion of a shell, to be loaded by it.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Threads for what this program does itself: half of the processors, since the
/// work is done by the processes it keeps. On two processors a second thread
/// costs a fifth more time a task, for waking each other.
fn worker_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |all| all.get().div_ceil(2))
}

/// What this program runs on.
///
/// # Errors
///
/// Of the system, if it has no threads or descriptors left.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(worker_threads()).enable_all();
    #[cfg(feature = "server")]
    builder.on_thread_start(|| {
        // Without it threads only wait longer on a busy machine.
        let _ = crate::slice::shorten();
    });
    builder.build()
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::failed(format!("no runtime: {error}")).exit(false),
    };
    let json = cli.json();
    let done = runtime.block_on(cli.run());
    // A reader of stdin that never ends must not keep the process.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.exit(json),
    }
}

impl Cli {
    fn json(&self) -> bool {
        match &self.command {
            Command::Client(command) => command.remote().json,
            Command::Completion { .. } => false,
            #[cfg(feature = "server")]
            Command::Serve(_) | Command::Token(_) => false,
            #[cfg(feature = "demo")]
            Command::Demo(_) => false,
        }
    }

    async fn run(self) -> Result<(), Failure> {
        match self.command {
            #[cfg(feature = "server")]
            Command::Serve(args) => serve::run(*args).await,
            #[cfg(feature = "server")]
            Command::Token(args) => token::run(&args),
            #[cfg(feature = "demo")]
            Command::Demo(args) => demo::run(args).await,
            Command::Client(command) => client::run(*command).await,
            Command::Completion { shell } => {
                let command = &mut <Self as clap::CommandFactory>::command();
                clap_complete::generate(shell, command, "claudepool", &mut std::io::stdout());
                Ok(())
            }
        }
    }
}
