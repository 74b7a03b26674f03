//! While the store does not answer: new work is refused, results wait, and a
//! probe looks for its return.
//!
//! An outage begins with the first call that fails. What that call, and others
//! under way with it, were to do may have been done all the same; so when the
//! store answers again, everything that is kept in memory is read again before
//! the outage is over.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, info, warn};

use super::catch_up;
use super::inner::Inner;
use crate::metrics::Metrics;
use crate::money::Microdollars;
use crate::store::StoreError;
use crate::store::layer::{Call, Layer};
use crate::task::Task;

/// Longest wait for the answer to a call that changes something. A commit of ten
/// thousand tasks takes a second on a slow disk.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Wait before the first probe.
const PROBE_FIRST: Duration = Duration::from_millis(100);
/// Longest wait before a probe.
const PROBE_MAX: Duration = Duration::from_secs(5);
/// How long the store must have answered before a new outage is probed as
/// quickly as the first: one that answers the probe alone is not asked for ever.
const CALM: Duration = Duration::from_secs(30);
/// A damaged file is read whole by a probe, which takes minutes for a large one:
/// the next waits at least this many times as long.
const PROBE_SHARE: u32 = 10;

/// Whether the store answers.
pub(super) struct Outage {
    answers: watch::Sender<bool>,
    /// Wakes those who wait for its return, in the order in which they came: a
    /// watch wakes in any.
    returned: Notify,
    /// Calls that failed, so that one that fails during a return is seen.
    failures: AtomicU64,
    /// Whether the file was found damaged.
    damaged: AtomicBool,
    /// Commits and claims under way, until what they did is told.
    under_way: watch::Sender<usize>,
    /// What may have been committed, and is counted then.
    doubts: Mutex<Vec<Doubt>>,
    metrics: Metrics,
}

/// A change that may have been committed, and would be counted then.
pub(super) struct Doubt {
    /// The row as it would be, but for its `last_sequence`.
    pub task: Task,
    /// The cost that it settles.
    pub cost: Microdollars,
}

impl Doubt {
    /// Whether `row` is what the change makes.
    pub fn happened(&self, row: &Task) -> bool {
        let mut expected = self.task.clone();
        expected.last_sequence = row.last_sequence;
        expected == *row
    }
}

impl Outage {
    /// Of a store that answers.
    pub fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            answers: watch::channel(true).0,
            returned: Notify::new(),
            failures: AtomicU64::new(0),
            damaged: AtomicBool::new(false),
            under_way: watch::channel(0).0,
            doubts: Mutex::default(),
        }
    }

    /// Whether the store does not answer now.
    pub fn is_on(&self) -> bool {
        !*self.answers.borrow()
    }

    /// Refuses what would write while the store does not answer.
    pub fn check(&self) -> Result<(), StoreError> {
        match self.is_on() {
            false => Ok(()),
            true => Err(StoreError::Unavailable(
                "it has not answered since an earlier call failed".to_owned(),
            )),
        }
    }

    /// Wakes when the store stops answering, or answers again.
    pub fn subscribe(&self) -> watch::Receiver<bool> {
        self.answers.subscribe()
    }

    /// Waits until an outage has begun.
    pub async fn begun(&self) {
        // The sender is ours.
        let _ = self.subscribe().wait_for(|answers| !answers).await;
    }

    /// Waits until the store answers; at once if it does.
    pub async fn over(&self) {
        loop {
            let mut returned = pin!(self.returned.notified());
            // Before the look, so that nothing falls between.
            returned.as_mut().enable();
            if !self.is_on() {
                return;
            }
            returned.await;
        }
    }

    /// A commit or a claim, until what it did is told.
    pub fn under_way(&self) -> UnderWay<'_> {
        self.under_way.send_modify(|count| *count += 1);
        UnderWay(self)
    }

    /// Notes changes whose commit was not answered.
    pub fn doubt(&self, changes: impl Iterator<Item = Doubt>) {
        let counts = |doubt: &Doubt| doubt.task.state.is_end() || doubt.cost != Microdollars::ZERO;
        self.doubts().extend(changes.filter(counts));
    }

    pub fn doubts(&self) -> MutexGuard<'_, Vec<Doubt>> {
        self.doubts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until everything that began before the outage is told: what begins
    /// now is refused.
    async fn quiet(&self) {
        let mut under_way = self.under_way.subscribe();
        let _ = under_way.wait_for(|count| *count == 0).await;
    }

    fn failed(&self, cause: &StoreError) {
        self.failures.fetch_add(1, Ordering::SeqCst);
        if matches!(cause, StoreError::Damaged(_)) {
            self.damaged.store(true, Ordering::SeqCst);
        }
        let began = self.answers.send_if_modified(|answers| {
            let answered = *answers;
            *answers = false;
            answered
        });
        if began {
            error!(
                ?cause,
                "the store does not answer: new work is refused until it does"
            );
        }
    }
}

