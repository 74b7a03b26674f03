//! Where a server listens.

use tokio::net::{TcpListener, UnixListener, UnixStream};

use crate::config::Listen;
use crate::rpc::Listener;

/// The listener and where it really listens. `Err`: one sentence.
pub(super) async fn bind(listen: &Listen) -> Result<(Listener, Listen), String> {
    let sentence = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            format!("{listen} is in use: stop what listens there, or choose another with --listen")
        }
        _ => format!("{listen} cannot be listened on: {error}"),
    };
    match listen {
        Listen::Tcp(address) => {
            let listener = TcpListener::bind(address).await.map_err(sentence)?;
            let address = listener.local_addr().map_err(sentence)?;
            Ok((Listener::Tcp(listener), Listen::Tcp(address)))
        }
        Listen::Unix(path) => {
            use std::os::unix::fs::FileTypeExt;
            let is_socket = path
                .metadata()
                .is_ok_and(|meta| meta.file_type().is_socket());
            // One that nobody answers was left by a server that was killed.
            if is_socket && UnixStream::connect(path).await.is_err() {
                std::fs::remove_file(path).map_err(sentence)?;
            }
            // Whoever can open the socket can use the machine: its owner.
            let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
            let bound = UnixListener::bind(path);
            rustix::process::umask(before);
            let listener = bound.map_err(sentence)?;
            Ok((Listener::Unix(listener), listen.clone()))
        }
    }
}
