//! The kinds of agents that a server is tested with.

use std::path::{Path, PathBuf};

use claudepool::agent::claude::{Claude, ClaudeOptions};
use claudepool::agent::scripted::Scripted;
use claudepool::demo::StandIn;
use claudepool::pool::{Builder, Pool};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::Grammar;

/// Servers on the real CLI at a time: each has up to four processes of some
/// 200 MB.
const REAL_MAX: usize = 2;
static REAL: Semaphore = Semaphore::const_new(REAL_MAX);

/// A right to run one.
pub type Place = Option<SemaphorePermit<'static>>;

/// A kind of agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Without processes.
    Scripted,
    /// The Claude agent over the scripted CLI.
    Fake,
    /// The Claude agent over the real CLI, before a stand-in of its own.
    Real,
}

impl Kind {
    /// How it is told what to do.
    pub fn grammar(self) -> Grammar {
        match self {
            Self::Scripted => Grammar::Lines,
            Self::Fake | Self::Real => Grammar::Directives,
        }
    }

    /// The program that it runs; `None`: none.
    pub fn program(self) -> Option<PathBuf> {
        match self {
            Self::Scripted => None,
            Self::Fake => Some(built(
                "examples/fake_claude",
                "cargo build --example fake_claude",
            )),
            Self::Real => Some(real_cli()),
        }
    }

    /// Opens it. `state_dir` is its own.
    pub async fn open(self, state_dir: &Path) -> Opened {
        let Some(program) = self.program() else {
            return Opened {
                builder: Pool::builder(Scripted::default()),
                standin: None,
                place: None,
            };
        };
        let mut options = ClaudeOptions::new(state_dir);
        options.program = program;
        options.shim = vec![this_program().into(), "__slot".into()];
        options.env_allow = vec!["PATH".into()];
        options
            .env
            .insert("ANTHROPIC_API_KEY".into(), "dummy".into());
        let (mut standin, mut place) = (None, None);
        if self == Self::Real {
            // A loaded machine is no fault of the CLI.
            options.reset_timeout = std::time::Duration::from_secs(20);
            options.control_timeout = std::time::Duration::from_secs(30);
            options.start_timeout = std::time::Duration::from_secs(60);
            place = Some(REAL.acquire().await.unwrap());
            let started = stand_in().await;
            let url = started.base_url();
            options.env.insert("ANTHROPIC_BASE_URL".into(), url);
            standin = Some(started);
        }
        Opened {
            builder: Pool::builder(Claude::open(options).unwrap()),
            standin,
            place,
        }
    }
}

/// An agent that is ready for a pool, and what lives as long as it.
pub struct Opened {
    pub builder: Builder,
    pub standin: Option<StandIn>,
    pub place: Place,
}

/// A stand-in that keeps what it received.
pub async fn stand_in() -> StandIn {
    StandIn::start_recording(([127, 0, 0, 1], 0).into())
        .await
        .unwrap()
}

/// The program under test.
pub fn this_program() -> PathBuf {
    built("claudepool", "cargo build --bin claudepool")
}

/// The real CLI.
fn real_cli() -> PathBuf {
    std::env::var_os("CLAUDEPOOL_TEST_CLAUDE")
        .expect("set CLAUDEPOOL_TEST_CLAUDE to the native program of the Claude Code CLI")
        .into()
}

/// A program of this build, beside the one cargo names.
fn built(name: &str, how: &str) -> PathBuf {
    let ours = PathBuf::from(env!("CARGO_BIN_EXE_claudepool"));
    let path = ours.with_file_name(name);
    assert!(path.exists(), "{} is missing: {how}", path.display());
    path
}
