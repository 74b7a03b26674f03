//! One call of each kind that does not end by itself.

use claudepool::pb;
use prost::Message;

use super::Caller;

/// The path and request of a call of each unary method that waits, and of each
/// method that streams without end. What they wait for is made.
pub async fn hanging_calls(caller: &mut Caller) -> Vec<(&'static str, Vec<u8>)> {
    let task_id = caller.submit(caller.hang("x")).await;
    let Some(pb::task_spec::Input::Prompt(prompt)) = caller.hang("x").input else {
        panic!("a prompt");
    };
    let step = pb::ChainStep {
        name: "one".into(),
        action: Some(pb::chain_step::Action::Prompt(prompt)),
        ..Default::default()
    };
    let chain = pb::SubmitChainRequest {
        steps: vec![step],
        ..Default::default()
    };
    let chain = caller.work.submit_chain(chain).await.unwrap();
    let chain_id = chain.into_inner().task_id;
    let task = || caller.hang("x");
    let minute = std::time::Duration::from_secs(60).try_into().unwrap();
    vec![
        (
            "/claudepool.v1.PoolService/Run",
            pb::RunRequest {
                task: Some(task()),
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "/claudepool.v1.PoolService/GetResult",
            pb::GetResultRequest {
                task_id: task_id.clone(),
                wait: Some(minute),
            }
            .encode_to_vec(),
        ),
        (
            "/claudepool.v1.PoolService/RunStream",
            pb::RunStreamRequest {
                task: Some(task()),
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "/claudepool.v1.PoolService/FanOut",
            pb::FanOutRequest {
                tasks: vec![task(), task()],
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "/claudepool.v1.PoolService/WatchTask",
            pb::WatchTaskRequest {
                task_id,
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "/claudepool.v1.PoolService/WatchChain",
            pb::WatchChainRequest {
                task_id: chain_id,
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "/claudepool.v1.PoolService/WatchStatus",
            pb::WatchStatusRequest::default().encode_to_vec(),
        ),
        (
            "/grpc.health.v1.Health/Watch",
            tonic_health::pb::HealthCheckRequest::default().encode_to_vec(),
        ),
    ]
}
