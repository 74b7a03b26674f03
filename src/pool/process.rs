//! The process of a slot: acquired for an attempt, then reset or recycled.

use std::time::Duration;

use tracing::{debug, info};

use super::inner::Inner;
use super::requirement::Requirement;
use crate::agent::{AgentError, Launch, Placement, Profile, Session};
use crate::id::CallerId;
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
        if let Some(held) = &self.held
            && !need.new_process
            && held.caller.as_ref() == Some(caller)
            && held.profile == need.profile
            && held.placement.as_ref() == Some(&need.placement)
        {
            let mut held = self.held.take().expect("just seen");
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
        let mut held = Held::launch(inner, &need.profile, Some(&need.placement)).await?;
        held.place(need).await?;
        held.caller = Some(caller.clone());
        self.held = Some(held);
        Ok(ProcessOrigin::Launch)
    }

    /// Makes the process fit for another attempt: reset and confirmed. `Err`:
    /// why it was discarded.
    pub async fn reset(&mut self, inner: &Inner, spent: bool) -> Result<(), String> {
        let Some(mut held) = self.held.take() else {
            return Err("the process is gone".to_owned());
        };
        held.attempts += 1;
        let options = &inner.options;
        let reason = if spent {
            "its attempt asked for a process of its own".to_owned()
        } else if held.attempts >= options.process_attempts_max {
            format!("it has served {} attempts", held.attempts)
        } else if let Err(unclean) = held.session.reset().await {
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
    ) -> Result<Self, AgentError> {
        let session = inner
            .agent
            .launch(Launch {
                profile: profile.clone(),
                placement: placement.cloned(),
                resume: None,
            })
            .await?;
        info!(
            pid = session.pid(),
            spare = placement.is_none(),
            "process started"
        );
        Ok(Self {
            session,
            profile: profile.clone(),
            placement: placement.cloned(),
            caller: None,
            attempts: 0,
        })
    }

    /// Starts a process ahead of need, for the pool's own settings.
    pub async fn launch_ahead(inner: &Inner) -> Result<Self, AgentError> {
        let placement = inner.default_placement();
        let ahead = (!inner.probe.spares).then_some(&placement);
        Self::launch(inner, &inner.default_profile, ahead).await
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

    async fn place(&mut self, need: &Requirement) -> Result<(), AgentError> {
        if self.placement.is_none() {
            self.session.claim(&need.placement).await?;
            self.placement = Some(need.placement.clone());
        }
        self.session.dial(&need.dials).await
    }
}
