//! `claudepool.v1.OperatorService`.

use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response, Status};

use super::convert;
use super::handle::Handle;
use crate::error::{Error, Missing};
use crate::id::SlotId;
use crate::pb;
use crate::pb::server::operator_service_server::OperatorService;
use crate::pool::{Pool, Scale};

/// The service.
pub struct Service {
    handle: Handle,
    config_toml: Option<Arc<str>>,
}

impl Service {
    /// Over a server's pool; `config_toml` is what GetConfig answers.
    pub fn new(handle: Handle, config_toml: Option<Arc<str>>) -> Self {
        Self {
            handle,
            config_toml,
        }
    }
}

type Answer<T> = Result<Response<T>, Status>;

/// Whether the server meant is this one: there is no other to ask.
async fn meant(pool: &Pool, node: &str) -> Result<(), Error> {
    if node.is_empty() || pool.status().await?.node_id == node {
        return Ok(());
    }
    Err(Error::invalid("node_id", "there is no such server"))
}

#[tonic::async_trait]
impl OperatorService for Service {
    async fn scale_up(&self, request: Request<pb::ScaleUpRequest>) -> Answer<pb::ScaleUpResponse> {
        let pool = self.handle.pool_for(&request)?;
        let request = request.into_inner();
        let (count, id) = convert::scale_up(&request)?;
        meant(&pool, &request.node_id).await?;
        let scaled = pool.scale(Scale::Up(count), id, Duration::ZERO).await?;
        Ok(Response::new(pb::ScaleUpResponse {
            target: convert::count(scaled.target),
            total: convert::count(scaled.total),
            retiring: convert::count(scaled.retiring),
        }))
    }

    async fn scale_down(
        &self,
        request: Request<pb::ScaleDownRequest>,
    ) -> Answer<pb::ScaleDownResponse> {
        let pool = self.handle.pool_for(&request)?;
        let request = request.into_inner();
        let (count, id, timeout) = convert::scale_down(&request)?;
        meant(&pool, &request.node_id).await?;
        let scaled = pool.scale(Scale::Down(count), id, timeout).await?;
        Ok(Response::new(pb::ScaleDownResponse {
            target: convert::count(scaled.target),
            total: convert::count(scaled.total),
            retiring: convert::count(scaled.retiring),
        }))
    }

    async fn set_target_slots(
        &self,
        request: Request<pb::SetTargetSlotsRequest>,
    ) -> Answer<pb::SetTargetSlotsResponse> {
        let pool = self.handle.pool_for(&request)?;
        let request = request.into_inner();
        let (target, timeout) = convert::set_target_slots(&request)?;
        meant(&pool, &request.node_id).await?;
        let scaled = pool.scale(Scale::To(target), None, timeout).await?;
        Ok(Response::new(pb::SetTargetSlotsResponse {
            target: convert::count(scaled.target),
            total: convert::count(scaled.total),
            retiring: convert::count(scaled.retiring),
        }))
    }

    async fn list_slots(
        &self,
        request: Request<pb::ListSlotsRequest>,
    ) -> Answer<pb::ListSlotsResponse> {
        let pool = self.handle.pool_for(&request)?;
        let node = request.into_inner().node_id;
        let slots = convert::slots_of_node(pool.slots().await, &node);
        Ok(Response::new(pb::ListSlotsResponse { slots }))
    }

    async fn get_slot(&self, request: Request<pb::GetSlotRequest>) -> Answer<pb::GetSlotResponse> {
        let pool = self.handle.pool_for(&request)?;
        let request = request.into_inner();
        let slot = SlotId(convert::required("slot_id", request.slot_id)?);
        let slot = pool.slot(&slot).await?;
        if !request.node_id.is_empty() && request.node_id != slot.node_id {
            return Err(Error::NotFound(Missing::Slot).into());
        }
        Ok(Response::new(pb::GetSlotResponse { slot: Some(slot) }))
    }

    async fn restart_slot(
        &self,
        request: Request<pb::RestartSlotRequest>,
    ) -> Answer<pb::RestartSlotResponse> {
        let pool = self.handle.pool_for(&request)?;
        let request = request.into_inner();
        let slot = SlotId(convert::required("slot_id", request.slot_id)?);
        meant(&pool, &request.node_id).await?;
        let slot = Some(pool.restart_slot(&slot).await?);
        Ok(Response::new(pb::RestartSlotResponse { slot }))
    }

    async fn start_supervisor(
        &self,
        request: Request<pb::StartSupervisorRequest>,
    ) -> Answer<pb::StartSupervisorResponse> {
        let pool = self.handle.pool_for(&request)?;
        meant(&pool, &request.into_inner().node_id).await?;
        pool.supervise(true);
        Ok(Response::new(pb::StartSupervisorResponse {}))
    }

    async fn stop_supervisor(
        &self,
        request: Request<pb::StopSupervisorRequest>,
    ) -> Answer<pb::StopSupervisorResponse> {
        let pool = self.handle.pool_for(&request)?;
        meant(&pool, &request.into_inner().node_id).await?;
        pool.supervise(false);
        Ok(Response::new(pb::StopSupervisorResponse {}))
    }

    async fn pause(&self, request: Request<pb::PauseRequest>) -> Answer<pb::PauseResponse> {
        let pool = self.handle.pool_for(&request)?;
        pool.pause(&convert::pause(request.into_inner())?);
        Ok(Response::new(pb::PauseResponse {}))
    }

    async fn resume(&self, request: Request<pb::ResumeRequest>) -> Answer<pb::ResumeResponse> {
        self.handle.pool_for(&request)?.resume();
        Ok(Response::new(pb::ResumeResponse {}))
    }

    async fn set_budget(
        &self,
        request: Request<pb::SetBudgetRequest>,
    ) -> Answer<pb::SetBudgetResponse> {
        let pool = self.handle.pool_for(&request)?;
        let limit = convert::set_budget(&request.into_inner())?;
        let funds = pool.set_budget(limit).await?;
        Ok(Response::new(pb::SetBudgetResponse {
            spent_microdollars: funds.spent.0,
            reserved_microdollars: funds.reserved.0,
            budget_microdollars: funds.limit.map(|limit| limit.0),
        }))
    }

    async fn get_config(
        &self,
        request: Request<pb::GetConfigRequest>,
    ) -> Answer<pb::GetConfigResponse> {
        let pool = self.handle.pool_for(&request)?;
        meant(&pool, &request.into_inner().node_id).await?;
        let toml = match &self.config_toml {
            Some(toml) => toml.to_string(),
            None => toml::to_string(pool.options())
                .map_err(|error| Error::Internal(error.to_string()))?,
        };
        Ok(Response::new(pb::GetConfigResponse { toml }))
    }

    async fn drain(&self, request: Request<pb::DrainRequest>) -> Answer<pb::DrainResponse> {
        let pool = self.handle.pool_for(&request)?;
        let request = request.into_inner();
        let deadline = convert::drain_deadline(&request)?.unwrap_or(pool.options().drain_timeout);
        meant(&pool, &request.node_id).await?;
        // In a task of its own: it goes on when the caller leaves.
        let drained = tokio::spawn(async move { pool.drain(deadline).await })
            .await
            .map_err(|error| Error::Internal(error.to_string()))??;
        Ok(Response::new(convert::drained(drained)))
    }
}
