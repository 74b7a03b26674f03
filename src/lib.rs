//! claudepool keeps a pool of warm Claude Code processes and puts them to work.

#[cfg(feature = "server")]
pub mod agent;
#[cfg(feature = "server")]
pub mod budget;
#[cfg(feature = "server")]
pub mod clock;
#[cfg(feature = "demo")]
pub mod demo;
#[cfg(feature = "server")]
pub mod error;
#[cfg(feature = "server")]
pub mod event;
#[cfg(feature = "server")]
pub mod id;
#[cfg(feature = "server")]
pub mod money;
pub mod pb;
#[cfg(feature = "server")]
pub mod pool;
#[cfg(feature = "server")]
pub mod store;
#[cfg(feature = "server")]
pub mod stream;
#[cfg(feature = "server")]
pub mod task;
