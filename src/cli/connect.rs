//! The way to a server: address, TLS, token.

use std::path::Path;
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::args::Remote;
use super::failure::Failure;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection whose calls carry the token.
pub(super) type Connection = InterceptedService<Channel, Token>;

/// Puts the caller's token on each call, if there is one.
#[derive(Clone)]
pub(super) struct Token(Option<MetadataValue<Ascii>>);

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// Connects to the server meant.
pub(super) async fn connect(remote: &Remote) -> Result<Connection, Failure> {
    let mut address = remote.server.clone();
    if !address.contains("://") && !address.starts_with("unix:") {
        address.insert_str(0, "http://");
    }
    let token = remote.token_file.as_deref().map(token).transpose()?;
    if token.is_some() && is_open(&address) {
        return Err(Failure::usage(format!(
            "--token-file: the token would travel in the open to {}: say https://, or talk to \
             this machine",
            remote.server
        )));
    }
    let endpoint = Endpoint::from_shared(address.clone()).map_err(|_| {
        Failure::usage(format!(
            "--server {}: say http://HOST:PORT, https://HOST:PORT or unix:/path",
            remote.server
        ))
    })?;
    let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
    let endpoint = secure(endpoint, &address, remote)?;
    let channel = endpoint
        .connect()
        .await
        .map_err(|error| Failure::unreachable(&remote.server, &error))?;
    Ok(InterceptedService::new(channel, Token(token)))
}

/// Whether others could read along.
fn is_open(address: &str) -> bool {
    let Some(rest) = address.strip_prefix("http://") else {
        return false;
    };
    let host = rest.split(['/', '?']).next().unwrap_or_default();
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(host, _)| host),
    };
    let ip: Option<std::net::IpAddr> = host.parse().ok();
    host != "localhost" && !ip.is_some_and(|ip| ip.is_loopback())
}

fn token(file: &Path) -> Result<MetadataValue<Ascii>, Failure> {
    let wrong = |why: &dyn std::fmt::Display| {
        Failure::usage(format!("--token-file {}: {why}", file.display()))
    };
    let text = std::fs::read_to_string(file).map_err(|error| wrong(&error))?;
    let token = text.trim();
    if token.is_empty() {
        return Err(wrong(&"it is empty"));
    }
    let mut value = MetadataValue::try_from(format!("Bearer {token}"))
        .map_err(|_| wrong(&"it holds more than one line of plain text"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(feature = "tls")]
fn secure(endpoint: Endpoint, address: &str, remote: &Remote) -> Result<Endpoint, Failure> {
    use tonic::transport::{Certificate, ClientTlsConfig, Identity};
    let read = |flag: &str, file: &Path| {
        std::fs::read(file)
            .map_err(|error| Failure::usage(format!("{flag} {}: {error}", file.display())))
    };
    if !address.starts_with("https://") {
        if remote.ca_cert.is_some() || remote.client_cert.is_some() {
            return Err(Failure::usage(
                "certificates are for servers at https://HOST:PORT",
            ));
        }
        return Ok(endpoint);
    }
    let mut tls = ClientTlsConfig::new();
    tls = match &remote.ca_cert {
        Some(file) => tls.ca_certificate(Certificate::from_pem(read("--ca-cert", file)?)),
        None => tls.with_native_roots(),
    };
    if let (Some(cert), Some(key)) = (&remote.client_cert, &remote.client_key) {
        let cert = read("--client-cert", cert)?;
        tls = tls.identity(Identity::from_pem(cert, read("--client-key", key)?));
    }
    endpoint
        .tls_config(tls)
        .map_err(|error| Failure::usage(format!("TLS to {address}: {error}")))
}

#[cfg(not(feature = "tls"))]
fn secure(endpoint: Endpoint, address: &str, _: &Remote) -> Result<Endpoint, Failure> {
    if address.starts_with("https://") {
        return Err(Failure::usage("this program was built without TLS"));
    }
    Ok(endpoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_leaves_this_machine_only_over_tls() {
        for safe in [
            "http://127.0.0.1:1",
            "http://localhost:1",
            "http://[::1]:1",
            "https://pool.example:443",
            "unix:/run/pool.sock",
        ] {
            assert!(!is_open(safe), "{safe}");
        }
        for open in [
            "http://pool.example:1",
            "http://10.0.0.1:50051",
            "http://127.0.0.1.evil.example:1",
            "http://[fd00::1]:1",
        ] {
            assert!(is_open(open), "{open}");
        }
    }
}
