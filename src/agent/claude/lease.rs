//! How long processes may live without a word from the server.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

/// What a shim says before it ends a tree whose lease has run out.
pub(super) const EXPIRED: &[u8] = b"expired\n";

/// The lifelines of all living processes.
#[derive(Default)]
pub(crate) struct Lifelines(Mutex<State>);

#[derive(Default)]
struct State {
    span: Duration,
    lines: Vec<Weak<UnixStream>>,
}

fn live(mut line: &UnixStream, span: Duration) {
    // A shim that is gone, or stopped for so long that its socket is full, has
    // no use for it.
    let _ = line.write_all(format!("live {}\n", span.as_millis()).as_bytes());
}

/// Whether the shim at the other end, which is gone, has said so.
pub(super) fn has_expired(mut line: &UnixStream) -> bool {
    let mut said = [0; EXPIRED.len()];
    line.read_exact(&mut said).is_ok() && said == EXPIRED
}

impl Lifelines {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nobody panics holding it")
    }

    /// A process began to live.
    pub(crate) fn add(&self, line: &Arc<UnixStream>) {
        let mut state = self.state();
        if !state.span.is_zero() {
            live(line, state.span);
        }
        state.lines.push(Arc::downgrade(line));
    }

    /// From now all live for `span`, also those that begin later.
    pub(crate) fn renew(&self, span: Duration) {
        let mut state = self.state();
        state.span = span;
        state.lines.retain(|line| match line.upgrade() {
            Some(line) => {
                live(&line, span);
                true
            }
            None => false,
        });
    }
}
