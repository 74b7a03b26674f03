//! Pairs ready tasks with free slots. Woken, never polling: a wake carries no
//! data, and the loop reads the truth again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tracing::{error, warn};

use super::attempt;
use super::hold::Gate;
use super::inner::Inner;
use super::nodes::control;
use super::slot::Slot;
use crate::clock::Timestamp;
use crate::pb::FailureReason;
use crate::store::{ClaimRequest, ClaimedTask};
use crate::task::{State, Task, TaskEvent};

/// Wait before the store is tried again.
const STORE_BACKOFF: Duration = Duration::from_millis(500);

/// Runs until the pool stops.
pub(super) async fn run(inner: &Inner) {
    let mut next: Option<Timestamp> = None;
    loop {
        let timer = async {
            match next {
                Some(at) => tokio::time::sleep(at.since(inner.now())).await,
                None => std::future::pending().await,
            }
        };
        let in_time = tokio::select! {
            biased;
            () = inner.stop.cancelled() => return,
            () = timer => true,
            () = inner.wake.notified() => false,
        };
        if inner.draining.is_cancelled() || inner.pause_reason().is_some() {
            next = None;
            continue;
        }
        let most = match inner.hold.gate(inner.now()) {
            Gate::Open => usize::MAX,
            Gate::Probe => 1,
            Gate::Shut(until) => {
                next = until;
                continue;
            }
        };
        if !inner.may_wait.load(Ordering::SeqCst) && !in_time {
            continue;
        }
        if !inner.may_begin() {
            // The return of the lease wakes us.
            next = None;
            continue;
        }
        let slots = inner.slots.take_free(most);
        if slots.is_empty() {
            // A slot that becomes free wakes us.
            inner.may_wait.store(true, Ordering::SeqCst);
            next = None;
            continue;
        }
        // With a slot in hand: who may go ahead and does not holds everybody up.
        if most == 1 && !goes_ahead(inner).await {
            release(inner, slots);
            // Whoever goes ahead tells how it went.
            next = Some(inner.now().after(STORE_BACKOFF));
            continue;
        }
        // Cleared before the look: who submits later sets it again. Until it is
        // over nobody goes before those that it finds.
        inner.looks.store(true, Ordering::SeqCst);
        inner.may_wait.store(false, Ordering::SeqCst);
        next = pair(inner, slots, most == 1).await;
        inner.looks.store(false, Ordering::SeqCst);
    }
}

/// Gives slots back: there is nothing for them now.
fn release(inner: &Inner, slots: Vec<Arc<Slot>>) {
    for slot in slots {
        slot.release(inner);
    }
    inner.may_wait.store(true, Ordering::SeqCst);
}

/// No claim can be made; gives when to try again. The return of a store that does
/// not answer wakes us.
fn not_now(inner: &Inner, slots: Vec<Arc<Slot>>, probe: bool) -> Option<Timestamp> {
    release(inner, slots);
    if probe {
        nobody_went(inner);
    }
    (!inner.outage.is_on()).then(|| inner.now().after(STORE_BACKOFF))
}

/// Nobody went ahead after all: another may.
fn nobody_went(inner: &Inner) {
    if inner.hold.forget_probe() {
        inner.hold_changed();
    }
}

/// Whether it is this node that sends one attempt ahead.
async fn goes_ahead(inner: &Inner) -> bool {
    control::may_probe(inner).await.unwrap_or_else(|error| {
        warn!(%error, "nobody goes ahead to see whether the limit has lifted");
        false
    })
}

/// Claims for free slots and assigns; gives the earliest time to look again.
async fn pair(inner: &Inner, slots: Vec<Arc<Slot>>, probe: bool) -> Option<Timestamp> {
    let now = inner.now();
    let under_way = inner.outage.under_way();
    // What others have paused, held or said to all holds from here on.
    if let Err(error) = control::read(inner).await {
        error!(%error, "what holds for all servers is not known");
        return not_now(inner, slots, probe);
    }
    let open = probe || inner.hold.gate(now) == Gate::Open;
    if !open || inner.pause_reason().is_some() {
        not_now(inner, slots, probe);
        // Whatever changed that has woken us again.
        return None;
    }
    let request = ClaimRequest {
        slots: slots.iter().map(|slot| slot.id.clone()).collect(),
        keeps: slots
            .iter()
            .filter_map(|slot| Some((slot.id.clone(), slot.keeps()?)))
            .collect(),
        node: inner.node.clone(),
        labels: inner.options.node_labels.clone(),
        level: inner.level,
        lease: None,
        context_revision: inner.context().revision,
        now,
    };
    let claimed = match inner.store.claim(request).await {
        Ok(claimed) => claimed,
        Err(error) => {
            error!(?error, "no task can be claimed");
            return not_now(inner, slots, probe);
        }
    };
    let full = claimed.tasks.len() == slots.len();
    if full || claimed.waits_for_budget || claimed.waits_for_conversation {
        inner.may_wait.store(true, Ordering::SeqCst);
    }
    if probe && claimed.tasks.is_empty() {
        nobody_went(inner);
    }
    for task in &claimed.tasks {
        if probe {
            inner.hold.probes(task.task.id);
            inner.hold_changed();
        }
        let row = task.task.clone();
        inner.tell(Some(State::Queued), row, None, &task.committed);
    }
    drop(under_way);
    let mut tasks = claimed.tasks.into_iter();
    let mut next = tasks.next();
    for slot in slots {
        match next.take_if(|task| task.slot == slot.id) {
            Some(task) => {
                assign(inner, &slot, task).await;
                next = tasks.next();
            }
            None => slot.release(inner),
        }
    }
    let mut ended = false;
    for task in claimed.unaffordable {
        ended |= expire(
            inner,
            &task,
            FailureReason::BudgetExhausted,
            "the pool's budget cannot cover it",
        )
        .await;
    }
    if ended {
        // They were looked at some at a time.
        inner.may_wait.store(true, Ordering::SeqCst);
        inner.wake.notify_one();
    }
    claimed.next_ready
}

/// Gives a claimed task to the slot that was taken for it.
pub(super) async fn assign(inner: &Inner, slot: &Slot, claimed: ClaimedTask) {
    if !inner.may_begin() {
        // The lease has passed since: it may be another's any moment.
        attempt::hand_back(inner, &claimed.task).await;
        slot.release(inner);
        return;
    }
    if let Err(claimed) = slot.assign(claimed) {
        // The slot is going: only while the pool stops.
        attempt::hand_back(inner, &claimed.task).await;
        slot.release(inner);
    }
}

/// Ends a queued task that cannot run; whether it did.
async fn expire(inner: &Inner, task: &Task, reason: FailureReason, message: &str) -> bool {
    let event = || TaskEvent::Expire {
        reason,
        message: message.to_owned(),
    };
    match inner.change(task.id, event).await {
        Ok(_) => true,
        Err(error) => {
            warn!(task_id = %task.id, %error, "a task that cannot run was not ended");
            false
        }
    }
}
