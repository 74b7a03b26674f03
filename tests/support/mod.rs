//! A whole server on a free port, with typed clients, for tests over real gRPC.
//!
//! The same tests run on every kind of agent: what a task is to do is said by
//! [`Harness::say`] and its like, which speak the agent's own grammar.

#![allow(dead_code, clippy::unwrap_used, missing_docs)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use claudepool::agent::Agent;
use claudepool::agent::claude::{Claude, ClaudeOptions};
use claudepool::agent::scripted::Scripted;
use claudepool::pb;
use claudepool::pb::catalog_service_client::CatalogServiceClient;
use claudepool::pb::context_service_client::ContextServiceClient;
use claudepool::pb::operator_service_client::OperatorServiceClient;
use claudepool::pb::pool_service_client::PoolServiceClient;
use claudepool::pool::{Builder, Drained, Options, Pool};
use claudepool::rpc::{self, ServeError, Server};
use claudepool::store::Store;
use claudepool::store::memory::Memory;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

/// Longest wait for anything that must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How an agent is told what to do.
#[derive(Clone, Copy)]
pub enum Grammar {
    /// That of `claudepool::agent::scripted`.
    Lines,
    /// That of `claudepool::demo::script`.
    Directives,
}

/// What a server is started with.
pub struct Harness {
    agent: Builder,
    grammar: Grammar,
    options: Options,
    server: rpc::Options,
    store: Arc<dyn Store>,
    dir: tempfile::TempDir,
    state: Option<tempfile::TempDir>,
}

impl Harness {
    /// Two slots over a memory store, in an empty directory. The agent is the
    /// one without processes, or the one that `CLAUDEPOOL_TEST_AGENT` names:
    /// `fake`.
    pub fn new() -> Self {
        match std::env::var("CLAUDEPOOL_TEST_AGENT").as_deref() {
            Ok("fake") => Self::fake(),
            Ok(other) => panic!("CLAUDEPOOL_TEST_AGENT names no agent: {other}"),
            Err(_) => Self::over(Scripted::default(), Grammar::Lines),
        }
    }

    /// The same over the scripted CLI: real processes, real lines.
    pub fn fake() -> Self {
        let program = built("examples/fake_claude", "cargo build --example fake_claude");
        let shim = built("claudepool", "cargo build --bin claudepool");
        let state = tempfile::tempdir().unwrap();
        let mut options = ClaudeOptions::new(state.path());
        options.program = program;
        options.shim = vec![shim.into(), "__slot".into()];
        let mut harness = Self::over(Claude::open(options).unwrap(), Grammar::Directives);
        harness.state = Some(state);
        harness
    }

    /// The same over another agent.
    pub fn over(agent: impl Agent, grammar: Grammar) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            working_dir: dir.path().to_owned(),
            ..Options::default()
        };
        Self {
            state: None,
            agent: Pool::builder(agent),
            grammar,
            options,
            server: rpc::Options::default(),
            store: Arc::new(Memory::new()),
            dir,
        }
    }

    /// Sets options of the pool.
    pub fn options(mut self, set: impl FnOnce(&mut Options)) -> Self {
        set(&mut self.options);
        self
    }

    /// Sets options of the server.
    pub fn server(mut self, set: impl FnOnce(&mut rpc::Options)) -> Self {
        set(&mut self.server);
        self
    }

    /// Keeps everything in another store.
    pub fn store(mut self, store: Arc<dyn Store>) -> Self {
        self.store = store;
        self
    }

    /// Starts it.
    pub async fn start(self) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = Server::new(self.server);
        let handle = server.handle();
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(server.serve(listener, async {
            let _ = stopped.await;
        }));
        let pool = self
            .agent
            .options(self.options)
            .store(self.store)
            .build()
            .await
            .unwrap();
        handle.open(pool.clone()).await;
        let channel = connect(addr).await;
        Running {
            work: PoolServiceClient::new(channel.clone()),
            operator: OperatorServiceClient::new(channel.clone()),
            catalog: CatalogServiceClient::new(channel.clone()),
            context: ContextServiceClient::new(channel.clone()),
            health: HealthClient::new(channel),
            grammar: self.grammar,
            pool,
            addr,
            handle,
            stop: Some(stop),
            served,
            _dir: self.dir,
            _state: self.state,
        }
    }
}

/// A new connection to a server.
pub async fn connect(addr: SocketAddr) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{addr}")).unwrap();
    endpoint.connect().await.unwrap()
}

/// A server under test.
pub struct Running {
    pub work: PoolServiceClient<Channel>,
    pub operator: OperatorServiceClient<Channel>,
    pub catalog: CatalogServiceClient<Channel>,
    pub context: ContextServiceClient<Channel>,
    pub health: HealthClient<Channel>,
    grammar: Grammar,
    pub pool: Pool,
    pub addr: SocketAddr,
    pub handle: rpc::Handle,
    pub stop: Option<oneshot::Sender<()>>,
    pub served: JoinHandle<Result<Option<Drained>, ServeError>>,
    _dir: tempfile::TempDir,
    _state: Option<tempfile::TempDir>,
}

/// A program of this build, beside the one cargo names.
fn built(name: &str, how: &str) -> PathBuf {
    let ours = PathBuf::from(env!("CARGO_BIN_EXE_claudepool"));
    let path = ours.with_file_name(name);
    assert!(path.exists(), "{} is missing: {how}", path.display());
    path
}

fn spec(prompt: String) -> pb::TaskSpec {
    pb::TaskSpec {
        input: Some(pb::task_spec::Input::Prompt(prompt)),
        ..Default::default()
    }
}

impl Running {
    /// A task that answers `text`.
    pub fn say(&self, text: &str) -> pb::TaskSpec {
        spec(match self.grammar {
            Grammar::Lines => format!("say {text}"),
            Grammar::Directives => format!("::echo {text}"),
        })
    }

    /// A task that says `text` and then waits for its end.
    pub fn hang(&self, text: &str) -> pb::TaskSpec {
        spec(match self.grammar {
            Grammar::Lines => format!("say {text}\nhang"),
            Grammar::Directives => format!("::echo {text}\n::hang"),
        })
    }

    /// A task that says `text` after a while.
    pub fn slow(&self, text: &str, wait: Duration) -> pb::TaskSpec {
        let ms = wait.as_millis();
        spec(match self.grammar {
            Grammar::Lines => format!("wait {ms}\nsay {text}"),
            Grammar::Directives => format!("::bash sleep {}\n::echo {text}", wait.as_secs_f64()),
        })
    }

    /// A task that the provider refuses.
    pub fn refused(&self) -> pb::TaskSpec {
        spec(match self.grammar {
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

    /// Asks the server to stop.
    pub fn stop(&mut self) {
        let stop = self.stop.take().expect("asked once");
        stop.send(()).expect("a live server");
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
