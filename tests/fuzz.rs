//! Bytes that nobody meant, on what reads bytes from outside: the lines of a
//! process, templates, and requests.
//!
//! Each target mutates a corpus for `FUZZ_SECONDS` (default 1) and prints its
//! seed, which `FUZZ_SEED` sets. An input that fails is written to
//! `target/fuzz/`, and the message says how to replay it alone.

#![allow(clippy::unwrap_used)]

#[path = "fuzz/lines.rs"]
mod lines;
#[path = "fuzz/memory.rs"]
mod memory;
#[path = "fuzz/mutate.rs"]
mod mutate;
#[path = "fuzz/requests.rs"]
mod requests;
mod support;
#[path = "fuzz/templates.rs"]
mod templates;

/// The requests go to a pool without processes.
fn agent() -> support::Kind {
    support::Kind::Scripted
}
