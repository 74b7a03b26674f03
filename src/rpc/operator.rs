//! `claudepool.v1.OperatorService`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tonic::{Request, Response, Status};

use super::convert;
use super::directed::{self, Answered, Directed, Server, on_all, on_one};
use super::handle::Handle;
use super::spread;
use crate::error::{Error, Missing};
use crate::id::SlotId;
use crate::pb;
use crate::pb::server::operator_service_server::OperatorService;
use crate::pool::{Pool, Scale};

/// The service.
pub struct Service {
    handle: Handle,
    server: Arc<Server>,
}

impl Service {
    /// Over a server's pool.
    pub(super) fn new(handle: Handle, server: Arc<Server>) -> Self {
        Self { handle, server }
    }
}

type Answer<T> = Result<Response<T>, Status>;

/// Says of a request which method it is of and which server it means.
macro_rules! directed {
    ($request:ident -> $answer:ident, |$self:ident, $pool:ident, $server:ident| $here:expr
        $(, takes: |$for:ident, $by:ident| $takes:expr)?) => {
        impl Directed for pb::$request {
            type Answer = pb::$answer;
            const METHOD: &'static str = stringify!($request);

            fn node_id(&self) -> &str {
                &self.node_id
            }

            $(fn takes(&self, $by: &Pool) -> Duration {
                let $for = self;
                $takes
            })?

            async fn here(self, $pool: Pool, $server: Arc<Server>) -> Result<pb::$answer, Error> {
                let $self = self;
                $here
            }
        }
    };
}

directed!(ScaleUpRequest -> ScaleUpResponse, |request, pool, _server| {
    let (count, id) = convert::scale_up(&request)?;
    let scaled = pool.scale(Scale::Up(count), id, Duration::ZERO).await?;
    Ok(pb::ScaleUpResponse {
        target: convert::count(scaled.target),
        total: convert::count(scaled.total),
        retiring: convert::count(scaled.retiring),
    })
});

directed!(ScaleDownRequest -> ScaleDownResponse, |request, pool, _server| {
    let (count, id, timeout) = convert::scale_down(&request)?;
    let scaled = pool.scale(Scale::Down(count), id, timeout).await?;
    Ok(pb::ScaleDownResponse {
        target: convert::count(scaled.target),
        total: convert::count(scaled.total),
        retiring: convert::count(scaled.retiring),
    })
}, takes: |request, _pool| convert::scale_down(request).map_or(Duration::ZERO, |asked| asked.2));

directed!(SetTargetSlotsRequest -> SetTargetSlotsResponse, |request, pool, _server| {
    let (target, timeout) = convert::set_target_slots(&request)?;
    let scaled = pool.scale(Scale::To(target), None, timeout).await?;
    Ok(pb::SetTargetSlotsResponse {
        target: convert::count(scaled.target),
        total: convert::count(scaled.total),
        retiring: convert::count(scaled.retiring),
    })
}, takes: |request, _pool| convert::set_target_slots(request).map_or(Duration::ZERO, |asked| asked.1));

directed!(GetStatusRequest -> GetStatusResponse, |_request, pool, _server| {
    let status = pool.status_of(&pool.node().0).await?;
    Ok(pb::GetStatusResponse { status: Some(status) })
});

directed!(RestartSlotRequest -> RestartSlotResponse, |request, pool, _server| {
    let slot = SlotId(convert::required("slot_id", request.slot_id)?);
    let slot = Some(pool.restart_slot(&slot).await?);
    Ok(pb::RestartSlotResponse { slot })
});

directed!(GetSlotRequest -> GetSlotResponse, |request, pool, _server| {
    let slot = SlotId(convert::required("slot_id", request.slot_id)?);
    let slot = Some(pool.slot(&slot).await?);
    Ok(pb::GetSlotResponse { slot })
});

directed!(StartSupervisorRequest -> StartSupervisorResponse, |_request, pool, _server| {
    pool.supervise(true);
    Ok(pb::StartSupervisorResponse {})
});

