//! The client commands. They know the wire contract and nothing of the pool.

use prost::Message;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::args::{
    CancelArgs, ClientCommand, ContextAction, ContextArgs, DrainArgs, Remote, ResultArgs,
    StatusArgs, SubmitArgs, TasksArgs, value_or_stdin,
};
use super::failure::Failure;
use super::{json, render, table, watch};
use crate::pb;
use crate::pb::context_service_client::ContextServiceClient;
use crate::pb::operator_service_client::OperatorServiceClient;
use crate::pb::pool_service_client::PoolServiceClient;

/// A server and how its answers are shown.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) pool: PoolServiceClient<Channel>,
    operator: OperatorServiceClient<Channel>,
    context: ContextServiceClient<Channel>,
    server: String,
    pub(super) json: bool,
}

/// Runs one command.
pub(super) async fn run(command: ClientCommand) -> Result<(), Failure> {
    let mut client = Client::connect(command.remote()).await?;
    match command {
        ClientCommand::Run(args) => watch::run(client, args).await,
        ClientCommand::Submit(args) => client.submit(args).await,
        ClientCommand::Watch(args) => watch::watch(client, args).await,
        ClientCommand::Result(args) => client.result(args).await,
        ClientCommand::Cancel(args) => client.cancel(args).await,
        ClientCommand::FanOut(args) => watch::fan_out(client, args).await,
        ClientCommand::Tasks(args) => client.tasks(args).await,
        ClientCommand::Status(args) => client.status(args).await,
        ClientCommand::Slots(_) => client.slots().await,
        ClientCommand::Context(args) => client.context(args).await,
        ClientCommand::Drain(args) => client.drain(args).await,
    }
}

