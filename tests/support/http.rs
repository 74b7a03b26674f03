//! The least of an HTTP client.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::PATIENCE;

/// An answer.
pub struct Answer {
    pub status: u16,
    pub content_type: String,
    pub body: String,
}

/// GET.
pub async fn get(addr: SocketAddr, path: &str) -> Answer {
    ask(addr, "GET", path).await
}

/// One request on a connection of its own.
pub async fn ask(addr: SocketAddr, method: &str, path: &str) -> Answer {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nhost: {addr}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    read.expect("it answers in time").unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("{text:?}"));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let content_type = head
        .lines()
        .find_map(|line| line.strip_prefix("content-type: "))
        .unwrap_or_default();
    Answer {
        status: status.unwrap_or_else(|| panic!("{head}")),
        content_type: content_type.to_owned(),
        body: body.to_owned(),
    }
}
