//! The conformance suite, and what only the real CLI can show.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use claudepool::agent::claude::{Claude, ClaudeOptions};
use claudepool::agent::conformance::{Kit, succeed};
use claudepool::agent::{Agent, Session};
use claudepool::demo::StandIn;
use tempfile::TempDir;

/// The real CLI before a stand-in of its own.
struct Real {
    agent: Arc<Claude>,
    standin: StandIn,
    spares: bool,
    dir: TempDir,
}

#[async_trait]
impl Kit for Real {
    fn agent(&self) -> Arc<dyn Agent> {
        self.agent.clone()
    }

    fn spares(&self) -> bool {
        self.spares
    }

    fn workspace(&self) -> PathBuf {
        let path = self.dir.path().join("workspace");
        path.canonicalize().expect("it was made")
    }

    async fn shown(&self, session: &mut dyn Session) -> String {
        succeed(session, "::echo shown").await;
        let requests = self.standin.requests();
        requests.last().expect("there was a turn").body.to_string()
    }
}

async fn real(spares: bool) -> Real {
    let dir = tempfile::tempdir().expect("there is room");
    std::fs::create_dir(dir.path().join("workspace")).expect("there is room");
    let loopback = ([127, 0, 0, 1], 0).into();
    let standin = StandIn::start_recording(loopback)
        .await
        .expect("a free port");
    let mut options = ClaudeOptions::new(dir.path().join("state"));
    options.program = crate::cli();
    options.shim = vec![env!("CARGO_BIN_EXE_claudepool").into(), "__slot".into()];
    options.env_allow = vec!["PATH".into()];
    for (name, value) in [
        ("ANTHROPIC_API_KEY", "dummy"),
        ("ANTHROPIC_BASE_URL", &standin.base_url()),
    ] {
        options.env.insert(name.into(), value.into());
    }
    Real {
        agent: Arc::new(Claude::open(options).expect("the CLI is there")),
        standin,
        spares,
        dir,
    }
}

async fn with_spares() -> Real {
    real(true).await
}

async fn without_spares() -> Real {
    real(false).await
}

mod a_spare {
    claudepool::agent_conformance!(super::with_spares);
}

mod a_launch {
    claudepool::agent_conformance!(super::without_spares);
}
