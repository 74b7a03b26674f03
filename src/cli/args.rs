//! The client commands' arguments, and what they say on the wire.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};

use super::failure::Failure;
use crate::pb;

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
    /// Run many prompts; one line for each as it ends.
    FanOut(FanOutArgs),
    /// List tasks, newest first.
    Tasks(TasksArgs),
    /// Show the pool.
    Status(StatusArgs),
    /// List the slots.
    Slots(RemoteArgs),
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
            Self::FanOut(args) => &args.remote,
            Self::Tasks(args) => &args.remote,
            Self::Status(args) => &args.remote,
            Self::Slots(args) => &args.remote,
            Self::Context(args) => &args.remote,
            Self::Drain(args) => &args.remote,
        }
    }
}

/// Which server, and how it is shown.
#[derive(Args, Clone)]
pub(super) struct Remote {
    /// The server: http://HOST:PORT or unix:/path.
    #[arg(
        long,
        value_name = "ADDR",
        env = "CLAUDEPOOL_SERVER",
        default_value = "http://127.0.0.1:50051",
        global = true
    )]
    pub(super) server: String,
    /// Print JSON, one object per line.
    #[arg(long, global = true)]
    pub(super) json: bool,
}

#[derive(Args)]
pub(super) struct RemoteArgs {
    #[command(flatten)]
    pub(super) remote: Remote,
}

/// How a task is to be done.
#[derive(Args)]
pub(super) struct WorkArgs {
    /// Working directory, on the server's machine [default: the server's].
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Model name or alias.
    #[arg(long)]
    model: Option<String>,
    /// The most the task may cost, in US dollars.
    #[arg(long, value_name = "X")]
    budget_usd: Option<f64>,
    /// Permission rule that allows a tool, for instance Read or 'Bash(git log:*)'.
    #[arg(long, value_name = "TOOL")]
    allow: Vec<String>,
    /// Permission mode: dont_ask, plan, default, accept_edits, auto,
    /// bypass_permissions.
    #[arg(long, value_name = "MODE")]
    permission_mode: Option<String>,
    /// Label to find the task by.
    #[arg(long)]
    tag: Vec<String>,
    /// UUID that makes the call safe to repeat.
    #[arg(long, value_name = "UUID")]
    pub(super) request_id: Option<String>,
}

impl WorkArgs {
    /// The spec of one prompt.
    pub(super) fn spec(&self, prompt: String) -> Result<pb::TaskSpec, Failure> {
        let permission_mode = match &self.permission_mode {
            None => pb::PermissionMode::Unspecified,
            Some(mode) => {
                let name = mode.to_uppercase().replace('-', "_");
                pb::PermissionMode::from_str_name(&format!("PERMISSION_MODE_{name}"))
                    .ok_or_else(|| Failure::usage(format!("--permission-mode {mode}: unknown")))?
            }
        };
        let budget = match self.budget_usd {
            // The server says what a negative one is.
            Some(x) if x.is_finite() => Some((x * 1e6).round() as i64),
            Some(_) => return Err(Failure::usage("--budget-usd must be a number")),
            None => None,
        };
        let settings = pb::RunSettings {
            model: self.model.clone(),
            permission_mode: permission_mode.into(),
            allowed_tools: self.allow.clone(),
            budget_microdollars: budget,
            ..pb::RunSettings::default()
        };
        let dir = match &self.dir {
            Some(dir) => absolute(dir)?,
            None => String::new(),
        };
        Ok(pb::TaskSpec {
            input: Some(pb::task_spec::Input::Prompt(prompt)),
            settings: Some(settings),
            working_dir: dir,
            tags: self.tag.clone(),
            ..pb::TaskSpec::default()
        })
    }

    /// The given request id, else a new one: a connection that breaks is then
    /// taken up again, and nothing runs twice.
    pub(super) fn request(&self) -> String {
        self.request_id
            .clone()
            .unwrap_or_else(|| uuid::Uuid::new_v4().to_string())
    }
}

fn absolute(dir: &Path) -> Result<String, Failure> {
    let path = std::path::absolute(dir).map_err(|e| Failure::usage(format!("--dir: {e}")))?;
    path.into_os_string()
        .into_string()
        .map_err(|path| Failure::usage(format!("--dir {} is not UTF-8", path.display())))
}

/// Where a prompt comes from.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub(super) struct PromptArgs {
    /// The prompt; - reads it from stdin.
    prompt: Option<String>,
    /// File that holds the prompt.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl PromptArgs {
    /// The prompt's text.
    pub(super) fn read(&self) -> Result<String, Failure> {
        match (&self.prompt, &self.file) {
            (Some(prompt), _) if prompt != "-" => Ok(prompt.clone()),
            (_, Some(file)) => read_file(file),
            _ => read_stdin(),
        }
    }
}

fn read_file(file: &Path) -> Result<String, Failure> {
    if file == Path::new("-") {
        return read_stdin();
    }
    std::fs::read_to_string(file)
        .map_err(|error| Failure::usage(format!("{}: {error}", file.display())))
}

fn read_stdin() -> Result<String, Failure> {
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| Failure::usage(format!("stdin: {error}")))?;
    Ok(text)
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
pub(super) struct StatusArgs {
    /// Go on, a snapshot per change.
    #[arg(long)]
    pub(super) watch: bool,
    /// Print the configuration in force instead.
    #[arg(long, conflicts_with = "watch")]
    pub(super) config: bool,
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

/// A value, or what stdin holds if it is `-`.
pub(super) fn value_or_stdin(value: String) -> Result<String, Failure> {
    if value == "-" {
        read_stdin()
    } else {
        Ok(value)
    }
}

#[derive(Args)]
pub(super) struct DrainArgs {
    /// Longest wait for work under way [default: the server's].
    #[arg(long, value_parser = duration)]
    pub(super) deadline: Option<Duration>,
    #[command(flatten)]
    pub(super) remote: Remote,
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
