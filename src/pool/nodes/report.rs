//! What each node tells of itself, and the sum of it.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::super::inner::Inner;
use super::super::status;
use crate::pb;
use crate::store::Totals;
use crate::store::cluster::Node;

/// What this node tells the others.
pub(super) async fn own(inner: &Arc<Inner>) -> Bytes {
    let status = status::status_of(inner, &Totals::default()).await;
    status.encode_to_vec().into()
}

/// What the others have told.
fn others(inner: &Inner, nodes: &[Node]) -> Vec<pb::PoolStatus> {
    let others = nodes.iter().filter(|node| node.id != inner.node);
    // One that cannot be read comes from a later version: its node counts as
    // one that has told nothing.
    let reports = others.map(|node| pb::PoolStatus {
        node_id: node.id.0.clone(),
        node_labels: node.labels.iter().cloned().collect(),
        ..pb::PoolStatus::decode(node.report.clone()).unwrap_or_default()
    });
    reports.collect()
}

/// The status of all nodes: this one's, and what the others have told.
pub(in super::super) fn of_all(inner: &Inner, own: pb::PoolStatus) -> pb::PoolStatus {
    let Some((_, member)) = inner.cluster() else {
        return own;
    };
    let others = others(inner, &member.nodes());
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
    all
}

/// One node's part of the status of all. `None`: it is not there.
pub(in super::super) fn of_one(
    inner: &Inner,
    own: pb::PoolStatus,
    id: &str,
) -> Option<pb::PoolStatus> {
    if own.node_id == id {
        return Some(own);
    }
    let (_, member) = inner.cluster()?;
    let others = others(inner, &member.nodes());
    let one = others.into_iter().find(|other| other.node_id == id)?;
    Some(pb::PoolStatus {
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
