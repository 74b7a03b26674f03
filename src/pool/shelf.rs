//! Spares: processes that have run nothing, standing by for every slot.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;
use tracing::warn;

use super::inner::Inner;
use super::process::Held;
use super::requirement::Requirement;

/// Spares standing by.
#[derive(Default)]
pub(super) struct Shelf {
    spares: Mutex<Vec<Held>>,
    taken: Notify,
}

impl Shelf {
    /// A spare that can serve the need; another takes its place.
    pub fn take(&self, need: &Requirement) -> Option<Held> {
        let mut spares = self.spares.lock().unwrap_or_else(PoisonError::into_inner);
        let found = spares.iter().position(|held| held.unused_for(need))?;
        self.taken.notify_one();
        Some(spares.swap_remove(found))
    }

    /// Spares standing by.
    pub fn len(&self) -> usize {
        self.spares
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Keeps the shelf full until the pool stops.
    pub async fn keep_full(inner: &Inner) {
        let mut backoff = inner.options.launch_backoff;
        loop {
            let full = inner.shelf.len() >= inner.options.spares as usize;
            if full {
                tokio::select! {
                    biased;
                    () = inner.stop.cancelled() => break,
                    () = inner.shelf.taken.notified() => {}
                }
                continue;
            }
            tokio::select! {
                biased;
                () = inner.stop.cancelled() => break,
                launched = Held::launch_ahead(inner) => match launched {
                    Ok(held) => {
                        backoff = inner.options.launch_backoff;
                        inner
                            .shelf
                            .spares
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(held);
                    }
                    Err(error) => {
                        warn!(%error, "a spare did not start");
                        tokio::select! {
                            biased;
                            () = inner.stop.cancelled() => break,
                            () = tokio::time::sleep(backoff) => {}
                        }
                        backoff = (backoff * 2).min(super::slot::BACKOFF_MAX);
                    }
                },
            }
        }
        let left: Vec<Held> = {
            let mut spares = inner
                .shelf
                .spares
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            spares.drain(..).collect()
        };
        for mut held in left {
            held.session.end(std::time::Duration::ZERO).await;
        }
    }
}
