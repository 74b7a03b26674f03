//! A task as columns, for stores that are databases.

use std::sync::Arc;

use prost::Message;

use super::StoreError;
use crate::clock::Timestamp;
use crate::id::{CallerId, ConversationId, GroupId, NodeId, RequestId, SlotId, TaskId};
use crate::money::Microdollars;
use crate::pb;
use crate::task::{Lease, Level, Recovery, Spec, State, Task};
use crate::trace::TraceContext;

/// The columns of `tasks` in the order of the fields of [`Row`].
pub(super) const COLUMNS: [&str; 40] = [
    "id",
    "version",
    "caller",
    "state",
    "tags",
    "group_id",
    "parent_id",
    "place",
    "rank",
    "request_id",
    "create_time",
    "ready_time",
    "start_time",
    "end_time",
    "queue_deadline",
    "attached",
    "abandon_time",
    "attempt",
    "burnt",
    "slot",
    "lease_node",
    "lease_until",
    "session_id",
    "context_revision",
    "budget",
    "reserved",
    "cost",
    "attempt_cost",
    "cost_estimated",
    "recovery",
    "saves_session",
    "conversation",
    "last_sequence",
    "due_time",
    "trace",
    "usage",
    "session_offset",
    "node_label",
    "level",
    "home",
];

/// Columns that a change never writes: they stay as they were first written.
pub(super) const FIXED: [&str; 13] = [
    "id",
    "caller",
    "tags",
    "group_id",
    "parent_id",
    "place",
    "request_id",
    "create_time",
    "saves_session",
    "conversation",
    "trace",
    "node_label",
    "level",
];

/// A row of `tasks`.
pub(super) struct Row {
    pub id: [u8; 16],
    pub version: i64,
    pub caller: String,
    pub state: i32,
    pub tags: String,
    pub group: Option<[u8; 16]>,
    pub parent: Option<[u8; 16]>,
    pub place: i64,
    pub rank: i32,
    pub request: Option<[u8; 16]>,
    pub create_time: i64,
    pub ready_time: i64,
    pub start_time: Option<i64>,
    pub end_time: Option<i64>,
    pub queue_deadline: Option<i64>,
    pub attached: bool,
    pub abandon_time: Option<i64>,
    pub attempt: i64,
    pub burnt: i64,
    pub slot: Option<String>,
    pub lease_node: Option<String>,
    pub lease_until: Option<i64>,
    pub session_id: String,
    pub context_revision: i64,
    pub budget: i64,
    pub reserved: i64,
    pub cost: i64,
    pub attempt_cost: i64,
    pub cost_estimated: bool,
    pub recovery: i32,
    pub saves_session: bool,
    pub conversation: Option<String>,
    pub last_sequence: i64,
    pub due_time: Option<i64>,
    pub usage: Vec<u8>,
    pub session_offset: i64,
    pub trace: Option<String>,
    pub home: Option<String>,
    pub node_label: Option<String>,
    pub level: i32,
}

impl Row {
    /// As it is written.
    pub fn of(task: &Task) -> Self {
        Self {
            id: *task.id.as_bytes(),
            version: integer(task.version),
            caller: task.caller.0.clone(),
            state: task.state.to_proto() as i32,
            tags: serde_json::Value::from(task.tags.as_slice()).to_string(),
            group: task.group.map(|id| *id.as_bytes()),
            parent: task.parent.map(|id| *id.as_bytes()),
            place: i64::from(task.place),
            rank: i32::from(task.rank),
            request: task.request.map(|id| *id.as_bytes()),
            create_time: task.create_time.0,
            ready_time: task.ready_time.0,
            start_time: task.start_time.map(|t| t.0),
            end_time: task.end_time.map(|t| t.0),
            queue_deadline: task.queue_deadline.map(|t| t.0),
            attached: task.attached,
            abandon_time: task.abandon_time.map(|t| t.0),
            attempt: i64::from(task.attempt),
            burnt: i64::from(task.burnt),
            slot: task.slot.as_ref().map(|slot| slot.0.clone()),
            lease_node: task.lease.as_ref().map(|lease| lease.node.0.clone()),
            lease_until: task.lease.as_ref().and_then(|l| l.until).map(|t| t.0),
            session_id: task.session_id.clone(),
            context_revision: integer(task.context_revision),
            budget: task.budget.0,
            reserved: task.reserved.0,
            cost: task.cost.0,
            attempt_cost: task.attempt_cost.0,
            cost_estimated: task.cost_estimated,
            recovery: recovery_number(task.recovery),
            last_sequence: integer(task.last_sequence),
            due_time: task.due_time().map(|t| t.0),
            usage: encode_usage(&task.usage),
            session_offset: task.session_offset,
            trace: task.trace.as_ref().map(|trace| trace.as_str().to_owned()),
            home: task.home.as_ref().map(|node| node.0.clone()),
            node_label: task.node_label.clone(),
            level: i32::from(task.level.0),
            saves_session: task.saves_session,
            conversation: task.conversation.as_ref().map(|c| c.0.clone()),
        }
    }

