//! Certificates and tokens for servers under test, and ways to call with them.

use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use claudepool::rpc::{AuthOptions, Scopes, Security, TlsOptions, hash};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    SanType,
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status, Streaming};

use super::codec::Raw;

/// Writes a file that its owner alone can read.
pub fn private(file: &Path, text: &str) {
    use std::io::Write;
    let _ = std::fs::remove_file(file);
    let mut options = std::fs::OpenOptions::new();
    let made = options.create_new(true).write(true).mode(0o600).open(file);
    made.unwrap().write_all(text.as_bytes()).unwrap();
}

/// An authority that certifies servers and clients.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    /// Its own certificate.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for localhost, and its key.
    pub fn server(&self) -> (String, String) {
        let dns = SanType::DnsName(Ia5String::try_from("localhost").unwrap());
        self.issue(vec![dns], ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A certificate for an address, and its key.
    pub fn server_at(&self, address: IpAddr) -> (String, String) {
        let address = SanType::IpAddress(address);
        self.issue(vec![address], ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A client's certificate with these URIs and DNS names, and its key.
    pub fn client(&self, uris: &[&str], names: &[&str]) -> Identity {
        let text = |text: &&str| Ia5String::try_from(*text).unwrap();
        let uris = uris.iter().map(|uri| SanType::URI(text(uri)));
        let names = names.iter().map(|name| SanType::DnsName(text(name)));
        let sans = names.chain(uris).collect();
        let (certificate, key) = self.issue(sans, ExtendedKeyUsagePurpose::ClientAuth);
        Identity::from_pem(certificate, key)
    }

    fn issue(&self, sans: Vec<SanType>, usage: ExtendedKeyUsagePurpose) -> (String, String) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = sans;
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// The files of a server with TLS, certificates of clients and tokens.
pub struct Secrets {
    pub authority: Authority,
    dir: tempfile::TempDir,
}

impl Secrets {
    pub fn new() -> Self {
        let secrets = Self {
            authority: Authority::new(),
            dir: tempfile::tempdir().unwrap(),
        };
        secrets.certify(&secrets.authority);
        std::fs::write(secrets.file("ca.pem"), secrets.authority.pem()).unwrap();
        secrets.tokens(&[]);
        secrets
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Gives the server a new certificate.
    pub fn certify(&self, by: &Authority) {
        let (certificate, key) = by.server();
        private(&self.file("key.pem"), &key);
        std::fs::write(self.file("cert.pem"), certificate).unwrap();
    }

    /// Makes these the tokens: name, scopes, token.
    pub fn tokens(&self, tokens: &[(&str, &str, &str)]) {
        let line = |(name, scopes, token): &(&str, &str, &str)| {
            format!("{name} {scopes} {}\n", hash(token))
        };
        let lines: String = tokens.iter().map(line).collect();
        private(&self.file("tokens"), &lines);
    }

    /// What a server is built with that has all of it.
    pub fn security(&self, identities: &[(&str, &str)]) -> Security {
        let scopes = |scopes: &str| Scopes::parse(scopes.split(',')).unwrap();
        let identities = identities
            .iter()
            .map(|(name, of)| ((*name).to_owned(), scopes(of)));
        let auth = AuthOptions {
            token_file: Some(self.file("tokens")),
            certificates: true,
            identities: identities.collect(),
        };
        let tls = TlsOptions {
            certificate: self.file("cert.pem"),
            key: self.file("key.pem"),
            client_ca: Some(self.file("ca.pem")),
            http1: false,
        };
        Security::open(&auth, Some(&tls)).unwrap()
    }

    /// The way to a server with a certificate of its authority.
    pub fn endpoint(&self, port: u16, identity: Option<Identity>) -> Endpoint {
        trusting(&self.authority, port, identity)
    }

    /// A connection to it.
    pub async fn connect(&self, port: u16, identity: Option<Identity>) -> Channel {
        self.endpoint(port, identity).connect().await.unwrap()
    }
}

/// The way to a server that this authority certifies.
pub fn trusting(authority: &Authority, port: u16, identity: Option<Identity>) -> Endpoint {
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority.pem()));
    if let Some(identity) = identity {
        tls = tls.identity(identity);
    }
    let endpoint = Endpoint::from_shared(format!("https://localhost:{port}")).unwrap();
    endpoint.tls_config(tls).unwrap()
}

/// Calls any method with a message as it is, and a value of the header
/// `authorization`. What comes is an answer, a refusal, or a stream that began.
pub async fn call(
    channel: &Channel,
    path: &str,
    authorization: Option<&str>,
    message: Vec<u8>,
) -> Result<Streaming<Bytes>, Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let mut request = Request::new(Bytes::from(message));
    if let Some(value) = authorization {
        let value = value.parse().unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    let path = path.parse().unwrap();
    let answer = client.server_streaming(request, path, Raw).await?;
    Ok(answer.into_inner())
}
