//! What only the real CLI can show: that the model is sent what a caller asked
//! for, and nothing else. Seen by what the stand-in of the Messages API got.

mod isolation;
mod named;
mod prompts;
mod settings;

use claudepool::pb::{self, RunSettings};
use claudepool::pool::Options;
use serde_json::Value;

use crate::support::{Harness, Running, next, prompt};

/// A server whose tasks follow each other on one slot.
async fn one_slot(set: impl FnOnce(&mut Options)) -> Running {
    let one = Harness::real().options(|o| (o.slots, o.spares) = (1, 0));
    one.options(set).start().await
}

/// A task with settings.
fn asking(text: impl Into<String>, settings: RunSettings) -> pb::TaskSpec {
    pb::TaskSpec {
        settings: Some(settings),
        ..prompt(text)
    }
}

/// What a task came to, and the requests it made of the model.
struct Ran {
    result: pb::TaskResult,
    task_id: String,
    requests: Vec<Value>,
}

impl Ran {
    /// The first request.
    fn request(&self) -> &Value {
        self.requests.first().expect("the model was asked")
    }
}

/// Runs a task alone.
async fn run(server: &mut Running, task: pb::TaskSpec) -> Ran {
    let before = server.standin().requests().len();
    let answer = server.finish(task).await;
    let requests = server.standin().requests().split_off(before);
    Ran {
        result: answer.result.unwrap(),
        task_id: answer.task.unwrap().task_id,
        requests: requests.into_iter().map(|r| r.body).collect(),
    }
}

/// Runs a task that must succeed.
async fn succeed(server: &mut Running, task: pb::TaskSpec) -> Ran {
    let ran = run(server, task).await;
    assert!(ran.result.success, "{:?}", ran.result.failure);
    ran
}

/// The slot, once it is ready for a task.
async fn idle(server: &mut Running) -> pb::Slot {
    let mut statuses = (server.work)
        .watch_status(pb::WatchStatusRequest::default())
        .await
        .unwrap()
        .into_inner();
    loop {
        let message = next(&mut statuses).await.unwrap().expect("it never ends");
        if let Some(pb::watch_status_response::Item::Status(mut status)) = message.item
            && status.slots[0].state() == pb::SlotState::Idle
        {
            return status.slots.swap_remove(0);
        }
    }
}

/// Every text that a user sent in a request.
fn user_texts(request: &Value) -> Vec<&str> {
    let messages = request["messages"].as_array().expect("a request has them");
    let of_users = messages.iter().filter(|m| m["role"] == "user");
    of_users
        .flat_map(|message| match &message["content"] {
            Value::String(text) => vec![text.as_str()],
            Value::Array(blocks) => blocks.iter().filter_map(|b| b["text"].as_str()).collect(),
            _ => Vec::new(),
        })
        .collect()
}

/// The system prompt of a request.
fn system(request: &Value) -> String {
    let blocks = request["system"].as_array().expect("a request has it");
    let texts = blocks.iter().filter_map(|block| block["text"].as_str());
    texts.collect::<Vec<_>>().join("\n")
}

/// Whether the model may call a tool.
fn offers(request: &Value, tool: &str) -> bool {
    let tools = request["tools"].as_array().expect("a request has them");
    tools.iter().any(|offered| offered["name"] == tool)
}
