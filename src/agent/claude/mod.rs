//! The Claude Code CLI.
//!
//! Each process runs under a launch shim ([`shim`]) that owns its tree. One
//! [`session`] drives it over its pipes: lines are parsed by [`protocol`], their
//! meaning is kept by [`turn`], both without any input or output of their own.
//! Nothing here knows tasks, stores or gRPC, and nothing here decides what a
//! failure means.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use self::argv::Invocation;
use self::home::Homes;
use self::lease::Lifelines;
use self::process::Process;
use self::session::ClaudeSession;
use crate::agent::{Agent, AgentError, Launch, Probe, Session};
use crate::money::Microdollars;

mod argv;
mod home;
mod lease;
pub mod lines;
mod probe;
mod process;
pub mod protocol;
mod session;
pub mod shim;
mod stderr;
mod tree;
mod turn;

/// This very program, even after its file was replaced by an upgrade.
const SELF: &str = "/proc/self/exe";

/// Environment variables taken over from the server unless said otherwise.
pub const ENV_ALLOW: [&str; 14] = [
    "PATH",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "ANTHROPIC_BASE_URL",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "NODE_EXTRA_CA_CERTS",
];

/// How the CLI is run.
#[derive(Clone)]
pub struct ClaudeOptions {
    /// The CLI's native program (not its Node wrapper). A name without a slash
    /// is looked up in `PATH`. Default: `claude`.
    pub program: PathBuf,
    /// The launch shim and its first arguments. Default: this program itself
    /// with `__slot`, which works where [`shim::intercept`] is called first in
    /// `main`.
    pub shim: Vec<OsString>,
    /// Where configuration directories, saved sessions and the records of
    /// running processes are kept. One server at a time.
    pub state_dir: PathBuf,
    /// Names of environment variables that processes get from the server's own
    /// environment; all others are withheld. Default: [`ENV_ALLOW`].
    pub env_allow: Vec<String>,
    /// Environment variables set for every process; they win over inherited ones.
    /// Default: none.
    pub env: BTreeMap<String, String>,
    /// Whether the operator's login (`~/.claude/.credentials.json`) is lent to
    /// the processes when no key is in their environment. Default: true.
    pub lend_credentials: bool,
    /// Longest time from the start of a process to its first answer.
    /// Default 30 s: a start takes 0.3 s alone and several times that on a busy
    /// machine. Range: 1 s to 10 min.
    pub start_timeout: Duration,
    /// Longest time a reset may take before the process counts as unclean.
    /// Default 2 s; seen: 13 ms. Range: 100 ms to 1 min.
    pub reset_timeout: Duration,
    /// Longest time any other request to a process may take. Default 10 s; seen:
    /// up to 80 ms. Range: 100 ms to 10 min.
    pub control_timeout: Duration,
    /// Longest silence of the provider within a response before the CLI gives
    /// that response up and tries again. Default 2 min. Range: 10 s (the CLI's
    /// floor) to 1 h.
    pub stream_idle_timeout: Duration,
    /// Longest line a process may write, in bytes; a longer one is skipped and
    /// ends the process. Default 32 MiB. Range: 1 MiB to 1 GiB.
    pub line_bytes_max: usize,
    /// How often the CLI itself retries a failed API request. `None`: its own
    /// default, 10, which is about three minutes. Range: 0 to 100.
    pub api_retries_max: Option<u32>,
    /// What a conversation may cost before the CLI itself stops it: a backstop
    /// behind the budgets that the pool holds. `None`: no such limit.
    pub budget_backstop: Option<Microdollars>,
}

impl ClaudeOptions {
    /// The defaults over `state_dir`.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            program: "claude".into(),
            shim: vec![SELF.into(), shim::COMMAND.into()],
            state_dir: state_dir.into(),
            env_allow: ENV_ALLOW.map(String::from).to_vec(),
            env: BTreeMap::new(),
            lend_credentials: true,
            start_timeout: Duration::from_secs(30),
            reset_timeout: Duration::from_secs(2),
            control_timeout: Duration::from_secs(10),
            stream_idle_timeout: Duration::from_secs(120),
            line_bytes_max: 32 << 20,
            api_retries_max: None,
            budget_backstop: None,
        }
    }

    /// The operator's login, if processes are to use it.
    fn credentials(&self) -> Option<PathBuf> {
        const KEYS: [&str; 3] = [
            "ANTHROPIC_API_KEY",
            "ANTHROPIC_AUTH_TOKEN",
            "CLAUDE_CODE_OAUTH_TOKEN",
        ];
        let given = |key: &&'static str| {
            let inherited = self.env_allow.iter().any(|name| name == key);
            self.env.contains_key(*key) || (inherited && std::env::var_os(key).is_some())
        };
        if !self.lend_credentials || KEYS.iter().any(given) {
            return None;
        }
        let dir = std::env::var_os("CLAUDE_CONFIG_DIR")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".claude")))?;
        Some(dir.join(".credentials.json")).filter(|file| file.is_file())
    }
}

