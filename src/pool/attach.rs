//! Attached callers: work without `detach` ends when nobody waits for it.

use std::sync::{Arc, PoisonError};

use tracing::warn;

use super::inner::Inner;
use super::submit::Made;
use crate::clock::Timestamp;
use crate::error::Error;
use crate::id::{GroupId, TaskId};
use crate::store::Parts;
use crate::task::{Task, TaskEvent};

/// A caller's hold on a task or a group: while it lives the caller is attached.
/// Dropping it is leaving: without `detach` the work is cancelled, at once or
/// after `reattach_grace` if it has a request.
pub struct Attachment {
    inner: Arc<Inner>,
    tasks: Vec<TaskId>,
    group: Option<GroupId>,
    /// Whether a repeat of the call may come and attach again.
    repeatable: bool,
}

impl Attachment {
    /// Attaches to what a call made.
    pub(super) fn new(inner: &Arc<Inner>, made: &Made, repeatable: bool) -> Self {
        {
            let mut attached = inner
                .attached
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            for task in &made.tasks {
                *attached.entry(*task).or_default() += 1;
            }
        }
        Self {
            inner: Arc::clone(inner),
            tasks: made.tasks.clone(),
            group: made.group,
            repeatable,
        }
    }

    /// Calls off the end that an earlier caller's leaving has set.
    pub(super) async fn recall(&self) {
        if let Err(error) = set(&self.inner, &self.tasks, self.group, None).await {
            warn!(%error, "work that a caller came back to may be cancelled");
        }
    }

    /// The work has ended: there is nothing to leave.
    pub fn is_over(mut self) {
        self.detach();
    }

    /// Takes the hold away; gives the tasks that nobody holds any more.
    fn detach(&mut self) -> Vec<TaskId> {
        let mut attached = self
            .inner
            .attached
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let tasks = std::mem::take(&mut self.tasks);
        tasks
            .into_iter()
            .filter(|task| match attached.get_mut(task) {
                Some(count) if *count > 1 => {
                    *count -= 1;
                    false
                }
                _ => attached.remove(task).is_some(),
            })
            .collect()
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let left = self.detach();
        if left.is_empty() || self.inner.stop.is_cancelled() {
            return;
        }
        let inner = Arc::clone(&self.inner);
        let grace = if self.repeatable {
            inner.options.reattach_grace
        } else {
            std::time::Duration::ZERO
        };
        let (group, at) = (self.group, inner.now().after(grace));
        let runtime = inner.runtime.clone();
        let tracker = inner.tracker.clone();
        tracker.spawn_on(
            async move { abandon(&inner, &left, group, at).await },
            &runtime,
        );
    }
}

async fn abandon(inner: &Inner, tasks: &[TaskId], group: Option<GroupId>, at: Timestamp) {
    // Who attaches meanwhile is counted before it looks at the rows: one of the
    // two sees the other.
    let left: Vec<TaskId> = tasks
        .iter()
        .copied()
        .filter(|id| inner.attached(id) == 0)
        .collect();
    if let Err(error) = set(inner, &left, group, Some(at)).await {
        warn!(%error, "abandoned work goes on");
    }
    let back: Vec<_> = left
        .into_iter()
        .filter(|id| inner.attached(id) > 0)
        .collect();
    if let Err(error) = set(inner, &back, group, None).await {
        warn!(%error, "work that a caller came back to may be cancelled");
    }
}

/// Sets when tasks are abandoned; those that have ended are passed over.
async fn set(
    inner: &Inner,
    ids: &[TaskId],
    group: Option<GroupId>,
    at: Option<Timestamp>,
) -> Result<(), Error> {
    let tasks: Vec<Task> = match group {
        _ if ids.is_empty() => return Ok(()),
        Some(group) => {
            let wanted: std::collections::HashSet<_> = ids.iter().collect();
            let members = inner.store.group(group, Parts::ROW).await?;
            let members = members.into_iter().map(|record| record.task);
            members.filter(|task| wanted.contains(&task.id)).collect()
        }
        None => {
            let mut tasks = Vec::new();
            for id in ids {
                let record = inner.store.record(*id, Parts::ROW).await?;
                tasks.extend(record.map(|record| record.task));
            }
            tasks
        }
    };
    inner.change_all(&tasks, || TaskEvent::Abandon(at)).await?;
    Ok(())
}
