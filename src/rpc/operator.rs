//! `claudepool.v1.OperatorService`.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::convert;
use super::handle::Handle;
use crate::error::{Error, Missing};
use crate::id::SlotId;
use crate::pb;
use crate::pb::server::operator_service_server::OperatorService;
use crate::pool::Pool;

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

fn not_built<T>(what: &'static str) -> Answer<T> {
    Err(Error::NotBuiltYet(what).into())
}

/// Whether the server meant is this one: there is no other to ask.
async fn meant(pool: &Pool, node: &str) -> Result<(), Error> {
    if node.is_empty() || pool.status().await?.node_id == node {
        return Ok(());
    }
    Err(Error::invalid("node_id", "there is no such server"))
}

#[tonic::async_trait]
impl OperatorService for Service {
    async fn scale_up(&self, _: Request<pb::ScaleUpRequest>) -> Answer<pb::ScaleUpResponse> {
        not_built("ScaleUp")
    }

    async fn scale_down(&self, _: Request<pb::ScaleDownRequest>) -> Answer<pb::ScaleDownResponse> {
        not_built("ScaleDown")
    }

    async fn set_target_slots(
        &self,
        _: Request<pb::SetTargetSlotsRequest>,
    ) -> Answer<pb::SetTargetSlotsResponse> {
        not_built("SetTargetSlots")
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
        _: Request<pb::RestartSlotRequest>,
    ) -> Answer<pb::RestartSlotResponse> {
        not_built("RestartSlot")
    }

    async fn start_supervisor(
        &self,
        _: Request<pb::StartSupervisorRequest>,
    ) -> Answer<pb::StartSupervisorResponse> {
        not_built("StartSupervisor")
    }

    async fn stop_supervisor(
        &self,
        _: Request<pb::StopSupervisorRequest>,
    ) -> Answer<pb::StopSupervisorResponse> {
        not_built("StopSupervisor")
    }

    async fn pause(&self, _: Request<pb::PauseRequest>) -> Answer<pb::PauseResponse> {
        not_built("Pause")
    }

    async fn resume(&self, _: Request<pb::ResumeRequest>) -> Answer<pb::ResumeResponse> {
        not_built("Resume")
    }

    async fn set_budget(&self, _: Request<pb::SetBudgetRequest>) -> Answer<pb::SetBudgetResponse> {
        not_built("SetBudget")
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
