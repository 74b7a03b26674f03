//! The client commands' arguments, and what they say on the wire.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::failure::Failure;
use crate::pb;

pub(super) mod chain;
pub(super) mod operate;
pub(super) mod work;

use chain::{ChainArgs, SkillArgs, WorkflowArgs};
use operate::{BudgetArgs, DrainArgs, PauseArgs, ScaleArgs, SlotsArgs, StatusArgs};
use work::{PromptArgs, WorkArgs, read_file};

/// Commands that talk to a server.
#[derive(Subcommand)]
pub(super) enum ClientCommand {
    /// Run a prompt and show the answer as it is written.
    Run(RunArgs),
    /// Queue a prompt and print the task's id.
    Submit(SubmitArgs),
    /// Show a task's log from its beginning, then live.
    Watch(WatchArgs),
    /// Print a finished task's answer.
    Result(ResultArgs),
    /// Cancel a task or a group.
    Cancel(CancelArgs),
    /// Run a finished task anew and print the new task's id.
    Retry(RetryArgs),
    /// Run many prompts; one line for each as it ends.
    FanOut(FanOutArgs),
    /// Run steps that feed each other, and show how they go on.
    Chain(ChainArgs),
    /// List, run and store workflows: chains that have a name.
    Workflow(WorkflowArgs),
    /// List, run and store skills: prompts that have a name.
    Skill(SkillArgs),
    /// List tasks, newest first.
    Tasks(TasksArgs),
    /// Show the pool.
    Status(StatusArgs),
    /// List the slots.
    Slots(SlotsArgs),
    /// Change the number of slots.
    Scale(ScaleArgs),
    /// Show or set what may be spent.
    Budget(BudgetArgs),
    /// Start no tasks for a while; what is submitted is refused.
    Pause(PauseArgs),
    /// Start tasks again.
    Resume(RemoteArgs),
    /// Read and change what is added to every system prompt.
    Context(ContextArgs),
    /// Let the server finish its work and take no more.
    Drain(DrainArgs),
}

impl ClientCommand {
    /// The server meant.
    pub(super) fn remote(&self) -> &Remote {
        match self {
            Self::Run(args) => &args.remote,
            Self::Submit(args) => &args.remote,
            Self::Watch(args) => &args.remote,
            Self::Result(args) => &args.remote,
            Self::Cancel(args) => &args.remote,
            Self::Retry(args) => &args.remote,
            Self::FanOut(args) => &args.remote,
            Self::Chain(args) => &args.remote,
            Self::Workflow(args) => &args.remote,
            Self::Skill(args) => &args.remote,
            Self::Tasks(args) => &args.remote,
            Self::Status(args) => &args.remote,
            Self::Slots(args) => &args.remote,
            Self::Scale(args) => &args.remote,
            Self::Budget(args) => &args.remote,
            Self::Pause(args) => &args.remote,
            Self::Resume(args) => &args.remote,
            Self::Context(args) => &args.remote,
            Self::Drain(args) => &args.remote,
        }
    }
}

/// Which server, and how it is shown.
#[derive(Args, Clone, Default)]
pub(super) struct Remote {
    /// The server: http://HOST:PORT, https://HOST:PORT or unix:/path.
    #[arg(
        long,
        value_name = "ADDR",
        env = "CLAUDEPOOL_SERVER",
        default_value = "http://127.0.0.1:50051",
        global = true
    )]
    pub(super) server: String,
    /// File with the token that is sent along; never over a plain connection
    /// that leaves this machine.
    #[arg(
        long,
        value_name = "FILE",
        env = "CLAUDEPOOL_TOKEN_FILE",
        global = true
    )]
    pub(super) token_file: Option<PathBuf>,
    /// PEM file with the authority to trust [default: the system's].
    #[cfg(feature = "tls")]
    #[arg(long, value_name = "FILE", env = "CLAUDEPOOL_CA_CERT", global = true)]
    pub(super) ca_cert: Option<PathBuf>,
    /// PEM file with the certificate to show to the server.
    #[cfg(feature = "tls")]
    #[arg(
        long,
        value_name = "FILE",
        env = "CLAUDEPOOL_CLIENT_CERT",
        global = true,
        requires = "client_key"
    )]
    pub(super) client_cert: Option<PathBuf>,
    /// PEM file with that certificate's key.
    #[cfg(feature = "tls")]
    #[arg(
        long,
        value_name = "FILE",
        env = "CLAUDEPOOL_CLIENT_KEY",
        global = true,
        requires = "client_cert"
    )]
    pub(super) client_key: Option<PathBuf>,
    /// Print JSON, one object per line.
    #[arg(long, global = true)]
    pub(super) json: bool,
}

