//! Delivery: from the committed log to its readers.
//!
//! The hub only wakes, and keeps what was just committed within reach; the truth
//! is the store. A slow reader costs a bounded buffer and falls back to reading
//! the log: it never slows the task or another reader.

mod board;
pub mod hub;
pub mod tail;

pub use hub::Hub;
pub(crate) use hub::Subscription;
pub use tail::Tail;
