//! A whole server on a free port, with typed clients, for tests over real gRPC.
//!
//! The same tests run on every kind of agent: what a task is to do is said by
//! [`Caller::say`] and its like, which speak the agent's own grammar. A target
//! that includes this says by `agent()` in its root which kind it tests.

#![allow(dead_code, unused_imports, clippy::unwrap_used, missing_docs)]

pub mod agents;
mod caller;
pub mod codec;
mod deadlines;
pub mod http;
mod program;
#[path = "../../src/rpc/tests/raw.rs"]
pub mod raw;
pub mod secure;

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use claudepool::agent::claude::ClaudeOptions;
use claudepool::demo::StandIn;
use claudepool::pool::{Drained, Options, Pool};
use claudepool::rpc::{self, ServeError, Server};
use claudepool::store::Store;
use claudepool::store::memory::Memory;
use claudepool::store::sqlite::Sqlite;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub use self::agents::Kind;
pub use self::caller::*;
pub use self::deadlines::hanging_calls;
pub use self::program::{Program, Serving};

/// Longest wait for anything that must happen.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a server is started with.
pub struct Harness {
    kind: Kind,
    options: Options,
    server: rpc::Options,
    store: Option<Arc<dyn Store>>,
    tune: agents::Tune,
    dir: tempfile::TempDir,
}

impl Harness {
    /// Two slots in an empty directory, over the target's kind of agent.
    pub fn new() -> Self {
        Self::of(crate::agent())
    }

    /// The same over an agent that has processes, for what is about them.
    pub fn with_processes() -> Self {
        Self::of(crate::agent().with_processes())
    }

    /// The same over the real CLI, before a stand-in of its own.
    pub fn real() -> Self {
        Self::of(Kind::Real)
    }

    /// The same over this kind of agent.
    pub fn of(kind: Kind) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let work = dir.path().join("work");
        std::fs::create_dir(&work).unwrap();
        Self {
            kind,
            options: Options {
                working_dir: work,
                ..Options::default()
            },
            server: rpc::Options::default(),
            store: None,
            tune: Box::new(|_| {}),
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

    /// Keeps everything in this store. Default: on disk for the real CLI, in
    /// memory for the others.
    pub fn store(mut self, store: Arc<dyn Store>) -> Self {
        self.store = Some(store);
        self
    }

    /// Sets options of the Claude agent, where that is tested.
    pub fn agent(mut self, set: impl FnOnce(&mut ClaudeOptions) + Send + 'static) -> Self {
        self.tune = Box::new(set);
        self
    }

    /// Starts it.
    pub async fn start(self) -> Running {
        let store = match (self.store, self.kind) {
            (Some(store), _) => store,
            (None, Kind::Real) => {
                let file = self.dir.path().join("store.db");
                Arc::new(Sqlite::open(file).await.unwrap())
            }
            (None, Kind::Scripted | Kind::Fake) => Arc::new(Memory::new()),
        };
        let around = self.kind.surroundings().await;
        let state = self.dir.path().join("state");
        let agent = self.kind.open(&around, &state, self.tune);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = Server::new(self.server);
        let handle = server.handle();
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(server.serve(listener, async {
            let _ = stopped.await;
        }));
        let working_dir = self.options.working_dir.canonicalize().unwrap();
        let pool = agent
            .options(self.options)
            .store(store)
            .build()
            .await
            .unwrap();
        handle.open(pool.clone()).await;
        Running {
            // Where the server wants more than this, a test has its own way to it.
            caller: Caller::over(lazily(addr), self.kind.grammar()),
            pool,
            addr,
            handle,
            stop: Some(stop),
            served,
            working_dir,
            standin: around.standin,
            _dir: self.dir,
            _place: around.place,
        }
    }
}

/// A server under test, with a caller of it.
pub struct Running {
    caller: Caller,
    pub pool: Pool,
    pub addr: SocketAddr,
    pub handle: rpc::Handle,
    pub stop: Option<oneshot::Sender<()>>,
    pub served: JoinHandle<Result<Option<Drained>, ServeError>>,
    pub working_dir: PathBuf,
    standin: Option<StandIn>,
    _dir: tempfile::TempDir,
    _place: agents::Place,
}

impl Deref for Running {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.caller
    }
}

impl DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Caller {
        &mut self.caller
    }
}

impl Running {
    /// Where tasks work that name no directory.
    pub fn working_dir(&self) -> &Path {
        &self.working_dir
    }

    /// The stand-in of the Messages API, where the real CLI is tested.
    pub fn standin(&self) -> &StandIn {
        self.standin.as_ref().expect("the real CLI has one")
    }

    /// Asks the server to stop.
    pub fn stop(&mut self) {
        let stop = self.stop.take().expect("asked once");
        stop.send(()).expect("a live server");
    }
}
