//! Lets a call through as its caller's, until its token is taken back, or answers
//! for it.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::{Either, Ready, ready};
use http::{Request, Response};
use tonic::Status;
use tower::Service;

use super::Caller;
use super::gate::{Entry, Gate};
use crate::error::Error;
use crate::rpc::accept::Peer;
use crate::rpc::audit::Noted;
use crate::rpc::cut::{CutBody, CutFuture, Limit};

/// Refuses calls that may not be made.
#[derive(Clone)]
pub(in crate::rpc) struct AuthService<S> {
    inner: S,
    gate: Arc<Gate>,
}

impl<S> AuthService<S> {
    /// Around `inner`.
    pub fn new(inner: S, gate: Arc<Gate>) -> Self {
        Self { inner, gate }
    }
}

impl<S, A, B> Service<Request<A>> for AuthService<S>
where
    S: Service<Request<A>, Response = Response<B>>,
{
    type Response = Response<CutBody<B>>;
    type Error = S::Error;
    type Future = Either<CutFuture<S::Future>, Ready<Result<Self::Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        let peer = request.extensions().get::<Peer>();
        let entry = self
            .gate
            .enter(request.uri().path(), request.headers(), peer);
        let note = |caller: &Caller| {
            if let Some(noted) = request.extensions().get::<Noted>() {
                noted.caller(&caller.id);
            }
        };
        let refusal = match entry {
            Ok(Entry::As(caller, pass)) => {
                note(&caller);
                request.extensions_mut().insert(caller);
                let limit = pass.map(|pass| -> Limit {
                    Box::pin(async move {
                        pass.withdrawn().await;
                        Error::Credentials.into()
                    })
                });
                return Either::Left(CutFuture::new(self.inner.call(request), limit));
            }
            Ok(Entry::Lacks(caller, needed)) => {
                note(&caller);
                Error::ScopeMissing { needed }.into()
            }
            Ok(Entry::NoMethod(caller)) => {
                note(&caller);
                Status::unimplemented("there is no such method")
            }
            Err(error) => error.into(),
        };
        Either::Right(ready(Ok(refusal.into_http())))
    }
}
