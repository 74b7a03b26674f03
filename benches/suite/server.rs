//! Servers in processes of their own, so that what they take is theirs alone.
//!
//! This program starts itself again with `__serve` and a description; the child
//! says where it listens and ends when its stdin closes.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use claudepool::agent::Agent;
use claudepool::agent::claude::{Claude, ClaudeOptions};
use claudepool::pb;
use claudepool::pb::pool_service_client::PoolServiceClient;
use claudepool::pb::task_spec::Input;
use claudepool::pool::{Options, Pool};
use claudepool::{rpc, store};
use serde::{Deserialize, Serialize};
use tonic::transport::{Channel, Endpoint};

use super::agent::Talker;
use super::measure::Failure;
use super::proc::Usage;
use super::raw::Bare;

/// The argument by which a child knows what it is.
const COMMAND: &str = "__serve";

/// What may be under way to a client of many streams: as much as they may hold
/// together, or some that nobody reads yet keep the others from their first message.
const WINDOW: u32 = 8 << 20;

/// What a child serves.
#[derive(Clone, Serialize, Deserialize)]
pub enum Kind {
    /// tonic alone.
    Bare,
    /// The pool over the talking agent.
    Talker {
        /// Slots.
        slots: u32,
        /// The URL of the store.
        store: String,
        /// Its name and its label among many servers; empty: it is alone.
        node: String,
    },
    /// The pool over the real CLI.
    Claude {
        /// Slots.
        slots: u32,
        /// Where everything is kept.
        dir: PathBuf,
        /// Where tasks work.
        work: PathBuf,
        /// The CLI.
        program: PathBuf,
        /// The stand-in of the Messages API.
        api: String,
    },
}

/// A server that runs.
pub struct Server {
    child: Child,
    address: String,
}

impl Server {
    /// Starts one.
    pub fn start(kind: &Kind) -> Result<Self, Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([COMMAND, &serde_json::to_string(kind)?])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let stdout = child.stdout.take().ok_or("no stdout")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().to_owned();
        if address.is_empty() {
            return Err("a server did not start".into());
        }
        Ok(Self { child, address })
    }

    /// A pool over the talking agent, in a fresh directory below `dir`.
    pub fn talker(dir: &Path, slots: u32) -> Result<Self, Failure> {
        let dir = tempfile::tempdir_in(dir)?.keep();
        Self::start(&Kind::Talker {
            slots,
            store: format!("sqlite:{}", dir.join("pool.db").display()),
            node: String::new(),
        })
    }

    /// The same as one of many on a store, with its name as a label.
    pub fn node(store: &str, name: &str, slots: u32) -> Result<Self, Failure> {
        Self::start(&Kind::Talker {
            slots,
            store: store.to_owned(),
            node: name.to_owned(),
        })
    }

    /// Connections to it.
    pub async fn connect(&self, count: usize) -> Result<Vec<Channel>, Failure> {
        let mut channels = Vec::new();
        for _ in 0..count {
            let endpoint = Endpoint::new(self.address.clone())?;
            let endpoint = endpoint.initial_connection_window_size(WINDOW);
            channels.push(endpoint.connect().await?);
        }
        Ok(channels)
    }

    /// A client on a connection of its own.
    pub async fn client(&self) -> Result<PoolServiceClient<Channel>, Failure> {
        Ok(PoolServiceClient::connect(self.address.clone()).await?)
    }

    /// What its process and those below have used so far.
    pub fn usage(&self) -> Usage {
        Usage::of(self.child.id())
    }

    /// Its memory that no file backs, in bytes.
    pub fn memory(&self) -> f64 {
        super::proc::anonymous(self.child.id())
    }

    /// Its resident memory, in bytes.
    pub fn resident(&self) -> f64 {
        super::proc::resident(self.child.id())
    }

    /// The memory of all processes below it, what they share divided, in bytes.
    pub fn memory_below(&self) -> f64 {
        let all = super::proc::below(self.child.id());
        all.into_iter().map(super::proc::proportional).sum()
    }

    /// Takes a slot away, until the end: what is submitted then waits.
    pub async fn occupy(&self, slots: u32) -> Result<(), Failure> {
        let mut client = self.client().await?;
        for _ in 0..slots {
            client.submit(submit("hang")).await?;
        }
        self.wait(|status| status.slots_busy >= slots as i32).await
    }

    /// Waits until the status is as wished.
    pub async fn wait(&self, is: impl Fn(&pb::PoolStatus) -> bool) -> Result<(), Failure> {
        let mut client = self.client().await?;
        loop {
            let answer = client.get_status(pb::GetStatusRequest::default()).await?;
            if answer.into_inner().status.is_some_and(|status| is(&status)) {
                return Ok(());
            }
            // A look costs the server something too.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// What is submitted to wait or to run.
pub fn spec(prompt: &str) -> pb::TaskSpec {
    pb::TaskSpec {
        input: Some(Input::Prompt(prompt.to_owned())),
        ..Default::default()
    }
}

/// A Submit.
pub fn submit(prompt: &str) -> pb::SubmitRequest {
    pb::SubmitRequest {
        task: Some(spec(prompt)),
        request_id: String::new(),
    }
}

/// If this process is a child: serves, then `true`.
pub fn intercept() -> Result<bool, Failure> {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() != Some(COMMAND) {
        return Ok(false);
    }
    let kind = serde_json::from_str(&args.next().ok_or("no description")?)?;
    claudepool::cli::runtime()?.block_on(serve(kind))?;
    Ok(true)
}

async fn serve(kind: Kind) -> Result<(), Failure> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("http://{}", listener.local_addr()?);
    let (stop, mut stopped) = tokio::sync::mpsc::channel::<()>(1);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        drop(stop);
    });
    match kind {
        Kind::Bare => {
            tell(&address)?;
            let bare = Bare::new(an_answer());
            tokio::select! {
                served = bare.serve(listener) => served,
                _ = stopped.recv() => Ok(()),
            }
        }
        Kind::Talker { slots, store, node } => {
            let mut options = options(slots);
            options
                .node_labels
                .extend((!node.is_empty()).then(|| node.clone()));
            options.node_id = node;
            let pool = pool(Talker, &store, options).await?;
            serve_pool(pool, listener, &address, stopped).await
        }
        Kind::Claude {
            slots,
            dir,
            work,
            program,
            api,
        } => {
            let agent = claude(&dir.join("agent"), &program, &api)?;
            let options = Options {
                working_dir: work,
                ..options(slots)
            };
            let store = format!("sqlite:{}", dir.join("pool.db").display());
            let pool = pool(agent, &store, options).await?;
            serve_pool(pool, listener, &address, stopped).await
        }
    }
}

