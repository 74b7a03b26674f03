//! Encryption, and credentials that change while the server runs.

use std::future::Future;
use std::time::{Duration, Instant};

use bytes::Bytes;
use claudepool::pb;
use prost::Message;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::support::secure::{Authority, Secrets, call, trusting};
use crate::support::{Harness, PATIENCE, Running, next, refused};

const STATUS: &str = "/claudepool.v1.PoolService/GetStatus";

async fn server(secrets: &Secrets) -> Running {
    let security = secrets.security(&[("spiffe://example.org/a", "read")]);
    let harness = Harness::new().server(|options| options.security = security);
    harness.start().await
}

/// Whether a call with a token is answered.
async fn status(channel: &Channel, token: &str) -> Result<(), Code> {
    let token = format!("Bearer {token}");
    let answer = call(channel, STATUS, Some(&token), Vec::new()).await;
    answer.map(drop).map_err(|status| status.code())
}

/// Asks again until it is so: a change of a file tells nobody.
async fn until<F: Future<Output = bool>>(so: impl Fn() -> F) {
    let begin = Instant::now();
    while !so().await {
        assert!(begin.elapsed() < PATIENCE, "not in time");
    }
}

#[tokio::test]
async fn a_token_holds_from_the_moment_it_is_in_the_file_until_it_is_out() {
    let secrets = Secrets::new();
    secrets.tokens(&[("ci", "read", "old")]);
    let running = server(&secrets).await;
    let channel = secrets.connect(running.addr.port(), None).await;
    let good = async |token| status(&channel, token).await.is_ok();
    assert_eq!(status(&channel, "new").await, Err(Code::Unauthenticated));

    secrets.tokens(&[("ci", "read", "old"), ("ci", "read", "new")]);
    until(|| good("new")).await;
    assert!(good("old").await, "both are good meanwhile");

    secrets.tokens(&[("ci", "read", "new")]);
    until(async || !good("old").await).await;
    assert!(good("new").await);

    // What cannot be used changes nothing: the change after it is seen.
    std::fs::write(secrets.file("tokens"), "nonsense").unwrap();
    assert!(good("new").await);
    secrets.tokens(&[("ci", "read", "last")]);
    until(|| good("last")).await;
}

/// How a stream that does not end by itself ends.
async fn end(mut stream: Streaming<Bytes>) -> Status {
    let end = async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it goes on"),
                Err(status) => return status,
            }
        }
    };
    timeout(PATIENCE, end).await.expect("it ends in time")
}

#[tokio::test]
async fn what_a_token_has_open_ends_with_it() {
    let secrets = Secrets::new();
    let kept = [("ci", "work", "kept"), ("ops", "read,work", "less")];
    secrets.tokens(&[
        kept[0],
        ("ops", "operate,work", "less"),
        ("ci", "work", "out"),
    ]);
    let running = server(&secrets).await;
    let channel = secrets.connect(running.addr.port(), None).await;
    let task = pb::RunRequest {
        task: Some(running.hang("x")),
        ..Default::default()
    };
    let run = task.encode_to_vec();
    let open = async |token, method, message| {
        let token = format!("Bearer {token}");
        let path = format!("/claudepool.v1.PoolService/{method}");
        call(&channel, &path, Some(&token), message).await
    };
    let beat = pb::WatchStatusRequest {
        heartbeat_interval: Some(Duration::from_secs(1).try_into().unwrap()),
        ..Default::default()
    };
    let watch = async |token| open(token, "WatchStatus", beat.encode_to_vec()).await;
    let mut stays = watch("kept").await.unwrap();
    // The first field of both requests is the same.
    let ends = [
        watch("out").await.unwrap(),
        watch("less").await.unwrap(),
        open("out", "RunStream", run.clone()).await.unwrap(),
    ];
    let unary = open("out", "Run", run);
    let reload = async {
        // It has been received once a call after it is answered.
        while running.pool.status().await.unwrap().slots_busy < 2 {}
        secrets.tokens(&kept);
    };

    let (unary, ()) = tokio::join!(timeout(PATIENCE, unary), reload);

    refused(
        unary.expect("it ends in time"),
        Code::Unauthenticated,
        "CREDENTIALS",
    );
    for stream in ends {
        let end = end(stream).await;
        refused::<()>(Err(end), Code::Unauthenticated, "CREDENTIALS");
    }
    for _ in 0..3 {
        assert!(
            next(&mut stays).await.unwrap().is_some(),
            "another's goes on"
        );
    }
    assert_eq!(status(&channel, "less").await, Ok(()));
}

#[tokio::test]
async fn a_new_certificate_is_shown_to_who_comes_next() {
    let secrets = Secrets::new();
    secrets.tokens(&[("ci", "read", "token")]);
    let running = server(&secrets).await;
    let port = running.addr.port();
    let before = secrets.connect(port, None).await;
    assert_eq!(status(&before, "token").await, Ok(()));
    let other = Authority::new();
    assert!(trusting(&other, port, None).connect().await.is_err());

    secrets.certify(&other);

    until(async || trusting(&other, port, None).connect().await.is_ok()).await;
    assert!(secrets.endpoint(port, None).connect().await.is_err());
    assert_eq!(status(&before, "token").await, Ok(()), "stays connected");
}

#[tokio::test]
async fn a_certificate_of_another_authority_gets_no_connection() {
    let secrets = Secrets::new();
    let running = server(&secrets).await;
    let port = running.addr.port();
    let by = async |authority: &Authority| {
        let identity = authority.client(&["spiffe://example.org/a"], &[]);
        let channel = secrets.endpoint(port, Some(identity)).connect_lazy();
        call(&channel, STATUS, None, Vec::new()).await.map(drop)
    };

    by(&secrets.authority).await.unwrap();
    let refused = by(&Authority::new()).await.unwrap_err();

    assert_ne!(
        refused.code(),
        Code::Unauthenticated,
        "not even that: {refused}"
    );
}

#[tokio::test]
async fn plain_text_gets_no_answer() {
    let secrets = Secrets::new();
    let mut running = server(&secrets).await;

    let request = claudepool::pb::GetStatusRequest::default();
    running.work.get_status(request).await.unwrap_err();
}

#[tokio::test]
async fn silent_connections_hold_nobody_up() {
    let secrets = Secrets::new();
    secrets.tokens(&[("ci", "read", "token")]);
    let running = server(&secrets).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(running.addr).await.unwrap());
    }
    let begin = Instant::now();

    let connected = secrets.connect(running.addr.port(), None);
    let channel = tokio::time::timeout(PATIENCE, connected).await;
    let channel = channel.expect("not held up");
    assert_eq!(status(&channel, "token").await, Ok(()));

    // They would be cut after ten seconds, and were not waited for.
    let mut buffer = [0; 1];
    let still = silent[0].read(&mut buffer);
    let still = tokio::time::timeout(Duration::ZERO, still).await;
    assert!(still.is_err(), "{:?}", begin.elapsed());
}
