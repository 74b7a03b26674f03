//! `claudepool.v1.ContextService`.

use tonic::{Request, Response, Status};

use super::convert;
use super::handle::Handle;
use crate::pb;
use crate::pb::server::context_service_server::ContextService;

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
impl ContextService for Service {
    async fn set_context(
        &self,
        request: Request<pb::SetContextRequest>,
    ) -> Answer<pb::SetContextResponse> {
        let pool = self.handle.pool_for(&request)?;
        let pb::SetContextRequest { key, value } = request.into_inner();
        let revision = convert::revision(pool.set_context(&key, &value).await?);
        Ok(Response::new(pb::SetContextResponse { revision }))
    }

    async fn get_context(
        &self,
        request: Request<pb::GetContextRequest>,
    ) -> Answer<pb::GetContextResponse> {
        let pool = self.handle.pool_for(&request)?;
        let key = convert::required("key", request.into_inner().key)?;
        let value = pool.get_context(&key).await?;
        Ok(Response::new(pb::GetContextResponse {
            entry: Some(convert::context_entry(key, value)),
        }))
    }

    async fn delete_context(
        &self,
        request: Request<pb::DeleteContextRequest>,
    ) -> Answer<pb::DeleteContextResponse> {
        let pool = self.handle.pool_for(&request)?;
        let key = convert::required("key", request.into_inner().key)?;
        let revision = convert::revision(pool.delete_context(&key).await?);
        Ok(Response::new(pb::DeleteContextResponse { revision }))
    }

    async fn list_context(
        &self,
        request: Request<pb::ListContextRequest>,
    ) -> Answer<pb::ListContextResponse> {
        let pool = self.handle.pool_for(&request)?;
        let request = request.into_inner();
        let page_size = convert::page_size(request.page_size)?;
        let context = pool.context().await?;
        Ok(Response::new(convert::context_page(
            &context,
            page_size,
            &request.page_token,
        )))
    }
}
