//! The kinds of agents that a server is tested with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use claudepool::agent::claude::{Claude, ClaudeOptions};
use claudepool::agent::scripted::Scripted;
use claudepool::demo::StandIn;
use claudepool::pool::{Builder, Pool};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::Grammar;

/// Tests on the real CLI at a time: each has up to four processes of some
/// 200 MB.
static REAL: LazyLock<Semaphore> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    Semaphore::new(cores.clamp(2, 4))
});

/// Longest wait for anything that a process is asked for.
pub const LOADED: Duration = Duration::from_secs(30);

/// Sets options of the Claude agent.
pub type Tune = Box<dyn FnOnce(&mut ClaudeOptions) + Send>;

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
    /// The one with processes that is tested where this one is.
    pub fn with_processes(self) -> Self {
        match self {
            Self::Scripted | Self::Fake => Self::Fake,
            Self::Real => Self::Real,
        }
    }

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

    /// Makes what it needs besides its program.
    pub async fn surroundings(self) -> Surroundings {
        let key = ("ANTHROPIC_API_KEY".to_owned(), "dummy".to_owned());
        let mut around = Surroundings {
            env: BTreeMap::from([key]),
            standin: None,
            place: None,
        };
        if self == Self::Real {
            around.place = Some(REAL.acquire().await.unwrap());
            let loopback = ([127, 0, 0, 1], 0).into();
            let standin = StandIn::start_recording(loopback).await.unwrap();
            let url = standin.base_url();
            around.env.insert("ANTHROPIC_BASE_URL".into(), url);
            around.standin = Some(standin);
        }
        around
    }

    /// Opens it for a pool. `state_dir` is its own.
    pub fn open(self, around: &Surroundings, state_dir: &Path, tune: Tune) -> Builder {
        if self == Self::Scripted {
            return Pool::builder(Scripted::default());
        }
        Pool::builder(self.tuned(around, state_dir, tune))
    }

    /// The Claude agent of this kind.
    pub fn claude(self, around: &Surroundings, state_dir: &Path) -> Claude {
        self.tuned(around, state_dir, Box::new(|_| {}))
    }

    fn tuned(self, around: &Surroundings, state_dir: &Path, tune: Tune) -> Claude {
        let mut options = ClaudeOptions::new(state_dir);
        options.program = self.program().expect("it runs a program");
        options.shim = vec![this_program().into(), "__slot".into()];
        options.env_allow = vec!["PATH".into()];
        options.env.clone_from(&around.env);
        // A loaded machine is no fault of the CLI.
        options.start_timeout = LOADED;
        options.reset_timeout = LOADED;
        options.control_timeout = LOADED;
        tune(&mut options);
        Claude::open(options).unwrap()
    }
}

/// What an agent needs besides its program, and what lives as long as it.
pub struct Surroundings {
    /// The variables of its processes, besides PATH.
    pub env: BTreeMap<String, String>,
    pub standin: Option<StandIn>,
    pub place: Place,
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
