//! One span per call, from its headers to the last byte of its answer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::Code;
use tower::Service;
use tracing::Span;
use tracing::field::Empty;

/// Makes the spans.
#[derive(Clone, Debug)]
pub struct TraceService<S> {
    inner: S,
}

impl<S> TraceService<S> {
    /// Around `inner`.
    pub fn new(inner: S) -> Self {
        Self { inner }
    }
}

/// A call's span and how the call ended; dropped without an end, its caller
/// has left.
struct Call {
    span: Span,
    ended: bool,
}

impl Call {
    fn new(path: &str) -> Self {
        // A path that is no method of ours could be anything.
        let method = path
            .strip_prefix('/')
            .filter(|m| m.starts_with("claudepool.v1.") || m.starts_with("grpc."))
            .unwrap_or("_OTHER");
        Self {
            span: tracing::info_span!(
                "rpc",
                otel.name = method,
                otel.kind = "server",
                rpc.system.name = "grpc",
                rpc.method = method,
                rpc.response.status_code = Empty,
            ),
            ended: false,
        }
    }

    fn end(&mut self, status: &str) {
        if !self.ended {
            self.ended = true;
            self.span.record("rpc.response.status_code", status);
            self.span.in_scope(|| tracing::debug!("call ended"));
        }
    }

    /// Ends with what `grpc-status` says, if it is there.
    fn see(&mut self, headers: &HeaderMap) {
        if let Some(value) = headers.get("grpc-status") {
            self.end(name(Code::from_bytes(value.as_bytes())));
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end("CANCELLED");
    }
}

impl<S, A, B> Service<Request<A>> for TraceService<S>
where
    S: Service<Request<A>, Response = Response<B>>,
{
    type Response = Response<TraceBody<B>>;
    type Error = S::Error;
    type Future = TraceFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let call = Call::new(request.uri().path());
        let inner = call.span.in_scope(|| self.inner.call(request));
        TraceFuture {
            inner,
            call: Some(call),
        }
    }
}

pin_project! {
    /// A handler's future.
    pub struct TraceFuture<F> {
        #[pin]
        inner: F,
        call: Option<Call>,
    }
}

impl<F, B, E> Future for TraceFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<TraceBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let span = this
            .call
            .as_ref()
            .map_or_else(Span::none, |c| c.span.clone());
        let response = {
            let _entered = span.enter();
            ready!(this.inner.poll(cx))
        };
        let mut call = this.call.take();
        Poll::Ready(response.map(|response| {
            if let Some(call) = &mut call {
                call.see(response.headers());
            }
            response.map(|inner| TraceBody { inner, call })
        }))
    }
}

pin_project! {
    /// A response's body.
    pub struct TraceBody<B> {
        #[pin]
        inner: B,
        call: Option<Call>,
    }
}

impl<B: Body> Body for TraceBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let span = this
            .call
            .as_ref()
            .map_or_else(Span::none, |c| c.span.clone());
        let frame = {
            let _entered = span.enter();
            ready!(this.inner.poll_frame(cx))
        };
        if let (Some(call), Some(Ok(frame))) = (this.call, &frame)
            && let Some(trailers) = frame.trailers_ref()
        {
            call.see(trailers);
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

/// A code as the specification writes it.
pub(super) fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
