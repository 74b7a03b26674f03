//! Behind a real Envoy, with the configuration that is shipped.
//!
//! `CLAUDEPOOL_TEST_ENVOY` names the program; `make test-envoy` installs it.

#![allow(clippy::unwrap_used)]

mod calls;
mod proxy;
mod restart;
mod streams;
#[path = "../support/mod.rs"]
mod support;

/// The agent over the scripted CLI, whose runs can be counted.
fn agent() -> support::Kind {
    support::Kind::Fake
}
