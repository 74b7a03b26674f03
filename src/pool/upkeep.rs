//! What time does to tasks: the wait for a slot is over, the last attached
//! caller is gone for too long. Sleeps until the next such moment.

use std::time::Duration;

use tracing::{error, warn};

use super::inner::Inner;
use crate::clock::Timestamp;
use crate::error::Error;
use crate::pb::FailureReason;
use crate::task::{State, Task, TaskEvent};

/// Tasks looked at in one go.
const BATCH: usize = 256;
/// Wait before the store is tried again.
const STORE_BACKOFF: Duration = Duration::from_secs(1);

/// Runs until the pool stops.
pub(super) async fn run(inner: &Inner) {
    let mut next = Some(inner.now());
    loop {
        let timer = async {
            match next {
                Some(at) => tokio::time::sleep(at.since(inner.now())).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = inner.stop.cancelled() => return,
            () = timer => {}
            () = inner.due.notified() => {}
        }
        let now = inner.now();
        let due = match inner.store.due(now, inner.level, BATCH).await {
            Ok(due) => due,
            Err(error) => {
                error!(?error, "what is due cannot be read");
                next = again(inner, now);
                continue;
            }
        };
        next = if due.tasks.len() == BATCH {
            Some(now)
        } else {
            due.next
        };
        if let Err(error) = end(inner, due.tasks, now).await {
            warn!(%error, "what is due was not ended");
            next = again(inner, now);
        }
    }
}

/// When to try again: the return of a store that does not answer wakes us.
fn again(inner: &Inner, now: Timestamp) -> Option<Timestamp> {
    (!inner.outage.is_on()).then(|| now.after(STORE_BACKOFF))
}

async fn end(inner: &Inner, due: Vec<Task>, now: Timestamp) -> Result<(), Error> {
    let (late, rest): (Vec<_>, Vec<_>) = due.into_iter().partition(|task| {
        task.state == State::Queued && task.queue_deadline.is_some_and(|at| at <= now)
    });
    inner
        .change_all(&late, || TaskEvent::Expire {
            reason: FailureReason::QueueTimeout,
            message: "no slot was free within queue_timeout".to_owned(),
        })
        .await?;
    // Somebody may have come back in the last moment.
    let (back, abandoned): (Vec<_>, Vec<_>) = rest
        .into_iter()
        .partition(|task| inner.attached(&task.id) > 0);
    inner.change_all(&back, || TaskEvent::Abandon(None)).await?;
    inner
        .change_all(&abandoned, || TaskEvent::Cancel { by: "abandoned" })
        .await?;
    Ok(())
}
