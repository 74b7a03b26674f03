//! `claudepool.v1.CatalogService`.

use tonic::{Request, Response, Status};

use super::convert;
use super::handle::Handle;
use crate::pb;
use crate::pb::server::catalog_service_server::CatalogService;

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
impl CatalogService for Service {
    async fn put_skill(
        &self,
        request: Request<pb::PutSkillRequest>,
    ) -> Answer<pb::PutSkillResponse> {
        let pool = self.handle.pool_for(&request)?;
        let skill = convert::present("skill", request.into_inner().skill)?;
        let skill = Some(pool.put_skill(skill).await?);
        Ok(Response::new(pb::PutSkillResponse { skill }))
    }

    async fn get_skill(
        &self,
        request: Request<pb::GetSkillRequest>,
    ) -> Answer<pb::GetSkillResponse> {
        let pool = self.handle.pool_for(&request)?;
        let name = convert::required("name", request.into_inner().name)?;
        let skill = Some(pool.get_skill(&name).await?);
        Ok(Response::new(pb::GetSkillResponse { skill }))
    }

    async fn list_skills(
        &self,
        request: Request<pb::ListSkillsRequest>,
    ) -> Answer<pb::ListSkillsResponse> {
        let pool = self.handle.pool_for(&request)?;
        let request = request.into_inner();
        let size = convert::page_size(request.page_size)?;
        let (skills, next_page_token) = pool.list_skills(size, &request.page_token).await?;
        Ok(Response::new(pb::ListSkillsResponse {
            skills,
            next_page_token,
        }))
    }

    async fn delete_skill(
        &self,
        request: Request<pb::DeleteSkillRequest>,
    ) -> Answer<pb::DeleteSkillResponse> {
        let pool = self.handle.pool_for(&request)?;
        let name = convert::required("name", request.into_inner().name)?;
        pool.delete_skill(&name).await?;
        Ok(Response::new(pb::DeleteSkillResponse {}))
    }

    async fn put_workflow(
        &self,
        request: Request<pb::PutWorkflowRequest>,
    ) -> Answer<pb::PutWorkflowResponse> {
        let pool = self.handle.pool_for(&request)?;
        let workflow = convert::present("workflow", request.into_inner().workflow)?;
        let workflow = Some(pool.put_workflow(workflow).await?);
        Ok(Response::new(pb::PutWorkflowResponse { workflow }))
    }

    async fn get_workflow(
        &self,
        request: Request<pb::GetWorkflowRequest>,
    ) -> Answer<pb::GetWorkflowResponse> {
        let pool = self.handle.pool_for(&request)?;
        let name = convert::required("name", request.into_inner().name)?;
        let workflow = Some(pool.get_workflow(&name).await?);
        Ok(Response::new(pb::GetWorkflowResponse { workflow }))
    }

    async fn list_workflows(
        &self,
        request: Request<pb::ListWorkflowsRequest>,
    ) -> Answer<pb::ListWorkflowsResponse> {
        let pool = self.handle.pool_for(&request)?;
        let request = request.into_inner();
        let size = convert::page_size(request.page_size)?;
        let (workflows, next_page_token) = pool.list_workflows(size, &request.page_token).await?;
        Ok(Response::new(pb::ListWorkflowsResponse {
            workflows,
            next_page_token,
        }))
    }

    async fn delete_workflow(
        &self,
        request: Request<pb::DeleteWorkflowRequest>,
    ) -> Answer<pb::DeleteWorkflowResponse> {
        let pool = self.handle.pool_for(&request)?;
        let name = convert::required("name", request.into_inner().name)?;
        pool.delete_workflow(&name).await?;
        Ok(Response::new(pb::DeleteWorkflowResponse {}))
    }
}
