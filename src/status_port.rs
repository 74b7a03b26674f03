//! The status port: what orchestrators and monitoring ask, over plain HTTP/1.1.
//!
//! `GET /livez`: 200 as long as the process answers. `GET /readyz`: what health
//! says, 200 or 503 with one word of why. `GET /metrics`: OpenMetrics text. It
//! shows no secret and changes nothing, and takes little from the server whoever
//! speaks to it: few connections, each for one request and a few seconds.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::metrics;
use crate::rpc::Handle;

/// Connections at a time. One more costs the oldest: who asks something is
/// answered in milliseconds, so that one says nothing.
const CONNECTIONS_MAX: usize = 32;
/// Longest wait for the whole of a request's head.
const HEAD_MAX: Duration = Duration::from_secs(5);
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Longest life of a connection: a scrape takes milliseconds, and at most two
/// seconds while the store does not answer.
const CONNECTION_MAX: Duration = Duration::from_secs(10);
/// Wait after a connection could not be accepted, for want of descriptors most
/// likely.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Serves until it is dropped, and all its connections with it.
pub async fn serve(listener: TcpListener, handle: Handle) -> Infallible {
    let mut connections = JoinSet::new();
    let mut in_order = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                in_order.retain(|connection: &AbortHandle| !connection.is_finished());
                while in_order.len() >= CONNECTIONS_MAX
                    && let Some(oldest) = in_order.pop_front()
                {
                    oldest.abort();
                }
                let handle = handle.clone();
                in_order.push_back(connections.spawn(async move {
                    // Whoever is too slow is cut off; it may come again.
                    let _ = timeout(CONNECTION_MAX, one(stream, handle)).await;
                }));
            }
            Err(error) => {
                tracing::debug!(%error, "a connection to the status port was not accepted");
                sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// Answers one request.
async fn one(stream: TcpStream, handle: Handle) {
    let service = service_fn(|request| {
        let handle = handle.clone();
        async move { Ok::<_, Infallible>(answer(&request, &handle).await) }
    });
    let answered = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = answered {
        tracing::debug!(%error, "a connection to the status port failed");
    }
}

async fn answer(request: &Request<Incoming>, handle: &Handle) -> Response<String> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "GET only");
        let allow = HeaderValue::from_static("GET, HEAD");
        refused.headers_mut().insert(ALLOW, allow);
        return refused;
    }
    match request.uri().path() {
        "/livez" => plain(StatusCode::OK, "ok"),
        "/readyz" => match handle.readiness().await {
            Ok(()) => plain(StatusCode::OK, "ready"),
            Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, why.word()),
        },
        "/metrics" => of_type(
            StatusCode::OK,
            metrics::CONTENT_TYPE,
            handle.metrics().await,
        ),
        _ => plain(
            StatusCode::NOT_FOUND,
            "there is /livez, /readyz and /metrics",
        ),
    }
}

fn plain(status: StatusCode, text: &str) -> Response<String> {
    of_type(status, "text/plain; charset=utf-8", format!("{text}\n"))
}

fn of_type(status: StatusCode, kind: &'static str, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
