//! Stop taking, finish or hand back, by a deadline.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::inner::Inner;
use crate::error::Error;
use crate::money::Microdollars;

/// What a drain did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Tasks that ended since the server started.
    pub tasks_completed: u64,
    /// Money settled since the server started.
    pub cost: Microdollars,
    /// Tasks left in the queue.
    pub tasks_left: u64,
}

/// Drains; a repeat waits for the same drain. It goes on when its caller
/// leaves, for it is final.
pub(super) async fn drain(inner: &Arc<Inner>, deadline: Duration) -> Result<Drained, Error> {
    inner.draining.cancel();
    inner.status_changed();
    let mut drained = inner.drained.subscribe();
    if !inner.drain_begun.swap(true, Ordering::SeqCst) {
        let shared = Arc::clone(inner);
        let run = async move {
            shared
                .drained
                .send_replace(Some(run(&shared, deadline).await))
        };
        inner.tracker.spawn_on(run, &inner.runtime);
    }
    let ended = drained.wait_for(Option::is_some).await;
    match ended.map(|drained| *drained) {
        Ok(Some(drained)) => Ok(drained),
        // The sender is in `inner`.
        Ok(None) | Err(_) => Err(Error::Draining),
    }
}

async fn run(inner: &Inner, deadline: Duration) -> Drained {
    let quiet = tokio::time::timeout(deadline, all_quiet(inner)).await;
    if quiet.is_err() {
        inner.hand_back.cancel();
        all_quiet(inner).await;
    }
    Drained {
        tasks_completed: inner.completed.load(Ordering::Relaxed),
        cost: Microdollars(inner.cost.load(Ordering::Relaxed)),
        tasks_left: inner.queue.len(),
    }
}

/// Waits until no slot runs an attempt.
async fn all_quiet(inner: &Inner) {
    let mut changes = inner.status.subscribe();
    loop {
        changes.borrow_and_update();
        let quiet = inner.slots.all().iter().all(|slot| slot.is_quiet());
        if quiet || changes.changed().await.is_err() {
            return;
        }
    }
}
