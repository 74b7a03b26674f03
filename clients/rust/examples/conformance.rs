//! Does the steps of clients/conformance and prints what it sees; judges nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use claudepool::pb::{self, event::Kind};
use claudepool_client::{Client, Error, Options, TaskStream, connect, prompt};
use prost::Message;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tonic::Status;
use tonic::transport::{Certificate, ClientTlsConfig};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

type Any = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Any> {
    let file = std::env::args()
        .nth(1)
        .ok_or("say which file has the steps")?;
    let scenario: Value = serde_json::from_str(&std::fs::read_to_string(file)?)?;
    for step in scenario["steps"].as_array().into_iter().flatten() {
        let told = match see(step).await {
            Ok(saw) => json!({"step": step["name"], "saw": saw}),
            Err(error) => json!({"step": step["name"], "error": error.to_string()}),
        };
        println!("{told}");
    }
    Ok(())
}

fn open(step: &Value, address: &str) -> Result<Client, Any> {
    let ca = step["ca_file"].as_str().map(std::fs::read).transpose()?;
    let tls = ca.map(|pem| ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)));
    let token = step["token"].as_str().map(str::to_owned);
    Ok(connect(text(&step[address]), Options { token, tls })?)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

async fn see(step: &Value) -> Result<Value, Any> {
    let mut client = open(step, "address")?;
    let task = prompt(text(&step["prompt"]));
    let wait = Some(pb_duration(60));
    Ok(match text(&step["op"]) {
        "health" => {
            let service = text(&step["service"]).to_owned();
            let mut health = HealthClient::new(client.transport.clone());
            let answer = health
                .check(HealthCheckRequest { service })
                .await?
                .into_inner();
            json!({"status": answer.status().as_str_name()})
        }
        "run" => {
            let result = client.run(task).await?;
            json!({"success": result.success, "output": result.output, "failure": failure(&result)})
        }
        "run_stream" => {
            let task = tagged(task);
            let mut stream = client.run_stream(task.clone());
            let events = collect(&mut stream).await?;
            let said: Vec<_> = events.iter().filter_map(delta).collect();
            json!({"text": said.concat(), "deltas": said.len(), "dense": dense(&events),
                "task_id": !stream.task_id().is_empty(), "state": state(&events),
                "tasks": tasks(&mut client, task).await?})
        }
        "submit_once" => {
            let task = tagged(task);
            client.submit(task.clone()).await?;
            json!({"tasks": tasks(&mut client, task).await?})
        }
        "submit_watch" => {
            let task_id = client.submit(task).await?;
            let events = collect(&mut client.watch(task_id, 0)).await?;
            json!({"dense": dense(&events), "state": state(&events)})
        }
        "late_attach" => {
            let after = step["after_sequence"].as_u64().unwrap_or_default();
            let task_id = client.submit(task).await?;
            client
                .pool
                .get_result(pb::GetResultRequest {
                    task_id: task_id.clone(),
                    wait,
                })
                .await?;
            let events = collect(&mut client.watch(task_id.clone(), 0)).await?;
            let rest = collect(&mut client.watch(task_id, after)).await?;
            let tail = !rest.is_empty() && rest == events[after as usize..];
            json!({"dense": dense(&events), "rest_is_tail": tail})
        }
        "cancel" => {
            let task_id = client.submit(task).await?;
            let target = pb::cancel_request::Target::TaskId(task_id.clone());
            let cancel = pb::CancelRequest {
                target: Some(target),
            };
            let mut stream = client.watch(task_id, 0);
            let mut events = Vec::new();
            while let Some(event) = stream.next().await? {
                if delta(&event).is_some() {
                    client.pool.cancel(cancel.clone()).await?;
                }
                events.push(event);
            }
            client.pool.cancel(cancel).await?;
            json!({"state": state(&events), "repeat": true})
        }
        "fan_out" => {
            let prompts: Vec<String> = serde_json::from_value(step["prompts"].clone())?;
            let (mut outputs, mut failures) = (
                vec![String::new(); prompts.len()],
                vec![String::new(); prompts.len()],
            );
            let tasks = prompts.into_iter().map(prompt).collect();
            let request_id = uuid::Uuid::new_v4().to_string();
            let request = pb::FanOutRequest {
                tasks,
                request_id,
                ..Default::default()
            };
            let mut stream = client.pool.fan_out(request).await?.into_inner();
            while let Some(message) = stream.message().await? {
                if let Some(pb::fan_out_response::Item::Finished(item)) = message.item {
                    let result = item.result.unwrap_or_default();
                    failures[item.index as usize] = failure(&result);
                    if result.success {
                        outputs[item.index as usize] = result.output;
                    }
                }
            }
            json!({"outputs": outputs, "failures": failures})
        }
        "chain" => {
            let request = pb::SubmitChainRequest {
                steps: chain_steps(step),
                ..Default::default()
            };
            let task_id = client
                .pool
                .submit_chain(request)
                .await?
                .into_inner()
                .task_id;
            let request = pb::WatchChainRequest {
                task_id: task_id.clone(),
                heartbeat_interval: None,
            };
            let mut stream = client.pool.watch_chain(request).await?.into_inner();
            let (mut last, mut rising) = (pb::ChainProgress::default(), true);
            while let Some(message) = stream.message().await? {
                if let Some(pb::watch_chain_response::Item::Progress(progress)) = message.item {
                    rising &= progress.sequence > last.sequence;
                    last = progress;
                }
            }
            let answer = client
                .pool
                .get_result(pb::GetResultRequest { task_id, wait })
                .await?
                .into_inner();
            let steps = answer
                .result
                .and_then(|r| r.chain)
                .unwrap_or_default()
                .steps;
            let completed: Vec<_> = last.completed_steps.iter().map(|s| &s.name).collect();
            json!({"status": last.status().as_str_name().replace("CHAIN_STATUS_", ""), "rising": rising,
                "outputs": steps.iter().map(|s| &s.output).collect::<Vec<_>>(), "completed": completed})
        }
        "workflow" => {
            let arguments: BTreeMap<String, String> =
                serde_json::from_value(step["arguments"].clone())?;
            let named = |name: &String| pb::Argument {
                name: name.clone(),
                required: true,
                ..Default::default()
            };
            let name = text(&step["workflow"]).to_owned();
            let workflow = pb::Workflow {
                name: name.clone(),
                description: "Greets.".to_owned(),
                arguments: arguments.keys().map(named).collect(),
                steps: chain_steps(step),
                ..Default::default()
            };
            client
                .catalog
                .put_workflow(pb::PutWorkflowRequest {
                    workflow: Some(workflow),
                })
                .await?;
            let request = pb::SubmitWorkflowRequest {
                name,
                arguments,
                ..Default::default()
            };
            let task_id = client
                .pool
                .submit_workflow(request)
                .await?
                .into_inner()
                .task_id;
            let answer = client
                .pool
                .get_result(pb::GetResultRequest { task_id, wait })
                .await?
                .into_inner();
            json!({"final_output": answer.result.and_then(|r| r.chain).unwrap_or_default().final_output})
        }
        "context" => {
            let (key, value) = (
                text(&step["key"]).to_owned(),
                text(&step["value"]).to_owned(),
            );
            client
                .context
                .set_context(pb::SetContextRequest {
                    key: key.clone(),
                    value: value.clone(),
                })
                .await?;
            let entries = client
                .context
                .list_context(pb::ListContextRequest::default())
                .await?
                .into_inner()
                .entries;
            let seen = client.run(task).await?.output.contains(&value);
            client
                .context
                .delete_context(pb::DeleteContextRequest { key: key.clone() })
                .await?;
            let error = refusal(
                client
                    .context
                    .get_context(pb::GetContextRequest { key: key.clone() })
                    .await,
            )?;
            let listed = entries.iter().any(|e| e.key == key && e.value == value);
            json!({"listed": listed, "seen": seen, "code": code(&error), "reason": error.reason})
        }
        "refused" => {
            let settings = pb::RunSettings {
                budget_microdollars: step["budget_microdollars"].as_i64(),
                ..Default::default()
            };
            let error = refusal(
                client
                    .submit(pb::TaskSpec {
                        settings: Some(settings),
                        ..task
                    })
                    .await,
            )?;
            let fields: Vec<_> = error.violations.keys().collect();
            json!({"code": code(&error), "reason": error.reason, "fields": fields})
        }
        "paused" => {
            client.operator.pause(pb::PauseRequest::default()).await?;
            let answer = client.submit(task).await;
            client.operator.resume(pb::ResumeRequest::default()).await?;
            let error = refusal(answer)?;
            let retry = error.retry_after.unwrap_or_default().as_millis() as u64;
            json!({"code": code(&error), "reason": error.reason, "retry_after_ms": retry})
        }
        "deadline" => {
            let timeout = Duration::from_millis(step["timeout_ms"].as_u64().unwrap_or_default());
            let error = refusal(client.run_stream(task).within(timeout).result().await)?;
            json!({"code": code(&error)})
        }
        "same_bytes" => {
            let direct = open(step, "direct")?;
            let task_id = direct.submit(task).await?;
            let disturbed = collect(&mut client.watch(&task_id, 0)).await?;
            let undisturbed = collect(&mut direct.watch(&task_id, 0)).await?;
            let shared = collect(&mut direct.watch(text(&step["task_id"]), 0)).await?;
            json!({"disturbed": digest(&disturbed), "undisturbed": digest(&undisturbed), "events": disturbed.len(),
                "shared": digest(&shared)})
        }
        other => return Err(format!("no such op: {other}").into()),
    })
}

