//! What a caller sees: its own tasks, or every caller's.

use super::{Pool, page};
use crate::error::{Error, Missing};
use crate::id::TaskId;
use crate::store::{Filter, Parts, Query, StoreError};
use crate::stream::Subscription;
use crate::task::{Record, Task};

/// Tasks on a page that asks for no number, and the most on one.
pub(super) const PAGE: usize = 50;
pub(super) const PAGE_MAX: usize = 1000;
/// Bytes of a page with specs and results after which it ends early: below what
/// every client receives.
pub(super) const PAGE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// One page of a list.
#[derive(Clone, Debug)]
pub struct Page {
    /// The tasks, newest first.
    pub tasks: Vec<Record>,
    /// To go on with; empty: there are no more.
    pub next_page_token: String,
}

/// A task at its end.
pub(super) async fn end_of(mut heard: Subscription) -> Result<Record, Error> {
    match heard.ended().await {
        Some(record) => Ok(Record::clone(&record)),
        None => Err(Error::NotFound(Missing::DeletedTask)),
    }
}

impl Pool {
    pub(super) fn sees(&self, task: &Task) -> bool {
        self.sees_all || task.caller == self.caller
    }

    /// A task of this caller; another's is not there.
    pub(super) async fn own(&self, id: TaskId, parts: Parts) -> Result<Record, Error> {
        self.inner
            .store
            .record(id, parts)
            .await?
            .filter(|record| self.sees(&record.task))
            .ok_or(Error::NotFound(Missing::Task))
    }

    /// A page of the caller's tasks. `page_size` 0: 50; more than 1,000 is
    /// taken as 1,000. `full`: with spec and result, and fewer tasks when they
    /// are large.
    pub async fn tasks(
        &self,
        filter: Filter,
        page_size: usize,
        page_token: &str,
        full: bool,
    ) -> Result<Page, Error> {
        let filter = Filter {
            caller: (!self.sees_all).then(|| self.caller.clone()),
            ..filter
        };
        let size = match page_size {
            0 => PAGE,
            asked => asked.min(PAGE_MAX),
        };
        let query = Query {
            before: page::parse(&filter, full, page_token)?,
            filter,
            limit: size + 1,
            parts: if full { Parts::ALL } else { Parts::ROW },
        };
        let mut tasks = self.inner.store.list(&query).await?;
        let mut bytes = 0;
        let fit = tasks
            .iter()
            .take(size)
            .take_while(|record| {
                let before = bytes;
                bytes += record.bytes();
                before < PAGE_BYTES_MAX
            })
            .count();
        let more = tasks.len() > fit;
        tasks.truncate(fit);
        let next_page_token = match tasks.last() {
            Some(last) if more => page::token(&query.filter, full, last.task.id),
            _ => String::new(),
        };
        Ok(Page {
            tasks,
            next_page_token,
        })
    }

    /// Deletes a finished task.
    pub async fn delete_task(&self, id: TaskId) -> Result<(), Error> {
        let task = self.own(id, Parts::ROW).await?.task;
        if !task.state.is_end() {
            return Err(Error::TaskNotFinished(task.state));
        }
        if let Some(chain) = task.parent
            && let Some(chain) = self.inner.store.record(chain, Parts::ROW).await?
            && !chain.task.state.is_end()
        {
            // What a step gave is looked at until its chain has ended.
            return Err(Error::TaskNotFinished(chain.task.state));
        }
        match self.inner.store.delete(id, task.version).await {
            // An ended task changes no more: it was deleted meanwhile.
            Err(StoreError::Conflict) => Err(Error::NotFound(Missing::Task)),
            Err(error) => Err(error.into()),
            Ok(gone) => {
                self.inner.deleted(&gone);
                self.inner.sweep.notify_one();
                Ok(())
            }
        }
    }
}
