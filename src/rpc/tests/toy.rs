//! Two methods of the contract without a pool behind them: what they do is said
//! by the prompt. They are called over a real socket, below the client library,
//! whose own timer would answer first.

#![allow(
    clippy::disallowed_methods,
    reason = "a test reads its few messages to the end"
)]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use prost::Message;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tonic_types::StatusExt;
use tower::{Service, service_fn};

use super::super::{Handle, Options, ServeError, Server};
use crate::pb;
use crate::pool::Drained;

pub const RUN: &str = "/claudepool.v1.PoolService/Run";
pub const RUN_STREAM: &str = "/claudepool.v1.PoolService/RunStream";

/// Tells that a handler or its stream is gone.
struct Gone(mpsc::UnboundedSender<()>);

impl Drop for Gone {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

/// The methods.
#[derive(Clone)]
pub struct Toy {
    gone: mpsc::UnboundedSender<()>,
}

impl NamedService for Toy {
    const NAME: &'static str = "claudepool.v1.PoolService";
}

fn prompt(task: Option<pb::TaskSpec>) -> String {
    match task.and_then(|t| t.input) {
        Some(pb::task_spec::Input::Prompt(prompt)) => prompt,
        None => String::new(),
    }
}

type Items = Pin<Box<dyn Stream<Item = Result<pb::RunStreamResponse, Status>> + Send>>;

fn items(prompt: &str, gone: Gone) -> Items {
    let item = || Ok(pb::RunStreamResponse::default());
    match prompt {
        "hang" => stream::pending().boxed(),
        "busy" => stream::repeat_with(item).boxed(),
        "panic" => stream::poll_fn(|_| panic!("at the stream")).boxed(),
        _ => stream::iter([item()]).boxed(),
    }
    .inspect(move |_| {
        let _ = &gone;
    })
    .boxed()
}

impl Service<http::Request<Body>> for Toy {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let gone = Gone(self.gone.clone());
        Box::pin(async move {
            let streams = request.uri().path() == RUN_STREAM;
            let response = if streams {
                let method = service_fn(move |r: Request<pb::RunStreamRequest>| {
                    let gone = Gone(gone.0.clone());
                    async move { Ok(Response::new(items(&prompt(r.into_inner().task), gone))) }
                });
                Grpc::new(ProstCodec::default())
                    .server_streaming(method, request)
                    .await
            } else {
                let method = service_fn(move |r: Request<pb::RunRequest>| {
                    let gone = Gone(gone.0.clone());
                    async move {
                        let _gone = gone;
                        match prompt(r.into_inner().task).as_str() {
                            "hang" => std::future::pending().await,
                            "panic" => panic!("at the handler"),
                            _ => Ok(Response::new(pb::RunResponse::default())),
                        }
                    }
                });
                Grpc::new(ProstCodec::default())
                    .unary(method, request)
                    .await
            };
            Ok(response)
        })
    }
}

/// A server of the toy, and of everything else that a server has.
pub struct Running {
    pub addr: SocketAddr,
    pub gone: mpsc::UnboundedReceiver<()>,
    pub stop: oneshot::Sender<()>,
    pub served: tokio::task::JoinHandle<Result<Option<Drained>, ServeError>>,
}

/// Starts a server of the toy.
pub async fn toy() -> Running {
    let (gone, left) = mpsc::unbounded_channel();
    let (reporter, health) = tonic_health::server::health_reporter();
    let server = Server {
        options: Options::default(),
        handle: Handle::new(reporter),
        routes: tonic::service::Routes::new(health).add_service(Toy { gone }),
    };
    start(server, left).await
}

/// Starts a server whose pool never comes.
pub async fn starting() -> Running {
    start(Server::new(Options::default()), mpsc::unbounded_channel().1).await
}

async fn start(server: Server, gone: mpsc::UnboundedReceiver<()>) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("bound");
    let (stop, stopped) = oneshot::channel::<()>();
    let served = tokio::spawn(server.serve(listener, async {
        let _ = stopped.await;
    }));
    Running {
        addr,
        gone,
        stop,
        served,
    }
}

/// What came back.
pub struct Seen {
    /// Whether headers came before the status.
    pub streamed: bool,
    /// Bytes of messages.
    pub data: usize,
    /// How it ended.
    pub status: Status,
}

impl Seen {
    /// The reason, without which no error is sent.
    pub fn reason(&self) -> String {
        let info = self.status.get_details_error_info();
        info.map(|i| i.reason).unwrap_or_default()
    }
}

/// A prompt as a request of Run or RunStream: their first field is the same.
pub fn ask(prompt: &str) -> Vec<u8> {
    pb::RunRequest {
        task: Some(pb::TaskSpec {
            input: Some(pb::task_spec::Input::Prompt(prompt.into())),
            ..Default::default()
        }),
        ..Default::default()
    }
    .encode_to_vec()
}

/// Calls a method with a message as it is.
pub async fn call(addr: SocketAddr, path: &str, timeout: Option<&str>, message: &[u8]) -> Seen {
    let stream = TcpStream::connect(addr).await.expect("a server");
    let (client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    let mut request = http::Request::post(format!("http://{addr}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(timeout) = timeout {
        request = request.header("grpc-timeout", timeout);
    }
    let mut client = client.ready().await.expect("a stream");
    let request = request.body(()).expect("a request");
    let (response, mut body) = client.send_request(request, false).expect("sent");
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(message);
    send(&mut body, framed.freeze()).await;

    let (parts, mut body) = response.await.expect("a response").into_parts();
    if let Some(status) = Status::from_header_map(&parts.headers) {
        return Seen {
            streamed: false,
            data: 0,
            status,
        };
    }
    let mut data = 0;
    while let Some(chunk) = body.data().await {
        let chunk = chunk.expect("no reset");
        data += chunk.len();
        body.flow_control()
            .release_capacity(chunk.len())
            .expect("received");
    }
    let trailers = body.trailers().await.expect("no reset").expect("trailers");
    Seen {
        streamed: true,
        data,
        status: Status::from_header_map(&trailers).expect("a status"),
    }
}

async fn send(body: &mut h2::SendStream<Bytes>, mut bytes: Bytes) {
    while !bytes.is_empty() {
        body.reserve_capacity(bytes.len());
        let n = std::future::poll_fn(|cx| body.poll_capacity(cx)).await;
        // A refusal may come before everything is sent.
        let Some(Ok(n)) = n else { return };
        let last = n >= bytes.len();
        let piece = bytes.split_to(n.min(bytes.len()));
        if body.send_data(piece, last).is_err() {
            return;
        }
    }
}

/// What a test waits for at most.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), what)
        .await
        .expect("within 10 s")
}
