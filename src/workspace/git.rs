//! Runs the git program: an argument list, never a shell; bounded in time and
//! in output; nothing of the server's environment but an allow-list.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::error::WorkspaceError;

/// Bytes kept of what a call prints; the rest is read and dropped.
const STDOUT_MAX: usize = 16 << 20;
const STDERR_MAX: usize = 16 << 10;

/// What git gets after SIGTERM to remove its locks, and what a background
/// process of a hook gets to let go of the pipes.
const GRACE: Duration = Duration::from_secs(1);

/// What a hook or a filter may need. Nothing that begins with `GIT_`: a
/// repository named there would be used instead of the one asked for.
const ENVIRONMENT: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "TMPDIR",
    "TZ",
    "XDG_CONFIG_HOME",
    "XDG_CACHE_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
    "SSH_AUTH_SOCK",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
];

/// Settings of every call: nothing that goes on in the background, nothing that
/// leaves the repository.
const SETTINGS: &[&str] = &[
    "core.fsmonitor=false",
    "core.fsync=committed,reference",
    "core.safecrlf=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "submodule.recurse=false",
    "protocol.file.allow=always",
    "advice.detachedHead=false",
    "advice.addEmbeddedRepo=false",
];

/// Where a call works.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// In a directory; git looks for the repository.
    In(PathBuf),
    /// In a repository, whatever its working tree.
    Repository(PathBuf),
    /// In a working tree whose repository is known. git must not look for it:
    /// where the agent removed `.git`, it would find one above.
    Tree {
        git_dir: PathBuf,
        dir: PathBuf,
        index: Option<PathBuf>,
    },
}

/// One call.
pub(super) struct Call<'a> {
    place: &'a Place,
    what: &'static str,
    args: Vec<OsString>,
    hooks: bool,
}

impl<'a> Call<'a> {
    /// `what` completes "git could not ...".
    pub fn new(place: &'a Place, what: &'static str) -> Self {
        Self {
            place,
            what,
            args: Vec::new(),
            hooks: true,
        }
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Runs no hook.
    pub fn without_hooks(mut self) -> Self {
        self.hooks = false;
        self
    }
}

/// What a call gave.
pub(super) struct Output {
    pub success: bool,
    /// Whether `stdout` is only the beginning.
    pub cut: bool,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Output {
    /// The text without the line's end.
    pub fn line(&self) -> &[u8] {
        self.stdout.strip_suffix(b"\n").unwrap_or(&self.stdout)
    }

    /// The same as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.line()).into_owned()
    }
}

/// The program, and how long the operation in hand may still take.
#[derive(Clone, Debug)]
pub(super) struct Git {
    pub program: PathBuf,
    pub deadline: Instant,
    pub lock_wait: Duration,
}

impl Git {
    /// Runs a call that has to succeed and of which all is read.
    pub async fn ok(&self, call: Call<'_>) -> Result<Output, WorkspaceError> {
        let what = call.what;
        let output = self.output(call).await?;
        if output.success && !output.cut {
            return Ok(output);
        }
        Err(WorkspaceError::Git {
            what,
            detail: if output.success {
                "it printed too much".to_owned()
            } else {
                output.stderr
            },
        })
    }

    /// Runs a call that may fail. Another program that is at the same thing is
    /// waited for: the call that met it has done nothing.
    pub async fn output(&self, call: Call<'_>) -> Result<Output, WorkspaceError> {
        let patience = (Instant::now() + self.lock_wait).min(self.deadline);
        let mut wait = Duration::from_millis(50);
        loop {
            let output = self.once(&call).await?;
            if output.success || !met_another(&output.stderr) {
                return Ok(output);
            }
            if Instant::now() + wait > patience {
                return Err(WorkspaceError::Locked { what: call.what });
            }
            sleep(wait).await;
            wait = (wait * 2).min(Duration::from_millis(500));
        }
    }

