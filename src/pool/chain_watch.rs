//! A chain's progress: its log, folded.

use std::sync::Arc;

use super::{Pool, Tail};
use crate::chain::{Progress, ending};
use crate::error::Error;
use crate::event;
use crate::id::TaskId;
use crate::pb::{self, event::Kind};
use crate::store::{Parts, Store};

/// The text of a step that is under way, as far as it is told.
const TEXT_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a log read at a time.
const READ_BYTES: usize = 256 * 1024;

/// A reader of a chain's progress: the present first, then every change.
pub struct ChainWatch {
    tail: Tail,
    progress: Progress,
    /// Sequence of the present when it began: what came before is folded
    /// without being told.
    present: u64,
}

impl ChainWatch {
    /// The next snapshot, without text; `None` after the end. Safe to drop and
    /// call again.
    pub async fn next(&mut self) -> Result<Option<pb::ChainProgress>, Error> {
        while let Some(entry) = self.tail.next().await? {
            let Some(event) = event::decode(&entry.bytes) else {
                continue;
            };
            let changed = self.progress.apply(&event);
            let is_present = entry.sequence == self.present;
            if is_present || (changed && entry.sequence > self.present) {
                return Ok(Some(self.progress.without_text()));
            }
        }
        Ok(None)
    }
}

impl Pool {
    /// Watches a chain's progress.
    pub async fn watch_chain(&self, id: TaskId) -> Result<ChainWatch, Error> {
        let (progress, present) = self.begin_progress(id).await?;
        Ok(ChainWatch {
            tail: self.watch(id, 0).await?,
            progress,
            present,
        })
    }

    /// A chain's progress now, with the text of the step that is under way.
    pub async fn chain_progress(&self, id: TaskId) -> Result<pb::ChainProgress, Error> {
        let (mut progress, present) = self.begin_progress(id).await?;
        let store = &self.inner.store;
        let mut after = 0;
        while after < present {
            let entries = store.log(id, after, READ_BYTES).await?;
            let Some(last) = entries.last() else { break };
            after = last.sequence;
            for entry in &entries {
                if let Some(event) = event::decode(&entry.bytes) {
                    progress.apply(&event);
                }
            }
        }
        let step = &progress.snapshot().current_step_task_id;
        let text = match step.parse() {
            Ok(step) => text_so_far(store, step).await?,
            Err(_) => String::new(),
        };
        Ok(progress.with_text(&text))
    }

    async fn begin_progress(&self, id: TaskId) -> Result<(Progress, u64), Error> {
        let record = self.own(id, Parts::ALL).await?;
        let spec = record.spec.as_ref().and_then(|spec| spec.chain.as_ref());
        let plan = spec.ok_or_else(|| Error::invalid("task_id", "is no chain"))?;
        let progress = Progress::new(&id.to_string(), plan);
        Ok((progress, record.task.last_sequence))
    }
}

/// The last text that a task's attempt has said.
async fn text_so_far(store: &Arc<dyn Store>, task: TaskId) -> Result<String, Error> {
    let mut text = String::new();
    let mut message = 0;
    let mut after = 0;
    loop {
        let entries = store.log(task, after, READ_BYTES).await?;
        let Some(last) = entries.last() else {
            return Ok(ending(&text, TEXT_BYTES_MAX).to_owned());
        };
        after = last.sequence;
        for entry in &entries {
            match event::decode(&entry.bytes).and_then(|event| event.kind) {
                Some(Kind::TextDelta(delta)) => text.push_str(&delta.text),
                Some(Kind::Message(_)) => message = text.len(),
                // What came since the last message is void.
                Some(Kind::Retrying(_)) => text.truncate(message.min(text.len())),
                Some(Kind::Started(_)) => {
                    text.clear();
                    message = 0;
                }
                _ => {}
            }
        }
        if text.len() > 4 * TEXT_BYTES_MAX {
            let kept = ending(&text, TEXT_BYTES_MAX).to_owned();
            message = message.saturating_sub(text.len() - kept.len());
            text = kept;
        }
    }
}
