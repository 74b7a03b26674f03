//! A caller of a server: typed clients, and words for what tests do with them.

use std::net::SocketAddr;
use std::time::Duration;

use claudepool::pb;
use claudepool::pb::catalog_service_client::CatalogServiceClient;
use claudepool::pb::context_service_client::ContextServiceClient;
use claudepool::pb::operator_service_client::OperatorServiceClient;
use claudepool::pb::pool_service_client::PoolServiceClient;

use prost::Message;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

use super::PATIENCE;

/// How an agent is told what to do.
#[derive(Clone, Copy)]
pub enum Grammar {
    /// That of `claudepool::agent::scripted`.
    Lines,
    /// That of `claudepool::demo::script`.
    Directives,
}

/// A new connection to a server.
pub async fn connect(addr: SocketAddr) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{addr}")).unwrap();
    endpoint.connect().await.unwrap()
}

/// A connection that comes about when it is used first.
pub fn lazily(addr: SocketAddr) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{addr}")).unwrap();
    endpoint.connect_lazy()
}

/// Clients over one connection.
#[derive(Clone)]
pub struct Caller {
    pub work: PoolServiceClient<Channel>,
    pub operator: OperatorServiceClient<Channel>,
    pub catalog: CatalogServiceClient<Channel>,
    pub context: ContextServiceClient<Channel>,
    pub health: HealthClient<Channel>,
    grammar: Grammar,
}

/// A task with this prompt.
pub fn prompt(prompt: impl Into<String>) -> pb::TaskSpec {
    pb::TaskSpec {
        input: Some(pb::task_spec::Input::Prompt(prompt.into())),
        ..Default::default()
    }
}

impl Caller {
    /// Over a connection, to a server whose agent speaks `grammar`.
    pub fn over(channel: Channel, grammar: Grammar) -> Self {
        Self {
            work: PoolServiceClient::new(channel.clone()),
            operator: OperatorServiceClient::new(channel.clone()),
            catalog: CatalogServiceClient::new(channel.clone()),
            context: ContextServiceClient::new(channel.clone()),
            health: HealthClient::new(channel),
            grammar,
        }
    }

    /// Another one, over its own connection.
    pub fn elsewhere(&self, channel: Channel) -> Self {
        Self::over(channel, self.grammar)
    }

    /// A task that answers `text`.
    pub fn say(&self, text: &str) -> pb::TaskSpec {
        prompt(match self.grammar {
            Grammar::Lines => format!("say {text}"),
            Grammar::Directives => format!("::echo {text}"),
        })
    }

    /// A task that says `text` and then waits for its end.
    pub fn hang(&self, text: &str) -> pb::TaskSpec {
        prompt(match self.grammar {
            Grammar::Lines => format!("say {text}\nhang"),
            Grammar::Directives => format!("::echo {text}\n::hang"),
        })
    }

    /// A task that says `text` after a while.
    pub fn slow(&self, text: &str, wait: Duration) -> pb::TaskSpec {
        let ms = wait.as_millis();
        prompt(match self.grammar {
            Grammar::Lines => format!("wait {ms}\nsay {text}"),
            Grammar::Directives => format!("::bash sleep {}\n::echo {text}", wait.as_secs_f64()),
        })
    }

    /// A task that says `text` and costs something.
    pub fn paid(&self, text: &str) -> pb::TaskSpec {
        prompt(match self.grammar {
            Grammar::Lines => format!("cost 1234\nsay {text}"),
            Grammar::Directives => format!("::tokens 3000 200\n::echo {text}"),
        })
    }

    /// A task of so many requests, at 0.2 dollars each, that calls a tool of some
    /// duration in between.
    pub fn dear(&self, requests: u32) -> pb::TaskSpec {
        prompt(match self.grammar {
            Grammar::Lines => (1..=requests)
                .map(|n| format!("cost {}\ntool\nwait 50\n", n * 200_000))
                .collect(),
            Grammar::Directives => {
                let paid = "::tokens 30000 4000\n";
                let calls = "::bash sleep 0.5\n".to_owned();
                let calls = format!("{paid}{calls}").repeat(requests as usize - 1);
                format!("{calls}{paid}::echo done")
            }
        })
    }

    /// A task with a long answer that comes slowly, in many pieces.
    pub fn long(&self) -> pb::TaskSpec {
        prompt(match self.grammar {
            Grammar::Lines => (0..60)
                .map(|i| format!("say {i} {}\nwait 25\n", "words ".repeat(500)))
                .collect(),
            Grammar::Directives => "::slow 60 25\n::text 200000\n::slow 20 25".to_owned(),
        })
    }

    /// A task that the provider refuses.
    pub fn refused(&self) -> pb::TaskSpec {
        prompt(match self.grammar {
            Grammar::Lines => "fail 400".to_owned(),
            Grammar::Directives => "::error 400".to_owned(),
        })
    }

