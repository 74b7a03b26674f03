//! `[server.auth]`: how callers are told apart.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::rpc::{self, Scopes};

/// Who calls, by token or by certificate. Nothing set, and no
/// `server.tls.client_ca`: everybody may do everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// The file with the tokens' hashes: a line each with the caller's name, its
    /// scopes with commas between them, and the token's SHA-256; `claudepool
    /// token` writes it. It is read again within a second of a change, which ends
    /// what a token that is gone has open; one that cannot be used is logged and
    /// changes nothing. Nobody else may write it.
    pub token_file: Option<PathBuf>,
    /// Scopes of the names in clients' certificates: of a URI (a SPIFFE id) or a
    /// DNS name, the first of them that is here. Scopes: read, work, operate,
    /// author. Needs `server.tls.client_ca`.
    pub identities: BTreeMap<String, Scopes>,
}

impl Auth {
    /// As the server takes it.
    pub fn options(&self, certificates: bool) -> rpc::AuthOptions {
        rpc::AuthOptions {
            token_file: self.token_file.clone(),
            certificates,
            identities: self.identities.clone(),
        }
    }
}
