//! One conversation with one process.
//!
//! An [`Agent`] starts processes; a [`Session`] is one of them. This layer knows
//! nothing of tasks, stores or gRPC: it turns what a process says into
//! [`Observation`]s and tells, after a turn, whether the process is fit for
//! another.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;

use crate::money::Microdollars;
use crate::pb::{Effort, ModelUsage, PermissionDenial, PermissionMode};

pub mod claude;
#[cfg(feature = "testing")]
pub mod conformance;
#[cfg(any(test, feature = "testing"))]
pub mod scripted;

/// Launch profile: everything that a live process cannot change and that
/// cannot be set when it is claimed. Two attempts may use one process only if
/// their profiles are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Profile {
    /// Permission rules that allow tools.
    pub allowed_tools: Vec<String>,
    /// Permission rules that forbid tools.
    pub disallowed_tools: Vec<String>,
    /// MCP servers by name, each as the JSON the CLI takes. Secrets: never logged.
    pub mcp_servers: BTreeMap<String, String>,
    /// Model to use while the first is overloaded.
    pub fallback_model: Option<String>,
    /// JSON Schema of the answer.
    pub json_schema: Option<String>,
    /// Whether `@path` in a prompt attaches the file.
    pub attachments: bool,
    /// Whether the process may be put into `BYPASS_PERMISSIONS`.
    pub bypass_permissions: bool,
    /// Whether conversations are saved, so that they can be resumed.
    pub save_sessions: bool,
}

/// What a never-used process is given when it is claimed, and keeps from then
/// on: a reset leaves it as it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Placement {
    /// Working directory. Absolute, with symlinks resolved: a process that finds
    /// itself elsewhere does not work.
    pub working_dir: PathBuf,
    /// Replaces the agent's own system prompt.
    pub system_prompt: Option<String>,
    /// Appended to the system prompt: the settings' text, then the shared context.
    pub append_system_prompt: Option<String>,
}

/// What can be set on a live process before any turn.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Dials {
    /// Model; `None`: the agent's default.
    pub model: Option<String>,
    /// Permission mode; never `UNSPECIFIED`.
    pub permission_mode: PermissionMode,
    /// Thinking effort; `UNSPECIFIED`: the agent's default.
    pub effort: Effort,
}

impl Default for Dials {
    fn default() -> Self {
        Self {
            model: None,
            permission_mode: PermissionMode::DontAsk,
            effort: Effort::Unspecified,
        }
    }
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The profile.
    pub profile: Profile,
    /// Where it works. `None`: a spare, to be claimed later; only if
    /// [`Probe::spares`].
    pub placement: Option<Placement>,
    /// A saved session to go on with. Needs a placement.
    pub resume: Option<String>,
}

/// What an agent program is and can do, found by trying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Its version, for instance `2.1.330`.
    pub version: String,
    /// Whether processes can be started ahead without a placement.
    pub spares: bool,
    /// What differs from the version this was built for: one sentence each.
    /// Nothing here prevents working.
    pub drift: Vec<String>,
}

/// One exchange to begin.
#[derive(Clone, Debug)]
pub struct Turn {
    /// The prompt: data, unless `slash_commands`.
    pub prompt: String,
    /// Whether a leading "/" is a command of the agent. The process is not
    /// clean afterwards.
    pub slash_commands: bool,
}