    /// Makes a task durable.
    pub async fn submit(&mut self, task: pb::TaskSpec) -> String {
        let request = pb::SubmitRequest {
            task: Some(task),
            ..Default::default()
        };
        let answer = self.work.submit(request).await.unwrap();
        answer.into_inner().task_id
    }

    /// Makes a task durable and waits for its end.
    pub async fn finish(&mut self, task: pb::TaskSpec) -> pb::GetResultResponse {
        let task_id = self.submit(task).await;
        self.result(&task_id).await
    }

    /// Waits for a task's end.
    pub async fn result(&mut self, task_id: &str) -> pb::GetResultResponse {
        let request = pb::GetResultRequest {
            task_id: task_id.to_owned(),
            wait: Some(PATIENCE.try_into().unwrap()),
        };
        let answer = self.work.get_result(request).await.unwrap().into_inner();
        assert!(answer.result.is_some(), "ends in time: {:?}", answer.task);
        answer
    }

    /// Cancels a task.
    pub async fn cancel(&mut self, task_id: &str) {
        let target = pb::cancel_request::Target::TaskId(task_id.to_owned());
        let request = pb::CancelRequest {
            target: Some(target),
        };
        self.work.cancel(request).await.unwrap();
    }

    /// The pool as it is now.
    pub async fn status(&mut self) -> pb::PoolStatus {
        let request = pb::GetStatusRequest::default();
        let answer = self.work.get_status(request).await.unwrap();
        answer.into_inner().status.unwrap()
    }

    /// A task as it is now.
    pub async fn task(&mut self, task_id: &str) -> pb::Task {
        let request = pb::GetTaskRequest {
            task_id: task_id.to_owned(),
        };
        let answer = self.work.get_task(request).await.unwrap();
        answer.into_inner().task.unwrap()
    }

    /// A task's log after a sequence.
    pub async fn watch(
        &mut self,
        task_id: &str,
        after_sequence: u64,
    ) -> Streaming<pb::WatchTaskResponse> {
        let request = pb::WatchTaskRequest {
            task_id: task_id.to_owned(),
            after_sequence,
            heartbeat_interval: None,
        };
        self.work.watch_task(request).await.unwrap().into_inner()
    }

    /// Waits until a task's attempt has said something: only then is it in the
    /// middle of its turn.
    pub async fn said(&mut self, task_id: &str) {
        let mut log = self.watch(task_id, 0).await;
        loop {
            let event = next_event(&mut log).await.expect("it says something first");
            if let Some(pb::event::Kind::TextDelta(_)) = event.kind {
                return;
            }
        }
    }
}

/// The next message of a stream, or its end.
pub async fn next<M>(stream: &mut Streaming<M>) -> Result<Option<M>, Status> {
    tokio::time::timeout(PATIENCE, stream.message())
        .await
        .expect("a message in time")
}

/// The next event of a log, past heartbeats; `None`: the end.
pub async fn next_event(log: &mut Streaming<pb::WatchTaskResponse>) -> Option<pb::Event> {
    loop {
        match next(log).await.unwrap()?.item.unwrap() {
            pb::watch_task_response::Item::Event(event) => return Some(event),
            pb::watch_task_response::Item::Heartbeat(_) => {}
        }
    }
}

/// The rest of a log.
pub async fn events(mut log: Streaming<pb::WatchTaskResponse>) -> Vec<pb::Event> {
    let mut events = Vec::new();
    while let Some(event) = next_event(&mut log).await {
        events.push(event);
    }
    events
}

/// Asserts that two logs are the same on the wire, byte for byte.
#[track_caller]
pub fn assert_same_bytes(seen: &[pb::Event], whole: &[pb::Event], who: &str) {
    let differs = seen
        .iter()
        .zip(whole)
        .position(|(seen, whole)| seen.encode_to_vec() != whole.encode_to_vec());
    assert_eq!(differs, None, "{who}: an event differs");
    assert_eq!(seen.len(), whole.len(), "{who}: as many events");
}

/// What ends a log.
pub fn finished(log: &[pb::Event]) -> &pb::Finished {
    match log.last().and_then(|event| event.kind.as_ref()) {
        Some(pb::event::Kind::Finished(finished)) => finished,
        other => panic!("the end comes last, not {other:?}"),
    }
}

/// Asserts a refusal by code and reason.
#[track_caller]
pub fn refused<T>(answer: Result<T, Status>, code: Code, reason: &str) -> Status {
    let Err(status) = answer else {
        panic!("refused with {reason}");
    };
    let info = status.get_details_error_info();
    let told = info.map(|info| info.reason).unwrap_or_default();
    assert_eq!((status.code(), told.as_str()), (code, reason), "{status:?}");
    status
}

/// The fields that a refusal names.
pub fn fields(status: &Status) -> Vec<String> {
    let violations = status.get_details_bad_request().map(|b| b.field_violations);
    let violations = violations.unwrap_or_default().into_iter();
    violations.map(|v| v.field).collect()
}

/// A fresh request_id.
pub fn request_id() -> String {
    claudepool::id::RequestId::new().to_string()
}
