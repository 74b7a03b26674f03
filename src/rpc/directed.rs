//! Calls that mean one server of many, or all: whichever is called, the one that
//! is meant carries them out.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use prost::Message;
use tonic::{Code, Status};

use crate::error::Error;
use crate::id::CallerId;
use crate::pool::{Answerer, Pool};

/// Longest wait for the answer of another server, over what the call itself may
/// take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request that has a node_id.
pub(super) trait Directed: Message + Default + Clone + 'static {
    /// What it gives.
    type Answer: Message + Default + 'static;
    /// The method's name.
    const METHOD: &'static str;

    /// The server that is meant.
    fn node_id(&self) -> &str;

    /// How long it may take by itself.
    fn takes(&self, _pool: &Pool) -> Duration {
        Duration::ZERO
    }

    /// Carries it out on this server.
    fn here(
        self,
        pool: Pool,
        server: Arc<Server>,
    ) -> impl Future<Output = Result<Self::Answer, Error>> + Send;
}

/// What a server knows of itself.
#[derive(Default)]
pub(super) struct Server {
    /// The configuration in force.
    pub config_toml: Option<Arc<str>>,
}

/// A call as another server is asked it.
#[derive(Clone, PartialEq, Message)]
struct Call {
    #[prost(string, tag = "1")]
    method: String,
    #[prost(bytes = "bytes", tag = "2")]
    request: Bytes,
    #[prost(string, tag = "3")]
    caller: String,
}

/// What it answers.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Answered {
    /// 0: it was carried out.
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(bytes = "bytes", tag = "3")]
    details: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    response: Bytes,
}

impl Answered {
    fn of<A: Message>(answer: Result<A, Status>) -> Self {
        match answer {
            Ok(response) => Self {
                response: response.encode_to_vec().into(),
                ..Self::default()
            },
            Err(status) => Self {
                code: status.code() as i32,
                message: status.message().to_owned(),
                details: Bytes::copy_from_slice(status.details()),
                response: Bytes::new(),
            },
        }
    }

    fn into<A: Message + Default>(self) -> Result<A, Status> {
        if self.code != 0 {
            let code = Code::from(self.code);
            return Err(Status::with_details(code, self.message, self.details));
        }
        let not_understood = |_| Error::Internal("the answer of a server is malformed".to_owned());
        Ok(A::decode(self.response).map_err(not_understood)?)
    }
}

/// Carries a request out where it is meant to be: here, if it names nobody.
pub(super) async fn on_one<D: Directed>(
    pool: &Pool,
    server: &Arc<Server>,
    request: D,
) -> Result<D::Answer, Status> {
    let node = request.node_id().to_owned();
    if node.is_empty() || node == pool.node().0 {
        return Ok(request.here(pool.clone(), Arc::clone(server)).await?);
    }
    let longest = PATIENCE + request.takes(pool);
    let call = Call {
        method: D::METHOD.to_owned(),
        request: request.encode_to_vec().into(),
        caller: pool.caller().0.clone(),
    };
    let answer = pool
        .ask(&node, call.encode_to_vec().into(), longest)
        .await?;
    let not_understood = |_| Error::Internal("the answer of a server is malformed".to_owned());
    Answered::decode(answer).map_err(not_understood)?.into()
}

/// Carries a request out where it is meant to be: on every server, if it names
/// nobody. `on`: the same request to one. The first refusal is everybody's.
pub(super) async fn on_all<D: Directed>(
    pool: &Pool,
    server: &Arc<Server>,
    request: D,
    on: impl Fn(&D, String) -> D,
) -> Result<Vec<D::Answer>, Status> {
    if !request.node_id().is_empty() {
        return Ok(vec![on_one(pool, server, request).await?]);
    }
    let nodes = pool.nodes().await?.into_iter();
    let all = nodes.map(|node| on_one(pool, server, on(&request, node)));
    try_join_all(all).await
}

/// Answers what other servers ask this one.
pub(super) fn answerer(pool: Pool, server: Arc<Server>) -> Answerer {
    Arc::new(move |question| {
        let (pool, server) = (pool.clone(), Arc::clone(&server));
        Box::pin(async move { answer(pool, server, question).await.encode_to_vec().into() })
    })
}

async fn answer(pool: Pool, server: Arc<Server>, question: Bytes) -> Answered {
    let Ok(call) = Call::decode(question) else {
        return Answered::of::<()>(Err(Status::internal("the call is malformed")));
    };
    // The server that was called has looked at who calls.
    let pool = pool.for_operator(CallerId(call.caller.clone()));
    super::operator::carry_out(call.method.as_str(), call.request, pool, server)
        .await
        .unwrap_or_else(|| Answered::of::<()>(Err(Error::NotBuiltYet("this call").into())))
}

/// Decodes a request, carries it out and encodes what it gives.
pub(super) async fn encoded<D: Directed>(
    request: Bytes,
    pool: Pool,
    server: Arc<Server>,
) -> Answered {
    match D::decode(request) {
        Ok(request) => {
            let answer = request.here(pool, server).await;
            Answered::of(answer.map_err(Status::from))
        }
        Err(_) => Answered::of::<()>(Err(Status::internal("the request is malformed"))),
    }
}
