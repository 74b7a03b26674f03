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

/// Drains; a repeat waits for the same drain.
pub(super) async fn drain(inner: &Arc<Inner>, deadline: Duration) -> Result<Drained, Error> {
    inner.draining.cancel();
    inner.status_changed();
    let drained = inner
        .drained
        .get_or_init(|| async {
            let at_deadline = async {
                tokio::time::sleep(deadline).await;
                inner.hand_back.cancel();
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = all_quiet(inner) => {}
                () = at_deadline => {}
            }
            Drained {
                tasks_completed: inner.completed.load(Ordering::Relaxed),
                cost: Microdollars(inner.cost.load(Ordering::Relaxed)),
                tasks_left: u64::try_from(inner.queued.load(Ordering::Relaxed)).unwrap_or(0),
            }
        })
        .await;
    Ok(*drained)
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
