//! How the server is reached.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Auth, ConfigError, Tls};
use crate::rpc;

/// Where a server listens. Any other address than a loopback one needs TLS and
/// authentication, see [`Server::problems`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Listen {
    /// An address. Port 0: any free port.
    Tcp(SocketAddr),
    /// A Unix socket. Absolute path.
    Unix(PathBuf),
}

impl FromStr for Listen {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path.strip_prefix("//").unwrap_or(path));
            return if path.is_absolute() {
                Ok(Self::Unix(path))
            } else {
                Err(ConfigError(format!(
                    "the socket `{text}` needs an absolute path: unix:/path"
                )))
            };
        }
        // No resolver: a name could mean another address tomorrow.
        let numeric = text
            .strip_prefix("localhost:")
            .map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
        let Ok(address) = numeric.parse::<SocketAddr>() else {
            return Err(ConfigError(format!(
                "`{text}` is no address to listen on: say 127.0.0.1:50051, [::1]:50051 or unix:/path"
            )));
        };
        Ok(Self::Tcp(address))
    }
}

impl TryFrom<String> for Listen {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<Self, ConfigError> {
        text.parse()
    }
}

impl From<Listen> for String {
    fn from(listen: Listen) -> Self {
        listen.to_string()
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Listen {
    /// Whether others than this machine's users can reach it.
    pub fn is_open(&self) -> bool {
        match self {
            // Also `::ffff:127.0.0.1`, which is loopback by another name.
            Self::Tcp(address) => !address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => false,
        }
    }
}

/// How the server is reached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Address to listen on. Default 127.0.0.1:50051.
    pub listen: Listen,
    /// Whether an address that others can reach may be listened on without TLS
    /// and authentication. Default false: whoever reaches the server can use the
    /// machine.
    pub insecure: bool,
    /// How connections are encrypted. Unset: not at all.
    pub tls: Option<Tls>,
    /// How callers are told apart.
    pub auth: Auth,
    /// What connections and requests may take.
    pub limits: rpc::Limits,
    /// How browsers may call.
    pub web: rpc::Web,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 50051))),
            insecure: false,
            tls: None,
            auth: Auth::default(),
            limits: rpc::Limits::default(),
            web: rpc::Web::default(),
        }
    }
}

impl Server {
    /// Whether others can reach it, and use the machine or read along.
    pub fn is_insecure(&self) -> bool {
        self.listen.is_open() && !(self.tls.is_some() && self.tells_apart())
    }

    fn tells_apart(&self) -> bool {
        self.auth.token_file.is_some() || self.asks_for_certificates()
    }

    fn asks_for_certificates(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some())
    }

    /// One sentence per value that cannot be used.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut check = |ok: bool, what: String| {
            if !ok {
                found.push(what);
            }
        };
        check(
            !self.is_insecure() || self.insecure,
            format!(
                "listen {}: others than this machine can reach it, and whoever calls can use the \
                 machine: it needs server.tls, and server.auth.token_file or server.tls.client_ca; \
                 or listen on 127.0.0.1 or unix:/path; or say --insecure",
                self.listen
            ),
        );
        check(
            self.tls.is_none() || matches!(self.listen, Listen::Tcp(_)),
            "tls is for addresses, and listen is a Unix socket".to_owned(),
        );
        check(
            self.auth.identities.is_empty() || self.asks_for_certificates(),
            "auth.identities are names in certificates: they need tls.client_ca".to_owned(),
        );
        check(
            !self.asks_for_certificates()
                || self.auth.token_file.is_some()
                || !self.auth.identities.is_empty(),
            "tls.client_ca lets nobody in without auth.identities".to_owned(),
        );
        let mut of = |table: &str, problems: Vec<String>| {
            found.extend(problems.into_iter().map(|p| format!("{table}.{p}")));
        };
        of("limits", self.limits.problems());
        of("web", self.web.problems());
        found
    }

    /// Reads the files of TLS and authentication. The error is one sentence.
    pub fn security(&self) -> Result<rpc::Security, ConfigError> {
        let auth = self.auth.options(self.asks_for_certificates());
        let tls = self.tls.as_ref().map(Tls::options);
        rpc::Security::open(&auth, tls.as_ref()).map_err(ConfigError)
    }
}
