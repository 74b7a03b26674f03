//! What an operation costs, in counts and not in time: changes of the store, and
//! allocations. A count is the same on a busy machine and on an idle one, so a
//! change that makes an operation dearer fails here, and says by how much.
//!
//! One that makes it cheaper fails too, once it is more than the tolerance: the
//! new count is written down, so that it is not lost again.
#![allow(clippy::unwrap_used, missing_docs)]

mod allocations;
mod store;

use std::sync::Arc;
use std::time::Duration;

use claudepool::agent::scripted::Scripted;
use claudepool::pool::{Options, Pool};
use claudepool::store::Store;
use tokio::sync::RwLock;

/// Who counts allocations has it alone: they are the whole process's.
pub static QUIET: RwLock<()> = RwLock::const_new(());

/// A pool over a store, with idle slots.
pub async fn pool(store: Arc<dyn Store>, slots: u32) -> Pool {
    let options = Options {
        slots,
        spares: 0,
        process_attempts_max: u32::MAX,
        ..Options::default()
    };
    let builder = Pool::builder(Scripted::default()).store(store);
    let pool = builder.options(options).build().await.expect("a pool");
    idle(&pool).await;
    pool
}

/// Waits until every slot is idle.
pub async fn idle(pool: &Pool) {
    until(pool, |status| status.slots_idle == status.slots_total).await;
}

/// Waits until the status is as wished.
pub async fn until(pool: &Pool, is: impl Fn(&claudepool::pb::PoolStatus) -> bool) {
    let mut watch = pool.watch_status(Duration::ZERO).await.expect("a watch");
    while !is(&watch.next().await.expect("a status")) {}
}
