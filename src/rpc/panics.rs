//! A panic in a handler is INTERNAL for its caller and nothing for anybody else.
//!
//! Without this the caller sees the stream reset with CANCELLED, which meshes
//! retry.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::Status;
use tower::Service;

use super::cut::trailers;
use crate::error::Error;

/// Answers for handlers that panic.
#[derive(Clone, Debug)]
pub struct PanicService<S> {
    inner: S,
}

impl<S> PanicService<S> {
    /// Around `inner`.
    pub fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S, A, B> Service<Request<A>> for PanicService<S>
where
    S: Service<Request<A>, Response = Response<B>>,
{
    type Response = Response<PanicBody<B>>;
    type Error = S::Error;
    type Future = PanicFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        PanicFuture {
            inner: self.inner.call(request),
        }
    }
}

pin_project! {
    /// A handler's future.
    pub struct PanicFuture<F> {
        #[pin]
        inner: F,
    }
}

impl<F, B, E> Future for PanicFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<PanicBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let inner = self.project().inner;
        // What panicked is never polled again.
        match catch_unwind(AssertUnwindSafe(|| inner.poll(cx))) {
            Ok(poll) => poll.map_ok(|r| r.map(|body| PanicBody { inner: Some(body) })),
            Err(panic) => Poll::Ready(Ok(status(&*panic).into_http())),
        }
    }
}

pin_project! {
    /// A response's body.
    pub struct PanicBody<B> {
        #[pin]
        inner: Option<B>,
    }
}

impl<B> Default for PanicBody<B> {
    fn default() -> Self {
        Self { inner: None }
    }
}

impl<B: Body> Body for PanicBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            return Poll::Ready(None);
        };
        match catch_unwind(AssertUnwindSafe(|| inner.poll_frame(cx))) {
            Ok(poll) => poll,
            Err(panic) => {
                this.inner.set(None);
                Poll::Ready(Some(Ok(Frame::trailers(trailers(&status(&*panic))))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            None => SizeHint::with_exact(0),
            Some(inner) => inner.size_hint(),
        }
    }
}

fn status(panic: &(dyn Any + Send)) -> Status {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without text");
    Error::Internal(format!("a handler panicked: {text}")).into()
}
