//! The client commands. They know the wire contract and nothing of the pool.

use prost::Message;
use tonic::{Response, Status};

use super::args::{
    CancelArgs, ClientCommand, Remote, ResultArgs, RetryArgs, SubmitArgs, TasksArgs,
};
use super::connect::{self, Connection};
use super::failure::Failure;
use super::{catalog, chain, context, json, operate, render, table, watch};
use crate::pb;
use crate::pb::catalog_service_client::CatalogServiceClient;
use crate::pb::context_service_client::ContextServiceClient;
use crate::pb::operator_service_client::OperatorServiceClient;
use crate::pb::pool_service_client::PoolServiceClient;

/// A server and how its answers are shown.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) pool: PoolServiceClient<Connection>,
    pub(super) operator: OperatorServiceClient<Connection>,
    pub(super) context: ContextServiceClient<Connection>,
    pub(super) catalog: CatalogServiceClient<Connection>,
    server: String,
    pub(super) json: bool,
}

/// Runs one command.
pub(super) async fn run(command: ClientCommand) -> Result<(), Failure> {
    let client = Client::connect(command.remote()).await?;
    match command {
        ClientCommand::Run(args) => watch::run(client, args).await,
        ClientCommand::Submit(args) => client.submit(args).await,
        ClientCommand::Watch(args) => watch::watch(client, args).await,
        ClientCommand::Result(args) => client.result(args).await,
        ClientCommand::Cancel(args) => client.cancel(args).await,
        ClientCommand::Retry(args) => client.retry(args).await,
        ClientCommand::FanOut(args) => watch::fan_out(client, args).await,
        ClientCommand::Chain(args) => chain::chain(client, args).await,
        ClientCommand::Workflow(args) => catalog::workflow(client, args).await,
        ClientCommand::Skill(args) => catalog::skill(client, args).await,
        ClientCommand::Tasks(args) => client.tasks(args).await,
        ClientCommand::Status(args) => operate::status(client, args).await,
        ClientCommand::Slots(args) => operate::slots(client, args).await,
        ClientCommand::Scale(args) => operate::scale(client, args).await,
        ClientCommand::Budget(args) => operate::budget(client, args).await,
        ClientCommand::Pause(args) => operate::pause(client, args).await,
        ClientCommand::Resume(_) => operate::resume(client).await,
        ClientCommand::Context(args) => context::context(client, args).await,
        ClientCommand::Drain(args) => operate::drain(client, args).await,
    }
}

impl Client {
    /// Connects.
    pub(super) async fn connect(remote: &Remote) -> Result<Self, Failure> {
        let connection = connect::connect(remote).await?;
        Ok(Self {
            pool: PoolServiceClient::new(connection.clone()),
            operator: OperatorServiceClient::new(connection.clone()),
            context: ContextServiceClient::new(connection.clone()),
            catalog: CatalogServiceClient::new(connection),
            server: remote.server.clone(),
            json: remote.json,
        })
    }

    /// What a call was answered, or the failure that the refusal is.
    pub(super) fn answer<T>(&self, answer: Result<Response<T>, Status>) -> Result<T, Failure> {
        answer
            .map(Response::into_inner)
            .map_err(|status| self.failure(&status))
    }

    /// The pool as it is now.
    pub(super) async fn status(&mut self) -> Result<pb::PoolStatus, Failure> {
        let answer = self.pool.get_status(pb::GetStatusRequest::default()).await;
        Ok(self.answer(answer)?.status.unwrap_or_default())
    }

    /// What a refused call is to the user.
    pub(super) fn failure(&self, status: &Status) -> Failure {
        Failure::from_status(status, &self.server)
    }

    /// Shows a message in JSON, or in words.
    pub(super) fn show<M: Message>(&self, name: &str, message: &M, words: impl FnOnce(&M)) {
        if self.json {
            render::line(&json::of(name, message).to_string());
        } else {
            words(message);
        }
    }

    async fn submit(mut self, args: SubmitArgs) -> Result<(), Failure> {
        let request = pb::SubmitRequest {
            task: Some(args.work.spec(args.prompt.read()?)?),
            request_id: args.work.request(),
        };
        let answer = self.pool.submit(request).await;
        let answer = self.answer(answer)?;
        self.show("SubmitResponse", &answer, |a| render::line(&a.task_id));
        Ok(())
    }

