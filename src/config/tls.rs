//! `[server.tls]`: how connections are encrypted.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::rpc;

/// PEM files. They are read again within a second of a change, for connections
/// that come then; one that cannot be used is logged and changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The server's certificate, and those between it and its root.
    pub certificate: PathBuf,
    /// Its private key: the server's user alone may change it, and at most its
    /// group may read it too.
    pub key: PathBuf,
    /// The authorities of clients' certificates. Unset: clients are not asked
    /// for one. A client may come without, and needs a token then.
    pub client_ca: Option<PathBuf>,
}

impl Tls {
    /// As the server takes it.
    pub fn options(&self) -> rpc::TlsOptions {
        rpc::TlsOptions {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            client_ca: self.client_ca.clone(),
            http1: false,
        }
    }
}
