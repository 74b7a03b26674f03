//! What the processes of a scripted agent share, and what tests ask of it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::Scripted;
use crate::agent::Observation;
use crate::money::Microdollars;
use crate::pb::ModelUsage;

#[derive(Default)]
pub(super) struct Shared {
    pub next_pid: AtomicU32,
    pub live: AtomicUsize,
    pub launches: AtomicUsize,
    pub unbounded: AtomicUsize,
    pub resets: AtomicUsize,
    pub no_launches: AtomicBool,
    pub limited: AtomicBool,
    pub memory: AtomicU64,
    pub turns: AtomicUsize,
    pub under_way: AtomicUsize,
    pub next_session: AtomicU32,
    /// What conversations have cost.
    pub totals: Mutex<BTreeMap<String, Microdollars>>,
    /// When every process ends by itself.
    pub lease: watch::Sender<Option<Instant>>,
    /// Prompts by saved session.
    pub sessions: Mutex<BTreeMap<String, Vec<String>>>,
}

/// The same by model.
pub(super) fn usage(cost: Microdollars) -> Vec<ModelUsage> {
    let paid = (cost != Microdollars::ZERO).then(|| ModelUsage {
        model: "scripted".to_owned(),
        cost_microdollars: cost.0,
        ..ModelUsage::default()
    });
    paid.into_iter().collect()
}

impl Shared {
    /// Waits until the lease has passed; for ever, if there is none.
    pub async fn lease_passed(&self) {
        let mut lease = self.lease.subscribe();
        loop {
            let until = *lease.borrow_and_update();
            let passed = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = lease.changed() => {}
                () = passed => return,
            }
        }
    }

    /// Counts a process.
    pub fn launched(&self) {
        self.live.fetch_add(1, Ordering::SeqCst);
        self.launches.fetch_add(1, Ordering::SeqCst);
        if self.lease.borrow().is_none() {
            self.unbounded.fetch_add(1, Ordering::SeqCst);
        }
    }

    pub fn new_session(&self) -> String {
        let number = self.next_session.fetch_add(1, Ordering::SeqCst);
        format!("session-{number}")
    }

    pub fn totals(&self) -> MutexGuard<'_, BTreeMap<String, Microdollars>> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn total(&self, session: &str) -> Microdollars {
        self.totals().get(session).copied().unwrap_or_default()
    }

    pub fn sessions(&self) -> MutexGuard<'_, BTreeMap<String, Vec<String>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is left of a turn, and what it has come to.
pub(super) struct Playing {
    pub lines: VecDeque<String>,
    pub output: String,
    pub cost: Microdollars,
    /// Counts it while it is played.
    pub _under_way: UnderWay,
    /// What a line means besides the first thing.
    pub also: VecDeque<Observation>,
}

/// A turn, counted while this lives.
pub(super) struct UnderWay(Arc<Shared>);

impl UnderWay {
    pub fn new(shared: &Arc<Shared>) -> Self {
        shared.under_way.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(shared))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Scripted {
    /// Turns under way.
    pub fn under_way(&self) -> usize {
        self.shared.under_way.load(Ordering::SeqCst)
    }

    /// Processes that are alive.
    pub fn live(&self) -> usize {
        self.shared.live.load(Ordering::SeqCst)
    }

    /// Processes that were started.
    pub fn launches(&self) -> usize {
        self.shared.launches.load(Ordering::SeqCst)
    }

    /// Those of them whose life no lease bounded.
    pub fn unbounded(&self) -> usize {
        self.shared.unbounded.load(Ordering::SeqCst)
    }

    /// Resets that were confirmed.
    pub fn resets(&self) -> usize {
        self.shared.resets.load(Ordering::SeqCst)
    }

    /// Sessions that are saved.
    pub fn sessions(&self) -> Vec<String> {
        self.shared.sessions().keys().cloned().collect()
    }

    /// Loses every saved session.
    pub fn lose_sessions(&self) {
        self.shared.sessions().clear();
    }

    /// Turns that were begun.
    pub fn turns(&self) -> usize {
        self.shared.turns.load(Ordering::SeqCst)
    }

    /// Whether the provider limits from now on.
    pub fn limit(&self, limited: bool) {
        self.shared.limited.store(limited, Ordering::SeqCst);
    }

    /// What every process uses from now on, in bytes.
    pub fn grow(&self, bytes: u64) {
        self.shared.memory.store(bytes, Ordering::SeqCst);
    }

    /// Whether starts fail from now on.
    pub fn refuse_launches(&self, refuse: bool) {
        self.shared.no_launches.store(refuse, Ordering::SeqCst);
    }
}
