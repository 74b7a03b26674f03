//! The HTTP server that answers in the place of the Messages API.
//!
//! It listens on the loopback interface only and keeps nothing between
//! requests but the counters of `::error-times` and, if asked, a record.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use axum::serve::ListenerExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::request::{asked, offers_structured_output};
use super::script::{self, Block, End, Fault, FaultKind};
use super::{stream, wire};

/// Largest body of a request; the API's own limit is half of it.
const BODY_BYTES_MAX: usize = 64 << 20;
/// Most requests kept in the record; the oldest go first.
const RECORDED_MAX: usize = 1000;
/// Most counters of `::error-times` kept; the oldest go first.
const COUNTERS_MAX: usize = 1000;
/// How long open connections may take to end at a shutdown.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// The stand-in of the Messages API. It stops when dropped.
#[derive(Debug)]
pub struct StandIn {
    addr: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
    _stop: DropGuard,
}

/// A request as it arrived.
#[derive(Clone, Debug, PartialEq)]
pub struct Received {
    /// The path and the query.
    pub path: String,
    /// The header `x-claude-code-session-id`.
    pub session_id: Option<String>,
    /// The header `x-api-key`, or the bearer token: what the client showed.
    pub api_key: Option<String>,
    /// The header `user-agent`.
    pub user_agent: Option<String>,
    /// The JSON body; null if it was none.
    pub body: Value,
}

#[derive(Debug)]
struct Shared {
    record: Option<Mutex<VecDeque<Received>>>,
    count: watch::Sender<u64>,
    counters: Mutex<Counters>,
    /// What every request for a message meets, whatever its script says.
    fault: Mutex<Option<FaultKind>>,
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct Counters {
    counts: HashMap<u64, u32>,
    order: VecDeque<u64>,
}

impl StandIn {
    /// Starts at `addr`, where port 0 means any free port. Nothing is recorded.
    ///
    /// # Errors
    /// `InvalidInput` if the address is not of the loopback interface, or what
    /// the system says to the bind.
    pub async fn start(addr: SocketAddr) -> io::Result<Self> {
        Self::open(addr, None).await
    }

    /// Like [`StandIn::start`], and keeps the newest requests for tests to read.
    ///
    /// # Errors
    /// Those of [`StandIn::start`].
    pub async fn start_recording(addr: SocketAddr) -> io::Result<Self> {
        Self::open(addr, Some(Mutex::default())).await
    }

    async fn open(addr: SocketAddr, record: Option<Mutex<VecDeque<Received>>>) -> io::Result<Self> {
        if !addr.ip().is_loopback() {
            let text = "the stand-in listens on loopback addresses only";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            record,
            count: watch::Sender::new(0),
            counters: Mutex::default(),
            fault: Mutex::default(),
            stop: stop.clone(),
        });
        let app = Router::new().fallback(answer).with_state(shared.clone());
        let listener = listener.tap_io(|tcp| {
            // Without it small events wait for the one before to be confirmed.
            let _ = tcp.set_nodelay(true);
        });
        let stopped = stop.clone();
        let server = tokio::spawn(async move {
            let serve = axum::serve(listener, app);
            let stopping = stopped.clone().cancelled_owned();
            let served = serve.with_graceful_shutdown(stopping).into_future();
            let deadline = async {
                stopped.cancelled().await;
                tokio::time::sleep(SHUTDOWN_GRACE).await;
            };
            tokio::select! {
                _ = served => {}
                () = deadline => {}
            }
        });
        Ok(Self {
            addr,
            shared,
            server,
            _stop: stop.drop_guard(),
        })
    }

    /// The address for `ANTHROPIC_BASE_URL`, such as `http://127.0.0.1:4000`.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// What arrived, oldest first: the newest 1000. Empty unless recording.
    pub fn requests(&self) -> Vec<Received> {
        let Some(record) = &self.shared.record else {
            return Vec::new();
        };
        let record = record.lock().unwrap_or_else(PoisonError::into_inner);
        record.iter().cloned().collect()
    }

    /// Returns as soon as `n` requests have arrived since the start, with their
    /// true number. Counts without recording too. Waits without end.
    pub async fn wait_for_requests(&self, n: u64) -> u64 {
        let mut count = self.shared.count.subscribe();
        let seen = count.wait_for(|count| *count >= n).await;
        seen.map_or(0, |count| *count)
    }

    /// From now on every request for a message meets this, whatever its script
    /// says; `None`: nothing but what the script says.
    pub fn fault(&self, fault: Option<FaultKind>) {
        *self
            .shared
            .fault
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// Stops listening, cuts what still hangs and waits until all has ended.
    pub async fn shutdown(self) {
        self.shared.stop.cancel();
        // The task ends by itself after the grace; a panic in it changes nothing.
        let _ = self.server.await;
    }
}

impl Shared {
    fn received(&self, received: Received) {
        if let Some(record) = &self.record {
            let mut record = record.lock().unwrap_or_else(PoisonError::into_inner);
            if record.len() == RECORDED_MAX {
                record.pop_front();
            }
            record.push_back(received);
        }
        self.count.send_modify(|count| *count += 1);
    }

