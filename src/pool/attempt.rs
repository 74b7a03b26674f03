//! An attempt: a claimed task meets a process.
//!
//! Observations become log entries; the end becomes an outcome, which is
//! committed while the process is already being reset. Whatever happens, the
//! task gets exactly one fate and the slot a process it can trust.

mod begin;
mod counted;
mod stopped;
mod tools;

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tracing::{Instrument, info_span, warn};

use self::counted::span;
use self::stopped::stopped;
use self::tools::Tools;
use super::inner::Inner;
use super::log::{Log, Size};
use super::outcome::{self, Ended, Stop};
use super::process::{Bench, Next};
use super::requirement::requirement;
use super::second_chance;
use super::slot::Slot;
use super::{admission, chain_steps, isolation};
use crate::agent::{Observation, Spent};
use crate::clock::Timestamp;
use crate::money::Microdollars;
use crate::pb::{ProcessOrigin, RequeueReason};
use crate::store::{ClaimedTask, StoreError};
use crate::task::apply::Requeue;
use crate::task::{Bill, Spec, Task, TaskEvent, apply};
use crate::workspace::Isolated;

/// What became of the slot's process.
pub(super) enum After {
    /// It was reset and is clean.
    Reset,
    /// It keeps its conversation.
    Kept,
    /// It was ended, and why.
    Recycled(String),
}

/// Runs a claimed task to its end on a slot.
pub(super) async fn run(
    inner: &Inner,
    slot: &Slot,
    bench: &mut Bench,
    claimed: ClaimedTask,
) -> After {
    let ClaimedTask { mut task, spec, .. } = claimed;
    let span = span(inner, slot, &task);
    async move {
        chain_steps::step_started(inner, &task).await;
        let size = Size::of(inner, &task).await;
        let mut attempt = Attempt::new(inner, slot, &task, &spec, size);
        let ended = attempt.drive(bench).await;
        let next = attempt.next();
        let Attempt {
            log,
            origin,
            session,
            workspace,
            correction,
            offset,
            ..
        } = attempt;
        if let Some(session) = session {
            task.session_id = session;
            task.session_offset = offset;
        }
        let ended = ended.with_correction(correction);
        // Of many nodes another may take up what waits here while the lease passes.
        let free_soon = ended.is_turn()
            && workspace.is_none()
            && inner.member.is_none()
            && bench.may_reset(inner, &next);
        slot.resetting(inner, free_soon);
        let grace = inner.options.cancel_grace / 2;
        if let Some(isolated) = workspace {
            // Its process works there, so it goes first.
            bench.discard(grace).await;
            let ended = ended.with_work(isolation::keep(inner, isolated).await);
            conclude(inner, &task, log, ended, origin).await;
            After::Recycled("it worked in a directory of its own".to_owned())
        } else if ended.is_turn() {
            // The usual way: nobody waits for the reset, and the reset waits
            // for nobody.
            let (_, after) = tokio::join!(
                conclude(inner, &task, log, ended, origin),
                make_ready(inner, bench, &next)
            );
            after
        } else {
            // Whoever sees the task's end may rely on its processes being gone.
            let after = if ended.process_is_usable() {
                make_ready(inner, bench, &next).await
            } else {
                bench.discard(grace).await;
                After::Recycled(ended.describe())
            };
            conclude(inner, &task, log, ended, origin).await;
            after
        }
    }
    .instrument(span)
    .await
}

async fn make_ready(inner: &Inner, bench: &mut Bench, next: &Next) -> After {
    match bench.make_ready(inner, next).await {
        Ok(()) if matches!(next, Next::Keep(_)) => After::Kept,
        Ok(()) => After::Reset,
        Err(reason) => After::Recycled(reason),
    }
}

