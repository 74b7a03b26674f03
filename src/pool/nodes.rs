//! This pool as one node of many on the same store.
//!
//! What is stored is the truth for all; what a node keeps in memory follows it.
//! Other nodes' changes wake it ([`elsewhere`]), and a slow look at everything is
//! the net under that. While its lease holds its tasks are its own ([`lease`]).

pub(super) mod control;
pub(super) mod elsewhere;
pub(super) mod lease;
pub(super) mod questions;
pub(super) mod report;

use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Pool;
use super::inner::Inner;
use crate::error::Error;
use crate::id::NodeId;
use crate::store::cluster::Cluster;
pub use questions::Answerer;
use questions::Questions;

/// What a node knows of itself and of the others.
pub(super) struct Member {
    /// How long a lease holds.
    pub span: Duration,
    /// When this node must have stopped what it runs.
    until: Mutex<Instant>,
    /// Wakes who waits for the lease.
    held: Notify,
    /// Wakes who takes up the work of nodes that are gone.
    renewed: Notify,
    /// Wakes who tells the others of a provider's limit.
    pub share: Notify,
    /// Counts what the others told of themselves.
    reported: tokio::sync::watch::Sender<u64>,
    pub questions: Questions,
}

impl Member {
    /// One whose lease began at `since`.
    pub fn new(span: Duration, since: Instant) -> Self {
        Self {
            span,
            until: Mutex::new(since + lease::usable(span)),
            held: Notify::new(),
            renewed: Notify::new(),
            share: Notify::new(),
            reported: tokio::sync::watch::channel(0).0,
            questions: Questions::default(),
        }
    }

    fn until(&self) -> MutexGuard<'_, Instant> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Work may go on until then.
    fn hold_until(&self, until: Instant) {
        *self.until() = until;
        self.held.notify_waiters();
    }

    /// How long work may still go on.
    pub fn left(&self) -> Duration {
        self.until().saturating_duration_since(Instant::now())
    }

    /// How long the agent's processes may live; never zero, which would be
    /// without end.
    pub fn lifetime(&self) -> Duration {
        self.left().max(Duration::from_millis(1))
    }

    /// Wakes when others told something of themselves.
    pub fn reports(&self) -> tokio::sync::watch::Receiver<u64> {
        self.reported.subscribe()
    }
}

/// A call names a node that does not live.
fn no_such() -> Error {
    Error::invalid("node_id", "there is no such server")
}

impl Inner {
    /// The other nodes, if there may be any.
    pub fn cluster(&self) -> Option<(&dyn Cluster, &Member)> {
        self.store.cluster().zip(self.member.as_ref())
    }

    /// Notes that others told something of themselves.
    pub fn reported(&self) {
        if let Some(member) = &self.member {
            member.reported.send_modify(|count| *count += 1);
        }
    }

    /// Whether new attempts may begin: always, but for a node whose lease has
    /// passed.
    pub fn may_begin(&self) -> bool {
        let member = self.member.as_ref();
        member.is_none_or(|member| !member.left().is_zero())
    }

    /// Waits until new processes may begin: those of a node without a lease end
    /// by themselves.
    pub async fn until_may_begin(&self) {
        let Some(member) = &self.member else { return };
        loop {
            let mut held = pin!(member.held.notified());
            // Before the look, so that nothing falls between.
            held.as_mut().enable();
            if self.may_begin() {
                return;
            }
            held.await;
        }
    }
}

impl Pool {
    /// This server's name.
    pub fn node(&self) -> &NodeId {
        &self.inner.node
    }

    /// The names of all servers on the store, in order; of a store that has one
    /// server, this one's.
    pub async fn nodes(&self) -> Result<Vec<String>, Error> {
        let own = self.inner.node.0.clone();
        let Some((cluster, _)) = self.inner.cluster() else {
            return Ok(vec![own]);
        };
        let nodes = cluster.nodes().await?.into_iter();
        let mut names: Vec<_> = nodes.map(|node| node.id.0).collect();
        if !names.contains(&own) {
            // Its lease has passed; it is the one that answers all the same.
            names.push(own);
        }
        Ok(names)
    }

    /// Whether there is no other server.
    pub async fn is_alone(&self) -> Result<bool, Error> {
        Ok(self.nodes().await?.len() == 1)
    }

    /// Asks another server and waits for its answer at most so long.
    pub async fn ask(
        &self,
        node: &str,
        question: Bytes,
        longest: Duration,
    ) -> Result<Bytes, Error> {
        if !self.nodes().await?.iter().any(|name| name == node) {
            return Err(no_such());
        }
        questions::ask(&self.inner, &NodeId(node.to_owned()), question, longest).await
    }

    /// Says who answers what other servers ask this one. Once only.
    pub fn answer_with(&self, answerer: Answerer) {
        if let Some(member) = &self.inner.member {
            member.questions.answer_with(answerer);
        }
    }
}
