//! The caller's deadline, kept by ourselves: for every kind of call, streams
//! included, and as DEADLINE_EXCEEDED.
//!
//! tonic's own timer would answer CANCELLED, which meshes retry, and would stop
//! once headers are sent. It stands in tonic's server, which is not used.

use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use tokio::time::Instant;
use tower::Service;

use super::cut::{CutBody, CutFuture, Limit};
use crate::error::Error;

/// How much earlier than the deadline ours fires: the answer with its reason
/// is then there before a proxy's own timer.
const MARGIN: Duration = Duration::from_millis(2);

/// When the caller stops waiting. In the extensions of a request that has one.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(pub Instant);

/// Ends calls at the caller's deadline.
#[derive(Clone, Debug)]
pub struct DeadlineService<S> {
    inner: S,
}

impl<S> DeadlineService<S> {
    /// Around `inner`.
    pub fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S, A, B> Service<Request<A>> for DeadlineService<S>
where
    S: Service<Request<A>, Response = Response<B>>,
{
    type Response = Response<CutBody<B>>;
    type Error = S::Error;
    type Future = CutFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        let now = Instant::now();
        let deadline = timeout(request.headers()).and_then(|t| {
            let deadline = now.checked_add(t)?;
            request.extensions_mut().insert(Deadline(deadline));
            Some(now + t.saturating_sub(MARGIN))
        });
        let limit = deadline.map(|at| -> Limit {
            Box::pin(async move {
                tokio::time::sleep_until(at).await;
                Error::Deadline.into()
            })
        });
        CutFuture::new(self.inner.call(request), limit)
    }
}

/// What `grpc-timeout` says: at most eight digits and a unit. `None`: nothing,
/// or nothing that can be understood, which tonic ignores too.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
#[path = "deadline_tests.rs"]
mod tests;
