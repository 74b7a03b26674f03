//! How the CLI is run.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Redacted;
use crate::agent::claude::{ClaudeOptions, ENV_ALLOW};
use crate::money::Microdollars;

/// How the CLI is run: the operator's part of [`ClaudeOptions`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Agent {
    /// The CLI's program. Unset: `claude` in `PATH`, else the one that the demo
    /// installed.
    pub program: Option<PathBuf>,
    /// Where configuration directories, saved sessions and the records of
    /// running processes are kept; one server at a time. Unset: beside the
    /// store's file.
    pub state_dir: Option<PathBuf>,
    /// Environment variables that processes get from the server's own.
    pub env_allow: Vec<String>,
    /// Environment variables set for every process. Values are never shown.
    pub env: BTreeMap<String, Redacted<String>>,
    /// Whether the operator's login is lent to the processes when no key is in
    /// their environment. Default true.
    pub lend_credentials: bool,
    /// Longest time from the start of a process to its first answer. Default 30 s.
    #[serde(with = "humantime_serde")]
    pub start_timeout: Duration,
    /// Longest time a reset may take before the process is replaced. Default 2 s.
    #[serde(with = "humantime_serde")]
    pub reset_timeout: Duration,
    /// Longest time any other request to a process may take. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub control_timeout: Duration,
    /// Longest silence of the provider within a response. Default 2 min.
    #[serde(with = "humantime_serde")]
    pub stream_idle_timeout: Duration,
    /// How often the CLI itself retries a failed API request. Unset: its own
    /// default, 10.
    pub api_retries_max: Option<u32>,
}

impl Default for Agent {
    fn default() -> Self {
        // The numbers have one home.
        let options = ClaudeOptions::new("");
        Self {
            program: None,
            state_dir: None,
            env_allow: ENV_ALLOW.map(String::from).to_vec(),
            env: BTreeMap::new(),
            lend_credentials: options.lend_credentials,
            start_timeout: options.start_timeout,
            reset_timeout: options.reset_timeout,
            control_timeout: options.control_timeout,
            stream_idle_timeout: options.stream_idle_timeout,
            api_retries_max: options.api_retries_max,
        }
    }
}

impl Agent {
    /// What the agent is built with. `ceiling`: the most any task may ask for,
    /// which the CLI holds by itself as a backstop.
    pub fn options(
        &self,
        program: PathBuf,
        state_dir: PathBuf,
        ceiling: Microdollars,
    ) -> ClaudeOptions {
        let mut options = ClaudeOptions::new(state_dir);
        options.program = program;
        options.env_allow = self.env_allow.clone();
        options.env = self
            .env
            .iter()
            .map(|(name, value)| (name.clone(), value.0.clone()))
            .collect();
        options.lend_credentials = self.lend_credentials;
        options.start_timeout = self.start_timeout;
        options.reset_timeout = self.reset_timeout;
        options.control_timeout = self.control_timeout;
        options.stream_idle_timeout = self.stream_idle_timeout;
        options.api_retries_max = self.api_retries_max;
        options.budget_backstop = (ceiling > Microdollars::default()).then_some(ceiling);
        options
    }

    /// One sentence per value that cannot be used.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (name, value, range) in [
            ("start_timeout", self.start_timeout, (1_000, 600_000)),
            ("reset_timeout", self.reset_timeout, (100, 60_000)),
            ("control_timeout", self.control_timeout, (100, 600_000)),
            (
                "stream_idle_timeout",
                self.stream_idle_timeout,
                (10_000, 3_600_000),
            ),
        ] {
            let (low, high) = (
                Duration::from_millis(range.0),
                Duration::from_millis(range.1),
            );
            if !(low..=high).contains(&value) {
                problems.push(format!("{name} must be {low:?} to {high:?}"));
            }
        }
        if self.api_retries_max.is_some_and(|n| n > 100) {
            problems.push("api_retries_max must be 0 to 100".to_owned());
        }
        problems
    }
}
