//! Two methods of the contract without a pool behind them: what they do is said
//! by the prompt.

#![allow(
    clippy::disallowed_methods,
    reason = "a test reads its few messages to the end"
)]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
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
        // Once per call: with its stream, if it has one.
        let mut gone = Some(Gone(self.gone.clone()));
        Box::pin(async move {
            let streams = request.uri().path() == RUN_STREAM;
            let response = if streams {
                let method = service_fn(move |r: Request<pb::RunStreamRequest>| {
                    let gone = gone.take().expect("one request");
                    async move { Ok(Response::new(items(&prompt(r.into_inner().task), gone))) }
                });
                Grpc::new(ProstCodec::default())
                    .server_streaming(method, request)
                    .await
            } else {
                let method = service_fn(move |r: Request<pb::RunRequest>| {
                    let gone = gone.take();
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
    toy_with(|_| {}).await
}

/// The same with other options.
pub async fn toy_with(set: impl FnOnce(&mut Options)) -> Running {
    let (gone, left) = mpsc::unbounded_channel();
    let (reporter, health) = tonic_health::server::health_reporter();
    let mut options = Options::default();
    set(&mut options);
    let server = Server {
        options,
        handle: Handle::new(reporter, Default::default(), Default::default()),
        routes: tonic::service::Routes::new(health).add_service(Toy { gone }),
    };
    start(server, left).await
}

/// Starts a server whose pool never comes.
pub async fn starting() -> Running {
    starting_with(|_| {}).await
}

/// The same with other options.
pub async fn starting_with(set: impl FnOnce(&mut Options)) -> Running {
    let mut options = Options::default();
    set(&mut options);
    start(Server::new(options), mpsc::unbounded_channel().1).await
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

/// What a test waits for at most.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), what)
        .await
        .expect("within 10 s")
}
