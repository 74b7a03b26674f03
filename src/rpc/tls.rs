//! TLS: handshakes, certificates that change while the server runs, and the
//! names of clients.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;

use super::accept::Connection;
use super::fresh::{Fresh, read_private, read_public};

/// Longest time of a handshake. Seen: some milliseconds.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Most handshakes at a time. One more ends the oldest: it is the one that most
/// likely waits for somebody who says nothing.
const HANDSHAKES_MAX: usize = 1024;

/// How connections are encrypted. The files are PEM; a change of them holds for
/// connections that come a second later.
#[derive(Clone, Debug)]
pub struct Options {
    /// The server's certificate and those between it and its root, in order.
    pub certificate: PathBuf,
    /// The certificate's private key. Its owner's alone, or its group's to read.
    pub key: PathBuf,
    /// The authorities whose certificates tell who a client is. A client may
    /// come without one; then it needs a token. `None`: none is asked for.
    pub client_ca: Option<PathBuf>,
    /// Whether HTTP/1.1 is spoken beside HTTP/2: for gRPC-Web. Default false.
    pub http1: bool,
}

/// What encrypts.
pub(super) struct Tls(Fresh<ServerConfig>);

impl Tls {
    /// The error is one sentence.
    pub fn new(options: &Options) -> Result<Self, String> {
        let files = [&options.certificate, &options.key];
        let files = files.into_iter().chain(&options.client_ca);
        let files = files.cloned().collect();
        let options = options.clone();
        Fresh::new("server.tls", files, move || load(&options)).map(Self)
    }

    /// Reads the files again if they have changed. Blocks.
    pub fn look(&self) {
        self.0.look();
    }

    /// Encrypts a connection: the names in its client's certificate too.
    async fn accept(&self, stream: TcpStream) -> io::Result<(TlsStream<TcpStream>, Vec<String>)> {
        let acceptor = tokio_rustls::TlsAcceptor::from(self.0.get());
        let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await??;
        let certificates = stream.get_ref().1.peer_certificates();
        let client = certificates.and_then(<[_]>::first);
        let names = client.map(names).unwrap_or_default();
        Ok((stream, names))
    }
}

fn load(options: &Options) -> Result<ServerConfig, String> {
    let wrong = |file: &Path, why: &dyn std::fmt::Display| format!("{}: {why}", file.display());
    let chain = certificates(&options.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(read_private(&options.key)?.as_bytes())
        .map_err(|error| wrong(&options.key, &error))?;
    let provider = Arc::new(ring::default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let config = match &options.client_ca {
        None => config.with_no_client_auth(),
        Some(file) => {
            let mut roots = RootCertStore::empty();
            for root in certificates(file)? {
                roots.add(root).map_err(|error| wrong(file, &error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                // Whoever has none can be asked for a token, and health
                // needs neither.
                .allow_unauthenticated()
                .build()
                .map_err(|error| wrong(file, &error))?;
            config.with_client_cert_verifier(verifier)
        }
    };
    let mut config = config
        .with_single_cert(chain, key)
        .map_err(|error| wrong(&options.certificate, &error))?;
    config.alpn_protocols.push(b"h2".to_vec());
    if options.http1 {
        config.alpn_protocols.push(b"http/1.1".to_vec());
    }
    Ok(config)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = read_public(file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let found = found.map_err(|error| format!("{}: {error}", file.display()))?;
    match found.is_empty() {
        true => Err(format!("{} holds no certificate", file.display())),
        false => Ok(found),
    }
}

/// The names of a certificate that was verified: URIs such as SPIFFE ids first,
/// then DNS names.
fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else {
        return Vec::new();
    };
    let uris = certificate.valid_uri_names();
    let names = uris.chain(certificate.valid_dns_names());
    names.map(str::to_owned).collect()
}

/// Connections after their handshakes, which happen beside each other and
/// beside the accepting. Without TLS they are passed on as they are.
pub(super) struct Secured<S> {
    incoming: Pin<Box<S>>,
    tls: Option<Arc<Tls>>,
    handshakes: JoinSet<io::Result<Connection>>,
    most: usize,
    order: VecDeque<AbortHandle>,
}

impl<S> Secured<S> {
    pub fn new(incoming: S, tls: Option<Arc<Tls>>) -> Self {
        Self {
            incoming: Box::pin(incoming),
            tls,
            handshakes: JoinSet::new(),
            most: HANDSHAKES_MAX,
            order: VecDeque::new(),
        }
    }

    fn begin(&mut self, connection: Connection, tls: Arc<Tls>) {
        self.order.retain(|handshake| !handshake.is_finished());
        if self.order.len() >= self.most
            && let Some(oldest) = self.order.pop_front()
        {
            oldest.abort();
        }
        let handshake = async move {
            connection
                .secured(|io| async move { tls.accept(io).await })
                .await
        };
        self.order.push_back(self.handshakes.spawn(handshake));
    }
}

impl<S> Stream for Secured<S>
where
    S: Stream<Item = io::Result<Connection>>,
{
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(tls) = self.tls.clone() else {
            return self.incoming.as_mut().poll_next(cx);
        };
        loop {
            match self.incoming.as_mut().poll_next(cx) {
                Poll::Ready(Some(Ok(connection))) => self.begin(connection, Arc::clone(&tls)),
                Poll::Ready(other) => return Poll::Ready(other),
                Poll::Pending => break,
            }
        }
        loop {
            match self.handshakes.poll_join_next(cx) {
                Poll::Ready(Some(Ok(Ok(connection)))) => return Poll::Ready(Some(Ok(connection))),
                Poll::Ready(Some(Ok(Err(error)))) => {
                    tracing::debug!(%error, "no handshake");
                }
                Poll::Ready(Some(Err(error))) if error.is_cancelled() => {
                    tracing::debug!("a handshake made room");
                }
                Poll::Ready(Some(Err(error))) => tracing::error!(%error, "a handshake failed"),
                // None: an incoming connection wakes.
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use futures_util::StreamExt;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::rpc::accept::Listener;

    #[tokio::test]
    async fn one_handshake_too_many_ends_the_oldest() {
        let dir = tempfile::tempdir().expect("a directory");
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
        let (certificate, key) = (dir.path().join("cert"), dir.path().join("key"));
        std::fs::write(&certificate, made.cert.pem()).expect("written");
        std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
        std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).expect("set");
        let tls = Tls::new(&Options {
            certificate,
            key,
            client_ca: None,
            http1: false,
        })
        .expect("good");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let incoming = Listener::from(listener).incoming(CancellationToken::new());
        let mut secured = Secured::new(incoming, Some(Arc::new(tls)));
        secured.most = 2;
        tokio::spawn(async move { while secured.next().await.is_some() {} });

        let mut silent = Vec::new();
        for _ in 0..3 {
            silent.push(TcpStream::connect(addr).await.expect("accepted"));
        }

        let mut buffer = [0; 1];
        let read = tokio::time::timeout(HANDSHAKE / 2, silent[0].read(&mut buffer)).await;
        assert!(matches!(read, Ok(Ok(0) | Err(_))), "at once: {read:?}");
        let next = tokio::time::timeout(Duration::ZERO, silent[1].read(&mut buffer)).await;
        assert!(next.is_err(), "the others may go on");
    }
}
