use super::*;
use crate::error::Missing;
use crate::store::StoreError;
use crate::task::State;

/// Every refusal, with the code and reason that `errors.proto` gives it.
fn table() -> Vec<(Error, Code, &'static str)> {
    let field = || "task.working_dir".to_owned();
    let message = || "is not there".to_owned();
    let bounds = |absolute| Error::SlotBounds {
        asked: 0,
        min: 1,
        max: 16,
        absolute,
    };
    vec![
        (
            Error::invalid("a", "b"),
            Code::InvalidArgument,
            "INVALID_FIELD",
        ),
        (
            Error::RequestIdReused,
            Code::InvalidArgument,
            "REQUEST_ID_REUSED",
        ),
        (
            Error::PageTokenMismatch,
            Code::InvalidArgument,
            "PAGE_TOKEN_MISMATCH",
        ),
        (
            Error::NotFound(Missing::Task),
            Code::NotFound,
            "TASK_NOT_FOUND",
        ),
        (
            Error::NotFound(Missing::DeletedTask),
            Code::NotFound,
            "TASK_DELETED",
        ),
        (
            Error::NotFound(Missing::Group),
            Code::NotFound,
            "GROUP_NOT_FOUND",
        ),
        (
            Error::NotFound(Missing::Slot),
            Code::NotFound,
            "SLOT_NOT_FOUND",
        ),
        (
            Error::NotFound(Missing::ContextKey),
            Code::NotFound,
            "CONTEXT_KEY_NOT_FOUND",
        ),
        (
            Error::NotFound(Missing::Skill),
            Code::NotFound,
            "SKILL_NOT_FOUND",
        ),
        (
            Error::NotFound(Missing::Workflow),
            Code::NotFound,
            "WORKFLOW_NOT_FOUND",
        ),
        (
            Error::TaskFinished(State::Failed),
            Code::FailedPrecondition,
            "TASK_FINISHED",
        ),
        (
            Error::TaskNotFinished(State::Queued),
            Code::FailedPrecondition,
            "TASK_NOT_FINISHED",
        ),
        (
            Error::WorkingDir {
                field: field(),
                message: message(),
            },
            Code::FailedPrecondition,
            "WORKING_DIR_UNUSABLE",
        ),
        (
            Error::SessionUnusable { field: field() },
            Code::FailedPrecondition,
            "SESSION_UNUSABLE",
        ),
        (Error::Credentials, Code::Unauthenticated, "CREDENTIALS"),
        (
            Error::ScopeMissing {
                needed: "work,operate".to_owned(),
            },
            Code::PermissionDenied,
            "SCOPE_MISSING",
        ),
        (
            Error::Policy {
                field: field(),
                message: message(),
            },
            Code::PermissionDenied,
            "POLICY",
        ),
        (
            Error::BudgetExhausted,
            Code::ResourceExhausted,
            "BUDGET_EXHAUSTED",
        ),
        (Error::QueueFull, Code::ResourceExhausted, "QUEUE_FULL"),
        (Error::Receiving, Code::ResourceExhausted, "QUEUE_FULL"),
        (
            Error::CallerQueueFull,
            Code::ResourceExhausted,
            "QUEUE_FULL",
        ),
        (
            Error::TooManyWatchers,
            Code::ResourceExhausted,
            "TOO_MANY_WATCHERS",
        ),
        (Error::Paused, Code::Unavailable, "PAUSED"),
        (bounds(false), Code::FailedPrecondition, "SLOT_BOUNDS"),
        (bounds(true), Code::OutOfRange, "SLOT_BOUNDS"),
        (Error::Draining, Code::Unavailable, "DRAINING"),
        (Error::ConnectionAge, Code::Unavailable, "DRAINING"),
        (Error::Starting, Code::Unavailable, "STARTING"),
        (
            Error::Store(StoreError::Unavailable("disk /x".into())),
            Code::Unavailable,
            "STORE",
        ),
        (Error::Deadline, Code::DeadlineExceeded, "DEADLINE"),
        (
            Error::NotBuiltYet("Retry"),
            Code::Unimplemented,
            "NOT_BUILT_YET",
        ),
        (Error::Conflict, Code::Aborted, "CONFLICT"),
        (Error::Internal("secret".into()), Code::Internal, "INTERNAL"),
    ]
}

#[test]
fn every_refusal_has_the_code_and_reason_of_the_contract() {
    for (error, code, reason) in table() {
        let status = Status::from(error);
        let info = status
            .get_details_error_info()
            .expect("every error has one");
        assert_eq!((status.code(), info.reason.as_str()), (code, reason));
        assert_eq!(info.domain, DOMAIN);
    }
}

#[test]
fn what_may_work_later_says_when() {
    for (error, code, reason) in table() {
        let status = Status::from(error);
        let retry = status.get_details_retry_info();
        if code == Code::Unavailable || matches!(reason, "QUEUE_FULL" | "TOO_MANY_WATCHERS") {
            assert!(retry.is_some_and(|r| r.retry_delay.is_some()), "{reason}");
        }
        // gRPC's own libraries read the header, and not the details.
        let delay = status.get_details_retry_info().and_then(|r| r.retry_delay);
        let pushback = status.metadata().get("grpc-retry-pushback-ms");
        assert_eq!(
            pushback.map(|ms| ms.to_str().expect("a number").to_owned()),
            delay.map(|delay| match reason {
                "PAUSED" => "-1".to_owned(),
                _ => delay.as_millis().to_string(),
            }),
            "{reason}"
        );
        if code == Code::ResourceExhausted {
            assert!(status.get_details_quota_failure().is_some(), "{reason}");
        }
    }
}

#[test]
fn each_wrong_field_is_named() {
    let status = Status::from(Error::Invalid(vec![
        Violation::new("task.prompt", "must not be empty"),
        Violation::new("request_id", "is not a UUID"),
    ]));

    let bad = status.get_details_bad_request().expect("fields are wrong");
    let fields: Vec<_> = bad
        .field_violations
        .iter()
        .map(|v| v.field.as_str())
        .collect();
    assert_eq!(fields, ["task.prompt", "request_id"]);
}

#[test]
fn the_cause_stays_with_the_server() {
    for error in [
        Error::Internal("secret".into()),
        Error::Store(StoreError::Unavailable("secret".into())),
        Error::Store(StoreError::Corrupt("secret".into())),
    ] {
        let status = Status::from(error);
        assert!(!status.message().contains("secret"));
        assert!(!String::from_utf8_lossy(status.details()).contains("secret"));
    }
}

#[test]
fn ten_thousand_wrong_fields_fit_into_the_headers() {
    let wrong = (0..10_000)
        .map(|i| Violation::new(format!("tasks[{i}].prompt"), "é".repeat(300)))
        .collect();

    let status = Status::from(Error::Invalid(wrong));

    assert!(status.details().len() + status.message().len() < 6 * 1024);
    let bad = status.get_details_bad_request().expect("fields are wrong");
    let last = bad.field_violations.last().expect("some");
    assert_eq!(last.description, "and 9984 more");
}
