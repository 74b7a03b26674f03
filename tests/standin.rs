//! The stand-in of the Messages API, seen by a client that knows only HTTP.

#![cfg(feature = "demo")]
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::Duration;

use claudepool::demo::StandIn;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest wait for anything that must happen.
const PATIENCE: Duration = Duration::from_secs(10);

async fn stand_in() -> StandIn {
    StandIn::start_recording(SocketAddr::from(([127, 0, 0, 1], 0)))
        .await
        .unwrap()
}

async fn send(server: &StandIn, path: &str, body: &str) -> TcpStream {
    let base = server.base_url();
    let mut tcp = TcpStream::connect(base.strip_prefix("http://").unwrap())
        .await
        .unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-api-key: dummy\r\n\
         x-claude-code-session-id: s1\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    tcp.write_all(head.as_bytes()).await.unwrap();
    tcp.write_all(body.as_bytes()).await.unwrap();
    tcp
}

/// The whole answer, head and body, and whether the connection ended well.
async fn answer_to(server: &StandIn, path: &str, body: &str) -> String {
    let mut tcp = send(server, path, body).await;
    let mut bytes = Vec::new();
    // A reset counts as the end: what came before it is what matters.
    let _ = timeout(PATIENCE, tcp.read_to_end(&mut bytes))
        .await
        .expect("no end of the answer");
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn read_until(tcp: &mut TcpStream, what: &str) -> String {
    let mut seen = Vec::new();
    loop {
        let read = timeout(PATIENCE, tcp.read_buf(&mut seen))
            .await
            .expect("too late")
            .unwrap();
        let text = String::from_utf8_lossy(&seen);
        if text.contains(what) {
            return text.into_owned();
        }
        assert!(read > 0, "ended before {what:?}: {text}");
    }
}

fn request(messages: Value, stream: bool) -> String {
    json!({"model": "claude-test-1", "stream": stream, "messages": messages}).to_string()
}

fn prompt(text: &str) -> String {
    request(json!([{"role": "user", "content": text}]), true)
}

/// The `data:` events of an answer.
fn events(answer: &str) -> Vec<Value> {
    let data = answer
        .lines()
        .filter_map(|line| line.strip_prefix("data: "));
    data.map(|json| serde_json::from_str(json).unwrap())
        .collect()
}

fn said(events: &[Value]) -> String {
    events
        .iter()
        .filter_map(|e| e["delta"]["text"].as_str())
        .collect()
}

fn stop_reason(events: &[Value]) -> Option<&str> {
    events
        .iter()
        .find_map(|e| e["delta"]["stop_reason"].as_str())
}

const MESSAGES: &str = "/v1/messages?beta=true";

#[tokio::test]
async fn an_echo_is_streamed_with_the_model_of_the_request() {
    let server = stand_in().await;

    let answer = answer_to(&server, MESSAGES, &prompt("::echo hello")).await;

    let events = events(&answer);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(events[0]["message"]["model"], "claude-test-1");
    assert_eq!(said(&events), "hello");
    assert_eq!(stop_reason(&events), Some("end_turn"));
    assert_eq!(events.last().unwrap()["type"], "message_stop");
}

#[tokio::test]
async fn a_request_without_a_stream_gets_one_json_message() {
    let server = stand_in().await;
    let body = request(
        json!([{"role": "user", "content": "::echo hi\n::tokens 5 6"}]),
        false,
    );

    let answer = answer_to(&server, "/v1/messages", &body).await;

    let json: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(json["content"], json!([{"type": "text", "text": "hi"}]));
    assert_eq!(json["usage"]["input_tokens"], 5);
    assert_eq!(json["usage"]["output_tokens"], 6);
}

#[tokio::test]
async fn the_script_goes_on_after_the_result_of_a_tool() {
    let server = stand_in().await;
    let script = "::bash true\n::echo after";

    let first = events(&answer_to(&server, MESSAGES, &prompt(script)).await);
    let second = request(
        json!([
            {"role": "user", "content": script},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "Bash"}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}]},
        ]),
        true,
    );
    let second = events(&answer_to(&server, MESSAGES, &second).await);

    let input: String = first
        .iter()
        .filter_map(|e| e["delta"]["partial_json"].as_str())
        .collect();
    let input: Value = serde_json::from_str(&input).unwrap();
    assert_eq!(input["command"], "true");
    assert_eq!(stop_reason(&first), Some("tool_use"));
    assert_eq!(said(&second), "after");
    assert_eq!(stop_reason(&second), Some("end_turn"));
}

#[tokio::test]
async fn an_error_has_its_status_and_its_header() {
    let server = stand_in().await;

    let answer = answer_to(&server, MESSAGES, &prompt("::error 429 7")).await;

    assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
    assert!(answer.contains("retry-after: 7\r\n"), "{answer}");
    assert!(answer.contains("\"rate_limit_error\""), "{answer}");
}

