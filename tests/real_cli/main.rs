//! Against the real Claude Code CLI, with a stand-in for the Messages API on
//! the loopback interface. `CLAUDEPOOL_TEST_CLAUDE` names the native program:
//!
//! ```sh
//! CLAUDEPOOL_TEST_CLAUDE=/path/to/claude cargo test --test real_cli
//! ```

mod agent;
mod conversations;

/// The CLI to test with.
fn cli() -> std::path::PathBuf {
    std::env::var_os("CLAUDEPOOL_TEST_CLAUDE")
        .expect("set CLAUDEPOOL_TEST_CLAUDE to the native program of the Claude Code CLI")
        .into()
}
