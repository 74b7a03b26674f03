//! A call: a connection, a transaction, another try, and an end in time.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use tokio_util::task::TaskTracker;

use super::fault::{Fault, closed, silent};
use super::wire::Outbox;
use crate::store::StoreError;

/// Rows of `books`.
const SHARDS: usize = 64;
/// Tries of a transaction that others were in the way of.
const TRIES: u32 = 12;
/// Tries when the connection was cut before anything was committed: a server
/// that was restarted has cut all that are kept.
const CUTS: u32 = 3;
/// The first wait before another try; it doubles.
const WAIT: Duration = Duration::from_millis(1);
const WAIT_MAX: Duration = Duration::from_millis(256);

/// A value of a statement.
pub(super) type Value<'v> = &'v (dyn ToSql + Sync);

/// What is done in a transaction; from the beginning, as often as it takes.
pub(super) type Work<'t, T> = Pin<Box<dyn Future<Output = Result<T, Fault>> + Send + 't>>;

/// A connection for as long as it is used. One whose use did not end in order is
/// closed instead of given back.
pub(super) struct Link(Option<Object>);

impl Link {
    fn keep(mut self) {
        drop(self.0.take());
    }

    fn client(&self) -> Result<&Object, Fault> {
        self.0.as_ref().ok_or_else(|| Fault::Store(closed()))
    }

    pub async fn rows(&self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>, Fault> {
        let client = self.client()?;
        let statement = client.prepare_cached(sql).await?;
        Ok(client.query(&statement, values).await?)
    }

    /// A statement that is put together for its occasion: it is not kept.
    pub async fn rows_once(&self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>, Fault> {
        Ok(self.client()?.query(sql, values).await?)
    }

    async fn batch(&self, sql: &str) -> Result<(), Fault> {
        Ok(self.client()?.batch_execute(sql).await?)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(object) = self.0.take() {
            drop(Object::take(object));
        }
    }
}

/// A transaction.
pub(super) struct Tx {
    pub link: Link,
    /// Whether a limit of the budget was seen last: how its row is locked.
    limited: Arc<AtomicBool>,
    /// The row of `books` that no other transaction of this server writes to.
    pub shard: i32,
}

impl Tx {
    pub async fn rows(&self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>, Fault> {
        self.link.rows(sql, values).await
    }

    pub fn saw_limit(&self) -> bool {
        self.limited.load(Ordering::SeqCst)
    }

    pub fn see_limit(&self, limited: bool) {
        self.limited.store(limited, Ordering::SeqCst);
    }

    /// How many rows it changed.
    pub async fn run(&self, sql: &str, values: &[Value<'_>]) -> Result<u64, Fault> {
        let client = self.link.client()?;
        let statement = client.prepare_cached(sql).await?;
        Ok(client.execute(&statement, values).await?)
    }
}

/// What calls need, shared by those under way.
pub(super) struct Engine {
    pool: Pool,
    limit: Duration,
    closed: AtomicBool,
    under_way: TaskTracker,
    shards: Mutex<Vec<i32>>,
    limited: Arc<AtomicBool>,
    /// Spreads waits; no decision hangs on it.
    salt: AtomicU64,
    pub outbox: Arc<Outbox>,
}

/// A shard that is given back.
struct Shard<'e>(&'e Engine, i32);

impl Drop for Shard<'_> {
    fn drop(&mut self) {
        let shards = self.0.shards.lock();
        let mut shards = shards.unwrap_or_else(PoisonError::into_inner);
        shards.push(self.1);
    }
}

impl Engine {
    pub fn new(pool: Pool, limit: Duration, outbox: Arc<Outbox>) -> Self {
        let salt = uuid::Uuid::new_v4().as_u128();
        let first = (salt % SHARDS as u128) as usize;
        let shards = (first..first + pool.status().max_size).map(|n| (n % SHARDS) as i32);
        Self {
            shards: Mutex::new(shards.collect()),
            pool,
            limit,
            closed: AtomicBool::new(false),
            under_way: TaskTracker::new(),
            limited: Arc::default(),
            salt: AtomicU64::new((salt >> 64) as u64 | 1),
            outbox,
        }
    }

    pub fn limit(&self) -> Duration {
        self.limit
    }

    fn check(&self) -> Result<(), StoreError> {
        match self.closed.load(Ordering::SeqCst) {
            true => Err(closed()),
            false => Ok(()),
        }
    }

    /// Finishes what is under way; nothing new begins.
    pub async fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.under_way.close();
        self.under_way.wait().await;
        self.pool.close();
    }

    async fn link(&self) -> Result<Link, Fault> {
        use deadpool_postgres::PoolError;
        match self.pool.get().await {
            Ok(object) => Ok(Link(Some(object))),
            Err(PoolError::Backend(error)) => Err(Fault::Engine(error)),
            Err(PoolError::Timeout(_)) => Err(Fault::Store(silent())),
            Err(PoolError::PostCreateHook(_)) => Err(Fault::Store(StoreError::Unavailable(
                "a new connection could not be set up".to_owned(),
            ))),
            Err(error) => Err(Fault::Store(StoreError::Unavailable(error.to_string()))),
        }
    }

    /// Reads without a transaction: each statement sees one moment.
    pub async fn read<T>(
        &self,
        work: impl for<'l> Fn(&'l Link) -> Work<'l, T> + Send + Sync,
    ) -> Result<T, StoreError> {
        self.read_within(self.limit, work).await
    }