directed!(StopSupervisorRequest -> StopSupervisorResponse, |_request, pool, _server| {
    pool.supervise(false);
    Ok(pb::StopSupervisorResponse {})
});

directed!(GetConfigRequest -> GetConfigResponse, |_request, pool, server| {
    let toml = match &server.config_toml {
        Some(toml) => toml.to_string(),
        None => toml::to_string(pool.options())
            .map_err(|error| Error::Internal(error.to_string()))?,
    };
    Ok(pb::GetConfigResponse { toml })
});

directed!(DrainRequest -> DrainResponse, |request, pool, _server| {
    let asked = convert::drain_deadline(&request)?;
    let deadline = asked.unwrap_or(pool.options().drain_timeout);
    // In a task of its own: it goes on when the caller leaves.
    let drained = tokio::spawn(async move { pool.drain(deadline).await })
        .await
        .map_err(|error| Error::Internal(error.to_string()))??;
    Ok(convert::drained(drained))
}, takes: |request, pool| {
    let asked = convert::drain_deadline(request).ok().flatten();
    asked.unwrap_or(pool.options().drain_timeout)
});

/// Carries out what another server was called for. `None`: there is no such
/// method.
pub(super) async fn carry_out(
    method: &str,
    request: Bytes,
    pool: Pool,
    server: Arc<Server>,
) -> Option<Answered> {
    macro_rules! of {
        ($($request:ident)*) => {
            match method {
                $(<pb::$request as Directed>::METHOD => {
                    Some(directed::encoded::<pb::$request>(request, pool, server).await)
                })*
                _ => None,
            }
        };
    }
    of!(ScaleUpRequest ScaleDownRequest SetTargetSlotsRequest GetStatusRequest RestartSlotRequest
        GetSlotRequest StartSupervisorRequest StopSupervisorRequest GetConfigRequest DrainRequest)
}

#[tonic::async_trait]
impl OperatorService for Service {
    async fn scale_up(&self, request: Request<pb::ScaleUpRequest>) -> Answer<pb::ScaleUpResponse> {
        let pool = self.handle.pool_for(&request)?;
        let request = request.into_inner();
        if !request.node_id.is_empty() || pool.is_alone().await? {
            return Ok(Response::new(on_one(&pool, &self.server, request).await?));
        }
        let (count, id) = convert::scale_up(&request)?;
        let wish = spread::Wish::new(Scale::Up(count), id, Duration::ZERO);
        let scaled = spread::scale(&pool, &self.server, wish).await?;
        Ok(Response::new(pb::ScaleUpResponse {
            target: scaled.target,
            total: scaled.total,
            retiring: scaled.retiring,
        }))
    }

    async fn scale_down(
        &self,
        request: Request<pb::ScaleDownRequest>,
    ) -> Answer<pb::ScaleDownResponse> {
        let pool = self.handle.pool_for(&request)?;
        let request = request.into_inner();
        if !request.node_id.is_empty() || pool.is_alone().await? {
            return Ok(Response::new(on_one(&pool, &self.server, request).await?));
        }
        let (count, id, timeout) = convert::scale_down(&request)?;
        let wish = spread::Wish::new(Scale::Down(count), id, timeout);
        let scaled = spread::scale(&pool, &self.server, wish).await?;
        Ok(Response::new(pb::ScaleDownResponse {
            target: scaled.target,
            total: scaled.total,
            retiring: scaled.retiring,
        }))
    }

    async fn set_target_slots(
        &self,
        request: Request<pb::SetTargetSlotsRequest>,
    ) -> Answer<pb::SetTargetSlotsResponse> {
        let pool = self.handle.pool_for(&request)?;
        let request = request.into_inner();
        if !request.node_id.is_empty() || pool.is_alone().await? {
            return Ok(Response::new(on_one(&pool, &self.server, request).await?));
        }
        let (target, timeout) = convert::set_target_slots(&request)?;
        let wish = spread::Wish::new(Scale::To(target), None, timeout);
        let scaled = spread::scale(&pool, &self.server, wish).await?;
        Ok(Response::new(scaled))
    }

