//! A slot without a task.

use std::sync::Arc;

use tokio::sync::watch;

use crate::agent::Observation;
use crate::pool::inner::Inner;
use crate::pool::process::Bench;
use crate::store::Context;

/// Watches an idle process; returns why it has to be replaced.
pub(super) async fn idle(
    bench: &mut Bench,
    context: &mut watch::Receiver<Arc<Context>>,
    inner: &Inner,
) -> String {
    let since = tokio::time::Instant::now();
    loop {
        let Some(held) = bench.held.as_mut() else {
            return "it is gone".to_owned();
        };
        let served = held.attempts > 0;
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(since + inner.options.process_idle_max), if served => {
                return "it was idle for long".to_owned();
            }
            said = held.session.next() => match said {
                Observation::Alive => {}
                Observation::ProcessEnded(end) => {
                    return format!("it ended while idle, exit code {:?}", end.exit_code);
                }
                _ => return "it spoke while idle".to_owned(),
            },
            changed = context.changed() => {
                if changed.is_err() {
                    std::future::pending::<()>().await;
                }
                if held.outdated(&inner.default_placement()) {
                    return "the shared context has changed".to_owned();
                }
            }
        }
    }
}
