//! What a pool is built with.

mod check;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::money::Microdollars;
use crate::pb;
use crate::task::State;

/// What a pool is built with. Every field has a default; in a file, durations
/// read `30s` and sizes are bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Slots: attempts that run at a time. Range: `min_slots` to `max_slots`.
    /// Default 2. Each needs 150 to 400 MB for its process.
    pub slots: u32,
    /// Fewest slots that scaling leaves. Range: 1 to `max_slots`. Default 1.
    pub min_slots: u32,
    /// Most slots that scaling makes. Range: `min_slots` to 1,000. Default 16.
    pub max_slots: u32,
    /// Never-used processes kept standing by for all slots together. Range: 0
    /// to 100. Default 1.
    pub spares: u32,
    /// Working directory of tasks that name none. Default: the current one.
    pub working_dir: PathBuf,
    /// Where worktrees and clones of isolated work are made: outside of every
    /// repository. Unset: isolation is refused. Default: unset; the program
    /// uses its state directory.
    pub workspace_dir: Option<PathBuf>,
    /// The most that may be spent in all, in US dollars. Default: no limit.
    pub budget_usd: Option<f64>,
    /// The most that a task may cost that names no budget, in US dollars.
    /// Default 5.
    pub default_task_budget_usd: f64,
    /// Longest time of an attempt that names none. Default 1 h.
    #[serde(with = "humantime_serde")]
    pub run_timeout: Duration,
    /// Longest silence of a busy process, while no tool runs, before it counts
    /// as stalled. Default 5 min: the CLI's own watchdog was seen at 6 min, and
    /// mid-stream never. Range: 1 s to 1 h.
    #[serde(with = "humantime_serde")]
    pub stall_timeout: Duration,
    /// From a cancel to the end of the process tree, at most. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub cancel_grace: Duration,
    /// How long a caller with a request_id may be away before the work it is
    /// attached to is cancelled. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub reattach_grace: Duration,
    /// The same after a start of the server. Default 60 s.
    #[serde(with = "humantime_serde")]
    pub restart_grace: Duration,
    /// How long a request_id is remembered. Default 24 h.
    #[serde(with = "humantime_serde")]
    pub request_ttl: Duration,
    /// How long a drain waits for work under way. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
    /// Attempts of a task that may fail for a reason that another may not meet
    /// (the provider is overloaded, the connection breaks). Range: 1 to 100.
    /// Default 3.
    pub attempts_max: u32,
    /// Wait before the provider is tried again that limits rate or usage and
    /// does not say until when; doubled each time, up to 15 min. Range: 1 s to
    /// 15 min. Default 60 s.
    #[serde(with = "humantime_serde")]
    pub limit_wait: Duration,
    /// Attempts that one process serves before it is replaced. Default 50: its
    /// memory was seen to grow slowly over resets.
    pub process_attempts_max: u32,
    /// Memory of a process tree above which it is replaced, in bytes. Default
    /// 450 MB: ready processes were seen at 165 to 304 MB.
    pub process_memory_max: u64,
    /// First wait after a process that did not start; doubled each time, up to
    /// 30 s. Default 250 ms.
    #[serde(with = "humantime_serde")]
    pub launch_backoff: Duration,
    /// Failed starts in a row after which the supervisor gives a slot up, until
    /// it is restarted by hand. Range: 0 to 1,000. Default 10.
    pub max_restarts: u32,
    /// Longest life of an idle process that has served. Default 30 min.
    #[serde(with = "humantime_serde")]
    pub process_idle_max: Duration,
    /// How long processes live without a word from this server: one that is
    /// stopped or hangs for longer finds its work interrupted, and the tasks meet
    /// their recovery policy. Needed where another server may take over the work
    /// of one that stands still. Range: 1 s to 1 h. Default: no limit, since a
    /// store on this machine has one server at a time.
    #[serde(with = "humantime_serde")]
    pub process_lease: Option<Duration>,
    /// This server's name among those on one store, in events and status. It
    /// should stay the same when the server is started again: sessions and
    /// workspaces are found by it. At most 128 letters, digits, ".", "_" and
    /// "-". Default: on a shared store the host's name and the port, else
    /// `node-` and the process id.
    pub node_id: String,
    /// Of many servers on one store: how long one that is not heard of keeps its
    /// tasks. Its own processes end a fifth earlier, and then the others take its
    /// work up. Shorter finds a dead server sooner, and asks more of the
    /// database. Range: 1 s to 5 min. Default 15 s. Without effect on a store of
    /// one server.
    #[serde(with = "humantime_serde")]
    pub node_lease: Duration,
    /// What tasks may ask for with node_label, for instance "gpu". At most 64 of
    /// 1 to 128 bytes. Default: none.
    pub node_labels: BTreeSet<String>,
    /// Whether the sessions of all tasks are saved. Default false: only those
    /// of tasks that continue or resume a conversation, or whose recovery is
    /// RESUME; saving was seen to cost a sixth of the throughput of tiny tasks.
    pub save_sessions: bool,
    /// Whether a process that was reset may serve another caller than before: a
    /// reset is confirmed, and still no wall. Default false.
    pub share_processes: bool,
    /// How long a saved session is kept after the last task that used it.
    /// Default 24 h. Range: 1 s or more.
    #[serde(with = "humantime_serde")]
    pub session_retention: Duration,
    /// Most tasks in the queue. Default 100,000.
    pub queue_max: u64,
    /// Most streams at a time, of whatever kind. Default 10,000.
    pub watchers_max: usize,
    /// Longest log of a task, in bytes. What an attempt says beyond is not kept,
    /// and the log tells so; the result is, and what changes the task's state.
    /// Range: 4 KiB or more. Default 64 MiB: hours of a talkative agent.
    pub log_bytes_max: u64,
    /// Folders with skills and workflows, read at the start; of two of one name
    /// the one in the earlier folder holds. Default: none.
    pub catalog_dirs: Vec<PathBuf>,
    /// Settings under every task's own.
    pub settings: DefaultSettings,
    /// The ceiling for every request.
    pub policy: Policy,
    /// How long ended work is kept.
    pub retention: Retention,
}

