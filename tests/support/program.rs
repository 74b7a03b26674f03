//! `claudepool serve` as a process of its own, for what only its death shows.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::agents::{Kind, LOADED, Surroundings, this_program};
use super::{Caller, PATIENCE, connect};

/// A place for servers that follow each other on one store.
pub struct Program {
    kind: Kind,
    around: Surroundings,
    dir: tempfile::TempDir,
    /// The URL of its store, if it is not the file.
    url: Option<String>,
}

/// A server that runs. It is killed when dropped.
pub struct Serving {
    pub caller: Caller,
    pub addr: SocketAddr,
    /// Its status port.
    pub status: SocketAddr,
    child: Child,
}

impl Program {
    /// One slot without spares in an empty directory, over the target's kind of
    /// agent, or its next of kin that has processes. Tools of the shell may run.
    pub async fn new() -> Self {
        Self::configured(1, "").await
    }

    /// The same with this many slots.
    pub async fn with_slots(slots: u32) -> Self {
        Self::configured(slots, "").await
    }

    /// The same with more lines in the configuration of the pool.
    pub async fn with(pool: &str) -> Self {
        Self::configured(1, pool).await
    }

    /// The same with this many slots and more lines, which may begin tables.
    pub async fn with_slots_and(slots: u32, lines: &str) -> Self {
        Self::configured(slots, lines).await
    }

    async fn configured(slots: u32, pool: &str) -> Self {
        let kind = crate::agent().with_processes();
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("work")).unwrap();
        let patience = format!("{}s", LOADED.as_secs());
        let config = format!(
            "[pool]\nslots = {slots}\nspares = 0\n{pool}\n[pool.settings]\nallowed_tools = ['Bash']\n\
             [agent]\nreset_timeout = '{patience}'\ncontrol_timeout = '{patience}'\n\
             [status]\nlisten = '127.0.0.1:0'\n"
        );
        std::fs::write(dir.path().join("config.toml"), config).unwrap();
        let around = kind.surroundings().await;
        Self {
            kind,
            around,
            dir,
            url: None,
        }
    }

    /// The same over this store.
    pub fn on(mut self, url: String) -> Self {
        self.url = Some(url);
        self
    }

    /// Where everything of it lies.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The file of its store.
    pub fn store(&self) -> PathBuf {
        self.dir.path().join("store.db")
    }

    /// Where its tasks work.
    pub fn working_dir(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    /// What the last server said on stderr.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("stderr")).unwrap()
    }

    /// Starts a server and waits until it serves.
    pub async fn serve(&self) -> Serving {
        self.serve_with(&[]).await
    }

    /// The same with these variables.
    pub async fn serve_with(&self, env: &[(&str, &str)]) -> Serving {
        self.start(([127, 0, 0, 1], 0).into(), env).await
    }

    /// The same at this address.
    pub async fn serve_at(&self, addr: SocketAddr) -> Serving {
        self.start(addr, &[]).await
    }

    async fn start(&self, addr: SocketAddr, env: &[(&str, &str)]) -> Serving {
        let path = |name: &str| self.dir.path().join(name);
        let told = std::fs::File::create(path("stderr")).unwrap();
        let mut child = Command::new(this_program())
            .env_clear()
            .envs(&self.around.env)
            .env("CLAUDEPOOL_LOG", "error")
            .envs(env.iter().copied())
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.dir.path())
            .args(["serve", "--listen"])
            .arg(addr.to_string())
            .arg("--config")
            .arg(path("config.toml"))
            .arg("--store")
            .arg(
                self.url
                    .clone()
                    .unwrap_or_else(|| format!("sqlite:{}", self.store().display())),
            )
            .arg("--claude-bin")
            .arg(self.kind.program().expect("it has processes"))
            .arg("--working-dir")
            .arg(self.working_dir())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(told)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut ready = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut address = async || {
            let line = tokio::time::timeout(PATIENCE, ready.next_line()).await;
            let line = line.expect("it serves in time").unwrap();
            let line = line.unwrap_or_else(|| panic!("it does not serve: {}", self.log()));
            let addr = line.rsplit('/').next().and_then(|addr| addr.parse().ok());
            addr.unwrap_or_else(|| panic!("no address: {line}"))
        };
        let (addr, status) = (address().await, address().await);
        Serving {
            caller: Caller::over(connect(addr).await, self.kind.grammar()),
            addr,
            status,
            child,
        }
    }
}

impl Serving {
    /// The process of the server.
    pub fn pid(&self) -> Pid {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        pid.and_then(Pid::from_raw).expect("it lives")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Waits until it has ended; how.
    pub async fn ended(mut self) -> std::process::ExitStatus {
        self.has_ended().await
    }

    /// The same of one that is held elsewhere.
    pub async fn has_ended(&mut self) -> std::process::ExitStatus {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended.expect("it ends in time").unwrap()
    }

    /// Kills it as nothing can be prepared for. Of what it had started nothing
    /// is waited for.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}
