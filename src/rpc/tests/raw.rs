//! A method called below the client library: with a message as it is, and
//! without the library's own timer, which would answer first.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::net::TcpStream;
use tonic::Status;
use tonic_types::StatusExt;

/// What came back.
pub struct Seen {
    /// Whether headers came before the status.
    pub streamed: bool,
    /// Bytes of messages.
    pub data: usize,
    /// How it ended.
    pub status: Status,
}

impl Seen {
    /// The reason, without which no error is sent.
    pub fn reason(&self) -> String {
        let info = self.status.get_details_error_info();
        info.map(|i| i.reason).unwrap_or_default()
    }
}

/// Calls a method with a message as it is.
pub async fn call(addr: SocketAddr, path: &str, timeout: Option<&str>, message: &[u8]) -> Seen {
    let stream = TcpStream::connect(addr).await.expect("a server");
    let (client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    let mut request = http::Request::post(format!("http://{addr}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(timeout) = timeout {
        request = request.header("grpc-timeout", timeout);
    }
    let mut client = client.ready().await.expect("a stream");
    let request = request.body(()).expect("a request");
    let (response, mut body) = client.send_request(request, false).expect("sent");
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(message);
    send(&mut body, framed.freeze()).await;

    let (parts, mut body) = response.await.expect("a response").into_parts();
    if let Some(status) = Status::from_header_map(&parts.headers) {
        return Seen {
            streamed: false,
            data: 0,
            status,
        };
    }
    let mut data = 0;
    while let Some(chunk) = body.data().await {
        let chunk = chunk.expect("no reset");
        data += chunk.len();
        body.flow_control()
            .release_capacity(chunk.len())
            .expect("received");
    }
    let trailers = body.trailers().await.expect("no reset").expect("trailers");
    Seen {
        streamed: true,
        data,
        status: Status::from_header_map(&trailers).expect("a status"),
    }
}

async fn send(body: &mut h2::SendStream<Bytes>, mut bytes: Bytes) {
    while !bytes.is_empty() {
        body.reserve_capacity(bytes.len());
        let n = std::future::poll_fn(|cx| body.poll_capacity(cx)).await;
        // A refusal may come before everything is sent.
        let Some(Ok(n)) = n else { return };
        let last = n >= bytes.len();
        let piece = bytes.split_to(n.min(bytes.len()));
        if body.send_data(piece, last).is_err() {
            return;
        }
    }
}