/// How long ended tasks and chains are kept, with all that belongs to them, by
/// how they ended. A chain's steps are kept with it, a member of a fan-out at
/// least until all have ended. What was spent stays spent, and the refs of
/// isolated work stay where they are. Each: 1 s or more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// Default 7 days.
    #[serde(with = "humantime_serde")]
    pub succeeded: Duration,
    /// Default 30 days: somebody may want to know why.
    #[serde(with = "humantime_serde")]
    pub failed: Duration,
    /// Default 7 days.
    #[serde(with = "humantime_serde")]
    pub cancelled: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        Self {
            succeeded: 7 * DAY,
            failed: 30 * DAY,
            cancelled: 7 * DAY,
        }
    }
}

impl Retention {
    /// What is old now: each state with the moment before which its tasks must
    /// have ended.
    pub(super) fn ended_before(&self, now: Timestamp) -> [(State, Timestamp); 3] {
        [
            (State::Succeeded, now.before(self.succeeded)),
            (State::Failed, now.before(self.failed)),
            (State::Cancelled, now.before(self.cancelled)),
        ]
    }

    /// The shortest of all.
    pub(super) fn shortest(&self) -> Duration {
        self.succeeded.min(self.failed).min(self.cancelled)
    }
}

/// Settings under every task's own. Unset: the agent's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DefaultSettings {
    /// Model name or alias.
    pub model: Option<String>,
    /// Model to use while the first is overloaded.
    pub fallback_model: Option<String>,
    /// Permission mode. Default `dont_ask`.
    pub permission_mode: Option<Mode>,
    /// Appended to the system prompt.
    pub append_system_prompt: Option<String>,
    /// Permission rules that allow tools.
    pub allowed_tools: Vec<String>,
    /// Permission rules that forbid tools.
    pub disallowed_tools: Vec<String>,
}

/// A permission mode by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Whatever would need a question is denied.
    DontAsk,
    /// Reads and plans.
    Plan,
    /// As the CLI's default; questions are denied.
    Default,
    /// File edits are accepted.
    AcceptEdits,
    /// The CLI decides.
    Auto,
    /// Everything is accepted.
    BypassPermissions,
}

