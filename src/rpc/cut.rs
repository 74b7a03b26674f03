//! A response that ends with a status of ours when its time is over.
//!
//! Until the headers are sent the status is the whole response; afterwards it
//! is the trailers. Either way the handler, or the stream it returned, is
//! dropped at that moment: whoever it held has left.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{HeaderMap, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::Status;

/// Ready when the time is over, with how the call ends.
pub type Limit = Pin<Box<dyn Future<Output = Status> + Send>>;

pin_project! {
    /// A handler's future under a limit.
    pub struct CutFuture<F> {
        #[pin]
        inner: F,
        limit: Option<Limit>,
    }
}

impl<F> CutFuture<F> {
    /// `None`: no limit.
    pub fn new(inner: F, limit: Option<Limit>) -> Self {
        Self { inner, limit }
    }
}

impl<F, B, E> Future for CutFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<CutBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(response) = this.inner.poll(cx) {
            let limit = this.limit.take();
            return Poll::Ready(response.map(|r| r.map(|body| CutBody::new(body, limit))));
        }
        let Some(limit) = this.limit else {
            return Poll::Pending;
        };
        let status = ready!(limit.as_mut().poll(cx));
        *this.limit = None;
        Poll::Ready(Ok(status.into_http()))
    }
}

pin_project! {
    /// A response's body under a limit.
    pub struct CutBody<B> {
        #[pin]
        inner: Option<B>,
        limit: Option<Limit>,
    }
}

impl<B> CutBody<B> {
    fn new(inner: B, limit: Option<Limit>) -> Self {
        Self {
            inner: Some(inner),
            limit,
        }
    }
}

impl<B> Default for CutBody<B> {
    fn default() -> Self {
        Self {
            inner: None,
            limit: None,
        }
    }
}

impl<B: Body> Body for CutBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        // The limit first: a stream that always has something must end too.
        if let Some(limit) = this.limit
            && let Poll::Ready(status) = limit.as_mut().poll(cx)
        {
            this.inner.set(None);
            *this.limit = None;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers(&status)))));
        }
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            return Poll::Ready(None);
        };
        let frame = ready!(inner.poll_frame(cx));
        if frame
            .as_ref()
            .is_none_or(|f| f.as_ref().is_ok_and(Frame::is_trailers))
        {
            *this.limit = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.inner, &self.limit) {
            (None, _) => SizeHint::with_exact(0),
            (Some(inner), None) => inner.size_hint(),
            (Some(_), Some(_)) => SizeHint::default(),
        }
    }
}

/// A status as trailers.
pub fn trailers(status: &Status) -> HeaderMap {
    let mut map = HeaderMap::new();
    if status.add_header(&mut map).is_err() {
        // Only a message or details that are no header could fail, and tonic
        // encodes both.
        map.clear();
        map.insert("grpc-status", http::HeaderValue::from(status.code() as i32));
    }
    map
}
