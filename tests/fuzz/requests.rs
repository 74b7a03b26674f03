//! Requests of any bytes, sent to a whole server: decoded, checked, admitted.

use std::time::Duration;

use claudepool::pb;
use claudepool::pool::Policy;
use prost::Message;
use prost::bytes::Bytes;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::mutate::{Corpus, fuzz};
use crate::support::codec::Raw;
use crate::support::{Harness, Running, connect, prompt, request_id};

/// Longest wait for an answer: some calls wait for work.
const WAIT: Duration = Duration::from_millis(300);

const WORDS: &[&[u8]] = &[
    b"\x00",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x0a",
    b"\x12",
    b"\x1a",
    b"\x08\x01",
    b"../..",
    b"/",
    b"{steps.a}",
    b"{x}",
    b"\xff\xfe",
    b"00000000-0000-0000-0000-000000000000",
    b"say x",
];

/// The methods, and a good request of each.
fn good() -> Vec<(&'static str, Vec<u8>)> {
    let task = || pb::TaskSpec {
        settings: Some(pb::RunSettings {
            model: Some("m".into()),
            permission_mode: pb::PermissionMode::Plan as i32,
            max_turns: Some(3),
            append_system_prompt: Some("be brief".into()),
            allowed_tools: vec!["Read".into(), "Bash(ls:*)".into()],
            json_schema: Some("{\"type\":\"object\"}".into()),
            budget_microdollars: Some(1_000_000),
            run_timeout: Some(Duration::from_secs(60).try_into().unwrap()),
            queue_timeout: Some(Duration::from_secs(60).try_into().unwrap()),
            ..Default::default()
        }),
        tags: vec!["a".into(), "b".into()],
        recovery: pb::RecoveryPolicy::Restart as i32,
        ..prompt("say x")
    };
    let step = |name: &str, text: &str| pb::ChainStep {
        name: name.into(),
        action: Some(pb::chain_step::Action::Prompt(text.into())),
        ..Default::default()
    };
    let chain = vec![
        step("a", "say x"),
        step("b", "say {steps.a} {previous_output}"),
    ];
    vec![
        (
            "PoolService/Submit",
            pb::SubmitRequest {
                task: Some(task()),
                request_id: request_id(),
            }
            .encode_to_vec(),
        ),
        (
            "PoolService/Submit",
            pb::SubmitRequest {
                task: Some(prompt("say x")),
                request_id: String::new(),
            }
            .encode_to_vec(),
        ),
        (
            "PoolService/Run",
            pb::RunRequest {
                task: Some(task()),
                request_id: request_id(),
                detach: true,
            }
            .encode_to_vec(),
        ),
        (
            "PoolService/FanOut",
            pb::FanOutRequest {
                tasks: vec![task(), prompt("say y")],
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "PoolService/SubmitChain",
            pb::SubmitChainRequest {
                steps: chain,
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "PoolService/ListTasks",
            pb::ListTasksRequest {
                page_size: 10,
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "PoolService/GetResult",
            pb::GetResultRequest {
                task_id: request_id(),
                wait: None,
            }
            .encode_to_vec(),
        ),
        (
            "PoolService/Cancel",
            pb::CancelRequest {
                target: Some(pb::cancel_request::Target::TaskId(request_id())),
            }
            .encode_to_vec(),
        ),
        (
            "ContextService/SetContext",
            pb::SetContextRequest {
                key: "k".into(),
                value: "v".into(),
            }
            .encode_to_vec(),
        ),
    ]
}

/// The first message of the answer; `None`: it takes too long.
async fn call(channel: Channel, method: &str, message: Vec<u8>) -> Option<Result<Bytes, Status>> {
    let path = format!("/claudepool.v1.{method}").parse().unwrap();
    let mut client = tonic::client::Grpc::new(channel);
    let answer = async {
        client.ready().await.unwrap();
        let request = Request::new(Bytes::from(message));
        let answer = client.server_streaming(request, path, Raw).await?;
        let message = answer.into_inner().message().await?;
        Ok(message.unwrap_or_default())
    };
    tokio::time::timeout(WAIT, answer).await.ok()
}

/// What every task that was accepted keeps to.
fn holds(task: &pb::Task) {
    let policy = Policy::default();
    let spec = task.spec.as_ref().expect("a task has a spec");
    let Some(pb::task_spec::Input::Prompt(prompt)) = &spec.input else {
        panic!("a task without a prompt was accepted");
    };
    assert!((1..=policy.prompt_bytes_max).contains(&prompt.len()));
    let settings = task.effective_settings.as_ref().expect("merged");
    let allowed = [
        pb::PermissionMode::DontAsk,
        pb::PermissionMode::Plan,
        pb::PermissionMode::Default,
    ];
    assert!(
        allowed.contains(&settings.permission_mode()),
        "{settings:?}"
    );
    let ceiling = (policy.task_budget_max_usd * 1e6) as i64;
    let budget = settings.budget_microdollars.unwrap_or_default();
    assert!((0..=ceiling).contains(&budget), "{settings:?}");
    let limit = settings
        .run_timeout
        .map(|limit| Duration::try_from(limit).expect("not negative"));
    assert!(limit.is_none_or(|limit| limit <= policy.run_timeout_max));
    assert!(settings.max_turns.is_none_or(|turns| turns > 0));
    assert!(
        !settings.slash_commands.unwrap_or_default() && !settings.attachments.unwrap_or_default()
    );
    assert!(settings.mcp_servers.is_empty());
    if let Some(schema) = &settings.json_schema {
        serde_json::from_str::<serde_json::Value>(schema).expect("a schema is JSON");
    }
}

async fn check(server: &mut Running, method: &str, message: Vec<u8>) {
    let channel = connect_once(server).await;
    let Some(answer) = call(channel, method, message).await else {
        return;
    };
    match answer {
        Err(status) => {
            let said_by_the_server = [
                Code::InvalidArgument,
                Code::NotFound,
                Code::FailedPrecondition,
                Code::ResourceExhausted,
                Code::AlreadyExists,
                Code::OutOfRange,
                Code::PermissionDenied,
            ];
            assert!(
                said_by_the_server.contains(&status.code()),
                "{method}: {status:?}"
            );
        }
        Ok(bytes) if method.ends_with("Submit") => {
            let made = pb::SubmitResponse::decode(bytes).unwrap();
            holds(&server.task(&made.task_id).await);
        }
        Ok(_) => {}
    }
}

async fn connect_once(server: &Running) -> Channel {
    static CHANNEL: tokio::sync::OnceCell<Channel> = tokio::sync::OnceCell::const_new();
    CHANNEL.get_or_init(|| connect(server.addr)).await.clone()
}

#[test]
fn requests_of_any_bytes_are_refused_or_keep_to_the_policy() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut server = runtime.block_on(
        Harness::new()
            .options(|o| {
                o.slots = 4;
                o.run_timeout = Duration::from_secs(1);
            })
            .start(),
    );
    // The first byte chooses the method.
    let methods: Vec<&str> = good().into_iter().map(|(method, _)| method).collect();
    let inputs = good().into_iter().enumerate().map(|(nth, (_, message))| {
        let mut input = vec![nth as u8];
        input.extend(message);
        input
    });
    let corpus = Corpus {
        inputs: inputs.collect(),
        words: WORDS,
    };
    fuzz("requests_of_any_bytes", &corpus, |input, _| {
        let Some((nth, message)) = input.split_first() else {
            return;
        };
        let method = methods[usize::from(*nth) % methods.len()];
        runtime.block_on(check(&mut server, method, message.to_vec()));
    });
}
