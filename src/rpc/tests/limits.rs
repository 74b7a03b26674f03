//! What connections and requests may take, held to below the client library.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::raw::call;
use super::toy::{RUN, RUN_STREAM, ask, soon, starting_with, toy_with};

const WATCH_HEALTH: &str = "/grpc.health.v1.Health/Watch";
const SHORT: Duration = Duration::from_millis(300);

async fn connect(addr: SocketAddr) -> TcpStream {
    TcpStream::connect(addr).await.expect("a server")
}

/// An HTTP/2 connection, and how it ends.
async fn http2(
    addr: SocketAddr,
) -> (
    SendRequest<Bytes>,
    tokio::task::JoinHandle<Result<(), h2::Error>>,
) {
    let (client, connection) = h2::client::handshake(connect(addr).await)
        .await
        .expect("HTTP/2");
    (client, tokio::spawn(connection))
}

fn post(addr: SocketAddr, path: &str) -> http::request::Builder {
    http::Request::post(format!("http://{addr}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
}

/// Begins a call with the whole of `message`.
async fn begin(
    client: &mut SendRequest<Bytes>,
    request: http::request::Builder,
    message: &[u8],
) -> h2::client::ResponseFuture {
    std::future::poll_fn(|cx| client.poll_ready(cx))
        .await
        .expect("a stream");
    let request = request.body(()).expect("a request");
    let (response, mut body) = client.send_request(request, false).expect("sent");
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).expect("small").to_be_bytes());
    framed.extend(message);
    body.send_data(framed.into(), true).expect("sent");
    response
}

/// How a stream ends; its messages are passed over.
async fn end(response: h2::client::ResponseFuture) -> Status {
    let (parts, mut body) = soon(response).await.expect("headers").into_parts();
    if let Some(status) = Status::from_header_map(&parts.headers) {
        return status;
    }
    while let Some(data) = soon(body.data()).await {
        let len = data.expect("no reset").len();
        body.flow_control().release_capacity(len).expect("received");
    }
    let trailers = soon(body.trailers()).await.expect("no reset");
    Status::from_header_map(&trailers.expect("trailers")).expect("a status")
}

/// Whether the server has closed it, and sends nothing more.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest));
    // A reset is an end as well.
    read.await.is_ok()
}

#[tokio::test]
async fn a_connection_too_many_is_closed_at_once_until_there_is_a_place() {
    let server = toy_with(|o| o.limits.connections_max = 2).await;
    let (mut one, served) = http2(server.addr).await;
    let _hangs = begin(&mut one, post(server.addr, RUN_STREAM), &ask("hang")).await;
    let _other = connect(server.addr).await;

    let mut refused = connect(server.addr).await;
    assert!(is_closed(&mut refused).await);

    drop(one);
    served.abort();
    // The server has to see that one has left.
    while soon(hello(server.addr)).await != Some(Code::Ok) {}
}

/// What a call on a connection of its own is answered; `None`: nothing.
async fn hello(addr: SocketAddr) -> Option<Code> {
    let (mut client, connection) = h2::client::handshake(connect(addr).await).await.ok()?;
    let connection = tokio::spawn(connection);
    let request = post(addr, WATCH_HEALTH).body(()).expect("a request");
    let (response, mut body) = client.send_request(request, false).ok()?;
    body.send_data(vec![0; 5].into(), true).ok()?;
    let answered = response.await.ok().map(|_| Code::Ok);
    connection.abort();
    answered
}

#[tokio::test]
async fn a_connection_that_never_calls_is_cut_whatever_it_has_said() {
    let server = toy_with(|o| o.limits.first_call_timeout = SHORT).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let whole = [&preface[..], &settings[..]].concat();
    let (mut calls, _served) = http2(server.addr).await;
    let mut hangs = begin(&mut calls, post(server.addr, RUN_STREAM), &ask("hang")).await;

    let mut silent = Vec::new();
    for said in [&b""[..], &preface[..10], &preface[..], &whole, b"POST / HT"] {
        let mut stream = connect(server.addr).await;
        stream.write_all(said).await.expect("sent");
        silent.push((said, stream));
    }
    for (said, mut stream) in silent {
        assert!(is_closed(&mut stream).await, "{said:?}");
    }

    let unread = std::pin::pin!(&mut hangs);
    assert!(soon(unread).await.is_ok(), "who has called stays");
    let hello = begin(&mut calls, post(server.addr, RUN_STREAM), &ask("hello")).await;
    assert_eq!(end(hello).await.code(), Code::Ok);
}

