//! The limit of streams.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::inner::Inner;
use crate::error::Error;

/// A stream that is read, counted as long as this lives.
pub(super) struct Watcher(Arc<Inner>);

impl Watcher {
    /// One more, unless there are as many as there may be.
    pub fn admit(inner: &Arc<Inner>) -> Result<Self, Error> {
        let others = inner.watchers.fetch_add(1, Ordering::Relaxed);
        let watcher = Self(Arc::clone(inner));
        if others >= inner.options.watchers_max {
            return Err(Error::TooManyWatchers);
        }
        Ok(watcher)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}
