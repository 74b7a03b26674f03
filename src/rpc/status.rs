//! What a refusal is on the wire: the only place that knows.

use std::collections::HashMap;

use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::error::{Error, Violation};

/// The domain of every `ErrorInfo`.
pub const DOMAIN: &str = "claudepool";

/// Most text of a status. Details and message travel as headers, which many
/// clients limit to 8 KiB; base64 adds a third.
const TEXT_MAX: usize = 1024;
/// Most violations that are told apart.
const VIOLATIONS_MAX: usize = 16;
/// Most bytes of a violation's field and of its message.
const VIOLATION_MAX: usize = 128;

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match &error {
            Error::Store(cause) => tracing::warn!(?cause, "store error answered to a caller"),
            Error::Internal(cause) => {
                tracing::error!(%cause, "internal error answered to a caller");
            }
            _ => {}
        }
        let mut metadata = MetadataMap::new();
        if let Some(ms) = pushback(&error) {
            metadata.insert("grpc-retry-pushback-ms", ms.into());
        }
        Status::with_error_details_and_metadata(
            code(&error),
            cut(&error.to_string(), TEXT_MAX),
            details(&error),
            metadata,
        )
    }
}

/// The gRPC code that the contract gives each refusal.
fn code(error: &Error) -> Code {
    match error {
        Error::Invalid(_) | Error::RequestIdReused | Error::PageTokenMismatch => {
            Code::InvalidArgument
        }
        Error::NotFound(_) => Code::NotFound,
        Error::TaskFinished(_)
        | Error::TaskNotFinished(_)
        | Error::WorkingDir { .. }
        | Error::SessionUnusable { .. }
        | Error::NotARepository { .. } => Code::FailedPrecondition,
        Error::SlotBounds { absolute, .. } => match absolute {
            true => Code::OutOfRange,
            false => Code::FailedPrecondition,
        },
        Error::Policy { .. } | Error::ScopeMissing { .. } => Code::PermissionDenied,
        Error::Credentials => Code::Unauthenticated,
        Error::BudgetExhausted
        | Error::QueueFull
        | Error::CallerQueueFull
        | Error::Receiving
        | Error::TooManyWatchers => Code::ResourceExhausted,
        Error::Draining
        | Error::ConnectionAge
        | Error::Paused
        | Error::NodeSilent(_)
        | Error::Starting
        | Error::NewerServerNeeded
        | Error::Store(_) => Code::Unavailable,
        Error::Deadline => Code::DeadlineExceeded,
        Error::NotBuiltYet(_) => Code::Unimplemented,
        Error::Conflict => Code::Aborted,
        Error::Internal(_) => Code::Internal,
    }
}

fn details(error: &Error) -> ErrorDetails {
    let name = error.reason().as_str_name();
    let reason = name.strip_prefix("ERROR_REASON_").unwrap_or(name);
    let mut metadata = HashMap::new();
    if let Error::WorkingDir { field, .. }
    | Error::NotARepository { field }
    | Error::Policy { field, .. } = error
    {
        metadata.insert("field".to_owned(), cut(field, VIOLATION_MAX));
    }
    if let Error::ScopeMissing { needed } = error {
        metadata.insert("scope".to_owned(), needed.clone());
    }
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
    if let Error::Invalid(violations) = error {
        details.set_bad_request(field_violations(violations));
    }
    if let Some(subject) = quota(error) {
        details.add_quota_failure_violation(subject, error.to_string());
    }
    if let Some(delay) = error.retry_after() {
        details.set_retry_info(Some(delay));
    }
    details
}

/// When gRPC's own libraries repeat a call by themselves, in milliseconds;
/// negative: never.
fn pushback(error: &Error) -> Option<i64> {
    let delay = error.retry_after()?;
    match error {
        // It lasts as long as a person likes.
        Error::Paused => Some(-1),
        _ => i64::try_from(delay.as_millis()).ok(),
    }
}

/// What is used up.
fn quota(error: &Error) -> Option<&'static str> {
    match error {
        Error::BudgetExhausted => Some("pool:budget"),
        Error::QueueFull => Some("pool:queue"),
        Error::CallerQueueFull => Some("caller:queue"),
        Error::Receiving => Some("server:receiving"),
        Error::TooManyWatchers => Some("pool:watchers"),
        _ => None,
    }
}

fn field_violations(violations: &[Violation]) -> Vec<FieldViolation> {
    let mut told: Vec<_> = violations
        .iter()
        .take(VIOLATIONS_MAX)
        .map(|v| FieldViolation::new(cut(&v.field, VIOLATION_MAX), cut(&v.message, VIOLATION_MAX)))
        .collect();
    if let Some(more) = violations
        .len()
        .checked_sub(VIOLATIONS_MAX)
        .filter(|n| *n > 0)
    {
        told.push(FieldViolation::new("", format!("and {more} more")));
    }
    told
}

/// At most `max` bytes of a text, ending between characters.
fn cut(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let mut end = max.saturating_sub(3);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}...", &text[..end])
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
