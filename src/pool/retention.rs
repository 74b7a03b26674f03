//! What is old goes: ended tasks and chains by state and age, requests that have
//! expired. Off everybody's path: a few at a time, each in a short transaction
//! among those of callers.
//!
//! What stays: the sum of the ledger, and the refs of isolated work, which
//! belong to their repository.

use std::time::Duration;

use futures_util::future::join_all;
use tracing::{info, warn};

use super::inner::Inner;
use crate::clock::Timestamp;
use crate::store::StoreError;

/// Tasks deleted at a time: the store may do so in one transaction.
const TASKS: usize = 32;
/// Requests forgotten at a time.
const REQUESTS: usize = 256;
/// Bounds of the pause between two looks, which is a tenth of the shortest time
/// that anything is kept.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));

/// Lets go of what is old, until the pool stops.
pub(super) async fn run(inner: &Inner) {
    let shortest = inner.options.retention.shortest();
    let shortest = shortest.min(inner.options.request_ttl);
    let pause = (shortest / 10).clamp(PAUSE.0, PAUSE.1);
    loop {
        tokio::select! {
            biased;
            () = inner.stop.cancelled() => return,
            done = tidy(inner) => if let Err(error) = done {
                warn!(?error, "what is old was not deleted");
            },
        }
        tokio::select! {
            biased;
            () = inner.stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            () = inner.sweep.notified() => {}
        }
    }
}

async fn tidy(inner: &Inner) -> Result<(), StoreError> {
    let now = inner.now();
    let mut count = 0;
    loop {
        let gone = delete_some(inner, now).await?;
        count += gone;
        if gone == 0 {
            break;
        }
        // The store may answer without waiting.
        tokio::task::yield_now().await;
    }
    if count > 0 {
        info!(count, "old tasks deleted");
    }
    while inner.store.expire_requests(now, REQUESTS).await? == REQUESTS {
        tokio::task::yield_now().await;
    }
    while inner.store.sweep().await? {
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Deletes the oldest of what is old; how many.
async fn delete_some(inner: &Inner, now: Timestamp) -> Result<usize, StoreError> {
    let ended = inner.options.retention.ended_before(now);
    let old = inner.store.outdated(&ended, TASKS).await?;
    let deletions = old
        .iter()
        .map(|task| inner.store.delete(task.id, task.version));
    let mut count = 0;
    for deleted in join_all(deletions).await {
        match deleted {
            Ok(gone) => {
                inner.deleted(&gone);
                count += 1;
            }
            // A caller was first.
            Err(StoreError::Conflict) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}
