//! What operators do: scale, restart, supervise, pause, budget.

use std::sync::atomic::Ordering;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::Pool;
use super::nodes::control;
use crate::budget::Funds;
use crate::error::{Error, Missing};
use crate::id::{RequestId, SlotId, TaskId};
use crate::money::Microdollars;
use crate::pb;
use crate::store::{Request, StoreError};

/// How many slots there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scaled {
    /// Slots there are to be.
    pub target: u32,
    /// Slots now, leaving ones included.
    pub total: u32,
    /// Slots that leave when their task ends.
    pub retiring: u32,
}

/// A change of the number of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// So many more.
    Up(u32),
    /// So many fewer.
    Down(u32),
    /// So many in all.
    To(u32),
}

impl Pool {
    /// Changes the number of slots. Refused before anything changes when it
    /// would leave its bounds. Going down, idle slots go first; busy ones
    /// leave when their task ends, which is waited for up to `timeout`:
    /// running out of it is no failure. A repeat of a request changes nothing.
    pub async fn scale(
        &self,
        scale: Scale,
        request: Option<RequestId>,
        timeout: Duration,
    ) -> Result<Scaled, Error> {
        let inner = &self.inner;
        {
            let _one_at_a_time = inner.scaling.lock().await;
            if let Some(id) = request
                && self.was_scaled(id, scale).await?
            {
                return Ok(self.scaled());
            }
            let (staying, _) = inner.slots.count();
            let target = match scale {
                Scale::Up(count) => i64::from(staying) + i64::from(count),
                Scale::Down(count) => i64::from(staying) - i64::from(count),
                Scale::To(target) => i64::from(target),
            };
            let (min, max) = (inner.options.min_slots, inner.options.max_slots);
            let within = u32::try_from(target)
                .ok()
                .filter(|target| (min..=max).contains(target));
            let target = within.ok_or(Error::SlotBounds {
                asked: target,
                min,
                max,
                absolute: matches!(scale, Scale::To(_)),
            })?;
            if let Some(id) = request {
                self.remember_scale(id, scale).await?;
            }
            if target >= staying {
                inner.slots.add(inner, target - staying);
            } else {
                inner.slots.retire(inner, staying - target);
            }
        }
        let mut departed = inner.slots.departed.subscribe();
        let all_left = async {
            while inner.slots.count().1 > 0 {
                if departed.changed().await.is_err() {
                    return;
                }
            }
        };
        // Running out of time is an answer, not a failure.
        let _ = tokio::time::timeout(timeout, all_left).await;
        Ok(self.scaled())
    }

    fn scaled(&self) -> Scaled {
        let (target, retiring) = self.inner.slots.count();
        Scaled {
            target,
            total: target + retiring,
            retiring,
        }
    }

    /// Whether the same request has scaled before.
    pub async fn was_scaled(&self, id: RequestId, scale: Scale) -> Result<bool, Error> {
        let inner = &self.inner;
        let made = inner.store.request(&self.caller, id, inner.now()).await?;
        match made {
            Some(made) if made.fingerprint == fingerprint(scale) => Ok(true),
            Some(_) => Err(Error::RequestIdReused),
            None => Ok(false),
        }
    }

    /// Notes that a request scales, so that its repeat does not.
    pub async fn remember_scale(&self, id: RequestId, scale: Scale) -> Result<(), Error> {
        let request = Request {
            caller: self.caller.clone(),
            id,
            fingerprint: fingerprint(scale),
            // It made no task.
            task: TaskId::from_bytes([0; 16]),
            group: None,
            expire_time: self.inner.now().after(self.inner.options.request_ttl),
            deleted: false,
        };
        match self.inner.commit(Some(request), Vec::new()).await {
            Ok(_) => Ok(()),
            Err(StoreError::RequestExists(_)) => Err(Error::RequestIdReused),
            Err(error) => Err(error.into()),
        }
    }

    /// Replaces a slot's process; one that was given up starts again. A running
    /// attempt goes back to the queue, not counted.
    pub async fn restart_slot(&self, id: &SlotId) -> Result<pb::Slot, Error> {
        let slot = self.inner.slots.get(id);
        let slot = slot.ok_or(Error::NotFound(Missing::Slot))?;
        slot.restart.send_modify(|count| *count += 1);
        self.slot(id).await
    }

    /// Lets the supervisor bring failed slots back, or not.
    pub fn supervise(&self, on: bool) {
        self.inner.supervisor.send_replace(on);
        self.inner.status_changed();
    }

    /// Refuses new work and claims none, until [`Pool::resume`]. Running work
    /// goes on.
    pub async fn pause(&self, reason: &str) -> Result<(), Error> {
        self.set_paused(Some(reason.to_owned())).await
    }

    /// Ends a pause.
    pub async fn resume(&self) -> Result<(), Error> {
        self.set_paused(None).await?;
        self.inner.may_wait.store(true, Ordering::SeqCst);
        self.inner.wake.notify_one();
        Ok(())
    }

    async fn set_paused(&self, reason: Option<String>) -> Result<(), Error> {
        control::pause(&self.inner, reason.clone()).await?;
        self.inner.set_pause(reason);
        self.inner.status_changed();
        Ok(())
    }

    /// Sets the most that may be spent in all; `None`: no limit. Below what is
    /// spent or reserved nothing is taken back: no new attempt starts.
    pub async fn set_budget(&self, limit: Option<Microdollars>) -> Result<Funds, Error> {
        let inner = &self.inner;
        // What is remembered here is what the store was told last.
        let _one_at_a_time = inner.budget_change.lock().await;
        // Before the store has it: nobody may go past the new limit unasked.
        inner.budget_limited.store(true, Ordering::SeqCst);
        let funds = inner.store.set_budget(limit).await?;
        inner
            .budget_limited
            .store(limit.is_some(), Ordering::SeqCst);
        inner.may_wait.store(true, Ordering::SeqCst);
        inner.wake.notify_one();
        inner.status_changed();
        Ok(funds)
    }
}

fn fingerprint(scale: Scale) -> [u8; 32] {
    let (kind, count) = match scale {
        Scale::Up(count) => (2u8, count),
        Scale::Down(count) => (3, count),
        Scale::To(count) => (4, count),
    };
    let mut hash = Sha256::new();
    hash.update([kind]);
    hash.update(count.to_be_bytes());
    hash.finalize().into()
}
