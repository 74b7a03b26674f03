//! The whole service over real gRPC.

#![allow(clippy::unwrap_used)]

mod support;

/// The agent without processes, or the one that `CLAUDEPOOL_TEST_AGENT` names:
/// `fake`.
fn agent() -> support::Kind {
    match std::env::var("CLAUDEPOOL_TEST_AGENT").as_deref() {
        Ok("fake") => support::Kind::Fake,
        Ok(other) => panic!("CLAUDEPOOL_TEST_AGENT names no agent: {other}"),
        Err(_) => support::Kind::Scripted,
    }
}

#[path = "service/abuse.rs"]
mod abuse;
#[path = "service/attached.rs"]
mod attached;
#[path = "service/audit.rs"]
mod audit;
#[path = "service/bad_input.rs"]
mod bad_input;
#[path = "service/catalog.rs"]
mod catalog;
#[path = "service/chains.rs"]
mod chains;
#[path = "service/drain.rs"]
mod drain;
#[path = "service/failure_table.rs"]
mod failure_table;
#[path = "service/faults.rs"]
mod faults;
#[path = "service/hostile.rs"]
mod hostile;
#[path = "service/isolation.rs"]
mod isolation;
#[path = "service/killed_again.rs"]
mod killed_again;
#[path = "service/kills.rs"]
mod kills;
#[path = "service/lease.rs"]
mod lease;
#[path = "service/limits.rs"]
mod limits;
#[path = "service/matrix.rs"]
mod matrix;
#[path = "service/metrics.rs"]
mod metrics;
#[path = "service/money.rs"]
mod money;
#[path = "service/openmetrics.rs"]
mod openmetrics;
#[path = "service/operator.rs"]
mod operator;
#[path = "service/otlp.rs"]
mod otlp;
#[path = "service/outage.rs"]
mod outage;
#[path = "service/policy.rs"]
mod policy;
#[path = "service/promises.rs"]
mod promises;
#[path = "service/requests.rs"]
mod requests;
#[path = "service/sigterm.rs"]
mod sigterm;
#[path = "service/status_port.rs"]
mod status_port;
#[path = "service/streams.rs"]
mod streams;
#[path = "service/tasks.rs"]
mod tasks;
#[path = "service/tls.rs"]
mod tls;
#[path = "service/trace.rs"]
mod trace;
#[path = "service/trees.rs"]
mod trees;
