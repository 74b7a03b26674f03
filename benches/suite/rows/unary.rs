//! Calls that are answered at once, against tonic alone.

use claudepool::pb;
use claudepool::pb::pool_service_client::PoolServiceClient;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::Place;
use crate::measure::{Bound, Failure, Row, callers};
use crate::raw;
use crate::server::{Kind, Server, spec};

const CONNECTIONS: usize = 8;

pub async fn row(place: Place) -> Result<Row, Failure> {
    let mut row = Row::new(
        "unary",
        "Unary calls by 64 callers",
        "Eight connections, TCP_NODELAY on both ends. tonic alone answers a message of the size \
         of ours out of memory. Health.Check passes our limits, deadline, audit, trace and \
         authorisation and nothing else. GetStatus and GetResult read the store as well.",
    );
    let (server, bare) = (Server::talker(&place.dir, 1)?, Server::start(&Kind::Bare)?);
    let mut client = server.client().await?;
    let request = pb::RunRequest {
        task: Some(spec("say ok")),
        ..Default::default()
    };
    let answer = client.run(request).await?.into_inner();
    let task_id = answer.task.unwrap_or_default().task_id;
    let ours = server.connect(CONNECTIONS).await?;
    let theirs = bare.connect(CONNECTIONS).await?;
    let span = place.size.span();
    for _ in 0..place.size.rounds {
        let alone = callers(64, span, |number| {
            let channel = theirs[number % CONNECTIONS].clone();
            move || {
                let channel = channel.clone();
                async move { raw::unary(&channel).await }
            }
        })
        .await?;
        let check = callers(64, span, |number| {
            let client = HealthClient::new(ours[number % CONNECTIONS].clone());
            move || {
                let mut client = client.clone();
                async move {
                    client.check(HealthCheckRequest::default()).await?;
                    Ok(())
                }
            }
        })
        .await?;
        let status = callers(64, span, |number| {
            let client = PoolServiceClient::new(ours[number % CONNECTIONS].clone());
            move || {
                let mut client = client.clone();
                async move {
                    client.get_status(pb::GetStatusRequest::default()).await?;
                    Ok(())
                }
            }
        })
        .await?;
        let result = callers(64, span, |number| {
            let client = PoolServiceClient::new(ours[number % CONNECTIONS].clone());
            let task_id = task_id.clone();
            move || {
                let (mut client, task_id) = (client.clone(), task_id.clone());
                async move {
                    let wait = None;
                    let request = pb::GetResultRequest { task_id, wait };
                    client.get_result(request).await?;
                    Ok(())
                }
            }
        })
        .await?;
        let ways = [
            ("tonic alone", &alone),
            ("Health.Check", &check),
            ("GetStatus", &status),
            ("GetResult", &result),
        ];
        for (way, calls) in ways {
            row.add("p50 ms", way, calls.percentile(50.0));
            row.add("p99 ms", way, calls.percentile(99.0));
            row.add("calls/s", way, calls.rate);
            if way != "tonic alone" {
                let goal = format!("p99 of {way} / tonic alone");
                let ratio = calls.percentile(99.0) / alone.percentile(99.0);
                row.goal(&goal, "", Bound::AtMost, 2.0, ratio);
            }
        }
    }
    Ok(row)
}
