//! The composed configuration of a server.
//!
//! One TOML file, composed of the modules' own options, so that no module sees
//! the whole. Layers, later ones win: defaults, the file, the environment
//! (`CLAUDEPOOL_*`), flags. The last two are applied by the command line, which
//! names them. An unknown key is an error, and nothing is merged twice.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

use crate::agent::claude::{ClaudeOptions, ENV_ALLOW};
use crate::money::Microdollars;
use crate::pool;

/// Why there is no configuration: one sentence that names the file, the line
/// or the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// A value that is never shown: it prints as `***`.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Redacted<T>(pub T);

impl<T> fmt::Debug for Redacted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl<T> Serialize for Redacted<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

/// Where a server listens: a loopback address or a Unix socket, nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Listen {
    /// A loopback address. Port 0: any free port.
    Tcp(SocketAddr),
    /// A Unix socket. Absolute path.
    Unix(PathBuf),
}

impl FromStr for Listen {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path.strip_prefix("//").unwrap_or(path));
            return if path.is_absolute() {
                Ok(Self::Unix(path))
            } else {
                Err(ConfigError(format!(
                    "the socket `{text}` needs an absolute path: unix:/path"
                )))
            };
        }
        // No resolver: a name could mean another address tomorrow.
        let numeric = text
            .strip_prefix("localhost:")
            .map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
        let Ok(address) = numeric.parse::<SocketAddr>() else {
            return Err(ConfigError(format!(
                "`{text}` is no address to listen on: say 127.0.0.1:50051, [::1]:50051 or unix:/path"
            )));
        };
        if !address.ip().is_loopback() {
            return Err(ConfigError(format!(
                "{text} is not a loopback address: whoever reaches this server can use the \
                 machine, and it cannot tell callers apart before authentication is built, so \
                 it listens on 127.0.0.1, [::1] or unix:/path only"
            )));
        }
        Ok(Self::Tcp(address))
    }
}

impl TryFrom<String> for Listen {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<Self, ConfigError> {
        text.parse()
    }
}

impl From<Listen> for String {
    fn from(listen: Listen) -> Self {
        listen.to_string()
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A store's URL. It may hold a password, so a shared one prints without what
/// follows its scheme.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct StoreUrl(pub String);

impl StoreUrl {
    /// The file of an embedded store.
    pub fn file(&self) -> Option<&Path> {
        let path = self.0.strip_prefix("sqlite:")?;
        Some(Path::new(path.strip_prefix("//").unwrap_or(path)))
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.split_once("://") {
            Some((scheme, _)) if scheme != "sqlite" => write!(f, "{scheme}://***"),
            _ => f.write_str(&self.0),
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for StoreUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How the server is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Address to listen on. Default 127.0.0.1:50051.
    pub listen: Listen,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 50051))),
        }
    }
}

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
}

/// The whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `memory` or `sqlite:PATH`. Unset: a file in the data folder.
    pub store: Option<StoreUrl>,
    /// How the server is reached.
    pub server: Server,
    /// How the CLI is run.
    pub agent: Agent,
    /// The pool.
    pub pool: pool::Options,
}

impl Config {
    /// The defaults under a file's values.
    pub fn read(file: &Path) -> Result<Self, ConfigError> {
        let name = file.display();
        let text = std::fs::read_to_string(file)
            .map_err(|error| ConfigError(format!("{name} cannot be read: {error}")))?;
        Self::parse(&text).map_err(|ConfigError(why)| ConfigError(format!("{name}, {why}")))
    }

    /// The defaults under the values of a TOML document.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start).min(text.len());
            let before = text.get(..at).unwrap_or_default();
            let number = before.matches('\n').count() + 1;
            // The key alone: the value may be a secret.
            let key = text
                .lines()
                .nth(number - 1)
                .and_then(|line| line.split_once('='))
                .map(|(key, _)| format!(" ({})", key.trim()))
                .unwrap_or_default();
            let why = error.message().replace('\n', " ");
            ConfigError(format!("line {number}{key}: {why}"))
        })
    }

    /// What is wrong with the values, one sentence for all.
    pub fn check(&self) -> Result<(), ConfigError> {
        let mut problems: Vec<String> = self
            .pool
            .problems()
            .into_iter()
            .map(|problem| format!("pool.{problem}"))
            .collect();
        for (name, value, range) in [
            ("start_timeout", self.agent.start_timeout, (1_000, 600_000)),
            ("reset_timeout", self.agent.reset_timeout, (100, 60_000)),
            (
                "control_timeout",
                self.agent.control_timeout,
                (100, 600_000),
            ),
            (
                "stream_idle_timeout",
                self.agent.stream_idle_timeout,
                (10_000, 3_600_000),
            ),
        ] {
            let (low, high) = (
                Duration::from_millis(range.0),
                Duration::from_millis(range.1),
            );
            if !(low..=high).contains(&value) {
                problems.push(format!("agent.{name} must be {low:?} to {high:?}"));
            }
        }
        if self.agent.api_retries_max.is_some_and(|n| n > 100) {
            problems.push("agent.api_retries_max must be 0 to 100".to_owned());
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(ConfigError(problems.join("; ")))
        }
    }

    /// The configuration as a TOML document, secrets shown as `***`.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        toml::to_string(self).map_err(|error| ConfigError(error.to_string()))
    }
}

#[cfg(test)]
mod tests;
