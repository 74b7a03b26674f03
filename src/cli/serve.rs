//! `claudepool serve`: wires the modules into a server.

use std::path::PathBuf;

use clap::Args;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::failure::Failure;
use super::paths::settle_paths;
use super::signals::Signals;
use super::status::StatusPort;
use super::{files, harden, listen, logs};
use crate::agent::claude::Claude;
use crate::config::{Config, Listen, LogFormat, StatusListen, StoreUrl};
use crate::id::NodeId;
use crate::metrics::Metrics;
use crate::money::Microdollars;
use crate::pool::{Drained, Pool};
use crate::rpc::{self, ServeError};
use crate::store;

/// Flags of `serve`. Each wins over the environment variable beside it, which
/// wins over the file.
#[derive(Args)]
pub(super) struct ServeArgs {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE", env = "CLAUDEPOOL_CONFIG")]
    config: Option<PathBuf>,
    /// Address or unix:/path to listen on; one that others can reach needs TLS and
    /// authentication [default: 127.0.0.1:50051].
    #[arg(long, value_name = "ADDRESS", env = "CLAUDEPOOL_LISTEN")]
    listen: Option<Listen>,
    /// Listen on an address that others can reach without TLS and
    /// authentication. Whoever reaches it can use this machine.
    #[arg(long, env = "CLAUDEPOOL_INSECURE")]
    insecure: bool,
    /// Attempts that run at a time [default: 2].
    #[arg(long, value_name = "N", env = "CLAUDEPOOL_SLOTS")]
    slots: Option<u32>,
    /// The Claude Code CLI [default: `claude` in PATH].
    #[arg(long, value_name = "PATH", env = "CLAUDEPOOL_CLAUDE_BIN")]
    claude_bin: Option<PathBuf>,
    /// memory, sqlite:PATH or postgres://… [default: a file in the data folder].
    #[arg(
        long,
        value_name = "URL",
        env = "CLAUDEPOOL_STORE",
        hide_env_values = true
    )]
    store: Option<String>,
    /// This server's name among those on one store [default: host and port].
    #[arg(long, value_name = "NAME", env = "CLAUDEPOOL_NODE_ID")]
    node_id: Option<String>,
    /// What tasks may ask for with a node label; several with commas [default: none].
    #[arg(
        long = "node-label",
        value_name = "LABEL",
        env = "CLAUDEPOOL_NODE_LABELS",
        value_delimiter = ','
    )]
    node_labels: Vec<String>,
    /// Working directory of tasks that name none, and the root that all must
    /// stay in unless the file names others [default: the current one].
    #[arg(long, value_name = "DIR", env = "CLAUDEPOOL_WORKING_DIR")]
    working_dir: Option<PathBuf>,
    /// The most that may be spent in all, in US dollars [default: no limit].
    #[arg(long, value_name = "X", env = "CLAUDEPOOL_BUDGET_USD")]
    budget_usd: Option<f64>,
    /// Address of the status port, or `off` [default: 127.0.0.1 and the next port].
    #[arg(long, value_name = "ADDRESS", env = "CLAUDEPOOL_STATUS_LISTEN")]
    status_listen: Option<StatusListen>,
    /// What is logged to stderr, as tracing's filters [default: info].
    #[arg(long, value_name = "FILTER", env = "CLAUDEPOOL_LOG")]
    log: Option<String>,
    /// How it is logged [default: text].
    #[arg(long, value_name = "FORMAT", env = "CLAUDEPOOL_LOG_FORMAT")]
    log_format: Option<LogFormat>,
    /// OpenTelemetry collector, for instance http://127.0.0.1:4317 [default: none].
    #[arg(
        long,
        value_name = "URL",
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        hide_env_values = true
    )]
    otel_endpoint: Option<String>,
    /// The service's name in traces and metrics [default: claudepool].
    #[arg(long, value_name = "NAME", env = "OTEL_SERVICE_NAME")]
    otel_service_name: Option<String>,
}

