//! Why we end an attempt.

use tokio::time::{Instant, sleep_until};

use crate::pool::inner::Inner;
use crate::pool::outcome::Stop;
use crate::pool::slot::Slot;
use crate::task::Task;

/// Waits for a reason of ours to end the attempt.
pub(super) async fn stopped(inner: &Inner, slot: &Slot, task: &Task, deadline: Instant) -> Stop {
    let mut cancel = slot.cancel.subscribe();
    let mut restart = slot.restart.subscribe();
    let ours = Some((task.id, task.attempt));
    tokio::select! {
        biased;
        Ok(_) = cancel.wait_for(|unwanted| unwanted.contains(&ours)) => Stop::Cancel,
        () = inner.hand_back.cancelled() => Stop::HandBack,
        Ok(()) = restart.changed() => Stop::Restart,
        () = sleep_until(deadline) => Stop::RunTimeout,
    }
}
