//! What the wire promises without a pool, over real sockets.

mod limits;
mod raw;
mod toy;
mod web;

use std::time::Instant;

use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

use self::raw::call;
use self::toy::{RUN, RUN_STREAM, Running, ask, soon, starting, toy};
use super::{Options, Server};
use crate::pb;
use crate::pb::pool_service_client::PoolServiceClient;

async fn channel(server: &Running) -> Channel {
    Channel::from_shared(format!("http://{}", server.addr))
        .expect("an address")
        .connect()
        .await
        .expect("a server")
}

#[tokio::test]
async fn before_the_pool_is_there_health_says_so_for_every_service() {
    let server = starting().await;
    let mut health = HealthClient::new(channel(&server).await);

    for service in [
        "",
        "claudepool.v1.PoolService",
        "claudepool.v1.OperatorService",
        "claudepool.v1.CatalogService",
        "claudepool.v1.ContextService",
    ] {
        let request = HealthCheckRequest {
            service: service.into(),
        };
        let answer = health
            .check(request)
            .await
            .expect("registered")
            .into_inner();
        assert_eq!(answer.status(), ServingStatus::NotServing, "{service:?}");
    }
}

#[tokio::test]
async fn before_the_pool_is_there_calls_are_told_to_try_again() {
    let server = starting().await;
    let mut client = PoolServiceClient::new(channel(&server).await);

    let status = client
        .get_status(pb::GetStatusRequest::default())
        .await
        .expect_err("no pool");

    assert_eq!(status.code(), Code::Unavailable);
    let info = status
        .get_details_error_info()
        .expect("every error has one");
    assert_eq!(info.reason, "STARTING");
    assert!(status.get_details_retry_info().is_some());
}

#[tokio::test]
async fn a_method_that_nobody_knows_is_unimplemented() {
    let server = starting().await;
    for path in ["/claudepool.v1.PoolService/Fly", "/claudepool.v2.X/Y"] {
        let seen = soon(call(server.addr, path, None, b"")).await;
        assert_eq!(seen.status.code(), Code::Unimplemented, "{path}");
    }
}

#[tokio::test]
async fn both_reflections_list_every_service() {
    let server = starting().await;

    macro_rules! services {
        ($version:ident) => {{
            use tonic_reflection::pb::$version as v;
            let mut client =
                v::server_reflection_client::ServerReflectionClient::new(channel(&server).await);
            let request = v::ServerReflectionRequest {
                host: String::new(),
                message_request: Some(v::server_reflection_request::MessageRequest::ListServices(
                    String::new(),
                )),
            };
            let mut answers = client
                .server_reflection_info(tokio_stream::once(request))
                .await
                .expect("served")
                .into_inner();
            let answer = answers.message().await.expect("an answer").expect("one");
            let Some(v::server_reflection_response::MessageResponse::ListServicesResponse(list)) =
                answer.message_response
            else {
                panic!("a list");
            };
            list.service.into_iter().map(|s| s.name).collect::<Vec<_>>()
        }};
    }
    for listed in [services!(v1), services!(v1alpha)] {
        for service in ["Pool", "Operator", "Catalog", "Context"] {
            let name = format!("claudepool.v1.{service}Service");
            assert!(listed.contains(&name), "{name} in {listed:?}");
        }
        assert!(listed.contains(&"grpc.health.v1.Health".to_owned()));
    }
}

#[tokio::test]
async fn a_request_that_cannot_be_read_is_the_callers_fault() {
    let server = starting().await;
    let mut broken = ask("zzzz");
    let at = broken.iter().position(|b| *b == b'z').expect("encoded");
    broken[at] = 0xff;

    for path in [RUN, RUN_STREAM] {
        let seen = soon(call(server.addr, path, None, &broken)).await;
        assert_eq!(seen.status.code(), Code::InvalidArgument, "{path}");
        assert_eq!(seen.reason(), "INVALID_FIELD");
        let bad = seen.status.get_details_bad_request().expect("a field");
        // The oneof that holds the prompt: the decoder knows no better.
        assert_eq!(bad.field_violations[0].field, "task.input");

        let seen = soon(call(server.addr, path, None, &[0xff; 7])).await;
        assert_eq!(seen.status.code(), Code::InvalidArgument, "{path}");
        assert_eq!(seen.reason(), "INVALID_FIELD");
    }
}

#[tokio::test]
async fn a_request_may_have_sixteen_mebibytes_and_no_more() {
    let server = starting().await;

    let fits = ask(&"x".repeat(15 * 1024 * 1024));
    let seen = soon(call(server.addr, RUN, None, &fits)).await;
    assert_eq!(seen.reason(), "STARTING");

    let too_large = ask(&"x".repeat(16 * 1024 * 1024));
    let seen = soon(call(server.addr, RUN, None, &too_large)).await;
    assert_eq!(seen.status.code(), Code::InvalidArgument);
    assert_eq!(seen.reason(), "INVALID_FIELD");
}

