//! The nodes that share a store in memory, and what they tell each other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use super::inner::Inner;
use crate::id::NodeId;
use crate::store::cluster::Told;

/// One handle's place among others.
pub(super) struct Handle {
    /// Its number.
    pub number: u64,
    /// What others have told it.
    pub inbox: Arc<Inbox>,
    /// The node that it is.
    pub node: Mutex<Option<NodeId>>,
}

/// What was told and not taken yet.
#[derive(Default)]
pub(super) struct Inbox {
    told: Mutex<Told>,
    pub come: Notify,
}

/// A node that has joined.
pub(super) struct Living {
    /// The handle that it is.
    pub handle: u64,
    pub labels: BTreeSet<String>,
    pub until: Instant,
    pub report: Bytes,
}

/// A question and its answer.
pub(super) struct Asked {
    pub by: u64,
    pub node: NodeId,
    pub question: Bytes,
    pub taken: bool,
    pub answer: Option<Bytes>,
    pub until: Instant,
}

/// What belongs to the nodes.
#[derive(Default)]
pub(super) struct Nodes {
    pub inboxes: BTreeMap<u64, Arc<Inbox>>,
    pub living: BTreeMap<NodeId, Living>,
    pub revision: u64,
    pub paused: Option<String>,
    pub hold: Bytes,
    pub questions: BTreeMap<Uuid, Asked>,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn put(&self, tell: impl FnOnce(&mut Told)) {
        tell(&mut self.lock());
        self.come.notify_one();
    }

    pub fn take(&self) -> Told {
        std::mem::take(&mut self.lock())
    }
}

impl Nodes {
    /// Whether a node of that name has a lease that has not passed.
    pub fn lives(&self, node: &NodeId) -> bool {
        let now = Instant::now();
        self.living
            .get(node)
            .is_some_and(|living| living.until > now)
    }

    /// Tells every other handle.
    pub fn tell(&self, from: u64, tell: impl Fn(&mut Told)) {
        for (number, inbox) in &self.inboxes {
            if *number != from {
                inbox.put(&tell);
            }
        }
    }
}

impl Inner {
    /// Another handle.
    pub fn add_handle(&mut self) -> Handle {
        let inboxes = &mut self.nodes.inboxes;
        let number = inboxes.keys().next_back().map_or(0, |last| last + 1);
        let inbox = Arc::<Inbox>::default();
        inboxes.insert(number, Arc::clone(&inbox));
        Handle {
            number,
            inbox,
            node: Mutex::default(),
        }
    }
}
