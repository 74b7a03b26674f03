//! Builds a pool: probe, recover, start.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize};

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::hold::Hold;
use super::inner::Inner;
use super::lease;
use super::nodes::{self, Member};
use super::outage::{self, Outage};
use super::queue::Queue;
use super::shelf::Shelf;
use super::workspace::Roots;
use super::{
    Options, Pool, admission, catalog, conversation, isolation, recovery, requirement, retention,
    scheduler, upkeep,
};
use crate::agent::Agent;
use crate::clock::Clock;
use crate::id::{CallerId, NodeId};
use crate::metrics::Metrics;
use crate::store::Store;
use crate::store::layer::Layered;
use crate::store::memory::Memory;
use crate::task::Level;
use crate::workspace::Workspaces;

/// Why a pool could not be built: one sentence with the way out.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct BuildError(pub String);

/// Builds a [`Pool`].
pub struct Builder {
    pub(super) agent: Arc<dyn Agent>,
    pub(super) store: Option<Arc<dyn Store>>,
    pub(super) options: Options,
    pub(super) node: Option<NodeId>,
    pub(super) clock: Clock,
    pub(super) seed: Option<u64>,
    pub(super) metrics: Metrics,
    pub(super) level: Level,
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

    /// The server's name in events and status, if the options give none.
    /// Default: `node-` and the process id.
    pub fn node(mut self, node: NodeId) -> Self {
        self.node = Some(node);
        self
    }

    fn name(&self) -> NodeId {
        let given = Some(self.options.node_id.as_str()).filter(|id| !id.is_empty());
        let given = given.map(NodeId::from).or_else(|| self.node.clone());
        given.unwrap_or_else(|| NodeId(format!("node-{}", std::process::id())))
    }