async fn collect(stream: &mut TaskStream) -> Result<Vec<pb::Event>, Error> {
    let mut events = Vec::new();
    while let Some(event) = stream.next().await? {
        events.push(event);
    }
    Ok(events)
}

fn delta(event: &pb::Event) -> Option<&str> {
    match &event.kind {
        Some(Kind::TextDelta(delta)) => Some(&delta.text),
        _ => None,
    }
}

/// The task with a tag of its own, to count by.
fn tagged(task: pb::TaskSpec) -> pb::TaskSpec {
    let tags = vec![uuid::Uuid::new_v4().to_string()];
    pb::TaskSpec { tags, ..task }
}

/// How many tasks there are with its tag.
async fn tasks(client: &mut Client, task: pb::TaskSpec) -> Result<usize, Any> {
    let filter = pb::TaskFilter {
        any_tags: task.tags,
        ..Default::default()
    };
    let request = pb::ListTasksRequest {
        filter: Some(filter),
        ..Default::default()
    };
    let mut tries = 1;
    loop {
        match client.pool.list_tasks(request.clone()).await {
            Ok(answer) => return Ok(answer.into_inner().tasks.len()),
            // The proxy may cut a call of the bare stubs, which nothing repeats.
            Err(_) if tries < 5 => tries += 1,
            Err(status) => return Err(status.into()),
        }
    }
}

