//! Which conversation a task is part of, and how an attempt goes on with it.

use std::time::Duration;

use tracing::{info, warn};

use super::admission::Admitted;
use super::inner::Inner;
use super::options::Options;
use super::requirement::Requirement;
use crate::error::Error;
use crate::id::{CallerId, ConversationId};
use crate::pb::conversation::Kind;
use crate::pb::{RecoveryPolicy, TaskSpec};
use crate::store::{SessionRef, StoreError};
use crate::task::{Recovery, Spec, Task};

/// What an attempt is told instead of its prompt when it goes on with the
/// conversation of an interrupted one.
pub(super) const INTERRUPTED: &str = "You were interrupted. What you said and did before is \
    above; whatever was under way in the last moment may not have been completed. Check that, \
    then go on and finish what you were asked to do.";

/// Sessions deleted in one go.
const BATCH: usize = 256;

fn kind(spec: &TaskSpec) -> Option<&Kind> {
    spec.conversation.as_ref()?.kind.as_ref()
}

/// Whether a task's session is saved: if somebody may need it again, or the
/// operator wants it of all.
pub(super) fn saves_session(spec: &TaskSpec, options: &Options) -> bool {
    let goes_on = matches!(
        kind(spec),
        Some(Kind::ContinueConversation(_) | Kind::ResumeSession(_))
    );
    options.save_sessions || goes_on || spec.recovery() == RecoveryPolicy::Resume
}

/// What a crash does to a task.
pub(super) fn recovery(spec: &TaskSpec, saves_session: bool) -> Recovery {
    match spec.recovery() {
        RecoveryPolicy::Fail => Recovery::Fail,
        RecoveryPolicy::Restart => Recovery::Restart,
        RecoveryPolicy::Resume => Recovery::Resume,
        RecoveryPolicy::Unspecified if saves_session => Recovery::Resume,
        RecoveryPolicy::Unspecified => Recovery::Restart,
    }
}

/// Finds the conversation that a task goes on with. A session must be the
/// caller's own; one that is under a key is that key's conversation, so that
/// nobody goes on with it at the same time.
pub(super) async fn admit(
    inner: &Inner,
    caller: &CallerId,
    spec: &TaskSpec,
    path: &str,
    admitted: &mut Admitted,
) -> Result<(), Error> {
    admitted.conversation = match kind(spec) {
        Some(Kind::ContinueConversation(asked)) => Some(ConversationId::of_key(&asked.key)),
        Some(Kind::ResumeSession(asked)) => {
            let which = SessionRef::Id(asked.session_id.clone());
            let Some(session) = inner.store.session(caller, &which).await? else {
                return Err(Error::SessionUnusable {
                    field: format!("{path}conversation.resume_session.session_id"),
                });
            };
            let own = || ConversationId::of_session(&session.id);
            Some(session.conversation.clone().unwrap_or_else(own))
        }
        Some(Kind::NewConversation(_) | Kind::NewProcess(_)) | None => None,
    };
    Ok(())
}

/// A way to begin an attempt's conversation.
pub(super) struct Start {
    /// The session to go on with; `None`: a new one.
    resume: Option<String>,
    prompt: String,
    /// Whether that is the session of an interrupted attempt of the task.
    pub goes_on: bool,
}

impl Start {
    /// What it takes of a process.
    pub fn of(self, need: &mut Requirement) {
        need.resume = self.resume;
        need.turn.prompt = self.prompt;
    }
}

/// The ways to begin an attempt's conversation, to be tried in order as long as
/// a session is gone.
pub(super) async fn starts(
    inner: &Inner,
    task: &Task,
    spec: &Spec,
) -> Result<Vec<Start>, StoreError> {
    let mut starts = Vec::new();
    let resumes = task.recovery == Recovery::Resume && task.saves_session;
    if task.attempt > 1 && resumes && !task.session_id.is_empty() {
        starts.push(Start {
            resume: Some(task.session_id.clone()),
            prompt: INTERRUPTED.to_owned(),
            goes_on: true,
        });
    }
    let resume = match (kind(&spec.received), &task.conversation) {
        (Some(Kind::ResumeSession(asked)), _) => Some(asked.session_id.clone()),
        (Some(Kind::ContinueConversation(_)), Some(conversation)) => {
            let which = SessionRef::Conversation(conversation.clone());
            let session = inner.store.session(&task.caller, &which).await?;
            session.map(|session| session.id)
        }
        _ => None,
    };
    starts.push(Start {
        resume,
        prompt: spec.prompt().to_owned(),
        goes_on: false,
    });
    Ok(starts)
}

/// Deletes the sessions that nobody has used for long, until the pool stops.
pub(super) async fn expire(inner: &Inner) {
    let retention = inner.options.session_retention;
    let interval = (retention / 10).clamp(Duration::from_secs(1), Duration::from_secs(600));
    loop {
        let before = inner.now().before(retention);
        let pause = match inner.store.expire_sessions(before, BATCH).await {
            Ok(ids) => {
                for id in &ids {
                    inner.keep(id, None);
                    inner.agent.forget(id).await;
                }
                if !ids.is_empty() {
                    info!(count = ids.len(), "saved sessions deleted");
                }
                match ids.len() {
                    BATCH => Duration::ZERO,
                    _ => interval,
                }
            }
            Err(error) => {
                warn!(?error, "saved sessions were not deleted");
                interval
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = inner.stop.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests;
