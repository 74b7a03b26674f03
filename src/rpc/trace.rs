//! One span per call, from its headers to the last byte of its answer, in its
//! caller's trace; and what is counted of it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tonic::Code;
use tower::Service;
use tracing::Span;
use tracing::field::Empty;

use super::methods;
use crate::metrics::Metrics;
use crate::trace::{self, TraceContext};

/// Makes the spans.
#[derive(Clone, Debug)]
pub struct TraceService<S> {
    inner: S,
    metrics: Metrics,
}

impl<S> TraceService<S> {
    /// Around `inner`.
    pub fn new(inner: S, metrics: Metrics) -> Self {
        Self { inner, metrics }
    }
}

/// A call's span and how the call ended; dropped without an end, its caller
/// has left.
struct Call {
    span: Span,
    method: &'static str,
    began: Instant,
    metrics: Metrics,
    ended: bool,
}

impl Call {
    fn new(path: &str, parent: Option<&TraceContext>, metrics: Metrics) -> Self {
        let method = methods::known(path);
        metrics.call_began(method);
        let span = tracing::info_span!(
            "rpc",
            otel.name = method,
            otel.kind = "server",
            otel.status_code = Empty,
            rpc.system.name = "grpc",
            rpc.method = method,
            rpc.response.status_code = Empty,
            caller = Empty,
            task_id = Empty,
            trace_id = Empty,
        );
        if let Some(parent) = parent {
            trace::adopt(&span, parent);
        }
        Self {
            span,
            method,
            began: Instant::now(),
            metrics,
            ended: false,
        }
    }

    fn end(&mut self, code: Code) {
        if !self.ended {
            self.ended = true;
            self.span.record("rpc.response.status_code", name(code));
            if is_fault(code) {
                self.span.record("otel.status_code", "ERROR");
            }
            self.span.in_scope(|| tracing::debug!("call ended"));
            self.metrics
                .call_ended(self.method, name(code), self.began.elapsed());
        }
    }

    /// Ends with what `grpc-status` says, if it is there.
    fn see(&mut self, headers: &HeaderMap) {
        if let Some(value) = headers.get("grpc-status") {
            self.end(Code::from_bytes(value.as_bytes()));
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
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

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        let sent = sent(request.headers());
        let call = Call::new(request.uri().path(), sent.as_ref(), self.metrics.clone());
        // What is done for the call is done under its own span, if that is shown.
        if let Some(context) = trace::of(&call.span).or(sent) {
            call.span.record("trace_id", context.trace_id());
            request.extensions_mut().insert(context);
        }
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

/// What the caller says of its trace; `None`: nothing, or nothing that can be
/// understood, which is the same.
fn sent(headers: &HeaderMap) -> Option<TraceContext> {
    let parent = headers.get("traceparent")?.to_str().ok()?;
    let states: Vec<&str> = headers
        .get_all("tracestate")
        .iter()
        .map_while(|state| state.to_str().ok())
        .collect();
    let states = states.join(",");
    TraceContext::parse(parent, Some(&states))
}

/// Whether a code tells of a fault of the server's, by OpenTelemetry's
/// conventions.
fn is_fault(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
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
