//! Words for tests with several servers on one database.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use claudepool::pb::{self, TaskState};
use tonic::Status;

use crate::support::{Caller, PATIENCE, Program, lazily, prompt, request_id};

const LEASE: Duration = Duration::from_secs(3);

/// A server of so many slots that carries its name as a label.
pub async fn named(name: &str, slots: u32, url: &str) -> Program {
    let lines = format!(
        "node_id = '{name}'\nnode_labels = ['{name}']\nnode_lease = '{}s'",
        LEASE.as_secs()
    );
    let program = Program::with_slots_and(slots, &lines).await;
    program.on(url.to_owned())
}

/// Work that one server alone runs.
pub fn on(name: &str, task: pb::TaskSpec) -> pb::TaskSpec {
    pb::TaskSpec {
        node_label: name.to_owned(),
        ..task
    }
}

/// Work that hangs in a tool at first, and when it is done again goes on. Its
/// record and, once it hangs, the file `NUMBER.seen` are in the directory.
pub fn hangs_once(dir: &Path, number: usize, then: &str) -> pb::TaskSpec {
    let record = dir.join(number.to_string());
    let seen = dir.join(format!("{number}.seen"));
    let (record, seen) = (record.display(), seen.display());
    let tool = format!("if [ -e {seen} ]; then echo again; else touch {seen}; sleep 600; fi");
    prompt(format!(
        "::record {record}\n::tokens 0 0\n::bash {tool}\n{then}"
    ))
}

/// The status of all, ten times a second.
pub async fn statuses(caller: &mut Caller) -> tonic::Streaming<pb::WatchStatusResponse> {
    let request = pb::WatchStatusRequest {
        interval: Some(prost_types::Duration {
            seconds: 0,
            nanos: 100_000_000,
        }),
        ..pb::WatchStatusRequest::default()
    };
    let watch = caller.work.watch_status(request).await;
    watch.unwrap().into_inner()
}

/// Waits until the status of all fits.
pub async fn until(caller: &mut Caller, fits: impl Fn(&pb::PoolStatus) -> bool) -> pb::PoolStatus {
    let mut watch = statuses(caller).await;
    let mut last = None;
    let found = async {
        loop {
            let message = watch.message().await.unwrap().expect("it goes on");
            if let Some(pb::watch_status_response::Item::Status(status)) = message.item {
                if fits(&status) {
                    return status;
                }
                last = Some(status);
            }
        }
    };
    let found = tokio::time::timeout(3 * PATIENCE, found).await;
    found.unwrap_or_else(|_| panic!("the status fits in time: {last:?}"))
}

/// The servers that live.
pub fn names(status: &pb::PoolStatus) -> Vec<&str> {
    let nodes = status.nodes.iter();
    nodes.map(|node| node.node_id.as_str()).collect()
}

/// How many tasks are in this state.
pub fn count(status: &pb::PoolStatus, state: TaskState) -> i64 {
    let counts = status.tasks.iter().filter(|count| count.state() == state);
    counts.map(|count| count.count).sum()
}

/// Somebody who knows several servers and goes to the next when one does not
/// answer, with the same request.
pub struct Stubborn {
    callers: Vec<Caller>,
    /// The place of the next one to be asked.
    pub next: usize,
    /// What was answered instead of what was asked for.
    pub failures: Vec<Status>,
}

/// Longest wait for an answer of one server.
const ANSWER: Duration = Duration::from_secs(4);
/// Between two rounds through all servers, as clients do.
const BACKOFF: Duration = Duration::from_millis(50);

impl Stubborn {
    /// Over connections of its own; begins with the server at place `first`.
    pub fn new(like: &Caller, servers: &[SocketAddr], first: usize) -> Self {
        let callers = servers.iter().map(|addr| like.elsewhere(lazily(*addr)));
        Self {
            callers: callers.collect(),
            next: first,
            failures: Vec::new(),
        }
    }

    /// Asks one after the other until one answers.
    async fn ask<A, F>(&mut self, ask: impl Fn(Caller) -> F) -> A
    where
        F: Future<Output = Result<A, Status>>,
    {
        let asking = async {
            loop {
                let at = self.next % self.callers.len();
                let asked = tokio::time::timeout(ANSWER, ask(self.callers[at].clone())).await;
                match asked {
                    Ok(Ok(answer)) => return answer,
                    Ok(Err(status)) => self.failures.push(status),
                    Err(_) => {}
                }
                self.next += 1;
                if self.next.is_multiple_of(self.callers.len()) {
                    tokio::time::sleep(BACKOFF).await;
                }
            }
        };
        let answer = tokio::time::timeout(PATIENCE, asking).await;
        answer.expect("one of the servers answers in time")
    }

    /// Makes a task durable; the request and the task.
    pub async fn submit(&mut self, task: pb::TaskSpec) -> (String, String) {
        let request = request_id();
        let id = self.submit_as(&request, task).await;
        (request, id)
    }

    /// The same under this request.
    pub async fn submit_as(&mut self, request: &str, task: pb::TaskSpec) -> String {
        let request = pb::SubmitRequest {
            task: Some(task),
            request_id: request.to_owned(),
        };
        let ask = |mut caller: Caller| {
            let request = request.clone();
            async move { caller.work.submit(request).await }
        };
        self.ask(ask).await.into_inner().task_id
    }

    /// Waits for a task's end.
    pub async fn result(&mut self, task_id: &str) {
        loop {
            let request = pb::GetResultRequest {
                task_id: task_id.to_owned(),
                wait: Some((ANSWER / 2).try_into().unwrap()),
            };
            let ask = |mut caller: Caller| {
                let request = request.clone();
                async move { caller.work.get_result(request).await }
            };
            if self.ask(ask).await.into_inner().result.is_some() {
                return;
            }
        }
    }
}
