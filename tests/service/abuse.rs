//! Connections that cost as much as they can: memory stays bounded, nothing is
//! leaked, and others are served.

use std::time::Duration;

use bytes::Bytes;
use claudepool::pb;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tonic::codec::CompressionEncoding::Gzip;

use crate::support::raw::call;
use crate::support::{PATIENCE, Program, Serving, connect, events, finished, prompt};

const MB: u64 = 1024 * 1024;
const RUN: &str = "/claudepool.v1.PoolService/Run";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Memory of a server in bytes, by the name of the kernel's line.
fn memory(server: &Serving, line: &str) -> u64 {
    let file = format!("/proc/{}/status", server.pid().as_raw_nonzero());
    let status = std::fs::read_to_string(file).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix(line)).unwrap();
    let kib = line.trim_start_matches(':').trim().trim_end_matches(" kB");
    kib.parse::<u64>().unwrap() * 1024
}

fn files(server: &Serving) -> usize {
    let dir = format!("/proc/{}/fd", server.pid().as_raw_nonzero());
    std::fs::read_dir(dir).unwrap().count()
}

/// Waits until the server holds about as many files as before, and serves.
async fn recovers(server: &mut Serving, before: usize) {
    let wait = async {
        while files(server) > before + 8 {
            server.caller.status().await;
        }
        let task = server.caller.say("and goes on");
        let answer = server.caller.finish(task).await;
        assert_eq!(answer.result.unwrap().output, "and goes on");
        while server.caller.status().await.watchers > 0 {}
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("in time");
}

#[tokio::test]
async fn thousands_of_half_open_connections_cost_little_and_leave_room_for_others() {
    const MOST: usize = 3000;
    const OPENED: usize = 4000;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        ..limit
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let lines = format!("[server.limits]\nconnections_max = {MOST}");
    let program = Program::with_slots_and(1, &lines).await;
    let mut server = program.serve().await;
    server.caller.status().await;
    let (before, base) = (files(&server), memory(&server, "VmRSS"));

    let mut open = Vec::new();
    for number in 0..OPENED {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        let said = [&PREFACE[..0], &PREFACE[..9], &PREFACE[..24], PREFACE][number % 4];
        // Those beyond are closed at once.
        let _ = stream.write_all(said).await;
        open.push(stream);
    }
    // The last one is known to have been looked at: it has been closed.
    let mut end = Vec::new();
    let _ = open.last_mut().unwrap().read_to_end(&mut end).await;

    let held = files(&server);
    assert!((MOST..MOST + 100).contains(&held), "{held} files");
    let grown = memory(&server, "VmRSS").saturating_sub(base);
    eprintln!("half-open: {} MB", grown / MB);
    assert!(grown < 150 * MB, "{grown} bytes for {MOST} connections");
    server.caller.status().await;
    drop(open);
    recovers(&mut server, before).await;
}

/// A thousand watches that are asked for and never read; they end when dropped.
async fn unread(server: &Serving, task_id: &str) -> Vec<oneshot::Sender<()>> {
    let request = pb::WatchTaskRequest {
        task_id: task_id.to_owned(),
        ..Default::default()
    };
    let message = request.encode_to_vec();
    let mut framed = vec![0, 0, 0, 0, u8::try_from(message.len()).unwrap()];
    framed.extend(message);
    let mut hold = Vec::new();
    for _ in 0..10 {
        let stream = TcpStream::connect(server.addr).await.unwrap();
        // All that can be asked to be sent.
        let (mut client, mut connection) = h2::client::Builder::new()
            .initial_window_size(1 << 30)
            .initial_connection_window_size(1 << 30)
            .handshake::<_, Bytes>(stream)
            .await
            .unwrap();
        let (keep, kept) = oneshot::channel::<()>();
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(async move {
            tokio::select! {
                _ = &mut connection => return,
                _ = stopped => {}
            }
            // The socket stays open, and nobody reads it.
            let _ = kept.await;
            drop(connection);
        });
        let mut asked = Vec::new();
        for _ in 0..100 {
            let url = format!("http://{}/claudepool.v1.PoolService/WatchTask", server.addr);
            let request = http::Request::post(url).header("content-type", "application/grpc");
            std::future::poll_fn(|cx| client.poll_ready(cx))
                .await
                .unwrap();
            let (response, mut body) = client
                .send_request(request.body(()).unwrap(), false)
                .unwrap();
            body.send_data(framed.clone().into(), true).unwrap();
            asked.push(response);
        }
        let mut bodies = Vec::new();
        for response in asked {
            bodies.push(response.await.unwrap());
        }
        stop.send(()).unwrap();
        // To drop them would reset them.
        std::mem::forget(bodies);
        hold.push(keep);
    }
    hold
}

#[tokio::test]
async fn a_thousand_watches_that_nobody_reads_cost_little_and_slow_nobody() {
    let program = Program::new().await;
    let mut server = program.serve().await;
    let task = prompt("::text 1000000");
    let task_id = server.caller.submit(task).await;
    let result = server.caller.result(&task_id).await.result.unwrap();
    assert!(result.success, "{:?}", result.failure);
    let (before, base) = (files(&server), memory(&server, "VmRSS"));

    let hold = unread(&server, &task_id).await;

    assert_eq!(server.caller.status().await.watchers, 1000);
    let log = events(server.caller.watch(&task_id, 0).await).await;
    assert!(finished(&log).result.as_ref().unwrap().success);
    // Far less than what they asked for: 1 GB.
    let grown = memory(&server, "VmRSS").saturating_sub(base);
    eprintln!("unread watches: {} MB", grown / MB);
    assert!(grown < 450 * MB, "{grown} bytes");
    drop(hold);
    recovers(&mut server, before).await;
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The headers of a call, and more of them.
fn headers(more: &[u8]) -> Vec<u8> {
    let mut block = vec![0x83, 0x86, 0x04, u8::try_from(RUN.len()).unwrap()];
    block.extend(RUN.as_bytes());
    block.extend([0x01, 1, b'x']);
    block.extend(more);
    block
}

/// A header field of this size: a literal, not to be kept.
fn large(size: usize) -> Vec<u8> {
    let mut field = vec![0, 1, b'y', 0x7f];
    let mut rest = size - 127;
    while rest >= 128 {
        field.push(u8::try_from(rest % 128).unwrap() | 0x80);
        rest /= 128;
    }
    field.push(u8::try_from(rest).unwrap());
    field.resize(field.len() + size, b'z');
    field
}

/// Sends it all, or as much as is taken, and waits for the other's end or a
/// moment in which it says no more.
async fn flood(server: &Serving, parts: impl Iterator<Item = Vec<u8>>) {
    let stream = TcpStream::connect(server.addr).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let reading = tokio::spawn(async move {
        let mut buffer = vec![0; 65536];
        while read.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
    });
    let send = async {
        write.write_all(PREFACE).await?;
        for part in parts {
            write.write_all(&part).await?;
        }
        write.shutdown().await
    };
    let _ = send.await;
    // It ends with the connection, which either side has closed.
    let _ = tokio::time::timeout(PATIENCE, reading).await;
}

/// Calls that never send all of 15 MiB each; more than may be received together.
async fn unfinished(server: &Serving) {
    let stream = TcpStream::connect(server.addr).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    let driving = tokio::spawn(connection);
    let calls = (0..40).map(|_| {
        let (client, addr) = (client.clone(), server.addr);
        tokio::spawn(async move {
            let request = http::Request::post(format!("http://{addr}{RUN}"))
                .header("content-type", "application/grpc");
            let mut client = client.ready().await.ok()?;
            let (response, mut body) =
                client.send_request(request.body(()).unwrap(), false).ok()?;
            let mut left = vec![0, 0, 0xf0, 0, 0];
            left.resize(15 << 20, 0);
            let mut left = Bytes::from(left);
            while !left.is_empty() {
                body.reserve_capacity(left.len());
                let room = std::future::poll_fn(|cx| body.poll_capacity(cx)).await?;
                let room = room.ok()?.min(left.len());
                body.send_data(left.split_to(room), false).ok()?;
            }
            Some((response, body))
        })
    });
    let calls: Vec<_> = calls.collect();
    let mut held = Vec::new();
    for call in calls {
        held.push(call.await.unwrap());
    }
    let whole = held.iter().flatten().count();
    assert!(whole < 20, "{whole} of 15 MiB are held");
    drop(held);
    driving.abort();
}

/// Requests of 100 MB that are sent as 100 kB.
async fn bombs(server: &Serving) {
    let channel = connect(server.addr).await;
    let request = pb::RunRequest {
        task: Some(prompt("x".repeat(100_000_000))),
        ..Default::default()
    };
    for _ in 0..3 {
        let work = pb::pool_service_client::PoolServiceClient::new(channel.clone());
        let mut work = work.send_compressed(Gzip);
        let answer = work.run(request.clone()).await;
        assert_eq!(answer.unwrap_err().code(), tonic::Code::InvalidArgument);
    }
}

#[tokio::test]
async fn floods_end_with_their_connections_and_leave_nothing() {
    let lines = "[server.limits]\nreceive_timeout = '2s'";
    let program = Program::with_slots_and(1, lines).await;
    let mut server = program.serve().await;
    server.caller.status().await;
    let (before, base) = (files(&server), memory(&server, "VmRSS"));
    let number = |n: u32| 2 * n + 1;

    // Headers that go on for ever.
    let endless = (0..4000).map(|n| match n {
        0 => frame(1, 0, 1, &headers(&[])),
        _ => frame(9, 0, 1, &large(16_000)),
    });
    flood(&server, endless).await;
    recovers(&mut server, before).await;
    // Calls with as many headers as a frame holds.
    let many = (0..2000).map(|n| frame(1, 4 | 1, number(n), &headers(&large(16_000))));
    flood(&server, many).await;
    recovers(&mut server, before).await;
    // Calls that are reset at once.
    let resets = (0..50_000).map(|n| {
        let reset = frame(3, 0, number(n), &[0, 0, 0, 8]);
        [frame(1, 4, number(n), &headers(&[])), reset].concat()
    });
    flood(&server, resets).await;
    recovers(&mut server, before).await;
    // Pings and settings that want an answer each.
    let answers = (0..50_000).map(|n| match n % 2 {
        0 => frame(6, 0, 0, &[0; 8]),
        _ => frame(4, 0, 0, &[0, 3, 0, 0, 0, 9]),
    });
    flood(&server, answers).await;
    recovers(&mut server, before).await;
    // What is no HTTP/2 at all.
    let noise = (0..1000u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes().repeat(64));
    flood(&server, noise).await;
    recovers(&mut server, before).await;
    // Messages that no decoder understands.
    for n in 0..300u32 {
        let bytes = n
            .wrapping_mul(2_654_435_761)
            .to_be_bytes()
            .repeat(n as usize % 40);
        let message = [&[0x0a_u8, 0xff, 0xff, 0xff, 0xff, 0x0f][..], &bytes].concat();
        let seen = call(server.addr, RUN, None, &message).await;
        assert_eq!(seen.status.code(), tonic::Code::InvalidArgument);
    }
    recovers(&mut server, before).await;
    bombs(&server).await;
    recovers(&mut server, before).await;
    let limited = tokio::time::timeout(Duration::from_secs(60), unfinished(&server));
    limited.await.expect("in time");
    recovers(&mut server, before).await;

    let peak = memory(&server, "VmHWM").saturating_sub(base);
    eprintln!("floods: {} MB at most", peak / MB);
    assert!(peak < 700 * MB, "{peak} bytes at most");
}