impl Client {
    /// Connects.
    pub(super) async fn connect(remote: &Remote) -> Result<Self, Failure> {
        let mut address = remote.server.clone();
        if !address.contains("://") && !address.starts_with("unix:") {
            address.insert_str(0, "http://");
        }
        let endpoint = Endpoint::from_shared(address).map_err(|_| {
            Failure::usage(format!(
                "--server {}: say http://HOST:PORT or unix:/path",
                remote.server
            ))
        })?;
        let endpoint = endpoint
            .connect_timeout(std::time::Duration::from_secs(5))
            .tcp_nodelay(true);
        let channel = endpoint
            .connect()
            .await
            .map_err(|_| Failure::unreachable(&remote.server))?;
        Ok(Self {
            pool: PoolServiceClient::new(channel.clone()),
            operator: OperatorServiceClient::new(channel.clone()),
            context: ContextServiceClient::new(channel),
            server: remote.server.clone(),
            json: remote.json,
        })
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

    async fn submit(&mut self, args: SubmitArgs) -> Result<(), Failure> {
        let request = pb::SubmitRequest {
            task: Some(args.work.spec(args.prompt.read()?)?),
            request_id: args.work.request(),
        };
        let answer = self.pool.submit(request).await;
        let answer = answer.map_err(|s| self.failure(&s))?.into_inner();
        self.show("SubmitResponse", &answer, |a| render::line(&a.task_id));
        Ok(())
    }

    async fn result(&mut self, args: ResultArgs) -> Result<(), Failure> {
        let request = pb::GetResultRequest {
            task_id: args.task_id.clone(),
            wait: args.wait.and_then(|wait| wait.try_into().ok()),
        };
        let answer = self.pool.get_result(request).await;
        let answer = answer.map_err(|s| self.failure(&s))?.into_inner();
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
            let mut pieces = answer.map_err(|s| self.failure(&s))?.into_inner();
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

    async fn cancel(&mut self, args: CancelArgs) -> Result<(), Failure> {
        use pb::cancel_request::Target;
        let target = match (args.task_id, args.group) {
            (Some(task), _) => Target::TaskId(task),
            (None, group) => Target::GroupId(group.unwrap_or_default()),
        };
        let request = pb::CancelRequest {
            target: Some(target),
        };
        let answer = self.pool.cancel(request).await;
        let answer = answer.map_err(|s| self.failure(&s))?.into_inner();
        self.show("CancelResponse", &answer, |a| match &a.task {
            Some(task) => render::line(render::state(task.state())),
            None => render::line(&format!("{} tasks cancelled", a.cancelled)),
        });
        Ok(())
    }

    async fn tasks(&mut self, args: TasksArgs) -> Result<(), Failure> {
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
            let answer = answer.map_err(|s| self.failure(&s))?.into_inner();
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

    async fn status(&mut self, args: StatusArgs) -> Result<(), Failure> {
        if args.config {
            let answer = self.operator.get_config(pb::GetConfigRequest::default());
            let answer = answer.await.map_err(|s| self.failure(&s))?.into_inner();
            self.show("GetConfigResponse", &answer, |a| render::text(&a.toml));
            return Ok(());
        }
        if !args.watch {
            let answer = self.pool.get_status(pb::GetStatusRequest::default()).await;
            let answer = answer.map_err(|s| self.failure(&s))?.into_inner();
            let status = answer.status.unwrap_or_default();
            self.show("PoolStatus", &status, table::status);
            return Ok(());
        }
        let answer = self.pool.watch_status(pb::WatchStatusRequest::default());
        let mut snapshots = answer.await.map_err(|s| self.failure(&s))?.into_inner();
        while let Some(next) = snapshots.message().await.map_err(|s| self.failure(&s))? {
            if let Some(pb::watch_status_response::Item::Status(status)) = next.item {
                self.show("PoolStatus", &status, table::status_line);
            }
        }
        Ok(())
    }

    async fn slots(&mut self) -> Result<(), Failure> {
        let answer = self.operator.list_slots(pb::ListSlotsRequest::default());
        let answer = answer.await.map_err(|s| self.failure(&s))?.into_inner();
        if self.json {
            for slot in &answer.slots {
                render::line(&json::of("Slot", slot).to_string());
            }
        } else {
            table::slots(&answer.slots);
        }
        Ok(())
    }

    async fn context(&mut self, args: ContextArgs) -> Result<(), Failure> {
        match args.action.unwrap_or(ContextAction::List) {
            ContextAction::Set { key, value } => {
                let value = value_or_stdin(value)?;
                let answer = self
                    .context
                    .set_context(pb::SetContextRequest { key, value });
                let answer = answer.await.map_err(|s| self.failure(&s))?.into_inner();
                self.show("SetContextResponse", &answer, |a| {
                    render::line(&format!("revision {}", a.revision));
                });
            }
            ContextAction::Get { key } => {
                let answer = self.context.get_context(pb::GetContextRequest { key });
                let answer = answer.await.map_err(|s| self.failure(&s))?.into_inner();
                let entry = answer.entry.unwrap_or_default();
                self.show("ContextEntry", &entry, |e| render::line(&e.value));
            }
            ContextAction::Delete { key } => {
                let answer = self
                    .context
                    .delete_context(pb::DeleteContextRequest { key });
                let answer = answer.await.map_err(|s| self.failure(&s))?.into_inner();
                self.show("DeleteContextResponse", &answer, |a| {
                    render::line(&format!("revision {}", a.revision));
                });
            }
            ContextAction::List => {
                let request = pb::ListContextRequest {
                    page_size: 1000,
                    ..pb::ListContextRequest::default()
                };
                let answer = self.context.list_context(request).await;
                let answer = answer.map_err(|s| self.failure(&s))?.into_inner();
                for entry in &answer.entries {
                    self.show("ContextEntry", entry, |e| {
                        render::line(&format!("{} = {}", e.key, e.value));
                    });
                }
            }
        }
        Ok(())
    }

    async fn drain(&mut self, args: DrainArgs) -> Result<(), Failure> {
        let request = Request::new(pb::DrainRequest {
            deadline: args.deadline.and_then(|deadline| deadline.try_into().ok()),
            node_id: String::new(),
        });
        let answer = self.operator.drain(request).await;
        let answer = answer.map_err(|s| self.failure(&s))?.into_inner();
        self.show("DrainResponse", &answer, |a| {
            render::line(&format!(
                "drained: {} tasks completed, {} spent, {} tasks left in the queue",
                a.tasks_completed,
                render::dollars(a.total_cost_microdollars),
                a.tasks_left
            ));
        });
        Ok(())
    }
}
