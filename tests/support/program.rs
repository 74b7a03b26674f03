//! `claudepool serve` as a process of its own, for what only its death shows.

use std::path::PathBuf;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::agents::{Kind, LOADED, Surroundings, this_program};
use super::{Caller, PATIENCE, connect};

/// A place for servers that follow each other on one store.
pub struct Program {
    kind: Kind,
    around: Surroundings,
    dir: tempfile::TempDir,
}

/// A server that runs. It is killed when dropped.
pub struct Serving {
    pub caller: Caller,
    child: Child,
}

impl Program {
    /// One slot without spares in an empty directory, over the target's kind of
    /// agent, or its next of kin that has processes. Tools of the shell may run.
    pub async fn new() -> Self {
        let kind = crate::agent().with_processes();
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("work")).unwrap();
        let patience = format!("{}s", LOADED.as_secs());
        let config = format!(
            "[pool]\nslots = 1\nspares = 0\n[pool.settings]\nallowed_tools = ['Bash']\n\
             [agent]\nreset_timeout = '{patience}'\ncontrol_timeout = '{patience}'\n"
        );
        std::fs::write(dir.path().join("config.toml"), config).unwrap();
        let around = kind.surroundings().await;
        Self { kind, around, dir }
    }

    /// Where its tasks work.
    pub fn working_dir(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    /// Starts a server and waits until it serves.
    pub async fn serve(&self) -> Serving {
        let path = |name: &str| self.dir.path().join(name);
        let mut child = Command::new(this_program())
            .env_clear()
            .envs(&self.around.env)
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.dir.path())
            .args(["serve", "--log", "error", "--listen", "127.0.0.1:0"])
            .arg("--config")
            .arg(path("config.toml"))
            .arg("--store")
            .arg(format!("sqlite:{}", path("store.db").display()))
            .arg("--claude-bin")
            .arg(self.kind.program().expect("it has processes"))
            .arg("--working-dir")
            .arg(self.working_dir())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut ready = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(PATIENCE, ready.next_line()).await;
        let line = line.expect("it serves in time").unwrap();
        let line = line.expect("it serves");
        let addr = line.rsplit('/').next().and_then(|addr| addr.parse().ok());
        let addr = addr.unwrap_or_else(|| panic!("no address: {line}"));
        Serving {
            caller: Caller::over(connect(addr).await, self.kind.grammar()),
            child,
        }
    }
}

impl Serving {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Kills it as nothing can be prepared for. Of what it had started nothing
    /// is waited for.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}
