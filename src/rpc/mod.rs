//! The wire: parses, calls the pool, wraps. No rule of the pool is in here.
//!
//! A [`Server`] answers as soon as its listener is bound: health says
//! NOT_SERVING and every call is UNAVAILABLE (STARTING) until the pool is handed
//! in through [`Handle::open`].
//!
//! A call passes, from the outside in: its span, its line in the audit log, the
//! caller's deadline, the end of the server, who calls and whether they may,
//! requests that cannot be read, panics, the service.

mod accept;
mod audit;
mod auth;
mod catalog;
mod context;
mod convert;
mod cut;
mod cutoff;
mod deadline;
mod fresh;
mod handle;
mod malformed;
mod methods;
mod operator;
mod panics;
mod pool;
mod security;
mod status;
mod streams;
#[cfg(test)]
mod tests;
mod tls;
mod trace;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::metrics::Metrics;
use crate::pb;
use crate::pb::server::catalog_service_server::CatalogServiceServer;
use crate::pb::server::context_service_server::ContextServiceServer;
use crate::pb::server::operator_service_server::OperatorServiceServer;
use crate::pb::server::pool_service_server::PoolServiceServer;
use crate::pool::{Drained, Pool};

pub use accept::{Listener, Peer};
pub use audit::TARGET as AUDIT;
pub use auth::{Options as AuthOptions, Scopes, Tokens, hash};
pub use deadline::Deadline;
pub use handle::{Handle, NotReady};
pub use security::Security;
pub use status::DOMAIN;
pub use tls::Options as TlsOptions;

/// Largest request. Answers are kept below the 4 MiB that every client takes.
pub const REQUEST_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Calls at a time on one connection; further ones wait at the client.
const STREAMS_MAX: u32 = 16_384;
/// From the end of a drain to the end of what is still open: what finished last
/// gets through.
const SETTLE: Duration = Duration::from_millis(300);
/// How long closing connections may take before they are cut.
const CLOSE: Duration = Duration::from_secs(1);
/// How much longer than its deadline a drain is waited for.
const DRAIN_SLACK: Duration = Duration::from_secs(5);

/// What a server is built with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The composed configuration as TOML, secrets redacted: what GetConfig
    /// answers. Default: the pool's options alone.
    pub config_toml: Option<String>,
    /// How connections are encrypted and callers told apart. Default: not at
    /// all.
    pub security: Security,
    /// Where calls are counted. Default: nowhere that anybody sees.
    pub metrics: Metrics,
    /// Silence of a connection before it is pinged. Default 20 s.
    pub keepalive_interval: Duration,
    /// Longest wait for the answer to a ping; then the connection is cut and
    /// its callers have left. Default 10 s.
    pub keepalive_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            config_toml: None,
            security: Security::default(),
            metrics: Metrics::new(),
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(10),
        }
    }
}

/// Why a server stopped otherwise than asked.
#[derive(Debug, thiserror::Error)]
#[error("the server failed: {0}")]
pub struct ServeError(pub String);

/// The gRPC front of a pool.
pub struct Server {
    options: Options,
    handle: Handle,
    routes: Routes,
}

impl Server {
    /// A server that has no pool yet.
    pub fn new(options: Options) -> Self {
        let (reporter, health) = tonic_health::server::health_reporter();
        let handle = Handle::new(reporter, options.metrics.clone());
        let config = options.config_toml.as_deref().map(Arc::from);
        let routes = Routes::new(health)
            .add_service(
                PoolServiceServer::new(pool::Service::new(handle.clone()))
                    .max_decoding_message_size(REQUEST_BYTES_MAX),
            )
            .add_service(
                OperatorServiceServer::new(operator::Service::new(handle.clone(), config))
                    .max_decoding_message_size(REQUEST_BYTES_MAX),
            )
            .add_service(
                CatalogServiceServer::new(catalog::Service::new(handle.clone()))
                    .max_decoding_message_size(REQUEST_BYTES_MAX),
            )
            .add_service(
                ContextServiceServer::new(context::Service::new(handle.clone()))
                    .max_decoding_message_size(REQUEST_BYTES_MAX),
            )
            .add_service(reflection().build_v1().expect("our own descriptors"))
            .add_service(reflection().build_v1alpha().expect("our own descriptors"))
            .prepare();
        Self {
            options,
            handle,
            routes,
        }
    }

