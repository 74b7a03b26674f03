//! The composed configuration of a server.
//!
//! One TOML file, composed of the modules' own options, so that no module sees
//! the whole. Layers, later ones win: defaults, the file, the environment
//! (`CLAUDEPOOL_*`), flags. The last two are applied by the command line, which
//! names them. An unknown key is an error, and nothing is merged twice.

mod agent;
mod auth;
mod log;
mod otel;
mod server;
mod status;
mod tls;

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize, Serializer};

use crate::pool;

pub use agent::Agent;
pub use auth::Auth;
pub use log::{Log, LogFormat};
pub use otel::Otel;
pub use server::{Listen, Server};
pub use status::{Status, StatusListen};
pub use tls::Tls;

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

/// The whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `memory`, `sqlite:PATH` or `postgres://…`. Unset: a file in the data folder.
    pub store: Option<StoreUrl>,
    /// How the server is reached.
    pub server: Server,
    /// How its state is asked for.
    pub status: Status,
    /// What it logs.
    pub log: Log,
    /// Where its traces and metrics are sent.
    pub otel: Otel,
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
        let of = |table: &str, problems: Vec<String>| {
            let table = format!("{table}.");
            problems
                .into_iter()
                .map(move |problem| table.clone() + &problem)
        };
        let problems: Vec<String> = of("pool", self.pool.problems())
            .chain(of("agent", self.agent.problems()))
            .chain(of("log", self.log.problems()))
            .chain(of("otel", self.otel.problems()))
            .chain(of("server", self.server.problems()))
            .chain(of("status", self.status.problems()))
            .collect();
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
