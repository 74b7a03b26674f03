//! Requests as they arrive: how much there may be of them, and how long one may
//! take. Else a caller who sends most of many large requests, or one byte a
//! minute, would hold what it never has to pay for.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::Request;
use http_body::{Frame, SizeHint};
use tokio::time::{Sleep, sleep};
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use super::limits::Limits;
use crate::error::Error;

/// Methods whose callers may send for as long as they like.
const UNBOUNDED: &str = "/grpc.reflection.";

/// Bounds what is received.
#[derive(Clone, Debug)]
pub struct InboundService<S> {
    inner: S,
    /// Bytes of requests that are not yet whole, over all connections.
    receiving: Arc<AtomicUsize>,
    bytes_max: usize,
    timeout: Duration,
}

impl<S> InboundService<S> {
    /// Around `inner`; its clones share one count.
    pub fn new(inner: S, receiving: Arc<AtomicUsize>, limits: &Limits) -> Self {
        Self {
            inner,
            receiving,
            bytes_max: limits.receiving_bytes_max,
            timeout: limits.receive_timeout,
        }
    }
}

impl<S> Service<Request<Body>> for InboundService<S>
where
    S: Service<Request<Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.uri().path().starts_with(UNBOUNDED) {
            return self.inner.call(request);
        }
        let receive = |body| {
            Body::new(Receiving {
                inner: body,
                late: Box::pin(sleep(self.timeout)),
                held: Held {
                    bytes: 0,
                    all: Arc::clone(&self.receiving),
                },
                bytes_max: self.bytes_max,
            })
        };
        let request = request.map(receive);
        self.inner.call(request)
    }
}

/// What a request holds of the room for all.
struct Held {
    bytes: usize,
    all: Arc<AtomicUsize>,
}

impl Held {
    /// Whether there is room for `bytes` more.
    fn take(&mut self, bytes: usize, max: usize) -> bool {
        self.bytes += bytes;
        self.all.fetch_add(bytes, Ordering::Relaxed) + bytes <= max
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A request's body.
struct Receiving {
    inner: Body,
    late: Pin<Box<Sleep>>,
    held: Held,
    bytes_max: usize,
}

impl http_body::Body for Receiving {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, Status>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) else {
            ready!(this.late.as_mut().poll(cx));
            return Poll::Ready(Some(Err(Error::Deadline.into())));
        };
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && !this.held.take(data.len(), this.bytes_max)
        {
            return Poll::Ready(Some(Err(Error::Receiving.into())));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
