//! Who is next. Rows that others look at are passed by, not waited for.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::call::Tx;
use super::cluster::Joined;
use super::columns::{self, SELECT, uuid};
use super::fault::Fault;
use super::fold::Fold;
use super::read;
use super::text::kept;
use super::write::CLOCK;
use crate::budget::Funds;
use crate::clock::Timestamp;
use crate::id::TaskId;
use crate::store::choice::Choice;
use crate::store::row::integer;
use crate::store::{ClaimRequest, Claimed, ClaimedTask, StoreError};
use crate::task::Task;

/// When to look again at a task that somebody else held.
const HELD: Duration = Duration::from_millis(20);

/// Whether the conversation of `t` is another task's now. 2 and 3 are RUNNING
/// and CANCELLING.
const WAITS: &str = "t.conversation IS NOT NULL AND EXISTS (SELECT 1 FROM tasks o
    WHERE o.caller = t.caller AND o.conversation = t.conversation
    AND o.conversation IS NOT NULL AND o.end_time IS NULL
    AND (o.id < t.id OR (o.id > t.id AND o.state IN (2, 3))))";

/// Whether `t` may go to the node $1, which carries the labels $2 and knows what
/// needs the level $3: not if what it
/// goes on with is on the disk of another one that lives. The conversation of a
/// session that has no key is `session:` and its id.
static SUITS: LazyLock<String> = LazyLock::new(|| {
    format!(
        "(t.node_label IS NULL OR t.node_label = ANY ($2)) AND t.level <= $3 AND NOT EXISTS (
            SELECT 1 FROM nodes n WHERE n.id <> $1 AND n.lease_end > {CLOCK} AND n.id = CASE
                WHEN t.conversation IS NULL THEN t.home
                ELSE coalesce(
                    (SELECT s.node FROM sessions s WHERE s.caller = t.caller
                        AND s.conversation = t.conversation AND s.conversation IS NOT NULL
                        ORDER BY s.used_time DESC, s.id DESC LIMIT 1),
                    (SELECT s.node FROM sessions s WHERE s.caller = t.caller
                        AND s.conversation IS NULL AND s.id = substr(t.conversation, 9)))
                END)"
    )
});

/// A place in the queue.
type Place = (i32, Timestamp, TaskId);

/// The node, its labels, what it knows and the moment, as the driver wants them.
fn who(request: &ClaimRequest) -> (Cow<'_, str>, Vec<Cow<'_, str>>, i32, i64) {
    let labels = request.labels.iter().map(|label| kept(label)).collect();
    let level = i32::from(request.level.0);
    (kept(&request.node.0), labels, level, request.now.0)
}

impl Tx {
    pub async fn claim(
        &self,
        request: Arc<ClaimRequest>,
        joined: Option<Joined>,
    ) -> Result<Claimed, Fault> {
        let request = &*request;
        if let Some(joined) = &joined {
            self.hold_lease(joined).await?;
        }
        let (ranks, next_ready) = read::ranks(&self.link, request.now).await?;
        if ranks.is_empty() || request.slots.is_empty() {
            return Ok(Claimed {
                next_ready,
                ..Claimed::default()
            });
        }
        // Before the tasks, for which nobody waits who has this.
        let (funds, clock) = self.lock_funds().await?;
        let mut choice = Choice::new(request, funds, clock);
        let mut offered = Vec::new();
        for rank in ranks {
            self.choose(&mut choice, rank, request, &mut offered)
                .await?;
        }
        let left = self.left(&choice, &offered, request).await?;
        if left.0 {
            choice.pass_conversation();
        }
        let (taken, mut claimed) = choice.finish();
        let held = left.1.then(|| request.now.after(HELD));
        claimed.next_ready = next_ready.into_iter().chain(held).min();
        let ids: Vec<_> = taken.iter().map(|(_, change)| change.task.id).collect();
        let mut specs = read::specs(&self.link, &ids).await?;
        let mut fold = Fold::over(offered.into_iter().filter(|task| ids.contains(&task.id)));
        // What they reserve was covered when they were chosen.
        let mut funds = Funds::default();
        for (slot, change) in taken {
            let id = change.task.id;
            let committed = fold.change(change, &mut funds, request.now)?;
            let task = fold.rows.get(&id).map(|pending| pending.task.clone());
            let spec = specs.remove(&id);
            let (Some(task), Some(spec)) = (task, spec) else {
                return Err(StoreError::Corrupt(format!("task {id} has no spec")).into());
            };
            claimed.tasks.push(ClaimedTask {
                slot,
                task,
                spec: Arc::new(spec),
                committed,
            });
        }
        if !claimed.tasks.is_empty() {
            self.write(&fold, request.now).await?;
        }
        Ok(claimed)
    }