#[tokio::test]
async fn on_an_old_connection_readers_end_and_what_is_attached_goes_on() {
    let server = toy_with(|o| {
        o.limits.connection_age = SHORT;
        o.limits.connection_age_grace = SHORT;
    })
    .await;
    let (mut client, served) = http2(server.addr).await;
    let health = begin(&mut client, post(server.addr, WATCH_HEALTH), b"").await;
    let limited = post(server.addr, RUN_STREAM).header("grpc-timeout", "1500m");
    let attached = begin(&mut client, limited, &ask("hang")).await;

    let status = end(health).await;

    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.get_details_retry_info().is_some());
    // GOAWAY: nothing new begins here.
    let ready = std::future::poll_fn(|cx| client.poll_ready(cx)).await;
    assert!(ready.is_err(), "no new call");
    assert_eq!(end(attached).await.code(), Code::DeadlineExceeded);
    drop(client);
    soon(served).await.expect("no panic").expect("a good end");
}

#[tokio::test]
async fn what_is_attached_on_an_old_connection_ends_at_last() {
    let mut server = toy_with(|o| {
        o.limits.connection_age = SHORT;
        o.limits.connection_age_grace = SHORT;
        o.limits.attached_grace = SHORT;
    })
    .await;
    let (mut client, served) = http2(server.addr).await;
    let attached = begin(&mut client, post(server.addr, RUN_STREAM), &ask("hang")).await;

    let status = end(attached).await;

    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.get_details_retry_info().is_some());
    soon(server.gone.recv()).await.expect("the handler is gone");
    soon(served).await.expect("no panic").expect("a good end");
}

#[tokio::test]
async fn a_connection_that_answers_no_ping_is_cut_and_its_callers_have_left() {
    let mut server = toy_with(|o| {
        o.limits.keepalive_interval = SHORT;
        o.limits.keepalive_timeout = SHORT;
    })
    .await;
    let (mut lively, _served) = http2(server.addr).await;
    let _stays = begin(&mut lively, post(server.addr, RUN_STREAM), &ask("hang")).await;
    let (mut client, mut deaf) = h2::client::handshake(connect(server.addr).await)
        .await
        .expect("HTTP/2");
    let headers = async {
        let hang = post(server.addr, RUN_STREAM);
        begin(&mut client, hang, &ask("hang")).await.await
    };
    let _unread = tokio::select! {
        headers = headers => headers.expect("headers"),
        _ = &mut deaf => panic!("it goes on"),
    };

    // From now on nobody reads what is sent to it; the socket stays open.
    soon(server.gone.recv()).await.expect("the handler is gone");

    let hello = begin(&mut lively, post(server.addr, RUN_STREAM), &ask("hello")).await;
    assert_eq!(end(hello).await.code(), Code::Ok, "the older one stays");
    drop(deaf);
}

