//! The pool at one moment, and its changes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Pool;
use super::inner::Inner;
use super::nodes::{self, report};
use super::watcher::Watcher;
use crate::error::{Error, Missing};
use crate::id::SlotId;
use crate::metrics::Observed;
use crate::pb::{self, SlotState, StateCount};
use crate::store::Totals;

impl Pool {
    /// The pool's status now.
    pub async fn status(&self) -> Result<pb::PoolStatus, Error> {
        status(&self.inner).await
    }

    /// One server's part of it.
    pub async fn status_of(&self, node: &str) -> Result<pb::PoolStatus, Error> {
        status_of_node(&self.inner, node).await
    }

    /// What metrics are read off, now.
    pub async fn observe(&self) -> Observed {
        observe(&self.inner).await
    }

    /// Watches the pool's status, at most one snapshot per `interval`.
    pub async fn watch_status(&self, interval: Duration) -> Result<StatusWatch, Error> {
        self.watch_status_of(None, interval).await
    }

    /// Watches one server's part of it; `None`: all.
    pub async fn watch_status_of(
        &self,
        node: Option<String>,
        interval: Duration,
    ) -> Result<StatusWatch, Error> {
        let watcher = Watcher::admit(&self.inner)?;
        Ok(StatusWatch::new(&self.inner, interval, node, watcher))
    }

    /// The slots, by number.
    pub async fn slots(&self) -> Vec<pb::Slot> {
        slots(&self.inner).await
    }

    /// One slot.
    pub async fn slot(&self, id: &SlotId) -> Result<pb::Slot, Error> {
        let slots = slots(&self.inner).await;
        let found = slots.into_iter().find(|slot| slot.slot_id == id.0);
        found.ok_or(Error::NotFound(Missing::Slot))
    }
}

/// Longest wait for the store where the rest is worth knowing without it.
const TOTALS_MAX: Duration = Duration::from_secs(2);

/// The status now.
pub(super) async fn status(inner: &Arc<Inner>) -> Result<pb::PoolStatus, Error> {
    report::of_all(inner, here(inner).await?).await
}

/// The status of one node now.
pub(super) async fn status_of_node(
    inner: &Arc<Inner>,
    node: &str,
) -> Result<pb::PoolStatus, Error> {
    report::of_one(inner, here(inner).await?, node).await
}

async fn here(inner: &Arc<Inner>) -> Result<pb::PoolStatus, Error> {
    let totals = inner.store.totals().await?;
    Ok(status_of(inner, &totals).await)
}

/// What metrics are read off, now: also while the store does not answer.
pub(super) async fn observe(inner: &Arc<Inner>) -> Observed {
    let totals = tokio::time::timeout(TOTALS_MAX, inner.store.totals()).await;
    let totals = totals.ok().and_then(Result::ok);
    let first_ready = totals.as_ref().and_then(|totals| totals.first_ready);
    Observed {
        totals: totals.is_some(),
        status: status_of(inner, &totals.unwrap_or_default()).await,
        oldest_ready: first_ready.map(|ready| inner.now().since(ready)),
        spares: inner.shelf.len(),
        store_answers: !inner.outage.is_on(),
    }
}

pub(super) async fn status_of(inner: &Arc<Inner>, totals: &Totals) -> pb::PoolStatus {
    let slots = slots(inner).await;
    let count = |wanted: &[SlotState]| {
        let found = slots.iter().filter(|slot| wanted.contains(&slot.state()));
        i32::try_from(found.count()).unwrap_or(i32::MAX)
    };
    pb::PoolStatus {
        node_id: inner.node.0.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        agent_version: inner.probe.version.clone(),
        start_time: Some(inner.start_time.to_proto()),
        slots_total: i32::try_from(slots.len()).unwrap_or(i32::MAX),
        slots_idle: count(&[SlotState::Idle]),
        slots_busy: count(&[SlotState::Busy]),
        slots_errored: count(&[SlotState::Errored]),
        slots_retiring: count(&[SlotState::Retiring]),
        slots_min: i32::try_from(inner.options.min_slots).unwrap_or(i32::MAX),
        slots_max: i32::try_from(inner.options.max_slots).unwrap_or(i32::MAX),
        nodes: Vec::new(),
        node_labels: inner.options.node_labels.iter().cloned().collect(),
        tasks: totals
            .tasks
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(state, count)| StateCount {
                state: state.to_proto() as i32,
                count: i64::try_from(*count).unwrap_or(i64::MAX),
            })
            .collect(),
        spent_microdollars: totals.funds.spent.0,
        reserved_microdollars: totals.funds.reserved.0,
        budget_microdollars: totals.funds.limit.map(|limit| limit.0),
        hold: inner.hold.describe(),
        paused: inner.pause_reason().is_some(),
        pause_reason: inner.pause_reason().unwrap_or_default(),
        supervisor: *inner.supervisor.borrow(),
        draining: inner.draining.is_cancelled(),
        slots,
        context_revision: i64::try_from(inner.context().revision).unwrap_or(i64::MAX),
        watchers: i64::try_from(inner.watchers.load(Ordering::Relaxed)).unwrap_or(i64::MAX),
    }
}

/// Every slot, by number.
pub(super) async fn slots(inner: &Arc<Inner>) -> Vec<pb::Slot> {
    let slots = inner.slots.all();
    if let Some(known) = slots.iter().map(|slot| slot.known(inner)).collect() {
        return known;
    }
    let shared = Arc::clone(inner);
    // Reads /proc for the memory of the process trees.
    let described =
        tokio::task::spawn_blocking(move || slots.iter().map(|slot| slot.look(&shared)).collect());
    described.await.unwrap_or_default()
}

/// A reader of the pool's status.
pub struct StatusWatch {
    inner: Arc<Inner>,
    changes: watch::Receiver<u64>,
    /// What others told of themselves; `None`: there are no others.
    reports: Option<watch::Receiver<u64>>,
    node: Option<String>,
    interval: Duration,
    /// Not before this moment.
    next: Instant,
    /// A change was seen that was not told yet.
    changed: bool,
    _watcher: Watcher,
}

impl StatusWatch {
    pub(super) fn new(
        inner: &Arc<Inner>,
        interval: Duration,
        node: Option<String>,
        watcher: Watcher,
    ) -> Self {
        Self {
            inner: Arc::clone(inner),
            changes: inner.status.subscribe(),
            reports: inner.member.as_ref().map(nodes::Member::reports),
            node,
            interval,
            next: Instant::now(),
            changed: true,
            _watcher: watcher,
        }
    }

    /// The status at first, then whenever it changed. Safe to drop and call
    /// again.
    pub async fn next(&mut self) -> Result<pb::PoolStatus, Error> {
        tokio::time::sleep_until(self.next).await;
        if !self.changed {
            self.news().await;
        }
        self.changed = true;
        self.changes.mark_unchanged();
        if let Some(reports) = &mut self.reports {
            reports.mark_unchanged();
        }
        let status = match &self.node {
            None => status(&self.inner).await?,
            Some(node) => status_of_node(&self.inner, node).await?,
        };
        self.next = Instant::now() + self.interval;
        self.changed = false;
        Ok(status)
    }
}

impl StatusWatch {
    /// Waits until something changed, here or elsewhere.
    async fn news(&mut self) {
        let elsewhere = async {
            match &mut self.reports {
                Some(reports) => reports.changed().await,
                None => std::future::pending().await,
            }
        };
        let changed = tokio::select! {
            biased;
            changed = self.changes.changed() => changed,
            changed = elsewhere => changed,
        };
        if changed.is_err() {
            // The pool is gone.
            std::future::pending::<()>().await;
        }
    }
}