impl Mode {
    /// On the wire.
    pub fn to_proto(self) -> pb::PermissionMode {
        match self {
            Mode::DontAsk => pb::PermissionMode::DontAsk,
            Mode::Plan => pb::PermissionMode::Plan,
            Mode::Default => pb::PermissionMode::Default,
            Mode::AcceptEdits => pb::PermissionMode::AcceptEdits,
            Mode::Auto => pb::PermissionMode::Auto,
            Mode::BypassPermissions => pb::PermissionMode::BypassPermissions,
        }
    }
}

/// The operator's ceiling for every request: closed unless opened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Directories that tasks may work in, with everything below. Symlinks are
    /// resolved. Default: `working_dir` alone.
    pub roots: Vec<PathBuf>,
    /// Permission modes that may be asked for. Default: `dont_ask`, `plan`,
    /// `default`.
    pub permission_modes: Vec<Mode>,
    /// The most that one task may ask for, in US dollars. Default 10.
    pub task_budget_max_usd: f64,
    /// Longest prompt, in bytes. Default 4 MiB; at most 15 MiB.
    pub prompt_bytes_max: usize,
    /// Longest run_timeout that may be asked for. Default 24 h.
    #[serde(with = "humantime_serde")]
    pub run_timeout_max: Duration,
    /// Models that may be asked for, by the names or aliases that callers use.
    /// Unset: any. Default: unset.
    pub models: Option<Vec<String>>,
    /// Permission rules that callers may allow tools by: exactly these, and of a
    /// tool's bare name (`Read`) every rule of that tool (`Read(src/**)`). Unset:
    /// any. Default: unset.
    pub tools: Option<Vec<String>>,
    /// Most tasks of one caller in the queue. Default: no limit but `queue_max`.
    pub caller_queue_max: Option<u64>,
    /// Whether `slash_commands` may be asked for. Default false.
    pub slash_commands: bool,
    /// Whether `attachments` may be asked for. Default false.
    pub attachments: bool,
    /// Whether MCP servers may be named: each is a command line. Default false.
    pub mcp_servers: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            slots: 2,
            min_slots: 1,
            max_slots: 16,
            spares: 1,
            working_dir: PathBuf::from("."),
            workspace_dir: None,
            budget_usd: None,
            default_task_budget_usd: 5.0,
            run_timeout: Duration::from_secs(3600),
            stall_timeout: Duration::from_secs(300),
            cancel_grace: Duration::from_secs(5),
            reattach_grace: Duration::from_secs(5),
            restart_grace: Duration::from_secs(60),
            request_ttl: Duration::from_secs(24 * 3600),
            drain_timeout: Duration::from_secs(30),
            attempts_max: 3,
            limit_wait: Duration::from_secs(60),
            process_attempts_max: 50,
            process_memory_max: 450_000_000,
            launch_backoff: Duration::from_millis(250),
            max_restarts: 10,
            process_idle_max: Duration::from_secs(30 * 60),
            process_lease: None,
            node_id: String::new(),
            node_lease: Duration::from_secs(15),
            node_labels: BTreeSet::new(),
            save_sessions: false,
            share_processes: false,
            session_retention: Duration::from_secs(24 * 3600),
            queue_max: 100_000,
            watchers_max: 10_000,
            log_bytes_max: 64 * 1024 * 1024,
            catalog_dirs: Vec::new(),
            settings: DefaultSettings::default(),
            policy: Policy::default(),
            retention: Retention::default(),
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            roots: Vec::new(),
            permission_modes: vec![Mode::DontAsk, Mode::Plan, Mode::Default],
            task_budget_max_usd: 10.0,
            prompt_bytes_max: 4 * 1024 * 1024,
            run_timeout_max: Duration::from_secs(24 * 3600),
            models: None,
            tools: None,
            caller_queue_max: None,
            slash_commands: false,
            attachments: false,
            mcp_servers: false,
        }
    }
}

impl Options {
    /// The pool's budget.
    pub fn budget(&self) -> Option<Microdollars> {
        self.budget_usd.map(Microdollars::from_dollars)
    }

    /// The budget of a task that names none.
    pub fn default_task_budget(&self) -> Microdollars {
        Microdollars::from_dollars(self.default_task_budget_usd)
    }
}
