//! How an attempt gets its process and begins its turn, in the conversation it is
//! to go on with; and what becomes of the process afterwards.

use std::time::Duration;

use tracing::field::Empty;
use tracing::{Instrument, info_span, warn};

use super::{Attempt, stopped};
use crate::agent::AgentError;
use crate::metrics::word;
use crate::money::Microdollars;
use crate::pb::ProcessOrigin;
use crate::pool::conversation;
use crate::pool::outcome::{Ended, Stop};
use crate::pool::process::{Bench, Kept, Next};
use crate::pool::requirement::Requirement;

impl Attempt<'_> {
    /// Begins the turn. A session that is gone is never replaced by a new one
    /// unless the task was to start over then.
    pub(super) async fn begin(
        &mut self,
        bench: &mut Bench,
        mut need: Requirement,
    ) -> Result<(), Ended> {
        let starts = match conversation::starts(self.inner, self.task, self.spec).await {
            Ok(starts) => starts,
            Err(error) => {
                warn!(?error, "the conversation cannot be looked up");
                return Err(Ended::unbegun(Stop::Restart));
            }
        };
        need.budget = self.task.remaining_budget();
        for start in starts {
            self.resumes = start.goes_on;
            start.of(&mut need);
            match self.begin_turn(bench, &need).await {
                Err(ended) if ended.is_no_session() => {
                    warn!("the session to go on with is gone");
                }
                begun => return begun,
            }
        }
        // Nobody is to be sent to it again.
        if let Some(id) = need.resume
            && let Err(error) = self.inner.store.forget_session(&id).await
        {
            warn!(?error, "a session that is gone is still noted");
        }
        self.session = Some(String::new());
        Err(Ended::no_process(AgentError::NoSession))
    }

    /// Gets a process and begins the turn. A process that fails before it said
    /// anything is replaced once: nothing was paid for.
    async fn begin_turn(&mut self, bench: &mut Bench, need: &Requirement) -> Result<(), Ended> {
        for last_try in [false, true] {
            let span = info_span!("process", origin = Empty);
            let acquired = tokio::select! {
                biased;
                stop = stopped(self.inner, self.slot, self.task, self.deadline) => {
                    return Err(Ended::unbegun(stop));
                }
                acquired = bench.acquire(self.inner, need, &self.task.caller).instrument(span.clone()) => acquired,
            };
            let failed = match acquired {
                Ok(origin) => {
                    self.origin = origin;
                    span.record("origin", word(origin.as_str_name(), "PROCESS_ORIGIN_"));
                    self.inner.metrics.process_acquired(origin);
                    let held = bench.held.as_mut().expect("acquired");
                    self.slot.has_process(
                        self.inner,
                        held.session.pid(),
                        origin == ProcessOrigin::Launch,
                    );
                    match held.session.begin(need.turn.clone()).await {
                        Ok(()) => return Ok(()),
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            let final_word = matches!(failed, AgentError::Refused { .. } | AgentError::NoSession);
            if last_try || final_word {
                return Err(Ended::no_process(failed));
            }
            warn!(error = %failed, "the attempt takes another process");
            bench.discard(Duration::ZERO).await;
        }
        Err(Ended::workspace("no process".to_owned()))
    }

    /// What becomes of the process.
    pub(super) fn next(&self) -> Next {
        match (&self.task.conversation, &self.session) {
            _ if self.spent => Next::End,
            (Some(conversation), Some(session_id)) => Next::Keep(Kept {
                conversation: conversation.clone(),
                session_id: session_id.clone(),
            }),
            _ => Next::Reset,
        }
    }

    /// Notes what the conversation had cost before the turn. If it is the one
    /// that an earlier attempt left without telling its cost, it tells now.
    pub(super) fn begins_at(&mut self, total: Microdollars) {
        if self.resumes {
            self.correction = self.task.correction(total);
        }
        self.offset = self.task.offset(total, self.correction);
    }

    /// Notes the session, if it is one that can be gone on with.
    pub(super) fn has_session(&mut self, id: &str) {
        if self.session.as_deref() != Some(id) && !id.is_empty() {
            self.session = Some(id.to_owned());
            if self.task.saves_session {
                self.log.session(id, self.offset);
            }
        }
    }
}
