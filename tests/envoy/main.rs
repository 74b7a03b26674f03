//! Behind a real Envoy, with the configuration that is shipped.
//!
//! `CLAUDEPOOL_TEST_ENVOY` names the program; `make test-envoy` installs it.

#![allow(clippy::unwrap_used)]

mod calls;
mod proxy;
mod restart;
mod rolling;
#[allow(dead_code, reason = "of what it can do little is needed here")]
#[path = "../postgres/server.rs"]
mod server;
mod streams;
#[path = "../support/mod.rs"]
mod support;

/// A port that was free a moment ago.
fn free_port() -> u16 {
    proxy::free().port()
}

/// The agent over the scripted CLI, whose runs can be counted.
fn agent() -> support::Kind {
    support::Kind::Fake
}
