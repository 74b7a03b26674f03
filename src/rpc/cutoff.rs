//! The end of the server: whatever is still open ends with UNAVAILABLE.

use std::task::{Context, Poll};

use http::{Request, Response};
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::cut::{CutBody, CutFuture, Limit};
use crate::error::Error;

/// Ends every call once its token is cancelled.
#[derive(Clone, Debug)]
pub struct CutoffService<S> {
    inner: S,
    cutoff: CancellationToken,
}

impl<S> CutoffService<S> {
    /// Around `inner`.
    pub fn new(inner: S, cutoff: CancellationToken) -> Self {
        Self { inner, cutoff }
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
        let cutoff = self.cutoff.clone();
        let limit: Limit = Box::pin(async move {
            cutoff.cancelled_owned().await;
            Error::Draining.into()
        });
        CutFuture::new(self.inner.call(request), Some(limit))
    }
}
