//! Lets the agent's processes live for as long as this server runs.

use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::inner::Inner;

/// Renewals within a lease: two may come late.
const RENEWALS: u32 = 3;

/// Runs until the pool stops.
pub(super) async fn renew(inner: &Inner, span: Duration) {
    let mut due = tokio::time::interval(span / RENEWALS);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = inner.stop.cancelled() => return,
            _ = due.tick() => inner.agent.lease(span),
        }
    }
}
