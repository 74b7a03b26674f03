//! The service's tests, the very same source, on the real CLI.

#[path = "../service/attached.rs"]
mod attached;
#[path = "../service/bad_input.rs"]
mod bad_input;
#[path = "../service/catalog.rs"]
mod catalog;
#[path = "../service/chains.rs"]
mod chains;
#[path = "../service/drain.rs"]
mod drain;
#[path = "../service/isolation.rs"]
mod isolation;
#[path = "../service/killed_again.rs"]
mod killed_again;
#[path = "../service/kills.rs"]
mod kills;
#[path = "../service/lease.rs"]
mod lease;
#[path = "../service/money.rs"]
mod money;
#[path = "../service/operator.rs"]
mod operator;
#[path = "../service/promises.rs"]
mod promises;
#[path = "../service/requests.rs"]
mod requests;
#[path = "../service/streams.rs"]
mod streams;
#[path = "../service/tasks.rs"]
mod tasks;
#[path = "../service/trees.rs"]
mod trees;
