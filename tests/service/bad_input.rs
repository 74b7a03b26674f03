//! Bad input: each with its code, its reason and the field that is wrong, and
//! nothing is made of it.

use std::path::Path;

use claudepool::pb::{self, RunSettings, TaskSpec};
use prost::Message;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::raw::call;
use crate::support::{Caller, Harness, fields, prompt, refused, request_id};

/// What is wrong, and how it is refused.
struct Bad {
    what: &'static str,
    task: TaskSpec,
    code: Code,
    reason: &'static str,
    field: &'static str,
}

/// A task with a field that no policy could allow.
fn invalid(field: &'static str, task: TaskSpec) -> Bad {
    Bad {
        what: field,
        task,
        code: Code::InvalidArgument,
        reason: "INVALID_FIELD",
        field,
    }
}

fn set(settings: RunSettings) -> TaskSpec {
    TaskSpec {
        settings: Some(settings),
        ..prompt("x")
    }
}

fn within(dir: &Path) -> TaskSpec {
    TaskSpec {
        working_dir: dir.display().to_string(),
        ..prompt("x")
    }
}

/// Tasks that are refused where `root` is the only directory to work in.
fn table(root: &Path) -> Vec<Bad> {
    let file = root.join("file");
    std::fs::write(&file, "").unwrap();
    let link = root.join("link");
    std::os::unix::fs::symlink("/usr", &link).unwrap();
    let unusable = |what, dir: &Path| Bad {
        what,
        task: within(dir),
        code: Code::FailedPrecondition,
        reason: "WORKING_DIR_UNUSABLE",
        field: "working_dir",
    };
    let forbidden = |what, field, task| Bad {
        what,
        task,
        code: Code::PermissionDenied,
        reason: "POLICY",
        field,
    };
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    vec![
        invalid("prompt", TaskSpec::default()),
        invalid("prompt", prompt("")),
        invalid("prompt", prompt(" \n\t")),
        invalid("prompt", prompt("x".repeat(5 << 20))),
        invalid(
            "isolation",
            TaskSpec {
                isolation: 99,
                ..prompt("x")
            },
        ),
        invalid(
            "recovery",
            TaskSpec {
                recovery: 99,
                ..prompt("x")
            },
        ),
        invalid(
            "tags[1]",
            TaskSpec {
                tags: vec!["a".into(), String::new()],
                ..prompt("x")
            },
        ),
        invalid("working_dir", within(Path::new("here"))),
        invalid(
            "settings.permission_mode",
            set(RunSettings {
                permission_mode: 99,
                ..Default::default()
            }),
        ),
        invalid(
            "settings.effort",
            set(RunSettings {
                effort: 99,
                ..Default::default()
            }),
        ),
        invalid(
            "settings.max_turns",
            set(RunSettings {
                max_turns: Some(0),
                ..Default::default()
            }),
        ),
        invalid(
            "settings.model",
            set(RunSettings {
                model: Some("--model".into()),
                ..Default::default()
            }),
        ),
        invalid(
            "settings.budget_microdollars",
            set(RunSettings {
                budget_microdollars: Some(-1),
                ..Default::default()
            }),
        ),
        invalid(
            "settings.run_timeout",
            set(RunSettings {
                run_timeout: seconds(-1),
                ..Default::default()
            }),
        ),
        invalid(
            "settings.queue_timeout",
            set(RunSettings {
                queue_timeout: seconds(8 * 24 * 3600),
                ..Default::default()
            }),
        ),
        invalid(
            "settings.json_schema",
            set(RunSettings {
                json_schema: Some("[]".into()),
                ..Default::default()
            }),
        ),
        invalid(
            "settings.allowed_tools[0]",
            set(RunSettings {
                allowed_tools: vec!["-x".into()],
                ..Default::default()
            }),
        ),
        unusable("a directory that is not there", &root.join("missing")),
        unusable("a file", &file),
        forbidden(
            "outside the roots",
            "working_dir",
            within(Path::new("/usr")),
        ),
        forbidden("out by a link", "working_dir", within(&link)),
        forbidden("out by dots", "working_dir", within(&root.join("../.."))),
        forbidden(
            "not there and outside",
            "working_dir",
            within(Path::new("/missing")),
        ),
        forbidden(
            "a mode",
            "settings.permission_mode",
            set(RunSettings {
                permission_mode: pb::PermissionMode::BypassPermissions as i32,
                ..Default::default()
            }),
        ),
        forbidden(
            "a fortune",
            "settings.budget_microdollars",
            set(RunSettings {
                budget_microdollars: Some(i64::MAX),
                ..Default::default()
            }),
        ),
        forbidden(
            "commands",
            "settings.slash_commands",
            set(RunSettings {
                slash_commands: Some(true),
                ..Default::default()
            }),
        ),
        forbidden(
            "attachments",
            "settings.attachments",
            set(RunSettings {
                attachments: Some(true),
                ..Default::default()
            }),
        ),
    ]
}

