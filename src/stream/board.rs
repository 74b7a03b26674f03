//! A value that wakes its readers in the order in which they came. A watch of
//! tokio wakes them in any, so the same run would not be the same twice.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// What is shown, and the readers who wait for more.
pub(crate) struct Board<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    /// How often it was changed, and what it is.
    value: Mutex<(u64, T)>,
    changed: Notify,
}

/// Reads a board.
pub(crate) struct Reader<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, (u64, T)> {
        // Whoever changes it does not panic; a poisoned value is still whole.
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Board<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            shared: Arc::new(Shared {
                value: Mutex::new((0, value)),
                changed: Notify::new(),
            }),
        }
    }

    /// Changes what is shown and wakes everybody.
    pub(crate) fn change(&self, change: impl FnOnce(&mut T)) {
        {
            let mut value = self.shared.lock();
            change(&mut value.1);
            value.0 += 1;
        }
        self.shared.changed.notify_waiters();
    }

    /// One who has seen what is shown now.
    pub(crate) fn reader(&self) -> Reader<T> {
        Reader {
            seen: self.shared.lock().0,
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<T: Clone> Reader<T> {
    /// What is shown now.
    pub(crate) fn read(&mut self) -> T {
        let value = self.shared.lock();
        self.seen = value.0;
        value.1.clone()
    }

    /// Waits until there is something that was not read. Safe to drop and call
    /// again.
    pub(crate) async fn changed(&self) {
        loop {
            let mut changed = pin!(self.shared.changed.notified());
            // Before the look, so that nothing falls between.
            changed.as_mut().enable();
            if self.shared.lock().0 != self.seen {
                return;
            }
            changed.await;
        }
    }
}
