//! Whether a connection's readers take what they are sent.
//!
//! A body is polled again only when its reader has room. So a body that gave
//! something and is not polled waits for its reader; where all that wait do so
//! for long, nobody reads.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// What is known of one connection. Cheap to clone.
#[derive(Clone)]
pub struct Flow(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// The first body waits.
    waits: Notify,
}

struct State {
    /// Bodies that gave something and were not polled since.
    waiting: usize,
    /// When a reader took something last, or the first began to wait.
    since: Instant,
}

impl Flow {
    /// Of a new connection.
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State {
                waiting: 0,
                since: Instant::now(),
            }),
            waits: Notify::new(),
        }))
    }

    /// A body of this connection.
    pub fn body<B>(&self, inner: B) -> FlowBody<B> {
        FlowBody {
            inner,
            place: Place {
                flow: self.clone(),
                waiting: false,
            },
        }
    }

    /// Ready when something has waited for `limit` and nothing was taken.
    pub async fn stalled(&self, limit: Duration) {
        loop {
            let due = {
                let state = self.state();
                (state.waiting > 0).then(|| state.since + limit)
            };
            match due {
                None => self.0.waits.notified().await,
                Some(due) if due <= Instant::now() => return,
                Some(due) => sleep_until(due).await,
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body's part in it.
struct Place {
    flow: Flow,
    waiting: bool,
}

impl Place {
    fn gave(&mut self) {
        self.waiting = true;
        let mut state = self.flow.state();
        state.waiting += 1;
        if state.waiting == 1 {
            state.since = Instant::now();
            drop(state);
            self.flow.0.waits.notify_one();
        }
    }

    fn taken(&mut self) {
        if std::mem::take(&mut self.waiting) {
            let mut state = self.flow.state();
            state.waiting -= 1;
            state.since = Instant::now();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken();
    }
}

pin_project! {
    /// A response's body.
    pub struct FlowBody<B> {
        #[pin]
        inner: B,
        place: Place,
    }
}

impl<B: Body> Body for FlowBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        this.place.taken();
        let frame = ready!(this.inner.poll_frame(cx));
        if let Some(Ok(_)) = &frame {
            this.place.gave();
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

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    const LIMIT: Duration = Duration::from_secs(60);

    /// Two messages.
    fn body(flow: &Flow) -> Pin<Box<FlowBody<tonic::body::Body>>> {
        struct Two(u8);
        impl Body for Two {
            type Data = Bytes;
            type Error = tonic::Status;
            fn poll_frame(
                mut self: Pin<&mut Self>,
                _: &mut Context<'_>,
            ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
                self.0 += 1;
                match self.0 {
                    1 | 2 => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x"))))),
                    _ => Poll::Pending,
                }
            }
        }
        Box::pin(flow.body(tonic::body::Body::new(Two(0))))
    }

    async fn poll(body: &mut Pin<Box<FlowBody<tonic::body::Body>>>) -> bool {
        std::future::poll_fn(|cx| Poll::Ready(body.as_mut().poll_frame(cx).is_ready())).await
    }

    /// Whether it is found stalled within an hour.
    async fn is_stalled(flow: &Flow) -> bool {
        let hour = Duration::from_secs(3600);
        tokio::time::timeout(hour, flow.stalled(LIMIT))
            .await
            .is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_connection_is_not_stalled() {
        let flow = Flow::new();
        let mut body = body(&flow);

        assert!(!is_stalled(&flow).await, "nothing to be sent");
        while poll(&mut body).await {}
        assert!(!is_stalled(&flow).await, "all was taken");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_stalled_when_nobody_takes_anything() {
        let flow = Flow::new();
        let (mut one, mut other) = (body(&flow), body(&flow));
        assert!(poll(&mut one).await && poll(&mut other).await);
        let began = Instant::now();

        tokio::time::sleep(LIMIT / 2).await;
        assert!(poll(&mut other).await, "one of two took something");

        assert!(is_stalled(&flow).await);
        assert_eq!(began.elapsed(), LIMIT * 3 / 2);
        drop((one, other));
        assert!(!is_stalled(&flow).await, "who waited has left");
    }
}
