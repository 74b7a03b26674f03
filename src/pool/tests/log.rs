//! How an attempt's log reaches the store and its readers.

use super::*;

/// Entries of a task in the store.
async fn stored(rig: &Rig, id: TaskId) -> usize {
    let entries = rig.store.log(id, 0, usize::MAX).await.expect("readable");
    entries.len()
}

async fn said_unwatched(rig: &Rig) -> (TaskId, usize) {
    let id = rig.pool.submit("say a\nwait 10\nsay b\nhang").await;
    let id = id.expect("submitted");
    // Time stands still while anything is left to do.
    tokio::time::sleep(Duration::from_millis(1)).await;
    let begun = stored(rig, id).await;
    tokio::time::sleep(Duration::from_millis(49)).await;
    (id, begun)
}

#[tokio::test(start_paused = true)]
async fn what_nobody_reads_gathers_for_a_moment_and_is_written_then() {
    let rig = rig(slots(1)).await;
    let (id, begun) = said_unwatched(&rig).await;
    assert_eq!(stored(&rig, id).await, begun, "it gathers");

    tokio::time::sleep(Duration::from_millis(100)).await;

    assert!(stored(&rig, id).await > begun, "it was written");
}

#[tokio::test(start_paused = true)]
async fn who_comes_late_reads_what_had_gathered() {
    let rig = rig(slots(1)).await;
    let (id, _) = said_unwatched(&rig).await;
    let begun = tokio::time::Instant::now();

    rig.said(id).await;

    assert!(begun.elapsed() <= Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn what_somebody_reads_is_written_at_once() {
    let rig = rig(slots(1)).await;
    let id = rig.pool.submit("wait 50\nsay a\nhang").await.expect("new");
    let begun = tokio::time::Instant::now();

    rig.said(id).await;

    assert_eq!(begun.elapsed(), Duration::from_millis(50));
}
