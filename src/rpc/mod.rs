//! The wire: parses, calls the pool, wraps. No rule of the pool is in here.
//!
//! A [`Server`] answers as soon as its listener is bound: health says
//! NOT_SERVING and every call is UNAVAILABLE (STARTING) until the pool is handed
//! in through [`Handle::open`].
//!
//! A call passes, from the outside in: its connection's limits, its origin,
//! gRPC-Web, its span, its line in the audit log, the caller's deadline, the end
//! of the server or of the connection, who calls and whether they may, requests
//! that cannot be read, panics, what is received, the service.

mod accept;
mod audit;
mod auth;
mod catalog;
mod connections;
mod context;
mod convert;
mod cut;
mod cutoff;
mod deadline;
mod directed;
mod flow;
mod fresh;
mod handle;
mod inbound;
mod limits;
mod malformed;
mod methods;
mod operator;
mod panics;
mod pool;
mod security;
mod spread;
mod status;
mod streams;
#[cfg(test)]
mod tests;
mod tls;
mod trace;
mod web;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::service::Routes;
use tonic_web::{GrpcWebLayer, GrpcWebService};
use tower::Layer;

use self::connections::Connections;
use self::cutoff::Ends;
use self::web::WebService;
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
pub use limits::Limits;
pub use security::Security;
pub use status::DOMAIN;
pub use tls::Options as TlsOptions;
pub use web::Web;

/// Largest request of reflection: a name.
const REFLECTION_BYTES_MAX: usize = 64 * 1024;
/// From the end of a drain to the end of what is still open: what finished last
/// gets through.
const SETTLE: Duration = Duration::from_millis(300);
/// How long closing connections may take before they are cut.
const CLOSE: Duration = Duration::from_secs(1);
/// How much longer than its deadline a drain is waited for.
const DRAIN_SLACK: Duration = Duration::from_secs(5);

/// What a server is built with.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The composed configuration as TOML, secrets redacted: what GetConfig
    /// answers. Default: the pool's options alone.
    pub config_toml: Option<String>,
    /// How connections are encrypted and callers told apart. Default: not at
    /// all.
    pub security: Security,
    /// Where calls are counted. Default: nowhere that anybody sees.
    pub metrics: Metrics,
    /// What connections and requests may take.
    pub limits: Limits,
    /// How browsers may call.
    pub web: Web,
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
        let server = Arc::new(directed::Server {
            config_toml: options.config_toml.as_deref().map(Arc::from),
        });
        let handle = Handle::new(reporter, options.metrics.clone(), Arc::clone(&server));
        let bytes = options.limits.request_bytes_max;
        macro_rules! service {
            ($server:ident, $service:expr) => {
                $server::new($service)
                    .max_decoding_message_size(bytes)
                    .accept_compressed(Gzip)
                    .send_compressed(Gzip)
            };
        }
        let routes = Routes::new(health)
            .add_service(service!(
                PoolServiceServer,
                pool::Service::new(handle.clone())
            ))
            .add_service(service!(
                OperatorServiceServer,
                operator::Service::new(handle.clone(), server)
            ))
            .add_service(service!(
                CatalogServiceServer,
                catalog::Service::new(handle.clone())
            ))
            .add_service(service!(
                ContextServiceServer,
                context::Service::new(handle.clone())
            ))
            .add_service(
                reflection()
                    .build_v1()
                    .expect("our own descriptors")
                    .max_decoding_message_size(REFLECTION_BYTES_MAX),
            )
            .add_service(
                reflection()
                    .build_v1alpha()
                    .expect("our own descriptors")
                    .max_decoding_message_size(REFLECTION_BYTES_MAX),
            )
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

        let (limits, routes) = (self.options.limits, self.routes);
        let stack = Stack {
            web: self.options.web,
            security: self.options.security,
            metrics: self.options.metrics,
            limits: limits.clone(),
            receiving: Arc::default(),
        };
        let connections = Connections::new(limits, closing.clone());
        let incoming = tls::Secured::new(
            listener.into().incoming(abort.clone()),
            stack.security.tls(),
        );
        let mut serving = pin!(async {
            let served = connections.serve(incoming, |connection| {
                let server = cutoff.clone();
                stack.over(routes.clone(), Ends { server, connection })
            });
            tokio::select! {
                () = served => {}
                never = stack.security.follow() => match never {},
            }
        });

        let drained = tokio::select! {
            () = &mut serving => return Err(ServeError("no listener".into())),
            drained = live(&handle, shutdown) => drained,
        };

        tokio::select! {
            () = tokio::time::sleep(SETTLE) => {}
            () = &mut serving => {}
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
struct Stack {
    web: Web,
    security: Security,
    metrics: Metrics,
    limits: Limits,
    receiving: Arc<AtomicUsize>,
}

/// From inside the origin to the service.
type Layers<S> = trace::TraceService<
    audit::AuditService<
        deadline::DeadlineService<
            cutoff::CutoffService<
                auth::AuthService<
                    malformed::MalformedService<panics::PanicService<inbound::InboundService<S>>>,
                >,
            >,
        >,
    >,
>;

impl Stack {
    fn over<S>(&self, service: S, ends: Ends) -> WebService<GrpcWebService<Layers<S>>> {
        let receiving = Arc::clone(&self.receiving);
        let service = inbound::InboundService::new(service, receiving, &self.limits);
        let service = panics::PanicService::new(service);
        let service = malformed::MalformedService::new(service);
        let service = auth::AuthService::new(service, self.security.gate());
        let service = cutoff::CutoffService::new(service, ends);
        let service = deadline::DeadlineService::new(service);
        let service =
            trace::TraceService::new(audit::AuditService::new(service), self.metrics.clone());
        WebService::new(GrpcWebLayer::new().layer(service), &self.web)
    }
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
