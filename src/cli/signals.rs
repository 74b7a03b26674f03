//! The signals that end a server.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::failure::Failure;

const FILE_SIZE: i32 = rustix::process::Signal::XFSZ.as_raw();

/// SIGTERM and SIGINT.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// Caught and not waited for: a file that may not grow (`LimitFSIZE`) is then
    /// the failure of a write, like a full disk, and not the server's end.
    _file_size: Signal,
}

impl Signals {
    /// From now on neither ends the process by itself.
    pub(super) fn new() -> Result<Self, Failure> {
        let failed = |error| Failure::failed(format!("no signal can be waited for: {error}"));
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            _file_size: signal(SignalKind::from_raw(FILE_SIZE)).map_err(failed)?,
        })
    }

    /// The next of them.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
