//! Which tasks are listed.

use super::Parts;
use crate::clock::Timestamp;
use crate::id::{CallerId, GroupId, SlotId, TaskId};
use crate::task::{State, Task};

/// Which tasks are listed. Empty fields do not restrict.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// Of this caller; `None`: of any.
    pub caller: Option<CallerId>,
    /// In any of these states.
    pub states: Vec<State>,
    /// Last run on this slot.
    pub slot: Option<SlotId>,
    /// With any of these tags.
    pub any_tags: Vec<String>,
    /// Created at or after.
    pub created_from: Option<Timestamp>,
    /// Created before.
    pub created_before: Option<Timestamp>,
    /// Of this fan-out.
    pub group: Option<GroupId>,
    /// Steps of this chain.
    pub parent: Option<TaskId>,
    /// Whether steps of chains are listed too; implied by `parent`.
    pub include_steps: bool,
}

impl Filter {
    /// Whether a task is listed.
    pub fn admits(&self, task: &Task) -> bool {
        fn is<T: PartialEq>(wanted: &Option<T>, found: Option<&T>) -> bool {
            wanted.as_ref().is_none_or(|wanted| found == Some(wanted))
        }
        is(&self.caller, Some(&task.caller))
            && is(&self.slot, task.slot.as_ref())
            && is(&self.group, task.group.as_ref())
            && is(&self.parent, task.parent.as_ref())
            && (self.states.is_empty() || self.states.contains(&task.state))
            && (self.any_tags.is_empty() || self.any_tags.iter().any(|t| task.tags.contains(t)))
            && self.created_from.is_none_or(|t| task.create_time >= t)
            && self.created_before.is_none_or(|t| task.create_time < t)
            && (self.include_steps || self.parent.is_some() || task.parent.is_none())
    }
}

/// One page of a list, newest first: by id, downwards.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// Which tasks.
    pub filter: Filter,
    /// Only tasks older than this one.
    pub before: Option<TaskId>,
    /// At most this many.
    pub limit: usize,
    /// What to read of each.
    pub parts: Parts,
}