/// What each method that makes tasks says to one, and its name of the task.
async fn answers(caller: &mut Caller, task: &TaskSpec) -> Vec<(Result<(), Status>, &'static str)> {
    let one = || Some(task.clone());
    let submit = pb::SubmitRequest {
        task: one(),
        ..Default::default()
    };
    let run = pb::RunRequest {
        task: one(),
        ..Default::default()
    };
    let stream = pb::RunStreamRequest {
        task: one(),
        ..Default::default()
    };
    let fan_out = pb::FanOutRequest {
        tasks: vec![prompt("x"), task.clone()],
        ..Default::default()
    };
    vec![
        (caller.work.submit(submit).await.map(drop), "task."),
        (caller.work.run(run).await.map(drop), "task."),
        (caller.work.run_stream(stream).await.map(drop), "task."),
        (caller.work.fan_out(fan_out).await.map(drop), "tasks[1]."),
    ]
}

#[tokio::test]
async fn a_task_that_cannot_be_is_refused_with_the_field_that_is_wrong() {
    let mut server = Harness::new().start().await;
    for bad in table(server.working_dir()) {
        for (answer, task) in answers(&mut server, &bad.task).await {
            let status = refused(answer, bad.code, bad.reason);

            let field = format!("{task}{}", bad.field);
            let info = status.get_details_error_info().unwrap();
            if bad.code == Code::InvalidArgument {
                assert_eq!(fields(&status), [field], "{}", bad.what);
            } else {
                assert_eq!(info.metadata.get("field"), Some(&field), "{}", bad.what);
            }
            assert_eq!(info.domain, "claudepool");
        }
    }
    let list = pb::ListTasksRequest::default();
    let page = server.work.list_tasks(list).await.unwrap().into_inner();
    assert_eq!(page.tasks, [], "nothing was made of them");
}

#[tokio::test]
async fn an_id_that_is_none_is_named() {
    let mut server = Harness::new().start().await;
    for text in [
        "",
        "7",
        "not-a-uuid",
        "00000000-0000-0000-0000-00000000000g",
    ] {
        let task_id = text.to_owned();
        let get = pb::GetTaskRequest {
            task_id: task_id.clone(),
        };
        let result = pb::GetResultRequest {
            task_id: task_id.clone(),
            wait: None,
        };
        let watch = pb::WatchTaskRequest {
            task_id: task_id.clone(),
            ..Default::default()
        };
        let read = pb::ReadOutputRequest {
            task_id: task_id.clone(),
            ..Default::default()
        };
        let delete = pb::DeleteTaskRequest {
            task_id: task_id.clone(),
        };
        let retry = pb::RetryRequest {
            task_id: task_id.clone(),
            ..Default::default()
        };
        let target = Some(pb::cancel_request::Target::TaskId(task_id));
        let cancel = pb::CancelRequest { target };
        for answer in [
            server.work.get_task(get).await.map(drop),
            server.work.get_result(result).await.map(drop),
            server.work.watch_task(watch).await.map(drop),
            server.work.read_output(read).await.map(drop),
            server.work.delete_task(delete).await.map(drop),
            server.work.retry(retry).await.map(drop),
            server.work.cancel(cancel).await.map(drop),
        ] {
            let status = refused(answer, Code::InvalidArgument, "INVALID_FIELD");
            assert_eq!(fields(&status), ["task_id"], "{text:?}");
        }
    }
    let submit = pb::SubmitRequest {
        task: Some(server.say("x")),
        request_id: "mine".into(),
    };
    let answer = server.work.submit(submit).await;
    let status = refused(answer, Code::InvalidArgument, "INVALID_FIELD");
    assert_eq!(fields(&status), ["request_id"]);
    let group = Some(pb::cancel_request::Target::GroupId(request_id()));
    let answer = server
        .work
        .cancel(pb::CancelRequest { target: group })
        .await;
    refused(answer, Code::NotFound, "GROUP_NOT_FOUND");
}

#[tokio::test]
async fn every_wrong_field_of_a_list_is_named_at_once() {
    let mut server = Harness::new().start().await;
    let list = pb::ListTasksRequest {
        filter: Some(pb::TaskFilter {
            states: vec![2, 99],
            group_id: "x".into(),
            ..Default::default()
        }),
        page_size: -1,
        view: 99,
        ..Default::default()
    };

    let answer = server.work.list_tasks(list).await;

    let status = refused(answer, Code::InvalidArgument, "INVALID_FIELD");
    let named = ["filter.states[1]", "filter.group_id", "page_size", "view"];
    assert_eq!(fields(&status), named);
    let nonsense = pb::ListTasksRequest {
        page_token: "nonsense".into(),
        ..Default::default()
    };
    let answer = server.work.list_tasks(nonsense).await;
    let status = refused(answer, Code::InvalidArgument, "INVALID_FIELD");
    assert_eq!(fields(&status), ["page_token"]);
}

#[tokio::test]
async fn a_text_that_is_not_utf_8_is_a_malformed_message() {
    let server = Harness::new().start().await;
    let mut message = pb::SubmitRequest {
        task: Some(prompt("zzzz")),
        ..Default::default()
    }
    .encode_to_vec();
    let at = message.iter().position(|byte| *byte == b'z').unwrap();
    message[at] = 0xff;

    let seen = call(
        server.addr,
        "/claudepool.v1.PoolService/Submit",
        None,
        &message,
    )
    .await;

    let status = refused::<()>(Err(seen.status), Code::InvalidArgument, "INVALID_FIELD");
    // The decoder knows the oneof, not which of its fields it is.
    assert_eq!(fields(&status), ["task.input"]);
    assert!(status.message().contains("UTF-8"), "{}", status.message());
}