fn dense(events: &[pb::Event]) -> bool {
    !events.is_empty() && events.iter().zip(1..).all(|(event, n)| event.sequence == n)
}

fn state(events: &[pb::Event]) -> String {
    match events.last().and_then(|event| event.kind.as_ref()) {
        Some(Kind::Finished(end)) => end.state().as_str_name().replace("TASK_STATE_", ""),
        _ => String::new(),
    }
}

fn failure(result: &pb::TaskResult) -> String {
    let failure = result.failure.as_ref();
    failure
        .map(|f| f.reason().as_str_name().replace("FAILURE_REASON_", ""))
        .unwrap_or_default()
}

fn digest(events: &[pb::Event]) -> String {
    let bytes: Vec<u8> = events.iter().flat_map(Message::encode_to_vec).collect();
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn chain_steps(step: &Value) -> Vec<pb::ChainStep> {
    let steps = step["steps"].as_array().into_iter().flatten();
    let made = steps.map(|s| pb::ChainStep {
        name: text(&s["name"]).to_owned(),
        action: Some(pb::chain_step::Action::Prompt(
            text(&s["prompt"]).to_owned(),
        )),
        ..Default::default()
    });
    made.collect()
}

fn pb_duration(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

/// `NOT_FOUND` and the like.
fn code(error: &Error) -> String {
    let mut name = String::new();
    for c in format!("{:?}", error.code).chars() {
        if c.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

fn refusal<T>(answer: Result<T, impl Into<Refused>>) -> Result<Error, Any> {
    match answer {
        Ok(_) => Err("it was not refused".into()),
        Err(error) => Ok(error.into().0),
    }
}

/// From a stub or from a helper.
struct Refused(Error);

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self(status.into())
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self(error)
    }
}
