//! What other nodes did: told as it happens, and looked for now and then.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tracing::warn;

use super::super::catch_up;
use super::super::inner::Inner;
use super::{control, questions};
use crate::error::Error;
use crate::id::TaskId;
use crate::store::cluster::{Cluster, Told};
use crate::task::{State, TaskEvent};

/// Longest wait before everything is looked at, told or not.
const LOOK: Duration = Duration::from_secs(5);
/// Wait after a look that failed.
const BACKOFF: Duration = Duration::from_millis(500);

/// Runs until the pool stops.
pub(in super::super) async fn run(inner: &Arc<Inner>) {
    let Some((cluster, member)) = inner.cluster() else {
        return;
    };
    let mut pending = Told {
        everything: true,
        ..Told::default()
    };
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let took = match pending.is_empty() {
            true => Ok(()),
            false => take(inner, cluster, &pending).await,
        };
        match took {
            Ok(()) => pending = Told::default(),
            Err(error) => {
                warn!(%error, "what other nodes did is not known");
                // What comes meanwhile is merged into what is left.
                tokio::select! {
                    biased;
                    () = inner.stop.cancelled() => return,
                    () = tokio::time::sleep(BACKOFF) => continue,
                }
            }
        }
        tokio::select! {
            biased;
            () = inner.stop.cancelled() => return,
            () = member.share.notified() => {
                if let Err(error) = control::share_hold(inner).await {
                    warn!(%error, "the other nodes do not know of a provider's limit");
                    pending.control = true;
                    member.share.notify_one();
                }
            }
            told = cluster.told() => pending.merge(told),
            _ = look.tick() => pending.everything = true,
        }
    }
}

async fn take(inner: &Arc<Inner>, cluster: &dyn Cluster, told: &Told) -> Result<(), Error> {
    let all = told.everything;
    if all || told.control {
        control::read(inner).await?;
    }
    if all || told.nodes {
        inner.reported();
        // What belonged to a node that is gone is everybody's.
        inner.wake.notify_one();
    }
    if all || told.queue {
        inner.may_wait.store(true, Ordering::SeqCst);
    }
    if all || told.queue || told.freed {
        inner.wake.notify_one();
    }
    if all {
        let queued = cluster.queued().await?;
        inner.queue.set_of_all(queued);
        inner.due.notify_one();
    }
    if all || told.questions {
        questions::take(inner, cluster).await?;
    }
    let tasks = match all {
        true => interesting(inner, None),
        false => interesting(inner, Some(&told.tasks)),
    };
    for id in tasks {
        look_at(inner, id).await?;
    }
    if all {
        catch_up::tell_groups(inner).await?;
    }
    Ok(())
}

/// The tasks that are read, run, or have an attached caller here; of these.
fn interesting(inner: &Inner, of: Option<&BTreeSet<TaskId>>) -> BTreeSet<TaskId> {
    let mut ours = inner.hub.waited_for();
    ours.extend(inner.slots.tasks());
    ours.extend(inner.tasks_attached());
    match of {
        Some(told) => told.intersection(&ours).copied().collect(),
        None => ours,
    }
}

/// Follows how a task stands.
async fn look_at(inner: &Inner, id: TaskId) -> Result<(), Error> {
    let Some(record) = inner.tell_how_stands(id).await? else {
        return Ok(());
    };
    let task = &record.task;
    let ours = task.lease.as_ref().is_some_and(|l| l.node == inner.node);
    if task.state == State::Cancelling && ours && !task.is_chain() {
        inner.slots.cancel(task);
    }
    if task.abandon_time.is_some() && inner.attached(&id) > 0 {
        inner.change(id, || TaskEvent::Abandon(None)).await?.ok();
    }
    Ok(())
}

/// Follows a task whose attempt has just begun, off its path: what was told of it
/// between its claim and now was of nobody's task.
pub(in super::super) fn begun(inner: &Arc<Inner>, id: TaskId) {
    if inner.member.is_none() {
        return;
    }
    let shared = Arc::clone(inner);
    inner.tracker.spawn_on(
        async move {
            if let Err(error) = look_at(&shared, id).await {
                // The look at everything comes to it.
                warn!(task_id = %id, %error, "how a task stands is not known");
            }
        },
        &inner.runtime,
    );
}
