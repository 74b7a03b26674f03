//! The generated wire messages and client stubs of `claudepool.v1`.
//!
//! Names and meaning are those of the files under `proto/`; nothing is written
//! by hand here.

#![allow(missing_docs, clippy::all, rustdoc::all)]

include!(concat!(env!("OUT_DIR"), "/messages/claudepool.v1.rs"));

/// The services as traits, for the server.
#[cfg(feature = "server")]
pub mod server {
    include!(concat!(env!("OUT_DIR"), "/services/claudepool.v1.rs"));
}

/// Descriptors of every message and service, with their comments.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/claudepool_descriptor.bin"));