    async fn list_slots(
        &self,
        request: Request<pb::ListSlotsRequest>,
    ) -> Answer<pb::ListSlotsResponse> {
        let pool = self.handle.pool_for(&request)?;
        let node = request.into_inner().node_id;
        let request = pb::GetStatusRequest { node_id: node };
        let statuses = on_all(&pool, &self.server, request, |_, node_id| {
            pb::GetStatusRequest { node_id }
        });
        let statuses = statuses.await?.into_iter().filter_map(|one| one.status);
        let slots = statuses.flat_map(|status| status.slots).collect();
        Ok(Response::new(pb::ListSlotsResponse { slots }))
    }

    async fn get_slot(&self, request: Request<pb::GetSlotRequest>) -> Answer<pb::GetSlotResponse> {
        let pool = self.handle.pool_for(&request)?;
        let request = request.into_inner();
        let node = &request.node_id;
        if !node.is_empty() && !pool.nodes().await?.contains(node) {
            return Err(Error::NotFound(Missing::Slot).into());
        }
        Ok(Response::new(on_one(&pool, &self.server, request).await?))
    }

    async fn restart_slot(
        &self,
        request: Request<pb::RestartSlotRequest>,
    ) -> Answer<pb::RestartSlotResponse> {
        let pool = self.handle.pool_for(&request)?;
        let request = request.into_inner();
        Ok(Response::new(on_one(&pool, &self.server, request).await?))
    }

    async fn start_supervisor(
        &self,
        request: Request<pb::StartSupervisorRequest>,
    ) -> Answer<pb::StartSupervisorResponse> {
        let pool = self.handle.pool_for(&request)?;
        let request = request.into_inner();
        on_all(&pool, &self.server, request, |_, node_id| {
            pb::StartSupervisorRequest { node_id }
        })
        .await?;
        Ok(Response::new(pb::StartSupervisorResponse {}))
    }

    async fn stop_supervisor(
        &self,
        request: Request<pb::StopSupervisorRequest>,
    ) -> Answer<pb::StopSupervisorResponse> {
        let pool = self.handle.pool_for(&request)?;
        let request = request.into_inner();
        on_all(&pool, &self.server, request, |_, node_id| {
            pb::StopSupervisorRequest { node_id }
        })
        .await?;
        Ok(Response::new(pb::StopSupervisorResponse {}))
    }

    async fn pause(&self, request: Request<pb::PauseRequest>) -> Answer<pb::PauseResponse> {
        let pool = self.handle.pool_for(&request)?;
        pool.pause(&convert::pause(request.into_inner())?).await?;
        Ok(Response::new(pb::PauseResponse {}))
    }

    async fn resume(&self, request: Request<pb::ResumeRequest>) -> Answer<pb::ResumeResponse> {
        self.handle.pool_for(&request)?.resume().await?;
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
        let request = request.into_inner();
        Ok(Response::new(on_one(&pool, &self.server, request).await?))
    }

    async fn drain(&self, request: Request<pb::DrainRequest>) -> Answer<pb::DrainResponse> {
        let pool = self.handle.pool_for(&request)?;
        let request = request.into_inner();
        let drained = on_all(&pool, &self.server, request, |request, node_id| {
            let deadline = request.deadline;
            pb::DrainRequest { deadline, node_id }
        });
        let sum = drained
            .await?
            .into_iter()
            .reduce(|all, one| pb::DrainResponse {
                tasks_completed: all.tasks_completed + one.tasks_completed,
                total_cost_microdollars: all.total_cost_microdollars + one.total_cost_microdollars,
                // The queue is everybody's.
                tasks_left: all.tasks_left.max(one.tasks_left),
            });
        Ok(Response::new(sum.unwrap_or_default()))
    }
}
