//! What a call can end with instead of an answer.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// A refused or broken call.
#[derive(Clone, Debug)]
pub struct Error {
    /// The gRPC code.
    pub code: Code,
    /// A sentence for people.
    pub message: String,
    /// The word of docs/errors.md; empty if the server did not answer.
    pub reason: String,
    /// Set if the server says when to try again.
    pub retry_after: Option<Duration>,
    /// What is wrong, by field path.
    pub violations: BTreeMap<String, String>,
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let ours = details.error_info().filter(|i| i.domain == "claudepool");
        let bad = details.bad_request().map(|bad| &bad.field_violations);
        Self {
            code: status.code(),
            message: status.message().to_owned(),
            reason: ours.map(|info| info.reason.clone()).unwrap_or_default(),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
            violations: bad
                .into_iter()
                .flatten()
                .map(|v| (v.field.clone(), v.description.clone()))
                .collect(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason.as_str() {
            "" => write!(f, "{:?}: {}", self.code, self.message),
            reason => write!(f, "{reason}: {}", self.message),
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    /// Whether the connection broke, or the server is not there for now.
    pub(crate) fn is_broken(&self) -> bool {
        match self.code {
            Code::Unavailable => true,
            Code::Unknown | Code::Internal | Code::Cancelled => self.reason.is_empty(),
            _ => false,
        }
    }

    /// Whether the server stops or starts: its successor, or itself, answers
    /// before long.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self.reason.as_str(), "DRAINING" | "STARTING")
    }

    pub(crate) fn ended_early() -> Self {
        Status::unavailable("the stream ended before the task did").into()
    }

    pub(crate) fn deadline() -> Self {
        Status::deadline_exceeded("the deadline passed").into()
    }
}
