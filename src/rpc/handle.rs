//! What the services and the program know of a running server.

use std::convert::Infallible;
use std::future::{Future, pending};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, SetOnce};
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::auth::Caller;
use super::directed::{self, Server};
use crate::error::Error;
use crate::metrics::Metrics;
use crate::pb::Scope;
use crate::pool::Pool;

/// Every service that health is asked about; "" is the whole server.
const SERVICES: [&str; 5] = [
    "",
    "claudepool.v1.PoolService",
    "claudepool.v1.OperatorService",
    "claudepool.v1.CatalogService",
    "claudepool.v1.ContextService",
];

/// The longest drain that can be asked for. A repeat of a drain waits for the
/// first one's end whatever it asks.
const DRAIN_MAX: Duration = Duration::from_secs(24 * 3600);

/// From the end of a drain to the end of what waits for work: long enough for
/// the last events to be read.
const QUIET: Duration = Duration::from_millis(250);

/// Tells a running server what it cannot know. Cheap to clone.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

struct Shared {
    pool: SetOnce<Pool>,
    health: HealthReporter,
    wants: Mutex<Wants>,
    /// Cancelled once a drain is over: nothing runs here any more.
    drained: CancellationToken,
    hurry: CancellationToken,
    metrics: Metrics,
    server: Arc<Server>,
}

/// Why a server wants no traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotReady {
    /// There is no pool yet.
    Starting,
    /// The store does not answer.
    Store,
    /// It drains, and will not come back.
    Draining,
}

impl NotReady {
    /// In one word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Store => "store",
            Self::Draining => "draining",
        }
    }
}

/// What decides health.
#[derive(Default)]
struct Wants {
    /// There is a pool and nobody said otherwise.
    serving: bool,
    /// A drain began: never again.
    closed: bool,
}

impl Handle {
    pub(super) fn new(health: HealthReporter, metrics: Metrics, server: Arc<Server>) -> Self {
        Self(Arc::new(Shared {
            pool: SetOnce::new(),
            health,
            wants: Mutex::default(),
            drained: CancellationToken::new(),
            hurry: CancellationToken::new(),
            metrics,
            server,
        }))
    }

    /// Hands in the pool: from now on calls are answered and health is SERVING.
    /// Once only; a second pool is ignored.
    pub async fn open(&self, pool: Pool) {
        pool.answer_with(directed::answerer(pool.clone(), Arc::clone(&self.0.server)));
        if self.0.pool.set(pool).is_ok() {
            self.set_serving(true).await;
        }
    }

    /// Says whether the server wants traffic, for instance while the store does
    /// not answer. Without effect before [`Handle::open`] and from a drain on.
    pub async fn set_serving(&self, serving: bool) {
        self.change(|wants| wants.serving = serving).await;
    }

    /// Does not wait for the drain any longer: the second signal.
    pub fn hurry(&self) {
        self.0.hurry.cancel();
    }

    /// Whether the server wants traffic: what health says, and why if not.
    pub async fn readiness(&self) -> Result<(), NotReady> {
        let wants = self.0.wants.lock().await;
        self.reading(&wants)
    }

    fn reading(&self, wants: &Wants) -> Result<(), NotReady> {
        if wants.closed {
            Err(NotReady::Draining)
        } else if !self.0.pool.initialized() {
            Err(NotReady::Starting)
        } else if !wants.serving {
            Err(NotReady::Store)
        } else {
            Ok(())
        }
    }

    /// Everything that is counted, as OpenMetrics text.
    pub async fn metrics(&self) -> String {
        let ready = self.readiness().await.is_ok();
        let observed = match self.0.pool.get() {
            Some(pool) => Some(pool.observe().await),
            None => None,
        };
        self.0.metrics.text(ready, observed.as_ref())
    }

    /// Health is NOT_SERVING from now on.
    pub(super) async fn close(&self) {
        self.change(|wants| wants.closed = true).await;
    }

    /// Says again how things stand.
    pub(super) async fn publish(&self) {
        self.change(|_| {}).await;
    }

    async fn change(&self, change: impl FnOnce(&mut Wants)) {
        let mut wants = self.0.wants.lock().await;
        change(&mut wants);
        let status = if self.reading(&wants).is_ok() {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for service in SERVICES {
            self.0.health.set_service_status(service, status).await;
        }
    }

    /// The pool.
    pub(super) fn pool(&self) -> Result<&Pool, Error> {
        self.0.pool.get().ok_or(Error::Starting)
    }

    /// The pool as the caller of a request sees it.
    pub(super) fn pool_for<T>(&self, request: &tonic::Request<T>) -> Result<Pool, Error> {
        let pool = self.pool()?;
        // What nobody has looked at is nobody's.
        let caller = request.extensions().get::<Caller>();
        let caller = caller.ok_or(Error::Credentials)?;
        if !caller.id.0.is_empty() {
            tracing::Span::current().record("caller", caller.id.0.as_str());
        }
        let pool = match caller.scopes.has(Scope::Operate) {
            true => pool.for_operator(caller.id.clone()),
            false => pool.for_caller(caller.id.clone()),
        };
        Ok(pool.in_trace(request.extensions().get().cloned()))
    }

    /// Follows a drain that a call began.
    pub(super) async fn follow_drain(&self) -> Infallible {
        let pool = self.0.pool.wait().await;
        pool.draining().await;
        self.close().await;
        match pool.drain(DRAIN_MAX).await {
            Ok(_) => self.end_waits(),
            Err(error) => tracing::warn!(%error, "drain failed"),
        }
        pending().await
    }

    /// Follows whether the store answers: health says the same.
    pub(super) async fn follow_store(&self) -> Infallible {
        let pool = self.0.pool.wait().await;
        let mut answers = pool.store_answers();
        loop {
            let serving = *answers.borrow_and_update();
            self.set_serving(serving).await;
            if answers.changed().await.is_err() {
                return pending().await;
            }
        }
    }

    /// Ready when the program does not want to wait any longer.
    pub(super) async fn hurried(&self) {
        self.0.hurry.cancelled().await;
    }

    /// Whoever waits for work to go on waits in vain.
    pub(super) fn end_waits(&self) {
        self.0.drained.cancel();
    }

    /// Ready a moment after a drain is over.
    pub(super) fn in_vain(&self) -> impl Future<Output = ()> + Send + use<> {
        let drained = self.0.drained.clone();
        async move {
            drained.cancelled().await;
            tokio::time::sleep(QUIET).await;
        }
    }

    /// What `waiting` gives, unless the server drains before: then the work is
    /// another server's.
    pub(super) async fn unless_drained<T>(
        &self,
        waiting: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        tokio::select! {
            biased;
            answer = waiting => answer,
            () = self.in_vain() => Err(Error::Draining),
        }
    }
}
