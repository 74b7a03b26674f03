//! `claudepool.v1.PoolService`.

use tonic::{Request, Response, Status};

use super::audit::Noted;
use super::convert::{self, Shown};
use super::handle::Handle;
use super::streams::{self, Chain, Items, Log, Messages, Output, Run, Statuses};
use crate::event::wire;
use crate::pb;
use crate::pb::server::pool_service_server::PoolService;
use crate::pool::Target;

/// The service.
pub struct Service {
    handle: Handle,
}

impl Service {
    /// Over a server's pool.
    pub fn new(handle: Handle) -> Self {
        Self { handle }
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl PoolService for Service {
    type RunStreamStream = Messages<wire::RunStreamResponse>;
    type ReadOutputStream = Messages<pb::ReadOutputResponse>;
    type WatchTaskStream = Messages<wire::WatchTaskResponse>;
    type FanOutStream = Messages<pb::FanOutResponse>;
    type WatchChainStream = Messages<pb::WatchChainResponse>;
    type WatchStatusStream = Messages<pb::WatchStatusResponse>;

    async fn run(&self, request: Request<pb::RunRequest>) -> Answer<pb::RunResponse> {
        let pool = self.handle.pool_for(&request)?;
        let noted = Noted::of(&request);
        let work = convert::run(request.into_inner())?;
        let running = pool.start(work).await?;
        noted.id(running.task);
        let ended = pool.finish(running);
        let record = self.handle.unless_drained(ended).await?;
        let (task, result) = convert::task_and_result(record);
        Ok(Response::new(pb::RunResponse {
            task: Some(task),
            result,
        }))
    }

    async fn run_stream(
        &self,
        request: Request<pb::RunStreamRequest>,
    ) -> Answer<Self::RunStreamStream> {
        let pool = self.handle.pool_for(&request)?;
        let noted = Noted::of(&request);
        let (work, after, interval) = convert::run_stream(request.into_inner())?;
        let (running, tail) = pool.start_watched(work, after).await?;
        noted.id(running.task);
        let source = Run::new(running, tail);
        Ok(streams::stream(source, interval, &self.handle))
    }

    async fn submit(&self, request: Request<pb::SubmitRequest>) -> Answer<pb::SubmitResponse> {
        let pool = self.handle.pool_for(&request)?;
        let noted = Noted::of(&request);
        let work = convert::submit(request.into_inner())?;
        let task = pool.submit(work).await?;
        noted.id(task);
        let task_id = task.to_string();
        Ok(Response::new(pb::SubmitResponse { task_id }))
    }

    async fn get_result(
        &self,
        request: Request<pb::GetResultRequest>,
    ) -> Answer<pb::GetResultResponse> {
        let pool = self.handle.pool_for(&request)?;
        let (task, wait) = convert::get_result(&request.into_inner())?;
        let record = self.handle.unless_drained(pool.result(task, wait)).await?;
        let (task, result) = convert::task_and_result(record);
        Ok(Response::new(pb::GetResultResponse {
            task: Some(task),
            result,
        }))
    }

    async fn read_output(
        &self,
        request: Request<pb::ReadOutputRequest>,
    ) -> Answer<Self::ReadOutputStream> {
        let pool = self.handle.pool_for(&request)?;
        let (task, offset, interval) = convert::read_output(&request.into_inner())?;
        let first = Some(pool.output(task, offset).await?);
        let source = Output {
            pool,
            task,
            offset,
            first,
        };
        Ok(streams::stream(source, interval, &self.handle))
    }

    async fn watch_task(
        &self,
        request: Request<pb::WatchTaskRequest>,
    ) -> Answer<Self::WatchTaskStream> {
        let pool = self.handle.pool_for(&request)?;
        let (task, after, interval) = convert::watch_task(&request.into_inner())?;
        let source = Log(pool.watch(task, after).await?);
        Ok(streams::stream(source, interval, &self.handle))
    }

    async fn cancel(&self, request: Request<pb::CancelRequest>) -> Answer<pb::CancelResponse> {
        let pool = self.handle.pool_for(&request)?;
        let noted = Noted::of(&request);
        let target = convert::cancel(&request.into_inner())?;
        match target {
            Target::Task(task) => noted.id(task),
            Target::Group(group) => noted.id(group),
        }
        let cancelled = pool.cancel(target).await?;
        Ok(Response::new(pb::CancelResponse {
            task: cancelled.task.map(|t| convert::task(t, Shown::WithoutSpec)),
            cancelled: convert::count(cancelled.count),
        }))
    }

    async fn retry(&self, request: Request<pb::RetryRequest>) -> Answer<pb::RetryResponse> {
        let pool = self.handle.pool_for(&request)?;
        let noted = Noted::of(&request);
        let (task, id) = convert::retry(&request.into_inner())?;
        noted.id(task);
        let task = pool.retry(task, id).await?;
        noted.id(task);
        let task_id = task.to_string();
        Ok(Response::new(pb::RetryResponse { task_id }))
    }

    async fn fan_out(&self, request: Request<pb::FanOutRequest>) -> Answer<Self::FanOutStream> {
        let pool = self.handle.pool_for(&request)?;
        let noted = Noted::of(&request);
        let (specs, request_id, detach, interval) = convert::fan_out(request.into_inner())?;
        let fan_out = pool.fan_out(specs, request_id, detach).await?;
        noted.id(fan_out.group);
        let accepted = Some(pb::FanOutAccepted {
            group_id: fan_out.group.to_string(),
            task_ids: fan_out.tasks.iter().map(ToString::to_string).collect(),
        });
        let source = Items { accepted, fan_out };
        Ok(streams::stream(source, interval, &self.handle))
    }

    async fn submit_chain(
        &self,
        request: Request<pb::SubmitChainRequest>,
    ) -> Answer<pb::SubmitChainResponse> {
        let pool = self.handle.pool_for(&request)?;
        let noted = Noted::of(&request);
        let call = request.into_inner();
        let id = convert::request(&call.request_id)?;
        let task = pool.submit_chain(call.steps, call.options, id).await?;
        noted.id(task);
        let task_id = task.to_string();
        Ok(Response::new(pb::SubmitChainResponse { task_id }))
    }

    async fn fan_out_chains(
        &self,
        request: Request<pb::FanOutChainsRequest>,
    ) -> Answer<pb::FanOutChainsResponse> {
        let pool = self.handle.pool_for(&request)?;
        let noted = Noted::of(&request);
        let call = request.into_inner();
        let id = convert::request(&call.request_id)?;
        let (group, tasks) = pool.fan_out_chains(call.chains, call.options, id).await?;
        noted.id(group);
        Ok(Response::new(pb::FanOutChainsResponse {
            task_ids: tasks.iter().map(ToString::to_string).collect(),
            group_id: group.to_string(),
        }))
    }

    async fn submit_workflow(
        &self,
        request: Request<pb::SubmitWorkflowRequest>,
    ) -> Answer<pb::SubmitWorkflowResponse> {
        let pool = self.handle.pool_for(&request)?;
        let noted = Noted::of(&request);
        let call = request.into_inner();
        let id = convert::request(&call.request_id)?;
        let name = convert::required("name", call.name)?;
        let task = pool
            .submit_workflow(&name, call.arguments, call.options, id)
            .await?;
        noted.id(task);
        let task_id = task.to_string();
        Ok(Response::new(pb::SubmitWorkflowResponse { task_id }))
    }

    async fn get_chain_progress(
        &self,
        request: Request<pb::GetChainProgressRequest>,
    ) -> Answer<pb::GetChainProgressResponse> {
        let pool = self.handle.pool_for(&request)?;
        let task = convert::task_id(&request.into_inner().task_id)?;
        let progress = Some(pool.chain_progress(task).await?);
        Ok(Response::new(pb::GetChainProgressResponse { progress }))
    }

    async fn watch_chain(
        &self,
        request: Request<pb::WatchChainRequest>,
    ) -> Answer<Self::WatchChainStream> {
        let pool = self.handle.pool_for(&request)?;
        let (task, interval) = convert::watch_chain(&request.into_inner())?;
        let watch = pool.watch_chain(task).await?;
        Ok(streams::stream(Chain(watch), interval, &self.handle))
    }

    async fn cancel_chain(
        &self,
        request: Request<pb::CancelChainRequest>,
    ) -> Answer<pb::CancelChainResponse> {
        let pool = self.handle.pool_for(&request)?;
        let noted = Noted::of(&request);
        let (task, now) = convert::cancel_chain(&request.into_inner())?;
        noted.id(task);
        pool.cancel_chain(task, now).await?;
        let progress = Some(pool.chain_progress(task).await?);
        Ok(Response::new(pb::CancelChainResponse { progress }))
    }

    async fn get_task(&self, request: Request<pb::GetTaskRequest>) -> Answer<pb::GetTaskResponse> {
        let pool = self.handle.pool_for(&request)?;
        let task = convert::task_id(&request.into_inner().task_id)?;
        let record = pool.task(task).await?;
        Ok(Response::new(pb::GetTaskResponse {
            task: Some(convert::task(record, Shown::Whole)),
        }))
    }

    async fn list_tasks(
        &self,
        request: Request<pb::ListTasksRequest>,
    ) -> Answer<pb::ListTasksResponse> {
        let pool = self.handle.pool_for(&request)?;
        let list = convert::list_tasks(request.into_inner())?;
        let shown = if list.full { Shown::Whole } else { Shown::Row };
        let page = pool
            .tasks(list.filter, list.page_size, &list.page_token, list.full)
            .await?;
        Ok(Response::new(pb::ListTasksResponse {
            tasks: page
                .tasks
                .into_iter()
                .map(|t| convert::task(t, shown))
                .collect(),
            next_page_token: page.next_page_token,
        }))
    }

    async fn delete_task(
        &self,
        request: Request<pb::DeleteTaskRequest>,
    ) -> Answer<pb::DeleteTaskResponse> {
        let pool = self.handle.pool_for(&request)?;
        let noted = Noted::of(&request);
        let task = convert::task_id(&request.into_inner().task_id)?;
        noted.id(task);
        pool.delete_task(task).await?;
        Ok(Response::new(pb::DeleteTaskResponse {}))
    }

    async fn get_status(
        &self,
        request: Request<pb::GetStatusRequest>,
    ) -> Answer<pb::GetStatusResponse> {
        let pool = self.handle.pool_for(&request)?;
        let node = request.into_inner().node_id;
        let status = match node.is_empty() {
            true => pool.status().await?,
            false => pool.status_of(&node).await?,
        };
        Ok(Response::new(pb::GetStatusResponse {
            status: Some(status),
        }))
    }

    async fn watch_status(
        &self,
        request: Request<pb::WatchStatusRequest>,
    ) -> Answer<Self::WatchStatusStream> {
        let pool = self.handle.pool_for(&request)?;
        let (node, interval, silence) = convert::watch_status(request.into_inner())?;
        let node = Some(node).filter(|node| !node.is_empty());
        let watch = pool.watch_status_of(node, interval).await?;
        let source = Statuses { watch };
        Ok(streams::stream(source, silence, &self.handle))
    }
}