/// Commits what the attempt came to. The result of paid work is not given up:
/// while the store does not answer it is tried again, until the pool stops.
async fn conclude(inner: &Inner, task: &Task, log: Log, ended: Ended, origin: ProcessOrigin) {
    let Some(rest) = log.finish(inner).await else {
        warn!("an outcome is lost: the store does not answer and the pool stops");
        return;
    };
    let event = outcome::event(task, ended, origin, inner.now());
    let event = second_chance::consider(inner, task, event).await;
    counted::count(inner, task, &event);
    let mut current = task.clone();
    let mut wait = Duration::from_millis(50);
    loop {
        let change = match apply(&current, event.clone(), inner.now()) {
            Ok(Some(mut change)) => {
                change.events.splice(0..0, rest.iter().cloned());
                change
            }
            Ok(None) => return,
            Err(conflict) => {
                warn!(%conflict, "a late outcome is dropped");
                return;
            }
        };
        match inner.commit(None, vec![change]).await {
            Ok(_) => return,
            Err(StoreError::Conflict) => {}
            Err(error) => {
                warn!(?error, "an outcome waits for the store");
                let again = async {
                    sleep(wait).await;
                    inner.outage.over().await;
                };
                tokio::select! {
                    biased;
                    () = inner.stop.cancelled() => return,
                    () = again => {}
                }
                wait = (wait * 2).min(Duration::from_secs(5));
            }
        }
        match inner.store.record(task.id, Default::default()).await {
            Ok(Some(record)) => current = record.task,
            Ok(None) => return,
            Err(error) => warn!(?error, "an outcome waits for the store"),
        }
    }
}

/// Gives a claimed task back that never ran.
pub(super) async fn hand_back(inner: &Inner, task: &Task) {
    let log = Log::new(task, Size::default());
    let ended = Ended::unbegun(Stop::HandBack);
    conclude(inner, task, log, ended, ProcessOrigin::Unspecified).await;
}

/// An attempt goes back to the queue because of us: it burns nothing.
pub(super) fn requeue(task: &Task, reason: RequeueReason, bill: Bill, now: Timestamp) -> TaskEvent {
    TaskEvent::Requeue(Requeue {
        attempt: task.attempt,
        reason,
        burn: false,
        ready_time: now,
        bill,
        failure_reason: crate::pb::FailureReason::Unspecified,
        message: String::new(),
    })
}

struct Attempt<'a> {
    inner: &'a Inner,
    slot: &'a Slot,
    task: &'a Task,
    spec: &'a Spec,
    log: Log,
    origin: ProcessOrigin,
    /// Whether the process may serve nobody afterwards.
    spent: bool,
    /// The session; `None`: there was none.
    session: Option<String>,
    /// The session's total less the task's cost, as the attempt began.
    offset: i64,
    /// What earlier attempts had cost besides, as the resumed session tells.
    correction: Microdollars,
    /// Whether it goes on with the session that an earlier attempt left.
    resumes: bool,
    /// The attempt's own directory, if it has one.
    workspace: Option<Isolated>,
    /// When the attempt has run too long.
    deadline: Instant,
    started: Instant,
}

impl<'a> Attempt<'a> {
    fn new(inner: &'a Inner, slot: &'a Slot, task: &'a Task, spec: &'a Spec, size: Size) -> Self {
        let started = Instant::now();
        Self {
            inner,
            slot,
            task,
            spec,
            log: Log::new(task, size),
            origin: ProcessOrigin::Unspecified,
            spent: false,
            session: None,
            offset: 0,
            correction: Microdollars::ZERO,
            resumes: false,
            workspace: None,
            deadline: started + admission::run_timeout(&spec.effective, &inner.options),
            started,
        }
    }

    async fn drive(&mut self, bench: &mut Bench) -> Ended {
        if self.task.remaining_budget() == Microdollars::ZERO {
            // The first request would be above it.
            return Ended::unbegun(Stop::Budget);
        }
        let dir = match self
            .inner
            .roots
            .admit(&self.spec.received.working_dir, "task.")
            .await
        {
            Ok(dir) => dir,
            Err(error) => return Ended::workspace(error.to_string()),
        };
        let dir = match isolation::make(self.inner, self.task, self.spec, &dir).await {
            Ok(None) => dir,
            Ok(Some(isolated)) => {
                let own = isolated.dir.clone();
                self.workspace = Some(isolated);
                own
            }
            Err(message) => return Ended::workspace(message),
        };
        let context = self.inner.context();
        let need = requirement(self.spec, dir, &context, self.task.saves_session);
        self.spent = need.new_process;
        match self.begin(bench, need).await {
            Ok(()) => self.turn(bench).instrument(info_span!("turn")).await,
            Err(ended) => ended,
        }
    }

