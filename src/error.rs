//! Everything a call can be refused for, free of transport.

use std::time::Duration;

use crate::pb::ErrorReason;
use crate::store::StoreError;
use crate::task::State;

/// One wrong field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Path on the wire, for instance `tasks[3].settings.max_turns`.
    pub field: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl Violation {
    /// One wrong field.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }
}

/// What was looked for and is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// A task, or it belongs to another caller.
    Task,
    /// A task that was deleted.
    DeletedTask,
    /// A fan-out.
    Group,
    /// A slot.
    Slot,
    /// A key of the shared context.
    ContextKey,
    /// A skill.
    Skill,
    /// A workflow.
    Workflow,
}

/// Why a call was refused. `Display` is for the caller: no path, prompt, secret
/// or SQL in it. Nothing was changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Fields are wrong.
    #[error("{}", describe(.0))]
    Invalid(Vec<Violation>),
    /// The request_id was used with another payload.
    #[error("this request_id was used before with another payload")]
    RequestIdReused,
    /// The page token belongs to another query.
    #[error("the page_token belongs to another query")]
    PageTokenMismatch,
    /// Not there.
    #[error("{}", match .0 {
        Missing::Task => "there is no such task",
        Missing::DeletedTask => "the task was deleted",
        Missing::Group => "there is no such group",
        Missing::Slot => "there is no such slot",
        Missing::ContextKey => "there is no such context key",
        Missing::Skill => "there is no such skill",
        Missing::Workflow => "there is no such workflow",
    })]
    NotFound(Missing),
    /// The task has ended in another way.
    #[error("the task has ended already ({0:?})")]
    TaskFinished(State),
    /// The task has not ended.
    #[error("the task has not ended yet ({0:?})")]
    TaskNotFinished(State),
    /// The working directory cannot be used.
    #[error("{field}: {message}")]
    WorkingDir {
        /// Path on the wire.
        field: String,
        /// What is wrong.
        message: String,
    },
    /// The session cannot be resumed: it is not there, was not saved, has
    /// expired, or belongs to another caller.
    #[error("{field}: no session of this id is saved")]
    SessionUnusable {
        /// Path on the wire.
        field: String,
    },
    /// Isolation needs a git repository.
    #[error("{field}: the working directory is in no git repository")]
    NotARepository {
        /// Path on the wire.
        field: String,
    },
    /// The operator's policy does not allow it.
    #[error("{field}: {message}")]
    Policy {
        /// Path on the wire.
        field: String,
        /// What is not allowed.
        message: String,
    },
    /// There are no credentials, or they are not valid.
    #[error("there are no valid credentials")]
    Credentials,
    /// The caller lacks the right.
    #[error("this needs the scope {}", needed.replace(',', " or "))]
    ScopeMissing {
        /// The scopes of which one is needed, with commas between them.
        needed: String,
    },
    /// The pool's budget does not cover it.
    #[error("the pool's budget does not cover the task")]
    BudgetExhausted,
    /// A server of this pool that was asked has not answered.
    #[error("the server {0} does not answer; it may have done it all the same")]
    NodeSilent(String),
    /// The queue is full.
    #[error("the queue is full")]
    QueueFull,
    /// The caller has as much in the queue as it may.
    #[error("the caller has as many tasks in the queue as the policy allows")]
    CallerQueueFull,
    /// Too much is being received.
    #[error("too many large requests are being received")]
    Receiving,
    /// Too many streams.
    #[error("too many watchers")]
    TooManyWatchers,
    /// An operator paused admission.
    #[error("an operator paused the pool")]
    Paused,
    /// The number of slots would leave its bounds.
    #[error("the pool has {min} to {max} slots; {asked} were asked for")]
    SlotBounds {
        /// What was asked for.
        asked: i64,
        /// The fewest.
        min: u32,
        /// The most.
        max: u32,
        /// Whether a total was asked for, rather than a change.
        absolute: bool,
    },
    /// The server drains.
    #[error("the server is draining and takes no new work")]
    Draining,
    /// The connection has lived long enough; the server goes on.
    #[error("the connection has reached its age: connect anew and resume")]
    ConnectionAge,
    /// The pool is not there yet.
    #[error("the server is still starting")]
    Starting,
    /// The work asks for more than this server knows; others of the pool do.
    #[error("a newer server of this pool knows what this asks for; this one does not")]
    NewerServerNeeded,
    /// The store failed.
    #[error("the store does not answer; a repeat with the same request_id does nothing twice")]
    Store(#[source] StoreError),
    /// The caller's deadline passed.
    #[error("the deadline passed")]
    Deadline,
    /// Not built yet.
    #[error("{0} is not built yet")]
    NotBuiltYet(&'static str),
    /// Others were first too often.
    #[error("other changes came first; try again")]
    Conflict,
    /// A fault of ours; the log holds the cause.
    #[error("internal error")]
    Internal(String),
}

impl Error {
    /// One wrong field.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid(vec![Violation::new(field, message)])
    }

    /// The machine's word for it.
    pub fn reason(&self) -> ErrorReason {
        match self {
            Self::Invalid(_) => ErrorReason::InvalidField,
            Self::RequestIdReused => ErrorReason::RequestIdReused,
            Self::PageTokenMismatch => ErrorReason::PageTokenMismatch,
            Self::NotFound(Missing::Task) => ErrorReason::TaskNotFound,
            Self::NotFound(Missing::DeletedTask) => ErrorReason::TaskDeleted,
            Self::NotFound(Missing::Group) => ErrorReason::GroupNotFound,
            Self::NotFound(Missing::Slot) => ErrorReason::SlotNotFound,
            Self::NotFound(Missing::ContextKey) => ErrorReason::ContextKeyNotFound,
            Self::NotFound(Missing::Skill) => ErrorReason::SkillNotFound,
            Self::NotFound(Missing::Workflow) => ErrorReason::WorkflowNotFound,
            Self::TaskFinished(_) => ErrorReason::TaskFinished,
            Self::TaskNotFinished(_) => ErrorReason::TaskNotFinished,
            Self::WorkingDir { .. } => ErrorReason::WorkingDirUnusable,
            Self::SessionUnusable { .. } => ErrorReason::SessionUnusable,
            Self::NotARepository { .. } => ErrorReason::NotARepository,
            Self::Policy { .. } => ErrorReason::Policy,
            Self::Credentials => ErrorReason::Credentials,
            Self::ScopeMissing { .. } => ErrorReason::ScopeMissing,
            Self::BudgetExhausted => ErrorReason::BudgetExhausted,
            Self::QueueFull | Self::CallerQueueFull | Self::Receiving => ErrorReason::QueueFull,
            Self::NodeSilent(_) => ErrorReason::NodeSilent,
            Self::TooManyWatchers => ErrorReason::TooManyWatchers,
            Self::Paused => ErrorReason::Paused,
            Self::SlotBounds { .. } => ErrorReason::SlotBounds,
            Self::Draining | Self::ConnectionAge => ErrorReason::Draining,
            Self::Starting => ErrorReason::Starting,
            Self::NewerServerNeeded => ErrorReason::NewerServerNeeded,
            Self::Store(_) => ErrorReason::Store,
            Self::Deadline => ErrorReason::Deadline,
            Self::NotBuiltYet(_) => ErrorReason::NotBuiltYet,
            Self::Conflict => ErrorReason::Conflict,
            Self::Internal(_) => ErrorReason::Internal,
        }
    }

    /// When to try again, if that may help.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::QueueFull
            | Self::CallerQueueFull
            | Self::Receiving
            | Self::TooManyWatchers
            | Self::NodeSilent(_)
            | Self::Starting
            | Self::NewerServerNeeded
            | Self::Store(_) => Some(Duration::from_secs(1)),
            // Another server, or this one's successor, takes it.
            Self::Draining | Self::Paused => Some(Duration::from_secs(2)),
            Self::Conflict | Self::ConnectionAge => Some(Duration::from_millis(50)),
            Self::Invalid(_)
            | Self::RequestIdReused
            | Self::PageTokenMismatch
            | Self::NotFound(_)
            | Self::TaskFinished(_)
            | Self::TaskNotFinished(_)
            | Self::WorkingDir { .. }
            | Self::SessionUnusable { .. }
            | Self::NotARepository { .. }
            | Self::Policy { .. }
            | Self::Credentials
            | Self::ScopeMissing { .. }
            | Self::BudgetExhausted
            | Self::SlotBounds { .. }
            | Self::Deadline
            | Self::NotBuiltYet(_)
            | Self::Internal(_) => None,
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict => Self::Conflict,
            StoreError::RequestExists(_) | StoreError::Fenced => Self::Internal(error.to_string()),
            StoreError::Unavailable(_) | StoreError::Damaged(_) | StoreError::Corrupt(_) => {
                Self::Store(error)
            }
        }
    }
}

fn describe(violations: &[Violation]) -> String {
    violations
        .iter()
        .map(|v| format!("{}: {}", v.field, v.message))
        .collect::<Vec<_>>()
        .join("; ")
}
