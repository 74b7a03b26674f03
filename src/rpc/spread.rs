//! Scaling all servers together: as evenly as their bounds allow.

use std::sync::Arc;
use std::time::Duration;

use tonic::Status;

use super::directed::{Server, on_all, on_one};
use crate::error::Error;
use crate::id::RequestId;
use crate::pb;
use crate::pool::{Pool, Scale};

/// A change of the number of slots of all servers.
pub(super) struct Wish {
    scale: Scale,
    request: Option<RequestId>,
    timeout: Duration,
}

/// A server's slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    /// That stay.
    now: i64,
    min: i64,
    max: i64,
}

impl Wish {
    pub(super) fn new(scale: Scale, request: Option<RequestId>, timeout: Duration) -> Self {
        Self {
            scale,
            request,
            timeout,
        }
    }
}

/// Scales; what it gives is the sum. Refused before anything changes when the
/// bounds of all servers together do not allow it.
pub(super) async fn scale(
    pool: &Pool,
    server: &Arc<Server>,
    wish: Wish,
) -> Result<pb::SetTargetSlotsResponse, Status> {
    let all = on_all(
        pool,
        server,
        pb::GetStatusRequest::default(),
        |_, node_id| pb::GetStatusRequest { node_id },
    );
    let all: Vec<_> = all
        .await?
        .into_iter()
        .filter_map(|one| one.status)
        .collect();
    let rooms: Vec<_> = all
        .iter()
        .map(|status| Room {
            now: i64::from(status.slots_total - status.slots_retiring),
            min: i64::from(status.slots_min),
            max: i64::from(status.slots_max),
        })
        .collect();
    let again = match wish.request {
        Some(id) => pool.was_scaled(id, wish.scale).await?,
        None => false,
    };
    let staying: i64 = rooms.iter().map(|room| room.now).sum();
    let target = match wish.scale {
        _ if again => staying,
        Scale::Up(count) => staying + i64::from(count),
        Scale::Down(count) => staying - i64::from(count),
        Scale::To(target) => i64::from(target),
    };
    let targets = spread(&rooms, target).ok_or_else(|| Error::SlotBounds {
        asked: target,
        min: sum_of(&rooms, |room| room.min),
        max: sum_of(&rooms, |room| room.max),
        absolute: matches!(wish.scale, Scale::To(_)),
    })?;
    if let (false, Some(id)) = (again, wish.request) {
        pool.remember_scale(id, wish.scale).await?;
    }
    let parts = all.iter().zip(&targets).map(|(status, target)| {
        let request = pb::SetTargetSlotsRequest {
            target: i32::try_from(*target).unwrap_or(i32::MAX),
            timeout: wish.timeout.try_into().ok(),
            node_id: status.node_id.clone(),
        };
        on_one(pool, server, request)
    });
    let scaled = futures_util::future::try_join_all(parts).await?;
    let sum = scaled
        .into_iter()
        .reduce(|all, one| pb::SetTargetSlotsResponse {
            target: all.target + one.target,
            total: all.total + one.total,
            retiring: all.retiring + one.retiring,
        });
    Ok(sum.unwrap_or_default())
}

fn sum_of(rooms: &[Room], part: impl Fn(&Room) -> i64) -> u32 {
    u32::try_from(rooms.iter().map(part).sum::<i64>()).unwrap_or(u32::MAX)
}

/// How many slots each is to have, so that they are `target` together: one more
/// for whoever has fewest, one fewer for whoever has most. `None`: their bounds
/// do not allow it.
fn spread(rooms: &[Room], target: i64) -> Option<Vec<i64>> {
    let mut slots: Vec<_> = rooms.iter().map(|r| r.now.clamp(r.min, r.max)).collect();
    loop {
        let total: i64 = slots.iter().sum();
        let places = 0..rooms.len();
        let (place, change) = match total.cmp(&target) {
            std::cmp::Ordering::Equal => return Some(slots),
            std::cmp::Ordering::Less => {
                let free = places.filter(|i| slots[*i] < rooms[*i].max);
                (free.min_by_key(|i| slots[*i])?, 1)
            }
            std::cmp::Ordering::Greater => {
                let full = places.rev().filter(|i| slots[*i] > rooms[*i].min);
                (full.max_by_key(|i| slots[*i])?, -1)
            }
        };
        slots[place] += change;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rooms(now: [i64; 3]) -> Vec<Room> {
        let room = |now| Room {
            now,
            min: 1,
            max: 8,
        };
        now.map(room).to_vec()
    }

    #[test]
    fn slots_are_spread_as_evenly_as_the_bounds_allow() {
        assert_eq!(spread(&rooms([2, 2, 2]), 6), Some(vec![2, 2, 2]));
        assert_eq!(spread(&rooms([2, 2, 2]), 8), Some(vec![3, 3, 2]));
        assert_eq!(spread(&rooms([1, 8, 1]), 12), Some(vec![2, 8, 2]));
        assert_eq!(spread(&rooms([1, 8, 1]), 6), Some(vec![1, 4, 1]));
        assert_eq!(spread(&rooms([8, 8, 8]), 24), Some(vec![8, 8, 8]));
    }

    #[test]
    fn what_the_bounds_do_not_allow_is_refused() {
        assert_eq!(spread(&rooms([8, 8, 8]), 25), None);
        assert_eq!(spread(&rooms([1, 1, 1]), 2), None);
        assert_eq!(spread(&[], 1), None);
    }
}