    async fn turn(&mut self, bench: &mut Bench) -> Ended {
        let held = bench.held.as_mut().expect("begun");
        let session = &mut held.session;
        let inner = self.inner;
        let budget = self.task.remaining_budget();
        let turns_max = self.spec.effective.max_turns;
        let structured = self.spec.effective.json_schema.is_some();
        let mut tools = Tools::default();
        let mut turns = 0;
        let mut known = Spent::default();
        let mut stall = Instant::now() + inner.options.stall_timeout;
        // What we stop for, and when patience ends.
        let mut stop: Option<(Stop, Instant)> = None;
        let mut stopped = pin!(stopped(inner, self.slot, self.task, self.deadline));
        let mut silence = pin!(sleep_until(stall));
        loop {
            self.log.flush(inner);
            let wanted = tokio::select! {
                biased;
                written = self.log.written() => {
                    if !self.log.has_room() {
                        // Nobody listened, so its silence says nothing.
                        stall = Instant::now() + inner.options.stall_timeout;
                    }
                    match written {
                        None => {}
                        Some(Ok(committed)) => inner.hub.publish(&committed, None),
                        Some(Err(StoreError::Fenced)) => return Ended::stopped(Stop::Fenced, None, known),
                        // The pool stops: the next server decides.
                        Some(Err(error)) => warn!(?error, "the rest of the log is not written"),
                    }
                    continue;
                }
                stop = &mut stopped, if stop.is_none() => stop,
                // Set once, and again only when it is over: each line would be
                // a timer otherwise.
                () = &mut silence, if stop.is_none() && !tools.any_runs() && self.log.has_room() => {
                    if stall > Instant::now() {
                        silence.as_mut().reset(stall);
                        continue;
                    }
                    Stop::Stalled
                }
                () = wait_until(stop.as_ref().map(|(_, until)| *until)), if stop.is_some() => {
                    let (why, _) = stop.expect("just seen");
                    return Ended::stopped(why, None, known);
                }
                said = session.next(), if self.log.has_room() => {
                    stall = Instant::now() + inner.options.stall_timeout;
                    let mut wanted = None;
                    tools.saw(&said);
                    match said {
                        Observation::TurnEnded(mut end) => {
                            let duration = self.started.elapsed();
                            self.has_session(&end.session_id);
                            outcome::hold_to_schema(&mut end, &self.spec.effective);
                            return match stop {
                                None => Ended::turn(*end, duration),
                                Some((why, _)) => Ended::stopped(why, Some((*end, duration)), known),
                            };
                        }
                        Observation::ProcessEnded(end) => {
                            return match stop {
                                None => Ended::died(end, known),
                                Some((why, _)) => Ended::stopped(why, None, known),
                            };
                        }
                        Observation::RateLimited { resets_at, ref message } => {
                            let lifts = resets_at.map(|s| Timestamp(s.saturating_mul(1_000_000)));
                            second_chance::limited(inner, self.task, lifts, message);
                        }
                        // The CLI would go on for three minutes.
                        Observation::Retrying { api_status: Some(401), .. } => {
                            wanted = Some(Stop::Authentication);
                        }
                        Observation::Violation(what) => return Ended::violation(what, known),
                        Observation::Cost(ref so_far) => {
                            known.clone_from(so_far);
                            self.log.cost(so_far.cost);
                            if so_far.cost > budget {
                                wanted = Some(Stop::Budget);
                            }
                        }
                        Observation::Message { ref stop_reason, .. } => {
                            turns += 1;
                            // More is to come, of the agent itself, of a tool that
                            // is a subagent, or in the form that is asked for:
                            // what it cost so far is asked meanwhile.
                            if stop_reason != "end_turn" || tools.any_runs() || structured {
                                let _ = session.ask_usage().await;
                            }
                            if stop_reason == "tool_use" && turns_max.is_some_and(|max| turns >= max) {
                                wanted = Some(Stop::MaxTurns);
                            }
                        }
                        Observation::TurnStarted { ref session_id, total, .. } => {
                            self.begins_at(total);
                            self.has_session(session_id);
                        }
                        _ => {}
                    }
                    if let Some(kind) = outcome::log_entry(said, inner.now()) {
                        self.log.push(kind);
                    }
                    match wanted {
                        Some(wanted) if stop.is_none() => wanted,
                        _ => continue,
                    }
                }
            };
            let patience = inner.options.cancel_grace / 2;
            stop = Some((wanted, Instant::now() + patience));
            if session.interrupt().await.is_err() {
                return Ended::stopped(wanted, None, known);
            }
        }
    }
}

async fn wait_until(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}