    /// As it is understood; `Corrupt` names the column that is not.
    pub fn into_task(self) -> Result<Task, StoreError> {
        let id = TaskId::from_bytes(self.id);
        let bad = |column| damaged(id, column);
        Ok(Task {
            id,
            version: u64::try_from(self.version).map_err(|_| bad("version"))?,
            caller: CallerId(self.caller),
            state: State::from_number(self.state).ok_or_else(|| bad("state"))?,
            tags: serde_json::from_str(&self.tags).map_err(|_| bad("tags"))?,
            group: self.group.map(GroupId::from_bytes),
            parent: self.parent.map(TaskId::from_bytes),
            place: u32::try_from(self.place).map_err(|_| bad("place"))?,
            rank: u8::try_from(self.rank).map_err(|_| bad("rank"))?,
            request: self.request.map(RequestId::from_bytes),
            create_time: Timestamp(self.create_time),
            ready_time: Timestamp(self.ready_time),
            start_time: self.start_time.map(Timestamp),
            end_time: self.end_time.map(Timestamp),
            queue_deadline: self.queue_deadline.map(Timestamp),
            attached: self.attached,
            abandon_time: self.abandon_time.map(Timestamp),
            attempt: u32::try_from(self.attempt).map_err(|_| bad("attempt"))?,
            burnt: u32::try_from(self.burnt).map_err(|_| bad("burnt"))?,
            slot: self.slot.map(SlotId),
            lease: self.lease_node.map(|node| Lease {
                node: NodeId(node),
                until: self.lease_until.map(Timestamp),
            }),
            session_id: self.session_id,
            saves_session: self.saves_session,
            home: self.home.map(NodeId),
            node_label: self.node_label,
            level: Level(u16::try_from(self.level).map_err(|_| bad("level"))?),
            conversation: self.conversation.map(ConversationId),
            context_revision: u64::try_from(self.context_revision)
                .map_err(|_| bad("context_revision"))?,
            budget: Microdollars(self.budget),
            reserved: Microdollars(self.reserved),
            cost: Microdollars(self.cost),
            attempt_cost: Microdollars(self.attempt_cost),
            cost_estimated: self.cost_estimated,
            usage: decode_usage(&self.usage).ok_or_else(|| bad("usage"))?,
            session_offset: self.session_offset,
            // One that is not understood harms nobody.
            trace: self.trace.as_deref().and_then(TraceContext::from_stored),
            recovery: recovery(self.recovery).ok_or_else(|| bad("recovery"))?,
            last_sequence: u64::try_from(self.last_sequence).map_err(|_| bad("last_sequence"))?,
        })
    }
}

/// Something of a task that cannot be understood.
pub(super) fn damaged(task: TaskId, what: &str) -> StoreError {
    StoreError::Corrupt(format!("task {task} has a bad {what}"))
}

/// A count as databases keep it; none of ours comes near the limit.
pub(super) fn integer(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// What was asked, as it was encoded.
pub(super) fn spec(
    task: TaskId,
    received: &[u8],
    effective: &[u8],
    chain: Option<&[u8]>,
) -> Result<Spec, StoreError> {
    Ok(Spec {
        chain: chain
            .map(pb::ChainSpec::decode)
            .transpose()
            .map_err(|_| damaged(task, "chain"))?,
        received: pb::TaskSpec::decode(received).map_err(|_| damaged(task, "spec"))?,
        effective: pb::RunSettings::decode(effective).map_err(|_| damaged(task, "settings"))?,
    })
}

/// What it gave, as it was encoded.
pub(super) fn result(task: TaskId, bytes: &[u8]) -> Result<Arc<pb::TaskResult>, StoreError> {
    match pb::TaskResult::decode(bytes) {
        Ok(result) => Ok(Arc::new(result)),
        Err(_) => Err(damaged(task, "result")),
    }
}

/// As the message that holds nothing else.
fn encode_usage(usage: &[pb::ModelUsage]) -> Vec<u8> {
    let usage = usage.to_vec();
    let message = pb::UsageUpdate {
        usage,
        ..pb::UsageUpdate::default()
    };
    message.encode_to_vec()
}

fn decode_usage(bytes: &[u8]) -> Option<Vec<pb::ModelUsage>> {
    let message = pb::UsageUpdate::decode(bytes).ok()?;
    Some(message.usage)
}

fn recovery_number(recovery: Recovery) -> i32 {
    let policy = match recovery {
        Recovery::Restart => pb::RecoveryPolicy::Restart,
        Recovery::Resume => pb::RecoveryPolicy::Resume,
        Recovery::Fail => pb::RecoveryPolicy::Fail,
    };
    policy as i32
}

fn recovery(number: i32) -> Option<Recovery> {
    [Recovery::Restart, Recovery::Resume, Recovery::Fail]
        .into_iter()
        .find(|recovery| recovery_number(*recovery) == number)
}
