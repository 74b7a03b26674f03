//! Skills and workflows over the wire.

use claudepool::pb;
use tonic::Code;

use crate::support::{Harness, fields, refused};

fn skill(name: &str) -> pb::Skill {
    pb::Skill {
        name: name.into(),
        description: "Does it.".into(),
        prompt: "Do {what}.".into(),
        ..Default::default()
    }
}

fn workflow(name: &str) -> pb::Workflow {
    pb::Workflow {
        name: name.into(),
        description: "Does it.".into(),
        steps: vec![pb::ChainStep {
            name: "one".into(),
            action: Some(pb::chain_step::Action::Prompt("Do it.".into())),
            ..Default::default()
        }],
        ..Default::default()
    }
}

#[tokio::test]
async fn a_skill_is_put_read_and_deleted() {
    let mut server = Harness::new().start().await;
    let put = pb::PutSkillRequest {
        skill: Some(skill("mine")),
    };
    let stored = server.catalog.put_skill(put).await.unwrap().into_inner();
    let stored = stored.skill.unwrap();
    assert_eq!(stored.source(), pb::CatalogSource::Stored);
    let get = pb::GetSkillRequest {
        name: "mine".into(),
    };
    let read = server.catalog.get_skill(get.clone()).await.unwrap();
    assert_eq!(read.into_inner().skill, Some(stored));

    let delete = pb::DeleteSkillRequest {
        name: "mine".into(),
    };
    server.catalog.delete_skill(delete.clone()).await.unwrap();

    let answer = server.catalog.get_skill(get).await;
    refused(answer, Code::NotFound, "SKILL_NOT_FOUND");
    let answer = server.catalog.delete_skill(delete).await;
    refused(answer, Code::NotFound, "SKILL_NOT_FOUND");
}

#[tokio::test]
async fn a_workflow_is_put_read_and_deleted() {
    let mut server = Harness::new().start().await;
    let put = pb::PutWorkflowRequest {
        workflow: Some(workflow("mine")),
    };
    server.catalog.put_workflow(put).await.unwrap();
    let get = pb::GetWorkflowRequest {
        name: "mine".into(),
    };
    let read = server.catalog.get_workflow(get.clone()).await.unwrap();
    let read = read.into_inner().workflow.unwrap();
    assert_eq!(read.steps, workflow("mine").steps);

    let delete = pb::DeleteWorkflowRequest {
        name: "mine".into(),
    };
    server.catalog.delete_workflow(delete).await.unwrap();

    let answer = server.catalog.get_workflow(get).await;
    refused(answer, Code::NotFound, "WORKFLOW_NOT_FOUND");
}

#[tokio::test]
async fn lists_are_paged_by_name() {
    let mut server = Harness::new().start().await;
    let mut names = Vec::new();
    let mut list = pb::ListWorkflowsRequest {
        page_size: 2,
        ..Default::default()
    };
    loop {
        let page = server.catalog.list_workflows(list.clone()).await.unwrap();
        let page = page.into_inner();
        names.extend(page.workflows.into_iter().map(|w| w.name));
        list.page_token = page.next_page_token;
        if list.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(
        names,
        ["issue_to_pr", "refactor_and_test", "review_and_fix"]
    );

    list.page_size = -1;
    let answer = server.catalog.list_workflows(list).await;
    let status = refused(answer, Code::InvalidArgument, "INVALID_FIELD");
    assert_eq!(fields(&status), ["page_size"]);
}

#[tokio::test]
async fn what_is_wrong_with_a_put_is_named_by_its_path() {
    let mut server = Harness::new().start().await;
    let empty = pb::PutSkillRequest::default();
    let answer = server.catalog.put_skill(empty).await;
    let status = refused(answer, Code::InvalidArgument, "INVALID_FIELD");
    assert_eq!(fields(&status), ["skill"]);

    let mut bad = workflow("Mine");
    bad.steps[0].action = Some(pb::chain_step::Action::Prompt("{steps.two}".into()));
    let put = pb::PutWorkflowRequest {
        workflow: Some(bad),
    };
    let answer = server.catalog.put_workflow(put).await;
    let status = refused(answer, Code::InvalidArgument, "INVALID_FIELD");
    assert_eq!(
        fields(&status),
        ["workflow.name", "workflow.steps[0].prompt"]
    );
}