    /// Whether the thing named by `key` is met once more, of `times` in all.
    fn met(&self, key: impl Hash, times: Option<u32>) -> bool {
        let Some(times) = times else { return true };
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        counters.next(hasher.finish()) <= times
    }
}

impl Counters {
    fn next(&mut self, key: u64) -> u32 {
        if !self.counts.contains_key(&key) {
            if self.order.len() == COUNTERS_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.counts.remove(&oldest);
            }
            self.order.push_back(key);
        }
        let count = self.counts.entry(key).or_insert(0);
        *count = count.saturating_add(1);
        *count
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let header = |name: &str| {
        let value = head.headers.get(name)?.to_str().ok()?;
        Some(value.to_owned())
    };
    let Ok(body) = to_bytes(body, BODY_BYTES_MAX).await else {
        return failure(413, "request_too_large", "Request exceeds the maximum size");
    };
    let parsed: Option<Value> = serde_json::from_slice(&body).ok();
    let session = header("x-claude-code-session-id");
    let bearer = header("authorization").map(|v| v.trim_start_matches("Bearer ").to_owned());
    shared.received(Received {
        path: head
            .uri
            .path_and_query()
            .map_or_else(String::new, ToString::to_string),
        session_id: session.clone(),
        api_key: header("x-api-key").or(bearer),
        user_agent: header("user-agent"),
        body: parsed.clone().unwrap_or_default(),
    });
    let post = head.method == http::Method::POST;
    match (head.uri.path(), parsed) {
        ("/v1/messages", Some(json)) if post => messages(&shared, &json, body.len(), session).await,
        ("/v1/messages/count_tokens", Some(_)) if post => {
            whole(200, &json!({"input_tokens": (body.len() / 4).max(1)}))
        }
        ("/v1/messages" | "/v1/messages/count_tokens", None) if post => {
            failure(400, "invalid_request_error", "The body is not valid JSON.")
        }
        _ => failure(404, "not_found_error", "Not found."),
    }
}

async fn messages(
    shared: &Shared,
    body: &Value,
    body_bytes: usize,
    session: Option<String>,
) -> Response {
    let all = *shared.fault.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(kind) = all {
        return fault(shared, kind).await;
    }
    let asked = asked(body);
    let steps = script::parse(&asked.prompt);
    let answers = script::answers(&steps, offers_structured_output(body));
    let mut answer = script::answer_at(&answers, asked.answered);
    let key = |what: &str, index: usize| {
        let place = (what.to_owned(), index, asked.answered);
        (asked.prompt.clone(), session.clone(), place)
    };
    for (index, Fault { kind, times }) in answer.faults.iter().enumerate() {
        if shared.met(key("fault", index), *times) {
            return fault(shared, *kind).await;
        }
    }
    if let End::Drop { times } | End::Overloaded { times } = answer.end
        && !shared.met(key("end", 0), times)
    {
        let calls = answer
            .blocks
            .iter()
            .any(|b| matches!(b, Block::Tool { .. }));
        answer.end = if calls { End::ToolUse } else { End::Turn };
    }
    let model = body["model"].as_str().unwrap_or("unknown");
    let usage = answer.usage_for(body_bytes);
    let id = format!("msg_{}", uuid::Uuid::new_v4().simple());
    if body["stream"].as_bool() == Some(true) {
        return stream::message(&id, model, &answer, usage, shared.stop.clone());
    }
    match answer.end {
        End::Turn | End::ToolUse | End::Refusal => {
            whole(200, &wire::message(&id, model, &answer, usage))
        }
        End::Overloaded { .. } => failure(529, "overloaded_error", "Overloaded"),
        End::Drop { .. } => stream::cut(shared.stop.clone()),
        End::Hang => fault(shared, FaultKind::Silent).await,
    }
}

async fn fault(shared: &Shared, kind: FaultKind) -> Response {
    let (code, word, text) = wire::error_words(kind);
    let mut response = failure(code, word, text);
    let mut set = |name: &'static str, value: String| {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(name, value);
        }
    };
    match kind {
        FaultKind::Status { retry_after_s, .. } => {
            if let Some(seconds) = retry_after_s {
                set("retry-after", seconds.to_string());
            }
        }
        FaultKind::Limit => {
            let reset = crate::clock::Clock::system().now().0 / 1_000_000 + 3600;
            set("retry-after", "3600".to_owned());
            set("anthropic-ratelimit-unified-status", "rejected".to_owned());
            set("anthropic-ratelimit-unified-reset", reset.to_string());
            set(
                "anthropic-ratelimit-unified-representative-claim",
                "five_hour".to_owned(),
            );
        }
        // The server drops this handler when the client goes.
        FaultKind::Silent => shared.stop.cancelled().await,
    }
    response
}

fn whole(code: u16, json: &Value) -> Response {
    response(code, "application/json", Body::from(json.to_string()))
}

fn failure(code: u16, word: &str, text: &str) -> Response {
    whole(code, &wire::error(word, text))
}

/// An answer with the headers that the API always sets.
pub(super) fn response(code: u16, content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() =
        http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert("content-type", http::HeaderValue::from_static(content_type));
    let id = format!("req_{}", uuid::Uuid::new_v4().simple());
    if let Ok(id) = id.parse() {
        headers.insert("request-id", id);
    }
    response
}
