//! The status port: `/livez`, `/readyz`, `/metrics`.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{ConfigError, Listen};

/// Where the status port listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum StatusListen {
    /// Nowhere.
    Off,
    /// An address. It shows no secret and changes nothing, so that it need not be
    /// a loopback address; who can reach it sees the names of methods and models,
    /// counts, money and versions. Port 0: any free port.
    At(SocketAddr),
}

impl FromStr for StatusListen {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let numeric = text
            .strip_prefix("localhost:")
            .map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
        numeric.parse().map(Self::At).map_err(|_| {
            ConfigError(format!(
                "`{text}` is no address of a status port: say 127.0.0.1:50052, 0.0.0.0:50052 or off"
            ))
        })
    }
}

impl TryFrom<String> for StatusListen {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<Self, ConfigError> {
        text.parse()
    }
}

impl From<StatusListen> for String {
    fn from(listen: StatusListen) -> Self {
        listen.to_string()
    }
}

impl fmt::Display for StatusListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At(address) => write!(f, "{address}"),
        }
    }
}

/// How the server's state is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Status {
    /// Where the status port listens, or `off`. Unset: 127.0.0.1 and the port
    /// after `server.listen`'s, so 50052; any free port if that one's is 0; off if
    /// it is a Unix socket.
    pub listen: Option<StatusListen>,
}

impl Status {
    /// Where it listens beside a server that listens there; `None`: nowhere.
    pub fn address(&self, server: &Listen) -> Option<SocketAddr> {
        match (self.listen, server) {
            (Some(StatusListen::Off), _) | (None, Listen::Unix(_)) => None,
            (Some(StatusListen::At(address)), _) => Some(address),
            (None, Listen::Tcp(address)) => {
                let port = match address.port() {
                    0 => 0,
                    port => port.checked_add(1).unwrap_or_default(),
                };
                Some((Ipv4Addr::LOCALHOST, port).into())
            }
        }
    }

    /// What is wrong with the values: nothing that can be known without trying.
    pub fn problems(&self) -> Vec<String> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beside(listen: &str) -> Option<SocketAddr> {
        let listen = listen.parse().expect("an address");
        Status::default().address(&listen)
    }

    #[test]
    fn unless_it_is_said_it_is_beside_the_server_and_on_loopback() {
        assert_eq!(beside("127.0.0.1:50051"), "127.0.0.1:50052".parse().ok());
        assert_eq!(beside("[::1]:7"), "127.0.0.1:8".parse().ok());
        assert_eq!(beside("127.0.0.1:0"), "127.0.0.1:0".parse().ok());
        assert_eq!(beside("127.0.0.1:65535"), "127.0.0.1:0".parse().ok());
        assert_eq!(beside("unix:/run/pool.sock"), None);
    }

    #[test]
    fn what_is_said_holds() {
        let server = "127.0.0.1:50051".parse().expect("an address");
        for (said, listens) in [
            ("off", None),
            ("localhost:9464", "127.0.0.1:9464".parse().ok()),
            ("0.0.0.0:9464", "0.0.0.0:9464".parse().ok()),
        ] {
            let listen = said.parse().expect("an address");
            let status = Status {
                listen: Some(listen),
            };

            assert_eq!(status.address(&server), listens);
        }
        assert!("somewhere".parse::<StatusListen>().is_err());
    }
}