    /// The server's handle.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Serves until `shutdown` is ready, then drains and returns what the drain
    /// did (`None`: there was no pool yet, or it was not waited for).
    ///
    /// The order of a shutdown: health is NOT_SERVING; the pool drains for its
    /// `drain_timeout`, while calls are still answered; what is open then ends
    /// with UNAVAILABLE and RetryInfo; connections are closed, and cut if that
    /// takes more than a moment. It cannot hang. The caller then ends the
    /// processes with [`Pool::shutdown`].
    pub async fn serve(
        self,
        listener: impl Into<Listener>,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<Option<Drained>, ServeError> {
        let handle = self.handle;
        handle.publish().await;
        let (cutoff, closing, abort) = (
            CancellationToken::new(),
            CancellationToken::new(),
            CancellationToken::new(),
        );
        // Whatever ends this future, no connection outlives it.
        let _cut = abort.clone().drop_guard();

        let mut serving = pin!(
            tonic::transport::Server::builder()
                .http2_keepalive_interval(Some(self.options.keepalive_interval))
                .http2_keepalive_timeout(Some(self.options.keepalive_timeout))
                .max_concurrent_streams(Some(STREAMS_MAX))
                .serve_with_incoming_shutdown(
                    layers(
                        self.routes,
                        cutoff.clone(),
                        &self.options.security,
                        self.options.metrics,
                    ),
                    tls::Secured::new(
                        listener.into().incoming(abort.clone()),
                        self.options.security.tls(),
                    ),
                    closing.clone().cancelled_owned(),
                )
        );

        let drained = tokio::select! {
            ended = &mut serving => {
                let cause = ended.err().map_or_else(|| "no listener".into(), |e| e.to_string());
                return Err(ServeError(cause));
            }
            drained = live(&handle, shutdown) => drained,
        };

        tokio::select! {
            () = tokio::time::sleep(SETTLE) => {}
            _ = &mut serving => {}
        }
        cutoff.cancel();
        closing.cancel();
        if timeout(CLOSE, &mut serving).await.is_err() {
            abort.cancel();
            if timeout(CLOSE, &mut serving).await.is_err() {
                tracing::warn!("connections did not end");
            }
        }
        Ok(drained)
    }
}

/// What stands between a connection and a service.
type Layers<S> = trace::TraceService<
    audit::AuditService<
        deadline::DeadlineService<
            cutoff::CutoffService<
                auth::AuthService<malformed::MalformedService<panics::PanicService<S>>>,
            >,
        >,
    >,
>;

fn layers<S>(
    service: S,
    cutoff: CancellationToken,
    security: &Security,
    metrics: Metrics,
) -> Layers<S> {
    let service = panics::PanicService::new(service);
    let service = malformed::MalformedService::new(service);
    let service = auth::AuthService::new(service, security.gate());
    let service = cutoff::CutoffService::new(service, cutoff);
    let service = deadline::DeadlineService::new(service);
    trace::TraceService::new(audit::AuditService::new(service), metrics)
}

/// The server's life up to the moment when nothing new can come of waiting.
async fn live(handle: &Handle, shutdown: impl Future<Output = ()>) -> Option<Drained> {
    tokio::select! {
        never = handle.follow_drain() => match never {},
        never = handle.follow_store() => match never {},
        () = shutdown => {}
    }
    handle.close().await;
    let pool = handle.pool().ok()?;
    let limit = pool.options().drain_timeout;
    let drained = tokio::select! {
        drained = pool.drain(limit) => match drained {
            Ok(drained) => Some(drained),
            Err(error) => {
                tracing::warn!(%error, "drain failed");
                None
            }
        },
        // A call may have begun a drain with a later deadline.
        () = tokio::time::sleep(limit + DRAIN_SLACK) => None,
        () = handle.hurried() => None,
    };
    handle.end_waits();
    drained
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// Serves a pool that is there already, until `shutdown`; see [`Server::serve`].
pub async fn serve(
    pool: Pool,
    listener: impl Into<Listener>,
    options: Options,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<Option<Drained>, ServeError> {
    let server = Server::new(options);
    server.handle().open(pool).await;
    server.serve(listener, shutdown).await
}
