//! How the server is reached.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ConfigError;

/// Where a server listens: a loopback address or a Unix socket, nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Listen {
    /// A loopback address. Port 0: any free port.
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
        if !address.ip().is_loopback() {
            return Err(ConfigError(format!(
                "{text} is not a loopback address: whoever reaches this server can use the \
                 machine, and it cannot tell callers apart before authentication is built, so \
                 it listens on 127.0.0.1, [::1] or unix:/path only"
            )));
        }
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

/// How the server is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Address to listen on. Default 127.0.0.1:50051.
    pub listen: Listen,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 50051))),
        }
    }
}
