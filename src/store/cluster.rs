//! Many servers on one store: who lives, what holds for all, and who has to be
//! told of what.
//!
//! A server joins as a node and holds a lease. While it lives its tasks are its
//! own; when the lease has passed, another node buries it, and its tasks are
//! orphans that anybody may take up. Leases are measured by the store's clock
//! alone, so that the clocks of the nodes may differ. Every handle of the store
//! belongs to one node at most.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use uuid::Uuid;

use super::StoreError;
use crate::id::{CallerId, NodeId, TaskId};
use crate::task::{Level, Task};

/// A node whose lease has not passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub id: NodeId,
    /// What tasks may ask for.
    pub labels: BTreeSet<String>,
    /// What it last told of itself; empty: nothing yet.
    pub report: Bytes,
}

/// What holds for all nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// Counts changes of what follows.
    pub revision: u64,
    /// Why an operator paused admission, if one did.
    pub paused: Option<String>,
    /// What a provider's limit holds back, in the pool's own words; empty:
    /// nothing.
    pub hold: Bytes,
    /// Revision of the shared context. Read only.
    pub context_revision: u64,
    /// Whether there is a budget. Read only.
    pub has_budget: bool,
}

/// What other nodes may have changed. A wake: whoever is told reads the truth.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Anything may have changed: something was not heard.
    pub everything: bool,
    /// Tasks that were changed, or whose log grew.
    pub tasks: BTreeSet<TaskId>,
    /// Tasks are waiting that may be claimed.
    pub queue: bool,
    /// A task ended: its conversation and what it had reserved are free.
    pub freed: bool,
    /// The control, the context or the budget.
    pub control: bool,
    /// A node joined, left or told something of itself.
    pub nodes: bool,
    /// A question to this node, or the answer to one of its own.
    pub questions: bool,
}

impl Told {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes up what else was told.
    pub fn merge(&mut self, other: Self) {
        self.everything |= other.everything;
        self.tasks.extend(other.tasks);
        self.queue |= other.queue;
        self.freed |= other.freed;
        self.control |= other.control;
        self.nodes |= other.nodes;
        self.questions |= other.questions;
    }
}

/// What one node asks another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Its name.
    pub id: Uuid,
    /// What is asked.
    pub bytes: Bytes,
}

/// Keeps many nodes together. Implemented by stores that several servers share.
#[async_trait]
pub trait Cluster: Send + Sync + 'static {
    /// Makes this handle the node of that name, with a lease of `span`. If a
    /// node of that name lives, nothing is changed, and how long its lease
    /// still holds is given.
    async fn join(
        &self,
        node: &NodeId,
        labels: &BTreeSet<String>,
        span: Duration,
    ) -> Result<Option<Duration>, StoreError>;

    /// Makes the lease hold for `span` from now, and with it those of all
    /// tasks that the node runs, and keeps what it tells of itself. `Fenced`:
    /// the lease has passed or the node was buried; it has to join again.
    async fn renew(&self, span: Duration, report: Option<Bytes>) -> Result<(), StoreError>;

    /// Gives the lease up: what the node still runs is orphaned at once.
    async fn leave(&self) -> Result<(), StoreError>;

    /// Ends the nodes whose lease has passed: they can renew it no more. Gives
    /// their names.
    async fn bury(&self) -> Result<Vec<NodeId>, StoreError>;

    /// Tasks under way, chains left out, of nodes that do not live, at most
    /// `limit`; without the steps of chains that need more than `level`.
    async fn orphans(&self, level: Level, limit: usize) -> Result<Vec<Task>, StoreError>;

    /// The nodes that live, by name.
    async fn nodes(&self) -> Result<Vec<Node>, StoreError>;

    /// What holds for all nodes now.
    async fn control(&self) -> Result<Control, StoreError>;

    /// Changes pause and hold, if the control is still at its revision, else
    /// `Conflict`; gives the new revision.
    async fn set_control(&self, control: Control) -> Result<u64, StoreError>;

    /// How many tasks of each caller are queued, chains left out.
    async fn queued(&self) -> Result<HashMap<CallerId, u64>, StoreError>;

    /// Asks a node; forgotten after `span`. Gives the question's name.
    async fn ask(&self, node: &NodeId, question: Bytes, span: Duration)
    -> Result<Uuid, StoreError>;

    /// Takes what this node was asked: each question is given once.
    async fn asked(&self) -> Result<Vec<Question>, StoreError>;

    /// Answers a question; harmless if it was forgotten.
    async fn answer(&self, question: Uuid, answer: Bytes) -> Result<(), StoreError>;

    /// Takes the answer to a question of this node, if there is one.
    async fn answered(&self, question: Uuid) -> Result<Option<Bytes>, StoreError>;

    /// Waits until others may have changed something since the last call, and
    /// says what. Safe to drop and call again: nothing told is lost.
    async fn told(&self) -> Told;
}
