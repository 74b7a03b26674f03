//! The `claudepool` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    // First of all: a launch shim must become one before any thread starts.
    #[cfg(feature = "server")]
    claudepool::agent::claude::shim::intercept();
    claudepool::cli::main()
}