#[tokio::test]
async fn a_call_past_its_deadline_ends_with_it_and_never_cancelled() {
    let mut server = toy().await;
    for timeout in ["5m", "50m", "200m", "1u", "0n", "30000u"] {
        for path in [RUN, RUN_STREAM] {
            let seen = soon(call(server.addr, path, Some(timeout), &ask("hang"))).await;
            assert_eq!(
                seen.status.code(),
                Code::DeadlineExceeded,
                "{path} {timeout}"
            );
            assert_eq!(seen.reason(), "DEADLINE");
            soon(server.gone.recv()).await.expect("the handler is gone");
        }
    }
}

#[tokio::test]
async fn a_stream_has_headers_before_its_first_message_and_ends_at_its_deadline() {
    let server = toy().await;

    let seen = soon(call(server.addr, RUN_STREAM, Some("300m"), &ask("hang"))).await;

    assert!(seen.streamed, "headers came first");
    assert_eq!(seen.data, 0);
    assert_eq!(seen.status.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_stream_that_always_has_something_ends_at_its_deadline() {
    let server = toy().await;

    let seen = soon(call(server.addr, RUN_STREAM, Some("200m"), &ask("busy"))).await;

    assert!(seen.data > 0);
    assert_eq!(seen.status.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_call_within_its_deadline_is_left_alone() {
    let server = toy().await;
    for path in [RUN, RUN_STREAM] {
        let seen = soon(call(server.addr, path, Some("5S"), &ask("hello"))).await;
        assert_eq!((seen.status.code(), seen.data), (Code::Ok, 5), "{path}");
    }
}

#[tokio::test]
async fn a_panic_is_internal_for_its_caller_and_nothing_for_others() {
    let server = toy().await;
    for path in [RUN, RUN_STREAM] {
        let seen = soon(call(server.addr, path, None, &ask("panic"))).await;
        assert_eq!(seen.status.code(), Code::Internal, "{path}");
        assert_eq!(seen.reason(), "INTERNAL");
        assert!(!seen.status.message().contains("at the"));

        let seen = soon(call(server.addr, path, None, &ask("hello"))).await;
        assert_eq!(seen.status.code(), Code::Ok, "{path}");
    }
}

#[tokio::test]
async fn a_server_that_stops_ends_what_is_open_and_does_not_hang() {
    let server = toy().await;
    let mut health = HealthClient::new(channel(&server).await);
    let mut watch = health
        .watch(HealthCheckRequest::default())
        .await
        .expect("served")
        .into_inner();
    let _first = watch.message().await.expect("a status");
    let addr = server.addr;
    let open = tokio::spawn(async move { call(addr, RUN_STREAM, None, &ask("hang")).await });
    let unary = tokio::spawn(async move { call(addr, RUN, None, &ask("hang")).await });
    // Both have reached the server once a later call has been answered twice.
    for _ in 0..2 {
        soon(call(addr, RUN, None, &ask("hello"))).await;
    }
    let began = Instant::now();

    server.stop.send(()).expect("a live server");

    for seen in [soon(open).await, soon(unary).await] {
        let seen = seen.expect("no panic");
        assert_eq!(seen.status.code(), Code::Unavailable);
        assert_eq!(seen.reason(), "DRAINING");
        assert!(seen.status.get_details_retry_info().is_some());
    }
    let drained = soon(server.served)
        .await
        .expect("no panic")
        .expect("stopped");
    assert_eq!(drained, None, "there was no pool");
    assert!(began.elapsed().as_secs() < 4);
}

#[tokio::test]
async fn a_client_that_reads_nothing_does_not_hold_the_server() {
    let server = toy().await;
    // Asks for endless messages and never takes one, nor answers anything.
    let stream = tokio::net::TcpStream::connect(server.addr)
        .await
        .expect("a server");
    let (client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    let driver = tokio::spawn(connection);
    let mut client = client.ready().await.expect("a stream");
    let request = http::Request::post(format!("http://{}{RUN_STREAM}", server.addr))
        .header("content-type", "application/grpc")
        .body(())
        .expect("a request");
    let (response, mut body) = client.send_request(request, false).expect("sent");
    let message = ask("busy");
    let mut framed = vec![0, 0, 0, 0, message.len() as u8];
    framed.extend(message);
    body.send_data(framed.into(), true).expect("sent");
    let _unread = soon(response).await.expect("headers");
    driver.abort();

    server.stop.send(()).expect("a live server");

    soon(server.served)
        .await
        .expect("no panic")
        .expect("stopped");
}

#[tokio::test]
async fn a_unix_socket_serves_as_well() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("pool.sock");
    let listener = tokio::net::UnixListener::bind(&path).expect("a socket");
    let server = Server::new(Options::default());
    let served = tokio::spawn(server.serve(listener, std::future::pending()));

    let channel = Endpoint::from_shared(format!("unix://{}", path.display()))
        .expect("an address")
        .connect()
        .await
        .expect("a server");
    let answer = HealthClient::new(channel)
        .check(HealthCheckRequest::default())
        .await
        .expect("served")
        .into_inner();

    assert_eq!(answer.status(), ServingStatus::NotServing);
    served.abort();
}
