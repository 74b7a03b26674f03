//! Allocations of an operation, on average over many.

use std::alloc::{GlobalAlloc, Layout, System};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use claudepool::store::Filter;
use claudepool::store::sqlite::Sqlite;

use crate::{QUIET, idle, pool, until};

/// How far from what is written down a count may be, in per cent: maps grow and
/// threads meet a little differently each time.
const TOLERANCE: f64 = 10.0;

/// The system's, counted.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[allow(unsafe_code)]
// SAFETY: it passes everything on to the system's allocator, unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is the same.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Allocations of one of `calls` calls, once things have settled.
async fn each<F: Future>(calls: u64, mut call: impl FnMut() -> F) -> f64 {
    for _ in 0..calls / 4 {
        call().await;
    }
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for _ in 0..calls {
        call().await;
    }
    (ALLOCATIONS.load(Ordering::Relaxed) - before) as f64 / calls as f64
}

#[tokio::test]
async fn an_operation_allocates_as_often_as_is_written_down() {
    let _alone = QUIET.write().await;
    let dir = tempfile::tempdir().unwrap();
    let open = |name: &str| Sqlite::open(dir.path().join(name));
    let pool_of = async |name| pool(Arc::new(open(name).await.unwrap()), 1).await;
    let (free, busy) = (pool_of("free.db").await, pool_of("busy.db").await);
    busy.submit("hang").await.unwrap();
    until(&busy, |status| status.slots_busy == 1).await;
    let done = free.run("say so").await.unwrap().task.id;

    let run = each(100, async || {
        free.run("say so").await.unwrap();
        idle(&free).await;
    });
    let seen = [
        ("submit", 29.0, each(400, || busy.submit("say later")).await),
        ("run", 172.0, run.await),
        ("status", 17.0, each(200, || free.status()).await),
        (
            "first page of the list",
            160.0,
            each(50, || busy.tasks(Filter::default(), 0, "", false)).await,
        ),
        (
            "result",
            24.0,
            each(200, || free.result(done, Duration::ZERO)).await,
        ),
    ];

    let off = |written: f64, seen: f64| (seen / written - 1.0).abs() * 100.0 > TOLERANCE;
    let wrong: Vec<_> = seen
        .iter()
        .filter(|(_, written, seen)| off(*written, *seen))
        .map(|(what, written, seen)| format!("{what}: {seen:.0} allocations, {written} written"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