/// See [`Outage::under_way`].
pub(super) struct UnderWay<'a>(&'a Outage);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.send_modify(|count| *count -= 1);
    }
}

impl Layer for Outage {
    async fn around<T: Send>(
        &self,
        call: Call,
        work: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        if call.writes() {
            self.check()?;
        }
        let began = Instant::now();
        let answer = match call {
            Call::Read => work.await,
            Call::Probe | Call::Commit | Call::Claim | Call::Append | Call::Change => {
                in_time(work).await
            }
        };
        let error = answer.as_ref().err().and_then(StoreError::kind);
        self.metrics
            .store_called(call.name(), began.elapsed(), error);
        if let Err(cause) = &answer
            && cause.is_outage()
        {
            self.failed(cause);
        }
        answer
    }
}

/// What `work` gives, if it does in time.
async fn in_time<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    timeout(ANSWER_MAX, work).await.unwrap_or_else(|_| {
        let why = format!("no answer within {} s", ANSWER_MAX.as_secs());
        Err(StoreError::Unavailable(why))
    })
}

/// Looks after the store until the pool stops: sleeps while it answers, and
/// probes it with a growing wait while it does not.
pub(super) async fn run(inner: &Arc<Inner>) {
    let watching = async {
        let mut wait = PROBE_FIRST;
        let mut answers_since = Instant::now();
        loop {
            inner.outage.begun().await;
            if answers_since.elapsed() > CALM {
                wait = PROBE_FIRST;
            }
            let began = Instant::now();
            loop {
                sleep(wait).await;
                let probed = Instant::now();
                match come_back(inner).await {
                    Ok(true) => break,
                    Ok(false) => {}
                    Err(error) => warn!(?error, "the store still does not answer"),
                }
                wait = (wait * 2).min(PROBE_MAX);
                if inner.outage.damaged.load(Ordering::SeqCst) {
                    wait = wait.max(probed.elapsed().saturating_mul(PROBE_SHARE));
                }
            }
            wait = wait.saturating_mul(2).min(PROBE_MAX);
            answers_since = Instant::now();
            info!(after = ?began.elapsed(), "the store answers again");
        }
    };
    tokio::select! {
        biased;
        () = inner.stop.cancelled() => {}
        () = watching => {}
    }
}

/// Ends the outage if the store works: `false`: another call failed meanwhile.
async fn come_back(inner: &Arc<Inner>) -> Result<bool, StoreError> {
    let outage = &inner.outage;
    let failures = outage.failures.load(Ordering::SeqCst);
    inner
        .store
        .probe(outage.damaged.load(Ordering::SeqCst))
        .await?;
    outage.quiet().await;
    let left = catch_up::read_again(inner).await?;
    if outage.failures.load(Ordering::SeqCst) != failures {
        return Ok(false);
    }
    outage.damaged.store(false, Ordering::SeqCst);
    outage.answers.send_replace(true);
    outage.returned.notify_waiters();
    catch_up::go_on(inner, left);
    Ok(true)
}
