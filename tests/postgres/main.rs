//! The store on PostgreSQL, over a server that each test process starts itself.

#![allow(clippy::unwrap_used)]

mod equivalence;
mod faults;
mod newer;
mod nodes;
mod outages;
mod plans;
mod previous;
mod proxy;
mod races;
mod record;
mod schema;
mod serve;
mod server;
mod servers;
mod storm;
#[path = "../support/mod.rs"]
mod support;
mod tls;
#[path = "../store/world.rs"]
mod world;

use std::sync::Arc;

use claudepool::store::Store;
use server::SHARED;

/// The agent over the scripted CLI.
fn agent() -> support::Kind {
    support::Kind::Fake
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

claudepool::store_conformance!(conformance, async {
    let (store, name) = SHARED.store().await;
    (Arc::new(store) as Arc<dyn Store>, name)
});

claudepool::cluster_conformance!(cluster, async {
    let (first, name) = SHARED.store().await;
    let mut nodes = vec![Arc::new(first) as Arc<dyn Store>];
    for _ in 0..2 {
        nodes.push(Arc::new(server::open(&SHARED.url(&name)).await));
    }
    (nodes, name)
});
