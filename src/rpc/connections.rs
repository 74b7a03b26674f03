//! Connections from their beginning to their end: how many there are, how long
//! they live, and what cuts them.
//!
//! A loop of our own, for tonic's knows no limit of connections, gives all of
//! them the same age, and with a grace sends no GOAWAY.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rand::Rng;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::transport::server::Connected;
use tower::{Service, ServiceExt};

use super::accept::Connection;
use super::cutoff::Age;
use super::flow::{Flow, FlowBody};
use super::limits::Limits;

/// Most bytes that wait on one stream for a reader's socket.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// Resets of ours, for what a client did wrong, before its connection is closed.
const FAULTS_MAX: usize = 100;
/// Time for a connection on which nothing goes on to close.
const CLOSE: Duration = Duration::from_secs(1);

/// Serves connections.
pub struct Connections {
    http: auto::Builder<TokioExecutor>,
    limits: Limits,
    closing: CancellationToken,
}

impl Connections {
    /// With these limits. Once `closing` is cancelled no more are taken, and
    /// those that are there finish.
    pub fn new(limits: Limits, closing: CancellationToken) -> Self {
        let mut http = auto::Builder::new(TokioExecutor::new());
        http.http1()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.first_call_timeout)
            .max_buf_size(limits.header_bytes_max.max(8192) as usize);
        http.http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(limits.keepalive_interval)
            .keep_alive_timeout(limits.keepalive_timeout)
            .max_concurrent_streams(limits.streams_max)
            .max_header_list_size(limits.header_bytes_max)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .max_pending_accept_reset_streams(limits.resets_max)
            .max_local_error_reset_streams(FAULTS_MAX);
        Self {
            http,
            limits,
            closing,
        }
    }

    /// Serves what comes in, until all have ended after `closing`. `service` is
    /// made for each connection, and told when the connection is too old for what
    /// still goes on on it.
    pub async fn serve<S, B>(
        &self,
        incoming: impl Stream<Item = io::Result<Connection>> + Send,
        service: impl Fn(Age) -> S,
    ) where
        S: Service<Request<Body>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + Sync + 'static,
        S::Future: Send,
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut open = JoinSet::new();
        let mut full = false;
        {
            let mut incoming = pin!(incoming);
            loop {
                let connection = tokio::select! {
                    biased;
                    () = self.closing.cancelled() => break,
                    Some(_) = open.join_next(), if !open.is_empty() => {
                        full = false;
                        continue;
                    }
                    connection = incoming.next() => connection,
                };
                let connection = match connection {
                    Some(Ok(connection)) => connection,
                    Some(Err(error)) => {
                        tracing::debug!(%error, "connection not made");
                        continue;
                    }
                    None => break,
                };
                if open.len() >= self.limits.connections_max {
                    // Once, and not for each of a flood.
                    if !std::mem::replace(&mut full, true) {
                        tracing::warn!(connections = open.len(), "connections are refused");
                    }
                    continue;
                }
                let old = Age::default();
                let life = Life {
                    http: self.http.clone(),
                    limits: self.limits.clone(),
                    closing: self.closing.clone(),
                    old: old.clone(),
                };
                open.spawn(life.serve(connection, service(old)));
            }
        }
        while open.join_next().await.is_some() {}
    }
}

/// What the life of one connection depends on.
struct Life {
    http: auto::Builder<TokioExecutor>,
    limits: Limits,
    closing: CancellationToken,
    old: Age,
}

impl Life {
    async fn serve<S, B>(self, connection: Connection, service: S)
    where
        S: Service<Request<Body>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + Sync + 'static,
        S::Future: Send,
        B: http_body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (flow, called) = (Flow::new(), CancellationToken::new());
        let calls = Calls {
            service,
            info: connection.connect_info(),
            flow: flow.clone(),
            called: called.clone(),
        };
        let mut served = pin!(self.http.serve_connection(TokioIo::new(connection), calls));
        let mut stalled = pin!(flow.stalled(self.limits.stalled_timeout));
        let first_call = timeout(self.limits.first_call_timeout, called.cancelled());
        let mut first_call = pin!(first_call);
        let mut age = pin!(sleep(aged(self.limits.connection_age)));

        let patience = loop {
            tokio::select! {
                // A connection that failed has ended as well.
                _ = served.as_mut() => return,
                () = stalled.as_mut() => return,
                came = first_call.as_mut(), if !called.is_cancelled() => {
                    if came.is_err() {
                        break Some(CLOSE);
                    }
                }
                () = age.as_mut() => break Some(self.limits.connection_age_grace),
                // What does not finish then is cut from outside.
                () = self.closing.cancelled() => break None,
            }
        };
        served.as_mut().graceful_shutdown();
        if let Some(patience) = patience {
            tokio::select! {
                _ = served.as_mut() => return,
                () = stalled.as_mut() => return,
                () = sleep(patience) => self.old.readers.cancel(),
            }
            if !called.is_cancelled() {
                return;
            }
            tokio::select! {
                _ = served.as_mut() => return,
                () = stalled.as_mut() => return,
                () = sleep(self.limits.attached_grace) => self.old.attached.cancel(),
            }
        }
        // The last words of what was just ended. A server that closes cuts them
        // from outside.
        let _ = timeout(CLOSE, served).await;
    }
}

/// An age, give or take a tenth: what was connected at one time does not come
/// back at one time.
fn aged(age: Duration) -> Duration {
    age.mul_f64(rand::rng().random_range(0.9..1.1))
}

/// The calls of one connection.
struct Calls<S> {
    service: S,
    info: <Connection as Connected>::ConnectInfo,
    flow: Flow,
    called: CancellationToken,
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Calls<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<FlowBody<B>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.called.cancel();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Clone::clone(&self.info));
        let (service, flow) = (self.service.clone(), self.flow.clone());
        Box::pin(async move {
            let response = service.oneshot(request).await?;
            Ok(response.map(|body| flow.body(body)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_lie_within_a_tenth_and_are_not_the_same() {
        let hour = Duration::from_secs(3600);
        let ages: std::collections::BTreeSet<_> = (0..100).map(|_| aged(hour)).collect();
        assert!(ages.len() > 50);
        assert!(ages.iter().all(|a| (3240..3960).contains(&a.as_secs())));
        assert!(ages.last().expect("some").as_secs() > ages.first().expect("some").as_secs() + 120);
    }
}
