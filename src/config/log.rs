//! What is logged to stderr, and how.

use serde::{Deserialize, Serialize};

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// The log. One line per event, whatever is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// How lines are written. Default text.
    pub format: LogFormat,
    /// What is logged, as tracing's filters: `info`, `claudepool=debug,warn`.
    /// Default `info`.
    pub filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            filter: "info".to_owned(),
        }
    }
}

impl Log {
    /// What is wrong with the values.
    pub fn problems(&self) -> Vec<String> {
        let empty = self.filter.trim().is_empty();
        let problem = "filter must not be empty: say `off` to log nothing";
        empty.then(|| problem.to_owned()).into_iter().collect()
    }
}
