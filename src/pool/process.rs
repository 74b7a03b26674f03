//! The process of a slot: acquired for an attempt, then reset or recycled.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{Instrument, debug, info, info_span};

use super::inner::Inner;
use super::requirement::Requirement;
use crate::agent::{AgentError, Launch, Placement, Profile, Session, Unclean};
use crate::id::{CallerId, ConversationId};
use crate::pb::ProcessOrigin;

/// How long a process may take to end by itself before its tree is killed.
const END_GRACE: Duration = Duration::from_secs(2);

/// A live process and what it was made for.
pub(super) struct Held {
    pub session: Box<dyn Session>,
    profile: Profile,
    /// `None`: a spare that was not claimed yet.
    placement: Option<Placement>,
    /// Whose conversations it has had; `None`: nobody's.
    caller: Option<CallerId>,
    pub attempts: u32,
    /// The conversation it still has: it was not reset since.
    kept: Option<Kept>,
}

/// A conversation that a process keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub conversation: ConversationId,
    pub session_id: String,
}

/// What becomes of a process after its attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It forgets, and serves others.
    Reset,
    /// It remembers, and waits for the next task of its conversation.
    Keep(Kept),
    /// It ends.
    End,
}

/// The place of a slot's process.
#[derive(Default)]
pub(super) struct Bench {
    pub held: Option<Held>,
}

impl Bench {
    /// A process for the attempt, ready for its turn. What does not fit is
    /// ended in the background.
    pub async fn acquire(
        &mut self,
        inner: &Inner,
        need: &Requirement,
        caller: &CallerId,
    ) -> Result<ProcessOrigin, AgentError> {
        if let Some(session) = &need.resume {
            return self.go_on(inner, need, caller, session).await;
        }
        if let Some(held) = &self.held
            && !need.new_process
            && held.kept.is_none()
            && held
                .caller
                .as_ref()
                .is_some_and(|last| last == caller || inner.options.share_processes)
            && held.profile == need.profile
            && held.placement.as_ref() == Some(&need.placement)
        {
            let mut held = self.held.take().expect("just seen");
            held.caller = Some(caller.clone());
            // A process that fails here is replaced by a new one below.
            match held.session.dial(&need.dials).await {
                Ok(()) => {
                    self.held = Some(held);
                    return Ok(ProcessOrigin::Reset);
                }
                Err(refused @ AgentError::Refused { .. }) => {
                    self.held = Some(held);
                    return Err(refused);
                }
                Err(error) => debug!(%error, "a reset process is replaced"),
            }
        }
        let spare = match self.held.take() {
            Some(held) if held.unused_for(need) => Some(held),
            other => {
                if let Some(misfit) = other {
                    inner.end_in_background(misfit);
                }
                inner.shelf.take(need)
            }
        };
        if let Some(mut held) = spare {
            match held.place(need).await {
                Ok(()) => {
                    held.caller = Some(caller.clone());
                    self.held = Some(held);
                    return Ok(ProcessOrigin::Spare);
                }
                Err(refused @ AgentError::Refused { .. }) => return Err(refused),
                Err(error) => debug!(%error, "a spare is replaced"),
            }
        }
        self.launch(inner, need, caller).await
    }

    /// A process that has the session: the one that keeps it, else a new one
    /// that resumes it.
    async fn go_on(
        &mut self,
        inner: &Inner,
        need: &Requirement,
        caller: &CallerId,
        session: &str,
    ) -> Result<ProcessOrigin, AgentError> {
        let last = inner.keep(session, None);
        if let Some(mut held) = self.held.take() {
            let keeps = held.kept.as_ref().is_some_and(|k| k.session_id == session);
            if keeps
                && last == Some(held.session.pid())
                && held.session.has_left(need.budget)
                && held.caller.as_ref() == Some(caller)
                && held.profile == need.profile
                && held.placement.as_ref() == Some(&need.placement)
            {
                match held.session.dial(&need.dials).await {
                    Ok(()) => {
                        self.held = Some(held);
                        return Ok(ProcessOrigin::Kept);
                    }
                    Err(refused @ AgentError::Refused { .. }) => {
                        self.held = Some(held);
                        return Err(refused);
                    }
                    Err(error) => debug!(%error, "a kept process is replaced"),
                }
            }
            if keeps {
                // Two processes must not have one session.
                held.session.end(END_GRACE).await;
            } else {
                inner.end_in_background(held);
            }
        }
        self.launch(inner, need, caller).await
    }

    async fn launch(
        &mut self,
        inner: &Inner,
        need: &Requirement,
        caller: &CallerId,
    ) -> Result<ProcessOrigin, AgentError> {
        let resume = need.resume.as_deref();
        let mut held = Held::launch(inner, &need.profile, Some(&need.placement), resume).await?;
        held.place(need).await?;
        held.caller = Some(caller.clone());
        self.held = Some(held);
        Ok(ProcessOrigin::Launch)
    }