#[derive(Args)]
pub(super) struct RemoteArgs {
    #[command(flatten)]
    pub(super) remote: Remote,
}

#[derive(Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pub(super) prompt: PromptArgs,
    #[command(flatten)]
    pub(super) work: WorkArgs,
    /// Let the task go on when this command ends.
    #[arg(long)]
    pub(super) detach: bool,
    #[command(flatten)]
    pub(super) remote: Remote,
}

#[derive(Args)]
pub(super) struct SubmitArgs {
    #[command(flatten)]
    pub(super) prompt: PromptArgs,
    #[command(flatten)]
    pub(super) work: WorkArgs,
    #[command(flatten)]
    pub(super) remote: Remote,
}

#[derive(Args)]
pub(super) struct WatchArgs {
    /// The task's id.
    pub(super) task_id: String,
    /// Only what comes after this sequence.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) after: u64,
    #[command(flatten)]
    pub(super) remote: Remote,
}

#[derive(Args)]
pub(super) struct ResultArgs {
    /// The task's id.
    pub(super) task_id: String,
    /// Wait this long for the end, for instance 30s or 5m.
    #[arg(long, value_parser = duration)]
    pub(super) wait: Option<Duration>,
    #[command(flatten)]
    pub(super) remote: Remote,
}

#[derive(Args)]
pub(super) struct CancelArgs {
    /// The task's id.
    #[arg(required_unless_present = "group", conflicts_with = "group")]
    pub(super) task_id: Option<String>,
    /// A fan-out's group, of which every unfinished task is cancelled.
    #[arg(long, value_name = "ID")]
    pub(super) group: Option<String>,
    #[command(flatten)]
    pub(super) remote: Remote,
}

#[derive(Args)]
pub(super) struct RetryArgs {
    /// The finished task's id.
    pub(super) task_id: String,
    /// UUID that makes the call safe to repeat.
    #[arg(long, value_name = "UUID", default_value_t = uuid::Uuid::new_v4().to_string(), hide_default_value = true)]
    pub(super) request_id: String,
    #[command(flatten)]
    pub(super) remote: Remote,
}

#[derive(Args)]
pub(super) struct FanOutArgs {
    /// The prompts.
    #[arg(required_unless_present = "file")]
    prompts: Vec<String>,
    /// File with one prompt per line; - is stdin.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    pub(super) work: WorkArgs,
    /// Let the tasks go on when this command ends.
    #[arg(long)]
    pub(super) detach: bool,
    #[command(flatten)]
    pub(super) remote: Remote,
}

impl FanOutArgs {
    /// The tasks in order.
    pub(super) fn specs(&self) -> Result<Vec<pb::TaskSpec>, Failure> {
        let mut prompts = self.prompts.clone();
        if let Some(file) = &self.file {
            let text = read_file(file)?;
            let lines = text.lines().filter(|line| !line.trim().is_empty());
            prompts.extend(lines.map(str::to_owned));
        }
        prompts
            .into_iter()
            .map(|prompt| self.work.spec(prompt))
            .collect()
    }
}

#[derive(Args)]
pub(super) struct TasksArgs {
    /// Only in this state, for instance running; may be repeated.
    #[arg(long)]
    pub(super) state: Vec<String>,
    /// Only with any of these tags.
    #[arg(long)]
    pub(super) tag: Vec<String>,
    /// Only of this fan-out.
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    pub(super) group: String,
    /// Most tasks shown.
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(super) limit: usize,
    #[command(flatten)]
    pub(super) remote: Remote,
}

#[derive(Args)]
pub(super) struct ContextArgs {
    #[command(subcommand)]
    pub(super) action: Option<ContextAction>,
    #[command(flatten)]
    pub(super) remote: Remote,
}

/// What is done with the shared context; nothing: it is listed.
#[derive(Subcommand)]
pub(super) enum ContextAction {
    /// Set a key.
    Set {
        /// The key.
        key: String,
        /// The value; - reads it from stdin.
        value: String,
    },
    /// Print a key's value.
    Get {
        /// The key.
        key: String,
    },
    /// Delete a key.
    Delete {
        /// The key.
        key: String,
    },
    /// Print every key with its value.
    List,
}

/// `30s`, `5m`, `1h`, `250ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("say for instance 250ms, 30s, 5m or 1h".to_owned()),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(milliseconds))
        .map(Duration::from_millis)
        .ok_or_else(|| "too long".to_owned())
}
