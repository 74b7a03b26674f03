//! From one server's agent to another server's watcher.

use claudepool::pb;
use claudepool::pb::pool_service_client::PoolServiceClient;
use tonic::transport::Channel;

use super::super::latency::hear;
use super::{OURS, Place, ROUNDS_MAX, SQLITE};
use crate::database::Database;
use crate::disk::{a_store, commit_time};
use crate::measure::{Failure, Row, median, percentile};
use crate::server::{Server, spec};

const PACE_MICROSECONDS: u32 = 5000;

pub async fn measure(row: &mut Row, place: &Place, database: &Database) -> Result<(), Failure> {
    let url = database.create("watch").await?;
    let (a, b) = (Server::node(&url, "a", 2)?, Server::node(&url, "b", 2)?);
    let alone = Server::talker(&place.dir, 2)?;
    let (ours, sqlite) = (
        claudepool::store::open(&url).await?,
        a_store(&place.dir).await?,
    );
    for server in [&a, &b] {
        server.wait(|status| status.slots_idle == 4).await?;
    }
    let [at_a, at_b, at_alone] = [one(&a).await?, one(&b).await?, one(&alone).await?];
    let pieces = place.size.of(50, 250);
    for _ in 0..place.size.rounds.min(ROUNDS_MAX) {
        row.add(
            "p50 ms",
            &format!("one commit, {OURS}"),
            commit_time(&ours).await?,
        );
        row.add(
            "p50 ms",
            &format!("one commit, {SQLITE}"),
            commit_time(&sqlite).await?,
        );
        let task = begin(&at_a, "a", pieces).await?;
        let near = tokio::spawn(hear(at_a.clone(), task.clone()));
        let far = tokio::spawn(hear(at_b.clone(), task));
        let (near, far) = (near.await??, far.await??);
        let task = begin(&at_alone, "", pieces).await?;
        let sqlite = hear(at_alone.clone(), task).await?;
        for (way, times) in [
            ("watcher of the same server", &near),
            ("watcher of the other server", &far),
            ("watcher of one server on SQLite", &sqlite),
        ] {
            row.add("p50 ms", way, median(times));
            row.add("p99 ms", way, percentile(times, 99.0));
        }
    }
    ours.close().await;
    sqlite.close().await;
    Ok(())
}

async fn one(server: &Server) -> Result<Channel, Failure> {
    Ok(server.connect(1).await?.remove(0))
}

/// Submits a task that says so many pieces, to run where the label says.
async fn begin(to: &Channel, label: &str, pieces: u32) -> Result<String, Failure> {
    let task = pb::TaskSpec {
        node_label: label.to_owned(),
        ..spec(&format!("paced {pieces} {PACE_MICROSECONDS}"))
    };
    let request = pb::SubmitRequest {
        task: Some(task),
        ..pb::SubmitRequest::default()
    };
    let answer = PoolServiceClient::new(to.clone()).submit(request).await?;
    Ok(answer.into_inner().task_id)
}
