//! How long what has ended is kept.

use std::collections::HashMap;

use super::inner::{FIRST, Inner, Kept, remove_from};
use crate::clock::Timestamp;
use crate::id::TaskId;
use crate::store::StoreError;
use crate::task::{State, Task};

impl Inner {
    /// Forgets requests that have expired; how many.
    pub fn expire_requests(&mut self, now: Timestamp, limit: usize) -> usize {
        let gone: Vec<_> = self
            .requests
            .iter()
            .filter(|(_, request)| !request.is_remembered(now))
            .map(|(key, _)| key.clone())
            .take(limit)
            .collect();
        for key in &gone {
            self.requests.remove(key);
        }
        gone.len()
    }

    /// Forgets sessions that nobody needs, the longest unused first.
    pub fn expire_sessions(&mut self, before: Timestamp, limit: usize) -> Vec<String> {
        let mut unused: Vec<_> = self
            .sessions
            .values()
            .filter(|session| session.used_time < before && !self.goes_on(session))
            .map(|session| (session.used_time, session.id.clone()))
            .collect();
        unused.sort_unstable();
        unused.truncate(limit);
        let ids: Vec<_> = unused.into_iter().map(|(_, id)| id).collect();
        for id in &ids {
            self.sessions.remove(id);
        }
        ids
    }

    /// Ended tasks of each state that ended before its moment, oldest first.
    pub fn outdated(&self, ended: &[(State, Timestamp)], limit: usize) -> Vec<Task> {
        let mut live = HashMap::new();
        let mut goes_on = |task: &Task| {
            task.group.is_some_and(|group| {
                let mut members = self.groups.get(&group).into_iter().flatten();
                let any = || members.any(|(_, id)| self.live.contains(id));
                *live.entry(group).or_insert_with(any)
            })
        };
        ended
            .iter()
            .flat_map(|(state, before)| {
                let from = (*state, Timestamp(i64::MIN), FIRST);
                self.ended.range(from..(*state, *before, FIRST))
            })
            .filter_map(|(_, _, id)| self.tasks.get(id))
            .filter(|kept| !goes_on(&kept.task))
            .take(limit)
            .map(|kept| kept.task.clone())
            .collect()
    }

    /// Deletes an ended task at its version, a chain with its steps.
    pub fn delete(&mut self, id: TaskId, version: u64) -> Result<Vec<TaskId>, StoreError> {
        let kept = self.tasks.get(&id).ok_or(StoreError::Conflict)?;
        let mut gone = vec![id];
        gone.extend(self.steps.get(&id).into_iter().flatten());
        if kept.task.version != version || gone.iter().any(|id| self.live.contains(id)) {
            return Err(StoreError::Conflict);
        }
        for id in &gone {
            self.remove(*id);
        }
        Ok(gone)
    }

    fn remove(&mut self, id: TaskId) {
        self.unindex(id);
        let Some(Kept { task, .. }) = self.tasks.remove(&id) else {
            return;
        };
        remove_from(&mut self.callers, &task.caller, &id);
        if let Some(group) = task.group {
            remove_from(&mut self.groups, &group, &(task.place, id));
        }
        if let Some(parent) = task.parent {
            remove_from(&mut self.steps, &parent, &id);
        }
        if let Some(request) = task.request
            && let Some(request) = self.requests.get_mut(&(task.caller, request))
            && (request.task == id || (request.group.is_some() && request.group == task.group))
        {
            request.deleted = true;
        }
    }
}