    /// Another clock, for tests.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// What chance (the jitter of waits) is drawn from, for tests. Default: the
    /// system's randomness.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Where what happens is counted. Default: nowhere that anybody sees.
    pub fn metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = metrics;
        self
    }

    /// What it knows of tasks, for tests: an older program, or a newer one.
    #[cfg(any(test, feature = "testing"))]
    pub fn level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// Probes the agent, recovers what the store holds and starts the slots.
    /// When it returns the pool takes work.
    pub async fn build(self) -> Result<Pool, BuildError> {
        let problems = self.options.problems();
        if !problems.is_empty() {
            return Err(BuildError(problems.join("; ")));
        }
        let node = self.name();
        let roots = Roots::resolve(&self.options.working_dir, &self.options.policy.roots)
            .await
            .map_err(BuildError)?;
        let store = self
            .store
            .unwrap_or_else(|| Arc::new(Memory::new()) as Arc<dyn Store>);
        let outage = Arc::new(Outage::new(self.metrics.clone()));
        let store: Arc<dyn Store> = Arc::new(Layered::over(store, Arc::clone(&outage)));
        let workspaces = match &self.options.workspace_dir {
            Some(dir) => Some(
                Workspaces::open(dir, &node.0, Default::default())
                    .await
                    .map_err(|error| {
                        BuildError(format!("workspace_dir {}: {error}", dir.display()))
                    })?,
            ),
            None => None,
        };
        // No process of an earlier server may go on beside ours.
        let agent = self.agent;
        agent.settle().await.map_err(failed)?;
        let probe = agent.probe().await.map_err(failed)?;
        info!(version = %probe.version, spares = probe.spares, "agent found");
        for drift in &probe.drift {
            warn!(%drift, "the agent differs from the one this was built for");
        }
        // A budget that an operator set before holds on, unless the options
        // name another.
        if let Some(budget) = self.options.budget() {
            store.set_budget(Some(budget)).await.map_err(failed)?;
        }
        let context = store.context().await.map_err(failed)?;
        let totals = store.totals().await.map_err(failed)?;

        let member = match store.cluster() {
            Some(cluster) => {
                let joined = nodes::lease::join(cluster, &self.options, &node);
                let since = joined.await.map_err(BuildError)?;
                let member = Member::new(self.options.node_lease, since);
                // Before the first process: this node may be cut off before it has
                // renewed once.
                agent.lease(member.lifetime());
                Some(member)
            }
            None => None,
        };

        let catalog = catalog::fixed(&self.options.catalog_dirs)
            .await
            .map_err(failed)?;
        let default_settings = admission::pool_settings(&self.options.settings);
        let inner = Arc::new(Inner {
            store,
            outage,
            agent,
            probe,
            node,
            level: self.level,
            start_time: self.clock.now(),
            clock: self.clock,
            metrics: self.metrics,
            roots,
            workspaces,
            hub: Default::default(),
            slots: Default::default(),
            shelf: Shelf::default(),
            default_profile: requirement::profile(&default_settings, self.options.save_sessions),
            default_settings,
            catalog,
            context: watch::channel(Arc::new(context)).0,
            context_change: Default::default(),
            wake: Notify::new(),
            due: Notify::new(),
            sweep: Notify::new(),
            may_wait: AtomicBool::new(true),
            looks: AtomicBool::new(false),
            queue: Queue::default(),
            watchers: AtomicUsize::new(0),
            completed: AtomicU64::new(0),
            cost: AtomicI64::new(0),
            kept: Default::default(),
            attached: Default::default(),
            status: watch::channel(0).0,
            budget_limited: AtomicBool::new(totals.funds.limit.is_some()),
            supervisor: watch::channel(true).0,
            paused: Default::default(),
            member,
            hold: Hold::new(self.options.limit_wait),
            chance: std::sync::Mutex::new(match self.seed {
                Some(seed) => StdRng::seed_from_u64(seed),
                None => StdRng::from_os_rng(),
            }),
            scaling: Default::default(),
            budget_change: Default::default(),
            draining: CancellationToken::new(),
            hand_back: CancellationToken::new(),
            stop: CancellationToken::new(),
            tracker: TaskTracker::new(),
            runtime: tokio::runtime::Handle::current(),
            drain_begun: AtomicBool::new(false),
            drained: watch::channel(None).0,
            options: self.options,
        });
        isolation::recover(&inner).await;
        recovery::at_start(&inner)
            .await
            .map_err(|error| BuildError(format!("the store could not be recovered: {error}")))?;
        start(&inner);
        Ok(Pool::over(inner, CallerId::default(), None))
    }
}

fn failed(error: impl std::fmt::Display) -> BuildError {
    BuildError(error.to_string())
}

fn start(inner: &Arc<Inner>) {
    inner.slots.add(inner, inner.options.slots);
    let shared = Arc::clone(inner);
    inner
        .tracker
        .spawn(async move { scheduler::run(&shared).await });
    let shared = Arc::clone(inner);
    inner
        .tracker
        .spawn(async move { upkeep::run(&shared).await });
    let shared = Arc::clone(inner);
    inner
        .tracker
        .spawn(async move { conversation::expire(&shared).await });
    let shared = Arc::clone(inner);
    inner
        .tracker
        .spawn(async move { retention::run(&shared).await });
    if inner.member.is_some() {
        let shared = Arc::clone(inner);
        inner
            .tracker
            .spawn(async move { nodes::lease::run(&shared).await });
        let shared = Arc::clone(inner);
        inner
            .tracker
            .spawn(async move { nodes::lease::take_over(&shared).await });
        let shared = Arc::clone(inner);
        inner
            .tracker
            .spawn(async move { nodes::elsewhere::run(&shared).await });
    } else if let Some(span) = inner.options.process_lease {
        let shared = Arc::clone(inner);
        inner
            .tracker
            .spawn(async move { lease::renew(&shared, span).await });
    }
    let shared = Arc::clone(inner);
    inner
        .tracker
        .spawn(async move { outage::run(&shared).await });
    if inner.options.spares > 0 && inner.probe.spares {
        let shared = Arc::clone(inner);
        inner
            .tracker
            .spawn(async move { Shelf::keep_full(&shared).await });
    }
    inner.wake.notify_one();
}
