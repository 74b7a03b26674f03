//! Writes a piece of a log, however long the store does not answer.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::clock::Clock;
use crate::event;
use crate::pb::event::Kind;
use crate::pool::inner::Inner;
use crate::pool::outage::Outage;
use crate::store::{Committed, Fence, LogEntry, Note, Store, StoreError};
use crate::task::State;

/// Bytes read at a time of a log in which a piece is looked for.
const READ_BYTES: usize = 256 * 1024;
/// Waits before a piece is written again, where the store's return is not all
/// that is waited for.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// What it takes to write one piece, however long the store does not answer.
pub(super) struct Pen {
    store: Arc<dyn Store>,
    outage: Arc<Outage>,
    clock: Clock,
    stop: CancellationToken,
    fence: Fence,
    /// Sequence of the last entry before the piece that is ours.
    last: u64,
}

impl Pen {
    pub fn new(inner: &Inner, fence: Fence, last: u64) -> Self {
        Self {
            store: Arc::clone(&inner.store),
            outage: Arc::clone(&inner.outage),
            clock: inner.clock.clone(),
            stop: inner.stop.clone(),
            fence,
            last,
        }
    }

    pub async fn write(self, events: Vec<Kind>, note: Note) -> Result<Committed, StoreError> {
        let mut wait = RETRY_FIRST;
        let mut again = false;
        loop {
            let error = match self.try_once(&events, &note, again).await {
                Err(error) if !matches!(error, StoreError::Fenced) => error,
                done => return done,
            };
            warn!(?error, "a piece of the log waits for the store");
            let ready = async {
                sleep(wait).await;
                self.outage.over().await;
            };
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(error),
                () = ready => {}
            }
            wait = (wait * 2).min(RETRY_MAX);
            again = true;
        }
    }

    async fn try_once(
        &self,
        events: &[Kind],
        note: &Note,
        again: bool,
    ) -> Result<Committed, StoreError> {
        // What failed may have been written all the same.
        if again && let Some(found) = self.found(events).await? {
            return Ok(found);
        }
        let (events, note) = (events.to_vec(), note.clone());
        self.store
            .append(self.fence, events, note, self.clock.now())
            .await
    }

    /// The piece, if it is in the log. Between two pieces of an attempt there is
    /// only what others write, and that is never what an agent says.
    async fn found(&self, events: &[Kind]) -> Result<Option<Committed>, StoreError> {
        let Some(first) = events.first() else {
            return Ok(None);
        };
        let (task, mut last) = (self.fence.task, self.last);
        loop {
            let page = self.store.log(task, last, READ_BYTES).await?;
            let Some(end) = page.last() else {
                return Ok(None);
            };
            last = end.sequence;
            let is_first = |entry: &LogEntry| {
                event::decode(&entry.bytes)
                    .and_then(|event| event.kind)
                    .as_ref()
                    == Some(first)
            };
            if let Some(at) = page.iter().position(is_first) {
                let mut entries = page[at..].to_vec();
                while entries.len() < events.len() {
                    let more = self.store.log(task, last, READ_BYTES).await?;
                    let Some(end) = more.last() else { break };
                    last = end.sequence;
                    entries.extend(more);
                }
                entries.truncate(events.len());
                return Ok(Some(Committed {
                    task,
                    state: State::Running,
                    entries,
                }));
            }
        }
    }
}