impl ServeArgs {
    /// The file's configuration under the environment's and the flags' values.
    fn config(&self) -> Result<Config, Failure> {
        let usage = |error: crate::config::ConfigError| Failure::usage(error.to_string());
        let mut config = match &self.config {
            Some(file) => Config::read(file).map_err(usage)?,
            None => Config::default(),
        };
        if let Some(listen) = &self.listen {
            config.server.listen = listen.clone();
        }
        config.server.insecure |= self.insecure;
        if let Some(slots) = self.slots {
            config.pool.slots = slots;
        }
        if let Some(program) = &self.claude_bin {
            config.agent.program = Some(program.clone());
        }
        if let Some(store) = &self.store {
            config.store = Some(StoreUrl(store.clone()));
        }
        if let Some(id) = &self.node_id {
            config.pool.node_id.clone_from(id);
        }
        if !self.node_labels.is_empty() {
            config.pool.node_labels = self.node_labels.iter().cloned().collect();
        }
        if let Some(dir) = &self.working_dir {
            config.pool.working_dir = dir.clone();
        }
        if self.budget_usd.is_some() {
            config.pool.budget_usd = self.budget_usd;
        }
        self.observed(&mut config);
        config.check().map_err(usage)?;
        Ok(config)
    }

    /// What is told of the server, and where.
    fn observed(&self, config: &mut Config) {
        if self.status_listen.is_some() {
            config.status.listen = self.status_listen;
        }
        if let Some(filter) = &self.log {
            config.log.filter.clone_from(filter);
        }
        if let Some(format) = self.log_format {
            config.log.format = format;
        }
        if self.otel_endpoint.is_some() {
            config.otel.endpoint.clone_from(&self.otel_endpoint);
        }
        if let Some(name) = &self.otel_service_name {
            config.otel.service_name.clone_from(name);
        }
    }
}

/// Serves until the first SIGTERM or SIGINT, then drains; a second one ends the
/// drain.
pub(super) async fn run(args: ServeArgs) -> Result<(), Failure> {
    let config = args.config()?;
    let interval = config.otel.metrics_interval;
    let exporter = logs::begin(&config)?;
    let mut signals = Signals::new()?;
    files::raise();
    let started = tokio::select! {
        started = start(config) => started?,
        () = signals.next() => return Ok(()),
    };
    started.tell();
    let handle = started.handle.clone();
    logs::exported(exporter, &handle, interval, started.until(signals)).await
}

/// A server that takes work.
pub(super) struct Serving {
    pool: Pool,
    handle: rpc::Handle,
    stop: CancellationToken,
    server: JoinHandle<Result<Option<Drained>, ServeError>>,
    listen: Listen,
    encrypted: bool,
    status: Option<StatusPort>,
    // Removed with what is in it, after everything else.
    _scratch: Option<TempDir>,
}

impl Serving {
    /// Where clients reach it.
    pub(super) fn url(&self) -> String {
        match &self.listen {
            Listen::Tcp(address) if self.encrypted => format!("https://{address}"),
            Listen::Tcp(address) => format!("http://{address}"),
            Listen::Unix(path) => format!("unix:{}", path.display()),
        }
    }

    /// Says where it is reached. Whoever waits reads the first line alone.
    fn tell(&self) {
        println!("claudepool is serving on {}", self.url());
        if let Some(port) = &self.status {
            port.tell();
        }
    }

    /// Serves until the first signal, drains until the second.
    pub(super) async fn until(mut self, mut signals: Signals) -> Result<(), Failure> {
        tokio::select! {
            ended = &mut self.server => return self.ended(ended).await,
            () = signals.next() => {}
        }
        tracing::info!("a signal came: the server drains; another one ends it at once");
        self.stop.cancel();
        let ended = tokio::select! {
            ended = &mut self.server => ended,
            () = signals.next() => {
                self.handle.hurry();
                tokio::select! {
                    ended = &mut self.server => ended,
                    () = signals.next() => return Err(Failure::failed("ended at the third signal")),
                }
            }
        };
        self.ended(ended).await
    }

