//! A fan-out as its caller sees it: every member once, as it ends.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use super::attach::Attachment;
use super::inner::Inner;
use super::watcher::Watcher;
use crate::error::{Error, Missing};
use crate::id::{GroupId, TaskId};
use crate::store::Parts;
use crate::stream::hub::GroupSubscription;
use crate::task::Record;

/// A fan-out that the caller is attached to.
pub struct FanOut {
    /// The group.
    pub group: GroupId,
    /// Its tasks, in the order given.
    pub tasks: Arc<[TaskId]>,
    inner: Arc<Inner>,
    /// Members that had ended when it began to listen, in order of their end.
    ended_before: VecDeque<(u32, TaskId)>,
    /// The member being read, kept until it was given.
    current: Option<(u32, TaskId)>,
    given: HashSet<u32>,
    ends: GroupSubscription,
    attachment: Option<Attachment>,
    _watcher: Watcher,
}

impl FanOut {
    /// Listens to a group. `attachment`: the caller's hold, if it has one.
    pub(super) async fn new(
        inner: &Arc<Inner>,
        group: GroupId,
        tasks: Arc<[TaskId]>,
        attachment: Option<Attachment>,
        watcher: Watcher,
    ) -> Result<Self, Error> {
        // Before the look at what has ended, so that nothing falls between.
        let ends = inner.hub.subscribe_group(group, &tasks);
        let mut ended: Vec<_> = inner
            .store
            .group(group, Parts::ROW)
            .await?
            .into_iter()
            .filter_map(|record| {
                let task = record.task;
                task.end_time.map(|end| (end, task.place, task.id))
            })
            .collect();
        ended.sort_unstable();
        Ok(Self {
            group,
            tasks,
            inner: Arc::clone(inner),
            ended_before: ended
                .into_iter()
                .map(|(_, place, id)| (place, id))
                .collect(),
            current: None,
            given: HashSet::new(),
            ends,
            attachment,
            _watcher: watcher,
        })
    }

    /// The next task that ended: its place and what there is to know. `None`
    /// after the last. Safe to drop and call again.
    pub async fn next(&mut self) -> Result<Option<(u32, Record)>, Error> {
        loop {
            if self.given.len() == self.tasks.len() {
                if let Some(attachment) = self.attachment.take() {
                    attachment.is_over();
                }
                return Ok(None);
            }
            let (place, id) = match self.current {
                Some(member) => member,
                None => {
                    let member = match self.ended_before.pop_front() {
                        Some(member) => member,
                        None => self.ends.next().await,
                    };
                    if self.given.contains(&member.0) {
                        continue;
                    }
                    *self.current.insert(member)
                }
            };
            let record = self
                .inner
                .store
                .record(id, Parts::RESULT)
                .await?
                .ok_or(Error::NotFound(Missing::DeletedTask))?;
            self.current = None;
            self.given.insert(place);
            return Ok(Some((place, record)));
        }
    }
}
