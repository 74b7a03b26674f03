//! What a slot does: a process is started, serves, is reset or replaced.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::{BACKOFF_MAX, Slot, idle};
use crate::agent::AgentError;
use crate::pb::SlotState;
use crate::pool::attempt;
use crate::pool::inner::Inner;
use crate::pool::nodes::elsewhere;
use crate::pool::process::{Bench, Held};
use crate::store::ClaimedTask;

/// How long a process that is replaced may take to end by itself.
const END_GRACE: Duration = Duration::from_secs(1);

const RESTART: &str = "a restart was asked for";

impl Slot {
    /// Its life: a process is made ready, serves an attempt, is reset or
    /// replaced, and so on, until it retires or the pool stops.
    pub(super) async fn live(&self, inner: &Arc<Inner>, mut assigned: mpsc::Receiver<ClaimedTask>) {
        let mut bench = Bench::default();
        let mut context = inner.context.subscribe();
        let mut restart = self.restart.subscribe();
        loop {
            if let Some(claimed) = self.promised(&mut assigned).await {
                // Under load it may never be idle.
                if bench.held.is_some() && restart.has_changed().unwrap_or(false) {
                    self.replaces(RESTART);
                    bench.discard(END_GRACE).await;
                }
                let ready = bench.held.is_some()
                    || self.launch(inner, &mut bench, &mut restart).await.is_ok();
                if ready {
                    self.serve(inner, &mut bench, claimed).await;
                } else {
                    // Another slot may have a process for it.
                    self.give_back(inner, &claimed).await;
                }
                continue;
            }
            if bench.held.is_none() && !self.start(inner, &mut bench, &mut restart).await {
                break;
            }
            self.enter(inner, SlotState::Idle, |info| {
                info.task = None;
                info.keeps = bench.held.as_ref().and_then(Held::keeps);
                info.pid = bench.held.as_ref().map(|held| held.session.pid());
            });
            inner.wake.notify_one();

            let problem = tokio::select! {
                biased;
                // A task that was claimed for it comes before everything.
                claimed = assigned.recv() => match claimed {
                    Some(claimed) => {
                        self.serve(inner, &mut bench, claimed).await;
                        continue;
                    }
                    None => break,
                },
                () = self.leaves(inner) => break,
                _ = restart.changed() => RESTART.to_owned(),
                problem = idle::idle(&mut bench, &mut context, inner) => problem,
            };
            self.replaces(&problem);
            // Unless it is taken in this very moment by somebody else: then it was
            // promised a task.
            if self.take_if(|info| info.state == SlotState::Idle) {
                self.enter(inner, SlotState::Starting, |info| info.taken = false);
            }
            bench.discard(END_GRACE).await;
        }
        bench.discard(Duration::from_millis(500)).await;
        // A task that was assigned in the last moment goes back.
        assigned.close();
        while let Some(claimed) = assigned.recv().await {
            attempt::hand_back(inner, &claimed.task).await;
        }
    }

    /// A task that was found for it while its process was reset. `None`: nobody
    /// looks for one.
    async fn promised(&self, assigned: &mut mpsc::Receiver<ClaimedTask>) -> Option<ClaimedTask> {
        while self.lock().taken {
            tokio::select! {
                biased;
                claimed = assigned.recv() => return claimed,
                () = self.released.notified() => {}
            }
        }
        None
    }

    async fn serve(&self, inner: &Arc<Inner>, bench: &mut Bench, claimed: ClaimedTask) {
        self.enter(inner, SlotState::Busy, |info| {
            info.taken = false;
            info.promised = None;
            info.task = Some(claimed.task.id);
            info.attempts += 1;
        });
        elsewhere::begun(inner, claimed.task.id);
        let after = attempt::run(inner, self, bench, claimed).await;
        let mut info = self.lock();
        // Who has taken it has; it is idle before others may.
        info.free_soon = false;
        info.ending = None;
        match after {
            attempt::After::Reset => info.resets += 1,
            attempt::After::Kept => {}
            attempt::After::Recycled(reason) => {
                info.recycles += 1;
                info!(slot_id = %self.id, %reason, "process recycled");
            }
        }
    }

    /// Gives back a task that it was promised and has no process for.
    async fn give_back(&self, inner: &Inner, claimed: &ClaimedTask) {
        attempt::hand_back(inner, &claimed.task).await;
        let mut info = self.lock();
        info.taken = false;
        info.promised = None;
    }

    /// Waits until it retires or the pool stops.
    async fn leaves(&self, inner: &Inner) {
        tokio::select! {
            biased;
            () = self.retire.cancelled() => {}
            () = inner.stop.cancelled() => {}
        }
    }

    fn replaces(&self, problem: &str) {
        info!(slot_id = %self.id, %problem, "process replaced");
        self.lock().recycles += 1;
    }

    /// Starts a process, again with backoff while the supervisor runs and has
    /// not given the slot up. `false`: it leaves.
    async fn start(
        &self,
        inner: &Inner,
        bench: &mut Bench,
        restart: &mut watch::Receiver<u64>,
    ) -> bool {
        let mut supervisor = inner.supervisor.subscribe();
        let mut backoff = inner.options.launch_backoff;
        loop {
            let error = match self.launch(inner, bench, restart).await {
                Ok(()) => return true,
                Err(Some(error)) => error,
                Err(None) => return false,
            };
            let mut given_up = false;
            self.enter(inner, SlotState::BackingOff, |info| {
                info.failed_launches += 1;
                info.last_error = error.to_string();
                given_up = info.failed_launches > inner.options.max_restarts;
                if given_up || !*supervisor.borrow() {
                    info.state = SlotState::Errored;
                }
            });
            let again = async {
                // One that was given up waits for a restart by hand.
                if given_up || supervisor.wait_for(|runs| *runs).await.is_err() {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(backoff).await;
            };
            tokio::select! {
                biased;
                () = self.leaves(inner) => return false,
                _ = restart.changed() => {
                    self.lock().failed_launches = 0;
                    backoff = inner.options.launch_backoff;
                    continue;
                }
                () = again => {}
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// Tries to start a process. `Err(None)`: the slot leaves.
    async fn launch(
        &self,
        inner: &Inner,
        bench: &mut Bench,
        restart: &mut watch::Receiver<u64>,
    ) -> Result<(), Option<AgentError>> {
        self.enter(inner, SlotState::Starting, |info| {
            info.task = None;
            info.pid = None;
        });
        // What was asked for until now is about what came before.
        restart.mark_unchanged();
        let launched = tokio::select! {
            biased;
            () = self.leaves(inner) => return Err(None),
            launched = Held::launch_ahead(inner) => launched,
        };
        match launched {
            Ok(held) => {
                let mut info = self.lock();
                info.launches += 1;
                info.failed_launches = 0;
                info.last_error.clear();
                bench.held = Some(held);
                Ok(())
            }
            Err(error) => {
                warn!(slot_id = %self.id, %error, "a process did not start");
                Err(Some(error))
            }
        }
    }
}
