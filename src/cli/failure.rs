//! Why a command did not succeed, as an exit status and for people.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// How a command ended otherwise than well.
#[derive(Debug)]
pub(super) struct Failure {
    exit: u8,
    text: String,
    machine: Option<serde_json::Value>,
}

impl Failure {
    fn new(exit: u8, text: impl Into<String>) -> Self {
        Self {
            exit,
            text: text.into(),
            machine: None,
        }
    }

    /// The task failed, or a server could not do its work. Empty: it was said
    /// already.
    pub(super) fn failed(text: impl Into<String>) -> Self {
        Self::new(1, text)
    }

    /// The command line or the configuration is wrong.
    pub(super) fn usage(text: impl Into<String>) -> Self {
        Self::new(2, text)
    }

    /// The task was cancelled.
    pub(super) fn cancelled() -> Self {
        Self::new(3, "")
    }

    /// The server refused.
    pub(super) fn refused(text: impl Into<String>) -> Self {
        Self::new(4, text)
    }

    /// The server cannot be reached.
    pub(super) fn unreachable(server: &str, why: &dyn std::error::Error) -> Self {
        let mut last = why;
        while let Some(source) = last.source() {
            last = source;
        }
        Self::new(
            5,
            format!(
                "no server answers at {server} ({last}): start one with `claudepool serve`, or \
                 say where it is with --server"
            ),
        )
    }

    /// Says it, on stderr, and gives the exit status.
    pub(super) fn exit(self, json: bool) -> ExitCode {
        if json {
            let machine = self
                .machine
                .unwrap_or_else(|| json!({"message": self.text}));
            if !self.text.is_empty() {
                eprintln!("{}", json!({ "error": machine }));
            }
        } else if !self.text.is_empty() {
            eprintln!("claudepool: {}", self.text);
        }
        ExitCode::from(self.exit)
    }

    /// What a call to `server` was answered with.
    pub(super) fn from_status(status: &Status, server: &str) -> Self {
        let details = status.get_error_details();
        let Some(info) = details.error_info() else {
            return if is_transport(status) {
                Self::unreachable(server, status)
            } else {
                let code = code_name(status.code());
                Self::refused(format!("refused ({code}): {}", status.message()))
            };
        };
        let mut text = format!("refused ({}): {}", info.reason, status.message());
        let violations = details
            .bad_request()
            .map(|bad| bad.field_violations.clone())
            .unwrap_or_default();
        for violation in &violations {
            if !text.contains(&violation.description) {
                text += &format!("\n  {}: {}", violation.field, violation.description);
            }
        }
        let retry = details.retry_info().and_then(|info| info.retry_delay);
        if let Some(delay) = retry.filter(|delay| *delay > Duration::ZERO) {
            text += &format!("; try again in {delay:?}");
        }
        let mut failure = Self::refused(text);
        failure.machine = Some(json!({
            "code": code_name(status.code()),
            "reason": info.reason,
            "message": status.message(),
            "metadata": info.metadata,
            "fieldViolations": violations
                .iter()
                .map(|v| json!({"field": v.field, "description": v.description}))
                .collect::<Vec<_>>(),
        }));
        failure
    }
}

/// The code's name on the wire, for instance `INVALID_ARGUMENT`.
fn code_name(code: Code) -> String {
    let mut name = String::new();
    for c in format!("{code:?}").chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

/// Whether the connection failed, rather than the call. Every refusal of the
/// server itself carries ErrorInfo.
pub(super) fn is_transport(status: &Status) -> bool {
    use std::error::Error as _;
    status.get_error_details().error_info().is_none()
        && (status.source().is_some()
            || matches!(
                status.code(),
                Code::Unavailable | Code::Unknown | Code::Internal
            ))
}
