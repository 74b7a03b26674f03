//! The `claudepool` program.

fn main() {
    // First of all: a launch shim must become one before any thread starts.
    #[cfg(feature = "server")]
    claudepool::agent::claude::shim::intercept();
    eprintln!("usage: claudepool <command>");
    std::process::exit(2);
}