    async fn once(&self, call: &Call<'_>) -> Result<Output, WorkspaceError> {
        let what = call.what;
        let mut command = self.command(call);
        let mut child = command.spawn().map_err(|source| {
            // A missing directory gives the same code as a missing program.
            let there = directory(call.place).is_dir();
            match source.kind() {
                io::ErrorKind::NotFound if there => WorkspaceError::NoGit,
                _ => WorkspaceError::Io { what, source },
            }
        })?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let mut running = Running::new(child);
        let mut out = Vec::new();
        let mut err = Vec::new();
        let status = {
            let reading = async {
                tokio::join!(
                    fill(stdout, &mut out, STDOUT_MAX),
                    fill(stderr, &mut err, STDERR_MAX)
                );
            };
            tokio::pin!(reading);
            let mut read = false;
            let status = loop {
                tokio::select! {
                    status = running.wait() => break Some(status),
                    () = &mut reading, if !read => read = true,
                    () = sleep_until(self.deadline) => break None,
                }
            };
            if status.is_some() && !read && timeout(GRACE, &mut reading).await.is_err() {
                // Whoever holds them still is of this group.
                kill_group(running.group, Signal::KILL);
            }
            status
        };
        match status {
            Some(status) => {
                running.child = None;
                let status = status.map_err(WorkspaceError::io(what))?;
                Ok(Output {
                    success: status.success(),
                    cut: out.len() >= STDOUT_MAX,
                    stdout: out,
                    stderr: String::from_utf8_lossy(&err).into_owned(),
                })
            }
            None => {
                running.end().await;
                Err(WorkspaceError::TimedOut { what })
            }
        }
    }

    fn command(&self, call: &Call<'_>) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear();
        for name in ENVIRONMENT {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        // Empty, it also keeps the configured and SSH's own from asking.
        command.env("GIT_ASKPASS", "");
        command.env("GIT_TERMINAL_PROMPT", "0");
        command.env("GIT_EDITOR", ":");
        command.env("LC_ALL", "C");
        match call.place {
            Place::In(_) => {}
            Place::Repository(git_dir) => {
                command.env("GIT_DIR", git_dir);
            }
            Place::Tree {
                git_dir,
                dir,
                index,
            } => {
                command.env("GIT_DIR", git_dir).env("GIT_WORK_TREE", dir);
                if let Some(index) = index {
                    command.env("GIT_INDEX_FILE", index);
                }
            }
        }
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        if !call.hooks {
            command.args(["-c", "core.hooksPath=/dev/null"]);
        }
        command
            .args(&call.args)
            .current_dir(directory(call.place))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        command
    }
}

fn directory(place: &Place) -> &Path {
    match place {
        Place::In(dir) | Place::Repository(dir) | Place::Tree { dir, .. } => dir,
    }
}

/// Whether git met a lock, or a worktree that another git is just making: it
/// reads all worktrees for many things, and one without its files stops it.
fn met_another(stderr: &str) -> bool {
    stderr.contains(".lock': File exists")
        || stderr.contains("failed to read") && stderr.contains("/worktrees/")
}

/// Reads to the end, keeps the beginning.
async fn fill(pipe: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>, max: usize) {
    let Some(mut pipe) = pipe else { return };
    let mut chunk = [0; 8192];
    while let Ok(count @ 1..) = pipe.read(&mut chunk).await {
        let room = max.saturating_sub(kept.len()).min(count);
        kept.extend_from_slice(&chunk[..room]);
    }
}

/// A live git and all it started. Dropped, it ends the whole group.
struct Running {
    child: Option<Child>,
    group: u32,
}

impl Running {
    fn new(child: Child) -> Self {
        Self {
            group: child.id().unwrap_or(0),
            child: Some(child),
        }
    }

    async fn wait(&mut self) -> io::Result<ExitStatus> {
        match &mut self.child {
            Some(child) => child.wait().await,
            None => Err(io::Error::other("no process")),
        }
    }

    async fn end(&mut self) {
        if let Some(child) = self.child.take() {
            end(child).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(child) = self.child.take() else {
            return;
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                kill_group(self.group, Signal::TERM);
                drop(runtime.spawn(end(child)));
            }
            Err(_) => kill_group(self.group, Signal::KILL),
        }
    }
}

/// SIGTERM first: git then removes its locks from the user's repository.
async fn end(mut child: Child) {
    let Some(pid) = child.id() else { return };
    kill_group(pid, Signal::TERM);
    let _ = timeout(GRACE, child.wait()).await;
    kill_group(pid, Signal::KILL);
    let _ = child.wait().await;
}

fn kill_group(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(pid, signal);
    }
}
