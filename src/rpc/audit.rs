//! One log line for each call that changes anything: who, what, which tasks,
//! and what came of it.
//!
//! It is written when the answer begins: for a stream that is when its task is
//! durable. Nothing in it is text of a caller's: names come from the operator's
//! files or a verified certificate, ids were parsed.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use http::{HeaderMap, Request, Response};
use pin_project_lite::pin_project;
use tonic::Code;
use tower::Service;

use super::auth::method;
use super::trace;
use crate::id::CallerId;

/// The lines' target: they are told apart by it, and kept.
pub const TARGET: &str = "claudepool::audit";

/// What is known of a call that changes something. In the extensions of its
/// request.
#[derive(Clone, Default)]
pub(super) struct Noted(Arc<Mutex<Facts>>);

#[derive(Default)]
struct Facts {
    caller: Option<CallerId>,
    /// Tasks, or the group of a fan-out.
    ids: Vec<String>,
}

impl Noted {
    /// The call's, or one that nobody reads.
    pub fn of<T>(request: &tonic::Request<T>) -> Self {
        request.extensions().get().cloned().unwrap_or_default()
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who calls.
    pub fn caller(&self, id: &CallerId) {
        self.facts().caller = Some(id.clone());
    }

    /// What it is about, or what it made.
    pub fn id(&self, id: impl ToString) {
        self.facts().ids.push(id.to_string());
    }
}

/// A call whose line is written when it is answered, or dropped: then its caller
/// has left.
struct Entry {
    method: &'static str,
    noted: Noted,
    told: bool,
}

impl Entry {
    fn tell(&mut self, code: Code) {
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        let facts = self.noted.facts();
        tracing::info!(
            target: TARGET,
            caller = facts.caller.as_ref().map_or("", |id| id.0.as_str()),
            authenticated = facts.caller.as_ref().is_some_and(|id| !id.0.is_empty()),
            method = self.method,
            ids = facts.ids.join(","),
            outcome = trace::name(code),
            "call"
        );
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.tell(Code::Cancelled);
    }
}

/// Writes the lines.
#[derive(Clone, Debug)]
pub(super) struct AuditService<S> {
    inner: S,
}

impl<S> AuditService<S> {
    /// Around `inner`.
    pub fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S, A, B> Service<Request<A>> for AuditService<S>
where
    S: Service<Request<A>, Response = Response<B>>,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = AuditFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        let method = method(request.uri().path()).filter(|method| method.changes);
        let entry = method.map(|method| Entry {
            method: method.path,
            noted: Noted::default(),
            told: false,
        });
        if let Some(entry) = &entry {
            request.extensions_mut().insert(entry.noted.clone());
        }
        AuditFuture {
            inner: self.inner.call(request),
            entry,
        }
    }
}

pin_project! {
    /// A handler's future.
    pub struct AuditFuture<F> {
        #[pin]
        inner: F,
        entry: Option<Entry>,
    }
}

impl<F, B, E> Future for AuditFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.inner.poll(cx));
        if let Some(entry) = this.entry {
            entry.tell(
                answer
                    .as_ref()
                    .map_or(Code::Internal, |answer| code(answer.headers())),
            );
        }
        Poll::Ready(answer)
    }
}

/// How an answer begins: only a refusal has its status in the headers.
fn code(headers: &HeaderMap) -> Code {
    let status = headers.get("grpc-status");
    status.map_or(Code::Ok, |status| Code::from_bytes(status.as_bytes()))
}
