//! Opens the status port of a server.

use std::convert::Infallible;
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::config::{Config, StatusListen};
use crate::rpc::Handle;
use crate::status_port;

/// A port that is listened on.
pub(super) struct Bound {
    listener: TcpListener,
    address: SocketAddr,
}

/// A port that is served, as long as this lives.
pub(super) struct StatusPort {
    address: SocketAddr,
    _server: AbortOnDropHandle<Infallible>,
}

impl StatusPort {
    /// Listens where the configuration says, and notes there where that is.
    /// `None`: nowhere. `Err`: one sentence.
    pub async fn bind(config: &mut Config) -> Result<Option<Bound>, String> {
        let Some(wanted) = config.status.address(&config.server.listen) else {
            config.status.listen = Some(StatusListen::Off);
            return Ok(None);
        };
        let sentence = |error: std::io::Error| match error.kind() {
            ErrorKind::AddrInUse => format!(
                "the status port {wanted} is in use: stop what listens there, choose another \
                 with --status-listen, or have none with --status-listen off"
            ),
            _ => format!("the status port {wanted} cannot be listened on: {error}"),
        };
        let listener = TcpListener::bind(wanted).await.map_err(sentence)?;
        let address = listener.local_addr().map_err(sentence)?;
        config.status.listen = Some(StatusListen::At(address));
        Ok(Some(Bound { listener, address }))
    }

    /// Says where it is. Nobody need listen.
    pub fn tell(&self) {
        let address = self.address;
        let _ = writeln!(std::io::stdout(), "its status is on http://{address}");
    }
}

impl Bound {
    /// Answers for a server.
    pub fn serve(self, handle: Handle) -> StatusPort {
        let server = tokio::spawn(status_port::serve(self.listener, handle));
        StatusPort {
            address: self.address,
            _server: AbortOnDropHandle::new(server),
        }
    }
}