    /// Drains and ends now.
    #[cfg(feature = "demo")]
    pub(super) async fn stop(mut self) -> Result<(), Failure> {
        self.stop.cancel();
        let ended = (&mut self.server).await;
        self.ended(ended).await
    }

    async fn ended(
        self,
        ended: Result<Result<Option<Drained>, ServeError>, tokio::task::JoinError>,
    ) -> Result<(), Failure> {
        self.pool.shutdown().await;
        if let Listen::Unix(path) = &self.listen {
            // The next server would find it stale; that is all.
            let _ = std::fs::remove_file(path);
        }
        let drained = ended
            .map_err(|error| Failure::failed(format!("the server failed: {error}")))?
            .map_err(|error| Failure::failed(error.to_string()))?
            .unwrap_or_default();
        tracing::info!(
            tasks_completed = drained.tasks_completed,
            tasks_left = drained.tasks_left,
            cost = %drained.cost,
            "the server has stopped"
        );
        Ok(())
    }
}

/// Starts a server and returns when it takes work. Until then its health is
/// NOT_SERVING.
pub(super) async fn start(mut config: Config) -> Result<Serving, Failure> {
    harden::harden()?;
    let security = config.server.security();
    let security = security.map_err(|error| Failure::usage(error.to_string()))?;
    if config.server.is_insecure() {
        let listen = &config.server.listen;
        tracing::warn!(
            %listen,
            "INSECURE: whoever reaches this address can use this machine, and can read along"
        );
    }
    let scratch = settle_paths(&mut config)?;
    let (listener, listen) = listen::bind(&config.server.listen)
        .await
        .map_err(Failure::failed)?;
    // Before the address is known: the port after one that the system chose may
    // be anybody's.
    let status = StatusPort::bind(&mut config)
        .await
        .map_err(Failure::failed)?;
    config.server.listen = listen.clone();
    let metrics = Metrics::new();
    let shown = config
        .to_toml()
        .map_err(|e| Failure::failed(e.to_string()))?;
    let server = rpc::Server::new(rpc::Options {
        config_toml: Some(shown),
        security,
        metrics: metrics.clone(),
        limits: files::within(config.server.limits.clone()),
        web: config.server.web.clone(),
    });
    let handle = server.handle();
    let status = status.map(|port| port.serve(handle.clone()));
    let stop = CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    let mut server = tokio::spawn(server.serve(listener, stopped));

    match build(&config, metrics).await {
        Ok(pool) => {
            handle.open(pool.clone()).await;
            Ok(Serving {
                pool,
                handle,
                stop,
                server,
                listen,
                encrypted: config.server.tls.is_some(),
                status,
                _scratch: scratch,
            })
        }
        Err(sentence) => {
            stop.cancel();
            // What it says matters less than why there is no pool.
            let _ = (&mut server).await;
            Err(Failure::failed(sentence))
        }
    }
}

/// The pool. `Err`: one sentence.
async fn build(config: &Config, metrics: Metrics) -> Result<Pool, String> {
    let url = config.store.as_ref().map_or("memory", |url| &url.0);
    let store = store::open(url).await.map_err(|error| error.to_string())?;
    let ceiling = Microdollars::from_dollars(config.pool.policy.task_budget_max_usd);
    let options = config.agent.options(
        config.agent.program.clone().unwrap_or_default(),
        config.agent.state_dir.clone().unwrap_or_default(),
        ceiling,
    );
    let agent = Claude::open(options).map_err(|error| error.to_string())?;
    let mut builder = Pool::builder(agent);
    if store.cluster().is_some() {
        builder = builder.node(place(&config.server.listen));
    }
    builder
        .store(store)
        .metrics(metrics)
        .options(config.pool.clone())
        .build()
        .await
        .map_err(|error| error.to_string())
}

/// Where the server is, which is the same when it is started again.
fn place(listen: &Listen) -> NodeId {
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy();
    NodeId(match listen {
        Listen::Tcp(address) => format!("{host}-{}", address.port()),
        Listen::Unix(_) => host.into_owned(),
    })
}
