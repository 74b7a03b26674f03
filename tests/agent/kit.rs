//! The scripted CLI as a kit.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use claudepool::agent::claude::{Claude, ClaudeOptions};
use claudepool::agent::conformance::{Kit, succeed};
use claudepool::agent::{Agent, Session};
use tempfile::TempDir;

/// The Claude agent over the scripted CLI.
pub struct Fake {
    pub claude: Arc<Claude>,
    spares: bool,
    dir: TempDir,
}

#[async_trait]
impl Kit for Fake {
    fn agent(&self) -> Arc<dyn Agent> {
        self.claude.clone()
    }

    fn spares(&self) -> bool {
        self.spares
    }

    fn workspace(&self) -> PathBuf {
        let path = self.dir.path().join("workspace");
        path.canonicalize().expect("it was made")
    }

    async fn shown(&self, session: &mut dyn Session) -> String {
        succeed(session, "::request").await.end.output
    }
}

impl Fake {
    pub fn that_has_no_spares(mut self) -> Self {
        self.spares = false;
        self
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }
}

/// The program that plays the CLI: an example, which `cargo test` builds.
fn program() -> PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_claudepool"))
        .parent()
        .expect("a program is in a directory");
    let program = target.join("examples/fake_claude");
    assert!(
        program.exists(),
        "run `cargo build --example fake_claude` first, or plain `cargo test`"
    );
    program
}

/// Options that run the scripted CLI.
pub fn options(state_dir: &Path) -> ClaudeOptions {
    let mut options = ClaudeOptions::new(state_dir);
    options.program = program();
    options.shim = vec![env!("CARGO_BIN_EXE_claudepool").into(), "__slot".into()];
    options.env_allow = vec!["PATH".into()];
    options
        .env
        .insert("ANTHROPIC_API_KEY".into(), "dummy".into());
    options
}

/// A kit with changed options.
pub async fn fake_with(change: impl FnOnce(&mut ClaudeOptions)) -> Fake {
    let dir = tempfile::tempdir().expect("there is room");
    std::fs::create_dir(dir.path().join("workspace")).expect("there is room");
    let mut options = options(&dir.path().join("state"));
    change(&mut options);
    Fake {
        claude: Arc::new(Claude::open(options).expect("the CLI is there")),
        spares: true,
        dir,
    }
}

/// A kit with the usual options.
pub async fn fake() -> Fake {
    fake_with(|_| {}).await
}
