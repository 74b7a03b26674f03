//! What a collector gets, and that nobody waits for it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use claudepool::pb;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::{Request, Response, Status};

use crate::support::http::get;
use crate::support::{PATIENCE, Program, Serving};

const TRACE: [u8; 16] = [
    0x4b, 0xf9, 0x2f, 0x35, 0x77, 0xb3, 0x4d, 0xa6, 0xa3, 0xce, 0x92, 0x9d, 0x0e, 0x0e, 0x47, 0x36,
];
const CALLER: [u8; 8] = [0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7];
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// What came.
enum Came {
    Spans(Box<ExportTraceServiceRequest>),
    Metrics(Box<ExportMetricsServiceRequest>),
}

#[derive(Clone)]
struct Collector(mpsc::Sender<Came>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let came = Came::Spans(Box::new(request.into_inner()));
        let _ = self.0.send(came).await;
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let came = Came::Metrics(Box::new(request.into_inner()));
        let _ = self.0.send(came).await;
        Ok(Response::new(Default::default()))
    }
}

/// Where it is, and what comes.
async fn collector() -> (SocketAddr, mpsc::Receiver<Came>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (came, comes) = mpsc::channel(10_000);
    let collector = Collector(came);
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(collector.clone()))
            .add_service(MetricsServiceServer::new(collector))
            .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener)),
    );
    (addr, comes)
}

/// Everything that came until the server had ended.
async fn all(mut comes: mpsc::Receiver<Came>, server: Serving) -> (Vec<Span>, Vec<String>) {
    server.signal(rustix::process::Signal::TERM);
    assert!(server.ended().await.success());
    let (mut spans, mut metrics) = (Vec::new(), Vec::new());
    while let Ok(came) = comes.try_recv() {
        match came {
            Came::Spans(request) => {
                for resource in request.resource_spans {
                    let attributes = resource.resource.unwrap().attributes;
                    assert!(attributes.iter().any(|a| a.key == "service.name"));
                    spans.extend(resource.scope_spans.into_iter().flat_map(|s| s.spans));
                }
            }
            Came::Metrics(request) => {
                let scopes = request.resource_metrics.into_iter();
                let scopes = scopes.flat_map(|resource| resource.scope_metrics);
                let names = scopes.flat_map(|scope| scope.metrics).map(|m| m.name);
                metrics.extend(names);
            }
        }
    }
    (spans, metrics)
}

fn traced<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let parent = PARENT.parse().unwrap();
    request.metadata_mut().insert("traceparent", parent);
    request
}

/// The one span of the caller's trace with this name, under that parent.
fn under<'a>(spans: &'a [Span], parent: &[u8], name: &str) -> &'a Span {
    let found: Vec<_> = spans
        .iter()
        .filter(|s| s.trace_id == TRACE && s.parent_span_id == parent && s.name == name)
        .collect();
    let told = || {
        let of = |s: &Span| (s.name.clone(), s.parent_span_id.clone(), s.span_id.clone());
        spans.iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(found.len(), 1, "{name} under {parent:?}: {:?}", told());
    found[0]
}

#[tokio::test]
async fn a_runs_trace_shows_queue_process_turn_tools_and_reset_under_its_caller() {
    const SECRETS: [&str; 2] = ["planted-key-4711", "planted-prompt-4711"];
    let (addr, comes) = collector().await;
    let key = format!("[agent.env]\nANTHROPIC_API_KEY = '{}'", SECRETS[0]);
    let program = Program::with_slots_and(1, &key).await;
    let endpoint = format!("http://{addr}");
    let env = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
        ("OTEL_SERVICE_NAME", "a-pool"),
    ];
    let mut server = program.serve_with(&env).await;
    let prompt = format!("::bash true\n::echo {}", SECRETS[1]);
    let request = pb::RunRequest {
        task: Some(crate::support::prompt(prompt)),
        ..Default::default()
    };

    let answer = server.caller.work.run(traced(request)).await.unwrap();

    let task = answer.into_inner().task.unwrap();
    let port = get(server.status, "/metrics").await.body;
    assert!(port.contains("claudepool_attempts_total"), "{port}");
    let (spans, metrics) = all(comes, server).await;
    let call = under(&spans, &CALLER, "claudepool.v1.PoolService/Run");
    under(&spans, &call.span_id, "queue");
    let attempt = under(&spans, &call.span_id, "attempt");
    let process = format!(
        "{:?}",
        under(&spans, &attempt.span_id, "process").attributes
    );
    assert!(process.contains("origin"), "{process}");
    let turn = under(&spans, &attempt.span_id, "turn");
    let tool = under(&spans, &turn.span_id, "tool Bash");
    under(&spans, &attempt.span_id, "reset");
    assert!(turn.start_time_unix_nano <= tool.start_time_unix_nano);
    assert!(tool.end_time_unix_nano <= turn.end_time_unix_nano);
    assert!(call.end_time_unix_nano > turn.start_time_unix_nano);
    let text = format!("{spans:?}");
    assert!(text.contains(&task.task_id), "{text}");
    for secret in SECRETS {
        assert!(!text.contains(secret), "{text}");
        assert!(!port.contains(secret), "{port}");
    }
    let own: String = call
        .span_id
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert!(task.trace_parent.contains(&own), "{}", task.trace_parent);
    for name in ["claudepool_tasks_ended", "rpc_server_call_duration_seconds"] {
        assert!(metrics.iter().any(|metric| metric == name), "{metrics:?}");
    }
}

#[tokio::test]
async fn a_task_that_outlives_its_server_stays_in_its_callers_trace() {
    let program = Program::new().await;
    let mut first = program.serve().await;
    let request = pb::SubmitRequest {
        task: Some(crate::support::prompt("::slow 20 50")),
        ..Default::default()
    };
    let made = first.caller.work.submit(traced(request)).await.unwrap();
    let id = made.into_inner().task_id;
    first.kill().await;
    let (addr, comes) = collector().await;
    let endpoint = format!("http://{addr}");
    let mut second = program
        .serve_with(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)])
        .await;

    second.caller.result(&id).await;

    let (spans, _) = all(comes, second).await;
    let attempt = under(&spans, &CALLER, "attempt");
    under(&spans, &attempt.span_id, "turn");
}

#[tokio::test]
async fn a_collector_that_never_answers_slows_nobody() {
    // It takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let program = Program::new().await;
    let env = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
        ("CLAUDEPOOL_LOG", "info"),
    ];
    let mut server = program.serve_with(&env).await;

    for _ in 0..20 {
        let hello = server.caller.say("hello");
        let answer = server.caller.finish(hello).await;
        assert!(answer.result.unwrap().success);
    }

    server.signal(rustix::process::Signal::TERM);
    // What it says before the last spans and metrics go out.
    let stops = async {
        while !program.log().contains("the server has stopped") {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, stops).await.expect("it stops");
    let began = Instant::now();
    assert!(server.ended().await.success(), "{}", program.log());
    // A call of a collector may take 10 s.
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
}
