//! What becomes of work whose server is gone.

use std::collections::HashMap;

use tracing::info;

use super::inner::Inner;
use super::{chain_steps, queue};
use crate::error::Error;
use crate::store::{Filter, Parts, Query, StoreError};
use crate::task::{Record, State, Task, TaskEvent};

/// Tasks looked at in one go.
const BATCH: usize = 1000;

/// Pages of unfinished tasks, newest first.
pub(super) struct Unfinished(Option<Query>);

impl Unfinished {
    /// Those in these states, the steps of chains among them.
    pub fn of(states: Vec<State>) -> Self {
        Self(Some(Query {
            filter: Filter {
                states,
                include_steps: true,
                ..Filter::default()
            },
            before: None,
            limit: BATCH,
            parts: Parts::ROW,
        }))
    }

    /// The next page; empty after the last.
    pub async fn next(&mut self, inner: &Inner) -> Result<Vec<Record>, StoreError> {
        let Some(query) = &mut self.0 else {
            return Ok(Vec::new());
        };
        let page = inner.store.list(query).await?;
        match page.last() {
            Some(last) => query.before = Some(last.task.id),
            None => self.0 = None,
        }
        Ok(page)
    }
}

/// Decides the fate of what an earlier server left running, and gives attached
/// callers time to come back. Of many servers each recovers what a server of its
/// own name left.
pub(super) async fn at_start(inner: &Inner) -> Result<(), Error> {
    let grace = inner.options.restart_grace;
    let cluster = inner.cluster();
    let of_others = |task: &Task| {
        let own = task.lease.as_ref().is_some_and(|l| l.node == inner.node);
        cluster.is_some() && !own
    };
    let mut chains = Vec::new();
    let mut queued = HashMap::new();
    for states in [vec![State::Running, State::Cancelling], vec![State::Queued]] {
        let mut unfinished = Unfinished::of(states);
        loop {
            let page = unfinished.next(inner).await?;
            if page.is_empty() {
                break;
            }
            for record in page {
                let task = record.task;
                if task.is_chain() && task.state == State::Cancelling {
                    chains.push(task.id);
                }
                if queue::is_queued(task.state, &task) {
                    *queued.entry(task.caller.clone()).or_default() += 1;
                }
                let waits_for_nobody = !task.attached || task.abandon_time.is_some();
                // What follows them is for those to say who know.
                let unknown = !task.follows_at(inner.level);
                if of_others(&task) || unknown || (task.state == State::Queued && waits_for_nobody)
                {
                    continue;
                }
                let event = || TaskEvent::Recover { grace };
                if let Ok(Some(task)) = inner.change(task.id, event).await? {
                    info!(task_id = %task.id, state = ?task.state, "task recovered");
                }
            }
        }
    }
    // Those too that went back to it just now.
    inner.queue.set(queued);
    chain_steps::recover(inner, &chains).await?;
    match cluster {
        // Nobody else can be attached to anything.
        Some((cluster, _)) if cluster.nodes().await?.len() <= 1 => abandon(inner).await,
        _ => Ok(()),
    }
}

/// Gives the callers of all attached work time to come back: they may have been
/// attached to a server that is gone. One that they are attached to calls it
/// off.
pub(super) async fn abandon(inner: &Inner) -> Result<(), Error> {
    let at = inner.now().after(inner.options.restart_grace);
    let mut unfinished = Unfinished::of(vec![State::Queued, State::Running]);
    loop {
        let page = unfinished.next(inner).await?;
        if page.is_empty() {
            return Ok(());
        }
        let tasks = page.into_iter().map(|record| record.task);
        let tasks: Vec<_> = tasks
            .filter(|task| task.attached && task.abandon_time.is_none())
            .filter(|task| inner.attached(&task.id) == 0)
            .collect();
        inner
            .change_all(&tasks, || TaskEvent::Abandon(Some(at)))
            .await?;
    }
}