#[tokio::test]
async fn a_connection_offers_as_many_streams_as_it_may_have() {
    let server = toy_with(|o| o.limits.streams_max = 7).await;
    let (client, mut connection) = h2::client::handshake(connect(server.addr).await)
        .await
        .expect("HTTP/2");
    let _client = client;
    while connection.max_concurrent_send_streams() != 7 {
        soon(std::future::poll_fn(|cx| {
            let _ = std::pin::Pin::new(&mut connection).poll(cx);
            std::task::Poll::Ready(())
        }))
        .await;
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn headers_over_the_limit_are_refused_and_the_connection_lives() {
    let server = toy_with(|_| {}).await;
    let (mut client, _served) = http2(server.addr).await;
    for size in [17 * 1024, 200 * 1024] {
        let large = post(server.addr, RUN_STREAM).header("x-large", "x".repeat(size));
        let response = begin(&mut client, large, &ask("hello")).await;
        let refused = match soon(response).await {
            Ok(response) => response.status() == http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Err(error) => error.is_reset() || error.is_go_away(),
        };
        assert!(refused, "{size}");
    }
    let seen = soon(call(server.addr, RUN, None, &ask("hello"))).await;
    assert_eq!(seen.status.code(), Code::Ok);
}

#[tokio::test]
async fn a_flood_of_resets_ends_its_connection_alone() {
    let server = toy_with(|_| {}).await;
    let mut stream = connect(server.addr).await;
    // By hand: h2's client sends nothing of a call that it has reset at once.
    let mut flood = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for number in 0..10_000_u32 {
        let stream = (2 * number + 1).to_be_bytes();
        // POST, http, the path, an authority.
        let mut headers = vec![0x83, 0x86, 0x04, u8::try_from(RUN.len()).expect("short")];
        headers.extend(RUN.as_bytes());
        headers.extend([0x01, 1, b'x']);
        flood.extend([0, 0, u8::try_from(headers.len()).expect("short"), 1, 4]);
        flood.extend(stream);
        flood.extend(headers);
        flood.extend([0, 0, 4, 3, 0]);
        flood.extend(stream);
        flood.extend([0, 0, 0, 8]);
    }
    // It may be cut in the middle.
    let _ = stream.write_all(&flood).await;

    let mut answer = Vec::new();
    let _ = soon(stream.read_to_end(&mut answer)).await;

    let calm = "too_many_resets";
    let told = answer.windows(calm.len()).any(|w| w == calm.as_bytes());
    assert!(
        told || answer.is_empty(),
        "GOAWAY, or a reset before it is read"
    );
    let seen = soon(call(server.addr, RUN, None, &ask("hello"))).await;
    assert_eq!(seen.status.code(), Code::Ok);
}

#[tokio::test]
async fn a_request_that_never_arrives_whole_ends() {
    let server = toy_with(|o| o.limits.receive_timeout = SHORT).await;
    let (mut client, _served) = http2(server.addr).await;
    for path in [RUN, RUN_STREAM] {
        let request = post(server.addr, path).body(()).expect("a request");
        let mut ready = client.clone().ready().await.expect("a stream");
        let (response, mut body) = ready.send_request(request, false).expect("sent");
        body.send_data(vec![0, 0, 0, 0, 9, 1].into(), false)
            .expect("sent");

        let status = end(response).await;

        assert_eq!(status.code(), Code::DeadlineExceeded, "{path}");
        let info = status.get_details_error_info().expect("a reason");
        assert_eq!(info.reason, "DEADLINE");
    }
    let hello = begin(&mut client, post(server.addr, RUN), &ask("hello")).await;
    assert_eq!(end(hello).await.code(), Code::Ok);
}

#[tokio::test]
async fn requests_that_are_received_together_have_a_limit_together() {
    let server = starting_with(|o| o.limits.receiving_bytes_max = 300_000).await;
    let (mut client, _served) = http2(server.addr).await;
    let half = ask(&"x".repeat(200_000));
    // A request that stays half.
    let request = post(server.addr, RUN).body(()).expect("a request");
    let mut ready = client.clone().ready().await.expect("a stream");
    let (unfinished, mut body) = ready.send_request(request, false).expect("sent");
    let mut framed = vec![0, 0, 0x7f, 0xff, 0xff];
    framed.extend(&half);
    body.send_data(framed.into(), false).expect("sent");
    // It has been read once its window is open again.
    body.reserve_capacity(1 << 20);
    soon(std::future::poll_fn(|cx| body.poll_capacity(cx))).await;

    let refused = soon(async {
        loop {
            let seen = call(server.addr, RUN, None, &half).await;
            if seen.reason() != "STARTING" {
                break seen;
            }
        }
    })
    .await;

    assert_eq!(refused.status.code(), Code::ResourceExhausted);
    assert_eq!(refused.reason(), "QUEUE_FULL");
    assert!(refused.status.get_details_retry_info().is_some());
    body.send_reset(h2::Reason::CANCEL);
    drop(unfinished);
    let again = begin(&mut client, post(server.addr, RUN), &ask("x")).await;
    assert_eq!(
        end(again)
            .await
            .get_details_error_info()
            .expect("one")
            .reason,
        "STARTING"
    );
    soon(async { while call(server.addr, RUN, None, &half).await.reason() != "STARTING" {} }).await;
}

#[tokio::test]
async fn a_connection_whose_reader_takes_nothing_is_cut() {
    let mut server = toy_with(|o| o.limits.stalled_timeout = SHORT).await;
    let (mut client, served) = http2(server.addr).await;
    let _quiet = begin(&mut client, post(server.addr, RUN_STREAM), &ask("hang")).await;
    let busy = begin(&mut client, post(server.addr, RUN_STREAM), &ask("busy")).await;

    // Its windows stay full; the connection answers pings all the same.
    let _unread = soon(busy).await.expect("headers");

    let _cut = soon(served).await.expect("no panic");
    for _ in 0..2 {
        soon(server.gone.recv())
            .await
            .expect("the handlers are gone");
    }
}
