//! Builds a pool.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Options, Pool};
use crate::agent::Agent;
use crate::clock::Clock;
use crate::id::NodeId;
use crate::store::Store;

/// Why a pool could not be built: one sentence with the way out.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct BuildError(pub String);

/// Builds a [`Pool`].
pub struct Builder {
    pub(super) agent: Arc<dyn Agent>,
    pub(super) store: Option<Arc<dyn Store>>,
    pub(super) options: Options,
    pub(super) node: NodeId,
    pub(super) clock: Clock,
}

impl Builder {
    /// Where everything is kept. Default: in memory, lost at the end.
    pub fn store(mut self, store: Arc<dyn Store>) -> Self {
        self.store = Some(store);
        self
    }

    /// Everything else.
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Slots: attempts that run at a time.
    pub fn slots(mut self, slots: u32) -> Self {
        self.options.slots = slots;
        self
    }

    /// Working directory of tasks that name none.
    pub fn working_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.options.working_dir = dir.into();
        self
    }

    /// The server's name in events and status. Default: `node-` and the
    /// process id.
    pub fn node(mut self, node: NodeId) -> Self {
        self.node = node;
        self
    }

    /// Another clock, for tests.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Probes the agent, recovers what the store holds and starts the slots.
    /// When it returns the pool takes work.
    pub async fn build(self) -> Result<Pool, BuildError> {
        Pool::build(self).await
    }
}
