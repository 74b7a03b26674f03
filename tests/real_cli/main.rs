//! Against the real Claude Code CLI, with a stand-in for the Messages API on
//! the loopback interface. `CLAUDEPOOL_TEST_CLAUDE` names the native program:
//!
//! ```sh
//! CLAUDEPOOL_TEST_CLAUDE=/path/to/claude cargo test --test real_cli
//! ```

#![allow(clippy::unwrap_used)]

mod agent;
mod conversations;
mod limits;
mod promises;
mod service;
#[path = "../support/mod.rs"]
mod support;

/// The kind of agent that the service's tests run on.
fn agent() -> support::Kind {
    support::Kind::Real
}
