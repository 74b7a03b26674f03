//! Skills and workflows: listed, shown, run, stored.

use super::args::chain::{FollowArgs, SkillAction, SkillArgs, WorkflowAction, WorkflowArgs};
use super::args::work::{arguments, value_or_stdin};
use super::chain::follow;
use super::client::Client;
use super::failure::Failure;
use super::render::line;
use super::{json, table};
use crate::pb;

/// Entries asked for at once; there are rarely more.
const PAGE: i32 = 1000;

/// `claudepool workflow`.
pub(super) async fn workflow(mut client: Client, args: WorkflowArgs) -> Result<(), Failure> {
    match args.action.unwrap_or(WorkflowAction::List) {
        WorkflowAction::List => {
            let mut all = Vec::new();
            let mut page_token = String::new();
            loop {
                let request = pb::ListWorkflowsRequest {
                    page_size: PAGE,
                    page_token,
                };
                let answer = client.catalog.list_workflows(request).await;
                let answer = client.answer(answer)?;
                all.extend(answer.workflows);
                page_token = answer.next_page_token;
                if page_token.is_empty() {
                    break;
                }
            }
            if client.json {
                for workflow in &all {
                    line(&json::of("Workflow", workflow).to_string());
                }
            } else {
                let entry = |w: &pb::Workflow| {
                    table::entry(&w.name, &w.arguments, w.source(), &w.description)
                };
                table::entries("WORKFLOW", all.iter().map(entry).collect());
            }
        }
        WorkflowAction::Show { name } => {
            let request = pb::GetWorkflowRequest { name };
            let answer = client.catalog.get_workflow(request).await;
            let workflow = client.answer(answer)?.workflow.unwrap_or_default();
            client.show("Workflow", &workflow, table::workflow);
        }
        WorkflowAction::Run {
            name,
            arguments: words,
            follow: args,
        } => {
            let request = pb::SubmitWorkflowRequest {
                name,
                arguments: arguments(&words)?,
                options: Some(args.work.chain_options()?),
                request_id: args.work.request(),
            };
            let answer = client.pool.submit_workflow(request).await;
            let task_id = client.answer(answer)?.task_id;
            follow(client, &task_id, &args).await?;
        }
        WorkflowAction::Put { name, steps, about } => {
            let workflow = pb::Workflow {
                name,
                description: about.description.clone(),
                arguments: about.arguments(),
                steps: steps.read()?,
                ..pb::Workflow::default()
            };
            put_workflow(client, workflow).await?;
        }
        #[cfg(feature = "server")]
        WorkflowAction::Load { file } => {
            put_workflow(client, super::load::workflow(&file)?).await?;
        }
        WorkflowAction::Delete { name } => {
            let request = pb::DeleteWorkflowRequest { name };
            let answer = client.catalog.delete_workflow(request).await;
            let answer = client.answer(answer)?;
            client.show("DeleteWorkflowResponse", &answer, |_| line("deleted"));
        }
    }
    Ok(())
}

/// `claudepool skill`.
pub(super) async fn skill(mut client: Client, args: SkillArgs) -> Result<(), Failure> {
    match args.action.unwrap_or(SkillAction::List) {
        SkillAction::List => {
            let mut all = Vec::new();
            let mut page_token = String::new();
            loop {
                let request = pb::ListSkillsRequest {
                    page_size: PAGE,
                    page_token,
                };
                let answer = client.catalog.list_skills(request).await;
                let answer = client.answer(answer)?;
                all.extend(answer.skills);
                page_token = answer.next_page_token;
                if page_token.is_empty() {
                    break;
                }
            }
            if client.json {
                for skill in &all {
                    line(&json::of("Skill", skill).to_string());
                }
            } else {
                let entry =
                    |s: &pb::Skill| table::entry(&s.name, &s.arguments, s.source(), &s.description);
                table::entries("SKILL", all.iter().map(entry).collect());
            }
        }
        SkillAction::Show { name } => {
            let request = pb::GetSkillRequest { name };
            let answer = client.catalog.get_skill(request).await;
            let skill = client.answer(answer)?.skill.unwrap_or_default();
            client.show("Skill", &skill, table::skill);
        }
        SkillAction::Run {
            name,
            arguments: words,
            follow: args,
        } => run_skill(client, name, &words, &args).await?,
        SkillAction::Put {
            name,
            prompt,
            about,
        } => {
            let skill = pb::Skill {
                name,
                description: about.description.clone(),
                arguments: about.arguments(),
                prompt: value_or_stdin(prompt)?,
                ..pb::Skill::default()
            };
            put_skill(client, skill).await?;
        }
        #[cfg(feature = "server")]
        SkillAction::Load { file } => put_skill(client, super::load::skill(&file)?).await?,
        SkillAction::Delete { name } => {
            let request = pb::DeleteSkillRequest { name };
            let answer = client.catalog.delete_skill(request).await;
            let answer = client.answer(answer)?;
            client.show("DeleteSkillResponse", &answer, |_| line("deleted"));
        }
    }
    Ok(())
}

async fn put_workflow(mut client: Client, workflow: pb::Workflow) -> Result<(), Failure> {
    let workflow = Some(workflow);
    let answer = client
        .catalog
        .put_workflow(pb::PutWorkflowRequest { workflow })
        .await;
    let workflow = client.answer(answer)?.workflow.unwrap_or_default();
    client.show("Workflow", &workflow, table::workflow);
    Ok(())
}

async fn put_skill(mut client: Client, skill: pb::Skill) -> Result<(), Failure> {
    let skill = Some(skill);
    let answer = client
        .catalog
        .put_skill(pb::PutSkillRequest { skill })
        .await;
    let skill = client.answer(answer)?.skill.unwrap_or_default();
    client.show("Skill", &skill, table::skill);
    Ok(())
}

/// A skill by itself is a chain of one step.
async fn run_skill(
    mut client: Client,
    name: String,
    words: &[String],
    args: &FollowArgs,
) -> Result<(), Failure> {
    let call = pb::SkillCall {
        name: name.clone(),
        arguments: arguments(words)?,
    };
    let request = pb::SubmitChainRequest {
        steps: vec![pb::ChainStep {
            name,
            action: Some(pb::chain_step::Action::Skill(call)),
            ..pb::ChainStep::default()
        }],
        options: Some(args.work.chain_options()?),
        request_id: args.work.request(),
    };
    let answer = client.pool.submit_chain(request).await;
    let task_id = client.answer(answer)?.task_id;
    follow(client, &task_id, args).await
}
