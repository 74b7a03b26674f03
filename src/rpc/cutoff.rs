//! The end of the server, and of an old connection: whatever is still open ends
//! with UNAVAILABLE.

use std::task::{Context, Poll};

use http::{Request, Response};
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::auth;
use super::cut::{CutBody, CutFuture, Limit};
use crate::error::Error;

/// When calls end.
#[derive(Clone, Debug)]
pub struct Ends {
    /// The server's end: every call.
    pub server: CancellationToken,
    /// Their connection's.
    pub connection: Age,
}

/// What is cancelled when a connection is too old.
#[derive(Clone, Debug, Default)]
pub struct Age {
    /// For calls that can be taken up again elsewhere.
    pub readers: CancellationToken,
    /// For calls that a task is attached to, whose caller would have left.
    pub attached: CancellationToken,
}

/// Ends calls with their server or their connection.
#[derive(Clone, Debug)]
pub struct CutoffService<S> {
    inner: S,
    ends: Ends,
}

impl<S> CutoffService<S> {
    /// Around `inner`.
    pub fn new(inner: S, ends: Ends) -> Self {
        Self { inner, ends }
    }
}

impl<S, A, B> Service<Request<A>> for CutoffService<S>
where
    S: Service<Request<A>, Response = Response<B>>,
{
    type Response = Response<CutBody<B>>;
    type Error = S::Error;
    type Future = CutFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let Ends { server, connection } = self.ends.clone();
        let method = auth::method(request.uri().path());
        let old = match method.is_some_and(|method| method.attaches) {
            true => connection.attached,
            false => connection.readers,
        };
        let limit: Limit = Box::pin(async move {
            let error = tokio::select! {
                biased;
                () = server.cancelled() => Error::Draining,
                () = old.cancelled() => Error::ConnectionAge,
            };
            error.into()
        });
        CutFuture::new(self.inner.call(request), Some(limit))
    }
}
