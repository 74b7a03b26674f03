//! Everything that reaches the program from outside, as one queue.

use std::io::BufRead;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// One thing that reached the program.
#[derive(Debug)]
pub enum Input {
    /// A line of stdin, without its end.
    Line(Vec<u8>),
    /// The end of stdin.
    End,
    /// SIGTERM.
    Term,
    /// SIGINT.
    Int,
    /// A background task ended by itself.
    TaskEnded {
        /// Its id.
        id: String,
        /// Its exit code.
        code: i32,
    },
}

/// Starts to listen.
pub fn listen() -> std::io::Result<(mpsc::UnboundedSender<Input>, mpsc::UnboundedReceiver<Input>)> {
    let (tx, rx) = mpsc::unbounded_channel();
    let lines = tx.clone();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().split(b'\n') {
            let Ok(line) = line else { break };
            if lines.send(Input::Line(line)).is_err() {
                return;
            }
        }
        // Nobody listens any more if this fails.
        let _ = lines.send(Input::End);
    });
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let signals = tx.clone();
    tokio::spawn(async move {
        loop {
            let input = tokio::select! {
                _ = term.recv() => Input::Term,
                _ = int.recv() => Input::Int,
            };
            if signals.send(input).is_err() {
                return;
            }
        }
    });
    Ok((tx, rx))
}
