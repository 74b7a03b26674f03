//! Tasks that do nothing, from Submit to their end on disk.

use std::time::Instant;

use claudepool::pb::pool_service_client::PoolServiceClient;
use tonic::transport::Channel;

use super::Place;
use crate::measure::{Failure, Row, milliseconds};
use crate::server::{Server, submit};

const CALLERS: usize = 64;

pub async fn row(place: Place) -> Result<Row, Failure> {
    let mut row = Row::new(
        "no-op",
        "Tasks that do nothing",
        "From the first Submit to the end of the last task, on an agent in the server's own \
         process that answers at once; 64 callers submit. Each task is three durable changes: \
         submitted, claimed, ended. CPU is that of the server's process alone.",
    );
    let tasks = place.size.of(1000, 10_000);
    for slots in [4, 16] {
        let server = Server::talker(&place.dir, slots)?;
        let channels = server.connect(8).await?;
        let way = format!("{slots} slots");
        run(&server, &channels, 500).await?;
        for _ in 0..place.size.rounds.min(3) {
            let (begun, used) = (Instant::now(), server.usage());
            run(&server, &channels, tasks).await?;
            let all = begun.elapsed().as_secs_f64();
            let used = server.usage().since(used).own;
            row.add("tasks/s", &way, tasks as f64 / all);
            let each = milliseconds(used) / tasks as f64;
            row.add("CPU ms a task", &way, each);
        }
    }
    Ok(row)
}

/// Submits so many and waits for all.
pub async fn run(server: &Server, channels: &[Channel], tasks: usize) -> Result<(), Failure> {
    let before = ended(server).await?;
    let callers: Vec<_> = (0..CALLERS)
        .map(|number| {
            let mut client = PoolServiceClient::new(channels[number % channels.len()].clone());
            tokio::spawn(async move {
                for _ in (number..tasks).step_by(CALLERS) {
                    client.submit(submit("say ok")).await?;
                }
                Ok::<_, Failure>(())
            })
        })
        .collect();
    for caller in callers {
        caller.await??;
    }
    let all = before + tasks as i64;
    server.wait(|status| succeeded(status) >= all).await
}

async fn ended(server: &Server) -> Result<i64, Failure> {
    let mut client = server.client().await?;
    let answer = client.get_status(claudepool::pb::GetStatusRequest::default());
    let status = answer.await?.into_inner().status.unwrap_or_default();
    Ok(succeeded(&status))
}

fn succeeded(status: &claudepool::pb::PoolStatus) -> i64 {
    let of = claudepool::pb::TaskState::Succeeded as i32;
    let mut counts = status.tasks.iter();
    counts.find(|c| c.state == of).map_or(0, |c| c.count)
}
