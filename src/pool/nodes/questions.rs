//! One node has another do something: what only the other can do.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;
use tracing::warn;
use uuid::Uuid;

use super::super::inner::Inner;
use crate::error::Error;
use crate::id::NodeId;
use crate::store::cluster::Cluster;

/// Questions that are answered at a time.
const AT_A_TIME: usize = 64;

/// Answers what another node asks.
pub type Answerer = Arc<dyn Fn(Bytes) -> Pin<Box<dyn Future<Output = Bytes> + Send>> + Send + Sync>;

/// What this node asked, and who answers what it is asked.
pub(in super::super) struct Questions {
    waiting: Mutex<HashMap<Uuid, oneshot::Sender<Bytes>>>,
    answerer: OnceLock<Answerer>,
    places: Arc<Semaphore>,
}

impl Default for Questions {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            answerer: OnceLock::new(),
            places: Arc::new(Semaphore::new(AT_A_TIME)),
        }
    }
}

impl Questions {
    fn waiting(&self) -> MutexGuard<'_, HashMap<Uuid, oneshot::Sender<Bytes>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says who answers from now on. Once only.
    pub fn answer_with(&self, answerer: Answerer) {
        // A second one is ignored.
        let _ = self.answerer.set(answerer);
    }
}

/// Asks a node and waits for its answer.
pub(in super::super) async fn ask(
    inner: &Inner,
    node: &NodeId,
    question: Bytes,
    longest: Duration,
) -> Result<Bytes, Error> {
    let silent = || Error::NodeSilent(node.0.clone());
    let (cluster, member) = inner.cluster().ok_or_else(silent)?;
    let id = cluster.ask(node, question, longest).await?;
    let (answer, answered) = oneshot::channel();
    member.questions.waiting().insert(id, answer);
    let _forget = Forget(&member.questions, id);
    // It may have come before anybody waited.
    if let Some(bytes) = cluster.answered(id).await? {
        return Ok(bytes);
    }
    match timeout(longest, answered).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) | Err(_) => Err(silent()),
    }
}

/// Who asked does not wait any more.
struct Forget<'a>(&'a Questions, Uuid);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.waiting().remove(&self.1);
    }
}

/// Takes questions and answers that have come.
pub(super) async fn take(inner: &Arc<Inner>, cluster: &dyn Cluster) -> Result<(), Error> {
    let Some(member) = &inner.member else {
        return Ok(());
    };
    let waiting: Vec<_> = member.questions.waiting().keys().copied().collect();
    for id in waiting {
        if let Some(answer) = cluster.answered(id).await?
            && let Some(asker) = member.questions.waiting().remove(&id)
        {
            // Who asked may have left.
            let _ = asker.send(answer);
        }
    }
    let Some(answerer) = member.questions.answerer.get() else {
        // Nobody answers yet: they are taken at the next look.
        return Ok(());
    };
    for question in cluster.asked().await? {
        let Ok(place) = Arc::clone(&member.questions.places).try_acquire_owned() else {
            warn!("too many questions at a time: one is not answered");
            continue;
        };
        let (shared, answerer) = (Arc::clone(inner), Arc::clone(answerer));
        inner.tracker.spawn_on(
            async move {
                let _place = place;
                let answer = tokio::select! {
                    biased;
                    () = shared.stop.cancelled() => return,
                    answer = answerer(question.bytes) => answer,
                };
                let Some((cluster, _)) = shared.cluster() else {
                    return;
                };
                if let Err(error) = cluster.answer(question.id, answer).await {
                    warn!(%error, "another node gets no answer");
                }
            },
            &inner.runtime,
        );
    }
    Ok(())
}
