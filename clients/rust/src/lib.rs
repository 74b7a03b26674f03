//! Client of claudepool: the few helpers that every caller would write over the
//! generated stubs of [`claudepool::pb`].
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = claudepool_client::connect("127.0.0.1:50051", Default::default())?;
//! let mut events = pool.run_stream(claudepool_client::prompt("Say hello."));
//! while let Some(event) = events.next().await? {
//!     if let Some(claudepool::pb::event::Kind::TextDelta(delta)) = event.kind {
//!         print!("{}", delta.text);
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod error;
mod stream;

use std::time::Duration;

use claudepool::pb::catalog_service_client::CatalogServiceClient;
use claudepool::pb::context_service_client::ContextServiceClient;
use claudepool::pb::operator_service_client::OperatorServiceClient;
use claudepool::pb::pool_service_client::PoolServiceClient;
use claudepool::pb::{SubmitRequest, TaskResult, TaskSpec, task_spec::Input};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};

pub use error::Error;
pub use stream::TaskStream;

/// How often a call is sent, and the wait before it is sent again: as
/// clients/service-config.json says, which tonic does not read.
const TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How to connect.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Sent with every call; over TLS or loopback only.
    pub token: Option<String>,
    /// How to do TLS. `None`: an https address trusts the system's roots.
    pub tls: Option<ClientTlsConfig>,
}

/// A connection that sends the token.
pub type Transport = InterceptedService<Channel, Bearer>;

/// Adds the token to a call.
#[derive(Clone, Debug)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// The helpers, and the stubs of every service. What a stub gives as an error
/// becomes an [`Error`] by `from`. Whoever sends a create by a stub, and may
/// send it again, gives it a `request_id`.
#[derive(Clone, Debug)]
pub struct Client {
    pub pool: PoolServiceClient<Transport>,
    pub operator: OperatorServiceClient<Transport>,
    pub catalog: CatalogServiceClient<Transport>,
    pub context: ContextServiceClient<Transport>,
    /// For stubs of other services.
    pub transport: Transport,
}

/// A client of the server at `http://host:port`, `https://host:port`,
/// `host:port` or `unix:/path`. It connects when it is first used.
pub fn connect(address: &str, options: Options) -> Result<Client, Error> {
    let wrong = |why: &str| Error::from(Status::invalid_argument(format!("{address}: {why}")));
    let scheme = if options.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let mut url = address.to_owned();
    if !url.contains("://") && !url.starts_with("unix:") {
        url = format!("{scheme}://{url}");
    }
    let mut endpoint = Endpoint::from_shared(url.clone())
        .map_err(|_| wrong("say http://host:port, https://host:port or unix:/path"))?
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true)
        // A connection that has died silently is found out.
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    if url.starts_with("https://") {
        let tls = options
            .tls
            .unwrap_or_else(|| ClientTlsConfig::new().with_native_roots());
        endpoint = endpoint
            .tls_config(tls)
            .map_err(|_| wrong("the TLS configuration is wrong"))?;
    } else if options.token.is_some() && !is_local(&endpoint) {
        return Err(wrong(
            "a token is sent over TLS or loopback only: say https://",
        ));
    }
    let token = options.token.map(|token| format!("Bearer {token}").parse());
    let token = token
        .transpose()
        .map_err(|_| wrong("the token is no header value"))?;
    let transport = InterceptedService::new(endpoint.connect_lazy(), Bearer(token));
    Ok(Client {
        pool: PoolServiceClient::new(transport.clone()),
        operator: OperatorServiceClient::new(transport.clone()),
        catalog: CatalogServiceClient::new(transport.clone()),
        context: ContextServiceClient::new(transport.clone()),
        transport,
    })
}

fn is_local(endpoint: &Endpoint) -> bool {
    let host = endpoint.uri().host().unwrap_or_default();
    let ip = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    endpoint.uri().scheme_str() != Some("http")
        || host == "localhost"
        || ip.is_ok_and(|ip| ip.is_loopback())
}

/// The task that this text is.
pub fn prompt(text: impl Into<String>) -> TaskSpec {
    TaskSpec {
        input: Some(Input::Prompt(text.into())),
        ..TaskSpec::default()
    }
}

impl Client {
    /// Runs a task and gives its result. A task that failed is an answer too:
    /// see its `failure`. When the future is dropped, the task is cancelled.
    pub async fn run(&self, task: TaskSpec) -> Result<TaskResult, Error> {
        self.run_stream(task).result().await
    }

    /// Runs a task and gives its events. A broken connection is taken up again;
    /// the task waits for that a few seconds.
    pub fn run_stream(&self, task: TaskSpec) -> TaskStream {
        TaskStream::run(self.pool.clone(), task)
    }

    /// A task's events after a sequence, each once, until the task ends.
    pub fn watch(&self, task_id: impl Into<String>, after_sequence: u64) -> TaskStream {
        TaskStream::watch(self.pool.clone(), task_id.into(), after_sequence)
    }

    /// Makes a task durable and gives its id. It runs once, however often the
    /// call has to be sent.
    pub async fn submit(&self, task: TaskSpec) -> Result<String, Error> {
        let request = SubmitRequest {
            task: Some(task),
            request_id: request_id(),
        };
        let (mut tries, mut pause) = (1, FIRST_PAUSE);
        loop {
            match self.pool.clone().submit(request.clone()).await {
                Ok(answer) => return Ok(answer.into_inner().task_id),
                Err(status) => {
                    let error = Error::from(status);
                    if tries == TRIES || !error.is_broken() || error.reason == "PAUSED" {
                        return Err(error);
                    }
                    tokio::time::sleep(pause.max(error.retry_after.unwrap_or_default())).await;
                }
            }
            tries += 1;
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }
}

fn request_id() -> String {
    uuid::Uuid::new_v4().to_string()
}