    /// Offers the ready tasks of one rank in their order, as many at a time as
    /// there are free slots.
    async fn choose(
        &self,
        choice: &mut Choice<'_>,
        rank: i32,
        request: &ClaimRequest,
        offered: &mut Vec<Task>,
    ) -> Result<(), Fault> {
        let sql = format!(
            "{} WHERE t.state = 1 AND t.rank <> 255 AND t.rank = $4 AND t.ready_time <= $5
             AND (t.ready_time, t.id) > ($6, $7) AND {} AND NOT ({WAITS})
             ORDER BY t.ready_time, t.id LIMIT $8 FOR UPDATE OF t SKIP LOCKED",
            *SELECT, *SUITS
        );
        let (node, labels, level, now) = who(request);
        let (mut after, mut last) = (Timestamp(i64::MIN), TaskId::MIN);
        while choice.wants_more() {
            let page = choice.free();
            let limit = integer(page as u64);
            let id = uuid(last.as_bytes());
            let rows = self
                .rows(
                    &sql,
                    &[&node, &labels, &level, &rank, &now, &after.0, &id, &limit],
                )
                .await?;
            for found in &rows {
                let task = columns::task(found)?;
                (after, last) = (task.ready_time, task.id);
                if choice.wants_more() {
                    choice.offer(task.clone())?;
                    offered.push(task);
                }
            }
            if rows.len() < page {
                break;
            }
        }
        Ok(())
    }

    /// Whether ready tasks were passed by for their conversation, and whether
    /// some were because somebody else held them.
    async fn left(
        &self,
        choice: &Choice<'_>,
        offered: &[Task],
        request: &ClaimRequest,
    ) -> Result<(bool, bool), Fault> {
        let place = |task: &Task| (i32::from(task.rank), task.ready_time, task.id);
        let end: Place = (i32::MAX, Timestamp(i64::MAX), TaskId::MAX);
        let last = offered.last().map_or(end, place);
        let (open, upto) = match choice.wants_more() {
            true => (true, end),
            false => (false, last),
        };
        let ids: Vec<_> = offered
            .iter()
            .map(|task| uuid(task.id.as_bytes()))
            .collect();
        let sql = format!(
            "SELECT EXISTS (SELECT 1 FROM tasks t WHERE t.state = 1 AND t.rank <> 255
                AND t.conversation IS NOT NULL AND t.ready_time <= $4
                AND (t.rank, t.ready_time, t.id) < ($5, $6, $7) AND {suits} AND {WAITS}),
             $8 AND EXISTS (SELECT 1 FROM tasks t WHERE t.state = 1 AND t.rank <> 255
                AND t.ready_time <= $4 AND t.id <> ALL ($9) AND {suits} AND NOT ({WAITS}))",
            suits = *SUITS,
        );
        let (node, labels, level, now) = who(request);
        let id = uuid(upto.2.as_bytes());
        let rows = self
            .rows(
                &sql,
                &[
                    &node, &labels, &level, &now, &upto.0, &upto.1.0, &id, &open, &ids,
                ],
            )
            .await?;
        let row = rows
            .first()
            .ok_or_else(|| super::write::missing("a query"))?;
        Ok((row.try_get(0)?, row.try_get(1)?))
    }
}
