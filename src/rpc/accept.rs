//! Connections: accepted, set up, and cut when the server has to go.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

/// Wait after a failed accept: most often there are no file descriptors left,
/// and trying again at once would only burn the processor.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// Where calls come in: bound already.
#[derive(Debug)]
pub enum Listener {
    /// A TCP address.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self::Unix(listener)
    }
}

impl Listener {
    /// Connections, for ever. Each is cut once `abort` is cancelled.
    pub(super) fn incoming(
        self,
        abort: CancellationToken,
    ) -> impl Stream<Item = io::Result<Connection>> + Send {
        futures_util::stream::unfold((self, abort), |(listener, abort)| async move {
            loop {
                match listener.accept(&abort).await {
                    Ok(connection) => return Some((Ok(connection), (listener, abort))),
                    Err(error) => {
                        tracing::warn!(%error, "connection not accepted");
                        tokio::time::sleep(ACCEPT_BACKOFF).await;
                    }
                }
            }
        })
    }

    async fn accept(&self, abort: &CancellationToken) -> io::Result<Connection> {
        let (io, peer) = match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // An answer is one small write: it must not wait for the
                // acknowledgement of the one before.
                stream.set_nodelay(true)?;
                (Io::Tcp(stream), Some(peer))
            }
            Self::Unix(listener) => (Io::Unix(listener.accept().await?.0), None),
        };
        Ok(Connection {
            io,
            peer: Peer {
                address: peer,
                names: Arc::default(),
            },
            aborted: Box::pin(abort.child_token().cancelled_owned()),
        })
    }
}

/// Who is at the other end. In the extensions of every request.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address; `None`: a Unix socket.
    pub address: Option<SocketAddr>,
    /// The names in its certificate, if it came with one that was verified: URIs
    /// first, then DNS names.
    pub names: Arc<[String]>,
}

/// One accepted connection.
pub(super) struct Connection {
    io: Io,
    peer: Peer,
    aborted: Pin<Box<WaitForCancellationFutureOwned>>,
}

enum Io {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

impl Connection {
    /// The same connection, encrypted by `handshake`, which also tells the names
    /// of the client. It ends with the server, too. A Unix socket needs none.
    pub async fn secured<F>(mut self, handshake: impl FnOnce(TcpStream) -> F) -> io::Result<Self>
    where
        F: Future<Output = io::Result<(TlsStream<TcpStream>, Vec<String>)>>,
    {
        let Io::Tcp(stream) = self.io else {
            return Ok(self);
        };
        let (stream, names) = tokio::select! {
            secured = handshake(stream) => secured?,
            () = self.aborted.as_mut() => return Err(io::ErrorKind::ConnectionAborted.into()),
        };
        self.io = Io::Tls(Box::new(stream));
        self.peer.names = names.into();
        Ok(self)
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // A connection is read as long as it lives, so this is where it ends.
        if this.aborted.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        match &mut this.io {
            Io::Tcp(io) => Pin::new(io).poll_read(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_read(cx, buf),
            Io::Unix(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().io {
            Io::Tcp(io) => Pin::new(io).poll_write(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_write(cx, buf),
            Io::Unix(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Tcp(io) => Pin::new(io).poll_flush(cx),
            Io::Tls(io) => Pin::new(io).poll_flush(cx),
            Io::Unix(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Tcp(io) => Pin::new(io).poll_shutdown(cx),
            Io::Tls(io) => Pin::new(io).poll_shutdown(cx),
            Io::Unix(io) => Pin::new(io).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().io {
            Io::Tcp(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::Unix(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Tcp(io) => io.is_write_vectored(),
            Io::Tls(io) => io.is_write_vectored(),
            Io::Unix(io) => io.is_write_vectored(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn every_accepted_socket_sends_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let mut incoming =
            std::pin::pin!(Listener::from(listener).incoming(CancellationToken::new()));

        for _ in 0..3 {
            let _client = TcpStream::connect(addr).await.expect("accepted");
            let connection = incoming
                .next()
                .await
                .expect("never ends")
                .expect("accepted");
            let Io::Tcp(socket) = &connection.io else {
                panic!("a TCP socket");
            };
            assert!(socket.nodelay().expect("a live socket"));
        }
    }

    #[tokio::test]
    async fn a_connection_ends_when_the_server_has_to_go() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let abort = CancellationToken::new();
        let mut incoming = std::pin::pin!(Listener::from(listener).incoming(abort.clone()));
        let _client = TcpStream::connect(addr).await.expect("accepted");
        let mut connection = incoming
            .next()
            .await
            .expect("never ends")
            .expect("accepted");

        let reading = tokio::spawn(async move { connection.read_u8().await });
        abort.cancel();

        let error = reading
            .await
            .expect("no panic")
            .expect_err("nothing was sent");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    }
}