#[tokio::test]
async fn an_error_with_a_number_ends_after_that_many_requests() {
    let server = stand_in().await;
    let body = prompt("::error-times 2 529\n::echo recovered");

    let mut heads = Vec::new();
    for _ in 0..3 {
        let answer = answer_to(&server, MESSAGES, &body).await;
        heads.push(answer[9..12].to_owned());
    }

    assert_eq!(heads, ["529", "529", "200"]);
}

#[tokio::test]
async fn a_usage_limit_is_told_by_headers() {
    let server = stand_in().await;

    let answer = answer_to(&server, MESSAGES, &prompt("::limit")).await;

    assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
    assert!(
        answer.contains("anthropic-ratelimit-unified-status: rejected"),
        "{answer}"
    );
    assert!(answer.contains("retry-after: 3600"), "{answer}");
}

#[tokio::test]
async fn a_dropped_stream_breaks_off_in_the_middle() {
    let server = stand_in().await;

    let answer = answer_to(&server, MESSAGES, &prompt("::echo half\n::drop")).await;

    let events = events(&answer);
    assert_eq!(said(&events), "half");
    assert_eq!(stop_reason(&events), None);
    assert!(
        !answer.ends_with("0\r\n\r\n"),
        "the stream ended well: {answer}"
    );
}

#[tokio::test]
async fn an_overload_is_an_event_of_the_stream() {
    let server = stand_in().await;

    let answer = answer_to(&server, MESSAGES, &prompt("::model-error 1")).await;
    let again = answer_to(&server, MESSAGES, &prompt("::model-error 1")).await;

    assert_eq!(
        events(&answer).last().unwrap()["error"]["type"],
        "overloaded_error"
    );
    assert_eq!(stop_reason(&events(&again)), Some("end_turn"));
}

#[tokio::test]
async fn a_hanging_stream_ends_when_the_stand_in_does() {
    let server = stand_in().await;
    let mut tcp = send(&server, MESSAGES, &prompt("::hang")).await;
    read_until(&mut tcp, "message_start").await;

    timeout(PATIENCE, server.shutdown())
        .await
        .expect("the shutdown hangs too");

    let rest = timeout(PATIENCE, tcp.read_to_end(&mut Vec::new())).await;
    assert!(rest.is_ok(), "the stream outlived its server");
}

#[tokio::test]
async fn a_silent_request_is_counted_and_left_without_an_answer() {
    let server = stand_in().await;
    let mut tcp = send(&server, MESSAGES, &prompt("::silent")).await;

    assert_eq!(timeout(PATIENCE, server.wait_for_requests(1)).await, Ok(1));

    let answer = timeout(Duration::from_millis(50), tcp.read_u8()).await;
    assert!(answer.is_err(), "answered: {answer:?}");
    server.shutdown().await;
}

#[tokio::test]
async fn requests_are_recorded_with_their_session_and_body() {
    let server = stand_in().await;

    answer_to(&server, MESSAGES, &prompt("::echo hi")).await;

    let requests = server.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].path, MESSAGES);
    assert_eq!(requests[0].session_id.as_deref(), Some("s1"));
    assert_eq!(requests[0].api_key.as_deref(), Some("dummy"));
    assert_eq!(requests[0].body["messages"][0]["content"], "::echo hi");
}

#[tokio::test]
async fn structured_output_is_called_if_the_request_offers_it() {
    let server = stand_in().await;
    let body = json!({"model": "m", "stream": true, "tools": [{"name": "StructuredOutput"}],
        "messages": [{"role": "user", "content": "::json {\"a\":1}"}]});

    let events = events(&answer_to(&server, MESSAGES, &body.to_string()).await);

    assert_eq!(events[1]["content_block"]["name"], "StructuredOutput");
}

#[tokio::test]
async fn tokens_are_counted_and_other_paths_are_not_found() {
    let server = stand_in().await;

    let counted = answer_to(&server, "/v1/messages/count_tokens", &prompt("hi")).await;
    let lost = answer_to(&server, "/v1/models", "{}").await;
    let broken = answer_to(&server, "/v1/messages", "{").await;

    assert!(counted.contains("\"input_tokens\":"), "{counted}");
    assert!(
        lost.starts_with("HTTP/1.1 404") && lost.contains("not_found_error"),
        "{lost}"
    );
    assert!(broken.starts_with("HTTP/1.1 400"), "{broken}");
}

#[tokio::test]
async fn an_address_beyond_the_loopback_is_refused() {
    let error = StandIn::start(SocketAddr::from(([0, 0, 0, 0], 0)))
        .await
        .unwrap_err();

    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
}
