//! What a process says on stderr: always read, the last bytes kept.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::ChildStderr;
use tokio::task::JoinHandle;

/// Bytes kept.
const TAIL: usize = 4096;

/// The end of a process's stderr.
pub(crate) struct Stderr {
    tail: Arc<Mutex<VecDeque<u8>>>,
    drained: JoinHandle<()>,
}

impl Stderr {
    /// Reads from now on, so that the process never waits to be read.
    pub(crate) fn drain(stderr: Option<ChildStderr>) -> Self {
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let kept = tail.clone();
        let drained = tokio::spawn(async move {
            let Some(mut stderr) = stderr else { return };
            let mut chunk = [0; TAIL];
            while let Ok(count) = stderr.read(&mut chunk).await {
                if count == 0 {
                    return;
                }
                let mut tail = kept.lock().expect("nobody panics holding it");
                tail.extend(&chunk[..count]);
                let excess = tail.len().saturating_sub(TAIL);
                tail.drain(..excess);
            }
        });
        Self { tail, drained }
    }

    /// Waits for the last byte of a process that is gone.
    pub(crate) async fn ended(&mut self) {
        // Bounded, should something that was not its child hold the pipe open.
        let _ = tokio::time::timeout(Duration::from_secs(1), &mut self.drained).await;
    }

    /// The last bytes, as text.
    pub(crate) fn tail(&self) -> String {
        let mut tail = self.tail.lock().expect("nobody panics holding it");
        String::from_utf8_lossy(tail.make_contiguous()).into_owned()
    }
}

impl Drop for Stderr {
    fn drop(&mut self) {
        self.drained.abort();
    }
}
