//! What `claudepool demo` and the tests put in the place of the Messages API.
//!
//! A prompt carries its own script: lines beginning with `::` say what the
//! model would do (see [`script`]). Nothing here leaves the loopback interface.

mod request;
pub mod script;
mod standin;
mod stream;
pub mod wire;

pub use standin::{Received, StandIn};
