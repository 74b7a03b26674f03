//! tonic with no application behind it: what the wire alone costs.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use claudepool::event::wire::WatchTaskResponse;
use claudepool::pb;
use futures_util::Stream;
use futures_util::stream::{StreamExt, iter, pending};
use http::uri::PathAndQuery;
use tokio::sync::Barrier;
use tonic::body::Body;
use tonic::client::Grpc as Client;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Channel;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::Service;

use super::measure::Failure;

/// A stream of messages.
type Messages = Pin<Box<dyn Stream<Item = Result<WatchTaskResponse, Status>> + Send>>;

/// What a stream sends.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Wanted {
    /// Messages; 0: the stream says one and then is idle.
    #[prost(uint32, tag = "1")]
    pub count: u32,
    /// Bytes of each.
    #[prost(uint32, tag = "2")]
    pub bytes: u32,
    /// Streams that are waited for before any says something.
    #[prost(uint32, tag = "3")]
    pub streams: u32,
}

/// How many streams are still to come, and where they meet.
type Gathering = (u32, Arc<Barrier>);

/// The service: one unary method, one stream.
#[derive(Clone)]
pub struct Bare {
    answer: Arc<pb::GetResultResponse>,
    barrier: Arc<Mutex<Option<Gathering>>>,
}

impl NamedService for Bare {
    const NAME: &'static str = "bench.Bare";
}

struct Unary(Arc<pb::GetResultResponse>);

impl UnaryService<pb::GetResultRequest> for Unary {
    type Response = pb::GetResultResponse;
    type Future = Ready<Result<Response<Self::Response>, Status>>;

    fn call(&mut self, _: Request<pb::GetResultRequest>) -> Self::Future {
        ready(Ok(Response::new(pb::GetResultResponse::clone(&self.0))))
    }
}

struct Streams(Bare);

impl Service<Request<Wanted>> for Streams {
    type Response = Response<Messages>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Wanted>) -> Self::Future {
        let wanted = request.into_inner();
        let barrier = self.0.barrier(wanted.streams);
        Box::pin(async move { Ok(Response::new(messages(wanted, barrier))) })
    }
}

fn messages(wanted: Wanted, barrier: Arc<Barrier>) -> Messages {
    let message = WatchTaskResponse {
        event: Some(Bytes::from(vec![b'x'; wanted.bytes as usize])),
        heartbeat: None,
    };
    let first = iter([Ok(message.clone())]);
    if wanted.count == 0 {
        return Box::pin(first.chain(pending()));
    }
    let all = futures_util::stream::once(async move {
        barrier.wait().await;
        iter((0..wanted.count).map(move |_| Ok(message.clone())))
    });
    Box::pin(first.chain(all.flatten()))
}

impl Bare {
    /// One that answers with this.
    pub fn new(answer: pb::GetResultResponse) -> Self {
        Self {
            answer: Arc::new(answer),
            barrier: Arc::default(),
        }
    }

    /// The barrier of the streams that begin together.
    fn barrier(&self, streams: u32) -> Arc<Barrier> {
        let mut known = self.barrier.lock().unwrap_or_else(|e| e.into_inner());
        match known.as_mut() {
            Some((left, barrier)) if *left > 1 => {
                *left -= 1;
                Arc::clone(barrier)
            }
            _ => {
                let barrier = Arc::new(Barrier::new(streams as usize));
                *known = Some((streams, Arc::clone(&barrier)));
                barrier
            }
        }
    }

    /// Serves until the future is dropped.
    pub async fn serve(self, listener: tokio::net::TcpListener) -> Result<(), Failure> {
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        tonic::transport::Server::builder()
            .add_service(self)
            .serve_with_incoming(incoming)
            .await?;
        Ok(())
    }
}

impl Service<http::Request<Body>> for Bare {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let bare = self.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                UNARY => {
                    let codec = ProstCodec::default();
                    let service = Unary(Arc::clone(&bare.answer));
                    Grpc::new(codec).unary(service, request).await
                }
                _ => {
                    let codec = ProstCodec::default();
                    let service = Streams(bare);
                    Grpc::new(codec).server_streaming(service, request).await
                }
            })
        })
    }
}

const UNARY: &str = "/bench.Bare/Unary";
const STREAM: &str = "/bench.Bare/Stream";
const WATCH: &str = "/claudepool.v1.PoolService/WatchTask";

/// Calls the unary method.
pub async fn unary(channel: &Channel) -> Result<(), Failure> {
    let mut client = Client::new(channel.clone());
    client.ready().await?;
    let codec = ProstCodec::<_, pb::GetResultResponse>::default();
    let request = pb::GetResultRequest::default();
    let path = PathAndQuery::from_static(UNARY);
    client.unary(Request::new(request), path, codec).await?;
    Ok(())
}

/// Begins a stream of the bare service.
pub async fn stream(
    channel: &Channel,
    wanted: Wanted,
) -> Result<Streaming<WatchTaskResponse>, Failure> {
    begin(channel, STREAM, wanted).await
}

/// Begins to watch a task, the events undecoded: both clients do the same.
pub async fn watch(channel: &Channel, task: &str) -> Result<Streaming<WatchTaskResponse>, Failure> {
    let request = pb::WatchTaskRequest {
        task_id: task.to_owned(),
        ..Default::default()
    };
    begin(channel, WATCH, request).await
}

async fn begin<M: prost::Message + Send + Sync + 'static>(
    channel: &Channel,
    path: &'static str,
    request: M,
) -> Result<Streaming<WatchTaskResponse>, Failure> {
    let mut client = Client::new(channel.clone());
    client.ready().await?;
    let codec = ProstCodec::<M, WatchTaskResponse>::default();
    let path = PathAndQuery::from_static(path);
    let answer = client.server_streaming(Request::new(request), path, codec);
    Ok(answer.await?.into_inner())
}
