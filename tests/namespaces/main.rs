//! Servers that have a network namespace each, as machines have: real addresses,
//! links that can be cut, and no loopback by which they could meet.
//!
//! `make test-namespaces` runs it where it may make namespaces.

#![allow(clippy::unwrap_used)]

mod keepalive;
mod net;
mod partition;
#[path = "../postgres/server.rs"]
#[allow(dead_code)]
mod server;
mod site;
#[path = "../support/mod.rs"]
mod support;

/// The agent over the scripted CLI.
fn agent() -> support::Kind {
    support::Kind::Fake
}

/// The database has an address of its own, with all ports.
fn free_port() -> u16 {
    5432
}
