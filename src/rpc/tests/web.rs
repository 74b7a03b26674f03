//! gRPC-Web, as a browser would speak it, and packed messages.

use std::net::SocketAddr;

use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;
use tonic::codec::CompressionEncoding::Gzip;
use tonic_types::StatusExt;

use super::channel;
use super::toy::{RUN, RUN_STREAM, ask, soon, starting, toy, toy_with};
use crate::pb;
use crate::pb::pool_service_client::PoolServiceClient;

const PAGE: &str = "https://pool.example.org";

/// Sends one request by HTTP/1 and gives all that is answered. The server closes
/// the connection, for it is asked to.
async fn http1(addr: SocketAddr, method: &str, path: &str, headers: &str, body: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).await.expect("a server");
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\
         content-length: {}\r\n{headers}\r\n",
        body.len()
    );
    let sent = [head.as_bytes(), body].concat();
    stream.write_all(&sent).await.expect("sent");
    let mut answer = Vec::new();
    // What is refused before it is read may end with a reset.
    let _ = soon(stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).to_lowercase()
}

/// A call of gRPC-Web.
async fn web(addr: SocketAddr, path: &str, headers: &str, prompt: &str) -> String {
    let message = ask(prompt);
    let mut framed = vec![0, 0, 0, 0, u8::try_from(message.len()).expect("small")];
    framed.extend(message);
    let headers = format!("content-type: application/grpc-web+proto\r\nx-grpc-web: 1\r\n{headers}");
    http1(addr, "POST", path, &headers, &framed).await
}

#[track_caller]
fn ended_with(answer: &str, code: Code) {
    assert!(answer.starts_with("http/1.1 200"), "{answer}");
    let status = format!("grpc-status:{}", code as i32);
    let told = answer.replace("grpc-status: ", "grpc-status:");
    assert!(told.contains(&status), "{code:?}: {answer}");
}

#[tokio::test]
async fn grpc_web_has_the_deadlines_and_streams_of_grpc() {
    let mut server = toy().await;
    for path in [RUN, RUN_STREAM] {
        ended_with(&web(server.addr, path, "", "hello").await, Code::Ok);
        soon(server.gone.recv()).await.expect("the handler is gone");

        let late = web(server.addr, path, "grpc-timeout: 100m\r\n", "hang").await;

        ended_with(&late, Code::DeadlineExceeded);
        soon(server.gone.recv()).await.expect("the handler is gone");
        ended_with(&web(server.addr, path, "", "panic").await, Code::Internal);
        soon(server.gone.recv()).await.expect("the handler is gone");
    }
    let busy = web(server.addr, RUN_STREAM, "grpc-timeout: 100m\r\n", "busy").await;
    ended_with(&busy, Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_server_that_stops_tells_it_over_grpc_web_too() {
    let mut server = toy().await;
    let addr = server.addr;
    let open = tokio::spawn(async move { web(addr, RUN_STREAM, "", "hang").await });
    let ask_twice = || web(addr, RUN, "", "hello");
    for _ in 0..2 {
        ask_twice().await;
        soon(server.gone.recv()).await.expect("the handler is gone");
    }

    server.stop.send(()).expect("a live server");

    ended_with(&soon(open).await.expect("no panic"), Code::Unavailable);
}

#[tokio::test]
async fn a_page_that_is_not_listed_reaches_nothing() {
    let off = toy().await;
    let listed = toy_with(|o| o.web.origins = vec![PAGE.into()]).await;
    let preflight = "access-control-request-method: POST\r\n";
    for (server, origin) in [
        (&off, PAGE),
        (&listed, "https://evil.example"),
        (&listed, "null"),
        (&listed, "https://pool.example.org.evil.example"),
    ] {
        let origin = format!("origin: {origin}\r\n");
        let asked = format!("{origin}{preflight}");
        for answer in [
            http1(server.addr, "OPTIONS", RUN, &asked, b"").await,
            web(server.addr, RUN, &origin, "hello").await,
            // What a form can send without being asked.
            http1(
                server.addr,
                "POST",
                RUN,
                &format!("{origin}content-type: text/plain\r\n"),
                b"x",
            )
            .await,
        ] {
            assert!(answer.starts_with("http/1.1 403"), "{origin}{answer}");
            assert!(!answer.contains("access-control-allow"), "{answer}");
        }
    }
    for mut server in [off, listed] {
        assert!(server.gone.try_recv().is_err(), "nothing was called");
    }
}

#[tokio::test]
async fn a_listed_page_is_told_what_it_may_and_can_read_the_answer() {
    let server = toy_with(|o| o.web.origins = vec![PAGE.into()]).await;
    let origin = format!("origin: {PAGE}\r\n");
    let asked = format!(
        "{origin}access-control-request-method: POST\r\n\
         access-control-request-headers: authorization,content-type,x-grpc-web\r\n"
    );

    let preflight = http1(server.addr, "OPTIONS", RUN, &asked, b"").await;
    let answer = web(server.addr, RUN, &origin, "hello").await;

    assert!(preflight.starts_with("http/1.1 204"), "{preflight}");
    let allowed = format!("access-control-allow-origin: {PAGE}\r\n");
    for header in [
        "allow-methods: post\r\n",
        "allow-headers: authorization,content-type",
    ] {
        assert!(
            preflight.contains(&format!("access-control-{header}")),
            "{preflight}"
        );
    }
    ended_with(&answer, Code::Ok);
    for answer in [preflight, answer] {
        assert!(
            answer.contains(&allowed) && answer.contains("vary: origin"),
            "{answer}"
        );
        assert!(!answer.contains("credentials"), "{answer}");
    }
}

#[tokio::test]
async fn http1_that_is_not_grpc_web_is_answered_shortly() {
    let server = toy().await;
    for (method, headers) in [
        ("GET", ""),
        ("POST", "content-type: application/grpc\r\n"),
        ("POST", "content-type: application/json\r\n"),
        ("OPTIONS", ""),
    ] {
        let answer = http1(server.addr, method, RUN, headers, b"").await;
        assert!(answer.starts_with("http/1.1 415"), "{method} {answer}");
    }
    let get = "content-type: application/grpc-web\r\n";
    let answer = http1(server.addr, "GET", RUN, get, b"").await;
    assert!(answer.starts_with("http/1.1 405"), "{answer}");
}

#[tokio::test]
async fn messages_may_be_packed_in_both_directions() {
    let server = starting().await;
    let mut client = PoolServiceClient::new(channel(&server).await)
        .send_compressed(Gzip)
        .accept_compressed(Gzip);
    let request = pb::RunRequest::decode(&ask(&"x".repeat(1_000_000))[..]).expect("a request");

    let status = client.run(request).await.expect_err("no pool");

    let info = status.get_details_error_info().expect("a reason");
    assert_eq!(info.reason, "STARTING", "it was unpacked and read");
}

#[tokio::test]
async fn what_unpacks_to_more_than_a_request_may_have_is_refused() {
    let server = starting().await;
    let mut client = PoolServiceClient::new(channel(&server).await).send_compressed(Gzip);
    let request = pb::RunRequest::decode(&ask(&"x".repeat(100_000_000))[..]).expect("a request");

    let status = soon(client.run(request)).await.expect_err("too much");

    assert_eq!(status.code(), Code::InvalidArgument);
    let info = status.get_details_error_info().expect("a reason");
    assert_eq!(info.reason, "INVALID_FIELD");
}