/// The agent that drives the real CLI, against the stand-in.
pub fn claude(state: &Path, program: &Path, api: &str) -> Result<Claude, Failure> {
    let mut options = ClaudeOptions::new(state);
    options.program = program.to_owned();
    options.lend_credentials = false;
    let env = [("ANTHROPIC_API_KEY", "dummy"), ("ANTHROPIC_BASE_URL", api)];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
    options.env.extend(env);
    Ok(Claude::open(options)?)
}

fn options(slots: u32) -> Options {
    Options {
        slots,
        max_slots: 1000,
        spares: 0,
        queue_max: 10_000_000,
        watchers_max: 20_000,
        process_attempts_max: 1_000_000,
        process_memory_max: u64::MAX,
        ..Options::default()
    }
}

async fn pool(agent: impl Agent, store: &str, options: Options) -> Result<Pool, Failure> {
    let store = store::open(store).await?;
    let builder = Pool::builder(agent).store(store).options(options);
    Ok(builder.build().await?)
}

async fn serve_pool(
    pool: Pool,
    listener: tokio::net::TcpListener,
    address: &str,
    mut stopped: tokio::sync::mpsc::Receiver<()>,
) -> Result<(), Failure> {
    let server = rpc::Server::new(rpc::Options::default());
    server.handle().open(pool.clone()).await;
    tell(address)?;
    tokio::select! {
        served = server.serve(listener, std::future::pending()) => {
            served?;
        }
        _ = stopped.recv() => {}
    }
    // What waits in the queue is of no use to anybody: no drain.
    pool.shutdown().await;
    Ok(())
}

fn tell(address: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{address}")?;
    Ok(stdout.flush()?)
}

/// Of the size of what GetResult answers.
fn an_answer() -> pb::GetResultResponse {
    pb::GetResultResponse {
        task: Some(pb::Task {
            task_id: "0".repeat(36),
            slot_id: "slot-0".to_owned(),
            create_time: Some(Default::default()),
            start_time: Some(Default::default()),
            end_time: Some(Default::default()),
            ..Default::default()
        }),
        result: Some(pb::TaskResult {
            output: "ok".to_owned(),
            success: true,
            session_id: "session-0".to_owned(),
            model: "bench".to_owned(),
            ..Default::default()
        }),
    }
}
