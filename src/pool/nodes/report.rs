//! What each node tells of itself, and the sum of it.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::super::inner::Inner;
use super::super::status;
use crate::error::Error;
use crate::pb;
use crate::store::Totals;

/// What this node tells the others.
pub(super) async fn own(inner: &Arc<Inner>) -> Bytes {
    let status = status::status_of(inner, &Totals::default()).await;
    status.encode_to_vec().into()
}

/// What the others have told, as it is asked for: a server that nobody asks reads
/// nothing of them.
async fn others(inner: &Inner) -> Result<Vec<pb::PoolStatus>, Error> {
    let Some((cluster, _)) = inner.cluster() else {
        return Ok(Vec::new());
    };
    let nodes = cluster.nodes().await?;
    let others = nodes.iter().filter(|node| node.id != inner.node);
    // One that cannot be read comes from a later version: its node counts as
    // one that has told nothing.
    let reports = others.map(|node| pb::PoolStatus {
        node_id: node.id.0.clone(),
        node_labels: node.labels.iter().cloned().collect(),
        ..pb::PoolStatus::decode(node.report.clone()).unwrap_or_default()
    });
    Ok(reports.collect())
}

/// The status of all nodes: this one's, and what the others have told.
pub(in super::super) async fn of_all(
    inner: &Inner,
    own: pb::PoolStatus,
) -> Result<pb::PoolStatus, Error> {
    if inner.cluster().is_none() {
        return Ok(own);
    }
    let others = others(inner).await?;
    let mut all = own.clone();
    all.nodes = vec![node(own)];
    for other in others {
        all.slots_total += other.slots_total;
        all.slots_idle += other.slots_idle;
        all.slots_busy += other.slots_busy;
        all.slots_errored += other.slots_errored;
        all.slots_retiring += other.slots_retiring;
        all.slots_min += other.slots_min;
        all.slots_max += other.slots_max;
        all.watchers += other.watchers;
        all.slots.extend(other.slots.iter().cloned());
        all.nodes.push(node(other));
    }
    all.nodes.sort_by(|a, b| a.node_id.cmp(&b.node_id));
    Ok(all)
}

/// One node's part of the status of all.
pub(in super::super) async fn of_one(
    inner: &Inner,
    own: pb::PoolStatus,
    id: &str,
) -> Result<pb::PoolStatus, Error> {
    if own.node_id == id {
        return Ok(own);
    }
    let others = others(inner).await?;
    let one = others.into_iter().find(|other| other.node_id == id);
    let one = one.ok_or_else(super::no_such)?;
    Ok(pb::PoolStatus {
        // What holds for all.
        tasks: own.tasks,
        spent_microdollars: own.spent_microdollars,
        reserved_microdollars: own.reserved_microdollars,
        budget_microdollars: own.budget_microdollars,
        hold: own.hold,
        paused: own.paused,
        pause_reason: own.pause_reason,
        context_revision: own.context_revision,
        ..one
    })
}

fn node(status: pb::PoolStatus) -> pb::Node {
    pb::Node {
        node_id: status.node_id,
        version: status.version,
        agent_version: status.agent_version,
        start_time: status.start_time,
        slots_total: status.slots_total,
        slots_idle: status.slots_idle,
        slots_busy: status.slots_busy,
        slots_errored: status.slots_errored,
        watchers: status.watchers,
        draining: status.draining,
        labels: status.node_labels,
    }
}
