//! `claudepool.v1.CatalogService`: nothing of it is built yet.

use tonic::{Request, Response, Status};

use crate::error::Error;
use crate::pb;
use crate::pb::server::catalog_service_server::CatalogService;

/// The service.
pub struct Service;

type Answer<T> = Result<Response<T>, Status>;

fn not_built<T>(what: &'static str) -> Answer<T> {
    Err(Error::NotBuiltYet(what).into())
}

#[tonic::async_trait]
impl CatalogService for Service {
    async fn put_skill(&self, _: Request<pb::PutSkillRequest>) -> Answer<pb::PutSkillResponse> {
        not_built("PutSkill")
    }

    async fn get_skill(&self, _: Request<pb::GetSkillRequest>) -> Answer<pb::GetSkillResponse> {
        not_built("GetSkill")
    }

    async fn list_skills(
        &self,
        _: Request<pb::ListSkillsRequest>,
    ) -> Answer<pb::ListSkillsResponse> {
        not_built("ListSkills")
    }

    async fn delete_skill(
        &self,
        _: Request<pb::DeleteSkillRequest>,
    ) -> Answer<pb::DeleteSkillResponse> {
        not_built("DeleteSkill")
    }

    async fn put_workflow(
        &self,
        _: Request<pb::PutWorkflowRequest>,
    ) -> Answer<pb::PutWorkflowResponse> {
        not_built("PutWorkflow")
    }

    async fn get_workflow(
        &self,
        _: Request<pb::GetWorkflowRequest>,
    ) -> Answer<pb::GetWorkflowResponse> {
        not_built("GetWorkflow")
    }

    async fn list_workflows(
        &self,
        _: Request<pb::ListWorkflowsRequest>,
    ) -> Answer<pb::ListWorkflowsResponse> {
        not_built("ListWorkflows")
    }

    async fn delete_workflow(
        &self,
        _: Request<pb::DeleteWorkflowRequest>,
    ) -> Answer<pb::DeleteWorkflowResponse> {
        not_built("DeleteWorkflow")
    }
}
