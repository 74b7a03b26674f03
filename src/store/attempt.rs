//! What a running attempt writes, and how the sessions are found that attempts
//! have left.

use crate::id::{ConversationId, TaskId};
use crate::money::Microdollars;

/// Who appends to a running task's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The task.
    pub task: TaskId,
    /// The attempt. An append of another one is refused.
    pub attempt: u32,
}

/// What is noted of a running attempt besides its log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// What it cost so far.
    pub cost: Option<Microdollars>,
    /// Its session.
    pub session: Option<SessionNote>,
}

/// What is noted of an attempt's session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionNote {
    /// The agent's name for it.
    pub id: String,
    /// By how much its total is above the task's cost: `Task::session_offset`.
    pub offset: i64,
}

impl Note {
    /// A cost alone.
    pub fn cost(cost: Microdollars) -> Self {
        Self {
            cost: Some(cost),
            session: None,
        }
    }
}

/// Which saved session is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionRef {
    /// The one of this id.
    Id(String),
    /// The last one of a conversation.
    Conversation(ConversationId),
}