    pub async fn read_within<T>(
        &self,
        limit: Duration,
        work: impl for<'l> Fn(&'l Link) -> Work<'l, T> + Send + Sync,
    ) -> Result<T, StoreError> {
        self.check()?;
        let _token = self.under_way.token();
        let reading = async {
            let mut tries = Tries::default();
            loop {
                match self.reading(&work).await {
                    Ok(read) => return Ok(read),
                    Err(fault) => tries.after(self, fault).await?,
                }
            }
        };
        timeout(limit, reading).await.map_err(|_| silent())?
    }

    async fn reading<T>(
        &self,
        work: &(impl for<'l> Fn(&'l Link) -> Work<'l, T> + Send + Sync),
    ) -> Result<T, Fault> {
        let link = self.link().await?;
        let read = work(&link).await?;
        link.keep();
        Ok(read)
    }

    /// Does `work` in a transaction and commits it. What has begun goes on when
    /// its caller has left.
    pub async fn write<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl for<'t> Fn(&'t Tx) -> Work<'t, T> + Send + Sync + 'static,
    ) -> Result<T, StoreError> {
        self.check()?;
        let engine = Arc::clone(self);
        let writing = self.under_way.spawn(async move {
            let writing = async {
                let mut tries = Tries::default();
                loop {
                    match engine.transaction(&work).await {
                        Ok(done) => return Ok(done),
                        Err(fault) => tries.after(&engine, fault).await?,
                    }
                }
            };
            timeout(engine.limit, writing).await.map_err(|_| silent())?
        });
        let written = writing.await;
        written.map_err(|error| StoreError::Unavailable(error.to_string()))?
    }

    async fn transaction<T>(
        &self,
        work: &(impl for<'t> Fn(&'t Tx) -> Work<'t, T> + Send + Sync),
    ) -> Result<T, Fault> {
        let link = self.link().await?;
        let shard = {
            let shards = self.shards.lock();
            let mut shards = shards.unwrap_or_else(PoisonError::into_inner);
            // There is one for each connection.
            Shard(self, shards.pop().unwrap_or_default())
        };
        link.batch("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
        let tx = Tx {
            link,
            limited: Arc::clone(&self.limited),
            shard: shard.1,
        };
        match work(&tx).await {
            Ok(done) => match tx.link.batch("COMMIT").await {
                Ok(()) => {
                    tx.link.keep();
                    Ok(done)
                }
                // Rolled back, and it says so.
                Err(fault) if fault.is_passing() => Err(fault),
                // It may have been committed: only who called can find out.
                Err(fault) => Err(Fault::Store(fault.into())),
            },
            Err(fault) => {
                if !fault.is_cut() && tx.link.batch("ROLLBACK").await.is_ok() {
                    tx.link.keep();
                }
                Err(fault)
            }
        }
    }

    /// Half to all of a wait that doubles with each try.
    fn wait(&self, tries: u32) -> Duration {
        let whole = (WAIT * (1 << tries.min(16))).min(WAIT_MAX);
        let salt = self
            .salt
            .fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let part = ((salt ^ (salt >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32) as u32;
        whole / 2 + (whole / 2).mul_f64(f64::from(part) / f64::from(u32::MAX))
    }
}

/// How often something was tried.
#[derive(Default)]
struct Tries {
    passing: u32,
    cuts: u32,
}

impl Tries {
    /// Waits for the next try, if nothing was done and it may work.
    async fn after(&mut self, engine: &Engine, fault: Fault) -> Result<(), StoreError> {
        let again = if fault.is_passing() {
            self.passing += 1;
            self.passing < TRIES
        } else if fault.is_cut() {
            self.cuts += 1;
            self.cuts < CUTS
        } else {
            false
        };
        if !again {
            return Err(fault.into());
        }
        tokio::time::sleep(engine.wait(self.passing)).await;
        Ok(())
    }
}