    async fn result(mut self, args: ResultArgs) -> Result<(), Failure> {
        let request = pb::GetResultRequest {
            task_id: args.task_id.clone(),
            wait: args.wait.and_then(|wait| wait.try_into().ok()),
        };
        let answer = self.pool.get_result(request).await;
        let answer = self.answer(answer)?;
        let task = answer.task.clone().unwrap_or_default();
        if self.json {
            render::line(&json::of("GetResultResponse", &answer).to_string());
        } else if let Some(result) = &answer.result {
            self.print_output(&args.task_id, result).await?;
            render::summary(task.state(), result, &args.task_id);
        }
        if answer.result.is_none() {
            let state = render::state(task.state());
            return Err(Failure::refused(format!(
                "the task is not finished, it is {state}: `claudepool watch {}` shows it, --wait waits for it",
                args.task_id
            )));
        }
        watch::ended(task.state())
    }

    /// Prints the whole final text.
    pub(super) async fn print_output(
        &mut self,
        task_id: &str,
        result: &pb::TaskResult,
    ) -> Result<(), Failure> {
        render::text(&result.output);
        if result.output_truncated {
            let request = pb::ReadOutputRequest {
                task_id: task_id.to_owned(),
                offset: result.output.len() as i64,
                heartbeat_interval: None,
            };
            let answer = self.pool.read_output(request).await;
            let mut pieces = self.answer(answer)?;
            while let Some(piece) = pieces.message().await.map_err(|s| self.failure(&s))? {
                if let Some(pb::read_output_response::Item::Chunk(chunk)) = piece.item {
                    render::text(&chunk.text);
                }
            }
        }
        if !result.output.is_empty() {
            render::text("\n");
        }
        Ok(())
    }

    async fn cancel(mut self, args: CancelArgs) -> Result<(), Failure> {
        use pb::cancel_request::Target;
        let target = match (args.task_id, args.group) {
            (Some(task), _) => Target::TaskId(task),
            (None, group) => Target::GroupId(group.unwrap_or_default()),
        };
        let request = pb::CancelRequest {
            target: Some(target),
        };
        let answer = self.pool.cancel(request).await;
        let answer = self.answer(answer)?;
        self.show("CancelResponse", &answer, |a| match &a.task {
            Some(task) => render::line(render::state(task.state())),
            None => render::line(&format!("{} tasks cancelled", a.cancelled)),
        });
        Ok(())
    }

    async fn retry(mut self, args: RetryArgs) -> Result<(), Failure> {
        let request = pb::RetryRequest {
            task_id: args.task_id,
            request_id: args.request_id,
        };
        let answer = self.pool.retry(request).await;
        let answer = self.answer(answer)?;
        self.show("RetryResponse", &answer, |a| render::line(&a.task_id));
        Ok(())
    }

    async fn tasks(mut self, args: TasksArgs) -> Result<(), Failure> {
        let states = args.state.iter().map(|name| {
            let full = format!("TASK_STATE_{}", name.to_uppercase());
            pb::TaskState::from_str_name(&full)
                .map(i32::from)
                .ok_or_else(|| Failure::usage(format!("--state {name}: there is no such state")))
        });
        let filter = pb::TaskFilter {
            states: states.collect::<Result<_, _>>()?,
            any_tags: args.tag,
            group_id: args.group,
            ..pb::TaskFilter::default()
        };
        let mut left = args.limit;
        let mut page_token = String::new();
        let mut tasks = Vec::new();
        while left > 0 {
            let request = pb::ListTasksRequest {
                filter: Some(filter.clone()),
                page_size: left.min(1000) as i32,
                page_token,
                view: pb::TaskView::Basic.into(),
            };
            let answer = self.pool.list_tasks(request).await;
            let answer = self.answer(answer)?;
            left = left.saturating_sub(answer.tasks.len());
            tasks.extend(answer.tasks);
            page_token = answer.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        if self.json {
            for task in &tasks {
                render::line(&json::of("Task", task).to_string());
            }
        } else {
            table::tasks(&tasks);
        }
        Ok(())
    }
}