/// What a process did or said.
#[derive(Clone, Debug, PartialEq)]
pub enum Observation {
    /// The turn began; tells what is really in force.
    TurnStarted {
        /// The conversation.
        session_id: String,
        /// The model in force.
        model: String,
        /// The permission mode in force, in the agent's word.
        permission_mode: String,
        /// The working directory in force.
        working_dir: String,
        /// What the conversation has cost before this turn, as the agent
        /// counts; a resumed one may have forgotten some of it.
        total: Microdollars,
    },
    /// A piece of the answer.
    TextDelta {
        /// The piece.
        text: String,
        /// The tool call whose subagent speaks; empty: the agent itself.
        parent_tool_use_id: String,
    },
    /// A piece of the model's thinking.
    ThinkingDelta {
        /// The piece.
        text: String,
        /// The tool call whose subagent thinks; empty: the agent itself.
        parent_tool_use_id: String,
    },
    /// A tool is called.
    ToolUse {
        /// The call's id.
        id: String,
        /// The tool.
        name: String,
        /// Its input, JSON text.
        input_json: String,
        /// The tool call whose subagent calls; empty: the agent itself.
        parent_tool_use_id: String,
    },
    /// A tool answered.
    ToolResult {
        /// The call's id.
        id: String,
        /// Whether it failed or was denied.
        is_error: bool,
        /// What it said.
        output: String,
    },
    /// An API message is complete.
    Message {
        /// The provider's id of it.
        id: String,
        /// Who wrote it.
        model: String,
        /// Why it stopped. `tool_use` means that another message follows.
        stop_reason: String,
        /// Tokens read, cached ones included.
        input_tokens: i64,
        /// Tokens written.
        output_tokens: i64,
    },
    /// The agent tries a request again; text since the last message is void.
    Retrying {
        /// Number of the retry, from 1.
        retry: i32,
        /// Most retries.
        max_retries: i32,
        /// Wait before it.
        delay: Duration,
        /// HTTP status; `None`: the connection failed.
        api_status: Option<i32>,
        /// The agent's word: `rate_limit`, `overloaded`, `authentication_failed`...
        error: String,
    },
    /// The provider limits rate or usage.
    RateLimited {
        /// When the limit lifts, in seconds since the Unix epoch, if known.
        resets_at: Option<i64>,
        /// The agent's words.
        message: String,
    },
    /// Answer to [`Session::ask_usage`]: what this turn cost so far.
    Cost(Spent),
    /// The turn is over. The process lives.
    TurnEnded(Box<TurnEnd>),
    /// The process is gone, and with it the turn, if one was under way.
    ProcessEnded(ProcessEnd),
    /// The process spoke what the protocol does not allow; it must be ended.
    Violation(String),
    /// It said something that means nothing to us: a sign of life.
    Alive,
}

/// What a turn has cost so far.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Spent {
    /// In all.
    pub cost: Microdollars,
    /// The same per model.
    pub usage: Vec<ModelUsage>,
}

/// How a turn ended.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct TurnEnd {
    /// Facts of a failure; `None`: success.
    pub error: Option<TurnError>,
    /// The final text.
    pub output: String,
    /// The object that satisfies the schema, JSON text.
    pub structured_output: Option<String>,
    /// Cost of this turn alone: a difference of running totals.
    pub cost: Microdollars,
    /// Usage of this turn alone, per model.
    pub usage: Vec<ModelUsage>,
    /// API messages of the turn.
    pub turns: i32,
    /// The conversation.
    pub session_id: String,
    /// The model that answered.
    pub model: String,
    /// Tool calls that were denied.
    pub permission_denials: Vec<PermissionDenial>,
    /// Why the last message stopped.
    pub stop_reason: String,
}

/// Facts of a failed turn. Classes are made from these, never from text.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TurnError {
    /// The result's subtype: `error_during_execution`, `error_max_turns`...
    pub subtype: String,
    /// Why the turn ended: `api_error`, `aborted_streaming`, `max_turns`...
    pub terminal_reason: String,
    /// HTTP status of the provider, if that failed.
    pub api_status: Option<i32>,
    /// For people.
    pub message: String,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ProcessEnd {
    /// Exit code; a signal is 128 + its number; `None`: unknown.
    pub exit_code: Option<i32>,
    /// Last bytes of its stderr, at most 4 KiB.
    pub stderr_tail: String,
    /// Whether it was ended because this server did not renew its lease.
    pub lease_expired: bool,
}

