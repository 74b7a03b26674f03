//! What a pool keeps in memory, read again after the store did not answer: a call
//! that failed may have done what it was to do, and nobody was told.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tracing::{info, warn};

use super::attempt;
use super::chain_steps;
use super::inner::Inner;
use super::queue;
use super::recovery::Unfinished;
use crate::id::TaskId;
use crate::store::{Parts, StoreError};
use crate::task::{State, Task, TaskEvent};

/// What is to be done once the store takes changes again.
#[derive(Default)]
pub(super) struct Left {
    /// Claimed, and no slot knows it.
    lost: Vec<Task>,
    /// Its caller has left, and that was not noted.
    alone: Vec<TaskId>,
    /// Being cancelled, and its steps may not know.
    chains: Vec<TaskId>,
}

/// Reads everything again. Nothing else is committed meanwhile.
pub(super) async fn read_again(inner: &Inner) -> Result<Left, StoreError> {
    let context = inner.store.context().await?;
    if context.revision != inner.context().revision {
        inner.context.send_replace(Arc::new(context));
    }
    let totals = inner.store.totals().await?;
    inner
        .budget_limited
        .store(totals.funds.limit.is_some(), Ordering::SeqCst);
    let mut left = Left::default();
    let mut queued = HashMap::new();
    let states = vec![State::Queued, State::Running, State::Cancelling];
    let mut unfinished = Unfinished::of(states);
    loop {
        let page = unfinished.next(inner).await?;
        if page.is_empty() {
            break;
        }
        for record in page {
            if queue::is_queued(record.task.state, &record.task) {
                *queued.entry(record.task.caller.clone()).or_default() += 1;
            }
            look(inner, record.task, &mut left);
        }
    }
    inner.queue.set(queued);
    count(inner).await?;
    tell(inner).await?;
    Ok(left)
}

fn look(inner: &Inner, task: Task, left: &mut Left) {
    if task.attached && task.abandon_time.is_none() && inner.attached(&task.id) == 0 {
        left.alone.push(task.id);
    }
    if task.is_chain() {
        if task.state == State::Cancelling {
            left.chains.push(task.id);
        }
        return;
    }
    let ours = task.lease.as_ref().is_some_and(|l| l.node == inner.node);
    if task.state == State::Queued || !ours {
        return;
    }
    let slot = task.slot.as_ref().and_then(|slot| inner.slots.get(slot));
    if !slot.is_some_and(|slot| slot.may_run(&task.id)) {
        left.lost.push(task);
    } else if task.state == State::Cancelling {
        inner.slots.cancel(&task);
    }
}

/// Counts what was committed unseen.
async fn count(inner: &Inner) -> Result<(), StoreError> {
    loop {
        let Some(doubt) = inner.outage.doubts().pop() else {
            return Ok(());
        };
        match inner.store.record(doubt.task.id, Parts::ROW).await {
            Ok(Some(record)) if doubt.happened(&record.task) => {
                let ended = u64::from(doubt.task.state.is_end());
                inner.completed.fetch_add(ended, Ordering::Relaxed);
                inner.cost.fetch_add(doubt.cost.0, Ordering::Relaxed);
            }
            Ok(_) => {}
            Err(error) => {
                inner.outage.doubts().push(doubt);
                return Err(error);
            }
        }
    }
}

/// Tells every reader how its task or group stands.
async fn tell(inner: &Inner) -> Result<(), StoreError> {
    for id in inner.hub.read_now().0 {
        inner.tell_how_stands(id).await?;
    }
    tell_groups(inner).await
}

/// Tells who waits for groups which members have ended.
pub(super) async fn tell_groups(inner: &Inner) -> Result<(), StoreError> {
    for group in inner.hub.read_now().1 {
        let members = inner.store.group(group, Parts::ROW).await?.into_iter();
        let ended = members.filter(|member| member.task.state.is_end());
        let ended = ended.map(|member| (member.task.place, member.task.id));
        inner.hub.group_stands(group, ended);
    }
    Ok(())
}

/// Takes up the work again.
pub(super) fn go_on(inner: &Arc<Inner>, left: Left) {
    inner.may_wait.store(true, Ordering::SeqCst);
    inner.wake.notify_one();
    inner.due.notify_one();
    inner.status_changed();
    let shared = Arc::clone(inner);
    inner
        .tracker
        .spawn(async move { put_right(&shared, left).await });
}

/// Puts right what was left. What fails here begins another outage, and is found
/// again at its end.
async fn put_right(inner: &Inner, left: Left) {
    for task in &left.lost {
        info!(task_id = %task.id, "a claim that was not answered is handed back");
        attempt::hand_back(inner, task).await;
    }
    let at = inner.now().after(inner.options.restart_grace);
    for id in left.alone {
        if inner.attached(&id) > 0 {
            continue;
        }
        let event = || TaskEvent::Abandon(Some(at));
        if let Err(error) = inner.change(id, event).await {
            warn!(task_id = %id, %error, "abandoned work goes on");
        }
    }
    if let Err(error) = chain_steps::recover(inner, &left.chains).await {
        warn!(%error, "a chain's steps were not cancelled");
    }
}
