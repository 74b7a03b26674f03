//! Joining, renewing, and what becomes of the work of those who do not.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{error, info, warn};

use super::super::inner::Inner;
use super::super::{catch_up, chain_steps, recovery};
use super::report;
use crate::error::Error;
use crate::store::cluster::Cluster;
use crate::store::{Filter, Parts, Query, StoreError};
use crate::task::lost::Lost;
use crate::task::{Bill, State, TaskEvent};

/// Renewals within a lease: two may come late.
const RENEWALS: u32 = 3;
/// Shortest time between two reports that nothing but news causes.
const NEWS_MIN: Duration = Duration::from_secs(1);
/// Leases waited for, of a node of the same name, before it is believed to live.
const LEASES_MAX: u32 = 2;
/// Orphans taken up in one go.
const BATCH: usize = 256;

/// The part of a lease during which work goes on: the processes end by
/// themselves before it passes, also where two clocks do not run equally fast.
pub(in super::super) fn usable(span: Duration) -> Duration {
    span * 4 / 5
}

/// Becomes the node of that name: waits for the lease of one that was killed.
/// `Err`: one sentence.
pub(in super::super) async fn join(
    cluster: &dyn Cluster,
    options: &super::super::Options,
    node: &crate::id::NodeId,
) -> Result<Instant, String> {
    let mut waited = Duration::ZERO;
    loop {
        let began = Instant::now();
        let joined = cluster.join(node, &options.node_labels, options.node_lease);
        match joined.await.map_err(|error| error.to_string())? {
            None => return Ok(began),
            Some(_) if waited > options.node_lease * LEASES_MAX => {
                return Err(format!(
                    "a server named {} is running on this store: give this one another node_id",
                    node.0
                ));
            }
            Some(left) => {
                info!(
                    ?left,
                    "waiting for the lease of the last server of this name"
                );
                sleep(left).await;
                waited += left;
            }
        }
    }
}

/// Renews until the pool stops.
pub(in super::super) async fn run(inner: &std::sync::Arc<Inner>) {
    let Some((cluster, member)) = inner.cluster() else {
        return;
    };
    let (span, mut next) = (member.span, Instant::now());
    let mut changes = inner.status.subscribe();
    let (mut told, mut last) = (Instant::now(), None);
    loop {
        let tell = async {
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            sleep_until(told + NEWS_MIN).await;
        };
        tokio::select! {
            biased;
            () = inner.stop.cancelled() => return,
            () = sleep_until(next) => {}
            () = tell => {}
        }
        changes.mark_unchanged();
        let began = Instant::now();
        let report = Some(report::own(inner).await);
        // What the others know already wakes nobody.
        let news = report.clone().filter(|_| report != last);
        let renewed = timeout(span / RENEWALS, cluster.renew(span, news)).await;
        told = Instant::now();
        next = told + span / RENEWALS;
        match renewed {
            Ok(Ok(())) => {
                last = report;
                let lapsed = !inner.may_begin();
                member.hold_until(began + usable(span));
                if lapsed {
                    inner.wake.notify_one();
                }
                inner.agent.lease(member.lifetime());
                member.renewed.notify_one();
            }
            Ok(Err(StoreError::Fenced)) => {
                last = None;
                error!("this node's lease has passed: what it runs is stopped");
                tokio::select! {
                    biased;
                    () = inner.stop.cancelled() => return,
                    () = again(inner, cluster) => {}
                }
            }
            Ok(Err(error)) => {
                warn!(%error, left = ?member.left(), "the lease is not renewed");
                next = told + span / (RENEWALS * 3);
            }
            Err(_) => warn!(left = ?member.left(), "the lease is not renewed in time"),
        }
    }
}

/// Takes up the work of nodes that are gone after each renewal, beside it: much
/// of it must not cost this node its own lease.
pub(in super::super) async fn take_over(inner: &Inner) {
    let Some((cluster, member)) = inner.cluster() else {
        return;
    };
    loop {
        tokio::select! {
            biased;
            () = inner.stop.cancelled() => return,
            () = member.renewed.notified() => {}
        }
        if let Err(error) = take_up(inner, cluster).await {
            warn!(%error, "the work of nodes that are gone was not taken up");
        }
    }
}

/// Ends what runs, and joins again.
async fn again(inner: &std::sync::Arc<Inner>, cluster: &dyn Cluster) {
    let Some(member) = &inner.member else { return };
    member.hold_until(Instant::now());
    inner.agent.lease(member.lifetime());
    inner.status_changed();
    loop {
        match join(cluster, &inner.options, &inner.node).await {
            Ok(began) => {
                member.hold_until(began + usable(member.span));
                break;
            }
            Err(error) => warn!(%error, "this node cannot join"),
        }
        sleep(member.span / RENEWALS).await;
    }
    inner.agent.lease(member.lifetime());
    info!("this node has joined again");
    match catch_up::read_again(inner).await {
        Ok(left) => catch_up::go_on(inner, left),
        Err(error) => warn!(%error, "what is stored cannot be read"),
    }
}

/// Takes up what nodes that are gone have left: their tasks meet their recovery
/// policy, and callers attached there have time to come back.
async fn take_up(inner: &Inner, cluster: &dyn Cluster) -> Result<(), Error> {
    let gone = cluster.bury().await?;
    loop {
        let orphans = cluster.orphans(inner.level, BATCH).await?;
        let all = orphans.len() < BATCH;
        for task in orphans {
            let lost = || {
                TaskEvent::Lost(Lost {
                    attempt: task.attempt,
                    bill: Bill::estimate(task.attempt_cost),
                    message: "the server that ran it is gone",
                })
            };
            if let Ok(Some(task)) = inner.change(task.id, lost).await? {
                info!(task_id = %task.id, state = ?task.state, "task recovered");
            }
        }
        if all {
            break;
        }
    }
    if gone.is_empty() {
        return Ok(());
    }
    info!(nodes = ?gone, "the leases of nodes have passed");
    super::control::let_another_probe(inner).await?;
    recovery::abandon(inner).await?;
    let cancelling = Query {
        filter: Filter {
            states: vec![State::Cancelling],
            ..Filter::default()
        },
        before: None,
        limit: BATCH,
        parts: Parts::ROW,
    };
    let chains = inner.store.list(&cancelling).await?.into_iter();
    let chains = chains.filter(|record| record.task.is_chain());
    let chains: Vec<_> = chains.map(|record| record.task.id).collect();
    chain_steps::recover(inner, &chains).await
}