impl fmt::Debug for ClaudeOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values of variables may be keys.
        let env: BTreeMap<_, _> = self.env.keys().map(|name| (name, "***")).collect();
        f.debug_struct("ClaudeOptions")
            .field("program", &self.program)
            .field("shim", &self.shim)
            .field("state_dir", &self.state_dir)
            .field("env_allow", &self.env_allow)
            .field("env", &env)
            .field("lend_credentials", &self.lend_credentials)
            .field("start_timeout", &self.start_timeout)
            .field("reset_timeout", &self.reset_timeout)
            .field("control_timeout", &self.control_timeout)
            .field("stream_idle_timeout", &self.stream_idle_timeout)
            .field("line_bytes_max", &self.line_bytes_max)
            .field("api_retries_max", &self.api_retries_max)
            .field("budget_backstop", &self.budget_backstop)
            .finish()
    }
}

/// The Claude Code CLI as an [`Agent`].
pub struct Claude {
    options: Arc<ClaudeOptions>,
    homes: Arc<Homes>,
    lifelines: Arc<Lifelines>,
}

impl Claude {
    /// Takes the state directory. The calling process becomes a subreaper, so
    /// that processes whose shim was killed come to it; from then on a child of
    /// its own must not be in another session, or it is taken for one of them.
    ///
    /// `Unusable` if another server uses the directory or it cannot be written.
    pub fn open(mut options: ClaudeOptions) -> Result<Self, AgentError> {
        let dir = options.state_dir.display().to_string();
        let homes = Homes::open(&options.state_dir, options.credentials()).map_err(|error| {
            AgentError::Unusable(match error.kind() {
                std::io::ErrorKind::WouldBlock => {
                    format!("another server uses {dir}: stop it or choose another state directory")
                }
                _ => format!("the state directory {dir} cannot be used: {error}"),
            })
        })?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(|error| {
            AgentError::Unusable(format!("this system has no subreapers: {error}"))
        })?;
        options.program = probe::locate(&options.program)?;
        options.state_dir = homes.state_dir().to_owned();
        Ok(Self {
            options: Arc::new(options),
            homes,
            lifelines: Arc::default(),
        })
    }

    /// Starts a process; see [`Agent::launch`].
    async fn start(&self, launch: Launch) -> Result<ClaudeSession, AgentError> {
        let options = self.options.clone();
        let (homes, lifelines) = (self.homes.clone(), self.lifelines.clone());
        if launch.resume.is_some() && launch.placement.is_none() {
            return Err(AgentError::Launch("a resume needs a placement".into()));
        }
        let initialize = argv::initialize(&launch)?;
        let spawned = launch.clone();
        let process =
            tokio::task::spawn_blocking(move || spawn(&options, &homes, &lifelines, &spawned))
                .await
                .map_err(|error| AgentError::Launch(error.to_string()))??;
        ClaudeSession::start(process, self.options.clone(), launch, initialize).await
    }
}

/// What the lines of a process come to if they are those of a turn: for tests.
#[cfg(any(test, feature = "testing"))]
pub fn observed(
    lines: impl IntoIterator<Item = protocol::Line>,
) -> std::collections::VecDeque<crate::agent::Observation> {
    let mut conversation = turn::Conversation::default();
    let mut told = std::collections::VecDeque::new();
    conversation.begin("message");
    for line in lines {
        conversation.line(line, &mut told);
    }
    told
}

/// Prepares the directory and starts the process in it. Blocks.
fn spawn(
    options: &ClaudeOptions,
    homes: &Arc<Homes>,
    lifelines: &Lifelines,
    launch: &Launch,
) -> Result<Process, AgentError> {
    let failed = |error: std::io::Error| AgentError::Launch(error.to_string());
    if let Some(placement) = &launch.placement {
        argv::check_working_dir(placement)?;
    }
    if let Some(session) = &launch.resume
        && !homes.has_session(session)
    {
        return Err(AgentError::NoSession);
    }
    let sessions = launch.profile.save_sessions || launch.resume.is_some();
    let home = homes.acquire(sessions).map_err(failed)?;
    let mcp_config = argv::mcp_config(&launch.profile)?
        .map(|definitions| home.private("mcp.json", &definitions).map_err(failed))
        .transpose()?;
    let invocation = Invocation {
        program: options.program.clone(),
        args: argv::arguments(launch, options, mcp_config.as_deref())?,
        env: argv::environment(
            &launch.profile,
            options,
            &home.dir(),
            home.marker(),
            |name| std::env::var_os(name),
        ),
        working_dir: match &launch.placement {
            Some(placement) => placement.working_dir.clone(),
            None => home.idle_dir(),
        },
    };
    Process::spawn(
        &options.shim,
        &invocation,
        home,
        lifelines,
        options.line_bytes_max,
        options.start_timeout,
    )
    .map_err(failed)
}

#[async_trait]
impl Agent for Claude {
    async fn probe(&self) -> Result<Probe, AgentError> {
        self.try_out().await
    }

    async fn settle(&self) -> Result<(), AgentError> {
        let homes = self.homes.clone();
        tokio::task::spawn_blocking(move || homes.settle())
            .await
            .map_err(std::io::Error::other)
            .and_then(|settled| settled)
            .map_err(|error| {
                AgentError::Unusable(format!("the state directory cannot be settled: {error}"))
            })
    }

    async fn launch(&self, launch: Launch) -> Result<Box<dyn Session>, AgentError> {
        Ok(Box::new(self.start(launch).await?))
    }

    fn lease(&self, span: Duration) {
        self.lifelines.renew(span);
    }

    async fn forget(&self, session_id: &str) {
        let (homes, id) = (self.homes.clone(), session_id.to_owned());
        // A panic was reported where it was.
        let _ = tokio::task::spawn_blocking(move || homes.forget_session(&id)).await;
    }
}
