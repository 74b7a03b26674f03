//! The whole service over real gRPC.

#![allow(clippy::unwrap_used)]

mod support;

#[path = "service/attached.rs"]
mod attached;
#[path = "service/catalog.rs"]
mod catalog;
#[path = "service/drain.rs"]
mod drain;
#[path = "service/operator.rs"]
mod operator;
#[path = "service/streams.rs"]
mod streams;
#[path = "service/tasks.rs"]
mod tasks;