/// Why an agent could not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    /// The program cannot be used at all: one sentence with the way out.
    #[error("{0}")]
    Unusable(String),
    /// A process did not start.
    #[error("the agent did not start: {0}")]
    Launch(String),
    /// A running process did not do as asked in time, or is gone.
    #[error("the agent process failed: {0}")]
    Process(String),
    /// The session to resume is not there.
    #[error("the session to resume is gone")]
    NoSession,
    /// The process lives and refuses a setting: which, and why.
    #[error("the agent refuses {setting}: {message}")]
    Refused {
        /// The setting's name on the wire, for instance `permission_mode`.
        setting: &'static str,
        /// The agent's words.
        message: String,
    },
}

/// Why a process is not fit for another task. Not an error: it is recycled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unclean(pub String);

/// A kind of program that is driven.
#[async_trait]
pub trait Agent: Send + Sync + 'static {
    /// Finds out what the program is and can do, by trying; starts and ends a
    /// process. `Unusable` names what is missing.
    async fn probe(&self) -> Result<Probe, AgentError>;

    /// Returns when no process of an earlier server over the same state is
    /// alive: their work must not go on beside ours.
    async fn settle(&self) -> Result<(), AgentError>;

    /// Starts a process and returns when it is ready for a claim or a turn.
    /// `NoSession` if the one to resume was not saved or is deleted.
    async fn launch(&self, launch: Launch) -> Result<Box<dyn Session>, AgentError>;

    /// Bounds the life of every process, also of those started later: each ends
    /// with its tree unless this is called again within `span`, even if this
    /// server is stopped or cut off. Zero: no bound, as at the start.
    fn lease(&self, _span: Duration) {}

    /// Deletes a saved session; harmless if it is not there.
    async fn forget(&self, _session_id: &str) {}
}

/// One process. Dropping it ends its whole tree, without waiting for it.
#[async_trait]
pub trait Session: Send {
    /// Process id of the agent program (not of what guards it).
    fn pid(&self) -> u32;

    /// Resident memory of the whole tree, in bytes. May read `/proc`: call it
    /// where blocking for a moment is allowed.
    fn memory_bytes(&self) -> u64;

    /// Whether the next turn may cost so much before a cap of the agent's own
    /// ends it: that cap counts all turns of a conversation.
    fn has_left(&self, _amount: Microdollars) -> bool {
        true
    }

    /// Gives a spare its placement. Once only.
    async fn claim(&mut self, placement: &Placement) -> Result<(), AgentError>;

    /// Sets what differs from what is in force. Before a turn only.
    async fn dial(&mut self, dials: &Dials) -> Result<(), AgentError>;

    /// Begins a turn: one at a time. What follows comes by [`Session::next`].
    async fn begin(&mut self, turn: Turn) -> Result<(), AgentError>;

    /// The next observation; waits for it. Safe to drop and call again. After
    /// `ProcessEnded` it must not be called.
    async fn next(&mut self) -> Observation;

    /// Asks the running turn to stop; its end comes by [`Session::next`], if it
    /// has not already. Harmless without a turn.
    async fn interrupt(&mut self) -> Result<(), AgentError>;

    /// Asks what the turn cost so far; the answer comes as
    /// [`Observation::Cost`].
    async fn ask_usage(&mut self) -> Result<(), AgentError>;

    /// Whether nothing is known yet for which a reset would fail.
    fn is_clean(&self) -> bool {
        true
    }

    /// Makes the process forget its turns, and confirms that it did: a new
    /// conversation, nothing left running, everything as launched. Any doubt
    /// is `Unclean`. Only between turns.
    async fn reset(&mut self) -> Result<(), Unclean>;

    /// Ends the process tree: asks, then insists after `grace`. When it
    /// returns nothing of it is left.
    async fn end(&mut self, grace: Duration) -> ProcessEnd;
}