    /// Makes the process fit for another attempt: reset and confirmed, unless
    /// its conversation is kept. `Err`: why it was discarded.
    pub async fn make_ready(&mut self, inner: &Inner, next: &Next) -> Result<(), String> {
        let Some(mut held) = self.held.take() else {
            return Err("the process is gone".to_owned());
        };
        held.attempts += 1;
        let options = &inner.options;
        held.kept = None;
        let reason = if *next == Next::End {
            "its attempt asked for a process of its own".to_owned()
        } else if held.attempts >= options.process_attempts_max {
            format!("it has served {} attempts", held.attempts)
        } else if let Err(unclean) = held.forget_or_keep(inner, next).await {
            unclean.0
        } else {
            // A look at /proc now and then: memory grows slowly.
            let memory = if held.attempts.is_multiple_of(8) {
                held.session.memory_bytes()
            } else {
                0
            };
            if memory <= options.process_memory_max {
                self.held = Some(held);
                return Ok(());
            }
            format!("it uses {memory} bytes of memory")
        };
        held.session.end(END_GRACE).await;
        Err(reason)
    }

    /// Whether nothing is known yet that would keep the process from being reset.
    pub fn may_reset(&self, inner: &Inner, next: &Next) -> bool {
        let attempts_max = inner.options.process_attempts_max;
        *next == Next::Reset
            && self.held.as_ref().is_some_and(|held| {
                held.attempts.saturating_add(1) < attempts_max && held.session.is_clean()
            })
    }

    /// Ends the process and everything below it.
    pub async fn discard(&mut self, grace: Duration) {
        if let Some(mut held) = self.held.take() {
            held.session.end(grace).await;
        }
    }
}

impl Held {
    /// Starts a process: a spare where the agent has them and no placement is
    /// given, else one in its place.
    pub async fn launch(
        inner: &Inner,
        profile: &Profile,
        placement: Option<&Placement>,
        resume: Option<&str>,
    ) -> Result<Self, AgentError> {
        let began = Instant::now();
        let launched = inner
            .agent
            .launch(Launch {
                profile: profile.clone(),
                placement: placement.cloned(),
                resume: resume.map(str::to_owned),
            })
            .instrument(info_span!("launch"))
            .await;
        inner.metrics.launched(launched.is_ok(), began.elapsed());
        let session = launched?;
        info!(
            pid = session.pid(),
            spare = placement.is_none(),
            resumed = resume.is_some(),
            "process started"
        );
        Ok(Self {
            session,
            profile: profile.clone(),
            placement: placement.cloned(),
            caller: None,
            attempts: 0,
            kept: None,
        })
    }

    /// Starts a process ahead of need, for the pool's own settings.
    pub async fn launch_ahead(inner: &Inner) -> Result<Self, AgentError> {
        inner.until_may_begin().await;
        let placement = inner.default_placement();
        let ahead = (!inner.probe.spares).then_some(&placement);
        Self::launch(inner, &inner.default_profile, ahead, None).await
    }

    /// Whether it has run nothing for anybody and can serve the need.
    pub fn unused_for(&self, need: &Requirement) -> bool {
        self.caller.is_none()
            && self.profile == need.profile
            && self
                .placement
                .as_ref()
                .is_none_or(|placement| *placement == need.placement)
    }

    /// Whether it was placed, and the default is another by now: the next
    /// attempt is likely to need a new one.
    pub fn outdated(&self, default: &Placement) -> bool {
        self.placement.as_ref().is_some_and(|p| p != default)
    }

    /// The conversation it keeps, and whose it is.
    pub fn keeps(&self) -> Option<(CallerId, ConversationId)> {
        let kept = self.kept.as_ref()?;
        Some((self.caller.clone()?, kept.conversation.clone()))
    }

    async fn forget_or_keep(&mut self, inner: &Inner, next: &Next) -> Result<(), Unclean> {
        match next {
            Next::Keep(kept) => {
                inner.keep(&kept.session_id, Some(self.session.pid()));
                self.kept = Some(kept.clone());
                Ok(())
            }
            Next::Reset | Next::End => {
                let began = Instant::now();
                let reset = self.session.reset().instrument(info_span!("reset")).await;
                inner.metrics.reset(reset.is_ok(), began.elapsed());
                reset
            }
        }
    }

    async fn place(&mut self, need: &Requirement) -> Result<(), AgentError> {
        if self.placement.is_none() {
            self.session.claim(&need.placement).await?;
            self.placement = Some(need.placement.clone());
        }
        self.session.dial(&need.dials).await
    }
}
